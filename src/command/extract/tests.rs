//! What an extraction promises: the files that were meant, proved, and nothing overwritten.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::archive::manifest::{FileClass, RootKind};
use crate::cancel::Reason;
use crate::command::fixture::{Donor, Lab, Member, file, names, noise, printed, root};
use crate::dir::fault;

fn extract(lab: &Lab, what: &[&str], to: &Path) -> Result<String> {
    let what = what.iter().map(|what| (*what).to_owned()).collect();
    let args = ExtractArgs { id: "latest".to_owned(), what, to: to.to_owned(), ..ExtractArgs::default() };
    let (result, text) = printed(false, |output| run(&args, &lab.context(), output));
    result.map(|()| text)
}

fn files(path: &Path) -> Vec<String> {
    names(path).into_iter().filter(|name| path.join(name).is_file()).collect()
}

#[test]
fn every_way_to_name_a_thing_gives_its_files() {
    let lab = Lab::small();
    let all = [
        "db.opt",
        "holes.ibd",
        "my@002dtable.ibd",
        "nothing.frm",
        "orders.frm",
        "orders.ibd",
        "part#P#p0.ibd",
        "part#P#p1.ibd",
    ];
    let all = all.map(|name| format!("shop/{name}"));
    let cases: [(&[&str], Vec<&str>); 9] = [
        (&["shop.orders"], vec!["shop/orders.frm", "shop/orders.ibd"]),
        (&["shop.part"], vec!["shop/part#P#p0.ibd", "shop/part#P#p1.ibd"]),
        (&["shop.my-table"], vec!["shop/my@002dtable.ibd"]),
        (&["shop.my@002dtable"], vec!["shop/my@002dtable.ibd"]),
        (&["ibdata1"], vec!["ibdata1"]),
        (&["shop/orders.ibd"], vec!["shop/orders.ibd"]),
        (&["datadir:ib_logfile0"], vec!["ib_logfile0"]),
        (&["ibdata1", "shop.orders", "shop/orders.frm"], vec!["ibdata1", "shop/orders.frm", "shop/orders.ibd"]),
        (&["shop"], all.iter().map(String::as_str).collect()),
    ];
    for (number, (what, wanted)) in cases.into_iter().enumerate() {
        let to = lab.site(&number.to_string());
        extract(&lab, what, &to).unwrap();
        assert_eq!(files(&to), wanted, "{what:?}");
    }
    let orders = Donor::small().members.into_iter().find(|member| member.path == "shop/orders.ibd").unwrap();
    assert!(fs::read(lab.site("0/shop/orders.ibd")).unwrap() == orders.bytes.unwrap());
    assert_eq!(files(&lab.site("")).iter().filter(|name| name.contains("partial")).count(), 0);
}

#[test]
fn a_table_elsewhere_comes_along() {
    let mut donor = Donor::small();
    let mut sales = root("database-sales", RootKind::Database, "/big/sales");
    sales.link = Some(RelPath::new("sales").unwrap());
    donor.roots.extend([sales, root("tablespace-1", RootKind::Tablespace, "/mnt/ts")]);
    donor.members.push(Member { root: 1, ..file("t.ibd", FileClass::Innodb, noise(100, 31)) });
    donor.members.push(Member { root: 2, ..file("shop/orders#P#p7.ibd", FileClass::Innodb, noise(100, 32)) });
    let lab = Lab::of(&donor);
    extract(&lab, &["sales"], &lab.site("sales")).unwrap();
    assert_eq!(files(&lab.site("sales")), ["sales/t.ibd"]);
    extract(&lab, &["shop.orders"], &lab.site("orders")).unwrap();
    let wanted = ["shop/orders.frm", "shop/orders.ibd", "tablespace-1/shop/orders#P#p7.ibd"];
    assert_eq!(files(&lab.site("orders")), wanted);
}

#[test]
fn nothing_comes_out_with_the_right_to_run_as_somebody_else() {
    let lab = Lab::small();
    lab.forge(|manifest| manifest.files.iter_mut().for_each(|entry| entry.mode = 0o6755));
    extract(&lab, &["ibdata1", "shop.orders"], &lab.site("to")).unwrap();
    for name in names(&lab.site("to")) {
        let mode = fs::metadata(lab.site("to").join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7000, 0, "{name}");
    }
}

#[test]
fn nothing_is_overwritten() {
    let lab = Lab::small();
    let to = lab.site("to");
    fs::create_dir_all(to.join("shop")).unwrap();
    fs::write(to.join("shop/orders.frm"), "mine").unwrap();
    let error = extract(&lab, &["shop.orders"], &to).unwrap_err();
    assert_eq!(error.class(), Class::Refused);
    assert_eq!(names(&to), ["shop", "shop/orders.frm"]);
    assert_eq!(fs::read(to.join("shop/orders.frm")).unwrap(), b"mine");
    extract(&lab, &["shop.part"], &to).unwrap();
    assert_eq!(fs::read(to.join("shop/orders.frm")).unwrap(), b"mine");
}

