//! Reading a local repository. What is read is hostile until its size, its digest and its names are proved.

use std::ffi::OsStr;
use std::io::Read;
use std::str::FromStr;

use super::local::LocalRepository;
use super::{LABEL_LIMIT, LABEL_NAME, MANIFEST_LIMIT, manifest_name};
use crate::archive::label::{BackupId, Label};
use crate::archive::read_at::FileAt;
use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::{Class, Error, Result};

/// Every backup of a repository.
#[derive(Debug, Default)]
pub struct Listing {
    /// The backups whose labels can be read, oldest first.
    pub labels: Vec<Label>,
    /// The directories that have a backup's name and no readable label, with the reason.
    pub broken: Vec<(BackupId, Error)>,
}

impl LocalRepository {
    /// Every backup, sorted by id.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for id in self.ids()? {
            match self.label(&id) {
                Ok(label) => listing.labels.push(label),
                Err(error) => listing.broken.push((id, error)),
            }
        }
        Ok(listing)
    }

    /// The names in the repository that are those of backups, sorted.
    fn ids(&self) -> Result<Vec<BackupId>> {
        let named = |name: &OsStr| name.to_str().and_then(|name| BackupId::from_str(name).ok());
        Ok(self.dir.names()?.iter().filter_map(|name| named(name)).collect())
    }

    /// The label of the backup `id`.
    pub fn label(&self, id: &BackupId) -> Result<Label> {
        let dir = self.backup(id)?;
        if dir.stat(LABEL_NAME)?.is_none() {
            let text = format!("{id} is no backup: it has no label ({LABEL_NAME})");
            return Err(Error::new(Class::Damage, text).hint(format!("its removal was interrupted: {:?}", dir.path())));
        }
        let text = read_bounded(&dir, LABEL_NAME, LABEL_LIMIT)?;
        let in_place = |error: Error| Error::new(error.class(), format!("cannot use the label of {id}")).because(error);
        let label = Label::parse(&text).map_err(in_place)?;
        check_names(&label, id)?;
        Ok(label)
    }

    /// The backup that the operator means: an id, the unambiguous beginning of one, or `latest`.
    pub fn resolve(&self, wanted: &str) -> Result<BackupId> {
        let ids = self.ids()?;
        if wanted == "latest" {
            return self.latest(ids);
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if wanted.is_empty() || !wanted.bytes().all(plain) {
            return Err(not_found(format!("{wanted:?} is not the id of a backup")));
        }
        let mut matching: Vec<&BackupId> = ids.iter().filter(|id| id.as_str().starts_with(wanted)).collect();
        if let Some(exact) = matching.iter().position(|id| id.as_str() == wanted) {
            matching = vec![matching[exact]];
        }
        match matching.as_slice() {
            [] => Err(not_found(format!("there is no backup {wanted:?} in {:?}", self.path()))),
            [id] => Ok((*id).clone()),
            [first, .., last] => {
                let text = format!("{wanted:?} is the beginning of {} ids, from {first} to {last}", matching.len());
                Err(Error::new(Class::Usage, text).hint("give more of the id; `list` shows them"))
            }
        }
    }

    fn latest(&self, ids: Vec<BackupId>) -> Result<BackupId> {
        let readable = |id: &BackupId| match self.label(id) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!("passing over {id}: {}", crate::error::one_line(&error));
                false
            }
        };
        let newest = ids.into_iter().rev().find(readable);
        newest.ok_or_else(|| not_found(format!("there is no backup in {:?}", self.path())))
    }

    /// The archive of a backup, for reading.
    pub fn open_archive(&self, label: &Label) -> Result<FileAt> {
        let dir = self.backup(&label.id)?;
        let file = dir.open_file(&label.archive.name).map_err(|error| damaged(error, label, "archive"))?;
        FileAt::new(file, dir.path().join(&label.archive.name))
    }

    /// The stored bytes of a backup's manifest, proved to be those that the label names.
    pub fn manifest_stored(&self, label: &Label) -> Result<Vec<u8>> {
        let dir = self.backup(&label.id)?;
        let name = manifest_name(label.seal());
        let path = dir.path().join(name);
        let text = read_bounded(&dir, name, MANIFEST_LIMIT).map_err(|error| damaged(error, label, "manifest"))?;
        if text.len() as u64 != label.manifest.bytes {
            let (found, wanted) = (text.len(), label.manifest.bytes);
            let text = format!("the manifest {path:?} has {found} bytes: the label promises {wanted}");
            return Err(Error::new(Class::Damage, text));
        }
        if Digest::of(&text) != label.manifest.sha256 {
            let text = format!("the manifest {path:?} is damaged: its SHA-256 is not the label's");
            return Err(Error::new(Class::Damage, text));
        }
        Ok(text)
    }

    fn backup(&self, id: &BackupId) -> Result<Dir> {
        self.dir.open_dir(id.as_str()).map_err(|error| match error.os_error() {
            Some(nix::libc::ENOENT) => not_found(format!("there is no backup {id} in {:?}", self.path())),
            _ => error,
        })
    }
}

fn not_found(text: String) -> Error {
    Error::new(Class::NotFound, text).hint("`wsrep_sst_backup list` shows what there is")
}

/// A part of a backup that is missing is damage, and any other failure what it is.
fn damaged(error: Error, label: &Label, what: &str) -> Error {
    match error.os_error() {
        Some(nix::libc::ENOENT | nix::libc::ELOOP) => {
            Error::new(Class::Damage, format!("the backup {} has lost its {what}", label.id)).because(error)
        }
        _ => error,
    }
}

/// Names out of a label are never used as paths unless they are the ones that this program writes.
fn check_names(label: &Label, id: &BackupId) -> Result<()> {
    let wrong = |text: String| Err(Error::new(Class::Damage, text));
    if label.id != *id {
        return wrong(format!("the label in {id} is that of {}", label.id));
    }
    if label.archive.name != label.codec.archive_name(label.seal()) {
        return wrong(format!("the label of {id} names an archive {:?}", label.archive.name));
    }
    if label.manifest.name != manifest_name(label.seal()) {
        return wrong(format!("the label of {id} names a manifest {:?}", label.manifest.name));
    }
    Ok(())
}

fn read_bounded(dir: &Dir, name: &str, limit: u64) -> Result<Vec<u8>> {
    let path = dir.path().join(name);
    let mut text = Vec::new();
    let read = dir.open_file(name)?.take(limit + 1).read_to_end(&mut text);
    read.map_err(|cause| Error::io("read", &path, cause))?;
    if text.len() as u64 > limit {
        return Err(Error::new(Class::Damage, format!("{path:?} is larger than {limit} bytes")));
    }
    Ok(text)
}
