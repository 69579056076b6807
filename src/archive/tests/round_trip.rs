//! What goes in comes out: by our own reader, and by GNU tar with the stock decompressors.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::super::codec::FRAME_BYTES;
use super::*;

/// Names that trip up careless programs.
const WEIRD_NAMES: [&[u8]; 9] = [
    b"plain",
    b"with space",
    b"new\nline",
    b"-rf",
    b"\xff\xfe",
    "größe".as_bytes(),
    b"\x1b[31m",
    b"back\\slash",
    b"PaxHeaders",
];

fn sizes() -> Vec<usize> {
    let around = |size: usize| [size - 1, size, size + 1];
    let mut sizes = vec![0, 1];
    for size in [512, 1024, 32 << 10, FRAME_BYTES - 512, FRAME_BYTES - 1024, FRAME_BYTES, 2 * FRAME_BYTES] {
        sizes.extend(around(size));
    }
    sizes
}

/// Every size, then the weird names, long ones among them.
fn rich_tree() -> Tree {
    let mut tree = Tree::new();
    for (seed, size) in sizes().into_iter().enumerate() {
        tree.insert(format!("size-{size}").into_bytes(), Some(contents(seed as u64, size)));
    }
    for name in WEIRD_NAMES {
        tree.insert([b"db-", name].concat(), None);
        tree.insert([b"db-", name, b"/", name].concat(), Some(contents(7, 700)));
    }
    for len in [99, 100, 101, 254] {
        tree.insert(vec![b'n'; len], Some(contents(8, len)));
        tree.insert([vec![b'd'; len], b"/".to_vec(), vec![b'e'; 200]].concat(), Some(contents(9, len)));
    }
    tree
}

