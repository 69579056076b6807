//! Proves that what `tar -x` would make of an archive is what its manifest says.
//!
//! The walk knows only what this format writes: regular files, directories, and extended headers with seven keys, in
//! whole blocks. Anything else is damage, so that no reader can understand the stream in another way: a member that is
//! no entry of the manifest has no name that passes, be it absolute, upwards, a link or a device. Memory is bounded by
//! the manifest, never by the stream.

use std::collections::HashMap;

use tar::{EntryType, Header};

use super::layout::{BLOCK, END_BYTES, padded};
use super::manifest::{Entry, EntryKind, Frame, INNER_MANIFEST, Manifest, OWN_DIRECTORY, REMOVED_LIST, VANISHED};
use super::tar_records::{Records, parse_records};

/// The longest extended header: a path, two owners and five numbers, with room to spare.
const RECORDS_BYTES_MAX: u64 = 64 << 10;

/// What a member's name means.
#[derive(Clone, Copy)]
enum Known {
    /// An entry of the manifest, now or before it was superseded.
    Entry(usize),
    /// A directory of the archive's own, or a member that the manifest lists as vanished.
    Passing,
    /// The list of vanished members.
    Removed,
    /// The copy of the manifest.
    Manifest,
}

/// The last member of an entry's name.
struct Seen {
    position: u64,
    size: u64,
    mode: u32,
    owners: (u64, u64, Vec<u8>, Vec<u8>),
    mtime: (i64, u32),
}

/// Where the walk is in the stream.
enum State {
    /// At a header.
    Header,
    /// In an extended header.
    Records { bytes: Vec<u8>, left: usize, padding: usize },
    /// In contents and padding that nobody needs here.
    Skip(u64),
    /// In the list of vanished members.
    Removed { left: usize, padding: usize },
    /// In the copy of the manifest.
    Manifest { left: usize, padding: usize },
    /// After the last member: these many zeroes were seen.
    End(u64),
}

/// A walk along the tar stream.
pub(super) struct TarWalk<'a> {
    manifest: &'a Manifest,
    known: HashMap<Vec<u8>, Known>,
    seen: Vec<Option<Seen>>,
    /// Where every frame begins in the tar stream, and where the last one ends.
    begins: &'a [u64],
    position: u64,
    records: Records,
    removed: Option<Vec<u8>>,
    removed_position: u64,
    inner: Option<Vec<u8>>,
    inner_position: u64,
    state: State,
}

/// What the walk found wrong.
pub(super) struct Fault {
    /// The file of the manifest that is wrong; none if it is the archive.
    pub(super) file: Option<usize>,
    /// Where in the tar stream.
    pub(super) position: u64,
    pub(super) what: String,
}

impl<'a> TarWalk<'a> {
    /// A walk from the beginning; `begins` is what [`begins`] finds.
    pub(super) fn new(manifest: &'a Manifest, begins: &'a [u64]) -> crate::Result<Self> {
        let mut known = HashMap::with_capacity(manifest.files.len());
        for name in [format!("{OWN_DIRECTORY}/"), format!("{OWN_DIRECTORY}/roots/")] {
            known.insert(name.into_bytes(), Known::Passing);
        }
        for root in manifest.roots.iter().skip(1) {
            known.insert(format!("{OWN_DIRECTORY}/roots/{}/", root.name).into_bytes(), Known::Passing);
        }
        known.insert(INNER_MANIFEST.as_bytes().to_vec(), Known::Manifest);
        known.insert(REMOVED_LIST.as_bytes().to_vec(), Known::Removed);
        for gone in manifest.excluded.iter().filter(|excluded| excluded.reason == VANISHED) {
            let name = super::manifest::member_path(gone.root, &manifest.root(gone.root)?.name, &gone.path);
            known.insert([&name[..], b"/"].concat(), Known::Passing);
            known.insert(name, Known::Passing);
        }
        for (index, entry) in manifest.files.iter().enumerate() {
            let mut name = manifest.member_path(entry)?;
            if entry.kind == EntryKind::Directory {
                name.push(b'/');
            }
            known.insert(name, Known::Entry(index));
        }
        let seen = std::iter::repeat_with(|| None).take(manifest.files.len()).collect();
        let (records, state) = (Records::default(), State::Header);
        Ok(Self {
            manifest,
            known,
            seen,
            begins,
            position: 0,
            records,
            removed: None,
            removed_position: 0,
            inner: None,
            inner_position: 0,
            state,
        })
    }

