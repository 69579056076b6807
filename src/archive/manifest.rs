//! What is in an archive: every file, its digests and where its bytes lie.
//!
//! `docs/format.md` is the contract; this is its image in types. A manifest is read from outside, so [`Manifest::parse`]
//! proves what the rest of the program relies on: indices in range, pieces that cover their file without a gap,
//! frames that follow each other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::codec::Codec;
use super::json::at_most;
use super::label::BackupId;
use crate::digest::Digest;
use crate::error::{Class, Error, Result};
use crate::gtid::Gtid;
use crate::relpath::{RelPath, escaped_path};

/// The version of the archive format that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The directory inside an archive that holds what is not part of the datadir.
pub const OWN_DIRECTORY: &str = ".wsrep_sst_backup";

/// The name inside an archive of the copy of the manifest that is its last member.
pub const INNER_MANIFEST: &str = ".wsrep_sst_backup/manifest.json";

/// The name inside an archive of the list of members that are in the tar stream but not in the backup: each relative to
/// where the archive is unpacked, each followed by a zero byte. It is there only if there are any.
pub const REMOVED_LIST: &str = ".wsrep_sst_backup/removed";

/// The reason of an [`Excluded`] path whose bytes are in the tar stream nevertheless, because it vanished after it was
/// copied: `tar -x` makes it, `restore` does not.
pub const VANISHED: &str = "vanished while the backup was made";

/// The most roots of a manifest: what a donor run finds is fewer.
pub(super) const ROOTS_MAX: usize = 10_000;

/// The most directories and files of a manifest: a donor run takes two million, and adds a few of its own.
pub(super) const ENTRIES_MAX: usize = 2_100_000;

/// The most [`Referrer`]s of a manifest, of all roots: each is a file of the donor.
pub(super) const REFERRERS_MAX: usize = ENTRIES_MAX;

/// The most paths that a manifest says were left out: what a donor run meets, and what vanished while it copied.
pub(super) const EXCLUDED_MAX: usize = 2 * ENTRIES_MAX;

/// The most pieces of a manifest: 32 TiB of whole frames.
pub(super) const PIECES_MAX: usize = 8 << 20;

/// The most warnings of a manifest.
pub(super) const WARNINGS_MAX: usize = 100_000;

/// The contents of one archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The backup's id.
    pub id: BackupId,
    /// The exact position of the files.
    pub gtid: Gtid,
    /// The compression of every frame.
    pub codec: Codec,
    /// The directories of the donor; the first is the datadir.
    #[serde(deserialize_with = "at_most::<ROOTS_MAX, _, _>")]
    pub roots: Vec<Root>,
    /// Every directory and file, in the order of the archive.
    #[serde(deserialize_with = "at_most::<ENTRIES_MAX, _, _>")]
    pub files: Vec<Entry>,
    /// What was found and left out, with the reason.
    #[serde(deserialize_with = "at_most::<EXCLUDED_MAX, _, _>")]
    pub excluded: Vec<Excluded>,
    /// What the operator should know about this backup.
    #[serde(deserialize_with = "at_most::<WARNINGS_MAX, _, _>")]
    pub warnings: Vec<String>,
    /// The frames in order. Absent in the copy of the manifest that is inside the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<Vec<Frame>>,
}

/// A directory that belongs to the server's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What the operator calls it: `datadir`, `innodb-undo`, `database-shop`, `tablespace-1` …
    pub name: RootName,
    /// What it is for the server.
    pub kind: RootKind,
    /// Where it was on the donor (absolute).
    #[serde(with = "escaped_path")]
    pub path: PathBuf,
    /// Where the datadir has a symbolic link to this directory: a symlinked database, mostly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<RelPath>,
    /// Whose the directory itself was, and its mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// What on the donor pointed to single files of this root, to be made again when it is restored.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<REFERRERS_MAX, _, _>")]
    pub referrers: Vec<Referrer>,
}

