//! A manifest or an archive that somebody forged: refused, and nothing outside the target has a name.

use tar::{EntryType, Header};

use super::super::manifest::{Excluded, Frame, Piece, Referrer, ReferrerKind};
use super::super::verify::Damage;
use super::*;

fn backup() -> Finished<Vec<u8>> {
    let mut encoder = encoder(Codec::None, 1, Vec::new());
    encoder.add_directory(meta(b"shop", 0)).unwrap();
    add_file(&mut encoder, meta(b"shop/orders.ibd", 0), &contents(1, 2000));
    add_file(&mut encoder, meta(b"shop/items.ibd", 0), &contents(2, 600));
    add_file(&mut encoder, in_root_1(meta(b"undo001", 0)), &contents(3, 1000));
    encoder.finish(head()).unwrap()
}

fn parse_after(change: impl FnOnce(&mut Manifest)) -> Result<Manifest> {
    let mut manifest = backup().manifest;
    change(&mut manifest);
    Manifest::parse(&manifest.to_json().unwrap())
}

fn refer(manifest: &mut Manifest, root: u32, name: &[u8]) {
    let referrer = Referrer { root, path: path(name), kind: ReferrerKind::Isl, target: path(b"x.ibd") };
    manifest.roots[1].referrers.push(referrer);
}

fn frames(manifest: &mut Manifest) -> &mut Vec<Frame> {
    manifest.frames.as_mut().unwrap()
}

#[test]
fn a_manifest_that_lies_is_refused() {
    type Change = fn(&mut Manifest);
    let changes: &[(&str, Change)] = &[
        ("no root", |m| m.roots.clear()),
        ("the first root is another", |m| m.roots[0].kind = RootKind::InnodbUndo),
        ("two datadirs", |m| m.roots[1].kind = RootKind::Datadir),
        ("two roots of a name", |m| m.roots[1].name = m.roots[0].name.clone()),
        ("a relative root", |m| m.roots[1].path = "undo".into()),
        ("the datadir as a link", |m| m.roots[0].link = Some(path(b"x"))),
        ("a link in the way of an entry", |m| m.roots[1].link = Some(path(b"shop"))),
        ("a link in place of an entry", |m| m.roots[1].link = Some(path(b"shop/orders.ibd"))),
        ("a link below a file", |m| m.roots[1].link = Some(path(b"shop/orders.ibd/x"))),
        ("a link in our directory", |m| m.roots[1].link = Some(path(b".wsrep_sst_backup"))),
        ("an unknown root", |m| m.files[1].root = 2),
        ("an unknown root left out", |m| {
            m.excluded.push(Excluded { root: 9, path: path(b"x"), reason: String::new() });
        }),
        ("an unknown root that refers", |m| refer(m, 2, b"x.isl")),
        ("a name of a file elsewhere in our directory", |m| refer(m, 0, b".wsrep_sst_backup/x.isl")),
        ("too many roots", |m| {
            let root = |number| Root::new(root_name(&format!("r{number}")), RootKind::Tablespace, "/x");
            m.roots.extend((0..10_000).map(root));
        }),
        ("too many warnings", |m| m.warnings = vec![String::new(); 100_001]),
        ("an entry twice", |m| m.files[1].path = m.files[2].path.clone()),
        ("an entry below a file", |m| m.files[1].path = path(b"shop/items.ibd/x")),
        ("an entry in our directory", |m| m.files[1].path = path(b".wsrep_sst_backup/manifest.json")),
        ("a file type", |m| m.files[1].mode = 0o100_644),
        ("a long second", |m| m.files[1].mtime_nsec = 1_000_000_000),
        ("an endless owner", |m| m.files[1].user = "x".repeat(300)),
        ("a directory with a size", |m| m.files[0].size = 1),
        ("a directory with contents", |m| m.files[0].pieces = vec![m.files[2].pieces[0]]),
        ("a giant file", |m| m.files[1].size = u64::MAX),
        ("a file that is too short", |m| m.files[1].size -= 1),
        ("a frame out of range", |m| m.files[1].pieces[0].frame = 1),
        ("a piece beyond its frame", |m| m.files[1].pieces[0].at = m.frames.as_ref().unwrap()[0].raw - 1),
        ("a piece that wraps around", |m| m.files[1].pieces[0].at = u32::MAX),
        ("an empty piece", |m| {
            let empty = Piece { len: 0, ..m.files[1].pieces[0] };
            m.files[1].pieces.push(empty);
        }),
        ("overlapping pieces", |m| m.files[2].pieces[0].at = m.files[1].pieces[0].at + 100),
        ("a piece shared by two files", |m| {
            m.files[2].pieces = m.files[1].pieces.clone();
            m.files[2].size = m.files[1].size;
        }),
        ("pieces that do not follow each other", |m| {
            let piece = m.files[1].pieces[0];
            let halves = [Piece { len: 1000, ..piece }, Piece { at: piece.at + 1000, len: 1000, ..piece }];
            m.files[1].pieces = halves.to_vec();
        }),
        ("no frame", |m| frames(m).clear()),
        ("an empty frame", |m| frames(m)[0].raw = 0),
        ("a frame of half a block", |m| frames(m)[0].raw += 1),
        ("a giant frame", |m| frames(m)[0].raw = 1 << 30),
        ("a giant stored frame", |m| frames(m)[0].stored = 1 << 30),
        ("a frame of nothing", |m| frames(m)[0].stored = 0),
        ("a gap before the frame", |m| frames(m)[0].offset = 1),
        ("a frame over another", |m| {
            let frame = frames(m)[0];
            frames(m).push(Frame { offset: frame.offset, ..frame });
        }),
    ];
    assert!(parse_after(|_| ()).is_ok());
    assert!(parse_after(|m| refer(m, 0, b"shop/x.isl")).is_ok());
    for (what, change) in changes {
        let error = parse_after(change).err().unwrap_or_else(|| panic!("{what} was accepted"));
        assert_eq!(error.class(), Class::Damage, "{what}");
    }
}

