//! Which of several servers gets the next request, and how many each has at once.
//!
//! Takes what happened to earlier requests, gives the server for the next one, or how long to wait. A server's places
//! grow by one a round while it answers and halve when it says that it is busy or does not answer in time (additive
//! increase, multiplicative decrease); they stop growing while its replies take twice as long as they did at best. A
//! server that fails again and again is left alone for a while, then tried with one request. Pure: time is an argument.

use super::http::Fault;
use crate::backend::Places;
use crate::config::{
    ENDPOINT_BACKFILL_FREE, ENDPOINT_FAULTS_MAX, ENDPOINT_IN_FLIGHT_MAX, ENDPOINT_IN_FLIGHT_START,
    ENDPOINT_OPEN_MS, ENDPOINT_OUTAGE_MS, ENDPOINT_PAUSE_MS, ENDPOINT_PAUSE_MS_MAX,
};
use safeguard_udfs::Lane;
use std::time::{Duration, Instant};

/// Weight of the latest reply in the smoothed time of replies.
const SMOOTHING: f64 = 0.1;
/// Slower than its best by this factor, a server gets no further places.
const SLOWER: f64 = 2.0;

/// Trials of a server with less patience than is had with one that is well.
const TRIALS_SHORT: u32 = 5;

/// What to do with a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// Send it to the server of this number; a place there is taken.
    Take(usize),
    /// Look again when a place becomes free, or after this time.
    Wait(Option<Duration>),
    /// No server has answered for long; this is why.
    Out(String),
}

#[derive(Debug, Clone)]
struct Replica {
    places: f64,
    in_flight: usize,
    /// When it got its latest request, as a number that grows.
    turn: u64,
    /// Requests that begun before this say nothing new of its places.
    halved: Option<Instant>,
    not_before: Option<Instant>,
    faults: u32,
    /// When the faults became too many, and how often in a row its trial has failed.
    opened: Option<(Instant, u32)>,
    why: String,
    smoothed: Option<f64>,
    best: f64,
}

impl Replica {
    fn new() -> Replica {
        Replica {
            places: ENDPOINT_IN_FLIGHT_START as f64,
            in_flight: 0,
            turn: 0,
            halved: None,
            not_before: None,
            faults: 0,
            opened: None,
            why: String::new(),
            smoothed: None,
            best: f64::INFINITY,
        }
    }

    fn has_room(&self, lane: Lane) -> bool {
        if self.opened.is_some() {
            return self.in_flight == 0;
        }
        let places = self.places as usize;
        let open = match lane {
            Lane::Interactive => places,
            Lane::Backfill => (places - places / ENDPOINT_BACKFILL_FREE).max(1),
        };
        self.in_flight < open
    }

    fn load(&self) -> f64 {
        self.in_flight as f64 / self.places
    }

    fn halve(&mut self, begun: Instant, now: Instant) {
        if self.halved.is_none_or(|halved| begun >= halved) {
            self.places = (self.places / 2.0).max(1.0);
            self.halved = Some(now);
        }
    }

    fn answered(&mut self, begun: Instant, now: Instant) {
        (self.faults, self.opened) = (0, None);
        let took = now.saturating_duration_since(begun).as_secs_f64();
        let smoothed = self.smoothed.map_or(took, |s| s + SMOOTHING * (took - s));
        self.smoothed = Some(smoothed);
        self.best = self.best.min(smoothed);
        // Places that nobody uses say nothing about what it bears.
        let used = self.in_flight as f64 + 1.0 >= self.places / 2.0;
        if used && smoothed <= SLOWER * self.best {
            self.places = (self.places + 1.0 / self.places).min(ENDPOINT_IN_FLIGHT_MAX as f64);
        }
    }

    fn failed(&mut self, begun: Instant, now: Instant) {
        self.faults += 1;
        if self.faults < ENDPOINT_FAULTS_MAX {
            return;
        }
        let trials = match self.opened {
            // What was under way when it was given up says nothing new.
            Some((opened, _)) if begun < opened => return,
            Some((_, trials)) => trials + 1,
            None => 0,
        };
        self.opened = Some((now, trials));
        let pause = ENDPOINT_OPEN_MS.saturating_mul(1 << trials.min(16));
        self.not_before = Some(now + Duration::from_millis(pause.min(ENDPOINT_PAUSE_MS_MAX)));
    }
}

