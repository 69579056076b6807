//! The donor's files: looking at all of them, and opening one.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::OFlag;

use super::binlog::{BinlogFiles, Binlogs, Selection};
use super::inventory::{Found, Generated, Inventory};
use super::layout::{Layout, canonical};
use super::owners::Owners;
use super::roots::Roots;
use super::variables::ServerVariables;
use super::walk::Walk;
use crate::archive::manifest::{EntryKind, FileClass, RootName};
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};
use crate::relpath::RelPath;
use crate::source::fingerprint::Fingerprint;

/// How many tablespaces that do not exist are named one by one.
const MOST_DISCARDED: usize = 100;

/// What the operator decides about the inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which binary logs to take.
    pub binlogs: Binlogs,
    /// Directories that may lie in the datadir but are not the server's: the repository, a restore's target.
    pub leave_out: Vec<PathBuf>,
}

/// The donor's directories.
#[derive(Debug)]
pub struct Datadir {
    layout: Layout,
    binlogs: Binlogs,
    state: Mutex<State>,
}

/// What stays the same over the surveys of a run.
#[derive(Debug)]
struct State {
    roots: Roots,
    owners: Owners,
}

impl Datadir {
    /// Resolves the server's variables.
    ///
    /// # Errors
    ///
    /// A configured directory that does not exist; an InnoDB system tablespace on a raw device; a value that cannot be
    /// understood.
    pub fn open(variables: &ServerVariables, options: &Options) -> Result<Self> {
        let layout = Layout::new(variables, &options.leave_out)?;
        let roots = Roots::new(&layout)?;
        let state = Mutex::new(State { roots, owners: Owners::default() });
        Ok(Self { layout, binlogs: options.binlogs, state })
    }

    /// The datadir, without links.
    pub fn path(&self) -> &Path {
        &self.layout.datadir
    }

    /// Looks at every file. A later survey gives every root the same index again.
    ///
    /// # Errors
    ///
    /// A directory that cannot be listed, a FIFO, a device, a link that leads nowhere: each named.
    pub fn survey(&self, cancel: &Cancel) -> Result<Inventory> {
        let mut state = self.state();
        let State { roots, owners } = &mut *state;
        let binlogs = match &self.layout.binlogs {
            Some(files) => Some((files, Arc::new(files.select(&self.layout.datadir, self.binlogs)?))),
            None => None,
        };
        let mut walk = Walk {
            layout: &self.layout,
            roots,
            owners,
            binlogs: binlogs.as_ref().map(|(_, selection)| Arc::clone(selection)),
            cancel,
            files: Vec::new(),
            excluded: Vec::new(),
            discarded: Vec::new(),
            engines: std::collections::BTreeSet::new(),
            references: Vec::new(),
        };
        walk.run()?;
        let engine = |name: &&str| {
            format!(
                "{name} files: the server does not freeze this engine; they are copied like the others until they stand still"
            )
        };
        let warnings = self.layout.warnings.iter().cloned().chain(walk.engines.iter().map(engine));
        let mut inventory = Inventory {
            warnings: warnings.chain(discarded(&walk.discarded)).collect(),
            excluded: walk.excluded,
            files: walk.files,
            roots: walk.roots.list(),
            ..Inventory::default()
        };
        // The walk goes by name; sorting keeps that order within a class.
        inventory.files.sort_by_key(|found| found.class);
        if let Some((files, selection)) = binlogs {
            inventory.binlog = files.position(&selection)?;
            inventory.warnings.extend(selection.warning(&files.index));
            inventory.generated.extend(index(&mut state, files, &selection, &inventory)?);
        }
        Ok(inventory)
    }

    /// Whether InnoDB can start from these files: every file of its system tablespace and a redo log are among them.
    ///
    /// A directory that nothing names to us is missed without any other sign: an option file that only root can read, a
    /// variable that we do not know.
    pub fn check_complete(&self, inventory: &Inventory) -> Result<()> {
        let missing = |what: String, variables: &str| {
            Error::new(Class::Refused, format!("cannot find {what}, without which no backup can be restored")).hint(
                format!("look at {variables}; the server's user must be able to read the option files that set them"),
            )
        };
        let state = self.state();
        for path in &self.layout.system_files {
            let target = canonical(path);
            let is_it = |found: &Found| {
                target.file_name() == Some(found.path.file_name())
                    && state.roots.path(found.root).is_some_and(|root| root.join(found.path.as_path()) == target)
            };
            if !inventory.files.iter().any(is_it) {
                let what = format!("InnoDB's system tablespace {path:?}");
                return Err(missing(what, "innodb_data_file_path and innodb_data_home_dir"));
            }
        }
        if !inventory.files.iter().any(|found| found.class == FileClass::Redo && found.bytes() > 0) {
            let what = format!("InnoDB's redo log in {:?}", self.layout.redo);
            return Err(missing(what, "innodb_log_group_home_dir"));
        }
        Ok(())
    }

