//! The threads behind an [`Encoder`](super::encode::Encoder): workers that read, hash and compress, one writer.
//!
//! Frames travel in a fixed number of slots: free → laid out by the caller → read, hashed, compressed by a worker →
//! written in order → free. A slot keeps its buffers, so a running pool allocates nothing and touches no new page; the
//! slots bound the memory and the number of files held open. The first failure of any thread stops all of them, and the
//! caller's next step returns it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use sha2::{Digest as _, Sha256};

use super::codec::{Codec, FRAME_BYTES, WRITE_BYTES};
use super::compress::Compressor;
use super::guest::Before;
use super::manifest::{Frame, Piece};
use super::pace::Pace;
use super::progress::Progress;
use super::seal::{Kept, Sealing, Storing};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::error::{Class, Error, Result};
use crate::relpath::RelPath;

/// How often somebody who waits looks whether the run was stopped.
const LOOK: Duration = Duration::from_millis(20);

/// How often somebody who waits for all frames to be written looks.
const REST: Duration = Duration::from_millis(2);

/// How long a run that failed waits for its threads. One that a disk or a dead file server holds is left behind: it ends
/// with the process, and must not keep the process from telling the server what happened.
const PARTING: Duration = Duration::from_millis(200);

/// Bytes that are read and hashed at a time, so that hashing finds them in the nearest caches.
const READ_BYTES: usize = 256 << 10;

/// Where a worker reads a run.
pub(super) struct Origin {
    pub(super) file: Arc<File>,
    /// For messages.
    pub(super) path: RelPath,
    pub(super) offset: u64,
    /// What of the file was in the page cache before it was read.
    pub(super) before: Arc<Before>,
}

/// A run of a file's bytes in a slot.
pub(super) struct Run {
    pub(super) entry: u32,
    pub(super) at: usize,
    pub(super) len: usize,
    /// Where the worker reads it; `None` if the caller has put the bytes there.
    pub(super) from: Option<Origin>,
}

/// One frame on its way.
pub(super) struct Slot {
    sequence: u32,
    raw: Vec<u8>,
    /// How much of `raw` is laid out.
    pub(super) fill: usize,
    pub(super) runs: Vec<Run>,
    stored: Vec<u8>,
}

impl Slot {
    fn new() -> Self {
        Self { sequence: 0, raw: vec![0; FRAME_BYTES], fill: 0, runs: Vec::new(), stored: Vec::new() }
    }

    /// How many files the slot holds open; the clones of a file system are one.
    pub(super) fn open_files(&self) -> usize {
        let mut last: Option<&Arc<File>> = None;
        let files = self.runs.iter().filter_map(|run| run.from.as_ref()).map(|from| &from.file);
        files.filter(|file| last.replace(file).is_none_or(|last| !Arc::ptr_eq(last, file))).count()
    }

    /// The next `len` bytes of the frame, which hold whatever the slot held before.
    pub(super) fn extend(&mut self, len: usize) -> &mut [u8] {
        let begin = self.fill;
        self.fill += len;
        &mut self.raw[begin..self.fill]
    }
}

/// What the workers found out so far.
#[derive(Default)]
struct Found {
    frames_read: u64,
    pieces: Vec<(u32, Piece)>,
    short: BTreeSet<u32>,
    failure: Option<Error>,
}

struct Shared {
    cancel: Cancel,
    progress: Arc<Progress>,
    pace: Pace,
    stopped: AtomicBool,
    found: Mutex<Found>,
    changed: Condvar,
}

impl Shared {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Stops everything; the first failure is the one that is told.
    fn fail(&self, error: Error) {
        self.found().failure.get_or_insert(error);
        self.stop();
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire) || self.cancel.is_raised()
    }

    fn check(&self) -> Result<()> {
        self.cancel.check()?;
        if self.stopped.load(Ordering::Acquire) { Err(self.failure()) } else { Ok(()) }
    }

    /// Why the threads have ended: a stopped run ends them too, and is no failure of theirs.
    fn failure(&self) -> Error {
        let told = || Error::new(Class::Io, "the archive cannot be written any more");
        self.cancel.check().err().unwrap_or_else(|| self.found().failure.take().unwrap_or_else(told))
    }
}