/// All servers behind one model.
#[derive(Debug)]
pub struct Replicas {
    all: Vec<Replica>,
    turn: u64,
    /// Since when none has answered.
    outage: Option<Instant>,
}

impl Replicas {
    /// So many, of which nothing is known yet.
    pub fn new(count: usize) -> Replicas {
        Replicas {
            all: vec![Replica::new(); count],
            turn: 0,
            outage: None,
        }
    }

    /// One that did not answer when it was looked at first.
    pub fn leave_alone(&mut self, number: usize, why: &str, now: Instant) {
        let replica = &mut self.all[number];
        replica.faults = ENDPOINT_FAULTS_MAX - 1;
        replica.why = why.to_owned();
        replica.failed(now, now);
    }

    /// The server for a request of this lane, with a place there; or how long to wait for one.
    pub fn pick(&mut self, lane: Lane, now: Instant) -> Pick {
        let ready = |replica: &Replica| replica.not_before.is_none_or(|at| at <= now);
        let best = (self.all.iter().enumerate())
            .filter(|(_, replica)| ready(replica) && replica.has_room(lane))
            .min_by(|(_, a), (_, b)| {
                // A trial may fail: whoever is well goes first, unless it is full.
                let key = |r: &Replica| (r.opened.is_some() && r.in_flight > 0, r.turn);
                a.load().total_cmp(&b.load()).then(key(a).cmp(&key(b)))
            })
            .map(|(number, _)| number);
        if let Some(number) = best {
            self.turn += 1;
            let replica = &mut self.all[number];
            replica.turn = self.turn;
            replica.in_flight += 1;
            return Pick::Take(number);
        }
        let longest = Duration::from_millis(ENDPOINT_OUTAGE_MS);
        if let Some(since) = self.outage
            && now.saturating_duration_since(since) >= longest
        {
            let whys: Vec<&str> = self.all.iter().map(|replica| &*replica.why).collect();
            return Pick::Out(whys.join("; "));
        }
        let pauses = self.all.iter().filter_map(|replica| replica.not_before);
        let next = pauses.filter(|at| *at > now).min();
        Pick::Wait(next.map(|at| at.saturating_duration_since(now)))
    }

    /// How much they have in hand, and bear: one that is left alone bears one trial.
    pub(super) fn places(&self) -> Places {
        let bears = |replica: &Replica| match replica.opened {
            Some(_) => 1,
            None => replica.places as usize,
        };
        let sum = |of: fn(&Replica) -> usize| self.all.iter().map(of).sum::<usize>();
        Places {
            in_hand: sum(|replica| replica.in_flight),
            most: sum(bears).min(ENDPOINT_IN_FLIGHT_MAX),
            servers: self.all.len(),
            well: sum(|replica| usize::from(replica.opened.is_none())),
        }
    }

    /// How long a server may be silent where one that is well may be so for `silence`: on its first trial less, and more with
    /// each that fails, so that a trial does not hold its text for long, and one that is slow comes back too.
    pub(super) fn patience(&self, number: usize, silence: Duration) -> Duration {
        match self.all[number].opened {
            Some((_, trials)) => silence * (trials + 1).min(TRIALS_SHORT) / TRIALS_SHORT,
            None => silence,
        }
    }

    /// Whether there is a server beside this one that nobody has given up.
    pub(super) fn others_are_well(&self, number: usize) -> bool {
        let mut others = self.all.iter().enumerate();
        others.any(|(other, replica)| other != number && replica.opened.is_none())
    }

    /// Whoever had a place has gone without an answer.
    pub fn left(&mut self, number: usize) {
        self.all[number].in_flight -= 1;
    }

