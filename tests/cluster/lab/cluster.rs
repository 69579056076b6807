//! A Galera cluster of two real nodes, and the third that joins it from a restored backup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::backup::Label;
use super::mount::Mount;
use super::node::{Node, Options, Places, Role};
use super::{Lab, Seed, own};

/// A running cluster: node1 is the first, node2 makes the backups; its directory goes when it is dropped.
pub struct Cluster<'l> {
    /// Where and with what.
    pub lab: &'l Lab,
    /// The directory of this cluster.
    pub dir: PathBuf,
    /// The node that clients write to.
    pub writer: Node,
    /// The node that makes the backup.
    pub donor: Node,
    /// Where backups are published.
    pub repository: PathBuf,
    /// Goes after the donor that is on it.
    _disk: Option<Mount>,
}

impl<'l> Cluster<'l> {
    /// Starts two nodes that hold `seed`'s tables.
    pub fn start(lab: &'l Lab, name: &str, seed: Seed) -> Self {
        Self::start_with(lab, name, seed, Options::default())
    }

    /// Starts two nodes; the second has `options`.
    pub fn start_with(lab: &'l Lab, name: &str, seed: Seed, options: Options) -> Self {
        let mut cluster = Self::prepare(lab, name, seed, options);
        cluster.go();
        cluster
    }

    /// Makes two nodes without starting them, so that a test can arrange their files before [`Cluster::go`].
    pub fn prepare(lab: &'l Lab, name: &str, seed: Seed, mut options: Options) -> Self {
        let dir = lab.dir.join(name);
        std::fs::create_dir_all(&dir).expect("the cluster's directory");
        let repository = dir.join("repository");
        std::fs::create_dir_all(&repository).expect("the repository");
        own(&repository);
        super::mode(&repository, 0o700);
        // The seed's files are young.
        let mut backup = vec![format!("repository={}", repository.display()), "precopy-quiet=1s".to_owned()];
        backup.append(&mut options.backup);
        options.backup = backup;

        let place = |name: &str| (dir.join(name), dir.join(name).join("data"));
        let (home, datadir) = place("node1");
        // The writer makes backups in one test; it uses the same repository.
        let plain = Options { backup: options.backup.clone(), ..Options::default() };
        let writer = Node::new(lab, "node1", home, datadir, plain);
        let (home, datadir) = place("node2");
        let disk = options.disk.map(|(kind, mebibytes)| Mount::disk(&home, kind, mebibytes));
        let apart = options.places == Places::Apart;
        let donor = Node::new(lab, "node2", home, datadir, options);
        lab.plant(seed, &writer);
        lab.plant(seed, &donor);
        if apart {
            spread(&donor);
        }
        Self { lab, dir, writer, donor, repository, _disk: disk }
    }

    /// Starts the two nodes.
    pub fn go(&mut self) {
        self.writer.start(Role::Bootstrap);
        let members = self.members();
        self.donor.start(Role::Join(&members));
    }

    /// Gives the donor's program these lines from its next run on, besides the repository.
    pub fn configure(&mut self, lines: &[&str]) {
        let mut backup = vec![format!("repository={}", self.repository.display())];
        backup.extend(lines.iter().map(|line| (*line).to_owned()));
        self.donor.configure(backup);
    }

    /// The `gcomm://` list of the two nodes.
    pub fn members(&self) -> String {
        format!("gcomm://{},{}", self.writer.address(), self.donor.address())
    }

    /// Starts the donor again after it was stopped or killed.
    pub fn donor_again(&mut self) {
        let members = self.members();
        self.donor.start(Role::Join(&members));
    }

    /// A third node whose datadir is the restored one; InnoDB's own position in it must be the label's.
    #[track_caller]
    pub fn restored_node(&self, datadir: &Path, label: &Label, options: Options) -> Node {
        let node = self.idle_node("node3", datadir, options);
        assert_eq!(node.recovered_position(), label.gtid(), "InnoDB's position in the restored files");
        node
    }

    /// A node of this cluster with this datadir, not started.
    pub fn idle_node(&self, name: &str, datadir: &Path, options: Options) -> Node {
        Node::new(self.lab, name, self.dir.join(name), datadir.to_owned(), options)
    }

