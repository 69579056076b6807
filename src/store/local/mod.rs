//! A repository in a local directory, or one that the system mounts.
//!
//! The directory is resolved once; everything after that is relative to its descriptor and follows no link.

mod upload;

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use nix::unistd::{Uid, User};

use super::repository::{Repository, lost, not_found};
use super::{Begun, Destination, LABEL_NAME};
use crate::archive::label::{BackupId, Label};
use crate::archive::read_at::{FileAt, ReadAt};
use crate::dir::Dir;
use crate::error::{Class, Error, Result};
use crate::relpath::{escape, shell_word};

/// A directory that holds a directory for each backup.
#[derive(Debug)]
pub struct LocalRepository {
    dir: Arc<Dir>,
}

impl LocalRepository {
    /// Opens the repository at `path`, which must be a directory.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = Dir::open(path);
        opened.map(|dir| Self { dir: Arc::new(dir) }).map_err(|error| {
            match error.os_error().map(io::Error::from_raw_os_error) {
                Some(cause) if cause.kind() == io::ErrorKind::NotFound => missing(path).because(cause),
                Some(cause) if cause.kind() == io::ErrorKind::NotADirectory => {
                    Error::new(Class::Config, format!("the repository {path:?} is not a directory")).because(cause)
                }
                _ => error,
            }
        })
    }

    /// Where the repository is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn backup(&self, id: &BackupId) -> Result<Dir> {
        self.dir.open_dir(id.as_str()).map_err(|error| match error.os_error() {
            Some(nix::libc::ENOENT) => not_found(format!("there is no backup {id} in {:?}", self.path())),
            _ => error,
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

impl Destination for LocalRepository {
    fn place(&self) -> String {
        escape(self.path().as_os_str().as_bytes())
    }

    fn local_path(&self) -> Option<&Path> {
        Some(self.path())
    }

    fn probe_writable(&self) -> Result<()> {
        self.probe().map_err(|error| {
            let owner = user_name();
            let hint = format!("the server's user ({owner}) must own it: chown {owner}: {}", shell_word(self.path()));
            if error.advice().is_some() { error } else { error.hint(hint) }
        })
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.dir.free_bytes().map(Some)
    }

    fn begin(&self, id: &BackupId, archive_name: &'static str, _expected_bytes: u64) -> Result<Begun> {
        let unnamed = self.dir.create_unnamed()?;
        self.begin_with(id, archive_name, unnamed)
    }
}

impl Repository for LocalRepository {
    fn ids(&self) -> Result<Vec<BackupId>> {
        let named = |name: &OsStr| name.to_str().and_then(|name| BackupId::from_str(name).ok());
        Ok(self.dir.names()?.iter().filter_map(|name| named(name)).collect())
    }

    fn object(&self, id: &BackupId, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let dir = self.backup(id)?;
        let path = dir.path().join(name);
        let file = match dir.open_file(name) {
            Err(error) if error.os_error() == Some(nix::libc::ENOENT) => return Ok(None),
            opened => opened.map_err(|error| followed(error, &path))?,
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|cause| Error::io("read", &path, cause))?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(Class::Damage, format!("{path:?} is larger than {limit} bytes")));
        }
        Ok(Some(bytes))
    }

    fn open_archive(&self, label: &Label) -> Result<Box<dyn ReadAt>> {
        let dir = self.backup(&label.id)?;
        let path = dir.path().join(&label.archive.name);
        let file = dir.open_file(&label.archive.name).map_err(|error| match error.os_error() {
            Some(nix::libc::ENOENT) => lost(label, "archive").because(error),
            _ => followed(error, &path),
        })?;
        Ok(Box::new(FileAt::new(file, path)?))
    }

    fn remove(&self, label: &Label) -> Result<()> {
        let name = label.id.as_str();
        if self.dir.stat(name)?.is_none() {
            return Ok(());
        }
        let dir = self.dir.open_dir(name)?;
        // From here on it is no backup, whatever happens to the rest.
        dir.remove_file(LABEL_NAME)?;
        dir.sync()?;
        self.dir.remove_tree(name)?;
        self.dir.sync()
    }
}

/// A link in the place of a backup's file is damage: nobody follows it.
fn followed(error: Error, path: &Path) -> Error {
    match error.os_error() {
        Some(nix::libc::ELOOP) => Error::new(Class::Damage, format!("{path:?} is a link")).because(error),
        _ => error,
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
