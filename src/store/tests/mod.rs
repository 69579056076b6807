//! What every store promises, and what the local directory does when the disk does not.

pub(crate) mod contract;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use self::contract::{Subject, publish};
use super::*;
use crate::archive::codec::Codec;
use crate::archive::label::{Source, Stored};
use crate::archive::seal::Recipients;
use crate::digest::Digest;
use crate::dir::fault::{self, After};

pub(crate) const ARCHIVE_NAME: &str = "archive.tar.zst";
pub(crate) const ARCHIVE: &[u8] = b"the archive's bytes";
pub(crate) const MANIFEST: &[u8] = b"the manifest's bytes";

pub(crate) fn id(minute: u32) -> BackupId {
    format!("20261122T10{minute:02}46Z-node2-7f3a").parse().unwrap()
}

pub(crate) fn label(id: &BackupId) -> Label {
    let stored = |name: &str, bytes: &[u8]| Stored {
        name: name.to_owned(),
        bytes: bytes.len() as u64,
        sha256: Digest::of(bytes),
    };
    let codec = Codec::new("zstd", None).unwrap();
    Label {
        format_version: 1,
        id: id.clone(),
        gtid: "6d3f9a04-1234-11ef-8000-0242ac120002:77".parse().unwrap(),
        gtid_domain: Some(0),
        cluster: "lab".into(),
        node: "node2".into(),
        server_version: None,
        program_version: "0.1.0".into(),
        binlog: None,
        started: "2026-11-22T10:09:46Z".parse().unwrap(),
        finished: "2026-11-22T10:10:46Z".parse().unwrap(),
        frozen_ms: 12,
        flush_ms: 3,
        source: Source::Locked,
        settle_passes: 2,
        files: 1,
        raw_bytes: 100,
        copied_again_bytes: 0,
        codec,
        recipients: Recipients::none(),
        archive: stored(ARCHIVE_NAME, ARCHIVE),
        manifest: stored(MANIFEST_NAME, MANIFEST),
        request: None,
        warnings: 0,
    }
}

/// How a test begins an upload: with a file that has no name, or as where there are none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    Unnamed,
    Named,
}

/// A repository in a directory of its own.
struct Local {
    base: tempfile::TempDir,
    store: LocalRepository,
    begin: Begin,
}

impl Local {
    fn new(begin: Begin) -> Self {
        let base = tempfile::tempdir().unwrap();
        let store = LocalRepository::open(base.path()).unwrap();
        Self { base, store, begin }
    }

    fn visible(&self) -> Vec<String> {
        visible(self.base.path())
    }
}

impl Subject for Local {
    fn store(&self) -> &dyn Repository {
        &self.store
    }

    fn begin(&self, id: &BackupId) -> Result<Begun> {
        match self.begin {
            Begin::Unnamed => self.store.begin(id, ARCHIVE_NAME, 0),
            Begin::Named => self.store.begin_named(id, ARCHIVE_NAME),
        }
    }

    fn everything(&self) -> Vec<String> {
        crate::command::fixture::names(self.base.path())
            .into_iter()
            .filter(|name| name.parse::<BackupId>().is_err())
            .collect()
    }

