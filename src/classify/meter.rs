//! How busy a backend is, and which question kept it so.
//!
//! Takes when questions are put and answered, gives each its part of the time in which there was any: every moment is
//! shared evenly by the questions that were under way then, whether they waited or were worked on. The parts of all
//! questions sum up to the busy time, however many ran at once. Time is an argument. Knows nothing of what is asked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One backend's.
#[derive(Debug, Default)]
pub struct Meter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Questions under way.
    running: u32,
    /// Up to when `part` is counted; `None` while none ever ran.
    counted: Option<Instant>,
    /// Seconds that a question would have had that was under way ever since.
    part: f64,
}

/// A question under way. It ends when this is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    meter: &'a Meter,
    begun: f64,
}

impl State {
    fn count(&mut self, now: Instant) {
        if let Some(counted) = self.counted.filter(|_| self.running > 0) {
            let passed = now.saturating_duration_since(counted).as_secs_f64();
            self.part += passed / f64::from(self.running);
        }
        self.counted = self.counted.max(Some(now));
    }
}

impl Meter {
    /// A question is put now.
    pub fn begin(&self, now: Instant) -> Turn<'_> {
        let mut state = self.lock();
        state.count(now);
        state.running += 1;
        Turn {
            meter: self,
            begun: state.part,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// The seconds that are this question's so far.
    pub fn seconds(&self, now: Instant) -> f64 {
        let mut state = self.meter.lock();
        state.count(now);
        state.part - self.begun
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.meter.lock();
        state.count(Instant::now());
        state.running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_moment_is_shared_by_those_under_way() {
        let meter = Meter::default();
        // In the future, so that the clock that ends a turn is never ahead.
        let begin = Instant::now() + Duration::from_secs(3_600);
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} is not {want}");
        let one = meter.begin(at(0.0));
        near(one.seconds(at(2.0)), 2.0);
        let two = meter.begin(at(2.0));
        let three = meter.begin(at(2.0));
        near(one.seconds(at(5.0)), 3.0);
        drop(one);
        near(two.seconds(at(6.0)), 1.5);
        near(three.seconds(at(6.0)), 1.5);
        drop((two, three));
        // Nobody's.
        let four = meter.begin(at(100.0));
        near(four.seconds(at(100.5)), 0.5);
        // A clock that seems to go back takes nothing away.
        near(four.seconds(at(99.0)), 0.5);
    }
}
