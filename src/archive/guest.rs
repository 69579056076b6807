//! Reading a file through the page cache without staying there: what was not cached before is not cached afterwards.
//!
//! Reading a whole datadir once would push out what the server reads again and again. What it had in the cache itself
//! must stay, though, and the kernel drops by range, whoever put the pages there. So before anything of a file is read,
//! `mincore` tells which of its pages are there; what was not is dropped after it was read. To look at each run only
//! when its turn comes would be too late: the kernel has read ahead by then, and what it read looks like the server's.
//! (Nor can its reading ahead be switched off for one descriptor: `POSIX_FADV_RANDOM` does not stop what a marker in a
//! page that the server has read sets off. And `preadv2` with `RWF_NOWAIT`, which would tell as well, begins to read what
//! is missing.)

use std::fs::File;
use std::io;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::sys;

/// What is looked at as one: the size of a database page, which the server reads at once. 8 KiB of notes for 1 GiB.
const UNIT_BYTES: u64 = 16 << 10;

/// What is asked for at once, so that the answer stays small.
const ASK_BYTES: u64 = 64 << 20;

/// Which parts of a range of a file were cached before anybody of us read it.
pub(super) struct Before {
    begin: u64,
    /// One bit for each unit from `begin` on: it was cached, or nobody knows.
    cached: Vec<u64>,
}

impl Before {
    /// Looks at `length` bytes of `file` from `offset`.
    pub(super) fn look(file: &File, offset: u64, length: u64) -> Self {
        let begin = offset - offset % UNIT_BYTES.max(sys::page_bytes() as u64);
        let end = offset.saturating_add(length);
        let units = (end - begin).div_ceil(UNIT_BYTES);
        let mut before = Self { begin, cached: vec![0; units.div_ceil(64) as usize] };
        let mut at = begin;
        while at < end {
            let part = ASK_BYTES.min(end - at);
            match sys::cached_pages(file, at, part as usize) {
                Ok(pages) => before.note(at, &pages),
                // Where the kernel does not tell, everything may be the server's.
                Err(_) => before.note(at, &vec![true; (part as usize).div_ceil(sys::page_bytes())]),
            }
            at += part;
        }
        before
    }

    fn note(&mut self, at: u64, pages: &[bool]) {
        let page_bytes = sys::page_bytes() as u64;
        for (number, _) in pages.iter().enumerate().filter(|(_, cached)| **cached) {
            let page = at + number as u64 * page_bytes;
            // A page may be larger than a unit.
            for unit in (page..page + page_bytes).step_by(UNIT_BYTES as usize) {
                let unit = (unit - self.begin) / UNIT_BYTES;
                if let Some(bits) = self.cached.get_mut((unit / 64) as usize) {
                    *bits |= 1 << (unit % 64);
                }
            }
        }
    }

    fn was_cached(&self, at: u64) -> bool {
        let unit = at.saturating_sub(self.begin) / UNIT_BYTES;
        self.cached.get((unit / 64) as usize).is_none_or(|bits| bits >> (unit % 64) & 1 == 1)
    }

    /// Drops from the cache what of these bytes was not there before. It is advice: what the kernel makes of it changes
    /// nothing in the backup.
    pub(super) fn leave(&self, file: &File, offset: u64, length: usize) {
        let end = offset + length as u64;
        let mut at = offset;
        while at < end {
            let cached = self.was_cached(at);
            let begin = at;
            while at < end && self.was_cached(at) == cached {
                at = (at - at % UNIT_BYTES + UNIT_BYTES).min(end);
            }
            if !cached && forget(file, begin, at - begin).is_err() {
                return;
            }
        }
    }
}

fn forget(file: &File, begin: u64, length: u64) -> io::Result<()> {
    let (Ok(begin), Ok(length)) = (begin.try_into(), length.try_into()) else { return Ok(()) };
    Ok(posix_fadvise(file, begin, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_was_cached_stays_and_what_was_not_goes_although_the_kernel_reads_ahead() {
        const BYTES: u64 = 8 << 20;
        // Not on a tmpfs, whose pages are the file itself.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; BYTES as usize]).unwrap();
        file.sync_all().unwrap();
        forget(&file, 0, BYTES).unwrap();
        let cached = |at: u64| sys::cached_pages(&file, at, 1).unwrap()[0];
        assert!(!cached(0) && !cached(BYTES / 2), "this file system cannot show it");
        // What the server reads in order, with what is read ahead for it.
        let mut server = vec![0; 64 << 10];
        for at in 0..8 {
            file.read_exact_at(&mut server, (1 << 20) + at * (64 << 10)).unwrap();
        }
        let all = || (0..BYTES).step_by(4096).map(cached).collect::<Vec<bool>>();
        let servers = all();
        let before = Before::look(&file, 0, BYTES);
        let mut run = vec![0; 1 << 20];
        for at in (0..BYTES).step_by(1 << 20) {
            file.read_exact_at(&mut run, at).unwrap();
            before.leave(&file, at, 1 << 20);
        }
        let left = all();
        let lost = (0..left.len()).filter(|page| servers[*page] && !left[*page]).count();
        let more = (0..left.len()).filter(|page| left[*page] && !servers[*page]).count();
        // A unit that was partly cached stays whole, at both ends of what the server read.
        assert!(lost == 0 && more <= 8, "{lost} pages of the server's are lost, {more} of ours stay");
    }

    #[test]
    fn a_range_is_looked_at_from_where_it_begins() {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&[7; 256 << 10]).unwrap();
        let before = Before::look(&file, 100_000, 50_000);
        assert!((100_000..150_000).all(|at| before.was_cached(at)));
        file.sync_all().unwrap();
        forget(&file, 0, 256 << 10).unwrap();
        let before = Before::look(&file, 100_000, 50_000);
        assert!(!(100_000..150_000).any(|at| before.was_cached(at)));
        assert!(before.was_cached(10 << 20), "what was not looked at may be the server's");
    }
}
