//! Files with secrets: taken only where nobody else can have read them, and never shown.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::unistd::geteuid;

use crate::error::{Class, Error, Result};

/// A file that holds a secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SecretFile<'a> {
    /// Where it is.
    pub(crate) path: &'a Path,
    /// What it is, for messages.
    pub(crate) what: &'a str,
    /// What to do if others may have read it, before its mode is mended.
    pub(crate) mend: &'a str,
}

impl SecretFile<'_> {
    /// Its text, of which no more than `limit` bytes are read.
    ///
    /// Refused unless it is a regular file of mode 0600 or 0400 that belongs to this user or to root.
    pub(crate) fn read(self, limit: u64) -> Result<String> {
        let path = self.path;
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = opened.map_err(|cause| Error::io("open", path, cause))?;
        let found = file.metadata().map_err(|cause| Error::io("examine", path, cause))?;
        if !found.is_file() {
            return Err(self.refused("is not a regular file"));
        }
        let mode = found.permissions().mode() & 0o7777;
        if !matches!(mode, 0o600 | 0o400) {
            return Err(self
                .refused(&format!("has mode {mode:04o}: only 0600 and 0400 are taken"))
                .hint(format!("others may have read it: {}, then chmod 0600", self.mend)));
        }
        if found.uid() != geteuid().as_raw() && found.uid() != 0 {
            return Err(self.refused("belongs neither to this user nor to root"));
        }
        let mut text = String::new();
        let read = file.take(limit).read_to_string(&mut text);
        read.map_err(|cause| Error::io("read", path, cause))?;
        Ok(text)
    }

    /// It cannot be used, and why.
    pub(crate) fn refused(self, why: &str) -> Error {
        Error::new(Class::Config, format!("the {} {:?} {why}", self.what, self.path))
    }
}
