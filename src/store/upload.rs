//! Writing a backup into a local repository: published whole by one rename, or not at all.
//!
//! The archive grows in a file without a name, so that not even `kill -9` leaves anything of it; where the file system
//! cannot do that, in a directory `.partial-ID` that its writer keeps locked. The next run removes such a directory when
//! nobody holds its lock. Everything is on the disk before the rename, and the rename never replaces a backup.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::local::LocalRepository;
use super::{LABEL_LIMIT, LABEL_NAME, MANIFEST_LIMIT, PARTIAL_PREFIX, manifest_name};
use crate::archive::codec::Codec;
use crate::archive::label::{BackupId, Label};
use crate::archive::seal::Seal;
use crate::dir::{self, Dir, DirLock};
use crate::error::{Class, Error, Result};

/// Names that are tried for a partial directory: another run's sweep may take a new one before it is locked.
const ATTEMPTS: u32 = 16;

/// A backup that is being written. Dropping it removes what there is.
#[derive(Debug)]
pub struct LocalUpload<'a> {
    repository: &'a LocalRepository,
    id: BackupId,
    archive_name: &'static str,
    manifest_name: &'static str,
    archive: Arc<File>,
    /// Exists from the beginning only where the archive needs a name from the beginning.
    partial: Option<Partial<'a>>,
}

/// Where the archive's bytes go, in order; a thread of its own may hold it.
#[derive(Debug)]
pub struct ArchiveFile(Arc<File>);

/// A locked directory that nobody takes for a backup. Dropping it removes it.
#[derive(Debug)]
struct Partial<'a> {
    repository: &'a Dir,
    dir: Dir,
    /// The directory's present name: at the end of a commit it is the backup's.
    name: String,
    kept: bool,
    _lock: DirLock,
}

impl LocalRepository {
    /// Begins the backup `id`, whose archive is written by `codec` and `seal`; removes what dead runs left.
    pub fn begin(&self, id: &BackupId, codec: Codec, seal: Seal) -> Result<LocalUpload<'_>> {
        let unnamed = self.dir.create_unnamed()?;
        self.begin_with(id, codec, seal, unnamed)
    }

    /// Begins as where the file system has no files without names.
    #[cfg(test)]
    pub(super) fn begin_named(&self, id: &BackupId, codec: Codec) -> Result<LocalUpload<'_>> {
        self.begin_with(id, codec, Seal::Open, None)
    }

    fn begin_with(&self, id: &BackupId, codec: Codec, seal: Seal, unnamed: Option<File>) -> Result<LocalUpload<'_>> {
        self.sweep()?;
        let (archive_name, manifest_name) = (codec.archive_name(seal), manifest_name(seal));
        let (file, partial) = match unnamed {
            Some(file) => (file, None),
            None => {
                let partial = Partial::create(&self.dir, id)?;
                (partial.dir.create_file(archive_name)?, Some(partial))
            }
        };
        let archive = Arc::new(file);
        Ok(LocalUpload { repository: self, id: id.clone(), archive_name, manifest_name, archive, partial })
    }

    /// Removes the partial directories whose writers are dead.
    pub fn sweep(&self) -> Result<()> {
        for name in self.dir.names()? {
            if name.as_bytes().starts_with(PARTIAL_PREFIX.as_bytes()) {
                self.sweep_one(&name)?;
            }
        }
        Ok(())
    }

    fn sweep_one(&self, name: &OsStr) -> Result<()> {
        // Another sweep may be quicker, and what is not a directory is not ours.
        let Some(_) = self.dir.stat(name)?.filter(dir::is_dir) else { return Ok(()) };
        let Ok(dir) = self.dir.open_dir(name) else { return Ok(()) };
        // Between opening and locking the writer may have published it: then the name is gone, or another's.
        if let Some(_lock) = locked(&self.dir, &dir, name)? {
            tracing::info!("removing {:?}, which a run that died left", dir.path());
            self.dir.remove_tree(name)?;
        }
        Ok(())
    }
}

impl<'a> LocalUpload<'a> {
    /// Where the archive's bytes go, in order.
    pub fn archive(&self) -> ArchiveFile {
        ArchiveFile(Arc::clone(&self.archive))
    }

