//! One real mariadbd: its directory, its option file, its life, its log.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::Lab;
use super::mount::FileSystem;
use super::ports::Port;
use super::process::{PATIENCE, Process, must, output, until};
use super::system::System;

/// The account that the servers run under.
pub const ACCOUNT: &str = "mysql";

/// Where the program's options begin, to the end of the option file.
const PROGRAM_GROUP: &str = "\n[wsrep_sst_backup]\n";

/// Where a server has its files, apart from the datadir.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Places {
    /// Everything in the datadir.
    #[default]
    Datadir,
    /// System tablespace, redo log, undo logs, Aria log and binary logs in directories of their own.
    Apart,
}

/// What a node is configured with beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lines for `[mysqld]`.
    pub server: Vec<String>,
    /// Lines for `[wsrep_sst_backup]`.
    pub backup: Vec<String>,
    /// Where the files are.
    pub places: Places,
    /// The donor's home is on a file system of its own, of so many mebibytes.
    pub disk: Option<(FileSystem, u64)>,
    /// What is in the server's SST slot.
    pub slot: Slot,
}

/// A program for a server's SST slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slot {
    /// The program under test.
    #[default]
    Ours,
    /// The one that does not settle ([`crate::naive`]).
    Naive,
}

/// The ports of one Galera node.
struct Ports {
    server: Port,
    group: Port,
    ist: Port,
    sst: Port,
}

/// A server with a directory of its own: option file, socket, error log and (usually) datadir.
pub struct Node {
    /// `wsrep_node_name`.
    pub name: String,
    /// The directory of everything that is this node's.
    pub home: PathBuf,
    /// `datadir`.
    pub datadir: PathBuf,
    options: Options,
    ports: Ports,
    /// The program in its SST slot.
    pub program: PathBuf,
    system: System,
    basedir: PathBuf,
    share: PathBuf,
    provider: PathBuf,
    dies_with_the_lab: bool,
    process: Option<Process>,
}

/// How a server takes part in a cluster.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    /// The first of a new cluster.
    Bootstrap,
    /// A member that finds the others at this `gcomm://` list.
    Join(&'a str),
    /// A server of its own, with Galera off.
    Standalone,
}

impl Node {
    /// A node with a home below `home`'s parent and a datadir that may not exist yet.
    pub fn new(lab: &Lab, name: &str, home: PathBuf, datadir: PathBuf, options: Options) -> Self {
        std::fs::create_dir_all(&home).expect("the node's home");
        super::own(&home);
        let ports = Ports { server: Port::free(), group: Port::free(), ist: Port::free(), sst: Port::free() };
        let basedir = lab.basedir_with(options.slot);
        Self {
            name: name.to_owned(),
            home,
            datadir,
            options,
            ports,
            program: super::in_slot(&basedir),
            system: lab.system.clone(),
            basedir,
            share: lab.share.clone(),
            provider: lab.provider.clone(),
            dies_with_the_lab: lab.takes_servers_along(),
            process: None,
        }
    }

