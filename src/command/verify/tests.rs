//! The damage matrix: whatever is damaged however, `list`, `verify` and `restore` say so by name, and no tree looks whole.

use std::fs;
use std::path::Path;

use super::*;
use crate::archive::seal::{Identities, Recipients};
use crate::cli::{RestoreArgs, VerifyArgs};
use crate::command::fixture::{Donor, ID, Lab, names, printed};
use crate::command::{list, restore};
use crate::store::Repository as _;

const ARCHIVE: &str = "archive.tar.zst";
const MANIFEST: &str = "manifest.json.zst";
const LABEL: &str = "backup.json";

fn verify(lab: &Lab, args: &VerifyArgs) -> (Result<()>, String) {
    printed(false, |output| run(args, &lab.context(), output))
}

fn restored(lab: &Lab) -> Result<()> {
    let args = RestoreArgs { id: ID.to_owned(), target: lab.site("data"), ..RestoreArgs::default() };
    printed(false, |output| restore::run(&args, &lab.context(), output)).0
}

fn listed(lab: &Lab) -> (Result<()>, String) {
    printed(false, |output| list::run(&lab.context(), output))
}

fn named() -> VerifyArgs {
    VerifyArgs { ids: vec![ID.to_owned()], ..VerifyArgs::default() }
}

fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() - bytes.len() / 3 - 1]).unwrap();
}

fn lengthen(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.extend_from_slice(b"garbage after the end");
    fs::write(path, bytes).unwrap();
}

/// Something that happens to the files of a backup.
type Mishap = fn(&Lab);

/// Whether the mishap shows in the list, too: only the label is read there.
const MATRIX: [(&str, bool, Mishap); 15] = [
    ("archive missing", false, |lab| fs::remove_file(lab.stored(ARCHIVE)).unwrap()),
    ("archive truncated", false, |lab| cut(&lab.stored(ARCHIVE))),
    ("archive empty", false, |lab| fs::write(lab.stored(ARCHIVE), "").unwrap()),
    ("head of the archive flipped", false, |lab| flip(&lab.stored(ARCHIVE), |_| 40)),
    ("middle of the archive flipped", false, |lab| flip(&lab.stored(ARCHIVE), |len| len / 2)),
    ("archive longer", false, |lab| lengthen(&lab.stored(ARCHIVE))),
    ("archive foreign", false, |lab| fs::write(lab.stored(ARCHIVE), vec![b'x'; 10 << 20]).unwrap()),
    ("manifest missing", false, |lab| fs::remove_file(lab.stored(MANIFEST)).unwrap()),
    ("manifest truncated", false, |lab| cut(&lab.stored(MANIFEST))),
    ("manifest flipped", false, |lab| flip(&lab.stored(MANIFEST), |len| len / 2)),
    ("manifest longer", false, |lab| lengthen(&lab.stored(MANIFEST))),
    ("label missing", true, |lab| fs::remove_file(lab.stored(LABEL)).unwrap()),
    ("label truncated", true, |lab| cut(&lab.stored(LABEL))),
    ("label flipped", true, |lab| flip(&lab.stored(LABEL), |_| 0)),
    ("label longer", true, |lab| lengthen(&lab.stored(LABEL))),
];

#[test]
fn no_damage_is_overlooked_and_nothing_is_restored_from_it() {
    for (what, in_list, mishap) in MATRIX {
        let lab = Lab::small();
        mishap(&lab);
        let (result, text) = verify(&lab, &named());
        assert_eq!(result.unwrap_err().class(), Class::Damage, "{what}: {text}");
        assert!(text.contains("DAMAGED") && text.contains("verdict: 1 of 1 backup not sound"), "{what}: {text}");
        let error = restored(&lab).unwrap_err();
        assert_eq!(error.class(), Class::Damage, "{what}: {error}");
        assert!(names(&lab.site("")).is_empty(), "{what} left {:?}", names(&lab.site("")));
        let (result, text) = listed(&lab);
        assert_eq!(result.is_err(), in_list, "{what}: {text}");
        assert_eq!(text.contains("DAMAGED"), in_list, "{what}: {text}");
    }
}

#[test]
fn a_flip_in_the_last_frame_is_found_and_costs_only_the_end_of_the_archive() {
    let lab = Lab::small();
    // The last bytes belong to the copy of the manifest, which restore does not need.
    flip(&lab.stored(ARCHIVE), |len| len - 20);
    let (result, text) = verify(&lab, &named());
    assert_eq!(result.unwrap_err().class(), Class::Damage, "{text}");
}

#[test]
fn all_damage_is_told_with_file_and_offset() {
    let lab = Lab::small();
    // The first frame holds the small files, the middle is the noise of the largest one.
    flip(&lab.stored(ARCHIVE), |_| 100_000);
    flip(&lab.stored(ARCHIVE), |len| len / 2);
    let (_, text) = verify(&lab, &named());
    for path in ["aria_log_control", "shop/db.opt", "ibdata1", "shop/orders.ibd"] {
        assert!(text.contains(&format!("\"{path}\" (datadir): ")), "{path} is not in:\n{text}");
    }
    assert!(!text.contains("ib_logfile0"), "{text}");
}

