//! What a restore promises: whole or absent, exact, never outside its targets.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::unistd::geteuid;

use super::*;
use crate::archive::manifest::{Entry, FileClass, Owner, Referrer, ReferrerKind, RootKind};
use crate::cancel::Reason;
use crate::cli::RootMapping;
use crate::command::fixture::{Donor, GTID, ID, Lab, Member, directory, file, names, noise, printed, root};
use crate::dir::fault::{self, After};
use crate::error::{Class, Error};
use crate::relpath::RelPath;
use crate::store::Repository;

fn args(target: &Path) -> RestoreArgs {
    RestoreArgs { id: "latest".to_owned(), target: target.to_owned(), ..RestoreArgs::default() }
}

fn restore(lab: &Lab, args: &RestoreArgs) -> Result<String> {
    let (result, text) = printed(false, |output| run(args, &lab.context(), output));
    result.map(|()| text)
}

/// Compares everything that a restore promises.
fn assert_restored(donor: &Donor, places: &[&Path]) {
    for member in donor.members.iter().filter(|member| member.path != "grastate.dat") {
        let path = places[member.root as usize].join(member.path);
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, member.mode, "{path:?}");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_700_000_000, 123_456_789), "{path:?}");
        match &member.bytes {
            Some(bytes) => assert!(fs::read(&path).unwrap() == *bytes, "{path:?}"),
            None => assert!(meta.is_dir(), "{path:?}"),
        }
    }
}

#[test]
fn a_restored_tree_is_the_donors_with_galeras_state() {
    let donor = Donor::small();
    let lab = Lab::of(&donor);
    let target = lab.site("data");
    let text = restore(&lab, &args(&target)).unwrap();
    assert_restored(&donor, &[&target]);
    let grastate = fs::read_to_string(target.join("grastate.dat")).unwrap();
    let (uuid, seqno) = GTID.split_once(':').unwrap();
    assert_eq!(
        grastate,
        format!("# GALERA saved state\nversion: 2.1\nuuid:    {uuid}\nseqno:   {seqno}\nsafe_to_bootstrap: 0\n")
    );
    assert_eq!(fs::metadata(target.join("grastate.dat")).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(names(&lab.site("")).iter().filter(|name| !name.starts_with("data")).count(), 0, "nothing beside");
    assert!(text.contains("by IST from write set 78"), "{text}");
    assert!(text.contains("note: the engine X was not frozen"), "{text}");
    let blocks = fs::metadata(target.join("shop/holes.ibd")).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "the holes were filled: {blocks} blocks");
}

#[test]
fn every_codec_restores() {
    for codec in ["none", "gzip"] {
        let donor = Donor { codec: crate::archive::codec::Codec::new(codec, None).unwrap(), ..Donor::small() };
        let lab = Lab::of(&donor);
        restore(&lab, &args(&lab.site("data"))).unwrap();
        assert_restored(&donor, &[&lab.site("data")]);
    }
}

#[test]
fn bootstrap_says_so_and_standalone_knows_no_cluster() {
    let lab = Lab::small();
    let bootstrap = RestoreArgs { bootstrap: true, ..args(&lab.site("first")) };
    restore(&lab, &bootstrap).unwrap();
    assert!(fs::read_to_string(lab.site("first/grastate.dat")).unwrap().contains("safe_to_bootstrap: 1"));
    let standalone = RestoreArgs { standalone: true, ..args(&lab.site("alone")) };
    restore(&lab, &standalone).unwrap();
    assert!(!lab.site("alone/grastate.dat").exists());
}

