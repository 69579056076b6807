//! Reads files back: only the frames that hold wanted bytes, on all workers, every piece proved before it is handed on.
//!
//! Nothing that the archive says about itself is believed: lengths come from the manifest, which was proved when it was
//! parsed, and a frame decompresses into a buffer of the length that the manifest gives.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use super::codec::{Codec, FRAME_BYTES, STORED_BYTES_MAX, WRITE_BYTES};
use super::compress::Decompressor;
use super::manifest::{Entry, Frame, Manifest, Piece};
use super::progress::Progress;
use super::read_at::ReadAt;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::error::{Class, Error, Result};

/// Takes the bytes of restored files, from many threads at once.
pub trait PieceSink: Sync {
    /// Takes proved bytes of the file with the index `file` in [`Manifest::files`], which begin at `offset` in it.
    ///
    /// Every byte of a wanted file comes exactly once, in any order, at most [`WRITE_BYTES`] at a time.
    fn write(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()>;
}

/// A piece that somebody wants, and where it lies in its file.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) piece: Piece,
}

/// Hands every byte of every file for which `wanted` holds to `sink`.
///
/// The first damage ends it: a [`Class::Damage`] error that names the file and the place in it.
pub fn restore(
    source: &dyn ReadAt,
    manifest: &Manifest,
    wanted: &dyn Fn(usize) -> bool,
    sink: &dyn PieceSink,
    workers: NonZeroUsize,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<()> {
    let pieces = pieces_by_frame(manifest, wanted);
    let jobs: Vec<&[Wanted]> = pieces.chunk_by(|one, next| one.piece.frame == next.piece.frame).collect();
    let restorer = Restorer {
        source,
        manifest,
        frames: manifest.frames()?,
        sink,
        cancel,
        progress,
        jobs: &jobs,
        shares: Shares::new(jobs.len(), workers.get()),
        failed: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        let restorer = &restorer;
        for worker in 1..workers.get().min(jobs.len()) {
            scope.spawn(move || restorer.work(worker));
        }
        restorer.work(0);
    });
    cancel.check()?;
    let failure = restorer.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), |(_, error)| Err(error))
}

/// The pieces of wanted files in the order of the archive.
pub(super) fn pieces_by_frame(manifest: &Manifest, wanted: &dyn Fn(usize) -> bool) -> Vec<Wanted> {
    let mut pieces = Vec::new();
    for (file, entry) in manifest.files.iter().enumerate().filter(|(file, _)| wanted(*file)) {
        let mut offset = 0;
        for piece in &entry.pieces {
            pieces.push(Wanted { file, offset, piece: *piece });
            offset += u64::from(piece.len);
        }
    }
    pieces.sort_unstable_by_key(|wanted| (wanted.piece.frame, wanted.piece.at));
    pieces
}

/// Who restores which frames: each worker a stretch of its own, in order, and then half of the longest one left.
///
/// Two workers in one file wait for each other, for a file is written under its inode's lock; far apart in the archive
/// they are mostly in different files.
struct Shares(Mutex<Vec<Range<usize>>>);

impl Shares {
    fn new(jobs: usize, workers: usize) -> Self {
        Self(Mutex::new((0..workers).map(|worker| jobs * worker / workers..jobs * (worker + 1) / workers).collect()))
    }

    fn next(&self, worker: usize) -> Option<usize> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = shares.get_mut(worker)?.next() {
            return Some(index);
        }
        let longest = shares.iter_mut().max_by_key(|share| share.len())?;
        let middle = longest.start + longest.len() / 2;
        let mut taken = middle..longest.end;
        longest.end = middle;
        let index = taken.next();
        *shares.get_mut(worker)? = taken;
        index
    }
}

struct Restorer<'a> {
    source: &'a dyn ReadAt,
    manifest: &'a Manifest,
    frames: &'a [Frame],
    sink: &'a dyn PieceSink,
    cancel: &'a Cancel,
    progress: &'a Progress,
    jobs: &'a [&'a [Wanted]],
    shares: Shares,
    failed: AtomicBool,
    /// Of several failures the one nearest the beginning of the archive, and its job.
    failure: Mutex<Option<(usize, Error)>>,
}

