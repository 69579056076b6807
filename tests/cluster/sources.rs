//! Every way to hold the files still, on the file systems where it works, through the whole cycle.

use crate::cycle::full_cycle;
use crate::lab::Lab;
use crate::lab::mount::FileSystem;
use crate::lab::node::Options;

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
