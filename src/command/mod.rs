//! The use-cases, one file each.

pub mod copy;
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

use crate::archive::label::Label;
use crate::archive::manifest::Manifest;
use crate::archive::read_at::ReadAt;
use crate::archive::seal::Identities;
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};
use crate::store::Repository;

/// What every operator command works with.
#[derive(Debug)]
pub struct Context<'a> {
    /// Where the backups are.
    pub repository: &'a dyn Repository,
    /// The private keys that open encrypted backups.
    pub keys: &'a Identities,
    /// Threads that read, check and write.
    pub workers: NonZeroUsize,
    /// How the command hears a signal.
    pub cancel: &'a Cancel,
    /// The time of the command's start.
    pub now: jiff::Timestamp,
}

impl Context<'_> {
    /// The manifest of a backup, proved to be the one that the label names.
    pub fn manifest(&self, label: &Label) -> Result<Manifest> {
        Manifest::open(&self.repository.manifest_stored(label)?, label, self.keys)
    }
}

/// A frame that nobody needs may be missing or stand after the end: that is damage all the same.
fn check_length(label: &Label, archive: &dyn ReadAt) -> Result<()> {
    let (found, promised) = (archive.len(), label.archive.bytes);
    if found == promised {
        return Ok(());
    }
    let text = format!("the archive of {} has {found} bytes: its label promises {promised}", label.id);
    Err(Error::new(Class::Damage, text).hint("`verify` lists all damage of this backup"))
}
