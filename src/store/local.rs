//! A repository in a local directory, or one that the system mounts.
//!
//! The directory is resolved once; everything after that is relative to its descriptor and follows no link.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use crate::dir::Dir;
use crate::error::{Class, Error, Result};
use crate::relpath::shell_word;

/// A directory that holds a directory for each backup.
#[derive(Debug)]
pub struct LocalRepository {
    pub(super) dir: Dir,
}

impl LocalRepository {
    /// Opens the repository at `path`, which must be a directory.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = Dir::open(path);
        opened.map(|dir| Self { dir }).map_err(|error| match error.os_error().map(io::Error::from_raw_os_error) {
            Some(cause) if cause.kind() == io::ErrorKind::NotFound => missing(path).because(cause),
            Some(cause) if cause.kind() == io::ErrorKind::NotADirectory => {
                Error::new(Class::Config, format!("the repository {path:?} is not a directory")).because(cause)
            }
            _ => error,
        })
    }

    /// Where the repository is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a backup's directory, to be shown.
    pub fn path_of(&self, id: &crate::archive::label::BackupId) -> PathBuf {
        self.path().join(id.as_str())
    }

    /// Bytes that can still be written.
    pub fn free_bytes(&self) -> Result<u64> {
        self.dir.free_bytes()
    }

    /// Proves that this user can write here, by writing; leaves nothing behind.
    pub fn probe_writable(&self) -> Result<()> {
        self.probe().map_err(|error| {
            let owner = user_name();
            let hint = format!("the server's user ({owner}) must own it: chown {owner}: {}", shell_word(self.path()));
            if error.advice().is_some() { error } else { error.hint(hint) }
        })
    }

    /// Everything that publishing will do to an archive's file, so that it cannot be refused after the copy.
    fn probe(&self) -> Result<()> {
        let name = format!(".probe-{}", std::process::id());
        self.dir.remove_file(&name)?;
        let made = match self.dir.create_unnamed()? {
            Some(unnamed) => self.write_probe(&unnamed).and_then(|()| self.dir.link_unnamed(&unnamed, &name)),
            None => self.dir.create_file(&name).and_then(|named| self.write_probe(&named)),
        };
        self.dir.remove_file(&name).and(made)
    }

    fn write_probe(&self, mut file: &std::fs::File) -> Result<()> {
        file.write_all(b"probe").map_err(|cause| Error::io("write to", self.path(), cause))
    }
}

fn missing(path: &Path) -> Error {
    let (owner, word) = (user_name(), shell_word(path));
    Error::new(Class::Config, format!("there is no repository {path:?}"))
        .hint(format!("mkdir -p -m 0700 {word} && chown {owner}: {word}"))
}

fn user_name() -> String {
    let uid = Uid::effective();
    // Root looks at a repository; the server's user writes it.
    let user = if uid.is_root() { None } else { User::from_uid(uid).ok().flatten() };
    user.map_or_else(|| "mysql".to_owned(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_repository_is_named_with_the_command_that_makes_it() {
        let base = tempfile::tempdir().unwrap();
        let error = LocalRepository::open(&base.path().join("none or $one")).unwrap_err();
        assert_eq!(error.class(), Class::Config);
        let path = format!("'{}/none or $one'", base.path().display());
        assert!(error.advice().unwrap().contains(&format!("mkdir -p -m 0700 {path} && chown")), "{:?}", error.advice());
        assert!(error.advice().unwrap().ends_with(&format!(": {path}")));
    }

    #[test]
    fn a_file_is_not_a_repository() {
        let base = tempfile::NamedTempFile::new().unwrap();
        let error = LocalRepository::open(base.path()).unwrap_err();
        assert!(error.to_string().contains("is not a directory"));
    }

    #[test]
    fn the_probe_leaves_nothing_behind_and_fails_where_nothing_can_be_written() {
        let base = tempfile::tempdir().unwrap();
        let repository = LocalRepository::open(base.path()).unwrap();
        repository.probe_writable().unwrap();
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
        // Not even root can make a directory in /proc.
        let error = LocalRepository::open(Path::new("/proc")).unwrap().probe_writable().unwrap_err();
        assert!(error.advice().unwrap().contains("chown"));
    }
}