    /// Starts `node` as a third member, and proves by the logs that it came by IST and that no SST ran.
    #[track_caller]
    pub fn join_by_ist(&self, node: &mut Node, label: &Label) {
        let marks = [self.writer.log_mark(), self.donor.log_mark()];
        let members = self.members();
        node.start(Role::Join(&members));
        let log = node.log(0);
        let transfer: Vec<&str> = log.lines().filter(|line| line.contains("IST") || line.contains("SST")).collect();
        let transfer = transfer.join("\n");
        let (uuid, first) = (label.uuid(), label.seqno() + 1);
        assert!(transfer.contains(&format!("IST uuid:{uuid} f: {first}, l: ")), "no IST from {first}:\n{transfer}");
        assert!(transfer.contains(&format!("IST received: {uuid}:")), "no IST was received:\n{transfer}");
        let donors = self.writer.log(marks[0]) + &self.donor.log(marks[1]);
        let sent: Vec<&str> = donors.lines().filter(|line| line.contains("--role 'donor'")).collect();
        assert!(!sent.is_empty(), "no node was asked for a state transfer:\n{donors}");
        assert!(sent.iter().all(|line| line.contains("--bypass")), "a full SST was sent:\n{}", sent.join("\n"));
    }

    /// Checksums of all tables that a cluster keeps equal, by name.
    fn checksums(node: &Node) -> BTreeMap<String, String> {
        // Left out: what every node keeps for itself (statistics, its logs, its view of the members).
        let tables = node.sql(
            "SELECT CONCAT('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables
             WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('information_schema', 'performance_schema', 'sys')
             AND NOT (table_schema = 'mysql' AND table_name IN ('innodb_index_stats', 'innodb_table_stats',
             'transaction_registry', 'gtid_slave_pos', 'general_log', 'slow_log', 'table_stats', 'column_stats',
             'index_stats', 'wsrep_cluster', 'wsrep_cluster_members', 'wsrep_streaming_log')) ORDER BY 1",
        );
        let tables: Vec<&str> = tables.lines().collect();
        assert!(tables.iter().any(|table| table.contains("sbtest1")), "the test tables are there: {tables:?}");
        let rows = node.sql(&format!("CHECKSUM TABLE {}", tables.join(", ")));
        rows.lines().filter_map(|row| row.split_once('\t')).map(|(t, sum)| (t.to_owned(), sum.to_owned())).collect()
    }

    /// Asserts that all `nodes` have applied the same and hold the same.
    #[track_caller]
    pub fn assert_equal(nodes: &[&Node]) {
        let last = nodes.iter().map(|node| node.last_committed()).max().expect("nodes");
        for node in nodes {
            let what = format!("{} to apply write set {last}", node.name);
            super::process::until(&what, super::process::PATIENCE, || (node.last_committed() >= last).then_some(()));
        }
        for node in &nodes[1..] {
            Self::assert_same_tables(node, nodes[0]);
        }
    }

    /// The tables that two servers do not hold with the same rows.
    #[track_caller]
    pub fn differing_tables(one: &Node, other: &Node) -> Vec<String> {
        let (left, right) = (Self::checksums(one), Self::checksums(other));
        left.keys()
            .chain(right.keys())
            .filter(|table| left.get(*table) != right.get(*table) || left[*table] == "NULL")
            .map(|table| format!("{table}: {:?} and {:?}", left.get(table), right.get(table)))
            .collect()
    }

    /// Asserts that two servers hold the same tables with the same rows.
    #[track_caller]
    pub fn assert_same_tables(one: &Node, other: &Node) {
        let differing = Self::differing_tables(one, other);
        assert!(differing.is_empty(), "{} and {} differ: {differing:#?}", one.name, other.name);
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        // The nodes' processes end with the fields, after this; kill them first, so that the directory can go.
        if std::thread::panicking() {
            for node in [&self.writer, &self.donor] {
                eprintln!("--- end of the log of {}:\n{}", node.name, node.log_end(25));
                eprintln!("--- what the backup program said there:\n{}", node.backup_log(0));
            }
        }
    }
}

/// Moves the seed's files to the places that [`Places::Apart`] names.
fn spread(node: &Node) {
    let moved = |into: &str, matches: &dyn Fn(&str) -> bool| {
        let place = node.apart(into);
        std::fs::create_dir_all(&place).expect("a place apart");
        for entry in std::fs::read_dir(&node.datadir).expect("the datadir").flatten() {
            if matches(&entry.file_name().to_string_lossy()) {
                std::fs::rename(entry.path(), place.join(entry.file_name())).expect("the same file system");
            }
        }
    };
    moved("innodb-home", &|name| name.starts_with("ibdata"));
    moved("redo", &|name| name.starts_with("ib_logfile"));
    moved("undo", &|name| name.starts_with("undo0"));
    moved("aria", &|name| name.starts_with("aria_log"));
    moved("binlog", &|_| false);
    own(&node.home);
}
