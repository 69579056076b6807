//! What servers and hostile requests put on the command line and into the configuration.

use nix::errno::Errno;

use crate::answer;
use crate::outcome::Outcome;
use crate::server::{ASKED, Donor, GTID};
use crate::tree;

/// The whole dialogue of a backup.
fn dialogue() -> [String; 3] {
    ["flush tables".to_owned(), "continue".to_owned(), format!("done {GTID} 0")]
}

#[track_caller]
fn is_a_backup(outcome: Outcome) -> Outcome {
    outcome.succeeds().wire(dialogue().iter().map(String::as_str)).published(1)
}

/// A run that is refused before the server is asked for anything.
#[track_caller]
fn is_refused(donor: Donor<'_>, errno: Errno, text: &str) {
    donor.run().fails(errno).wire([]).says(text).published(0);
}

#[test]
fn a_backup_is_made_and_its_label_tells_the_exact_position() {
    let outcome = is_a_backup(Donor::new().on("flush tables", answer::flushed(GTID)).run());
    assert_eq!(outcome.label()["gtid"], GTID);
    assert_eq!(outcome.label()["gtid_domain"], 0);
}

#[test]
fn command_lines_of_every_server_family_are_understood() {
    let backup = |donor: Donor<'_>| is_a_backup(donor.on("flush tables", answer::flushed(GTID)).run());
    let mariadb_10_4 = Donor::new().without("--progress").without("--local-port");
    backup(mariadb_10_4.more(&["--mysqld-args", "--datadir=/elsewhere", "--role", "joiner", "--bypass"]));
    let codership_57 = Donor::new().without("--progress").without("--gtid-domain-id");
    backup(codership_57.more(&["--defaults-group-suffix", "", "", ""]));
    let codership_80 = Donor::new().without("--progress").without("--gtid-domain-id");
    backup(codership_80.more(&[
        "--mysqld-version",
        "8.0.36",
        "--plugin-dir",
        "/p",
        "",
        "",
        "--local-gtid",
        ASKED,
        "--server-id",
        "1",
    ]));
    let percona_80 = Donor::new().without("--progress").without("--gtid-domain-id").without("--local-port");
    backup(percona_80.more(&[
        "--basedir",
        "/usr",
        "--plugindir",
        "/p",
        "--mysqld-version",
        "8.0.36",
        "",
        "--debug",
        "d:t",
    ]));
}

#[test]
fn progress_is_told_only_to_a_server_that_understands_it() {
    is_a_backup(Donor::new().arg("--progress", "1").on("flush tables", answer::flushed(GTID)).run());
    let outcome = is_a_backup(Donor::new().without("--progress").on("flush tables", answer::flushed(GTID)).run());
    assert_eq!(outcome.wire.len(), 3);
}

#[test]
fn an_unknown_role_and_a_joiner_are_refused() {
    is_refused(Donor::new().arg("--role", "arbiter"), Errno::EINVAL, "no role \"arbiter\"");
    is_refused(Donor::new().arg("--role", ""), Errno::EINVAL, "--role is missing");
    is_refused(Donor::new().arg("--role", "joiner"), Errno::EPERM, "a joiner receives nothing");
}

#[test]
fn without_a_datadir_or_a_position_there_is_no_backup() {
    is_refused(Donor::new().without("--datadir"), Errno::EINVAL, "--datadir is missing");
    is_refused(Donor::new().without("--gtid"), Errno::EINVAL, "--gtid is missing");
}

#[test]
fn a_malformed_position_is_refused() {
    for gtid in
        ["nonsense", ASKED.split(':').next().unwrap(), "6d3f9a04-1234-11ef-8000-0242ac120002:-1", &"9".repeat(10_000)]
    {
        is_refused(Donor::new().arg("--gtid", gtid), Errno::EINVAL, "is not a Galera GTID");
    }
}

#[test]
fn a_datadir_that_is_absent_or_a_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    is_refused(Donor::new().datadir_at(&absent), Errno::ENOENT, absent.to_str().unwrap());
    std::fs::write(&absent, "").unwrap();
    is_refused(Donor::new().datadir_at(&absent), Errno::ENOTDIR, absent.to_str().unwrap());
}