#[test]
fn an_empty_target_is_taken_with_its_mode_and_a_full_one_is_not_touched() {
    let lab = Lab::small();
    let target = lab.site("data");
    fs::create_dir(&target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o751)).unwrap();
    restore(&lab, &args(&target)).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o751);

    let before = names(&lab.site(""));
    let error = restore(&lab, &args(&target)).unwrap_err();
    assert_eq!(error.class(), Class::Refused);
    assert_eq!(names(&lab.site("")), before);
    fs::write(lab.site("file"), "x").unwrap();
    assert_eq!(restore(&lab, &args(&lab.site("file"))).unwrap_err().class(), Class::Refused);
    symlink("/nowhere/at/all", lab.site("dangling")).unwrap();
    assert_eq!(restore(&lab, &args(&lab.site("dangling"))).unwrap_err().class(), Class::Refused);
    let error = restore(&lab, &args(&lab.site("no such/$parent/x"))).unwrap_err();
    let above = lab.site("no such/$parent");
    assert!(error.advice().unwrap().ends_with(&format!("mkdir -p '{}'", above.display())), "{:?}", error.advice());
    let half = lab.site("half done");
    fs::create_dir_all(half.join(".wsrep_sst_backup.partial")).unwrap();
    fs::write(half.join("ibdata1"), "x").unwrap();
    let error = restore(&lab, &args(&half)).unwrap_err();
    let command = format!("find '{}' -mindepth 1 -delete", half.display());
    assert!(error.advice().unwrap().ends_with(&command), "{:?}", error.advice());
}

#[test]
fn a_target_that_is_a_link_to_an_empty_directory_fills_that_directory() {
    let donor = Donor::small();
    let lab = Lab::of(&donor);
    fs::create_dir(lab.site("real")).unwrap();
    symlink(lab.site("real"), lab.site("link")).unwrap();
    restore(&lab, &args(&lab.site("link"))).unwrap();
    assert!(fs::symlink_metadata(lab.site("link")).unwrap().is_symlink());
    assert_restored(&donor, &[&lab.site("real")]);
}

fn with_roots() -> Donor {
    let mut donor = Donor::small();
    donor.roots.push(root("innodb-undo", RootKind::InnodbUndo, "/ssd/undo"));
    donor.roots.push(root("binlog", RootKind::Binlog, "/ssd/binlog"));
    let mut shop = root("database-sales", RootKind::Database, "/big/sales");
    shop.link = Some(RelPath::new("sales").unwrap());
    donor.roots.push(shop);
    let other = |root, member: Member| Member { root, ..member };
    donor.members.push(other(1, file("undo001", FileClass::InnodbUndo, noise(5000, 20))));
    donor.members.push(other(2, file("mybin.000009", FileClass::Binlog, noise(500, 21))));
    donor.members.push(other(2, file("mybin.000010", FileClass::Binlog, noise(500, 22))));
    donor.members.push(other(2, file("mybin.index", FileClass::Generated, "/ssd/binlog/mybin.000009\n")));
    donor.members.push(other(3, file("t.ibd", FileClass::Innodb, noise(500, 23))));
    donor
}

fn mapping(name: &str, path: &Path) -> RootMapping {
    RootMapping { name: name.to_owned(), path: path.to_owned() }
}

#[test]
fn missing_roots_are_named_ready_to_paste_before_anything_is_written() {
    let lab = Lab::of(&with_roots());
    let given = RestoreArgs { roots: vec![mapping("innodb-undo", &lab.site("undo"))], ..args(&lab.site("data")) };
    let error = restore(&lab, &given).unwrap_err();
    assert_eq!(error.class(), Class::Usage);
    let hint = error.advice().unwrap();
    assert!(hint.contains("--root binlog=/ssd/binlog --root database-sales=/big/sales"), "{hint}");
    assert!(hint.contains("--without-binlogs"));
    assert!(names(&lab.site("")).is_empty());
    for (name, says) in [("inodb-undo", "innodb-undo"), ("datadir", "--target")] {
        let wrong = RestoreArgs { roots: vec![mapping(name, &lab.site("x"))], ..args(&lab.site("data")) };
        let error = restore(&lab, &wrong).unwrap_err();
        assert!(format!("{error} {:?}", error.advice()).contains(says));
    }
}

