//! A repository in a bucket: Amazon S3 and whatever speaks its protocol, Google Cloud Storage, Azure Blob Storage.
//!
//! The label is put last, only where there is none, so that a backup is whole or absent as in a directory; what an
//! interrupted run leaves are objects without a label, and an unfinished multipart upload if it was killed. Everything
//! asynchronous stays below this module.

mod archive;
mod client;
mod fault;
mod parts;
pub mod settings;
#[cfg(test)]
mod tests;
mod upload;

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use self::archive::ObjectArchive;
use self::client::Backend;
use self::fault::{failed, is_missing, is_taken, is_unknown_condition};
pub use self::settings::{Credentials, ObjectSettings};
use super::location::ObjectUrl;
use super::repository::{Repository, lost, not_found};
use super::{Begun, Destination, LABEL_LIMIT, LABEL_NAME, Listing};
use crate::archive::label::{BackupId, Label};
use crate::archive::read_at::ReadAt;
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};
use crate::runtime::Runtime;

/// The option that bounds every wait.
const STALL_TIMEOUT: &str = "stall-timeout";

/// How many labels are fetched at once.
const LABELS_AT_ONCE: usize = 16;

/// How long cleaning up may take when a run has failed: the server does not wait for it.
const CLEANUP_LIMIT: Duration = Duration::from_secs(10);

/// A part of a bucket that holds backups.
pub struct ObjectRepository {
    remote: Arc<Remote>,
}

/// The store, and how it is waited for.
struct Remote {
    url: ObjectUrl,
    backend: Arc<dyn Backend>,
    settings: ObjectSettings,
    runtime: Runtime,
    cancel: Cancel,
}

/// What became of an object that was to be put where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Done,
    /// Somebody else's is there.
    Taken,
}

impl ObjectRepository {
    /// Makes a client for `url`; nothing is asked of the store yet. Every later wait hears `cancel`.
    pub fn open(
        url: &ObjectUrl,
        settings: &ObjectSettings,
        credentials: &Credentials,
        cancel: &Cancel,
    ) -> Result<Self> {
        let runtime = Runtime::start("objects", STALL_TIMEOUT)?;
        let backend = {
            let _entered = runtime.handle().enter();
            client::client(url, settings, credentials)?
        };
        let (url, settings, cancel) = (url.clone(), settings.clone(), cancel.clone());
        Ok(Self { remote: Arc::new(Remote { url, backend, settings, runtime, cancel }) })
    }
}

impl fmt::Debug for ObjectRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectRepository").field(&self.remote).finish()
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client's own form may show what opens the store.
        f.debug_struct("Remote").field("url", &self.url).field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Remote {
    /// The key of `name`, which is an id, or an id and a name behind it, all of plain characters.
    fn key(&self, name: &str) -> Path {
        match self.url.prefix() {
            "" => Path::from(name),
            prefix => Path::from(format!("{prefix}/{name}")),
        }
    }

    fn key_of(&self, id: &BackupId, name: &str) -> Path {
        self.key(&format!("{id}/{name}"))
    }

    fn place_of(&self, key: &Path) -> String {
        let rest = key.as_ref().strip_prefix(self.url.prefix()).unwrap_or(key.as_ref());
        format!("{}/{}", self.url, rest.trim_start_matches('/'))
    }

    /// Runs `work` within the stall time-out.
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.runtime.wait(self.settings.stall_timeout, Some(&self.cancel), work)
    }

    /// Runs `work` although the run may have been stopped.
    fn clean<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.runtime.wait(CLEANUP_LIMIT.min(self.settings.stall_timeout), None, work)
    }

    /// Whether anything is stored for `id`.
    fn exists(&self, id: &BackupId) -> Result<bool> {
        let (backend, prefix) = (Arc::clone(&self.backend), self.key(id.as_str()));
        let first = self.wait(async move { backend.list(Some(&prefix)).next().await })?;
        match first {
            None => Ok(false),
            Some(Ok(_)) => Ok(true),
            Some(Err(cause)) => Err(failed("list", &self.place_of(&self.key(id.as_str())), &cause)),
        }
    }

    /// The bytes of an object, unless there is none or it is larger than `limit`.
    fn get(&self, key: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let (backend, key) = (Arc::clone(&self.backend), key.clone());
        let place = self.place_of(&key);
        let got = self.wait(async move { get_bounded(&*backend, &key, limit).await })?;
        bounded(got, &place, limit)
    }

    /// The size of an object; `None` if there is none.
    fn size(&self, key: &Path) -> Result<Option<u64>> {
        let (backend, asked) = (Arc::clone(&self.backend), key.clone());
        match self.wait(async move { backend.head(&asked).await })? {
            Ok(meta) => Ok(Some(meta.size)),
            Err(cause) if is_missing(&cause) => Ok(None),
            Err(cause) => Err(failed("look at", &self.place_of(key), &cause)),
        }
    }

    /// Puts an object where there is none, as far as the store can tell.
    fn put_new(&self, key: &Path, bytes: &[u8]) -> Result<Put> {
        let (backend, at, payload) = (Arc::clone(&self.backend), key.clone(), PutPayload::from(bytes.to_vec()));
        let put = self.wait(async move {
            let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match backend.put_opts(&at, payload.clone(), create).await {
                Err(cause) if is_unknown_condition(&cause) => match backend.head(&at).await {
                    Err(cause) if is_missing(&cause) => backend.put(&at, payload).await.map(|_| Put::Done),
                    looked => looked.map(|_| Put::Taken),
                },
                Err(cause) if is_taken(&cause) => Ok(Put::Taken),
                put => put.map(|_| Put::Done),
            }
        })?;
        put.map_err(|cause| failed("write", &self.place_of(key), &cause))
    }

    /// Removes an object, which need not exist, although the run may have been stopped.
    fn remove(&self, key: &Path) -> Result<()> {
        let (backend, at) = (Arc::clone(&self.backend), key.clone());
        match self.clean(async move { backend.delete(&at).await })? {
            Err(cause) if !is_missing(&cause) => Err(failed("remove", &self.place_of(key), &cause)),
            _ => Ok(()),
        }
    }
}

