//! Where backups are kept: published whole or not at all, listed, read back.
//!
//! A [`Destination`] takes backups, a [`Repository`] gives them back as well. The commands know these two and [`Upload`];
//! what is behind them they do not. An upload is first sealed, then published: between the two nothing is left to do but what
//! is done in one step, so that several stores can agree before the first of them shows a backup.

pub mod local;
pub mod location;
pub mod object;
pub mod repository;
pub mod several;

use std::fmt;
use std::io::Write;
use std::path::Path;

use crate::archive::label::{BackupId, Label};
use crate::archive::seal::Seal;
use crate::error::{Class, Error, Result};

pub use local::LocalRepository;
pub use location::Location;
pub use object::ObjectRepository;
pub use repository::{Listing, Repository};
pub use several::{Policy, Several};

/// The label's name in a backup's directory.
pub const LABEL_NAME: &str = "backup.json";

/// The manifest's name in a backup's directory.
pub const MANIFEST_NAME: &str = "manifest.json.zst";

/// The manifest's name in a backup's directory where it is encrypted.
pub const SEALED_MANIFEST_NAME: &str = "manifest.json.zst.age";

/// The manifest's name in a backup's directory, encrypted or not.
pub fn manifest_name(seal: Seal) -> &'static str {
    match seal {
        Seal::Open => MANIFEST_NAME,
        Seal::Age => SEALED_MANIFEST_NAME,
    }
}

/// How the directory of a backup that is being written begins.
pub(crate) const PARTIAL_PREFIX: &str = ".partial-";

/// The most bytes that a label may have: it is read before anything proves it.
pub const LABEL_LIMIT: u64 = 1 << 20;

/// The most bytes that a stored manifest may have: some 200 bytes a file, so more than a million files.
pub const MANIFEST_LIMIT: u64 = 256 << 20;

/// Where the bytes of an archive go, in order; a thread of its own may hold it.
pub type ArchiveSink = Box<dyn Write + Send>;

/// A backup that was begun: the upload, and where its archive goes.
pub type Begun = (Box<dyn Upload>, ArchiveSink);

/// Anything that a backup can be written into.
pub trait Destination: fmt::Debug + Send + Sync {
    /// Where it is, for messages and documents: a path or a URL, without secrets.
    fn place(&self) -> String;

    /// The directory behind it, where there is one.
    fn local_path(&self) -> Option<&Path> {
        None
    }

    /// Proves that a backup could be written, by writing; leaves nothing behind.
    fn probe_writable(&self) -> Result<()>;

    /// Bytes that can still be written; `None` where nobody knows.
    fn free_bytes(&self) -> Result<Option<u64>>;

    /// Begins the backup `id`, whose archive is called `archive_name`; removes what dead runs left, where it can tell.
    ///
    /// The archive's bytes go into the sink, in order and to the last, before the upload is committed; `expected_bytes` is
    /// about how many there will be at most.
    fn begin(&self, id: &BackupId, archive_name: &'static str, expected_bytes: u64) -> Result<Begun>;
}

/// A backup that is being written. Dropping it removes what there is.
pub trait Upload: fmt::Debug + Send {
    /// Makes everything durable when all of the archive has been written; only the label does not show yet. An error
    /// leaves nothing.
    fn seal(self: Box<Self>, manifest_stored: &[u8], label: &Label) -> Result<Box<dyn Sealed>>;

    /// Seals the backup and publishes it: after this it exists, whole and durable. An error leaves nothing.
    fn commit(self: Box<Self>, manifest_stored: &[u8], label: &Label) -> Result<()> {
        self.seal(manifest_stored, label)?.publish()
    }
}

/// A backup that lacks nothing but its label. Dropping it removes what there is.
pub trait Sealed: fmt::Debug + Send {
    /// Puts the label: after this the backup exists. An error leaves nothing.
    fn publish(self: Box<Self>) -> Result<()>;
}

/// Proves that a label is the one of what was written: `archive_bytes` as `archive_name`, and the manifest.
fn check_label(
    id: &BackupId,
    archive_name: &str,
    archive_bytes: u64,
    manifest_stored: &[u8],
    label: &Label,
) -> Result<()> {
    let stored = [
        ("archive", &label.archive, archive_name, archive_bytes),
        ("manifest", &label.manifest, manifest_name(label.seal()), manifest_stored.len() as u64),
    ];
    for (what, record, name, bytes) in stored {
        if record.name != name || record.bytes != bytes {
            let text = format!("{} bytes in {:?}, and not {bytes} in {name:?}", record.bytes, record.name);
            return Err(Error::new(Class::Refused, format!("the label promises an {what} of {text}")));
        }
    }
    if label.id != *id {
        return Err(Error::new(Class::Refused, format!("the label is that of {}, not {id}", label.id)));
    }
    if manifest_stored.len() as u64 > MANIFEST_LIMIT {
        return Err(Error::new(Class::Refused, format!("the manifest is larger than {MANIFEST_LIMIT} bytes")));
    }
    Ok(())
}

/// The label as stored.
pub(crate) fn label_text(label: &Label) -> Result<Vec<u8>> {
    let text = label.to_json()?;
    if text.len() as u64 > LABEL_LIMIT {
        return Err(Error::new(Class::Refused, format!("the label is larger than {LABEL_LIMIT} bytes")));
    }
    Ok(text)
}

/// There is a backup of that name already.
fn taken(id: &str) -> Error {
    Error::new(Class::Refused, format!("there is a backup {id} already"))
}

#[cfg(test)]
pub(crate) mod tests;
