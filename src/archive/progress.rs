//! How far an archive is: counters that the worker threads move and the log or a progress bar reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Three counters, in bytes. They order nothing: whoever reads them sees a recent value, not one instant.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    raw_done: AtomicU64,
    stored_done: AtomicU64,
}

impl Progress {
    /// Says how many bytes of files there are to do.
    pub fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// Adds to the bytes of files that there are to do: a file must be copied again.
    pub fn add_total(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes of files that were read from the donor, or written to a target.
    pub fn add_raw(&self, bytes: u64) {
        self.raw_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes of the archive that were written or read.
    pub fn add_stored(&self, bytes: u64) {
        self.stored_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of files to do; 0 while nobody knows.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes of files done.
    pub fn raw_done(&self) -> u64 {
        self.raw_done.load(Ordering::Relaxed)
    }

    /// Bytes of the archive done.
    pub fn stored_done(&self) -> u64 {
        self.stored_done.load(Ordering::Relaxed)
    }
}
