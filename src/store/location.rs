//! Where a repository is, as the operator writes it: a directory, or a bucket of an object store.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, PathBuf};

use crate::relpath::escape;

/// The longest bucket or container name that any of the stores allows.
const LONGEST_BUCKET: usize = 222;

/// The longest prefix: object keys end at 1024 bytes, and the id and a name follow.
const LONGEST_PREFIX: usize = 512;

/// A repository's place. It holds no secret: what opens it is configured elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory, absolute.
    Directory(PathBuf),
    /// A part of a bucket.
    Object(ObjectUrl),
}

/// The kinds of object stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon S3, and whatever speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

/// `SCHEME://BUCKET[/PREFIX]`: what exists has no empty, `.` or `..` component, and no character that a URL escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectUrl {
    scheme: Scheme,
    bucket: String,
    prefix: String,
}

impl Location {
    /// Reads an absolute path without `..`, or a URL.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once("://") {
            Some((scheme, rest)) => ObjectUrl::parse(scheme, rest).map(Self::Object),
            None => absolute(text).map(Self::Directory),
        }
    }
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
        }
    }
}

impl ObjectUrl {
    fn parse(scheme: &str, rest: &str) -> Option<Self> {
        let scheme = [Scheme::S3, Scheme::Gs, Scheme::Az].into_iter().find(|known| known.name() == scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let in_bucket =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
        let bucket_fits = (3..=LONGEST_BUCKET).contains(&bucket.len()) && bucket.bytes().all(in_bucket);
        let component = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
        let prefix_fits = prefix.len() <= LONGEST_PREFIX && (prefix.is_empty() || prefix.split('/').all(component));
        let holds = bucket_fits && bucket != "..." && prefix_fits;
        holds.then(|| Self { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    /// The kind of store.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket, or container.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What stands before the ids of all backups; empty for none, without a slash at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Directory(path) => f.write_str(&escape(path.as_os_str().as_bytes())),
            Location::Object(url) => url.fmt(f),
        }
    }
}

/// An absolute path without `..`.
pub fn absolute(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    let upwards = path.components().any(|part| part == Component::ParentDir);
    (path.is_absolute() && !upwards && !text.chars().any(char::is_control)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_do_not_climb() {
        assert!(absolute("/srv/backups").is_some());
        for text in ["", "srv", "./x", "/srv/../etc", "/srv\n"] {
            assert_eq!(absolute(text), None, "{text}");
        }
    }

    #[test]
    fn a_url_names_a_bucket_and_a_prefix() {
        for (text, bucket, prefix) in [
            ("s3://backups", "backups", ""),
            ("s3://backups/", "backups", ""),
            ("gs://my.bucket-1/galera/prod", "my.bucket-1", "galera/prod"),
            ("az://container/A_b/", "container", "A_b"),
        ] {
            let Some(Location::Object(url)) = Location::parse(text) else { panic!("{text}") };
            assert_eq!((url.bucket(), url.prefix()), (bucket, prefix));
            assert_eq!(Location::parse(&url.to_string()), Some(Location::Object(url)));
        }
    }

    #[test]
    fn nothing_else_is_a_url() {
        for text in [
            "s3:/backups",
            "s3://",
            "s3://ab",
            "s3://Upper",
            "s3://user:secret@host/x",
            "s3://bucket//x",
            "s3://bucket/../x",
            "s3://bucket/./x",
            "s3://bucket/a b",
            "s3://bucket/a?x=1",
            "s3://bucket/a#b",
            "s3://bucket/a%2e",
            "s3://bucket/x//",
            "file:///srv",
            "https://bucket/x",
            "S3://bucket",
        ] {
            assert_eq!(Location::parse(text), None, "{text}");
        }
    }
}
