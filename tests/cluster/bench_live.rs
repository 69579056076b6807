//! `tests/bench`, the jobs on a real server: how long it stands still, and what its clients notice.
//!
//! One node, with its data on a file system of its own, is its whole cluster; garbd asks it for the backups, while sysbench
//! writes 150 transactions a second and a client of its own inserts a row every 10 ms.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bench::{Bench, LIMIT, bytes_below, is, median, remove};
use crate::lab::backup::{Outcome, Writes, ask, outcome, prepare_tables, text};
use crate::lab::mount::{FileSystem, Mount};
use crate::lab::node::{Node, Options, Role, Session};
use crate::lab::own;
use crate::lab::process::must;

/// How often the client inserts a row.
const INTERVAL: Duration = Duration::from_millis(10);

/// The donor's data.
#[derive(Clone, Copy, Debug)]
struct Shape {
    name: &'static str,
    /// Equal sysbench tables, and the rows of each.
    tables: u32,
    rows: u32,
    /// Empty tables besides: two files each.
    empty: u32,
}

/// 1 GB and 3.5 GB in the same files, something between, and the first with 19,500 files more.
const SMALL: Shape = Shape { name: "live-small", tables: 100, rows: 4_000, empty: 0 };
const LARGE: Shape = Shape { name: "live-large", tables: 100, rows: 100_000, empty: 0 };
const MIDDLE: Shape = Shape { name: "live-middle", tables: 100, rows: 60_000, empty: 0 };
const MANY: Shape = Shape { name: "live-many", tables: 100, rows: 4_000, empty: 9_750 };

/// A donor that runs, on a disk of its own.
struct Site {
    /// Ends before its disk goes.
    node: Node,
    repository: PathBuf,
    _disk: Mount,
}

/// What one backup cost the server.
#[derive(Clone, Copy, Debug, Default)]
struct Stood {
    flush_ms: f64,
    window_ms: f64,
    passes: f64,
    megabytes: f64,
}