    fn tamper(&self, id: &BackupId, name: &str, bytes: Option<&[u8]>) {
        let path = self.base.path().join(id.as_str()).join(name);
        match bytes {
            Some(bytes) => fs::write(path, bytes).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }
}

fn visible(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn assert_whole(store: &dyn Repository, id: &BackupId) {
    let found = store.label(id).unwrap();
    assert_eq!(found, label(id));
    assert_eq!(store.manifest_stored(&found).unwrap(), MANIFEST);
    let stored = store.open_archive(&found).unwrap();
    let mut archive = vec![0; stored.len() as usize];
    stored.read_exact_at(&mut archive, 0).unwrap();
    assert_eq!(archive, ARCHIVE);
}

#[test]
fn the_contract_holds_with_files_without_names() {
    contract::hold(&Local::new(Begin::Unnamed));
}

#[test]
fn the_contract_holds_where_every_file_needs_a_name() {
    contract::hold(&Local::new(Begin::Named));
}

fn fault_sweep(begin: Begin, after: After) {
    let mut swept = 0;
    for k in 1.. {
        let local = Local::new(begin);
        let store = &local.store;
        publish(&local, &id(1)).unwrap();
        let (result, reached) = fault::on(k, after, || publish(&local, &id(2)));
        assert_whole(store, &id(1));
        let listing = store.list().unwrap();
        assert!(listing.broken.is_empty(), "operation {k}: {:?}", listing.broken);
        if listing.labels.len() == 2 {
            assert_whole(store, &id(2));
        }
        if after == After::Works && result.is_err() {
            assert_eq!(local.visible(), [id(1).as_str()], "operation {k} left something");
        }
        if result.is_ok() {
            assert_eq!(listing.labels.len(), 2, "operation {k}");
        }
        store.sweep().unwrap();
        assert_eq!(local.visible().len(), listing.labels.len(), "operation {k} left something for ever");
        if !reached {
            assert!(result.is_ok());
            break;
        }
        swept += 1;
    }
    assert!(swept > 15, "the sweep saw {swept} operations only");
}

#[test]
fn whichever_operation_fails_the_backup_is_whole_or_absent() {
    fault_sweep(Begin::Unnamed, After::Works);
    fault_sweep(Begin::Named, After::Works);
}

#[test]
fn whenever_the_program_dies_the_backup_is_whole_or_absent_and_the_next_run_cleans_up() {
    fault_sweep(Begin::Unnamed, After::Dead);
    fault_sweep(Begin::Named, After::Dead);
}

#[test]
fn a_sweep_leaves_a_living_upload_alone() {
    let local = Local::new(Begin::Named);
    let base = local.base.path();
    let (living, mut archive) = local.begin(&id(1)).unwrap();
    archive.write_all(ARCHIVE).unwrap();
    fs::create_dir(base.join(".partial-dead")).unwrap();
    fs::write(base.join(".partial-dead/archive.tar"), "half").unwrap();
    LocalRepository::open(base).unwrap().sweep().unwrap();
    assert!(!base.join(".partial-dead").exists());
    living.commit(MANIFEST, &label(&id(1))).unwrap();
    assert_whole(&local.store, &id(1));
}

#[test]
fn modes_are_exact_whatever_the_umask() {
    // The umask belongs to the whole process: a child of its own, so that no other test feels it.
    for mask in ["000", "777"] {
        let base = tempfile::tempdir().unwrap();
        let child = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "umask $1; exec \"$2\" --exact store::tests::publish_for_the_umask_test --nocapture",
                "sh",
                mask,
            ])
            .arg(std::env::current_exe().unwrap())
            .env("UMASK_TEST_REPOSITORY", base.path())
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        let backup = base.path().join(id(1).as_str());
        assert_eq!(mode(&backup), 0o700);
        for name in ["archive.tar.zst", MANIFEST_NAME, LABEL_NAME] {
            assert_eq!(mode(&backup.join(name)), 0o600, "{name}");
        }
        let backup = base.path().join(id(2).as_str());
        assert_eq!(mode(&backup.join("archive.tar.zst")), 0o600);
    }
}

/// The child of the test above; by itself it publishes into a directory of its own.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test's child has no other way to be told")]
fn publish_for_the_umask_test() {
    let own = tempfile::tempdir();
    let base = std::env::var_os("UMASK_TEST_REPOSITORY").map_or_else(|| own.unwrap().keep(), Into::into);
    let store = LocalRepository::open(&base).unwrap();
    for (number, begun) in
        [store.begin(&id(1), ARCHIVE_NAME, 0), store.begin_named(&id(2), ARCHIVE_NAME)].into_iter().enumerate()
    {
        let (upload, mut archive) = begun.unwrap();
        archive.write_all(ARCHIVE).unwrap();
        upload.commit(MANIFEST, &label(&id(number as u32 + 1))).unwrap();
    }
    assert_whole(&store, &id(1));
}

#[test]
fn what_is_not_a_backup_is_not_listed_and_a_link_is_not_followed() {
    let (local, other) = (Local::new(Begin::Unnamed), Local::new(Begin::Unnamed));
    let (base, other_base) = (local.base.path(), other.base.path());
    publish(&other, &id(1)).unwrap();
    fs::create_dir(base.join("lost+found")).unwrap();
    fs::write(base.join("note.txt"), "x").unwrap();
    symlink(other_base.join(id(1).as_str()), base.join(id(1).as_str())).unwrap();
    let listing = local.store.list().unwrap();
    assert_eq!((listing.labels.len(), listing.broken.len()), (0, 1));
}

#[test]
fn a_link_in_the_place_of_a_file_of_a_backup_is_damage() {
    let local = Local::new(Begin::Unnamed);
    publish(&local, &id(1)).unwrap();
    for name in [MANIFEST_NAME, "archive.tar.zst", LABEL_NAME] {
        local.tamper(&id(1), name, None);
        symlink("/etc/passwd", local.base.path().join(id(1).as_str()).join(name)).unwrap();
    }
    let (store, promise) = (&local.store, label(&id(1)));
    assert_eq!(store.label(&id(1)).unwrap_err().class(), Class::Damage);
    assert_eq!(store.manifest_stored(&promise).unwrap_err().class(), Class::Damage);
    assert_eq!(store.open_archive(&promise).map(drop).unwrap_err().class(), Class::Damage);
}
