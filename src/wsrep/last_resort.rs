//! The last resort: a thread of this run hangs inside the frozen window, and the server must go on all the same.
//!
//! Called by the [watcher](super::watch). The hanging thread may hold every lock that there is, those of stdout and stderr
//! among them: so this writes to the bare descriptors, takes no lock, and leaves without running any destructor. What was
//! copied has no name yet and goes with the process. The server reads `continue`, and then an exit status without `done`:
//! for it the transfer has failed.

use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

use super::session::Continued;
use crate::error::Error;
use crate::{log, sys};

/// Lets the server go on and ends this process with the errno of `why`; returns if the server was let go already.
pub fn let_go(why: &Error, continued: &Continued) {
    if !continued.claim() {
        return;
    }
    say(std::io::stdout().as_fd(), "continue\n");
    let text = format!("{why}, and the run did not stop by itself: the server was let go by force, there is no backup");
    say(std::io::stderr().as_fd(), &log::donor_error(&text));
    sys::exit_at_once(why.errno());
}

/// Writes a line if that does not block.
fn say(to: BorrowedFd<'_>, line: &str) {
    let mut ready = [PollFd::new(to, PollFlags::POLLOUT)];
    let writable = poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    if writable {
        // There is nobody left to tell that nobody could be told.
        let _ = write(to, line.as_bytes());
    }
}
