//! What every manifest holds to, whoever wrote it.
//!
//! Everything that restores or verifies indexes by a manifest's numbers and joins its paths, so [`Manifest::parse`]
//! proves here, once:
//!
//! * no list is longer than a server's directories can make it;
//! * the first root is the datadir and the only one, names are unique, symlinked databases lie on no entry's way;
//! * the root that an entry, a referrer or an excluded path names exists, no referrer is in the archive's own directory;
//! * an entry's `(root, path)` is unique, nothing lies below a file, the archive's own directory is not
//!   the datadir's, a directory has no contents;
//! * what vanished is no entry, nor above one;
//! * the frames follow each other from 0, none is larger than a frame can be, tar blocks do not straddle them;
//! * the pieces of a file lie inside their frames, are one run of the tar stream and as long as the file, and no two
//!   files share a byte.

use std::collections::{HashMap, HashSet};

use super::codec::{FRAME_BYTES, STORED_BYTES_MAX};
use super::layout::BLOCK;
use super::manifest::{
    ENTRIES_MAX, EXCLUDED_MAX, Entry, EntryKind, Frame, Manifest, OWN_DIRECTORY, PIECES_MAX, Piece, REFERRERS_MAX,
    ROOTS_MAX, RootKind, VANISHED, WARNINGS_MAX,
};
use crate::error::{Class, Error, Result};
use crate::relpath::RelPath;

/// The longest name of an owner or a group.
const OWNER_BYTES_MAX: usize = 256;

impl Manifest {
    /// Proves what the head of this file promises.
    pub(super) fn check(&self) -> Result<()> {
        Counts::of(self).check()?;
        check_roots(self)?;
        check_entries(self)?;
        check_links(self)?;
        for excluded in &self.excluded {
            self.root(excluded.root)?;
        }
        check_vanished(self)?;
        for referrer in self.roots.iter().flat_map(|root| &root.referrers) {
            self.root(referrer.root)?;
            let foreign = referrer.root != 0 || !is_own(&referrer.path);
            require(foreign, || format!("{} is in the archive's own directory", referrer.path))?;
        }
        if let Some(frames) = &self.frames {
            check_frames(frames)?;
        }
        check_pieces(self)
    }
}

fn bad(what: impl std::fmt::Display) -> Error {
    Error::new(Class::Damage, format!("the manifest is not valid: {what}"))
}

fn require(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(bad(what())) }
}

/// How long the lists of a manifest are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    roots: usize,
    entries: usize,
    referrers: usize,
    excluded: usize,
    pieces: usize,
    warnings: usize,
}

impl Counts {
    fn of(manifest: &Manifest) -> Self {
        Self {
            roots: manifest.roots.len(),
            entries: manifest.files.len(),
            referrers: manifest.roots.iter().map(|root| root.referrers.len()).sum(),
            excluded: manifest.excluded.len(),
            pieces: manifest.files.iter().map(|entry| entry.pieces.len()).sum(),
            warnings: manifest.warnings.len(),
        }
    }

    fn check(self) -> Result<()> {
        let limits = [
            (self.roots, ROOTS_MAX, "roots"),
            (self.entries, ENTRIES_MAX, "files"),
            (self.referrers, REFERRERS_MAX, "names of files elsewhere"),
            (self.excluded, EXCLUDED_MAX, "excluded paths"),
            (self.pieces, PIECES_MAX, "pieces"),
            (self.warnings, WARNINGS_MAX, "warnings"),
        ];
        let over = limits.iter().find(|(count, most, _)| count > most);
        over.map_or(Ok(()), |(count, most, what)| Err(bad(format!("it has {count} {what}, and may have {most}"))))
    }
}

