//! The header blocks of a tar member, in the POSIX (pax) format: what does not fit a field gets an extended record.
//!
//! Names are bytes. A name of up to 100 bytes stands in the header as it is, whatever its bytes; a longer one is a
//! `path` record. `docs/format.md` lists the records that may occur.

use tar::{EntryType, Header};

use super::layout::padded;

/// The largest number in a field of eight bytes: seven octal digits.
const SMALL_MAX: u64 = 0o777_7777;

/// The largest number in a field of twelve bytes: eleven octal digits, 8 GiB − 1.
const LARGE_MAX: u64 = 0o777_7777_7777;

/// The longest owner's name in a header, which ends it with a zero byte.
const OWNER_BYTES: usize = 31;

/// What a member's header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    /// The name from the top of the archive; a directory's ends with a slash.
    pub(super) name: &'a [u8],
    pub(super) directory: bool,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) user: &'a str,
    pub(super) group: &'a str,
    pub(super) mtime: i64,
    pub(super) mtime_nsec: u32,
}

impl Member<'_> {
    /// Appends the header blocks to `out`: extended records where needed, then the header itself.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let records = self.records();
        if !records.is_empty() {
            self.append_records(&records, out);
        }
        let kind = if self.directory { EntryType::Directory } else { EntryType::Regular };
        let mut header = self.header(self.name, kind, self.size);
        header.set_mode(self.mode & 0o7777);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
    }

    fn append_records(&self, records: &[u8], out: &mut Vec<u8>) {
        let mut name = b"PaxHeaders/".to_vec();
        name.extend_from_slice(self.name.strip_suffix(b"/").unwrap_or(self.name));
        let mut header = self.header(&name, EntryType::XHeader, records.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(records);
        out.resize(padded(out.len()), 0);
    }

    /// A header without mode and checksum; what does not fit its field is cut or 0, for a record overrides it.
    fn header(&self, name: &[u8], kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(if size > LARGE_MAX { 0 } else { size });
        header.set_uid(if u64::from(self.uid) > SMALL_MAX { 0 } else { self.uid.into() });
        header.set_gid(if u64::from(self.gid) > SMALL_MAX { 0 } else { self.gid.into() });
        header.set_mtime(u64::try_from(self.mtime).ok().filter(|mtime| *mtime <= LARGE_MAX).unwrap_or(0));
        copy_cut(&mut header.as_old_mut().name, name);
        if let Some(ustar) = header.as_ustar_mut() {
            copy_cut(&mut ustar.uname[..OWNER_BYTES], self.user.as_bytes());
            copy_cut(&mut ustar.gname[..OWNER_BYTES], self.group.as_bytes());
        }
        header
    }

    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        if self.name.len() > Header::new_ustar().as_old().name.len() {
            record(&mut records, "path", self.name);
        }
        if self.size > LARGE_MAX {
            record(&mut records, "size", self.size.to_string().as_bytes());
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if u64::from(id) > SMALL_MAX {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
        for (key, owner) in [("uname", self.user), ("gname", self.group)] {
            if owner.len() > OWNER_BYTES {
                record(&mut records, key, owner.as_bytes());
            }
        }
        if self.mtime_nsec != 0 || u64::try_from(self.mtime).map_or(true, |mtime| mtime > LARGE_MAX) {
            record(&mut records, "mtime", decimal_seconds(self.mtime, self.mtime_nsec).as_bytes());
        }
        records
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + " =\n".len();
    let mut digits = 1;
    while (rest + digits).to_string().len() > digits {
        digits += 1;
    }
    let before = records.len();
    records.extend_from_slice(format!("{} {key}=", rest + digits).as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
    debug_assert_eq!(records.len() - before, rest + digits);
}

/// Seconds with nine decimals; nanoseconds count forward from the second, also before 1970.
pub(super) fn decimal_seconds(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let (sign, total) = if total < 0 { ("-", -total) } else { ("", total) };
    format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000)
}

/// Copies as much of `from` as fits.
fn copy_cut(to: &mut [u8], from: &[u8]) {
    let len = to.len().min(from.len());
    to[..len].copy_from_slice(&from[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for len in 0..2000 {
            let mut records = Vec::new();
            record(&mut records, "path", &vec![b'x'; len]);
            let text = String::from_utf8(records.clone()).unwrap();
            assert_eq!(text.split_once(' ').unwrap().0.parse::<usize>().unwrap(), records.len());
        }
    }

    #[test]
    fn times_before_1970_are_negative_decimals() {
        assert_eq!(decimal_seconds(1, 5), "1.000000005");
        assert_eq!(decimal_seconds(-2, 500_000_000), "-1.500000000");
        assert_eq!(decimal_seconds(-1, 999_999_999), "-0.000000001");
        assert_eq!(decimal_seconds(i64::MIN, 0), "-9223372036854775808.000000000");
    }

    #[test]
    fn what_fits_needs_one_block_and_what_does_not_gets_records() {
        let plain = Member {
            name: b"ibdata1",
            directory: false,
            size: LARGE_MAX,
            mode: 0o660,
            uid: 100,
            gid: 100,
            user: "mysql",
            group: "mysql",
            mtime: 1_700_000_000,
            mtime_nsec: 0,
        };
        let mut out = Vec::new();
        plain.append_to(&mut out);
        assert_eq!(out.len(), 512);

        let long = [b'\xff'; 101];
        let group = "g".repeat(40);
        let large = Member {
            name: &long,
            size: LARGE_MAX + 1,
            uid: 3_000_000,
            gid: 4_000_000,
            group: &group,
            mtime: -1,
            ..plain
        };
        let mut out = Vec::new();
        large.append_to(&mut out);
        assert_eq!(out.len(), 512 * 3);
        for text in
            ["19 size=8589934592\n", "15 uid=3000000\n", "15 gid=4000000\n", "50 gname=ggg", "22 mtime=-1.000000000\n"]
        {
            assert!(out.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
        }
    }
}
