//! The source `precopy`: files are copied while they change, and again what changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use crate::answer;
use crate::server::{DIALOGUE, Donor, GTID, Stage, wait_until};
use crate::tree;

/// Waits until everything below `datadir` was left alone for so long that it is copied before the window.
pub fn grow_old(datadir: &Path) {
    let age = |name: &String| {
        let (now, nanoseconds) = wsrep_sst_backup::sys::file_clock();
        let changed = fs::symlink_metadata(datadir.join(name)).unwrap();
        (now - changed.ctime()) as f64 + (f64::from(nanoseconds) - changed.ctime_nsec() as f64) / 1e9
    };
    wait_until("the files are old", || tree::list(datadir).iter().all(|name| age(name) > 1.1));
}

/// Makes all files look as if they had been left alone for two hours.
pub fn grow_idle(datadir: &Path) {
    let now = u64::try_from(wsrep_sst_backup::sys::file_clock().0).unwrap();
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now - 7200);
    for path in tree::list(datadir).iter().map(|name| datadir.join(name)).filter(|path| path.is_file()) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    grow_old(datadir);
}

/// Drops, renames, truncates, replaces and grows tables.
pub fn disturb(datadir: &Path) {
    let shop = datadir.join("shop");
    fs::remove_dir_all(datadir.join("dropped")).unwrap();
    fs::remove_file(shop.join("gone.frm")).unwrap();
    fs::rename(shop.join("old.ibd"), shop.join("new.ibd")).unwrap();
    fs::write(shop.join("short.ibd"), b"short").unwrap();
    fs::write(shop.join("copy.ibd"), vec![8; 40_000]).unwrap();
    fs::rename(shop.join("copy.ibd"), shop.join("replaced.ibd")).unwrap();
    fs::write(shop.join("created.ibd"), vec![9; 70_000]).unwrap();
}

pub fn datadir() -> tempfile::TempDir {
    let there = tree::small();
    fs::create_dir(there.path().join("dropped")).unwrap();
    for name in ["dropped/t.ibd", "shop/gone.frm", "shop/old.ibd", "shop/short.ibd", "shop/replaced.ibd"] {
        fs::write(there.path().join(name), vec![7; 40_000]).unwrap();
    }
    there
}

#[test]
fn what_changed_since_it_was_copied_is_copied_again_and_what_is_gone_is_gone() {
    let there = datadir();
    grow_old(there.path());
    let donor = Donor::new().datadir_at(there.path()).set("SOURCE", "precopy");
    let repository = donor.repository_path();
    let change = |stage: &mut Stage| disturb(&stage.datadir);
    let outcome = donor.on("flush tables", answer::then(change, answer::flushed(GTID))).run();
    let outcome = outcome.succeeds().wire(DIALOGUE).published(1).says("before the window copied");
    assert_eq!(outcome.label()["source"], "precopy");
    // short.ibd and replaced.ibd.
    assert_eq!(outcome.label()["copied_again_bytes"], 40_005);
    let (unpacked_in, unpacked) = tree::unpacked(&repository);
    let removed = fs::read(unpacked_in.path().join(".wsrep_sst_backup/removed")).unwrap();
    let names: Vec<&[u8]> = removed.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    assert_eq!(names, [&b"shop/old.ibd"[..], b"shop/gone.frm", b"dropped/t.ibd", b"dropped"]);
    tree::assert_same(&unpacked, &tree::contents(there.path()));
    let id = outcome.label()["id"].as_str().unwrap().to_owned();
    let verify = std::process::Command::new(env!("CARGO_BIN_EXE_wsrep_sst_backup"))
        .args(["verify", "--repository"])
        .arg(&repository)
        .arg(id)
        .output()
        .unwrap();
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
}

#[test]
fn what_was_written_within_the_quiet_time_is_left_to_the_window() {
    let there = datadir();
    grow_old(there.path());
    let donor = Donor::new().datadir_at(there.path()).set("SOURCE", "precopy");
    let donor = donor.set("PRECOPY_QUIET", "1h").set("PRECOPY_PASSES", "1");
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().wire(DIALOGUE).published(1);
    outcome.never_says("before the window copied");
}

#[test]
fn what_was_written_just_now_is_waited_for() {
    let there = datadir();
    let donor = Donor::new().datadir_at(there.path()).set("SOURCE", "precopy").set("PRECOPY_QUIET", "2s");
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().wire(DIALOGUE).published(1);
    outcome.says("waiting for them to be at rest").says("before the window copied");
}

#[test]
fn files_that_come_and_go_during_the_passes_do_no_harm() {
    let there = tree::incompressible(2 << 20);
    let churn = there.path().join("shop");
    grow_old(there.path());
    let stop = AtomicBool::new(false);
    let donor = Donor::new().datadir_at(there.path()).set("SOURCE", "precopy").set("RATE_LIMIT", "1M");
    let repository = donor.repository_path();
    std::thread::scope(|scope| {
        let churner = scope.spawn(|| {
            let mut turn = 0u32;
            while !stop.load(Ordering::Acquire) {
                let [a, b, c] = ["a.ibd", "b.ibd", "c.frm"].map(|name| churn.join(name));
                fs::write(&a, vec![turn as u8; 50_000]).unwrap();
                fs::write(&c, vec![turn as u8; 5000]).unwrap();
                fs::rename(&a, &b).unwrap();
                fs::File::options().write(true).open(&b).unwrap().set_len(u64::from(turn % 7) * 4000).unwrap();
                let database = churn.parent().unwrap().join(format!("d{}", turn % 5));
                fs::create_dir(&database).unwrap();
                fs::write(database.join("t.frm"), "t").unwrap();
                fs::remove_dir_all(&database).unwrap();
                fs::remove_file(&c).unwrap();
                turn += 1;
            }
            turn
        });
        let freeze = |stage: &mut Stage| {
            stop.store(true, Ordering::Release);
            assert!(churner.join().unwrap() > 10);
            answer::flushed(GTID)(stage);
        };
        let _outcome = donor.on("flush tables", freeze).run().succeeds().wire(DIALOGUE).published(1);
        let unpacked = tree::unpacked(&repository).1;
        tree::assert_same(&unpacked, &tree::contents(there.path()));
    });
}

#[test]
fn a_frozen_limit_holds_for_what_is_left_to_copy_in_the_window() {
    for source in ["precopy", "locked"] {
        let donor = Donor::new().datadir(tree::large()).set("FROZEN_LIMIT", "300ms").set("SOURCE", source);
        // What was written just now is left to the window.
        let outcome = donor.on("flush tables", answer::then(touch_large, answer::flushed(GTID))).run();
        outcome.fails(Errno::ETIMEDOUT).wire(["flush tables", "continue"]).says("frozen-limit").published(0);
    }
}

fn touch_large(stage: &mut Stage) {
    fs::File::options().append(true).open(stage.datadir.join("shop/large.MYD")).unwrap().set_len(9 << 30).unwrap();
}
