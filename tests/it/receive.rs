//! A donor run that streams to a real `receive` process: over TLS, with a token, and with everything that can go wrong.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::answer;
use crate::authority::{Authority, Files};
use crate::outcome::Outcome;
use crate::server::{DIALOGUE, Donor, GTID, Stage, wait_until};
use crate::small_disk::SmallDisk;
use crate::tree;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What both ends are given: certificates and a token.
struct Lab {
    authority: Authority,
    host: Files,
    secrets: TempDir,
}

/// A `receive` process; it is killed with the test.
struct Receiving {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: PathBuf,
    address: SocketAddr,
    repository: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let authority = Authority::new();
        let host = authority.sign("127.0.0.1");
        let lab = Self { authority, host, secrets: tempfile::tempdir().unwrap() };
        lab.token("token", SECRET);
        lab
    }

    fn token(&self, name: &str, text: &str) -> PathBuf {
        let path = self.secrets.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn receive(&self, repository: &Path, more: &[&str]) -> Receiving {
        let stderr = self.secrets.path().join("receiver.log");
        let mut command = self.command(repository);
        command.arg("--token-file").arg(self.secrets.path().join("token")).args(more);
        command.stderr(fs::File::create(&stderr).unwrap());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on https://").expect(&line).trim().parse().unwrap();
        Receiving { child, stdout, stderr, address, repository: repository.to_owned() }
    }

    fn command(&self, repository: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsrep_sst_backup"));
        command.args(["--defaults-file", "/dev/null", "--repository"]).arg(repository);
        command.args(["receive", "--listen", "127.0.0.1:0", "--tls-cert"]).arg(&self.host.certificate);
        command.arg("--tls-key").arg(&self.host.key);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Lines of the donor's option file, by which the receiver is allowed and believed.
    fn options(&self) -> String {
        let (ca, token) = (self.authority.ca(), self.secrets.path().join("token"));
        format!(
            "[wsrep_sst_backup]\nallow-receiver = 127.0.0.0/8\nreceiver-ca = {}\nreceiver-token-file = {}\n",
            ca.display(),
            token.display()
        )
    }

    fn donor<'a>(&self, receiving: &Receiving) -> Donor<'a> {
        // There is no place to store it here.
        let donor = Donor::new().repository_at(&receiving.repository).set("REPOSITORY", "/nonexistent");
        donor.options(&self.options()).arg("--address", &format!("{}/nightly-7", receiving.address))
    }
}

impl Receiving {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until the archive of an upload grows, in a file that has no name.
    fn wait_for_upload(&self) {
        let unnamed = |path: &PathBuf| fs::read_link(path).is_ok_and(|target| target.starts_with(&self.repository));
        let open = || fs::read_dir(format!("/proc/{}/fd", self.pid())).into_iter().flatten().flatten();
        let file = |path: PathBuf| fs::metadata(path).ok().filter(fs::Metadata::is_file);
        let written = || -> u64 {
            open().map(|entry| entry.path()).filter(unnamed).filter_map(file).map(|file| file.len()).sum()
        };
        wait_until("an upload grows", || written() > 0);
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    fn end(mut self, signal: Signal) -> (ExitStatus, String) {
        self.signal(signal);
        let status = self.child.wait().unwrap();
        (status, fs::read_to_string(&self.stderr).unwrap())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // A stopped process dies of it too; one that has ended is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn backs_up(donor: Donor<'_>) -> Outcome {
    donor.on("flush tables", answer::flushed(GTID)).run().succeeds().wire(DIALOGUE)
}

/// Answers, and does `what` while the archive is on its way.
fn on_the_way<'a>(receiving: &'a Receiving, what: impl FnOnce(&mut Stage) + 'a) -> impl FnOnce(&mut Stage) + 'a {
    let waiting = |_: &mut Stage| receiving.wait_for_upload();
    answer::then(answer::flushed(GTID), answer::then(waiting, what))
}

/// Fails without a word about the secret, and before the server is asked.
fn is_refused(donor: Donor<'_>, errno: Errno, why: &str) {
    donor.run().fails(errno).wire([]).says(why).never_says(SECRET).published(0);
}

#[test]
fn a_backup_streams_to_the_host_that_asked() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let mut receiving = lab.receive(repository.path(), &[]);
    let outcome = backs_up(lab.donor(&receiving)).published(1);
    assert_eq!(outcome.label()["request"], "nightly-7");
    let id = outcome.label()["id"].as_str().unwrap().to_owned();
    outcome.says(&format!("complete in \"https://{}\"", receiving.address)).never_says(SECRET);
    let line = receiving.next_line();
    assert!(line.starts_with(&format!("backup {id} from 127.0.0.1: ")), "{line}");
    let verified = Command::new(env!("CARGO_BIN_EXE_wsrep_sst_backup"))
        .args(["--defaults-file", "/dev/null", "--repository"])
        .arg(repository.path())
        .args(["verify", "latest"])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let (status, stderr) = receiving.end(Signal::SIGTERM);
    assert!(status.success() && stderr.is_empty(), "{status} {stderr}");
}

#[test]
fn no_secret_is_in_any_output_argument_or_variable() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &[]);
    let look = |stage: &mut Stage| {
        for pid in [stage.running_program(), receiving.pid()] {
            for file in ["cmdline", "environ"] {
                let text = fs::read(format!("/proc/{pid}/{file}")).unwrap();
                assert!(!String::from_utf8_lossy(&text).contains(SECRET), "{file}");
            }
        }
    };
    let outcome = lab.donor(&receiving).on("flush tables", answer::then(look, answer::flushed(GTID))).run().succeeds();
    outcome.never_says(SECRET).published(1);
    for name in tree::list(repository.path()) {
        let content = fs::read(repository.path().join(&name)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&content).contains(SECRET), "{name}");
    }
    let (_, stderr) = receiving.end(Signal::SIGTERM);
    assert!(!stderr.contains(SECRET));
}

