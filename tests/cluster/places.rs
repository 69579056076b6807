//! Files outside the datadir, and targets that cannot be renamed into place.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use serde_json::Value;

use crate::cycle::standalone;
use crate::lab::backup::{Label, Writes, text};
use crate::lab::cluster::Cluster;
use crate::lab::mount::{FileSystem, Mount};
use crate::lab::node::{Node, Options, Places, Role};
use crate::lab::process::{PATIENCE, Process, run, until};
use crate::lab::{Lab, Seed, own};

/// A table of each engine with its files in `place`, made on this node alone; without a place: in the datadir.
fn make_far_tables(node: &Node, place: Option<&Path>) {
    let (data, index) = match place {
        Some(place) => {
            std::fs::create_dir_all(place).expect("a place");
            own(place);
            let place = place.display();
            (format!("DATA DIRECTORY='{place}'"), format!("INDEX DIRECTORY='{place}'"))
        }
        None => (String::new(), String::new()),
    };
    node.sql(&format!(
        "SET SESSION wsrep_OSU_method = 'RSU';
         CREATE TABLE annex.far_innodb (a INT PRIMARY KEY, b TEXT) ENGINE=InnoDB {data};
         CREATE TABLE annex.far_aria (a INT PRIMARY KEY, b TEXT) ENGINE=Aria {data} {index}"
    ));
}

/// The manifest's roots: name and kind, without the datadir.
fn roots(label: &Label) -> BTreeMap<String, String> {
    let manifest = run("zstd", ["-dc", text(&label.dir.join("manifest.json.zst"))]);
    let manifest: Value = serde_json::from_str(&manifest).expect("a manifest is JSON");
    let field = |root: &Value, name: &str| root[name].as_str().expect("a text").to_owned();
    let roots = manifest["roots"].as_array().expect("roots").iter();
    roots.map(|root| (field(root, "name"), field(root, "kind"))).filter(|(_, kind)| kind != "datadir").collect()
}

pub fn files_outside_the_datadir_are_restored_where_they_are_told_to(lab: &Lab) {
    let options = Options { places: Places::Apart, backup: vec!["binlogs=last".to_owned()], ..Options::default() };
    let cluster = Cluster::prepare(lab, "places", Seed::Small, options.clone());
    let far = cluster.donor.home.join("far");
    restored_where_told(cluster, options, &far);
}

pub fn roots_on_several_file_systems_are_cloned_or_copied_each_by_itself(lab: &Lab) {
    let ext4 = lab.dir.join("places-ext4");
    let _ext4 = Mount::disk(&ext4, FileSystem::Ext4, 512);
    let backup = ["binlogs=last", "source=auto"].map(str::to_owned).to_vec();
    let disk = Some((FileSystem::Xfs, 2048));
    let options = Options { places: Places::Apart, backup, disk, ..Options::default() };
    let cluster = Cluster::prepare(lab, "places-apart", Seed::Small, options.clone());
    let redo = cluster.donor.apart("redo");
    run("mv", [&redo, &ext4.join("redo")]);
    symlink(ext4.join("redo"), &redo).expect("a link");

    let (cluster, label) = restored_where_told(cluster, options, &ext4.join("far"));
    assert_eq!(label.text("source"), "clone");
    let said = cluster.donor.backup_log(0);
    let line = said.lines().find(|line| line.contains("source clone (chosen by auto): ")).expect("why");
    assert!(line.contains(" cannot be cloned (Operation not supported"), "{line}");
    assert!(line.contains("and is copied before the window and inside it"), "{line}");
    for (name, kind) in roots(&label) {
        let copied = ["innodb-log-group-home", "tablespace"].contains(&kind.as_str());
        assert_eq!(line.contains(&name), copied, "{name}, {kind}: {line}");
    }
}

