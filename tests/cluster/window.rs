//! The frozen window is not free of writes: whatever happens in it, a published backup is right.

use crate::cycle::standalone;
use crate::lab::backup::{Moment, Outcome};
use crate::lab::cluster::Cluster;
use crate::lab::node::{Node, Options, Session};
use crate::lab::process::{PATIENCE, until};
use crate::lab::{Lab, Seed};

/// A run that reads inside the window, slowly enough to do something meanwhile, and a server that brings every change to the disk at
/// once, also inside the window.
fn slowly() -> Options {
    let backup = ["source=locked", "compress=zstd", "compress-level=5", "workers=1"].map(str::to_owned).to_vec();
    let server = ["innodb_max_dirty_pages_pct=0", "innodb_max_dirty_pages_pct_lwm=0"].map(str::to_owned).to_vec();
    Options { backup, server, ..Options::default() }
}

/// A large open transaction, whose pages are on the disk by the time the server is frozen.
fn open_transaction(donor: &Node) -> Session {
    let mut session = donor.session();
    session.run("BEGIN");
    session.run("INSERT INTO shop.sbtest1 (k, c, pad) SELECT k, c, 'rolled back' FROM shop.sbtest2 LIMIT 40000");
    session.run("UPDATE shop.sbtest3 SET pad = 'rolled back' WHERE id <= 40000");
    session.run("DELETE FROM shop.sbtest4 WHERE id <= 20000");
    session
}

/// A backup is right or there is none: checks the one that was published, or that the failure says what kept changing.
fn right_or_none(cluster: &mut Cluster<'_>, outcome: Outcome, mark: usize) {
    cluster.donor.wait_synced();
    match outcome {
        Outcome::Published(label) => {
            cluster.operate(&["verify", label.id()]);
            let datadir = cluster.restore(&label, "restored");
            let restored = standalone(cluster, &datadir);
            let rolled_back = "SELECT COUNT(*) FROM shop.sbtest1 WHERE pad = 'rolled back'
                               UNION ALL SELECT COUNT(*) FROM shop.sbtest3 WHERE pad = 'rolled back'";
            assert_eq!(restored.sql(rolled_back), "0\n0", "rows that were rolled back");
            for table in 1..=4 {
                let checked = restored.sql(&format!("CHECK TABLE shop.sbtest{table}"));
                assert!(checked.ends_with("\tOK"), "{checked}");
            }
            // Nobody else wrote, so the donor still holds what it held in the window.
            Cluster::assert_same_tables(&restored, &cluster.donor);
            println!("    settled after {} passes", label.number("settle_passes"));
        }
        Outcome::Failed(line) => {
            let said = cluster.donor.backup_log(mark);
            assert!(said.contains("ib_logfile0") || said.contains(".ibd"), "it names what kept changing: {said}");
            assert!(cluster.labels().is_empty());
            println!("    did not settle: {line}");
        }
    }
}

/// Rolls a large transaction back at `moment`, and checks what the run makes of it.
fn roll_back_at(lab: &Lab, name: &str, moment: Moment) {
    let mut cluster = Cluster::start_with(lab, name, Seed::Large, slowly());
    let mut transaction = open_transaction(&cluster.donor);
    let held = cluster.hold(moment);
    let mark = held.mark();
    let table = cluster.donor.datadir.join("shop/sbtest1.ibd");
    let written = || std::fs::metadata(&table).and_then(|meta| meta.modified()).expect("the table's file");
    let before = written();
    transaction.run("ROLLBACK");
    transaction.run("CREATE TEMPORARY TABLE shop.t (a INT PRIMARY KEY, b TEXT) ENGINE=InnoDB");
    transaction.run("INSERT INTO shop.t SELECT seq, REPEAT('x', 500) FROM mysql.seq_1_to_5000");
    transaction.run("DROP TEMPORARY TABLE shop.t");
    until("the server to write pages in the window", PATIENCE, || (written() > before).then_some(()));
    let outcome = held.release(&cluster);
    if let (Moment::Read(_), Outcome::Published(label)) = (moment, &outcome) {
        assert!(label.number("copied_again_bytes") > 0, "a file that had been read changed, so it was read again");
    }
    right_or_none(&mut cluster, outcome, mark);
}

pub fn a_rollback_before_the_first_read_never_makes_a_wrong_backup(lab: &Lab) {
    roll_back_at(lab, "rollback-first", Moment::Flushed);
}

pub fn a_rollback_in_the_middle_of_the_copy_never_makes_a_wrong_backup(lab: &Lab) {
    roll_back_at(lab, "rollback-middle", Moment::Read(100 << 20));
}

pub fn a_rollback_near_the_end_of_the_copy_never_makes_a_wrong_backup(lab: &Lab) {
    roll_back_at(lab, "rollback-end", Moment::Read(260 << 20));
}

pub fn temporary_tables_throughout_the_window_never_make_a_wrong_backup(lab: &Lab) {
    let mut cluster = Cluster::start_with(lab, "temporary", Seed::Large, slowly());
    let mut transaction = open_transaction(&cluster.donor);
    let mut temporary = cluster.donor.session();
    let held = cluster.hold(Moment::Read(20 << 20));
    let mark = held.mark();
    // The server works through these while the run reads on; the rollback and the last of them end in or after it.
    for round in 0..400 {
        temporary.send(&format!("CREATE TEMPORARY TABLE shop.t{round} (a INT PRIMARY KEY, b TEXT) ENGINE=InnoDB"));
        temporary.send(&format!("INSERT INTO shop.t{round} SELECT seq, REPEAT('x', 300) FROM mysql.seq_1_to_2000"));
        temporary.send(&format!("DROP TEMPORARY TABLE shop.t{round}"));
    }
    transaction.send("ROLLBACK");
    let outcome = held.release(&cluster);
    temporary.run("SELECT 1");
    transaction.run("SELECT 1");
    right_or_none(&mut cluster, outcome, mark);
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
    let mut options = slowly();
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
