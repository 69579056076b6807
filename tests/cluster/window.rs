//! The frozen window is not free of writes: whatever happens in it, a published backup is right.
//!
//! Every source meets the same writes: the rollback of a large transaction that was open before the window, InnoDB temporary
//! tables that come and go, and both. The run is halted while they happen, so that they fall between its copies, and the
//! server brings every page to the disk at once.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::cycle::standalone;
use crate::lab::backup::{Label, Moment, Outcome};
use crate::lab::cluster::Cluster;
use crate::lab::mount::FileSystem;
use crate::lab::node::{Node, Options, Session, Slot};
use crate::lab::process::{PATIENCE, until};
use crate::lab::run::Run;
use crate::lab::{Lab, Seed, own};
use crate::naive;

/// A server that brings every change to the disk at once, and these lines for the program.
fn options(disk: Option<FileSystem>, backup: &[&str]) -> Options {
    let server = ["innodb_max_dirty_pages_pct=0", "innodb_max_dirty_pages_pct_lwm=0"].map(str::to_owned).to_vec();
    let backup = backup.iter().map(|line| (*line).to_owned()).collect();
    Options { backup, server, disk: disk.map(|kind| (kind, 2048)), ..Options::default() }
}

/// Reads slowly enough to be halted in the middle.
const SLOWLY: [&str; 3] = ["compress=zstd", "compress-level=5", "workers=1"];

/// How many temporary tables come and go after the last halt of a run that is to settle.
const FEW: u32 = 20;

/// What is written inside the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    /// A transaction is rolled back.
    Rollback,
    /// Temporary tables come and go, for a while after the last halt.
    Temporary,
    /// Both.
    Both,
    /// Both; the temporary tables as long as the run lasts, which may then fail.
    Endless,
}

/// A large open transaction, whose pages are on the disk by the time the server is frozen.
fn open_transaction(donor: &Node) -> Session {
    let mut session = donor.session();
    session.run("BEGIN");
    session.run(
        "INSERT INTO shop.sbtest1 (k, c, pad) SELECT seq, REPEAT('c', 100), 'rolled back' FROM mysql.seq_1_to_20000",
    );
    session.run("UPDATE shop.sbtest3 SET pad = 'rolled back' WHERE id <= 20000");
    session.run("DELETE FROM shop.sbtest4 WHERE id <= 10000");
    session
}

/// When a file of the donor was last written.
fn written(donor: &Node, file: &str) -> (i64, i64) {
    let meta = std::fs::metadata(donor.datadir.join(file)).expect("the server's file");
    (meta.mtime(), meta.mtime_nsec())
}

/// Rolls the transaction back, and waits until pages of all its tables are on the disk.
fn roll_back(donor: &Node, transaction: &mut Session) {
    let files = ["shop/sbtest1.ibd", "shop/sbtest3.ibd", "shop/sbtest4.ibd", "ib_logfile0"];
    let before = files.map(|file| written(donor, file));
    transaction.run("ROLLBACK");
    until("the server to write pages in the window", PATIENCE, || {
        files.iter().zip(before).all(|(file, before)| written(donor, file) > before).then_some(())
    });
}

/// Waits until the server has written every page; with temporary tables at work it never has.
fn all_written(donor: &Node) {
    until("the server to write all pages", PATIENCE, || {
        let dirty = donor.ask("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")?;
        (dirty.split('\t').nth(1)? == "0").then_some(())
    });
}

/// A client that makes, fills and drops temporary tables until this is ended or has made [`FEW`] more after it was told so.
struct TemporaryTables {
    soon: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    client: Option<JoinHandle<u32>>,
}

