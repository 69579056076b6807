//! Backups into a bucket of a real S3 server, and what becomes of the secrets on the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};

use crate::answer;
use crate::s3::{ACCESS_KEY, Fault, Proxy, SECRET_KEY, Seen, Server};
use crate::server::{DIALOGUE, Donor, GTID, Stage, wait_until};
use crate::tree;

const URL: &str = "s3://backups/galera";

/// A file that opens the server.
fn credentials(directory: &Path, mode: u32) -> PathBuf {
    let path = directory.join("credentials");
    fs::write(&path, format!("AWS_ACCESS_KEY_ID={ACCESS_KEY}\nAWS_SECRET_ACCESS_KEY={SECRET_KEY}\n")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path
}

fn variables(endpoint: &str, credentials: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("REPOSITORY", URL.to_owned()),
        ("ENDPOINT", endpoint.to_owned()),
        ("ALLOW_HTTP", "yes".to_owned()),
        ("CREDENTIALS_FILE", credentials.to_str().unwrap().to_owned()),
        ("PART_SIZE", "5M".to_owned()),
        ("RETRIES", "2".to_owned()),
    ]
}

fn donor<'a>(endpoint: &str, credentials: &Path) -> Donor<'a> {
    let set = |donor: Donor<'a>, (name, value): (&str, String)| donor.set(name, &value);
    variables(endpoint, credentials).into_iter().fold(Donor::new(), set)
}

fn operator(endpoint: &str, credentials: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsrep_sst_backup"));
    command.env_clear().args(["--defaults-file", "/dev/null"]).args(args);
    for (name, value) in variables(endpoint, credentials) {
        command.env(format!("WSREP_SST_BACKUP_{name}"), value);
    }
    command.output().unwrap()
}

#[track_caller]
fn assert_no_secret(bytes: &[u8], place: &str) {
    let found = bytes.windows(SECRET_KEY.len()).any(|part| part == SECRET_KEY.as_bytes());
    assert!(!found, "the secret is in {place}");
}

#[test]
fn a_backup_goes_into_a_bucket_and_comes_back_and_the_secret_is_nowhere() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    let credentials = credentials(directory.path(), 0o600);
    let datadir = tree::incompressible(12 << 20);
    let look = |stage: &mut Stage| {
        let program = stage.running_program();
        for name in ["cmdline", "environ"] {
            assert_no_secret(&fs::read(format!("/proc/{program}/{name}")).unwrap(), name);
        }
    };
    let donor = donor(&server.endpoint(), &credentials).datadir_at(datadir.path());
    let outcome = donor.on("flush tables", answer::then(look, answer::flushed(GTID))).run();
    assert_no_secret(outcome.stderr.as_bytes(), "the log");
    outcome.succeeds().wire(DIALOGUE).says("complete in \"s3://backups/galera\"").published(0);

    let names = server.everything();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in &names {
        assert!(name.starts_with("galera/"), "{name}");
        assert_no_secret(&fs::read(server.bucket().join(name)).unwrap(), name);
    }
    let target = directory.path().join("data");
    let ran = |args: &[&str]| {
        let output = operator(&server.endpoint(), &credentials, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        [output.stdout, output.stderr].iter().for_each(|text| assert_no_secret(text, "the output"));
    };
    ran(&["list", "--json"]);
    ran(&["show", "latest"]);
    ran(&["verify", "latest"]);
    ran(&["restore", "latest", "--standalone", "--target", target.to_str().unwrap()]);
    let noise = "shop/noise.MYD";
    assert!(fs::read(target.join(noise)).unwrap() == fs::read(datadir.path().join(noise)).unwrap());
}

#[test]
fn a_credentials_file_that_others_may_read_is_refused_before_the_server_is_asked() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    let outcome = donor(&server.endpoint(), &credentials(directory.path(), 0o644)).run();
    assert_no_secret(outcome.stderr.as_bytes(), "the log");
    outcome.fails(Errno::EINVAL).wire([]).says("mode 0644");
}

#[test]
fn a_bucket_that_is_out_of_reach_is_named_before_the_server_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let credentials = credentials(directory.path(), 0o600);
    let outcome = donor(&format!("http://127.0.0.1:{port}"), &credentials).run();
    outcome.fails(Errno::ECONNREFUSED).wire([]).says(URL);
}

#[test]
fn an_address_chooses_a_bucket_by_its_name() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    let credentials = credentials(directory.path(), 0o400);
    let lines = format!(
        "[wsrep_sst_backup]\ndestination.offsite=s3://backups/far\nendpoint={}\nallow-http=yes\ncredentials-file={}\n",
        server.endpoint(),
        credentials.display()
    );
    let donor = Donor::new().options(&lines).arg("--address", "offsite/r1");
    donor.on("flush tables", answer::flushed(GTID)).run().succeeds().wire(DIALOGUE).published(0);
    assert!(server.everything().iter().all(|name| name.starts_with("far/")) && server.everything().len() == 3);
}

#[test]
fn a_directory_and_a_bucket_take_the_same_backup() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    let credentials = credentials(directory.path(), 0o600);
    let donor = donor(&server.endpoint(), &credentials).datadir(tree::incompressible(12 << 20));
    let local = donor.repository_path();
    let donor = donor.set("REPOSITORY", &format!("{URL},{}", local.display()));
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().wire(DIALOGUE).published(1);
    let names = server.everything();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in &names {
        let here = local.join(name.strip_prefix("galera/").unwrap());
        assert!(fs::read(server.bucket().join(name)).unwrap() == fs::read(here).unwrap(), "{name} differs");
    }
    drop(outcome);
}

#[test]
fn a_bucket_that_fails_takes_the_directory_with_it_unless_any_will_do() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    let credentials = credentials(directory.path(), 0o600);
    for (policy, backups) in [("all", 0), ("any", 1)] {
        let proxy = Proxy::before(&server);
        proxy.faults(|seen: &Seen| seen.is_put_of("backup.json").then_some(Fault::Status(403, "AccessDenied")));
        let donor = donor(&proxy.endpoint(), &credentials);
        let local = donor.repository_path();
        let donor = donor.set("REPOSITORY", &format!("{},{URL}", local.display())).set("REPOSITORY_POLICY", policy);
        let outcome = donor.run_to_any_end(answer::flushed(GTID));
        let outcome = outcome.published(backups);
        if policy == "any" {
            outcome.succeeds().wire(DIALOGUE).says(&format!("\"{URL}\" does not hold the backup"));
        } else {
            let _outcome = outcome.wire(["flush tables", "continue"]).says("[ERROR]");
            assert_eq!(tree::list(&local), [""; 0], "the directory's backup is taken back");
        }
        assert!(!server.everything().iter().any(|name| name.ends_with("backup.json")));
    }
}

#[test]
fn a_server_that_goes_away_during_an_upload_leaves_nothing_in_the_bucket() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    let proxy = Proxy::before(&server);
    let (tell, told) = std::sync::mpsc::channel();
    proxy.faults(move |seen: &Seen| {
        seen.is_part().then(|| {
            let _ = tell.send(());
            Fault::Stall
        })
    });
    let stop = move |stage: &mut Stage| {
        let program = stage.running_program();
        std::thread::spawn(move || {
            told.recv().unwrap();
            kill(program, Signal::SIGTERM).unwrap();
        });
    };
    let donor = donor(&proxy.endpoint(), &credentials(directory.path(), 0o600)).datadir(tree::incompressible(20 << 20));
    let outcome = donor.on("flush tables", answer::then(stop, answer::flushed(GTID))).run();
    outcome.fails(Errno::EINTR);
    wait_until("nothing is left", || server.everything().is_empty());
}
