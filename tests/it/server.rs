//! The scripted mysqld: starts the program as the servers do, reads its stdout as strictly as they do, and does at each
//! line what the test says.
//!
//! The program runs below two shells: the inner one is the `sh -c` of `wsp::process` in MariaDB, the outer one stands for
//! mysqld itself, so that a test can kill the server and see what its orphan does. All of them are one process group,
//! which is killed when the test is over.

use std::any::Any;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::outcome::Outcome;
use crate::small_disk::SmallDisk;
use crate::tree;

/// Where the cluster stands when the backup is asked for.
pub const ASKED: &str = "6d3f9a04-1234-11ef-8000-0242ac120002:24732";

/// Where the files stand when the server holds them still.
pub const GTID: &str = "6d3f9a04-1234-11ef-8000-0242ac120002:24755";

/// The whole dialogue of a backup.
pub const DIALOGUE: [&str; 3] = ["flush tables", "continue", "done 6d3f9a04-1234-11ef-8000-0242ac120002:24755 0"];

/// The server's buffer less its zero byte.
const LINE_BYTES: usize = 127;

/// Longer than any healthy run of a test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What both shells do: run the rest of their arguments as a child, not in their own place.
const SHELL: &str = "\"$0\" \"$@\"; exit $?";

/// What the server does when it has read a line.
pub type Action<'a> = Box<dyn FnOnce(&mut Stage) + 'a>;

/// The running server as an action sees it.
pub struct Stage {
    pub datadir: PathBuf,
    pub repository: PathBuf,
    /// The process that stands for mysqld.
    pub server: Pid,
    stdout: Option<ChildStdout>,
}

/// A run to be made.
pub struct Donor<'a> {
    datadir: PathBuf,
    repository: PathBuf,
    args: Vec<(String, Option<OsString>)>,
    more: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    options: String,
    stdin: Option<String>,
    wrapper: Vec<OsString>,
    program: PathBuf,
    user: Option<u32>,
    actions: Vec<(&'static str, Action<'a>)>,
    owned: Vec<Box<dyn Any>>,
    may_miss_actions: bool,
}

impl<'a> Donor<'a> {
    /// MariaDB 10.11 with a small datadir and an empty repository.
    pub fn new() -> Self {
        let repository = tempfile::tempdir().unwrap();
        let mut donor = Self {
            datadir: PathBuf::new(),
            repository: repository.path().to_owned(),
            args: Vec::new(),
            more: Vec::new(),
            environment: Vec::new(),
            options: String::new(),
            stdin: None,
            wrapper: Vec::new(),
            program: env!("CARGO_BIN_EXE_wsrep_sst_backup").into(),
            user: None,
            actions: Vec::new(),
            owned: vec![Box::new(repository)],
            may_miss_actions: false,
        };
        // The files of a test are young; a test about another source says so.
        donor = donor.set("PRECOPY_QUIET", "1s").set("SOURCE", "locked");
        for (name, value) in [
            ("--role", "donor"),
            ("--address", ""),
            ("--local-port", "4444"),
            ("--socket", "/nonexistent/mysqld.sock"),
            ("--progress", "0"),
            ("--gtid", ASKED),
            ("--gtid-domain-id", "0"),
        ] {
            donor = donor.arg(name, value);
        }
        donor.datadir(tree::small())
    }

    pub fn datadir(self, tree: TempDir) -> Self {
        let path = tree.path().to_owned();
        let mut donor = self.datadir_at(&path);
        donor.owned.push(Box::new(tree));
        donor
    }

    /// A datadir that somebody else owns.
    pub fn datadir_at(mut self, path: &Path) -> Self {
        self.datadir = path.to_owned();
        let value = format!("{}/", path.display());
        self.arg("--datadir", &value)
    }

    pub fn repository_at(mut self, path: &Path) -> Self {
        self.repository = path.to_owned();
        self
    }

    pub fn repository_path(&self) -> PathBuf {
        self.repository.clone()
    }

    pub fn datadir_path(&self) -> PathBuf {
        self.datadir.clone()
    }

