//! The archive: a tar stream in frames that are compressed, hashed, verified and restored on their own.
//!
//! `docs/format.md` is the contract. Writing: [`encode`] lays members out ([`layout`], `tar_header`) and a `pool` of
//! threads reads, hashes, compresses and writes them. Reading: [`decode`] restores, [`verify`] reports all damage.

mod check;
pub mod codec;
mod compress;
pub mod decode;
pub mod encode;
mod guest;
pub mod json;
pub mod label;
mod layout;
pub mod manifest;
pub mod pace;
mod pool;
pub mod progress;
pub mod read_at;
mod report;
pub mod seal;
mod stream;
mod tap;
mod tar_header;
mod tar_records;
mod tar_walk;
pub mod verify;

#[cfg(test)]
mod tests;