#[test]
fn every_root_goes_to_its_place_and_the_datadir_points_there() {
    let donor = with_roots();
    let lab = Lab::of(&donor);
    let (data, undo, binlog, sales) = (lab.site("data"), lab.site("undo"), lab.site("logs"), lab.site("sales"));
    let roots = vec![mapping("innodb-undo", &undo), mapping("binlog", &binlog), mapping("database-sales", &sales)];
    restore(&lab, &RestoreArgs { roots, ..args(&data) }).unwrap();
    assert_eq!(fs::read_link(data.join("sales")).unwrap(), sales);
    let index = fs::read_to_string(binlog.join("mybin.index")).unwrap();
    let (one, two) = (binlog.join("mybin.000009"), binlog.join("mybin.000010"));
    assert_eq!(index, format!("{}\n{}\n", one.display(), two.display()));
    let mut donor = donor;
    donor.members.retain(|member| member.path != "mybin.index");
    assert_restored(&donor, &[&data, &undo, &binlog, &sales]);
}

#[test]
fn what_pointed_to_a_file_elsewhere_points_to_its_new_place() {
    let mut donor = Donor::small();
    let mut tablespace = root("tablespace-1", RootKind::Tablespace, "/mnt/ts");
    let referrer = |path: &str, kind, target: &str| Referrer {
        root: 0,
        path: RelPath::new(path).unwrap(),
        kind,
        target: RelPath::new(target).unwrap(),
    };
    tablespace.referrers.push(referrer("shop/far.isl", ReferrerKind::Isl, "shop/far.ibd"));
    tablespace.referrers.push(referrer("shop/isam.MYD", ReferrerKind::Symlink, "isam.MYD"));
    donor.roots.push(tablespace);
    donor.members.push(Member { root: 1, ..file("shop/far.ibd", FileClass::Innodb, noise(500, 41)) });
    donor.members.push(Member { root: 1, ..file("isam.MYD", FileClass::Other, noise(500, 42)) });
    donor.members.push(file("shop/far.isl", FileClass::Other, "/mnt/ts/shop/far.ibd"));
    // An index with paths of the donor, in the datadir itself.
    donor.members.push(file("mybin.index", FileClass::Generated, "/var/lib/mysql/mybin.000009\n"));
    donor.members.push(file("mybin.000009", FileClass::Binlog, noise(500, 43)));
    donor.members.push(file("mybin.000009.idx", FileClass::Binlog, noise(50, 44)));
    let lab = Lab::of(&donor);
    let (data, far) = (lab.site("data"), lab.site("far"));
    restore(&lab, &RestoreArgs { roots: vec![mapping("tablespace-1", &far)], ..args(&data) }).unwrap();
    assert_eq!(fs::read_to_string(data.join("shop/far.isl")).unwrap(), far.join("shop/far.ibd").to_str().unwrap());
    assert_eq!(fs::read_link(data.join("shop/isam.MYD")).unwrap(), far.join("isam.MYD"));
    assert_eq!(fs::read_to_string(data.join("mybin.index")).unwrap(), "./mybin.000009\n");
    donor.members.retain(|member| !member.path.ends_with(".isl") && !member.path.ends_with(".index"));
    assert_restored(&donor, &[&data, &far]);
}

/// A manifest as only somebody who forges one has it: this many tablespaces elsewhere, each with its `.isl` file.
fn with_many_tablespaces(count: usize) -> Manifest {
    let lab = Lab::small();
    let mut manifest = lab.context().manifest(&lab.repository.label(&ID.parse().unwrap()).unwrap()).unwrap();
    let model = manifest.files.iter().find(|entry| entry.size == 0 && entry.path.depth() == 2).unwrap().clone();
    let mut elsewhere = root("tablespace-1", RootKind::Tablespace, "/mnt/ts");
    for number in 0..count {
        let path = RelPath::new(format!("shop/t{number}.isl")).unwrap();
        let target = RelPath::new(format!("shop/t{number}.ibd")).unwrap();
        elsewhere.referrers.push(Referrer { root: 0, path: path.clone(), kind: ReferrerKind::Isl, target });
        manifest.files.push(Entry { path, ..model.clone() });
    }
    manifest.roots.push(elsewhere);
    manifest
}

