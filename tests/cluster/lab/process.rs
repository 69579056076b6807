//! Processes that cannot outlive the lab: every one is the head of a process group of its own, and is ended by its id.
//!
//! A server gets SIGKILL from the kernel when the lab dies, however it dies (`setpriv --pdeathsig`). A signal to the lab
//! ends the groups, takes the [mounts](super::mount) away and removes the directory before the lab goes.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::Pid;

/// How long a command may take that has no deadline of its own.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What must be taken down when the lab is told to stop.
#[derive(Default)]
struct Standing {
    groups: Vec<i32>,
    mounts: Vec<PathBuf>,
    directory: Option<PathBuf>,
}

static STANDING: Mutex<Option<Standing>> = Mutex::new(None);

fn standing<T>(change: impl FnOnce(&mut Standing) -> T) -> T {
    let mut held = STANDING.lock().unwrap_or_else(PoisonError::into_inner);
    change(held.get_or_insert_default())
}

/// The signals that end the lab in good order.
fn endings() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// From now on SIGINT, SIGTERM and SIGHUP take everything down; call it before the first thread or process.
pub fn clean_up_on_signals() {
    endings().thread_block().expect("signals can be blocked");
    thread::spawn(|| {
        let signal = endings().wait().expect("signals can be waited for");
        eprintln!("\nstopped by {signal}: taking the lab down");
        take_everything_down();
        std::process::exit(128 + signal as i32);
    });
}

fn take_everything_down() {
    let all = standing(std::mem::take);
    for group in all.groups {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    for mount in all.mounts.iter().rev() {
        super::mount::unmount(mount);
    }
    if let Some(directory) = all.directory {
        remove_tree(&directory);
    }
}

/// The directory to remove if a signal ends the lab; `None` keeps it.
pub fn directory_to_remove(directory: Option<&Path>) {
    standing(|standing| standing.directory = directory.map(Path::to_owned));
}

/// Remembers a mount to be taken away if a signal ends the lab.
pub fn mounted(place: &Path) {
    standing(|standing| standing.mounts.push(place.to_owned()));
}

/// Forgets a mount that is gone.
pub fn unmounted(place: &Path) {
    standing(|standing| standing.mounts.retain(|mount| mount != place));
}

/// Removes `directory`, patiently: a process that was just killed may still hold or write a file for a moment.
pub fn remove_tree(directory: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) = std::fs::remove_dir_all(directory) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        if Instant::now() > end {
            eprintln!("cannot remove {}: {error}", directory.display());
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// A child process at the head of its own group; dropping it kills the group.
pub struct Process {
    child: Child,
    what: String,
    left_running: bool,
}

impl Process {
    /// Starts `command` in a group of its own, standard input from nowhere unless it was set.
    pub fn spawn(what: &str, command: &mut Command) -> Self {
        // Children must not inherit the blocked signals; a signal in these microseconds ends the lab at once, and the
        // kernel then ends the servers.
        endings().thread_unblock().expect("signals can be unblocked");
        let child = command.process_group(0).spawn();
        endings().thread_block().expect("signals can be blocked");
        let child = child.unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
        standing(|standing| standing.groups.push(child.id() as i32));
        Self { child, what: what.to_owned(), left_running: false }
    }

    /// The process id, which is the group's id as well.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// The child's pipes, as far as it was started with some.
    pub fn pipes(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends `signal` to the process alone.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap_or_else(|error| panic!("cannot send {signal} to {}: {error}", self.what));
    }

    /// Waits for the end.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.what);
        until(&what, patience, || self.ended())
    }

    /// Lets the process live on after the lab, for `demo --keep`.
    pub fn leave_running(&mut self) {
        self.left_running = true;
        self.forget();
    }

    fn forget(&self) {
        let group = self.pid().as_raw();
        standing(|standing| standing.groups.retain(|known| *known != group));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.left_running {
            // The group first: a child of the child may live on after the head was reaped.
            let _ = killpg(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
            self.forget();
        }
    }
}

/// Runs `command` to its end and returns what it printed; late is a failure.
pub fn output(what: &str, command: &mut Command, patience: Duration) -> Output {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(what, piped);
    let out = drain(process.pipes().stdout.take());
    let err = drain(process.pipes().stderr.take());
    let status = process.wait(patience);
    Output { status, stdout: out.join().expect("reader"), stderr: err.join().expect("reader") }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        }
        bytes
    })
}

/// Runs `command`, which must succeed, and returns its standard output.
#[track_caller]
pub fn must(what: &str, command: &mut Command, patience: Duration) -> String {
    let ended = output(what, command, patience);
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(
        ended.status.success(),
        "{what} failed ({}): {}{}",
        ended.status,
        text,
        String::from_utf8_lossy(&ended.stderr)
    );
    text
}

/// Runs a program with plain arguments, which must succeed.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> String {
    must(program, Command::new(program).args(arguments), PATIENCE)
}

/// Asks every few milliseconds until `probe` has an answer; late is a failure that names `what` was waited for.
#[track_caller]
pub fn until<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {} s in vain for {what}", patience.as_secs());
        thread::sleep(Duration::from_millis(2));
    }
}
