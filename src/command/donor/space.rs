//! Looks after the free space while clones are held: what the server overwrites meanwhile takes new blocks.
//!
//! Ten times a second, since nothing tells. When a file system falls below its floor the run is told to stop, and the
//! clones are cut off at once: the server has its space back before it sees an error, unless it writes more than the floor
//! in that tenth of a second.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use nix::sys::statvfs::{Statvfs, fstatvfs};
use tracing::warn;

use crate::cancel::{Cancel, Reason};
use crate::command::human;
use crate::error::{Error, Result};

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(100);

/// A file system that holds clones.
#[derive(Debug)]
pub(super) struct Space {
    /// A directory of the server on it.
    pub(super) directory: PathBuf,
    /// The same: XFS shows a project's quota only through a directory.
    opened: File,
    clones: Arc<File>,
    /// Free bytes below which the clones are given up.
    pub(super) floor: u64,
}

impl Space {
    /// The file system of `directory`, where `clones` holds the clones.
    pub(super) fn new(directory: PathBuf, clones: Arc<File>, floor: u64) -> Result<Self> {
        let opened = File::open(&directory).map_err(|cause| Error::io("open", &directory, cause))?;
        Ok(Self { directory, opened, clones, floor })
    }

    /// Bytes that the server can still write.
    pub(super) fn free_bytes(&self) -> Result<u64> {
        let found = measured(&self.directory, &self.opened)?;
        Ok(found.blocks_available().saturating_mul(found.fragment_size()))
    }

    /// Whether the directory may hold less than its file system: every block of a clone counts there, shared or not.
    pub(super) fn has_quota(&self) -> Result<bool> {
        let [quota, whole] = [&self.opened, &*self.clones].map(|file| measured(&self.directory, file));
        Ok(quota?.blocks() < whole?.blocks())
    }

    fn is_short(&self) -> bool {
        // A file system that cannot be asked is no reason to give up a clone that can still be read.
        let Ok(free) = self.free_bytes() else { return false };
        if free < self.floor {
            let (free, floor) = (human::size(free), human::size(self.floor));
            warn!("{:?} has only {free} free, and a quarter of clone-reserve is {floor}", self.directory);
        }
        free < self.floor
    }
}

fn measured(directory: &Path, file: &File) -> Result<Statvfs> {
    fstatvfs(file).map_err(|cause| Error::io("measure the free space of", directory, cause))
}

/// The thread that looks; it ends when this is dropped.
pub(super) struct SpaceWatch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SpaceWatch {
    /// Looks at `spaces` from now on, and stops the run by `cancel`.
    pub(super) fn start(spaces: Vec<Space>, cancel: &Cancel) -> Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let cancel = cancel.clone();
        let look = move || {
            while !spaces.iter().any(Space::is_short) {
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
            cancel.raise(Reason::CloneSpace);
            // Threads that still read them end by themselves. What cannot be cut off goes with the process.
            spaces.iter().for_each(|space| drop(space.clones.set_len(0)));
        };
        let thread = std::thread::Builder::new().name("space".into()).spawn(look);
        let thread = thread.map_err(|cause| Error::io("start a thread for", "free space", cause))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for SpaceWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
