//! Backups of a Galera node, made by the node itself when `garbd --sst backup` asks for one.

pub mod archive;
pub mod cancel;
pub mod datadir;
pub mod digest;
pub mod error;
pub mod gtid;
pub mod relpath;
pub mod source;
pub mod sys;

pub use error::{Error, Result};
