//! The watcher: one thread that waits for whatever must end a run, and raises [`Cancel`].
//!
//! Signals, the end of the server, and a frozen window that stays open for too long are all seen in one `poll`, so that
//! every phase of a run hears them alike and no signal handler runs any code.
//!
//! Whoever copies inside the window hears [`Cancel`] between two system calls. If one of those does not come back (a dead
//! disk, a file server that is gone, a log that nobody reads), the server would stay frozen with it. So a window that is
//! still open [`GRACE`] after the run was told to stop is closed from here, by the [last resort](super::last_resort).

use std::fmt::Debug;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cancel::{Cancel, Reason};
use crate::error::{Class, Error, Result};

/// The signals that end a run in good order.
pub(super) const SIGNALS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// How long a run that was told to stop may take to close its window by itself.
const GRACE: Duration = Duration::from_secs(5);

/// What wakes the thread up to look at the window again, and what ends it.
const LOOK_AGAIN: u8 = b'w';
const SERVER_MAY_GO: u8 = b'g';
const STOP: u8 = b's';

/// A running watcher; dropping it stops the thread and leaves the signals blocked.
pub struct Watch {
    window: Window,
    wake: PipeWriter,
    thread: Option<JoinHandle<()>>,
}

/// The open window, if there is one.
type Window = Arc<Mutex<Option<Open>>>;

/// A frozen server.
struct Open {
    limit: Duration,
    /// When the limit is reached; `None` beyond what the clock can hold.
    end: Option<Instant>,
    /// When the window is closed by force: known as soon as the run is told to stop.
    grace: Option<Instant>,
    last_resort: LastResort,
}

/// Lets the server go on and ends the process; it is told why the run was to stop.
pub type LastResort = Box<dyn FnMut(&Error) + Send>;

/// What the thread waits on.
struct Watched {
    cancel: Cancel,
    signals: SignalFd,
    server: Option<Box<dyn Server>>,
    wake: PipeReader,
    window: Window,
}

/// A descriptor that becomes readable when the server ends.
pub trait Server: AsFd + Send + Debug {}
impl<S: AsFd + Send + Debug> Server for S {}

impl Watch {
    /// Blocks the signals in this thread and in all that it starts from now on, and watches for them and for the server.
    ///
    /// To be called before any other thread is started.
    pub fn start(cancel: &Cancel, server: Option<Box<dyn Server>>) -> Result<Self> {
        let cannot = |cause: std::io::Error| Error::new(Class::Io, "cannot watch for signals").because(cause);
        let mask: SigSet = SIGNALS.into_iter().collect();
        mask.thread_block().map_err(|cause| cannot(cause.into()))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let signals = signals.map_err(|cause| cannot(cause.into()))?;
        let (reader, wake) = pipe().map_err(cannot)?;
        let window = Window::default();
        let mut watched = Watched { cancel: cancel.clone(), signals, server, wake: reader, window: window.clone() };
        let thread =
            std::thread::Builder::new().name("watch".to_owned()).spawn(move || watched.run()).map_err(cannot)?;
        Ok(Self { window, wake, thread: Some(thread) })
    }

    /// The server is frozen from now on; past `limit` the run is told to stop, and if it does not, `last_resort` is called.
    pub fn window_opened(&mut self, limit: Duration, last_resort: LastResort) {
        self.set_window(Some(Open { limit, end: Instant::now().checked_add(limit), grace: None, last_resort }));
    }

    /// The server goes on.
    pub fn window_closed(&mut self) {
        self.set_window(None);
    }

    /// The end of the server is no reason to stop any more.
    pub fn server_may_go(&mut self) {
        self.tell(SERVER_MAY_GO);
    }

    fn set_window(&mut self, window: Option<Open>) {
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = window;
        self.tell(LOOK_AGAIN);
    }

    /// The pipe is read as long as the thread lives, and where it does not there is nobody to tell.
    fn tell(&mut self, what: u8) {
        let _ = self.wake.write_all(&[what]);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tell(STOP);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Watched {
    fn run(&mut self) {
        loop {
            let [signal, wake, server] = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(cause) => return tracing::error!("nobody watches for signals any more: {cause}"),
            };
            if signal {
                self.take_signals();
            }
            // Words come before what else is ready: the server may end as soon as it may.
            if wake && !self.hear() {
                return;
            }
            if server && self.server.is_some() {
                self.server = None;
                self.cancel.raise(Reason::ServerGone);
            }
            self.look_at_window(Instant::now());
        }
    }

    fn look_at_window(&mut self, now: Instant) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = window.as_mut() else { return };
        if open.end.is_some_and(|end| end <= now) {
            open.end = None;
            self.cancel.raise(Reason::FrozenLimit(open.limit));
        }
        let Err(why) = self.cancel.check() else { return };
        if *open.grace.get_or_insert(now + GRACE) <= now {
            (open.last_resort)(&why);
            *window = None;
        }
    }

