//! Who can read a backup: public keys as the operator writes them.

use std::fmt;
use std::iter;
use std::panic::catch_unwind;
use std::str::FromStr;

use age::Encryptor;
use age::x25519;
use serde::{Deserialize, Serialize};

use super::Seal;
use crate::archive::json::at_most;
use crate::error::{Class, Error, Result, printable};

/// The most recipients of a backup.
pub const RECIPIENTS_MAX: usize = 64;

/// How much of a bad recipient a message shows, in characters.
const SHOWN: usize = 80;

/// A public key: `age1…`, as `age-keygen` prints it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient(x25519::Recipient);

/// Everybody who can read a backup; nobody means that it is not encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recipients(#[serde(deserialize_with = "at_most::<RECIPIENTS_MAX, _, _>")] Vec<Recipient>);

impl Recipient {
    pub(super) fn key(&self) -> &x25519::Recipient {
        &self.0
    }

    /// Whether something can be encrypted to it: to a few points of the curve that are no keys it cannot.
    fn is_usable(&self) -> bool {
        let key = self.0.clone();
        // The crate takes such a point for a broken source of random numbers, and panics: its line is in the log, too.
        catch_unwind(move || Encryptor::with_recipients(iter::once(&key as &dyn age::Recipient)).is_ok())
            .unwrap_or(false)
    }
}

impl Recipients {
    /// Nobody: no encryption.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those of `keys`, each once; all of them can be encrypted to.
    pub fn new(keys: impl IntoIterator<Item = Recipient>) -> Result<Self> {
        let mut list: Vec<Recipient> = Vec::new();
        for key in keys {
            if list.contains(&key) {
                continue;
            }
            if !key.is_usable() {
                return Err(Error::new(
                    Class::Config,
                    format!("nothing can be encrypted to {key}: it is no public key"),
                ));
            }
            list.push(key);
        }
        if list.len() > RECIPIENTS_MAX {
            return Err(Error::new(Class::Config, format!("there are more than {RECIPIENTS_MAX} recipients")));
        }
        Ok(Self(list))
    }

    /// The keys in a file of one key a line; empty lines and those that begin with `#` are left out.
    ///
    /// [`Class::Config`] with the number of the line if anything else is in it, or if there is no key at all.
    pub fn parse_file(text: &str) -> Result<Vec<Recipient>> {
        let lines = (1..).zip(text.lines()).map(|(number, line)| (number, line.trim()));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let in_place = |number: usize, cause: Error| {
            let error = Error::new(Class::Config, format!("line {number} is no recipient"));
            cause.advice().map(str::to_owned).into_iter().fold(error.because(cause), Error::hint)
        };
        let keys = keys.map(|(number, line)| line.parse().map_err(|cause| in_place(number, cause)));
        let keys = keys.collect::<Result<Vec<Recipient>>>()?;
        if keys.is_empty() { Err(Error::new(Class::Config, "it holds no recipient")) } else { Ok(keys) }
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what is stored for them is encrypted.
    pub fn seal(&self) -> Seal {
        if self.is_empty() { Seal::Open } else { Seal::Age }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Recipient> {
        self.0.iter()
    }
}

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self).map_err(|cause: &str| {
            let shown = printable(text.chars().take(SHOWN).collect::<String>());
            // A private key must not get into a log.
            let shown =
                if shown.to_uppercase().contains("SECRET") { "a private key".to_owned() } else { format!("{shown:?}") };
            Error::new(Class::Config, format!("{shown} is not a public key of age: {cause}"))
                .hint("a recipient is the line `age1…` that age-keygen prints; other kinds of keys are not supported")
        })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl TryFrom<String> for Recipient {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

    #[test]
    fn text_and_key_are_one() {
        assert_eq!(KEY.parse::<Recipient>().unwrap().to_string(), KEY);
        for text in [
            "",
            "age1",
            "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pq",
            "ssh-ed25519 AAAA",
            "age1yubikey1q",
        ] {
            assert_eq!(text.parse::<Recipient>().unwrap_err().class(), Class::Config, "{text}");
        }
    }

    #[test]
    fn a_private_key_in_the_wrong_place_is_not_repeated() {
        let text = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
        for text in [text.to_owned(), text.to_lowercase()] {
            let error = text.parse::<Recipient>().unwrap_err().to_string();
            assert!(
                error.contains("a private key") && !error.contains("GQ9778") && !error.contains("gq9778"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_of_recipients_has_comments_and_is_never_empty() {
        let keys = Recipients::parse_file(&format!("# backup team\n\n  {KEY}\r\n{KEY}\n")).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(Recipients::new(keys).unwrap().iter().count(), 1, "each counts once");
        for text in ["", "# only\n"] {
            assert!(Recipients::parse_file(text).unwrap_err().to_string().contains("no recipient"));
        }
        let error = Recipients::parse_file(&format!("{KEY}\nage1oops\n")).unwrap_err();
        assert!(error.to_string().contains("line 2") && error.advice().is_some(), "{error}");
    }

    #[test]
    fn a_point_that_is_no_key_is_refused_before_anybody_waits() {
        // The point zero: whatever is encrypted to it could be read by everybody.
        let zero = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z";
        let zero = zero.parse::<Recipient>().expect("it has the form of a key");
        assert!(Recipients::new([zero]).unwrap_err().to_string().contains("nothing can be encrypted to"));
    }

    #[test]
    fn there_are_not_more_recipients_than_a_header_may_hold() {
        let keys = |count| (0..count).map(|_| Recipient(x25519::Identity::generate().to_public()));
        assert_eq!(Recipients::new(keys(RECIPIENTS_MAX)).unwrap().iter().count(), RECIPIENTS_MAX);
        assert!(Recipients::new(keys(RECIPIENTS_MAX + 1)).is_err());
    }
}