#[test]
fn every_size_and_name_comes_back_with_every_codec() {
    let tree = rich_tree();
    for codec in CODECS {
        let finished = encode(&tree, codec, 3);
        assert_eq!(finished.stored_bytes, finished.sink.len() as u64);
        assert_eq!(finished.sha256, Digest::of(&finished.sink));
        assert!(restore_tree(&finished.sink, &finished.manifest, 3).unwrap() == tree);
        assert_eq!(verified(&finished.sink, &finished.manifest, &label(&finished)).unwrap().damages, []);
        let stored = finished.manifest.to_stored().unwrap();
        assert_eq!(Manifest::from_stored(&stored).unwrap(), finished.manifest);
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_with_any_number_of_workers() {
    let tree = rich_tree();
    for codec in CODECS {
        let [one, four] = [1, 4].map(|workers| encode(&tree, codec, workers));
        assert!(one.sink == four.sink);
        assert_eq!(one.manifest.to_stored().unwrap(), four.manifest.to_stored().unwrap());
    }
}

#[test]
fn files_of_a_frame_begin_one_and_smaller_ones_never_straddle_two() {
    let manifest = encode(&rich_tree(), Codec::Zstd(1), 2).manifest;
    for entry in manifest.files.iter().filter(|entry| entry.size > 0) {
        if entry.size < FRAME_BYTES as u64 {
            assert_eq!(entry.pieces.len(), 1, "{}", entry.path);
        } else {
            assert_eq!(entry.pieces[0].at, 0, "{}", entry.path);
            assert_eq!(entry.pieces.len() as u64, entry.size.div_ceil(FRAME_BYTES as u64));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_comes_back(
        files in prop::collection::btree_map(
            prop::collection::vec(any::<u8>().prop_filter("no byte of a path", |byte| !matches!(byte, 0 | b'/' | b'.')), 1..150),
            (any::<u64>(), prop_oneof![0..3000usize, Just(FRAME_BYTES - 1), FRAME_BYTES..2 * FRAME_BYTES + 2]),
            0..6,
        ),
        codec in prop::sample::select(CODECS.to_vec()),
        workers in 1..4usize,
    ) {
        let tree: Tree = files.into_iter().map(|(name, (seed, len))| (name, Some(contents(seed, len)))).collect();
        let finished = encode(&tree, codec, workers);
        prop_assert!(restore_tree(&finished.sink, &finished.manifest, workers).unwrap() == tree);
        prop_assert_eq!(verified(&finished.sink, &finished.manifest, &label(&finished)).unwrap().damages, []);
    }
}

/// Extracts `archive` as `docs/format.md` tells an operator to; whatever the programs say on stderr is a failure.
fn extract_by_hand(archive: &[u8], codec: Codec, target: &Path) {
    let decompressor = match codec {
        Codec::None => "cat",
        Codec::Gzip(_) => "gzip",
        Codec::Zstd(_) => "zstd",
    };
    let stored = target.join("archive");
    std::fs::write(&stored, archive).unwrap();
    let mut unpack = Command::new(decompressor);
    if decompressor != "cat" {
        unpack.arg("-dc");
    }
    let input = std::fs::File::open(&stored).unwrap();
    let mut unpack = unpack.stdin(input).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let tar = Command::new("tar")
        .args(["-x", "-p", "-f", "-", "-C"])
        .arg(target)
        .stdin(unpack.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(unpack.wait().unwrap().success());
    assert_eq!(String::from_utf8_lossy(&tar.stderr), "");
    assert!(tar.status.success());
    std::fs::remove_file(stored).unwrap();
}

fn tree_on_disk(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        for found in std::fs::read_dir(directory).unwrap() {
            let path = found.unwrap().path();
            let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
            if path.is_dir() {
                tree.insert(name, None);
                open.push(path);
            } else {
                tree.insert(name, Some(std::fs::read(path).unwrap()));
            }
        }
    }
    tree
}

#[test]
fn stock_tools_extract_the_same_tree_without_a_word() {
    for codec in CODECS {
        let mut tree = rich_tree();
        let finished = encode(&tree, codec, 2);
        let target = tempfile::tempdir().unwrap();
        extract_by_hand(&finished.sink, codec, target.path());

        let meta = std::fs::metadata(target.path().join("size-512")).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_700_000_000, 123_456_789));
        assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
        assert_eq!(std::fs::metadata(target.path().join("db-plain")).unwrap().mode() & 0o7777, 0o750);

        let mut found = tree_on_disk(target.path());
        let inner = found.remove(&b".wsrep_sst_backup/manifest.json"[..]).unwrap().unwrap();
        let inner = Manifest::parse(&inner).unwrap();
        assert_eq!(inner, Manifest { frames: None, ..finished.manifest });
        assert_eq!(found.remove(&b".wsrep_sst_backup"[..]), Some(None));
        for len in [99, 100, 101, 254] {
            tree.insert(vec![b'd'; len], None);
        }
        assert_eq!(found, tree);
    }
}

#[test]
fn other_roots_lie_in_the_archives_own_directory() {
    let mut encoder = encoder(Codec::Zstd(1), 2, Vec::new());
    add_file(&mut encoder, meta(b"ibdata1", 0), b"data");
    add_file(&mut encoder, in_root_1(meta(b"undo001", 0)), b"undo");
    let finished = encoder.finish(head()).unwrap();
    let target = tempfile::tempdir().unwrap();
    extract_by_hand(&finished.sink, Codec::Zstd(1), target.path());
    assert_eq!(std::fs::read(target.path().join("ibdata1")).unwrap(), b"data");
    let own = target.path().join(".wsrep_sst_backup");
    assert_eq!(std::fs::read(own.join("roots/innodb-undo/undo001")).unwrap(), b"undo");
    assert_eq!(std::fs::metadata(own).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn the_later_member_of_a_name_wins_in_the_manifest_and_in_tar() {
    let mut encoder = encoder(Codec::Zstd(1), 2, Vec::new());
    let first = add_file(&mut encoder, meta(b"a", 0), b"one instant");
    add_file(&mut encoder, meta(b"gone", 0), b"a temporary table");
    let gone = add_file(&mut encoder, meta(b"gone", 0), b"a temporary table again");
    encoder.barrier().unwrap();
    encoder.forget(first);
    add_file(&mut encoder, meta(b"a", 0), b"another");
    encoder.forget(gone);
    let finished = encoder.finish(head()).unwrap();
    assert_eq!(verified(&finished.sink, &finished.manifest, &label(&finished)).unwrap().damages, []);
    let tree = restore_tree(&finished.sink, &finished.manifest, 1).unwrap();
    assert_eq!(tree, Tree::from([(b"a".to_vec(), Some(b"another".to_vec()))]));
    let excluded = &finished.manifest.excluded;
    assert_eq!(excluded.len(), 1);
    assert_eq!(
        (excluded[0].path.as_bytes(), excluded[0].reason.as_str()),
        (&b"gone"[..], super::super::manifest::VANISHED)
    );
    let target = tempfile::tempdir().unwrap();
    extract_by_hand(&finished.sink, Codec::Zstd(1), target.path());
    assert_eq!(std::fs::read(target.path().join("a")).unwrap(), b"another");
    // Tar makes what vanished again, and the archive says what that is.
    assert!(target.path().join("gone").exists());
    assert_eq!(std::fs::read(target.path().join(".wsrep_sst_backup/removed")).unwrap(), b"gone\0");
}

#[test]
fn the_list_of_what_vanished_names_a_directory_after_what_was_in_it_and_other_roots_by_their_place() {
    let mut encoder = encoder(Codec::None, 1, Vec::new());
    let directory = encoder.add_directory(meta(b"shop", 0)).unwrap();
    let table = add_file(&mut encoder, meta(b"shop/a.frm", 0), b"x");
    let undo = add_file(&mut encoder, in_root_1(meta(b"undo001", 0)), b"y");
    add_file(&mut encoder, meta(b"ibdata1", 0), b"z");
    for gone in [directory, table, undo] {
        encoder.forget(gone);
    }
    let finished = encoder.finish(head()).unwrap();
    assert_eq!(verified(&finished.sink, &finished.manifest, &label(&finished)).unwrap().damages, []);
    let target = tempfile::tempdir().unwrap();
    extract_by_hand(&finished.sink, Codec::None, target.path());
    let list = std::fs::read(target.path().join(".wsrep_sst_backup/removed")).unwrap();
    assert_eq!(list, b"shop/a.frm\0shop\0.wsrep_sst_backup/roots/innodb-undo/undo001\0");
}

#[test]
fn a_file_is_read_from_where_it_begins_in_another() {
    let mut file = tempfile::tempfile().unwrap();
    let whole = contents(3, 3 * FRAME_BYTES);
    file.write_all(&whole).unwrap();
    let file = Arc::new(file);
    let mut encoder = encoder(Codec::Zstd(1), 2, Vec::new());
    let parts = [("small", 4096, 100), ("middle", 8192, 100_000), ("large", 16384, FRAME_BYTES + 1)];
    for (name, base, size) in parts {
        encoder.add_file(meta(name.as_bytes(), size as u64), Arc::clone(&file), base as u64).unwrap();
    }
    let finished = encoder.finish(head()).unwrap();
    let tree = restore_tree(&finished.sink, &finished.manifest, 1).unwrap();
    for (name, base, size) in parts {
        assert!(tree[name.as_bytes()].as_deref() == Some(&whole[base..base + size]), "{name}");
    }
}

#[test]
fn only_wanted_files_are_written() {
    let tree = rich_tree();
    let finished = encode(&tree, Codec::Zstd(1), 2);
    let index = finished.manifest.files.iter().position(|entry| entry.path.as_bytes() == b"size-4194305").unwrap();
    let sink = Collect::default();
    let progress = Progress::default();
    let wanted = |file| file == index;
    restore(&finished.sink, &finished.manifest, &wanted, &sink, count(2), &Cancel::default(), &progress).unwrap();
    let files = sink.0.into_inner().unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), [&index]);
    assert_eq!(progress.raw_done(), FRAME_BYTES as u64 + 1);
    assert!(progress.stored_done() < finished.stored_bytes / 4, "only the frames that hold it were read");
}
