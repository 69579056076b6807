//! `tests/bench`: what a backup and a restore cost, side by side with what the shell does; medians, in Markdown.
//!
//! The data are sysbench tables that a real mariadbd wrote and closed. A donor run is driven by a server that only speaks
//! the wire: it answers `flush tables` at once, so that the program's own work is what is measured.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::lab::backup::{prepare_tables, text};
use crate::lab::node::{ACCOUNT, Node, Options, Role};
use crate::lab::process::{Process, must, run};
use crate::lab::{After, Lab, own};

/// The position that the driver gives to the frozen server.
const GTID: &str = "6d3f9a04-1234-11ef-8000-0242ac120002:4711";

/// How long one run may take.
pub const LIMIT: Duration = Duration::from_secs(1800);

/// The cost of one run.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall_s: f64,
    cpu_s: f64,
    peak_mib: f64,
    stored_bytes: u64,
    /// From the server's answer to the run's `continue`, less the window that the run itself logs.
    unseen_ms: f64,
}

/// One way to do a job; it is run in turns with the others.
struct Way<'a> {
    name: String,
    run: Box<dyn Fn() -> Cost + 'a>,
}

impl<'a> Way<'a> {
    fn new(name: &str, run: impl Fn() -> Cost + 'a) -> Self {
        Self { name: name.to_owned(), run: Box::new(run) }
    }
}

/// The directory of the measured data and of what the runs write.
pub struct Bench<'l> {
    pub lab: &'l Lab,
    pub dir: PathBuf,
    pub turns: usize,
    /// Only jobs whose name holds this.
    only: String,
}

/// Runs the benchmark: `--data DIR` (kept between runs), `--turns N` (5), `--only WORD` (jobs whose name holds it).
pub fn measure(arguments: &[&str]) -> ExitCode {
    let (mut dir, mut turns, mut only) = (None, 5, "");
    for pair in arguments.chunks(2) {
        match pair {
            ["--data", value] => dir = Some(PathBuf::from(value)),
            ["--turns", value] if value.parse().is_ok_and(|n: usize| n > 0) => turns = value.parse().unwrap_or(5),
            ["--only", word] => only = word,
            _ => {
                dir = None;
                break;
            }
        }
    }
    let Some(dir) = dir.filter(|dir| dir.is_absolute()) else {
        eprintln!("usage: tests/bench --data ABSOLUTE-DIRECTORY [--turns N] [--only WORD]; it needs some 12 GB there");
        return ExitCode::from(2);
    };
    let lab = match Lab::new(After::Nothing) {
        Ok(lab) => lab,
        Err(cause) => {
            eprintln!("cannot set up the lab: {cause}");
            return ExitCode::FAILURE;
        }
    };
    std::fs::create_dir_all(&dir).expect("the directory of the data");
    crate::lab::mode(&dir, 0o755);
    let bench = Bench { lab: &lab, dir, turns, only: only.to_owned() };
    bench.report();
    ExitCode::SUCCESS
}

