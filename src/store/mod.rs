//! Where backups are kept: published whole or not at all, listed, read back.

pub mod local;
pub mod read;
pub mod upload;

pub use local::LocalRepository;
pub use read::Listing;
pub use upload::LocalUpload;

use crate::archive::seal::Seal;

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

#[cfg(test)]
mod tests;
