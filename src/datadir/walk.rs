//! One walk over all roots, in order of names, so that the same directories give the same inventory.
//!
//! Links are not followed blindly: a link in the datadir to a directory is a root, a link to a file adds that file to the
//! root of its directory. Nothing is skipped but by a rule of [`super::classify`]; what cannot be copied is an error that
//! names it. A file that vanishes between being listed and being looked at is dropped.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, File, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::binlog::Selection;
use super::classify::{Verdict, classify};
use super::inventory::Found;
use super::layout::Layout;
use super::links::{self, Reference};
use super::owners::Owners;
use super::place::{Place, Roles};
use super::roots::Roots;
use crate::archive::manifest::{EntryKind, Excluded, FileClass, Referrer, ReferrerKind};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::error::{Class, Error, Result};
use crate::relpath::RelPath;
use crate::source::fingerprint::{Fingerprint, REDO_HEAD_BYTES};

/// The deepest directory: the server makes two levels.
const DEEPEST: usize = 64;

/// The most files and directories: about 600 MB of inventory.
const MOST_ENTRIES: usize = 2_000_000;

/// Fewer bytes on disk than this below the size: holes. Smaller differences come from how file systems round.
const HOLE_BYTES: u64 = 32 << 10;

/// What [`Verdict::Leave`] says about the caller's directories.
const CALLERS: &str = "holds backups or restored files, not the server's";

/// A walk under way.
pub(super) struct Walk<'a> {
    pub layout: &'a Layout,
    pub roots: &'a mut Roots,
    pub owners: &'a mut Owners,
    pub binlogs: Option<Arc<Selection>>,
    pub cancel: &'a Cancel,
    pub files: Vec<Found>,
    pub excluded: Vec<Excluded>,
    /// `.isl` files whose tablespaces do not exist.
    pub discarded: Vec<RelPath>,
    pub engines: BTreeSet<&'static str>,
    pub references: Vec<Reference>,
}

/// A directory that is being walked.
struct Here<'a> {
    root: u32,
    path: &'a Path,
    below: Option<&'a RelPath>,
    place: &'a Place,
}

impl Here<'_> {
    fn rel(&self, name: &OsStr) -> Result<RelPath> {
        match self.below {
            Some(below) => below.join(name),
            None => RelPath::new(name),
        }
    }

    fn full(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }
}

