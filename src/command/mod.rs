//! The use-cases, one file each.

pub mod donor;
pub mod extract;
#[cfg(test)]
pub(crate) mod fixture;
pub mod human;
pub mod list;
pub mod open;
pub mod operator;
pub mod output;
pub mod receive;
pub mod restore;
pub mod show;
pub mod verify;

use std::num::NonZeroUsize;

use crate::cancel::Cancel;
use crate::store::Repository;

/// What every operator command works with.
#[derive(Debug)]
pub struct Context<'a> {
    /// Where the backups are.
    pub repository: &'a dyn Repository,
    /// Threads that read, check and write.
    pub workers: NonZeroUsize,
    /// How the command hears a signal.
    pub cancel: &'a Cancel,
    /// The time of the command's start.
    pub now: jiff::Timestamp,
}
