//! What is set on a connection's socket at either end.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

/// Seconds without a byte after which the other end is asked whether it still is there.
const SILENCE: u32 = 60;

/// Seconds between such questions.
const AGAIN: u32 = 15;

/// Questions without an answer after which the connection has ended.
const QUESTIONS: u32 = 4;

/// A host that vanished is noticed after two minutes, also where nothing has to be sent.
pub(super) fn watch_for_silence(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    setsockopt(&socket, sockopt::TcpKeepIdle, &SILENCE)?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &AGAIN)?;
    setsockopt(&socket, sockopt::TcpKeepCount, &QUESTIONS)?;
    // Small requests and answers go out at once.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    Ok(())
}
