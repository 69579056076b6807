use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::binlog::{BinlogFiles, Binlogs};
use super::*;

fn top() -> Place {
    let everything = [Roles::DATADIR, WHOLE, Roles::DATA_HOME, Roles::REDO, Roles::UNDO, Roles::ARIA];
    let roles = everything.into_iter().fold(Roles::DOUBLEWRITE, Roles::and);
    let system = vec![("ibdata1".into(), Named::System), ("ibtmp1".into(), Named::Temporary)];
    Place { roles, named: system, relay_base: Some("node2-relay".into()), ..Place::default() }
}

fn database(name: &str) -> Place {
    Place { roles: top().roles_below(OsStr::new(name)), ..Place::default() }
}

fn of(place: &Place, name: &str) -> Verdict {
    classify(place, OsStr::new(name), EntryKind::File)
}

fn kept(place: &Place, name: &str) -> Option<FileClass> {
    match of(place, name) {
        Verdict::Keep(class, _) => Some(class),
        _ => None,
    }
}

fn assert_left(place: &Place, names: &[&str]) {
    for name in names {
        assert!(matches!(of(place, name), Verdict::Leave(_)), "{name}: {:?}", of(place, name));
    }
}

fn assert_kept(place: &Place, names: &[&str], class: FileClass) {
    for name in names {
        assert_eq!(kept(place, name), Some(class), "{name}");
    }
}

#[test]
fn what_identifies_or_belongs_to_the_running_node_is_left_out() {
    assert_left(&top(), &["galera.cache", "gcache.page.000001", "gvwstate.dat", "gvwstate.dat.tmp", "grastate.dat"]);
    assert_left(&top(), &["auto.cnf", "server-key.pem", "tables_flushed", "tables_flushed.tmp", "sst_error"]);
    assert_left(&top(), &["sst_in_progress", "wsrep_sst.pid", "backup_sst_complete", "rsync_sst_complete"]);
    assert_left(&top(), &["mysqld.pid", "mysql.sock", "mysql.sock.lock", "node2.err", "node2.log", "node2-slow.log"]);
    assert_left(&top(), &["core", "core.1234", "GRA_1_22_v2.log", "ib_buffer_pool.incomplete", "innodb_status.16683"]);
    assert_left(&top(), &["ibtmp1", "ibtmp2", ".wsrep_sst_backup.partial"]);
}

#[test]
fn directories_that_are_not_the_servers_are_left_out() {
    for name in ["lost+found", ".zfs", ".snapshot", "#innodb_temp", ".sst", ".wsrep_sst_backup"] {
        let verdict = classify(&top(), OsStr::new(name), EntryKind::Directory);
        assert!(matches!(verdict, Verdict::Leave(_)), "{name}: {verdict:?}");
    }
    let verdict = classify(&top(), OsStr::new("shop"), EntryKind::Directory);
    assert_eq!(verdict, Verdict::Keep(Directory, "a directory"));
}

#[test]
fn a_replicas_position_is_left_out() {
    assert_left(&top(), &["master.info", "multi-master.info", "master-eu.info", "relay-log.info", "relay-log-eu.info"]);
    assert_left(&top(), &["node2-relay.000001", "node2-relay-eu.000007", "node2-relay.index"]);
    assert_left(&top(), &["otherhost-relay-bin.000001", "otherhost-relay-bin.index"]);
    assert_kept(&top(), &["node2-relayed", "node2-relays.000001", "relay.cnf"], Other);
}

#[test]
fn files_of_innodb_and_aria_are_known_by_their_places() {
    assert_kept(&top(), &["ibdata1"], InnodbSystem);
    assert_kept(&top(), &["undo001", "undo_002", "undo_1_trunc.log", "more.ibu"], InnodbUndo);
    assert_kept(&top(), &["ib_logfile0", "ib_logfile1", "ib_logfile101"], Redo);
    assert_kept(&top(), &["mysql.ibd", "#ib_16384_0.dblwr", "ib_5_trunc.log"], Innodb);
    assert_kept(&top(), &["aria_log.00000001", "aria_log_control"], AriaLog);
    assert_kept(
        &top(),
        &["ddl_recovery.log", "ddl_recovery-backup.log", "tc.log", "ib_buffer_pool", "undo001.bak"],
        Other,
    );
    let redo = Place { roles: top().roles_below(OsStr::new("#innodb_redo")), ..Place::default() };
    assert_kept(&redo, &["#ib_redo12", "#ib_redo13_tmp"], Redo);
}

#[test]
fn a_table_that_is_called_like_something_else_is_a_table() {
    let shop = database("shop");
    assert_kept(&shop, &["core.frm", "undo001.MYD", "ib_logfile0.MAI", "galera.cache.MAD"], Other);
    assert_kept(&shop, &["ibtmp1.ibd", "relay-bin.ibd"], Innodb);
    assert_kept(&shop, &["galera.cachet", "server.pem", "node2.err", "db.opt", "general_log.CSV", "core"], Other);
}

#[test]
fn only_the_servers_own_log_tables_are_exempt() {
    let mysql = database("mysql");
    assert_kept(
        &mysql,
        &["general_log.CSV", "general_log.CSM", "slow_log.CSV", "slow_log.CSM", "slow_log.MYD"],
        LogTable,
    );
    assert_kept(&mysql, &["general_log.frm", "slow_log.frm", "user.MAD", "slow_log_2.CSV"], Other);
    assert_kept(&database("shop"), &["slow_log.CSV"], Other);
}