impl Bench<'_> {
    /// Whether a job of this name is to be run.
    pub fn wants(&self, job: &str) -> bool {
        job.contains(&self.only)
    }

    fn report(&self) {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        println!("{processors} processors; medians of {}", self.turns);
        self.own_work();
        self.noticing();
        self.page_cache();
        self.live();
    }

    /// The program's own work: driven by a server that only speaks the wire, on the files of a stopped one.
    fn own_work(&self) {
        let jobs = [
            "archive, zstd 1",
            "archive, gzip 6",
            "restore, zstd 1",
            "archive, zstd 1, 200 MB",
            "archive, none, 20,000 small files",
            "archive, zstd 1, 20,000 small files",
            "restore, zstd 1, 20,000 small files",
        ];
        if !jobs.iter().any(|job| self.wants(job)) {
            return;
        }
        let large = self.large();
        let small = self.small();
        let many = self.many_files();
        println!(
            "\n{} and {} of sysbench tables, {} in 20,000 files\n",
            mebibytes(&large),
            mebibytes(&small),
            mebibytes(&many),
        );
        println!("| job | way | wall s | MB/s | CPU s | peak MiB | stored MB | wall against ours |");
        println!("|---|---|---:|---:|---:|---:|---:|---:|");
        self.archive(jobs[0], &large, "zstd", "| zstd -q -1 -T0");
        self.archive(jobs[1], &large, "gzip", "| pigz");
        self.restore(jobs[2], &large);
        self.archive(jobs[3], &small, "zstd", "| zstd -q -1 -T0");
        self.archive(jobs[4], &many, "none", "");
        self.archive(jobs[5], &many, "zstd", "| zstd -q -1 -T0");
        self.restore(jobs[6], &many);
    }

    fn large(&self) -> PathBuf {
        self.data("large", 8, 1_150_000)
    }

    fn small(&self) -> PathBuf {
        self.data("small", 2, 200_000)
    }

    /// How much longer than the logged window the server waits: we look for its answer every other millisecond.
    fn noticing(&self) {
        if !self.wants("noticing the answer") {
            return;
        }
        let (data, out) = (self.small(), self.dir.join("out"));
        let unseen: Vec<f64> =
            (0..4 * self.turns).map(|_| self.donor(&data, &out, "source=precopy").unseen_ms).collect();
        remove(&out);
        let longest = unseen.iter().fold(0.0_f64, |most, one| most.max(*one));
        println!("\n| from the server's answer to `continue`, less the logged window | median ms | longest ms |");
        println!("|---|---:|---:|\n| {} runs | {:.1} | {longest:.1} |", unseen.len(), median(unseen));
    }

    /// How much of what the server has in the page cache stays there, and what a run leaves there besides.
    fn page_cache(&self) {
        if !self.wants("page cache") {
            return;
        }
        let (data, out) = (self.large(), self.dir.join("out"));
        let tables: Vec<PathBuf> = (1..=8).map(|table| data.join(format!("shop/sbtest{table}.ibd"))).collect();
        let (used, unused) = tables.split_at(4);
        println!("\n| way | four tables in use: MiB cached before | after | four others: MiB cached before | after |");
        println!("|---|---:|---:|---:|---:|");
        let tar = format!("tar -c -C {} . | cat > {}", text(&data), text(&self.dir.join("hand")));
        type Way<'w> = (&'static str, Box<dyn Fn() -> Cost + 'w>);
        let ways: [Way<'_>; 3] = [
            ("ours, locked", Box::new(|| self.donor(&data, &out, "source=locked"))),
            ("ours, precopy", Box::new(|| self.donor(&data, &out, "source=precopy"))),
            ("tar", Box::new(|| self.shell(&tar, &self.dir.join("hand")))),
        ];
        for (name, way) in &ways {
            // What was just written cannot be dropped.
            must("sync", &mut Command::new("sync"), LIMIT);
            for table in unused {
                must(
                    "dd",
                    Command::new("dd").args(["iflag=nocache", "count=0"]).arg(format!("if={}", text(table))),
                    LIMIT,
                );
            }
            must("cat", Command::new("sh").args(["-c", "cat \"$@\" > /dev/null", "cat"]).args(used), LIMIT);
            let before = (cached_mib(used), cached_mib(unused));
            way();
            let after = (cached_mib(used), cached_mib(unused));
            println!("| {name} | {} | {} | {} | {} |", before.0, after.0, before.1, after.1);
        }
        [&out, &self.dir.join("hand")].iter().for_each(|left| remove(left));
    }

    /// A donor run against `tar`, through `filter` and without, and against the same brought to the disk.
    fn archive(&self, name: &str, data: &Path, codec: &str, filter: &str) {
        let (out, hand) = (self.dir.join("out"), self.dir.join("hand"));
        let script = format!("tar -c -C {} . {filter} > {}", text(data), text(&hand));
        let shell = format!("tar {filter}").replace('|', "\\|").trim_end().to_owned();
        let option = format!("compress={codec}");
        self.job(
            name,
            data,
            vec![
                Way::new("ours (SHA-256, fsync)", || self.donor(data, &out, &option)),
                Way::new(&shell, || self.shell(&script, &hand)),
                Way::new(&format!("{shell}, sync"), || self.synced(|| self.shell(&script, &hand), &hand)),
            ],
        );
        [out, hand].iter().for_each(|left| remove(left));
    }

    /// A restore against `zstd` and `tar`, both brought to the disk.
    fn restore(&self, name: &str, data: &Path) {
        if !self.wants(name) {
            return;
        }
        let backup = self.kept_backup(data);
        let archive = backup.join("archive.tar.zst");
        self.job(
            name,
            data,
            vec![
                Way::new("ours (digests proved)", || self.restored(&backup)),
                Way::new("zstd -dc \\| tar -x, sync", || self.unpacked(&archive)),
            ],
        );
        remove(&self.dir.join("kept"));
    }

    /// Runs all ways in turns, once to warm up and then `turns` times, and prints a row for each.
    fn job(&self, name: &str, data: &Path, ways: Vec<Way<'_>>) {
        if !self.wants(name) {
            return;
        }
        let raw_mb = bytes_below(data) as f64 / 1e6;
        let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); ways.len()];
        for turn in 0..=self.turns {
            for (way, costs) in ways.iter().zip(&mut costs) {
                let cost = (way.run)();
                if turn > 0 {
                    costs.push(cost);
                }
            }
        }
        let middle = |costs: &[Cost], of: fn(&Cost) -> f64| median(costs.iter().map(of).collect());
        let ours = middle(&costs[0], |cost| cost.wall_s);
        for (way, costs) in ways.iter().zip(&costs) {
            let wall = middle(costs, |cost| cost.wall_s);
            println!(
                "| {name} | {} | {wall:.2} | {:.0} | {:.2} | {:.0} | {:.0} | {:.2} |",
                way.name,
                raw_mb / wall,
                middle(costs, |cost| cost.cpu_s),
                middle(costs, |cost| cost.peak_mib),
                middle(costs, |cost| cost.stored_bytes as f64) / 1e6,
                ours / wall,
            );
        }
    }

    /// A datadir of sysbench tables, made once by a real server and closed in good order.
    fn data(&self, name: &str, tables: u32, rows: u32) -> PathBuf {
        let (datadir, made) = (self.dir.join(name), self.dir.join(format!("{name}.made")));
        // What the data are like: other data under this name are made anew.
        let shape = format!("{tables} tables of {rows} rows, redo log of 64 MiB\n");
        if !is(&made, &shape) {
            eprintln!("making {} ...", datadir.display());
            remove(&datadir);
            let server = ["innodb_buffer_pool_size=1G", "innodb_log_file_size=64M", "innodb_doublewrite=OFF"];
            let options = Options { server: server.map(str::to_owned).to_vec(), ..Options::default() };
            let home = self.lab.dir.join(name);
            let mut node = Node::new(self.lab, name, home, datadir.clone(), options);
            self.lab.install(&datadir, 64);
            node.start(Role::Standalone);
            node.sql("CREATE DATABASE shop");
            prepare_tables(&node, tables, rows);
            node.sql("SET GLOBAL innodb_fast_shutdown = 0");
            node.stop();
            std::fs::write(&made, shape).expect("a marker");
        }
        saved_state(&datadir);
        datadir
    }

    /// A new server's datadir, and in it 20,000 files of 1 to 8 KiB in one database.
    fn many_files(&self) -> PathBuf {
        let (datadir, made) = (self.dir.join("many"), self.dir.join("many.made"));
        let shape = "20000 files of 1 to 8 KiB, redo log of 4 MiB\n";
        if !is(&made, shape) {
            remove(&datadir);
            self.lab.install(&datadir, 4);
            let database = datadir.join("many");
            std::fs::create_dir_all(&database).expect("a database");
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            for file in 0..20_000 {
                let mut bytes = Vec::new();
                while bytes.len() < 1024 * (1 + file % 8) {
                    // A linear congruential sequence, half of it text: compresses about as tables do.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    bytes.extend(format!("row {:06}", random >> 44).bytes().chain((random >> 16).to_le_bytes()));
                }
                std::fs::write(database.join(format!("t{file:05}.MYD")), bytes).expect("a file");
            }
            std::fs::write(&made, shape).expect("a marker");
        }
        saved_state(&datadir);
        datadir
    }

    /// A donor run on `datadir` with this option; what it published is in `out` until the next run.
    fn donor(&self, datadir: &Path, out: &Path, option: &str) -> Cost {
        remove(out);
        std::fs::create_dir_all(out).expect("a repository");
        own(out);
        let options = self.lab.dir.join("bench.cnf");
        let group = format!("[mysqld]\n[wsrep_sst_backup]\nrepository={}\nsource=locked\n{option}\n", text(out));
        std::fs::write(&options, group).expect("an option file");
        let (mut command, report) = self.timed();
        command.args(["setpriv", "--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups", "--"]).arg(&self.lab.program);
        command.args(["--role", "donor", "--address", "", "--socket", "/nonexistent", "--gtid", GTID]);
        command.arg("--datadir").arg(format!("{}/", text(datadir))).arg("--defaults-file").arg(&options);
        command.args(["--gtid-domain-id", "0"]).current_dir(datadir).stdin(Stdio::null()).stdout(Stdio::piped());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", text(&self.lab.basedir.join("bin"))));
        let log = std::fs::File::create(self.lab.dir.join("bench.log")).expect("a log");
        command.stderr(log);
        let started = Instant::now();
        let mut process = Process::spawn("a donor run", &mut command);
        let seen = speak(&mut process, datadir);
        let status = process.wait(LIMIT);
        let wall = started.elapsed();
        let said = || std::fs::read_to_string(self.lab.dir.join("bench.log")).unwrap_or_default();
        let Some(seen) = seen.filter(|_| status.success()) else {
            panic!("the donor run failed ({status}):\n{}", said())
        };
        let logged = said().split_once("was frozen for ").and_then(|(_, rest)| rest.split_once(" ms")?.0.parse().ok());
        let logged: f64 = logged.unwrap_or_else(|| panic!("no window in {}", said()));
        Cost { unseen_ms: seen.as_secs_f64() * 1e3 - logged, ..self.cost(wall, &report, out) }
    }

    /// A backup of `datadir` that stays, for the restores.
    fn kept_backup(&self, datadir: &Path) -> PathBuf {
        let kept = self.dir.join("kept");
        self.donor(datadir, &kept, "compress=zstd");
        let mut entries = std::fs::read_dir(&kept).expect("the repository").flatten();
        entries.next().expect("a backup").path()
    }

    fn restored(&self, backup: &Path) -> Cost {
        let target = self.dir.join("restored");
        remove(&target);
        let (mut command, report) = self.timed();
        let (repository, id) = (backup.parent().expect("a repository"), backup.file_name().expect("an id"));
        command.arg(&self.lab.program).arg("--repository").arg(repository).arg("restore").arg(id);
        command.arg("--target").arg(&target);
        self.brought_to_disk(command, &report, &target)
    }

    fn unpacked(&self, archive: &Path) -> Cost {
        let target = self.dir.join("restored");
        remove(&target);
        std::fs::create_dir_all(&target).expect("a target");
        let (mut command, report) = self.timed();
        command.args(["sh", "-c", &format!("zstd -dc {} | tar -x -C {}", text(archive), text(&target))]);
        self.brought_to_disk(command, &report, &target)
    }

    /// Runs a restore and the final sync of its target.
    fn brought_to_disk(&self, mut command: Command, report: &Path, target: &Path) -> Cost {
        let started = Instant::now();
        must("a restore", &mut command, LIMIT);
        run("sync", [Path::new("-f"), target]);
        let cost = self.cost(started.elapsed(), report, target);
        remove(target);
        cost
    }

    /// Runs a shell pipeline that writes `out`.
    fn shell(&self, script: &str, out: &Path) -> Cost {
        let (mut command, report) = self.timed();
        command.args(["sh", "-c", script]);
        let started = Instant::now();
        must("a pipeline", &mut command, LIMIT);
        self.cost(started.elapsed(), &report, out)
    }

    /// The same with what it wrote brought to the disk.
    fn synced(&self, run_it: impl FnOnce() -> Cost, out: &Path) -> Cost {
        let started = Instant::now();
        let cost = run_it();
        run("sync", [out]);
        Cost { wall_s: started.elapsed().as_secs_f64(), ..cost }
    }

    /// `time`, which writes CPU seconds and peak memory of all that it runs to a file.
    fn timed(&self) -> (Command, PathBuf) {
        let report = self.lab.dir.join("bench.time");
        let mut command = Command::new("/usr/bin/time");
        command.args(["-f", "%U %S %M", "-o"]).arg(&report);
        (command, report)
    }

    fn cost(&self, wall: Duration, report: &Path, written: &Path) -> Cost {
        let report = std::fs::read_to_string(report).expect("the report of time");
        let figures: Vec<f64> = report.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        let [user, system, peak_kib] = figures[..] else { panic!("time reported {report:?}") };
        let stored_bytes = bytes_below(written);
        let (wall_s, peak_mib) = (wall.as_secs_f64(), peak_kib / 1024.0);
        Cost { wall_s, cpu_s: user + system, peak_mib, stored_bytes, unseen_ms: 0.0 }
    }
}

