//! Repositories that cannot take the backup, and datadirs that cannot be one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;
use nix::sys::stat::Mode;

use crate::answer;
use crate::server::{Donor, GTID, Stage};
use crate::tree;

#[test]
fn an_absent_repository_is_named_before_the_server_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    let outcome = Donor::new().repository_at(&absent).run().fails(Errno::ENOENT).wire([]);
    outcome.says(absent.to_str().unwrap());
    assert!(!absent.exists());
}

#[test]
fn a_repository_that_is_not_writable_is_named_before_the_server_is_asked() {
    let donor = Donor::new().bound_by_modes();
    let repository = donor.repository_path();
    std::fs::set_permissions(&repository, PermissionsExt::from_mode(0o500)).unwrap();
    donor.run().fails(Errno::EACCES).wire([]).says(repository.to_str().unwrap()).published(0);
}

#[test]
fn a_full_repository_is_named_before_the_server_is_asked() {
    let donor = Donor::new().datadir(tree::incompressible(4 << 20)).on_small_disk(64 << 10);
    donor.run().fails(Errno::ENOSPC).wire([]).published(0);
}

#[test]
fn a_repository_that_fills_up_while_the_files_are_copied_is_left_clean() {
    let fill = |stage: &mut Stage| {
        // Somebody else takes all the space that was there when the run began.
        let hog = stage.repository.parent().unwrap().join("hog");
        let error = std::io::copy(&mut std::io::repeat(7), &mut std::fs::File::create(hog).unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32));
    };
    let donor = Donor::new().datadir(tree::incompressible(4 << 20)).on_small_disk(32 << 20);
    let outcome = donor.on("flush tables", answer::then(fill, answer::flushed(GTID))).run();
    outcome.fails(Errno::ENOSPC).wire(["flush tables", "continue"]).published(0);
}

#[test]
fn names_that_are_not_text_and_sockets_do_not_disturb() {
    let datadir = tree::small();
    for name in [&b"shop/a\nb.MYD"[..], b"shop/\xff\xfe.MYD", b"shop/%41.MYD"] {
        std::fs::write(datadir.path().join(OsStr::from_bytes(name)), "x").unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(datadir.path().join("mysqld.sock")).unwrap();
    let outcome = Donor::new().datadir_at(datadir.path()).on("flush tables", answer::flushed(GTID)).run();
    outcome.succeeds().wire(["flush tables", "continue", &format!("done {GTID} 0")]).published(1);
}

#[test]
fn a_fifo_in_the_datadir_is_named() {
    let datadir = tree::small();
    nix::unistd::mkfifo(&datadir.path().join("shop/pipe"), Mode::S_IRUSR).unwrap();
    let outcome = Donor::new().datadir_at(datadir.path()).run_to_any_end(answer::flushed(GTID));
    outcome.says("shop/pipe").says("[ERROR]").published(0);
}

#[test]
fn a_datadir_without_innodbs_own_files_is_refused_before_the_server_is_asked() {
    for name in ["ibdata1", "ib_logfile0"] {
        let datadir = tree::small();
        std::fs::remove_file(datadir.path().join(name)).unwrap();
        let outcome = Donor::new().datadir_at(datadir.path()).run_to_any_end(answer::flushed(GTID));
        outcome.says("cannot find InnoDB's").says("option files").wire([]).published(0);
    }
}

#[test]
fn files_of_innodb_that_vanish_in_the_window_make_no_backup() {
    let vanish = |stage: &mut Stage| std::fs::remove_file(stage.datadir.join("ibdata1")).unwrap();
    let outcome = Donor::new().on("flush tables", answer::then(vanish, answer::flushed(GTID))).run();
    outcome.says("cannot find InnoDB's system tablespace").published(0);
}

#[test]
fn no_configured_repository_inside_the_datadir_gets_into_a_backup() {
    let datadir = tree::small();
    let [far, near, own] = ["far", "near", "own"].map(|name| datadir.path().join(name));
    for directory in [&far, &near, &own] {
        std::fs::create_dir(directory).unwrap();
        // Nothing that is copied could be this.
        nix::unistd::mkfifo(&directory.join("backup"), Mode::S_IRUSR).unwrap();
    }
    let options =
        format!("[wsrep_sst_backup]\ndestination.far = {}\ndestination.near = {}\n", far.display(), near.display());
    for address in ["", "near"] {
        let donor = Donor::new().datadir_at(datadir.path()).repository_at(&own).options(&options);
        donor.arg("--address", address).on("flush tables", answer::flushed(GTID)).run().succeeds();
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let datadir = tree::small();
    let donor = Donor::new().datadir_at(datadir.path()).bound_by_modes();
    std::fs::set_permissions(datadir.path().join("shop/orders.ibd"), PermissionsExt::from_mode(0o000)).unwrap();
    let outcome = donor.run_to_any_end(answer::flushed(GTID)).fails(Errno::EACCES);
    outcome.says("shop/orders.ibd").published(0);
}
