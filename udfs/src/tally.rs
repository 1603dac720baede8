//! What one statement has asked and spent, and what it still may.
//!
//! Takes decisions as they come and questions before they are put; gives counts at any moment. Shared by every
//! operator and stage of the statement, so that a budget is the statement's and never a batch's or a partition's.

use crate::classifier::{ClassifyError, Decision, Provenance, Reason, Source};
use crate::settings::SafeguardSettings;
use crate::statement::UNDECIDED_RATIO_TEXTS_MIN;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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
    limits: Limits,
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
    /// Texts begun and tokens promised to them, which `asked` and `tokens_*` only count when they are answered.
    begun: AtomicU64,
    promised: AtomicU64,
    notes: Mutex<BTreeSet<String>>,
    /// What was said when a text failed, by text.
    faults: Mutex<HashMap<Arc<str>, String>>,
}

#[derive(Debug, Default)]
struct Limits {
    rows: Option<u64>,
    tokens: Option<u64>,
    time: Option<Duration>,
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
        Self {
            started: Instant::now(),
            limits: Limits {
                rows: settings.max_rows,
                tokens: settings.max_tokens,
                time: settings.max_seconds.map(Duration::from_secs_f64),
            },
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
            begun: AtomicU64::default(),
            promised: AtomicU64::default(),
            notes: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    /// Whether the statement may put one more question; if so it is charged. `again` says that the text was charged
    /// before. `tokens` counts its prompt, and is only called where there is a limit on them. Whoever gets `false`
    /// answers [`Reason::Budget`].
    pub fn begin(&self, again: bool, tokens: impl FnOnce() -> u64) -> bool {
        let texts = u64::from(!again);
        if self
            .limits
            .time
            .is_some_and(|most| self.started.elapsed() >= most)
        {
            return false;
        }
        if !charge(&self.begun, texts, self.limits.rows) {
            return false;
        }
        let Some(most) = self.limits.tokens else {
            return true;
        };
        let decoded = self.tokens_out.load(Relaxed);
        if !charge(&self.promised, tokens(), Some(most.saturating_sub(decoded))) {
            self.begun.fetch_sub(texts, Relaxed);
            return false;
        }
        true
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
    pub(crate) fn check_undecided(&self, most: f64) -> Result<(), ClassifyError> {
        let judged = self.distinct_texts.load(Relaxed);
        let undecided: u64 = self.undecided.iter().map(|n| n.load(Relaxed)).sum();
        if judged < UNDECIDED_RATIO_TEXTS_MIN || undecided as f64 <= most * judged as f64 {
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
            elapsed: self.started.elapsed(),
        }
    }
}

/// Adds `n` unless the sum would pass `most`.
fn charge(counter: &AtomicU64, n: u64, most: Option<u64>) -> bool {
    let add = |sum: u64| {
        sum.checked_add(n)
            .filter(|sum| most.is_none_or(|most| *sum <= most))
    };
    counter.fetch_update(Relaxed, Relaxed, add).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_the_whole_statements() {
        let check = |settings: SafeguardSettings, tokens: u64, want: usize| {
            let tally = Tally::new(&settings);
            assert_eq!(
                (0..100).filter(|_| tally.begin(false, || tokens)).count(),
                want,
                "{settings:?}"
            );
        };
        check(SafeguardSettings::default(), 10, 100);
        check(
            SafeguardSettings {
                max_rows: Some(7),
                ..Default::default()
            },
            10,
            7,
        );
        check(
            SafeguardSettings {
                max_tokens: Some(95),
                ..Default::default()
            },
            10,
            9,
        );
        check(
            SafeguardSettings {
                max_seconds: Some(0.0),
                ..Default::default()
            },
            10,
            0,
        );
    }
}
