//! The operating system where no safe library reaches it, and the wall clock.
#![allow(unsafe_code)]

/// The wall clock.
#[allow(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// The clock that file systems stamp files with (`CLOCK_REALTIME`): seconds since 1970 and nanoseconds.
pub fn file_clock() -> (i64, u32) {
    use nix::time::{ClockId, clock_gettime};
    // The call fails only for a clock that does not exist; 1970 makes no file look old.
    clock_gettime(ClockId::CLOCK_REALTIME).map_or((0, 0), |time| (time.tv_sec(), time.tv_nsec() as u32))
}

/// How far apart two time stamps of one file are at least if they differ: the tick of `CLOCK_REALTIME_COARSE`.
pub fn file_clock_tick() -> std::time::Duration {
    use nix::time::{ClockId, clock_getres};
    // 10 ms is the coarsest tick that Linux can be built with.
    clock_getres(ClockId::CLOCK_REALTIME_COARSE).map_or(std::time::Duration::from_millis(10), std::time::Duration::from)
}
