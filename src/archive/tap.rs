//! The digest of a whole object, taken while parts of it are read for another purpose.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::codec::WRITE_BYTES;
use super::progress::Progress;
use super::read_at::ReadAt;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::error::Result;

/// Reads through to `source` and hashes its bytes in their order: each once, those that nobody reads at the end.
pub(super) struct Tap<'a> {
    source: &'a dyn ReadAt,
    progress: Option<&'a Progress>,
    hashed: Mutex<Hashed>,
}

struct Hashed {
    hasher: Sha256,
    /// How many bytes from the beginning have been hashed.
    until: u64,
}

impl<'a> Tap<'a> {
    pub(super) fn new(source: &'a dyn ReadAt) -> Self {
        Self { source, progress: None, hashed: Mutex::new(Hashed { hasher: Sha256::new(), until: 0 }) }
    }

    /// The same, and what only the digest reads moves `progress`.
    pub(super) fn with_progress(self, progress: &'a Progress) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// The digest of the whole object: reads what has not been read.
    pub(super) fn finish(&self, cancel: &Cancel) -> Result<Digest> {
        let mut buffer = vec![0; WRITE_BYTES];
        loop {
            cancel.check()?;
            let begin = self.hashed.lock().unwrap_or_else(PoisonError::into_inner).until;
            let left = usize::try_from(self.source.len().saturating_sub(begin)).unwrap_or(usize::MAX);
            let length = left.min(buffer.len());
            match buffer.get_mut(..length) {
                Some(part) if !part.is_empty() => self.read_exact_at(part, begin)?,
                _ => break,
            }
            if let Some(progress) = self.progress {
                progress.add_raw(length as u64);
                progress.add_stored(length as u64);
            }
        }
        let hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Digest::finish(hashed.hasher.clone()))
    }
}

impl ReadAt for Tap<'_> {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn at_once(&self) -> usize {
        self.source.at_once()
    }

    fn batch_bytes(&self) -> usize {
        self.source.batch_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.source.read_exact_at(buf, offset)?;
        let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        let new = hashed.until.checked_sub(offset).and_then(|known| buf.get(usize::try_from(known).ok()?..));
        if let Some(new) = new {
            hashed.hasher.update(new);
            hashed.until += new.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_read_in_whatever_order_the_digest_is_that_of_the_object(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            reads in prop::collection::vec((any::<prop::sample::Index>(), 0..700usize), 0..12),
        ) {
            let tap = Tap::new(&bytes);
            for (at, len) in reads {
                let at = at.index(bytes.len() + 1);
                let mut part = vec![0; len.min(bytes.len() - at)];
                tap.read_exact_at(&mut part, at as u64).unwrap();
                prop_assert_eq!(&part[..], &bytes[at..at + part.len()]);
            }
            prop_assert_eq!(tap.finish(&Cancel::default()).unwrap(), Digest::of(&bytes));
        }
    }
}
