//! Where asynchronous work runs: one thread with a runtime of its own; everybody else waits for it like for a disk.
//!
//! Every wait has a deadline and hears [`Cancel`]; what nobody waits for any more is dropped, and its connection closed.

use std::future::Future;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};

/// How often somebody who waits looks whether it still makes sense.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Runtime {
    handle: Handle,
    /// The option that says how long a wait may be, for messages.
    limited_by: &'static str,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Runtime {
    /// Starts a thread of that name; the option `limited_by` says how long its waits may be.
    pub(crate) fn start(name: &str, limited_by: &'static str) -> Result<Self> {
        let failed = |cause| Error::io("start a thread for", name, cause);
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // It returns when the sender is gone.
            let _ = runtime.block_on(stopped);
            // A look-up of a name may hang in the system's library: nobody waits for it.
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { handle, limited_by, _stop: stop })
    }

    /// Where tasks are started that nobody waits for by [`wait`](Self::wait).
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `work` to its end: an error of [`Class::Deadline`] after `limit`, and that of `cancel` if there is one.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        limit: Duration,
        cancel: Option<&Cancel>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let started = Instant::now();
        let (answer, answered) = bounded(1);
        let task = self.handle.spawn(async move {
            // Whoever has stopped waiting does not want it.
            let _ = answer.send(work.await);
        });
        let gone = loop {
            match answered.recv_timeout(LOOK) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Disconnected) => {
                    break Error::new(Class::Io, "the connections' thread has ended");
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(Err(stopped)) = cancel.map(Cancel::check) {
                break stopped;
            }
            if started.elapsed() > limit {
                break late(limit, self.limited_by);
            }
        };
        task.abort();
        Err(gone)
    }
}

/// Nothing came to an end for too long; the option `limited_by` says how long that is.
pub(crate) fn late(limit: Duration, limited_by: &str) -> Error {
    let text = format!("there was no answer for {} s ({limited_by})", limit.as_secs_f32());
    Error::new(Class::Deadline, text).because(std::io::Error::from(nix::errno::Errno::ETIMEDOUT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Reason;

    #[test]
    fn a_wait_ends_with_the_work_at_its_deadline_or_when_the_run_is_stopped() {
        let runtime = Runtime::start("test", "some-timeout").unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(runtime.wait(hour, None, async { 7 }).unwrap(), 7);
        let slow = || tokio::time::sleep(Duration::from_secs(3600));
        let error = runtime.wait(Duration::from_millis(1), None, async move { slow().await }).unwrap_err();
        assert_eq!(error.class(), Class::Deadline);
        assert!(error.to_string().contains("some-timeout"), "{error}");
        let cancel = Cancel::default();
        cancel.raise(Reason::ServerGone);
        let error = runtime.wait(hour, Some(&cancel), async move { slow().await }).unwrap_err();
        assert_eq!(error.class(), Class::Server);
    }

    #[test]
    fn work_that_nobody_waits_for_is_dropped() {
        let runtime = Runtime::start("test", "some-timeout").unwrap();
        let (held, dropped) = bounded::<()>(0);
        let work = async move {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            drop(held);
        };
        runtime.wait(Duration::from_millis(1), None, work).unwrap_err();
        assert_eq!(dropped.recv_timeout(Duration::from_secs(30)), Err(RecvTimeoutError::Disconnected));
    }
}
