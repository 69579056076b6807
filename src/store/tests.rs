//! What every store promises, and what this one does when the disk does not.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::upload::LocalUpload;
use super::*;
use crate::archive::codec::Codec;
use crate::archive::label::{BackupId, Label, Source, Stored};
use crate::archive::read_at::ReadAt;
use crate::archive::seal::{Recipients, Seal};
use crate::digest::Digest;
use crate::dir::fault::{self, After};
use crate::error::{Class, Result};

const ARCHIVE: &[u8] = b"the archive's bytes";
const MANIFEST: &[u8] = b"the manifest's bytes";

fn id(minute: u32) -> BackupId {
    format!("20261122T10{minute:02}46Z-node2-7f3a").parse().unwrap()
}

fn label(id: &BackupId) -> Label {
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
        archive: stored(codec.archive_name(Seal::Open), ARCHIVE),
        manifest: stored(MANIFEST_NAME, MANIFEST),
        request: None,
        warnings: 0,
    }
}

/// How a test begins an upload: with a file that has no name, or as where there are none.
type Begin = for<'a> fn(&'a LocalRepository, &BackupId) -> Result<LocalUpload<'a>>;

fn unnamed<'a>(store: &'a LocalRepository, id: &BackupId) -> Result<LocalUpload<'a>> {
    store.begin(id, label(id).codec, Seal::Open)
}

fn named<'a>(store: &'a LocalRepository, id: &BackupId) -> Result<LocalUpload<'a>> {
    store.begin_named(id, label(id).codec)
}

fn publish(store: &LocalRepository, begin: Begin, id: &BackupId) -> Result<()> {
    let upload = begin(store, id)?;
    upload.archive().write_all(ARCHIVE).unwrap();
    upload.commit(MANIFEST, &label(id))
}

