//! Makes way for the server once it goes on: niceness and the class of reads and writes.
//!
//! Linux keeps both for each thread, and a thread that is already running does not follow the others: so every one of
//! this process is set, and what is started later inherits from the one that starts it. It happens only after the window,
//! because the way back would need a privilege.

use nix::errno::Errno;
use tracing::warn;

use crate::config::choice::IoNice;
use crate::error::{Error, Result};
use crate::sys;

/// `IOPRIO_CLASS_BE` and `IOPRIO_CLASS_IDLE` of `linux/ioprio.h`.
const BEST_EFFORT: u8 = 2;
const IDLE: u8 = 3;

/// Sets all threads of this process; what the system refuses is told, and the run goes on.
pub(super) fn make_way(nice: u8, ionice: IoNice) -> Result<()> {
    if nice == 0 && ionice == IoNice::None {
        return Ok(());
    }
    for thread in threads()? {
        let niced = if nice == 0 { Ok(()) } else { sys::set_niceness(thread, nice) };
        let ioniced = match ionice {
            IoNice::None => Ok(()),
            IoNice::Idle => sys::set_io_priority(thread, IDLE, 0),
            IoNice::BestEffort(level) => sys::set_io_priority(thread, BEST_EFFORT, level),
        };
        match niced.and(ioniced) {
            // A thread that has ended needs nothing any more.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(cause) => {
                warn!("nice and ionice cannot be set: {}", cause.desc());
                return Ok(());
            }
        }
    }
    Ok(())
}

fn threads() -> Result<Vec<i32>> {
    let failed = |cause| Error::io("list", "/proc/self/task", cause);
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").map_err(failed)? {
        threads.extend(entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(threads)
}