    /// A request that begun at `begun` has ended; `None` where it was answered.
    pub fn ended(&mut self, number: usize, begun: Instant, now: Instant, fault: Option<&Fault>) {
        let replica = &mut self.all[number];
        replica.in_flight -= 1;
        if let Some(fault) = fault {
            fault.why().clone_into(&mut replica.why);
        }
        match fault {
            // A server that refuses is alive.
            None => replica.answered(begun, now),
            Some(Fault::Final { .. }) => (replica.faults, replica.opened) = (0, None),
            Some(Fault::Busy { after, .. }) => {
                replica.halve(begun, now);
                let least = Duration::from_millis(ENDPOINT_PAUSE_MS);
                let most = Duration::from_millis(ENDPOINT_PAUSE_MS_MAX);
                let until = now + after.unwrap_or(least).min(most);
                replica.not_before = replica.not_before.max(Some(until));
            }
            Some(Fault::Slow(_)) => {
                replica.halve(begun, now);
                replica.failed(begun, now);
            }
            Some(Fault::Down(_) | Fault::Gone(_) | Fault::Untrusted(_)) => {
                replica.failed(begun, now)
            }
        }
        self.outage = match self.all.iter().all(|replica| replica.opened.is_some()) {
            true => self.outage.or(Some(now)),
            false => None,
        };
    }

    #[cfg(test)]
    fn places_of(&self, number: usize) -> f64 {
        self.all[number].places
    }
}

