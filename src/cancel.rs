//! A run's one way to be told to stop: by a signal, or because the server went away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Class, Error, Result};

/// Why a run must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This signal arrived.
    Signal(&'static str),
    /// mysqld, whose files we read, is gone: a restarted one writes into them.
    ServerGone,
    /// The frozen window has been open for longer than `frozen-limit`.
    FrozenLimit(Duration),
    /// The clone's file system is filling up: what the server overwrites takes new space as long as the clone is held.
    CloneSpace,
}

impl Reason {
    fn error(self) -> Error {
        match self {
            Reason::Signal(name) => Error::new(Class::Cancelled, format!("stopped by {name}")),
            Reason::ServerGone => Error::new(Class::Server, "the server that asked for the backup is gone"),
            Reason::FrozenLimit(limit) => Error::new(
                Class::Deadline,
                format!("the server was frozen for longer than frozen-limit ({} s)", limit.as_secs_f32()),
            ),
            Reason::CloneSpace => {
                Error::new(Class::Io, "the clone was given up, so that the server does not run out of space")
                    .because(std::io::Error::from(nix::errno::Errno::ENOSPC))
                    .hint("make room in the server's file system, or take the next backup with `source = precopy`")
            }
        }
    }
}

/// A handle that every waiting or long-working part holds; clones share one state.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<State>);

#[derive(Default, Debug)]
struct State {
    raised: AtomicBool,
    reason: Mutex<Option<Reason>>,
    changed: Condvar,
}

impl Cancel {
    /// Asks the run to stop; the first reason stays.
    pub fn raise(&self, reason: Reason) {
        let mut held = self.0.reason.lock().unwrap_or_else(PoisonError::into_inner);
        held.get_or_insert(reason);
        self.0.raised.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    /// An error once the run has been asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.0.raised.load(Ordering::Acquire) { Err(self.error()) } else { Ok(()) }
    }

    /// Whether the run has been asked to stop.
    pub fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::Acquire)
    }

    /// Waits for `time`, or less if the run is asked to stop meanwhile: then it is the error.
    pub fn sleep(&self, time: Duration) -> Result<()> {
        let held = self.0.reason.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.changed.wait_timeout_while(held, time, |reason| reason.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.check()
    }

    fn error(&self) -> Error {
        let held = self.0.reason.lock().unwrap_or_else(PoisonError::into_inner);
        held.unwrap_or(Reason::Signal("a signal")).error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_sleeper_wakes_when_the_run_is_stopped_and_the_first_reason_stays() {
        let cancel = Cancel::default();
        let other = cancel.clone();
        let started = Instant::now();
        let sleeper = std::thread::spawn(move || other.sleep(Duration::from_secs(60)));
        cancel.raise(Reason::ServerGone);
        cancel.raise(Reason::Signal("SIGTERM"));
        let error = sleeper.join().unwrap().unwrap_err();
        assert_eq!(error.class(), Class::Server);
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
