//! The source `clone` on real XFS and Btrfs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::answer;
use crate::disk::{Disk, fill};
use crate::precopy;
use crate::server::{DIALOGUE, Donor, GTID, Stage, wait_until};
use crate::tree;

/// A datadir on this disk, with files of all lengths around the block size.
fn datadir(disk: &Disk) -> PathBuf {
    let there = disk.directory("data");
    fill(tree::incompressible(3 << 20).path(), &there);
    for (number, length) in [0usize, 1, 4095, 4096, 4097, 70_001].into_iter().enumerate() {
        fs::write(there.join(format!("shop/odd{number}.frm")), vec![b'a' + number as u8; length]).unwrap();
    }
    there
}

/// What the server does with its files as soon as it goes on.
fn overwrite(datadir: &Path) {
    for name in ["shop/orders.ibd", "shop/noise.MYD", "ibdata1", "ib_logfile0", "shop/odd4.frm"] {
        let file = fs::File::options().write(true).open(datadir.join(name)).unwrap();
        let length = file.metadata().unwrap().len() as usize;
        file.write_all_at(&vec![0xEE; length], 0).unwrap();
    }
    fs::remove_file(datadir.join("shop/odd5.frm")).unwrap();
    fs::remove_file(datadir.join("shop/notes.MYD")).unwrap();
}

#[test]
fn the_archive_is_the_tree_of_the_window_although_the_server_writes_right_after_it() {
    for disk in Disk::cloning() {
        let disk = disk();
        let datadir = datadir(&disk);
        let before = tree::contents(&datadir);
        let donor = Donor::new().datadir_at(&datadir).set("RATE_LIMIT", "3M").set("SOURCE", "auto");
        let repository = donor.repository_path();
        let donor = donor.on("flush tables", answer::flushed(GTID));
        let outcome = donor.on("continue", |stage: &mut Stage| overwrite(&stage.datadir)).run();
        let outcome = outcome.succeeds().wire(DIALOGUE).published(1).says("source clone (chosen by auto)");
        assert_eq!(outcome.label()["source"], "clone");
        assert_eq!(outcome.label()["copied_again_bytes"], 0);
        assert_ne!(tree::contents(&datadir), before);
        let (_there, unpacked) = tree::unpacked(&repository);
        tree::assert_same(&unpacked, &before);
    }
}

#[test]
fn what_the_server_still_writes_inside_the_window_is_cloned_again() {
    for disk in Disk::cloning() {
        let disk = disk();
        let datadir = datadir(&disk);
        for number in 0..500 {
            fs::write(datadir.join(format!("shop/t{number}.ibd")), vec![3; 16 << 10]).unwrap();
        }
        let writer = |stage: &mut Stage| {
            answer::flushed(GTID)(stage);
            for byte in 0..50 {
                fs::write(stage.datadir.join("shop/rollback.ibd"), vec![byte; 32 << 10]).unwrap();
                fs::write(stage.datadir.join("shop/rollback.frm"), vec![byte; 700]).unwrap();
            }
        };
        let donor = Donor::new().datadir_at(&datadir).set("SOURCE", "auto");
        let repository = donor.repository_path();
        let _outcome = donor.on("flush tables", writer).run().succeeds().wire(DIALOGUE).published(1);
        let (_there, unpacked) = tree::unpacked(&repository);
        tree::assert_same(&unpacked, &tree::contents(&datadir));
    }
}

