//! Writing a backup into an object store: the archive as a multipart upload, then the manifest, the label last.
//!
//! An archive that is in flight is no object, so nobody sees it; one without a label is no backup. When a run fails, what
//! it began is aborted, within a bounded time. The one thing that cannot be undone is a label of which nobody knows whether
//! it arrived: then archive and manifest stay, because a label without them would be worse than they without a label.

use std::sync::Arc;

use object_store::multipart::PartId;
use object_store::path::Path;

use super::fault::{failed, is_missing};
use super::parts::{PartSink, Parts, Sizes};
use super::{Put, Remote};
use crate::archive::label::{BackupId, Label};
use crate::error::{Class, Error, Result, one_line};
use crate::store::{Begun, LABEL_LIMIT, LABEL_NAME, Sealed, Upload, check_label, label_text, manifest_name, taken};

/// How often an upload is aborted: a part that was on its way may arrive after the first time.
const ABORTS: u32 = 3;

/// A backup that is being written.
#[derive(Debug)]
struct ObjectUpload {
    remote: Arc<Remote>,
    id: BackupId,
    archive_name: &'static str,
    archive: Path,
    /// Known as soon as it may be there.
    manifest: Option<Path>,
    parts: Arc<Parts>,
    stage: Stage,
}

/// A backup that lacks nothing but its label.
#[derive(Debug)]
struct ObjectSealed {
    upload: Box<ObjectUpload>,
    /// The label as stored.
    text: Vec<u8>,
}

/// What has to be undone when the run fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The multipart upload is open.
    Open,
    /// Objects may be there, and surely no label.
    Objects,
    /// The label is there, or may be: nothing may be taken away any more.
    Labelled,
}

/// Begins a backup, which must not exist.
pub(super) fn begin(remote: &Arc<Remote>, id: &BackupId, archive_name: &'static str, expected: u64) -> Result<Begun> {
    if remote.exists(id)? {
        return Err(taken(id.as_str()));
    }
    let archive = remote.key_of(id, archive_name);
    let (backend, key) = (Arc::clone(&remote.backend), archive.clone());
    let created = remote.wait(async move { backend.create_multipart(&key).await })?;
    let upload = created.map_err(|cause| failed("begin to write", &remote.place_of(&archive), &cause))?;
    let sizes = Sizes::new(&remote.settings, expected);
    let parts = Parts::new(Arc::clone(remote), archive.clone(), upload, sizes);
    let sink = Box::new(PartSink(Arc::clone(&parts)));
    let remote = Arc::clone(remote);
    let upload =
        ObjectUpload { remote, id: id.clone(), archive_name, archive, manifest: None, parts, stage: Stage::Open };
    Ok((Box::new(upload), sink))
}

impl Upload for ObjectUpload {
    fn seal(mut self: Box<Self>, manifest_stored: &[u8], label: &Label) -> Result<Box<dyn Sealed>> {
        check_label(&self.id, self.archive_name, self.parts.written(), manifest_stored, label)?;
        let text = label_text(label)?;
        let parts = self.parts.finish()?;
        if self.remote.exists(&self.id)? {
            return Err(taken(self.id.as_str()));
        }
        self.complete(parts)?;
        let manifest = self.remote.key_of(&self.id, manifest_name(label.seal()));
        self.manifest = Some(manifest.clone());
        // Everything below the id is ours: nothing was there just now.
        if self.remote.put_new(&manifest, manifest_stored)? == Put::Taken {
            self.expect(&manifest, manifest_stored)?;
        }
        Ok(Box::new(ObjectSealed { upload: self, text }))
    }
}

impl Sealed for ObjectSealed {
    fn publish(mut self: Box<Self>) -> Result<()> {
        self.upload.publish(&self.text)
    }
}

impl ObjectUpload {
    /// Makes the archive an object. If the answer was lost, the object itself tells.
    fn complete(&mut self, parts: Vec<PartId>) -> Result<()> {
        self.stage = Stage::Objects;
        let (backend, key) = (Arc::clone(&self.remote.backend), self.archive.clone());
        let upload = self.parts.upload().clone();
        let completed = self.remote.wait(async move { backend.complete_multipart(&key, &upload, parts).await })?;
        let (size, place) = (self.remote.size(&self.archive), self.remote.place_of(&self.archive));
        match (completed, size?) {
            (_, Some(size)) if size == self.parts.written() => Ok(()),
            (Err(cause), _) => Err(failed("complete", &place, &cause)),
            (Ok(_), size) => {
                let (size, written) = (size.unwrap_or(0), self.parts.written());
                let text = format!("the store has {size} bytes as \"{place}\", and {written} were written");
                Err(Error::new(Class::Io, text))
            }
        }
    }

    /// Puts the label. If the answer was lost, the label itself tells.
    fn publish(&mut self, text: &[u8]) -> Result<()> {
        let key = self.remote.key_of(&self.id, LABEL_NAME);
        self.stage = Stage::Labelled;
        let put = self.remote.put_new(&key, text);
        if put.as_ref().is_ok_and(|put| *put == Put::Done) {
            return Ok(());
        }
        // Ours may have arrived before its answer was lost.
        match (self.remote.get(&key, LABEL_LIMIT), put) {
            (Ok(Some(found)), _) if found == text => Ok(()),
            (_, Err(error)) => {
                let left = self.remote.place_of(&self.remote.key(self.id.as_str()));
                Err(error.hint(format!("objects without a label may be left in \"{left}\"")))
            }
            (_, Ok(_)) => Err(taken(self.id.as_str())),
        }
    }

    /// What is there must be what was to be put: its answer was lost.
    fn expect(&self, key: &Path, bytes: &[u8]) -> Result<()> {
        match self.remote.get(key, bytes.len() as u64)? {
            Some(found) if found == bytes => Ok(()),
            _ => Err(taken(self.id.as_str())),
        }
    }
}

impl Drop for ObjectUpload {
    fn drop(&mut self) {
        self.parts.stop();
        let undone = match self.stage {
            Stage::Open => self.abort(),
            Stage::Objects => self.abort().and(self.remove_objects()),
            Stage::Labelled => Ok(()),
        };
        if let Err(error) = undone {
            let place = self.remote.place_of(&self.archive);
            tracing::warn!("an unfinished upload of \"{place}\" may be left: {}", one_line(&error));
        }
    }
}

impl ObjectUpload {
    /// Ends the multipart upload, so that the store drops its parts. One that is not there any more is no failure.
    fn abort(&self) -> Result<()> {
        let (backend, key, upload) =
            (Arc::clone(&self.remote.backend), self.archive.clone(), self.parts.upload().clone());
        let aborted = self.remote.clean(async move {
            backend.abort_multipart(&key, &upload).await?;
            for _ in 1..ABORTS {
                if backend.abort_multipart(&key, &upload).await.is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        match aborted {
            Err(cause) if !is_missing(&cause) => {
                Err(failed("abort the upload of", &self.remote.place_of(&self.archive), &cause))
            }
            _ => Ok(()),
        }
    }

    fn remove_objects(&self) -> Result<()> {
        let manifest = self.manifest.as_ref().map_or(Ok(()), |manifest| self.remote.remove(manifest));
        manifest.and(self.remote.remove(&self.archive))
    }
}