    /// Passes `name` with this value instead of the one it has.
    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.args.retain(|(known, _)| known != name);
        self.args.push((name.to_owned(), Some(value.into())));
        self
    }

    /// Leaves `name` out.
    pub fn without(mut self, name: &str) -> Self {
        self.args.retain(|(known, _)| known != name);
        self
    }

    /// Arguments as they are, after the others.
    pub fn more(mut self, args: &[&str]) -> Self {
        self.more.extend(args.iter().map(OsString::from));
        self
    }

    /// `WSREP_SST_BACKUP_NAME=value`.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((format!("WSREP_SST_BACKUP_{name}"), value.into()));
        self
    }

    /// Lines of the option file that the server was started with.
    pub fn options(mut self, lines: &str) -> Self {
        self.options = lines.to_owned();
        self
    }

    /// What the server writes to our stdin, which is a pipe then.
    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.to_owned());
        self
    }

    /// A command that starts the server.
    pub fn below(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(OsString::from).collect();
        self
    }

    /// Runs everything as a user whom file modes bind: root is not, so then it is another one, who gets the datadir.
    pub fn bound_by_modes(mut self) -> Self {
        if !nix::unistd::geteuid().is_root() {
            return self;
        }
        const NOBODY: u32 = 65_534;
        let home = tempfile::tempdir_in("/tmp").unwrap();
        let program = home.path().join("wsrep_sst_backup");
        fs::copy(&self.program, &program).unwrap();
        let mut paths = vec![home.path().to_owned(), self.repository.clone(), self.datadir.clone()];
        paths.extend(tree::list(&self.datadir).iter().map(|name| self.datadir.join(name)));
        for path in paths {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        self.owned.push(Box::new(home));
        self.program = program;
        self.user = Some(NOBODY);
        self
    }

    /// What the server does when it has read `line`; for the next occurrence of it.
    pub fn on(mut self, line: &'static str, action: impl FnOnce(&mut Stage) + 'a) -> Self {
        self.actions.push((line, Box::new(action)));
        self
    }

    /// Puts the repository on a disk of its own with this much space.
    pub fn on_small_disk(mut self, bytes: usize) -> Self {
        let disk = SmallDisk::mount(bytes);
        self.repository = disk.path().join("repository");
        fs::create_dir(&self.repository).unwrap();
        self.owned.push(Box::new(disk));
        self
    }

    /// Runs it to its end, whether it says `flush tables` (then the server does this) or fails before.
    pub fn run_to_any_end(mut self, action: impl FnOnce(&mut Stage) + 'a) -> Outcome {
        self.may_miss_actions = true;
        self.on("flush tables", action).run()
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Outcome {
        let (wire, status, stderr) = self.run_to_end();
        Outcome::new(wire, status, stderr, self.datadir, self.repository, self.owned)
    }

    /// Runs it to an end at which it could not clean up, and gives the lines that it said.
    pub fn run_to_sudden_end(mut self) -> Vec<String> {
        self.run_to_end().0
    }

    fn run_to_end(&mut self) -> (Vec<String>, ExitStatus, String) {
        let directory = tempfile::tempdir().unwrap();
        let [defaults_file, stderr] = ["my.cnf", "error.log"].map(|name| directory.path().join(name));
        fs::write(&defaults_file, &self.options).unwrap();
        let readable =
            |path: &Path| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        readable(directory.path());
        let mut child = self.spawn(&defaults_file, fs::File::create(&stderr).unwrap());
        if let (Some(text), Some(mut stdin)) = (self.stdin.take(), child.0.stdin.take()) {
            stdin.write_all(text.as_bytes()).unwrap();
        }
        let mut stage = Stage {
            datadir: self.datadir.clone(),
            repository: self.repository.clone(),
            server: Pid::from_raw(child.0.id().cast_signed()),
            stdout: child.0.stdout.take(),
        };
        let wire = self.dialogue(&mut stage);
        let status = child.0.wait().unwrap();
        (wire, status, fs::read_to_string(&stderr).unwrap())
    }

    fn spawn(&self, defaults_file: &Path, stderr: fs::File) -> Group {
        let shell = |command: &mut Vec<OsString>| command.extend(["/bin/sh", "-c", SHELL].map(OsString::from));
        let mut line = self.wrapper.clone();
        shell(&mut line);
        shell(&mut line);
        line.push(self.program.clone().into());
        for (name, value) in &self.args {
            line.push(name.into());
            line.extend(value.clone());
        }
        line.extend(["--defaults-file".into(), defaults_file.into()]);
        line.extend(self.more.iter().cloned());
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("TZ", "UTC");
        command.env("WSREP_SST_BACKUP_REPOSITORY", &self.repository).envs(self.environment.iter().cloned());
        if self.datadir.is_dir() {
            command.current_dir(&self.datadir);
        }
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(stderr).process_group(0);
        Group(command.spawn().unwrap())
    }

    /// Reads lines until the program has closed its stdout, or the server does not want to read any more.
    fn dialogue(&mut self, stage: &mut Stage) -> Vec<String> {
        let progress = self
            .args
            .iter()
            .any(|(name, value)| name == "--progress" && value.as_ref().is_some_and(|value| value != "0"));
        let mut reader = Reader { frozen: false, done: false, progress };
        let mut wire = Vec::new();
        let started = Instant::now();
        while let Some(line) = stage.stdout.as_mut().and_then(|stdout| read_line(stdout, started)) {
            reader.check(&line);
            if let Some(at) = self.actions.iter().position(|(expected, _)| line.starts_with(expected)) {
                self.actions.remove(at).1(stage);
            }
            wire.push(line);
        }
        let missed: Vec<_> = self.actions.iter().map(|(line, _)| line).collect();
        assert!(missed.is_empty() || self.may_miss_actions, "the program never said {missed:?}, but {wire:?}");
        wire
    }
}

impl Stage {
    /// The process that does the work, of the server's group; `None` when it has ended. It speaks on stdout, which one that
    /// stands in for it does not; a child of it that is about to become another program is younger.
    pub fn program(&self) -> Option<Pid> {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_it = |pid: &i32| -> Option<bool> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (start, rest) = stat.rsplit_once(") ")?;
            let group: i32 = rest.split(' ').nth(2)?.parse().ok()?;
            // A process name is cut after 15 bytes.
            let ours = group == self.server.as_raw() && start.ends_with("(wsrep_sst_backu");
            let stdout = fs::read_link(format!("/proc/{pid}/fd/1")).ok()?;
            Some(ours && stdout != Path::new("/dev/null"))
        };
        pids.filter(|pid| is_it(pid) == Some(true)).min().map(Pid::from_raw)
    }

    /// The program, which runs.
    pub fn running_program(&self) -> Pid {
        self.program().expect("the program runs")
    }

    pub fn kill_server(&self) {
        kill(self.server, Signal::SIGKILL).unwrap();
    }

    /// Closes the reading end of the program's stdout.
    pub fn hang_up(&mut self) {
        self.stdout = None;
    }

    /// Waits until the program writes more into its repository, in files that may have no name yet.
    pub fn wait_for_copying(&self) {
        let size = |path: PathBuf| fs::metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |file| file.len());
        let written = || -> u64 {
            let named = tree::list(&self.repository).into_iter().map(|name| self.repository.join(name));
            named.chain(self.unnamed_files()).map(size).sum()
        };
        let before = written();
        wait_until("the program copies", || written() > before);
    }

    fn unnamed_files(&self) -> Vec<PathBuf> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.running_program()));
        let here = |path: &PathBuf| fs::read_link(path).is_ok_and(|target| target.starts_with(&self.repository));
        open.into_iter().flatten().flatten().map(|entry| entry.path()).filter(here).collect()
    }
}

