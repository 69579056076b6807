//! A target while it is filled: published by one rename, or moved up inside the target with the guarded file last; taken
//! back entirely if it is dropped before it is kept.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::site::{ARIA_CONTROL, LOST_AND_FOUND, Site, inner_name, is_guard, is_known};
use crate::dir::{self, Dir, DirLock};
use crate::error::{Class, Error, Result, one_line};

/// A target that is being filled. Dropping it takes everything back, unless it was kept.
#[derive(Debug)]
pub struct Stage {
    pub(super) site: Site,
    pub(super) dir: Option<Dir>,
    pub(super) how: How,
    pub(super) kept: bool,
    pub(super) lock: Option<DirLock>,
}

/// Where a target is filled.
#[derive(Debug)]
pub(super) enum How {
    /// Under this name beside the target.
    Beside { staged: OsString, published: bool },
    /// Inside the target; `guard` is the name that comes last, if a server must be kept away.
    Inside { target: Dir, made: bool, guard: Option<OsString> },
}

/// Owner (where it is set) and mode of a target.
pub type Access = (Option<(u32, u32)>, u32);

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
                let names = target.names()?.into_iter().filter(|name| name != LOST_AND_FOUND);
                let (last, first): (Vec<_>, Vec<_>) = names.partition(guards);
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
        if !is_known(&name) && !is_guard(target, &name)? {
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
