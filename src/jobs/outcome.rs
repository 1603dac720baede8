//! What the decisions about some texts mean for the work that they are: which are judged, left or given up, and what is to
//! be done about those that are left.
//!
//! Takes decisions and the account that they were made on, gives what is settled with the store. A text that fails is
//! charged to itself and tried again; where everything fails, the backend is to blame, and the whole waits. Pure: time is
//! an argument. Knows nothing of how texts are judged or where work is kept.

use super::pace::{micros, pause};
use crate::config::{BACKFILL_FAULT_TEXTS, BACKFILL_SETBACKS_MAX, BACKFILL_TRIES_MAX};
use crate::store::{Digest, Fate, Then, text_digest};
use safeguard_udfs::{Decision, Reason, Tally};
use std::collections::HashMap;
use std::sync::Arc;

/// Texts that were asked about together.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Distinct, each with the times that it was asked and failed before.
    pub texts: &'a [(Arc<str>, u32)],
    /// Times in a row that the work failed as a whole.
    pub setbacks: u32,
    /// What tells this work from others.
    pub salt: [i64; 2],
    /// Microseconds since 1970-01-01 UTC.
    pub now: i64,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// By text.
    pub fates: HashMap<Digest, Fate>,
    /// About those that are left.
    pub then: Then,
}

impl Attempt<'_> {
    /// By the decisions about the texts, in their order, and what was noted on their account.
    pub fn decided(&self, decisions: &[Decision], tally: &Tally) -> Outcome {
        let failed = |decision: &Decision| reason(decision) == Some(Reason::Error);
        let errors = decisions.iter().filter(|d| failed(d)).count();
        let unspent = decisions.iter().any(|d| reason(d) == Some(Reason::Budget));
        let judged = decisions.iter().any(is_judged);
        // One text that fails alone may be to blame itself; many that fail together are not.
        let backend = !judged
            && (errors >= BACKFILL_FAULT_TEXTS
                || errors > 1 && self.setbacks < BACKFILL_SETBACKS_MAX);
        let mut fates = HashMap::with_capacity(decisions.len());
        let mut most_tries = 0;
        let mut said = None;
        for ((text, tries), decision) in self.texts.iter().zip(decisions) {
            let fate = match decision {
                Ok(verdict) => Fate::Judged(Some(Arc::clone(&verdict.label))),
                Err(undecided) if undecided.reason.is_fact() => Fate::Judged(None),
                Err(_) if failed(decision) => {
                    let error = tally.fault_of(text);
                    said = said.or_else(|| error.clone());
                    if !backend && tries + 1 >= BACKFILL_TRIES_MAX {
                        let reason = Reason::Error.as_str();
                        Fate::GivenUp { reason, error }
                    } else {
                        most_tries = most_tries.max(*tries);
                        Fate::Left
                    }
                }
                Err(_) => Fate::Left,
            };
            fates.insert(text_digest(text), fate);
        }
        let then = if backend {
            let said = said.unwrap_or_else(|| "no text could be judged".to_owned());
            self.back(&format!("backend: {said}"))
        } else if let Some(until) = tally.put_off_until() {
            let notes = tally.notes();
            let reason = notes.into_iter().find(|note| note.starts_with("limits."));
            Then::Back(until, format!("budget: {}", reason.unwrap_or_default()))
        } else if unspent {
            Then::Pause("budget: its tokens are spent".to_owned())
        } else if errors > 0 {
            Then::Retry(self.now + micros(pause(most_tries, &self.salt)))
        } else {
            Then::Again
        };
        Outcome { fates, then }
    }

    /// The whole waits, for this reason.
    pub(super) fn back(&self, why: &str) -> Then {
        let pause = pause(self.setbacks, &self.salt);
        let seconds = pause.as_secs_f64();
        let reason = format!("{why}; tried again in {seconds:.1} s");
        Then::Back(self.now + micros(pause), reason)
    }
}

fn reason(decision: &Decision) -> Option<Reason> {
    decision.as_ref().err().map(|undecided| undecided.reason)
}

/// Whether what was decided is a fact.
fn is_judged(decision: &Decision) -> bool {
    reason(decision).is_none_or(Reason::is_fact)
}
