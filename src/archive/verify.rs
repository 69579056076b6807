//! Reads a whole archive once and reports everything that is wrong with it.
//!
//! One thread reads in order, hashes what is stored and decrypts it, workers decompress and prove every piece, and the
//! caller's thread walks the tar stream in order. Damage never ends it early; what ends it is that the source cannot be read for
//! another reason than a bad medium, or a stop.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nix::errno::Errno;

use super::codec::{FRAME_BYTES, STORED_BYTES_MAX};
use super::compress::Decompressor;
use super::decode::{Wanted, pieces_by_frame, proved};
use super::label::Label;
use super::manifest::{Frame, Manifest};
use super::progress::Progress;
use super::read_at::ReadAt;
use super::report::Findings;
pub use super::report::{Damage, Report};
use super::seal::{Archive, Identities, Seal};
use super::tap::Tap;
use super::tar_walk::{Fault, TarWalk, begins};
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result, one_line};

/// How often the reader, while it waits, looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(20);

/// Reads the archive that is stored in `stored` once and compares it with its manifest and its label.
///
/// Needs as many threads as `workers`, one for reading, and the caller's. [`Class::Key`] if it is encrypted and none of
/// `keys` opens it: then [`verify_stored`] proves what can be proved.
pub fn verify(
    stored: &dyn ReadAt,
    manifest: &Manifest,
    label: &Label,
    keys: &Identities,
    workers: NonZeroUsize,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Report> {
    let tap = Tap::new(stored);
    let mut findings = Findings::new();
    if let Some(archive) = open(&tap, label, keys, &mut findings)? {
        compare(&archive, manifest, label, workers, cancel, progress, &mut findings)?;
    }
    cancel.check()?;
    compare_digest(&tap, label, cancel, &mut findings)?;
    Ok(Report {
        damages: findings.into_damages(),
        files: manifest.plain_files().count() as u64,
        raw_bytes: manifest.raw_bytes(),
        stored_bytes: stored.len(),
    })
}

/// Reads the archive that is stored in `stored` once and compares its size and its digest with its label: all that can be
/// proved of an encrypted one without a key.
pub fn verify_stored(stored: &dyn ReadAt, label: &Label, cancel: &Cancel, progress: &Progress) -> Result<Report> {
    let mut findings = Findings::new();
    findings.compare_size(stored.len(), label.archive.bytes);
    compare_digest(&Tap::new(stored).with_progress(progress), label, cancel, &mut findings)?;
    let damages = findings.into_damages();
    Ok(Report { damages, files: label.files, raw_bytes: label.raw_bytes, stored_bytes: stored.len() })
}

/// The archive to read, unless what is wrong with it as a whole is found already.
fn open<'a>(
    tap: &'a Tap<'a>,
    label: &'a Label,
    keys: &'a Identities,
    findings: &mut Findings,
) -> Result<Option<Archive<'a>>> {
    if label.seal() == Seal::Age {
        findings.compare_size(tap.len(), label.archive.bytes);
        if !findings.is_empty() {
            return Ok(None);
        }
    }
    match Archive::open(tap, label, keys) {
        Ok(archive) => Ok(Some(archive)),
        Err(error) => {
            findings.whole(0, tap.len(), damage(error)?);
            Ok(None)
        }
    }
}

/// What is wrong, if an error of reading means damage; the error itself if it means anything else.
fn damage(error: Error) -> Result<String> {
    let bad_medium = error.os_error() == Some(Errno::EIO as i32);
    if bad_medium || error.class() == Class::Damage { Ok(one_line(&error)) } else { Err(error) }
}

fn compare(
    source: &dyn ReadAt,
    manifest: &Manifest,
    label: &Label,
    workers: NonZeroUsize,
    cancel: &Cancel,
    progress: &Progress,
    findings: &mut Findings,
) -> Result<()> {
    let pieces = pieces_by_frame(manifest, &|_| true);
    let frames = manifest.frames()?;
    let check = Check {
        source,
        manifest,
        frames,
        begins: begins(frames),
        pieces: &pieces,
        cancel,
        progress,
        stopped: AtomicBool::new(false),
    };
    check.run(workers, findings)?;
    let end = frames.last().map_or(0, |frame| frame.offset + u64::from(frame.stored));
    if (&label.id, label.gtid, label.codec) != (&manifest.id, manifest.gtid, manifest.codec) {
        findings.whole(0, source.len(), "the manifest belongs to another backup than the label");
    }
    if label.seal() == Seal::Open && label.archive.bytes != end {
        findings.whole(0, source.len(), "the label and the manifest disagree about the archive's size");
    }
    findings.compare_size(source.len(), end);
    Ok(())
}