#[test]
fn paths_that_leave_the_target_do_not_parse() {
    let json = String::from_utf8(backup().manifest.to_json().unwrap()).unwrap();
    assert!(Manifest::parse(json.as_bytes()).is_ok());
    for evil in ["../orders.ibd", "/etc/passwd", "shop/../../x", "shop/%2e%2e/x", "shop//x", "shop/%00"] {
        let forged = json.replacen("shop/orders.ibd", evil, 1);
        assert_eq!(Manifest::parse(forged.as_bytes()).unwrap_err().class(), Class::Damage, "{evil}");
    }
    for name in ["..", "a/b", ""] {
        let forged = json.replacen("\"innodb-undo\"", &format!("\"{name}\""), 1);
        assert!(Manifest::parse(forged.as_bytes()).is_err(), "{name}");
    }
}

#[test]
fn another_version_is_told_before_anything_else_is_looked_at() {
    for (json, class) in [
        (&br#"{"format_version":2,"roots":"something new"}"#[..], Class::Unsupported),
        (br#"{"format_version":18446744073709551615}"#, Class::Unsupported),
        (br#"{"format_version":0}"#, Class::Unsupported),
        (br#"{"format_version":1}"#, Class::Damage),
        (br#"{"format_version":"1"}"#, Class::Damage),
        (b"{}", Class::Damage),
        (b"", Class::Damage),
        (b"\xff", Class::Damage),
    ] {
        assert_eq!(Manifest::parse(json).unwrap_err().class(), class, "{:?}", String::from_utf8_lossy(json));
        assert_eq!(Label::parse(json).unwrap_err().class(), class, "{:?}", String::from_utf8_lossy(json));
    }
}

#[test]
fn a_label_comes_back_and_names_no_file_elsewhere() {
    let sound = label(&backup());
    assert_eq!(Label::parse(&sound.to_json().unwrap()).unwrap(), sound);
    for name in ["", "../x", "/etc/passwd", "a/b", ".hidden", "a b", &"x".repeat(200)] {
        let mut forged = sound.clone();
        forged.archive.name = name.to_owned();
        assert_eq!(Label::parse(&forged.to_json().unwrap()).unwrap_err().class(), Class::Damage, "{name}");
    }
    let mut long = sound.clone();
    long.node = "x".repeat(1 << 20);
    assert!(Label::parse(&long.to_json().unwrap()).is_err());
}

#[test]
fn a_stored_manifest_is_one_frame_that_says_how_long_it_is() {
    let manifest = backup().manifest;
    let stored = manifest.to_stored().unwrap();
    assert_eq!(Manifest::from_stored(&stored).unwrap(), manifest);
    for at in 0..stored.len() {
        assert!(Manifest::from_stored(&stored[..at]).is_err(), "cut off at {at}");
        let mut flipped = stored.clone();
        flipped[at] ^= 4;
        assert!(Manifest::from_stored(&flipped).ok().is_none_or(|read| read == manifest), "flipped at {at}");
    }
    assert!(Manifest::from_stored(&[&stored[..], b"x"].concat()).is_err());
    assert!(Manifest::from_stored(&[&stored[..], &stored[..]].concat()).is_err());

    // Two gigabytes of spaces: the declared length is enough to refuse it.
    let mut bomb = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    bomb.set_pledged_src_size(Some(2 << 30)).unwrap();
    bomb.include_contentsize(true).unwrap();
    bomb.write_all(&[b' '; 1 << 16]).unwrap();
    bomb.flush().unwrap();
    let error = Manifest::from_stored(bomb.get_ref()).unwrap_err();
    assert!(error.to_string().contains("2147483648"), "{error}");
    // A frame that declares nothing is not ours.
    let silent = zstd::stream::encode_all(&manifest.to_json().unwrap()[..], 1).unwrap();
    assert!(Manifest::from_stored(&silent).is_err());
}

/// Replaces the contents of one frame by a gigabyte of zeroes.
#[test]
fn a_frame_that_unpacks_to_more_than_the_manifest_says_is_damage() {
    let mut encoder = encoder(Codec::Zstd(1), 1, Vec::new());
    add_file(&mut encoder, meta(b"a", 0), b"something");
    let mut finished = encoder.finish(head()).unwrap();
    let bomb = zstd::stream::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1).unwrap();
    let frames = finished.manifest.frames.as_mut().unwrap();
    let rest = finished.sink.split_off(frames[1].offset as usize);
    frames[0].stored = bomb.len() as u32;
    frames[1].offset = bomb.len() as u64;
    finished.sink = [bomb, rest].concat();
    let manifest = Manifest::parse(&finished.manifest.to_json().unwrap()).unwrap();
    assert_eq!(restore_tree(&finished.sink, &manifest, 1).unwrap_err().class(), Class::Damage);
    let report = verified(&finished.sink, &manifest, &label(&finished)).unwrap();
    assert!(report.damages.iter().any(|damage| damage.what.contains("does not decompress")), "{:?}", report.damages);
}

/// Changes the header of the member `name`, signs everything anew, and says what `verify` finds.
fn forge(name: &[u8], change: impl FnOnce(&mut Header)) -> Vec<Damage> {
    let mut finished = backup();
    let place = header_of(&finished.sink, name);
    let mut header = Header::from_byte_slice(&finished.sink[place.clone()]).clone();
    change(&mut header);
    header.set_cksum();
    finished.sink[place].copy_from_slice(header.as_bytes());
    verified(&finished.sink, &finished.manifest, &label(&finished)).unwrap().damages
}

/// The last header block that begins with `name`.
fn header_of(archive: &[u8], name: &[u8]) -> std::ops::Range<usize> {
    let mut starts = (0..archive.len()).step_by(512);
    let is_header = |at: &usize| archive[*at..].starts_with(name) && archive[at + 257..].starts_with(b"ustar");
    let at = starts.rfind(is_header).unwrap();
    at..at + 512
}

fn rename(header: &mut Header, name: &[u8]) {
    header.as_old_mut().name = [0; 100];
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
}

#[test]
fn a_tar_member_that_is_not_the_manifests_is_found() {
    type Change = fn(&mut Header);
    let changes: &[(&str, Change, &str)] = &[
        ("a symbolic link", |h| h.set_entry_type(EntryType::Symlink), "neither file nor directory"),
        ("a hard link", |h| h.set_entry_type(EntryType::Link), "neither file nor directory"),
        ("a device", |h| h.set_entry_type(EntryType::Block), "neither file nor directory"),
        ("a FIFO", |h| h.set_entry_type(EntryType::Fifo), "neither file nor directory"),
        ("a GNU long name", |h| h.set_entry_type(EntryType::GNULongName), "neither file nor directory"),
        ("a global header", |h| h.set_entry_type(EntryType::XGlobalHeader), "neither file nor directory"),
        ("a sparse file", |h| h.set_entry_type(EntryType::GNUSparse), "neither file nor directory"),
        ("a directory", |h| h.set_entry_type(EntryType::Directory), "not what its name says"),
        ("an absolute name", |h| rename(h, b"/etc/passwd"), "\"/etc/passwd\" is not in the manifest"),
        ("a name upwards", |h| rename(h, b"../../x"), "\"../../x\" is not in the manifest"),
        ("another spelling", |h| rename(h, b"./shop/items.ibd"), "is not in the manifest"),
        ("a name that is not there", |h| rename(h, b"shop/evil.frm"), "is not in the manifest"),
        ("the name of another file", |h| rename(h, b"undo001"), "is not in the manifest"),
        ("the name of a file before it", |h| rename(h, b"shop/orders.ibd"), "its size in the tar stream"),
        ("a prefix", |h| h.as_ustar_mut().unwrap().prefix[0] = b'x', "\"x/shop/items.ibd\" is not in the manifest"),
        ("another mode", |h| h.set_mode(0o4755), "its mode"),
        ("another owner", |h| h.set_uid(1), "its owner"),
        ("another group's name", |h| h.set_groupname("x").unwrap(), "its owner"),
        ("another size", |h| h.set_size(512), "header"),
        ("a giant size", |h| h.set_size(u64::MAX), "beyond the end of the tar stream"),
    ];
    assert_eq!(forge(b"shop/items.ibd", |_| ()), []);
    for (what, change, expected) in changes {
        let damages = forge(b"shop/items.ibd", change);
        assert!(damages.iter().any(|damage| damage.what.contains(expected)), "{what}: {damages:?}");
    }
}

#[test]
fn an_archive_without_its_manifest_or_its_end_is_found() {
    let check = |change: fn(&mut Vec<u8>, usize), expected: &str| {
        let mut finished = backup();
        let header = header_of(&finished.sink, b".wsrep_sst_backup/manifest.json");
        change(&mut finished.sink, header.end);
        let damages = verified(&finished.sink, &finished.manifest, &label(&finished)).unwrap().damages;
        assert!(damages.iter().any(|damage| damage.what.contains(expected)), "{expected}: {damages:?}");
    };
    check(|archive, json| archive[json] = b' ', "the manifest inside the archive is damaged");
    check(
        |archive, json| {
            let seqno = archive[json..].windows(4).position(|window| window == b":17\"").unwrap();
            archive[json + seqno + 1] = b'9';
        },
        "the manifest inside the archive is not the one beside it",
    );
    check(|archive, json| archive[json - 512..].fill(0), "does not end with its manifest");
    check(|archive, _| *archive.last_mut().unwrap() = 1, "something follows the end of the tar stream");
    check(
        |archive, _| {
            let end = archive.len();
            let member = archive[header_of(archive, b"shop/items.ibd")].to_vec();
            archive[end - 1024..end - 512].copy_from_slice(&member);
        },
        "follows the manifest",
    );
}

#[test]
fn a_member_counts_as_vanished_only_with_the_formats_own_reason() {
    let mut finished = backup();
    let items = finished.manifest.files.remove(2);
    let excluded = |reason: &str| Excluded { root: 0, path: items.path.clone(), reason: reason.to_owned() };
    let found = |excluded: Excluded| {
        let manifest = Manifest { excluded: vec![excluded], ..finished.manifest.clone() };
        verified(&finished.sink, &manifest, &label(&finished)).unwrap().damages
    };
    let named = |damages: &[Damage]| damages.iter().any(|damage| damage.what.contains("is not in the manifest"));
    assert!(named(&found(excluded("left out"))));
    assert!(!named(&found(excluded(super::super::manifest::VANISHED))));
}

/// An archive in which `gone` vanished.
fn with_vanished() -> Finished<Vec<u8>> {
    let mut encoder = encoder(Codec::None, 1, Vec::new());
    add_file(&mut encoder, meta(b"kept", 0), b"kept");
    let gone = add_file(&mut encoder, meta(b"gone", 0), b"gone");
    encoder.forget(gone);
    encoder.finish(head()).unwrap()
}

#[test]
fn a_list_of_what_vanished_that_names_anything_else_is_found() {
    let check = |change: fn(&mut Vec<u8>, std::ops::Range<usize>), expected: &str| {
        let mut finished = with_vanished();
        let header = header_of(&finished.sink, b".wsrep_sst_backup/removed");
        change(&mut finished.sink, header);
        let damages = verified(&finished.sink, &finished.manifest, &label(&finished)).unwrap().damages;
        assert!(damages.iter().any(|damage| damage.what.contains(expected)), "{expected}: {damages:?}");
    };
    check(|archive, header| archive[header.end..header.end + 4].copy_from_slice(b"kept"), "not what the manifest says");
    check(
        |archive, header| {
            let mut other = Header::from_byte_slice(&archive[header.clone()]).clone();
            rename(&mut other, b"kept");
            other.set_cksum();
            archive[header].copy_from_slice(other.as_bytes());
        },
        "the list of what vanished is missing",
    );
    check(
        |archive, header| {
            // The list comes first, and then what it names.
            let kept = header_of(archive, b"kept");
            let list = archive[header.start..header.end + 512].to_vec();
            let member = archive[kept.start..kept.end + 512].to_vec();
            archive[header.start..header.end + 512].copy_from_slice(&member);
            archive[kept.start..kept.end + 512].copy_from_slice(&list);
        },
        "follows the list of what vanished",
    );
}

#[test]
fn a_list_where_nothing_vanished_is_found() {
    let mut finished = with_vanished();
    finished.manifest.excluded.clear();
    let damages = verified(&finished.sink, &finished.manifest, &label(&finished)).unwrap().damages;
    assert!(!damages.is_empty());
}

#[test]
fn a_manifest_in_which_something_is_there_and_has_vanished_is_refused() {
    let gone = |path: &[u8]| Excluded {
        root: 0,
        path: super::path(path),
        reason: super::super::manifest::VANISHED.to_owned(),
    };
    for path in [&b"shop"[..], b"shop/orders.ibd"] {
        let error = parse_after(|manifest| manifest.excluded.push(gone(path))).unwrap_err();
        assert!(error.to_string().contains("is there and has vanished"), "{error}");
    }
    parse_after(|manifest| manifest.excluded.push(gone(b"shop/dropped.ibd"))).unwrap();
}