/// The owner and mode of a root's own directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Permission bits (no file type).
    pub mode: u32,
    /// The owner's number on the donor.
    pub uid: u32,
    /// The group's number on the donor.
    pub gid: u32,
    /// The owner's name on the donor, empty if it had none.
    pub user: String,
    /// The group's name on the donor, empty if it had none.
    pub group: String,
}

/// A name on the donor that stands for a file elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Referrer {
    /// The root that the name is in, as an index into [`Manifest::roots`].
    pub root: u32,
    /// The name's path below that root.
    pub path: RelPath,
    /// How it points.
    pub kind: ReferrerKind,
    /// The file that it points to, below the root that has this record.
    pub target: RelPath,
}

/// How a [`Referrer`] points to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReferrerKind {
    /// A symbolic link. It is not a member of the archive.
    Symlink,
    /// A text file of InnoDB (`.isl`) that holds the file's path. It is a member of the archive, as it was on the donor.
    Isl,
}

/// What a root is for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootKind {
    /// `datadir`.
    Datadir,
    /// `innodb_data_home_dir`, or the directory of an absolute path in `innodb_data_file_path`.
    InnodbDataHome,
    /// `innodb_log_group_home_dir`.
    InnodbLogGroupHome,
    /// `innodb_undo_directory`.
    InnodbUndo,
    /// `innodb_doublewrite_dir` (MySQL 8.0).
    InnodbDoublewrite,
    /// `aria_log_dir_path`.
    AriaLog,
    /// `rocksdb_datadir` or `rocksdb_wal_dir`.
    Rocksdb,
    /// The directory of `log_bin`, or of `log_bin_index`.
    Binlog,
    /// The target of a database that is a symbolic link in the datadir.
    Database,
    /// The target of `DATA DIRECTORY`, `INDEX DIRECTORY` or another link to a file; a directory of `innodb_directories`.
    Tablespace,
}

/// A root's name: 1 to 64 of `A-Za-z0-9_-`, so that it can be a directory in the archive and a word on a command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootName(String);

/// A directory or file of the archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The root, as an index into [`Manifest::roots`].
    pub root: u32,
    /// The path below the root.
    pub path: RelPath,
    /// Directory or file.
    pub kind: EntryKind,
    /// What the file is for the server.
    pub class: FileClass,
    /// Bytes.
    pub size: u64,
    /// Permission bits (no file type).
    pub mode: u32,
    /// The owner's number on the donor.
    pub uid: u32,
    /// The group's number on the donor.
    pub gid: u32,
    /// The owner's name on the donor, empty if it had none.
    pub user: String,
    /// The group's name on the donor, empty if it had none.
    pub group: String,
    /// Modification time: seconds since 1970.
    pub mtime: i64,
    /// Modification time: nanoseconds within the second.
    pub mtime_nsec: u32,
    /// The file had holes on the donor (page compression): restore makes them again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sparse: bool,
    /// Where the bytes lie, in the order of the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<Piece>,
}

/// Directory or regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
}

impl EntryKind {
    /// The permission bits of `mode` that a backup keeps: nobody's file runs as somebody else, whoever owns it after a
    /// restore, and no directory gives its group away.
    pub fn permissions(self, mode: u32) -> u32 {
        match self {
            EntryKind::Directory => mode & 0o1777,
            EntryKind::File => mode & 0o777,
        }
    }
}

/// What a file is for the server; also the order of copying within a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileClass {
    /// A directory.
    Directory,
    /// Written by the backup itself: `grastate.dat`, the binlog index, a `.isl` file.
    Generated,
    /// Definitions, MyISAM, Aria tables, options: everything that has no class of its own.
    Other,
    /// Aria's log and control file.
    AriaLog,
    /// A binary log.
    Binlog,
    /// A file of an engine that the server does not freeze, such as RocksDB.
    Unfrozen,
    /// InnoDB's system tablespace.
    InnodbSystem,
    /// An InnoDB undo tablespace.
    InnodbUndo,
    /// Any other InnoDB tablespace or doublewrite file.
    Innodb,
    /// InnoDB's redo log: copied after everything that it can repair.
    Redo,
    /// A log table that the server keeps writing inside the window: copied last, exempt from settling.
    LogTable,
}

