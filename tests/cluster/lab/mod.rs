//! A laboratory of real servers: everything in one temporary directory, on loopback ports of its own.
//!
//! The program under test gets into the servers' SST slot without touching the system: a mariadbd puts `bin` of its
//! `basedir` in front of `PATH`, so the servers here get a private `basedir` whose `bin` holds links to the stock scripts
//! and a copy of the program.

pub mod backup;
pub mod cluster;
pub mod mount;
pub mod node;
pub mod ports;
pub mod process;
pub mod run;
pub mod system;
pub mod trace;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use node::{ACCOUNT, Node, Options, Role, Slot};
use process::{must, remove_tree, run};
use system::System;

/// The server program: not on every user's `PATH`, so by its place.
pub const SERVER: &str = "/usr/sbin/mariadbd";

/// `wsrep_cluster_name` of every cluster here.
pub const CLUSTER_NAME: &str = "lab";

/// The program under test, as cargo built it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_wsrep_sst_backup");

/// How much data a cluster starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// Two tables, a few megabytes.
    Small,
    /// Four tables, some 100 MB.
    Medium,
    /// Four tables, some 300 MB: copying takes long enough to do something meanwhile.
    Large,
}

impl Seed {
    /// Tables and rows per table.
    fn shape(self) -> (u32, u32) {
        match self {
            Seed::Small => (2, 5_000),
            Seed::Medium => (4, 80_000),
            Seed::Large => (4, 280_000),
        }
    }
}

/// What is left when the lab is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// The directory, to look at.
    Directory,
    /// The directory, and servers that go on running.
    Servers,
}

/// The directory of everything, and what is made once for all tests.
pub struct Lab {
    /// The directory; user mysql may pass through.
    pub dir: PathBuf,
    /// Where the servers' programs are.
    pub system: System,
    /// The private `basedir`.
    pub basedir: PathBuf,
    /// The server's messages and character sets.
    pub share: PathBuf,
    /// Galera.
    pub provider: PathBuf,
    /// The copy of the program in the SST slot.
    pub program: PathBuf,
    after: After,
    small: OnceLock<PathBuf>,
    medium: OnceLock<PathBuf>,
    large: OnceLock<PathBuf>,
}

impl Lab {
    /// Makes the directory; it is removed when the lab is dropped or stopped by a signal, unless `after` says otherwise.
    pub fn new(after: After) -> Result<Self, String> {
        Self::with(System::default(), after)
    }

    /// The same, with servers of another system.
    pub fn with(system: System, after: After) -> Result<Self, String> {
        let first_of = |directories: &[&str], holds| first_of(&system, directories, holds);
        let share = first_of(&["/usr/share/mysql", "/usr/share/mariadb"], "english/errmsg.sys")?;
        let provider =
            first_of(&["/usr/lib/galera", "/usr/lib/galera-4"], "libgalera_smm.so")?.join("libgalera_smm.so");
        let dir =
            tempfile::Builder::new().prefix("wsrep_sst_backup-lab-").tempdir().map_err(|error| error.to_string())?;
        let dir = dir.keep();
        process::directory_to_remove(Some(dir.as_path()).filter(|_| after != After::Directory));
        mode(&dir, 0o755);
        system.admit(&dir)?;
        let basedir = dir.join("basedir");
        private_basedir(&system, &basedir, Path::new(PROGRAM));
        let program = in_slot(&basedir);
        let (small, medium, large) = Default::default();
        Ok(Self { dir, system, basedir, share, provider, program, after, small, medium, large })
    }

    /// The private `basedir` with this program in its slot.
    pub fn basedir_with(&self, slot: Slot) -> PathBuf {
        if slot == Slot::Ours {
            return self.basedir.clone();
        }
        let basedir = self.dir.join("naive");
        if !basedir.exists() {
            private_basedir(&self.system, &basedir, &std::env::current_exe().expect("this test program"));
        }
        basedir
    }

    /// A datadir with `seed`'s tables in database `shop`, made at first need: it can start a cluster, and copies of it
    /// are members without a state transfer.
    fn seed(&self, seed: Seed) -> &Path {
        let made = match seed {
            Seed::Small => &self.small,
            Seed::Medium => &self.medium,
            Seed::Large => &self.large,
        };
        made.get_or_init(|| self.make_seed(seed))
    }