    /// The member's group address, `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.group.number())
    }

    /// The client socket.
    pub fn socket(&self) -> PathBuf {
        self.home.join("sock")
    }

    /// The server's error log, where the backup program's log lines land as well.
    pub fn error_log(&self) -> PathBuf {
        self.home.join("error.log")
    }

    /// The option file.
    pub fn option_file(&self) -> PathBuf {
        self.home.join("my.cnf")
    }

    /// The directory of a kind of file when they are [`Places::Apart`].
    pub fn apart(&self, what: &str) -> PathBuf {
        self.home.join(what)
    }

    /// The lines of the option file that say where the server's files are.
    fn places(&self) -> String {
        let mut text = format!("datadir={}\n", self.datadir.display());
        if self.options.places == Places::Apart {
            let dir = |what: &str| self.apart(what).display().to_string();
            let _ = writeln!(text, "innodb_data_home_dir={}", dir("innodb-home"));
            let _ = writeln!(text, "innodb_log_group_home_dir={}", dir("redo"));
            let _ = writeln!(text, "innodb_undo_directory={}", dir("undo"));
            let _ = writeln!(text, "aria_log_dir_path={}", dir("aria"));
            let _ = writeln!(text, "log-bin={}/mybin", dir("binlog"));
        }
        text
    }

    /// Writes the option file for `role`.
    pub fn write_option_file(&self, role: Role<'_>) {
        let mut text = format!("[mysqld]\nbasedir={}\n{}", self.basedir.display(), self.places());
        let _ = writeln!(text, "lc-messages-dir={}", self.share.display());
        let _ = writeln!(text, "character-sets-dir={}/charsets", self.share.display());
        let _ = writeln!(text, "socket={}\nlog-error={}", self.socket().display(), self.error_log().display());
        let _ = writeln!(text, "pid-file={}/pid", self.home.display());
        let _ = writeln!(text, "bind-address=127.0.0.1\nport={}", self.ports.server.number());
        text.push_str(
            "binlog_format=ROW\ninnodb_autoinc_lock_mode=2\nskip-name-resolve\nperformance_schema=OFF\n\
             innodb_buffer_pool_size=256M\ninnodb_log_file_size=48M\ninnodb_undo_tablespaces=3\n\
             innodb_flush_log_at_trx_commit=2\nkey_buffer_size=1M\naria_pagecache_buffer_size=8M\n\
             aria_log_file_size=8M\n",
        );
        match role {
            Role::Standalone => text.push_str("wsrep_on=OFF\n"),
            // The first node outweighs the others, so that it goes on when one of two is killed.
            Role::Bootstrap => self.galera(&mut text, "gcomm://", 3),
            Role::Join(members) => self.galera(&mut text, members, 1),
        }
        for line in &self.options.server {
            let _ = writeln!(text, "{line}");
        }
        text.push_str(PROGRAM_GROUP);
        for line in &self.options.backup {
            let _ = writeln!(text, "{line}");
        }
        std::fs::write(self.option_file(), text).expect("the option file");
    }

    /// Gives the backup program these lines from now on; it reads them anew for every run.
    pub fn configure(&mut self, backup: Vec<String>) {
        let text = std::fs::read_to_string(self.option_file()).expect("the option file");
        let (server, _) = text.split_once(PROGRAM_GROUP).expect("the program's group is the last");
        let text = format!("{server}{PROGRAM_GROUP}{}\n", backup.join("\n"));
        std::fs::write(self.option_file(), text).expect("the option file");
        self.options.backup = backup;
    }

    fn galera(&self, text: &mut String, members: &str, weight: u32) {
        let address = self.address();
        let ist = self.ports.ist.number();
        let _ = writeln!(text, "wsrep_on=ON\nwsrep_provider={}", self.provider.display());
        let _ = writeln!(text, "wsrep_cluster_name={}\nwsrep_node_name={}", super::CLUSTER_NAME, self.name);
        let _ = writeln!(text, "wsrep_node_address={address}\nwsrep_cluster_address={members}");
        let _ = writeln!(
            text,
            "wsrep_provider_options=\"base_host=127.0.0.1;base_port={};gmcast.listen_addr=tcp://{address};\
             ist.recv_addr=127.0.0.1:{ist};gcache.size=128M;pc.weight={weight}\"",
            self.ports.group.number()
        );
        let _ =
            writeln!(text, "wsrep_sst_receive_address=127.0.0.1:{}\nwsrep_sst_method=rsync", self.ports.sst.number());
    }

    /// `mariadbd` with this node's option file, as the servers' account.
    fn server_command(&self) -> Command {
        let mut command = self.system.command("setpriv");
        if self.dies_with_the_lab {
            command.arg("--pdeathsig=KILL");
        }
        command.args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups", "--"]);
        command.arg(super::SERVER).arg(format!("--defaults-file={}", self.option_file().display()));
        command.current_dir(&self.home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts the server and returns at once.
    pub fn begin(&mut self, role: Role<'_>) {
        self.write_option_file(role);
        let mut command = self.server_command();
        if matches!(role, Role::Bootstrap) {
            command.arg("--wsrep-new-cluster");
        }
        self.process = Some(Process::spawn(&self.name, &mut command));
    }

    /// Starts the server and waits until it serves (in a cluster: until it is Synced).
    #[track_caller]
    pub fn start(&mut self, role: Role<'_>) {
        self.begin(role);
        match role {
            Role::Standalone => self.wait_for_answer(),
            Role::Bootstrap | Role::Join(_) => self.wait_synced(),
        }
    }

    /// Whether the server process runs.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// The server process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the server was started")
    }

    /// The server's process id.
    pub fn pid(&self) -> Pid {
        self.process.as_ref().expect("the server was started").pid()
    }

    /// Shuts the server down in good order.
    #[track_caller]
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM);
            process.wait(Duration::from_secs(60));
        }
    }

    /// Starts the server by itself; whether it serves, or ends instead.
    #[track_caller]
    pub fn tries_to_start(&mut self) -> bool {
        self.begin(Role::Standalone);
        let what = format!("{} to serve or to end", self.name);
        until(&what, PATIENCE, || {
            let runs = self.runs();
            let answers = runs && self.socket().exists() && self.ask("SELECT 1").is_some();
            (answers || !runs).then_some(answers)
        })
    }

    /// `kill -9` to the server alone, not to what it started.
    pub fn kill(&mut self) {
        let process = self.process();
        process.signal(Signal::SIGKILL);
        process.wait(Duration::from_secs(10));
    }

    /// Ends the server alone, by `signal`: what it started lives on, outside the care of the lab.
    #[track_caller]
    pub fn end_alone(&mut self, signal: Signal) {
        let mut process = self.process.take().expect("the server was started");
        process.signal(signal);
        process.wait(Duration::from_secs(60));
        process.leave_running();
    }

    /// Runs `sql`; rows come as lines, columns by tabs. Without an answer or with an error: `None`.
    pub fn ask(&self, sql: &str) -> Option<String> {
        let ended = output("mariadb", self.client().args(["-e", sql]), PATIENCE);
        ended.status.success().then(|| String::from_utf8_lossy(&ended.stdout).trim_end().to_owned())
    }

    /// Runs `sql`, which must succeed.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        must("mariadb", self.client().args(["-e", sql]), PATIENCE).trim_end().to_owned()
    }

    fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--connect-timeout=10"]);
        client.arg(format!("--socket={}", self.socket().display()));
        client
    }

    /// A Galera status variable, if the server answers.
    pub fn status(&self, name: &str) -> Option<String> {
        let row = self.ask(&format!("SHOW GLOBAL STATUS LIKE 'wsrep_{name}'"))?;
        row.split_once('\t').map(|(_, value)| value.to_owned())
    }

    /// The number of the last write set that the node has applied.
    #[track_caller]
    pub fn last_committed(&self) -> u64 {
        let text = self.status("last_committed").expect("the node answers");
        text.parse().expect("wsrep_last_committed is a number")
    }

    /// Waits until the node is Synced and takes statements.
    #[track_caller]
    pub fn wait_synced(&mut self) {
        self.wait_for("Synced", |node| node.status("local_state_comment").is_some_and(|state| state == "Synced"));
    }

    #[track_caller]
    fn wait_for_answer(&mut self) {
        self.wait_for("answering", |node| node.ask("SELECT 1").is_some());
    }

    #[track_caller]
    fn wait_for(&mut self, what: &str, mut reached: impl FnMut(&Self) -> bool) {
        let what = format!("{} to be {what}", self.name);
        until(&what, PATIENCE, || {
            assert!(self.runs(), "{} ended instead of being ready; its log ends:\n{}", self.name, self.log_end(20));
            let answers = self.socket().exists() && reached(self);
            if !answers {
                thread::sleep(Duration::from_millis(50));
            }
            answers.then_some(())
        });
    }

    /// The error log from byte `from` on.
    pub fn log(&self, from: usize) -> String {
        let bytes = std::fs::read(self.error_log()).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// The error log's present size: a mark to read on from.
    pub fn log_mark(&self) -> usize {
        std::fs::metadata(self.error_log()).map_or(0, |log| log.len() as usize)
    }

    /// The last `lines` of the error log.
    pub fn log_end(&self, lines: usize) -> String {
        let log = self.log(0);
        let mut last: Vec<&str> = log.lines().rev().take(lines).collect();
        last.reverse();
        last.join("\n")
    }

    /// What the backup program logged since `from`.
    pub fn backup_log(&self, from: usize) -> String {
        let log = self.log(from);
        log.lines().filter(|line| line.contains("WSREP_SST:")).collect::<Vec<_>>().join("\n")
    }

    /// Waits until the log since `from` has a line with `text`, and returns that line.
    #[track_caller]
    pub fn wait_log(&self, from: usize, text: &str, patience: Duration) -> String {
        let what = format!("{text:?} in the log of {}", self.name);
        until(&what, patience, || self.log(from).lines().find(|line| line.contains(text)).map(str::to_owned))
    }

    /// What the server told the cluster of the state transfer that it made since `from`, if it has.
    pub fn transfer(&self, from: usize) -> Option<String> {
        let made = |line: &&str| {
            line.contains("State transfer to") && line.contains(&format!("({})", self.name)) && !line.contains("(garb)")
        };
        self.log(from).lines().find(made).map(str::to_owned)
    }

    /// The position that `mariadbd --wsrep-recover` finds in the datadir: what InnoDB itself says.
    #[track_caller]
    pub fn recovered_position(&self) -> String {
        self.write_option_file(Role::Bootstrap);
        let log = self.home.join("recover.log");
        let mut command = self.server_command();
        command.arg("--wsrep-recover").arg(format!("--log-error={}", log.display()));
        let ended = output("mariadbd --wsrep-recover", &mut command, PATIENCE);
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        assert!(ended.status.success(), "mariadbd --wsrep-recover failed:\n{text}");
        let position = text.lines().find_map(|line| line.split_once("Recovered position: "));
        let (_, position) = position.unwrap_or_else(|| panic!("no recovered position in:\n{text}"));
        position.split(',').next().unwrap_or_default().trim().to_owned()
    }

    /// A client session that stays open.
    pub fn session(&self) -> Session {
        let mut client = self.client();
        client.arg("--unbuffered").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Session::new(Process::spawn("mariadb", &mut client))
    }

    /// Lets the server live on after the lab.
    pub fn leave_running(&mut self) {
        self.process().leave_running();
    }
}

/// An open client session: its transactions last as long as it does.
pub struct Session {
    _process: Process,
    input: ChildStdin,
    lines: Receiver<String>,
    answers: u32,
}

impl Session {
    fn new(mut process: Process) -> Self {
        let input = process.pipes().stdin.take().expect("piped");
        let output = process.pipes().stdout.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { _process: process, input, lines, answers: 0 }
    }

    /// Runs `sql` and waits for its end.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        self.answers += 1;
        let mark = format!("answer-{}", self.answers);
        writeln!(self.input, "{sql};\nSELECT '{mark}';").expect("the client takes statements");
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            if line.unwrap_or_else(|_| panic!("no answer to {sql:?}")) == mark {
                return;
            }
        }
    }

    /// Hands `sql` over without waiting for its end.
    pub fn send(&mut self, sql: &str) {
        writeln!(self.input, "{sql};").expect("the client takes statements");
    }
}
