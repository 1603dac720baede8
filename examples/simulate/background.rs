//! The backfill: workers that claim chunks of it and have them judged.
//!
//! Real: the store (`store`: a file of SQLite with the backfill's own tables; submitting, spooling, claims, leases, renewals,
//! settling), how long claims last and workers rest (`jobs::pace`), what decisions mean for a chunk (`jobs::outcome`), the
//! account and budget of a chunk (`safeguard_udfs::Tally`), the limits of a day (`classify::limits`). Modelled: the loop
//! around them (`jobs::worker` and `jobs::runner`, bound to tokio's clock), the source that is spooled, and the stages
//! before the model. Other than there, a claim is renewed every half of its lease and not every second, and a question
//! that finds its limit promised to others is put off at once.
//!
//! A row of the store stands for `grain` rows, and a chunk of 256 such rows is judged in portions of 256 rows, each as the
//! program judges a chunk: all its questions at once, and the next portion when all are answered.

mod portion;

use crate::agenda::{EPOCH, Event, Micros, SECOND};
use crate::day::{Counts, Day};
use crate::world::Judged;
use portion::{Got, Portion};
use safeguard::config::{BACKFILL_CHUNK_ROWS, BACKFILL_SPOOL_CHUNKS, Role};
use safeguard::store::{
    Claimant, Digest, Fate, Judging, NewBackfill, Settlement, Spent, SpoolRow, State, Then,
};
use std::collections::HashMap;
use std::sync::Arc;

/// The model that all chunks are judged by.
const MODEL: &str = "modelled";
/// Statements of the store for a chunk, as measured on PostgreSQL (README): half of them before its texts are judged.
pub const CHUNK_STATEMENTS: u64 = 14;

/// One bit for each of many.
#[derive(Debug, Default)]
pub struct Bits(Vec<u64>);

impl Bits {
    pub fn new(count: u64) -> Bits {
        Bits(vec![0; count.div_ceil(64) as usize])
    }

    pub fn has(&self, at: u64) -> bool {
        self.0[(at / 64) as usize] >> (at % 64) & 1 == 1
    }

