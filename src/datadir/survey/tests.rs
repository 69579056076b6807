use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;
use crate::archive::manifest::{ReferrerKind, RootKind};
use crate::error::Class;
use crate::relpath::RelPath;

/// A datadir and its surroundings in a directory of its own.
struct Tree {
    _there: tempfile::TempDir,
    path: PathBuf,
    variables: ServerVariables,
    options: Options,
}

impl Tree {
    fn new() -> Self {
        let there = tempfile::tempdir().unwrap();
        let path = there.path().canonicalize().unwrap();
        let variables = ServerVariables { datadir: path.join("data"), ..ServerVariables::default() };
        let tree = Self { _there: there, path, variables, options: Options::default() };
        for name in ["data/ibdata1", "data/ib_logfile0", "data/shop/orders.ibd", "data/shop/orders.frm"] {
            tree.write(name, name);
        }
        tree
    }

    fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn open(&self) -> Datadir {
        Datadir::open(&self.variables, &self.options).unwrap()
    }

    fn survey(&self) -> Inventory {
        self.open().survey(&Cancel::default()).unwrap()
    }

    fn failure(&self) -> Error {
        self.open().survey(&Cancel::default()).unwrap_err()
    }
}

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.files.iter().map(|found| inventory.name(&found.key())).collect()
}

fn find<'a>(inventory: &'a Inventory, name: &str) -> &'a Found {
    inventory.files.iter().find(|found| inventory.name(&found.key()) == name).unwrap()
}

fn reason<'a>(inventory: &'a Inventory, path: &str) -> &'a str {
    &inventory.excluded.iter().find(|excluded| excluded.path.to_string() == path).unwrap().reason
}

