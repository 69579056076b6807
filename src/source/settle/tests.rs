//! Settling against a model of a server and its file system, in which anything can happen between any two looks.

mod model;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use model::{Copies, Files as ModelFiles, Op, World, rules};

/// Runs a schedule: each operation happens so many looks after the one before it.
fn run(world: &World, deferred: bool, rules: &Rules) -> (Result<Settled>, BTreeMap<Key, Vec<u8>>) {
    run_ahead(world, deferred, rules, 0)
}

/// The same with so many passes before the window.
fn run_ahead(world: &World, deferred: bool, rules: &Rules, ahead: u32) -> (Result<Settled>, BTreeMap<Key, Vec<u8>>) {
    let mut held = Copies::new(world.clone(), deferred);
    let (mut files, cancel) = (ModelFiles(world.clone()), Cancel::default());
    let mut settling = Settling::new(&mut held, rules, &cancel);
    for _ in 0..ahead {
        let worth =
            |found: &Found, _, _: &dyn Held| if found.class == FileClass::Redo { Worth::Never } else { Worth::Now };
        settling.copy_ahead(&mut files, &worth).unwrap();
    }
    world.freeze();
    let settled = settling.settle(&mut files);
    (settled, held.copies)
}

fn settled(schedule: &[(u32, Op)]) -> (Settled, BTreeMap<Key, Vec<u8>>, World) {
    let world = World::new(schedule, 10_000);
    let (outcome, copies) = run(&world, true, &rules());
    let outcome = outcome.unwrap();
    world.check(&outcome, &copies);
    (outcome, copies, world)
}

fn key(path: &str) -> Key {
    (0, crate::relpath::RelPath::new(path).unwrap())
}

fn operation() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..3u8, 0..3u8).prop_map(|(file, page)| Op::Change { file, page }),
        2 => (0..3u8).prop_map(|file| Op::Flush { file }),
        1 => Just(Op::Checkpoint),
        2 => (0..3u8, any::<u8>()).prop_map(|(at, byte)| Op::Write { at, byte }),
        1 => Just(Op::Grow),
        1 => Just(Op::Shrink),
        1 => (0..2u8).prop_map(|name| Op::Create { name }),
        1 => (0..2u8).prop_map(|name| Op::Delete { name }),
        1 => Just(Op::Replace),
        1 => Just(Op::Log),
        1 => Just(Op::EmptyLog),
        1 => Just(Op::HideTheTime),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_server_does_the_copies_show_one_instant_or_the_run_fails(
        schedule in prop::collection::vec((0..45u32, operation()), 0..40),
        deferred in any::<bool>(),
        step_ns in prop_oneof![Just(1_000u64), Just(100_000), Just(1_500_000)],
        max_passes in prop_oneof![1 => 2..6u32, 3 => Just(40)],
        redo_prefix in any::<bool>(),
        ahead in 0..3u32,
    ) {
        let world = World::new(&schedule, step_ns);
        let (outcome, copies) = run_ahead(&world, deferred, &Rules { max_passes, redo_prefix, ..rules() }, ahead);
        match outcome {
            Ok(settled) => world.check(&settled, &copies),
            Err(error) => {
                prop_assert_eq!(error.class(), Class::Unsettled);
                prop_assert!(max_passes < 40, "40 operations cannot keep 40 passes busy: {}", error);
            }
        }
    }
}

#[test]
fn quiet_files_are_copied_once_and_proved_in_the_second_pass() {
    let (settled, copies, _) = settled(&[]);
    assert_eq!((settled.passes, settled.copied_again_bytes), (2, 0));
    assert_eq!(settled.copied_bytes, settled.inventory.total_bytes());
    assert_eq!(settled.exempt, [key("mysql/general_log.CSV")]);
    assert!(settled.grown.is_empty());
    let files = settled.inventory.files.iter().filter(|found| found.kind == EntryKind::File);
    assert_eq!(files.count(), copies.len());
}

#[test]
fn what_was_copied_ahead_and_stands_still_is_not_copied_again() {
    let world = World::new(&[], 10_000);
    let (outcome, copies) = run_ahead(&world, true, &rules(), 1);
    let outcome = outcome.unwrap();
    world.check(&outcome, &copies);
    assert_eq!((outcome.passes, outcome.copied_again_bytes), (2, 0));
}

#[test]
fn what_changes_between_the_pass_ahead_and_the_window_is_copied_again() {
    for later in 0..30 {
        let world = World::new(&[(later, Op::Write { at: 0, byte: 7 }), (0, Op::Replace)], 10_000);
        let (outcome, copies) = run_ahead(&world, true, &rules(), 1);
        world.check(&outcome.unwrap(), &copies);
        assert_eq!(copies[&key("db/t.MYD")][0], 7);
    }
}

#[test]
fn a_rollback_while_the_first_pass_copies_is_copied_again() {
    // Looks 1 to 12 are the first survey; the redo log is read after everything else.
    let (settled, ..) = settled(&[(14, Op::Change { file: 1, page: 0 }), (0, Op::Flush { file: 1 })]);
    assert!(settled.passes > 2);
    assert!(settled.copied_again_bytes > 0);
}

