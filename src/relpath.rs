//! A path below a root: never absolute, never upwards, never empty.
//!
//! File names are bytes. In text (JSON, logs) every byte that is not printable UTF-8 is written `%HH`, and `%` itself `%25`,
//! so that any name survives and no name can drive a terminal.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, Result};

/// Linux's own `PATH_MAX`: nothing longer can be opened.
const LONGEST: usize = 4096;

/// A path below a root. What exists is safe to append to a directory.
#[derive(Clone, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(PathBuf);

// Every path has one spelling, so its bytes tell what its components would, many times faster.
impl PartialEq for RelPath {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for RelPath {}

impl Hash for RelPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl RelPath {
    /// Checks `path`: only plain components, at least one, none of them `.` or `..`, no zero byte.
    pub fn new(path: impl Into<OsString>) -> Result<Self> {
        let path = path.into();
        let bytes = path.as_bytes();
        let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
        if bytes.len() > LONGEST || bytes.contains(&0) || !bytes.split(|byte| *byte == b'/').all(plain) {
            return Err(Error::new(
                Class::Damage,
                format!("{:?} is not a path below a directory", escape(&bytes[..bytes.len().min(LONGEST)])),
            ));
        }
        Ok(Self(path.into()))
    }

    /// The path as the operating system takes it.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }

    /// The last component.
    pub fn file_name(&self) -> &OsStr {
        self.0.file_name().unwrap_or(self.0.as_os_str())
    }

    /// The directory that holds it, if that is not the root itself.
    pub fn parent(&self) -> Option<RelPath> {
        self.0.parent().filter(|path| !path.as_os_str().is_empty()).map(|path| Self(path.to_owned()))
    }

    /// The path of `name` in this directory.
    pub fn join(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let below = Self::new(name.as_ref())?;
        let mut path = OsString::with_capacity(self.as_bytes().len() + 1 + below.as_bytes().len());
        path.push(&self.0);
        path.push("/");
        path.push(&below.0);
        if path.len() > LONGEST { Self::new(path) } else { Ok(Self(path.into())) }
    }

    /// The number of components.
    pub fn depth(&self) -> usize {
        self.0.components().count()
    }
}

/// `bytes` as text from which they can be had back: see the head of the file.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_escaped(&mut text, byte));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| push_escaped(&mut text, *byte));
    }
    text
}

fn push_escaped(text: &mut String, byte: u8) {
    text.push_str(&format!("%{byte:02X}"));
}

/// `path` as one word of a command line, to be pasted into a shell: as it is, or in quotes.
pub fn shell_word(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:@,%=".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        // Only these quotes, which bash and its like know, can name such a byte in a line that can be printed.
        _ => {
            let byte = |byte: &u8| match byte {
                b' '..=b'~' if !b"'\\".contains(byte) => char::from(*byte).to_string(),
                _ => format!("\\x{byte:02x}"),
            };
            format!("$'{}'", bytes.iter().map(byte).collect::<String>())
        }
    }
}

/// The bytes that [`escape`] wrote.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    Some(bytes)
}

/// For serde fields that hold an absolute path of the donor: the same escapes.
pub mod escaped_path {
    use super::{OsStrExt, OsString, OsStringExt, Path, PathBuf, escape, unescape};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `path` with [`escape`].
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(path.as_os_str().as_bytes()))
    }

    /// Reads what [`serialize`] wrote.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unescape(&text).ok_or_else(|| D::Error::custom("bad escape in a path"))?;
        Ok(OsString::from_vec(bytes).into())
    }
}

impl FromStr for RelPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes =
            unescape(text).ok_or_else(|| Error::new(Class::Damage, format!("bad escape in the path {text:?}")))?;
        Self::new(OsString::from_vec(bytes))
    }
}

impl TryFrom<String> for RelPath {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RelPath> for String {
    fn from(path: RelPath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(self.as_bytes()))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_that_leaves_the_root_is_a_relpath() {
        for path in ["", "/", "/etc/passwd", "..", "a/..", "../a", "a//b", "a/", "./a", ".", "a/./b", "a\0b"] {
            assert!(RelPath::new(path).is_err(), "{path:?}");
        }
        assert!("%2e%2e/a".parse::<RelPath>().is_err());
        assert!("a%2".parse::<RelPath>().is_err());
        assert!(RelPath::new("a".repeat(5000)).is_err());
        let long = RelPath::new("a".repeat(3000)).unwrap();
        assert!(long.join("b".repeat(3000)).is_err() && long.join("..").is_err() && long.join("").is_err());
    }

    #[test]
    fn a_newline_and_a_stray_byte_are_shown_escaped() {
        let path = RelPath::new(OsString::from_vec(b"a\nb\xff%/c".to_vec())).unwrap();
        assert_eq!(path.to_string(), "a%0Ab%FF%25/c");
        assert_eq!("a%0Ab%FF%25/c".parse::<RelPath>().unwrap(), path);
    }

    #[test]
    fn a_plain_path_is_a_word_as_it_is_and_others_are_quoted() {
        for (path, word) in [
            ("/var/lib/mysql", "/var/lib/mysql"),
            ("/data/my sql", "'/data/my sql'"),
            ("/data/it's $HOME", r"'/data/it'\''s $HOME'"),
            ("/dätä", "'/dätä'"),
            ("/a\nb'", r"$'/a\x0ab\x27'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]
        #[test]
        fn a_shell_reads_the_word_as_the_path(bytes in prop::collection::vec(1..=255u8, 1..40)) {
            let path = PathBuf::from(OsString::from_vec(bytes.clone()));
            let script = format!("printf %s {}", shell_word(&path));
            let printed = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(printed.stdout, bytes);
        }
    }

    proptest! {
        #[test]
        fn joined_paths_are_those_of_their_text_and_equal_as_paths_are(one in "[ab./]{1,4}", other in "[ab./]{1,4}") {
            let (Ok(one), Ok(other)) = (RelPath::new(one), RelPath::new(other)) else { return Ok(()) };
            let joined = one.join(other.as_path()).unwrap();
            prop_assert_eq!(&joined, &RelPath::new(format!("{one}/{other}")).unwrap());
            prop_assert_eq!(one == other, one.as_path() == other.as_path());
            prop_assert_eq!(one == other, one.cmp(&other).is_eq());
        }

        #[test]
        fn escape_and_unescape_are_inverse(bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(unescape(&escape(&bytes)), Some(bytes));
        }
    }
}
