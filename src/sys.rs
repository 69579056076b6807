//! The operating system where no safe library reaches it, and the wall clock.
#![allow(unsafe_code)]

/// The wall clock.
#[allow(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