    /// Publishes the backup: after this it exists, whole and on the disk. An error leaves nothing.
    pub fn commit(self, manifest_stored: &[u8], label: &Label) -> Result<()> {
        self.check(manifest_stored, label)?;
        let Self { repository, id, archive_name, manifest_name, archive, partial } = self;
        let named = partial.is_some();
        let mut partial = match partial {
            Some(partial) => partial,
            None => Partial::create(&repository.dir, &id)?,
        };
        dir::sync_file(&archive, &partial.dir.path().join(archive_name))?;
        if !named {
            partial.dir.link_unnamed(&archive, archive_name)?;
        }
        partial.write(manifest_name, manifest_stored)?;
        partial.write(LABEL_NAME, &label_text(label)?)?;
        partial.dir.sync()?;
        partial.publish(id.as_str())
    }

    fn check(&self, manifest_stored: &[u8], label: &Label) -> Result<()> {
        let written = self.archive.metadata().map_err(|cause| Error::io("look at", self.archive_name, cause))?.len();
        let stored = [
            ("archive", &label.archive, self.archive_name, written),
            ("manifest", &label.manifest, self.manifest_name, manifest_stored.len() as u64),
        ];
        for (what, record, name, bytes) in stored {
            if record.name != name || record.bytes != bytes {
                let text = format!("{} bytes in {:?}, and not {bytes} in {name:?}", record.bytes, record.name);
                return Err(Error::new(Class::Refused, format!("the label promises an {what} of {text}")));
            }
        }
        if label.id != self.id {
            return Err(Error::new(Class::Refused, format!("the label is that of {}, not {}", label.id, self.id)));
        }
        if manifest_stored.len() as u64 > MANIFEST_LIMIT {
            return Err(Error::new(Class::Refused, format!("the manifest is larger than {MANIFEST_LIMIT} bytes")));
        }
        Ok(())
    }
}

/// The label as stored.
fn label_text(label: &Label) -> Result<Vec<u8>> {
    let text = label.to_json()?;
    if text.len() as u64 > LABEL_LIMIT {
        return Err(Error::new(Class::Refused, format!("the label is larger than {LABEL_LIMIT} bytes")));
    }
    Ok(text)
}

impl Write for ArchiveFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> Partial<'a> {
    fn create(repository: &'a Dir, id: &BackupId) -> Result<Self> {
        for attempt in 0..ATTEMPTS {
            let name = format!("{PARTIAL_PREFIX}{id}-{attempt}");
            if repository.stat(&name)?.is_some() {
                continue;
            }
            let dir = repository.create_dir(&name)?;
            match locked(repository, &dir, OsStr::new(&name)) {
                Ok(Some(lock)) => return Ok(Self { repository, dir, name, kept: false, _lock: lock }),
                Ok(None) => continue,
                Err(error) => {
                    let _ = repository.remove_dir(&name);
                    return Err(error);
                }
            }
        }
        Err(Error::new(Class::Busy, format!("cannot lock a new directory in {:?}", repository.path())))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.path().join(name);
        let mut file = self.dir.create_file(name)?;
        dir::write_file(&mut file, &path, bytes)?;
        dir::sync_file(&file, &path)
    }

    fn publish(&mut self, name: &str) -> Result<()> {
        let taken = |error: Error| match error.os_error() {
            Some(code) if code == nix::libc::EEXIST => {
                Error::new(Class::Refused, format!("there is a backup {name} already")).because(error)
            }
            _ => error,
        };
        self.repository.publish(&self.name, self.repository, name).map_err(taken)?;
        self.name = name.to_owned();
        self.repository.sync()?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // The label first: from then on it is no backup, whatever happens to the rest.
        let removed = self.dir.remove_file(LABEL_NAME).and_then(|()| self.repository.remove_tree(&self.name));
        if let Err(error) = removed {
            tracing::warn!("{}", crate::error::one_line(&error));
        }
    }
}

/// The lock of `dir`, if nobody else has it and it is still called `name`.
fn locked(repository: &Dir, dir: &Dir, name: &OsStr) -> Result<Option<DirLock>> {
    let Some(lock) = dir.try_lock()? else { return Ok(None) };
    Ok(is_still_there(repository, dir, name)?.then_some(lock))
}

fn is_still_there(repository: &Dir, dir: &Dir, name: &OsStr) -> Result<bool> {
    let held = dir.stat_self()?;
    Ok(repository.stat(name)?.is_some_and(|found| (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)))
}