    /// Whether a signal, a word of ours, the end of the server is there; waits for one of them or the window's end.
    fn wait(&self) -> nix::Result<[bool; 3]> {
        fn on(fd: BorrowedFd<'_>) -> PollFd<'_> {
            PollFd::new(fd, PollFlags::POLLIN)
        }
        let mut ready = vec![on(self.signals.as_fd()), on(self.wake.as_fd())];
        ready.extend(self.server.as_ref().map(|server| on(server.as_fd())));
        let left = self.window_acts().map(|time| time.saturating_duration_since(Instant::now()));
        poll(&mut ready, left.map_or(PollTimeout::NONE, timeout))?;
        let is_ready = |at: usize| ready.get(at).and_then(PollFd::any).unwrap_or(false);
        Ok([is_ready(0), is_ready(1), is_ready(2)])
    }

    /// When the window is to be looked at next.
    fn window_acts(&self) -> Option<Instant> {
        let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.as_ref().and_then(|open| open.end.into_iter().chain(open.grace).min())
    }

    fn take_signals(&self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            self.cancel.raise(Reason::Signal(signal.map_or("a signal", Signal::as_str)));
        }
    }

    /// Hears everything that was said so far; whether to go on. The end of the pipe is a word too: its owner is gone.
    fn hear(&mut self) -> bool {
        let mut words = [0; 64];
        let Ok(count @ 1..) = self.wake.read(&mut words) else { return false };
        let said = |word: u8| words.iter().take(count).any(|said| *said == word);
        if said(SERVER_MAY_GO) {
            self.server = None;
        }
        !said(STOP)
    }
}

/// One millisecond more, so that the end is over when poll returns; a long wait is cut and begun anew.
fn timeout(left: Duration) -> PollTimeout {
    let milliseconds = left.as_millis().saturating_add(1).min(60_000);
    u16::try_from(milliseconds).map_or(PollTimeout::MAX, PollTimeout::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use crate::sys::Pidfd;
    use std::process::{Command, Stdio};

    fn never() -> LastResort {
        Box::new(|why| panic!("the window was closed by force: {why}"))
    }

    fn outcome(cancel: &Cancel) -> Error {
        cancel.sleep(Duration::from_secs(60)).unwrap_err()
    }

    #[test]
    fn the_end_of_the_server_stops_the_run() {
        let mut server = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = Pidfd::open(server.id().cast_signed()).unwrap();
        let cancel = Cancel::default();
        let _watch = Watch::start(&cancel, Some(Box::new(pidfd))).unwrap();
        cancel.check().unwrap();
        drop(server.stdin.take());
        assert_eq!(outcome(&cancel).class(), Class::Server);
        server.wait().unwrap();
    }

    #[test]
    fn a_window_that_stays_open_stops_the_run_and_a_closed_one_does_not() {
        let cancel = Cancel::default();
        let mut watch = Watch::start(&cancel, None).unwrap();
        watch.window_opened(Duration::from_secs(600), never());
        watch.window_closed();
        cancel.check().unwrap();
        watch.window_opened(Duration::from_millis(5), never());
        let error = outcome(&cancel);
        assert_eq!(error.class(), Class::Deadline);
        assert!(error.to_string().contains("frozen"));
    }

    #[test]
    fn a_window_that_a_stopped_run_does_not_close_is_closed_by_force() {
        let cancel = Cancel::default();
        let (tell, told) = crossbeam_channel::bounded(1);
        let closed = Box::new(move |why: &Error| tell.send((Instant::now(), why.class())).unwrap());
        let mut watch = Watch::start(&cancel, None).unwrap();
        watch.window_opened(Duration::from_millis(5), closed);
        let stopped = Instant::now();
        let (when, why) = told.recv_timeout(GRACE * 10).unwrap();
        assert_eq!(why, Class::Deadline);
        assert!(when.duration_since(stopped) >= GRACE);
        // Once is enough.
        assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
    }

    #[test]
    fn a_closed_window_has_no_limit() {
        let cancel = Cancel::default();
        let mut watch = Watch::start(&cancel, None).unwrap();
        watch.window_opened(Duration::from_millis(30), never());
        watch.window_closed();
        cancel.sleep(Duration::from_millis(60)).unwrap();
    }

    #[test]
    fn a_server_that_may_go_is_not_missed() {
        let mut server = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = Pidfd::open(server.id().cast_signed()).unwrap();
        let cancel = Cancel::default();
        let mut watch = Watch::start(&cancel, Some(Box::new(pidfd))).unwrap();
        watch.server_may_go();
        drop(server.stdin.take());
        server.wait().unwrap();
        // The thread has answered to a later word, so it has seen what there was.
        watch.window_opened(Duration::from_millis(1), never());
        assert_eq!(outcome(&cancel).class(), Class::Deadline);
    }

    #[test]
    fn a_watch_that_is_dropped_ends_its_thread() {
        let cancel = Cancel::default();
        drop(Watch::start(&cancel, None).unwrap());
        cancel.check().unwrap();
    }
}
