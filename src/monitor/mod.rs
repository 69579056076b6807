//! What a run says about itself while it works.

pub mod bar;
mod ticker;

pub use ticker::Ticker;