#[test]
fn what_changed_since_it_was_cloned_ahead_is_cloned_again_and_what_is_gone_is_gone() {
    for disk in Disk::cloning() {
        let disk = disk();
        let datadir = disk.directory("data");
        fill(precopy::datadir().path(), &datadir);
        precopy::grow_idle(&datadir);
        let donor = Donor::new().datadir_at(&datadir).set("SOURCE", "auto");
        let repository = donor.repository_path();
        let change = |stage: &mut Stage| {
            // Of the same size, and with the time set back: only the change time tells.
            let old = stage.datadir.join("shop/orders.ibd");
            let (modified, length) =
                (fs::metadata(&old).unwrap().modified().unwrap(), fs::metadata(&old).unwrap().len());
            let file = fs::File::options().write(true).open(&old).unwrap();
            file.write_all_at(&vec![0xEE; length as usize], 0).unwrap();
            file.set_modified(modified).unwrap();
            precopy::disturb(&stage.datadir);
        };
        let outcome = donor.on("flush tables", answer::then(change, answer::flushed(GTID))).run();
        let outcome = outcome.succeeds().wire(DIALOGUE).published(1).says("bytes before the window");
        let orders = fs::metadata(datadir.join("shop/orders.ibd")).unwrap().len();
        // orders.ibd, short.ibd and replaced.ibd.
        assert_eq!(outcome.label()["copied_again_bytes"], orders + 40_005);
        let (_there, unpacked) = tree::unpacked(&repository);
        tree::assert_same(&unpacked, &tree::contents(&datadir));
    }
}

#[test]
fn everything_that_stands_still_is_cloned_before_the_window_and_only_looked_at_in_it() {
    let disk = Disk::xfs();
    let datadir = datadir(&disk);
    precopy::grow_idle(&datadir);
    // Left to the window: the redo log, what the server may write through a mapping; and what is no part of a backup.
    let left = ["ib_logfile0", "shop/notes.MYD", "shop/noise.MYD", "galera.cache", "gvwstate.dat", "grastate.dat"];
    let size = |name: &String| Some(fs::metadata(datadir.join(name)).unwrap()).filter(fs::Metadata::is_file);
    let names = tree::list(&datadir).into_iter().filter(|name| !left.contains(&name.as_str()));
    let cold: u64 = names.filter_map(|name| size(&name)).map(|found| found.len()).sum();
    let donor = Donor::new().datadir_at(&datadir).set("SOURCE", "clone");
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().published(1);
    let outcome = outcome.says(&format!("cloned {cold} of ")).says("settled in 2 passes, nothing copied twice");
    assert_eq!(outcome.label()["copied_again_bytes"], 0);
}

#[test]
fn a_table_in_use_is_not_cloned_ahead() {
    let disk = Disk::xfs();
    let datadir = datadir(&disk);
    precopy::grow_old(&datadir);
    let donor = Donor::new().datadir_at(&datadir).set("SOURCE", "clone");
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().published(1);
    let _outcome = outcome.says("cloned 0 of ").says("settled in 2 passes, nothing copied twice");
}

