//! What one walk over the donor's directories found: the files in the order of copying, and what is left out and why.

use std::sync::Arc;

use crate::archive::label::BinlogPosition;
use crate::archive::manifest::{EntryKind, Excluded, FileClass, Root};
use crate::relpath::RelPath;
use crate::source::fingerprint::Fingerprint;

/// A file's identity over several surveys: its root, as an index that never changes during a run, and its path there.
pub type Key = (u32, RelPath);

/// A directory or regular file that belongs into the backup, as one survey saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The root, as an index into [`Inventory::roots`].
    pub root: u32,
    /// The path below the root.
    pub path: RelPath,
    /// Directory or file.
    pub kind: EntryKind,
    /// What the file is for the server.
    pub class: FileClass,
    /// Its state, with its size and modification time.
    pub print: Fingerprint,
    /// Permission bits (no file type).
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name, empty if it has none.
    pub user: Arc<str>,
    /// The group's name, empty if it has none.
    pub group: Arc<str>,
    /// The file has holes.
    pub sparse: bool,
}

/// A file that the backup writes itself in the place of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Its place, owner and mode; class [`FileClass::Generated`], the size that of `bytes`.
    pub found: Found,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What one survey found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The directories of the server; the first is the datadir. Indices stay the same during a run.
    pub roots: Vec<Root>,
    /// Directories and files by class, so that a redo log comes after everything that it can repair; then by root and path.
    pub files: Vec<Found>,
    /// What is left out, with the reason.
    pub excluded: Vec<Excluded>,
    /// What the operator should know about a backup of these files.
    pub warnings: Vec<String>,
    /// Files with a content of our own.
    pub generated: Vec<Generated>,
    /// The end of the newest binary log, where binary logs are on.
    pub binlog: Option<BinlogPosition>,
}

impl Found {
    /// The file's identity over several surveys.
    pub fn key(&self) -> Key {
        (self.root, self.path.clone())
    }

    /// Bytes to copy: none for a directory.
    pub fn bytes(&self) -> u64 {
        if self.kind == EntryKind::Directory { 0 } else { self.print.size }
    }
}

impl Inventory {
    /// Bytes of all files, those of our own included.
    pub fn total_bytes(&self) -> u64 {
        let generated = self.generated.iter().map(|made| made.found.print.size);
        self.files.iter().map(Found::bytes).chain(generated).fold(0, u64::saturating_add)
    }

    /// `shop/orders.ibd`, or `innodb-undo:undo001` below another root than the datadir.
    pub fn name(&self, key: &Key) -> String {
        match self.roots.get(key.0 as usize) {
            Some(root) if key.0 > 0 => format!("{}:{}", root.name, key.1),
            _ => key.1.to_string(),
        }
    }
}
