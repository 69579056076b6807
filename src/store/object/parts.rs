//! An archive on its way into a multipart upload: parts are cut from what is written, and several are in flight.
//!
//! Memory: what is being filled and what is in flight together are at most the part size × the parallel parts. The parts
//! are all of one size, chosen before the first so that 10,000 of them hold what is expected; should there be much more, the
//! last thousand grow.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use object_store::PutPayload;
use object_store::multipart::PartId;
use object_store::path::Path;
use tokio::task::AbortHandle;

use super::fault::failed;
use super::settings::ObjectSettings;
use super::{Remote, STALL_TIMEOUT};
use crate::error::{Class, Error, Result};
use crate::runtime::{LOOK, late};

/// The most parts that S3 and Google take; Azure takes more.
const MOST_PARTS: usize = 10_000;

/// So many parts hold what is expected; the rest is for what was not.
const EVEN_PARTS: usize = 9_000;

/// Beyond that, the size doubles with every so many parts.
const DOUBLING: usize = 50;

/// How long parts in flight may take to land when the upload is given up.
const LANDING_GRACE: Duration = Duration::from_secs(2);

/// Bytes of the parts are a multiple of this.
const ROUND: u64 = 1 << 20;

/// How large the parts are, and how many bytes may be in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    part: u64,
    memory: u64,
}

impl Sizes {
    /// For an archive of about `expected` bytes at most.
    pub(super) fn new(settings: &ObjectSettings, expected: u64) -> Self {
        let needed = expected.div_ceil(EVEN_PARTS as u64).div_ceil(ROUND).saturating_mul(ROUND);
        let part = settings.part_bytes.max(needed);
        let parallel = u64::try_from(settings.parallel.get()).unwrap_or(u64::MAX);
        Self { part, memory: settings.part_bytes.saturating_mul(parallel) }
    }

    /// Bytes of the part with that index.
    fn of(self, index: usize) -> u64 {
        let doubled = (index + DOUBLING).saturating_sub(EVEN_PARTS) / DOUBLING;
        self.part.saturating_mul(1 << doubled.min(16))
    }

    /// Whether another part of `bytes` may be in flight beside `flying` while the next one is filled.
    fn fits(self, flying: u64, bytes: u64) -> bool {
        flying == 0 || flying.saturating_add(bytes).saturating_add(self.part) <= self.memory
    }
}

/// What all who take part in one upload share.
#[derive(Debug)]
pub(super) struct Parts {
    remote: Arc<Remote>,
    key: Path,
    /// The upload's own name in the store.
    upload: String,
    sizes: Sizes,
    /// The archive's place, for messages.
    place: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    filling: Vec<u8>,
    written: u64,
    next: usize,
    flying: HashMap<usize, (u64, AbortHandle)>,
    landed: Vec<Option<PartId>>,
    failure: Option<Error>,
    /// Nothing may be written any more.
    closed: bool,
    moved: Instant,
}

impl Parts {
    /// For the multipart upload `upload` of `key`.
    pub(super) fn new(remote: Arc<Remote>, key: Path, upload: String, sizes: Sizes) -> Arc<Self> {
        let state = State {
            filling: Vec::new(),
            written: 0,
            next: 0,
            flying: HashMap::new(),
            landed: Vec::new(),
            failure: None,
            closed: false,
            moved: Instant::now(),
        };
        let place = remote.place_of(&key);
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Arc::new(Self { remote, key, upload, sizes, place, state, changed })
    }

    /// The upload's own name in the store.
    pub(super) fn upload(&self) -> &String {
        &self.upload
    }

