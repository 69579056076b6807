//! Looks after the free space while clones are held: what the server overwrites meanwhile takes new blocks.
//!
//! Once a second, since nothing tells. When a file system falls below its floor the run is told to stop: it ends, the
//! kernel frees the clones, and the server has its space back before it sees an error.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use tracing::warn;

use crate::cancel::{Cancel, Reason};
use crate::command::human;
use crate::error::{Error, Result};
use crate::source::clone::free_bytes;

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(1);

/// A file system that holds clones.
#[derive(Clone, Debug)]
pub(super) struct Space {
    /// For messages.
    pub(super) directory: PathBuf,
    pub(super) file: Arc<File>,
    /// Free bytes below which the clones are given up.
    pub(super) floor: u64,
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
            while !spaces.iter().any(is_short) {
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
            cancel.raise(Reason::CloneSpace);
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

fn is_short(space: &Space) -> bool {
    // A file system that cannot be asked is no reason to give up a clone that can still be read.
    let Ok(free) = free_bytes(&space.file) else { return false };
    if free < space.floor {
        let (free, floor) = (human::size(free), human::size(space.floor));
        warn!("{:?} has only {free} free, and a quarter of clone-reserve is {floor}", space.directory);
    }
    free < space.floor
}