/// An object of at most `limit` bytes; `Ok(None)` for a larger one.
async fn get_bounded(store: &dyn Backend, key: &Path, limit: u64) -> object_store::Result<Option<Vec<u8>>> {
    let mut stream = store.get(key).await?.into_stream();
    let mut bytes = Vec::new();
    while let Some(part) = stream.try_next().await? {
        if (bytes.len() + part.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&part);
    }
    Ok(Some(bytes))
}

fn bounded(got: object_store::Result<Option<Vec<u8>>>, place: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    match got {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        Ok(None) => Err(Error::new(Class::Damage, format!("\"{place}\" is larger than {limit} bytes"))),
        Err(cause) if is_missing(&cause) => Ok(None),
        Err(cause) => Err(failed("read", place, &cause)),
    }
}

impl Destination for ObjectRepository {
    fn place(&self) -> String {
        self.remote.url.to_string()
    }

    fn probe_writable(&self) -> Result<()> {
        let key = self.remote.key(&format!(".probe-{:08x}", crate::sys::random_u32()));
        let put = self.remote.put_new(&key, b"probe");
        self.remote.remove(&key).and(put.map(drop))
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn begin(&self, id: &BackupId, archive_name: &'static str, expected_bytes: u64) -> Result<Begun> {
        upload::begin(&self.remote, id, archive_name, expected_bytes)
    }
}

impl Repository for ObjectRepository {
    fn ids(&self) -> Result<Vec<BackupId>> {
        let (backend, prefix) = (Arc::clone(&self.remote.backend), self.remote.url.prefix().to_owned());
        let listed = self.remote.wait(async move {
            let prefix = (!prefix.is_empty()).then(|| Path::from(prefix));
            backend.list_with_delimiter(prefix.as_ref()).await
        })?;
        let listed = listed.map_err(|cause| failed("list", &self.place(), &cause))?;
        let named = |path: &Path| BackupId::from_str(path.filename()?).ok();
        let mut ids: Vec<BackupId> = listed.common_prefixes.iter().filter_map(named).collect();
        ids.sort();
        Ok(ids)
    }

    fn object(&self, id: &BackupId, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.remote.get(&self.remote.key_of(id, name), limit)? {
            None if !self.remote.exists(id)? => {
                Err(not_found(format!("there is no backup {id} in \"{}\"", self.place())))
            }
            found => Ok(found),
        }
    }

    fn open_archive(&self, label: &Label) -> Result<Box<dyn ReadAt>> {
        let key = self.remote.key_of(&label.id, &label.archive.name);
        match self.remote.size(&key)? {
            Some(len) => Ok(Box::new(ObjectArchive::new(Arc::clone(&self.remote), key, len))),
            None if self.remote.exists(&label.id)? => Err(lost(label, "archive")),
            None => Err(not_found(format!("there is no backup {} in \"{}\"", label.id, self.place()))),
        }
    }

    fn remove(&self, label: &Label) -> Result<()> {
        // From the first on it is no backup, whatever happens to the rest.
        for name in [LABEL_NAME, &label.manifest.name, &label.archive.name] {
            self.remote.remove(&self.remote.key_of(&label.id, name))?;
        }
        Ok(())
    }

    fn list(&self) -> Result<Listing> {
        let ids = self.ids()?;
        let (remote, wanted) = (Arc::clone(&self.remote), ids.clone());
        let texts = self.remote.runtime.wait(self.list_limit(ids.len()), Some(&self.remote.cancel), async move {
            let fetch = |id: BackupId| {
                let (backend, key) = (Arc::clone(&remote.backend), remote.key_of(&id, LABEL_NAME));
                async move { get_bounded(&*backend, &key, LABEL_LIMIT).await }
            };
            futures_util::stream::iter(wanted).map(fetch).buffered(LABELS_AT_ONCE).collect::<Vec<_>>().await
        })?;
        let mut listing = Listing::default();
        for (id, got) in ids.into_iter().zip(texts) {
            let place = format!("{}/{LABEL_NAME}", self.place_of(&id));
            match bounded(got, &place, LABEL_LIMIT).and_then(|text| self.read_label(&id, text)) {
                Ok(label) => listing.labels.push(label),
                Err(error) => listing.broken.push((id, error)),
            }
        }
        Ok(listing)
    }
}

impl ObjectRepository {
    /// A stall for each round of labels, so that many backups are no reason to give up.
    fn list_limit(&self, labels: usize) -> Duration {
        let rounds = u32::try_from(labels.div_ceil(LABELS_AT_ONCE)).unwrap_or(u32::MAX);
        self.remote.settings.stall_timeout.saturating_mul(rounds.max(1))
    }
}
