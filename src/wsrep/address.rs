//! The SST address: which destination a request wants, written by whoever can reach the cluster's port.
//!
//! It can choose among the destinations that the operator configured, name a host that waits for the backup, and name the
//! request, and nothing else: all of them are types that cannot hold a path or a character that means something to a shell.
//! Whether such a host is allowed is decided elsewhere, by its addresses.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use crate::error::{Class, Error, Result, printable};

/// The longest name of a destination or a request.
const LONGEST_NAME: usize = 64;

/// The longest name of a host (RFC 1035).
const LONGEST_HOST: usize = 253;

/// How much of a bad address a message shows, in characters.
const SHOWN: usize = 64;

/// Where a request wants its backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Where the backup goes.
    pub target: Target,
    /// The request's own id, kept in the label.
    pub request: Option<RequestId>,
}

/// What an address chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The default destination.
    #[default]
    Default,
    /// The destination of that name.
    Named(DestinationName),
    /// A receiver that waits on a host.
    Receiver(HostPort),
}

/// A destination's name: 1 to 64 of `A-Za-z0-9_-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DestinationName(String);

/// A request's id: 1 to 64 of `A-Za-z0-9_.-`, but neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

/// A host, by name or address, and a port that is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: Host,
    port: NonZeroU16,
}

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name: labels of `A-Za-z0-9-` with points between them, 253 bytes at most.
    Name(String),
}

impl Address {
    /// Reads `NAME`, `NAME/REQUEST`, `/REQUEST`, `HOST:PORT`, `HOST:PORT/REQUEST` or nothing.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let refused = |why: &str| Err(Error::new(Class::Refused, format!("the SST address {} {why}", quote(text))));
        let Some(address) = text.to_str() else {
            return refused("is not text");
        };
        if address.is_empty() {
            return Ok(Self::default());
        }
        let (place, request) = match address.split_once('/') {
            Some((place, request)) => (place, Some(request)),
            None => (address, None),
        };
        let Ok(request) = request.map(str::parse).transpose() else {
            return refused("ends in something that is not the id of a request");
        };
        if place.contains(':') {
            let Ok(receiver) = place.parse() else {
                return refused("is not HOST:PORT or HOST:PORT/REQUEST");
            };
            return Ok(Self { target: Target::Receiver(receiver), request });
        }
        let target = if place.is_empty() { Ok(Target::Default) } else { place.parse().map(Target::Named) };
        match target {
            Ok(target) => Ok(Self { target, request }),
            Err(_) => refused("is not NAME, NAME/REQUEST or /REQUEST in letters, digits, `-` and `_`"),
        }
    }
}

impl HostPort {
    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port.get()
    }
}

impl FromStr for HostPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            let (host, port) = text.rsplit_once(':')?;
            let plain = port.bytes().all(|byte| byte.is_ascii_digit());
            let port = port.parse().ok().filter(|_| plain)?;
            let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host = match inside {
                Some(inside) => Host::Ip(IpAddr::V6(inside.parse::<Ipv6Addr>().ok()?)),
                None => match host.parse::<Ipv4Addr>() {
                    Ok(address) => Host::Ip(IpAddr::V4(address)),
                    Err(_) => Host::Name(host_name(host)?.to_owned()),
                },
            };
            Some(Self { host, port })
        };
        parsed().ok_or_else(|| Error::new(Class::Refused, format!("{} is not HOST:PORT", quote(OsStr::new(text)))))
    }
}

/// A name whose last label is not a number: `127.1` and `0x7f000001` are addresses for some libraries.
fn host_name(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = text.rsplit('.').next()?;
    let named = last.starts_with(|c: char| c.is_ascii_alphabetic());
    (text.len() <= LONGEST_HOST && named && text.split('.').all(label)).then_some(text)
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(address) => SocketAddr::new(*address, self.port()).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
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
        let place = match address.target {
            Target::Default => None,
            Target::Named(name) => Some(name.to_string()),
            Target::Receiver(receiver) => Some(receiver.to_string()),
        };
        Ok((place, address.request.map(|id| id.to_string())))
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
    fn an_address_names_a_receiver_and_a_request() {
        for (text, receiver, request) in [
            ("10.0.0.1:4444", "10.0.0.1:4444", None),
            ("[::1]:4444/mod", "[::1]:4444", Some("mod")),
            ("backup.example-1.com:1/r", "backup.example-1.com:1", Some("r")),
            ("host:65535", "host:65535", None),
            ("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80", None),
        ] {
            assert_eq!(parse(text).unwrap(), (Some(receiver.to_owned()), request.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_receiver() {
        for text in [
            ":",
            ":80",
            "host:",
            "host:0",
            "host:65536",
            "host:+80",
            "host:80:80",
            "::1:80",
            "[::1]",
            "[::1]80",
            "[fe80::1%eth0]:80",
            "[10.0.0.1]:80",
            "user@host:80",
            "host/../x:80",
            "http://host:80",
            "host:80/",
            "host:80/../x",
            "host:80/a/b",
            "a..b:80",
            ".host:80",
            "host.:80",
            "-host:80",
            "ho_st:80",
            "127.1:80",
            "2130706433:80",
            "0x7f000001:80",
            "1.2.3.0x4:80",
            "010.0.0.1:80",
            "h\nx:80",
            "h x:80",
            "hé:80",
            &format!("{}:80", "a".repeat(64)),
            &format!("{}a:80", "a.".repeat(127)),
        ] {
            let error = Address::parse(OsStr::new(text)).unwrap_err();
            assert_eq!(error.class(), Class::Refused, "{text}");
        }
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
    fn ten_thousand_bytes_make_a_short_message() {
        for text in ["n".repeat(10_000), "\n".repeat(10_000), "é".repeat(10_000), "n".repeat(10_000) + ":80"] {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.chars().count() < 400 && message.contains(" bytes)"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_holds_no_separator_and_no_dots(bytes in any::<Vec<u8>>()) {
            match Address::parse(OsStr::from_bytes(&bytes)).map(|address| address.target) {
                Ok(Target::Named(name)) => prop_assert!(!name.to_string().contains(['/', '.', ':', '\0'])),
                Ok(Target::Receiver(receiver)) => {
                    let plain = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
                    prop_assert!(receiver.to_string().chars().all(plain));
                    prop_assert_eq!(receiver.to_string().parse::<HostPort>().unwrap(), receiver);
                }
                _ => {}
            }
        }

        #[test]
        fn a_receiver_that_is_printed_is_read_again(text in "[a-z0-9.-]{1,12}:[0-9]{1,5}") {
            if let Ok(receiver) = text.parse::<HostPort>() {
                prop_assert_eq!(receiver.to_string().parse::<HostPort>().unwrap(), receiver);
            }
        }
    }
}