#[test]
fn another_format_version_is_refused_by_name_everywhere() {
    for name in [LABEL, MANIFEST] {
        let lab = Lab::small();
        if name == LABEL {
            let text = fs::read_to_string(lab.stored(LABEL)).unwrap();
            fs::write(lab.stored(LABEL), text.replace("\"format_version\": 1", "\"format_version\": 7")).unwrap();
        } else {
            lab.forge(|manifest| manifest.format_version = 7);
        }
        let (result, text) = verify(&lab, &named());
        assert_eq!(result.unwrap_err().class(), Class::Unsupported, "{text}");
        assert!(text.contains("version 7"), "{text}");
        assert_eq!(restored(&lab).unwrap_err().class(), Class::Unsupported);
        assert!(names(&lab.site("")).is_empty());
    }
}

#[test]
fn a_sound_backup_is_called_sound_and_all_means_all() {
    let lab = Lab::small();
    Donor::small().back_up(&lab.repository, "20261123T100946Z-node2-0001");
    let (result, text) = verify(&lab, &VerifyArgs::default());
    result.unwrap();
    assert!(text.starts_with("20261123T100946Z-node2-0001: sound") && text.contains("verdict: the backup is sound"));
    fs::remove_file(lab.stored(LABEL)).unwrap();
    let (result, text) = verify(&lab, &VerifyArgs { all: true, ..VerifyArgs::default() });
    assert_eq!(result.unwrap_err().class(), Class::Damage);
    assert!(text.contains("verdict: 1 of 2 backups not sound") && text.contains(ID), "{text}");
}

#[test]
fn json_has_every_damage() {
    let lab = Lab::small();
    flip(&lab.stored(ARCHIVE), |len| len / 2);
    let (result, text) = printed(true, |output| run(&named(), &lab.context(), output));
    result.unwrap_err();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["damaged"], 1);
    assert_eq!(json["backups"][0]["verdict"], "damaged");
    assert_eq!(json["backups"][0]["report"]["damages"][0]["path"], "shop/orders.ibd");
}

#[test]
fn an_empty_repository_has_nothing_to_verify_and_the_list_says_how_to_begin() {
    let lab = Lab::empty();
    assert_eq!(
        verify(&lab, &VerifyArgs { all: true, ..VerifyArgs::default() }).0.unwrap_err().class(),
        Class::NotFound
    );
    let (result, text) = listed(&lab);
    result.unwrap();
    assert!(text.contains("no backups in") && text.contains("garbd"), "{text}");
}

#[test]
fn the_list_shows_what_matters_and_its_json_is_the_labels() {
    let lab = Lab::small();
    let (_, text) = listed(&lab);
    for word in [ID, "77", "node2", "2026-11-22 10:09:46", "2 h 00 min", "1.2 s", "6d3f9a04-1234"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    let (_, text) = printed(true, |output| list::run(&lab.context(), output));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["backups"][0]["id"], ID);
    assert_eq!(json["broken"].as_array().unwrap().len(), 0);
}

/// A lab whose backup is encrypted; the key is given only when a test says so.
fn sealed() -> (Lab, Identities) {
    let key = age::x25519::Identity::generate();
    let recipient = key.to_public().to_string().parse().unwrap();
    let recipients = Recipients::new([recipient]).unwrap();
    (Lab::of(&Donor { recipients, ..Donor::small() }), vec![key].into())
}

#[test]
fn an_encrypted_backup_without_key_is_intact_and_the_output_says_what_was_not_proved() {
    let (mut lab, keys) = sealed();
    let (result, text) = verify(&lab, &named());
    result.unwrap();
    for told in
        ["stored bytes intact", "not proved: that it can be decrypted", "--identity", "not opened for want of a key"]
    {
        assert!(text.contains(told), "{told} is not in:\n{text}");
    }
    assert!(!text.contains("sound"), "{text}");
    let (result, text) = printed(true, |output| run(&named(), &lab.context(), output));
    result.unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["sound"], &json["intact"]), (&0.into(), &1.into()));
    assert_eq!(json["backups"][0]["verdict"], "intact");
    lab.keys = keys;
    let (result, text) = verify(&lab, &named());
    result.unwrap();
    assert!(text.contains("sound") && !text.contains("not proved"), "{text}");
}

#[test]
fn damage_of_an_encrypted_backup_is_found_without_a_key_too() {
    for name in ["archive.tar.zst.age", "manifest.json.zst.age"] {
        let mishaps: [fn(&Path); 4] =
            [|path| flip(path, |len| len / 2), cut, lengthen, |path| fs::remove_file(path).unwrap()];
        for mishap in mishaps {
            let (mut lab, keys) = sealed();
            mishap(&lab.stored(name));
            for given in [Identities::none(), keys] {
                lab.keys = given;
                let (result, text) = verify(&lab, &named());
                assert_eq!(result.unwrap_err().class(), Class::Damage, "{name}: {text}");
                assert!(text.contains("DAMAGED"), "{text}");
                if !lab.keys.is_empty() {
                    assert_eq!(restored(&lab).unwrap_err().class(), Class::Damage);
                }
                assert!(names(&lab.site("")).is_empty());
            }
        }
    }
}