/// Turns a panic of a thread into a failure, so that nobody waits for what it will not deliver.
struct Alarm<'a>(&'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::new(Class::Io, "a thread that writes the archive has panicked"));
        }
    }
}

/// What the writer has written.
pub(super) struct Written<W> {
    pub(super) sink: W,
    pub(super) frames: Vec<Frame>,
    pub(super) stored_bytes: u64,
    pub(super) raw_bytes: u64,
    pub(super) sha256: Digest,
}

/// The threads and the slots.
pub(super) struct Pool<W> {
    shared: Arc<Shared>,
    free: Receiver<Slot>,
    jobs: Option<Sender<Slot>>,
    writer: Option<JoinHandle<Option<Written<W>>>>,
    /// Every thread holds a sender: it is disconnected when all have ended.
    ended: Receiver<()>,
    submitted: u32,
    /// How many there are.
    slots: usize,
}

impl<W: Write + Send + 'static> Pool<W> {
    pub(super) fn start(
        codec: Codec,
        workers: NonZeroUsize,
        sealing: Sealing,
        sink: W,
        cancel: Cancel,
        progress: Arc<Progress>,
    ) -> Result<Self> {
        let (free_in, free) = unbounded();
        let (jobs, jobs_out) = unbounded();
        let (done_in, done) = unbounded();
        let (alive, ended) = bounded(0);
        // One that is laid out, one that is written, one per worker, and some that wait for either.
        let slots = workers.get() + workers.get() / 2 + 2;
        for _ in 0..slots {
            let _ = free_in.send(Slot::new());
        }
        let shared = Arc::new(Shared {
            cancel,
            progress,
            pace: Pace::default(),
            stopped: AtomicBool::new(false),
            found: Mutex::default(),
            changed: Condvar::new(),
        });
        let shared_here = Arc::clone(&shared);
        let mut pool = Self { shared: shared_here, free, jobs: Some(jobs), writer: None, ended, submitted: 0, slots };
        for index in 0..workers.get() {
            let compressor = Compressor::new(codec)
                .map_err(|cause| Error::new(Class::Io, "cannot set up the compression").because(cause))?;
            let (shared, jobs, done) = (Arc::clone(&shared), jobs_out.clone(), done_in.clone());
            spawn(format!("pack-{index}"), &alive, move || work(compressor, &shared, &jobs, &done))?;
        }
        let write = move || {
            let _alarm = Alarm(&shared);
            let written = write(|| sealing.begin(sink), codec, &shared, &done, &free_in);
            let fail = |cause| shared.fail(Error::new(Class::Io, "cannot write the archive").because(cause));
            written.map_err(fail).ok().flatten()
        };
        pool.writer = Some(spawn("write".to_owned(), &alive, write)?);
        Ok(pool)
    }

    /// An error once anything has failed or the run was stopped.
    pub(super) fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// The pace of reading.
    pub(super) fn pace(&self) -> Pace {
        self.shared.pace.clone()
    }

    /// Waits until the caller itself may read `bytes`.
    pub(super) fn take_pace(&self, bytes: usize) -> Result<()> {
        self.shared.pace.take(bytes, &self.shared.cancel)
    }

    /// Stops everything without a failure of its own: the caller has told it.
    pub(super) fn abandon(&self) {
        self.shared.stop();
    }

    /// Waits for an empty slot.
    pub(super) fn take(&mut self) -> Result<Slot> {
        loop {
            self.shared.check()?;
            match self.free.recv_timeout(LOOK) {
                Ok(mut slot) => {
                    slot.fill = 0;
                    slot.sequence = self.submitted;
                    return Ok(slot);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.shared.failure()),
            }
        }
    }

    /// Hands a laid-out frame to the workers.
    pub(super) fn submit(&mut self, slot: Slot) -> Result<()> {
        self.submitted = self
            .submitted
            .checked_add(1)
            .ok_or_else(|| Error::new(Class::Refused, "there is more data than an archive has frames for"))?;
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(slot).is_ok());
        if sent { Ok(()) } else { Err(self.shared.failure()) }
    }

    /// Waits until the bytes of every submitted frame have been read; returns the entries that were too short.
    pub(super) fn wait_read(&mut self) -> Result<BTreeSet<u32>> {
        let mut found = self.shared.found();
        while found.frames_read < u64::from(self.submitted) {
            drop(found);
            self.shared.check()?;
            found = self.shared.found();
            if found.frames_read < u64::from(self.submitted) {
                found = self.shared.changed.wait_timeout(found, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        Ok(std::mem::take(&mut found.short))
    }

    /// Waits until every submitted frame is written.
    pub(super) fn rest(&self) -> Result<()> {
        while self.free.len() < self.slots {
            self.shared.check()?;
            // The slots come back on the channel that only this thread takes from.
            self.shared.cancel.sleep(REST)?;
        }
        Ok(())
    }

    /// The pieces of every frame that was read, in the order of the archive.
    pub(super) fn take_pieces(&mut self) -> Vec<(u32, Piece)> {
        let mut pieces = std::mem::take(&mut self.shared.found().pieces);
        pieces.sort_unstable_by_key(|(_, piece)| (piece.frame, piece.at));
        pieces
    }

    /// Waits until everything is written.
    pub(super) fn finish(mut self) -> Result<Written<W>> {
        self.jobs = None;
        while self.ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            self.shared.check()?;
        }
        // Nobody waits here any more; a thread's panic was reported by its alarm.
        let written = self.writer.take().and_then(|writer| writer.join().ok().flatten());
        self.shared.check()?;
        written
            .filter(|written| written.frames.len() as u64 == u64::from(self.submitted))
            .ok_or_else(|| self.shared.failure())
    }
}

impl<W> Drop for Pool<W> {
    /// Ends the threads: without new frames they run dry.
    fn drop(&mut self) {
        self.shared.stop();
        self.jobs = None;
        let _ = self.ended.recv_timeout(PARTING);
    }
}

fn spawn<T: Send + 'static>(
    name: String,
    alive: &Sender<()>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let cannot = |cause: io::Error| Error::new(Class::Io, "cannot start a thread").because(cause);
    let alive = alive.clone();
    let body = move || {
        let result = body();
        drop(alive);
        result
    };
    std::thread::Builder::new().name(name).spawn(body).map_err(cannot)
}

