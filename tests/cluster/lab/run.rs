//! A donor run that a test follows from outside, through all its phases.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::backup::{Moment, Outcome, garbd};
use super::cluster::Cluster;
use super::process::{PATIENCE, Process, until};
use super::trace::Trace;

/// How long a run that is stepped goes on each time.
const STEP: Duration = Duration::from_millis(1);

/// A run of the program by the donor. Dropping it ends it, so that it cannot outlive the lab.
pub struct Run {
    garbd: Process,
    program: PathBuf,
    server: Pid,
    known: usize,
    mark: usize,
    /// What it had read when it was held first inside the window.
    read: u64,
    trace: Option<Trace>,
}

impl Cluster<'_> {
    /// Asks the donor for a backup, and returns as soon as the program runs.
    #[track_caller]
    pub fn begin(&self) -> Run {
        let (known, mark) = (self.labels().len(), self.donor.log_mark());
        // It leaves only after the request was taken, which may be late: watch from beside it.
        let mut garbd = garbd(&self.dir, &self.donor);
        let garbd = Process::spawn("garbd", garbd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        let (server, program) = (self.donor.pid(), self.donor.program.clone());
        let run = Run { garbd, program, server, known, mark, read: 0, trace: None };
        until("the donor run", PATIENCE, || run.pid());
        run
    }
}

impl Run {
    /// Where the donor's log was when the run was asked for.
    pub fn mark(&self) -> usize {
        self.mark
    }

    /// Lets the run go on to `moment`, which must be a later one.
    #[track_caller]
    pub fn go_on_to(&mut self, cluster: &Cluster<'_>, moment: Moment) {
        let donor = &cluster.donor;
        if let Moment::Clone(name) = moment {
            let pid = self.pid().expect("the run is there");
            let trace = self.trace.get_or_insert_with(|| Trace::begin(pid, &donor.datadir));
            trace.until_clone_of(name);
        } else {
            self.go_on();
            self.trace = None;
        }
        match moment {
            Moment::Ahead(bytes) | Moment::Read(bytes) => {
                self.wait_read(self.read + bytes);
                self.stop();
            }
            Moment::Flushed => {
                // Halted before it can read anything, and then the server answers.
                donor.wait_log(self.mark, "Provider paused at", PATIENCE);
                self.stop();
                self.read = self.read_bytes().expect("the run is there");
            }
            Moment::Stopped => until("the run to stop", PATIENCE, || self.is_stopped()),
            Moment::Clone(_) => {}
        }
        if !matches!(moment, Moment::Ahead(_)) {
            donor.wait_log(self.mark, "Donor state reached", PATIENCE);
        }
    }

    /// Waits until the run has read so many bytes.
    #[track_caller]
    pub fn wait_read(&self, bytes: u64) {
        until("the run to read", PATIENCE, || (self.read_bytes()? >= bytes).then_some(()));
    }

    fn is_stopped(&self) -> Option<()> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?)).ok()?;
        stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
    }

    /// The process that does the work, in the group of the server that it was run by.
    fn pid(&self) -> Option<Pid> {
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
        // By the file, not by the path: a server in a tree of its own sees another one.
        let file = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        let program = file(&self.program)?;
        let is_ours = |pid: &Pid| {
            file(Path::new(&format!("/proc/{pid}/exe"))) == Some(program)
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
        until("the run to stop", PATIENCE, || self.is_stopped());
    }

    /// Lets the run go on.
    pub fn go_on(&self) {
        if let Some(trace) = &self.trace {
            trace.end();
        }
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
