//! The same backup in several repositories, one of which fails.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;

use crate::answer;
use crate::server::{DIALOGUE, Donor, GTID, Stage};
use crate::tree;

/// Somebody else takes all the space of the repository's disk that was there when the run began.
fn fill(stage: &mut Stage) {
    let hog = stage.repository.parent().unwrap().join("hog");
    let error = std::io::copy(&mut std::io::repeat(7), &mut fs::File::create(hog).unwrap()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32));
}

fn backups(path: &Path) -> Vec<String> {
    tree::list(path).iter().filter_map(|name| name.strip_suffix("/backup.json").map(str::to_owned)).collect()
}

/// A run into a disk that becomes full, and into `other`.
fn filling<'a>(other: &Path, policy: &str) -> Donor<'a> {
    let donor = Donor::new().datadir(tree::incompressible(4 << 20)).on_small_disk(32 << 20);
    let list = format!("{}, {}", donor.repository_path().display(), other.display());
    let donor = donor.set("REPOSITORY", &list).set("REPOSITORY_POLICY", policy);
    donor.on("flush tables", answer::then(fill, answer::flushed(GTID)))
}

#[test]
fn with_all_a_disk_that_fills_up_leaves_nothing_anywhere() {
    let other = tempfile::tempdir().unwrap();
    let outcome = filling(other.path(), "all").run();
    outcome.fails(Errno::ENOSPC).wire(["flush tables", "continue"]).published(0);
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
}

#[test]
fn with_any_the_other_directory_gets_the_backup_and_the_log_says_which() {
    let other = tempfile::tempdir().unwrap();
    let donor = filling(other.path(), "any");
    let full = donor.repository_path();
    let outcome = donor.run().succeeds().wire(DIALOGUE).published(0);
    let [id] = &backups(other.path())[..] else { panic!("not one backup in {:?}", tree::list(other.path())) };
    outcome
        .says(&format!("\"{}\" is given up", full.display()))
        .says(&format!("\"{}\" does not hold the backup {id}", full.display()))
        .says(&format!("\"{}\" holds the backup {id}", other.path().display()));
}

#[test]
fn both_directories_hold_the_same_backup_and_a_name_stands_for_its_place() {
    let other = tempfile::tempdir().unwrap();
    let donor = Donor::new();
    let first = donor.repository_path();
    let lines = format!("[wsrep_sst_backup]\ndestination.far = {}\n", other.path().display());
    let donor = donor.options(&lines).set("REPOSITORY", &format!("{},far", first.display()));
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().wire(DIALOGUE).published(1);
    assert_eq!(backups(&first), backups(other.path()));
    let names = tree::list(&first);
    assert_eq!(names, tree::list(other.path()));
    for name in names.iter().filter(|name| first.join(name).is_file()) {
        assert!(fs::read(first.join(name)).unwrap() == fs::read(other.path().join(name)).unwrap(), "{name:?}");
    }
    drop(outcome);
}

#[test]
fn a_backup_is_copied_by_the_names_of_its_places_and_not_twice() {
    let directory = tempfile::tempdir().unwrap();
    let [near, far] = ["near", "far"].map(|name| directory.path().join(name));
    [&near, &far].into_iter().for_each(|path| fs::create_dir(path).unwrap());
    let outcome = Donor::new().repository_at(&near).on("flush tables", answer::flushed(GTID)).run().succeeds();
    let options = directory.path().join("my.cnf");
    let lines = format!("[wsrep_sst_backup]\ndestination.near={}\ndestination.far={}\n", near.display(), far.display());
    fs::write(&options, lines).unwrap();
    let copy = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsrep_sst_backup"));
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").arg("--defaults-file").arg(&options);
        command.args(["copy", "latest", "--from", "near", "--to", "far"]).output().unwrap()
    };
    let first = copy();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert_eq!((backups(&near).len(), backups(&far)), (1, backups(&near)));
    assert_eq!(copy().status.code(), Some(8), "refused");
    drop(outcome);
}
