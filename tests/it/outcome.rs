//! What a run left: its lines, its exit status, its log and its repository.

use std::any::Any;
use std::path::PathBuf;
use std::process::ExitStatus;

use nix::errno::Errno;

use crate::tree;

/// The files by which the server answers: a run leaves none of them behind.
const ANSWERS: [&str; 4] = ["tables_flushed", "tables_flushed.tmp", "sst_error", "sst_error.tmp"];

/// What a finished run left.
pub struct Outcome {
    pub wire: Vec<String>,
    status: ExitStatus,
    pub stderr: String,
    repository: PathBuf,
    _owned: Vec<Box<dyn Any>>,
}

impl Outcome {
    /// Checks what holds for every run: the form of the log, no answer file left behind.
    pub fn new(
        wire: Vec<String>,
        status: ExitStatus,
        stderr: String,
        datadir: PathBuf,
        repository: PathBuf,
        owned: Vec<Box<dyn Any>>,
    ) -> Self {
        for line in stderr.lines() {
            assert!(is_log_line(line), "not a line of the log: {line:?}\n{stderr}");
        }
        for name in ANSWERS {
            assert!(std::fs::symlink_metadata(datadir.join(name)).is_err(), "{name} is left\n{stderr}");
        }
        Self { wire, status, stderr, repository, _owned: owned }
    }

    /// The lines without those of progress are exactly these.
    #[track_caller]
    pub fn wire<'l>(self, lines: impl IntoIterator<Item = &'l str>) -> Self {
        let progress = |line: &&String| !line.starts_with("total ") && !line.starts_with("complete ");
        let said: Vec<&str> = self.wire.iter().filter(progress).map(String::as_str).collect();
        assert_eq!(said, lines.into_iter().collect::<Vec<_>>(), "{}", self.stderr);
        self
    }

    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.status.code(), Some(0), "{}", self.stderr);
        assert!(!self.stderr.contains("[ERROR]"), "{}", self.stderr);
        self
    }

    /// It ended with this errno, which the server reads, and exactly one error in its log.
    #[track_caller]
    pub fn fails(self, errno: Errno) -> Self {
        assert_eq!(self.status.code(), Some(errno as i32), "{}", self.stderr);
        assert_eq!(self.stderr.matches("[ERROR]").count(), 1, "{}", self.stderr);
        assert!(!self.wire.iter().any(|line| line.starts_with("done")), "{:?}", self.wire);
        self
    }

    /// It said `done` when its files were held, which the server took for the end, and failed all the same.
    #[track_caller]
    pub fn fails_after_done(self) -> Self {
        assert_eq!(self.status.code(), Some(0), "{}", self.stderr);
        assert_eq!(self.stderr.matches("[ERROR]").count(), 1, "{}", self.stderr);
        assert!(self.wire.iter().any(|line| line.starts_with("done")), "{:?}", self.wire);
        self
    }

    /// The repository holds so many whole backups, and nothing else.
    #[track_caller]
    pub fn published(self, backups: usize) -> Self {
        assert_eq!(self.count_published(), backups, "{}", self.stderr);
        self
    }

    /// The number of whole backups; anything else in the repository is a failure.
    #[track_caller]
    pub fn count_published(&self) -> usize {
        if !self.repository.is_dir() {
            return 0;
        }
        let all = tree::list(&self.repository);
        let ids: Vec<&String> = all.iter().filter(|name| !name.contains('/')).collect();
        for id in &ids {
            let parts = all.iter().filter_map(|name| name.strip_prefix(&format!("{id}/")));
            let endings: Vec<&str> = parts.map(|name| name.split('.').next().unwrap()).collect();
            assert_eq!(endings, ["archive", "backup", "manifest"], "of all: {all:?}\n{}", self.stderr);
            let label = std::fs::read(self.repository.join(id).join("backup.json")).unwrap();
            let label: serde_json::Value = serde_json::from_slice(&label).unwrap();
            assert_eq!(label["id"].as_str(), Some(id.as_str()));
        }
        ids.len()
    }

    /// `done` was said if and only if there is a backup, and nothing else is there.
    #[track_caller]
    pub fn leaves_all_or_nothing(self) -> Self {
        let done = self.wire.iter().any(|line| line.starts_with("done "));
        assert_eq!(self.count_published(), usize::from(done), "{:?}\n{}", self.wire, self.stderr);
        assert_eq!(self.status.success(), done, "{}", self.stderr);
        self
    }

    /// The log holds this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub fn never_says(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "{text:?} in\n{}", self.stderr);
        self
    }

    /// The first label in the repository.
    pub fn label(&self) -> serde_json::Value {
        let label =
            tree::list(&self.repository).into_iter().find(|name| name.ends_with("/backup.json")).expect("a label");
        serde_json::from_slice(&std::fs::read(self.repository.join(label)).unwrap()).unwrap()
    }
}

/// `WSREP_SST: [INFO] text (20261122 10:09:46.037)`.
fn is_log_line(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("WSREP_SST: [") else { return false };
    let Some((severity, rest)) = rest.split_once("] ") else { return false };
    let Some((_, time)) = rest.rsplit_once(" (") else { return false };
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    ["INFO", "WARNING", "ERROR"].contains(&severity)
        && form == "99999999 99:99:99.999)"
        && !rest.chars().any(char::is_control)
}
