//! The small public record of one backup: a backup exists if and only if its label exists.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::codec::Codec;
use super::seal::{Recipients, Seal};
use crate::digest::Digest;
use crate::error::{Class, Error, Result};
use crate::gtid::Gtid;

/// A backup's name in its repository: `20261122T100946Z-node2-7f3a`.
///
/// UTC start, the node's name, four random hexadecimal digits. It sorts by time, and holds only `A-Za-z0-9_-`, so that it
/// is safe as a directory, an object key and a word on a command line.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

/// The longest id: the time, a node name of 64, the random digits.
const LONGEST_ID: usize = 16 + 1 + 64 + 1 + 4;

/// The record of one backup, stored as `backup.json`. Readable without a key; names no table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// [`super::manifest::FORMAT_VERSION`].
    pub format_version: u32,
    /// The backup's id.
    pub id: BackupId,
    /// The exact position of the files.
    pub gtid: Gtid,
    /// MariaDB's binlog GTID domain, where the server named one.
    pub gtid_domain: Option<u32>,
    /// `wsrep_cluster_name`.
    pub cluster: String,
    /// `wsrep_node_name`.
    pub node: String,
    /// The server's version as it prints it, where it could be found out.
    pub server_version: Option<String>,
    /// The version of this program.
    pub program_version: String,
    /// The newest binary log at the position, where binlogs are on.
    pub binlog: Option<BinlogPosition>,
    /// When the run began (RFC 3339, UTC).
    pub started: jiff::Timestamp,
    /// When the archive was complete.
    pub finished: jiff::Timestamp,
    /// How long the server was frozen, in milliseconds.
    pub frozen_ms: u64,
    /// How long the server's own flush took before that, in milliseconds.
    pub flush_ms: u64,
    /// How the bytes were held still.
    pub source: Source,
    /// Passes that the source made until nothing changed.
    pub settle_passes: u32,
    /// Files in the archive.
    pub files: u64,
    /// Bytes of those files.
    pub raw_bytes: u64,
    /// Bytes copied more than once because they changed meanwhile.
    pub copied_again_bytes: u64,
    /// The archive's compression.
    pub codec: Codec,
    /// Who can read archive and manifest; if nobody is named they are not encrypted.
    #[serde(default, skip_serializing_if = "Recipients::is_empty")]
    pub recipients: Recipients,
    /// The archive as stored.
    pub archive: Stored,
    /// The manifest as stored.
    pub manifest: Stored,
    /// The request that this backup answers, from the SST address.
    pub request: Option<String>,
    /// How many warnings the manifest holds: a label names no table.
    pub warnings: u64,
}

/// How the bytes were held still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Cloned before the frozen window, inside it again what changed since, and read after it; what could not be cloned, as for `precopy` or `locked`.
    Clone,
    /// Read before the frozen window, and inside it again what changed since.
    Precopy,
    /// Read inside the frozen window.
    Locked,
}

/// The end of the binary log at the backup's position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinlogPosition {
    /// The binary log's file name.
    pub file: String,
    /// Bytes.
    pub position: u64,
}

/// One object of a backup, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The object's name in the backup's directory.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of the stored bytes, as `sha256sum` prints it.
    pub sha256: Digest,
}

impl Label {
    /// Whether archive and manifest are encrypted.
    pub fn seal(&self) -> Seal {
        self.recipients.seal()
    }
}

impl BackupId {
    /// The id of a backup of `node` that began at `started`; `random` makes two of one second differ.
    pub fn new(started: jiff::Timestamp, node: &str, random: u16) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
        let mut node: String = node.chars().map(plain).take(64).collect();
        if node.is_empty() {
            node.push_str("node");
        }
        Self(format!("{}-{node}-{random:04x}", started.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let time = text.as_bytes().get(..17);
        let dated = time.is_some_and(|time| {
            time[..8].iter().chain(&time[9..15]).all(u8::is_ascii_digit)
                && (time[8], time[15], time[16]) == (b'T', b'Z', b'-')
        });
        if text.len() > LONGEST_ID || !text.bytes().all(plain) || !dated {
            let shown: String = text.chars().take(LONGEST_ID).collect();
            return Err(Error::new(Class::Usage, format!("{shown:?} is not the id of a backup"))
                .hint("an id looks like 20261122T100946Z-node2-7f3a; `list` shows them"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BackupId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}