#[test]
fn engines_that_are_not_frozen_are_named() {
    assert_eq!(of(&top(), "tokudb.directory"), Verdict::Keep(Unfrozen, "TokuDB"));
    assert_eq!(of(&top(), "log000000000001.tokulog29"), Verdict::Keep(Unfrozen, "TokuDB"));
    assert_eq!(of(&top(), "shop.mrn.0000101"), Verdict::Keep(Unfrozen, "Mroonga"));
    assert_eq!(of(&database("#rocksdb"), "000042.sst"), Verdict::Keep(Unfrozen, "RocksDB"));
    assert_eq!(of(&database("shop"), "_shop_main_1.tokudb"), Verdict::Keep(Unfrozen, "TokuDB"));
}

#[test]
fn in_a_directory_of_others_only_what_is_recognised_is_the_servers() {
    let logs = Place { roles: Roles::REDO.and(Roles::UNDO), ..Place::default() };
    assert_kept(&logs, &["ib_logfile0"], Redo);
    for name in ["syslog", "aria_log.00000001", "ibdata1", "shop.ibd", "node2.err"] {
        assert_eq!(of(&logs, name), Verdict::NotOurs, "{name}");
    }
    assert_eq!(classify(&logs, OsStr::new("apt"), EntryKind::Directory), Verdict::NotOurs);
}

#[test]
fn binary_logs_follow_the_setting() {
    let there = tempfile::tempdir().unwrap();
    let directory = there.path().canonicalize().unwrap();
    let index = directory.join("log.bin.index");
    std::fs::write(&index, "./log.bin.000009\n./log.bin.000010\n").unwrap();
    let files = BinlogFiles { directory: directory.clone(), base: "log.bin".into(), index };
    let place = |which| {
        let binlogs = Some(Arc::new(files.select(&directory, which).unwrap()));
        Place { roles: Roles::BINLOG, binlogs, ..Place::default() }
    };
    assert_left(&place(Binlogs::None), &["log.bin.000009", "log.bin.000010"]);
    assert_left(&place(Binlogs::Last), &["log.bin.000009", "log.bin.000009.idx"]);
    assert_kept(&place(Binlogs::Last), &["log.bin.000010", "log.bin.000010.idx"], Binlog);
    assert_kept(&place(Binlogs::All), &["log.bin.000009", "log.bin.000010"], Binlog);
    assert_left(&place(Binlogs::All), &["log.bin.000008", "log.bin.state", "log.bin.~rec~"]);
    assert_eq!(of(&place(Binlogs::All), "log.bin2.000001"), Verdict::NotOurs);
}

fn any_name() -> impl Strategy<Value = OsString> {
    let known = prop::sample::select(vec![
        "galera.cache",
        "ib_logfile0",
        "undo001",
        "master.info",
        "core.1",
        ".wsrep_sst_backup",
        "general_log",
        "ibtmp1",
        "x-relay-bin.000001",
        "lost+found",
        "#innodb_temp",
        "tc",
        "tables_flushed",
        "log-bin.000001",
        "gvwstate.dat",
    ]);
    prop_oneof![prop::collection::vec(1..=255u8, 1..40).prop_map(OsString::from_vec), known.prop_map(OsString::from),]
}

fn any_place() -> impl Strategy<Value = Place> {
    let named =
        prop::sample::select(vec![Named::System, Named::Temporary, Named::ErrorLog, Named::QueryLog, Named::Socket]);
    let relay = prop::option::of(any_name());
    (any::<u16>(), prop::collection::vec((any_name(), named), 0..3), relay).prop_map(|(bits, named, relay_base)| {
        let all = [
            Roles::DATADIR,
            Roles::DATABASE,
            Roles::MYSQL,
            Roles::DATA_HOME,
            Roles::REDO,
            Roles::REDO_FILES,
            Roles::UNDO,
            Roles::DOUBLEWRITE,
            Roles::ARIA,
            Roles::BINLOG,
            Roles::TABLESPACES,
            Roles::UNFROZEN,
            Roles::WHOLE,
            Roles::GALERA,
            Roles::TEMPORARY,
            Roles::ROCKSDB,
        ];
        let chosen = all.into_iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, role)| role);
        Place { roles: chosen.fold(Roles::default(), Roles::and), named, binlogs: None, relay_base }
    })
}

proptest! {
    #[test]
    fn a_table_in_a_database_is_never_left_out(
        place in any_place(),
        stem in any_name(),
        suffix in prop::sample::select(vec![".ibd", ".frm", ".MYD", ".MYI", ".MAD", ".MAI"]),
    ) {
        let place = Place { roles: place.roles.and(DATABASE), ..place };
        let temporary = place.roles.any_of(Roles::TEMPORARY) && stem.as_bytes().starts_with(b"#sql");
        prop_assume!(!temporary);
        let mut name = stem;
        name.push(suffix);
        prop_assert!(matches!(classify(&place, &name, EntryKind::File), Verdict::Keep(..)));
    }

    #[test]
    fn every_name_has_a_verdict_and_in_the_servers_directories_it_is_its_own(place in any_place(), name in any_name(), file: bool) {
        let kind = if file { EntryKind::File } else { EntryKind::Directory };
        let verdict = classify(&place, &name, kind);
        if place.roles.any_of(WHOLE) {
            prop_assert_ne!(verdict, Verdict::NotOurs);
        }
        if let Verdict::Keep(class, _) = verdict {
            prop_assert_eq!(class == Directory, kind == EntryKind::Directory);
        }
    }
}

#[test]
fn every_rule_gives_a_reason() {
    for rule in RULES {
        let (Verdict::Keep(_, why) | Verdict::Leave(why)) = rule.verdict else { panic!("a rule decides") };
        assert!(!why.is_empty() && !why.ends_with('.'), "{why}");
    }
}
