//! The operating system where no safe library reaches it, and the wall clock.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

/// The wall clock.
#[allow(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Closes every descriptor from 3 on, which mysqld leaked to us: among them both ends of our own stdout pipe.
///
/// To be called first of all, while nothing in this process owns a descriptor but the standard three.
pub fn close_inherited_fds() {
    // SAFETY: a plain system call on numbers; at the start of main nothing owns any of these descriptors.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if closed != 0 {
        close_one_by_one();
    }
}

/// For kernels before 5.9 and sandboxes that do not know `close_range`.
fn close_one_by_one() {
    let names = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let listed: Vec<RawFd> = names.filter_map(|name| name.parse().ok()).filter(|fd| *fd >= 3).collect();
    let all = if listed.is_empty() { (3..65_536).collect() } else { listed };
    for fd in all {
        // SAFETY: as above; closing a number that is no descriptor only returns an error.
        unsafe { libc::close(fd) };
    }
}

/// A process that is watched: the descriptor becomes readable when it ends, and never means another process.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// The process of that number now.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: a plain system call on numbers; pidfds are close-on-exec by themselves.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0u32) })?;
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just given us this descriptor, nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The clock that file systems stamp files with (`CLOCK_REALTIME`): seconds since 1970 and nanoseconds.
pub fn file_clock() -> (i64, u32) {
    use nix::time::{ClockId, clock_gettime};
    // The call fails only for a clock that does not exist; 1970 makes no file look old.
    clock_gettime(ClockId::CLOCK_REALTIME).map_or((0, 0), |time| (time.tv_sec(), time.tv_nsec() as u32))
}

/// How far apart two time stamps of one file are at least if they differ: the tick of `CLOCK_REALTIME_COARSE`.
pub fn file_clock_tick() -> std::time::Duration {
    use nix::time::{ClockId, clock_getres};
    // 10 ms is the coarsest tick that Linux can be built with.
    clock_getres(ClockId::CLOCK_REALTIME_COARSE).map_or(std::time::Duration::from_millis(10), std::time::Duration::from)
}

/// The machine's name.
pub fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A number that two runs of one second do not share: for names, not for secrets.
pub fn random_u32() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds it from the operating system.
    std::hash::RandomState::new().build_hasher().finish() as u32
}
