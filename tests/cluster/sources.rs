//! Every way to hold the files still, on the file systems where it works, through the whole cycle.

use crate::cycle::{full_cycle, standalone};
use crate::lab::cluster::Cluster;
use crate::lab::mount::{FileSystem, fill_up, free_bytes};
use crate::lab::node::Options;
use crate::lab::process::PATIENCE;
use crate::lab::{Lab, Seed};

/// The donor on a file system of its own, with these lines for the program.
fn on(kind: FileSystem, backup: &[&str]) -> Options {
    let backup = backup.iter().map(|line| (*line).to_owned()).collect();
    Options { backup, disk: Some((kind, 2048)), ..Options::default() }
}

pub fn clones_of_a_donor_on_xfs_and_btrfs_restore_to_a_node_that_joins_by_ist(lab: &Lab) {
    for kind in FileSystem::CLONING {
        let label = full_cycle(lab, &format!("clone-{}", kind.name()), on(kind, &["source=auto"]));
        assert_eq!(label.text("source"), "clone");
    }
}

pub fn a_donor_on_ext4_is_copied_ahead_and_restores_to_a_node_that_joins_by_ist(lab: &Lab) {
    let label = full_cycle(lab, "precopy-ext4", on(FileSystem::Ext4, &["source=auto"]));
    assert_eq!(label.text("source"), "precopy");
}

pub fn a_donor_on_xfs_is_copied_ahead_where_that_is_asked_for(lab: &Lab) {
    let label = full_cycle(lab, "precopy-xfs", on(FileSystem::Xfs, &["source=precopy"]));
    assert_eq!(label.text("source"), "precopy");
}

pub fn without_room_for_clones_files_are_copied_ahead_and_a_clone_that_takes_the_last_room_is_given_up(lab: &Lab) {
    let options = Options { disk: Some((FileSystem::Xfs, 640)), ..Options::default() };
    let mut cluster = Cluster::start_with(lab, "room", Seed::Small, options);
    cluster.configure(&["source=auto", "clone-reserve=4G"]);
    let label = cluster.backup();
    assert_eq!(label.text("source"), "precopy");
    let said = cluster.donor.backup_log(0);
    let why = "source precopy (chosen by auto): datadir cannot be cloned (only ";
    assert!(said.contains(why) && said.contains(" free, clone-reserve is 4.0 GiB)"), "{said}");
    let datadir = cluster.restore(&label, "restored");
    Cluster::assert_same_tables(&standalone(&cluster, &datadir), &cluster.donor);
    std::fs::remove_dir_all(&label.dir).expect("the backup is no longer needed");

    // The room goes while the clone is held: a quarter of the reserve is the floor.
    let floor = 40 << 20;
    cluster.configure(&["source=auto", "clone-reserve=160M", "rate-limit=4M"]);
    let run = cluster.begin();
    let mark = run.mark();
    cluster.donor.wait_log(mark, "window closed", PATIENCE);
    let home = cluster.donor.home.clone();
    fill_up(&home.join("filler"), floor);
    let line = run.outcome(&cluster).failed();
    assert!(line.contains("No space left on device"), "{line}");
    let said = cluster.donor.backup_log(mark);
    assert!(said.contains("source clone") && said.contains("the clone was given up"), "{said}");
    cluster.donor.wait_synced();
    assert!(free_bytes(&home) > floor / 2, "the server has what is left");
    cluster.donor.sql("INSERT INTO shop.sbtest1 (k, c, pad) VALUES (1, 'there is', 'room')");
    assert_eq!(cluster.leftovers(), Vec::<String>::new());

    std::fs::remove_file(home.join("filler")).expect("room again");
    cluster.configure(&["source=auto", "clone-reserve=160M"]);
    assert_eq!(cluster.backup().text("source"), "clone");
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor]);
}
