//! The directories of the server that a run knows, and how single files elsewhere are pointed to.
//!
//! A root keeps its index and name for a whole run. Configured directories come first, in a fixed order; symlinked
//! databases and the directories of linked files follow as the first survey, which walks in order of names, finds them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::layout::Layout;
use super::place::Roles;
use crate::archive::manifest::{Referrer, Root, RootKind, RootName};
use crate::error::{Class, Error, Result};
use crate::relpath::RelPath;

/// The most roots of a server: beyond that something is wrong with the directory.
const MOST_ROOTS: usize = 10_000;

/// All roots that were seen in a run.
#[derive(Debug)]
pub(super) struct Roots {
    known: Vec<Known>,
    by_path: HashMap<PathBuf, u32>,
    names: HashSet<String>,
}

/// A root, and what the current survey does with it.
#[derive(Debug)]
struct Known {
    root: Root,
    /// What its place says, if it is to be walked; other roots hold only files that something points to.
    walked: Option<Roles>,
    /// The configuration names it; other roots count only while something points to them.
    configured: bool,
}

impl Roots {
    /// The configured roots.
    pub(super) fn new(layout: &Layout) -> Result<Self> {
        let mut roots = Self { known: Vec::new(), by_path: HashMap::new(), names: HashSet::new() };
        roots.add(RootKind::Datadir, "datadir", &layout.datadir)?;
        for external in &layout.external {
            roots.add(external.kind, &external.name, &external.path)?;
        }
        for known in &mut roots.known {
            (known.walked, known.configured) = (Some(Roles::default()), true);
        }
        Ok(roots)
    }

    /// Forgets what pointed where: the next survey finds it out anew.
    pub(super) fn begin_survey(&mut self) {
        for known in &mut self.known {
            known.root.link = None;
            known.root.referrers.clear();
            if !known.configured {
                known.walked = None;
            }
        }
    }

    /// The root at `index` and what its place says, if it is to be walked; `None` behind the last one.
    pub(super) fn to_walk(&self, index: u32) -> Option<(PathBuf, Option<Roles>)> {
        self.known.get(index as usize).map(|known| (known.root.path.clone(), known.walked))
    }

    /// The root whose directory is `path`.
    pub(super) fn at(&self, path: &Path) -> Option<u32> {
        self.by_path.get(path).copied()
    }

    /// A file's place in the innermost root that is walked.
    pub(super) fn locate(&self, path: &Path) -> Option<(u32, RelPath)> {
        let directories = path.ancestors().skip(1);
        let walked = |index: &u32| self.known.get(*index as usize).is_some_and(|known| known.walked.is_some());
        let index = directories.filter_map(|directory| self.at(directory)).find(walked)?;
        let below = path.strip_prefix(self.path(index)?).ok()?;
        Some((index, RelPath::new(below).ok()?))
    }

    /// The directory of the root at `index`.
    pub(super) fn path(&self, index: u32) -> Option<&Path> {
        self.known.get(index as usize).map(|known| known.root.path.as_path())
    }

    /// The root at `index`.
    pub(super) fn get(&self, index: u32) -> Option<&Root> {
        self.known.get(index as usize).map(|known| &known.root)
    }

    /// The root at `index`, to be changed.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Root> {
        self.known.get_mut(index as usize).map(|known| &mut known.root)
    }

    /// All roots, in order.
    pub(super) fn list(&self) -> Vec<Root> {
        self.known.iter().map(|known| known.root.clone()).collect()
    }

    /// A link in the datadir leads to the directory `path`: a symlinked database, or a configured directory.
    pub(super) fn link(&mut self, link: RelPath, path: &Path, roles: Roles) -> Result<()> {
        let index = match self.at(path) {
            Some(index) => index,
            None => self.add(RootKind::Database, &format!("database-{}", plain(link.file_name())), path)?,
        };
        let Some(known) = self.known.get_mut(index as usize) else { return Ok(()) };
        if let Some(other) = &known.root.link {
            let text =
                format!("the links \"{other}\" and \"{link}\" of the datadir lead to the same directory {path:?}");
            return Err(Error::new(Class::Refused, text));
        }
        known.root.link = Some(link);
        // In a directory that others use as well only what is recognised is the server's, link or not.
        let roles = if known.configured { roles.only(Roles::DATABASE.and(Roles::MYSQL)) } else { roles };
        known.walked = Some(known.walked.unwrap_or_default().and(roles));
        Ok(())
    }

    /// The root for files in the directory `path` that something points to.
    pub(super) fn tablespace(&mut self, path: &Path) -> Result<u32> {
        match self.at(path) {
            Some(index) => Ok(index),
            None => {
                let number =
                    self.known.iter().filter(|known| known.root.name.as_str().starts_with("tablespace-")).count();
                self.add(RootKind::Tablespace, &format!("tablespace-{}", number + 1), path)
            }
        }
    }

    /// Notes what points to a file of the root at `index`.
    pub(super) fn refer(&mut self, index: u32, referrer: Referrer) {
        if let Some(root) = self.get_mut(index) {
            root.referrers.push(referrer);
        }
    }

    fn add(&mut self, kind: RootKind, name: &str, path: &Path) -> Result<u32> {
        if self.known.len() >= MOST_ROOTS {
            return Err(Error::new(
                Class::Refused,
                format!("the server has more than {MOST_ROOTS} directories outside"),
            ));
        }
        let index = self.known.len() as u32;
        let name = self.unique(name)?;
        self.by_path.insert(path.to_owned(), index);
        self.known.push(Known { root: Root::new(name, kind, path), walked: None, configured: false });
        Ok(index)
    }

    /// `name`, or `name-2` … if that is taken.
    fn unique(&mut self, name: &str) -> Result<RootName> {
        let mut candidate = name.to_owned();
        let mut number = 1;
        while !self.names.insert(candidate.clone()) {
            number += 1;
            candidate = format!("{name}-{number}");
        }
        RootName::new(candidate)
    }
}

/// `name` with nothing that a root's name may not hold, and room for a number behind it.
fn plain(name: &OsStr) -> String {
    let plain = |byte: &u8| if byte.is_ascii_alphanumeric() || *byte == b'-' { char::from(*byte) } else { '_' };
    name.as_bytes().iter().map(plain).take(48).collect()
}