/// Anything found so far explains another digest.
fn compare_digest(tap: &Tap<'_>, label: &Label, cancel: &Cancel, findings: &mut Findings) -> Result<()> {
    if !findings.is_empty() {
        return Ok(());
    }
    match tap.finish(cancel) {
        Ok(sha256) if sha256 == label.archive.sha256 => {}
        Ok(_) => findings.whole(0, tap.len(), "its SHA-256 is not the label's"),
        Err(error) => findings.whole(0, tap.len(), damage(error)?),
    }
    Ok(())
}

/// One frame on its way through the threads.
struct Slot {
    index: usize,
    stored: Vec<u8>,
    stored_len: usize,
    raw: Vec<u8>,
    raw_len: usize,
    /// Why the frame as a whole is not to be had.
    fault: Option<String>,
    /// Pieces whose digest is wrong.
    bad: Vec<Wanted>,
}

impl Slot {
    fn new() -> Self {
        let (stored, raw) = (vec![0; STORED_BYTES_MAX], vec![0; FRAME_BYTES]);
        Self { index: 0, stored, stored_len: 0, raw, raw_len: 0, fault: None, bad: Vec::new() }
    }
}

struct Check<'a> {
    source: &'a dyn ReadAt,
    manifest: &'a Manifest,
    frames: &'a [Frame],
    begins: Vec<u64>,
    pieces: &'a [Wanted],
    cancel: &'a Cancel,
    progress: &'a Progress,
    stopped: AtomicBool,
}

/// Tells the others when a thread panics: they would wait for its frame for ever.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