    /// Bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.lock().written
    }

    /// Sends the rest and waits for everything in flight; the parts, in order.
    pub(super) fn finish(self: &Arc<Self>) -> Result<Vec<PartId>> {
        let mut state = self.lock();
        if !state.filling.is_empty() || state.next == 0 {
            state = self.launch(state)?;
        }
        state.closed = true;
        while !state.flying.is_empty() {
            state = self.wait(state)?;
        }
        self.check(&mut state)?;
        let landed = std::mem::take(&mut state.landed).into_iter().collect::<Option<Vec<PartId>>>();
        landed.ok_or_else(|| Error::new(Class::Io, "a part of the upload is missing"))
    }

    /// Takes no more bytes, lets what is in flight land if it does so soon, and drops the rest.
    ///
    /// A part whose bytes are all under way arrives whether we wait or not, and must not do so after the upload was aborted.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.filling = Vec::new();
        let flying = |state: &mut State| !state.flying.is_empty();
        let waited = self.changed.wait_timeout_while(state, LANDING_GRACE, flying);
        (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        for (_, task) in state.flying.values() {
            task.abort();
        }
        state.flying.clear();
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what was filled into flight, when there is room for it.
    fn launch<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        let bytes = state.filling.len() as u64;
        loop {
            let flying = state.flying.values().map(|(bytes, _)| bytes).sum();
            if self.sizes.fits(flying, bytes) {
                break;
            }
            state = self.wait(state)?;
        }
        self.check(&mut state)?;
        let index = state.next;
        if index >= MOST_PARTS {
            let text = format!("the archive does not fit into {MOST_PARTS} parts of \"{}\"", self.place);
            return Err(Error::new(Class::Refused, text).hint("make part-size larger"));
        }
        let payload = PutPayload::from(std::mem::take(&mut state.filling));
        let parts = Arc::clone(self);
        // The task cannot land before its handle is noted: it needs the lock that is held here.
        let task = self.remote.runtime.handle().spawn(async move {
            let put = parts.remote.backend.put_part(&parts.key, &parts.upload, index, payload).await;
            parts.landed(index, put);
        });
        state.next += 1;
        if state.flying.is_empty() {
            state.moved = Instant::now();
        }
        state.flying.insert(index, (bytes, task.abort_handle()));
        state.landed.push(None);
        Ok(state)
    }

    fn landed(&self, index: usize, put: object_store::Result<PartId>) {
        let mut state = self.lock();
        if state.flying.remove(&index).is_none() {
            return;
        }
        state.moved = Instant::now();
        match put {
            Ok(part) => {
                if let Some(place) = state.landed.get_mut(index) {
                    *place = Some(part);
                }
            }
            Err(cause) => {
                let error = failed("write", &self.place, &cause);
                state.failure.get_or_insert(error);
            }
        }
        self.changed.notify_all();
    }

    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        self.check(&mut state)?;
        let (mut state, _) = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
        self.check(&mut state)?;
        if !state.flying.is_empty() && state.moved.elapsed() > self.remote.settings.stall_timeout {
            let late = late(self.remote.settings.stall_timeout, STALL_TIMEOUT);
            return Err(Error::new(Class::Deadline, format!("cannot write \"{}\"", self.place)).because(late));
        }
        Ok(state)
    }

    fn check(&self, state: &mut State) -> Result<()> {
        self.remote.cancel.check()?;
        match state.failure.take() {
            Some(error) => {
                // Whoever comes next fails too; the first one has the reason.
                let text = format!("the upload of \"{}\" has failed", self.place);
                state.failure = Some(Error::new(error.class(), text));
                Err(error)
            }
            None => Ok(()),
        }
    }

    fn write(self: &Arc<Self>, bytes: &[u8]) -> Result<usize> {
        let mut state = self.lock();
        self.check(&mut state)?;
        if state.closed {
            return Err(Error::new(Class::Io, format!("the upload of \"{}\" is over", self.place)));
        }
        let size = usize::try_from(self.sizes.of(state.next)).unwrap_or(usize::MAX);
        if state.filling.capacity() < size {
            let missing = size - state.filling.len();
            state.filling.reserve_exact(missing);
        }
        let taken = bytes.get(..size.saturating_sub(state.filling.len())).unwrap_or(bytes);
        state.filling.extend_from_slice(taken);
        state.written += taken.len() as u64;
        if state.filling.len() >= size {
            drop(self.launch(state)?);
        }
        Ok(taken.len())
    }
}

/// Where the archive's bytes are written to.
#[derive(Debug)]
pub(super) struct PartSink(pub(super) Arc<Parts>);

impl Write for PartSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroUsize;

    fn settings(part_mib: u64, parallel: usize) -> ObjectSettings {
        let parallel = NonZeroUsize::new(parallel).unwrap();
        ObjectSettings { part_bytes: part_mib << 20, parallel, ..ObjectSettings::default() }
    }

    /// How many parts of which bytes an archive needs.
    fn parts(sizes: Sizes, mut bytes: u64) -> usize {
        for index in 0.. {
            let size = sizes.of(index);
            if bytes <= size {
                return index + 1;
            }
            bytes -= size;
        }
        unreachable!()
    }

    #[test]
    fn parts_are_of_one_size_and_as_large_as_the_archive_needs() {
        let usual = Sizes::new(&settings(16, 4), 100 << 30);
        assert!((0..EVEN_PARTS).all(|index| usual.of(index) == 16 << 20));
        let large = Sizes::new(&settings(16, 4), 5 << 40);
        assert_eq!(large.of(0), 583 << 20);
        assert!(parts(large, 5 << 40) <= EVEN_PARTS);
        assert_eq!(Sizes::new(&settings(64, 4), 0).of(0), 64 << 20);
    }

    #[test]
    fn more_than_was_expected_still_fits() {
        // 5 TiB is the most that S3 takes as one object.
        let sizes = Sizes::new(&settings(5, 4), 0);
        assert!(parts(sizes, 5 << 40) <= MOST_PARTS, "{}", parts(sizes, 5 << 40));
    }

    proptest! {
        #[test]
        fn memory_is_bounded_by_the_settings(part in 5..200u64, parallel in 1..20usize, flying in 0..40u64) {
            let sizes = Sizes::new(&settings(part, parallel), 0);
            let flying = flying * (part << 20);
            if flying > 0 && sizes.fits(flying, part << 20) {
                prop_assert!(flying + 2 * (part << 20) <= (part << 20) * parallel as u64);
            }
        }
    }
}
