//! What one statement has asked and spent, and what it still may.
//!
//! Takes decisions as they come and questions before they are put; gives counts at any moment. Shared by every
//! operator and stage of the statement, so that a budget is the statement's and never a batch's or a partition's.

use crate::budget::{Budget, Cost, Most, Promise};
use crate::classifier::{ClassifyError, Decision, Provenance, Reason, Source};
use crate::settings::SafeguardSettings;
use crate::statement::UNDECIDED_RATIO_TEXTS_MIN;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Different notes of one statement at the most.
pub const NOTES_MAX: usize = 4;

/// Texts of one statement whose failure is remembered in words.
pub const FAULTS_MAX: usize = 1_024;

/// Counters and budgets of one statement.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    /// When it may put no more questions.
    deadline: Option<Instant>,
    counts_tokens: bool,
    budget: Arc<Budget>,
    payer: Option<Arc<str>>,
    /// When the payer's next day begins, once this one's limit was met; 0 before.
    put_off: AtomicI64,
    rows: AtomicU64,
    distinct_texts: AtomicU64,
    recalled: AtomicU64,
    screened: AtomicU64,
    convicted: AtomicU64,
    escalated: AtomicU64,
    asked: AtomicU64,
    undecided: [AtomicU64; Reason::ALL.len()],
    tokens_in: AtomicU64,
    tokens_out: AtomicU64,
    /// Microseconds.
    busy: AtomicU64,
    notes: Mutex<BTreeSet<String>>,
    /// What was said when a text failed, by text.
    faults: Mutex<HashMap<Arc<str>, String>>,
}

/// A tally at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Rows with a text, over all calls.
    pub rows: u64,
    /// Distinct (policy, text) among them.
    pub distinct_texts: u64,
    /// Decisions from the verdict store.
    pub recalled: u64,
    /// Decisions by a screen.
    pub screened: u64,
    /// Of these, those that a screen convicted; it cleared the others.
    pub convicted: u64,
    /// Texts that a screen left to the model.
    pub escalated: u64,
    /// Questions put to a backend and answered; a text can take two.
    pub asked: u64,
    /// Distinct texts without a verdict, by reason; reasons with none are left out.
    pub undecided: Vec<(Reason, u64)>,
    /// Prompt tokens of what was asked.
    pub tokens_in: u64,
    /// Decoded tokens of what was asked.
    pub tokens_out: u64,
    /// See [`Provenance::seconds`], over all that was asked.
    pub busy_seconds: f64,
    /// Time since the statement began.
    pub elapsed: Duration,
}

impl Summary {
    /// Distinct texts without a verdict.
    pub fn undecided_total(&self) -> u64 {
        self.undecided.iter().map(|(_, n)| n).sum()
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new(&SafeguardSettings::default())
    }
}

impl Tally {
    /// A tally with the budgets of these settings, begun now.
    pub fn new(settings: &SafeguardSettings) -> Self {
        Self::paid_by(settings, None)
    }

