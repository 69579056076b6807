//! Making way for the server: after the window, never inside it.

use std::fs;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::answer;
use crate::disk::{Disk, fill};
use crate::server::{DIALOGUE, Donor, GTID, Stage, wait_until};
use crate::tree;

/// The niceness of every thread of the program, and how the kernel ranks its reads and writes.
fn threads(stage: &Stage) -> Vec<(i32, String)> {
    let program = stage.running_program();
    let of = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // Field 19, counted from the state, which follows the name in brackets and is the third.
        let niceness = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(16)?.parse().ok()?;
        let ranked = Command::new("ionice").arg("-p").arg(entry.file_name()).output().unwrap();
        Some((niceness, String::from_utf8_lossy(&ranked.stdout).trim().to_owned()))
    };
    let tasks = fs::read_dir(format!("/proc/{program}/task")).unwrap();
    tasks.filter_map(|entry| of(entry.unwrap())).collect()
}

#[test]
fn every_thread_makes_way_after_the_window_and_none_before_it() {
    for (ionice, shown) in [("idle", "idle"), ("best-effort:6", "best-effort: prio 6")] {
        let disk = Disk::xfs();
        let datadir = disk.directory("data");
        fill(tree::incompressible(3 << 20).path(), &datadir);
        let donor = Donor::new()
            .datadir_at(&datadir)
            .set("NICE", "7")
            .set("IONICE", ionice)
            .set("RATE_LIMIT", "100K")
            .set("SOURCE", "auto");
        let before = |stage: &mut Stage| {
            assert!(threads(stage).iter().all(|(niceness, ranked)| *niceness != 7 && ranked != shown));
        };
        let after = |stage: &mut Stage| {
            wait_until("all threads make way", || threads(stage).iter().all(|thread| *thread == (7, shown.to_owned())));
            // Workers, the writer, and those that watch.
            assert!(threads(stage).len() >= 5);
        };
        let donor = donor.on("flush tables", answer::then(before, answer::flushed(GTID)));
        let donor = donor.on("continue", answer::then(after, answer::signal(Signal::SIGTERM)));
        donor.run().fails(Errno::EINTR).wire(["flush tables", "continue"]).published(0);
    }
}

#[test]
fn no_limit_holds_inside_the_window() {
    // At this rate the run would take an hour.
    let donor = Donor::new().datadir(tree::incompressible(3 << 20)).set("SOURCE", "locked").set("RATE_LIMIT", "1K");
    donor.on("flush tables", answer::flushed(GTID)).run().succeeds().wire(DIALOGUE).published(1);
}

#[test]
fn the_limit_holds_for_small_files_too() {
    let disk = Disk::xfs();
    let datadir = disk.directory("data");
    fill(tree::small().path(), &datadir);
    for number in 0..100 {
        fs::write(datadir.join(format!("shop/t{number}.MYD")), vec![number; 30_000]).unwrap();
    }
    let donor = Donor::new().datadir_at(&datadir).set("SOURCE", "auto").set("RATE_LIMIT", "1M");
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().wire(DIALOGUE).published(1);
    let time = |name: &str| -> f64 {
        let stamp: jiff::Timestamp = outcome.label()[name].as_str().unwrap().parse().unwrap();
        stamp.as_millisecond() as f64 / 1e3
    };
    // 3 MB, of which the first piece need not wait.
    assert!(time("finished") - time("started") > 2.5);
}