#[test]
fn a_change_of_equal_size_in_the_tick_of_the_copy_is_seen() {
    // Time stands still but for the wait before the copy: without that wait nothing shows the second write.
    let world = World::new(&[(5, Op::Write { at: 0, byte: 1 }), (16, Op::Write { at: 0, byte: 2 })], 1);
    let (outcome, copies) = run(&world, false, &rules());
    let outcome = outcome.unwrap();
    world.check(&outcome, &copies);
    assert_eq!(copies[&key("db/t.MYD")][0], 2);
}

#[test]
fn a_log_that_only_grows_is_settled_with_its_last_copy() {
    let busy: Vec<(u32, Op)> = (0..7).map(|_| (9, Op::Change { file: 0, page: 1 })).collect();
    let (settled, ..) = settled(&busy);
    assert_eq!(settled.grown, [key("ib_logfile0")]);
    assert_eq!(settled.passes, 2);
}

#[test]
fn a_log_that_grew_is_not_settled_where_the_rule_is_off() {
    let busy: Vec<(u32, Op)> = (0..7).map(|_| (9, Op::Change { file: 0, page: 1 })).collect();
    let world = World::new(&busy, 10_000);
    let (outcome, copies) = run(&world, true, &Rules { redo_prefix: false, ..rules() });
    let outcome = outcome.unwrap();
    world.check(&outcome, &copies);
    assert!(outcome.grown.is_empty() && outcome.passes > 2);
}

#[test]
fn a_checkpoint_after_the_copy_of_the_log_is_not_settled() {
    let schedule = [
        (1, Op::Change { file: 2, page: 0 }),
        (0, Op::Flush { file: 2 }),
        (30, Op::Checkpoint), // after the first pass has copied
    ];
    let (settled, copies, _) = settled(&schedule);
    assert!(settled.grown.is_empty());
    assert_eq!(copies[&key("ib_logfile0")][0], 1, "the copied head names the checkpoint");
}

#[test]
fn endless_change_fails_and_names_the_file() {
    let busy: Vec<(u32, Op)> = (0..2000).map(|n| (5, Op::Write { at: 0, byte: n as u8 })).collect();
    let (outcome, _) = run(&World::new(&busy, 10_000), true, &Rules { max_passes: 12, ..rules() });
    let error = outcome.unwrap_err();
    assert_eq!(error.class(), Class::Unsettled);
    assert!(error.to_string().contains("in 12 passes") && error.to_string().contains("\"db/t.MYD\""), "{error}");
    assert!(!error.to_string().contains("a.ibd"), "{error}");
}

#[test]
fn a_log_table_that_is_written_all_the_time_does_not_keep_the_run_from_settling() {
    let busy: Vec<(u32, Op)> = (0..500).map(|_| (1, Op::Log)).collect();
    let (settled, copies, _) = settled(&busy);
    assert_eq!(settled.passes, 2);
    let log = settled.inventory.files.iter().find(|found| found.class == FileClass::LogTable).unwrap();
    assert_eq!(copies[&key("mysql/general_log.CSV")].len() as u64, log.print.size);
}

#[test]
fn a_stopped_run_copies_nothing_more() {
    let cancel = Cancel::default();
    cancel.raise(crate::cancel::Reason::ServerGone);
    let world = World::new(&[], 10_000);
    let mut held = Copies::new(world.clone(), true);
    let error = settle(&mut ModelFiles(world), &mut held, &rules(), &cancel).unwrap_err();
    assert_eq!(error.class(), Class::Server);
    assert!(held.copies.is_empty());
}

#[test]
fn an_error_names_ten_files_and_counts_the_rest() {
    let names: Vec<String> = (0..13).map(|n| format!("db/t{n}.ibd")).collect();
    let text = unsettled(5, &names).to_string();
    assert!(text.contains("\"db/t9.ibd\" and 3 more") && !text.contains("t10"), "{text}");
}

#[test]
fn a_table_that_exists_only_between_two_listings_is_noticed_by_its_directory() {
    // The copies below show the time at which the table existed, if its coming and going is overlooked.
    // The directory's stamp is an old one, or one of the same tick.
    for (first, later) in (0..60).flat_map(|later| [(Op::Log, later), (Op::Delete { name: 0 }, later)]) {
        settled(&[
            (0, first),
            (6, Op::Create { name: 1 }), // just after the first listing of the directory
            (0, Op::Write { at: 0, byte: 3 }),
            (later, Op::Change { file: 0, page: 0 }),
            (0, Op::Flush { file: 0 }),
            (0, Op::Delete { name: 1 }),
        ]);
    }
}

#[test]
fn a_log_table_that_is_emptied_meanwhile_is_copied_as_it_is() {
    for later in 0..60 {
        let (_, copies, _) = settled(&[(later, Op::EmptyLog), (0, Op::Log)]);
        assert!(!copies[&key("mysql/general_log.CSV")].contains(&0), "no row is made up: {later}");
    }
}
