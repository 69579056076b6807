//! Makes way for the server once it goes on: niceness and the class of reads and writes.
//!
//! Linux keeps both for each thread, and a thread that is already running does not follow the others: so every one of
//! this process is set, and what is started later inherits from the one that starts it. It happens only after the window,
//! because the way back would need a privilege.

use std::collections::BTreeSet;

use nix::errno::Errno;
use tracing::warn;

use crate::config::choice::IoNice;
use crate::sys;

/// `IOPRIO_CLASS_BE` and `IOPRIO_CLASS_IDLE` of `linux/ioprio.h`.
const BEST_EFFORT: u8 = 2;
const IDLE: u8 = 3;

/// Sets all threads of this process; what the system refuses is told, and the run goes on.
pub(super) fn make_way(nice: u8, ionice: IoNice) {
    let mut refused = BTreeSet::new();
    for thread in threads() {
        let niced = if nice == 0 { Ok(()) } else { sys::set_niceness(thread, nice) };
        let ioniced = match ionice {
            IoNice::None => Ok(()),
            IoNice::Idle => sys::set_io_priority(thread, IDLE, 0),
            IoNice::BestEffort(level) => sys::set_io_priority(thread, BEST_EFFORT, level),
        };
        for (what, set) in [("nice", niced), ("ionice", ioniced)] {
            match set {
                // A thread that has ended needs nothing any more.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(cause) => drop(refused.insert((what, cause.desc()))),
            }
        }
    }
    refused.iter().for_each(|(what, cause)| warn!("{what} cannot be set: {cause}"));
}

/// All threads of this process; none where `/proc` does not tell.
fn threads() -> Vec<i32> {
    let listed = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    listed.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect()
}
