//! The last layer before a store: encryption, where there are recipients, and the digest of what is stored.
//!
//! A stream that was not finished has no last chunk, so that no reader takes it for a whole one.

use std::io::{self, BufWriter, Write};

use age::Encryptor;
use age::stream::StreamWriter;
use sha2::{Digest as _, Sha256};

use super::{HEADER_BYTES_MAX, Recipients};
use crate::digest::Digest;
use crate::error::{Class, Error, Result};

/// What is to be done to bytes before they are stored, with a key of its own.
pub(in crate::archive) struct Sealing(Option<Encryptor>);

/// Bytes on their way into `W`.
pub(in crate::archive) struct Storing<W: Write>(Layer<W>);

enum Layer<W: Write> {
    Open(Counted<W>),
    /// The `age` crate writes its header in small parts and hides the cause when one fails: so they are collected, and
    /// written with the first chunk.
    Age(Box<StreamWriter<Counted<BufWriter<W>>>>),
}

/// Everything that was stored.
pub(in crate::archive) struct Kept<W> {
    /// Where it is; flushed, not synced.
    pub(in crate::archive) sink: W,
    /// Bytes as stored.
    pub(in crate::archive) bytes: u64,
    /// SHA-256 of the bytes as stored.
    pub(in crate::archive) sha256: Digest,
}

impl Sealing {
    /// Makes a key and wraps it for every recipient.
    pub(in crate::archive) fn to(recipients: &Recipients) -> Result<Self> {
        if recipients.is_empty() {
            return Ok(Self(None));
        }
        let keys = recipients.iter().map(|recipient| recipient.key() as &dyn age::Recipient);
        let cannot = |cause| Error::new(Class::Config, "cannot encrypt to the recipients").because(cause);
        Encryptor::with_recipients(keys).map(|encryptor| Self(Some(encryptor))).map_err(cannot)
    }

    /// Begins to store into `sink`; of an encrypted stream that writes the header.
    pub(in crate::archive) fn begin<W: Write>(self, sink: W) -> io::Result<Storing<W>> {
        Ok(Storing(match self.0 {
            None => Layer::Open(Counted::new(sink)),
            Some(encryptor) => {
                let sink = BufWriter::with_capacity(HEADER_BYTES_MAX, sink);
                Layer::Age(Box::new(encryptor.wrap_output(Counted::new(sink))?))
            }
        }))
    }
}

impl<W: Write> Storing<W> {
    /// Writes what is still to be written, and flushes.
    pub(in crate::archive) fn finish(self) -> io::Result<Kept<W>> {
        let (mut sink, bytes, hasher) = match self.0 {
            Layer::Open(Counted { sink, bytes, hasher }) => (sink, bytes, hasher),
            Layer::Age(writer) => {
                let Counted { sink, bytes, hasher } = writer.finish()?;
                (sink.into_inner().map_err(io::IntoInnerError::into_error)?, bytes, hasher)
            }
        };
        sink.flush()?;
        Ok(Kept { sink, bytes, sha256: Digest::finish(hasher) })
    }
}

impl<W: Write> Write for Storing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Layer::Open(counted) => counted.write(bytes),
            Layer::Age(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Layer::Open(counted) => counted.flush(),
            Layer::Age(writer) => writer.flush(),
        }
    }
}

/// Counts and hashes what its sink takes.
struct Counted<W> {
    sink: W,
    bytes: u64,
    hasher: Sha256,
}

impl<W> Counted<W> {
    fn new(sink: W) -> Self {
        Self { sink, bytes: 0, hasher: Sha256::new() }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.sink.write(bytes)?;
        self.hasher.update(bytes.get(..taken).unwrap_or(bytes));
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// What is stored for `bytes`: themselves if there is no recipient, else an age file.
pub fn seal(bytes: Vec<u8>, recipients: &Recipients) -> Result<Vec<u8>> {
    if recipients.is_empty() {
        return Ok(bytes);
    }
    let sealed = || -> io::Result<Vec<u8>> {
        let mut storing = Sealing::to(recipients).map_err(io::Error::other)?.begin(Vec::new())?;
        storing.write_all(&bytes)?;
        Ok(storing.finish()?.sink)
    };
    sealed().map_err(|cause| Error::new(Class::Io, "cannot encrypt").because(cause))
}