fn check_roots(manifest: &Manifest) -> Result<()> {
    let first = manifest.roots.first().map(|root| root.kind);
    require(first == Some(RootKind::Datadir), || "the first root is not the datadir".to_owned())?;
    let mut names = HashSet::new();
    for (index, root) in manifest.roots.iter().enumerate() {
        let one_datadir = index == 0 || root.kind != RootKind::Datadir;
        require(one_datadir, || "there are two datadirs".to_owned())?;
        require(names.insert(&root.name), || format!("there are two roots {}", root.name))?;
        require(root.path.is_absolute(), || format!("the path of root {} is not absolute", root.name))?;
        require(index != 0 || root.link.is_none(), || "the datadir is a link in itself".to_owned())?;
    }
    Ok(())
}

fn check_entries(manifest: &Manifest) -> Result<()> {
    let mut kinds = HashMap::with_capacity(manifest.files.len());
    for entry in &manifest.files {
        manifest.root(entry.root)?;
        check_facts(entry)?;
        let twice = kinds.insert((entry.root, entry.path.as_bytes()), entry.kind).is_some();
        require(!twice, || format!("{} is there twice", entry.path))?;
        let foreign = entry.root != 0 || !is_own(&entry.path);
        require(foreign, || format!("{} is in the archive's own directory", entry.path))?;
    }
    for entry in &manifest.files {
        for above in ancestors(entry.path.as_bytes()) {
            let file = kinds.get(&(entry.root, above)) == Some(&EntryKind::File);
            require(!file, || format!("{} is below a file", entry.path))?;
        }
    }
    Ok(())
}

/// Who unpacks with tar removes what vanished: nothing of the backup may be among that.
fn check_vanished(manifest: &Manifest) -> Result<()> {
    let gone = manifest.excluded.iter().filter(|excluded| excluded.reason == VANISHED);
    let gone: HashSet<(u32, &[u8])> = gone.map(|excluded| (excluded.root, excluded.path.as_bytes())).collect();
    if gone.is_empty() {
        return Ok(());
    }
    for entry in &manifest.files {
        let path = entry.path.as_bytes();
        let named = ancestors(path).chain([path]).any(|above| gone.contains(&(entry.root, above)));
        require(!named, || format!("{} is there and has vanished", entry.path))?;
    }
    Ok(())
}

fn check_facts(entry: &Entry) -> Result<()> {
    let named = |what: &str| format!("{} has {what}", entry.path);
    require(entry.mode <= 0o7777, || named("a mode with a file type"))?;
    require(entry.mtime_nsec < 1_000_000_000, || named("more nanoseconds than a second"))?;
    require(entry.user.len().max(entry.group.len()) <= OWNER_BYTES_MAX, || named("an owner with too long a name"))?;
    let empty = entry.size == 0 && entry.pieces.is_empty();
    require(entry.kind == EntryKind::File || empty, || named("contents, but is a directory"))
}

/// A symlinked database is restored as a link in the datadir: no entry may be reached through it.
fn check_links(manifest: &Manifest) -> Result<()> {
    let links: Vec<&RelPath> = manifest.roots.iter().filter_map(|root| root.link.as_ref()).collect();
    let unique: HashSet<&[u8]> = links.iter().map(|link| link.as_bytes()).collect();
    require(unique.len() == links.len(), || "two roots are the same link".to_owned())?;
    let below = |path: &[u8]| unique.contains(path) || ancestors(path).any(|above| unique.contains(above));
    for link in &links {
        let apart = !is_own(link) && !ancestors(link.as_bytes()).any(|above| unique.contains(above));
        require(apart, || format!("the link {link} is below another"))?;
    }
    if links.is_empty() {
        return Ok(());
    }
    let mut files = HashSet::new();
    for entry in manifest.files.iter().filter(|entry| entry.root == 0) {
        require(!below(entry.path.as_bytes()), || format!("{} is reached through a link", entry.path))?;
        if entry.kind == EntryKind::File {
            files.insert(entry.path.as_bytes());
        }
    }
    let blocked = links.iter().find(|link| ancestors(link.as_bytes()).any(|above| files.contains(above)));
    blocked.map_or(Ok(()), |link| Err(bad(format!("the link {link} is below a file"))))
}