#[test]
fn a_plan_for_very_many_tablespaces_takes_no_longer_than_reading_their_names() {
    // Looking for each among all would take hours.
    let manifest = with_many_tablespaces(200_000);
    let roots = [mapping("tablespace-1", Path::new("/new/ts"))];
    let target = Path::new("/new/data");
    let wish = Wish { target, roots: &roots, purpose: Purpose::Standalone, without_binlogs: false };
    let plan = Plan::new(&manifest, &wish, &Default::default()).unwrap();
    assert_eq!(plan.own.len(), 200_000);
    assert_eq!(plan.chosen.len(), manifest.files.len() - plan.own.len() - 1, "neither them nor grastate.dat");
    let last = plan.own.last().unwrap();
    assert_eq!(&*last.bytes, b"/new/ts/shop/t199999.ibd");
    assert_eq!(manifest.files[last.like].path, last.path);
}

#[test]
fn a_plan_hears_that_it_is_stopped() {
    let manifest = with_many_tablespaces(1);
    let cancel = crate::cancel::Cancel::default();
    cancel.raise(Reason::Signal("SIGINT"));
    let roots = [mapping("tablespace-1", Path::new("/new/ts"))];
    let target = Path::new("/new/data");
    let wish = Wish { target, roots: &roots, purpose: Purpose::Join, without_binlogs: false };
    assert_eq!(Plan::new(&manifest, &wish, &cancel).unwrap_err().class(), Class::Cancelled);
}

#[test]
fn without_binlogs_their_root_is_not_needed() {
    let lab = Lab::of(&with_roots());
    let roots = vec![mapping("innodb-undo", &lab.site("undo")), mapping("database-sales", &lab.site("sales"))];
    restore(&lab, &RestoreArgs { roots, without_binlogs: true, ..args(&lab.site("data")) }).unwrap();
    assert!(names(&lab.site("")).iter().all(|name| !name.contains("mybin")));
}

#[test]
fn targets_inside_each_other_or_in_the_repository_are_refused() {
    let lab = Lab::of(&with_roots());
    let roots = |undo: &Path| RestoreArgs {
        roots: vec![mapping("innodb-undo", undo), mapping("database-sales", &lab.site("sales"))],
        without_binlogs: true,
        ..args(&lab.site("data"))
    };
    assert_eq!(restore(&lab, &roots(&lab.site("data"))).unwrap_err().class(), Class::Refused);
    fs::create_dir(lab.site("data")).unwrap();
    assert_eq!(restore(&lab, &roots(&lab.site("data/undo"))).unwrap_err().class(), Class::Refused);
    let inside = lab.repository.path().join("data");
    assert_eq!(
        restore(&lab, &RestoreArgs { target: inside, ..roots(&lab.site("u")) }).unwrap_err().class(),
        Class::Refused
    );
    assert_eq!(names(&lab.site("")), ["data"]);
}

#[test]
fn a_failure_takes_every_root_back() {
    let lab = Lab::of(&with_roots());
    // The last thing that a restore looks at: a frame of the redo log.
    let path = lab.stored("archive.tar.zst");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::create_dir(lab.site("undo")).unwrap();
    let roots = vec![mapping("innodb-undo", &lab.site("undo")), mapping("database-sales", &lab.site("sales"))];
    let error = restore(&lab, &RestoreArgs { roots, without_binlogs: true, ..args(&lab.site("data")) }).unwrap_err();
    assert_eq!(error.class(), Class::Damage, "{error}");
    assert_eq!(names(&lab.site("")), ["undo"]);
}

#[test]
fn a_restore_that_is_stopped_leaves_nothing() {
    let lab = Lab::small();
    lab.cancel.raise(Reason::Signal("SIGINT"));
    let error = restore(&lab, &args(&lab.site("data"))).unwrap_err();
    assert_eq!(error.class(), Class::Cancelled);
    assert!(names(&lab.site("")).is_empty());
}

