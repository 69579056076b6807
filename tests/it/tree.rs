//! Data directories to be backed up: each is a temporary directory that its test owns.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Larger than what any machine reads before it is interrupted, and empty on disk.
const LARGE_BYTES: u64 = 8 << 30;

/// The files of a small server, as a stopped one leaves them.
pub fn small() -> TempDir {
    let datadir = tempfile::tempdir().unwrap();
    for directory in ["mysql", "shop"] {
        fs::create_dir(datadir.path().join(directory)).unwrap();
    }
    let file = |name: &str, content: &[u8]| fs::write(datadir.path().join(name), content).unwrap();
    file("ibdata1", &[0; 256 << 10]);
    file("ib_logfile0", &[0; 96 << 10]);
    file("aria_log_control", &[0; 52]);
    file("aria_log.00000001", &[0; 16 << 10]);
    file("shop/db.opt", b"default-character-set=utf8mb4\n");
    file("shop/orders.ibd", &[0; 96 << 10]);
    file("shop/notes.MYD", b"a note\n");
    file("galera.cache", &[0; 4096]);
    file("gvwstate.dat", b"my_uuid: x\n");
    file("grastate.dat", b"# GALERA saved state\nversion: 2.1\nuuid:    6d3f9a04-1234-11ef-8000-0242ac120002\nseqno:   -1\nsafe_to_bootstrap: 0\n");
    datadir
}

/// A small server with one table that takes so long to copy that the run can be interrupted there.
pub fn large() -> TempDir {
    let datadir = small();
    fs::File::create(datadir.path().join("shop/large.MYD")).unwrap().set_len(LARGE_BYTES).unwrap();
    datadir
}

/// A small server with `bytes` that do not compress.
pub fn incompressible(bytes: usize) -> TempDir {
    let datadir = small();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let noise = (0..bytes / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    fs::write(datadir.path().join("shop/noise.MYD"), noise.collect::<Vec<u8>>()).unwrap();
    datadir
}

/// All paths below `directory`, sorted.
pub fn list(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
            found.push(entry.path().strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}

/// What a backup leaves out or writes itself.
const OURS: [&str; 5] = ["galera.cache", "gvwstate.dat", "grastate.dat", ".wsrep_sst_backup", "tables_flushed"];

/// The files below `path` that belong into a backup, with their bytes; the names alone of directories.
pub fn contents(path: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let wanted = |name: &String| !OURS.iter().any(|ours| name.starts_with(ours));
    let names = list(path).into_iter().filter(wanted);
    names.map(|name| (name.clone(), fs::read(path.join(name)).ok())).collect()
}

/// What plain tar makes of the one archive in the repository, with what vanished removed as the format says.
pub fn unpacked(repository: &Path) -> (TempDir, BTreeMap<String, Option<Vec<u8>>>) {
    const REMOVE: &str = "test ! -e .wsrep_sst_backup/removed || xargs -0 rm -rf -- < .wsrep_sst_backup/removed";
    let archive = list(repository).into_iter().find(|name| name.contains("/archive.tar")).unwrap();
    let there = tempfile::tempdir().unwrap();
    let run = |command: &mut Command| assert!(command.current_dir(there.path()).status().unwrap().success());
    run(Command::new("tar").args(["-x", "--zstd", "-f"]).arg(repository.join(archive)));
    run(Command::new("sh").args(["-c", REMOVE]));
    let files = contents(there.path());
    (there, files)
}

/// Fails with the names that differ.
#[track_caller]
pub fn assert_same(one: &BTreeMap<String, Option<Vec<u8>>>, other: &BTreeMap<String, Option<Vec<u8>>>) {
    let names = one.keys().chain(other.keys()).filter(|name| one.get(*name) != other.get(*name));
    let differ: Vec<String> = names
        .map(|name| format!("{name}: {:?} and {:?} bytes", one.get(name).map(length), other.get(name).map(length)))
        .collect();
    assert!(differ.is_empty(), "{differ:?}");
}

fn length(contents: &Option<Vec<u8>>) -> Option<usize> {
    contents.as_ref().map(Vec::len)
}
