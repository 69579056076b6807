//! Reading backups back. What is read is hostile until its size, its digest and its names are proved.
//!
//! A store gives names and bytes; what they mean and whether they can be believed is decided here, once for all of them.

use super::{Destination, LABEL_LIMIT, LABEL_NAME, MANIFEST_LIMIT, manifest_name};
use crate::archive::label::{BackupId, Label};
use crate::archive::read_at::ReadAt;
use crate::digest::Digest;
use crate::error::{Class, Error, Result};

/// Every backup of a repository.
#[derive(Debug, Default)]
pub struct Listing {
    /// The backups whose labels can be read, oldest first.
    pub labels: Vec<Label>,
    /// The directories that have a backup's name and no readable label, with the reason.
    pub broken: Vec<(BackupId, Error)>,
}

/// A destination whose backups can be listed and read back.
pub trait Repository: Destination {
    /// The names that are those of backups, sorted; not all of them need have a label.
    fn ids(&self) -> Result<Vec<BackupId>>;

    /// A small object of a backup, at most `limit` bytes.
    ///
    /// Errors: [`Class::NotFound`] if there is no such backup, [`Class::Damage`] if it is larger.
    fn object(&self, id: &BackupId, name: &str, limit: u64) -> Result<Option<Vec<u8>>>;

    /// The archive of a backup, for reading. A lost one is [`Class::Damage`].
    fn open_archive(&self, label: &Label) -> Result<Box<dyn ReadAt>>;

    /// Removes the backup of that label, the label first; one that is not there is no error.
    fn remove(&self, label: &Label) -> Result<()>;

    /// Where a backup is, to be shown.
    fn place_of(&self, id: &BackupId) -> String {
        format!("{}/{id}", self.place())
    }

    /// Every backup, sorted by id.
    fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for id in self.ids()? {
            match self.label(&id) {
                Ok(label) => listing.labels.push(label),
                Err(error) => listing.broken.push((id, error)),
            }
        }
        Ok(listing)
    }

    /// The label of the backup `id`.
    fn label(&self, id: &BackupId) -> Result<Label> {
        self.read_label(id, self.object(id, LABEL_NAME, LABEL_LIMIT)?)
    }

    /// The label of `id` out of its stored bytes.
    fn read_label(&self, id: &BackupId, text: Option<Vec<u8>>) -> Result<Label> {
        let Some(text) = text else {
            let text = format!("{id} is no backup: it has no label ({LABEL_NAME})");
            let hint = format!("its removal was interrupted: \"{}\"", self.place_of(id));
            return Err(Error::new(Class::Damage, text).hint(hint));
        };
        let in_place = |error: Error| Error::new(error.class(), format!("cannot use the label of {id}")).because(error);
        let label = Label::parse(&text).map_err(in_place)?;
        check_names(&label, id)?;
        Ok(label)
    }

    /// The backup that the operator means: an id, the unambiguous beginning of one, or `latest`.
    fn resolve(&self, wanted: &str) -> Result<BackupId> {
        let ids = self.ids()?;
        if wanted == "latest" {
            return latest(self, ids);
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
            [] => Err(not_found(format!("there is no backup {wanted:?} in \"{}\"", self.place()))),
            [id] => Ok((*id).clone()),
            [first, .., last] => {
                let text = format!("{wanted:?} is the beginning of {} ids, from {first} to {last}", matching.len());
                Err(Error::new(Class::Usage, text).hint("give more of the id; `list` shows them"))
            }
        }
    }

    /// The stored bytes of a backup's manifest, proved to be those that the label names.
    fn manifest_stored(&self, label: &Label) -> Result<Vec<u8>> {
        let name = manifest_name(label.seal());
        let place = || format!("{}/{name}", self.place_of(&label.id));
        let Some(text) = self.object(&label.id, name, MANIFEST_LIMIT)? else {
            return Err(lost(label, "manifest"));
        };
        if text.len() as u64 != label.manifest.bytes {
            let (found, wanted) = (text.len(), label.manifest.bytes);
            let text = format!("the manifest \"{}\" has {found} bytes: the label promises {wanted}", place());
            return Err(Error::new(Class::Damage, text));
        }
        if Digest::of(&text) != label.manifest.sha256 {
            let text = format!("the manifest \"{}\" is damaged: its SHA-256 is not the label's", place());
            return Err(Error::new(Class::Damage, text));
        }
        Ok(text)
    }
}

fn latest<R: Repository + ?Sized>(repository: &R, ids: Vec<BackupId>) -> Result<BackupId> {
    let readable = |id: &BackupId| match repository.label(id) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!("passing over {id}: {}", crate::error::one_line(&error));
            false
        }
    };
    let newest = ids.into_iter().rev().find(readable);
    newest.ok_or_else(|| not_found(format!("there is no backup in \"{}\"", repository.place())))
}

/// What was asked for is not there.
pub(super) fn not_found(text: String) -> Error {
    Error::new(Class::NotFound, text).hint("`wsrep_sst_backup list` shows what there is")
}

/// A backup has a label and lacks what it names.
pub(super) fn lost(label: &Label, what: &str) -> Error {
    Error::new(Class::Damage, format!("the backup {} has lost its {what}", label.id))
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