#[test]
fn what_a_killed_restore_left_beside_the_target_is_removed_by_the_next() {
    let donor = Donor::small();
    let lab = Lab::of(&donor);
    let dead = lab.site(".data.wsrep_sst_backup.partial-0000abcd");
    fs::create_dir_all(dead.join("shop")).unwrap();
    fs::write(dead.join("shop/half.ibd"), "half").unwrap();
    restore(&lab, &args(&lab.site("data"))).unwrap();
    assert!(!dead.exists());
    assert_restored(&donor, &[&lab.site("data")]);
}

#[test]
fn an_owner_that_this_host_does_not_know_is_an_error_before_anything_is_written() {
    let lab = Lab::of(&Donor { user: "no-such-user-here".to_owned(), ..Donor::small() });
    let target = lab.site("data");
    if geteuid().is_root() {
        let error = restore(&lab, &args(&target)).unwrap_err();
        assert!(error.advice().unwrap().contains("--owner mysql:mysql"));
        assert!(names(&lab.site("")).is_empty());
        restore(&lab, &RestoreArgs { owner: Some("12345:54321".to_owned()), ..args(&target) }).unwrap();
        for name in ["", "ibdata1", "shop", "grastate.dat"] {
            let meta = fs::metadata(target.join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (12345, 54321), "{name}");
        }
    } else {
        let text = restore(&lab, &args(&target)).unwrap();
        assert!(text.contains("not root"));
        let error = restore(&lab, &RestoreArgs { owner: Some("0:0".to_owned()), ..args(&lab.site("x")) }).unwrap_err();
        assert_eq!(error.class(), Class::Refused);
    }
}

#[test]
fn a_manifest_cannot_lead_outside_the_target() {
    let outside = tempfile::tempdir().unwrap();
    // A path that is not one below a root cannot even be parsed: the text of the manifest is forged.
    for path in ["../evil", "/etc/evil", "shop/../../evil", "%2e%2e/evil"] {
        let lab = Lab::small();
        let id = ID.parse().unwrap();
        let mut label = lab.repository.label(&id).unwrap();
        let json = lab.context().manifest(&label).unwrap().to_json().unwrap();
        let json = String::from_utf8(json).unwrap().replace("shop/db.opt", path);
        let stored = zstd::bulk::compress(json.as_bytes(), 1).unwrap();
        label.manifest.bytes = stored.len() as u64;
        label.manifest.sha256 = crate::digest::Digest::of(&stored);
        fs::write(lab.stored("manifest.json.zst"), stored).unwrap();
        fs::write(lab.stored("backup.json"), label.to_json().unwrap()).unwrap();
        assert_eq!(restore(&lab, &args(&lab.site("data"))).unwrap_err().class(), Class::Damage, "{path}");
        assert!(names(&lab.site("")).is_empty(), "{path}");
    }
    // A database that is a link to the outside, and a file that claims to be in it.
    let lab = Lab::of(&with_roots());
    lab.forge(|manifest| manifest.roots[3].link = Some(RelPath::new("shop").unwrap()));
    let roots = vec![mapping("innodb-undo", &lab.site("undo")), mapping("database-sales", outside.path())];
    let result = restore(&lab, &RestoreArgs { roots, without_binlogs: true, ..args(&lab.site("data")) });
    assert_eq!(result.unwrap_err().class(), Class::Damage);
    assert!(names(outside.path()).is_empty());
}

