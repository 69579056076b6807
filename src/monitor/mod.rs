//! What a run says about itself while it works.

mod ticker;

pub use ticker::Ticker;