impl Restorer<'_> {
    fn work(&self, worker: usize) {
        let mut reader = None;
        while !self.failed.load(Ordering::Acquire) && !self.cancel.is_raised() {
            let Some(index) = self.shares.next(worker) else { return };
            let Some(job) = self.jobs.get(index) else { return };
            if let Err(error) = self.restore_frame(&mut reader, job) {
                self.fail(index, error);
            }
        }
    }

    fn fail(&self, index: usize, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(|(before, _)| index < *before) {
            *failure = Some((index, error));
        }
        self.failed.store(true, Ordering::Release);
    }

    fn restore_frame(&self, reader: &mut Option<FrameReader>, job: &[Wanted]) -> Result<()> {
        let Some(first) = job.first() else { return Ok(()) };
        let frame = self.frames.get(first.piece.frame as usize);
        let frame = frame.ok_or_else(|| Error::new(Class::Damage, "a piece is in a frame that is not there"))?;
        let reader = match reader {
            Some(reader) => reader,
            None => reader.insert(FrameReader::new(self.manifest.codec)?),
        };
        let raw = reader.read(self.source, frame).map_err(|fault| self.damaged(first, fault))?;
        self.progress.add_stored(frame.stored.into());
        for wanted in job {
            let bytes = proved(raw, &wanted.piece).map_err(|what| self.damaged(wanted, Fault::Damage(what)))?;
            let mut offset = wanted.offset;
            for part in bytes.chunks(WRITE_BYTES) {
                self.sink.write(wanted.file, offset, part)?;
                offset += part.len() as u64;
            }
            self.progress.add_raw(wanted.piece.len.into());
        }
        Ok(())
    }

    fn damaged(&self, wanted: &Wanted, fault: Fault) -> Error {
        match fault {
            Fault::Read(error) => error,
            Fault::Damage(what) => {
                let place = self.manifest.files.get(wanted.file).map_or_else(String::new, |entry| self.named(entry));
                let text = format!("{place} is damaged in the archive at byte {}: {what}", wanted.offset);
                Error::new(Class::Damage, text).hint("`verify` lists all damage of this backup")
            }
        }
    }

    fn named(&self, entry: &Entry) -> String {
        match self.manifest.root(entry.root) {
            Ok(root) if entry.root != 0 => format!("\"{}\" of root {}", entry.path, root.name),
            _ => format!("\"{}\"", entry.path),
        }
    }
}

/// Why a frame could not be had.
pub(super) enum Fault {
    /// The source could not be read; that need not be the archive's fault.
    Read(Error),
    /// The bytes are not what they were.
    Damage(String),
}

/// The bytes of `piece` in a frame's raw bytes, proved by their digest.
pub(super) fn proved<'a>(raw: &'a [u8], piece: &Piece) -> std::result::Result<&'a [u8], String> {
    let begin = piece.at as usize;
    let bytes = begin.checked_add(piece.len as usize).and_then(|end| raw.get(begin..end));
    let bytes = bytes.ok_or_else(|| "it lies outside its frame".to_owned())?;
    if Digest::of(bytes) == piece.sha256 { Ok(bytes) } else { Err("its SHA-256 is not the manifest's".to_owned()) }
}

/// Reads and decompresses frames, in buffers that are made once.
pub(super) struct FrameReader {
    decompressor: Decompressor,
    stored: Vec<u8>,
    raw: Vec<u8>,
}

impl FrameReader {
    pub(super) fn new(codec: Codec) -> Result<Self> {
        let decompressor = Decompressor::new(codec)
            .map_err(|cause| Error::new(Class::Io, "cannot set up the decompression").because(cause))?;
        let stored = if decompressor.is_none() { Vec::new() } else { vec![0; STORED_BYTES_MAX] };
        Ok(Self { decompressor, stored, raw: vec![0; FRAME_BYTES] })
    }

    /// The raw bytes of `frame`.
    pub(super) fn read(&mut self, source: &dyn ReadAt, frame: &Frame) -> std::result::Result<&[u8], Fault> {
        let end = frame.offset.checked_add(frame.stored.into());
        if end.is_none_or(|end| end > source.len()) {
            return Err(Fault::Damage("the archive ends before it".to_owned()));
        }
        let impossible = || Fault::Damage("its frame has an impossible size".to_owned());
        let raw = self.raw.get_mut(..frame.raw as usize).ok_or_else(impossible)?;
        if self.decompressor.is_none() {
            if frame.stored != frame.raw {
                return Err(impossible());
            }
            source.read_exact_at(raw, frame.offset).map_err(Fault::Read)?;
        } else {
            let stored = self.stored.get_mut(..frame.stored as usize).ok_or_else(impossible)?;
            source.read_exact_at(stored, frame.offset).map_err(Fault::Read)?;
            self.decompressor.decompress(stored, raw).map_err(Fault::Damage)?;
        }
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_job_is_done_once_whoever_asks(
            jobs in 0..60usize,
            workers in 1..6usize,
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let shares = Shares::new(jobs, workers);
            let mut done: Vec<usize> = order.iter().filter_map(|who| shares.next(who.index(workers))).collect();
            done.extend((0..workers).flat_map(|worker| std::iter::from_fn(|| shares.next(worker)).collect::<Vec<_>>()));
            done.sort_unstable();
            prop_assert_eq!(done, (0..jobs).collect::<Vec<_>>());
        }
    }
}
