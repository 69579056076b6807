//! How the bytes of a run's files are held still: as clones where the file system can, else as members of the archive.
//!
//! A clone becomes a member after the window. What the clones of a file system cannot take is copied as a member; if that
//! shows only inside the window, in a later pass of settling, because reading it does not wait for writes as cloning does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;

use nix::errno::Errno;
use tracing::warn;

use super::members::Members;
use crate::archive::manifest::{EntryKind, RootName};
use crate::cancel::Cancel;
use crate::command::human;
use crate::datadir::inventory::{Found, Inventory, Key};
use crate::datadir::survey::Datadir;
use crate::error::Result;
use crate::gtid::Gtid;
use crate::source::clone::{Cloned, Clones, LARGEST_BLOCK, Range};
use crate::source::settle::{Copied, Held, Settled};

/// Copies of the files of one run.
pub(super) struct Copies<'a, W: Write + Send + 'static> {
    datadir: &'a Datadir,
    members: Members<'a, W>,
    clones: Clones,
    ranges: HashMap<Key, Range>,
    /// Files that cannot be cloned although others of their file system can.
    refused: HashSet<Key>,
    /// How many of them each root has, and why.
    why_refused: BTreeMap<RootName, (u64, Errno)>,
    again: Vec<Key>,
}

impl<'a, W: Write + Send + 'static> Copies<'a, W> {
    /// No copies yet.
    pub(super) fn new(datadir: &'a Datadir, members: Members<'a, W>, clones: Clones) -> Self {
        Self {
            datadir,
            members,
            clones,
            ranges: HashMap::new(),
            refused: HashSet::new(),
            why_refused: BTreeMap::new(),
            again: Vec::new(),
        }
    }

    /// Before the window: finds the files that cannot be cloned although others of their file system can, by cloning a
    /// block of each. They are copied like those of other file systems, before the window as well.
    pub(super) fn try_clones(&mut self, inventory: &Inventory, cancel: &Cancel) -> Result<()> {
        for found in &inventory.files {
            if found.kind != EntryKind::File || found.bytes() < LARGEST_BLOCK || !self.is_held_as_clone(found) {
                continue;
            }
            cancel.check()?;
            let Some(file) = self.datadir.open_if_there(found)? else { continue };
            if let Some(cause) = self.clones.refuses(found.print.dev, &file)? {
                self.refuse(found, cause)?;
            }
        }
        Ok(())
    }

    /// This file is copied, not cloned.
    fn refuse(&mut self, found: &Found, cause: Errno) -> Result<()> {
        let root = self.datadir.root_name(found.root)?;
        self.why_refused.entry(root).or_insert((0, cause)).0 += 1;
        self.refused.insert(found.key());
        Ok(())
    }

    /// After the window: makes every clone a member, adds the files that the backup makes itself, and waits until all is
    /// read; returns what the operator should know about all of them.
    pub(super) fn stream(mut self, settled: &Settled, gtid: Gtid) -> Result<Vec<String>> {
        for (root, (files, cause)) in &self.why_refused {
            let files = human::count(*files, "file");
            warn!("{files} of {root} could not be cloned, and had to be read: {}", cause.desc());
        }
        for found in &settled.inventory.files {
            if let Some(Range { file, offset }) = self.ranges.remove(&found.key()) {
                self.members.add(found, file, offset)?;
            }
        }
        self.members.finish(settled, gtid)
    }

    /// Whether this file is held as a clone, or would be.
    fn is_held_as_clone(&self, found: &Found) -> bool {
        self.clones.can(found.print.dev) && !self.refused.contains(&found.key())
    }

    fn clone(&mut self, found: &Found) -> Result<Copied> {
        let Some(file) = self.datadir.open_if_there(found)? else { return Ok(Copied::Vanished) };
        let key = found.key();
        match self.clones.hold(found.print.dev, &file, found.bytes())? {
            Cloned::Held(range) => {
                // It may have been another file before, on a file system that cannot clone.
                self.members.forget(&key);
                self.ranges.insert(key, range);
            }
            Cloned::Short => self.again.push(key),
            Cloned::Cannot(cause) => {
                self.refuse(found, cause)?;
                self.ranges.remove(&key);
                self.again.push(key);
            }
        }
        Ok(Copied::Begun)
    }
}

impl<W: Write + Send + 'static> Held for Copies<'_, W> {
    fn copy(&mut self, found: &Found) -> Result<Copied> {
        if found.kind == EntryKind::File && self.is_held_as_clone(found) {
            return self.clone(found);
        }
        self.ranges.remove(&found.key());
        if found.kind == EntryKind::Directory {
            self.members.add_directory(found)?;
        } else {
            let Some(file) = self.datadir.open_if_there(found)? else { return Ok(Copied::Vanished) };
            self.members.add(found, Arc::new(file), 0)?;
        }
        Ok(Copied::Begun)
    }

    fn drop_copy(&mut self, key: &Key) -> Result<()> {
        self.ranges.remove(key);
        self.members.forget(key);
        Ok(())
    }

    fn barrier(&mut self) -> Result<Vec<Key>> {
        let mut again = std::mem::take(&mut self.again);
        again.extend(self.members.barrier()?);
        Ok(again)
    }

    fn rest(&mut self) -> Result<()> {
        self.members.rest()
    }

    fn is_cloned(&self, found: &Found) -> bool {
        self.is_held_as_clone(found)
    }

    fn waits_for_writes(&self, found: &Found) -> bool {
        self.is_held_as_clone(found) && self.clones.waits_for_writes(found.print.dev)
    }
}
