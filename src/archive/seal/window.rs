//! An encrypted object as the stream that the `age` crate reads and seeks in: few large reads, and the edges only once.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{HEADER_BYTES_MAX, STORED_CHUNK_BYTES};
use crate::archive::codec::STORED_BYTES_MAX;
use crate::archive::read_at::ReadAt;
use crate::error::{Class, Error, Result};

/// The most bytes that are read at a time: the chunks around the largest frame.
const WINDOW_BYTES_MAX: u64 =
    STORED_BYTES_MAX as u64 * (STORED_CHUNK_BYTES) / super::CHUNK_BYTES + 2 * STORED_CHUNK_BYTES;

/// What begins the last line of a header: a dash is in no line before it.
const HEADER_END: &[u8] = b"\n--- ";

/// The random bytes between the header and the first chunk.
const NONCE_BYTES: usize = 16;

/// The beginning and the end of an object, which every reader of it needs.
#[derive(Debug)]
pub(super) struct Edges {
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Where the first chunk begins.
    payload: u64,
    /// Where the tail begins: the last chunk, but for what of it the head holds.
    tail_begin: u64,
    len: u64,
}

impl Edges {
    /// Reads them; what is wrong with the header is damage.
    pub(super) fn read(source: &dyn ReadAt) -> Result<Self> {
        let len = source.len();
        let mut head = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(HEADER_BYTES_MAX)];
        source.read_exact_at(&mut head, 0)?;
        let payload = payload(&head).ok_or_else(|| damaged("it is none, or has no end"))?;
        if payload as u64 > len {
            return Err(damaged("it is cut off"));
        }
        let payload = payload as u64;
        let chunks = (len - payload).div_ceil(STORED_CHUNK_BYTES);
        let tail_begin = (payload + chunks.saturating_sub(1) * STORED_CHUNK_BYTES).max(head.len() as u64).min(len);
        let mut tail = vec![0; usize::try_from(len - tail_begin).unwrap_or_default()];
        source.read_exact_at(&mut tail, tail_begin)?;
        Ok(Self { head, tail, payload, tail_begin, len })
    }

    /// Where the chunks end that hold the raw bytes before `end`.
    pub(super) fn stored_end(&self, end: u64) -> u64 {
        let chunks = end.div_ceil(super::CHUNK_BYTES);
        chunks.saturating_mul(STORED_CHUNK_BYTES).saturating_add(self.payload).min(self.len)
    }
}

/// The header of an encrypted object is not to be used.
pub(super) fn damaged(what: &str) -> Error {
    Error::new(Class::Damage, format!("the header of the encryption is damaged: {what}"))
}

/// Where the first chunk begins in an object that begins with `head`.
fn payload(head: &[u8]) -> Option<usize> {
    let last_line = head.windows(HEADER_END.len()).position(|bytes| bytes == HEADER_END)? + 1;
    let rest = head.get(last_line..)?;
    let line_end = rest.iter().position(|byte| *byte == b'\n')?;
    last_line.checked_add(line_end)?.checked_add(1 + NONCE_BYTES)
}

/// A stream over an object. What a reader will want is read in one piece.
pub(super) struct Window<'a> {
    source: &'a dyn ReadAt,
    edges: Arc<Edges>,
    /// The end of what will be wanted.
    wanted: Arc<AtomicU64>,
    at: u64,
    /// Where `bytes` begin.
    begin: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(source: &'a dyn ReadAt, edges: Arc<Edges>, wanted: Arc<AtomicU64>) -> Self {
        Self { source, edges, wanted, at: 0, begin: 0, bytes: Vec::new() }
    }

    fn load(&mut self) -> Result<()> {
        let least = self.at + STORED_CHUNK_BYTES;
        let wanted = self.wanted.load(Ordering::Relaxed).max(least).min(self.at + WINDOW_BYTES_MAX);
        let len = wanted.min(self.edges.tail_begin) - self.at;
        // Nothing of a read that failed is used.
        self.begin = u64::MAX;
        self.bytes.resize(usize::try_from(len).unwrap_or_default(), 0);
        self.source.read_exact_at(&mut self.bytes, self.at)?;
        self.begin = self.at;
        Ok(())
    }
}

impl BufRead for Window<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let from = |bytes: &[u8], begin: u64| -> Option<usize> {
            usize::try_from(self.at.checked_sub(begin)?).ok().filter(|at| *at < bytes.len())
        };
        if let Some(at) = from(&self.edges.head, 0) {
            return Ok(self.edges.head.get(at..).unwrap_or_default());
        }
        if self.at >= self.edges.tail_begin {
            let at = from(&self.edges.tail, self.edges.tail_begin).unwrap_or(self.edges.tail.len());
            return Ok(self.edges.tail.get(at..).unwrap_or_default());
        }
        let at = match from(&self.bytes, self.begin) {
            Some(at) => at,
            None => {
                self.load().map_err(io::Error::other)?;
                0
            }
        };
        Ok(self.bytes.get(at..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount as u64;
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let taken = self.fill_buf()?.read(buf)?;
        self.consume(taken);
        Ok(taken)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.edges.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
