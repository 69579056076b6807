//! Asking a cluster for a backup, and the operator's commands on what came of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::cluster::Cluster;
use super::node::Node;
use super::ports::Port;
use super::process::{PATIENCE, Process, must, output, until};
use super::run::Run;

/// A backup's public record, read as an outsider would.
#[derive(Clone, Debug)]
pub struct Label {
    json: Value,
    /// The backup's directory.
    pub dir: PathBuf,
}

impl Label {
    fn read(dir: PathBuf) -> Option<Self> {
        let text = std::fs::read(dir.join("backup.json")).ok()?;
        let json = serde_json::from_slice(&text).expect("a label is JSON");
        Some(Self { json, dir })
    }

    /// A field's text.
    #[track_caller]
    pub fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_else(|| panic!("the label has no text {field}: {}", self.json))
    }

    /// A field's number.
    #[track_caller]
    pub fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or_else(|| panic!("the label has no number {field}: {}", self.json))
    }

    /// The backup's id.
    pub fn id(&self) -> &str {
        self.text("id")
    }

    /// The backup's position, `UUID:SEQNO`.
    pub fn gtid(&self) -> &str {
        self.text("gtid")
    }

    /// The cluster's UUID.
    pub fn uuid(&self) -> &str {
        self.gtid().rsplit_once(':').expect("a GTID").0
    }

    /// The number of the last write set in the backup.
    pub fn seqno(&self) -> u64 {
        self.gtid().rsplit_once(':').and_then(|(_, seqno)| seqno.parse().ok()).expect("a GTID")
    }

    /// The archive's file.
    pub fn archive(&self) -> PathBuf {
        self.dir.join(self.json["archive"]["name"].as_str().expect("the archive has a name"))
    }
}

/// What became of one request for a backup.
#[derive(Debug)]
pub enum Outcome {
    /// A backup was published.
    Published(Label),
    /// The donor reported a failure to the cluster: its line.
    Failed(String),
}

impl Outcome {
    /// The published backup's label; `said` is what the program said, for the message if there is none.
    #[track_caller]
    pub fn published(self, said: &str) -> Label {
        let Self::Published(label) = self else { panic!("no backup: {self:?}; the program said:\n{said}") };
        label
    }

    /// The donor's line to the cluster about a failure.
    #[track_caller]
    pub fn failed(self) -> String {
        let Self::Failed(line) = self else { panic!("no failure: {self:?}") };
        line
    }
}

/// Moments at which a run can be held: all but the first inside the frozen window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The run has read this many bytes, and has not asked the server to hold still.
    Ahead(u64),
    /// The server is frozen, nothing has been read yet.
    Flushed,
    /// The run has read this many bytes, since [`Moment::Flushed`] if it was held there.
    Read(u64),
    /// The run is about to clone a file whose path ends so.
    Clone(&'static str),
    /// The run has stopped itself, as the naive one does.
    Stopped,
}

impl Cluster<'_> {
    /// Runs garbd, which asks `donor` for a backup and leaves.
    pub fn ask(&self, donor: &Node) {
        ask(&self.dir, donor);
    }

    /// All labels in the repository, oldest first.
    pub fn labels(&self) -> Vec<Label> {
        labels(&self.repository)
    }

    /// The names of everything in the repository.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.repository).expect("the repository");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Asks `donor` for a backup and waits until it is published or the donor reports a failure.
    pub fn try_backup(&self, donor: &Node) -> Outcome {
        let (known, mark) = (self.labels().len(), donor.log_mark());
        self.ask(donor);
        self.outcome(donor, known, mark)
    }

    /// Waits for the end of the run that `donor` logs after `mark`, when there were `known` backups.
    pub fn outcome(&self, donor: &Node, known: usize, mark: usize) -> Outcome {
        outcome(donor, &self.repository, known, mark)
    }

    /// A backup by `donor`, which must succeed and come back to Synced.
    #[track_caller]
    pub fn backup(&mut self) -> Label {
        let mark = self.donor.log_mark();
        let outcome = self.try_backup(&self.donor);
        let label = outcome.published(&self.donor.backup_log(mark));
        self.donor.wait_synced();
        label
    }

    /// Asks for a backup and halts the run at `moment`.
    #[track_caller]
    pub fn hold(&self, moment: Moment) -> Run {
        let mut run = self.begin();
        run.go_on_to(self, moment);
        run
    }

    /// Runs an operator's command of the program on the repository.
    pub fn operator(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.lab.program);
        command.arg("--repository").arg(&self.repository).args(arguments);
        output("the program", &mut command, PATIENCE)
    }

    /// The same, which must succeed; returns its standard output.
    #[track_caller]
    pub fn operate(&self, arguments: &[&str]) -> String {
        let ended = self.operator(arguments);
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{arguments:?} failed ({}): {text}{errors}", ended.status);
        text
    }

    /// Restores `label` into a new directory of this cluster, for a server to start on.
    #[track_caller]
    pub fn restore(&self, label: &Label, name: &str) -> PathBuf {
        let target = self.dir.join(name);
        self.operate(&["restore", label.id(), "--target", text(&target)]);
        target
    }
}

