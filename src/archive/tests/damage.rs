//! Whatever happens to a stored archive is found, named with its place, and never restored as if it were whole.

use std::io;

use proptest::prelude::*;

use super::super::codec::FRAME_BYTES;
use super::super::manifest::Frame;
use super::super::verify::Damage;
use super::*;

/// Eight frames or so: a large file, small ones, a large one.
fn backup(codec: Codec) -> (Tree, Finished<Vec<u8>>) {
    let mut tree = Tree::new();
    tree.insert(b"a".to_vec(), Some(contents(1, 3 * FRAME_BYTES + 700)));
    for name in [b"b", b"c", b"d"] {
        tree.insert(name.to_vec(), Some(contents(2, 5000)));
    }
    tree.insert(b"e".to_vec(), Some(contents(3, 2 * FRAME_BYTES)));
    let finished = encode(&tree, codec, 2);
    (tree, finished)
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Truncated,
    Flipped,
    Garbage,
}

/// Harms the archive in the middle of `frame`.
fn harm(archive: &[u8], frame: &Frame, how: Harm) -> Vec<u8> {
    let mut harmed = archive.to_vec();
    let middle = frame.offset as usize + frame.stored as usize / 2;
    match how {
        Harm::Truncated => harmed.truncate(middle),
        Harm::Flipped => harmed[middle] ^= 0x10,
        Harm::Garbage => {
            harmed.splice(middle..middle, *b"garbage");
        }
    }
    harmed
}

/// Whether one of the damages covers the frame, by the place in the archive.
fn names_frame(damages: &[Damage], frame: &Frame) -> bool {
    let end = frame.offset + u64::from(frame.stored);
    damages.iter().any(|damage| (frame.offset..end).contains(&damage.archive_offset))
}

#[test]
fn the_damage_matrix() {
    for codec in CODECS {
        let (_, finished) = backup(codec);
        let frames = finished.manifest.frames().unwrap();
        let last = frames.len() - 1;
        for frame in [&frames[0], &frames[1], &frames[last / 2], &frames[last]] {
            for how in [Harm::Truncated, Harm::Flipped, Harm::Garbage] {
                let harmed = harm(&finished.sink, frame, how);
                let report = verified(&harmed, &finished.manifest, &label(&finished)).unwrap();
                let case = format!("{codec:?} {how:?} at {}: {:?}", frame.offset, report.damages);
                assert!(names_frame(&report.damages, frame), "{case}");
                let sized = |damage: &Damage| match how {
                    Harm::Truncated => damage.what == "the archive is truncated",
                    Harm::Garbage => damage.what == "something follows the end of the archive",
                    Harm::Flipped => true,
                };
                assert!(report.damages.iter().any(sized), "{case}");
                // Neither header nor end of the stream is needed to restore.
                let holds_files = finished.manifest.files.iter().flat_map(|entry| &entry.pieces);
                let needed = holds_files.clone().any(|piece| frames[piece.frame as usize] == *frame);
                if needed {
                    let error = restore_tree(&harmed, &finished.manifest, 2).unwrap_err();
                    assert_eq!(error.class(), Class::Damage, "{case}");
                    assert!(error.to_string().contains(" is damaged in the archive at byte "), "{error}");
                }
            }
        }
    }
}

#[test]
fn damage_in_two_files_is_reported_for_both_with_its_place() {
    let (_, finished) = backup(Codec::Zstd(1));
    let frames = finished.manifest.frames().unwrap();
    let entry = |name: &[u8]| finished.manifest.files.iter().find(|entry| entry.path.as_bytes() == name).unwrap();
    let mut harmed = finished.sink.clone();
    for (name, piece) in [(b"a", 1), (b"a", 2), (b"e", 1)] {
        harmed = harm(&harmed, &frames[entry(name).pieces[piece].frame as usize], Harm::Flipped);
    }
    let report = verified(&harmed, &finished.manifest, &label(&finished)).unwrap();
    let found: Vec<_> = report
        .damages
        .iter()
        .map(|damage| (damage.path.as_ref().unwrap().to_string(), damage.offset, damage.length))
        .collect();
    let frame = FRAME_BYTES as u64;
    assert_eq!(found, [("a".to_owned(), frame, 2 * frame), ("e".to_owned(), frame, frame)], "{:?}", report.damages);
    let error = restore_tree(&harmed, &finished.manifest, 2).unwrap_err();
    assert!(error.to_string().starts_with("\"a\" is damaged in the archive at byte "), "{error}");
}

#[test]
fn bytes_after_the_end_are_reported_by_their_place() {
    let (tree, finished) = backup(Codec::Zstd(1));
    let mut longer = finished.sink.clone();
    longer.extend_from_slice(b"more");
    let report = verified(&longer, &finished.manifest, &label(&finished)).unwrap();
    let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
    assert_eq!((damage.offset, damage.length, damage.path.as_ref()), (finished.stored_bytes, 4, None));
    assert!(restore_tree(&longer, &finished.manifest, 2).unwrap() == tree);
}

