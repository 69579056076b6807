//! Writes an archive: members in, frames out.
//!
//! The order of members is the caller's. The contents of a file are read on worker threads while the caller goes on;
//! [`Encoder::barrier`] is where the caller learns that everything so far was read, which is what the proof of one
//! instant needs. An archive is whole only after [`Encoder::finish`]: dropping the encoder ends its threads and leaves
//! a stream without manifest and end, which no reader takes for a backup.
//!
//! A sink whose `write` blocks does not hold the caller for long: [`Encoder::finish`] hears [`Cancel`], and dropping the encoder
//! leaves a thread that will not end to the end of the process.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::check::is_own;
use super::codec::Codec;
use super::label::BackupId;
use super::manifest::{
    Entry, EntryKind, Excluded, FORMAT_VERSION, FileClass, INNER_MANIFEST, Manifest, OWN_DIRECTORY, REMOVED_LIST, Root,
    RootName, VANISHED, member_path,
};
use super::pace::Pace;
use super::pool::Written;
use super::progress::Progress;
use super::seal::{Recipients, Sealing};
use super::stream::{Contents, TarStream};
use super::tar_header::Member;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::error::{Class, Error, Result};
use crate::gtid::Gtid;
use crate::relpath::RelPath;

/// The number of a member that is no entry of the manifest: the archive's own directories, the manifest itself.
const NO_ENTRY: u32 = u32::MAX;

/// How to write an archive.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    /// The compression of every frame.
    pub codec: Codec,
    /// Threads that read and compress.
    pub workers: NonZeroUsize,
    /// Who can read it; if nobody is named it is not encrypted.
    pub recipients: Recipients,
}

/// What is known of a directory or file before its contents are read.
#[derive(Clone, Debug)]
pub struct Meta {
    /// The root's index in [`ManifestHead::roots`].
    pub root: u32,
    /// The root's name, which every entry of that root repeats.
    pub root_name: RootName,
    /// The path below the root.
    pub path: RelPath,
    /// What the file is for the server.
    pub class: FileClass,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Permission bits; a file type is left out.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name, empty if it has none.
    pub user: String,
    /// The group's name, empty if it has none.
    pub group: String,
    /// Modification time: seconds since 1970.
    pub mtime: i64,
    /// Modification time: nanoseconds within the second.
    pub mtime_nsec: u32,
    /// The file has holes.
    pub sparse: bool,
}

/// What a manifest says besides its files.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    /// The backup's id.
    pub id: BackupId,
    /// The exact position of the files.
    pub gtid: Gtid,
    /// The directories of the donor; the first is the datadir.
    pub roots: Vec<Root>,
    /// What was found and left out, with the reason.
    pub excluded: Vec<Excluded>,
    /// What the operator should know about this backup.
    pub warnings: Vec<String>,
}

/// One member of an archive that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(u32);

/// A whole archive.
pub struct Finished<W> {
    /// Where it was written; flushed, not synced.
    pub sink: W,
    /// What is in it, with the frame table.
    pub manifest: Manifest,
    /// Bytes of the archive as stored.
    pub stored_bytes: u64,
    /// Bytes of the tar stream.
    pub raw_bytes: u64,
    /// SHA-256 of the archive as stored.
    pub sha256: Digest,
}

/// A name that has been used in this archive.
struct Used {
    kind: EntryKind,
    /// The member that stands for it now; none once it is forgotten.
    entry: Option<EntryId>,
}

/// Writes an archive to `W`.
pub struct Encoder<W> {
    stream: TarStream<W>,
    codec: Codec,
    entries: Vec<Option<Entry>>,
    names: HashMap<(u32, RelPath), Used>,
    /// Names of roots whose directory stands in the archive.
    roots: HashMap<u32, RootName>,
    own_directory: bool,
    /// The directory that [`is_below_file`](Self::is_below_file) looked at last.
    clear: (u32, Vec<u8>),
    /// Entries whose file was too short and that have not been replaced yet.
    short: BTreeSet<EntryId>,
}

