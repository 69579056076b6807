//! `extract`: a database, a table or a file out of a backup, reading only the frames that hold it.
//!
//! The files are written into a hidden directory inside the destination, proved, and then moved to their names, where nothing
//! may be: what is there already is never overwritten, and what was not made here is never removed.

mod choose;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tempfile::TempDir;

use super::output::Output;
use super::restore::owner::Owners;
use super::restore::tree::Tree;
use super::{Context, human};
use crate::archive::decode;
use crate::archive::manifest::{Entry, Manifest, OWN_DIRECTORY};
use crate::archive::progress::Progress;
use crate::archive::seal::Archive;
use crate::cli::ExtractArgs;
use crate::dir::Dir;
use crate::error::{Class, Error, Result, one_line};
use crate::monitor::bar::Bar;
use crate::relpath::RelPath;

/// The document of `extract --json`.
#[derive(Serialize)]
struct Document<'a> {
    id: &'a crate::archive::label::BackupId,
    files: Vec<Extracted>,
    bytes: u64,
}

#[derive(Serialize)]
struct Extracted {
    path: RelPath,
    bytes: u64,
}

/// Extracts what was asked for; on any error the destination is as it was.
pub fn run(args: &ExtractArgs, context: &Context<'_>, output: &mut Output) -> Result<()> {
    let label = context.repository.label(&context.repository.resolve(&args.id)?)?;
    let manifest = context.manifest(&label)?;
    let mut chosen = BTreeSet::new();
    for what in &args.what {
        chosen.extend(choose::choose(&manifest, what)?);
    }
    let stored = context.repository.open_archive(&label)?;
    let archive = Archive::open(&*stored, &label, context.keys)?;
    let places = places(&manifest, &chosen)?;
    let destination = Destination::open(&args.to)?;
    places.keys().try_for_each(|path| destination.check_free(path))?;

    let roots = destination.roots(manifest.roots.len())?;
    let tree = Tree::new(&manifest, &Owners::Caller, roots);
    let chosen: Vec<usize> = chosen.into_iter().collect();
    tree.begin(&chosen, context.cancel)?;
    let progress = Arc::new(Progress::default());
    progress.set_total(bytes(&manifest, &chosen));
    {
        let _bar = Bar::start(output.may_draw(), "extracting", &progress);
        let wanted = |index: usize| chosen.binary_search(&index).is_ok();
        decode::restore(&archive, &manifest, &wanted, &tree, context.workers, context.cancel, &progress)?;
    }
    tree.finish(&chosen, context.cancel)?;
    destination.dir.sync_file_system()?;
    destination.publish(&manifest, &places)?;

    let bytes = bytes(&manifest, &chosen);
    let files = places.iter().filter_map(|(path, index)| {
        manifest.files.get(*index).map(|entry| Extracted { path: path.clone(), bytes: entry.size })
    });
    let files: Vec<Extracted> = files.collect();
    for file in &files {
        output.line(format!("{}  {}", human::size(file.bytes), file.path))?;
    }
    let (count, size) = (human::count(files.len() as u64, "file"), human::size(bytes));
    output.line(format!("extracted {count}, {size}, to {:?}; they belong to you", args.to))?;
    output.json(&Document { id: &label.id, files, bytes })
}

fn bytes(manifest: &Manifest, chosen: &[usize]) -> u64 {
    let entries = chosen.iter().filter_map(|index| manifest.files.get(*index));
    entries.map(|entry| entry.size).fold(0, u64::saturating_add)
}

/// Where each file goes below the destination: the datadir's at the top, others under the name of the database or root.
fn places(manifest: &Manifest, chosen: &BTreeSet<usize>) -> Result<BTreeMap<RelPath, usize>> {
    let mut places = BTreeMap::new();
    for index in chosen {
        let Some(entry) = manifest.files.get(*index) else { continue };
        let path = place(manifest, entry)?;
        if places.insert(path.clone(), *index).is_some() {
            return Err(Error::new(Class::Refused, format!("two files would be extracted to {path:?}"))
                .hint("extract them one after the other, with ROOT:path, into different directories"));
        }
    }
    Ok(places)
}

fn place(manifest: &Manifest, entry: &Entry) -> Result<RelPath> {
    let root = manifest.root(entry.root)?;
    let above = match &root.link {
        _ if entry.root == 0 => return Ok(entry.path.clone()),
        Some(link) => link.as_path(),
        None => Path::new(root.name.as_str()),
    };
    RelPath::new(above.join(entry.path.as_path()))
}