#[test]
fn a_datadir_that_cannot_be_read_is_named() {
    let datadir = tree::small();
    let donor = Donor::new().datadir_at(datadir.path()).bound_by_modes();
    std::fs::set_permissions(datadir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o300)).unwrap();
    is_refused(donor, Errno::EACCES, datadir.path().to_str().unwrap());
}

#[test]
fn a_hostile_address_is_refused_and_shown_short() {
    for address in
        ["..", "../../etc", "a/../b", "/etc/passwd/x", "a;id", "$(id)", "a b", "`id`", "a\nWSREP_SST: [INFO] forged"]
    {
        is_refused(Donor::new().arg("--address", address), Errno::EPERM, "the SST address");
    }
    is_refused(Donor::new().arg("--address", "10.0.0.1:4444/x"), Errno::EPERM, "allow-receiver names no network");
    let outcome = Donor::new().arg("--address", &"x".repeat(10_000)).run().fails(Errno::EPERM).wire([]).published(0);
    assert!(outcome.stderr.lines().all(|line| line.len() < 500), "{}", outcome.stderr);
}

#[test]
fn an_address_chooses_a_destination_and_names_the_request() {
    let far = tempfile::tempdir().unwrap();
    let options = format!("[wsrep_sst_backup]\ndestination.far = {}\n", far.path().display());
    let donor = Donor::new().options(&options).arg("--address", "far/nightly-7");
    let donor = donor.set("REPOSITORY", "/nonexistent/repository").repository_at(far.path());
    let outcome = is_a_backup(donor.on("flush tables", answer::flushed(GTID)).run());
    assert_eq!(outcome.label()["request"], "nightly-7");
    is_refused(
        Donor::new().options(&options).arg("--address", "near"),
        Errno::EINVAL,
        "there is no destination \"near\"",
    );
}

#[test]
fn an_unknown_option_is_refused_with_the_nearest_known_one() {
    let options = "[wsrep_sst_backup]\nfrozen-limt = 1h\n";
    Donor::new()
        .options(options)
        .run()
        .fails(Errno::EINVAL)
        .wire([])
        .says("frozen-limt")
        .says("did you mean `frozen-limit`")
        .published(0);
    is_refused(Donor::new().set("WORKER", "1"), Errno::EINVAL, "WSREP_SST_BACKUP_WORKER");
    is_refused(Donor::new().set("WORKERS", "many"), Errno::EINVAL, "a number from 1 to 256");
}

#[test]
fn credentials_on_stdin_are_read_and_never_shown() {
    let donor = Donor::new().stdin("sst_user=wsrep.sst.1\nsst_password=yx9!A-hunter2\n");
    is_a_backup(donor.on("flush tables", answer::flushed(GTID)).run()).never_says("hunter2");
}

#[test]
fn descriptors_that_the_server_leaks_are_closed() {
    let leaked = tempfile::NamedTempFile::new().unwrap();
    let path = leaked.path().to_str().unwrap().to_owned();
    let leak = format!("exec 7<\"{path}\" 8>&1; \"$0\" \"$@\"; exit $?");
    let look = |stage: &mut crate::server::Stage| {
        let open = std::fs::read_dir(format!("/proc/{}/fd", stage.running_program())).unwrap();
        let targets: Vec<_> =
            open.flatten().map(|entry| (entry.file_name(), std::fs::read_link(entry.path()).unwrap())).collect();
        assert!(!targets.iter().any(|(_, target)| target == leaked.path()), "{targets:?}");
        let stdout = std::fs::read_link(format!("/proc/{}/fd/1", stage.running_program())).unwrap();
        assert_eq!(targets.iter().filter(|(_, target)| *target == stdout).count(), 1, "{targets:?}");
    };
    // The wrapper is one more shell below which the server runs, so that all of it inherits the descriptors.
    let donor = Donor::new().below(&["/bin/sh", "-c", &leak]);
    is_a_backup(donor.on("flush tables", answer::then(look, answer::flushed(GTID))).run());
}

#[test]
fn a_bypass_makes_no_backup() {
    let outcome = Donor::new().more(&["--bypass"]).run().succeeds().published(0);
    outcome.wire(["continue", &format!("done {ASKED} 0")]);
}