    /// The same, whose questions count against what `payer` may ask besides.
    pub fn paid_by(settings: &SafeguardSettings, payer: Option<Arc<str>>) -> Self {
        let started = Instant::now();
        let most = Most {
            questions: settings.max_rows,
            tokens: settings.max_tokens,
        };
        // A time that no clock will show is none.
        let seconds = settings.max_seconds;
        let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Self {
            started,
            deadline: time.and_then(|time| started.checked_add(time)),
            counts_tokens: settings.max_tokens.is_some(),
            budget: Arc::new(Budget::new(most)),
            payer,
            put_off: AtomicI64::default(),
            rows: AtomicU64::default(),
            distinct_texts: AtomicU64::default(),
            recalled: AtomicU64::default(),
            screened: AtomicU64::default(),
            convicted: AtomicU64::default(),
            escalated: AtomicU64::default(),
            asked: AtomicU64::default(),
            undecided: Default::default(),
            tokens_in: AtomicU64::default(),
            tokens_out: AtomicU64::default(),
            busy: AtomicU64::default(),
            notes: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    /// Room in the statement's budgets for one more question, of at most so many tokens. `again` says that the text is in
    /// the budget of texts already. Waits while other questions may give something back. Whoever gets `None` answers
    /// [`Reason::Budget`].
    pub async fn reserve(&self, again: bool, tokens: u64) -> Option<Promise> {
        if self.is_late() {
            return None;
        }
        let cost = Cost {
            questions: u64::from(!again),
            tokens,
        };
        let promise = self.budget.reserve(cost).await?;
        (!self.is_late()).then_some(promise)
    }

    /// Whether tokens have a limit, so that a reservation must say how many.
    pub fn counts_tokens(&self) -> bool {
        self.counts_tokens
    }

    /// When questions are given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether its time is over.
    pub fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Against whose limits its questions count, beside its own.
    pub fn payer(&self) -> Option<&Arc<str>> {
        self.payer.as_ref()
    }

    /// A question was not put because of the payer's limit of a day, which ends then (microseconds since 1970-01-01 UTC).
    pub fn put_off(&self, until: i64) {
        self.put_off.fetch_max(until, Relaxed);
    }

    /// When the limit of a day ends that kept questions from being put; `None` where none did.
    pub fn put_off_until(&self) -> Option<i64> {
        Some(self.put_off.load(Relaxed)).filter(|until| *until > 0)
    }

    /// Counts rows with a text.
    pub fn saw_rows(&self, rows: u64) {
        self.rows.fetch_add(rows, Relaxed);
    }

    /// Counts an answered question that did not decide its text.
    pub fn answered(&self, provenance: &Provenance) {
        if provenance.source == Source::Asked {
            self.tokens_in.fetch_add(provenance.tokens_in, Relaxed);
            self.tokens_out.fetch_add(provenance.tokens_out, Relaxed);
            let busy = Duration::try_from_secs_f64(provenance.seconds).unwrap_or_default();
            self.busy
                .fetch_add(u64::try_from(busy.as_micros()).unwrap_or(u64::MAX), Relaxed);
            self.asked.fetch_add(1, Relaxed);
        }
    }

    /// Counts what was decided about one distinct text.
    pub fn decided(&self, decision: &Decision) {
        self.distinct_texts.fetch_add(1, Relaxed);
        let provenance = match decision {
            Ok(verdict) => &verdict.provenance,
            Err(undecided) => {
                self.undecided[undecided.reason as usize].fetch_add(1, Relaxed);
                &undecided.provenance
            }
        };
        match provenance.source {
            Source::Recalled => drop(self.recalled.fetch_add(1, Relaxed)),
            Source::Screened => {
                let convicted = decision.as_ref().is_ok_and(|verdict| verdict.violates);
                self.convicted.fetch_add(u64::from(convicted), Relaxed);
                self.screened.fetch_add(1, Relaxed);
            }
            Source::Unasked => {}
            Source::Asked => self.answered(provenance),
        }
    }

    /// Counts what was counted for this statement elsewhere; its time is its own.
    pub fn absorb(&self, more: &Summary) {
        let add = |counter: &AtomicU64, n: u64| {
            counter.fetch_add(n, Relaxed);
        };
        add(&self.rows, more.rows);
        add(&self.distinct_texts, more.distinct_texts);
        add(&self.recalled, more.recalled);
        add(&self.screened, more.screened);
        add(&self.convicted, more.convicted);
        add(&self.escalated, more.escalated);
        add(&self.asked, more.asked);
        add(&self.tokens_in, more.tokens_in);
        add(&self.tokens_out, more.tokens_out);
        add(&self.busy, (more.busy_seconds * 1e6).round() as u64);
        for (reason, n) in &more.undecided {
            add(&self.undecided[*reason as usize], *n);
        }
    }

    /// Counts texts that a screen looked at and left to the model.
    pub fn escalated(&self, texts: u64) {
        self.escalated.fetch_add(texts, Relaxed);
    }

    /// Something that whoever ran the statement should know when it ends; said once, and only the first few.
    pub fn note(&self, note: impl Into<String>) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES_MAX {
            notes.insert(note.into());
        }
    }

    /// What was noted, in the order of the alphabet.
    pub fn notes(&self) -> Vec<String> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().cloned().collect()
    }

