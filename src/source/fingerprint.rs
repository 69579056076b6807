//! What tells two states of a file apart without reading it.
//!
//! Equal fingerprints mean equal bytes if the file was not [young](Clock::until_old) when it was copied: the kernel stamps
//! a change with a clock that ticks every few milliseconds, so a change in the tick of the copy leaves no trace (git calls
//! such an entry "racily clean"). The change time cannot be set by a program, unlike the modification time.
//!
//! Two limits are known. A write through a shared mapping is stamped late; the server maps `tc.log`, and a redo log on
//! persistent memory, hence the head of a redo log belongs to its fingerprint. And the change time is set when a write
//! begins: one that is still on its way to the disk is the reason for [`Clock::in_flight`].

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::digest::Digest;
use crate::sys;

/// How much of a redo log's beginning is part of its fingerprint: its header and both checkpoint blocks, in every version.
///
/// 10.8 and newer MariaDB: header at 0, checkpoints at 4096 and 8192, records from 12288. Older ones and MySQL: header and
/// checkpoints in the first 2048 bytes.
pub const REDO_HEAD_BYTES: usize = 12 << 10;

/// On file systems whose stamps are whole seconds (ext3, ext4 with small inodes) a change can hide for two of them.
const COARSE_MARGIN: Duration = Duration::from_secs(2);

/// A time stamp of a file: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: u32,
}

/// The state of a file, as far as the file system tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The device that holds the file.
    pub dev: u64,
    /// The inode's number on the device.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// When the bytes were last modified.
    pub mtime: Stamp,
    /// When the bytes or the inode last changed.
    pub ctime: Stamp,
    /// For a redo log, the digest of its first [`REDO_HEAD_BYTES`].
    pub head: Option<Digest>,
}

impl Fingerprint {
    /// The fingerprint that `metadata` shows; without a head.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime: Stamp::new(metadata.mtime(), metadata.mtime_nsec()),
            ctime: Stamp::new(metadata.ctime(), metadata.ctime_nsec()),
            head: None,
        }
    }

    /// Whether `later` shows the same inode and redo header, and not fewer bytes: what appending to a redo log leaves.
    pub fn grew_into(&self, later: &Fingerprint) -> bool {
        let same = |print: &Fingerprint| (print.dev, print.ino, print.head);
        self.head.is_some() && same(self) == same(later) && later.size >= self.size
    }
}

impl Stamp {
    /// A stamp as `stat` gives it.
    pub fn new(sec: i64, nsec: i64) -> Self {
        Self { sec, nsec: u32::try_from(nsec).unwrap_or(0) }
    }

    /// The clock's time now, as a file changed now would be stamped at the latest.
    pub fn now() -> Self {
        let (sec, nsec) = sys::file_clock();
        Self { sec, nsec }
    }

    fn nanoseconds(self) -> i128 {
        i128::from(self.sec) * 1_000_000_000 + i128::from(self.nsec)
    }
}

/// How far a file's change time can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The tick of the clock that stamps files.
    pub tick: Duration,
    /// How long a write may be under way after its file was stamped; zero where copying waits for such writes.
    pub in_flight: Duration,
}

impl Clock {
    /// This machine's clock.
    pub fn new(in_flight: Duration) -> Self {
        Self { tick: sys::file_clock_tick(), in_flight }
    }

    /// How long after `now` a change in the same tick as the last one could still go unseen; `None` if it cannot.
    ///
    /// A change time in the future (the clock was set back) is not young: a new change gets another stamp.
    pub fn until_old(&self, print: &Fingerprint, now: Stamp) -> Option<Duration> {
        let tick = if print.ctime.nsec == 0 { COARSE_MARGIN } else { self.tick * 2 };
        let margin = tick.max(self.in_flight).as_nanos().cast_signed();
        let age = now.nanoseconds() - print.ctime.nanoseconds();
        if age >= margin || age <= -margin {
            return None;
        }
        let left = u64::try_from((margin - age).min(margin)).unwrap_or(u64::MAX);
        Some(Duration::from_nanos(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(sec: i64, nsec: u32) -> Fingerprint {
        let stamp = Stamp { sec, nsec };
        Fingerprint { dev: 1, ino: 1, size: 1, mtime: stamp, ctime: stamp, head: None }
    }

    const CLOCK: Clock = Clock { tick: Duration::from_millis(4), in_flight: Duration::ZERO };

    #[test]
    fn a_file_is_young_for_two_ticks_after_its_last_change() {
        let print = stamped(100, 1_000_000);
        let left = |nsec| CLOCK.until_old(&print, Stamp { sec: 100, nsec });
        assert_eq!(left(1_000_000), Some(Duration::from_millis(8)));
        assert_eq!(left(8_999_999), Some(Duration::from_nanos(1)));
        assert_eq!(left(9_000_000), None);
    }

    #[test]
    fn whole_second_stamps_are_young_for_two_seconds() {
        let print = stamped(100, 0);
        assert!(CLOCK.until_old(&print, Stamp { sec: 101, nsec: 999_999_999 }).is_some());
        assert_eq!(CLOCK.until_old(&print, Stamp { sec: 102, nsec: 0 }), None);
    }

    #[test]
    fn a_write_under_way_keeps_a_file_young_for_longer() {
        let clock = Clock { in_flight: Duration::from_millis(200), ..CLOCK };
        assert!(clock.until_old(&stamped(100, 1), Stamp { sec: 100, nsec: 199_000_000 }).is_some());
        assert_eq!(clock.until_old(&stamped(100, 1), Stamp { sec: 100, nsec: 200_000_001 }), None);
    }

    #[test]
    fn a_change_time_far_in_the_future_is_not_young_but_a_near_one_is() {
        assert_eq!(CLOCK.until_old(&stamped(200, 1), Stamp { sec: 100, nsec: 1 }), None);
        assert_eq!(
            CLOCK.until_old(&stamped(100, 3_000_001), Stamp { sec: 100, nsec: 1 }),
            Some(Duration::from_millis(8))
        );
        let extreme = Stamp { sec: i64::MIN, nsec: 999_999_999 };
        assert_eq!(CLOCK.until_old(&stamped(i64::MAX, 1), extreme), None);
    }

    #[test]
    fn the_kernel_stamps_no_change_later_than_now_nor_earlier_than_a_tick_ago() {
        let clock = Clock::new(Duration::ZERO);
        assert!(clock.tick > Duration::ZERO && clock.tick <= Duration::from_millis(10));
        let before = Stamp::now();
        let file = tempfile::NamedTempFile::new().unwrap();
        let print = Fingerprint::of(&file.as_file().metadata().unwrap());
        assert!(print.ctime <= Stamp::now());
        assert!(before.nanoseconds() - print.ctime.nanoseconds() <= clock.tick.as_nanos().cast_signed() * 2);
    }

    #[test]
    fn only_a_log_with_the_same_header_and_no_fewer_bytes_has_grown() {
        let redo = |size, head: &[u8]| Fingerprint { size, head: Some(Digest::of(head)), ..stamped(1, 1) };
        assert!(redo(10, b"h").grew_into(&redo(10, b"h")));
        assert!(redo(10, b"h").grew_into(&redo(11, b"h")));
        assert!(!redo(10, b"h").grew_into(&redo(9, b"h")));
        assert!(!redo(10, b"h").grew_into(&redo(10, b"i")));
        assert!(!redo(10, b"h").grew_into(&Fingerprint { ino: 2, ..redo(10, b"h") }));
        assert!(!stamped(1, 1).grew_into(&stamped(1, 1)));
    }
}
