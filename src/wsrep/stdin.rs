//! Stdin, where newer servers send the credentials of a temporary account: emptied and forgotten.
//!
//! MariaDB 11.8, PXC 8.0 and Codership 8.0.35 write a few lines and close the pipe before they read our stdout. We need
//! no credentials, so they are never kept; a server must only not be left with a pipe that nobody reads.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// The most that is read; the servers send less than 1 KiB.
const MOST_BYTES: usize = 64 << 10;

/// How long the server may take to close its end.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long one poll waits before cancellation is looked at.
const SLICE_MS: u16 = 50;

/// Reads `stdin` to its end if it is a pipe; more than 64 KiB or 5 s are not waited for.
pub fn drain(stdin: impl AsFd, cancel: &Cancel) -> Result<()> {
    drain_within(stdin, DEADLINE, cancel)
}

fn drain_within(stdin: impl AsFd, deadline: Duration, cancel: &Cancel) -> Result<()> {
    let kind = fstat(&stdin).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
    // A closed stdin is none: there is nothing to read.
    if kind != Ok(SFlag::S_IFIFO) {
        return Ok(());
    }
    let cannot = |cause: std::io::Error| Error::io("read", "stdin", cause);
    // Read past the buffer of std::io::Stdin, so that the credentials stay in no memory of ours but this.
    let mut pipe = File::from(stdin.as_fd().try_clone_to_owned().map_err(cannot)?);
    let started = Instant::now();
    let mut drained = 0;
    let mut buffer = [0u8; 4096];
    while drained < MOST_BYTES && started.elapsed() < deadline {
        cancel.check()?;
        let mut ready = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(SLICE_MS)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => (),
            Err(cause) => return Err(cannot(cause.into())),
        }
        match pipe.read(&mut buffer).map_err(cannot)? {
            0 => return Ok(()),
            count => drained += count,
        }
    }
    tracing::warn!("the server sent more on stdin than any known one, or did not close it: the rest is left unread");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Write, pipe};

    #[test]
    fn what_the_server_sends_is_read_to_its_end_and_no_further_than_the_bound() {
        let (reader, mut writer) = pipe().unwrap();
        let sender = std::thread::spawn(move || writer.write_all(b"sst_user=a\nsst_password=b\n"));
        drain(&reader, &Cancel::default()).unwrap();
        sender.join().unwrap().unwrap();
        let (mut reader, mut writer) = pipe().unwrap();
        let sender = std::thread::spawn(move || {
            writer.write_all(&[b'x'; MOST_BYTES + 100]).unwrap();
        });
        drain(&reader, &Cancel::default()).unwrap();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        sender.join().unwrap();
        assert!((1..=100).contains(&rest.len()), "{}", rest.len());
    }

    #[test]
    fn a_pipe_that_stays_open_is_given_up_and_a_file_is_left_alone() {
        let (reader, _writer) = pipe().unwrap();
        drain_within(&reader, Duration::from_millis(10), &Cancel::default()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        drain(&file, &Cancel::default()).unwrap();
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "abc");
    }
}
