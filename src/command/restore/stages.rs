//! All targets of one restore together: checked against each other before anything is written, published in an order in
//! which no server starts on a part of them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::owner::Owners;
use super::plan::{Plan, representatives};
use super::site::Site;
use super::stage::{Access, Stage};
use crate::archive::manifest::{EntryKind, FileClass, Manifest};
use crate::command::human;
use crate::dir::Dir;
use crate::error::{Class, Error, Result};

/// The name that is guarded where a backup has no InnoDB system tablespace: the server's default.
const SYSTEM_TABLESPACE: &str = "ibdata1";

/// The targets of one restore. Dropping them takes everything back.
#[derive(Debug)]
pub struct Stages {
    /// For each root of the manifest its target and the mode that this will have.
    stages: Vec<Option<(Stage, u32)>>,
}

impl Stages {
    /// Checks every target and the space for it; then makes the hidden directories.
    pub fn prepare(manifest: &Manifest, plan: &Plan, repository: Option<&Path>) -> Result<Self> {
        let mut sites = Vec::with_capacity(plan.targets.len());
        for target in &plan.targets {
            sites.push(target.as_deref().map(Site::examine).transpose()?);
        }
        check_apart(&sites, repository)?;
        check_space(manifest, plan, &sites)?;
        let guarded = guarded(manifest, &sites)?;
        let mut stages = Vec::with_capacity(sites.len());
        for (root, site) in sites.into_iter().enumerate() {
            let guard = guarded.iter().find(|(guarded, _)| *guarded == root).map(|(_, name)| name.as_os_str());
            stages.push(match site {
                None => None,
                Some(site) => {
                    let donor = manifest.roots.get(root).and_then(|root| root.owner.as_ref());
                    let donor = donor.map(|owner| EntryKind::Directory.permissions(owner.mode));
                    let mode = site.mode()?.or(donor).unwrap_or(0o700);
                    Some((site.stage(guard)?, mode))
                }
            });
        }
        Ok(Self { stages })
    }

    /// For each root of the manifest the directory to write into.
    pub fn dirs(&self) -> Result<Vec<Option<Dir>>> {
        self.stages.iter().map(|stage| stage.as_ref().map(|(stage, _)| stage.dir()).transpose()).collect()
    }

    /// Waits until everything that was written is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.dirs()?.into_iter().flatten().try_for_each(|dir| dir.sync_file_system())
    }

    /// Puts everything in place, the datadir last, and where there are guards their files at the very end. Says where each
    /// root of the manifest is now.
    pub fn publish(mut self, manifest: &Manifest, owners: &Owners) -> Result<Vec<Option<PathBuf>>> {
        let representatives = representatives(manifest);
        for (root, stage) in self.stages.iter_mut().enumerate().rev() {
            let Some((stage, mode)) = stage else { continue };
            let access: Access = (owner(manifest, owners, root, representatives.get(root).copied().flatten()), *mode);
            stage.publish(access)?;
        }
        for (stage, _) in self.stages.iter_mut().flatten() {
            stage.release()?;
        }
        let keep = |(stage, _): (Stage, u32)| {
            let path = stage.path().to_owned();
            stage.keep();
            path
        };
        Ok(self.stages.into_iter().map(|stage| stage.map(keep)).collect())
    }
}

/// Whose the directory of a root will be: as on the donor, where that was recorded, else as the files in it.
fn owner(manifest: &Manifest, owners: &Owners, root: usize, representative: Option<usize>) -> Option<(u32, u32)> {
    let recorded = manifest.roots.get(root).and_then(|root| root.owner.as_ref());
    let like = || representative.and_then(|index| manifest.files.get(index));
    recorded.map_or_else(|| owners.of(like()?), |owner| owners.of_root(owner))
}

/// The roots that need a guard, with the guarded name: none if the datadir appears by one rename.
fn guarded(manifest: &Manifest, sites: &[Option<Site>]) -> Result<Vec<(usize, OsString)>> {
    let Some(Some(datadir)) = sites.first() else { return Ok(Vec::new()) };
    if !datadir.must_be_inside()? {
        return Ok(Vec::new());
    }
    let system = |entry: &&crate::archive::manifest::Entry| entry.class == FileClass::InnodbSystem;
    let first = manifest.files.iter().filter(system).find(|entry| entry.path.depth() == 1);
    let (root, name) =
        first.map_or((0, SYSTEM_TABLESPACE.into()), |entry| (entry.root as usize, entry.path.file_name().to_owned()));
    let mut guarded = vec![(root, name)];
    if root != 0 {
        // Nothing of InnoDB's is looked for here, but Aria's control file is.
        guarded.push((0, SYSTEM_TABLESPACE.into()));
    }
    Ok(guarded)
}

fn check_apart(sites: &[Option<Site>], repository: Option<&Path>) -> Result<()> {
    let paths: Vec<&Path> = sites.iter().flatten().map(Site::path).collect();
    for (at, one) in paths.iter().enumerate() {
        for other in &paths[at + 1..] {
            if one.starts_with(other) || other.starts_with(one) {
                let text = format!("the targets {one:?} and {other:?} are one inside the other");
                return Err(Error::new(Class::Refused, text));
            }
        }
        let Some(repository) = repository else { continue };
        let repository = repository.canonicalize().map_err(|cause| Error::io("resolve", repository, cause))?;
        if one.starts_with(&repository) {
            let text = format!("the target {one:?} is inside the repository {repository:?}");
            return Err(Error::new(Class::Refused, text));
        }
    }
    Ok(())
}

fn check_space(manifest: &Manifest, plan: &Plan, sites: &[Option<Site>]) -> Result<()> {
    let mut needed: HashMap<u64, (u64, u64, &Path)> = HashMap::new();
    for (root, site) in sites.iter().enumerate() {
        let Some(site) = site else { continue };
        let (device, free) = site.space()?;
        let sum = needed.entry(device).or_insert((0, free, site.path()));
        sum.0 = sum.0.saturating_add(plan.bytes(manifest, root as u32));
    }
    for (bytes, free, path) in needed.into_values() {
        if bytes > free {
            let (bytes, free) = (human::size(bytes), human::size(free));
            let text = format!("the file system of {path:?} has {free} free, and the backup needs {bytes}");
            return Err(Error::new(Class::Io, text).because(std::io::Error::from_raw_os_error(nix::libc::ENOSPC)));
        }
    }
    Ok(())
}
