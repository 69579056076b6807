//! An archive in an object store, read by range requests: as many at once as there are threads that ask.

use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore};

use super::Remote;
use super::fault::{failed, is_missing};
use crate::archive::read_at::ReadAt;
use crate::error::{Class, Error, Result};

/// Neighbours are fetched by one request up to so many bytes: about as long as a request takes before its first byte.
const BATCH_BYTES: usize = 4 << 20;

/// An archive by range requests.
pub(super) struct ObjectArchive {
    remote: Arc<Remote>,
    key: Path,
    len: u64,
}

impl ObjectArchive {
    /// The object `key` of `len` bytes.
    pub(super) fn new(remote: Arc<Remote>, key: Path, len: u64) -> Self {
        Self { remote, key, len }
    }
}

impl ReadAt for ObjectArchive {
    fn len(&self) -> u64 {
        self.len
    }

    fn at_once(&self) -> usize {
        self.remote.settings.parallel.get()
    }

    fn batch_bytes(&self) -> usize {
        BATCH_BYTES
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let place = || self.remote.place_of(&self.key);
        let wanted = buf.len();
        let end = offset.checked_add(wanted as u64).filter(|end| *end <= self.len);
        let Some(end) = end else {
            let end = offset.saturating_add(wanted as u64);
            return Err(Error::new(Class::Damage, format!("\"{}\" ends before byte {end}", place())));
        };
        if wanted == 0 {
            return Ok(());
        }
        let (backend, key) = (Arc::clone(&self.remote.backend), self.key.clone());
        let got = self.remote.wait(async move {
            let options = GetOptions { range: Some((offset..end).into()), ..GetOptions::default() };
            let mut stream = backend.get_opts(&key, options).await?.into_stream();
            let mut bytes = Vec::with_capacity(wanted);
            // A store that sends more than was asked for is not listened to.
            while let Some(part) = stream.try_next().await?.filter(|_| bytes.len() <= wanted) {
                bytes.extend_from_slice(&part);
            }
            Ok(bytes)
        })?;
        let bytes = got.map_err(|cause| match is_missing(&cause) {
            true => Error::new(Class::Damage, format!("\"{}\" is gone", place())),
            false => failed("read", &place(), &cause),
        })?;
        if bytes.len() != wanted {
            let text = format!("the store sent {} bytes of \"{}\" and not {wanted}", bytes.len(), place());
            return Err(Error::new(Class::Io, text));
        }
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}