/// Waits, without any fixed time, until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "in vain: {what}");
        poll(&mut [], PollTimeout::from(2u8)).unwrap();
    }
}

/// All processes of a run, killed when it is over: nothing of it may be left then.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // There is no such group any more after a run that ended as it should.
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// One line as `fgets` with the server's buffer reads it, or the end.
fn read_line(stdout: &mut ChildStdout, started: Instant) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let mut ready = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(100u8)).unwrap();
        if !ready[0].any().unwrap_or(false) {
            assert!(started.elapsed() < PATIENCE, "the program says nothing and does not end; so far: {line:?}");
            continue;
        }
        let mut byte = [0];
        if stdout.read(&mut byte).unwrap() == 0 {
            assert!(line.is_empty(), "the last line has no newline: {line:?}");
            return None;
        }
        if byte == *b"\n" {
            return Some(String::from_utf8(line).unwrap());
        }
        line.push(byte[0]);
        assert!(line.len() < LINE_BYTES, "the line does not fit into the server's buffer: {line:?}");
    }
}

/// What may be said now.
struct Reader {
    frozen: bool,
    done: bool,
    progress: bool,
}

impl Reader {
    fn check(&mut self, line: &str) {
        assert!(!self.done, "the dialogue is over, but there is another line: {line:?}");
        match line.split_once(' ') {
            _ if line == "flush tables" => {
                assert!(!self.frozen, "a second `flush tables` dead-locks the server");
                self.frozen = true;
            }
            _ if line == "continue" => self.frozen = false,
            Some(("done", position)) => {
                let gtid = position.split(' ').next().unwrap();
                assert!(gtid.parse::<wsrep_sst_backup::gtid::Gtid>().is_ok(), "not a position: {line:?}");
                assert!(!self.frozen, "`done` in the frozen window");
                self.done = true;
            }
            Some(("total" | "complete", number)) if self.progress => {
                number.parse::<u64>().expect("progress is a number");
            }
            _ => panic!("the server does not know the line {line:?} and abandons the backup"),
        }
    }
}