#[test]
fn nothing_at_all_is_reported_as_all_of_it() {
    let (_, finished) = backup(Codec::Zstd(1));
    let report = verified(&Vec::new(), &finished.manifest, &label(&finished)).unwrap();
    for entry in &finished.manifest.files {
        let lost = report.damages.iter().any(|damage| {
            damage.path.as_ref() == Some(&entry.path) && (damage.offset, damage.length) == (0, entry.size)
        });
        assert!(lost, "{:?} {:?}", entry.path, report.damages);
    }
}

#[test]
fn a_label_of_another_backup_is_reported() {
    let (_, finished) = backup(Codec::Zstd(1));
    let sound = label(&finished);
    let report = |label: Label| verified(&finished.sink, &finished.manifest, &label).unwrap();
    assert_eq!(report(sound.clone()).damages, []);
    let mut others = vec![sound.clone(); 4];
    others[0].id = "20261122T100946Z-node2-0000".parse().unwrap();
    others[1].gtid.seqno += 1;
    others[2].archive.bytes += 1;
    others[3].archive.sha256 = Digest::of(b"another");
    for other in others {
        assert_eq!(report(other.clone()).damages.len(), 1, "{other:?}");
    }
}

/// Fails with this error wherever a range of bytes is touched.
struct BadSector<'a> {
    archive: &'a Vec<u8>,
    range: std::ops::Range<u64>,
    errno: i32,
}

impl ReadAt for BadSector<'_> {
    fn len(&self) -> u64 {
        ReadAt::len(self.archive)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset < self.range.end && self.range.start < offset + buf.len() as u64 {
            return Err(Error::io("read", "archive.tar.zst", io::Error::from_raw_os_error(self.errno)));
        }
        self.archive.read_exact_at(buf, offset)
    }
}

#[test]
fn a_bad_sector_is_damage_of_its_place_and_any_other_error_ends_the_check() {
    let (_, finished) = backup(Codec::Zstd(1));
    let frame = finished.manifest.frames().unwrap()[2];
    let sector = frame.offset + 10..frame.offset + 11;
    let bad = |errno| BadSector { archive: &finished.sink, range: sector.clone(), errno };
    let report = verified(&bad(5), &finished.manifest, &label(&finished)).unwrap();
    let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
    assert_eq!((damage.archive_offset, damage.length), (frame.offset, FRAME_BYTES as u64));
    assert!(damage.what.contains("Input/output error"), "{damage}");
    let error = verified(&bad(13), &finished.manifest, &label(&finished)).unwrap_err();
    assert_eq!(error.os_error(), Some(13));
}

#[test]
fn a_check_that_is_stopped_is_an_error_and_no_report() {
    let (_, finished) = backup(Codec::Zstd(1));
    let cancel = Cancel::default();
    cancel.raise(crate::cancel::Reason::Signal("SIGTERM"));
    let label = label(&finished);
    let stopped = verify(
        &finished.sink,
        &finished.manifest,
        &label,
        &Identities::none(),
        count(2),
        &cancel,
        &Progress::default(),
    );
    assert_eq!(stopped.unwrap_err().class(), Class::Cancelled);
    let sink = Collect::default();
    let stopped =
        restore(&finished.sink, &finished.manifest, &|_| true, &sink, count(2), &cancel, &Progress::default());
    assert_eq!(stopped.unwrap_err().class(), Class::Cancelled);
}

#[test]
fn a_target_that_fails_ends_the_restore_with_its_own_error() {
    struct Full;
    impl PieceSink for Full {
        fn write(&self, _: usize, _: u64, _: &[u8]) -> Result<()> {
            Err(Error::io("write", "target", io::Error::from_raw_os_error(28)))
        }
    }
    let (_, finished) = backup(Codec::Zstd(1));
    let full = restore(
        &finished.sink,
        &finished.manifest,
        &|_| true,
        &Full,
        count(2),
        &Cancel::default(),
        &Progress::default(),
    );
    assert_eq!(full.unwrap_err().os_error(), Some(28));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn no_flipped_bit_goes_unnoticed(codec in prop::sample::select(CODECS.to_vec()), at in any::<prop::sample::Index>(), bit in 0..8) {
        let tree = Tree::from([(b"d".to_vec(), None), (b"f".to_vec(), Some(contents(1, 3000)))]);
        let finished = encode(&tree, codec, 1);
        let mut harmed = finished.sink.clone();
        harmed[at.index(finished.sink.len())] ^= 1u8 << bit;
        prop_assert_ne!(verified(&harmed, &finished.manifest, &label(&finished)).unwrap().damages, []);
        if let Ok(restored) = restore_tree(&harmed, &finished.manifest, 1) {
            prop_assert_eq!(restored, tree);
        }
    }
}