/// How long a request waits before its next try; `chance` is any number.
pub fn pause(tries: u32, chance: u64, first: Duration) -> Duration {
    let most = Duration::from_millis(ENDPOINT_PAUSE_MS_MAX);
    let whole = first
        .saturating_mul(1 << tries.saturating_sub(1).min(16))
        .min(most);
    // Between half of it and all: whoever failed together does not come back together.
    whole.mul_f64(0.5 + (chance % 1_024) as f64 / 2_048.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane::Interactive;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn down() -> Fault {
        Fault::Down("no answer".to_owned())
    }

    fn busy(after: Option<u64>) -> Fault {
        Fault::Busy {
            why: "busy".to_owned(),
            after: after.map(ms),
        }
    }

    #[test]
    fn the_least_loaded_goes_first_and_none_has_more_than_its_places() {
        let now = Instant::now();
        let mut all = Replicas::new(3);
        let places = 3 * ENDPOINT_IN_FLIGHT_START;
        let mut taken = [0; 3];
        for _ in 0..places {
            let Pick::Take(number) = all.pick(LANE, now) else {
                panic!("a place is free");
            };
            taken[number] += 1;
            assert!(
                taken.iter().max().unwrap() - taken.iter().min().unwrap() <= 1,
                "{taken:?}"
            );
        }
        assert_eq!(all.pick(LANE, now), Pick::Wait(None));
        let full = Places {
            in_hand: places,
            most: places,
            servers: 3,
            well: 3,
        };
        assert_eq!((all.places(), all.others_are_well(2)), (full, true));
        all.left(1);
        assert_eq!(
            all.pick(Lane::Backfill, now),
            Pick::Wait(None),
            "the last places are kept"
        );
        assert_eq!(all.pick(LANE, now), Pick::Take(1));
    }

    #[test]
    fn places_grow_by_one_a_round_and_halve_once_a_round() {
        let now = Instant::now();
        let mut all = Replicas::new(1);
        let start = ENDPOINT_IN_FLIGHT_START as f64;
        let take = |all: &mut Replicas, n: usize| {
            for _ in 0..n {
                assert_eq!(all.pick(LANE, now + ms(60_000)), Pick::Take(0));
            }
        };
        take(&mut all, ENDPOINT_IN_FLIGHT_START);
        for _ in 0..ENDPOINT_IN_FLIGHT_START / 2 {
            all.ended(0, now, now + ms(100), None);
        }
        let grown = all.places_of(0) - start;
        assert!((0.45..=0.5).contains(&grown), "{grown}: half a round");
        let before = all.places_of(0);
        for _ in 0..10 {
            all.ended(0, now, now + ms(200), Some(&busy(None)));
        }
        assert_eq!(
            all.places_of(0),
            before / 2.0,
            "they all begun before it was halved"
        );
        // Replies that take three times as long as the best.
        take(&mut all, 4);
        let before = all.places_of(0);
        for _ in 0..20 {
            take(&mut all, 1);
            all.ended(0, now, now + ms(900), None);
        }
        let slowed = all.places_of(0);
        take(&mut all, 1);
        all.ended(0, now, now + ms(900), None);
        assert!(slowed - before < 1.0);
        assert_eq!(
            all.places_of(0),
            slowed,
            "no further growth while it is slow"
        );
    }

    #[test]
    fn a_busy_server_is_left_alone_as_long_as_it_asks() {
        let now = Instant::now();
        let mut all = Replicas::new(2);
        for (number, after, expected) in [(0, Some(3_000), 3_000), (1, None, ENDPOINT_PAUSE_MS)] {
            assert_eq!(all.pick(LANE, now), Pick::Take(number));
            all.ended(number, now, now, Some(&busy(after)));
            let own = all.all[number].not_before.map(|at| at - now);
            assert_eq!(own, Some(ms(expected)));
        }
        assert_eq!(all.pick(LANE, now), Pick::Wait(Some(ms(ENDPOINT_PAUSE_MS))));
        assert_eq!(all.pick(LANE, now + ms(ENDPOINT_PAUSE_MS)), Pick::Take(1));
        let long = busy(Some(3_600_000));
        all.ended(1, now + ms(300), now + ms(300), Some(&long));
        let wait = all.all[1].not_before.map(|at| at - (now + ms(300)));
        assert_eq!(
            wait,
            Some(ms(ENDPOINT_PAUSE_MS_MAX)),
            "an hour is not waited for"
        );
    }

    #[test]
    fn a_dead_server_is_tried_with_one_request_and_comes_back() {
        let now = Instant::now();
        let mut all = Replicas::new(1);
        let faults = ENDPOINT_FAULTS_MAX as usize + 5;
        for _ in 0..faults {
            assert_eq!(all.pick(LANE, now), Pick::Take(0));
        }
        for _ in 0..faults {
            all.ended(0, now, now + ms(1), Some(&down()));
        }
        let opened = now + ms(1);
        let alone = Places {
            in_hand: 0,
            most: 1,
            servers: 1,
            well: 0,
        };
        assert_eq!((all.places(), all.others_are_well(0)), (alone, false));
        assert_eq!(
            all.pick(LANE, opened),
            Pick::Wait(Some(ms(ENDPOINT_OPEN_MS)))
        );
        assert_eq!(all.patience(0, ms(100)), ms(20));
        let later = opened + ms(ENDPOINT_OPEN_MS);
        assert_eq!(all.pick(LANE, later), Pick::Take(0));
        assert_eq!(
            all.pick(LANE, later),
            Pick::Wait(None),
            "one trial at a time"
        );
        all.ended(0, later, later, Some(&down()));
        assert_eq!(
            all.pick(LANE, later),
            Pick::Wait(Some(ms(2 * ENDPOINT_OPEN_MS)))
        );
        assert_eq!(all.patience(0, ms(100)), ms(40));
        let again = later + ms(2 * ENDPOINT_OPEN_MS);
        assert_eq!(all.pick(LANE, again), Pick::Take(0));
        all.ended(0, again, again, None);
        assert_eq!(all.pick(LANE, again), Pick::Take(0));
        assert_eq!(all.pick(LANE, again), Pick::Take(0), "it is well again");
        assert_eq!(all.patience(0, ms(100)), ms(100));
    }

    #[test]
    fn a_long_outage_ends_the_waiting() {
        let now = Instant::now();
        let mut all = Replicas::new(2);
        for number in [0, 1] {
            all.leave_alone(number, &format!("server {number} is down"), now);
        }
        assert_eq!(all.pick(LANE, now), Pick::Wait(Some(ms(ENDPOINT_OPEN_MS))));
        let mut at = now;
        for number in [0, 1] {
            at = now + ms(ENDPOINT_OPEN_MS);
            assert_eq!(all.pick(LANE, at), Pick::Take(number));
            all.ended(number, at, at, Some(&down()));
        }
        let out = at + ms(ENDPOINT_OUTAGE_MS);
        for _ in 0..2 {
            assert!(matches!(all.pick(LANE, out), Pick::Take(_)), "a trial each");
        }
        assert_eq!(
            all.pick(LANE, out),
            Pick::Out("no answer; no answer".to_owned())
        );
    }

    #[test]
    fn pauses_double_and_scatter() {
        for (tries, chance, expected) in [
            (1, 0, 125),
            (1, 1_023, 249),
            (2, 0, 250),
            (3, 512, 750),
            (30, 0, ENDPOINT_PAUSE_MS_MAX / 2),
        ] {
            let pause = pause(tries, chance, ms(250)).as_millis() as u64;
            assert_eq!(pause, expected, "{tries} {chance}");
        }
    }
}