/// The directory that files are extracted to, with a hidden one inside it.
struct Destination {
    dir: Dir,
    staged: Dir,
    /// The hidden directory: removed when this is dropped, with whatever is still in it.
    hidden: Option<TempDir>,
    /// The directory and the destination's own name in it, if the destination is new.
    made: Option<(Dir, OsString)>,
    kept: std::cell::Cell<bool>,
}

impl Destination {
    fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|cause| Error::io("resolve", path, cause))?;
        let made = match (path.exists(), path.parent(), path.file_name()) {
            (false, Some(parent), Some(name)) => Some((Dir::open(parent)?, name.to_owned())),
            _ => None,
        };
        let dir = match &made {
            Some((parent, name)) => parent.create_dir(name)?,
            None => Dir::open(&path)?,
        };
        // From here on dropping it takes back what was made.
        let mut destination = Self { staged: dir.try_clone()?, dir, hidden: None, made, kept: false.into() };
        let hidden = tempfile::Builder::new().prefix(&format!("{OWN_DIRECTORY}.partial-")).tempdir_in(&path);
        let hidden = hidden.map_err(|cause| Error::io("write into", &path, cause))?;
        destination.staged = destination.dir.open_dir(hidden.path().file_name().unwrap_or_default())?;
        destination.hidden = Some(hidden);
        Ok(destination)
    }

    fn check_free(&self, path: &RelPath) -> Result<()> {
        let mut here = self.dir.try_clone()?;
        for name in path.parent().iter().flat_map(|parent| parent.as_path().iter()) {
            match here.stat(name)? {
                None => return Ok(()),
                Some(_) => here = here.open_dir(name)?,
            }
        }
        match here.stat(path.file_name())? {
            None => Ok(()),
            Some(_) => {
                let there = here.path().join(path.file_name());
                Err(Error::new(Class::Refused, format!("{there:?} exists already, and nothing is overwritten")))
            }
        }
    }

    fn roots(&self, number: usize) -> Result<Vec<Option<Dir>>> {
        (0..number).map(|root| self.staged.create_dir(format!("{root}")).map(Some)).collect()
    }

    /// Moves every file to its name; if one cannot be, those that were and the directories above them are removed again.
    fn publish(self, manifest: &Manifest, places: &BTreeMap<RelPath, usize>) -> Result<()> {
        let mut made = Made::default();
        let mut entries = places.iter().filter_map(|(path, index)| Some((path, manifest.files.get(*index)?)));
        let moved = entries.try_for_each(|(path, entry)| self.move_one(entry, path, &mut made));
        let published = moved.and_then(|()| self.dir.sync_file_system());
        match &published {
            Ok(()) => self.kept.set(true),
            Err(_) => made.take_back(),
        }
        published
    }

    fn move_one(&self, entry: &Entry, path: &RelPath, made: &mut Made) -> Result<()> {
        let mut from = self.staged.open_dir(format!("{}", entry.root))?;
        for name in entry.path.parent().iter().flat_map(|parent| parent.as_path().iter()) {
            from = from.open_dir(name)?;
        }
        let mut to = self.dir.try_clone()?;
        for name in path.parent().iter().flat_map(|parent| parent.as_path().iter()) {
            to = match to.stat(name)? {
                Some(_) => to.open_dir(name)?,
                None => {
                    let inner = to.create_dir(name)?;
                    made.directories.push((to, name.to_owned()));
                    inner
                }
            };
        }
        from.publish(entry.path.file_name(), &to, path.file_name())?;
        made.files.push((to, path.file_name().to_owned()));
        Ok(())
    }
}

/// What was made in the destination, each with the directory that it is in.
#[derive(Default)]
struct Made {
    directories: Vec<(Dir, OsString)>,
    files: Vec<(Dir, OsString)>,
}

impl Made {
    /// Removes it again; a directory into which somebody put something stays.
    fn take_back(self) {
        let files = self.files.iter().map(|(dir, name)| dir.remove_file(name));
        // The innermost were made last.
        let directories = self.directories.iter().rev().map(|(dir, name)| dir.remove_dir(name));
        for error in files.chain(directories).filter_map(Result::err) {
            tracing::warn!("{}", one_line(&error));
        }
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(Err(cause)) = self.hidden.take().map(TempDir::close) {
            tracing::warn!("cannot remove the hidden directory in {:?}: {cause}", self.dir.path());
        }
        if let (Some((parent, name)), false) = (&self.made, self.kept.get())
            && let Err(error) = parent.remove_dir(name)
        {
            tracing::warn!("{}", one_line(&error));
        }
    }
}
