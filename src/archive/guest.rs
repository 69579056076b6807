//! Reading a file through the page cache without staying there: what was not cached before is not cached afterwards.
//!
//! Reading a whole datadir once would push out what the server reads again and again. What it had in the cache itself
//! must stay, though, and the kernel drops by range, whoever put the pages there. So before a run of bytes is read,
//! `mincore` tells which of its pages are there; afterwards the others are dropped. (`RWF_NOWAIT` would tell as well, but
//! it begins to read what is not there.) So that the kernel's own readahead does not fill in the answer for the next run,
//! it is switched off for our descriptor, and the run itself is asked for ahead instead.
//!
//! A clone has pages of its own, which nobody else reads: they are always dropped.

use std::fs::File;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::sys;

/// What the kernel reads ahead in one go, at most.
const AHEAD_BYTES: usize = 256 << 10;

/// A run of bytes while it is read; dropping it drops from the cache what was not there before.
pub(super) struct Guest<'a> {
    file: &'a File,
    /// Ranges that were not cached: where they begin and how long they are.
    ours: Vec<(u64, usize)>,
}

impl<'a> Guest<'a> {
    /// Looks at what of `length` bytes at `offset` is cached, and asks for the rest.
    pub(super) fn begin(file: &'a File, offset: u64, length: usize) -> Self {
        let page_bytes = sys::page_bytes();
        let mut ours: Vec<(u64, usize)> = Vec::new();
        // Where the kernel does not tell, everything may be the server's.
        let pages = if length == 0 { Ok(Vec::new()) } else { sys::cached_pages(file, offset, length) };
        for (number, cached) in pages.unwrap_or_default().into_iter().enumerate() {
            let done = number * page_bytes;
            let (at, page) = (offset + done as u64, page_bytes.min(length - done));
            match ours.last_mut() {
                _ if cached => {}
                Some((begin, len)) if *begin + *len as u64 == at => *len += page,
                _ => ours.push((at, page)),
            }
        }
        if !ours.is_empty() {
            advise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
        }
        for (begin, len) in &ours {
            for done in (0..*len).step_by(AHEAD_BYTES) {
                let part = AHEAD_BYTES.min(len - done);
                advise(file, begin + done as u64, part, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
            }
        }
        Self { file, ours }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        for (begin, len) in &self.ours {
            advise(self.file, *begin, *len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
    }
}

/// Advice is only that: a file system that does not take it reads all the same.
fn advise(file: &File, begin: u64, len: usize, advice: PosixFadviseAdvice) {
    let (Ok(begin), Ok(len)) = (begin.try_into(), len.try_into()) else { return };
    let _ = posix_fadvise(file, begin, len, advice);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_was_cached_stays_and_what_was_not_goes() {
        // Not on a tmpfs, whose pages are the file itself.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        advise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        advise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
        let cached = |at: u64| sys::cached_pages(&file, at, 1).unwrap()[0];
        assert!(!cached(0) && !cached(512 << 10), "this file system cannot show it");
        file.read_exact_at(&mut [0; 16 << 10], 512 << 10).unwrap();
        assert!(cached(512 << 10));
        let guest = Guest::begin(&file, 0, 1 << 20);
        file.read_exact_at(&mut vec![0; 1 << 20], 0).unwrap();
        assert!(cached(0));
        drop(guest);
        assert!(cached(512 << 10), "the server's page is gone");
        for at in [0, 256 << 10, 768 << 10, (1 << 20) - 4096] {
            assert!(!cached(at), "{at} is still cached");
        }
    }
}
