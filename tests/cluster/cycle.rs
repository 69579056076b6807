//! The main job: a backup under writes, restored to a node that joins by IST and holds what the others hold.

use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::lab::backup::{Label, Writes, unpack_by_hand};
use crate::lab::cluster::Cluster;
use crate::lab::node::{Node, Options, Role};
use crate::lab::{Lab, Seed, own};

/// A backup of the donor while clients write on the other node; they go on writing when this returns.
fn backup_under_writes(cluster: &mut Cluster<'_>) -> (Label, Writes) {
    let writes = Writes::start(&cluster.writer);
    let before = cluster.writer.last_committed();
    let label = cluster.backup();
    let after = cluster.writer.last_committed();
    assert!((before..after).contains(&label.seqno()), "{} was written from {before} to {after}", label.gtid());
    assert!(label.text("gtid").starts_with(&cluster.writer.status("cluster_state_uuid").expect("an answer")));
    (label, writes)
}

/// Starts a third node on restored files while clients write, stops the writes, compares all three.
fn joins_and_equals(cluster: &Cluster<'_>, datadir: &std::path::Path, label: &Label, writes: Writes) {
    let mut third = cluster.restored_node(datadir, label, Options::default());
    cluster.join_by_ist(&mut third, label);
    writes.stop();
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor, &third]);
    third.stop();
}

/// The whole way, from a request under writes to a third node that holds what the others hold; returns the label.
pub fn full_cycle(lab: &Lab, name: &str, options: Options) -> Label {
    let mut cluster = Cluster::start_with(lab, name, Seed::Large, options);
    let (label, writes) = backup_under_writes(&mut cluster);

    assert!(label.number("raw_bytes") > 200 << 20, "the whole datadir is in it");
    assert_eq!(label.text("node"), "node2");
    let listed: Value = serde_json::from_str(&cluster.operate(&["list", "--json"])).expect("JSON");
    assert!(listed.to_string().contains(label.id()), "{listed}");
    let shown = cluster.operate(&["show", label.id()]);
    assert!(shown.contains(label.uuid()) && shown.contains(&label.seqno().to_string()), "{shown}");
    cluster.operate(&["verify", label.id()]);

    let datadir = cluster.restore(&label, "restored");
    joins_and_equals(&cluster, &datadir, &label, writes);
    label
}

pub fn a_restored_node_joins_by_ist_under_writes(lab: &Lab) {
    let backup = vec!["source=locked".to_owned()];
    let label = full_cycle(lab, "cycle", Options { backup, ..Options::default() });
    assert_eq!(label.text("source"), "locked");
}

pub fn an_archive_unpacked_with_tar_joins_by_ist(lab: &Lab) {
    let mut cluster = Cluster::start(lab, "by-hand", Seed::Small);
    let (label, writes) = backup_under_writes(&mut cluster);
    let datadir = cluster.dir.join("unpacked");
    unpack_by_hand(&label.archive(), &datadir);
    joins_and_equals(&cluster, &datadir, &label, writes);
}

pub fn two_nodes_make_backups_one_after_the_other(lab: &Lab) {
    let mut cluster = Cluster::start(lab, "two", Seed::Small);
    let (first, writes) = backup_under_writes(&mut cluster);
    let again = cluster.backup();
    assert!(again.seqno() > first.seqno(), "{} after {}", again.gtid(), first.gtid());

    // The names of donors match by prefix: node1 and node2 do not take each other's requests.
    std::mem::swap(&mut cluster.writer, &mut cluster.donor);
    let other = cluster.backup();
    std::mem::swap(&mut cluster.writer, &mut cluster.donor);
    assert_eq!((again.text("node"), other.text("node")), ("node2", "node1"));

    assert_eq!(cluster.labels().len(), 3);
    for label in [&first, &again, &other] {
        cluster.operate(&["verify", label.id()]);
    }
    let latest = cluster.operate(&["show", "latest"]);
    assert!(latest.contains(other.id()), "{latest}");
    let datadir = cluster.restore(&other, "restored");
    joins_and_equals(&cluster, &datadir, &other, writes);
}

pub fn the_newest_binary_log_travels_with_a_right_index(lab: &Lab) {
    let server: Vec<String> = ["log-bin=mybin", "log-slave-updates=ON", "server-id=2"].map(str::to_owned).to_vec();
    let options = Options { server: server.clone(), backup: vec!["binlogs=last".to_owned()], ..Options::default() };
    let mut cluster = Cluster::start_with(lab, "binlog", Seed::Small, options);
    cluster.donor.sql("FLUSH BINARY LOGS; FLUSH BINARY LOGS");
    let (label, writes) = backup_under_writes(&mut cluster);
    writes.stop();

    let datadir = cluster.restore(&label, "restored");
    let index = std::fs::read_to_string(datadir.join("mybin.index")).expect("an index");
    let named: Vec<&str> = index.lines().collect();
    assert_eq!(named.len(), 1, "the newest log alone: {index:?}");
    let log = datadir.join(named[0]);
    assert!(log.starts_with(&datadir) && log.is_file(), "the index names a restored file: {index:?}");

    let options = Options { server, ..Options::default() };
    let mut third = cluster.restored_node(&datadir, &label, options);
    cluster.join_by_ist(&mut third, &label);
    let name = log.file_name().and_then(|name| name.to_str()).expect("a name");
    let logs = third.sql("SHOW BINARY LOGS");
    assert!(logs.lines().any(|line| line.starts_with(name)), "the server knows {name}: {logs}");
    assert!(logs.lines().count() >= 2, "and has begun the next one: {logs}");
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor, &third]);
}

pub fn a_damaged_archive_is_found_by_verify(lab: &Lab) {
    let mut cluster = Cluster::start(lab, "damage", Seed::Small);
    let label = cluster.backup();
    let archive = std::fs::File::options().read(true).write(true).open(label.archive()).expect("the archive");
    let middle = archive.metadata().expect("size").len() / 2;
    let mut byte = [0];
    archive.read_exact_at(&mut byte, middle).expect("a byte");
    archive.write_all_at(&[byte[0] ^ 1], middle).expect("a flipped bit");

    let ended = cluster.operator(&["verify", label.id()]);
    assert_eq!(ended.status.code(), Some(5), "{ended:?}");
    let target = cluster.dir.join("restored");
    let restored = cluster.operator(&["restore", label.id(), "--target", target.to_str().expect("plain")]);
    assert_eq!(restored.status.code(), Some(5), "{restored:?}");
    assert!(!target.exists(), "nothing that mysqld would start on");
}

/// A server of its own on `datadir`, with Galera off.
pub fn standalone(cluster: &Cluster<'_>, datadir: &std::path::Path) -> Node {
    own(datadir);
    let mut node = cluster.idle_node("standalone", datadir, Options::default());
    node.start(Role::Standalone);
    // MariaDB 11.8 makes an account for every SST, which is in the files; a server in a cluster removes it when it starts.
    node.sql("DELETE FROM mysql.global_priv WHERE User LIKE 'wsrep.sst.%'");
    node
}
