//! A backup's archive and manifest, opened: decrypted where they are encrypted.

use super::{Identities, Seal, Unsealed};
use crate::archive::label::Label;
use crate::archive::manifest::Manifest;
use crate::archive::read_at::ReadAt;
use crate::error::{Class, Error, Result};

/// The frames of an archive, wherever they are stored and however.
pub enum Archive<'a> {
    /// They are stored as they are.
    Open(&'a dyn ReadAt),
    /// They are encrypted.
    Sealed(Box<Unsealed<'a>>),
}

impl<'a> Archive<'a> {
    /// Opens the archive of `label`, which is stored in `stored`.
    pub fn open(stored: &'a dyn ReadAt, label: &'a Label, keys: &'a Identities) -> Result<Self> {
        match label.seal() {
            Seal::Open => Ok(Self::Open(stored)),
            Seal::Age => {
                let opened = Unsealed::open(stored, &label.recipients, keys);
                opened.map(|archive| Self::Sealed(Box::new(archive))).map_err(|error| in_place(error, label, "archive"))
            }
        }
    }
}

impl ReadAt for Archive<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Open(stored) => stored.len(),
            Self::Sealed(archive) => archive.len(),
        }
    }

    fn at_once(&self) -> usize {
        match self {
            Self::Open(stored) => stored.at_once(),
            Self::Sealed(archive) => archive.at_once(),
        }
    }

    fn batch_bytes(&self) -> usize {
        match self {
            Self::Open(stored) => stored.batch_bytes(),
            Self::Sealed(archive) => archive.batch_bytes(),
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self {
            Self::Open(stored) => stored.read_exact_at(buf, offset),
            Self::Sealed(archive) => archive.read_exact_at(buf, offset),
        }
    }
}

impl Manifest {
    /// The manifest of `label` out of its stored bytes, which are proved to be those that the label names.
    pub fn open(stored: &[u8], label: &Label, keys: &Identities) -> Result<Self> {
        let manifest = match label.seal() {
            Seal::Open => Self::from_stored(stored),
            Seal::Age => unsealed(stored, label, keys).and_then(|stored| Self::from_stored(&stored)),
        };
        let manifest = manifest.map_err(|error| in_place(error, label, "manifest"))?;
        if (&manifest.id, manifest.gtid, manifest.codec) != (&label.id, label.gtid, label.codec) {
            let text =
                format!("the label of {} is damaged: id, position or compression is not the manifest's", label.id);
            return Err(Error::new(Class::Damage, text));
        }
        Ok(manifest)
    }
}

/// Says of which object an error speaks, and keeps its advice.
fn in_place(error: Error, label: &Label, what: &str) -> Error {
    let advice = error.advice().map(str::to_owned);
    let told = Error::new(error.class(), format!("cannot use the {what} of {}", label.id)).because(error);
    advice.into_iter().fold(told, Error::hint)
}

fn unsealed(stored: &[u8], label: &Label, keys: &Identities) -> Result<Vec<u8>> {
    let stored = Bytes(stored);
    let opened = Unsealed::open(&stored, &label.recipients, keys)?;
    let mut bytes = vec![0; usize::try_from(opened.len()).unwrap_or_default()];
    opened.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// An object in memory.
struct Bytes<'a>(&'a [u8]);

impl ReadAt for Bytes<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let begin = usize::try_from(offset).ok();
        let range = begin.and_then(|begin| Some(begin..begin.checked_add(buf.len())?));
        let bytes = range.and_then(|range| self.0.get(range));
        buf.copy_from_slice(bytes.ok_or_else(|| Error::new(Class::Damage, "it ends too early"))?);
        Ok(())
    }
}
