//! The one error type: what failed, on what, why; its class decides the exit status.
//!
//! A message is `cannot VERB "OBJECT"` or a sentence without a capital or a full stop; the cause is the
//! [`source`](std::error::Error::source) and is not repeated in the text; advice is a hint, printed on a line of its own.

use std::fmt::Display;
use std::io;
use std::path::Path;

use nix::errno::Errno;

/// What went wrong, in one of the kinds that have an exit status of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The operating system refused something.
    Io,
    /// The command line is wrong.
    Usage,
    /// The configuration is wrong.
    Config,
    /// The backup or the object asked for does not exist.
    NotFound,
    /// Stored bytes are not what they were when the backup was made.
    Damage,
    /// The backup was written in a format that this version does not know.
    Unsupported,
    /// Somebody else is at it.
    Busy,
    /// Doing it would destroy or hide something.
    Refused,
    /// The server said something that the protocol does not know.
    Protocol,
    /// The server reported a failure, or went away.
    Server,
    /// Something took longer than it may.
    Deadline,
    /// The files never stood still long enough to be copied as of one instant.
    Unsettled,
    /// A signal ended the run.
    Cancelled,
    /// What is encrypted cannot be opened with the keys that were given, or none was given.
    Key,
}

/// One row of the table of exit statuses.
struct Row {
    class: Class,
    exit: u8,
    errno: Errno,
}

/// The table: the operator's exit status, and the errno that a donor run leaves with.
///
/// The server takes a donor's exit status as an errno and sends it to the whole cluster, where every node logs its text
/// (`wsp::process::wait` in MariaDB's `sql/wsrep_utils.cc`).
const TABLE: &[Row] = &[
    Row { class: Class::Io, exit: 1, errno: Errno::EIO },
    Row { class: Class::Usage, exit: 2, errno: Errno::EINVAL },
    Row { class: Class::Config, exit: 3, errno: Errno::EINVAL },
    Row { class: Class::NotFound, exit: 4, errno: Errno::ENOENT },
    Row { class: Class::Damage, exit: 5, errno: Errno::EBADMSG },
    Row { class: Class::Unsupported, exit: 6, errno: Errno::EPROTONOSUPPORT },
    Row { class: Class::Busy, exit: 7, errno: Errno::EALREADY },
    Row { class: Class::Refused, exit: 8, errno: Errno::EPERM },
    Row { class: Class::Protocol, exit: 9, errno: Errno::EPROTO },
    Row { class: Class::Server, exit: 10, errno: Errno::ECONNABORTED },
    Row { class: Class::Deadline, exit: 11, errno: Errno::ETIMEDOUT },
    Row { class: Class::Unsettled, exit: 12, errno: Errno::EBUSY },
    Row { class: Class::Cancelled, exit: 13, errno: Errno::EINTR },
    Row { class: Class::Key, exit: 14, errno: Errno::EACCES },
];

/// A failure that ends what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    class: Class,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure whose message says everything.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None, source: None }
    }

    /// `cannot VERB "PATH": CAUSE`.
    pub fn io(verb: &str, path: impl AsRef<Path>, cause: impl Into<io::Error>) -> Self {
        Self::new(Class::Io, format!("cannot {verb} {:?}", path.as_ref())).because(cause.into())
    }

    /// The same failure with its cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// The same failure with advice, shown on a line of its own.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The kind of failure.
    pub fn class(&self) -> Class {
        self.class
    }

    /// What the person who reads the error may do next.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit status of an operator command.
    pub fn exit_status(&self) -> u8 {
        self.row().exit
    }

    /// The exit status of a donor run: the errno of the operating system where it gave one, else the class's own.
    pub fn errno(&self) -> u8 {
        let from_system = self.os_error().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
        // 126, 127 and above 128 mean something else to the shell between the server and us.
        let code = from_system.filter(|code| *code < 126).unwrap_or(self.row().errno as u8);
        debug_assert!(code != 0, "a failure never looks like success");
        code
    }

    /// The operating system's code anywhere in the chain of causes.
    pub fn os_error(&self) -> Option<i32> {
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
                return Some(code);
            }
            cause = error.source();
        }
        None
    }

    fn row(&self) -> &'static Row {
        TABLE.iter().find(|row| row.class == self.class).unwrap_or(&TABLE[0])
    }
}

/// The message and its chain of causes on one line, control characters made visible: it lands in the server's log.
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    printable(text)
}

/// `text` with every control character escaped, so that nobody can forge a line of a log or drive a terminal.
pub fn printable(text: impl Display) -> String {
    let text = text.to_string();
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_one_row_and_its_own_exit_status() {
        let mut exits: Vec<u8> = TABLE.iter().map(|row| row.exit).collect();
        exits.sort_unstable();
        exits.dedup();
        assert_eq!(exits.len(), TABLE.len());
        assert!(TABLE.iter().all(|row| row.exit != 0 && row.errno as i32 != 0));
    }

    #[test]
    fn the_documented_table_has_the_same_statuses() {
        let documented = include_str!("../docs/operator.md").lines().filter_map(|line| line.strip_prefix("| "));
        let documented: Vec<u8> = documented.filter_map(|row| row.split(' ').next()?.parse().ok()).collect();
        let known: Vec<u8> = TABLE.iter().map(|row| row.exit).collect();
        assert_eq!(documented, known);
    }

    #[test]
    fn a_full_disk_leaves_with_enospc() {
        let error = Error::io("write", "/x", io::Error::from_raw_os_error(28));
        assert_eq!(error.errno(), 28);
        assert_eq!(error.exit_status(), 1);
    }

    #[test]
    fn a_control_character_cannot_forge_a_log_line() {
        let error = Error::new(Class::Usage, "bad address \"a\nWSREP_SST: [INFO] fine\"");
        assert_eq!(one_line(&error), "bad address \"a\\nWSREP_SST: [INFO] fine\"");
    }
}
