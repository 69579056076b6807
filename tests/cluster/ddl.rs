//! Tables that come, go, change their names and contents while a run looks at the files.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::cycle::standalone;
use crate::lab::backup::Label;
use crate::lab::cluster::Cluster;
use crate::lab::mount::FileSystem;
use crate::lab::node::{Node, Options};
use crate::lab::process::{PATIENCE, until};
use crate::lab::run::Run;
use crate::lab::{Lab, Seed};

/// One round; `#` is the number of the round.
const ROUND: [&str; 14] = [
    "RENAME TABLE ddl.one TO ddl.between, ddl.two TO ddl.one, ddl.between TO ddl.two",
    "DROP TABLE IF EXISTS ddl.short, ddl.aria",
    "CREATE TABLE ddl.short (a INT PRIMARY KEY, b TEXT)",
    "INSERT INTO ddl.short SELECT seq, REPEAT('s', 200) FROM mysql.seq_1_to_3000",
    "CREATE TABLE ddl.aria (a INT PRIMARY KEY) ENGINE=Aria",
    "OPTIMIZE TABLE ddl.one",
    "TRUNCATE TABLE ddl.emptied",
    "INSERT INTO ddl.emptied SELECT seq, REPEAT('e', 200) FROM mysql.seq_1_to_3000",
    "ALTER TABLE ddl.parts EXCHANGE PARTITION low WITH TABLE ddl.other",
    "ALTER TABLE ddl.two ADD COLUMN c# INT DEFAULT #",
    "OPTIMIZE TABLE ddl.two",
    "CREATE DATABASE d#",
    "CREATE TABLE d#.t (a INT PRIMARY KEY) SELECT 1 AS a",
    "DROP DATABASE d#",
];

fn make_tables(writer: &Node) {
    writer.sql(
        "CREATE DATABASE ddl;
         CREATE TABLE ddl.one (a INT PRIMARY KEY, b CHAR(200));
         INSERT INTO ddl.one SELECT seq, 'one' FROM mysql.seq_1_to_40000;
         CREATE TABLE ddl.two LIKE ddl.one;
         INSERT INTO ddl.two SELECT seq, 'two' FROM mysql.seq_1_to_40000;
         CREATE TABLE ddl.emptied (a INT PRIMARY KEY, b TEXT);
         CREATE TABLE ddl.other (a INT PRIMARY KEY, b TEXT);
         INSERT INTO ddl.other SELECT seq, 'other' FROM mysql.seq_1_to_5000;
         CREATE TABLE ddl.parts (a INT PRIMARY KEY, b TEXT)
         PARTITION BY RANGE (a) (PARTITION low VALUES LESS THAN (10000), PARTITION high VALUES LESS THAN MAXVALUE);
         INSERT INTO ddl.parts SELECT seq, 'parts' FROM mysql.seq_1_to_20000",
    );
}

/// Calls `meanwhile` with a count of the statements that were executed so far, while rounds of them run on `writer`.
fn under_ddl<T>(writer: &Node, meanwhile: impl FnOnce(&AtomicUsize) -> T) -> T {
    let (stop, executed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let rounds = || {
            let mut session = writer.session();
            for round in 1.. {
                for statement in ROUND {
                    session.run(&statement.replace('#', &round.to_string()));
                    executed.fetch_add(1, Ordering::AcqRel);
                }
                if stop.load(Ordering::Acquire) {
                    return;
                }
            }
        };
        let ddl = scope.spawn(rounds);
        until("a first round", PATIENCE, || (executed.load(Ordering::Acquire) > ROUND.len()).then_some(()));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&executed)));
        stop.store(true, Ordering::Release);
        ddl.join().expect("every statement succeeds");
        println!("    {} statements", executed.load(Ordering::Acquire));
        outcome.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    })
}

/// Holds the run while every statement is executed.
fn hold_for_a_round(run: &Run, executed: &AtomicUsize) {
    run.stop();
    let enough = executed.load(Ordering::Acquire) + ROUND.len();
    until("a round", PATIENCE, || (executed.load(Ordering::Acquire) >= enough).then_some(()));
    run.go_on();
}

/// Restores `label` to a third node, which must hold what the others hold after an IST through the rest of the statements.
fn joins_and_equals(cluster: &Cluster<'_>, label: &Label) {
    cluster.operate(&["verify", label.id()]);
    let datadir = cluster.restore(label, "restored");
    let mut third = cluster.restored_node(&datadir, label, Options::default());
    cluster.join_by_ist(&mut third, label);
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor, &third]);
}

pub fn tables_that_change_their_shape_during_precopy_passes_do_no_harm(lab: &Lab) {
    let backup = ["source=precopy", "precopy-passes=3", "rate-limit=20M"].map(str::to_owned).to_vec();
    let cluster = Cluster::start_with(lab, "ddl-precopy", Seed::Small, Options { backup, ..Options::default() });
    make_tables(&cluster.writer);
    let label = under_ddl(&cluster.writer, |executed| {
        let run = cluster.begin();
        let mark = run.mark();
        // Each statement once while the first pass reads, and once while the second does.
        run.wait_read(12 << 20);
        hold_for_a_round(&run, executed);
        cluster.donor.wait_log(mark, "pass 1 before the window copied", PATIENCE);
        hold_for_a_round(&run, executed);
        let said = cluster.donor.wait_log(mark, "pass 2 before the window copied", PATIENCE);
        assert!(!said.contains("copied 0 of"), "what changed was copied again: {said}");
        run.outcome(&cluster).published(&cluster.donor.backup_log(mark))
    });
    assert!(label.number("copied_again_bytes") > 0, "what changed was copied again");
    joins_and_equals(&cluster, &label);
}

pub fn tables_that_change_their_shape_up_to_the_flush_do_no_harm_to_a_clone(lab: &Lab) {
    let backup = vec!["source=clone".to_owned()];
    let options = Options { backup, disk: Some((FileSystem::Xfs, 2048)), ..Options::default() };
    let cluster = Cluster::start_with(lab, "ddl-clone", Seed::Small, options);
    make_tables(&cluster.writer);
    let [first, second] = under_ddl(&cluster.writer, |_| {
        [0, 1].map(|_| {
            let mark = cluster.donor.log_mark();
            cluster.try_backup(&cluster.donor).published(&cluster.donor.backup_log(mark))
        })
    });
    let datadir = cluster.restore(&first, "restored-first");
    let restored = standalone(&cluster, &datadir);
    let tables =
        restored.sql("SELECT CONCAT('ddl.', table_name) FROM information_schema.tables WHERE table_schema = 'ddl'");
    let tables: Vec<&str> = tables.lines().collect();
    assert!(tables.len() >= 5, "{tables:?}");
    let checked = restored.sql(&format!("CHECK TABLE {}", tables.join(", ")));
    assert!(checked.lines().all(|line| line.ends_with("\tOK")), "{checked}");
    joins_and_equals(&cluster, &second);
}
