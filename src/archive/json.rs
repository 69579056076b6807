//! The two JSON documents of a backup: reading proves them, writing gives the same bytes for the same contents.
//!
//! Both come from outside. Their length is bounded before they are parsed, and the format version is looked at before
//! anything else: a document of a later version may look different in every other respect.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use zstd::zstd_safe::{self, CParameter};

use super::label::Label;
use super::manifest::{FORMAT_VERSION, Manifest};
use crate::error::{Class, Error, Result};

/// The longest manifest, in bytes of JSON: enough for 20 TB, and no more than a small machine can hold.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// The longest label: a label names no file, so it has a few kilobytes.
pub const LABEL_BYTES_MAX: usize = 1 << 20;

/// The compression level of the stored manifest: half of it is digests, which no level makes smaller.
const MANIFEST_LEVEL: i32 = 1;

/// The longest name of a stored object.
const NAME_BYTES_MAX: usize = 100;

impl Manifest {
    /// Reads a manifest and proves what the rest of the program relies on; [`check`](super::check) lists it.
    ///
    /// [`Class::Unsupported`] if it was written in another format version, [`Class::Damage`] if anything else is wrong.
    pub fn parse(json: &[u8]) -> Result<Self> {
        if json.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(Error::new(Class::Damage, format!("the manifest is longer than {MANIFEST_BYTES_MAX} bytes")));
        }
        let manifest: Self = parse_versioned("manifest", json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The manifest as compact JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        compact("manifest", self)
    }

    /// The manifest as it is stored: compact JSON in one zstd frame that declares its length and carries a checksum.
    pub fn to_stored(&self) -> Result<Vec<u8>> {
        let json = self.to_json()?;
        if json.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(Error::new(Class::Refused, "there are too many files for one manifest"));
        }
        let cannot = |cause| Error::new(Class::Io, "cannot compress the manifest").because(cause);
        let mut zstd = zstd::bulk::Compressor::new(MANIFEST_LEVEL).map_err(cannot)?;
        zstd.set_parameter(CParameter::ChecksumFlag(true)).map_err(cannot)?;
        zstd.compress(&json).map_err(cannot)
    }

    /// Reads and proves what [`to_stored`](Self::to_stored) wrote.
    pub fn from_stored(stored: &[u8]) -> Result<Self> {
        let damaged = || Error::new(Class::Damage, "the stored manifest is damaged");
        let declared = zstd_safe::get_frame_content_size(stored).ok().flatten().ok_or_else(damaged)?;
        if declared > MANIFEST_BYTES_MAX {
            return Err(Error::new(Class::Damage, format!("the manifest declares {declared} bytes, too many")));
        }
        let zstd = zstd::stream::Decoder::with_buffer(stored).map_err(|cause| damaged().because(cause))?;
        let mut zstd = zstd.single_frame();
        let mut json = Vec::new();
        zstd.by_ref().take(declared + 1).read_to_end(&mut json).map_err(|cause| damaged().because(cause))?;
        if json.len() as u64 != declared || !zstd.finish().is_empty() {
            return Err(damaged());
        }
        Self::parse(&json)
    }
}

impl Label {
    /// Reads a label.
    ///
    /// [`Class::Unsupported`] if it was written in another format version, [`Class::Damage`] if anything else is wrong.
    pub fn parse(json: &[u8]) -> Result<Self> {
        if json.len() > LABEL_BYTES_MAX {
            return Err(Error::new(Class::Damage, format!("the label is longer than {LABEL_BYTES_MAX} bytes")));
        }
        let label: Self = parse_versioned("label", json)?;
        for name in [&label.archive.name, &label.manifest.name] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(plain) {
                return Err(Error::new(Class::Damage, "the label names a file outside its backup"));
            }
        }
        Ok(label)
    }

    /// The label as JSON for people to read, ended by a newline.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|cause| unwritable("label", cause))?;
        json.push(b'\n');
        Ok(json)
    }
}

/// Reads a list of at most `MOST` things: memory is not spent on the first one beyond that, or on any after it.
pub(super) fn at_most<'de, const MOST: usize, D, T>(deserializer: D) -> std::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<const MOST: usize, T>(PhantomData<T>);

    impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for List<MOST, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Vec<T>, A::Error> {
            let mut found = Vec::new();
            while found.len() < MOST {
                match list.next_element()? {
                    Some(next) => found.push(next),
                    None => return Ok(found),
                }
            }
            match list.next_element::<IgnoredAny>()? {
                None => Ok(found),
                Some(_) => Err(A::Error::invalid_length(MOST + 1, &self)),
            }
        }
    }

    deserializer.deserialize_seq(List::<MOST, T>(PhantomData))
}

fn compact(what: &str, document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|cause| unwritable(what, cause))
}

fn unwritable(what: &str, cause: serde_json::Error) -> Error {
    Error::new(Class::Io, format!("cannot write the {what} as JSON")).because(cause)
}

fn parse_versioned<'a, T: Deserialize<'a>>(what: &str, json: &'a [u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Versioned {
        format_version: u64,
    }
    let malformed =
        |cause: serde_json::Error| Error::new(Class::Damage, format!("the {what} is malformed")).because(cause);
    let Versioned { format_version } = serde_json::from_slice(json).map_err(malformed)?;
    if format_version != u64::from(FORMAT_VERSION) {
        let text =
            format!("the {what} has format version {format_version}; this program knows version {FORMAT_VERSION}");
        return Err(Error::new(Class::Unsupported, text).hint("read it with a newer wsrep_sst_backup"));
    }
    serde_json::from_slice(json).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_where_it_is_too_long() {
        #[derive(Deserialize)]
        struct Short(#[serde(deserialize_with = "at_most::<2, _, _>")] Vec<u8>);
        let read = |json: &str| serde_json::from_str::<Short>(json).map(|short| short.0);
        for (json, list) in [("[]", vec![]), ("[1]", vec![1]), ("[1,2]", vec![1, 2])] {
            assert_eq!(read(json).unwrap(), list);
        }
        let error = read("[1,2,3,4]").unwrap_err();
        assert!(error.to_string().contains("at most 2"), "{error}");
        // Beyond the limit nothing is kept, not even looked at as a number.
        assert!(read("[1,2,\"x\"").unwrap_err().to_string().contains("at most 2"));
        assert!(read("7").is_err());
    }
}