impl<W: Write + Send + 'static> Encoder<W> {
    /// Starts the threads; nothing is written yet.
    pub fn start(options: EncodeOptions, sink: W, cancel: Cancel, progress: Arc<Progress>) -> Result<Self> {
        let sealing = Sealing::to(&options.recipients)?;
        Ok(Self {
            stream: TarStream::start(options.codec, options.workers, sealing, sink, cancel, progress)?,
            codec: options.codec,
            entries: Vec::new(),
            names: HashMap::new(),
            roots: HashMap::new(),
            own_directory: false,
            clear: (0, Vec::new()),
            short: BTreeSet::new(),
        })
    }

    /// The pace at which the worker threads read, to be set at any time.
    pub fn pace(&self) -> Pace {
        self.stream.pace()
    }

    /// Adds a directory. Its size is taken as 0.
    pub fn add_directory(&mut self, meta: Meta) -> Result<EntryId> {
        let meta = Meta { size: 0, sparse: false, class: FileClass::Directory, ..meta };
        self.add(meta, EntryKind::Directory, &Contents::Bytes(&[]))
    }

    /// Adds a file: `meta.size` bytes of `file` from `base`. They are read later, at the latest in
    /// [`barrier`](Self::barrier).
    ///
    /// An earlier member of the same root and path is superseded: the later one wins.
    pub fn add_file(&mut self, meta: Meta, file: Arc<File>, base: u64) -> Result<EntryId> {
        let path = meta.path.clone();
        self.add(meta, EntryKind::File, &Contents::File(&file, &path, base))
    }

    /// Adds a file that the backup itself makes; its size is that of `bytes`.
    pub fn add_bytes(&mut self, meta: Meta, bytes: &[u8]) -> Result<EntryId> {
        let meta = Meta { size: bytes.len() as u64, sparse: false, ..meta };
        self.add(meta, EntryKind::File, &Contents::Bytes(bytes))
    }

    /// Waits until every byte added so far has been read from its file.
    ///
    /// Returns the entries, since the last barrier, whose file ended before `meta.size`: the rest is zeroes in the
    /// archive, so that the stream stays valid, and the caller must [`forget`](Self::forget) or add them again.
    pub fn barrier(&mut self) -> Result<Vec<EntryId>> {
        let short: Vec<EntryId> = self.stream.barrier()?.into_iter().map(EntryId).collect();
        self.short.extend(&short);
        Ok(short)
    }

    /// Waits until everything added so far is read, compressed and written: what comes next waits for nothing then.
    pub fn rest(&mut self) -> Result<()> {
        self.stream.rest()
    }

    /// Takes a member out of the manifest. Unless its path is added again, the manifest lists it as excluded, with the
    /// reason [`VANISHED`], and so does [`REMOVED_LIST`].
    pub fn forget(&mut self, id: EntryId) {
        let entry = self.entries.get_mut(id.0 as usize).and_then(Option::take);
        let Some(Entry { root, path, .. }) = entry else { return };
        if let Some(used) = self.names.get_mut(&(root, path)) {
            used.entry = used.entry.filter(|current| *current != id);
        }
    }

    /// Writes the manifest and the end of the archive, and waits for the threads.
    pub fn finish(mut self, head: ManifestHead) -> Result<Finished<W>> {
        self.barrier_before_end()?;
        let mut manifest = self.manifest(head)?;
        self.write_own_members(&manifest)?;
        let Written { sink, frames, stored_bytes, raw_bytes, sha256 } = self.stream.finish()?;
        manifest.frames = Some(frames);
        manifest.check()?;
        Ok(Finished { sink, manifest, stored_bytes, raw_bytes, sha256 })
    }

    /// A barrier after which no short file may be left: its zeroes are no backup of it.
    fn barrier_before_end(&mut self) -> Result<()> {
        self.barrier()?;
        let entry = self.short.iter().find_map(|id| self.entries.get(id.0 as usize).and_then(Option::as_ref));
        entry.map_or(Ok(()), |entry| {
            Err(Error::new(Class::Unsettled, format!("\"{}\" became shorter while it was copied", entry.path)))
        })
    }

    fn add(&mut self, meta: Meta, kind: EntryKind, contents: &Contents<'_>) -> Result<EntryId> {
        self.stream.check()?;
        let id = self.admit(&meta, kind)?;
        self.directories_for(&meta)?;
        let mut name = member_path(meta.root, &meta.root_name, &meta.path);
        let directory = kind == EntryKind::Directory;
        if directory {
            name.push(b'/');
        }
        self.stream.put(&member(&meta, directory, &name), id.0, contents)?;
        self.entries.push(Some(entry(meta, kind)));
        Ok(id)
    }

    /// Gives a new member its id and makes it the one that stands for its name.
    fn admit(&mut self, meta: &Meta, kind: EntryKind) -> Result<EntryId> {
        if meta.root == 0 && is_own(&meta.path) {
            let text = format!("\"{}\" is in the directory that the archive uses itself", meta.path);
            return Err(Error::new(Class::Refused, text));
        }
        let id = u32::try_from(self.entries.len()).ok().filter(|id| *id < u32::MAX).map(EntryId);
        let id = id.ok_or_else(|| Error::new(Class::Refused, "there are too many files for one archive"))?;
        let below_file = self.is_below_file(meta);
        let used = self.names.entry((meta.root, meta.path.clone())).or_insert(Used { kind, entry: None });
        if used.kind != kind || below_file {
            let text = format!("\"{}\" changed between file and directory while it was copied", meta.path);
            return Err(Error::new(Class::Unsettled, text));
        }
        if let Some(before) = used.entry.replace(id)
            && let Some(superseded) = self.entries.get_mut(before.0 as usize)
        {
            *superseded = None;
        }
        Ok(id)
    }

    /// Whether a directory above is known as a file. Neighbours mostly share theirs: the answer "no" is kept.
    fn is_below_file(&mut self, meta: &Meta) -> bool {
        let parent = meta.path.as_bytes().iter().rposition(|byte| *byte == b'/');
        let parent = &meta.path.as_bytes()[..parent.unwrap_or(0)];
        if self.clear.0 == meta.root && self.clear.1 == parent {
            return false;
        }
        let mut above = std::iter::successors(meta.path.parent(), RelPath::parent);
        let is_file = |path| self.names.get(&(meta.root, path)).is_some_and(|used| used.kind == EntryKind::File);
        if above.any(is_file) {
            return true;
        }
        self.clear = (meta.root, parent.to_vec());
        false
    }

    /// Adds the archive's own directories that `meta` lies in: for root alone, since other tables lie below them.
    fn directories_for(&mut self, meta: &Meta) -> Result<()> {
        match self.roots.get(&meta.root) {
            Some(name) if *name == meta.root_name => return Ok(()),
            Some(name) => {
                let text = format!("root {} is called {name} and {}", meta.root, meta.root_name);
                return Err(Error::new(Class::Refused, text));
            }
            None => self.roots.insert(meta.root, meta.root_name.clone()),
        };
        if meta.root == 0 {
            return Ok(());
        }
        if !self.own_directory {
            self.put_own_directory(&format!("{OWN_DIRECTORY}/"), meta)?;
            self.put_own_directory(&format!("{OWN_DIRECTORY}/roots/"), meta)?;
            self.own_directory = true;
        }
        self.put_own_directory(&format!("{OWN_DIRECTORY}/roots/{}/", meta.root_name), meta)
    }

    fn put_own_directory(&mut self, name: &str, like: &Meta) -> Result<()> {
        let directory = Meta { size: 0, mode: 0o700, ..like.clone() };
        self.stream.put(&member(&directory, true, name.as_bytes()), NO_ENTRY, &Contents::Bytes(&[]))
    }

    /// The manifest without frame table.
    fn manifest(&mut self, head: ManifestHead) -> Result<Manifest> {
        for (entry, piece) in self.stream.take_pieces() {
            if let Some(Some(entry)) = self.entries.get_mut(entry as usize) {
                entry.pieces.push(piece);
            }
        }
        let known =
            |(index, name): (&u32, &RootName)| head.roots.get(*index as usize).is_some_and(|root| root.name == *name);
        if !self.roots.iter().all(known) {
            return Err(Error::new(Class::Refused, "a file of the archive is in a root that it does not have"));
        }
        let mut vanished: Vec<(u32, RelPath)> = Vec::new();
        vanished.extend(self.names.iter().filter(|(_, used)| used.entry.is_none()).map(|(name, _)| name.clone()));
        vanished.sort_unstable();
        let mut excluded = head.excluded;
        excluded.retain(|given| vanished.binary_search(&(given.root, given.path.clone())).is_err());
        let reason = || VANISHED.to_owned();
        excluded.extend(vanished.into_iter().map(|(root, path)| Excluded { root, path, reason: reason() }));
        Ok(Manifest {
            format_version: FORMAT_VERSION,
            id: head.id,
            gtid: head.gtid,
            codec: self.codec,
            roots: head.roots,
            files: std::mem::take(&mut self.entries).into_iter().flatten().collect(),
            excluded,
            warnings: head.warnings,
            frames: None,
        })
    }

    /// Writes the list of what vanished, if anything did, and the last member. They belong to whoever owns the first
    /// entry, and are as young as the youngest.
    fn write_own_members(&mut self, manifest: &Manifest) -> Result<()> {
        let removed = manifest.removed_list()?;
        let json = manifest.to_json()?;
        let youngest = manifest.files.iter().map(|entry| entry.mtime).max().unwrap_or(1).max(1);
        let first = manifest.files.first();
        let own = |name, directory, mode, size| Member {
            name,
            directory,
            size,
            mode,
            uid: first.map_or(0, |entry| entry.uid),
            gid: first.map_or(0, |entry| entry.gid),
            user: first.map_or("", |entry| &entry.user),
            group: first.map_or("", |entry| &entry.group),
            mtime: youngest,
            mtime_nsec: 0,
        };
        let directory = format!("{OWN_DIRECTORY}/");
        if !self.own_directory {
            self.stream.put(&own(directory.as_bytes(), true, 0o700, 0), NO_ENTRY, &Contents::Bytes(&[]))?;
        }
        if !removed.is_empty() {
            let member = own(REMOVED_LIST.as_bytes(), false, 0o600, removed.len() as u64);
            self.stream.put(&member, NO_ENTRY, &Contents::Bytes(&removed))?;
        }
        let member = own(INNER_MANIFEST.as_bytes(), false, 0o600, json.len() as u64);
        self.stream.put(&member, NO_ENTRY, &Contents::Bytes(&json))
    }
}

fn member<'a>(meta: &'a Meta, directory: bool, name: &'a [u8]) -> Member<'a> {
    Member {
        name,
        directory,
        size: meta.size,
        mode: meta.mode & 0o7777,
        uid: meta.uid,
        gid: meta.gid,
        user: &meta.user,
        group: &meta.group,
        mtime: meta.mtime,
        mtime_nsec: meta.mtime_nsec,
    }
}

fn entry(meta: Meta, kind: EntryKind) -> Entry {
    Entry {
        root: meta.root,
        path: meta.path,
        kind,
        class: meta.class,
        size: meta.size,
        mode: meta.mode & 0o7777,
        uid: meta.uid,
        gid: meta.gid,
        user: meta.user,
        group: meta.group,
        mtime: meta.mtime,
        mtime_nsec: meta.mtime_nsec,
        sparse: meta.sparse,
        pieces: Vec::new(),
    }
}
