//! A line about progress every ten seconds, from a thread of its own, so that a slow disk cannot silence it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use tracing::info;

use crate::archive::progress::Progress;
use crate::command::output::{human_bytes, human_duration};
use crate::error::{Error, Result};

/// How often a run reports.
const INTERVAL: Duration = Duration::from_secs(10);

/// The reporting thread; it ends when this is dropped.
pub struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Begins to report on `progress`.
    pub fn start(progress: Arc<Progress>) -> Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let begun = Instant::now();
        let report = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                info!("{}", line(&Sample::of(&progress), begun.elapsed()));
            }
        };
        let thread = std::thread::Builder::new()
            .name("ticker".into())
            .spawn(report)
            .map_err(|cause| Error::io("start a thread for", "progress", cause))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
