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

use crate::archive::manifest::OWN_DIRECTORY;
use crate::dir::{self, Dir, DirLock};
use crate::error::{Class, Error, Result, one_line};

/// What lies under a guarded name. Not a multiple of any page size, and no control file.
const GUARD: &[u8] = b"wsrep_sst_backup restore is filling this directory: it is not a data directory yet.\n";

/// Aria's control file: Aria starts before InnoDB and would make a new one.
const ARIA_CONTROL: &str = "aria_log_control";

/// A target that was examined; nothing is written yet.
#[derive(Debug)]
pub struct Site {
    path: PathBuf,
    parent: Dir,
    name: OsString,
    /// The target itself, if it exists: an empty directory.
    found: Option<Dir>,
    /// The target cannot be replaced by a rename.
    mount_point: bool,
}

/// A target that is being filled. Dropping it takes everything back, unless it was kept.
#[derive(Debug)]
pub struct Stage {
    site: Site,
    dir: Option<Dir>,
    how: How,
    kept: bool,
    lock: Option<DirLock>,
}

#[derive(Debug)]
enum How {
    /// Under this name beside the target.
    Beside { staged: OsString, published: bool },
    /// Inside the target; `guard` is the name that comes last, if a server must be kept away.
    Inside { target: Dir, made: bool, guard: Option<OsString> },
}

/// Owner (where it is set) and mode of a target.
pub type Access = (Option<(u32, u32)>, u32);

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
        let mount_point = match &found {
            Some(found) => found.mount_id()? != parent.mount_id()?,
            None => false,
        };
        let site = Self { name: name.to_owned(), path, parent, found, mount_point };
        site.check_empty()?;
        Ok(site)
    }

    /// The target, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the target cannot be replaced by a rename.
    pub fn is_mount_point(&self) -> bool {
        self.mount_point
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
        let is_left = |name: &OsString| Ok(name == inner_name().as_str() || is_guard(found, name)?);
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
                .hint(format!("remove it: find {:?} -mindepth 1 -delete", self.path)));
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
        if self.mount_point {
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
        prefix.push(format!("{:08x}", random()));
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
        let how = How::Inside { target: target.try_clone()?, made, guard: guard.clone() };
        let mut stage = Stage { site: self, dir: None, how, kept: false, lock: None };
        let dir = target.create_dir(inner_name())?;
        stage.lock = Some(locked(&dir)?);
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
    staged.replace(name, target, name)
}

impl Stage {
    /// The directory to write into.
    pub fn dir(&self) -> Result<Dir> {
        self.staged()?.try_clone()
    }

    /// The target, without links.
    pub fn path(&self) -> &Path {
        self.site.path()
    }

    fn staged(&self) -> Result<&Dir> {
        self.dir.as_ref().ok_or_else(|| Error::new(Class::Refused, format!("{:?} is published", self.site.path)))
    }

    /// Puts everything under the target's name; where a guard is, it stays.
    pub fn publish(&mut self, access: Access) -> Result<()> {
        let dir = self.staged()?.try_clone()?;
        let Site { parent, name, found, .. } = &self.site;
        match &mut self.how {
            How::Beside { staged, published } => {
                give_access(&dir, access)?;
                dir.sync()?;
                let renamed = match found {
                    Some(_) => parent.replace(&*staged, parent, name),
                    None => parent.publish(&*staged, parent, name),
                };
                renamed.map_err(|error| taken(error, &self.site.path))?;
                *published = true;
                parent.sync()
            }
            How::Inside { target, guard, .. } => {
                move_up(&dir, target, guard.as_deref())?;
                give_access(target, access)?;
                target.sync()
            }
        }
    }

    /// Puts the last file into the place of its guard, if there is one: from now on a server can start here.
    pub fn release(&mut self) -> Result<()> {
        let How::Inside { target, guard, .. } = &self.how else { return Ok(()) };
        let staged = self.staged()?;
        if let Some(guard) = guard {
            match staged.stat(guard)? {
                Some(_) => staged.replace(guard, target, guard)?,
                None => target.remove_file(guard)?,
            }
        }
        target.remove_dir(inner_name())?;
        target.sync()
    }

