use super::*;
use crate::archive::seal::{Identities, Recipients};
use crate::command::fixture::{Donor, ID, Lab, names, printed};
use crate::store::{Destination, LocalRepository};
use std::path::Path;

fn args() -> CopyArgs {
    CopyArgs { id: "latest".to_owned(), ..CopyArgs::default() }
}

fn repository(path: &Path) -> LocalRepository {
    std::fs::create_dir_all(path).unwrap();
    LocalRepository::open(path).unwrap()
}

fn copy(from: &Lab, to: &dyn Repository) -> Result<()> {
    printed(false, |output| run(&args(), &from.context(), to, output)).0
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    assert_eq!(names(one), names(other));
    for name in names(one).iter().filter(|name| one.join(name).is_file()) {
        assert!(std::fs::read(one.join(name)).unwrap() == std::fs::read(other.join(name)).unwrap(), "{name} differs");
    }
}

fn there_and_back(lab: &Lab) {
    let there = Lab::empty();
    copy(lab, &there.repository).unwrap();
    let back = repository(&lab.site("back"));
    copy(&there, &back).unwrap();
    assert_same(lab.repository.path(), there.repository.path());
    assert_same(lab.repository.path(), back.path());
}

#[test]
fn a_backup_copied_there_and_back_is_the_same_byte_for_byte() {
    there_and_back(&Lab::small());
}

#[test]
fn an_encrypted_backup_is_copied_without_its_key() {
    let key = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    let recipients = Recipients::new([key.parse().unwrap()]).unwrap();
    let lab = Lab { keys: Identities::none(), ..Lab::of(&Donor { recipients, ..Donor::small() }) };
    assert!(lab.stored("archive.tar.zst.age").exists());
    there_and_back(&lab);
}

#[test]
fn a_backup_that_is_there_already_is_never_replaced() {
    let (lab, there) = (Lab::small(), Lab::small());
    assert_eq!(copy(&lab, &there.repository).unwrap_err().class(), Class::Refused);
    std::fs::write(there.stored("backup.json"), "no label").unwrap();
    let before = names(there.repository.path());
    assert_eq!(copy(&lab, &there.repository).unwrap_err().class(), Class::Refused);
    assert_eq!(names(there.repository.path()), before);
    assert_eq!(std::fs::read(there.stored("backup.json")).unwrap(), b"no label");
}

#[test]
fn damage_is_not_copied() {
    for name in ["archive.tar.zst", "manifest.json.zst"] {
        for change in [
            (|bytes| bytes[20] ^= 1) as fn(&mut Vec<u8>),
            |bytes| bytes.truncate(bytes.len() - 1),
            |bytes| bytes.push(0),
            |bytes| bytes.clear(),
        ] {
            let (lab, there) = (Lab::small(), Lab::empty());
            let mut bytes = std::fs::read(lab.stored(name)).unwrap();
            change(&mut bytes);
            std::fs::write(lab.stored(name), bytes).unwrap();
            assert_eq!(copy(&lab, &there.repository).unwrap_err().class(), Class::Damage, "{name}");
            assert_eq!(names(there.repository.path()), [""; 0], "{name}");
        }
    }
}

#[test]
fn a_copy_that_was_stopped_leaves_nothing() {
    let (lab, there) = (Lab::small(), Lab::empty());
    lab.cancel.raise(crate::cancel::Reason::Signal("SIGTERM"));
    assert_eq!(copy(&lab, &there.repository).unwrap_err().class(), Class::Cancelled);
    assert_eq!(names(there.repository.path()), [""; 0]);
}

#[test]
fn json_tells_what_was_copied_and_where() {
    let (lab, there) = (Lab::small(), Lab::empty());
    let (result, text) = printed(true, |output| run(&args(), &lab.context(), &there.repository, output));
    result.unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["id"], &json["to"]), (&ID.into(), &there.repository.place().into()));
    let bytes: u64 = ["archive.tar.zst", "manifest.json.zst"]
        .map(|name| std::fs::metadata(lab.stored(name)).unwrap().len())
        .iter()
        .sum();
    assert_eq!(json["stored_bytes"], bytes);
}
