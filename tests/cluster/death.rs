//! Sudden ends inside the window: nothing is published, nothing is left, the donor works.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::lab::backup::{Moment, Outcome, Writes};
use crate::lab::cluster::Cluster;
use crate::lab::mount::Mount;
use crate::lab::node::Options;
use crate::lab::process::{PATIENCE, until};
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

pub fn a_window_past_its_limit_fails_the_run_and_lets_the_server_go(lab: &Lab) {
    let mut cluster = Cluster::start_with(lab, "limit", Seed::Small, slowly());
    cluster.configure(&["source=locked", "compress-level=19", "workers=1", "frozen-limit=500ms"]);
    let writes = Writes::start(&cluster.writer);
    let run = cluster.begin();
    let mark = run.mark();
    cluster.donor.wait_log(mark, "Provider paused at", PATIENCE);
    let frozen = Instant::now();
    cluster.donor.wait_log(mark, "resuming provider at", PATIENCE);
    let took = frozen.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&took), "frozen for {took:?}");
    let line = run.outcome(&cluster).failed();
    assert!(line.contains("timed out"), "{line}");
    cluster.donor.wait_synced();
    writes.stop();
    let said = cluster.donor.backup_log(mark);
    assert!(said.contains("frozen for longer than frozen-limit (0.5 s)"), "{said}");

    // Held with SIGSTOP, the program cannot hear its limit; it does as soon as it goes on.
    let run = cluster.begin();
    let mark = run.mark();
    cluster.donor.wait_log(mark, "window opened", PATIENCE);
    run.stop();
    let held = Instant::now();
    until("the limit to pass", PATIENCE, || (held.elapsed() > Duration::from_millis(600)).then_some(()));
    let line = run.release(&cluster).failed();
    assert!(line.contains("timed out"), "{line}");
    assert!(cluster.donor.backup_log(mark).contains("frozen-limit"));
    cluster.donor.wait_synced();
    assert_eq!(cluster.leftovers(), Vec::<String>::new());
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor]);
}