#[test]
fn nothing_comes_back_with_the_right_to_run_as_somebody_else() {
    let lab = Lab::small();
    lab.forge(|manifest| {
        manifest.files.iter_mut().for_each(|entry| entry.mode = 0o7755);
        let owner = Owner { mode: 0o7755, uid: 0, gid: 0, user: String::new(), group: String::new() };
        manifest.roots[0].owner = Some(owner);
    });
    let target = lab.site("data");
    restore(&lab, &args(&target)).unwrap();
    for name in names(&target).iter().map(String::as_str).chain([""]) {
        let meta = fs::metadata(target.join(name)).unwrap();
        let wanted = if meta.is_dir() { 0o1755 } else { 0o755 };
        assert_eq!(meta.permissions().mode() & 0o7777, wanted, "{name:?}");
    }
}

#[test]
fn a_path_deeper_than_can_be_taken_back_is_refused() {
    let lab = Lab::small();
    let deep = vec!["d"; 60].join("/");
    lab.forge(|manifest| manifest.files[0].path = RelPath::new(&deep).unwrap());
    assert_eq!(restore(&lab, &args(&lab.site("data"))).unwrap_err().class(), Class::Damage);
    assert!(names(&lab.site("")).is_empty());
    // The same for what restore makes itself.
    let lab = Lab::of(&with_roots());
    lab.forge(|manifest| manifest.roots[3].link = Some(RelPath::new(&deep).unwrap()));
    let roots = vec![mapping("innodb-undo", &lab.site("undo")), mapping("database-sales", &lab.site("sales"))];
    let error = restore(&lab, &RestoreArgs { roots, without_binlogs: true, ..args(&lab.site("data")) }).unwrap_err();
    assert!(error.to_string().contains("too deeply"), "{error}");
}

#[test]
fn many_small_files_need_few_descriptors() {
    let names: Vec<&'static str> = (0..3000).map(|number| &*format!("many/f{number}").leak()).collect();
    let mut donor = Donor::small();
    donor.members.push(directory("many"));
    donor.members.extend(names.iter().map(|name| file(name, FileClass::Other, name.as_bytes())));
    let lab = Lab::of(&donor);
    restore(&lab, &args(&lab.site("data"))).unwrap();
    assert_restored(&donor, &[&lab.site("data")]);
}

#[test]
fn json_says_what_was_restored() {
    let lab = Lab::small();
    let (result, text) = printed(true, |output| run(&args(&lab.site("data")), &lab.context(), output));
    result.unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["id"], ID);
    assert_eq!(json["gtid"], GTID);
    assert_eq!(json["purpose"], "join");
    assert_eq!(json["roots"][0]["name"], "datadir");
    assert_eq!(json["next"].as_array().unwrap().len(), 3);
}

/// The names that a restore inside the target must have; the part of the path that only a restore beside it makes.
const BESIDE: &str = ".wsrep_sst_backup.partial-";

fn restore_inside(lab: &Lab, target: &Path) -> Result<String> {
    // One worker: the whole restore on this thread, where faults are counted.
    let context = Context { workers: std::num::NonZeroUsize::MIN, ..lab.context() };
    let (result, text) = fault::denying(BESIDE, || printed(false, |output| run(&args(target), &context, output)));
    result.map(|()| text)
}

#[test]
fn where_nothing_can_be_made_beside_the_target_it_is_filled_from_inside() {
    let donor = Donor::small();
    let lab = Lab::of(&donor);
    let target = lab.site("data");
    let error = restore_inside(&lab, &target).unwrap_err();
    assert!(error.advice().unwrap().contains("yourself"), "{error}");
    fs::create_dir(&target).unwrap();
    restore_inside(&lab, &target).unwrap();
    assert_restored(&donor, &[&target]);
    let expected: Vec<&str> = donor.members.iter().map(|member| member.path).collect();
    let mut found = names(&target);
    found.retain(|name| !expected.contains(&name.as_str()));
    assert!(found.is_empty(), "left over: {found:?}");
}