impl Walk<'_> {
    /// Walks all roots, those that it finds on the way included.
    pub(super) fn run(&mut self) -> Result<()> {
        self.roots.begin_survey();
        let mut index = 0;
        while let Some((path, walked)) = self.roots.to_walk(index) {
            if let Some(roles) = walked {
                let place = self.layout.look_up(&path, roles, self.binlogs.as_ref());
                self.note_owner(index, &path)?;
                self.directory(&Here { root: index, path: &path, below: None, place: &place })?;
            }
            index += 1;
        }
        self.add_linked_files()
    }

    fn note_owner(&mut self, index: u32, path: &Path) -> Result<()> {
        let metadata = path.metadata().map_err(|error| Error::io("look at", path, error))?;
        let owner = self.owners.of(&metadata);
        if let Some(root) = self.roots.get_mut(index) {
            root.owner = Some(owner);
        }
        Ok(())
    }

    fn directory(&mut self, here: &Here) -> Result<()> {
        if here.below.is_some_and(|below| below.depth() > DEEPEST) {
            return Err(refused(here.path, &format!("is deeper than {DEEPEST} directories")));
        }
        for (name, entry) in listed(here.path)? {
            self.cancel.check()?;
            match entry.metadata() {
                Ok(metadata) => self.entry(here, &name, &metadata)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("look at", here.full(&name), error)),
            }
            if self.files.len() + self.excluded.len() > MOST_ENTRIES {
                return Err(refused(&self.layout.datadir, &format!("holds more than {MOST_ENTRIES} files")));
            }
        }
        Ok(())
    }

    fn entry(&mut self, here: &Here, name: &OsStr, metadata: &Metadata) -> Result<()> {
        let kind = metadata.file_type();
        if kind.is_symlink() {
            return self.link(here, name);
        }
        let entry_kind = if kind.is_dir() { EntryKind::Directory } else { EntryKind::File };
        match classify(here.place, name, entry_kind) {
            Verdict::NotOurs => Ok(()),
            Verdict::Leave(why) => self.leave(here, name, why),
            Verdict::Keep(..) if kind.is_dir() => self.subdirectory(here, name, metadata),
            Verdict::Keep(..) if kind.is_socket() => self.leave(here, name, "a socket"),
            Verdict::Keep(class, what) if kind.is_file() => self.file(here, name, metadata, class, what),
            Verdict::Keep(..) => Err(refused(&here.full(name), &format!("is {}", special(kind)))),
        }
    }

    fn leave(&mut self, here: &Here, name: &OsStr, why: &str) -> Result<()> {
        self.excluded.push(Excluded { root: here.root, path: here.rel(name)?, reason: why.to_owned() });
        Ok(())
    }

    fn subdirectory(&mut self, here: &Here, name: &OsStr, metadata: &Metadata) -> Result<()> {
        let path = here.full(name);
        if self.layout.left_out.contains(&path) {
            return self.leave(here, name, CALLERS);
        }
        if self.roots.at(&path).is_some() {
            // A root of its own, inside another one.
            return Ok(());
        }
        let below = here.rel(name)?;
        let place = self.layout.look_up(&path, here.place.roles_below(name), self.binlogs.as_ref());
        let before = self.files.len();
        let found = self.found(here.root, below.clone(), metadata, EntryKind::Directory, FileClass::Directory);
        self.files.push(found);
        self.directory(&Here { root: here.root, path: &path, below: Some(&below), place: &place })?;
        if !here.place.roles.any_of(Roles::WHOLE) && self.files.len() == before + 1 {
            self.files.truncate(before);
        }
        Ok(())
    }

    fn file(
        &mut self,
        here: &Here,
        name: &OsStr,
        metadata: &Metadata,
        class: FileClass,
        what: &'static str,
    ) -> Result<()> {
        let path = here.rel(name)?;
        if class == FileClass::Unfrozen {
            self.engines.insert(what);
        }
        let is_link_file = here.place.roles.any_of(Roles::DATABASE) && name.as_bytes().ends_with(b".isl");
        if is_link_file {
            let reference = links::read_isl(&self.layout.datadir, here.root, &path, &here.full(name))?;
            if reference.is_none() {
                self.discarded.push(path.clone());
            }
            self.references.extend(reference);
        }
        let mut found = self.found(here.root, path, metadata, EntryKind::File, class);
        if class == FileClass::Redo {
            let Some(head) = head(&here.full(name))? else { return Ok(()) };
            found.print.head = Some(head);
        }
        self.files.push(found);
        Ok(())
    }

    fn found(&mut self, root: u32, path: RelPath, metadata: &Metadata, kind: EntryKind, class: FileClass) -> Found {
        let (user, group) = self.owners.names(metadata);
        Found {
            root,
            path,
            kind,
            class,
            print: Fingerprint::of(metadata),
            mode: kind.permissions(metadata.mode()),
            uid: metadata.uid(),
            gid: metadata.gid(),
            user,
            group,
            sparse: kind == EntryKind::File
                && metadata.blocks().saturating_mul(512).saturating_add(HOLE_BYTES) <= metadata.size(),
        }
    }

    /// A symbolic link: what it leads to decides.
    fn link(&mut self, here: &Here, name: &OsStr) -> Result<()> {
        let path = here.full(name);
        let target = path.metadata().and_then(|metadata| Ok((metadata, path.canonicalize()?)));
        let directory = target.as_ref().is_ok_and(|(metadata, _)| metadata.is_dir());
        let kind = if directory { EntryKind::Directory } else { EntryKind::File };
        let class = match classify(here.place, name, kind) {
            Verdict::NotOurs => return Ok(()),
            Verdict::Leave(why) => return self.leave(here, name, why),
            Verdict::Keep(class, _) => class,
        };
        match target {
            Ok((_, target)) if directory => self.link_to_directory(here, name, &target),
            Ok((metadata, target)) if metadata.is_file() => {
                let path = here.rel(name)?;
                self.references.push(Reference { root: here.root, path, kind: ReferrerKind::Symlink, target, class });
                Ok(())
            }
            Ok((metadata, _)) if metadata.file_type().is_socket() => self.leave(here, name, "a socket"),
            Ok((metadata, _)) => Err(refused(&path, &format!("is a link to {}", special(metadata.file_type())))),
            Err(_) if path.symlink_metadata().is_err() => Ok(()),
            Err(error) => Err(refused(&path, "is a link that leads nowhere").because(error)),
        }
    }

    fn link_to_directory(&mut self, here: &Here, name: &OsStr, target: &Path) -> Result<()> {
        if self.layout.left_out.contains(target) {
            return self.leave(here, name, CALLERS);
        }
        let link = here.rel(name)?;
        let datadir = &self.layout.datadir;
        if here.root != 0 || here.below.is_some() {
            return Err(refused(&here.full(name), "is a link to a directory inside a database"));
        }
        if datadir.starts_with(target) {
            return Err(refused(&here.full(name), "is a link to the datadir or to a directory that holds it"));
        }
        if let Ok(inside) = target.strip_prefix(datadir) {
            let target = RelPath::new(inside)?;
            self.roots.refer(0, Referrer { root: 0, path: link, kind: ReferrerKind::Symlink, target });
            return Ok(());
        }
        self.roots.link(link, target, here.place.roles_below(name))
    }

    /// Adds the files that links and `.isl` files point to, each to the root of its directory.
    fn add_linked_files(&mut self) -> Result<()> {
        let mut references = std::mem::take(&mut self.references);
        if references.is_empty() {
            return Ok(());
        }
        references
            .sort_by(|one, other| (&one.target, one.root, &one.path).cmp(&(&other.target, other.root, &other.path)));
        let mut listed: HashSet<(u32, RelPath)> = self.files.iter().map(Found::key).collect();
        for reference in references {
            let at = match self.roots.locate(&reference.target) {
                Some(at) if listed.contains(&at) => at,
                _ => {
                    let Some(at) = self.add_linked_file(&reference, &mut listed)? else { continue };
                    at
                }
            };
            let Reference { root, path, kind, .. } = reference;
            self.roots.refer(at.0, Referrer { root, path, kind, target: at.1 });
        }
        Ok(())
    }

    fn add_linked_file(
        &mut self,
        reference: &Reference,
        listed: &mut HashSet<(u32, RelPath)>,
    ) -> Result<Option<(u32, RelPath)>> {
        let Reference { target, class, .. } = reference;
        let metadata = match target.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("look at", target, error)),
        };
        let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else { return Ok(None) };
        if !metadata.is_file() || target.starts_with(&self.layout.datadir) {
            // Inside the datadir everything that belongs into the backup is listed already.
            return Err(self.refused_reference(reference));
        }
        let root = self.roots.tablespace(directory)?;
        self.note_owner(root, directory)?;
        let at = (root, RelPath::new(name)?);
        if listed.insert(at.clone()) {
            let mut found = self.found(root, at.1.clone(), &metadata, EntryKind::File, *class);
            if *class == FileClass::Redo {
                found.print.head = head(target)?;
            }
            self.files.push(found);
        }
        Ok(Some(at))
    }

    fn refused_reference(&self, Reference { root, path, kind, target, .. }: &Reference) -> Error {
        let path = self.roots.path(*root).unwrap_or(&self.layout.datadir).join(path.as_path());
        let (points, remedy) = match kind {
            ReferrerKind::Symlink => ("is a link to", "remove the link, or move it out of the server's directories"),
            ReferrerKind::Isl => ("names the tablespace", "move the tablespace to where the server keeps its tables"),
        };
        Error::new(Class::Refused, format!("{path:?} {points} {target:?}, which is left out of a backup")).hint(remedy)
    }
}

/// The entries of a directory by name.
fn listed(path: &Path) -> Result<Vec<(OsString, DirEntry)>> {
    let failed = |error| Error::io("list", path, error);
    let named = |entry: io::Result<DirEntry>| entry.map(|entry| (entry.file_name(), entry));
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries.take(MOST_ENTRIES + 1).map(named).collect::<io::Result<Vec<_>>>().map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries)
}

/// The digest of a redo log's beginning; `None` if it is gone.
fn head(path: &Path) -> Result<Option<Digest>> {
    let mut bytes = vec![0; REDO_HEAD_BYTES];
    let read = File::open(path).and_then(|file| {
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    });
    match read {
        Ok(filled) => Ok(Some(Digest::of(&bytes[..filled]))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

fn special(kind: FileType) -> &'static str {
    if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "neither a file nor a directory"
    }
}

fn refused(path: &Path, what: &str) -> Error {
    Error::new(Class::Refused, format!("{path:?} {what}"))
        .hint("a backup cannot hold this; remove it from the server's directories")
}
