//! Signals, a server that dies or hangs up, a second run: nothing half-made is ever left.

use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::answer;
use crate::disk::{Disk, fill};
use crate::server::{Donor, GTID, Stage};
use crate::tree;

const SIGNALS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// Answers, and does `what` while the program copies.
fn while_copying(what: impl FnOnce(&mut Stage)) -> impl FnOnce(&mut Stage) {
    let copying = |stage: &mut Stage| stage.wait_for_copying();
    answer::then(answer::flushed(GTID), answer::then(copying, what))
}

#[test]
fn a_signal_while_the_server_flushes_ends_the_run() {
    for signal in SIGNALS {
        let donor = Donor::new().on("flush tables", answer::signal(signal));
        donor.run().fails(Errno::EINTR).wire(["flush tables"]).says(&format!("stopped by {signal}")).published(0);
    }
}

#[test]
fn a_signal_while_the_files_are_copied_ends_the_run() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let donor = Donor::new().datadir(tree::large()).on("flush tables", while_copying(answer::signal(signal)));
        donor
            .run()
            .fails(Errno::EINTR)
            .wire(["flush tables", "continue"])
            .says(&format!("stopped by {signal}"))
            .published(0);
    }
}

#[test]
fn a_signal_after_the_window_leaves_a_whole_backup_or_none() {
    for signal in SIGNALS {
        let donor = Donor::new().on("flush tables", answer::flushed(GTID)).on("continue", answer::signal(signal));
        donor.run().leaves_all_or_nothing();
    }
}

#[test]
fn the_death_of_the_server_ends_the_run_while_it_flushes() {
    let outcome = Donor::new().on("flush tables", |stage: &mut Stage| stage.kill_server()).run();
    outcome.wire(["flush tables"]).says("the server that asked for the backup is gone").published(0);
}

#[test]
fn the_death_of_the_server_ends_the_run_while_the_files_are_copied() {
    let kill = while_copying(|stage: &mut Stage| stage.kill_server());
    let outcome = Donor::new().datadir(tree::large()).on("flush tables", kill).run();
    outcome.wire(["flush tables", "continue"]).says("the server that asked for the backup is gone").published(0);
}

#[test]
fn a_server_that_hangs_up_gets_no_backup() {
    let donor = Donor::new().on("flush tables", answer::then(answer::flushed(GTID), Stage::hang_up));
    donor.run().fails(Errno::EPIPE).says("does not listen any more").published(0);
}

#[test]
fn a_window_that_stays_open_for_too_long_ends_the_run() {
    let donor =
        Donor::new().datadir(tree::large()).set("FROZEN_LIMIT", "300ms").on("flush tables", answer::flushed(GTID));
    donor.run().fails(Errno::ETIMEDOUT).wire(["flush tables", "continue"]).says("frozen-limit").published(0);
}

/// The kernel holds every write to it until it is thawed, and whoever writes cannot be ended meanwhile.
fn freeze(disk: &Disk, how: &str) {
    let ended = Command::new("fsfreeze").arg(how).arg(disk.path()).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_run_that_hangs_in_the_window_lets_the_server_go_and_fails() {
    let disk = Disk::xfs();
    let database = disk.directory("apart");
    fill(tree::incompressible(1 << 20).path(), &database);
    let datadir = tree::small();
    std::os::unix::fs::symlink(&database, datadir.path().join("apart")).unwrap();
    let donor = Donor::new().datadir_at(datadir.path()).set("SOURCE", "auto").set("FROZEN_LIMIT", "300ms");
    let donor =
        donor.on("flush tables", answer::then(|_: &mut Stage| freeze(&disk, "--freeze"), answer::flushed(GTID)));
    let let_go = |stage: &mut Stage| {
        assert!(stage.program().is_some(), "it still hangs");
        freeze(&disk, "--unfreeze");
        std::fs::remove_file(stage.datadir.join("tables_flushed")).unwrap();
    };
    let outcome = donor.on("continue", let_go).run();
    let outcome = outcome.fails(Errno::ETIMEDOUT).wire(["flush tables", "continue"]).published(0);
    outcome.says("longer than frozen-limit (0.3 s)").says("the server was let go by force");
}

#[test]
fn a_second_run_on_the_same_datadir_is_refused_and_the_first_goes_on() {
    let datadir = tree::small();
    let second = |stage: &mut Stage| {
        Donor::new().datadir_at(&stage.datadir).run().fails(Errno::EALREADY).wire([]).published(0);
    };
    let donor = Donor::new().datadir_at(datadir.path());
    let outcome = donor.on("flush tables", answer::then(second, answer::flushed(GTID))).run();
    outcome.succeeds().wire(["flush tables", "continue", &format!("done {GTID} 0")]).published(1);
}

#[test]
fn a_run_after_a_killed_one_succeeds() {
    let datadir = tree::large();
    let repository = tempfile::tempdir().unwrap();
    let kill = while_copying(answer::signal(Signal::SIGKILL));
    let killed = Donor::new()
        .datadir_at(datadir.path())
        .repository_at(repository.path())
        .on("flush tables", kill)
        .run_to_sudden_end();
    assert_eq!(killed, ["flush tables"]);
    std::fs::remove_file(datadir.path().join("shop/large.MYD")).unwrap();
    let donor = Donor::new().datadir_at(datadir.path()).repository_at(repository.path());
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().published(1);
    outcome.wire(["flush tables", "continue", &format!("done {GTID} 0")]);
}