#[test]
fn an_encrypted_backup_is_restored_with_its_key_and_not_with_another() {
    let (mut lab, keys) = sealed();
    let none = restored(&lab).unwrap_err();
    lab.keys = sealed().1;
    let wrong = restored(&lab).unwrap_err();
    assert_eq!((none.class(), wrong.class()), (Class::Key, Class::Key));
    assert!(none.advice().unwrap().contains("--identity") && wrong.advice().unwrap().contains("age1"));
    assert_eq!(verify(&lab, &named()).0.unwrap_err().class(), Class::Key);
    assert!(names(&lab.site("")).is_empty());
    lab.keys = keys;
    restored(&lab).unwrap();
    let donor = Donor::small();
    for member in donor.members.iter().filter(|member| member.path != "grastate.dat") {
        if let Some(bytes) = &member.bytes {
            assert!(fs::read(lab.site("data").join(member.path)).unwrap() == *bytes, "{}", member.path);
        }
    }
}

#[test]
fn a_manifest_of_another_backup_is_refused_even_with_a_label_that_was_made_to_fit() {
    const OTHER: &str = "20261123T100946Z-node2-7f3b";
    let (mut lab, keys) = sealed();
    let id = ID.parse().unwrap();
    let mut label = lab.repository.label(&id).unwrap();
    Donor { recipients: label.recipients.clone(), ..Donor::small() }.back_up(&lab.repository, OTHER);
    let name = "manifest.json.zst.age";
    fs::copy(lab.repository.path().join(OTHER).join(name), lab.stored(name)).unwrap();
    let (result, text) = verify(&lab, &named());
    assert_eq!(result.unwrap_err().class(), Class::Damage, "without a key: {text}");
    lab.keys = keys;
    assert_eq!(restored(&lab).unwrap_err().class(), Class::Damage);
    label.manifest = lab.repository.label(&OTHER.parse().unwrap()).unwrap().manifest;
    fs::write(lab.stored(LABEL), label.to_json().unwrap()).unwrap();
    let error = restored(&lab).unwrap_err();
    assert!(error.to_string().contains("is not the manifest's"), "{error}");
    assert_eq!(verify(&lab, &named()).0.unwrap_err().class(), Class::Damage);
}

#[test]
fn show_tells_of_an_encrypted_backup_what_its_label_says_and_the_rest_with_the_key() {
    let (mut lab, keys) = sealed();
    let show = |lab: &Lab, json| {
        let args = crate::cli::ShowArgs { id: ID.to_owned(), ..Default::default() };
        let (result, text) = printed(json, |output| crate::command::show::run(&args, &lab.context(), output));
        result.unwrap();
        text
    };
    let text = show(&lab, false);
    let recipient = lab.repository.label(&ID.parse().unwrap()).unwrap().recipients.iter().next().unwrap().to_string();
    assert!(text.contains(&recipient) && text.contains("--identity") && !text.contains("galera.cache"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&show(&lab, true)).unwrap();
    assert_eq!((&json["roots"], &json["label"]["recipients"][0]), (&serde_json::Value::Null, &recipient.into()));
    lab.keys = keys;
    assert!(show(&lab, false).contains("galera.cache"));
    assert_eq!(listed(&lab).0.map_err(|error| error.class()), Ok(()));
}

#[test]
fn a_label_whose_recipients_do_not_fit_what_is_stored_is_damage() {
    let (lab, _) = sealed();
    let label = lab.repository.label(&ID.parse().unwrap()).unwrap();
    let text = String::from_utf8(label.to_json().unwrap()).unwrap();
    let recipient = label.recipients.iter().next().unwrap().to_string();
    let many = vec![format!("\"{recipient}\""); 65].join(",");
    let forged = [
        text.replace("\"recipients\"", "\"forgotten\""),
        text.replace(&recipient, "age1nobody"),
        text.replace(&format!("\"{recipient}\""), &many),
    ];
    for text in forged {
        fs::write(lab.stored(LABEL), text).unwrap();
        assert_eq!(restored(&lab).unwrap_err().class(), Class::Damage);
        assert_eq!(verify(&lab, &named()).0.unwrap_err().class(), Class::Damage);
    }
    // One that never was encrypted is not opened with a key either.
    let lab = Lab::small();
    let label = lab.repository.label(&ID.parse().unwrap()).unwrap();
    let text = String::from_utf8(label.to_json().unwrap()).unwrap();
    fs::write(lab.stored(LABEL), text.replacen('{', &format!("{{\"recipients\": [\"{recipient}\"],"), 1)).unwrap();
    assert_eq!(restored(&lab).unwrap_err().class(), Class::Damage);
}
