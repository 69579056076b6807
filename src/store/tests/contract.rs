//! What every store promises: one set of tests, run against each of them.

use super::*;

/// Bytes that neither a part nor a frame ends on.
pub(crate) const LONG: usize = 11 * (1 << 20) + 4321;

/// A store under test, empty at first.
pub(crate) trait Subject {
    fn store(&self) -> &dyn Repository;

    /// Begins a backup in the way that is to be tested.
    fn begin(&self, id: &BackupId) -> Result<Begun> {
        self.store().begin(id, ARCHIVE_NAME, LONG as u64)
    }

    /// Removes a backup.
    fn remove(&self, label: &Label) -> Result<()> {
        self.store().remove(label)
    }

    /// The names of everything that is stored, whatever it is, sorted: `ID/NAME` for what belongs to a backup.
    fn everything(&self) -> Vec<String>;

    /// Replaces an object of a backup behind the store's back, or takes it away.
    fn tamper(&self, id: &BackupId, name: &str, bytes: Option<&[u8]>);
}

/// Everything that a store promises to whoever writes to it alone.
pub(crate) fn hold(subject: &impl Subject) {
    what_is_not_committed_is_invisible_and_what_is_is_whole(subject);
    a_commit_never_overwrites(subject);
    an_aborted_upload_leaves_nothing(subject);
    a_label_that_promises_other_bytes_is_not_published(subject);
    what_is_removed_is_gone_and_removing_it_again_is_no_error(subject);
    the_list_is_complete_and_sorted(subject);
    a_long_archive_comes_back_at_any_position(subject);
    a_label_is_believed_only_as_far_as_it_is_proved(subject);
    a_manifest_that_is_not_the_labels_is_damage(subject);
    a_lost_archive_is_damage(subject);
}

pub(crate) fn publish(subject: &impl Subject, id: &BackupId) -> Result<()> {
    let (upload, mut archive) = subject.begin(id)?;
    archive.write_all(ARCHIVE).unwrap();
    upload.commit(MANIFEST, &label(id))
}

fn objects(id: &BackupId) -> [String; 3] {
    ["archive.tar.zst", LABEL_NAME, MANIFEST_NAME].map(|name| format!("{id}/{name}"))
}

fn what_is_not_committed_is_invisible_and_what_is_is_whole(subject: &impl Subject) {
    subject.store().probe_writable().unwrap();
    assert_eq!(subject.everything(), [""; 0], "a probe leaves nothing");
    let (upload, mut archive) = subject.begin(&id(5)).unwrap();
    archive.write_all(ARCHIVE).unwrap();
    archive.flush().unwrap();
    assert!(subject.store().list().unwrap().labels.is_empty());
    assert_eq!(subject.store().label(&id(5)).unwrap_err().class(), Class::NotFound);
    upload.commit(MANIFEST, &label(&id(5))).unwrap();
    assert_whole(subject.store(), &id(5));
    assert_eq!(subject.everything(), objects(&id(5)));
}

fn a_commit_never_overwrites(subject: &impl Subject) {
    assert_eq!(publish(subject, &id(5)).unwrap_err().class(), Class::Refused);
    assert_whole(subject.store(), &id(5));
    assert_eq!(subject.everything(), objects(&id(5)));
}

fn an_aborted_upload_leaves_nothing(subject: &impl Subject) {
    drop(subject.begin(&id(6)).unwrap());
    let (aborted, mut archive) = subject.begin(&id(7)).unwrap();
    archive.write_all(ARCHIVE).unwrap();
    drop(aborted);
    let (aborted, mut archive) = subject.begin(&id(7)).unwrap();
    archive.write_all(&vec![7; LONG]).unwrap();
    drop(aborted);
    assert_eq!(subject.everything(), objects(&id(5)));
}

fn a_label_that_promises_other_bytes_is_not_published(subject: &impl Subject) {
    let good = label(&id(8));
    let other_name = Stored { name: "archive.tar".into(), ..good.archive.clone() };
    let cases: [(&[u8], &[u8], Label); 4] = [
        (b"short", MANIFEST, good.clone()),
        (ARCHIVE, b"short", good.clone()),
        (ARCHIVE, MANIFEST, label(&id(9))),
        (ARCHIVE, MANIFEST, Label { archive: other_name, ..good }),
    ];
    for (bytes, manifest, promise) in cases {
        let (upload, mut archive) = subject.begin(&id(8)).unwrap();
        archive.write_all(bytes).unwrap();
        assert_eq!(upload.commit(manifest, &promise).unwrap_err().class(), Class::Refused);
    }
    assert_eq!(subject.everything(), objects(&id(5)));
}

