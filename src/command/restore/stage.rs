//! A target while it is filled: published by one rename, or moved up inside the target with the guarded file last; taken
//! back entirely if it is dropped before it is kept.
//!
//! Inside a target nothing is removed but what this restore put there: its hidden directory, its guards, and the names that
//! it moved up. What somebody else puts there meanwhile stays his.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::site::{ARIA_CONTROL, Site, inner_name, is_guard, is_known};
use crate::dir::{self, Dir, DirLock};
use crate::error::{Class, Error, Result, one_line};
use crate::wsrep::grastate;

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
    /// Inside the target.
    Inside(Inside),
}

/// A target that is filled from inside, and what this restore has put into it so far.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) target: Dir,
    /// The target itself is new.
    pub(super) made: bool,
    /// The name that comes last, if a server must be kept away.
    pub(super) guard: Option<OsString>,
    /// The hidden directory is there, and ours.
    pub(super) hidden: bool,
    /// The names that were moved up.
    pub(super) moved: Vec<OsString>,
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
            How::Inside(inside) => {
                inside.move_up(&dir)?;
                give_access(&inside.target, access)?;
                inside.target.sync()
            }
        }
    }

    /// Puts the last file into the place of its guard, if there is one: from now on a server can start here.
    pub fn release(&mut self) -> Result<()> {
        let staged = self.staged()?.try_clone()?;
        let How::Inside(inside) = &mut self.how else { return Ok(()) };
        if let Some(guard) = inside.guard.clone() {
            match staged.stat(&guard)? {
                Some(_) => inside.replace_guard(&staged, &guard)?,
                None => inside.remove_guard(&guard)?,
            }
        }
        inside.target.remove_dir(inner_name())?;
        inside.hidden = false;
        inside.target.sync()
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
            How::Inside(inside) => {
                inside.take_back()?;
                // Not if somebody put anything into it.
                if inside.made { parent.remove_dir(name) } else { Ok(()) }
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

impl Inside {
    /// Moves everything up from `staged` but the guarded file; Galera's state and Aria's control file after the rest,
    /// because they are what a server looks at first.
    fn move_up(&mut self, staged: &Dir) -> Result<()> {
        for name in self.target.names()? {
            if !is_known(&name) && !is_guard(&self.target, &name)? {
                let text = format!("somebody put {name:?} into {:?} during the restore", self.target.path());
                return Err(Error::new(Class::Refused, text));
            }
        }
        let late = |name: &OsString| name == grastate::FILE_NAME || name == ARIA_CONTROL;
        let guard = self.guard.as_ref();
        let names = staged.names()?.into_iter().filter(|name| Some(name) != guard);
        let (mut last, first): (Vec<_>, Vec<_>) = names.partition(late);
        for name in first {
            self.move_name(staged, &name)?;
        }
        self.target.sync()?;
        let has_control = last.iter().any(|name| name == ARIA_CONTROL);
        last.sort_by_key(|name| name == ARIA_CONTROL);
        for name in last {
            if self.guard.is_some() && name == ARIA_CONTROL {
                self.replace_guard(staged, &name)?;
            } else {
                self.move_name(staged, &name)?;
            }
        }
        if self.guard.is_some() && !has_control { self.remove_guard(OsStr::new(ARIA_CONTROL)) } else { Ok(()) }
    }

    fn move_name(&mut self, staged: &Dir, name: &OsStr) -> Result<()> {
        staged.publish(name, &self.target, name)?;
        self.moved.push(name.to_owned());
        Ok(())
    }

    fn replace_guard(&mut self, staged: &Dir, name: &OsStr) -> Result<()> {
        self.check_guard(name)?;
        staged.replace(name, &self.target, name)?;
        self.moved.push(name.to_owned());
        Ok(())
    }

    fn remove_guard(&self, name: &OsStr) -> Result<()> {
        self.check_guard(name)?;
        self.target.remove_file(name)
    }

    fn check_guard(&self, name: &OsStr) -> Result<()> {
        if is_guard(&self.target, name)? {
            return Ok(());
        }
        let text = format!("somebody changed {name:?} in {:?} during the restore", self.target.path());
        Err(Error::new(Class::Refused, text))
    }

    /// Removes what this restore put into the target, the guarded names last: until then no server starts.
    fn take_back(&self) -> Result<()> {
        let guarded = |name: &OsStr| self.guard.as_deref().is_some_and(|guard| name == guard || name == ARIA_CONTROL);
        for name in self.moved.iter().filter(|name| !guarded(name)) {
            self.remove_moved(name)?;
        }
        if self.hidden && self.target.stat(inner_name())?.is_some() {
            self.target.remove_tree(inner_name())?;
        }
        let Some(guard) = &self.guard else { return Ok(()) };
        for name in [OsStr::new(ARIA_CONTROL), guard] {
            if self.moved.iter().any(|moved| moved == name) {
                self.remove_moved(name)?;
            } else if is_guard(&self.target, name)? {
                self.target.remove_file(name)?;
            }
        }
        Ok(())
    }

    fn remove_moved(&self, name: &OsStr) -> Result<()> {
        match self.target.stat(name)? {
            Some(found) if dir::is_dir(&found) => self.target.remove_tree(name),
            _ => self.target.remove_file(name),
        }
    }
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
