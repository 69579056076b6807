//! What strangers do, told at a bounded rate: a log must not grow by what anybody can send.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Complaints that are told at once.
const AT_ONCE: u32 = 20;

/// How long it takes until one more may be told.
const EACH: Duration = Duration::from_secs(1);

/// Counts what was told.
#[derive(Debug)]
pub(super) struct Complaints(Mutex<Told>);

#[derive(Debug)]
struct Told {
    left: u32,
    since: Instant,
    silent: u64,
}

impl Complaints {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Told { left: AT_ONCE, since: Instant::now(), silent: 0 }))
    }

    /// Writes it into the log, unless there were too many of them.
    pub(super) fn tell(&self, complaint: impl Display) {
        if let Some(silent) = self.0.lock().unwrap_or_else(PoisonError::into_inner).may_tell(Instant::now()) {
            let more =
                if silent == 0 { String::new() } else { format!(", and {silent} complaints before were not told") };
            tracing::warn!("{complaint}{more}");
        }
    }
}

impl Told {
    /// Whether one more is told: then how many were not.
    fn may_tell(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_duration_since(self.since).as_secs() / EACH.as_secs();
        if earned > 0 {
            self.left = u32::try_from(earned).unwrap_or(AT_ONCE).saturating_add(self.left).min(AT_ONCE);
            self.since = now;
        }
        if self.left == 0 {
            self.silent += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_second_and_then_with_its_number() {
        let start = Instant::now();
        let mut told = Told { left: AT_ONCE, since: start, silent: 0 };
        let first = (0..1000).filter(|_| told.may_tell(start).is_some()).count();
        assert_eq!(first, AT_ONCE as usize);
        let later = start + Duration::from_millis(1500);
        assert_eq!(told.may_tell(later), Some(1000 - u64::from(AT_ONCE)));
        assert_eq!(told.may_tell(later), None);
        let much_later = start + Duration::from_secs(3600);
        let again = (0..1000).filter(|_| told.may_tell(much_later).is_some()).count();
        assert_eq!(again, AT_ONCE as usize, "what was not used does not add up for ever");
    }
}
