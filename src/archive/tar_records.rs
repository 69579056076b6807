//! The extended records of a tar member as this format allows them.
//!
//! Read by length as POSIX says, not by line: a name may hold a newline.

/// What a member's records say in place of its header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) user: Option<Vec<u8>>,
    pub(super) group: Option<Vec<u8>>,
    /// Seconds and, forward from them, nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
}

impl Records {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads `LENGTH KEY=VALUE\n` until nothing is left; each key at most once.
pub(super) fn parse_records(mut bytes: &[u8]) -> Result<Records, String> {
    let mut records = Records::default();
    while !bytes.is_empty() {
        let (key, value, rest) = split_record(bytes).ok_or("an extended tar header is damaged")?;
        let twice = match key {
            b"path" => records.path.replace(value.to_vec()).is_some(),
            b"uname" => records.user.replace(value.to_vec()).is_some(),
            b"gname" => records.group.replace(value.to_vec()).is_some(),
            b"size" => records.size.replace(number(value)?).is_some(),
            b"uid" => records.uid.replace(number(value)?).is_some(),
            b"gid" => records.gid.replace(number(value)?).is_some(),
            b"mtime" => records.mtime.replace(time(value).ok_or_else(not_a_number)?).is_some(),
            _ => return Err("an extended tar header says what this format does not".to_owned()),
        };
        if twice {
            return Err("an extended tar header says something twice".to_owned());
        }
        bytes = rest;
    }
    Ok(records)
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(6).position(|byte| *byte == b' ')?;
    let (digits, _) = bytes.split_at(space);
    let len = usize::try_from(number(digits).ok()?).ok()?;
    let (record, rest) = bytes.split_at_checked(len)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

fn not_a_number() -> String {
    "an extended tar header has a malformed number".to_owned()
}

fn number(digits: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or_else(not_a_number)
}

/// `[-]SECONDS[.DECIMALS]` with at most nine decimals.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let point = text.iter().position(|byte| *byte == b'.');
    let (whole, decimals) = point.map_or((text, &b"0"[..]), |at| (&text[..at], &text[at + 1..]));
    if decimals.len() > 9 {
        return None;
    }
    let scale = 10u64.pow(9 - u32::try_from(decimals.len()).ok()?);
    let total = i128::from(number(whole).ok()?) * 1_000_000_000 + i128::from(number(decimals).ok()? * scale);
    let total = if negative { -total } else { total };
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
    Some((seconds, u32::try_from(total.rem_euclid(1_000_000_000)).ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::tar_header::decimal_seconds;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_is_as_long_as_it_says_even_with_a_newline_in_it() {
        let records = parse_records(b"12 path=a\nb\n10 size=7\n").unwrap();
        assert_eq!((records.path.as_deref(), records.size), (Some(&b"a\nb"[..]), Some(7)));
    }

    #[test]
    fn anything_that_readers_may_take_differently_is_refused() {
        for bytes in [
            &b"8 size=7\n"[..],
            b"11 size=7\n",
            b"10 size=-\n",
            b"10 size=+7\n",
            b"10 size=7\n10 size=7\n",
            b"18 linkpath=/etc/\n",
            b"22 GNU.sparse.major=1\n",
            b" 10 size=7\n",
            b"99999999999999999999 size=7\n",
            b"size=7\n",
            b"0 ",
            b"\0",
            b"10 size=7\nx",
        ] {
            assert!(parse_records(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn times_survive(seconds in any::<i64>(), nanoseconds in 0..1_000_000_000u32) {
            let text = decimal_seconds(seconds, nanoseconds);
            prop_assert_eq!(time(text.as_bytes()), Some((seconds, nanoseconds)));
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            let _ = parse_records(&bytes);
        }
    }
}
