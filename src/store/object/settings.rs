//! How an object store is spoken to, and with what it is opened.
//!
//! Secrets are kept apart from settings: they come from the environment or from a file that nobody else may read, and
//! nothing here shows them, not even for debugging.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::known_keys;
use crate::error::Result;
use crate::secret::SecretFile;

/// The most bytes that a credentials file may have: a service account's key is some 2.5 KiB.
const FILE_LIMIT: u64 = 64 << 10;

/// The least bytes of a part, but for the last: S3 refuses smaller ones when the upload is completed.
pub const LEAST_PART_BYTES: u64 = 5 << 20;

/// The most bytes of a part that can be configured: two of them are in memory.
pub const MOST_PART_BYTES: u64 = 1 << 30;

/// The most parts in flight.
pub const MOST_PARALLEL: usize = 64;

/// How an object store is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSettings {
    /// The URL of a store that is not the provider's own.
    pub endpoint: Option<Endpoint>,
    /// Whether the endpoint may be spoken to in the clear.
    pub allow_http: bool,
    /// The region, for S3.
    pub region: Option<String>,
    /// Certificates of the only authorities that are believed, in PEM; otherwise those of the system are.
    pub ca_file: Option<PathBuf>,
    /// Where the secrets are; otherwise in the environment, or with the machine.
    pub credentials_file: Option<PathBuf>,
    /// Bytes of a part of an upload.
    pub part_bytes: u64,
    /// Parts, or ranges, under way at once.
    pub parallel: NonZeroUsize,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How long nothing at all may come to an end.
    pub stall_timeout: Duration,
    /// How often a request is tried again.
    pub retries: usize,
}

impl Default for ObjectSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            allow_http: false,
            region: None,
            ca_file: None,
            credentials_file: None,
            part_bytes: 16 << 20,
            parallel: NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN),
            request_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(300),
            retries: 10,
        }
    }
}

/// `http[s]://HOST[:PORT][/PATH]`, with no user, password, query or fragment in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// Reads a URL.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'[' | b']');
        let host = rest.split('/').next().unwrap_or_default();
        (!host.is_empty() && rest.bytes().all(plain)).then(|| Self(text.trim_end_matches('/').to_owned()))
    }

    /// Whether it is spoken to in the clear.
    pub fn is_http(&self) -> bool {
        self.0.starts_with("http://")
    }

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What opens a store: `NAME=VALUE` in the names of the providers' own environment variables.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, String>);

impl Credentials {
    /// Those of the variables that open a store.
    pub fn of_environment<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let known = variables.filter(|(name, value)| known_keys().any(|key| key == *name) && !value.is_empty());
        Self(known.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Reads `NAME=VALUE` lines; `#` begins a comment line.
    ///
    /// Refused unless it is a regular file of mode 0600 or 0400 that belongs to this user or to root.
    pub fn read(path: &Path) -> Result<Self> {
        let file = SecretFile { path, what: "credentials file", mend: "change the secrets" };
        let text = file.read(FILE_LIMIT + 1)?;
        if text.len() as u64 > FILE_LIMIT {
            return Err(file.refused(&format!("is larger than {FILE_LIMIT} bytes")));
        }
        Self::parse(&text).map_err(|(line, why)| file.refused(&format!("{why} in line {line}")))
    }

    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Neither the name nor the value is repeated in a message: the secret may stand on the wrong side.
            let (name, value) = line.split_once('=').ok_or((number + 1, "has no NAME=VALUE"))?;
            let name = name.trim();
            if !known_keys().any(|key| key == name) {
                return Err((number + 1, "has an unknown name"));
            }
            let value = value.trim();
            let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            if unquoted.is_empty() || unquoted.chars().any(char::is_control) {
                return Err((number + 1, "has no value, or one that is not text,"));
            }
            values.insert(name.to_owned(), unquoted.to_owned());
        }
        Ok(Self(values))
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    const GOOD: &str = "# of the backups\n\nAWS_ACCESS_KEY_ID=AKID\n AWS_SECRET_ACCESS_KEY = \"s3cr=t\"\n";

    #[test]
    fn a_file_gives_what_stands_in_it() {
        for mode in [0o600, 0o400] {
            let (_directory, path) = file(GOOD, mode);
            let read = Credentials::read(&path).unwrap();
            let values: Vec<_> = read.iter().collect();
            assert_eq!(values, [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "s3cr=t")]);
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        for mode in [0o640, 0o604, 0o644, 0o700, 0o660, 0o4600] {
            let (_directory, path) = file(GOOD, mode);
            let error = Credentials::read(&path).unwrap_err();
            assert_eq!(error.class(), Class::Config, "{mode:o}");
        }
    }

    #[test]
    fn a_link_a_pipe_and_a_directory_are_refused() {
        let (directory, path) = file(GOOD, 0o600);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Credentials::read(&link).is_err());
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(Credentials::read(&pipe).unwrap_err().class(), Class::Config);
        assert_eq!(Credentials::read(directory.path()).unwrap_err().class(), Class::Config);
    }

    #[test]
    fn neither_an_error_nor_debug_shows_a_secret() {
        for text in ["hunter2", "hunter2=AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY=hunter2\u{1}"] {
            let (_directory, path) = file(text, 0o600);
            let error = Credentials::read(&path).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
            assert!(error.to_string().contains("line 1"), "{error}");
        }
        let (_directory, path) = file("AWS_SECRET_ACCESS_KEY=hunter2", 0o600);
        assert_eq!(format!("{:?}", Credentials::read(&path).unwrap()), "{\"AWS_SECRET_ACCESS_KEY\"}");
    }

    #[test]
    fn an_endpoint_carries_no_secret() {
        for good in ["https://minio.example:9000", "http://[::1]:9000", "https://gateway/s3/"] {
            assert!(Endpoint::parse(good).is_some(), "{good}");
        }
        for bad in
            ["", "https://", "minio:9000", "ftp://x", "https://user:pass@host", "https://host/?key=1", "https://h\n"]
        {
            assert_eq!(Endpoint::parse(bad), None, "{bad}");
        }
    }
}