#[test]
fn a_receiver_that_is_not_allowed_is_refused_with_the_option() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &[]);
    let donor = |line: &str| lab.donor(&receiving).options(&format!("{}{line}\n", lab.options()));
    is_refused(donor("allow-receiver = none"), Errno::EPERM, "allow-receiver names no network");
    is_refused(donor("allow-receiver = 10.0.0.0/8, ::1"), Errno::EPERM, "in no network of allow-receiver");
    let port = receiving.address.port();
    // The name has an address that is not allowed, whatever others it has.
    let named = donor("allow-receiver = 10.0.0.0/8").arg("--address", &format!("localhost:{port}"));
    is_refused(named, Errno::EPERM, "in no network of allow-receiver");
}

#[test]
fn a_donor_that_does_not_show_the_token_is_refused() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &[]);
    let wrong = lab.token("wrong", "another-token-of-some-length");
    for shown in ["none", wrong.to_str().unwrap()] {
        let donor = lab.donor(&receiving).options(&format!("{}receiver-token-file = {shown}\n", lab.options()));
        is_refused(donor, Errno::EACCES, "answered 401");
    }
    fs::set_permissions(&wrong, PermissionsExt::from_mode(0o644)).unwrap();
    let donor = lab.donor(&receiving).options(&format!("{}receiver-token-file = {}\n", lab.options(), wrong.display()));
    is_refused(donor, Errno::EINVAL, "has mode 0644");
    let (_, stderr) = receiving.end(Signal::SIGTERM);
    assert!(stderr.contains("127.0.0.1 has shown no token") && !stderr.contains("another-token"), "{stderr}");
}

#[test]
fn a_receiver_that_cannot_prove_who_it_is_is_refused() {
    let (lab, other, repository) = (Lab::new(), Authority::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &[]);
    let donor = lab.donor(&receiving).options(&format!("{}receiver-ca = {}\n", lab.options(), other.ca().display()));
    is_refused(donor, Errno::EIO, "cannot speak TLS with the receiver");
}

#[test]
fn a_donor_without_the_certificate_that_is_asked_for_is_refused() {
    let (lab, clients, repository) = (Lab::new(), Authority::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &["--client-ca", clients.ca().to_str().unwrap()]);
    is_refused(lab.donor(&receiving), Errno::EIO, "alert");
    let own = clients.sign("donor");
    let lines = format!("receiver-cert = {}\nreceiver-key = {}\n", own.certificate.display(), own.key.display());
    backs_up(lab.donor(&receiving).options(&format!("{}{lines}", lab.options()))).published(1);
}

#[test]
fn nobody_listening_is_told_before_the_server_is_asked() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &[]);
    let donor = lab.donor(&receiving);
    receiving.end(Signal::SIGKILL);
    is_refused(donor, Errno::ECONNREFUSED, "cannot connect to the receiver");
}

