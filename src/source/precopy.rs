//! Copying ahead: passes over the files while the server still writes, so that the frozen window has less to copy.
//!
//! That goes for clones as for what is read ([`clone_ahead`]): a clone takes some 20 µs for each file, and a look at the
//! file, which is all that the window then needs, a tenth of that.
//!
//! Nothing has to be true of such a copy but what the ledger notes: under which fingerprint it was made. The window's
//! settling compares that with the file as it is then, and copies again what differs. While nobody holds still, files may
//! vanish, get other names, shrink or be replaced: they are found to be different or gone.
//!
//! A copy ahead is worth it only if it can still be good in the window:
//!
//! * A file that was written not long ago is left to a later pass or to the window. It would probably be copied again in
//!   any case; and a direct write is stamped when it begins, so that one which a slow disk has not taken yet is neither in
//!   what is read nor seen afterwards. Inside the window the redo log still holds what such a page lacks; by then the
//!   server's checkpoint may have passed a page that was read before. So a file must have been at rest for longer than any write
//!   may take ([`Limits::quiet`]).
//! * A redo log and a log table change all the time, and the redo log must be copied last.
//! * A write through a shared mapping is stamped only when the page was clean before. MyISAM can map its data
//!   (`myisam_use_mmap`), the server maps `tc.log`: both are copied inside the window, after the server has closed them.
//! * Files of engines that the server does not freeze may be mapped as well.
//!
//! A file that was cloned ahead costs the server more when it writes to it: new blocks and a shorter extent for each page, and
//! every extent costs the next clone some 10 µs. All that is dirty in InnoDB's memory is written at once when the server is
//! asked to hold still. Tables in use are therefore not cloned ahead: their pages may be dirty for as long as a large redo log
//! allows, so a file must have been left alone for an [`IDLE`].
//!
//! What is cloned ahead and cloned again in the window leaves a range that nobody reads. It holds the blocks that the
//! server overwrote between the two; the watch on free space counts them like all that clones hold.

use std::time::Duration;

use tracing::{info, warn};

use super::fingerprint::{Clock, Stamp};
use super::settle::{Files, Held, Settling, Worth};
use crate::archive::manifest::{EntryKind, FileClass};
use crate::cancel::Cancel;
use crate::datadir::inventory::Found;
use crate::error::Result;

/// How long a file must not have been changed in any way to be cloned ahead by a clone that waits for writes.
const RECENT: Duration = Duration::from_secs(1);

/// How long to wait when the files move so that they cannot be looked at.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

/// How long a file must have been left alone to be cloned ahead.
const IDLE: Duration = Duration::from_secs(3600);

/// A pass that copies less than this part of all bytes is the last one: the window can do as well.
const ENOUGH_PART: u64 = 50;

/// How often the files may move so that they cannot be looked at.
const ATTEMPTS: u32 = 3;

/// In how many parts the time is waited in which a file must not have been written.
const PAUSES: u32 = 4;

/// What copying ahead may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most passes.
    pub passes: u32,
    /// How long a file must not have been written to be read: longer than any write may be under way.
    pub quiet: Duration,
}

/// Makes passes over the files that are not cloned, and over all directories, so that one that vanishes is known to have
/// been there; how many of them copied something.
///
/// If much was written just now it waits for it to be at rest, for [`Limits::quiet`] at most.
pub fn precopy(settling: &mut Settling<'_>, files: &mut dyn Files, limits: Limits, cancel: &Cancel) -> Result<u32> {
    let clock = Clock::new(limits.quiet);
    let worth = |found: &Found, now: Stamp, held: &dyn Held| match found.kind {
        EntryKind::Directory => Worth::Now,
        EntryKind::File if held.is_cloned(found) => Worth::Never,
        EntryKind::File => worth(found, clock, now),
    };
    let (mut failed, mut copied) = (0, 0);
    for pass in 1..=limits.passes {
        let Some(ahead) = settling.copy_ahead(files, &worth)? else {
            failed += 1;
            if failed == ATTEMPTS {
                warn!("the directories change so quickly that no more can be copied before the window");
                break;
            }
            cancel.sleep(BETWEEN_ATTEMPTS)?;
            continue;
        };
        if ahead.copied_bytes > 0 {
            copied += 1;
            info!("pass {pass} before the window copied {} of {} bytes", ahead.copied_bytes, ahead.total_bytes);
        }
        let enough = ahead.total_bytes / ENOUGH_PART;
        if ahead.copied_bytes <= enough && ahead.later_bytes <= enough {
            break;
        }
        if ahead.copied_bytes <= enough && pass < limits.passes {
            info!("{} bytes were written just now: waiting for them to be at rest", ahead.later_bytes);
            cancel.sleep(limits.quiet / PAUSES)?;
        }
    }
    settling.rest()?;
    Ok(copied)
}

