//! What the server does at a line: above all, how it answers `flush tables`.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};

use crate::server::{Stage, wait_until};

/// MariaDB's answer, and the position in `grastate.dat` beside it.
pub fn flushed(gtid: &str) -> impl FnOnce(&mut Stage) + '_ {
    move |stage| {
        save_position(stage, gtid);
        publish(&stage.datadir, &format!("{gtid} 0\n"));
    }
}

/// As MariaDB really does it: once with an empty line more, then again by rename.
pub fn flushed_twice(gtid: &str) -> impl FnOnce(&mut Stage) + '_ {
    move |stage| {
        save_position(stage, gtid);
        publish(&stage.datadir, &format!("{gtid} 0\n\n"));
        publish(&stage.datadir, &format!("{gtid} 0\n"));
    }
}

/// This content, whatever it is.
pub fn content(text: &str) -> impl FnOnce(&mut Stage) + '_ {
    move |stage| publish(&stage.datadir, text)
}

/// The server could not do it.
pub fn sst_error(stage: &mut Stage) {
    fs::write(stage.datadir.join("sst_error"), "").unwrap();
}

/// The answer comes in two parts, as a file system may show it.
pub fn in_parts(gtid: &str) -> impl FnOnce(&mut Stage) + '_ {
    move |stage| {
        let (first, second) = gtid.split_at(40);
        fs::write(stage.datadir.join("tables_flushed"), first).unwrap();
        // The program sleeps between two looks: after some of them it has seen the first part.
        let sleeps = || -> u64 {
            let status = fs::read_to_string(format!("/proc/{}/status", stage.running_program())).unwrap();
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            count.unwrap().trim().parse().unwrap()
        };
        let before = sleeps();
        wait_until("the program polls", || sleeps() > before + 3);
        fs::write(stage.datadir.join("tables_flushed"), format!("{first}{second} 0\n")).unwrap();
    }
}

/// A signal to the program, unless it has ended already.
pub fn signal(signal: Signal) -> impl FnOnce(&mut Stage) {
    move |stage| {
        if let Some(program) = stage.program() {
            // It may end just now.
            let _ = kill(program, signal);
        }
    }
}

/// One action after the other.
pub fn then(first: impl FnOnce(&mut Stage), second: impl FnOnce(&mut Stage)) -> impl FnOnce(&mut Stage) {
    move |stage| {
        first(stage);
        second(stage);
    }
}

fn publish(datadir: &Path, text: &str) {
    let temporary = datadir.join("tables_flushed.tmp");
    fs::write(&temporary, text).unwrap();
    fs::rename(&temporary, datadir.join("tables_flushed")).unwrap();
}

/// What Galera does when the provider is paused.
pub fn save_position(stage: &Stage, gtid: &str) {
    let text = wsrep_sst_backup::wsrep::grastate::render(gtid.parse().unwrap(), false);
    fs::write(stage.datadir.join("grastate.dat"), text).unwrap();
}