/// Runs garbd in `dir`, which asks `donor` for a backup and leaves.
pub fn ask(dir: &Path, donor: &Node) {
    must("garbd", &mut garbd(dir, donor), Duration::from_secs(60));
}

/// The garbd that asks `donor` for a backup.
pub(super) fn garbd(dir: &Path, donor: &Node) -> Command {
    let (own, incoming) = (Port::free(), Port::free());
    let mut garbd = Command::new("garbd");
    garbd.arg("--address").arg(format!(
        "gcomm://{}?gmcast.listen_addr=tcp://127.0.0.1:{}",
        donor.address(),
        own.number()
    ));
    garbd.args(["--group", super::CLUSTER_NAME, "--name", "garb", "--donor", &donor.name, "--sst", "backup:"]);
    garbd.arg("--options").arg(format!("base_host=127.0.0.1;base_port={};pc.weight=0", incoming.number()));
    garbd.arg("--log").arg(dir.join("garbd.log")).current_dir(dir);
    garbd
}

/// All labels in `repository`, oldest first.
pub fn labels(repository: &Path) -> Vec<Label> {
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(repository).expect("the repository").flatten().map(|entry| entry.path()).collect();
    dirs.sort();
    dirs.into_iter().filter_map(Label::read).collect()
}

/// Waits for the end of the run that `donor` logs after `mark`, when there were `known` backups in `repository`.
pub fn outcome(donor: &Node, repository: &Path, known: usize, mark: usize) -> Outcome {
    // A run whose files never stand still copies them thirty times.
    until("a backup or a failure", PATIENCE * 3, || {
        // The server's word first: it speaks after the label is there.
        let line = donor.transfer(mark)?;
        if line.contains(" failed: ") {
            return Some(Outcome::Failed(line));
        }
        let mut labels = labels(repository);
        assert_eq!(labels.len(), known + 1, "the donor said {line:?}");
        labels.pop().map(Outcome::Published)
    })
}

/// A path as text; the lab's paths are plain.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the lab's paths are plain")
}

/// Unpacks an archive with nothing but the stock tools, into an empty directory of the servers' account.
pub fn unpack_by_hand(archive: &Path, into: &Path) {
    std::fs::create_dir_all(into).expect("a directory");
    super::own(into);
    let mut unpack = Command::new("zstd");
    unpack.args(["-dc", text(archive)]).stdout(Stdio::piped());
    let mut unpack = Process::spawn("zstd", &mut unpack);
    let mut tar = Command::new("tar");
    tar.args(["-x", "--same-owner", "--preserve-permissions", "-C", text(into)]);
    tar.stdin(unpack.pipes().stdout.take().expect("piped"));
    let mut tar = Process::spawn("tar", &mut tar);
    assert!(tar.wait(PATIENCE).success(), "tar unpacks the archive");
    assert!(unpack.wait(PATIENCE).success(), "zstd unpacks the archive");
}

fn sysbench(node: &Node, tables: u32, rows: u32) -> Command {
    let mut sysbench = Command::new("sysbench");
    sysbench.args(["oltp_write_only", "--mysql-user=root", "--mysql-db=shop", "--threads=2", "--rand-type=uniform"]);
    sysbench.arg(format!("--mysql-socket={}", node.socket().display()));
    sysbench.args([format!("--tables={tables}"), format!("--table-size={rows}")]);
    sysbench
}

/// Makes and fills sysbench tables in database `shop`.
pub fn prepare_tables(node: &Node, tables: u32, rows: u32) {
    must("sysbench prepare", sysbench(node, tables, rows).arg("prepare"), Duration::from_secs(300));
}

/// Clients that write on a node until this is dropped.
pub struct Writes(Process);

impl Writes {
    /// Starts a steady stream of transactions, and waits until some have come through.
    pub fn start(node: &Node) -> Self {
        Self::over(node, 2, 5_000)
    }

    /// The same over so many tables, and this many rows of each.
    pub fn over(node: &Node, tables: u32, rows: u32) -> Self {
        let before = node.last_committed();
        let mut command = sysbench(node, tables, rows);
        command.args(["--time=0", "--rate=150", "--mysql-ignore-errors=all", "run"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut writes = Self(Process::spawn("sysbench", &mut command));
        until("clients to write", PATIENCE, || {
            assert!(writes.0.ended().is_none(), "the clients must not end");
            (node.last_committed() > before + 100).then_some(())
        });
        writes
    }

    /// Ends the clients; they must still have been at it.
    pub fn stop(mut self) {
        assert!(self.0.ended().is_none(), "the clients wrote to the end");
    }
}