#[test]
fn a_new_file_system_keeps_its_lost_and_found_whatever_happens() {
    let donor = Donor::small();
    let lab = Lab::of(&donor);
    let target = lab.site("data");
    fs::create_dir_all(target.join("lost+found")).unwrap();
    lab.cancel.raise(Reason::Signal("SIGINT"));
    assert_eq!(restore(&lab, &args(&target)).unwrap_err().class(), Class::Cancelled);
    assert_eq!(names(&target), ["lost+found"]);
    let lab = Lab { cancel: Default::default(), ..lab };
    restore(&lab, &args(&target)).unwrap();
    assert_restored(&donor, &[&target]);
    assert!(target.join("lost+found").is_dir());
}

/// Restores inside `target`, into which a stranger puts his files in the middle; what he did besides is `also`.
fn restore_with_stranger(lab: &Lab, target: &Path, also: impl FnOnce() + 'static) -> Error {
    let into = target.to_owned();
    let stranger = move || {
        fs::write(into.join("my-notes"), "mine").unwrap();
        fs::create_dir(into.join("otherdir")).unwrap();
        fs::write(into.join("otherdir/f"), "mine too").unwrap();
        also();
    };
    fault::with_stranger("orders.ibd", stranger, || restore_inside(lab, target)).unwrap_err()
}

#[test]
fn what_somebody_put_into_a_target_meanwhile_stays_his_however_the_restore_ends() {
    let lab = Lab::small();
    let (failed, stopped) = (lab.site("failed"), lab.site("stopped"));
    fs::create_dir(&failed).unwrap();
    fs::create_dir(&stopped).unwrap();
    assert_eq!(restore_with_stranger(&lab, &failed, || ()).class(), Class::Refused);
    let cancel = lab.cancel.clone();
    let error = restore_with_stranger(&lab, &stopped, move || cancel.raise(Reason::Signal("SIGINT")));
    assert_eq!(error.class(), Class::Cancelled);
    for target in [failed, stopped] {
        assert_eq!(names(&target), ["my-notes", "otherdir", "otherdir/f"]);
        assert_eq!(fs::read(target.join("otherdir/f")).unwrap(), b"mine too");
    }
}

#[test]
fn a_file_that_takes_the_place_of_a_guard_is_neither_replaced_nor_removed() {
    let lab = Lab::small();
    for name in ["ibdata1", "aria_log_control"] {
        let target = lab.site(name);
        fs::create_dir(&target).unwrap();
        let theirs = target.join(name);
        let stranger = move || fs::write(theirs, "mine").unwrap();
        let error = fault::with_stranger("orders.ibd", stranger, || restore_inside(&lab, &target)).unwrap_err();
        assert_eq!(error.class(), Class::Refused);
        assert_eq!(names(&target), [name]);
        // The same when everything but the guarded names has been moved up.
        let target = lab.site(&format!("late-{name}"));
        fs::create_dir(&target).unwrap();
        let (theirs, moment) = (target.join(name), target.join("grastate.dat"));
        let stranger = move || fs::write(theirs, "mine").unwrap();
        let restored = fault::with_stranger(moment.to_str().unwrap(), stranger, || restore_inside(&lab, &target));
        assert_eq!(restored.unwrap_err().class(), Class::Refused);
        assert_eq!(names(&target), [name]);
        // The same before there is a guard.
        let target = lab.site(&format!("early-{name}"));
        fs::create_dir(&target).unwrap();
        let theirs = target.join(name);
        let stranger = move || fs::write(theirs, "mine").unwrap();
        fault::with_stranger(".wsrep_sst_backup.partial/", stranger, || restore_inside(&lab, &target)).unwrap_err();
        assert_eq!(names(&target), [name]);
    }
}

#[test]
fn a_new_target_that_somebody_put_a_file_into_stays_with_it_alone() {
    let lab = Lab::empty();
    let target = lab.site("home");
    let guard = std::ffi::OsStr::new("ibdata1");
    drop(site::Site::examine(&target).unwrap().stage(Some(guard)).unwrap());
    assert!(!target.exists());
    let stage = site::Site::examine(&target).unwrap().stage(Some(guard)).unwrap();
    assert_eq!(names(&target), [".wsrep_sst_backup.partial", "aria_log_control", "ibdata1"]);
    fs::write(target.join("my-notes"), "mine").unwrap();
    drop(stage);
    assert_eq!(names(&target), ["my-notes"]);
}

