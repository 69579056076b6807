//! A place where a directory of the server is to be: examined before anything is written, filled out of sight, published last.
//!
//! Normally the files are written into a hidden sibling of the target that becomes the target by one rename. A mount point
//! cannot be replaced by a rename, nor a directory whose parent is not ours: there they are written into a hidden directory
//! inside the target and moved up. Guards keep a server from starting on such a target meanwhile: under the names of the
//! InnoDB system tablespace and of Aria's control file lie a few words that neither engine takes for its own (tried on
//! MariaDB 10.11: it refuses to start and changes nothing). The real system tablespace replaces its guard as the very last
//! step, so that what is half restored never starts.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::stage::{How, Inside, Stage};
use crate::archive::manifest::OWN_DIRECTORY;
use crate::dir::{self, Dir, DirLock};
use crate::error::{Class, Error, Result};
use crate::relpath::shell_word;
use crate::sys;

/// What lies under a guarded name. Not a multiple of any page size, and no control file.
const GUARD: &[u8] = b"wsrep_sst_backup restore is filling this directory: it is not a data directory yet.\n";

/// Aria's control file: Aria starts before InnoDB and would make a new one.
pub(super) const ARIA_CONTROL: &str = "aria_log_control";

/// What mkfs makes at the top of a file system; it stays as it is.
const LOST_AND_FOUND: &str = "lost+found";

/// A target that was examined; nothing is written yet.
#[derive(Debug)]
pub struct Site {
    pub(super) path: PathBuf,
    pub(super) parent: Dir,
    pub(super) name: OsString,
    /// The target itself, if it exists: an empty directory.
    pub(super) found: Option<Dir>,
    /// The target is a mount point, which no rename can replace.
    fixed: bool,
}

impl Site {
    /// Looks at `path`, which must be absent or an empty directory; a link to one is followed, once.
    pub fn examine(path: &Path) -> Result<Self> {
        let path = resolve(path)?;
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::new(Class::Refused, format!("{path:?} cannot be a target")));
        };
        let parent = Dir::open(above)?;
        let found = match parent.stat(name)? {
            None => None,
            Some(found) if dir::is_dir(&found) => Some(parent.open_dir(name)?),
            Some(_) => return Err(Error::new(Class::Refused, format!("the target {path:?} is not a directory"))),
        };
        let fixed = match &found {
            Some(found) => found.mount_id()? != parent.mount_id()? || found.stat(LOST_AND_FOUND)?.is_some(),
            None => false,
        };
        let site = Self { name: name.to_owned(), path, parent, found, fixed };
        site.check_empty()?;
        Ok(site)
    }

    /// The target, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The permission bits of the target as it is, if it exists.
    pub fn mode(&self) -> Result<Option<u32>> {
        let found = self.found.as_ref().map(Dir::stat_self).transpose()?;
        Ok(found.map(|found| found.st_mode & 0o7777))
    }

    /// The file system that the files will be on, and what is free on it, in bytes.
    pub fn space(&self) -> Result<(u64, u64)> {
        let dir = self.found.as_ref().unwrap_or(&self.parent);
        Ok((dir.stat_self()?.st_dev, dir.free_bytes()?))
    }

    fn check_empty(&self) -> Result<()> {
        let Some(found) = &self.found else { return Ok(()) };
        let names = found.names()?;
        // What a run that died before it moved anything left is taken over.
        let ours = names.iter().any(|name| name == inner_name().as_str());
        let is_left = |name: &OsString| Ok(is_known(name) || is_guard(found, name)?);
        let foreign: Vec<&OsString> = names
            .iter()
            .filter_map(|name| match is_left(name) {
                Ok(true) => None,
                Ok(false) => Some(Ok(name)),
                Err(error) => Some(Err(error)),
            })
            .collect::<Result<_>>()?;
        let Some(first) = foreign.first() else { return Ok(()) };
        if ours {
            return Err(Error::new(Class::Refused, format!("{:?} holds a restore that was interrupted", self.path))
                .hint(format!("remove it: find {} -mindepth 1 -delete", shell_word(&self.path))));
        }
        Err(Error::new(Class::Refused, format!("the target {:?} is not empty: it holds {first:?}", self.path))
            .hint("move it away first; a restore never overwrites anything"))
    }

    /// Makes the hidden directory to write into. With `guard` it is inside the target, and the server is kept away by a
    /// guard of that name; without it the target decides.
    pub fn stage(self, guard: Option<&OsStr>) -> Result<Stage> {
        if guard.is_none() && !self.must_be_inside()? {
            let (dir, staged, lock) = self.beside()?;
            let how = How::Beside { staged, published: false };
            return Ok(Stage { site: self, dir: Some(dir), how, kept: false, lock: Some(lock) });
        }
        self.inside(guard)
    }

    /// Whether [`Site::stage`] without a guard would write inside the target.
    pub fn must_be_inside(&self) -> Result<bool> {
        if self.fixed {
            return Ok(true);
        }
        match self.beside() {
            Ok((_, staged, _)) => self.parent.remove_dir(&staged).map(|()| false),
            Err(error) if is_denied(&error) && self.found.is_some() => Ok(true),
            Err(error) if is_denied(&error) => {
                Err(error.hint(format!("make {:?} yourself, empty and writable", self.path)))
            }
            Err(error) => Err(error),
        }
    }

    fn beside(&self) -> Result<(Dir, OsString, DirLock)> {
        let mut prefix = OsString::from(".");
        prefix.push(&self.name);
        prefix.push(format!("{OWN_DIRECTORY}.partial-"));
        for name in self.parent.names()? {
            if name.as_bytes().starts_with(prefix.as_bytes()) {
                remove_if_dead(&self.parent, &name)?;
            }
        }
        prefix.push(format!("{:08x}", sys::random_u32()));
        let dir = self.parent.create_dir(&prefix)?;
        match locked(&dir) {
            Ok(lock) => Ok((dir, prefix, lock)),
            Err(error) => {
                self.parent.remove_dir(&prefix)?;
                Err(error)
            }
        }
    }

    fn inside(self, guard: Option<&OsStr>) -> Result<Stage> {
        let (target, made) = match &self.found {
            Some(found) => {
                // An error here must not take back what belongs to another restore that is alive.
                remove_if_dead(found, OsStr::new(&inner_name()))?;
                (found.try_clone()?, false)
            }
            None => (self.parent.create_dir(&self.name)?, true),
        };
        let guard = guard.map(OsStr::to_owned);
        // From here on dropping the stage takes back what was made.
        let inside =
            Inside { target: target.try_clone()?, made, guard: guard.clone(), hidden: false, moved: Vec::new() };
        let mut stage = Stage { site: self, dir: None, how: How::Inside(inside), kept: false, lock: None };
        let dir = target.create_dir(inner_name())?;
        match locked(&dir) {
            Ok(lock) => stage.lock = Some(lock),
            // Empty: another restore that took it for a dead one's would have written into its own.
            Err(error) => return target.remove_dir(inner_name()).and(Err(error)),
        }
        if let How::Inside(inside) = &mut stage.how {
            inside.hidden = true;
        }
        if let Some(guard) = guard {
            write_guard(&dir, &target, &guard)?;
            write_guard(&dir, &target, OsStr::new(ARIA_CONTROL))?;
            target.sync()?;
        }
        stage.dir = Some(dir);
        Ok(stage)
    }
}