impl TemporaryTables {
    fn start(donor: &Node) -> Self {
        let (soon, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (mut session, ends_soon, ends) = (donor.session(), Arc::clone(&soon), Arc::clone(&end));
        let client = std::thread::spawn(move || {
            let (mut rounds, mut last) = (0, 0);
            while !ends.load(Ordering::Relaxed) && last < FEW {
                last += u32::from(ends_soon.load(Ordering::Relaxed));
                session.run("CREATE TEMPORARY TABLE shop.t (a INT PRIMARY KEY, b TEXT) ENGINE=InnoDB");
                session.run("INSERT INTO shop.t SELECT seq, REPEAT('x', 300) FROM mysql.seq_1_to_2000");
                session.run("DROP TEMPORARY TABLE shop.t");
                rounds += 1;
            }
            rounds
        });
        Self { soon, end, client: Some(client) }
    }

    /// Waits until they have made the server write once more.
    fn write(donor: &Node) {
        let before = ["ib_logfile0", "ibtmp1"].map(|file| written(donor, file));
        until("the server to write for temporary tables", PATIENCE, || {
            (written(donor, "ib_logfile0") > before[0] || written(donor, "ibtmp1") > before[1]).then_some(())
        });
    }

    /// Only a few more, so that the run can settle.
    fn end_soon(&self) {
        self.soon.store(true, Ordering::Relaxed);
    }

    fn end(mut self) {
        self.end.store(true, Ordering::Relaxed);
        let rounds = self.client.take().map(|client| client.join().expect("the client's statements succeed"));
        assert!(rounds > Some(0), "temporary tables were made");
    }
}

impl Drop for TemporaryTables {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// A donor, and the moments at which its runs are halted: before the first copy, in the middle, near the end.
struct Scene<'l> {
    cluster: Cluster<'l>,
    /// The run copies ahead.
    ahead: bool,
    moments: [Moment; 3],
}

impl<'l> Scene<'l> {
    fn new(lab: &'l Lab, name: &str, options: Options, moments: [Moment; 3]) -> Self {
        let ahead = options.backup.iter().any(|line| line == "source=precopy");
        let cluster = Cluster::start_with(lab, name, Seed::Medium, options);
        println!("    {name} on MariaDB {}", cluster.donor.sql("SELECT VERSION()"));
        Self { cluster, ahead, moments }
    }

    /// Every kind of writes, at every moment.
    fn play(&mut self) {
        for at in 0..self.moments.len() {
            let label = self.run(Writes::Rollback, &[at]).expect("a rollback that is over lets a run settle");
            assert!(at == 0 || label.number("settle_passes") > 2, "what had been copied was copied again");
            assert!(at == 0 || label.number("copied_again_bytes") > 0, "what had been copied was copied again");
        }
        self.run(Writes::Temporary, &[0, 1, 2]).expect("temporary tables that are gone let a run settle");
        self.run(Writes::Both, &[0, 1, 2]).expect("what is over lets a run settle");
    }

