//! A donor run that a test follows from outside, through all its phases.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::backup::{Outcome, garbd};
use super::cluster::Cluster;
use super::process::{PATIENCE, Process, until};

/// How long a run that is stepped goes on each time.
const STEP: Duration = Duration::from_millis(1);

/// A run of the program by the donor. Dropping it ends it, so that it cannot outlive the lab.
pub struct Run {
    garbd: Process,
    program: PathBuf,
    server: Pid,
    known: usize,
    mark: usize,
}

impl Cluster<'_> {
    /// Asks the donor for a backup, and returns as soon as the program runs.
    #[track_caller]
    pub fn begin(&self) -> Run {
        let (known, mark) = (self.labels().len(), self.donor.log_mark());
        // It leaves only after the request was taken, which may be late: watch from beside it.
        let mut garbd = garbd(&self.dir, &self.donor);
        let garbd = Process::spawn("garbd", garbd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        let (server, program) = (self.donor.pid(), self.lab.program.clone());
        let run = Run { garbd, program, server, known, mark };
        until("the donor run", PATIENCE, || run.pid());
        run
    }
}

impl Run {
    /// Where the donor's log was when the run was asked for.
    pub fn mark(&self) -> usize {
        self.mark
    }

    /// Waits until the run has read so many bytes.
    #[track_caller]
    pub fn wait_read(&self, bytes: u64) {
        until("the run to read", PATIENCE, || (self.read_bytes()? >= bytes).then_some(()));
    }

    /// The process that does the work, in the group of the server that it was run by.
    fn pid(&self) -> Option<Pid> {
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
        let is_ours = |pid: &Pid| {
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.program)
                && nix::unistd::getpgid(Some(*pid)) == Ok(self.server)
        };
        let ours: Vec<(Pid, Pid)> = pids.filter(is_ours).filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
        // With `release = held` a second one stands in for it: its parent.
        ours.iter().find(|(pid, _)| ours.iter().all(|(_, parent)| parent != pid)).map(|(pid, _)| *pid)
    }

    fn read_bytes(&self) -> Option<u64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.pid()?)).ok()?;
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).and_then(|bytes| bytes.parse().ok())
    }

    /// The length of the file without a name that holds the clones of what is in `datadir`; 0 if there is none.
    pub fn cloned_bytes(&self, datadir: &Path) -> u64 {
        let Some(pid) = self.pid() else { return 0 };
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let unnamed = files.filter(|file| {
            let target = std::fs::read_link(file.path()).unwrap_or_default();
            target.starts_with(datadir) && target.to_string_lossy().ends_with(" (deleted)")
        });
        unnamed.filter_map(|file| std::fs::metadata(file.path()).ok()).map(|found| found.len()).max().unwrap_or(0)
    }

    /// Holds the run with SIGSTOP.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets the run go on.
    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Lets a held run go on, a moment at a time, until `reached`.
    #[track_caller]
    pub fn step_until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        until(what, PATIENCE, || {
            self.go_on();
            thread::sleep(STEP);
            self.stop();
            reached().then_some(())
        });
    }

    /// `kill -9` to the run.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid().expect("the run is there"), signal).expect("the run is there");
    }

    /// Whether the run is still there.
    pub fn lives(&self) -> bool {
        self.pid().is_some()
    }

    /// Waits until the run's process is gone.
    #[track_caller]
    pub fn wait_end(&self) {
        until("the end of the run", PATIENCE, || (!self.lives()).then_some(()));
    }

    /// Lets the run go on, and waits for what becomes of it.
    #[track_caller]
    pub fn release(self, cluster: &Cluster<'_>) -> Outcome {
        self.go_on();
        self.outcome(cluster)
    }

    /// Waits for what the donor tells the cluster of the run.
    #[track_caller]
    pub fn outcome(mut self, cluster: &Cluster<'_>) -> Outcome {
        assert!(self.garbd.wait(PATIENCE).success(), "garbd asks and leaves");
        cluster.outcome(&cluster.donor, self.known, self.mark)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok().map(Pid::from_raw)
}