/// Clones what can be cloned, in one pass; right before the server is asked to hold still.
///
/// One pass: what it misses costs the window no more than a clone. If the files move so that they cannot be looked at,
/// all of them are left to the window. `quiet` is as in [`Limits`], for clones that do not wait for writes.
pub fn clone_ahead(settling: &mut Settling<'_>, files: &mut dyn Files, quiet: Duration) -> Result<()> {
    let worth = |found: &Found, now: Stamp, held: &dyn Held| match found.kind {
        EntryKind::File if held.is_cloned(found) && is_idle(found, now) => {
            let margin = if held.waits_for_writes(found) { RECENT } else { quiet };
            worth(found, Clock::new(margin), now)
        }
        EntryKind::File | EntryKind::Directory => Worth::Never,
    };
    if let Some(ahead) = settling.copy_ahead(files, &worth)? {
        info!("cloned {} of {} bytes before the window", ahead.copied_bytes, ahead.total_bytes);
    }
    Ok(())
}

/// The modification time is good enough for this: it decides about costs only, and a restored server keeps it.
fn is_idle(found: &Found, now: Stamp) -> bool {
    now.sec.saturating_sub(found.print.mtime.sec) >= IDLE.as_secs().cast_signed()
}

fn worth(found: &Found, clock: Clock, now: Stamp) -> Worth {
    let name = found.path.file_name().to_string_lossy();
    let class = !matches!(found.class, FileClass::Redo | FileClass::LogTable | FileClass::Unfrozen);
    let mapped = name == "tc.log" || name.ends_with(".MYD");
    match clock.until_old(&found.print, now) {
        _ if !class || mapped => Worth::Never,
        Some(_) => Worth::Later,
        None => Worth::Now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relpath::RelPath;
    use crate::source::fingerprint::Fingerprint;

    fn found(path: &str, class: FileClass, written: Stamp) -> Found {
        Found {
            root: 0,
            path: RelPath::new(path).unwrap(),
            kind: EntryKind::File,
            class,
            print: Fingerprint { dev: 1, ino: 1, size: 1, mtime: written, ctime: written, head: None },
            mode: 0o660,
            uid: 0,
            gid: 0,
            user: "".into(),
            group: "".into(),
            sparse: false,
        }
    }

    #[test]
    fn only_what_was_left_alone_for_an_hour_is_cloned_ahead() {
        let now = Stamp { sec: 10_000, nsec: 1 };
        let idle = |sec| is_idle(&found("shop/a.ibd", FileClass::Innodb, Stamp { sec, nsec: 1 }), now);
        assert!(idle(6400) && !idle(6401) && !idle(20_000) && idle(i64::MIN) && !idle(i64::MAX));
    }

    #[test]
    fn only_what_can_still_be_good_in_the_window_is_copied_before_it() {
        let clock = Clock { tick: Duration::from_millis(4), in_flight: Duration::from_secs(30) };
        let now = Stamp { sec: 1000, nsec: 1 };
        let worth = |path, class, sec| worth(&found(path, class, Stamp { sec, nsec: 1 }), clock, now);
        assert_eq!(worth("shop/a.ibd", FileClass::Innodb, 970), Worth::Now);
        assert_eq!(worth("shop/a.ibd", FileClass::Innodb, 971), Worth::Later);
        assert_eq!(worth("shop/a.frm", FileClass::Other, 900), Worth::Now);
        for (path, class) in [
            ("ib_logfile0", FileClass::Redo),
            ("mysql/general_log.CSV", FileClass::LogTable),
            ("tc.log", FileClass::Other),
            ("shop/a.MYD", FileClass::Other),
            ("#rocksdb/1.sst", FileClass::Unfrozen),
        ] {
            assert_eq!(worth(path, class, 900), Worth::Never, "{path}");
        }
    }
}