/// Extracts on this thread alone, where faults are counted.
fn extract_here(lab: &Lab, to: &Path) -> Result<()> {
    let args = ExtractArgs {
        id: "latest".into(),
        what: vec!["shop.orders".into(), "ibdata1".into()],
        to: to.into(),
        ..ExtractArgs::default()
    };
    let context = Context { workers: std::num::NonZeroUsize::MIN, ..lab.context() };
    printed(false, |output| run(&args, &context, output)).0
}

#[test]
fn whichever_operation_fails_the_destination_is_as_it_was() {
    let lab = Lab::small();
    for new in [true, false] {
        for k in 1.. {
            let to = lab.site(&format!("to-{new}-{k}"));
            if !new {
                fs::create_dir(&to).unwrap();
                fs::write(to.join("mine"), "mine").unwrap();
            }
            let (result, reached) = fault::on(k, fault::After::Works, || extract_here(&lab, &to));
            if result.is_err() && new {
                assert!(!to.exists(), "operation {k}: {:?}", names(&to));
            } else if result.is_err() {
                assert_eq!(names(&to), ["mine"], "operation {k}");
            }
            if !reached {
                assert!(result.is_ok() && k > 20);
                break;
            }
        }
    }
}

#[test]
fn what_somebody_put_into_a_new_destination_meanwhile_stays() {
    let lab = Lab::small();
    let to = lab.site("to");
    let (theirs, cancel) = (to.clone(), lab.cancel.clone());
    let stranger = move || {
        fs::create_dir(theirs.join("shop")).unwrap();
        fs::write(theirs.join("shop/my-notes"), "mine").unwrap();
        cancel.raise(Reason::Signal("SIGINT"));
    };
    let error = fault::with_stranger("orders.ibd", stranger, || extract_here(&lab, &to)).unwrap_err();
    assert_eq!(error.class(), Class::Cancelled);
    assert_eq!(names(&to), ["shop", "shop/my-notes"]);
}

#[test]
fn what_somebody_put_beside_a_file_that_is_taken_back_stays() {
    let lab = Lab::small();
    let to = lab.site("to");
    let theirs = to.clone();
    // When its first file has its name, and the second one is in the way.
    let stranger = move || {
        fs::write(theirs.join("shop/my-notes"), "mine").unwrap();
        fs::write(theirs.join("shop/orders.ibd"), "mine").unwrap();
    };
    let error = fault::with_stranger("/to/shop/orders.ibd", stranger, || extract_here(&lab, &to)).unwrap_err();
    assert_eq!(error.os_error(), Some(nix::libc::EEXIST));
    assert_eq!(names(&to), ["shop", "shop/my-notes", "shop/orders.ibd"]);
}

#[test]
fn a_link_in_the_destination_leads_nowhere() {
    let lab = Lab::small();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(lab.site("to")).unwrap();
    std::os::unix::fs::symlink(outside.path(), lab.site("to/shop")).unwrap();
    extract(&lab, &["shop.orders"], &lab.site("to")).unwrap_err();
    assert!(names(outside.path()).is_empty());
}

#[test]
fn a_name_that_nothing_has_is_told_with_its_neighbours_and_makes_no_directory() {
    let lab = Lab::small();
    let error = extract(&lab, &["shop.ordres"], &lab.site("to")).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.advice().unwrap().contains("shop.orders"), "{:?}", error.advice());
    assert!(names(&lab.site("")).is_empty());
}

#[test]
fn damage_elsewhere_does_not_matter_and_damage_here_leaves_nothing() {
    let lab = Lab::small();
    let path = lab.stored("archive.tar.zst");
    let mut bytes = fs::read(&path).unwrap();
    // The noise of orders.ibd is by far the largest part of the archive.
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    extract(&lab, &["shop.my-table"], &lab.site("whole")).unwrap();
    let error = extract(&lab, &["shop.orders"], &lab.site("damaged")).unwrap_err();
    assert_eq!(error.class(), Class::Damage);
    assert!(error.to_string().contains("shop/orders.ibd"), "{error}");
    assert!(!lab.site("damaged").exists());
}

#[test]
fn json_names_the_files() {
    let lab = Lab::small();
    let args =
        ExtractArgs { id: "latest".into(), what: vec!["ibdata1".into()], to: lab.site("to"), ..ExtractArgs::default() };
    let (result, text) = printed(true, |output| run(&args, &lab.context(), output));
    result.unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["files"][0]["path"], "ibdata1");
    assert_eq!(json["bytes"], 300_000);
}