impl Check<'_> {
    /// Reads and checks all frames.
    fn run(&self, workers: NonZeroUsize, findings: &mut Findings) -> Result<()> {
        let walk = TarWalk::new(self.manifest, &self.begins)?;
        let (free_in, free) = unbounded();
        let (jobs_in, jobs) = unbounded();
        let (done_in, done) = unbounded();
        for _ in 0..workers.get() + workers.get() / 2 + 2 {
            let _ = free_in.send(Slot::new());
        }
        let decompressors = std::iter::repeat_with(|| Decompressor::new(self.manifest.codec)).take(workers.get());
        let decompressors = decompressors
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|cause| Error::new(Class::Io, "cannot set up the decompression").because(cause))?;
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || self.read(&free, &jobs_in));
            for decompressor in decompressors {
                let (jobs, done) = (jobs.clone(), done_in.clone());
                scope.spawn(move || self.work(decompressor, &jobs, &done));
            }
            drop(done_in);
            self.collect(walk, &done, &free_in, findings);
            reader.join().unwrap_or_else(|_| Err(Error::new(Class::Io, "the thread that reads has panicked")))
        })
    }

    fn read(&self, free: &Receiver<Slot>, jobs: &Sender<Slot>) -> Result<()> {
        for (index, frame) in self.frames.iter().enumerate() {
            let Some(mut slot) = self.take(free)? else { return Ok(()) };
            slot.index = index;
            slot.fault = self.read_frame(&mut slot, frame)?;
            self.progress.add_stored(frame.stored.into());
            if jobs.send(slot).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn take(&self, free: &Receiver<Slot>) -> Result<Option<Slot>> {
        loop {
            self.cancel.check()?;
            match free.recv_timeout(LOOK) {
                Ok(slot) => return Ok(Some(slot)),
                Err(RecvTimeoutError::Timeout) if !self.stopped.load(Ordering::Acquire) => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Reads the stored bytes of a frame; what is wrong if that is damage.
    fn read_frame(&self, slot: &mut Slot, frame: &Frame) -> Result<Option<String>> {
        if frame.offset + u64::from(frame.stored) > self.source.len() {
            return Ok(Some("the archive ends before it".to_owned()));
        }
        slot.stored_len = frame.stored as usize;
        slot.raw_len = frame.raw as usize;
        let read = self.source.read_exact_at(&mut slot.stored[..slot.stored_len], frame.offset);
        read.err().map(damage).transpose()
    }

    fn work(&self, mut decompressor: Decompressor, jobs: &Receiver<Slot>, done: &Sender<Slot>) {
        let _alarm = Alarm(&self.stopped);
        for mut slot in jobs {
            if self.cancel.is_raised() {
                return;
            }
            if slot.fault.is_none() {
                let stored = &slot.stored[..slot.stored_len];
                slot.fault = decompressor.decompress(stored, &mut slot.raw[..slot.raw_len]).err();
            }
            slot.bad.clear();
            if slot.fault.is_none() {
                let raw = &slot.raw[..slot.raw_len];
                let bad = self.pieces_of(slot.index).iter().filter(|wanted| proved(raw, &wanted.piece).is_err());
                slot.bad.extend(bad);
            }
            if done.send(slot).is_err() {
                return;
            }
        }
    }

    fn pieces_of(&self, index: usize) -> &[Wanted] {
        let begin = self.pieces.partition_point(|wanted| (wanted.piece.frame as usize) < index);
        let end = self.pieces.partition_point(|wanted| wanted.piece.frame as usize <= index);
        &self.pieces[begin..end]
    }

    fn collect(&self, walk: TarWalk<'_>, done: &Receiver<Slot>, free: &Sender<Slot>, findings: &mut Findings) {
        let mut early = BTreeMap::new();
        let mut walk = Some(walk);
        let mut next = 0;
        for slot in done {
            early.insert(slot.index, slot);
            while let Some(slot) = early.remove(&next) {
                self.note(&slot, &mut walk, findings);
                next += 1;
                // The reader takes no more slots once it has read the last frame.
                let _ = free.send(slot);
            }
        }
        if next == self.frames.len() {
            for fault in walk.map(TarWalk::finish).unwrap_or_default() {
                self.note_fault(fault, findings);
            }
        }
    }

    /// Writes down what is wrong with a frame, and walks along it if its bytes are there.
    fn note(&self, slot: &Slot, walk: &mut Option<TarWalk<'_>>, findings: &mut Findings) {
        let Some(frame) = self.frames.get(slot.index) else { return };
        let pieces = self.pieces_of(slot.index);
        self.progress.add_raw(pieces.iter().map(|wanted| u64::from(wanted.piece.len)).sum());
        if let Some(what) = &slot.fault {
            *walk = None;
            pieces.iter().for_each(|wanted| self.note_piece(wanted, frame, what, findings));
            if pieces.is_empty() {
                findings.whole(frame.offset, frame.stored.into(), what.as_str());
            }
            return;
        }
        let another = "its SHA-256 is not the manifest's";
        slot.bad.iter().for_each(|wanted| self.note_piece(wanted, frame, another, findings));
        let walked = walk.as_mut().map_or(Ok(()), |walk| walk.feed(&slot.raw[..slot.raw_len]));
        if let Err(fault) = walked {
            *walk = None;
            self.note_fault(fault, findings);
        }
    }

    fn note_piece(&self, wanted: &Wanted, frame: &Frame, what: &str, findings: &mut Findings) {
        let place = wanted.offset..wanted.offset + u64::from(wanted.piece.len);
        findings.file(self.manifest, wanted.file, place, frame.offset, what.to_owned());
    }

    fn note_fault(&self, fault: Fault, findings: &mut Findings) {
        let offset = frame_at(self.frames, &self.begins, fault.position).map_or(0, |frame| frame.offset);
        match fault.file {
            Some(index) => {
                let size = self.manifest.files.get(index).map_or(0, |entry| entry.size);
                findings.file(self.manifest, index, 0..size, offset, fault.what);
            }
            None => findings.whole(offset, self.source.len().saturating_sub(offset), fault.what),
        }
    }
}

/// The frame that holds this position of the tar stream, or the last one.
fn frame_at<'a>(frames: &'a [Frame], begins: &[u64], position: u64) -> Option<&'a Frame> {
    let begun = begins.partition_point(|begin| *begin <= position);
    frames.get(begun.saturating_sub(1)).or(frames.last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_position_is_in_the_frame_whose_bytes_hold_it(lengths in prop::collection::vec(1..4u32, 0..20), at in 0..80u64) {
            let frame = |raw: &u32| Frame { offset: 0, stored: 1, raw: *raw };
            let mut frames: Vec<Frame> = lengths.iter().map(frame).collect();
            (0..).zip(&mut frames).for_each(|(offset, frame)| frame.offset = offset);
            let holders = lengths.iter().enumerate().flat_map(|(index, len)| vec![index as u64; *len as usize]);
            let holder = holders.chain(std::iter::repeat((frames.len() as u64).saturating_sub(1))).nth(at as usize);
            let found = frame_at(&frames, &begins(&frames), at).map(|frame| frame.offset);
            prop_assert_eq!(found, holder.filter(|_| !frames.is_empty()));
        }
    }
}
