//! `release = held`: `done` when the files are held, and what may happen after it.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::answer;
use crate::disk::{Disk, fill};
use crate::server::{DIALOGUE, Donor, GTID, Stage, wait_until};
use crate::tree;

/// A donor that is to be released early and then to stream for some seconds.
fn early(disk: &Disk) -> Donor<'static> {
    let datadir = disk.directory("data");
    fill(tree::incompressible(3 << 20).path(), &datadir);
    Donor::new().datadir_at(&datadir).set("RELEASE", "held").set("RATE_LIMIT", "2M").set("SOURCE", "auto")
}

/// The same, and the server answers.
fn released_early(disk: &Disk) -> Donor<'static> {
    early(disk).on("flush tables", answer::flushed(GTID))
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
    outcome.fails_after_done().wire(DIALOGUE).says("stopped by SIGTERM").published(0);
}

/// Whether the server still waits for something that it ran.
fn server_waits(stage: &Stage) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", stage.server)).unwrap_or_default();
    !children.trim().is_empty()
}

#[test]
fn the_server_need_not_wait_for_the_end_of_a_run_that_released_it() {
    let disk = Disk::xfs();
    let released = |stage: &mut Stage| {
        wait_until("the server waits for nothing", || !server_waits(stage));
        nothing_is_published_yet(stage);
    };
    released_early(&disk).on("done", released).run().succeeds().wire(DIALOGUE).published(1);
}

/// Sends `signal` to the process that the server waits for, and waits until the run has ended too.
fn to_the_stand_in(signal: Signal) -> impl FnOnce(&mut Stage) {
    move |stage| {
        let run = stage.running_program();
        let stat = std::fs::read_to_string(format!("/proc/{run}/stat")).unwrap();
        let stand_in = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
        let name = std::fs::read_to_string(format!("/proc/{stand_in}/comm")).unwrap();
        assert!(name.starts_with("wsrep_sst_backu"), "the run's parent is {name}");
        kill(Pid::from_raw(stand_in), signal).unwrap();
        wait_until("the run ends", || stage.program().is_none());
    }
}

#[test]
fn the_stand_in_hands_on_a_signal() {
    let disk = Disk::xfs();
    let outcome = early(&disk).on("flush tables", to_the_stand_in(Signal::SIGTERM)).run();
    outcome.fails(Errno::EINTR).wire(["flush tables"]).says("stopped by SIGTERM").published(0);
}

#[test]
fn before_done_a_run_ends_with_its_stand_in() {
    let disk = Disk::xfs();
    let repository = tempfile::tempdir().unwrap();
    let donor = early(&disk).repository_at(repository.path());
    let donor = donor.on("flush tables", to_the_stand_in(Signal::SIGKILL));
    assert_eq!(donor.run_to_sudden_end(), ["flush tables"]);
    assert_eq!(tree::list(repository.path()), Vec::<String>::new());
}

#[test]
fn the_stand_in_ends_as_the_run_does() {
    let disk = Disk::xfs();
    let outcome = early(&disk).on("flush tables", answer::signal(Signal::SIGINT)).run();
    outcome.fails(Errno::EINTR).wire(["flush tables"]).says("stopped by SIGINT").published(0);
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