    /// What was written stays.
    pub fn keep(mut self) {
        self.kept = true;
    }

    fn take_back(&mut self) -> Result<()> {
        // Nothing may be written any more.
        (self.dir, self.lock) = (None, None);
        let Site { parent, name, found, .. } = &self.site;
        match &self.how {
            How::Beside { staged, published: false } => parent.remove_tree(staged),
            How::Beside { staged, published: true } => {
                parent.publish(name, parent, staged)?;
                if let Some(mode) = found.as_ref().map(Dir::stat_self).transpose()? {
                    parent.create_dir(name)?.set_mode(mode.st_mode & 0o7777)?;
                }
                parent.remove_tree(staged)
            }
            How::Inside { target, made, guard } => {
                // The guards go last.
                let guards = |name: &OsString| guard.as_ref() == Some(name) || name == ARIA_CONTROL;
                let (last, first): (Vec<_>, Vec<_>) = target.names()?.into_iter().partition(guards);
                for name in first.into_iter().chain(last) {
                    match target.stat(&name)? {
                        Some(found) if dir::is_dir(&found) => target.remove_tree(&name)?,
                        _ => target.remove_file(&name)?,
                    }
                }
                if *made { parent.remove_dir(name) } else { Ok(()) }
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.take_back() {
            tracing::warn!("cannot take back what was written to {:?}: {}", self.site.path, one_line(&error));
        }
    }
}

/// Moves everything from `staged` to `target` but the guarded file; Galera's state and Aria's control file after the rest,
/// because they are what a server looks at first.
fn move_up(staged: &Dir, target: &Dir, guard: Option<&OsStr>) -> Result<()> {
    for name in target.names()? {
        if name != inner_name().as_str() && !is_guard(target, &name)? {
            let text = format!("somebody put {name:?} into {:?} during the restore", target.path());
            return Err(Error::new(Class::Refused, text));
        }
    }
    let late = |name: &OsString| name == "grastate.dat" || name == ARIA_CONTROL;
    let (last, first): (Vec<_>, Vec<_>) =
        staged.names()?.into_iter().filter(|name| Some(name.as_os_str()) != guard).partition(late);
    for name in first {
        staged.publish(&name, target, &name)?;
    }
    target.sync()?;
    let has_control = last.iter().any(|name| name == ARIA_CONTROL);
    let mut last = last;
    last.sort_by_key(|name| name == ARIA_CONTROL);
    for name in last {
        if guard.is_some() && name == ARIA_CONTROL {
            staged.replace(&name, target, &name)?;
        } else {
            staged.publish(&name, target, &name)?;
        }
    }
    if guard.is_some() && !has_control {
        target.remove_file(ARIA_CONTROL)?;
    }
    Ok(())
}

fn give_access(dir: &Dir, (owner, mode): Access) -> Result<()> {
    if let Some((uid, gid)) = owner {
        dir.set_owner(uid, gid)?;
    }
    dir.set_mode(mode)
}

fn taken(error: Error, path: &Path) -> Error {
    match error.os_error() {
        Some(nix::libc::EEXIST | nix::libc::ENOTEMPTY) => {
            Error::new(Class::Refused, format!("somebody filled {path:?} during the restore")).because(error)
        }
        _ => error,
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
        error.hint(format!("the directory above the target must exist: mkdir -p {above:?}"))
    })?;
    Ok(above.join(name))
}

fn is_denied(error: &Error) -> bool {
    use nix::libc::{EACCES, EPERM, EROFS};
    matches!(error.os_error(), Some(EACCES | EPERM | EROFS))
}

fn is_guard(dir: &Dir, name: &OsStr) -> Result<bool> {
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

fn inner_name() -> String {
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

fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    // Only names must differ; every new state has other keys.
    std::hash::RandomState::new().build_hasher().finish() as u32
}