    pub fn set(&mut self, at: u64) {
        self.0[(at / 64) as usize] |= 1 << (at % 64);
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[derive(Debug)]
struct Worker {
    server: usize,
    name: Arc<str>,
    /// Changes with every claim, so that what was put down for an earlier one is passed over.
    serial: u64,
    polls: u64,
    hand: Option<Hand>,
}

/// A chunk in hand.
#[derive(Debug)]
struct Hand {
    position: i64,
    tries: u32,
    setbacks: u32,
    budget_left: Option<u64>,
    /// Rows of the store, and how far it is among them.
    rows: Vec<u64>,
    next: usize,
    portion: Option<Portion>,
    fates: HashMap<Digest, Fate>,
    counts: Vec<(u64, Counts)>,
    spent: Spent,
    /// Its claim was not renewed.
    unwanted: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Background {
    workers: Vec<Worker>,
    id: Option<i64>,
    pub state: Option<State>,
    /// Rows to be judged.
    pub rows: u64,
    spooled: u64,
    grain: u64,
    pub ended: Option<Micros>,
    /// Nothing is taken before then.
    quiet_until: Micros,
    pub budget_until: Micros,
    /// Rows of the store that are settled.
    done: Bits,
    /// Rows of the store whose verdicts are all stored.
    stored: Bits,
    pub counts: Counts,
    pub settled: u64,
    pub claims: u64,
    pub lost_claims: u64,
    /// By day of the limits.
    pub tokens: Vec<u64>,
}

impl Background {
    pub fn new(servers: usize, workers: usize) -> Background {
        let worker = |number: usize| Worker {
            server: number / workers,
            name: format!("server {} worker {}", number / workers, number % workers).into(),
            serial: 0,
            polls: 0,
            hand: None,
        };
        Background {
            workers: (0..servers * workers).map(worker).collect(),
            ..Background::default()
        }
    }

    /// Whether there is something to do that nobody has to wait for.
    pub fn is_running(&self) -> bool {
        self.state == Some(State::Running)
    }

    /// Whether it has come to its end, if it was begun.
    pub fn is_over(&self) -> bool {
        !matches!(self.state, Some(State::Running | State::Spooling))
    }

    pub fn in_hand(&self) -> usize {
        self.workers
            .iter()
            .filter(|worker| worker.hand.is_some())
            .count()
    }

    /// Rows of the store.
    fn kept(&self) -> u64 {
        self.rows.div_ceil(self.grain)
    }

    fn rows_of(&self, kept: u64) -> std::ops::Range<u64> {
        kept * self.grain..((kept + 1) * self.grain).min(self.rows)
    }
}

fn judging() -> Judging {
    Judging {
        reference: "policy@2".to_owned(),
        policy: "policy@2".to_owned(),
        policy_version: 2,
        policy_digest: "2".to_owned(),
        model: MODEL.to_owned(),
        model_digest: MODEL.to_owned(),
        mode: "reason".to_owned(),
        effort: "low".to_owned(),
    }
}

fn named(text: u64) -> Arc<str> {
    format!("text {text}").into()
}

impl Day<'_> {
    /// A worker, now, as the store knows one.
    fn claimant(&self, worker: usize) -> Claimant {
        let now = EPOCH + self.agenda.now as i64;
        Claimant {
            worker: Arc::clone(&self.background.workers[worker].name),
            model_digest: MODEL.into(),
            now,
            lease_until: now + self.pace.lease.as_micros() as i64,
        }
    }

    /// What the store knows a row by.
    fn kept_text(&self, kept: u64) -> Arc<str> {
        match self.background.grain {
            1 => named(self.world.text(kept)),
            _ => format!("rows from {}", kept * self.background.grain).into(),
        }
    }

    /// A new version is published, and everything that is stored is to be judged by it.
    pub fn edit(&mut self) {
        let background = &mut self.background;
        background.rows = self.options.rows + self.fresh.arrived;
        background.grain = self.options.grain();
        let kept = background.kept();
        (background.done, background.stored) = (Bits::new(kept), Bits::new(kept));
        self.judged[1] = Some(Judged::none(&self.world));
        let new = NewBackfill {
            judging: judging(),
            settings: "{}".to_owned(),
            source: "posts".to_owned(),
            selection: "SELECT id, text FROM posts".to_owned(),
            order_by: None,
            note: Some("a new version".to_owned()),
            only: None,
            from: None,
            rows: kept,
            budget: self.options.budget,
            requested_by: "admin".to_owned(),
            requested_at: EPOCH + self.agenda.now as i64,
        };
        let id = self.wait(self.store.submit_backfill(new));
        self.background.id = Some(id);
        self.background.state = Some(State::Spooling);
        let job = self.wait(self.store.claim_spool(self.claimant(0)));
        self.hold(
            job.is_some_and(|job| job.id == id),
            "the backfill was not there to be spooled",
        );
        self.agenda.after(0, Event::Spool);
    }

    /// Some more chunks.
    pub fn spool(&mut self) {
        let kept = self.background.kept();
        let from = self.background.spooled;
        let to = kept.min(from + (BACKFILL_SPOOL_CHUNKS * BACKFILL_CHUNK_ROWS) as u64);
        let rows: Vec<SpoolRow> = (from..to)
            .map(|kept| SpoolRow {
                id: Some(kept.to_string().into()),
                text: self.kept_text(kept),
                weight: None,
                old: None,
            })
            .collect();
        let chunks = rows
            .chunks(BACKFILL_CHUNK_ROWS)
            .map(|rows| (false, rows.to_vec()))
            .collect();
        let id = self.background.id.expect("bug: no backfill is spooled");
        let position = (from as usize / BACKFILL_CHUNK_ROWS) as i64;
        let kept_on = self.wait(self.store.spool(id, self.claimant(0), position, chunks));
        self.hold(kept_on, "the spool was another's");
        self.background.spooled = to;
        if to < kept {
            let seconds = ((to - from) * self.background.grain) as f64 / self.options.spool_rate;
            self.agenda
                .after((seconds * SECOND as f64) as Micros, Event::Spool);
            return;
        }
        let ended = self.wait(
            self.store
                .end_spool(id, self.claimant(0), (kept, 0.0, false)),
        );
        self.hold(ended, "the spool could not be ended");
        self.background.state = Some(State::Running);
        (0..self.background.workers.len()).for_each(|worker| self.poll_in(worker, 0));
    }

    fn poll_in(&mut self, worker: usize, wait: Micros) {
        let of = &mut self.background.workers[worker];
        of.polls += 1;
        self.agenda.after(wait, Event::Poll(worker, of.polls));
    }

    /// A worker looks for work.
    pub fn poll(&mut self, worker: usize, polls: u64) {
        let of = &self.background.workers[worker];
        let idle = of.hand.is_none() && of.polls == polls && self.fleet.is_alive(of.server);
        if !idle || !self.background.is_running() {
            return;
        }
        self.background.claims += 1;
        let Some(claimed) = self.wait(self.store.claim_chunk(self.claimant(worker))) else {
            let poll = self.pace.poll.as_micros() as Micros;
            let quiet = self.background.quiet_until.saturating_sub(self.agenda.now);
            self.poll_in(worker, poll.max(quiet));
            return;
        };
        let kept = |row: &SpoolRow| row.id.as_deref().and_then(|id| id.parse().ok());
        let rows: Vec<u64> = claimed.rows.iter().filter_map(kept).collect();
        self.hold(
            rows.len() == claimed.rows.len(),
            "a row of a chunk has no number",
        );
        let of = &mut self.background.workers[worker];
        of.serial += 1;
        of.hand = Some(Hand {
            position: claimed.position,
            tries: claimed.tries,
            setbacks: claimed.setbacks,
            budget_left: claimed.budget_left,
            rows,
            next: 0,
            portion: None,
            fates: HashMap::new(),
            counts: Vec::new(),
            spent: Spent::default(),
            unwanted: false,
        });
        let renew = self.pace.lease.as_micros() as Micros / 2;
        self.agenda.after(renew, Event::Renew(worker, of.serial));
        self.look_up(worker);
    }

    /// Holds a claim for longer.
    pub fn renew(&mut self, worker: usize, serial: u64) {
        let of = &self.background.workers[worker];
        let (Some(hand), true) = (&of.hand, of.serial == serial) else {
            return;
        };
        let at = (self.background.id.unwrap_or_default(), hand.position);
        let renewed = self.wait(self.store.renew_chunk(at, self.claimant(worker)));
        if let Some(hand) = &mut self.background.workers[worker].hand {
            hand.unwanted = !renewed;
        }
        self.agenda.after(
            self.pace.lease.as_micros() as Micros / 2,
            Event::Renew(worker, serial),
        );
    }

    /// A chunk goes back to the store.
    fn settle(&mut self, worker: usize, then: Then) {
        let of = &mut self.background.workers[worker];
        let hand = of.hand.take().expect("bug: nothing to settle");
        let (server, now) = (of.server, self.agenda.now);
        let settlement = Settlement {
            worker: Arc::clone(&of.name),
            now: EPOCH + now as i64,
            fates: hand.fates,
            spent: hand.spent,
            then: then.clone(),
            // There is no control sample.
            interval: |_, _| (0.0, 1.0),
        };
        let at = (self.background.id.unwrap_or_default(), hand.position);
        let stands = self.wait(self.store.settle_chunk(at, settlement));
        self.hour().statements += CHUNK_STATEMENTS / 2;
        match stands {
            None => self.background.lost_claims += 1,
            Some(row) => {
                for (kept, counts) in &hand.counts {
                    let twice = self.background.done.has(*kept);
                    self.hold(!twice, "a row was judged twice under one version");
                    self.background.done.set(*kept);
                    self.background.counts.add(counts);
                    self.hour().judged += counts.rows();
                }
                self.background.settled = row.judged + row.failed;
                if row.state != State::Running && self.background.is_running() {
                    self.background.ended = (row.state == State::Done).then_some(now);
                }
                self.background.state = Some(row.state);
            }
        }
        match then {
            Then::Back(until, why) => {
                let until = (until - EPOCH).max(0) as Micros;
                self.background.quiet_until = self.background.quiet_until.max(until);
                if why.starts_with("budget") {
                    self.background.budget_until = until;
                }
            }
            Then::Again if self.background.quiet_until > now => {
                self.background.quiet_until = 0;
                let poll = self.pace.poll.as_micros() as Micros;
                for idle in 0..self.background.workers.len() {
                    if self.background.workers[idle].hand.is_none() {
                        self.poll_in(idle, poll);
                    }
                }
            }
            _ => {}
        }
        self.rest(server, Role::Admin);
        let store = self.options.store_ms / 1e3 * (CHUNK_STATEMENTS / 2) as f64;
        self.poll_in(worker, (store * SECOND as f64) as Micros);
    }

    /// A server's workers are gone with what they had in hand; its verdicts are stored.
    pub fn drop_hands(&mut self, server: usize) {
        for number in 0..self.background.workers.len() {
            let of = &mut self.background.workers[number];
            if of.server != server {
                continue;
            }
            of.serial += 1;
            let portion = of.hand.take().and_then(|hand| hand.portion);
            let judged = self.judged[1].as_mut();
            if let (Some(portion), Some(judged)) = (portion, judged) {
                for asked in &portion.asked {
                    match asked.got {
                        Some(Got::Label | Got::NoLabel) => judged.insert(asked.text),
                        _ => judged.remove(asked.text),
                    }
                }
            }
        }
    }

    /// A server's workers begin again.
    pub fn begin_workers(&mut self, server: usize) {
        for number in 0..self.background.workers.len() {
            if self.background.workers[number].server == server {
                self.poll_in(number, 0);
            }
        }
    }

    /// What must be true of the backfill in the end.
    pub fn check_backfill(&mut self) {
        if self.background.state.is_none() {
            return;
        }
        let done: u64 = self.background.counts.rows();
        let kept = self.background.kept();
        let settled = self.background.done.count();
        let of = |kept: u64| self.background.rows_of(kept);
        let expected: u64 = (0..kept)
            .filter(|k| self.background.done.has(*k))
            .map(|k| of(k).end - of(k).start)
            .sum();
        let (state, store) = (self.background.state, self.background.settled);
        self.hold(
            done == expected,
            &format!("{done} rows are counted, of {expected} that were settled"),
        );
        self.hold(
            store == settled,
            &format!("the store counts {store} of its rows, and {settled} were settled"),
        );
        let all = (state == Some(State::Done)) == (settled == kept);
        self.hold(
            all,
            &format!("the backfill is {state:?} with {settled} of {kept} settled"),
        );
        if let Some(most) = self.options.backfill_tokens_per_day {
            let over = self.background.tokens.iter().any(|day| *day > most);
            self.hold(!over, "a day's limit of the backfill was exceeded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_one_of_many() {
        let mut bits = Bits::new(130);
        assert!((0..130).all(|at| !bits.has(at)));
        bits.set(64);
        bits.set(129);
        let set: Vec<u64> = (0..130).filter(|at| bits.has(*at)).collect();
        assert_eq!((set, bits.count()), (vec![64, 129], 2));
    }
}