fn work(mut compressor: Compressor, shared: &Shared, jobs: &Receiver<Slot>, done: &Sender<Slot>) {
    let _alarm = Alarm(shared);
    for mut slot in jobs {
        if shared.is_stopped() {
            return;
        }
        if let Err(error) = read_runs(&mut slot, shared).and_then(|()| compress(&mut compressor, &mut slot)) {
            shared.fail(error);
            return;
        }
        if done.send(slot).is_err() {
            return;
        }
    }
}

fn compress(compressor: &mut Compressor, slot: &mut Slot) -> Result<()> {
    if compressor.is_none() {
        return Ok(());
    }
    compressor
        .compress(&slot.raw[..slot.fill], &mut slot.stored)
        .map_err(|cause| Error::new(Class::Io, "cannot compress a frame").because(cause))
}

/// Reads what is still to be read, hashes every run, and reports the frame as read.
fn read_runs(slot: &mut Slot, shared: &Shared) -> Result<()> {
    let frame = slot.sequence;
    let mut pieces = Vec::with_capacity(slot.runs.len());
    let mut short = Vec::new();
    let mut bytes = 0;
    for run in slot.runs.drain(..) {
        let raw = &mut slot.raw[run.at..run.at + run.len];
        let (sha256, whole) = match &run.from {
            None => (Digest::of(raw), true),
            Some(from) => read_hashed(from, raw, shared)?,
        };
        if !whole {
            short.push(run.entry);
        }
        pieces.push((run.entry, Piece { frame, at: run.at as u32, len: run.len as u32, sha256 }));
        bytes += run.len as u64;
    }
    shared.progress.add_raw(bytes);
    let mut found = shared.found();
    found.pieces.append(&mut pieces);
    found.short.extend(short);
    found.frames_read += 1;
    drop(found);
    shared.changed.notify_all();
    Ok(())
}

