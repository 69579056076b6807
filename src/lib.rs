//! Backups of a Galera node, made by the node itself when `garbd --sst backup` asks for one.

pub mod archive;
pub mod cancel;
pub mod child;
pub mod cli;
pub mod command;
pub mod config;
pub mod datadir;
pub mod digest;
pub mod dir;
pub mod error;
pub mod gtid;
pub mod log;
pub mod monitor;
pub mod receiver;
pub mod relpath;
mod runtime;
mod secret;
pub mod source;
pub mod store;
pub mod sys;
pub mod wsrep;

pub use error::{Error, Result};
