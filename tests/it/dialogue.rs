//! How the server may answer `flush tables`.

use nix::errno::Errno;

use crate::answer;
use crate::outcome::Outcome;
use crate::server::{Donor, GTID, Stage};

const UUID: &str = "6d3f9a04-1234-11ef-8000-0242ac120002";

/// A run whose window is never opened, or not opened as it should be.
#[track_caller]
fn fails_frozen(action: impl FnOnce(&mut Stage), errno: Errno, text: &str) -> Outcome {
    let donor = Donor::new().set("FLUSH_TIMEOUT", "300ms").on("flush tables", action);
    donor.run().fails(errno).wire(["flush tables"]).says(text).published(0)
}

#[test]
fn an_error_of_the_server_ends_without_done() {
    fails_frozen(answer::sst_error, Errno::ECONNABORTED, "could not flush and lock its tables");
}

#[test]
fn no_answer_ends_at_the_deadline() {
    fails_frozen(|_| (), Errno::ETIMEDOUT, "did not answer `flush tables` within flush-timeout");
}

#[test]
fn an_answer_that_is_never_finished_ends_at_the_deadline() {
    fails_frozen(answer::content(GTID), Errno::ETIMEDOUT, "did not answer");
}

#[test]
fn a_malformed_answer_is_shown_and_refused() {
    for text in ["nonsense\n", "\n", &format!("{UUID}:-1\n"), &format!("{UUID}:1\u{1b}[2J\n"), &"x".repeat(2000)] {
        fails_frozen(answer::content(text), Errno::EPROTO, "is malformed");
    }
}

#[test]
fn an_answer_older_than_the_request_or_of_another_cluster_is_refused() {
    for text in [format!("{UUID}:24731 0\n"), format!("7{}:24755 0\n", &UUID[1..])] {
        fails_frozen(answer::content(&text), Errno::EPROTO, "stale or foreign");
    }
}

#[test]
fn an_answer_that_grastate_contradicts_is_refused() {
    let contradict = |stage: &mut Stage| {
        answer::save_position(stage, &format!("{UUID}:24756"));
        answer::content(&format!("{GTID} 0\n"))(stage);
    };
    let donor = Donor::new().on("flush tables", contradict);
    donor.run().fails(Errno::EPROTO).wire(["flush tables"]).published(0);
}

#[test]
fn a_stale_answer_from_before_is_not_believed() {
    let donor = Donor::new();
    for name in ["tables_flushed", "tables_flushed.tmp", "sst_error"] {
        std::fs::write(donor.datadir_path().join(name), format!("{UUID}:99999 0\n")).unwrap();
    }
    let outcome = donor.on("flush tables", answer::flushed(GTID)).run().succeeds().published(1);
    outcome.wire(["flush tables", "continue", &format!("done {GTID} 0")]);
}

#[test]
fn an_answer_written_twice_is_one_answer() {
    let outcome = Donor::new().on("flush tables", answer::flushed_twice(GTID)).run().succeeds().published(1);
    outcome.wire(["flush tables", "continue", &format!("done {GTID} 0")]);
}

#[test]
fn an_answer_that_comes_in_parts_is_read_when_it_is_whole() {
    let outcome = Donor::new().on("flush tables", answer::in_parts(GTID)).run().succeeds().published(1);
    outcome.wire(["flush tables", "continue", &format!("done {GTID} 0")]);
}

#[test]
fn answers_of_percona_and_codership_are_understood() {
    let percona = Donor::new().on("flush tables", answer::content(&format!("{GTID}\n"))).run().succeeds().published(1);
    percona.wire(["flush tables", "continue", &format!("done {GTID}")]);
    let text = format!("{GTID} {UUID}:12 1");
    let codership =
        Donor::new().on("flush tables", answer::content(&format!("{text}\n"))).run().succeeds().published(1);
    codership.wire(["flush tables", "continue", &format!("done {text}")]);
}

#[test]
fn an_answer_that_changes_in_the_window_is_a_failure() {
    let change = |stage: &mut Stage| {
        answer::flushed(GTID)(stage);
        stage.wait_for_copying();
        answer::content(&format!("{UUID}:24756 0\n"))(stage);
        // The copy of the large table would take for ever: let it be short now.
        let large = std::fs::File::options().write(true).open(stage.datadir.join("shop/large.MYD")).unwrap();
        large.set_len(0).unwrap();
    };
    let donor = Donor::new().datadir(crate::tree::large()).on("flush tables", change);
    donor.run().fails(Errno::EPROTO).wire(["flush tables", "continue"]).published(0);
}