fn what_is_removed_is_gone_and_removing_it_again_is_no_error(subject: &impl Subject) {
    publish(subject, &id(4)).unwrap();
    for _ in 0..2 {
        subject.remove(&label(&id(4))).unwrap();
        assert_eq!(subject.everything(), objects(&id(5)));
    }
}

fn the_list_is_complete_and_sorted(subject: &impl Subject) {
    publish(subject, &id(9)).unwrap();
    publish(subject, &id(1)).unwrap();
    let store = subject.store();
    let listed: Vec<_> = store.list().unwrap().labels.into_iter().map(|label| label.id).collect();
    assert_eq!(listed, [id(1), id(5), id(9)]);
    assert_eq!(store.resolve("latest").unwrap(), id(9));
    assert_eq!(store.resolve("20261122T1005").unwrap(), id(5));
    assert_eq!(store.resolve("2026").unwrap_err().class(), Class::Usage);
    for none in ["2027", "../x", "", "LATEST"] {
        assert_eq!(store.resolve(none).unwrap_err().class(), Class::NotFound, "{none:?}");
    }
}

fn a_long_archive_comes_back_at_any_position(subject: &impl Subject) {
    let bytes: Vec<u8> = (0..LONG).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let mut label = label(&id(10));
    label.archive.bytes = LONG as u64;
    label.archive.sha256 = Digest::of(&bytes);
    let (upload, mut archive) = subject.begin(&id(10)).unwrap();
    for part in bytes.chunks(700_001) {
        archive.write_all(part).unwrap();
    }
    upload.commit(MANIFEST, &label).unwrap();
    let stored = subject.store().open_archive(&label).unwrap();
    assert_eq!(stored.len(), LONG as u64);
    for (from, length) in [(0, LONG), (0, 1), (LONG - 1, 1), (5 << 20, 100), ((8 << 20) - 3, 7), (4096, 0)] {
        let mut found = vec![0; length];
        stored.read_exact_at(&mut found, from as u64).unwrap();
        assert_eq!(Digest::of(&found), Digest::of(&bytes[from..from + length]), "{length} bytes at {from}");
    }
    for (from, length) in [(LONG, 1), (LONG - 1, 2), (usize::MAX, 1)] {
        let error = stored.read_exact_at(&mut vec![0; length], from as u64).unwrap_err();
        assert_eq!(error.class(), Class::Damage, "{length} bytes at {from}");
    }
}

fn a_label_is_believed_only_as_far_as_it_is_proved(subject: &impl Subject) {
    let good = String::from_utf8(label(&id(1)).to_json().unwrap()).unwrap();
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
    let store = subject.store();
    for (text, class) in cases {
        subject.tamper(&id(1), LABEL_NAME, Some(text.as_bytes()));
        let shown: String = text.chars().take(60).collect();
        assert_eq!(store.label(&id(1)).unwrap_err().class(), class, "{shown}");
        let listing = store.list().unwrap();
        assert_eq!((listing.labels.len(), listing.broken.len()), (3, 1), "{shown}");
        assert_eq!(store.resolve("latest").unwrap(), id(10));
    }
    subject.tamper(&id(1), LABEL_NAME, None);
    assert_eq!(store.label(&id(1)).unwrap_err().class(), Class::Damage);
    subject.tamper(&id(10), LABEL_NAME, None);
    assert_eq!(store.resolve("latest").unwrap(), id(9), "what has no label is passed over");
}

fn a_manifest_that_is_not_the_labels_is_damage(subject: &impl Subject) {
    let store = subject.store();
    for bytes in [&MANIFEST[1..], b"The manifest's bytes", b"the manifest's bytes and more", b""] {
        subject.tamper(&id(5), MANIFEST_NAME, Some(bytes));
        assert_eq!(store.manifest_stored(&label(&id(5))).unwrap_err().class(), Class::Damage);
    }
    subject.tamper(&id(5), MANIFEST_NAME, None);
    assert_eq!(store.manifest_stored(&label(&id(5))).unwrap_err().class(), Class::Damage);
}

fn a_lost_archive_is_damage(subject: &impl Subject) {
    let store = subject.store();
    subject.tamper(&id(5), "archive.tar.zst", None);
    let error = store.open_archive(&label(&id(5))).map(drop).unwrap_err();
    assert_eq!(error.class(), Class::Damage);
    assert!(error.to_string().contains("lost its archive"), "{error}");
    let error = store.open_archive(&label(&id(3))).map(drop).unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "no such backup at all");
}
