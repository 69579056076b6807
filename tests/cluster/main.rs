//! The program on real servers: a Galera cluster on loopback, garbd, clients that write.
//!
//! `cargo test --test cluster` runs every test, `-- list` names them, `-- WORD …` runs those whose names hold a word,
//! `-- --root TREE [WORD …]` does so with the servers of another system (`tests/trixie` makes one),
//! `-- demo [--keep]` shows one backup and restore to a reader, `-- bench --data DIR` measures.
//! See `docs/testing.md`.
#![allow(clippy::disallowed_macros, reason = "a test program speaks on its own terminal")]
#![allow(unreachable_pub, reason = "a test program has no outside")]
#![allow(clippy::disallowed_methods, reason = "and waits for real servers by the real clock")]

mod bench;
mod bench_live;
mod cycle;
mod ddl;
mod death;
mod demo;
mod held;
mod killed;
mod lab;
mod naive;
mod places;
mod sources;
mod window;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use lab::system::System;
use lab::{After, Lab};

/// A test: a sentence about behaviour, and the code that proves it.
struct Test {
    name: &'static str,
    run: fn(&Lab),
}

/// Makes the table of a module's tests.
macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        const TESTS: &[Test] = &[$(Test { name: stringify!($name), run: $module::$name }),*];
    };
}

tests! {
    cycle::a_restored_node_joins_by_ist_under_writes,
    cycle::an_archive_unpacked_with_tar_joins_by_ist,
    cycle::two_nodes_make_backups_one_after_the_other,
    cycle::the_newest_binary_log_travels_with_a_right_index,
    cycle::a_damaged_archive_is_found_by_verify,
    window::writes_inside_the_window_never_spoil_what_is_read_there,
    window::writes_inside_the_window_never_spoil_what_was_read_before_it,
    window::writes_inside_the_window_never_spoil_clones_on_xfs,
    window::writes_inside_the_window_never_spoil_clones_on_btrfs,
    window::the_same_writes_inside_the_window_spoil_a_copy_that_does_not_settle,
    window::general_and_slow_logs_do_not_keep_a_run_from_settling,
    death::a_server_killed_in_the_window_leaves_no_backup_and_no_process,
    death::a_program_killed_in_the_window_leaves_a_working_donor,
    death::a_disk_that_fills_up_is_named_and_leaves_no_backup,
    death::a_window_past_its_limit_fails_the_run_and_lets_the_server_go,
    places::files_outside_the_datadir_are_restored_where_they_are_told_to,
    places::roots_on_several_file_systems_are_cloned_or_copied_each_by_itself,
    places::a_half_restored_mount_point_does_not_start,
    sources::clones_of_a_donor_on_xfs_and_btrfs_restore_to_a_node_that_joins_by_ist,
    sources::a_donor_on_ext4_is_copied_ahead_and_restores_to_a_node_that_joins_by_ist,
    sources::a_donor_on_xfs_is_copied_ahead_where_that_is_asked_for,
    sources::without_room_for_clones_files_are_copied_ahead_and_a_clone_that_takes_the_last_room_is_given_up,
    held::a_held_donor_is_synced_within_a_second_and_takes_writes_while_the_run_still_streams,
    held::a_server_that_ends_after_done_does_not_spoil_the_clone,
    killed::a_clone_killed_in_any_phase_leaves_nothing_on_xfs,
    killed::a_clone_killed_in_any_phase_leaves_nothing_on_btrfs,
    killed::a_precopy_killed_in_any_phase_leaves_nothing,
    ddl::tables_that_change_their_shape_during_precopy_passes_do_no_harm,
    ddl::tables_that_change_their_shape_up_to_the_flush_do_no_harm_to_a_clone,
}

fn main() -> ExitCode {
    let called = std::env::args_os().next().map(PathBuf::from);
    if called.is_some_and(|program| program.ends_with("wsrep_sst_backup")) {
        return naive::main();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            TESTS.iter().for_each(|test| println!("{}", test.name));
            ExitCode::SUCCESS
        }
        ["demo"] => when_possible(|| demo::show(false)),
        ["demo", "--keep"] => when_possible(|| demo::show(true)),
        ["bench", rest @ ..] => when_possible(|| bench::measure(rest)),
        ["--root", tree, filters @ ..] => match System::below(Path::new(tree)) {
            Ok(system) => when_possible(|| run_all(system, filters)),
            Err(cause) => {
                eprintln!("no servers can be run there: {cause}");
                ExitCode::FAILURE
            }
        },
        filters => when_possible(|| run_all(System::default(), filters)),
    }
}

/// Runs `act` if servers can be run here, and says what is missing if not.
fn when_possible(act: impl FnOnce() -> ExitCode) -> ExitCode {
    let lacks = lab::missing();
    if lacks.is_empty() {
        lab::process::clean_up_on_signals();
        return act();
    }
    lacks.iter().for_each(|lack| eprintln!("{lack}"));
    ExitCode::FAILURE
}

fn run_all(system: System, filters: &[&str]) -> ExitCode {
    let chosen: Vec<&Test> =
        TESTS.iter().filter(|test| filters.is_empty() || filters.iter().any(|word| test.name.contains(word))).collect();
    let after = if std::env::var_os("CLUSTER_KEEP").is_some() { After::Directory } else { After::Nothing };
    let lab = match Lab::with(system, after) {
        Ok(lab) => lab,
        Err(cause) => {
            eprintln!("cannot set up the lab: {cause}");
            return ExitCode::FAILURE;
        }
    };
    println!("\nrunning {} cluster tests in {}", chosen.len(), lab.dir.display());
    let mut failed = Vec::new();
    for test in &chosen {
        let started = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(|| (test.run)(&lab))).is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("test {} ... {verdict} ({:.1} s)", test.name, started.elapsed().as_secs_f64());
        if !passed {
            failed.push(test.name);
        }
    }
    failed.iter().for_each(|name| println!("failed: {name}"));
    let (passed, verdict) = (chosen.len() - failed.len(), if failed.is_empty() { "ok" } else { "FAILED" });
    // The form of the standard test runner, so that one reader can add up all suites.
    println!("\ntest result: {verdict}. {passed} passed; {} failed", failed.len());
    if failed.is_empty() && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