#[test]
fn a_restore_that_meets_another_one_leaves_its_hidden_directory_alone() {
    let lab = Lab::small();
    let target = lab.site("data");
    fs::create_dir(&target).unwrap();
    let other = target.join(".wsrep_sst_backup.partial");
    let (made, held) = (other.clone(), std::rc::Rc::new(std::cell::RefCell::new(None)));
    let lock = std::rc::Rc::clone(&held);
    // It comes just before the directory would be made.
    let stranger = move || {
        fs::create_dir(&made).unwrap();
        fs::write(made.join("half"), "half").unwrap();
        lock.replace(crate::dir::Dir::open(&made).unwrap().try_lock().unwrap());
    };
    let lost = || fault::with_stranger("data/.wsrep_sst_backup.partial", stranger, || restore_inside(&lab, &target));
    lost().unwrap_err();
    assert!(held.borrow().is_some());
    assert_eq!(names(&target), [".wsrep_sst_backup.partial", ".wsrep_sst_backup.partial/half"]);
}

/// What a server would find: nothing, guards that keep it out, or everything.
fn assert_starts_only_if_whole(donor: &Donor, target: &Path) -> bool {
    let Ok(system) = fs::read(target.join("ibdata1")) else {
        // A file of the donor without the system tablespace would let a server make a new one.
        assert!(!target.join("ib_logfile0").exists() && !target.join("shop").exists());
        return false;
    };
    if system.starts_with(b"wsrep_sst_backup restore") {
        return false;
    }
    assert_restored(donor, &[target]);
    assert!(target.join("grastate.dat").exists());
    true
}

fn tiny() -> Donor {
    let mut donor = Donor::small();
    donor.members.retain(|member| member.bytes.as_ref().is_none_or(|bytes| bytes.len() < 1 << 20));
    donor
}

#[test]
fn whichever_operation_fails_a_restore_is_whole_or_leaves_the_target_empty() {
    for inside in [false, true] {
        let donor = tiny();
        let lab = Lab::of(&donor);
        for k in 1.. {
            let target = lab.site(&format!("data-{inside}-{k}"));
            fs::create_dir(&target).unwrap();
            let (result, reached) = fault::on(k, After::Works, || restore_here(&lab, &target, inside));
            if result.is_err() {
                assert!(names(&target).is_empty(), "operation {k}: {:?}", names(&target));
            } else {
                assert_restored(&donor, &[&target]);
            }
            if !reached {
                assert!(result.is_ok() && k > 30);
                break;
            }
        }
    }
}

fn restore_here(lab: &Lab, target: &Path, inside: bool) -> Result<String> {
    if inside {
        return restore_inside(lab, target);
    }
    let context = Context { workers: std::num::NonZeroUsize::MIN, ..lab.context() };
    let (result, text) = printed(false, |output| run(&args(target), &context, output));
    result.map(|()| text)
}

#[test]
fn whenever_a_restore_dies_no_server_starts_on_a_part_and_it_can_be_done_again() {
    for inside in [false, true] {
        let donor = tiny();
        let lab = Lab::of(&donor);
        for k in 1.. {
            let target = lab.site(&format!("data-{inside}-{k}"));
            fs::create_dir(&target).unwrap();
            let (result, reached) = fault::on(k, After::Dead, || restore_here(&lab, &target, inside));
            let whole = assert_starts_only_if_whole(&donor, &target);
            assert!(whole || result.is_err(), "operation {k}");
            if !whole {
                match restore_here(&lab, &target, inside) {
                    Ok(_) => assert_restored(&donor, &[&target]),
                    Err(error) => {
                        assert!(error.advice().is_some_and(|hint| hint.contains("-mindepth 1 -delete")), "{error}");
                        assert!(inside);
                    }
                }
            }
            if !reached {
                break;
            }
        }
    }
}
