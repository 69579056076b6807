//! What a check found out: a list of damage, in the order of the archive, in which neighbours become one.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::manifest::{Manifest, RootName};
use crate::relpath::RelPath;

/// A run of bytes that are not what they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The root of the damaged file; none if the damage is in no file.
    pub root: Option<RootName>,
    /// The damaged file; none if the damage is in headers, in the manifest's copy, or concerns the whole archive.
    pub path: Option<RelPath>,
    /// Where the damage begins: in the file, or in the archive where there is no file.
    pub offset: u64,
    /// How many bytes of the file, or of the archive, cannot be trusted.
    pub length: u64,
    /// Where in the archive, decrypted if it is encrypted, the affected frame begins.
    pub archive_offset: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, length, archive_offset, what, .. } = self;
        match (&self.root, &self.path) {
            (Some(root), Some(path)) => write!(
                f,
                "\"{path}\" ({root}): {length} bytes from byte {offset}, at byte {archive_offset} of the archive: {what}"
            ),
            _ => write!(f, "the archive: {length} bytes from byte {offset}: {what}"),
        }
    }
}

/// What was verified and what is wrong with it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Everything that is wrong, in the order of the archive; empty for a sound backup.
    pub damages: Vec<Damage>,
    /// Files and directories of the manifest.
    pub files: u64,
    /// Bytes of the files.
    pub raw_bytes: u64,
    /// Bytes of the archive that were read.
    pub stored_bytes: u64,
}

/// The damage that was found so far.
pub(super) struct Findings(Vec<Damage>);

impl Findings {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_damages(self) -> Vec<Damage> {
        self.0
    }

    /// Notes damage that is in no file.
    pub(super) fn whole(&mut self, offset: u64, length: u64, what: impl Into<String>) {
        self.push(Damage { root: None, path: None, offset, length, archive_offset: offset, what: what.into() });
    }

    /// Notes damage of these bytes of a file of the manifest.
    pub(super) fn file(
        &mut self,
        manifest: &Manifest,
        file: usize,
        bytes: Range<u64>,
        archive_offset: u64,
        what: String,
    ) {
        let entry = manifest.files.get(file);
        let root = entry.and_then(|entry| manifest.root(entry.root).ok()).map(|root| root.name.clone());
        let path = entry.map(|entry| entry.path.clone());
        let (offset, length) = (bytes.start, bytes.end - bytes.start);
        self.push(Damage { root, path, offset, length, archive_offset, what });
    }

    /// Notes that an archive is longer or shorter than it was.
    pub(super) fn compare_size(&mut self, found: u64, promised: u64) {
        if found < promised {
            self.whole(found, promised - found, "the archive is truncated");
        }
        if found > promised {
            self.whole(promised, found - promised, "something follows the end of the archive");
        }
    }

    fn push(&mut self, damage: Damage) {
        if let Some(last) = self.0.last_mut() {
            let next = (&last.root, &last.path, &last.what) == (&damage.root, &damage.path, &damage.what);
            if next && last.offset.checked_add(last.length) == Some(damage.offset) {
                last.length += damage.length;
                return;
            }
        }
        self.0.push(damage);
    }
}
