//! Sudden ends inside the window: nothing is published, nothing is left, the donor works.

use std::io::Write;
use std::time::Duration;

use crate::lab::backup::{Moment, Outcome};
use crate::lab::cluster::Cluster;
use crate::lab::mount::Mount;
use crate::lab::node::Options;
use crate::lab::process::until;
use crate::lab::{Lab, Seed};

/// Reads inside the window and compresses hard with one worker, so that the run is still there when something happens.
fn slowly() -> Options {
    let backup = ["source=locked", "compress-level=9", "workers=1"].map(str::to_owned).to_vec();
    Options { backup, ..Options::default() }
}

pub fn a_server_killed_in_the_window_leaves_no_backup_and_no_process(lab: &Lab) {
    let mut cluster = Cluster::start_with(lab, "server-killed", Seed::Large, slowly());
    let held = cluster.hold(Moment::Read(30 << 20));
    held.go_on();
    assert!(held.lives());
    cluster.donor.kill();
    until("the run to notice", Duration::from_secs(10), || (!held.lives()).then_some(()));
    assert_eq!(cluster.leftovers(), Vec::<String>::new());

    cluster.donor_again();
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor]);
}

pub fn a_program_killed_in_the_window_leaves_a_working_donor(lab: &Lab) {
    let mut cluster = Cluster::start_with(lab, "program-killed", Seed::Large, slowly());
    let held = cluster.hold(Moment::Read(30 << 20));
    held.kill();
    let outcome = held.outcome(&cluster);
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    cluster.donor.wait_synced();
    assert!(cluster.labels().is_empty());
    assert!(!cluster.operate(&["list"]).contains("node2"), "nothing is listed");

    cluster.donor.sql("INSERT INTO shop.sbtest1 (k, c, pad) VALUES (1, 'after', 'after')");
    let label = cluster.backup();
    cluster.operate(&["verify", label.id()]);
    assert_eq!(cluster.leftovers(), [label.id()], "and what the killed run left is gone");
}

pub fn a_disk_that_fills_up_is_named_and_leaves_no_backup(lab: &Lab) {
    let mut cluster = Cluster::start_with(lab, "disk", Seed::Large, slowly());
    let repository = cluster.repository.clone();
    let _small = match Mount::tmpfs(&repository, 512) {
        Ok(mount) => mount,
        Err(cause) => panic!("this machine does not let root mount a tmpfs: {cause}"),
    };
    // Room enough when the run begins, none in the middle.
    let held = cluster.hold(Moment::Read(60 << 20));
    let mark = held.mark();
    let mut file = std::fs::File::create(repository.join(".filler")).expect("a file");
    while file.write_all(&[0; 1 << 16]).is_ok() {}
    drop(file);
    let outcome = held.release(&cluster);
    let Outcome::Failed(line) = outcome else { panic!("{outcome:?}") };
    assert!(line.contains("No space left on device"), "the whole cluster reads it: {line}");
    let said = cluster.donor.backup_log(mark);
    assert!(said.contains("No space left on device"), "and the program says where: {said}");
    cluster.donor.wait_synced();
    assert_eq!(cluster.leftovers(), [".filler"]);

    // None from the beginning.
    let outcome = cluster.try_backup(&cluster.donor);
    let Outcome::Failed(line) = outcome else { panic!("{outcome:?}") };
    assert!(line.contains("No space left on device"), "{line}");
    cluster.donor.wait_synced();
    assert_eq!(cluster.leftovers(), [".filler"]);

    std::fs::remove_file(repository.join(".filler")).expect("room again");
    let label = cluster.backup();
    cluster.operate(&["verify", label.id()]);
}
