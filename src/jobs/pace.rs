//! When background work is done: the clock, and how long claims, looks and pauses last.
//!
//! Takes nothing from outside but the limits; gives times in microseconds since 1970-01-01 UTC. A test has a clock of its
//! own. Knows nothing of what is done.

use crate::config::{
    BACKFILL_LEASE_MS, BACKFILL_PAUSE_MS, BACKFILL_PAUSE_MS_MAX, BACKFILL_POLL_MS,
    BACKFILL_WATCH_MS, BACKFILL_WORKERS,
};
use crate::store::{self, Store};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What time it is.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

impl Clock {
    /// The system's.
    pub fn system() -> Clock {
        Clock::of(store::now)
    }

    /// Any other.
    pub fn of(now: impl Fn() -> i64 + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// Microseconds since 1970-01-01 UTC.
    pub fn now(&self) -> i64 {
        (self.0)()
    }
}

/// How background work is paced.
#[derive(Debug, Clone)]
pub struct Pace {
    /// What time it is.
    pub clock: Clock,
    /// Pieces of work that one process has in hand at once.
    pub workers: usize,
    /// How long a claim holds without being renewed.
    pub lease: Duration,
    /// Between two looks at whether work in hand is still wanted.
    pub watch: Duration,
    /// Between two looks for work.
    pub poll: Duration,
}

impl Pace {
    /// The usual one, by the clock of whoever works on a store.
    pub fn of(store: &Store) -> Pace {
        let store = store.clone();
        Pace {
            clock: Clock::of(move || store.clock()),
            ..Pace::default()
        }
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            clock: Clock::system(),
            workers: BACKFILL_WORKERS,
            lease: Duration::from_millis(BACKFILL_LEASE_MS),
            watch: Duration::from_millis(BACKFILL_WATCH_MS),
            poll: Duration::from_millis(BACKFILL_POLL_MS),
        }
    }
}

/// Microseconds of a time span.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// How long to wait after failing `failures` times in a row: doubled each time up to a limit, and between half of that and
/// all of it, so that those who failed together do not come back together. The same `salt` gives the same pause.
pub(super) fn pause(failures: u32, salt: &[i64]) -> Duration {
    let doubled = BACKFILL_PAUSE_MS.saturating_mul(1_u64 << failures.min(32));
    let most = doubled.min(BACKFILL_PAUSE_MS_MAX);
    let mut hasher = blake3::Hasher::new();
    salt.iter().for_each(|part| {
        hasher.update(&part.to_le_bytes());
    });
    hasher.update(&failures.to_le_bytes());
    let drawn = u64::from(hasher.finalize().as_bytes()[0]);
    Duration::from_millis(most / 2 + most * drawn / 510)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let mut longest = 0;
        for failures in 0..40 {
            let full = (1_000_u128 << failures.min(6)).min(60_000);
            for salt in 0..50 {
                let pause = pause(failures, &[salt, 7]).as_millis();
                assert!(pause * 2 >= full && pause <= full, "{failures}: {pause}");
                longest = longest.max(pause);
            }
        }
        assert!(longest > 55_000, "{longest}");
        let some: std::collections::BTreeSet<_> = (0..50).map(|n| pause(3, &[n])).collect();
        assert!(some.len() > 25, "{some:?}");
        assert_eq!(pause(3, &[1]), pause(3, &[1]));
    }
}
