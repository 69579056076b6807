//! The SST address: which destination a request wants, written by whoever can reach the cluster's port.
//!
//! It can choose among the destinations that the operator configured and name the request, and nothing else: the names are
//! types that cannot hold a path, a host or a character that means something to a shell.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use crate::error::{Class, Error, Result, printable};

/// The longest name of a destination or a request.
const LONGEST_NAME: usize = 64;

/// How much of a bad address a message shows, in characters.
const SHOWN: usize = 64;

/// Where a request wants its backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// The destination of that name; `None` is the default one.
    pub destination: Option<DestinationName>,
    /// The request's own id, kept in the label.
    pub request: Option<RequestId>,
}

/// A destination's name: 1 to 64 of `A-Za-z0-9_-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DestinationName(String);

/// A request's id: 1 to 64 of `A-Za-z0-9_.-`, but neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl Address {
    /// Reads `NAME`, `NAME/REQUEST`, `/REQUEST` or nothing.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let refused = |why: &str| Err(Error::new(Class::Refused, format!("the SST address {} {why}", quote(text))));
        let Some(address) = text.to_str() else {
            return refused("is not text");
        };
        if address.is_empty() {
            return Ok(Self::default());
        }
        if address.contains(':') {
            return refused("asks for streaming to a waiting receiver, which is not allowed by this configuration");
        }
        let (name, request) = match address.split_once('/') {
            Some((name, request)) => (name, Some(request)),
            None => (address, None),
        };
        let parsed = || -> Result<Self> {
            Ok(Self {
                destination: if name.is_empty() { None } else { Some(name.parse()?) },
                request: request.map(str::parse).transpose()?,
            })
        };
        parsed().or_else(|_| refused("is not NAME, NAME/REQUEST or /REQUEST in letters, digits, `-` and `_`"))
    }
}

impl FromStr for DestinationName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(
            Class::Config,
            format!(
                "{} is not the name of a destination: 1 to 64 letters, digits, `-` and `_`",
                quote(OsStr::new(text))
            ),
        ))
    }
}

impl FromStr for RequestId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(plain) && !matches!(text, "." | "..") {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(Class::Usage, format!("{} is not the id of a request", quote(OsStr::new(text)))))
    }
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The beginning of `text`, safe to print, and how much is not shown.
fn quote(text: &OsStr) -> String {
    let bytes = text.as_bytes();
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]).into_owned();
    let shown: String = start.chars().take(SHOWN).collect();
    if shown.len() < bytes.len() {
        format!("\"{}…\" ({} bytes)", printable(shown), bytes.len())
    } else {
        format!("\"{}\"", printable(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<(Option<String>, Option<String>)> {
        let address = Address::parse(OsStr::new(text))?;
        Ok((address.destination.map(|name| name.to_string()), address.request.map(|id| id.to_string())))
    }

    #[test]
    fn an_address_names_a_destination_and_a_request() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parse("").unwrap(), (None, None));
        assert_eq!(parse("far").unwrap(), (some("far"), None));
        assert_eq!(parse("far/r-1.2_a").unwrap(), (some("far"), some("r-1.2_a")));
        assert_eq!(parse("/r1").unwrap(), (None, some("r1")));
        assert!(parse(&format!("{0}/{0}", "n".repeat(64))).is_ok());
    }

    #[test]
    fn nothing_else_is_an_address() {
        for text in [
            "/",
            "far/",
            "far/.",
            "far/..",
            "..",
            "../x",
            "/../x",
            "a/b/c",
            "/var/backups/x",
            "a b",
            "a;b",
            "$(id)",
            "`id`",
            "a'b",
            "a\"b",
            "a\nb",
            "a\0b",
            "é",
            "192.168.1.7",
            ".hidden",
            &"n".repeat(65),
            &format!("a/{}", "n".repeat(65)),
        ] {
            let error = Address::parse(OsStr::new(text)).unwrap_err();
            assert_eq!(error.class(), Class::Refused, "{text}");
            assert!(!error.to_string().contains('\n'), "{text}");
        }
        assert!(Address::parse(OsStr::from_bytes(b"a\xff")).is_err());
    }

    #[test]
    fn streaming_has_an_error_of_its_own() {
        for text in ["10.0.0.1:4444", "[::1]:4444/mod", "host:4444/r", ":", "a@b:1"] {
            assert!(parse(text).unwrap_err().to_string().contains("waiting receiver"), "{text}");
        }
    }

    #[test]
    fn ten_thousand_bytes_make_a_short_message() {
        for text in ["n".repeat(10_000), "\n".repeat(10_000), "é".repeat(10_000)] {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.chars().count() < 400 && message.contains(" bytes)"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_holds_no_separator_and_no_dots(bytes in any::<Vec<u8>>()) {
            if let Ok(Address { destination: Some(name), .. }) = Address::parse(OsStr::from_bytes(&bytes)) {
                prop_assert!(!name.to_string().contains(['/', '.', ':', '\0']));
            }
        }
    }
}
