//! The operator's commands as a black box, on a backup that a donor run made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use wsrep_sst_backup::digest::Digest;

use crate::answer;
use crate::server::{Donor, GTID};
use crate::tree;

/// Longer than a restore takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A repository with one backup, the datadir it was made of, and a directory for targets.
struct Lab {
    datadir: TempDir,
    repository: TempDir,
    site: TempDir,
}

/// How a command ended.
struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Lab {
    fn of(datadir: TempDir) -> Self {
        let lab = Self { datadir, repository: tempfile::tempdir().unwrap(), site: tempfile::tempdir().unwrap() };
        let donor = Donor::new().datadir_at(lab.datadir.path()).repository_at(lab.repository.path());
        donor.on("flush tables", answer::flushed(GTID)).run().succeeds().published(1);
        lab
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsrep_sst_backup"));
        command.args(["--defaults-file", "/dev/null", "--repository"]).arg(self.repository.path()).args(args);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        let output = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { status: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let ended = self.run(&[&["--json"], args].concat());
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap()
    }

    fn target(&self) -> PathBuf {
        self.site.path().join("data")
    }

    fn id(&self) -> String {
        self.json(&["list"])["backups"][0]["id"].as_str().unwrap().to_owned()
    }

    fn archive(&self) -> PathBuf {
        self.repository.path().join(self.id()).join("archive.tar.zst")
    }

    /// The target holds what the donor had and a backup takes, with its modes.
    #[track_caller]
    fn assert_restored(&self) {
        let left_out = ["galera.cache", "gvwstate.dat"];
        let names = tree::list(self.datadir.path());
        let wanted: Vec<&String> = names.iter().filter(|name| !left_out.contains(&name.as_str())).collect();
        assert_eq!(tree::list(&self.target()).iter().collect::<Vec<_>>(), wanted);
        for name in wanted {
            let (from, to) = (self.datadir.path().join(name), self.target().join(name));
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            if name == "grastate.dat" {
                // The backup's own file, with the mode that Galera gives it.
                assert_eq!(mode(&to) & 0o7777, 0o660);
                continue;
            }
            assert_eq!(mode(&to), mode(&from), "{name}");
            if from.is_file() {
                assert!(fs::read(&to).unwrap() == fs::read(&from).unwrap(), "{name}");
            }
        }
        let (_, seqno) = GTID.rsplit_once(':').unwrap();
        let grastate = fs::read_to_string(self.target().join("grastate.dat")).unwrap();
        assert!(grastate.contains(&format!("seqno:   {seqno}\n")), "{grastate}");
    }

    /// Nothing but the target, if anything, is where targets go.
    #[track_caller]
    fn assert_nothing_half_made(&self) {
        let names = tree::list(self.site.path());
        assert!(names.iter().all(|name| name == "data" || name.starts_with("data/")), "{names:?}");
    }
}

#[test]
fn from_the_donor_run_to_a_restored_datadir() {
    let lab = Lab::of(tree::small());
    let target = lab.target();
    let target = target.to_str().unwrap();
    assert_eq!(lab.json(&["list"])["backups"][0]["gtid"], GTID);
    assert_eq!(lab.json(&["verify"])["sound"], 1);
    let shown = lab.json(&["show", "latest"]);
    let excluded = shown["excluded"].as_array().unwrap();
    assert!(excluded.iter().any(|excluded| excluded["path"] == "galera.cache"), "{excluded:?}");
    let ended = lab.run(&["restore", "latest", "--target", target]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("wsrep_local_state_comment"), "{}", ended.stdout);
    lab.assert_restored();
    lab.assert_nothing_half_made();

    let to = lab.site.path().join("extracted");
    let ended = lab.run(&["extract", "latest", "shop.orders", "--to", to.to_str().unwrap()]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(tree::list(&to), ["shop", "shop/orders.ibd"]);
}

#[test]
fn each_kind_of_failure_has_its_exit_status_and_says_why_on_stderr() {
    let lab = Lab::of(tree::small());
    let (target, to) = (lab.target(), lab.site.path().join("to"));
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), "x").unwrap();
    let (target, to) = (target.to_str().unwrap(), to.to_str().unwrap());
    let cases: [(&[&str], i32, &str); 6] = [
        (&["show", "2019"], 4, "there is no backup"),
        (&["restore", "latest"], 2, "--target"),
        (&["restore", "latest", "--target", target], 8, "is not empty"),
        (&["restore", "latest", "--target", to, "--root", "undo=/x"], 2, "no root"),
        (&["extract", "latest", "shop.ordres", "--to", to], 4, "shop.orders"),
        (&["list", "--repository", "/nonexistent/repository"], 3, "mkdir"),
    ];
    for (args, status, says) in cases {
        let ended = lab.run(args);
        assert_eq!(ended.status, status, "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says) && ended.stdout.is_empty(), "{args:?}: {}{}", ended.stdout, ended.stderr);
    }
    assert_eq!(tree::list(lab.site.path()), ["data", "data/mine"]);
}

#[test]
fn a_damaged_archive_is_told_by_file_and_not_restored() {
    let lab = Lab::of(tree::incompressible(8 << 20));
    let mut bytes = fs::read(lab.archive()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(lab.archive(), bytes).unwrap();
    let ended = lab.run(&["verify", "--all"]);
    assert_eq!(ended.status, 5, "{}", ended.stderr);
    assert!(ended.stdout.contains("shop/noise.MYD"), "{}", ended.stdout);
    let target = lab.target();
    let ended = lab.run(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert_eq!(ended.status, 5, "{}", ended.stderr);
    assert!(tree::list(lab.site.path()).is_empty());
}

#[test]
fn modes_are_the_donors_whatever_the_umask() {
    for mask in ["000", "777"] {
        let lab = Lab::of(tree::small());
        let restore = lab.command(&["restore", "latest", "--target", lab.target().to_str().unwrap()]);
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "umask \"$0\" && exec \"$@\"", mask]).arg(restore.get_program()).args(restore.get_args());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lab.assert_restored();
    }
}

#[test]
fn a_file_that_would_run_as_its_owner_is_backed_up_as_one_that_does_not() {
    let datadir = tree::small();
    let chmod = |name: &str, mode| fs::set_permissions(datadir.path().join(name), fs::Permissions::from_mode(mode));
    chmod("shop/notes.MYD", 0o6755).unwrap();
    chmod("shop", 0o3770).unwrap();
    let lab = Lab::of(datadir);
    let stored = fs::read(lab.repository.path().join(lab.id()).join("manifest.json.zst")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&zstd::decode_all(&stored[..]).unwrap()).unwrap();
    let files = manifest["files"].as_array().unwrap();
    let mode = |path: &str| files.iter().find(|file| file["path"] == path).unwrap()["mode"].as_u64();
    assert_eq!((mode("shop/notes.MYD"), mode("shop")), (Some(0o755), Some(0o1770)));
    assert_eq!(lab.json(&["verify"])["sound"], 1);
}

/// Sends `signal` to a restore as soon as it writes; the exit status if it had one.
fn interrupted(lab: &Lab, signal: Signal) -> Option<i32> {
    let target = lab.target();
    let mut restore = lab.command(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let mut child = restore.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let is_writing = || tree::list(lab.site.path()).iter().any(|name| name.ends_with("noise.MYD"));
    while !is_writing() {
        assert!(begun.elapsed() < PATIENCE, "the restore never wrote");
        std::thread::yield_now();
    }
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn a_restore_that_is_stopped_takes_everything_back() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let lab = Lab::of(tree::incompressible(64 << 20));
        match interrupted(&lab, signal) {
            Some(13) => assert!(tree::list(lab.site.path()).is_empty(), "{signal}"),
            // The signal came after the last byte.
            status => assert_eq!(status, Some(0), "{signal}"),
        }
    }
}

#[test]
fn a_restore_that_is_killed_leaves_no_datadir_and_can_be_done_again() {
    let lab = Lab::of(tree::incompressible(64 << 20));
    if interrupted(&lab, Signal::SIGKILL).is_none() {
        assert!(!lab.target().exists());
        let ended = lab.run(&["restore", "latest", "--target", lab.target().to_str().unwrap()]);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
    }
    lab.assert_restored();
    lab.assert_nothing_half_made();
}

/// Archives of every released format are read for ever: this one is never made anew.
#[test]
fn a_backup_of_format_version_1_is_verified_and_restored() {
    let frozen = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/format-1");
    let site = tempfile::tempdir().unwrap();
    let target = site.path().join("mysql");
    let target = target.to_str().unwrap();
    let owner = format!("{}:{}", nix::unistd::Uid::current(), nix::unistd::Gid::current());
    for args in [&["verify", "latest"][..], &["restore", "latest", "--target", target, "--owner", &owner]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsrep_sst_backup"));
        command.args(["--defaults-file", "/dev/null", "--repository", frozen]).args(args);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let restored = |path: &str| Digest::of(&fs::read(format!("{target}/{path}")).unwrap()).to_string();
    for (path, digest) in [
        ("ibdata1", "36ac6c065e9bf6a88e897eb08f1cbdb83f5027e150b39e7c2be2d1984cb07394"),
        ("ib_logfile0", "28b4f41a7f3ee6d8cc87272db6e09c6d3566551fd4d18702b041a21658272a85"),
        ("aria_log_control", "48803cad0f3dcf6436b26680f2c253e8e17da7005ab6ec25edff725183fc5d75"),
        ("shop/empty.MYD", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("shop/na me%.frm", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"),
        ("shop/orders.frm", "e9c8c41820754da44b9b93094149eb25e8decb300444ba84ef030dd5567d6e98"),
        ("shop/orders.ibd", "7392cf04fd6fb9c7bd84736b3c8512927403b5922fa5fa2e4caeaa4c66f010c7"),
    ] {
        assert_eq!(restored(path), digest, "{path}");
    }
    let grastate = fs::read_to_string(format!("{target}/grastate.dat")).unwrap();
    assert!(grastate.contains("uuid:    6d3f9a04-1234-11ef-8000-0242ac120002\nseqno:   7\n"), "{grastate}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let lab = Lab::of(tree::small());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = lab.command(&["list"]).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
