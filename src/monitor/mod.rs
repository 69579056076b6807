//! What a run says about itself.

pub mod bar;