/// A guard appears whole: an empty file of that name would be one that the server fills.
fn write_guard(staged: &Dir, target: &Dir, name: &OsStr) -> Result<()> {
    let mut file = staged.create_file(name)?;
    let path = staged.path().join(name);
    dir::write_file(&mut file, &path, GUARD)?;
    dir::set_mode(&file, &path, 0o644)?;
    dir::sync_file(&file, &path)?;
    match staged.publish(name, target, name) {
        // What a restore that died left.
        Err(_) if is_guard(target, name)? => staged.replace(name, target, name),
        published => published,
    }
}

fn resolve(path: &Path) -> Result<PathBuf> {
    let cannot = |cause| Error::io("resolve", path, cause);
    let path = std::path::absolute(path).map_err(cannot)?;
    match path.canonicalize() {
        Ok(resolved) => return Ok(resolved),
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cannot(cause)),
        Err(_) if path.symlink_metadata().is_ok() => {
            return Err(Error::new(Class::Refused, format!("the target {path:?} is a link to nothing")));
        }
        Err(_) => {}
    }
    // `absolute` keeps `..`, which means another directory behind a link.
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(Class::Refused, format!("{path:?} cannot be a target")));
    };
    let above = above.canonicalize().map_err(|cause| {
        let error = Error::io("open", above, cause);
        error.hint(format!("the directory above the target must exist: mkdir -p {}", shell_word(above)))
    })?;
    Ok(above.join(name))
}

fn is_denied(error: &Error) -> bool {
    use nix::libc::{EACCES, EPERM, EROFS};
    matches!(error.os_error(), Some(EACCES | EPERM | EROFS))
}

pub(super) fn is_guard(dir: &Dir, name: &OsStr) -> Result<bool> {
    let long = GUARD.len() as i64;
    if !dir.stat(name)?.is_some_and(|found| !dir::is_dir(&found) && found.st_size == long) {
        return Ok(false);
    }
    let mut text = Vec::new();
    let Ok(file) = dir.open_file(name) else { return Ok(false) };
    let read = file.take(GUARD.len() as u64 + 1).read_to_end(&mut text);
    read.map_err(|cause| Error::io("read", dir.path().join(name), cause))?;
    Ok(text == GUARD)
}

/// What may be in a target, besides guards: our own directory, and what mkfs makes in a new file system.
pub(super) fn is_known(name: &OsStr) -> bool {
    name == inner_name().as_str() || name == LOST_AND_FOUND
}

pub(super) fn inner_name() -> String {
    format!("{OWN_DIRECTORY}.partial")
}

fn locked(dir: &Dir) -> Result<DirLock> {
    let busy = || Error::new(Class::Busy, format!("another restore is at {:?}", dir.path()));
    dir.try_lock()?.ok_or_else(busy)
}

/// Removes the hidden directory `name` if the restore that made it is dead.
fn remove_if_dead(parent: &Dir, name: &OsStr) -> Result<()> {
    if !parent.stat(name)?.is_some_and(|found| dir::is_dir(&found)) {
        return Ok(());
    }
    let _lock = locked(&parent.open_dir(name)?)?;
    tracing::info!("removing {:?}, which a restore that died left", parent.path().join(name));
    parent.remove_tree(name)
}
