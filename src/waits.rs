//! Where work waits: how much of it now, how often it did, and for how long in all.
//!
//! Takes the beginning and the end of each wait, gives sums at any moment. What waits still counts up to that moment, so
//! that the growth of the seconds in a second is how many waited at once. Time is an argument. Knows nothing of what is
//! waited for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One thing that is waited for.
#[derive(Debug, Default)]
pub struct Wait {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: u64,
    ended: u64,
    seconds: f64,
    /// Up to when `seconds` is counted.
    counted: Option<Instant>,
}

/// What was waited for it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Waited {
    /// How many wait now.
    pub waiting: u64,
    /// How many do no longer.
    pub ended: u64,
    /// Seconds of all of them together.
    pub seconds: f64,
}

/// Somebody waits until this is dropped.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Wait);

impl State {
    fn count(&mut self, now: Instant) {
        if let Some(counted) = self.counted {
            let passed = now.saturating_duration_since(counted).as_secs_f64();
            self.seconds += passed * self.waiting as f64;
        }
        self.counted = self.counted.max(Some(now));
    }
}

impl Wait {
    /// Somebody waits from now on.
    pub fn begin(&self, now: Instant) -> Waiting<'_> {
        let mut state = self.lock();
        state.count(now);
        state.waiting += 1;
        Waiting(self)
    }

    /// The sums up to now.
    pub fn read(&self, now: Instant) -> Waited {
        let mut state = self.lock();
        state.count(now);
        let State {
            waiting,
            ended,
            seconds,
            ..
        } = *state;
        Waited {
            waiting,
            ended,
            seconds,
        }
    }

    fn end(&self, now: Instant) {
        let mut state = self.lock();
        state.count(now);
        state.waiting -= 1;
        state.ended += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn seconds_grow_by_as_many_as_wait() {
        let wait = Wait::default();
        // In the future, so that the clock that ends a wait is never ahead.
        let begin = Instant::now() + Duration::from_secs(3_600);
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(wait.read(at(0)), Waited::default());
        let (one, two) = (wait.begin(at(10)), wait.begin(at(13)));
        let waited = |waiting, ended, seconds| Waited {
            waiting,
            ended,
            seconds,
        };
        assert_eq!(wait.read(at(13)), waited(2, 0, 3.0));
        assert_eq!(wait.read(at(15)), waited(2, 0, 7.0));
        drop(one);
        assert_eq!(wait.read(at(16)), waited(1, 1, 8.0));
        // A clock that seems to go back takes nothing away.
        assert_eq!(wait.read(at(1)), waited(1, 1, 8.0));
        drop(two);
        assert_eq!(wait.read(at(20)), waited(0, 2, 8.0));
    }
}
