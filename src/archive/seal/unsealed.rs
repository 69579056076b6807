//! An encrypted object as [`ReadAt`]: any bytes, on many threads at once.
//!
//! Every thread gets a reader of its own, which is kept for the next one. That the object has not been cut is proved when it
//! is opened, by its last chunk; every other chunk proves itself and its place when it is read.

use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use age::stream::StreamReader;
use age::{DecryptError, Decryptor};

use super::window::{Edges, Window, damaged};
use super::{Identities, Recipients};
use crate::archive::read_at::ReadAt;
use crate::error::{Class, Error, Result};

/// What an encrypted object holds.
pub struct Unsealed<'a> {
    source: &'a dyn ReadAt,
    edges: Arc<Edges>,
    keys: &'a Identities,
    recipients: &'a Recipients,
    len: u64,
    idle: Mutex<Vec<Reader<'a>>>,
}

struct Reader<'a> {
    stream: StreamReader<Window<'a>>,
    wanted: Arc<AtomicU64>,
}

impl<'a> Unsealed<'a> {
    /// Opens `source`, which was encrypted to `recipients`, and proves that it is as long as when it was written.
    ///
    /// [`Class::Key`] if none of `keys` is one of the recipients'; [`Class::Damage`] if the header is damaged or the end
    /// is missing.
    pub fn open(source: &'a dyn ReadAt, recipients: &'a Recipients, keys: &'a Identities) -> Result<Self> {
        if keys.is_empty() {
            return Err(Error::new(Class::Key, "it is encrypted, and no key was given")
                .hint("give the file that age-keygen wrote: --identity FILE"));
        }
        let edges = Arc::new(Edges::read(source)?);
        let mut opened = Self { source, edges, keys, recipients, len: 0, idle: Mutex::default() };
        let mut reader = opened.reader()?;
        opened.len = reader.stream.seek(SeekFrom::End(0)).map_err(|cause| match cause.downcast::<Error>() {
            Ok(error) => error,
            Err(_) => Error::new(Class::Damage, "the encrypted stream is truncated, or its end is damaged"),
        })?;
        opened.keep(reader);
        Ok(opened)
    }

    fn reader(&self) -> Result<Reader<'a>> {
        let wanted = Arc::new(AtomicU64::new(0));
        let window = Window::new(self.source, Arc::clone(&self.edges), Arc::clone(&wanted));
        let decryptor = Decryptor::new_buffered(window).map_err(|cause| self.refused(cause))?;
        if decryptor.is_scrypt() {
            return Err(Error::new(Class::Damage, "it is encrypted with a passphrase, as no backup is"));
        }
        let stream = decryptor.decrypt(self.keys.iter()).map_err(|cause| self.refused(cause))?;
        Ok(Reader { stream, wanted })
    }

    /// Why the header does not give the key.
    fn refused(&self, cause: DecryptError) -> Error {
        match cause {
            DecryptError::NoMatchingKeys if self.keys.any_of(self.recipients) => {
                damaged("the key that was given is one of the recipients', and does not fit")
            }
            DecryptError::NoMatchingKeys => {
                let names: Vec<String> = self.recipients.iter().map(ToString::to_string).collect();
                Error::new(Class::Key, "the key that was given does not open it")
                    .hint(format!("it was encrypted to {}", names.join(", ")))
            }
            DecryptError::InvalidMac => damaged("its checksum is wrong"),
            DecryptError::UnknownFormat => damaged("it is of another version of age than 1"),
            _ => damaged("it is not one of age"),
        }
    }

    fn take(&self) -> Result<Reader<'a>> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.reader(), Ok)
    }

    /// Keeps a reader that has not failed: after a failure its state is not to be used.
    fn keep(&self, reader: Reader<'a>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
    }
}

impl ReadAt for Unsealed<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn at_once(&self) -> usize {
        self.source.at_once()
    }

    fn batch_bytes(&self) -> usize {
        self.source.batch_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        if end > self.len {
            return Err(Error::new(Class::Damage, format!("the encrypted stream ends before byte {end}")));
        }
        if buf.is_empty() {
            return Ok(());
        }
        let mut reader = self.take()?;
        reader.wanted.store(self.edges.stored_end(end), Ordering::Relaxed);
        let read = reader.stream.seek(SeekFrom::Start(offset)).and_then(|_| reader.stream.read_exact(buf));
        read.map_err(|cause| match cause.downcast::<Error>() {
            Ok(error) => error,
            Err(_) => Error::new(
                Class::Damage,
                format!("a chunk of the encryption is damaged between byte {offset} and {end}"),
            ),
        })?;
        self.keep(reader);
        Ok(())
    }
}