    /// One run, halted at these moments, at each of which something is written; the last but one or only one is the rollback's.
    /// Returns the label, if there is a backup.
    fn run(&mut self, writes: Writes, halts: &[usize]) -> Option<Label> {
        let cluster = &mut self.cluster;
        let known = cluster.labels().len();
        let mut transaction = (writes != Writes::Temporary).then(|| open_transaction(&cluster.donor));
        let temporary = (writes != Writes::Rollback).then(|| TemporaryTables::start(&cluster.donor));
        let mut held: Option<Run> = None;
        for at in halts {
            let moment = self.moments[*at];
            match &mut held {
                Some(held) => held.go_on_to(cluster, moment),
                None => held = Some(begin(cluster, self.ahead, moment)),
            }
            if temporary.is_some() {
                TemporaryTables::write(&cluster.donor);
            }
            if let Some(transaction) = transaction.as_mut().filter(|_| halts.len() == 1 || *at == 1) {
                roll_back(&cluster.donor, transaction);
                if temporary.is_none() {
                    all_written(&cluster.donor);
                }
            }
        }
        let held = held.expect("a run");
        let mark = held.mark();
        if let Some(temporary) = temporary.as_ref().filter(|_| writes != Writes::Endless) {
            temporary.end_soon();
        }
        let outcome = held.release(cluster);
        if let Some(temporary) = temporary {
            temporary.end();
        }
        drop(transaction);
        right_or_none(cluster, outcome, mark, known).inspect(|label| {
            let (passes, again) = (label.number("settle_passes"), label.number("copied_again_bytes"));
            println!("    {writes:?} at {halts:?}: settled in {passes} passes, {again} bytes copied again");
        })
    }
}

/// A run that is halted at `moment`. One that copies ahead finds, when the window opens, that a table was written since.
fn begin(cluster: &Cluster<'_>, ahead: bool, moment: Moment) -> Run {
    if let Moment::Clone(_) = moment {
        return cluster.hold(moment);
    }
    let mut held = cluster.hold(if ahead { Moment::Ahead(20 << 20) } else { Moment::Flushed });
    if ahead {
        cluster.donor.sql("UPDATE shop.sbtest2 SET k = k + 1");
        held.go_on_to(cluster, Moment::Flushed);
    }
    if moment != Moment::Flushed {
        held.go_on_to(cluster, moment);
    }
    held
}

/// A backup is right or there is none: checks the one that was published, or that the failure says what kept changing.
fn right_or_none(cluster: &mut Cluster<'_>, outcome: Outcome, mark: usize, known: usize) -> Option<Label> {
    cluster.donor.wait_synced();
    match outcome {
        Outcome::Published(label) => {
            cluster.operate(&["verify", label.id()]);
            let datadir = cluster.restore(&label, &format!("restored-{known}"));
            let wrong = what_is_wrong(cluster, &datadir);
            assert_eq!(wrong, None, "a backup that was published");
            std::fs::remove_dir_all(datadir).expect("the restored files");
            Some(label)
        }
        Outcome::Failed(line) => {
            let said = cluster.donor.backup_log(mark);
            let cause =
                said.lines().find(|said| said.contains("kept changing")).unwrap_or_else(|| panic!("{line}: {said}"));
            assert!(cause.contains("\"ib"), "it names InnoDB's files: {cause}");
            assert_eq!(cluster.labels().len(), known);
            println!("    {}", cause.split(" [ERROR] ").last().unwrap_or_default());
            None
        }
    }
}

/// Starts a server on a copy of the donor, which nobody has written to since; says what is wrong with its rows.
fn what_is_wrong(cluster: &Cluster<'_>, datadir: &Path) -> Option<String> {
    own(datadir);
    let mut copy = cluster.idle_node("copy", datadir, Options::default());
    let mark = copy.log_mark();
    if !copy.tries_to_start() {
        let log = copy.log(mark);
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("[ERROR]")).collect();
        return Some(format!("the server does not start: {}", errors.join("\n")));
    }
    for table in 1..=4 {
        let checked = copy.ask(&format!("CHECK TABLE shop.sbtest{table}"));
        if !checked.as_ref().is_some_and(|checked| checked.ends_with("\tOK")) {
            return Some(format!("CHECK TABLE says {checked:?}"));
        }
    }
    let rolled_back = "SELECT COUNT(*) FROM shop.sbtest1 WHERE pad = 'rolled back'
                       UNION ALL SELECT COUNT(*) FROM shop.sbtest3 WHERE pad = 'rolled back'";
    match copy.ask(rolled_back) {
        Some(rows) if rows == "0\n0" => {}
        rows => return Some(format!("CHECK TABLE finds nothing, but rows are there that were rolled back: {rows:?}")),
    }
    // MariaDB 11.8 makes an account for every SST, which is in the files; a server in a cluster removes it when it starts.
    copy.sql("DELETE FROM mysql.global_priv WHERE User LIKE 'wsrep.sst.%'");
    let differing = Cluster::differing_tables(&copy, &cluster.donor);
    (!differing.is_empty()).then(|| format!("tables differ from the donor's: {differing:#?}"))
}

pub fn writes_inside_the_window_never_spoil_what_is_read_there(lab: &Lab) {
    let mut backup = SLOWLY.to_vec();
    backup.push("source=locked");
    let moments = [Moment::Flushed, Moment::Read(70 << 20), Moment::Read(150 << 20)];
    let mut scene = Scene::new(lab, "window-locked", options(None, &backup), moments);
    scene.play();
    scene.run(Writes::Endless, &[0, 1, 2]);
}

pub fn writes_inside_the_window_never_spoil_what_was_read_before_it(lab: &Lab) {
    let mut backup = SLOWLY.to_vec();
    backup.extend(["source=precopy", "precopy-passes=1"]);
    let moments = [Moment::Flushed, Moment::Read(20 << 20), Moment::Read(60 << 20)];
    Scene::new(lab, "window-precopy", options(None, &backup), moments).play();
}

pub fn writes_inside_the_window_never_spoil_clones_on_xfs(lab: &Lab) {
    clones_on(lab, FileSystem::Xfs);
}

pub fn writes_inside_the_window_never_spoil_clones_on_btrfs(lab: &Lab) {
    clones_on(lab, FileSystem::Btrfs);
}

