//! `kill -9` to the program in every phase of a run: nothing of it is left on any disk, and the donor works.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::backup::Outcome;
use crate::lab::cluster::Cluster;
use crate::lab::mount::{FileSystem, free_bytes};
use crate::lab::node::Options;
use crate::lab::process::{PATIENCE, until};
use crate::lab::run::Run;
use crate::lab::{Lab, Seed, own};

/// What a server may take from its disk while nobody writes.
const SLACK: u64 = 6 << 20;

/// How long a file system may take to free what nobody holds.
const FREED: Duration = Duration::from_secs(60);

/// A donor whose backups go to its own file system, so that whatever is left anywhere shows in one number.
fn cluster<'l>(lab: &'l Lab, name: &str, kind: FileSystem) -> Cluster<'l> {
    let options = Options { disk: Some((kind, 2048)), ..Options::default() };
    let mut cluster = Cluster::start_with(lab, name, Seed::Small, options);
    cluster.repository = cluster.donor.home.join("repository");
    std::fs::create_dir(&cluster.repository).expect("the repository");
    own(&cluster.repository);
    cluster
}

/// Every name below `directory`.
fn names(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names = BTreeSet::new();
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(self::names(&entry.path()));
        }
        names.insert(entry.path());
    }
    names
}

/// What a killed run must not have changed.
struct Before {
    names: BTreeSet<PathBuf>,
    free: u64,
    backups: usize,
}

impl Before {
    fn of(cluster: &Cluster<'_>) -> Self {
        let (donor, backups) = (&cluster.donor, cluster.leftovers().len());
        Self { names: names(&donor.datadir), free: free_bytes(&donor.home), backups }
    }

    /// Kills a run that was held, and looks for its traces; `freed` bytes were freed while it was there.
    #[track_caller]
    fn kill(self, cluster: &mut Cluster<'_>, run: Run, freed: u64) {
        run.kill();
        let outcome = run.outcome(cluster);
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
        cluster.donor.wait_synced();
        // The answer is the server's own, which it leaves there; the next run removes it.
        let mut new = names(&cluster.donor.datadir);
        new.retain(|name| !self.names.contains(name) && !name.ends_with("tables_flushed"));
        assert_eq!(new, BTreeSet::new());
        let enough = self.free + freed - SLACK;
        until("the space to come back", FREED, || (free_bytes(&cluster.donor.home) >= enough).then_some(()));
        assert_eq!(cluster.leftovers().len(), self.backups, "{:?}", cluster.leftovers());
    }
}

/// A backup must succeed, and the repository hold no more than the labels say.
#[track_caller]
fn next_one_succeeds(cluster: &mut Cluster<'_>) {
    let label = cluster.backup();
    cluster.operate(&["verify", label.id()]);
    assert_eq!(cluster.leftovers().len(), cluster.labels().len(), "{:?}", cluster.leftovers());
}

#[track_caller]
fn assert_in_window(cluster: &Cluster<'_>, run: &Run) {
    let said = cluster.donor.backup_log(run.mark());
    assert!(!said.contains("window closed"), "the run was faster than this test: {said}");
}

/// Kills a run between the name of what it publishes and the backup: the next run removes what was visible.
fn kill_while_publishing(cluster: &mut Cluster<'_>) {
    let known = cluster.leftovers();
    let new = || cluster.leftovers().into_iter().find(|name| !known.contains(name));
    let run = cluster.begin();
    let name = until("the run to publish", PATIENCE, new);
    run.stop();
    assert!(name.starts_with(".partial-") && new() == Some(name), "the run was faster than this test");
    run.kill();
    let outcome = run.outcome(cluster);
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    cluster.donor.wait_synced();
    let listed = cluster.operate(&["list", "--json"]);
    assert_eq!(listed.matches("\"gtid\"").count(), known.len(), "{listed}");
}

/// A table of 24 MB, which takes its space from the donor's file system.
fn make_ballast(cluster: &Cluster<'_>) -> PathBuf {
    cluster.writer.sql(
        "CREATE TABLE shop.ballast (a INT PRIMARY KEY, b CHAR(250), c CHAR(250), d CHAR(250), e CHAR(250));
         INSERT INTO shop.ballast SELECT seq, 'b', 'c', 'd', 'e' FROM mysql.seq_1_to_24000",
    );
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor]);
    cluster.donor.datadir.join("shop/ballast.ibd")
}

fn clones_killed_on(lab: &Lab, kind: FileSystem) {
    let mut cluster = cluster(lab, &format!("killed-{}", kind.name()), kind);
    let ballast = make_ballast(&cluster);
    let datadir = cluster.donor.datadir.clone();
    cluster.configure(&["source=clone"]);
    next_one_succeeds(&mut cluster);

    // Inside the window, with clones made.
    let before = Before::of(&cluster);
    let run = cluster.begin();
    cluster.donor.wait_log(run.mark(), "Provider paused at", PATIENCE);
    run.stop();
    run.step_until("a clone", || run.cloned_bytes(&datadir) > 0);
    assert_in_window(&cluster, &run);
    before.kill(&mut cluster, run, 0);
    next_one_succeeds(&mut cluster);

    // While it reads the clone, which holds the space of a table that is dropped.
    cluster.configure(&["source=clone", "rate-limit=8M"]);
    let before = Before::of(&cluster);
    let run = cluster.begin();
    cluster.donor.wait_log(run.mark(), "window closed", PATIENCE);
    run.stop();
    let size = std::fs::metadata(&ballast).expect("the table's file").blocks() * 512;
    assert!(size > 20 << 20, "{size}");
    cluster.writer.sql("DROP TABLE shop.ballast");
    until("the donor to drop the table", PATIENCE, || (!ballast.exists()).then_some(()));
    assert!(free_bytes(&cluster.donor.home) < before.free + size / 2, "the clone holds the dropped table's space");
    before.kill(&mut cluster, run, size);
    cluster.configure(&["source=clone"]);
    next_one_succeeds(&mut cluster);

    kill_while_publishing(&mut cluster);
    next_one_succeeds(&mut cluster);
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor]);
}

pub fn a_clone_killed_in_any_phase_leaves_nothing_on_xfs(lab: &Lab) {
    clones_killed_on(lab, FileSystem::Xfs);
}

pub fn a_clone_killed_in_any_phase_leaves_nothing_on_btrfs(lab: &Lab) {
    clones_killed_on(lab, FileSystem::Btrfs);
}

pub fn a_precopy_killed_in_any_phase_leaves_nothing(lab: &Lab) {
    let mut cluster = cluster(lab, "killed-precopy", FileSystem::Ext4);
    cluster.configure(&["source=precopy", "rate-limit=8M"]);

    // In a pass before the window.
    let before = Before::of(&cluster);
    let run = cluster.begin();
    run.wait_read(12 << 20);
    run.stop();
    assert!(!cluster.donor.log(run.mark()).contains("Provider paused at"), "the run was faster than this test");
    before.kill(&mut cluster, run, 0);

    // Inside the window.
    cluster.configure(&["source=precopy"]);
    let before = Before::of(&cluster);
    let run = cluster.begin();
    cluster.donor.wait_log(run.mark(), "window opened", PATIENCE);
    run.stop();
    assert_in_window(&cluster, &run);
    before.kill(&mut cluster, run, 0);
    next_one_succeeds(&mut cluster);

    kill_while_publishing(&mut cluster);
    next_one_succeeds(&mut cluster);
    Cluster::assert_equal(&[&cluster.writer, &cluster.donor]);
}