fn check_frames(frames: &[Frame]) -> Result<()> {
    require(u32::try_from(frames.len()).is_ok(), || "there are too many frames".to_owned())?;
    let mut end = 0u64;
    for (index, frame) in frames.iter().enumerate() {
        require(frame.offset == end, || format!("frame {index} does not follow the one before it"))?;
        let (raw, stored) = (frame.raw as usize, frame.stored as usize);
        let sane = (1..=FRAME_BYTES).contains(&raw) && raw.is_multiple_of(BLOCK);
        require(sane && (1..=STORED_BYTES_MAX).contains(&stored), || format!("frame {index} has an impossible size"))?;
        end = end.checked_add(stored as u64).ok_or_else(|| bad("the archive is too long"))?;
    }
    Ok(())
}

fn check_pieces(manifest: &Manifest) -> Result<()> {
    let frames = manifest.frames.as_deref();
    let mut all: Vec<(u32, u32, u32)> = Vec::new();
    for entry in &manifest.files {
        let mut before: Option<&Piece> = None;
        let mut size = 0u64;
        for piece in &entry.pieces {
            let raw = match frames {
                Some(frames) => frames.get(piece.frame as usize).map(|frame| frame.raw),
                None => Some(FRAME_BYTES as u32),
            };
            let raw =
                raw.ok_or_else(|| bad(format!("{} is in frame {}, which is not there", entry.path, piece.frame)))?;
            let end = piece.at.checked_add(piece.len).filter(|end| piece.len > 0 && *end <= raw);
            require(end.is_some(), || format!("a piece of {} is not inside its frame", entry.path))?;
            if let Some(before) = before {
                let to_the_end = frames.is_none_or(|frames| follows(before, piece, frames));
                require(to_the_end, || format!("the pieces of {} do not follow each other", entry.path))?;
            }
            size += u64::from(piece.len);
            before = Some(piece);
            all.push((piece.frame, piece.at, piece.len));
        }
        require(size == entry.size, || format!("the pieces of {} are not as long as the file", entry.path))?;
    }
    all.sort_unstable();
    let overlap = all.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].1 + pair[0].2 > pair[1].1);
    require(!overlap, || "two pieces overlap".to_owned())
}

/// Whether `piece` goes on where `before` ends: at the beginning of the next frame.
fn follows(before: &Piece, piece: &Piece, frames: &[Frame]) -> bool {
    let to_the_end = frames.get(before.frame as usize).is_some_and(|frame| before.at + before.len == frame.raw);
    to_the_end && before.frame.checked_add(1) == Some(piece.frame) && piece.at == 0
}

/// Whether a path of the datadir is in the directory that the archive uses itself.
pub(super) fn is_own(path: &RelPath) -> bool {
    path.as_bytes().split(|byte| *byte == b'/').next() == Some(OWN_DIRECTORY.as_bytes())
}

/// The paths of the directories above `path`, nearest the root first.
pub(super) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_may_be_as_long_as_its_limit_and_no_longer() {
        let most = Counts {
            roots: ROOTS_MAX,
            entries: ENTRIES_MAX,
            referrers: REFERRERS_MAX,
            excluded: EXCLUDED_MAX,
            pieces: PIECES_MAX,
            warnings: WARNINGS_MAX,
        };
        most.check().unwrap();
        let over = [
            Counts { roots: most.roots + 1, ..most },
            Counts { entries: most.entries + 1, ..most },
            Counts { referrers: most.referrers + 1, ..most },
            Counts { excluded: most.excluded + 1, ..most },
            Counts { pieces: most.pieces + 1, ..most },
            Counts { warnings: most.warnings + 1, ..most },
        ];
        for counts in over {
            assert_eq!(counts.check().unwrap_err().class(), Class::Damage, "{counts:?}");
        }
    }
}
