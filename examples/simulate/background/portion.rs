//! A portion of a chunk: the rows that are looked up, cleared and asked about together, as the program does with a chunk.
//!
//! Real: the account of a portion with the backfill's budget, the limits of a day, and what failures mean. Modelled: what is
//! known of a text, what the screen says of it, and how long both take.

use super::{CHUNK_STATEMENTS, MODEL, named};
use crate::agenda::{EPOCH, Event, Micros, SECOND};
use crate::day::{Counts, Day};
use crate::fleet::{Answered, Ask, Owner};
use safeguard::config::{ANALYSIS_TOKENS_MAX, BACKFILL_CHUNK_ROWS, Role};
use safeguard::jobs::outcome::Attempt;
use safeguard::store::{Fate, Then, text_digest};
use safeguard_udfs::{
    Decision, Lane, Provenance, Reason, SafeguardSettings, Source, Stage, Statement, Undecided,
    Verdict,
};
use std::collections::HashSet;
use std::sync::Arc;

/// Texts that a screen scores in a second, as measured (benches/README.md).
const SCREENED_RATE: f64 = 170_000.0;
/// Most tokens that a question may decode, as a backend says by itself.
const DECODES_MOST: u64 = ANALYSIS_TOKENS_MAX as u64 + 1;

/// Rows that are judged together.
#[derive(Debug)]
pub(super) struct Portion {
    rows: Vec<(u64, Counts)>,
    pub(super) asked: Vec<Asked>,
    open: usize,
    statement: Statement,
}

#[derive(Debug)]
pub(super) struct Asked {
    pub(super) text: u64,
    /// Which of the portion's rows has it.
    slot: usize,
    pub(super) got: Option<Got>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    Label,
    NoLabel,
    Error,
    Budget,
}

fn decision(got: Got) -> Decision {
    let provenance = Provenance {
        policy: "policy@2".into(),
        model: MODEL.into(),
        judged_at: 0,
        tokens_in: 0,
        tokens_out: 0,
        seconds: 0.0,
        source: Source::Asked,
    };
    let reason = match got {
        Got::Label => {
            return Ok(Verdict {
                label: "allowed".into(),
                violates: false,
                score: None,
                gap: None,
                rationale: None,
                rules: Vec::new(),
                stage: Stage::Reason,
                provenance,
            });
        }
        Got::NoLabel => Reason::Truncated,
        Got::Error => Reason::Error,
        Got::Budget => Reason::Budget,
    };
    Err(Undecided { reason, provenance })
}

