//! Encrypted backups as a black box, with the keys and the program of the real age beside it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;
use tempfile::TempDir;
use wsrep_sst_backup::digest::Digest;

use crate::answer;
use crate::server::{DIALOGUE, Donor, GTID};
use crate::tree;

/// How the text of a private key begins.
const SECRET: &str = "AGE-SECRET-KEY-1";

/// A private key in a file, as `age-keygen` makes it.
struct Key {
    directory: TempDir,
    public: String,
}

impl Key {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = run(Command::new("age-keygen").arg("-o").arg(directory.path().join("key")));
        let public = String::from_utf8(made.stderr).unwrap().trim().rsplit(' ').next().unwrap().to_owned();
        assert!(public.starts_with("age1"), "{public}");
        Self { directory, public }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("key")
    }
}

/// An encrypted backup, and what it is of.
struct Lab {
    datadir: TempDir,
    repository: TempDir,
    key: Key,
    /// Everything that any run wrote.
    said: std::cell::RefCell<String>,
}

/// How a command ended.
struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Lab {
    fn new() -> Self {
        let (datadir, repository) = (tree::incompressible(9 << 20), tempfile::tempdir().unwrap());
        let lab = Self { datadir, repository, key: Key::new(), said: String::new().into() };
        let donor = Donor::new().datadir_at(lab.datadir.path()).repository_at(lab.repository.path());
        let donor = donor.set("RECIPIENT", &lab.key.public).set("SOURCE", "locked");
        let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().wire(DIALOGUE).published(1);
        assert_eq!(outcome.label()["recipients"], serde_json::json!([lab.key.public]));
        let outcome = outcome.says("encrypted to 1 recipient");
        lab.said.borrow_mut().push_str(&outcome.stderr);
        lab
    }

    fn stored(&self, name: &str) -> PathBuf {
        let names = tree::list(self.repository.path());
        let found = names.iter().find(|path| path.ends_with(&format!("/{name}")));
        self.repository.path().join(found.unwrap_or_else(|| panic!("no {name} in {names:?}")))
    }

    fn run(&self, key: Option<&Path>, args: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsrep_sst_backup"));
        command.args(["--defaults-file", "/dev/null", "--repository"]).arg(self.repository.path()).args(args);
        if let Some(key) = key {
            command.arg("--identity").arg(key);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        self.said.borrow_mut().push_str(&format!("{stdout}{stderr}"));
        Ended { status: output.status.code().unwrap_or(-1), stdout, stderr }
    }

    /// What a restore gives, or how it failed; the target is gone afterwards.
    fn restored(&self, key: Option<&Path>) -> Result<BTreeMap<String, Option<Vec<u8>>>, Ended> {
        let site = tempfile::tempdir().unwrap();
        let target = site.path().join("data");
        let ended = self.run(key, &["restore", "latest", "--target", target.to_str().unwrap()]);
        if ended.status == 0 {
            return Ok(tree::contents(&target));
        }
        assert!(tree::list(site.path()).is_empty(), "{:?}", tree::list(site.path()));
        Err(ended)
    }

    fn assert_restored(&self, files: &BTreeMap<String, Option<Vec<u8>>>) {
        tree::assert_same(files, &tree::contents(self.datadir.path()));
    }
}

impl Drop for Lab {
    /// Nothing that was said or stored holds a private key.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert!(!self.said.borrow().to_uppercase().contains(SECRET), "{}", self.said.borrow());
        for name in tree::list(self.repository.path()) {
            let bytes = fs::read(self.repository.path().join(name)).unwrap_or_default();
            assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()));
        }
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn an_encrypted_backup_is_verified_restored_and_extracted_with_its_key() {
    let lab = Lab::new();
    let key = lab.key.path();
    let ended = lab.run(Some(&key), &["verify"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains(": sound ("), "{}", ended.stdout);
    lab.assert_restored(&lab.restored(Some(&key)).map_err(|ended| ended.stderr).unwrap());
    let site = tempfile::tempdir().unwrap();
    let to = site.path().join("to");
    let ended = lab.run(Some(&key), &["extract", "latest", "shop.notes", "--to", to.to_str().unwrap()]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(fs::read(to.join("shop/notes.MYD")).unwrap(), b"a note\n");
    assert!(lab.run(Some(&key), &["show", "latest"]).stdout.contains("galera.cache"));
}

#[test]
fn without_its_key_only_the_stored_bytes_are_proved_and_nothing_is_restored() {
    let lab = Lab::new();
    let ended = lab.run(None, &["verify"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("stored bytes intact") && ended.stdout.contains("not proved"), "{}", ended.stdout);
    assert!(lab.run(None, &["show", "latest"]).stdout.contains(&lab.key.public));
    assert_eq!(lab.run(None, &["list"]).status, 0);
    let stranger = Key::new();
    for (key, told) in [(None, "no key was given"), (Some(stranger.path()), "does not open it")] {
        let ended = lab.restored(key.as_deref()).unwrap_err();
        assert_eq!(ended.status, 14, "{}", ended.stderr);
        assert!(ended.stderr.contains(told) && ended.stderr.contains("hint: "), "{}", ended.stderr);
        let to = lab.datadir.path().join("never");
        let ended = lab.run(key.as_deref(), &["extract", "latest", "shop", "--to", to.to_str().unwrap()]);
        assert_eq!((ended.status, to.exists()), (14, false), "{}", ended.stderr);
    }
    let ended = lab.run(Some(&stranger.path()), &["verify"]);
    assert_eq!(ended.status, 14, "{}{}", ended.stdout, ended.stderr);
    let ended = lab.run(Some(Path::new("/nonexistent/key")), &["verify"]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let archive = lab.stored("archive.tar.zst.age");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, &bytes).unwrap();
    for key in [None, Some(lab.key.path())] {
        let ended = lab.run(key.as_deref(), &["verify"]);
        assert_eq!(ended.status, 5, "{}{}", ended.stdout, ended.stderr);
    }
    assert_eq!(lab.restored(Some(&lab.key.path())).unwrap_err().status, 5);
}

#[test]
fn stock_tools_read_an_encrypted_backup() {
    let lab = Lab::new();
    let there = tempfile::tempdir().unwrap();
    let by_hand = "set -o pipefail; age -d -i \"$1\" \"$2\" | zstd -dc | tar -x -C \"$3\"";
    let archive = lab.stored("archive.tar.zst.age");
    run(Command::new("bash").args(["-c", by_hand, "-"]).args([&lab.key.path(), &archive]).arg(there.path()));
    assert!(there.path().join(".wsrep_sst_backup/manifest.json").exists());
    lab.assert_restored(&tree::contents(there.path()));
    let by_hand = "set -o pipefail; age -d -i \"$1\" \"$2\" | zstd -dc";
    let manifest = lab.stored("manifest.json.zst.age");
    let json = run(Command::new("bash").args(["-c", by_hand, "-"]).args([&lab.key.path(), &manifest])).stdout;
    let manifest: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(manifest["gtid"], GTID);
    let label = fs::read(lab.stored("backup.json")).unwrap();
    let label: serde_json::Value = serde_json::from_slice(&label).unwrap();
    assert_eq!(label["archive"]["sha256"], Digest::of(&fs::read(archive).unwrap()).to_string());
}

#[test]
fn what_stock_age_encrypts_anew_is_restored_as_well() {
    let lab = Lab::new();
    let other = Key::new();
    let mut label: serde_json::Value = serde_json::from_slice(&fs::read(lab.stored("backup.json")).unwrap()).unwrap();
    let again = "set -o pipefail; age -d -i \"$1\" \"$2\" | age -r \"$3\" > \"$2.new\" && mv \"$2.new\" \"$2\"";
    for (field, name) in [("archive", "archive.tar.zst.age"), ("manifest", "manifest.json.zst.age")] {
        let path = lab.stored(name);
        run(Command::new("bash").args(["-c", again, "-"]).args([&lab.key.path(), &path]).arg(&other.public));
        let bytes = fs::read(path).unwrap();
        label[field]["bytes"] = bytes.len().into();
        label[field]["sha256"] = Digest::of(&bytes).to_string().into();
    }
    label["recipients"] = serde_json::json!([other.public]);
    fs::write(lab.stored("backup.json"), label.to_string()).unwrap();
    assert_eq!(lab.restored(Some(&lab.key.path())).unwrap_err().status, 14);
    lab.assert_restored(&lab.restored(Some(&other.path())).map_err(|ended| ended.stderr).unwrap());
    assert!(lab.run(Some(&other.path()), &["verify"]).stdout.contains(": sound ("));
}

#[test]
fn recipients_add_up_from_lines_lists_and_a_file() {
    let keys: Vec<Key> = (0..4).map(|_| Key::new()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("# the second team\n{}\n\n{}\n", keys[3].public, keys[0].public)).unwrap();
    let options = format!(
        "[wsrep_sst_backup]\nrecipient = {}, {}\nrecipient={}\nrecipients-file = {}\n",
        keys[0].public,
        keys[1].public,
        keys[2].public,
        file.path().display()
    );
    let outcome =
        Donor::new().options(&options).on("flush tables", answer::flushed(GTID)).run().succeeds().published(1);
    let named: Vec<&str> = keys.iter().map(|key| key.public.as_str()).collect();
    assert_eq!(outcome.label()["recipients"], serde_json::json!(named));
}

#[test]
fn recipients_that_cannot_be_used_fail_the_run_before_the_server_is_asked() {
    let secret = fs::read_to_string(Key::new().path()).unwrap();
    let secret = secret.lines().find(|line| line.starts_with(SECRET)).unwrap();
    for (name, value) in [("RECIPIENT", "age1nonsense"), ("RECIPIENT", secret), ("RECIPIENTS_FILE", "/dev/null")] {
        let outcome = Donor::new().set(name, value).run().fails(Errno::EINVAL).wire([]).published(0);
        outcome.says("recipient").never_says(&secret[..30]);
    }
    Donor::new().set("RECIPIENTS_FILE", "/nonexistent/team").run().fails(Errno::ENOENT).wire([]).published(0);
}

#[test]
fn a_key_that_others_may_read_is_used_with_a_warning_and_an_encrypted_one_not_at_all() {
    let lab = Lab::new();
    let key = lab.key.path();
    let warned = |lab: &Lab| lab.run(Some(&key), &["verify"]).stderr.contains("other users may read the identity");
    assert!(!warned(&lab));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(warned(&lab));
    let locked = lab.key.directory.path().join("locked");
    run(Command::new("age").args(["-r", &Key::new().public, "-o"]).args([&locked, &key]));
    let ended = lab.run(Some(&locked), &["verify"]);
    assert_eq!(ended.status, 14, "{}", ended.stderr);
    assert!(ended.stderr.contains("is encrypted itself") && ended.stderr.contains("<(age -d"), "{}", ended.stderr);
}
