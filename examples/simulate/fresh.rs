//! Fresh rows: they arrive over the day, and somebody waits for each.
//!
//! Modelled: how many arrive (a curve with its height in the evening), and that each is judged at once by a statement in
//! the interactive lane, on an analyst's account, by whichever server has its turn; and that what came back undecided
//! (`error`, `budget`) is asked again every minute, or when its limit begins anew. Real: the limits, and what happens to its
//! question in `fleet`. The lag of a row is from the second in which it arrived to its answer; rows that are recalled or
//! cleared have none.

use crate::agenda::{EPOCH, Event, HOUR, Micros, SECOND};
use crate::day::{Counts, Day};
use crate::fleet::{Answered, Ask, Owner};
use safeguard::config::{ANALYSIS_TOKENS_MAX, Role};
use safeguard_udfs::Lane;
use std::f64::consts::TAU;

/// The hour at which most arrive, and by how much more than in the mean; guesses.
const PEAK_HOUR: f64 = 20.0;
const PEAK: f64 = 0.6;
/// Seconds between two looks at what was left undecided.
const SWEEP: Micros = 60 * SECOND;

/// A row that somebody waits for.
#[derive(Debug, Clone, Copy)]
struct Item {
    text: u64,
    arrived: Micros,
    /// Which version it is judged by.
    version: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Fresh {
    items: Vec<Option<Item>>,
    free: Vec<usize>,
    /// Undecided: a place, and when to ask again.
    left: Vec<(usize, Micros)>,
    pub arrived: u64,
    pub counts: Counts,
    /// Milliseconds that each asked row waited.
    pub lags: Vec<u32>,
    turn: usize,
    /// Questions, by day of the limits.
    pub asked: Vec<u64>,
    pub budget_until: Micros,
}

/// Rows that have arrived by a time, of `day` in a day.
fn arrived_by(day: u64, time: Micros) -> u64 {
    let hour = time as f64 / HOUR as f64;
    let phase = |hour: f64| ((hour - PEAK_HOUR) / 24.0 * TAU).sin();
    let days = (hour + PEAK * 24.0 / TAU * (phase(hour) - phase(0.0))) / 24.0;
    (day as f64 * days) as u64
}

impl Fresh {
    /// Rows that are not decided yet.
    pub fn waiting(&self) -> usize {
        self.items.len() - self.free.len()
    }

    /// When the oldest of them arrived.
    pub fn oldest(&self) -> Option<Micros> {
        self.items.iter().flatten().map(|item| item.arrived).min()
    }
}

impl Day<'_> {
    /// A second of the day.
    pub fn arrivals(&mut self) {
        let now = self.agenda.now;
        let until = arrived_by(self.options.arrivals(), now);
        while self.fresh.arrived < until {
            let text = self.world.text(self.options.rows + self.fresh.arrived);
            self.fresh.arrived += 1;
            self.hour().arrived += 1;
            let version = usize::from(self.judged[1].is_some());
            let judged = self.judged[version]
                .as_mut()
                .expect("bug: a version that is not there");
            if judged.has(text) {
                self.fresh.counts.recalled += 1;
                continue;
            }
            if text < self.world.pool() {
                judged.insert(text);
            }
            if self.world.is_cleared(text) {
                self.fresh.counts.cleared += 1;
                continue;
            }
            let item = Item {
                text,
                arrived: now,
                version,
            };
            let place = self.fresh.free.pop().unwrap_or_else(|| {
                self.fresh.items.push(None);
                self.fresh.items.len() - 1
            });
            self.fresh.items[place] = Some(item);
            self.ask_fresh(place);
        }
        if !self.arrivals_are_over() {
            self.agenda.after(SECOND, Event::Arrivals);
        }
    }

    fn ask_fresh(&mut self, place: usize) {
        let item = self.fresh.items[place].expect("bug: a fresh row that is decided");
        let servers = self.options.servers;
        let mut server = self.fresh.turn % servers;
        while !self.fleet.is_alive(server) {
            server = (server + 1) % servers;
        }
        self.fresh.turn = server + 1;
        let size = self.world.size(item.text);
        let most = size.prompt + ANALYSIS_TOKENS_MAX as u64 + 1;
        let room = self.wait(self.limits[server].reserve_now(Role::Analyst, || most));
        match room {
            Err(spent) => {
                let until = (spent.until - EPOCH).max(0) as Micros;
                self.fresh.budget_until = until;
                self.fresh.left.push((place, until));
            }
            Ok(promise) => {
                let ask = Ask {
                    server,
                    lane: Lane::Interactive,
                    owner: Owner::Fresh(place),
                    size,
                    day: self.agenda.day(),
                    promises: [None, promise],
                };
                self.fleet.put(&mut self.agenda, ask);
            }
        }
    }

    /// A fresh row's question is answered.
    pub fn fresh_answered(&mut self, place: usize, answered: &Answered) {
        if self.fresh.asked.len() <= answered.day {
            self.fresh.asked.resize(answered.day + 1, 0);
        }
        self.fresh.asked[answered.day] += 1;
        let now = self.agenda.now;
        if answered.fault.is_some() {
            self.fresh.left.push((place, now));
            return;
        }
        let item = self.fresh.items[place]
            .take()
            .expect("bug: a fresh row that is decided");
        self.fresh.free.push(place);
        match self.world.is_undecided(item.text) {
            true => self.fresh.counts.undecided += 1,
            false => self.fresh.counts.asked += 1,
        }
        debug_assert!(item.version < 2);
        self.fresh
            .lags
            .push(u32::try_from((now - item.arrived) / 1_000).unwrap_or(u32::MAX));
        let hour = self.hour();
        hour.worst_lag = hour.worst_lag.max(now - item.arrived);
    }

    /// A fresh row's server was killed: whoever waits asks again.
    pub fn fresh_cut(&mut self, place: usize) {
        let now = self.agenda.now;
        self.fresh.left.push((place, now));
    }

    /// What was left undecided is asked again.
    pub fn sweep(&mut self) {
        let now = self.agenda.now;
        for (place, until) in std::mem::take(&mut self.fresh.left) {
            match until <= now {
                true => self.ask_fresh(place),
                false => self.fresh.left.push((place, until)),
            }
        }
        self.agenda.after(SWEEP, Event::Sweep);
    }

    /// What must be true of fresh rows in the end.
    pub fn check_fresh(&mut self) {
        let (arrived, counted) = (self.fresh.arrived, self.fresh.counts.rows());
        let waiting = self.fresh.waiting() as u64;
        let lags = self.fresh.lags.len() as u64;
        let asked = self.fresh.counts.asked + self.fresh.counts.undecided;
        self.hold(
            arrived == counted + waiting,
            &format!("{arrived} rows arrived, {counted} are decided and {waiting} wait"),
        );
        self.hold(
            lags == asked,
            &format!("{asked} fresh rows were answered, {lags} waited"),
        );
        if let Some(most) = self.options.fresh_asked_per_day {
            let over = self.fresh.asked.iter().any(|day| *day > most);
            self.hold(!over, "a day's limit of fresh rows was exceeded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_its_rows_and_most_of_them_in_the_evening() {
        let by = |hour: u64| arrived_by(24_000, hour * HOUR);
        assert_eq!(by(0), 0);
        assert!((23_999..=24_000).contains(&by(24)), "{}", by(24));
        let an_hour = |hour: u64| by(hour + 1) - by(hour);
        assert!(
            an_hour(20) > 1_500 && an_hour(8) < 500,
            "{} {}",
            an_hour(20),
            an_hour(8)
        );
        assert!((0..100).all(|hour| by(hour + 1) > by(hour)));
    }
}
