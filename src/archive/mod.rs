//! The archive: a tar stream in frames that are compressed, hashed, verified and restored on their own.

pub mod codec;
pub mod label;
pub mod manifest;