/// Runs a program that is killed, and checks that nothing of it is left; gives the lines that it said.
fn leaves_nothing(disk: &Disk, run: impl FnOnce(Donor<'static>) -> Vec<String>) -> Vec<String> {
    let datadir = disk.path().join("data");
    let (names, free) = (tree::list(&datadir), disk.free());
    let repository = tempfile::tempdir().unwrap();
    let donor = Donor::new()
        .datadir_at(&datadir)
        .repository_at(repository.path())
        .set("RATE_LIMIT", "100K")
        .set("SOURCE", "auto");
    let wire = run(donor);
    // The server's own answer.
    let _ = fs::remove_file(datadir.join("tables_flushed"));
    assert_eq!(tree::list(&datadir), names);
    assert_eq!(tree::list(repository.path()), Vec::<String>::new());
    wait_until("the space is free again", || disk.free() + (256 << 10) >= free);
    wire
}

#[test]
fn a_killed_program_leaves_nothing_in_any_phase() {
    for disk in Disk::cloning() {
        let disk = disk();
        datadir(&disk);
        let kill = || answer::signal(Signal::SIGKILL);
        let wire = leaves_nothing(&disk, |donor| donor.on("flush tables", kill()).run_to_sudden_end());
        assert_eq!(wire, ["flush tables"]);
        leaves_nothing(&disk, |donor| {
            donor.on("flush tables", answer::then(answer::flushed(GTID), kill())).run_to_sudden_end()
        });
        // While the clone is held, and its blocks are overwritten.
        let streaming = |stage: &mut Stage| {
            let noise = fs::File::options().write(true).open(stage.datadir.join("shop/noise.MYD")).unwrap();
            noise.write_all_at(&vec![1; 3 << 20], 0).unwrap();
            noise.sync_all().unwrap();
        };
        let wire = leaves_nothing(&disk, |donor| {
            let donor = donor.on("flush tables", answer::flushed(GTID));
            donor.on("continue", answer::then(streaming, kill())).run_to_sudden_end()
        });
        assert_eq!(wire, ["flush tables", "continue"]);
    }
}

/// A datadir with so many small tables.
fn many(disk: &Disk, tables: usize) -> PathBuf {
    let datadir = datadir(disk);
    for number in 0..tables {
        fs::write(datadir.join(format!("shop/t{number}.frm")), format!("table {number}")).unwrap();
    }
    datadir
}

#[test]
fn thousands_of_files_take_no_more_descriptors_than_a_few() {
    for disk in Disk::cloning() {
        let disk = disk();
        let datadir = many(&disk, 2000);
        let before = tree::contents(&datadir);
        let donor =
            Donor::new().datadir_at(&datadir).below(&["/usr/bin/prlimit", "--nofile=64:64"]).set("SOURCE", "auto");
        let repository = donor.repository_path();
        let outcome = donor.on("flush tables", answer::flushed(GTID)).run();
        let _outcome = outcome.succeeds().wire(DIALOGUE).published(1).says("source clone");
        tree::assert_same(&tree::unpacked(&repository).1, &before);
    }
}

#[test]
fn a_window_of_clones_that_stays_open_for_too_long_ends_the_run() {
    let disk = Disk::xfs();
    let datadir = many(&disk, 2000);
    let donor = Donor::new().datadir_at(&datadir).set("FROZEN_LIMIT", "1ms").set("SOURCE", "auto");
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run();
    // On a failure the server is let go, without `done`.
    outcome.fails(Errno::ETIMEDOUT).wire(["flush tables", "continue"]).says("frozen-limit").published(0);
}

/// A datadir on one disk with its undo tablespaces on another.
fn on_two<'a>(data: &Disk, undo: &Disk) -> Donor<'a> {
    let there = datadir(data);
    let directory = undo.directory("undo");
    fs::write(directory.join("undo001"), vec![9; 1 << 20]).unwrap();
    let option = format!("--innodb-undo-directory={}", directory.display());
    Donor::new().datadir_at(&there).set("SOURCE", "auto").set("RATE_LIMIT", "3M").more(&["--mysqld-args", &option])
}

/// Makes a backup while the undo tablespace is overwritten as soon as the server goes on: it holds the old one.
fn undo_is_held(undo: &Disk, donor: Donor<'_>) -> crate::outcome::Outcome {
    let repository = donor.repository_path();
    let path = undo.path().join("undo/undo001");
    let overwrite =
        |_: &mut Stage| fs::File::options().write(true).open(path).unwrap().write_all_at(&[0xEE; 1 << 20], 0).unwrap();
    let outcome = donor.on("flush tables", answer::flushed(GTID)).on("continue", overwrite).run();
    let outcome = outcome.succeeds().wire(DIALOGUE).published(1).says("source clone");
    let (there, _) = tree::unpacked(&repository);
    let held = fs::read(there.path().join(".wsrep_sst_backup/roots/innodb-undo/undo001")).unwrap();
    assert!(held == vec![9; 1 << 20]);
    outcome
}

#[test]
fn every_root_is_cloned_on_its_own_file_system() {
    let (data, undo) = (Disk::xfs(), Disk::btrfs());
    undo_is_held(&undo, on_two(&data, &undo)).never_says("cannot be cloned");
}

#[test]
fn a_root_that_cannot_be_cloned_is_copied_while_the_server_is_frozen_and_the_log_says_so() {
    for (source, how) in
        [("auto", "is copied before the window and inside it"), ("clone", "is copied inside the window")]
    {
        let (data, undo) = (Disk::xfs(), Disk::ext4());
        let outcome = undo_is_held(&undo, on_two(&data, &undo).set("SOURCE", source));
        outcome.says("innodb-undo cannot be cloned").says(how);
    }
}

#[test]
fn files_that_differ_from_the_others_of_their_file_system_are_copied_ahead() {
    // Btrfs does not clone between files with and without checksums.
    let disk = Disk::btrfs();
    let datadir = datadir(&disk);
    let plain = datadir.join("plain");
    fs::create_dir(&plain).unwrap();
    assert!(Command::new("chattr").arg("+C").arg(&plain).status().unwrap().success());
    fs::write(plain.join("t.ibd"), vec![4; 64 << 10]).unwrap();
    let before = tree::contents(&datadir);
    precopy::grow_old(&datadir);
    let donor = Donor::new().datadir_at(&datadir).set("SOURCE", "auto");
    let repository = donor.repository_path();
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run();
    let outcome = outcome.succeeds().wire(DIALOGUE).published(1).says("1 file of datadir could not be cloned");
    let _outcome = outcome.says("pass 1 before the window copied 65536 of");
    tree::assert_same(&tree::unpacked(&repository).1, &before);
}

#[test]
fn clone_is_refused_where_nothing_can_be_cloned_before_the_server_is_asked() {
    let disk = Disk::ext4();
    let outcome = Donor::new().datadir_at(&datadir(&disk)).set("SOURCE", "clone").run();
    outcome.fails(Errno::EINVAL).wire([]).says("the source clone is not possible here").published(0);
}

#[test]
fn without_room_for_what_the_server_overwrites_nothing_is_cloned() {
    let disk = Disk::xfs();
    let datadir = datadir(&disk);
    let donor = |source: &str, reserve: &str| {
        Donor::new().datadir_at(&datadir).set("SOURCE", source).set("CLONE_RESERVE", reserve)
    };
    let outcome = donor("auto", "10G").on("flush tables", answer::flushed(GTID)).run().succeeds().published(1);
    assert_eq!(outcome.says("clone-reserve is 10.0 GiB").label()["source"], "precopy");
    donor("clone", "10G").run().fails(Errno::EINVAL).wire([]).published(0);
    let outcome = donor("auto", "1G").on("flush tables", answer::flushed(GTID)).run().succeeds().published(1);
    assert_eq!(outcome.says("[WARNING]").says("less than clone-reserve").label()["source"], "clone");
}

#[test]
fn a_clone_is_given_up_before_the_server_runs_out_of_space() {
    let disk = Disk::xfs();
    let datadir = datadir(&disk);
    let fill = |stage: &mut Stage| {
        let hog = fs::File::create(stage.datadir.parent().unwrap().join("hog")).unwrap();
        nix::fcntl::posix_fallocate(&hog, 0, 250 << 20).unwrap();
    };
    let donor =
        Donor::new().datadir_at(&datadir).set("CLONE_RESERVE", "1G").set("RATE_LIMIT", "100K").set("SOURCE", "auto");
    let donor = donor.on("flush tables", answer::flushed(GTID)).on("continue", fill);
    let outcome = donor.run().fails(Errno::ENOSPC).wire(["flush tables", "continue"]).published(0);
    outcome.says("the clone was given up");
}

#[test]
fn a_clone_is_given_up_for_space_while_the_server_is_waited_for() {
    let disk = Disk::xfs();
    let datadir = datadir(&disk);
    let hog = |stage: &mut Stage| {
        let hog = fs::File::create(stage.datadir.parent().unwrap().join("hog")).unwrap();
        nix::fcntl::posix_fallocate(&hog, 0, 250 << 20).unwrap();
    };
    let donor = Donor::new().datadir_at(&datadir).set("CLONE_RESERVE", "1G").set("SOURCE", "auto");
    let outcome = donor.on("flush tables", hog).run().fails(Errno::ENOSPC).wire(["flush tables"]).published(0);
    outcome.says("the clone was given up");
}