    /// Goes on along the next bytes, which are whole blocks; an error says why the walk cannot go on.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let position = self.position;
            let taken = self.step(bytes).map_err(|(file, what)| Fault { file, position, what })?;
            self.position += taken as u64;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, Wrong> {
        match &mut self.state {
            State::Header => {
                let block = bytes.first_chunk::<BLOCK>().ok_or_else(|| broken("a header is cut off"))?;
                self.header(block)?;
                Ok(BLOCK)
            }
            State::Skip(left) => {
                let taken = usize::try_from(*left).unwrap_or(bytes.len()).min(bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::Header;
                }
                Ok(taken)
            }
            State::Records { bytes: records, left, padding } => {
                let taken = collect(bytes, records, left);
                if *left == 0 {
                    self.records = parse_records(records).map_err(|what| (None, what))?;
                    self.state = skip(*padding as u64);
                }
                Ok(taken)
            }
            State::Removed { left, padding } => {
                let taken = collect(bytes, self.removed.get_or_insert_default(), left);
                if *left == 0 {
                    self.state = skip(*padding as u64);
                }
                Ok(taken)
            }
            State::Manifest { left, padding } => {
                let taken = collect(bytes, self.inner.get_or_insert_default(), left);
                if *left == 0 {
                    self.state = skip(*padding as u64);
                }
                Ok(taken)
            }
            State::End(zeroes) => {
                if bytes.iter().any(|byte| *byte != 0) {
                    return Err(broken("something follows the end of the tar stream"));
                }
                *zeroes += bytes.len() as u64;
                Ok(bytes.len())
            }
        }
    }

    fn header(&mut self, block: &[u8; BLOCK]) -> Result<(), Wrong> {
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::End(BLOCK as u64);
            return Ok(());
        }
        let header = Header::from_byte_slice(block);
        if header.as_ustar().is_none() || header.cksum().ok() != Some(checksum(block)) {
            return Err(broken("a tar header is damaged"));
        }
        let size = header.entry_size().map_err(|_| broken("a tar header has no size"))?;
        match header.entry_type() {
            EntryType::XHeader if size <= RECORDS_BYTES_MAX && self.records.is_empty() => {
                let (left, padding) = lengths(size)?;
                self.state = State::Records { bytes: Vec::new(), left, padding };
                Ok(())
            }
            EntryType::Regular => self.member(header, size, EntryKind::File),
            EntryType::Directory => self.member(header, size, EntryKind::Directory),
            _ => Err(broken("a tar member is neither file nor directory")),
        }
    }

    fn member(&mut self, header: &Header, size: u64, kind: EntryKind) -> Result<(), Wrong> {
        let records = std::mem::take(&mut self.records);
        let name = records.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = || crate::relpath::escape(&name);
        let size = records.size.unwrap_or(size);
        if self.inner.is_some() {
            return Err((None, format!("the member \"{}\" follows the manifest", shown())));
        }
        // Whoever follows the list removes what came later as well.
        if self.removed.is_some() && name != INNER_MANIFEST.as_bytes() {
            return Err((None, format!("the member \"{}\" follows the list of what vanished", shown())));
        }
        let room = self.begins.last().unwrap_or(&0).saturating_sub(self.position + BLOCK as u64);
        if size > room {
            return Err((None, format!("the member \"{}\" reaches beyond the end of the tar stream", shown())));
        }
        let is_directory = name.ends_with(b"/");
        if is_directory != (kind == EntryKind::Directory) || (is_directory && size != 0) {
            return Err((None, format!("the member \"{}\" is not what its name says", shown())));
        }
        match self.known.get(&name) {
            None => return Err((None, format!("the member \"{}\" is not in the manifest", shown()))),
            Some(Known::Passing) => self.state = skip(size.next_multiple_of(BLOCK as u64)),
            Some(Known::Removed) => {
                let (left, padding) = lengths(size)?;
                self.removed = Some(Vec::new());
                self.removed_position = self.position;
                self.state = State::Removed { left, padding };
            }
            Some(Known::Manifest) => {
                let (left, padding) = lengths(size)?;
                self.inner = Some(Vec::new());
                self.inner_position = self.position;
                self.state = State::Manifest { left, padding };
            }
            Some(Known::Entry(index)) => {
                let index = *index;
                let position = self.position + BLOCK as u64;
                let seen = seen(header, records, position, size).map_err(|what| (Some(index), what))?;
                if let Some(last) = self.seen.get_mut(index) {
                    *last = Some(seen);
                }
                self.state = skip(size.next_multiple_of(BLOCK as u64));
            }
        }
        Ok(())
    }

    /// What is wrong after the last byte of the stream.
    pub(super) fn finish(self) -> Vec<Fault> {
        let end = self.position;
        let archive = |position, what: &str| Fault { file: None, position, what: what.to_owned() };
        let mut faults = Vec::new();
        for (index, (entry, seen)) in self.manifest.files.iter().zip(&self.seen).enumerate() {
            let position = first_position(entry, self.begins);
            let what = match seen {
                None => Some("it is not in the tar stream"),
                Some(seen) => difference(entry, position, seen),
            };
            let position = position.or(seen.as_ref().map(|seen| seen.position)).unwrap_or(0);
            faults.extend(what.map(|what| Fault { file: Some(index), position, what: what.to_owned() }));
        }
        if let Some(what) = removed_fault(self.manifest, self.removed.as_deref()) {
            faults.push(archive(self.removed_position, what));
        }
        if let Some(what) = inner_fault(self.manifest, self.inner.as_deref()) {
            faults.push(archive(self.inner_position, what));
        }
        if !matches!(self.state, State::End(zeroes) if zeroes >= END_BYTES as u64) {
            faults.push(archive(end, "the tar stream does not end properly"));
        }
        faults
    }
}