impl Day<'_> {
    /// The store is asked what is known of a portion's texts, and the screen what it clears.
    pub(super) fn look_up(&mut self, worker: usize) {
        let store = self.options.store_ms / 1e3 * (CHUNK_STATEMENTS / 2) as f64;
        let seconds = store + BACKFILL_CHUNK_ROWS as f64 / SCREENED_RATE;
        let serial = self.background.workers[worker].serial;
        self.hour().statements += CHUNK_STATEMENTS / 2;
        self.agenda.after(
            (seconds * SECOND as f64) as Micros,
            Event::Portion(worker, serial),
        );
    }

    /// Those of a portion's texts that nobody knows or clears are put to the model.
    pub fn portion(&mut self, worker: usize, serial: u64) {
        let of = &self.background.workers[worker];
        let server = of.server;
        let (Some(hand), true) = (&of.hand, of.serial == serial) else {
            return;
        };
        let take = (BACKFILL_CHUNK_ROWS as u64 / self.background.grain) as usize;
        let some = &hand.rows[hand.next..hand.rows.len().min(hand.next + take)];
        let settings = SafeguardSettings {
            max_tokens: hand
                .budget_left
                .map(|left| left.saturating_sub(hand.spent.tokens_in + hand.spent.tokens_out)),
            ..SafeguardSettings::default()
        };
        let judged = self.judged[1]
            .as_mut()
            .expect("bug: a backfill of no version");
        let (mut rows, mut asked) = (Vec::with_capacity(some.len()), Vec::new());
        for (slot, kept) in some.iter().enumerate() {
            let mut counts = Counts::default();
            for row in self.background.rows_of(*kept) {
                let text = self.world.text(row);
                if self.background.stored.has(*kept) || judged.has(text) {
                    counts.recalled += 1;
                    continue;
                }
                if text < self.world.pool() {
                    judged.insert(text);
                }
                match self.world.is_cleared(text) {
                    true => counts.cleared += 1,
                    false => asked.push(Asked {
                        text,
                        slot,
                        got: None,
                    }),
                }
            }
            rows.push((*kept, counts));
        }
        let open = asked.len();
        let texts: Vec<u64> = asked.iter().map(|asked| asked.text).collect();
        let payer = Some(Role::Admin.as_str().into());
        let statement = Statement::paid_by(settings, payer);
        let hand = self.background.workers[worker]
            .hand
            .as_mut()
            .expect("bug: a portion of nothing");
        hand.next += rows.len();
        hand.portion = Some(Portion {
            rows,
            asked,
            open,
            statement,
        });
        if open == 0 {
            return self.judged_portion(worker);
        }
        for (number, text) in texts.into_iter().enumerate() {
            self.ask_chunk(worker, server, number, text);
        }
    }

    fn ask_chunk(&mut self, worker: usize, server: usize, number: usize, text: u64) {
        let size = self.world.size(text);
        let most = size.prompt + DECODES_MOST;
        let hand = self.background.workers[worker].hand.as_ref();
        let portion = hand.and_then(|hand| hand.portion.as_ref());
        let tally = Arc::clone(
            portion
                .expect("bug: a question of no portion")
                .statement
                .tally(),
        );
        let own = futures::FutureExt::now_or_never(tally.reserve(false, most)).flatten();
        let room = match own {
            None => None,
            Some(own) => match self.wait(self.limits[server].reserve_now(Role::Admin, || most)) {
                Ok(day) => Some([Some(own), day]),
                Err(spent) => {
                    tally.note(spent.note);
                    tally.put_off(spent.until);
                    None
                }
            },
        };
        let owner = Owner::Chunk(worker, number);
        match room {
            None => self.got(worker, number, Got::Budget),
            Some(promises) => {
                let ask = Ask {
                    server,
                    lane: Lane::Backfill,
                    owner,
                    size,
                    day: self.agenda.day(),
                    promises,
                };
                self.fleet.put(&mut self.agenda, ask);
            }
        }
    }

    /// A chunk's question is answered.
    pub fn chunk_answered(&mut self, (worker, number): (usize, usize), answered: &Answered) {
        let Answered {
            size, day, fault, ..
        } = answered;
        let day = *day;
        if self.background.tokens.len() <= day {
            self.background.tokens.resize(day + 1, 0);
        }
        let Some(hand) = &mut self.background.workers[worker].hand else {
            return;
        };
        hand.spent.tokens_in += size.prompt;
        hand.spent.tokens_out += if fault.is_none() { size.decode } else { 0 };
        hand.spent.asked += u64::from(fault.is_none());
        let portion = hand.portion.as_ref().expect("bug: an answer to no portion");
        let text = portion.asked[number].text;
        self.background.tokens[day] += size.prompt + if fault.is_none() { size.decode } else { 0 };
        let got = match fault {
            Some(why) => {
                portion.statement.tally().fault(&named(text), why.clone());
                Got::Error
            }
            None if self.world.is_undecided(text) => Got::NoLabel,
            None => Got::Label,
        };
        self.got(worker, number, got);
    }

    fn got(&mut self, worker: usize, number: usize, got: Got) {
        let hand = self.background.workers[worker].hand.as_mut();
        let portion = hand.and_then(|hand| hand.portion.as_mut());
        let portion = portion.expect("bug: an answer to no portion");
        portion.asked[number].got = Some(got);
        portion.open -= 1;
        if portion.open == 0 {
            self.judged_portion(worker);
        }
    }

    /// All that was asked of a portion is answered, or will not be.
    fn judged_portion(&mut self, worker: usize) {
        let hand = self.background.workers[worker]
            .hand
            .as_mut()
            .expect("bug: a portion of nothing");
        let mut portion = hand.portion.take().expect("bug: no portion is done");
        let unwanted = hand.unwanted;
        let failed = |asked: &Asked| matches!(asked.got, Some(Got::Error | Got::Budget));
        let then = match portion.asked.iter().any(failed) {
            true => Some(self.faults(worker, &mut portion)),
            false => None,
        };
        for asked in &portion.asked {
            let counts = &mut portion.rows[asked.slot].1;
            match asked.got {
                Some(Got::Label) => counts.asked += 1,
                Some(Got::NoLabel) => counts.undecided += 1,
                _ => {}
            }
        }
        for (kept, counts) in portion.rows {
            if counts.left {
                continue;
            }
            self.background.stored.set(kept);
            let no_label = self.background.grain == 1 && counts.undecided > 0;
            let label = (!no_label).then(|| Arc::from("allowed"));
            let digest = text_digest(&self.kept_text(kept));
            let fate = match self.background.grain == 1 && counts.failed > 0 {
                true => Fate::GivenUp {
                    reason: Reason::Error.as_str(),
                    error: None,
                },
                false => Fate::Judged(label),
            };
            let hand = self.background.workers[worker]
                .hand
                .as_mut()
                .expect("bug: a portion of nothing");
            hand.spent.recalled += counts.recalled;
            hand.fates.insert(digest, fate);
            hand.counts.push((kept, counts));
        }
        let hand = self.background.workers[worker]
            .hand
            .as_ref()
            .expect("bug: a portion of nothing");
        let last = hand.next == hand.rows.len();
        match then {
            Some(then) => self.settle(worker, then),
            None if last || unwanted => self.settle(worker, Then::Again),
            None => self.look_up(worker),
        }
    }

    /// What the program makes of a portion in which questions failed.
    fn faults(&mut self, worker: usize, portion: &mut Portion) -> Then {
        let hand = self.background.workers[worker]
            .hand
            .as_ref()
            .expect("bug: a portion of nothing");
        let asked = portion.asked.iter();
        let mut texts: Vec<(Arc<str>, u32)> =
            asked.map(|asked| (named(asked.text), hand.tries)).collect();
        let got = |asked: &Asked| decision(asked.got.unwrap_or(Got::Error));
        let mut decisions: Vec<Decision> = portion.asked.iter().map(got).collect();
        // What was recalled or cleared was judged too, by nobody who is asked now.
        if portion
            .rows
            .iter()
            .any(|(_, counts)| counts.recalled + counts.cleared > 0)
        {
            texts.push(("what was not asked".into(), hand.tries));
            let mut known = decision(Got::Label);
            if let Ok(verdict) = &mut known {
                verdict.provenance.source = Source::Recalled;
            }
            decisions.push(known);
        }
        let attempt = Attempt {
            texts: &texts,
            setbacks: hand.setbacks,
            salt: [self.background.id.unwrap_or_default(), hand.position],
            now: EPOCH + self.agenda.now as i64,
        };
        let outcome = attempt.decided(&decisions, portion.statement.tally());
        let judged = self.judged[1]
            .as_mut()
            .expect("bug: a backfill of no version");
        let mut left = HashSet::new();
        for (asked, (text, _)) in portion.asked.iter().zip(&texts) {
            match outcome.fates.get(&text_digest(text)) {
                Some(Fate::Judged(_)) => {}
                Some(Fate::GivenUp { .. }) => {
                    judged.remove(asked.text);
                    portion.rows[asked.slot].1.failed += 1;
                }
                Some(Fate::Left) | None => {
                    judged.remove(asked.text);
                    left.insert(asked.text);
                }
            }
        }
        for (kept, counts) in &mut portion.rows {
            let mut rows = self.background.rows_of(*kept);
            counts.left = rows.any(|row| left.contains(&self.world.text(row)));
        }
        // Of rows that are judged again, what was answered is known.
        for asked in &portion.asked {
            if portion.rows[asked.slot].1.left && !left.contains(&asked.text) {
                judged.insert(asked.text);
            }
        }
        outcome.then
    }
}
