//! How the bytes of a running server's files are held still, and how it is proved that they show one instant.

pub mod clone;
pub mod fingerprint;
pub mod live;
pub mod precopy;
pub mod settle;