    /// Remembers why a text is [`Reason::Error`]; the first [`FAULTS_MAX`] texts.
    pub fn fault(&self, text: &Arc<str>, why: impl Into<String>) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < FAULTS_MAX || faults.contains_key(text) {
            faults.insert(Arc::clone(text), why.into());
        }
    }

    /// Why a text is [`Reason::Error`], where it was said.
    pub fn fault_of(&self, text: &str) -> Option<String> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.get(text).cloned()
    }

    /// Fails once more than `most` of the texts are undecided, but not on the first few.
    ///
    /// # Errors
    /// [`ClassifyError::TooManyUndecided`].
    pub fn check_undecided(&self, most: f64) -> Result<(), ClassifyError> {
        match self.distinct_texts.load(Relaxed) < UNDECIDED_RATIO_TEXTS_MIN {
            true => Ok(()),
            false => self.check_undecided_in_all(most),
        }
    }

    /// The same when nothing more is to come, however few there were.
    ///
    /// # Errors
    /// [`ClassifyError::TooManyUndecided`].
    pub fn check_undecided_in_all(&self, most: f64) -> Result<(), ClassifyError> {
        // Undecided ones are counted after the text, and so read before it.
        let undecided: u64 = self.undecided.iter().map(|n| n.load(Relaxed)).sum();
        let judged = self.distinct_texts.load(Relaxed);
        if undecided as f64 <= most * judged as f64 {
            return Ok(());
        }
        Err(ClassifyError::TooManyUndecided {
            undecided,
            judged,
            limit: most,
        })
    }

    /// The counts so far.
    pub fn summary(&self) -> Summary {
        let undecided = Reason::ALL
            .into_iter()
            .map(|r| (r, self.undecided[r as usize].load(Relaxed)));
        Summary {
            rows: self.rows.load(Relaxed),
            distinct_texts: self.distinct_texts.load(Relaxed),
            recalled: self.recalled.load(Relaxed),
            screened: self.screened.load(Relaxed),
            convicted: self.convicted.load(Relaxed),
            escalated: self.escalated.load(Relaxed),
            asked: self.asked.load(Relaxed),
            undecided: undecided.filter(|(_, n)| *n > 0).collect(),
            tokens_in: self.tokens_in.load(Relaxed),
            tokens_out: self.tokens_out.load(Relaxed),
            busy_seconds: self.busy.load(Relaxed) as f64 / 1e6,
            elapsed: self.started.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_budget_is_the_whole_statements() {
        let check = |settings: SafeguardSettings, tokens: u64, want: usize| {
            let tally = Tally::new(&settings);
            let mut asked = 0;
            for _ in 0..100 {
                let reserved = tally.reserve(false, tokens).now_or_never().flatten();
                if let Some(reserved) = reserved {
                    asked += 1;
                    reserved.settle(Cost {
                        questions: 1,
                        tokens,
                    });
                }
            }
            assert_eq!(asked, want, "{settings:?}");
        };
        check(SafeguardSettings::default(), 10, 100);
        let most = SafeguardSettings::default;
        check(
            SafeguardSettings {
                max_rows: Some(7),
                ..most()
            },
            10,
            7,
        );
        check(
            SafeguardSettings {
                max_tokens: Some(95),
                ..most()
            },
            10,
            9,
        );
        check(
            SafeguardSettings {
                max_seconds: Some(0.0),
                ..most()
            },
            10,
            0,
        );
        check(
            SafeguardSettings {
                max_seconds: Some(f64::MAX),
                ..most()
            },
            10,
            100,
        );
    }

    #[test]
    fn a_second_question_about_a_text_is_no_further_text() {
        let tally = Tally::new(&SafeguardSettings {
            max_rows: Some(1),
            max_tokens: Some(30),
            ..SafeguardSettings::default()
        });
        let ask = |again| tally.reserve(again, 10).now_or_never().flatten();
        let spend = |promise: Promise, questions| {
            promise.settle(Cost {
                questions,
                tokens: 10,
            });
        };
        spend(ask(false).unwrap(), 1);
        assert!(ask(false).is_none());
        spend(ask(true).unwrap(), 0);
        spend(ask(true).unwrap(), 0);
        assert!(ask(true).is_none(), "its tokens count");
    }
}