/// A run of a file's bytes inside one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The frame, as an index into [`Manifest::frames`].
    pub frame: u32,
    /// Where the piece begins in the raw bytes of the frame.
    pub at: u32,
    /// Bytes.
    pub len: u32,
    /// SHA-256 of the raw bytes.
    pub sha256: Digest,
}

/// A part of the archive that is compressed on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Where it begins in the archive.
    pub offset: u64,
    /// Its length in the archive, in bytes.
    pub stored: u32,
    /// Its length in the tar stream, in bytes; at most [`super::codec::FRAME_BYTES`].
    pub raw: u32,
}

/// Something found on the donor that is not in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    /// The root, as an index into [`Manifest::roots`].
    pub root: u32,
    /// The path below the root; a directory stands for everything in it.
    pub path: RelPath,
    /// Why.
    pub reason: String,
}

impl Manifest {
    /// The frame table, which every manifest but the copy inside the archive has.
    pub fn frames(&self) -> Result<&[Frame]> {
        self.frames.as_deref().ok_or_else(|| Error::new(Class::Damage, "the manifest has no frame table"))
    }

    /// The root that an index of this manifest means.
    pub fn root(&self, index: u32) -> Result<&Root> {
        let root = usize::try_from(index).ok().and_then(|index| self.roots.get(index));
        root.ok_or_else(|| Error::new(Class::Damage, format!("the manifest has no root {index}")))
    }

    /// The name of `entry` in the tar stream, without the slash that ends a directory's.
    pub fn member_path(&self, entry: &Entry) -> Result<Vec<u8>> {
        Ok(member_path(entry.root, &self.root(entry.root)?.name, &entry.path))
    }

    /// The contents of [`REMOVED_LIST`]: empty if nothing vanished. What is in a directory stands before it.
    pub(super) fn removed_list(&self) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        for gone in self.excluded.iter().filter(|excluded| excluded.reason == VANISHED) {
            names.push(member_path(gone.root, &self.root(gone.root)?.name, &gone.path));
        }
        names.sort_unstable();
        Ok(names.into_iter().rev().flat_map(|name| [name, vec![0]]).flatten().collect())
    }

    /// The files, without the directories.
    pub fn plain_files(&self) -> impl Iterator<Item = &Entry> {
        self.files.iter().filter(|entry| entry.kind == EntryKind::File)
    }

    /// Bytes of all files.
    pub fn raw_bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.size).fold(0, u64::saturating_add)
    }
}

/// The name in the tar stream of `path` below root number `root`: the datadir's files stand at the top.
pub(super) fn member_path(root: u32, name: &RootName, path: &RelPath) -> Vec<u8> {
    let mut member = Vec::new();
    if root != 0 {
        member.extend_from_slice(format!("{OWN_DIRECTORY}/roots/{name}/").as_bytes());
    }
    member.extend_from_slice(path.as_bytes());
    member
}

impl Root {
    /// A root that nothing points to.
    pub fn new(name: RootName, kind: RootKind, path: impl Into<PathBuf>) -> Self {
        Self { name, kind, path: path.into(), link: None, owner: None, referrers: Vec::new() }
    }
}

impl RootName {
    /// Checks `name`.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(Error::new(Class::Usage, format!("{name:?} is not a root's name")));
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RootName {
    type Error = crate::Error;

    fn try_from(name: String) -> crate::Result<Self> {
        Self::new(name)
    }
}

impl From<RootName> for String {
    fn from(name: RootName) -> Self {
        name.0
    }
}

impl std::fmt::Display for RootName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
