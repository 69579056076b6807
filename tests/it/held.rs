//! `release = held`: `done` when the files are held, and what may happen after it.

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::answer;
use crate::disk::{Disk, fill};
use crate::server::{DIALOGUE, Donor, GTID, Stage, wait_until};
use crate::tree;

/// A donor that is released early and then streams for some seconds.
fn released_early(disk: &Disk) -> Donor<'static> {
    let datadir = disk.directory("data");
    fill(tree::incompressible(3 << 20).path(), &datadir);
    let donor = Donor::new().datadir_at(&datadir).set("RELEASE", "held").set("RATE_LIMIT", "2M").set("SOURCE", "auto");
    donor.on("flush tables", answer::flushed(GTID))
}

fn nothing_is_published_yet(stage: &mut Stage) {
    assert_eq!(tree::list(&stage.repository), Vec::<String>::new());
    assert!(stage.program().is_some());
}

#[test]
fn done_comes_when_the_files_are_held_and_the_backup_later() {
    for disk in Disk::cloning() {
        let disk = disk();
        let outcome = released_early(&disk).on("done", nothing_is_published_yet).run();
        outcome.succeeds().wire(DIALOGUE).published(1).says("the node is released");
    }
}

#[test]
fn a_failure_after_done_leaves_no_label() {
    let disk = Disk::xfs();
    let fail = answer::then(nothing_is_published_yet, answer::signal(Signal::SIGTERM));
    let outcome = released_early(&disk).on("done", fail).run();
    outcome.fails_after_done(Errno::EINTR).wire(DIALOGUE).says("stopped by SIGTERM").published(0);
}

#[test]
fn the_server_may_end_after_done() {
    let disk = Disk::xfs();
    let outcome = released_early(&disk).on("done", |stage: &mut Stage| stage.kill_server()).run();
    outcome.wire(DIALOGUE).published(1).never_says("[ERROR]");
}

#[test]
fn the_server_may_not_end_before_done() {
    let disk = Disk::xfs();
    let donor = released_early(&disk).set("RELEASE", "stored");
    let outcome = donor.on("continue", |stage: &mut Stage| stage.kill_server()).run();
    outcome.wire(["flush tables", "continue"]).says("the server that asked for the backup is gone").published(0);
}

#[test]
fn after_done_the_answers_in_the_datadir_are_another_transfers() {
    let disk = Disk::xfs();
    let another = |stage: &mut Stage| {
        let answer = stage.datadir.join("tables_flushed");
        std::fs::write(&answer, GTID).unwrap();
        wait_until("the run ends", || stage.program().is_none());
        std::fs::remove_file(&answer).expect("it was not for us");
    };
    released_early(&disk).on("done", another).run().succeeds().wire(DIALOGUE).published(1);
}

#[test]
fn a_second_donation_is_refused_while_the_first_still_streams() {
    let disk = Disk::xfs();
    let second = |stage: &mut Stage| {
        let donor = Donor::new().datadir_at(&stage.datadir).set("SOURCE", "auto");
        donor.run().fails(Errno::EALREADY).wire([]).says("another backup of this server is running").published(0);
    };
    released_early(&disk).on("done", second).run().succeeds().wire(DIALOGUE).published(1);
}

#[test]
fn without_a_clone_the_node_is_released_when_the_backup_is_stored() {
    for source in ["precopy", "locked"] {
        let stored = |stage: &mut Stage| assert_ne!(tree::list(&stage.repository), Vec::<String>::new());
        let donor = Donor::new().datadir(tree::small()).set("RELEASE", "held").set("SOURCE", source);
        let outcome = donor.on("flush tables", answer::flushed(GTID)).on("done", stored).run();
        outcome.succeeds().wire(DIALOGUE).published(1).says("[WARNING] release = held needs a clone");
    }
}