    fn make_seed(&self, seed: Seed) -> PathBuf {
        let home = self.dir.join(format!("seed-{seed:?}").to_lowercase());
        let datadir = home.join("data");
        let mut node = Node::new(self, "seed", home, datadir.clone(), Options::default());
        self.install(&datadir, 48);
        node.start(Role::Bootstrap);
        let (tables, rows) = seed.shape();
        node.sql("CREATE DATABASE shop");
        backup::prepare_tables(&node, tables, rows);
        node.stop();
        datadir
    }

    /// Makes a new server's datadir, with a redo log of `log_mebibytes`.
    pub fn install(&self, datadir: &Path, log_mebibytes: u32) {
        let mut install = self.system.command("mariadb-install-db");
        install.args(["--no-defaults", "--force", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.args(["--innodb-undo-tablespaces=3"]);
        install.arg(format!("--innodb-log-file-size={log_mebibytes}M"));
        install.arg(format!("--user={ACCOUNT}")).arg(format!("--datadir={}", datadir.display()));
        must("mariadb-install-db", &mut install, Duration::from_secs(120));
    }

    /// Whether servers die with the lab, however it ends.
    pub fn takes_servers_along(&self) -> bool {
        self.after != After::Servers
    }

    /// From now on the lab leaves nothing behind: what was to go on running will not.
    pub fn leave_nothing(&mut self) {
        self.after = After::Nothing;
    }

    /// Gives a node a datadir of its own with `seed`'s tables.
    pub fn plant(&self, seed: Seed, node: &Node) {
        copy_tree(self.seed(seed), &node.datadir);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.after == After::Nothing {
            remove_tree(&self.dir);
        }
    }
}

/// What stands in the way of running servers here, in words for the person who reads it.
pub fn missing() -> Vec<String> {
    let mut lacks = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        lacks.push("the servers run as user mysql, so the cluster tests must be started by root".to_owned());
    }
    let programs = [
        "mariadb",
        "mariadb-install-db",
        "my_print_defaults",
        "garbd",
        "sysbench",
        "rsync",
        "setpriv",
        "zstd",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.ext4",
    ];
    for program in programs {
        if !on_path(program) {
            lacks.push(format!("{program} is not installed (tests/packages installs what is missing)"));
        }
    }
    if !Path::new(SERVER).exists() {
        lacks.push(format!("{SERVER} is not installed (tests/packages installs what is missing)"));
    }
    lacks
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

fn first_of(system: &System, directories: &[&str], holds: &str) -> Result<PathBuf, String> {
    let is_there = |directory: &&Path| system.on_machine(&directory.join(holds)).exists();
    let found = directories.iter().map(Path::new).find(is_there);
    found.map(Path::to_owned).ok_or_else(|| format!("{holds} is in none of {directories:?}"))
}

/// The SST slot of a basedir.
pub fn in_slot(basedir: &Path) -> PathBuf {
    basedir.join("bin").join("wsrep_sst_backup")
}

/// Makes a basedir with a copy of `program` in the slot.
fn private_basedir(system: &System, basedir: &Path, program: &Path) {
    let bin = basedir.join("bin");
    std::fs::create_dir_all(&bin).expect("basedir");
    let stock = Path::new("/usr/bin");
    for entry in std::fs::read_dir(system.on_machine(stock)).expect("/usr/bin").flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if (text.starts_with("wsrep_sst_") && text != "wsrep_sst_backup") || text == "my_print_defaults" {
            symlink(stock.join(&name), bin.join(&name)).expect("a link to a stock script");
        }
    }
    std::fs::copy(program, in_slot(basedir)).expect("a program for the slot");
    for place in [basedir, &bin, &in_slot(basedir)] {
        mode(place, 0o755);
    }
}

/// Sets the permission bits of `path`.
pub fn mode(path: &Path, bits: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).expect("permissions");
}

/// Gives `path` and everything in it to the servers' account.
pub fn own(path: &Path) {
    run("chown", [Path::new("-R"), Path::new(&format!("{ACCOUNT}:{ACCOUNT}")), path]);
}

/// Copies a directory as it is: owners, times, holes.
fn copy_tree(from: &Path, to: &Path) {
    run("cp", [Path::new("-a"), Path::new("--reflink=auto"), from, to]);
}