fn clones_on(lab: &Lab, kind: FileSystem) {
    let moments = [Moment::Clone(""), Moment::Clone("shop/sbtest2.ibd"), Moment::Clone("ib_logfile0")];
    let options = options(Some(kind), &["source=clone"]);
    Scene::new(lab, &format!("window-clone-{}", kind.name()), options, moments).play();
}

/// The same writes meet a program that copies everything once, and the test says that the copy is wrong.
pub fn the_same_writes_inside_the_window_spoil_a_copy_that_does_not_settle(lab: &Lab) {
    for (disk, manner) in [(None, "read"), (Some(FileSystem::Xfs), "clone")] {
        // MariaDB's own order is by name: the redo log comes early, and pages are from its future.
        let (wrong, _) = copy_once(lab, disk, &[manner, "stop-before=shop/sbtest1.ibd"]);
        assert!(wrong.is_some(), "a copy by name, which does not settle, is spoilt by these writes");
        // With the redo log at the end recovery mends the copy, unless the server moved its checkpoint meanwhile.
        let (wrong, moved) = copy_once(lab, disk, &[manner, "redo-last", "stop-before=undo001"]);
        assert!(wrong.is_some() || !moved, "no order saves a copy from a checkpoint inside the window");
    }
}

/// What is wrong with such a copy, and whether the server moved its checkpoint inside the window.
fn copy_once(lab: &Lab, disk: Option<FileSystem>, manner: &[&str]) -> (Option<String>, bool) {
    let options = Options { slot: Slot::Naive, ..options(disk, manner) };
    let name = format!("window-naive-{}", manner[..manner.len() - 1].join("-"));
    let cluster = Cluster::start_with(lab, &name, Seed::Medium, options);
    let mut transaction = open_transaction(&cluster.donor);
    let held = cluster.hold(Moment::Stopped);
    let head = || {
        let mut head = vec![0; 12 << 10];
        let log = File::open(cluster.donor.datadir.join("ib_logfile0")).expect("the redo log");
        log.read_exact_at(&mut head, 0).expect("its head");
        head
    };
    let before = head();
    roll_back(&cluster.donor, &mut transaction);
    all_written(&cluster.donor);
    let moved = head() != before;
    held.go_on();
    let said = until("the end of the transfer", PATIENCE, || cluster.donor.transfer(held.mark()));
    assert!(!said.contains(" failed: "), "the naive program said done: {said}");
    let wrong = what_is_wrong(&cluster, &cluster.donor.datadir.with_file_name(naive::COPY));
    let verdict = wrong.as_ref().map_or("right", |wrong| wrong.lines().next().unwrap_or_default());
    println!("    {manner:?}, the checkpoint moved: {moved}; the copy: {verdict}");
    (wrong, moved)
}

pub fn general_and_slow_logs_do_not_keep_a_run_from_settling(lab: &Lab) {
    let server = [
        "log_output=TABLE,FILE",
        "general_log=ON",
        "slow_query_log=ON",
        "long_query_time=0",
        "general_log_file=general.log",
        "slow_query_log_file=slow.log",
    ];
    let mut backup = SLOWLY.to_vec();
    backup.push("source=locked");
    let mut options = options(None, &backup);
    options.server.extend(server.map(str::to_owned));
    let mut cluster = Cluster::start_with(lab, "logs", Seed::Large, options);
    let mut reader = cluster.donor.session();
    let held = cluster.hold(Moment::Read(50 << 20));
    let log = cluster.donor.datadir.join("general.log");
    let size = || std::fs::metadata(&log).expect("the general log").len();
    let before = size();
    for id in 0..30_000 {
        reader.send(&format!("SELECT c FROM shop.sbtest1 WHERE id = {id}"));
    }
    until("the log to grow", PATIENCE, || (size() > before).then_some(()));
    let outcome = held.release(&cluster);
    let Outcome::Published(label) = outcome else { panic!("{outcome:?}: {}", cluster.donor.backup_log(0)) };
    cluster.donor.wait_synced();
    cluster.operate(&["verify", label.id()]);
    let datadir = cluster.restore(&label, "restored");
    assert!(!datadir.join("general.log").exists() && !datadir.join("slow.log").exists());
    let restored = standalone(&cluster, &datadir);
    assert_eq!(restored.sql("SELECT COUNT(*) > 0 FROM mysql.general_log"), "1", "the log table can be read");
    Cluster::assert_same_tables(&restored, &cluster.donor);
}
