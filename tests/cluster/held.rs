//! `release = held`: the donor is back in its cluster while its clone is still read, and may even end.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cycle::standalone;
use crate::lab::backup::{Label, Writes};
use crate::lab::cluster::Cluster;
use crate::lab::mount::{FileSystem, Mount, fill_up};
use crate::lab::node::Options;
use crate::lab::process::PATIENCE;
use crate::lab::run::Run;
use crate::lab::{Lab, Seed};

/// So slow that the archive is written for ten seconds and more.
const SLOW: [&str; 3] = ["source=clone", "release=held", "rate-limit=8M"];

fn cluster<'l>(lab: &'l Lab, name: &str) -> Cluster<'l> {
    let options = Options { disk: Some((FileSystem::Xfs, 2048)), ..Options::default() };
    let mut cluster = Cluster::start_with(lab, name, Seed::Small, options);
    cluster.configure(&SLOW);
    cluster
}

/// A run whose donor is released; the archive is still being written.
fn released(cluster: &mut Cluster<'_>) -> Run {
    let run = cluster.begin();
    cluster.donor.wait_log(run.mark(), "the node is released", PATIENCE);
    cluster.donor.wait_synced();
    assert_still_streaming(cluster, &run);
    run
}

#[track_caller]
fn assert_still_streaming(cluster: &Cluster<'_>, run: &Run) {
    assert!(run.lives() && cluster.labels().is_empty(), "{}", cluster.donor.backup_log(run.mark()));
}

/// The only backup in the repository.
#[track_caller]
fn only_label(cluster: &Cluster<'_>) -> Label {
    let mut labels = cluster.labels();
    assert_eq!(labels.len(), 1, "{}", cluster.donor.backup_log(0));
    labels.remove(0)
}

pub fn a_held_donor_is_synced_within_a_second_and_takes_writes_while_the_run_still_streams(lab: &Lab) {
    let mut cluster = cluster(lab, "held");
    let writes = Writes::start(&cluster.writer);
    let run = cluster.begin();
    cluster.donor.wait_log(run.mark(), "window closed", PATIENCE);
    let closed = Instant::now();
    cluster.donor.wait_log(run.mark(), "Shifting JOINED -> SYNCED", PATIENCE);
    let took = closed.elapsed();
    println!("    synced {} ms after the window", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");
    cluster.donor.wait_synced();
    for _ in 0..20 {
        cluster.donor.sql("INSERT INTO shop.sbtest1 (k, c, pad) VALUES (1, 'served', 'while we stream')");
    }
    assert_still_streaming(&cluster, &run);
    writes.stop();

    // A sudden end, of which the cluster hears nothing.
    run.kill();
    run.wait_end();
    assert_eq!(cluster.leftovers(), Vec::<String>::new());

    // A full repository.
    let small = Mount::tmpfs(&cluster.repository, 256).expect("root may mount a tmpfs");
    let run = released(&mut cluster);
    fill_up(&cluster.repository.join("filler"), 1 << 20);
    run.wait_end();
    let said = cluster.donor.backup_log(run.mark());
    assert!(said.contains("[ERROR]") && said.contains("No space left on device"), "{said}");
    let log = cluster.donor.log(run.mark());
    assert!(!log.contains(" failed: "), "the cluster was told that the node is done: {log}");
    assert_eq!(cluster.leftovers(), ["filler"]);
    drop(small);

    cluster.donor.wait_synced();
    cluster.configure(&["source=clone", "release=held"]);
    let run = cluster.begin();
    run.wait_end();
    let label = only_label(&cluster);
    cluster.operate(&["verify", label.id()]);
    let datadir = cluster.restore(&label, "restored");
    cluster.writer.sql("DELETE FROM shop.sbtest1 WHERE pad = 'while we stream'");
    let mut third = cluster.restored_node(&datadir, &label, Options::default());
    cluster.join_by_ist(&mut third, &label);
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor, &third]);
}

pub fn a_server_that_ends_after_done_does_not_spoil_the_clone(lab: &Lab) {
    let mut cluster = cluster(lab, "held-server");
    cluster.configure(&["source=clone", "release=held", "rate-limit=16M"]);
    for (round, signal) in [Signal::SIGKILL, Signal::SIGTERM].into_iter().enumerate() {
        let rows = "SELECT COUNT(*), SUM(k), MAX(id) FROM shop.sbtest1";
        let before = cluster.donor.sql(rows);
        let run = released(&mut cluster);
        cluster.writer.sql("DELETE FROM shop.sbtest1 WHERE id % 2 = 0; UPDATE shop.sbtest2 SET k = k + 1");
        Cluster::assert_equal(&[&cluster.writer, &cluster.donor]);
        assert_still_streaming(&cluster, &run);
        // A server that is told to end waits for its scripts; this one has ended for it.
        cluster.donor.end_alone(signal);
        assert_still_streaming(&cluster, &run);
        cluster.donor_again();
        run.wait_end();

        let label = only_label(&cluster);
        cluster.operate(&["verify", label.id()]);
        let datadir = cluster.restore(&label, &format!("restored-{round}"));
        let restored = standalone(&cluster, &datadir);
        assert_eq!(restored.sql(rows), before, "the rows of the window, after {signal}");
        assert!(restored.sql("CHECK TABLE shop.sbtest2").ends_with("\tOK"));
        std::fs::remove_dir_all(&label.dir).expect("room for the next one");
    }
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor]);
}
