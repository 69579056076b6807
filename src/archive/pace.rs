//! How fast the worker threads may read: a number of bytes per second for all of them together.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::error::Result;

/// A pace that all clones share. Without a limit taking costs a lock and no time.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    limit: Option<NonZeroU64>,
    /// When what was taken so far may have been read.
    paid: Option<Instant>,
}

impl Pace {
    /// Limits the bytes per second from now on. Whoever waits already does so to the end of its own part.
    pub fn limit(&self, bytes_per_second: Option<NonZeroU64>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { limit: bytes_per_second, paid: None };
    }

    /// Waits until `bytes` more may be read.
    pub(super) fn take(&self, bytes: usize, cancel: &Cancel) -> Result<()> {
        match self.wait_for(bytes, Instant::now()) {
            Some(time) => cancel.sleep(time),
            None => Ok(()),
        }
    }

    /// How long to wait before reading `bytes`. Time that nobody used is not saved up.
    fn wait_for(&self, bytes: usize, now: Instant) -> Option<Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = state.limit?;
        let begin = state.paid.map_or(now, |paid| paid.max(now));
        state.paid = Some(begin + Duration::from_secs_f64(bytes as f64 / limit.get() as f64));
        Some(begin - now).filter(|time| !time.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_readers_together_keep_the_limit() {
        let pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.wait_for(1 << 30, now), None);
        pace.limit(NonZeroU64::new(1000));
        let waits: Vec<_> = (0..3).map(|_| pace.clone().wait_for(500, now)).collect();
        assert_eq!(waits, [None, Some(Duration::from_millis(500)), Some(Duration::from_secs(1))]);
    }

    #[test]
    fn time_that_passed_unused_is_not_made_up_for() {
        let pace = Pace::default();
        pace.limit(NonZeroU64::new(1000));
        let now = Instant::now();
        assert_eq!(pace.wait_for(500, now), None);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.wait_for(500, later), None);
        assert_eq!(pace.wait_for(500, later), Some(Duration::from_millis(500)));
    }
}
