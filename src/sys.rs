//! The operating system where no safe library reaches it, and the wall clock.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// Goes on in two processes.
///
/// Errors: there is more than one thread (`EBUSY`): another one may hold a lock, which the new process could never take.
pub fn fork() -> nix::Result<nix::unistd::ForkResult> {
    if std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
        return Err(Errno::EBUSY);
    }
    // SAFETY: this is the only thread, so that the new process is a whole copy of this one.
    unsafe { nix::unistd::fork() }
}

/// Ends the process without running anything of it: no destructor, no handler.
pub fn exit_at_once(status: u8) -> ! {
    // SAFETY: a plain system call that does not return.
    unsafe { libc::_exit(i32::from(status)) }
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

/// Makes `length` bytes of `to` from `to_offset` share the blocks of `from` from `offset`; a length of 0 means up to its end.
///
/// Both offsets and, but at the end of `from`, the length are multiples of the file system's block size.
pub fn clone_range(from: impl AsFd, offset: u64, length: u64, to: impl AsFd, to_offset: u64) -> nix::Result<()> {
    let range = libc::file_clone_range {
        src_fd: i64::from(from.as_fd().as_raw_fd()),
        src_offset: offset,
        src_length: length,
        dest_offset: to_offset,
    };
    // SAFETY: both descriptors are borrowed for the call, and the kernel only reads the struct, which outlives it.
    Errno::result(unsafe { libc::ioctl(to.as_fd().as_raw_fd(), libc::FICLONERANGE, &raw const range) }).map(drop)
}

/// Which memory pages of `length` bytes at `offset` of `file` are in the page cache; nothing is read for that.
///
/// `offset` is a multiple of the page size. Linux tells only the file's owner and who may write to it; to others
/// everything looks cached.
pub fn cached_pages(file: impl AsFd, offset: u64, length: usize) -> nix::Result<Vec<bool>> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    let mut pages = vec![0u8; length.div_ceil(page_bytes())];
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: a mapping at an address that the kernel chooses touches nothing of ours.
    let mapping = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, fd, offset) };
    if mapping == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the mapping is ours and never read, so that a shrinking file does no harm; there is a byte for each page.
    let asked = Errno::result(unsafe { libc::mincore(mapping, length, pages.as_mut_ptr()) });
    // SAFETY: the mapping was made above, with that length, and nothing refers to it.
    unsafe { libc::munmap(mapping, length) };
    asked.map(|_| pages.into_iter().map(|page| page & 1 == 1).collect())
}

/// The size of a memory page.
pub fn page_bytes() -> usize {
    // SAFETY: a plain library call.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096).max(1)
}

/// Sets the niceness of a thread.
pub fn set_niceness(thread: i32, niceness: u8) -> nix::Result<()> {
    let Ok(thread) = libc::id_t::try_from(thread) else { return Err(Errno::ESRCH) };
    // SAFETY: a plain system call on numbers.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, i32::from(niceness)) }).map(drop)
}

/// Sets the class and the level of a thread's reads and writes: 2 is best effort, 3 idle (`linux/ioprio.h`).
pub fn set_io_priority(thread: i32, class: u8, level: u8) -> nix::Result<()> {
    const WHO_PROCESS: i32 = 1;
    const CLASS_SHIFT: i32 = 13;
    let priority = i32::from(class) << CLASS_SHIFT | i32::from(level);
    // SAFETY: a plain system call on numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, thread, priority) }).map(drop)
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