/// The whole way of a server whose files lie in many places, those of some tables in `far`.
fn restored_where_told<'l>(mut cluster: Cluster<'l>, options: Options, far: &Path) -> (Cluster<'l>, Label) {
    let elsewhere = cluster.donor.home.join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory");
    std::fs::rename(cluster.donor.datadir.join("shop"), elsewhere.join("shop")).expect("the same file system");
    symlink(elsewhere.join("shop"), cluster.donor.datadir.join("shop")).expect("a link");
    own(&elsewhere);
    cluster.go();

    cluster.writer.sql("CREATE DATABASE annex");
    make_far_tables(&cluster.writer, None);
    make_far_tables(&cluster.donor, Some(far));
    cluster.writer.sql("INSERT INTO annex.far_innodb SELECT seq, REPEAT('i', 100) FROM mysql.seq_1_to_20000");
    // Galera does not replicate Aria's rows: every node gets its own.
    for node in [&cluster.writer, &cluster.donor] {
        node.sql("INSERT INTO annex.far_aria SELECT seq, REPEAT('a', 100) FROM mysql.seq_1_to_20000");
    }
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor]);

    let writes = Writes::start(&cluster.writer);
    let label = cluster.backup();
    writes.stop();
    cluster.writer.sql("INSERT INTO annex.far_innodb SELECT seq, 'later' FROM mysql.seq_30000_to_31000");
    cluster.operate(&["verify", label.id()]);

    let datadir = cluster.dir.join("restored");
    let mut third = cluster.idle_node("node3", &datadir, options);
    let mut arguments: Vec<String> = ["restore", label.id(), "--target", text(&datadir)].map(str::to_owned).to_vec();
    let roots = roots(&label);
    std::fs::create_dir(third.apart("other")).expect("a directory");
    for (name, kind) in &roots {
        let place = match kind.as_str() {
            "innodb-data-home" => third.apart("innodb-home"),
            "innodb-log-group-home" => third.apart("redo"),
            "innodb-undo" => third.apart("undo"),
            "aria-log" => third.apart("aria"),
            "binlog" => third.apart("binlog"),
            _ => third.apart("other").join(name),
        };
        arguments.extend(["--root".to_owned(), format!("{name}={}", place.display())]);
    }
    let kinds: Vec<&str> = roots.values().map(String::as_str).collect();
    for kind in
        ["innodb-data-home", "innodb-log-group-home", "innodb-undo", "aria-log", "binlog", "database", "tablespace"]
    {
        assert!(kinds.contains(&kind), "a root of kind {kind} in {roots:?}");
    }
    cluster.operate(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    own(&third.home);

    assert_eq!(third.recovered_position(), label.gtid());
    cluster.join_by_ist(&mut third, &label);
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor, &third]);
    assert_eq!(third.sql("SELECT COUNT(*) FROM annex.far_aria"), "20000");
    let donors = |path: &PathBuf| path.starts_with(&cluster.donor.home) || path.starts_with(far);
    let strayed: Vec<PathBuf> = open_files(&third).into_iter().filter(donors).collect();
    assert!(strayed.is_empty(), "the restored server works on the donor's files: {strayed:?}");
    drop(third);
    (cluster, label)
}

/// The files that a server has open.
fn open_files(node: &Node) -> Vec<PathBuf> {
    let links = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("the server's files").flatten();
    links.filter_map(|link| std::fs::read_link(link.path()).ok()).collect()
}

pub fn a_half_restored_mount_point_does_not_start(lab: &Lab) {
    let mut cluster = Cluster::start(lab, "mount", Seed::Large);
    let label = cluster.backup();
    let target = cluster.dir.join("mounted");
    let _mount = Mount::tmpfs(&target, 1024)
        .unwrap_or_else(|cause| panic!("this machine does not let root mount a tmpfs: {cause}"));

    let mut restore = Command::new(&lab.program);
    restore.arg("--repository").arg(&cluster.repository).args(["restore", label.id(), "--target", text(&target)]);
    restore.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut restore = Process::spawn("restore", &mut restore);
    until("a restore that is half done", PATIENCE, || {
        assert!(restore.ended().is_none(), "the restore was faster than this test");
        let mount = statvfs(&target).expect("the mount point");
        ((mount.blocks() - mount.blocks_free()) * mount.fragment_size() > 60 << 20).then_some(())
    });
    restore.signal(Signal::SIGKILL);
    restore.wait(PATIENCE);

    let mut half = cluster.idle_node("half", &target, Options::default());
    half.begin(Role::Standalone);
    let status = half.process().wait(Duration::from_secs(60));
    assert!(!status.success(), "a server refuses the half of a backup");
    assert!(!half.log(0).contains("ready for connections"), "{}", half.log_end(20));
    println!("    the server said: {}", half.log(0).lines().find(|line| line.contains("[ERROR]")).unwrap_or("nothing"));

    // What the killed restore left is recognised and cleared; anything else would be in the way.
    cluster.operate(&["restore", label.id(), "--target", text(&target)]);
    let whole = standalone(&cluster, &target);
    Cluster::assert_same_tables(&whole, &cluster.donor);
}
