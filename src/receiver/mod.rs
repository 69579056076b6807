//! Streaming to the host that asked: the wire (`docs/receive.md`) and both of its ends.
//!
//! All asynchronous code that this needs is in here. Neither end believes the other: what comes over the wire is bounded in
//! size and in time, and no text of it becomes a path. The one name that reaches a file system is a
//! [`BackupId`](crate::archive::label::BackupId), which cannot hold a separator or a point.

pub mod client;
pub mod server;
mod socket;
mod tls;
pub mod token;
mod wire;

#[cfg(test)]
mod tests;