fn visible(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_whole(store: &LocalRepository, id: &BackupId) {
    let found = store.label(id).unwrap();
    assert_eq!(found, label(id));
    assert_eq!(store.manifest_stored(&found).unwrap(), MANIFEST);
    let stored = store.open_archive(&found).unwrap();
    let mut archive = vec![0; stored.len() as usize];
    stored.read_exact_at(&mut archive, 0).unwrap();
    assert_eq!(archive, ARCHIVE);
}

/// The contract of a store.
fn contract(begin: Begin) {
    let base = tempfile::tempdir().unwrap();
    let store = LocalRepository::open(base.path()).unwrap();

    let upload = begin(&store, &id(5)).unwrap();
    upload.archive().write_all(ARCHIVE).unwrap();
    assert!(store.list().unwrap().labels.is_empty(), "uncommitted is invisible");
    upload.commit(MANIFEST, &label(&id(5))).unwrap();
    assert_whole(&store, &id(5));

    let error = publish(&store, begin, &id(5)).unwrap_err();
    assert_eq!(error.class(), Class::Refused, "a commit never overwrites");
    assert_whole(&store, &id(5));

    drop(begin(&store, &id(6)).unwrap());
    let aborted = begin(&store, &id(7)).unwrap();
    aborted.archive().write_all(ARCHIVE).unwrap();
    drop(aborted);
    assert_eq!(visible(base.path()), [id(5).as_str()], "an aborted upload leaves nothing");

    publish(&store, begin, &id(9)).unwrap();
    publish(&store, begin, &id(1)).unwrap();
    let listed: Vec<_> = store.list().unwrap().labels.into_iter().map(|label| label.id).collect();
    assert_eq!(listed, [id(1), id(5), id(9)], "the list is complete and sorted");
    assert_eq!(store.resolve("latest").unwrap(), id(9));
    assert_eq!(store.resolve("20261122T1005").unwrap(), id(5));
    assert_eq!(store.resolve("2026").unwrap_err().class(), Class::Usage);
    for none in ["2027", "../x", "", "LATEST"] {
        assert_eq!(store.resolve(none).unwrap_err().class(), Class::NotFound, "{none:?}");
    }
}

#[test]
fn the_contract_holds_with_files_without_names() {
    contract(unnamed);
}

#[test]
fn the_contract_holds_where_every_file_needs_a_name() {
    contract(named);
}

fn fault_sweep(begin: Begin, after: After) {
    let mut swept = 0;
    for k in 1.. {
        let base = tempfile::tempdir().unwrap();
        let store = LocalRepository::open(base.path()).unwrap();
        publish(&store, begin, &id(1)).unwrap();
        let (result, reached) = fault::on(k, after, || publish(&store, begin, &id(2)));
        assert_whole(&store, &id(1));
        let listing = store.list().unwrap();
        assert!(listing.broken.is_empty(), "operation {k}: {:?}", listing.broken);
        if listing.labels.len() == 2 {
            assert_whole(&store, &id(2));
        }
        if after == After::Works && result.is_err() {
            assert_eq!(visible(base.path()), [id(1).as_str()], "operation {k} left something");
        }
        if result.is_ok() {
            assert_eq!(listing.labels.len(), 2, "operation {k}");
        }
        store.sweep().unwrap();
        assert_eq!(visible(base.path()).len(), listing.labels.len(), "operation {k} left something for ever");
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
    fault_sweep(unnamed, After::Works);
    fault_sweep(named, After::Works);
}

#[test]
fn whenever_the_program_dies_the_backup_is_whole_or_absent_and_the_next_run_cleans_up() {
    fault_sweep(unnamed, After::Dead);
    fault_sweep(named, After::Dead);
}

#[test]
fn a_sweep_leaves_a_living_upload_alone() {
    let base = tempfile::tempdir().unwrap();
    let store = LocalRepository::open(base.path()).unwrap();
    let living = named(&store, &id(1)).unwrap();
    living.archive().write_all(ARCHIVE).unwrap();
    fs::create_dir(base.path().join(".partial-dead")).unwrap();
    fs::write(base.path().join(".partial-dead/archive.tar"), "half").unwrap();
    LocalRepository::open(base.path()).unwrap().sweep().unwrap();
    assert!(!base.path().join(".partial-dead").exists());
    living.commit(MANIFEST, &label(&id(1))).unwrap();
    assert_whole(&store, &id(1));
}

#[test]
fn a_label_that_promises_other_bytes_is_not_published() {
    let base = tempfile::tempdir().unwrap();
    let store = LocalRepository::open(base.path()).unwrap();
    let upload = unnamed(&store, &id(1)).unwrap();
    upload.archive().write_all(b"short").unwrap();
    assert_eq!(upload.commit(MANIFEST, &label(&id(1))).unwrap_err().class(), Class::Refused);
    assert!(visible(base.path()).is_empty());
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
    publish(&store, unnamed, &id(1)).unwrap();
    publish(&store, named, &id(2)).unwrap();
    assert_whole(&store, &id(1));
}

#[test]
fn a_label_is_believed_only_as_far_as_it_is_proved() {
    let base = tempfile::tempdir().unwrap();
    let store = LocalRepository::open(base.path()).unwrap();
    publish(&store, unnamed, &id(1)).unwrap();
    let path = base.path().join(id(1).as_str()).join(LABEL_NAME);
    let good = fs::read_to_string(&path).unwrap();
    let cases = [
        (good[..good.len() / 2].to_owned(), Class::Damage),
        (format!("{good}x"), Class::Damage),
        (String::new(), Class::Damage),
        ("x".repeat(LABEL_LIMIT as usize + 1), Class::Damage),
        ("[".repeat(100_000), Class::Damage),
        (good.replace("\"format_version\": 1", "\"format_version\": 2"), Class::Unsupported),
        ("{\"format_version\": 99}".to_owned(), Class::Unsupported),
        (good.replace("archive.tar.zst", "../../etc/passwd"), Class::Damage),
        (good.replace("archive.tar.zst", "archive.tar"), Class::Damage),
        (good.replace(MANIFEST_NAME, "/etc/shadow"), Class::Damage),
        (good.replace(id(1).as_str(), id(2).as_str()), Class::Damage),
    ];
    for (text, class) in cases {
        fs::write(&path, &text).unwrap();
        let shown: String = text.chars().take(60).collect();
        assert_eq!(store.label(&id(1)).unwrap_err().class(), class, "{shown}");
        let listing = store.list().unwrap();
        assert_eq!((listing.labels.len(), listing.broken.len()), (0, 1), "{shown}");
        assert_eq!(store.resolve("latest").unwrap_err().class(), Class::NotFound);
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(store.label(&id(1)).unwrap_err().class(), Class::Damage);
    symlink("/etc/passwd", &path).unwrap();
    assert!(store.label(&id(1)).is_err());
}

#[test]
fn a_manifest_that_is_not_the_labels_is_damage() {
    let base = tempfile::tempdir().unwrap();
    let store = LocalRepository::open(base.path()).unwrap();
    publish(&store, unnamed, &id(1)).unwrap();
    let path = base.path().join(id(1).as_str()).join(MANIFEST_NAME);
    for bytes in [&MANIFEST[1..], b"The manifest's bytes", b"the manifest's bytes and more", b""] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(store.manifest_stored(&label(&id(1))).unwrap_err().class(), Class::Damage);
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(store.manifest_stored(&label(&id(1))).unwrap_err().class(), Class::Damage);
    symlink("/etc/passwd", &path).unwrap();
    assert_eq!(store.manifest_stored(&label(&id(1))).unwrap_err().class(), Class::Damage);
}

#[test]
fn what_is_not_a_backup_is_not_listed_and_a_link_is_not_followed() {
    let base = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let store = LocalRepository::open(base.path()).unwrap();
    publish(&LocalRepository::open(other.path()).unwrap(), unnamed, &id(1)).unwrap();
    fs::create_dir(base.path().join("lost+found")).unwrap();
    fs::write(base.path().join("note.txt"), "x").unwrap();
    symlink(other.path().join(id(1).as_str()), base.path().join(id(1).as_str())).unwrap();
    let listing = store.list().unwrap();
    assert_eq!((listing.labels.len(), listing.broken.len()), (0, 1));
}