/// Whether the file holds this text.
pub fn is(file: &Path, text: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|found| found == text)
}

/// Gives a datadir the position that the driver answers with, and all of it to the servers' account.
fn saved_state(datadir: &Path) {
    let (uuid, seqno) = GTID.split_once(':').expect("a GTID");
    let state =
        format!("# GALERA saved state\nversion: 2.1\nuuid:    {uuid}\nseqno:   {seqno}\nsafe_to_bootstrap: 0\n");
    std::fs::write(datadir.join("grastate.dat"), state).expect("the saved state");
    own(datadir);
}

/// Speaks the server's part of the wire; how long after its answer the run said `continue`, if it said `done` at last.
fn speak(process: &mut Process, datadir: &Path) -> Option<Duration> {
    let lines = BufReader::new(process.pipes().stdout.take().expect("piped"));
    let answer = datadir.join("tables_flushed");
    let (mut answered, mut window, mut done) = (None, None, false);
    for line in lines.lines().map_while(Result::ok) {
        if line == "flush tables" {
            let fresh = datadir.join("tables_flushed.tmp");
            std::fs::write(&fresh, format!("{GTID} 0\n")).expect("the answer");
            own(&fresh);
            answered = Some(Instant::now());
            std::fs::rename(&fresh, &answer).expect("the answer");
        } else if line == "continue" {
            window = answered.map(|answered: Instant| answered.elapsed());
        }
        done = done || line.starts_with(&format!("done {GTID}"));
    }
    let _ = std::fs::remove_file(answer);
    window.filter(|_| done)
}

/// How much of these files is in the page cache, in MiB.
fn cached_mib(files: &[PathBuf]) -> u64 {
    let mut fincore = Command::new("fincore");
    let cached = must("fincore", fincore.args(["--bytes", "--noheadings", "--output", "RES"]).args(files), LIMIT);
    cached.split_whitespace().filter_map(|bytes| bytes.parse::<u64>().ok()).sum::<u64>() >> 20
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The sum of the sizes of all files below `path`, or the file's own.
pub fn bytes_below(path: &Path) -> u64 {
    let meta = std::fs::symlink_metadata(path).expect("a file");
    if !meta.is_dir() {
        return meta.len();
    }
    std::fs::read_dir(path).expect("a directory").flatten().map(|entry| bytes_below(&entry.path())).sum()
}

fn mebibytes(path: &Path) -> String {
    format!("{} MiB", bytes_below(path) >> 20)
}

/// Removes whatever is there.
pub fn remove(path: &Path) {
    run("rm", [Path::new("-rf"), path]);
}
