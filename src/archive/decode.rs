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
    let frames = manifest.frames()?;
    let jobs = jobs(&pieces, frames, source.batch_bytes());
    let workers = workers.get().max(source.at_once());
    let restorer = Restorer {
        source,
        manifest,
        frames,
        sink,
        cancel,
        progress,
        jobs: &jobs,
        shares: Shares::new(jobs.len(), workers),
        failed: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        let restorer = &restorer;
        for worker in 1..workers.min(jobs.len()) {
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

/// The pieces in jobs that need one read each: those of one frame, or of neighbours that are stored in up to `batch` bytes.
fn jobs<'a>(pieces: &'a [Wanted], frames: &[Frame], batch: usize) -> Vec<&'a [Wanted]> {
    let stored = |wanted: &Wanted| frames.get(wanted.piece.frame as usize).map_or(0, |frame| frame.stored as usize);
    let mut bytes = pieces.first().map_or(0, stored);
    let together = |one: &Wanted, next: &Wanted| {
        if one.piece.frame == next.piece.frame {
            return true;
        }
        let neighbours = one.piece.frame.checked_add(1) == Some(next.piece.frame);
        bytes += stored(next);
        let fits = neighbours && bytes <= batch.min(STORED_BYTES_MAX);
        if !fits {
            bytes = stored(next);
        }
        fits
    };
    pieces.chunk_by(together).collect()
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
            if let Err(error) = self.restore_job(&mut reader, job) {
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

    fn restore_job(&self, reader: &mut Option<FrameReader>, job: &[Wanted]) -> Result<()> {
        let (Some(first), Some(last)) = (job.first(), job.last()) else { return Ok(()) };
        let frames = self.frames.get(first.piece.frame as usize..=last.piece.frame as usize);
        let frames = frames.ok_or_else(|| Error::new(Class::Damage, "a piece is in a frame that is not there"))?;
        let reader = match reader {
            Some(reader) => reader,
            None => reader.insert(FrameReader::new(self.manifest.codec)?),
        };
        reader.fetch(self.source, frames).map_err(|fault| self.damaged(first, fault))?;
        let of_frames = job.chunk_by(|one, next| one.piece.frame == next.piece.frame);
        for (frame, pieces) in frames.iter().zip(of_frames) {
            self.restore_frame(reader, frame, pieces)?;
        }
        Ok(())
    }

    fn restore_frame(&self, reader: &mut FrameReader, frame: &Frame, pieces: &[Wanted]) -> Result<()> {
        let Some(first) = pieces.first() else { return Ok(()) };
        let raw = reader.raw(frame).map_err(|what| self.damaged(first, Fault::Damage(what)))?;
        self.progress.add_stored(frame.stored.into());
        for wanted in pieces {
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

const IMPOSSIBLE_SIZE: &str = "its frame has an impossible size";

/// Why a frame could not be had.
enum Fault {
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
struct FrameReader {
    decompressor: Decompressor,
    /// Frames as they are stored, and where in the archive the first begins.
    stored: Vec<u8>,
    from: u64,
    raw: Vec<u8>,
}

impl FrameReader {
    fn new(codec: Codec) -> Result<Self> {
        let decompressor = Decompressor::new(codec)
            .map_err(|cause| Error::new(Class::Io, "cannot set up the decompression").because(cause))?;
        let raw = if decompressor.is_none() { Vec::new() } else { vec![0; FRAME_BYTES] };
        Ok(Self { decompressor, stored: vec![0; STORED_BYTES_MAX], from: 0, raw })
    }

    /// Reads neighbouring frames by one request.
    fn fetch(&mut self, source: &dyn ReadAt, frames: &[Frame]) -> std::result::Result<(), Fault> {
        let Some(first) = frames.first() else { return Ok(()) };
        let bytes: u64 = frames.iter().map(|frame| u64::from(frame.stored)).sum();
        let end = first.offset.checked_add(bytes);
        if end.is_none_or(|end| end > source.len()) {
            return Err(Fault::Damage("the archive ends before it".to_owned()));
        }
        let stored = usize::try_from(bytes).ok().and_then(|bytes| self.stored.get_mut(..bytes));
        let stored = stored.ok_or_else(|| Fault::Damage(IMPOSSIBLE_SIZE.to_owned()))?;
        self.from = first.offset;
        source.read_exact_at(stored, first.offset).map_err(Fault::Read)
    }

    /// The raw bytes of a frame that was fetched.
    fn raw(&mut self, frame: &Frame) -> std::result::Result<&[u8], String> {
        let begin = frame.offset.checked_sub(self.from).and_then(|begin| usize::try_from(begin).ok());
        let stored = begin.and_then(|begin| self.stored.get(begin..)?.get(..frame.stored as usize));
        let stored = stored.ok_or(IMPOSSIBLE_SIZE)?;
        if self.decompressor.is_none() {
            return if frame.stored == frame.raw { Ok(stored) } else { Err(IMPOSSIBLE_SIZE.to_owned()) };
        }
        let raw = self.raw.get_mut(..frame.raw as usize).ok_or(IMPOSSIBLE_SIZE)?;
        self.decompressor.decompress(stored, raw)?;
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_job_is_one_read_of_at_most_a_batch_and_all_pieces_are_in_one(
            frames in prop::collection::vec((1..40u32, 0..3usize), 0..30),
            batch in 0..100usize,
        ) {
            let piece = |frame: usize| Piece { frame: frame as u32, at: 0, len: 1, sha256: Digest::of(b"") };
            let wanted = |frame: usize| Wanted { file: 0, offset: 0, piece: piece(frame) };
            let of_frame = |(frame, (_, pieces)): (usize, &(u32, usize))| vec![wanted(frame); *pieces];
            let pieces: Vec<Wanted> = frames.iter().enumerate().flat_map(of_frame).collect();
            let frames: Vec<Frame> = frames.iter().map(|(stored, _)| Frame { offset: 0, stored: *stored, raw: 1 }).collect();
            let jobs = jobs(&pieces, &frames, batch);
            let numbers = |job: &[Wanted]| job.iter().map(|wanted| wanted.piece.frame).collect::<Vec<_>>();
            let all: Vec<u32> = jobs.iter().flat_map(|job| numbers(job)).collect();
            prop_assert_eq!(all, numbers(&pieces));
            for job in &jobs {
                let (first, last) = (job[0].piece.frame as usize, job[job.len() - 1].piece.frame as usize);
                let bytes: u32 = frames[first..=last].iter().map(|frame| frame.stored).sum();
                prop_assert!(first == last || bytes as usize <= batch);
            }
            // Nothing that fits is read by two requests.
            for pair in jobs.windows(2) {
                let (one, next) = (pair[0][0].piece.frame as usize, pair[1][0].piece.frame as usize);
                let last = pair[0][pair[0].len() - 1].piece.frame as usize;
                let bytes: u32 = frames[one..=next].iter().map(|frame| frame.stored).sum();
                prop_assert!(next != last && (next > last + 1 || bytes as usize > batch));
            }
        }

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
