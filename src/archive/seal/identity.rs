//! The private keys that open a backup: only ever with the operator, in files as `age-keygen` writes them.
//!
//! No message, log or debug output shows anything of a key, and the memory that held the text is overwritten.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};
use age::x25519;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Recipients;
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};

/// The most bytes of a file of keys: a key with its comments has about 200.
const FILE_BYTES_MAX: usize = 64 << 10;

/// The most keys: each is tried on every recipient of a header.
const KEYS_MAX: usize = 64;

/// How long one poll of a pipe waits before cancellation is looked at.
const SLICE_MS: u16 = 50;

/// How a file begins that age has encrypted.
const ENCRYPTED: [&str; 2] = ["age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE-----"];

/// The private keys that were given.
#[derive(Default)]
pub struct Identities(Vec<x25519::Identity>);

impl Identities {
    /// No keys.
    pub fn none() -> Self {
        Self::default()
    }

    /// The keys in all of `files`; each may be a pipe.
    pub fn read(files: &[PathBuf], cancel: &Cancel) -> Result<Self> {
        let mut keys = Vec::new();
        for path in files {
            let text = read_file(path, cancel)?;
            keys.extend(parse(path, text.expose_secret())?);
        }
        if keys.len() > KEYS_MAX {
            return Err(Error::new(Class::Key, format!("there are more than {KEYS_MAX} keys")));
        }
        Ok(Self(keys))
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|key| key as &dyn age::Identity)
    }

    /// Whether one of these keys is the private one of one of the recipients.
    pub(super) fn any_of(&self, recipients: &Recipients) -> bool {
        self.0.iter().any(|key| recipients.iter().any(|recipient| *recipient.key() == key.to_public()))
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

#[cfg(test)]
impl From<Vec<x25519::Identity>> for Identities {
    fn from(keys: Vec<x25519::Identity>) -> Self {
        Self(keys)
    }
}

fn read_file(path: &Path, cancel: &Cancel) -> Result<SecretBox<Vec<u8>>> {
    let cannot = |cause: std::io::Error| Error::io("read the identity", path, cause);
    // Without O_NONBLOCK a pipe would keep us waiting for its writer.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    let found = file.metadata().map_err(cannot)?;
    if found.is_file() && found.permissions().mode() & 0o077 != 0 {
        tracing::warn!("other users may read the identity {path:?}: chmod 600 keeps it private");
    }
    // One buffer, made once, so that no copy is left behind where it grew.
    let mut text = SecretBox::new(Box::new(vec![0; FILE_BYTES_MAX + 1]));
    let length = fill(&file, text.expose_secret_mut(), cancel)
        .map_err(|error| Error::new(error.class(), format!("cannot read the identity {path:?}")).because(error))?;
    if length > FILE_BYTES_MAX {
        return Err(Error::new(Class::Key, format!("{path:?} is larger than any file of keys")));
    }
    text.expose_secret_mut().truncate(length);
    Ok(text)
}

/// Reads to the end, or until `buffer` is full.
fn fill(mut file: &File, buffer: &mut [u8], cancel: &Cancel) -> Result<usize> {
    let cannot = |cause: std::io::Error| Error::new(Class::Io, "cannot read").because(cause);
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        cancel.check()?;
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
                match poll(&mut ready, PollTimeout::from(SLICE_MS)) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(cause) => return Err(cannot(cause.into())),
                }
            }
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) => return Err(cannot(cause)),
        }
    }
    Ok(length)
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<x25519::Identity>> {
    let bad = |what: &str| Error::new(Class::Key, format!("{path:?} {what}"));
    if ENCRYPTED.iter().any(|beginning| text.starts_with(beginning.as_bytes())) {
        return Err(bad("is encrypted itself, most likely with a passphrase, and this program asks for none")
            .hint("in bash: --identity <(age -d FILE)"));
    }
    let text = std::str::from_utf8(text).map_err(|_| bad("is not a file of age identities"))?;
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.parse().map_err(|_| {
            bad(&format!("has something in line {number} that is no X25519 identity of age"))
                .hint("an identity begins with AGE-SECRET-KEY-1; plugins, SSH and other kinds are not supported")
        });
        keys.push(key?);
    }
    if keys.is_empty() { Err(bad("holds no identity")) } else { Ok(keys) }
}