fn rel(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

#[test]
fn files_come_by_class_and_name_with_the_redo_log_near_the_end() {
    let tree = Tree::new();
    tree.write("data/mysql/general_log.CSV", "row");
    tree.write("data/aria_log.00000001", "aria");
    tree.write("data/undo001", "undo");
    let inventory = tree.survey();
    let expected = [
        "mysql",
        "shop",
        "shop/orders.frm",
        "aria_log.00000001",
        "ibdata1",
        "undo001",
        "shop/orders.ibd",
        "ib_logfile0",
        "mysql/general_log.CSV",
    ];
    assert_eq!(names(&inventory), expected);
    assert_eq!(inventory, tree.survey(), "the same directories give the same inventory");
    assert!(find(&inventory, "ib_logfile0").print.head.is_some());
    assert_eq!(inventory.total_bytes(), inventory.files.iter().map(Found::bytes).sum::<u64>());
    assert!(inventory.roots[0].owner.is_some());
}

#[test]
fn a_files_owner_mode_time_and_holes_are_noted() {
    let tree = Tree::new();
    let path = tree.write("data/shop/packed.ibd", "");
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let inventory = tree.survey();
    let found = find(&inventory, "shop/packed.ibd");
    let metadata = path.metadata().unwrap();
    assert_eq!((found.mode, found.uid, found.bytes(), found.sparse), (0o640, metadata.uid(), 1 << 20, true));
    assert_eq!((found.print.mtime.sec, i64::from(found.print.mtime.nsec)), (metadata.mtime(), metadata.mtime_nsec()));
    assert!(!found.user.is_empty() || metadata.uid() != 0);
    assert!(!find(&inventory, "shop/orders.ibd").sparse);
}

#[test]
fn configured_directories_outside_give_only_what_is_the_servers() {
    let mut tree = Tree::new();
    for name in ["log/ib_logfile0", "log/syslog", "log/apt/history", "home/ibsys", "home/ibdata1", "undo/undo001"] {
        tree.write(name, name);
    }
    tree.variables.innodb_log_group_home_dir = Some(tree.path.join("log"));
    tree.variables.innodb_data_home_dir = Some("../home".into());
    tree.variables.innodb_data_file_path = Some("ibsys:12M:autoextend".into());
    tree.variables.innodb_undo_directory = Some(tree.path.join("undo"));
    let inventory = tree.survey();
    let outside: Vec<String> = names(&inventory).into_iter().filter(|name| name.contains(':')).collect();
    assert_eq!(outside, ["innodb-data-home:ibsys", "innodb-undo:undo001", "innodb-log-group-home:ib_logfile0"]);
    assert!(inventory.excluded.is_empty(), "other people's files are not even named: {:?}", inventory.excluded);
    assert_eq!(find(&inventory, "innodb-data-home:ibsys").class, FileClass::InnodbSystem);
}

#[test]
fn absolute_names_in_the_data_file_path_are_found() {
    let mut tree = Tree::new();
    let path = tree.write("big/ibdata2", "x");
    tree.variables.innodb_data_home_dir = Some("".into());
    tree.variables.innodb_data_file_path = Some(format!("ibdata1:12M;{}:10M:autoextend", path.display()));
    let inventory = tree.survey();
    assert_eq!(find(&inventory, "innodb-data-home:ibdata2").class, FileClass::InnodbSystem);
    assert_eq!(find(&inventory, "ibdata1").class, FileClass::InnodbSystem);
}

#[test]
fn a_special_directory_inside_the_datadir_is_no_root_of_its_own() {
    let mut tree = Tree::new();
    tree.write("data/logs/ib_logfile0", "redo");
    tree.variables.innodb_log_group_home_dir = Some("logs".into());
    let inventory = tree.survey();
    assert_eq!(inventory.roots.len(), 1);
    assert_eq!(find(&inventory, "logs/ib_logfile0").class, FileClass::Redo);
}

#[test]
fn without_a_file_of_the_system_tablespace_or_a_redo_log_there_is_no_backup() {
    let refused = |tree: &Tree| {
        let datadir = tree.open();
        let error = datadir.check_complete(&datadir.survey(&Cancel::default()).unwrap()).unwrap_err();
        assert_eq!(error.class(), Class::Refused);
        format!("{error}; {}", error.advice().unwrap())
    };
    let mut tree = Tree::new();
    tree.variables.innodb_data_file_path = Some("ibdata1:12M;more/ibdata2:12M:autoextend".into());
    fs::create_dir(tree.path.join("data/more")).unwrap();
    let text = refused(&tree);
    assert!(text.contains("data/more/ibdata2") && text.contains("innodb_data_file_path"), "{text}");
    tree.write("shop/ibdata2", "of another directory");
    assert_eq!(text, refused(&tree), "a file of this name elsewhere is another one");
    tree.write("data/more/ibdata2", "x");
    let datadir = tree.open();
    datadir.check_complete(&datadir.survey(&Cancel::default()).unwrap()).unwrap();
    for absent in [false, true] {
        tree.write("data/ib_logfile0", "");
        if absent {
            fs::remove_file(tree.path.join("data/ib_logfile0")).unwrap();
        }
        let text = refused(&tree);
        assert!(text.contains("data\"") && text.contains("innodb_log_group_home_dir"), "{text}");
    }
}

#[test]
fn a_system_tablespace_and_a_redo_log_elsewhere_are_there() {
    let mut tree = Tree::new();
    let target = tree.write("big/real", "x");
    fs::remove_file(tree.path.join("data/ibdata1")).unwrap();
    symlink(target, tree.path.join("data/ibdata1")).unwrap();
    fs::rename(tree.path.join("data/ib_logfile0"), tree.write("log/ib_logfile0", "")).unwrap();
    tree.variables.innodb_log_group_home_dir = Some(tree.path.join("log"));
    let datadir = tree.open();
    datadir.check_complete(&datadir.survey(&Cancel::default()).unwrap()).unwrap();
}

#[test]
fn symlinked_databases_are_roots_with_safe_and_distinct_names() {
    let tree = Tree::new();
    tree.write("elsewhere/a/t.ibd", "a");
    tree.write("elsewhere/b/t.ibd", "b");
    tree.write("elsewhere/log/slow_log.CSV", "b");
    let odd = |bytes: &[u8]| tree.path.join("data").join(OsString::from_vec(bytes.to_vec()));
    symlink(tree.path.join("elsewhere/a"), odd(b"sh\xffp")).unwrap();
    symlink(tree.path.join("elsewhere/b"), odd(b"sh\np")).unwrap();
    symlink(tree.path.join("elsewhere/log"), odd(b"mysql")).unwrap();
    let inventory = tree.survey();
    let roots: Vec<(&str, Option<&RelPath>)> =
        inventory.roots.iter().map(|root| (root.name.as_str(), root.link.as_ref())).collect();
    let (first, second) = (rel("sh\np"), RelPath::new(OsString::from_vec(b"sh\xffp".to_vec())).unwrap());
    let expected = [
        ("datadir", None),
        ("database-mysql", Some(&rel("mysql"))),
        ("database-sh_p", Some(&first)),
        ("database-sh_p-2", Some(&second)),
    ];
    assert_eq!(roots, expected);
    assert!(inventory.roots[1..].iter().all(|root| root.kind == RootKind::Database));
    assert_eq!(find(&inventory, "database-sh_p:t.ibd").class, FileClass::Innodb);
    assert_eq!(find(&inventory, "database-mysql:slow_log.CSV").class, FileClass::LogTable);
}

#[test]
fn a_database_that_comes_later_leaves_the_other_roots_their_numbers() {
    let tree = Tree::new();
    tree.write("z/t.ibd", "z");
    tree.write("a/t.ibd", "a");
    symlink(tree.path.join("z"), tree.path.join("data/z")).unwrap();
    let datadir = tree.open();
    let first = datadir.survey(&Cancel::default()).unwrap();
    symlink(tree.path.join("a"), tree.path.join("data/a")).unwrap();
    fs::remove_file(tree.path.join("data/z")).unwrap();
    let second = datadir.survey(&Cancel::default()).unwrap();
    assert_eq!(first.roots[1].name, second.roots[1].name);
    assert_eq!(second.roots[1].link, None, "a database that is gone is not linked again");
    assert!(names(&second).contains(&"database-a:t.ibd".to_owned()));
    assert!(!names(&second).contains(&"database-z:t.ibd".to_owned()));
}

#[test]
fn tablespaces_elsewhere_are_taken_alone_and_their_referrers_noted() {
    let tree = Tree::new();
    let ibd = tree.write("fast/shop/big.ibd", "big");
    tree.write("fast/shop/stranger.ibd", "not referenced");
    let myd = tree.write("slow/old.MYD", "old");
    tree.write("data/shop/big.isl", ibd.as_os_str().as_bytes());
    symlink(&myd, tree.path.join("data/shop/old.MYD")).unwrap();
    let inventory = tree.survey();
    let root = |name: &str| inventory.roots.iter().find(|root| root.name.as_str() == name).unwrap();
    assert_eq!(root("tablespace-1").path, tree.path.join("fast/shop"));
    let referrer = &root("tablespace-1").referrers[0];
    assert_eq!((referrer.root, &referrer.path, referrer.kind), (0, &rel("shop/big.isl"), ReferrerKind::Isl));
    assert_eq!(referrer.target, rel("big.ibd"));
    let referrer = &root("tablespace-2").referrers[0];
    assert_eq!(
        (&referrer.path, referrer.kind, &referrer.target),
        (&rel("shop/old.MYD"), ReferrerKind::Symlink, &rel("old.MYD"))
    );
    let names = names(&inventory);
    assert!(names.contains(&"tablespace-1:big.ibd".to_owned()) && names.contains(&"tablespace-2:old.MYD".to_owned()));
    assert!(names.contains(&"shop/big.isl".to_owned()), "the .isl file itself is a member");
    assert!(!names.contains(&"shop/old.MYD".to_owned()), "a link is not");
    assert!(!names.iter().any(|name| name.contains("stranger")));
    assert_eq!(find(&inventory, "tablespace-1:big.ibd").class, FileClass::Innodb);
    let root = &inventory.roots[find(&inventory, "tablespace-2:old.MYD").root as usize];
    assert_eq!(root.kind, RootKind::Tablespace);
}

#[test]
fn a_link_to_a_file_that_is_in_the_backup_anyway_does_not_double_it() {
    let tree = Tree::new();
    symlink("orders.ibd", tree.path.join("data/shop/alias.ibd")).unwrap();
    symlink("shop", tree.path.join("data/shop2")).unwrap();
    let inventory = tree.survey();
    assert_eq!(inventory.roots.len(), 1);
    let referrers: Vec<_> =
        inventory.roots[0].referrers.iter().map(|known| (known.path.to_string(), known.target.to_string())).collect();
    let expected = [("shop2", "shop"), ("shop/alias.ibd", "shop/orders.ibd")];
    assert_eq!(referrers, expected.map(|(path, target)| (path.to_owned(), target.to_owned())));
    assert_eq!(names(&inventory).iter().filter(|name| name.contains("orders.ibd")).count(), 1);
}

#[test]
fn a_missing_tablespace_of_a_discarded_table_is_a_warning() {
    let tree = Tree::new();
    tree.write("data/shop/gone.isl", "/nowhere/shop/gone.ibd");
    let inventory = tree.survey();
    assert!(inventory.warnings[0].contains("shop/gone.isl"), "{:?}", inventory.warnings);
}

#[test]
fn directories_of_innodb_directories_are_searched_for_tablespaces_only() {
    let mut tree = Tree::new();
    tree.write("more/db/t.ibd", "t");
    tree.write("more/readme", "r");
    tree.write("more/empty/readme", "r");
    tree.variables.innodb_directories =
        Some(format!("{};{}/more", tree.path.join("data").display(), tree.path.display()));
    let names = names(&tree.survey());
    let outside: Vec<&String> = names.iter().filter(|name| name.starts_with("innodb-directory:")).collect();
    assert_eq!(outside, ["innodb-directory:db", "innodb-directory:db/t.ibd"]);
}

#[test]
fn what_is_left_out_is_listed_with_the_reason() {
    let mut tree = Tree::new();
    tree.write("data/galera.cache", "x");
    tree.write("data/backups/repo/20260101/archive", "x");
    tree.write("data/logs/custom", "x");
    tree.write("data/cluster/gvwstate.dat", "x");
    tree.variables.wsrep_data_home_dir = Some("cluster".into());
    tree.write("data/#innodb_temp/temp_1.ibt", "x");
    tree.options.leave_out = vec![tree.path.join("data/shop/../backups/repo")];
    tree.variables.general_log_file = Some("logs/custom".into());
    let _socket = UnixListener::bind(tree.path.join("data/shop/s")).unwrap();
    let inventory = tree.survey();
    assert!(reason(&inventory, "cluster/gvwstate.dat").contains("identity"));
    assert!(reason(&inventory, "galera.cache").contains("cache of write sets"));
    assert!(reason(&inventory, "backups/repo").contains("holds backups"));
    assert!(reason(&inventory, "logs/custom").contains("keeps writing"));
    assert!(reason(&inventory, "#innodb_temp").contains("temporary"));
    assert_eq!(reason(&inventory, "shop/s"), "a socket");
    assert!(!names(&inventory).iter().any(|name| name.contains("temp_1") || name.contains("archive")));
}

#[test]
fn what_cannot_be_copied_is_an_error_that_names_it() {
    type Make = fn(&Path);
    let cases: [(&str, Make); 6] = [
        ("is a FIFO", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("leads nowhere", |path| symlink("nowhere", path).unwrap()),
        ("leads nowhere", |path| symlink(path, path).unwrap()),
        ("is a link to a device", |path| symlink("/dev/null", path).unwrap()),
        ("inside a database", |path| symlink("/usr", path).unwrap()),
        ("inside a database", |path| symlink(path.parent().unwrap(), path).unwrap()),
    ];
    for (text, make) in cases {
        let tree = Tree::new();
        make(&tree.path.join("data/shop/odd"));
        let error = tree.failure();
        assert_eq!(error.class(), Class::Refused);
        assert!(error.to_string().contains("data/shop/odd") && error.to_string().contains(text), "{error}");
    }
    let tree = Tree::new();
    symlink("..", tree.path.join("data/up")).unwrap();
    assert!(tree.failure().to_string().contains("data/up\" is a link to the datadir"));
}

#[test]
fn a_dangling_link_in_the_place_of_a_file_that_is_left_out_does_not_matter() {
    let tree = Tree::new();
    symlink("/nowhere/log", tree.path.join("data/node.err")).unwrap();
    assert_eq!(reason(&tree.survey(), "node.err"), "the error log");
}

#[test]
fn a_link_to_a_file_that_is_left_out_is_named() {
    let tree = Tree::new();
    tree.write("data/host.err", "x");
    symlink("host.err", tree.path.join("data/latest.txt")).unwrap();
    let error = tree.failure();
    let text = error.to_string();
    assert_eq!(error.class(), Class::Refused);
    assert!(text.contains("data/latest.txt\" is a link to") && text.contains("data/host.err"), "{text}");
    assert!(error.advice().unwrap().contains("remove the link"));
}

#[test]
fn directories_for_temporary_files_are_kept_without_what_is_in_them() {
    let mut tree = Tree::new();
    for name in
        ["tmp/#sql-temptable-1-2-3.MAD", "tmp/x/y", "fast/ibAB12", "load/SQL_LOAD-1-2", "tmp/t.ibd", "tmp/db.opt"]
    {
        tree.write(Path::new("data").join(name), "x");
    }
    tree.variables.tmpdir = Some(format!("/nowhere:{}:", tree.path.join("data/tmp").display()).into());
    tree.variables.innodb_tmpdir = Some("fast".into());
    tree.variables.slave_load_tmpdir = Some("../data/load/".into());
    let inventory = tree.survey();
    let below: Vec<String> = names(&inventory).into_iter().filter(|name| !name.contains("shop")).collect();
    // A directory that was made a database as well keeps its tables.
    assert_eq!(below, ["fast", "load", "tmp", "tmp/db.opt", "ibdata1", "tmp/t.ibd", "ib_logfile0"]);
    for path in ["tmp/#sql-temptable-1-2-3.MAD", "tmp/x", "fast/ibAB12", "load/SQL_LOAD-1-2"] {
        assert!(reason(&inventory, path).contains("temporary"), "{path}");
    }
}

#[test]
fn a_datadir_for_temporary_files_loses_only_those() {
    let mut tree = Tree::new();
    tree.write("data/#sql-temptable-1-2-3.MAD", "x");
    tree.write("data/shop/#sql-alter-1-2.ibd", "x");
    let all = names(&tree.survey());
    tree.variables.tmpdir = Some(tree.path.join("data").into());
    let inventory = tree.survey();
    assert!(reason(&inventory, "#sql-temptable-1-2-3.MAD").contains("temporary"));
    let expected: Vec<String> = all.into_iter().filter(|name| !name.contains("temptable")).collect();
    assert_eq!(names(&inventory), expected);
}

#[test]
fn galeras_cache_is_left_out_wherever_it_is() {
    let mut tree = Tree::new();
    for name in ["cache/galera.cache", "cache/gcache.page.000001", "cache/ring", "shop/ring"] {
        tree.write(Path::new("data").join(name), "x");
    }
    tree.variables.wsrep_provider_options = Some("gcache.size=1G; gcache.dir = cache;gcache.name=ring;x".into());
    let inventory = tree.survey();
    for path in ["cache/galera.cache", "cache/gcache.page.000001", "cache/ring"] {
        assert!(reason(&inventory, path).contains("cache of write sets"), "{path}");
    }
    assert!(names(&inventory).contains(&"shop/ring".to_owned()), "a name counts in its directory only");
}

#[test]
fn rocksdb_files_outside_are_found_and_named_in_a_warning() {
    let mut tree = Tree::new();
    for name in [
        "rocks/000007.sst",
        "rocks/MANIFEST-000004",
        "rocks/CURRENT",
        "rocks/notes",
        "wal/000009.log",
        "wal/syslog.log",
    ] {
        tree.write(name, "x");
    }
    tree.variables.rocksdb_datadir = Some("../rocks".into());
    tree.variables.rocksdb_wal_dir = Some(tree.path.join("wal"));
    let inventory = tree.survey();
    let outside: Vec<String> = names(&inventory).into_iter().filter(|name| name.starts_with("rocksdb")).collect();
    assert_eq!(outside, ["rocksdb:000007.sst", "rocksdb:CURRENT", "rocksdb:MANIFEST-000004", "rocksdb-wal:000009.log"]);
    assert!(inventory.roots[1..].iter().all(|root| root.kind == RootKind::Rocksdb));
    assert!(inventory.warnings[0].starts_with("RocksDB files"), "{:?}", inventory.warnings);
    tree.variables.rocksdb_datadir = Some("../absent".into());
    assert_eq!(tree.survey().roots.len(), 2, "an engine that is not there has no directory");
}

#[test]
fn a_home_of_galera_outside_the_datadir_is_a_warning() {
    let mut tree = Tree::new();
    tree.variables.wsrep_data_home_dir = Some(".".into());
    assert!(tree.survey().warnings.is_empty());
    tree.variables.wsrep_data_home_dir = Some(tree.path.join("galera"));
    let warnings = tree.survey().warnings;
    assert!(warnings[0].contains(&format!("{:?}: after a restore move grastate.dat", tree.path.join("galera"))));
}

#[test]
fn warnings_of_missing_tablespaces_are_bounded_in_number() {
    let tree = Tree::new();
    for number in 0..103 {
        tree.write(format!("data/shop/gone{number}.isl"), "/nowhere/gone.ibd");
    }
    let warnings = tree.survey().warnings;
    assert_eq!(warnings.len(), 101);
    assert_eq!(warnings[100], "and 3 more such tablespaces do not exist");
}

#[test]
fn directories_without_end_are_an_error() {
    let tree = Tree::new();
    tree.write(format!("data/{}t.ibd", "d/".repeat(70)), "x");
    assert!(tree.failure().to_string().contains("deeper than 64"));
}

#[test]
fn names_of_any_bytes_are_found_and_opened() {
    let tree = Tree::new();
    let name = OsString::from_vec(b"shop/t\n\xff.ibd".to_vec());
    tree.write(Path::new("data").join(&name), "odd");
    let datadir = tree.open();
    let inventory = datadir.survey(&Cancel::default()).unwrap();
    let found = find(&inventory, "shop/t%0A%FF.ibd");
    assert_eq!(io::read_to_string(datadir.open_file(found).unwrap()).unwrap(), "odd");
}

#[test]
fn a_file_that_was_replaced_or_became_a_link_is_not_found_any_more() {
    let tree = Tree::new();
    let datadir = tree.open();
    let inventory = datadir.survey(&Cancel::default()).unwrap();
    let found = find(&inventory, "shop/orders.ibd");
    let other = tree.write("data/shop/new", "new");
    fs::rename(&other, tree.path.join("data/shop/orders.ibd")).unwrap();
    assert_eq!(datadir.open_file(found).unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::remove_file(tree.path.join("data/shop/orders.ibd")).unwrap();
    symlink("orders.frm", tree.path.join("data/shop/orders.ibd")).unwrap();
    assert_eq!(datadir.open_file(found).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(datadir.check_readable(&inventory, &Cancel::default()).is_ok(), "what vanished is no failure");
}

#[test]
fn a_stopped_run_surveys_nothing_more() {
    let cancel = Cancel::default();
    cancel.raise(crate::cancel::Reason::ServerGone);
    assert_eq!(Tree::new().open().survey(&cancel).unwrap_err().class(), Class::Server);
}

#[test]
fn the_index_lists_the_binary_logs_that_are_kept_as_the_server_wrote_them() {
    let mut tree = Tree::new();
    let outside = tree.path.join("log");
    for number in [8, 9, 10] {
        tree.write(format!("log/maria-bin.{number:06}"), "x".repeat(number));
    }
    tree.write("log/maria-bin.state", "old");
    tree.write("log/other.000011", "foreign");
    let lines = format!("{0}/maria-bin.000009\n../log/maria-bin.000010\n", outside.display());
    tree.write("log/maria-bin.index", &lines);
    tree.variables.log_bin = Some(outside.join("maria-bin.log"));
    let with = |binlogs| {
        let options = Options { binlogs, ..Options::default() };
        Datadir::open(&tree.variables, &options).unwrap().survey(&Cancel::default()).unwrap()
    };
    let text =
        |inventory: &Inventory| inventory.generated.first().map(|made| String::from_utf8(made.bytes.clone()).unwrap());
    let logs = |inventory: &Inventory| {
        names(inventory).into_iter().filter(|name| name.starts_with("binlog:")).collect::<Vec<_>>()
    };
    let last = with(Binlogs::Last);
    assert_eq!(text(&last).as_deref(), Some("../log/maria-bin.000010\n"));
    assert_eq!(logs(&last), ["binlog:maria-bin.000010"]);
    let position = last.binlog.as_ref().unwrap();
    assert_eq!((position.file.as_str(), position.position), ("maria-bin.000010", 10));
    let made = &last.generated[0].found;
    assert_eq!((last.name(&made.key()).as_str(), made.class), ("binlog:maria-bin.index", FileClass::Generated));
    let all = with(Binlogs::All);
    assert_eq!(text(&all), Some(lines));
    assert_eq!(logs(&all), ["binlog:maria-bin.000009", "binlog:maria-bin.000010"]);
    let none = with(Binlogs::None);
    assert_eq!((text(&none), logs(&none).len()), (None, 0));
    assert!(none.binlog.is_some(), "the position counts without the file");
    assert!(reason(&none, "maria-bin.state").contains("earlier shutdown"));
    assert!(!none.excluded.iter().any(|excluded| excluded.path.to_string().contains("other")));
}

#[test]
fn a_missing_index_is_a_warning() {
    let mut tree = Tree::new();
    tree.variables.log_bin = Some("mybin".into());
    let inventory = tree.survey();
    assert!(inventory.warnings[0].contains("mybin.index"), "{:?}", inventory.warnings);
    assert!(inventory.generated.is_empty() && inventory.binlog.is_none());
}

#[test]
fn the_default_name_of_the_binary_logs_is_found_by_its_index() {
    let mut tree = Tree::new();
    tree.write("data/binlog.000003", "x");
    tree.write("data/binlog.index", "./binlog.000003\n");
    tree.variables.log_bin = Some("".into());
    let inventory = tree.survey();
    assert_eq!(find(&inventory, "binlog.000003").class, FileClass::Binlog);
    assert_eq!(inventory.generated[0].bytes, b"./binlog.000003\n");
}

#[test]
fn a_file_that_cannot_be_read_is_named_before_the_window() {
    let tree = Tree::new();
    let datadir = tree.open();
    let mut inventory = datadir.survey(&Cancel::default()).unwrap();
    let path = tree.path.join("data/shop/orders.frm");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    if nix::unistd::geteuid().is_root() {
        // Root reads everything; a root directory that is a file fails for everybody.
        inventory.files[1].path = rel("shop/orders.frm/x");
    }
    let error = datadir.check_readable(&inventory, &Cancel::default()).unwrap_err();
    assert!(error.to_string().contains("data/shop/orders.frm"), "{error}");
}

#[test]
fn engines_that_are_not_frozen_are_named_in_a_warning() {
    let tree = Tree::new();
    tree.write("data/#rocksdb/000001.sst", "x");
    let inventory = tree.survey();
    assert_eq!(find(&inventory, "#rocksdb/000001.sst").class, FileClass::Unfrozen);
    assert!(inventory.warnings[0].starts_with("RocksDB files"), "{:?}", inventory.warnings);
}