/// Where every frame begins in the tar stream, and where the last one ends.
pub(super) fn begins(frames: &[Frame]) -> Vec<u64> {
    let ends = frames.iter().scan(0, |end, frame| {
        *end += u64::from(frame.raw);
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Where in the tar stream the contents of an entry begin, if it has any.
fn first_position(entry: &Entry, begins: &[u64]) -> Option<u64> {
    let piece = entry.pieces.first()?;
    begins.get(piece.frame as usize).map(|begin| begin + u64::from(piece.at))
}

/// What is wrong at the walk's position: with a file of the manifest, or with the archive.
type Wrong = (Option<usize>, String);

/// What the last member of an entry's name and the entry disagree about.
fn difference(entry: &Entry, position: Option<u64>, seen: &Seen) -> Option<&'static str> {
    let (uid, gid, user, group) = &seen.owners;
    let owners = (*uid, *gid, &user[..], &group[..]);
    if seen.size != entry.size {
        Some("its size in the tar stream is not the manifest's")
    } else if position.is_some_and(|position| position != seen.position) {
        Some("its place in the tar stream is not the manifest's")
    } else if seen.mode != entry.mode {
        Some("its mode in the tar stream is not the manifest's")
    } else if owners != (entry.uid.into(), entry.gid.into(), entry.user.as_bytes(), entry.group.as_bytes()) {
        Some("its owner in the tar stream is not the manifest's")
    } else if seen.mtime != (entry.mtime, entry.mtime_nsec) {
        Some("its time in the tar stream is not the manifest's")
    } else {
        None
    }
}

/// What is wrong with the list of what vanished: it is in the archive exactly if anything did, and names exactly that.
fn removed_fault(manifest: &Manifest, list: Option<&[u8]>) -> Option<&'static str> {
    let expected = manifest.removed_list().unwrap_or_default();
    match list {
        None if expected.is_empty() => None,
        None => Some("the list of what vanished is missing"),
        Some(list) if !expected.is_empty() && list == expected => None,
        Some(_) => Some("the list of what vanished is not what the manifest says"),
    }
}

/// What is wrong with the copy of the manifest inside the archive.
fn inner_fault(manifest: &Manifest, inner: Option<&[u8]>) -> Option<&'static str> {
    let Some(json) = inner else { return Some("the archive does not end with its manifest") };
    match Manifest::parse(json) {
        Ok(inner) if inner.frames.is_none() => {
            let inner = Manifest { frames: manifest.frames.clone(), ..inner };
            (inner != *manifest).then_some("the manifest inside the archive is not the one beside it")
        }
        _ => Some("the manifest inside the archive is damaged"),
    }
}

fn seen(header: &Header, records: Records, position: u64, size: u64) -> Result<Seen, String> {
    let unreadable = |_| "its tar header is damaged".to_owned();
    let name = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
    let seconds = i64::try_from(header.mtime().map_err(unreadable)?);
    Ok(Seen {
        position,
        size,
        mode: header.mode().map_err(unreadable)?,
        owners: (
            records.uid.map_or_else(|| header.uid(), Ok).map_err(unreadable)?,
            records.gid.map_or_else(|| header.gid(), Ok).map_err(unreadable)?,
            records.user.unwrap_or_else(|| name(header.username_bytes())),
            records.group.unwrap_or_else(|| name(header.groupname_bytes())),
        ),
        mtime: records.mtime.unwrap_or((seconds.map_err(|_| "its time is out of range".to_owned())?, 0)),
    })
}

fn broken(what: &str) -> Wrong {
    (None, what.to_owned())
}

fn skip(bytes: u64) -> State {
    if bytes == 0 { State::Header } else { State::Skip(bytes) }
}

/// The length of contents that are kept, and of their padding.
fn lengths(size: u64) -> Result<(usize, usize), Wrong> {
    let sane = size > 0 && size <= super::json::MANIFEST_BYTES_MAX;
    let size =
        usize::try_from(size).ok().filter(|_| sane).ok_or_else(|| broken("a tar member has an impossible size"))?;
    Ok((size, padded(size) - size))
}

/// Moves up to `left` bytes; how many it took.
fn collect(from: &[u8], to: &mut Vec<u8>, left: &mut usize) -> usize {
    let taken = from.len().min(*left);
    to.extend_from_slice(&from[..taken]);
    *left -= taken;
    taken
}

/// The sum of a header's bytes, its own field taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let field = 148..156;
    let byte = |(at, byte): (usize, &u8)| if field.contains(&at) { u32::from(b' ') } else { u32::from(*byte) };
    block.iter().enumerate().map(byte).sum()
}
