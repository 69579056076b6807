//! Where an archive is read from: anything that gives bytes by position, on many threads at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::error::{Class, Error, Result};

/// Bytes by position.
pub trait ReadAt: Send + Sync {
    /// How many bytes there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many threads should read at once to make use of it: a disk is as fast with one for each worker.
    fn at_once(&self) -> usize {
        1
    }

    /// Up to how many bytes of neighbours are better read at once than one by one.
    fn batch_bytes(&self) -> usize {
        0
    }

    /// Fills `buf` with the bytes from `offset`; an end before that is [`Class::Damage`].
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
}

/// A file as a [`ReadAt`], with its path for messages.
#[derive(Debug)]
pub struct FileAt {
    file: File,
    path: PathBuf,
    len: u64,
}

impl FileAt {
    /// Takes an open file; `path` is for messages.
    pub fn new(file: File, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let meta = file.metadata().map_err(|cause| Error::io("examine", &path, cause))?;
        if !meta.is_file() {
            return Err(Error::new(Class::Damage, format!("{path:?} is not a regular file")));
        }
        Ok(Self { file, path, len: meta.len() })
    }
}

impl ReadAt for FileAt {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let short = || Error::new(Class::Damage, format!("{:?} ends before byte {end}", self.path));
        if end > self.len {
            return Err(short());
        }
        self.file.read_exact_at(buf, offset).map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => short(),
            _ => Error::io("read", &self.path, cause),
        })
    }
}