#[test]
fn a_receiver_that_is_killed_half_way_keeps_nothing() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &[]);
    let kill = on_the_way(&receiving, |_| receiving.signal(Signal::SIGKILL));
    let donor = lab.donor(&receiving).datadir(tree::large());
    let outcome = donor.on("flush tables", kill).run();
    outcome.wire(["flush tables", "continue"]).says("to the receiver").never_says("[ERROR] stopped").published(0);
    drop(receiving);
    let again = lab.receive(repository.path(), &[]);
    backs_up(lab.donor(&again)).published(1);
}

#[test]
fn a_receiver_that_is_stopped_half_way_fails_the_run_in_time_and_serves_the_next() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &[]);
    let stop = on_the_way(&receiving, |_| receiving.signal(Signal::SIGSTOP));
    let options = format!("{}receiver-stall-timeout = 1s\n", lab.options());
    let donor = lab.donor(&receiving).datadir(tree::incompressible(64 << 20)).options(&options);
    let outcome = donor.on("flush tables", stop).run().fails(Errno::ETIMEDOUT);
    outcome.wire(["flush tables", "continue"]).says("stalls").says("receiver-stall-timeout").published(0);
    receiving.signal(Signal::SIGCONT);
    backs_up(lab.donor(&receiving)).published(1);
}

#[test]
fn a_receiver_that_is_told_to_end_keeps_nothing_of_an_upload() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &[]);
    let end = on_the_way(&receiving, |_| receiving.signal(Signal::SIGTERM));
    let donor = lab.donor(&receiving).datadir(tree::large());
    donor.on("flush tables", end).run().wire(["flush tables", "continue"]).says("to the receiver").published(0);
    let (status, _) = receiving.end(Signal::SIGTERM);
    assert!(status.success(), "{status}");
    assert_eq!(tree::list(repository.path()), [""; 0]);
}

#[test]
fn a_donor_that_dies_leaves_nothing_at_the_receiver() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &["--max-uploads", "1"]);
    let die = on_the_way(&receiving, answer::signal(Signal::SIGKILL));
    lab.donor(&receiving).datadir(tree::large()).on("flush tables", die).run_to_sudden_end();
    assert_eq!(tree::list(repository.path()), [""; 0]);
    backs_up(lab.donor(&receiving)).published(1);
}

#[test]
fn a_full_disk_of_the_receiver_fails_the_run_and_is_left_clean() {
    let (lab, disk) = (Lab::new(), SmallDisk::mount(1 << 20));
    let receiving = lab.receive(disk.path(), &[]);
    let donor = lab.donor(&receiving).datadir(tree::incompressible(8 << 20));
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().fails(Errno::ENOSPC);
    outcome.wire(["flush tables", "continue"]).says("answered 507").published(0);
    backs_up(lab.donor(&receiving)).published(1);
}

#[test]
fn a_receiver_without_room_is_named_before_the_server_is_asked() {
    let (lab, disk) = (Lab::new(), SmallDisk::mount(64 << 10));
    let receiving = lab.receive(disk.path(), &[]);
    let donor = lab.donor(&receiving).datadir(tree::incompressible(4 << 20));
    is_refused(donor, Errno::ENOSPC, "free for a backup of");
}

#[test]
fn a_second_upload_beyond_those_allowed_is_refused_before_the_server_is_asked() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let receiving = lab.receive(repository.path(), &["--max-uploads", "1"]);
    let second = |_: &mut Stage| {
        let refused = lab.donor(&receiving).run().fails(Errno::EBUSY).wire([]);
        refused.says("as many uploads as are allowed");
    };
    let donor = lab.donor(&receiving).on("flush tables", answer::then(second, answer::flushed(GTID)));
    donor.run().succeeds().published(1);
}

#[test]
fn a_receiver_for_one_backup_ends_with_it() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let mut receiving = lab.receive(repository.path(), &["--once"]);
    backs_up(lab.donor(&receiving)).published(1);
    assert!(receiving.child.wait().unwrap().success());
}

#[test]
fn an_open_door_is_not_opened_by_accident() {
    let (lab, repository) = (Lab::new(), tempfile::tempdir().unwrap());
    let open = lab.command(repository.path()).output().unwrap();
    assert_eq!(open.status.code(), Some(3), "{}", String::from_utf8_lossy(&open.stderr));
    assert!(String::from_utf8_lossy(&open.stderr).contains("--no-token"));
    let readable = lab.token("readable", SECRET);
    fs::set_permissions(&readable, PermissionsExt::from_mode(0o640)).unwrap();
    let refused = lab.command(repository.path()).arg("--token-file").arg(&readable).output().unwrap();
    assert_eq!(refused.status.code(), Some(3));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("has mode 0640") && !stderr.contains(SECRET), "{stderr}");
}
