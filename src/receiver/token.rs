//! The secret that a client shows: read from a file that nobody else may read, compared in constant time, never shown.

use std::fmt;
use std::path::Path;

use hyper::header::HeaderValue;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::wire::BEARER;
use crate::error::Result;
use crate::secret::SecretFile;

/// The fewest characters of a token: fewer can be guessed.
const FEWEST: usize = 16;

/// The most: it has to fit into a header.
const MOST: usize = 1024;

/// A bearer token.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Reads the one line of a file.
    ///
    /// Refused unless it is a regular file of mode 0600 or 0400 that belongs to this user or to root, and holds 16 to 1024
    /// letters, digits and `-._~+/=` (RFC 6750).
    pub fn read(path: &Path) -> Result<Self> {
        let file = SecretFile { path, what: "token file", mend: "make a new token" };
        let text = file.read(MOST as u64 + 2)?;
        Self::parse(text.strip_suffix('\n').unwrap_or(&text)).ok_or_else(|| {
            file.refused("does not hold one line of 16 to 1024 letters, digits and -._~+/=")
                .hint("make one: openssl rand -hex 32")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        ((FEWEST..=MOST).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    /// What stands in a request's `Authorization`.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("{BEARER}{}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Whether a request's `Authorization` shows this token; takes as long whatever it shows.
    pub(super) fn is_shown_by(&self, authorization: Option<&HeaderValue>) -> bool {
        let shown = authorization.map(HeaderValue::as_bytes).unwrap_or_default();
        let token = shown.strip_prefix(BEARER.as_bytes()).unwrap_or_default();
        // Digests are of one length: not even that of the token shows.
        let [known, shown] = [self.0.as_bytes(), token].map(Sha256::digest);
        known.as_slice().ct_eq(shown.as_slice()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    const SECRET: &str = "0123456789abcdef-._~+/=";

    fn read(text: &str, mode: u32) -> Result<Token> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Token::read(&path)
    }

    #[test]
    fn a_file_gives_its_one_line() {
        for (text, mode) in [(SECRET.to_owned(), 0o600), (format!("{SECRET}\n"), 0o400)] {
            assert_eq!(read(&text, mode).unwrap().0, SECRET);
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        for mode in [0o640, 0o604, 0o644, 0o700, 0o660, 0o4600] {
            let error = read(SECRET, mode).unwrap_err();
            assert_eq!(error.class(), Class::Config, "{mode:o}");
            assert!(error.advice().unwrap().contains("new token"));
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, SECRET).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(65_534), None).expect("another owner can be given (by root)");
        assert!(Token::read(&path).unwrap_err().to_string().contains("neither to this user"));
    }

    #[test]
    fn a_link_a_pipe_and_a_directory_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link, pipe) = ["token", "link", "pipe"].map(|name| directory.path().join(name)).into();
        fs::write(&path, SECRET).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        for bad in [&link, &pipe, &directory.path().to_owned()] {
            assert!(Token::read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        let long = "x".repeat(1025);
        for text in ["", "hunter2", "hunter2 hunter2 hunter2", "hunter2hunter2\r\nhunter2", "hunter2hunter2\n\n", &long]
        {
            let error = read(text, 0o600).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
            assert!(!format!("{error:?} {error}").contains("xxxx"), "{error}");
        }
        assert!(read(&"x".repeat(1024), 0o600).is_ok() && read(&"x".repeat(16), 0o600).is_ok());
        assert!(read(&"x".repeat(15), 0o600).is_err());
    }

    #[test]
    fn only_the_token_itself_is_shown_by_a_header() {
        let token = Token::parse(SECRET).unwrap();
        let header = token.header().unwrap();
        assert!(token.is_shown_by(Some(&header)));
        assert!(header.is_sensitive() && !format!("{header:?}{token:?}").contains(SECRET));
        let prefix = &SECRET[..SECRET.len() - 1];
        for other in ["", "Bearer", "Bearer ", SECRET, &format!("Basic {SECRET}"), &format!("Bearer {prefix}")] {
            assert!(!token.is_shown_by(Some(&HeaderValue::from_str(other).unwrap())), "{other}");
        }
        assert!(!token.is_shown_by(None));
    }
}
