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

use super::LocalRepository;
use crate::archive::label::{BackupId, Label};
use crate::dir::{self, Dir, DirLock};
use crate::error::{Class, Error, Result};
use crate::store::{Begun, LABEL_NAME, PARTIAL_PREFIX, Sealed, Upload, check_label, label_text, manifest_name, taken};

/// Names that are tried for a partial directory: another run's sweep may take a new one before it is locked.
const ATTEMPTS: u32 = 16;

/// A backup that is being written. Dropping it removes what there is.
#[derive(Debug)]
struct LocalUpload {
    repository: Arc<Dir>,
    id: BackupId,
    archive_name: &'static str,
    archive: Arc<File>,
    /// Exists from the beginning only where the archive needs a name from the beginning.
    partial: Option<Partial>,
}

/// A backup whose directory lacks nothing but its name.
#[derive(Debug)]
struct LocalSealed {
    id: BackupId,
    partial: Partial,
}

#[derive(Debug)]
struct ArchiveFile(Arc<File>);

/// A locked directory that nobody takes for a backup. Dropping it removes it.
#[derive(Debug)]
struct Partial {
    repository: Arc<Dir>,
    dir: Dir,
    /// The directory's present name: at the end of a commit it is the backup's.
    name: String,
    kept: bool,
    _lock: DirLock,
}

impl LocalRepository {
    /// Begins as where the file system has no files without names.
    #[cfg(test)]
    pub(crate) fn begin_named(&self, id: &BackupId, archive_name: &'static str) -> Result<Begun> {
        self.begin_with(id, archive_name, None)
    }

    pub(super) fn begin_with(&self, id: &BackupId, archive_name: &'static str, unnamed: Option<File>) -> Result<Begun> {
        self.sweep()?;
        let (file, partial) = match unnamed {
            Some(file) => (file, None),
            None => {
                let partial = Partial::create(&self.dir, id)?;
                (partial.dir.create_file(archive_name)?, Some(partial))
            }
        };
        let archive = Arc::new(file);
        let sink = Box::new(ArchiveFile(Arc::clone(&archive)));
        Ok((
            Box::new(LocalUpload { repository: Arc::clone(&self.dir), id: id.clone(), archive_name, archive, partial }),
            sink,
        ))
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

impl Upload for LocalUpload {
    fn seal(self: Box<Self>, manifest_stored: &[u8], label: &Label) -> Result<Box<dyn Sealed>> {
        let Self { repository, id, archive_name, archive, partial } = *self;
        let written = archive.metadata().map_err(|cause| Error::io("look at", archive_name, cause))?.len();
        check_label(&id, archive_name, written, manifest_stored, label)?;
        let named = partial.is_some();
        let partial = match partial {
            Some(partial) => partial,
            None => Partial::create(&repository, &id)?,
        };
        dir::sync_file(&archive, &partial.dir.path().join(archive_name))?;
        if !named {
            partial.dir.link_unnamed(&archive, archive_name)?;
        }
        partial.write(manifest_name(label.seal()), manifest_stored)?;
        partial.write(LABEL_NAME, &label_text(label)?)?;
        partial.dir.sync()?;
        Ok(Box::new(LocalSealed { id, partial }))
    }
}

impl Sealed for LocalSealed {
    fn publish(mut self: Box<Self>) -> Result<()> {
        self.partial.publish(self.id.as_str())
    }
}

impl Write for ArchiveFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Partial {
    fn create(repository: &Arc<Dir>, id: &BackupId) -> Result<Self> {
        for attempt in 0..ATTEMPTS {
            let name = format!("{PARTIAL_PREFIX}{id}-{attempt}");
            if repository.stat(&name)?.is_some() {
                continue;
            }
            let dir = repository.create_dir(&name)?;
            match locked(repository, &dir, OsStr::new(&name)) {
                Ok(Some(lock)) => {
                    return Ok(Self { repository: Arc::clone(repository), dir, name, kept: false, _lock: lock });
                }
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
        let refused = |error: Error| match error.os_error() {
            Some(nix::libc::EEXIST) => taken(name).because(error),
            _ => error,
        };
        self.repository.publish(&self.name, &self.repository, name).map_err(refused)?;
        self.name = name.to_owned();
        self.repository.sync()?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial {
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
