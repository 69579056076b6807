//! Copies that are members of the archive, and what stands in it besides the server's files.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use crate::archive::encode::{Encoder, EntryId, Meta};
use crate::archive::manifest::{EntryKind, FileClass};
use crate::datadir::inventory::{Found, Inventory, Key};
use crate::datadir::survey::Datadir;
use crate::error::{Class, Error, Result};
use crate::gtid::Gtid;
use crate::relpath::RelPath;
use crate::source::settle::Settled;
use crate::wsrep::grastate;

/// Copies that are members of an archive.
pub(super) struct Members<'a, W: Write + Send + 'static> {
    datadir: &'a Datadir,
    encoder: &'a mut Encoder<W>,
    entries: HashMap<Key, EntryId>,
    keys: HashMap<EntryId, Key>,
}

impl<'a, W: Write + Send + 'static> Members<'a, W> {
    /// No copies yet.
    pub(super) fn new(datadir: &'a Datadir, encoder: &'a mut Encoder<W>) -> Self {
        Self { datadir, encoder, entries: HashMap::new(), keys: HashMap::new() }
    }

    /// Begins to copy a file: as many bytes as its fingerprint says of `file`, from `offset`.
    pub(super) fn add(&mut self, found: &Found, file: Arc<File>, offset: u64) -> Result<()> {
        let entry = self.encoder.add_file(self.meta(found)?, file, offset)?;
        self.note(found, entry);
        Ok(())
    }

    /// Adds a directory.
    pub(super) fn add_directory(&mut self, found: &Found) -> Result<()> {
        let entry = self.encoder.add_directory(self.meta(found)?)?;
        self.note(found, entry);
        Ok(())
    }

    fn note(&mut self, found: &Found, entry: EntryId) {
        if let Some(outdated) = self.entries.insert(found.key(), entry) {
            self.keys.remove(&outdated);
        }
        self.keys.insert(entry, found.key());
    }

    /// Forgets the copy of a file, if there is one.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.keys.remove(&entry);
            self.encoder.forget(entry);
        }
    }

    /// Waits until all is read, compressed and written.
    pub(super) fn rest(&mut self) -> Result<()> {
        self.encoder.rest()
    }

    /// Waits until all is read; the files that were shorter than announced.
    pub(super) fn barrier(&mut self) -> Result<Vec<Key>> {
        let short = self.encoder.barrier()?;
        Ok(short.iter().filter_map(|entry| self.keys.get(entry).cloned()).collect())
    }

    /// Adds the files that the backup makes itself; returns what the operator should know about all of them.
    pub(super) fn finish(self, settled: &Settled, gtid: Gtid) -> Result<Vec<String>> {
        let inventory = &settled.inventory;
        for made in &inventory.generated {
            let meta = self.meta(&made.found)?;
            self.encoder.add_bytes(meta, &made.bytes)?;
        }
        let grastate = grastate::render(gtid, false);
        let meta = Meta { size: grastate.len() as u64, ..self.grastate_meta(inventory)? };
        self.encoder.add_bytes(meta, grastate.as_bytes())?;
        let mut warnings = inventory.warnings.clone();
        // An empty log table is one that the server does not write.
        let written = inventory.files.iter().filter(|found| {
            found.class == FileClass::LogTable && found.path.as_bytes().ends_with(b".CSV") && found.print.size > 0
        });
        warnings.extend(written.map(|found| {
            format!("{} is written by the server inside the window: its last rows may be cut", found.path)
        }));
        Ok(warnings)
    }

    /// `grastate.dat` belongs to whoever owns the datadir's files, and nobody else may write it.
    fn grastate_meta(&self, inventory: &Inventory) -> Result<Meta> {
        let like = inventory.files.iter().find(|found| found.root == 0 && found.class == FileClass::InnodbSystem);
        let like = like.or_else(|| inventory.files.iter().find(|found| found.kind == EntryKind::File));
        let like = like.ok_or_else(|| Error::new(Class::Refused, "there is no file in the datadir"))?;
        let path = RelPath::new("grastate.dat")?;
        Ok(Meta { root: 0, path, class: FileClass::Generated, mode: 0o660, sparse: false, ..self.meta(like)? })
    }

    fn meta(&self, found: &Found) -> Result<Meta> {
        Ok(Meta {
            root: found.root,
            root_name: self.datadir.root_name(found.root)?,
            path: found.path.clone(),
            class: found.class,
            size: found.bytes(),
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            user: found.user.to_string(),
            group: found.group.to_string(),
            mtime: found.print.mtime.sec,
            mtime_nsec: found.print.mtime.nsec,
            sparse: found.sparse,
        })
    }
}
