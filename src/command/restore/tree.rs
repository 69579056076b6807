//! Files of a backup while they are written: below directories that this program made, under names that nobody opens.
//!
//! Pieces come from many threads in any order. A file is made when its first piece comes, and gets its owner, mode and
//! time when its last one is written; only then is it closed for good. Names are followed one component at a time from the
//! directory that was made, links never, so that no path of a manifest can lead anywhere else.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::owner::Owners;
use crate::archive::manifest::{Entry, EntryKind, Manifest};
use crate::cancel::Cancel;
use crate::dir::{self, Dir};
use crate::error::{Class, Error, Result};
use crate::relpath::RelPath;

/// Files that are held open between two of their pieces. A file beyond that is closed and opened again.
const OPEN_FILES: usize = 128;

/// The unit in which holes are found, in bytes: a block of nearly every file system.
const HOLE: usize = 4096;

/// The directories and files of one restore.
#[derive(Debug)]
pub struct Tree<'a> {
    manifest: &'a Manifest,
    owners: &'a Owners,
    /// For each root of the manifest the directory that stands for it; none where the root is left out.
    roots: Vec<Option<Dir>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// For each entry the bytes that are still to come; none once the file is finished, or was never begun.
    left: HashMap<usize, u64>,
    open: HashMap<usize, Arc<File>>,
}

impl<'a> Tree<'a> {
    /// A tree in `roots`, which are empty directories.
    pub fn new(manifest: &'a Manifest, owners: &'a Owners, roots: Vec<Option<Dir>>) -> Self {
        let state = Mutex::new(State { left: HashMap::new(), open: HashMap::new() });
        Self { manifest, owners, roots, state }
    }

    /// Makes the directories and the empty files among `chosen`; pieces of the others may come after this.
    pub fn begin(&self, chosen: &[usize], cancel: &Cancel) -> Result<()> {
        let entries = || chosen.iter().filter_map(|index| self.manifest.files.get(*index));
        let mut directories: Vec<&Entry> = entries().filter(|entry| entry.kind == EntryKind::Directory).collect();
        directories.sort_by_key(|entry| entry.path.depth());
        for entry in directories {
            cancel.check()?;
            self.make_directory(entry.root, Some(&entry.path))?;
        }
        for entry in entries().filter(|entry| entry.kind == EntryKind::File) {
            cancel.check()?;
            let parent = self.make_directory(entry.root, entry.path.parent().as_ref())?;
            if entry.size == 0 {
                let file = parent.create_file(entry.path.file_name())?;
                self.finish_file(entry, &file, &parent)?;
            }
        }
        Ok(())
    }

    /// Writes a file of our own, with owner, mode and time like `like`.
    pub fn write_own(&self, root: u32, path: &RelPath, bytes: &[u8], like: &Entry) -> Result<()> {
        let parent = self.make_directory(root, path.parent().as_ref())?;
        let mut file = parent.create_file(path.file_name())?;
        let shown = parent.path().join(path.file_name());
        dir::write_file(&mut file, &shown, bytes)?;
        self.give(like, &file, &shown)
    }

    /// Makes the symbolic link `path` that points to `to`.
    pub fn link(&self, root: u32, path: &RelPath, to: &std::path::Path) -> Result<()> {
        self.make_directory(root, path.parent().as_ref())?.create_link(path.file_name(), to)
    }

    /// Writes `bytes` at `offset` of the file that is entry number `index` of the manifest.
    pub fn write_piece(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let unknown = || Error::new(Class::Damage, format!("the manifest has no file {index}"));
        let entry = self.manifest.files.get(index).ok_or_else(unknown)?;
        let parent = self.directory(entry.root, entry.path.parent().as_ref())?;
        let path = parent.path().join(entry.path.file_name());
        let file = self.open(index, entry, &parent)?;
        let written =
            if entry.sparse { write_with_holes(&file, bytes, offset) } else { file.write_all_at(bytes, offset) };
        written.map_err(|cause| Error::io("write", &path, cause))?;
        if self.is_last(index, bytes.len() as u64) {
            self.finish_file(entry, &file, &parent)?;
        }
        Ok(())
    }

