//! Halts a run exactly where it is about to clone a file: cloning everything takes milliseconds, too few to hit by signals.

use std::path::{Path, PathBuf};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The request number of `FICLONERANGE`, as `/proc/PID/syscall` writes it.
const CLONE: &str = "0x4020940d";

/// A run whose main thread stops at every system call. Only the thread that made this can use it.
#[derive(Debug)]
pub struct Trace {
    pid: Pid,
    tables_flushed: PathBuf,
}

impl Trace {
    /// Begins to trace a run of the server on `datadir`.
    pub fn begin(pid: Pid, datadir: &Path) -> Self {
        ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).expect("root may trace");
        ptrace::interrupt(pid).expect("the run is there");
        let trace = Self { pid, tables_flushed: datadir.join("tables_flushed") };
        trace.wait();
        trace
    }

    /// Lets the run go on until, inside the window, it is about to clone a file whose path ends with `name`.
    #[track_caller]
    pub fn until_clone_of(&self, name: &str) {
        let mut signal = None;
        loop {
            ptrace::syscall(self.pid, signal).expect("the run is there");
            signal = None;
            match self.wait() {
                WaitStatus::PtraceSyscall(_) if self.is_about_to_clone(name) => return,
                WaitStatus::Stopped(_, received) => signal = Some(received),
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => panic!("the run ended before it cloned {name:?}"),
                _ => {}
            }
        }
    }

    /// Lets the run go on alone.
    pub fn end(&self) {
        ptrace::detach(self.pid, None::<Signal>).expect("the run is there");
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.pid, Some(WaitPidFlag::__WALL)).expect("the run is there")
    }

    fn is_about_to_clone(&self, name: &str) -> bool {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.pid)).unwrap_or_default();
        call.split(' ').nth(2) == Some(CLONE) && self.tables_flushed.exists() && self.has_open(name)
    }

    /// Besides the files without a name the run has one file open at a time.
    fn has_open(&self, name: &str) -> bool {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|file| file.to_string_lossy().ends_with(name))
    }
}