    /// Opens every file once, so that one that cannot be read fails the run before anybody waits for it.
    pub fn check_readable(&self, inventory: &Inventory, cancel: &Cancel) -> Result<()> {
        for found in inventory.files.iter().filter(|found| found.kind == EntryKind::File) {
            cancel.check()?;
            match self.open_file(found) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("read", self.full_path(found), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Opens a file for reading; links are not followed and its access time stays.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] also if another file has its name by now.
    pub fn open_file(&self, found: &Found) -> io::Result<File> {
        let path = self.full_path(found);
        let open = |more: OFlag| {
            let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | more;
            OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path)
        };
        let gone = || io::Error::new(io::ErrorKind::NotFound, "another file has its name");
        // Only the owner of a file may leave its access time alone.
        let opened = open(OFlag::O_NOATIME).or_else(|error| match error.raw_os_error() {
            Some(code) if code == nix::errno::Errno::EPERM as i32 => open(OFlag::empty()),
            Some(code) if code == nix::errno::Errno::ELOOP as i32 => Err(gone()),
            _ => Err(error),
        });
        let file = opened?;
        let metadata = file.metadata()?;
        let same = (metadata.dev(), metadata.ino()) == (found.print.dev, found.print.ino);
        if same && metadata.is_file() { Ok(file) } else { Err(gone()) }
    }

    /// Opens a file as [`open_file`](Self::open_file) does; `None` if it is gone, or another one has its name.
    pub fn open_if_there(&self, found: &Found) -> Result<Option<File>> {
        match self.open_file(found) {
            Ok(file) => Ok(Some(file)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::io("open", self.full_path(found), cause)),
        }
    }

    /// The name of a root that a survey has found.
    pub fn root_name(&self, root: u32) -> Result<RootName> {
        let state = self.state();
        let name = state.roots.get(root).map(|root| root.name.clone());
        name.ok_or_else(|| Error::new(Class::Refused, format!("there is no root {root} of the server")))
    }

    /// The directory of a root that a survey has found.
    pub fn root_path(&self, root: u32) -> Result<PathBuf> {
        let path = self.state().roots.path(root).map(Path::to_owned);
        path.ok_or_else(|| Error::new(Class::Refused, format!("there is no root {root} of the server")))
    }

    /// Where a file is on the donor.
    pub fn full_path(&self, found: &Found) -> PathBuf {
        self.state().roots.path(found.root).unwrap_or(&self.layout.datadir).join(found.path.as_path())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Warns of the `.isl` files whose tablespaces are not there: a manifest and a log must not grow with them.
fn discarded(links: &[RelPath]) -> Vec<String> {
    let shown = links.iter().take(MOST_DISCARDED);
    let mut warnings: Vec<String> = shown
        .map(|path| format!("\"{path}\" names a tablespace that does not exist: its table cannot be read"))
        .collect();
    if links.len() > MOST_DISCARDED {
        warnings.push(format!("and {} more such tablespaces do not exist", links.len() - MOST_DISCARDED));
    }
    warnings
}

/// The index of the binary logs in `inventory`, in the place of the server's.
fn index(
    state: &mut State,
    files: &BinlogFiles,
    selection: &Selection,
    inventory: &Inventory,
) -> Result<Option<Generated>> {
    let logs: std::collections::HashSet<&OsStr> = inventory
        .files
        .iter()
        .filter(|found| found.class == FileClass::Binlog)
        .map(|found| found.path.file_name())
        .collect();
    let Some(bytes) = selection.index(|name| logs.contains(name)) else { return Ok(None) };
    let Some((root, path)) = state.roots.locate(&files.index) else { return Ok(None) };
    let metadata = files.index.metadata().map_err(|error| Error::io("look at", &files.index, error))?;
    let (user, group) = state.owners.names(&metadata);
    let found = Found {
        root,
        path,
        kind: EntryKind::File,
        class: FileClass::Generated,
        print: Fingerprint { size: bytes.len() as u64, ..Fingerprint::of(&metadata) },
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        user,
        group,
        sparse: false,
    };
    Ok(Some(Generated { found, bytes }))
}

#[cfg(test)]
mod tests;