    /// Gives the directories among `chosen` their owners, modes and times: after everything is in them.
    pub fn finish(&self, chosen: &[usize], cancel: &Cancel) -> Result<()> {
        let unfinished = self.state().left.keys().next().copied();
        if let Some(entry) = unfinished.and_then(|index| self.manifest.files.get(index)) {
            return Err(Error::new(Class::Damage, format!("the archive does not hold all of {:?}", entry.path)));
        }
        let directories = chosen.iter().filter_map(|index| self.manifest.files.get(*index));
        let mut directories: Vec<&Entry> = directories.filter(|entry| entry.kind == EntryKind::Directory).collect();
        directories.sort_by_key(|entry| std::cmp::Reverse(entry.path.depth()));
        for entry in directories {
            cancel.check()?;
            let made = self.directory(entry.root, Some(&entry.path))?;
            if let Some((uid, gid)) = self.owners.of(entry) {
                made.set_owner(uid, gid)?;
            }
            made.set_mode(entry.kind.permissions(entry.mode))?;
            made.set_mtime(entry.mtime, entry.mtime_nsec)?;
        }
        Ok(())
    }

    /// The directories that stand for the roots.
    pub fn roots(&self) -> &[Option<Dir>] {
        &self.roots
    }

    fn root(&self, root: u32) -> Result<&Dir> {
        let found = self.roots.get(root as usize).and_then(Option::as_ref);
        found.ok_or_else(|| Error::new(Class::Damage, format!("there is no directory for root {root}")))
    }

    fn directory(&self, root: u32, path: Option<&RelPath>) -> Result<Dir> {
        walk(self.root(root)?, path, |dir, name| dir.open_dir(name))
    }

    fn make_directory(&self, root: u32, path: Option<&RelPath>) -> Result<Dir> {
        walk(self.root(root)?, path, |dir, name| match dir.stat(name)? {
            Some(_) => dir.open_dir(name),
            None => dir.create_dir(name),
        })
    }

    fn open(&self, index: usize, entry: &Entry, parent: &Dir) -> Result<Arc<File>> {
        // Made under the lock: of two threads that have pieces of one file, one makes it and both write it.
        let mut state = self.state();
        if let Some(file) = state.open.get(&index) {
            return Ok(Arc::clone(file));
        }
        let name = entry.path.file_name();
        let file = match state.left.get(&index) {
            Some(_) => parent.reopen_file(name)?,
            None => parent.create_file(name)?,
        };
        state.left.entry(index).or_insert(entry.size);
        if state.open.len() >= OPEN_FILES {
            let other = state.open.keys().next().copied();
            other.and_then(|other| state.open.remove(&other));
        }
        let file = Arc::new(file);
        state.open.insert(index, Arc::clone(&file));
        Ok(file)
    }

    fn is_last(&self, index: usize, bytes: u64) -> bool {
        let mut state = self.state();
        let left = state.left.get_mut(&index).map_or(0, |left| {
            *left = left.saturating_sub(bytes);
            *left
        });
        if left == 0 {
            state.left.remove(&index);
            state.open.remove(&index);
        }
        left == 0
    }

    fn finish_file(&self, entry: &Entry, file: &File, parent: &Dir) -> Result<()> {
        let path = parent.path().join(entry.path.file_name());
        if entry.sparse {
            file.set_len(entry.size).map_err(|cause| Error::io("set the size of", &path, cause))?;
        }
        self.give(entry, file, &path)
    }

    fn give(&self, like: &Entry, file: &File, path: &std::path::Path) -> Result<()> {
        if let Some((uid, gid)) = self.owners.of(like) {
            dir::set_owner(file, path, uid, gid)?;
        }
        dir::set_mode(file, path, EntryKind::File.permissions(like.mode))?;
        dir::set_mtime(file, path, like.mtime, like.mtime_nsec)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes down from `root` along `path`, one component at a time.
fn walk(root: &Dir, path: Option<&RelPath>, step: impl Fn(&Dir, &std::ffi::OsStr) -> Result<Dir>) -> Result<Dir> {
    let mut here = root.try_clone()?;
    for name in path.into_iter().flat_map(|path| path.as_path().iter()) {
        here = step(&here, name)?;
    }
    Ok(here)
}

/// Writes `bytes`, which are part of a file that is all zeroes, without those blocks that are zeroes.
fn write_with_holes(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    // A piece may begin anywhere in the file, a hole only at a multiple of its unit.
    let first = (HOLE - (offset % HOLE as u64) as usize) % HOLE;
    let (head, rest) = bytes.split_at(first.min(bytes.len()));
    let mut at = offset;
    for block in std::iter::once(head).chain(rest.chunks(HOLE)) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at)?;
        }
        at += block.len() as u64;
    }
    Ok(())
}
