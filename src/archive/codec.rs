//! How a frame is compressed.

use serde::{Deserialize, Serialize};

use super::seal::Seal;
use crate::error::{Class, Error, Result};

/// The most raw bytes that a frame holds: 4 MiB.
pub const FRAME_BYTES: usize = 4 << 20;

/// The most bytes that a frame takes when stored: what does not compress grows by less than a 64th.
pub const STORED_BYTES_MAX: usize = FRAME_BYTES + FRAME_BYTES / 64;

/// The most bytes that are handed to the operating system in one write: 256 KiB.
///
/// Linux 6.18 on ext4 takes three to ten times as long for the same bytes in writes of 4 MiB.
pub const WRITE_BYTES: usize = 256 << 10;

/// The compression of an archive, with a level that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Named", into = "Named")]
pub enum Codec {
    /// Frames are stored as they are.
    None,
    /// Every frame is a gzip member; level 1 to 9.
    Gzip(u8),
    /// Every frame is a zstd frame; level 1 to 19.
    Zstd(u8),
}

/// The form of a codec in JSON.
#[derive(Serialize, Deserialize)]
struct Named {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    level: Option<u8>,
}

impl Codec {
    /// The codec called `none`, `gzip` or `zstd`; without a level gzip's is 6 and zstd's is 1.
    pub fn new(name: &str, level: Option<u8>) -> Result<Self> {
        let bounded = |level: u8, highest: u8| {
            if (1..=highest).contains(&level) {
                Ok(level)
            } else {
                Err(Error::new(Class::Config, format!("{name} has levels 1 to {highest}, not {level}")))
            }
        };
        match (name, level) {
            ("none", None) => Ok(Codec::None),
            ("none", Some(_)) => Err(Error::new(Class::Config, "without compression there is no level")),
            ("gzip", level) => Ok(Codec::Gzip(bounded(level.unwrap_or(6), 9)?)),
            ("zstd", level) => Ok(Codec::Zstd(bounded(level.unwrap_or(1), 19)?)),
            _ => Err(Error::new(Class::Config, format!("there is no compression {name:?}: zstd, gzip or none"))),
        }
    }

    /// `none`, `gzip` or `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip(_) => "gzip",
            Codec::Zstd(_) => "zstd",
        }
    }

    /// The level, where there is one.
    pub fn level(self) -> Option<u8> {
        match self {
            Codec::None => None,
            Codec::Gzip(level) | Codec::Zstd(level) => Some(level),
        }
    }

    /// The name that an archive has in a repository.
    pub fn archive_name(self, seal: Seal) -> &'static str {
        match (self, seal) {
            (Codec::None, Seal::Open) => "archive.tar",
            (Codec::None, Seal::Age) => "archive.tar.age",
            (Codec::Gzip(_), Seal::Open) => "archive.tar.gz",
            (Codec::Gzip(_), Seal::Age) => "archive.tar.gz.age",
            (Codec::Zstd(_), Seal::Open) => "archive.tar.zst",
            (Codec::Zstd(_), Seal::Age) => "archive.tar.zst.age",
        }
    }
}

impl TryFrom<Named> for Codec {
    type Error = Error;

    fn try_from(named: Named) -> Result<Self> {
        Codec::new(&named.name, named.level)
    }
}

impl From<Codec> for Named {
    fn from(codec: Codec) -> Self {
        Named { name: codec.name().to_owned(), level: codec.level() }
    }
}
