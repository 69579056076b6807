//! A line about progress every ten seconds, from a thread of its own, so that a slow disk cannot silence it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use tracing::info;

use crate::archive::progress::Progress;
use crate::command::human;
use crate::error::{Class, Error, Result};

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
                info!("{}", line(&progress, begun.elapsed()));
            }
        };
        let thread = std::thread::Builder::new()
            .name("ticker".into())
            .spawn(report)
            .map_err(|cause| Error::new(Class::Io, "cannot start the thread that reports progress").because(cause))?;
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

/// `1.2 GiB of 4.0 GiB, 210 MiB/s, stored 512 MiB, about 14 s left`.
fn line(progress: &Progress, elapsed: Duration) -> String {
    let (done, total, stored) = (progress.raw_done(), progress.total(), progress.stored_done());
    let per_second = done as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = format!(
        "{} of {}, {}/s, stored {}",
        human::size(done),
        human::size(total),
        human::size(per_second as u64),
        human::size(stored)
    );
    let left = total.saturating_sub(done) as f64 / per_second;
    if left.is_finite() {
        line.push_str(&format!(", about {} left", human::duration(Duration::from_secs_f64(left.min(1e9)))));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rate_and_time_left_and_survives_a_run_that_has_not_begun() {
        let progress = Progress::default();
        progress.set_total(300 << 20);
        assert!(!line(&progress, Duration::ZERO).contains("left"));
        progress.add_raw(100 << 20);
        progress.add_stored(40 << 20);
        let line = line(&progress, Duration::from_secs(1));
        assert!(line.contains("100.0 MiB of 300.0 MiB, 100.0 MiB/s, stored 40.0 MiB, about 2.0 s left"), "{line}");
    }
}
