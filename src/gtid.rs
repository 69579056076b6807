//! Galera's global transaction id: which cluster history, and how far along it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, Result};

/// The longest text that can be a GTID: 36 of the UUID, a colon, 20 of a signed 64-bit number.
const LONGEST: usize = 36 + 1 + 20;

/// A cluster history's UUID, kept in the lower-case form that Galera prints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterUuid([u8; 16]);

/// A Galera GTID with a known position: what `tables_flushed` holds and `done` says.
///
/// The position is never negative: Galera's `-1` (undefined) is not a position of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Gtid {
    /// The cluster history.
    pub uuid: ClusterUuid,
    /// The number of the last write set that is in the data.
    pub seqno: u64,
}

impl FromStr for ClusterUuid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::new(Class::Usage, format!("{text:?} is not a UUID"));
        let bytes = text.as_bytes();
        if bytes.len() != 36 {
            return Err(bad());
        }
        let mut uuid = [0u8; 16];
        let mut digits = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                if *byte != b'-' {
                    return Err(bad());
                }
                continue;
            }
            let digit = (*byte as char).to_digit(16).ok_or_else(bad)? as u8;
            uuid[digits / 2] = uuid[digits / 2] << 4 | digit;
            digits += 1;
        }
        if uuid == [0; 16] {
            return Err(Error::new(Class::Usage, "the UUID is all zeroes: the node has no cluster history"));
        }
        Ok(Self(uuid))
    }
}

impl fmt::Display for ClusterUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ClusterUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Gtid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(LONGEST + 8).collect();
        let bad = |why: &str| Error::new(Class::Usage, format!("{shown:?} is not a Galera GTID: {why}"));
        if text.len() > LONGEST {
            return Err(bad("it is too long"));
        }
        let (uuid, seqno) = text.rsplit_once(':').ok_or_else(|| bad("it has no colon"))?;
        let uuid = uuid.parse().map_err(|cause| bad("the UUID is malformed").because(cause))?;
        if seqno.is_empty() || !seqno.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad("the position is not a number of a write set"));
        }
        let seqno = seqno.parse::<i64>().map_err(|cause| bad("the position is out of range").because(cause))?;
        Ok(Self { uuid, seqno: seqno.unsigned_abs() })
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uuid, self.seqno)
    }
}

impl TryFrom<String> for Gtid {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Gtid> for String {
    fn from(gtid: Gtid) -> Self {
        gtid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_gtids_are_refused() {
        let uuid = "6d3f9a04-1234-11ef-8000-0242ac120002";
        for text in [
            "",
            ":",
            uuid,
            &format!("{uuid}:"),
            &format!("{uuid}:-1"),
            &format!("{uuid}:+1"),
            &format!("{uuid}:1 "),
            &format!("{uuid}:1x"),
            &format!("{uuid}:9223372036854775808"),
            &format!("{uuid}:99999999999999999999999"),
            "6d3f9a04-1234-11ef-8000-0242ac12000:1",
            "6d3f9a04x1234-11ef-8000-0242ac120002:1",
            "00000000-0000-0000-0000-000000000000:1",
            &"a".repeat(10_000),
        ] {
            assert!(text.parse::<Gtid>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn print_and_parse_are_inverse(uuid in any::<[u8; 16]>(), seqno in 0..=i64::MAX as u64) {
            prop_assume!(uuid != [0; 16]);
            let gtid = Gtid { uuid: ClusterUuid(uuid), seqno };
            prop_assert_eq!(gtid.to_string().parse::<Gtid>().unwrap(), gtid);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Gtid>();
        }
    }
}
