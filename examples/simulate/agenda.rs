//! What happens when: simulated time, and the events of the day in their order.
//!
//! Two events of the same moment come in the order in which they were put down, so that the same day is the same always.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Microseconds since the day began.
pub type Micros = u64;

pub const SECOND: Micros = 1_000_000;
pub const HOUR: Micros = 3_600 * SECOND;
/// The day's beginning, in microseconds since 1970-01-01 UTC: 2026-01-01.
pub const EPOCH: i64 = 1_767_225_600_000_000;

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A second of arrivals.
    Arrivals,
    /// What fresh rows were left undecided is asked again.
    Sweep,
    /// What limits the work now.
    Look,
    Edit,
    /// The next chunks of the backfill are spooled.
    Spool,
    Loss,
    Return,
    /// A replica may have an answer.
    Reply(usize),
    /// A request comes to nothing: the server is gone, or does not answer in time.
    Refused(usize, u64),
    Late(usize, u64),
    /// A request is sent again.
    Again(usize, u64),
    /// A server of ours looks again for a place at a replica.
    Seats(usize),
    /// A worker looks for work, has looked its rows up, holds its claim for longer.
    Poll(usize, u64),
    Portion(usize, u64),
    Renew(usize, u64),
}

/// What is still to come.
#[derive(Debug, Default)]
pub struct Agenda {
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    count: u64,
    pub now: Micros,
}

impl Agenda {
    /// At this time, or now where that is over.
    pub fn at(&mut self, time: Micros, event: Event) {
        self.count += 1;
        self.events
            .push(Reverse((time.max(self.now), self.count, event)));
    }

    /// In so many microseconds.
    pub fn after(&mut self, wait: Micros, event: Event) {
        self.at(self.now + wait, event);
    }

    /// The next event; it is its time now.
    pub fn pop(&mut self) -> Option<Event> {
        let Reverse((time, _, event)) = self.events.pop()?;
        self.now = time;
        Some(event)
    }

    /// The day (UTC) that it is, from 0.
    pub fn day(&self) -> usize {
        (self.now / (24 * HOUR)) as usize
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.count
    }
}

/// Simulated time as the program's own code takes it.
#[derive(Debug, Clone, Copy)]
pub struct Instants {
    begin: Instant,
}

impl Instants {
    /// The day lies far in the future of the machine's clock, so that code that looks at it cannot be ahead.
    pub fn new() -> Instants {
        Instants {
            begin: Instant::now() + Duration::from_secs(10 * 365 * 86_400),
        }
    }

    pub fn at(&self, time: Micros) -> Instant {
        self.begin + Duration::from_micros(time)
    }
}
