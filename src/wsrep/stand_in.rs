//! A stand-in for the run as the server's child, so that the server can be released before the run has ended.
//!
//! mysqld waits for the end of the program that it ran, even after `done`, and until then it cannot shut down (tried on
//! MariaDB 10.11). With `release = held` a run goes on for long after `done`: so it goes on in a process of its own,
//! and the first one stands in for it. It waits for the run's end and ends with the same status, or as soon as it is
//! dismissed; it hands on the signals that it gets. If it is killed, the run gets a SIGTERM from the kernel.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, getppid};

use super::watch::SIGNALS;
use crate::error::{Class, Error, Result};
use crate::sys;

/// The process that the server waits for, while this one does the work.
#[derive(Debug)]
pub struct StandIn {
    dismiss: PipeWriter,
}

impl StandIn {
    /// Goes on in a new process, and leaves this one to stand in for it.
    ///
    /// To be called before any thread is started.
    pub fn leave() -> Result<Self> {
        let cannot = |cause: std::io::Error| Error::new(Class::Io, "cannot begin a second process").because(cause);
        let (told, dismiss) = pipe().map_err(cannot)?;
        let first = nix::unistd::getpid();
        match sys::fork().map_err(|cause| cannot(cause.into()))? {
            ForkResult::Parent { child } => {
                drop(dismiss);
                sys::exit_at_once(stand_in(child, told))
            }
            ForkResult::Child => {
                set_pdeathsig(Signal::SIGTERM).map_err(|cause| cannot(cause.into()))?;
                // It may have been killed before the kernel knew.
                if getppid() != first {
                    return Err(Error::new(Class::Server, "the process that the server waits for is gone"));
                }
                Ok(Self { dismiss })
            }
        }
    }

    /// The server need not wait any longer.
    pub fn dismiss(mut self) -> Result<()> {
        let cannot = |cause: std::io::Error| Error::new(Class::Io, "cannot release the server").because(cause);
        set_pdeathsig(None).map_err(|cause| cannot(cause.into()))?;
        self.dismiss.write_all(b"d").map_err(cannot)
    }
}

/// Waits until it is dismissed or `run` has ended; the status to end with.
fn stand_in(run: Pid, told: PipeReader) -> u8 {
    let mask: SigSet = SIGNALS.into_iter().collect();
    let signals = mask.thread_block().and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC));
    // Only the run speaks to the server; what it does not hold open must not seem open.
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = (dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null));
    }
    match signals.and_then(|signals| is_dismissed(run, told, &signals)) {
        Ok(true) => 0,
        Ok(false) => status_of(run),
        Err(cause) => cause as u8,
    }
}

/// Whether the run said so; hands on signals meanwhile.
fn is_dismissed(run: Pid, mut told: PipeReader, signals: &SignalFd) -> nix::Result<bool> {
    loop {
        let mut ready = [signals.as_fd(), told.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(cause) => return Err(cause),
        }
        let [signal, word] = ready.map(|fd| fd.any().unwrap_or(false));
        if word {
            // Its end means that the run has ended.
            return Ok(told.read(&mut [0]).is_ok_and(|count| count > 0));
        }
        if let (true, Ok(Some(info))) = (signal, signals.read_signal()) {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            // It may have ended just now.
            let _ = kill(run, signal);
        }
    }
}

/// The run's exit status; one that a shell would give if a signal ended it.
fn status_of(run: Pid) -> u8 {
    loop {
        return match waitpid(run, None) {
            Ok(WaitStatus::Exited(_, status)) => u8::try_from(status).unwrap_or(u8::MAX),
            Ok(WaitStatus::Signaled(_, signal, _)) => 128u8.saturating_add(signal as u8),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(cause) => cause as u8,
        };
    }
}