/// Fills `raw`, zeroes beyond the end of the file; the digest, and whether the file was long enough.
fn read_hashed(from: &Origin, raw: &mut [u8], shared: &Shared) -> Result<(Digest, bool)> {
    let mut hasher = Sha256::new();
    let mut whole = true;
    let mut at = from.offset;
    let length = raw.len();
    for part in raw.chunks_mut(READ_BYTES) {
        shared.pace.take(part.len(), &shared.cancel)?;
        whole = read_or_zero(&from.file, &from.path, at, part)? && whole;
        hasher.update(&part);
        at += part.len() as u64;
    }
    from.before.leave(&from.file, from.offset, length);
    Ok((Digest::finish(hasher), whole))
}

/// Fills `part` from the file, zeroes beyond its end; whether it did not come to that.
pub(super) fn read_or_zero(file: &File, path: &RelPath, offset: u64, part: &mut [u8]) -> Result<bool> {
    let mut done = 0;
    while done < part.len() {
        match file.read_at(&mut part[done..], offset + done as u64) {
            Ok(0) => {
                part[done..].fill(0);
                return Ok(false);
            }
            Ok(len) => done += len,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(Error::io("read", path.as_path(), cause)),
        }
    }
    Ok(true)
}

/// Writes the frames in order; nothing if the run was stopped.
fn write<W: Write>(
    begin: impl FnOnce() -> io::Result<Storing<W>>,
    codec: Codec,
    shared: &Shared,
    done: &Receiver<Slot>,
    free: &Sender<Slot>,
) -> io::Result<Option<Written<W>>> {
    let mut writer = Writer { storing: begin()?, frames: Vec::new(), packed_bytes: 0, raw_bytes: 0 };
    let mut early = BTreeMap::new();
    for slot in done {
        early.insert(slot.sequence, slot);
        while let Some(slot) = u32::try_from(writer.frames.len()).ok().and_then(|next| early.remove(&next)) {
            if shared.is_stopped() {
                return Ok(None);
            }
            writer.put(&slot, codec)?;
            shared.progress.add_stored(writer.frames.last().map_or(0, |frame| frame.stored.into()));
            // Nobody takes slots any more once the last frame is submitted.
            let _ = free.send(slot);
        }
    }
    if shared.is_stopped() {
        return Ok(None);
    }
    let Writer { storing, frames, raw_bytes, .. } = writer;
    let Kept { sink, bytes: stored_bytes, sha256 } = storing.finish()?;
    Ok(Some(Written { sink, frames, stored_bytes, raw_bytes, sha256 }))
}

struct Writer<W: Write> {
    storing: Storing<W>,
    frames: Vec<Frame>,
    /// Bytes of all frames so far.
    packed_bytes: u64,
    raw_bytes: u64,
}

impl<W: Write> Writer<W> {
    fn put(&mut self, slot: &Slot, codec: Codec) -> io::Result<()> {
        let packed = if codec == Codec::None { &slot.raw[..slot.fill] } else { &slot.stored[..] };
        for part in packed.chunks(WRITE_BYTES) {
            self.storing.write_all(part)?;
        }
        self.frames.push(Frame { offset: self.packed_bytes, stored: packed.len() as u32, raw: slot.fill as u32 });
        self.packed_bytes += packed.len() as u64;
        self.raw_bytes += slot.fill as u64;
        Ok(())
    }
}
