//! The binary logs: which of them a backup takes, and the index that lists those.
//!
//! A restored server reads its index, opens the last log in it, and scans it because it was in use
//! (`MYSQL_BIN_LOG::do_binlog_recovery` in MariaDB's `sql/log.cc`). A listed log that is missing keeps it from starting.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::classify::digits;
use crate::archive::label::BinlogPosition;
use crate::error::{Class, Error, Result};
use crate::relpath::escape;

/// Which binary logs belong into a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binlogs {
    /// None.
    None,
    /// The newest, which holds the state of the binary log and nothing else: the server begins a new one for the backup.
    #[default]
    Last,
    /// All that the index lists.
    All,
}

/// The most bytes of an index: a hundred thousand logs.
const INDEX_BYTES: u64 = 64 << 20;

/// Where the binary logs are.
#[derive(Clone, Debug)]
pub(super) struct BinlogFiles {
    /// Their directory, canonical.
    pub directory: PathBuf,
    /// What their names begin with.
    pub base: OsString,
    /// The index.
    pub index: PathBuf,
}

/// The binary logs at the time of one survey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    base: OsString,
    /// What the index lists, of the logs in their directory: each line, and the name in it.
    listed: Vec<(Vec<u8>, OsString)>,
    names: HashSet<OsString>,
    which: Binlogs,
    newest: Option<OsString>,
    /// Listed logs in other directories.
    elsewhere: usize,
    missing: bool,
}

impl BinlogFiles {
    /// Reads the index: the server may have begun a new log since the last time.
    pub(super) fn select(&self, datadir: &Path, which: Binlogs) -> Result<Selection> {
        let text = match read_bounded(&self.index) {
            Ok(text) => Some(text),
            Err(error) if error.os_error() == Some(nix::errno::Errno::ENOENT as i32) => None,
            Err(error) => return Err(error),
        };
        let mut selection = Selection {
            base: self.base.clone(),
            listed: Vec::new(),
            names: HashSet::new(),
            which,
            newest: None,
            elsewhere: 0,
            missing: text.is_none(),
        };
        let mut here: HashMap<PathBuf, bool> = HashMap::new();
        for line in text.unwrap_or_default().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let path = datadir.join(OsStr::from_bytes(line));
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let same = *here
                .entry(directory.to_owned())
                .or_insert_with(|| directory.canonicalize().is_ok_and(|directory| directory == self.directory));
            if same && selection.number(name).is_some() {
                selection.listed.push((line.to_vec(), name.to_owned()));
            } else {
                selection.elsewhere += 1;
            }
        }
        let newest = selection.listed.iter().max_by_key(|(_, name)| selection.number(name));
        selection.names = selection.listed.iter().map(|(_, name)| name.clone()).collect();
        selection.newest = newest.map(|(_, name)| name.clone());
        Ok(selection)
    }

    /// The end of the newest log.
    pub(super) fn position(&self, selection: &Selection) -> Result<Option<BinlogPosition>> {
        let Some(name) = &selection.newest else { return Ok(None) };
        let path = self.directory.join(name);
        match path.metadata() {
            Ok(metadata) => Ok(Some(BinlogPosition { file: escape(name.as_bytes()), position: metadata.len() })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look at", &path, error)),
        }
    }
}

impl Selection {
    /// The log's number, if `name` is one: `BASE.000042`, or its GTID index `BASE.000042.idx` (MariaDB 11.4).
    pub(super) fn number(&self, name: &OsStr) -> Option<u64> {
        let rest = self.suffix(name)?.strip_prefix(b".")?;
        let number = rest.strip_suffix(b".idx").unwrap_or(rest);
        let number =
            Some(number).filter(|number| digits(number)).and_then(|number| std::str::from_utf8(number).ok())?;
        number.parse().ok()
    }

    /// What follows the base name.
    pub(super) fn suffix<'a>(&self, name: &'a OsStr) -> Option<&'a [u8]> {
        name.as_bytes().strip_prefix(self.base.as_bytes())
    }

    /// Whether the file belongs into the backup.
    pub(super) fn keeps(&self, name: &OsStr) -> bool {
        let log = OsStr::from_bytes(name.as_bytes().strip_suffix(b".idx").unwrap_or(name.as_bytes()));
        match self.which {
            Binlogs::None => false,
            Binlogs::Last => self.newest.as_deref() == Some(log),
            Binlogs::All => self.names.contains(log),
        }
    }

    /// The index for those logs that were found, each line as the server wrote it; `None` if there are none.
    pub(super) fn index(&self, found: impl Fn(&OsStr) -> bool) -> Option<Vec<u8>> {
        let kept = self.listed.iter().filter(|(_, name)| self.keeps(name) && found(name));
        let text: Vec<u8> = kept.flat_map(|(line, _)| line.iter().copied().chain([b'\n'])).collect();
        (!text.is_empty()).then_some(text)
    }

    /// What the operator should know.
    pub(super) fn warning(&self, index: &Path) -> Option<String> {
        let index = escape(index.as_os_str().as_bytes());
        if self.missing && self.which != Binlogs::None {
            return Some(format!("no binary logs in this backup: their index \"{index}\" does not exist"));
        }
        (self.elsewhere > 0 && self.which == Binlogs::All).then(|| {
            format!(
                "{} binary logs that \"{index}\" lists are in another directory and not in this backup",
                self.elsewhere
            )
        })
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let read = file.take(INDEX_BYTES + 1).read_to_end(&mut text).map_err(|error| Error::io("read", path, error))?;
    if read as u64 > INDEX_BYTES {
        return Err(Error::new(Class::Config, format!("{path:?} is too long for a list of binary logs")));
    }
    Ok(text)
}

/// The base name that `log_bin` stands for, in a directory that has its index: the server drops a suffix.
pub(super) fn base_name(directory: &Path, wanted: &[OsString]) -> Option<OsString> {
    let without_suffix = |name: &OsString| {
        let first = name.as_bytes().split(|byte| *byte == b'.').next().unwrap_or_default();
        let last = name.as_bytes().iter().rposition(|byte| *byte == b'.').map(|at| &name.as_bytes()[..at]);
        [last.map(<[u8]>::to_vec), Some(first.to_vec())]
    };
    let shorter = wanted.iter().flat_map(without_suffix).flatten().map(OsString::from_vec);
    let names: Vec<OsString> = wanted.iter().cloned().chain(shorter).filter(|name| !name.is_empty()).collect();
    let listed = names.iter().find(|name| directory.join(index_name(name)).exists());
    listed.or(names.first()).cloned()
}

/// `BASE.index`.
pub(super) fn index_name(base: &OsStr) -> OsString {
    let mut name = base.to_owned();
    name.push(".index");
    name
}