impl Bench<'_> {
    /// All jobs on real servers.
    pub fn live(&self) {
        self.windows();
        self.latencies();
        self.precopied();
    }

    /// How long the server stands still on a file system that clones, by size and by number of files.
    fn windows(&self) {
        if !self.wants("live window") {
            return;
        }
        head("data", "| file system | source | files | MB | server's flush ms | window ms | longest | passes |");
        for kind in FileSystem::CLONING {
            let [small, _, many] = [SMALL, LARGE, MANY].map(|shape| self.window(shape, kind, &["clone"])[0]);
            let further = (many - small) * 1e3 / f64::from(2 * MANY.empty);
            println!("| {} | {} | for each further file: {further:.1} µs | | | | | | |", MANY.name, kind.name());
        }
        self.window(MIDDLE, FileSystem::Ext4, &["precopy", "locked"]);
    }

    /// Rows of such a donor for these sources, in turns, with all tables written to; the medians of their windows.
    fn window(&self, shape: Shape, kind: FileSystem, sources: &[&str]) -> Vec<f64> {
        self.window_under(shape, kind, sources, shape.tables)
    }

    fn window_under(&self, shape: Shape, kind: FileSystem, sources: &[&str], written: u32) -> Vec<f64> {
        let mut stood = vec![Vec::new(); sources.len()];
        let mut site = self.site(shape, kind);
        for turn in 0..self.turns {
            // What is written while a clone is held takes other blocks, more with every backup: so each is the first.
            if turn > 0 && FileSystem::CLONING.contains(&kind) {
                drop(site);
                site = self.site(shape, kind);
            }
            let writes = Writes::over(&site.node, written, shape.rows);
            for (source, stood) in sources.iter().zip(&mut stood) {
                stood.push(self.backup(&site, source));
            }
            writes.stop();
        }
        let files = count_files(&site.node.datadir);
        let row = |(source, stood): (&&str, &Vec<Stood>)| {
            let of = |figure: fn(&Stood) -> f64| stood.iter().map(figure).collect::<Vec<f64>>();
            let window = median(of(|one| one.window_ms));
            println!(
                "| {} | {} | {source} | {files} | {:.0} | {:.1} | {window:.1} | {:.1} | {} |",
                shape.name,
                kind.name(),
                median(of(|one| one.megabytes)),
                median(of(|one| one.flush_ms)),
                of(|one| one.window_ms).into_iter().fold(0.0, f64::max),
                median(of(|one| one.passes)),
            );
            window
        };
        sources.iter().zip(&stood).map(row).collect()
    }

    /// Copying ahead where one table in twenty is written to, against copying inside the window.
    fn precopied(&self) {
        if !self.wants("live precopy") {
            return;
        }
        head("data", "| file system | source | files | MB | server's flush ms | window ms | longest | passes |");
        let windows = self.window_under(MIDDLE, FileSystem::Ext4, &["precopy", "locked"], MIDDLE.tables / 20);
        println!("\nprecopy's window is {:.3} of locked's\n", windows[0] / windows[1]);
    }

    /// The longest that a client waits for one row, by the way in which the backup is made: with the server's own settings, and
    /// with one that lets it write its pages soon.
    fn latencies(&self) {
        for (job, setting) in [
            ("live latency", "innodb_max_dirty_pages_pct=90"),
            ("live latency, pages written soon", "innodb_max_dirty_pages_pct=0"),
        ] {
            if self.wants(job) {
                println!("\n{setting}:");
                self.latency(setting);
            }
        }
    }

    fn latency(&self, setting: &str) {
        head(
            "way",
            "| server's flush ms | window ms | longest latency ms, median | shortest | longest | against mariadb-backup |",
        );
        let site = self.site_with(MIDDLE, FileSystem::Xfs, setting);
        site.node.sql("CREATE TABLE shop.pulse (id BIGINT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6))");
        let writes = Writes::over(&site.node, MIDDLE.tables, MIDDLE.rows);
        let source = |source: &'static str| move |site: &Site| Some(self.backup(site, source));
        type Way<'w> = (&'static str, Box<dyn Fn(&Site) -> Option<Stood> + 'w>);
        let stream = |site: &Site| {
            self.mariadb_backup(site);
            None
        };
        let nothing = |_: &Site| {
            std::thread::sleep(Duration::from_secs(10));
            None
        };
        let ways: [Way<'_>; 5] = [
            ("mariadb-backup --stream \\| zstd -1", Box::new(stream)),
            ("clone", Box::new(source("clone"))),
            ("precopy", Box::new(source("precopy"))),
            ("locked", Box::new(source("locked"))),
            ("no backup, for 10 s", Box::new(nothing)),
        ];
        let mut longest = vec![Vec::new(); ways.len()];
        let mut stood = vec![Vec::new(); ways.len()];
        for turn in 0..self.turns {
            // Each turn begins with another way, because each leaves the server's pages as the next one finds them.
            for step in 0..ways.len() {
                let at = (turn + step) % ways.len();
                let (name, way) = &ways[at];
                let client = Client::start(site.node.session());
                stood[at].extend(way(&site));
                longest[at].push(client.stop());
                eprintln!("{name}: {:?}", longest[at]);
            }
        }
        writes.stop();
        let theirs = median(longest[0].clone());
        for (at, (name, _)) in ways.iter().enumerate() {
            let longest = &longest[at];
            let (least, most) = longest.iter().fold((f64::MAX, 0.0_f64), |(a, b), one| (a.min(*one), b.max(*one)));
            let middle = median(longest.clone());
            let of = |figure: fn(&Stood) -> f64| match stood[at].as_slice() {
                [] => String::new(),
                stood => format!("{:.1}", median(stood.iter().map(figure).collect())),
            };
            let (flush, window) = (of(|one| one.flush_ms), of(|one| one.window_ms));
            println!("| {name} | {flush} | {window} | {middle:.0} | {least:.0} | {most:.0} | {:.2} |", middle / theirs);
        }
    }

    /// A donor with such data on such a file system, Synced.
    fn site(&self, shape: Shape, kind: FileSystem) -> Site {
        self.site_with(shape, kind, "innodb_max_dirty_pages_pct=90")
    }

    /// The same, and a line for the server.
    fn site_with(&self, shape: Shape, kind: FileSystem, setting: &str) -> Site {
        let data = self.live_data(shape);
        let (place, repository) = (self.dir.join("disk"), self.dir.join("backups"));
        let disk = Mount::disk(&place, kind, (bytes_below(&data) >> 20) * 2 + 2048);
        let datadir = place.join("data");
        must("cp", Command::new("cp").arg("-a").arg(&data).arg(&datadir), LIMIT);
        // The tables that nobody uses have been there for a while.
        let mut touch = Command::new("find");
        touch.arg(datadir.join("many")).args(["-type", "f", "-exec", "touch", "-d", "2 hours ago", "{}", "+"]);
        must("touch", &mut touch, LIMIT);
        must("sync", &mut Command::new("sync"), LIMIT);
        remove(&repository);
        std::fs::create_dir_all(&repository).expect("a repository");
        own(&repository);
        let backup = [format!("repository={}", text(&repository)), "source=clone".into(), "compress=zstd".into()];
        let server = ["innodb_buffer_pool_size=1G", "table_open_cache=20000", setting].map(str::to_owned).to_vec();
        let options = Options { backup: backup.to_vec(), server, ..Options::default() };
        let mut node = Node::new(self.lab, "node1", self.lab.dir.join("live"), datadir, options);
        node.start(Role::Bootstrap);
        Site { node, repository, _disk: disk }
    }

    /// One backup with this source.
    fn backup(&self, site: &Site, source: &str) -> Stood {
        let Site { node, repository, .. } = site;
        let file = node.option_file();
        let lines = std::fs::read_to_string(&file).expect("the option file");
        let of =
            |line: &str| if line.starts_with("source=") { format!("source={source}\n") } else { format!("{line}\n") };
        std::fs::write(&file, lines.lines().map(of).collect::<String>()).expect("the option file");
        let mark = node.log_mark();
        ask(&self.lab.dir, node);
        let outcome = outcome(node, repository, 0, mark);
        let said = node.backup_log(mark);
        let Outcome::Published(label) = outcome else { panic!("{outcome:?}: {}", node.log_end(60)) };
        assert_eq!(label.text("source"), source);
        remove(&label.dir);
        node.wait_log(mark, "Shifting JOINED -> SYNCED", LIMIT);
        let after = |words: &str| -> f64 {
            let number = said.split_once(words).and_then(|(_, rest)| rest.split_once(" ms")).map(|(number, _)| number);
            number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {words:?} in {said}"))
        };
        let passes = label.number("settle_passes") as f64;
        eprintln!("{source}: flush {} window {} passes {passes}", after("its flush took "), after("was frozen for "));
        let megabytes = label.number("raw_bytes") as f64 / 1e6;
        Stood { flush_ms: after("its flush took "), window_ms: after("was frozen for "), passes, megabytes }
    }

    /// What the stock tool does to bring the same to the same disk.
    fn mariadb_backup(&self, site: &Site) {
        let out = site.repository.join("stream");
        let script = format!(
            "set -o pipefail; mariadb-backup --defaults-file={} --backup --galera-info --stream=mbstream --user=root \
             --socket={} 2>{} | zstd -q -1 -f -o {}",
            text(&site.node.option_file()),
            text(&site.node.socket()),
            text(&self.lab.dir.join("mariadb-backup.log")),
            text(&out),
        );
        must("mariadb-backup", Command::new("bash").args(["-c", &script]), LIMIT);
        remove(&out);
    }

    /// Such a datadir, made once by a real server and closed in good order.
    fn live_data(&self, shape: Shape) -> PathBuf {
        let (datadir, made) = (self.dir.join(shape.name), self.dir.join(format!("{}.made", shape.name)));
        let description = format!("{shape:?}\n");
        if is(&made, &description) {
            return datadir;
        }
        eprintln!("making {} ...", datadir.display());
        remove(&datadir);
        let server = ["innodb_buffer_pool_size=2G", "innodb_doublewrite=OFF"].map(str::to_owned).to_vec();
        let options = Options { server, ..Options::default() };
        let mut node = Node::new(self.lab, shape.name, self.lab.dir.join(shape.name), datadir.clone(), options);
        self.lab.install(&datadir, 48);
        node.start(Role::Standalone);
        node.sql("CREATE DATABASE shop; CREATE DATABASE many");
        prepare_tables(&node, 1, shape.rows);
        for table in 2..=shape.tables {
            node.sql(&format!(
                "CREATE TABLE shop.sbtest{table} LIKE shop.sbtest1; \
                 INSERT INTO shop.sbtest{table} SELECT * FROM shop.sbtest1"
            ));
        }
        let mut session = node.session();
        for table in 0..shape.empty {
            session.run(&format!("CREATE TABLE many.t{table} (a INT PRIMARY KEY)"));
        }
        drop(session);
        node.sql("SET GLOBAL innodb_fast_shutdown = 0");
        node.stop();
        std::fs::write(&made, description).expect("a marker");
        datadir
    }
}

/// A client that inserts one row after the other.
struct Client {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Client {
    fn start(mut session: Session) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !told.load(Ordering::Acquire) {
                let begun = Instant::now();
                session.run("INSERT INTO shop.pulse (at) VALUES (NOW(6))");
                longest = longest.max(begun.elapsed());
                std::thread::sleep(INTERVAL.saturating_sub(begun.elapsed()));
            }
            longest
        });
        Self { stop, thread }
    }

    /// The longest that one row took, in milliseconds.
    fn stop(self) -> f64 {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the client").as_secs_f64() * 1e3
    }
}

/// The head of a table whose first column is `first`.
fn head(first: &str, others: &str) {
    println!("\n| {first} {others}\n|---{}|", "|---:".repeat(others.matches('|').count() - 1));
}

fn count_files(directory: &Path) -> usize {
    let count = |entry: std::fs::DirEntry| {
        let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if directory { count_files(&entry.path()) } else { 1 }
    };
    std::fs::read_dir(directory).expect("a directory").flatten().map(count).sum()
}
