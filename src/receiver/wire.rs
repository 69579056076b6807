//! What both ends know of the wire: names of resources, headers and bounds.
//!
//! A backup is three `PUT` requests in this order: `archive`, `manifest`, `label`. The answer to the last is the promise that
//! the backup is durable. Everything else on the wire is words of this file, numbers, digests and the backup's id.

use hyper::Method;
use serde::{Deserialize, Serialize};

use crate::archive::codec::Codec;
use crate::archive::label::BackupId;
use crate::archive::seal::Seal;
use crate::digest::Digest;

/// Where a client asks whether it would be served.
const READY: &str = "/v1/ready";

/// What the backups' resources begin with.
const BACKUPS: &str = "/v1/backups/";

/// The header that says in which form the archive comes: the name that it would have in a repository.
pub(super) const ARCHIVE_NAME: &str = "archive-name";

/// The most bytes of an answer.
pub(super) const ANSWER_LIMIT: usize = 16 << 10;

/// How the name of a token's scheme stands before it.
pub(super) const BEARER: &str = "Bearer ";

/// A part of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Archive,
    Manifest,
    /// The last: it commits.
    Label,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Ready,
    Part(BackupId, Part),
}

/// What a receiver that would serve says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready {
    /// Bytes that an archive may have: there is room for them, and they are allowed.
    pub(super) free_bytes: u64,
}

/// What a receiver has of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Received {
    pub(super) bytes: u64,
    pub(super) sha256: Digest,
}

impl Part {
    const ALL: [Self; 3] = [Self::Archive, Self::Manifest, Self::Label];

    /// Its name on the wire.
    pub(super) fn name(self) -> &'static str {
        match self {
            Part::Archive => "archive",
            Part::Manifest => "manifest",
            Part::Label => "label",
        }
    }
}

impl Resource {
    /// Reads the path of a request: nothing is decoded, and nothing but a known path is one.
    pub(super) fn parse(path: &str) -> Option<Self> {
        if path == READY {
            return Some(Self::Ready);
        }
        let (id, name) = path.strip_prefix(BACKUPS)?.split_once('/')?;
        let part = Part::ALL.into_iter().find(|part| part.name() == name)?;
        Some(Self::Part(id.parse().ok()?, part))
    }

    /// Its path.
    pub(super) fn path(&self) -> String {
        match self {
            Resource::Ready => READY.to_owned(),
            Resource::Part(id, part) => format!("{BACKUPS}{id}/{}", part.name()),
        }
    }

    /// The one method that it has.
    pub(super) fn method(&self) -> Method {
        match self {
            Resource::Ready => Method::GET,
            Resource::Part(..) => Method::PUT,
        }
    }
}

/// The archive's name, if it is one that this version gives to archives.
pub(super) fn known_archive_name(name: &[u8]) -> Option<&'static str> {
    let codecs = ["none", "gzip", "zstd"].into_iter().filter_map(|name| Codec::new(name, None).ok());
    let mut known = codecs.flat_map(|codec| [Seal::Open, Seal::Age].map(|seal| codec.archive_name(seal)));
    known.find(|known| known.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "20261122T100946Z-node2-7f3a";

    #[test]
    fn a_resource_that_is_printed_is_read_again() {
        let id: BackupId = ID.parse().unwrap();
        let parts = Part::ALL.into_iter().map(|part| Resource::Part(id.clone(), part));
        for resource in parts.chain([Resource::Ready]) {
            assert_eq!(Resource::parse(&resource.path()), Some(resource));
        }
    }

    #[test]
    fn nothing_else_is_a_resource() {
        for path in [
            "",
            "/",
            "*",
            "/v1",
            "/v1/ready/",
            "/v1/ready/..",
            "/v2/ready",
            "/v1/backups/",
            "/v1/backups//archive",
            "/v1/backups/../archive",
            "/v1/backups/..%2f..%2fetc/archive",
            &format!("/v1/backups/{ID}"),
            &format!("/v1/backups/{ID}/"),
            &format!("/v1/backups/{ID}/archive/"),
            &format!("/v1/backups/{ID}/archive.tar.zst"),
            &format!("/v1/backups/{ID}/../archive"),
            &format!("/v1/backups/{ID}/%61rchive"),
            &format!("/v1/backups/./{ID}/archive"),
            &format!("/v1/backups/x/../{ID}/archive"),
            &format!("http://host/v1/backups/{ID}/archive"),
            &format!("/v1/backups/{ID}{}/archive", "a".repeat(10_000)),
        ] {
            assert_eq!(Resource::parse(path), None, "{path}");
        }
    }

    #[test]
    fn an_archive_comes_in_a_form_that_is_known() {
        for name in ["archive.tar", "archive.tar.gz", "archive.tar.zst.age"] {
            assert_eq!(known_archive_name(name.as_bytes()), Some(name));
        }
        for name in ["", "archive.tar.xz", "../archive.tar", "archive.tar/", "ARCHIVE.TAR"] {
            assert_eq!(known_archive_name(name.as_bytes()), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_an_id_that_climbs(path in "/v1/backups/[a-zA-Z0-9._/%-]{1,60}/archive") {
            if let Some(Resource::Part(id, _)) = Resource::parse(&path) {
                prop_assert!(!id.as_str().contains(['/', '.', '%']));
            }
        }
    }
}
