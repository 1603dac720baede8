//! What the decisions about some texts mean for the work that they are: which are judged, left or given up, and what is to
//! be done about those that are left.
//!
//! Takes decisions and the account that they were made on, gives what is settled with the store. A text that fails is
//! charged to itself and tried again; where everything fails, the backend is to blame, and the whole waits. Pure: time is
//! an argument. Knows nothing of how texts are judged or where work is kept.

use super::pace::{micros, pause};
use crate::config::{BACKFILL_FAULT_TEXTS, BACKFILL_SETBACKS_MAX, BACKFILL_TRIES_MAX};
use crate::store::{Digest, Fate, Then, text_digest};
use safeguard_udfs::{Decision, Reason, Source, Tally, Undecided, Verdict};
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
        // What was recalled or screened says nothing of the backend.
        let answered = decisions.iter().any(|d| is_judged(d) && is_asked(d));
        // One text that fails alone may be to blame itself; many that fail together are not.
        let backend = !answered
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

/// Whether a backend was asked for it.
fn is_asked(decision: &Decision) -> bool {
    let (Ok(Verdict { provenance, .. }) | Err(Undecided { provenance, .. })) = decision;
    provenance.source == Source::Asked
}

#[cfg(test)]
mod tests {
    use super::*;
    use safeguard_udfs::{Provenance, SafeguardSettings, Stage};

    fn decision(reason: Option<Reason>, source: Source) -> Decision {
        let provenance = Provenance {
            policy: "p@1".into(),
            model: "m".into(),
            judged_at: 0,
            tokens_in: 0,
            tokens_out: 0,
            seconds: 0.0,
            source,
        };
        match reason {
            Some(reason) => Err(Undecided { reason, provenance }),
            None => Ok(Verdict {
                label: "allowed".into(),
                violates: false,
                score: None,
                gap: None,
                rationale: None,
                rules: Vec::new(),
                stage: Stage::Reason,
                provenance,
            }),
        }
    }

    #[test]
    fn who_is_to_blame_for_texts_that_fail() {
        let label = |source| decision(None, source);
        let error = || decision(Some(Reason::Error), Source::Asked);
        let fact = || decision(Some(Reason::Truncated), Source::Asked);
        let last = BACKFILL_TRIES_MAX - 1;
        // Decisions, tries and setbacks before; whether the whole waits, and how many are given up.
        for (what, decisions, tries, setbacks, want) in [
            ("all fail", vec![error(), error()], last, 0, (true, 0)),
            (
                "all that were asked fail",
                vec![
                    label(Source::Recalled),
                    label(Source::Screened),
                    error(),
                    error(),
                ],
                last,
                0,
                (true, 0),
            ),
            (
                "another was answered",
                vec![label(Source::Asked), error(), error()],
                last,
                0,
                (false, 2),
            ),
            (
                "an answer without a label",
                vec![fact(), error(), error()],
                last,
                0,
                (false, 2),
            ),
            (
                "not the last try",
                vec![label(Source::Asked), error()],
                last - 1,
                0,
                (false, 0),
            ),
            ("alone", vec![error()], last, 0, (false, 1)),
            (
                "two, again and again",
                vec![error(), error()],
                last,
                BACKFILL_SETBACKS_MAX,
                (false, 2),
            ),
        ] {
            let texts: Vec<(Arc<str>, u32)> = (0..decisions.len())
                .map(|i| (format!("text {i}").into(), tries))
                .collect();
            let attempt = Attempt {
                texts: &texts,
                setbacks,
                salt: [1, 2],
                now: 0,
            };
            let outcome = attempt.decided(&decisions, &Tally::new(&SafeguardSettings::default()));
            let given_up = |fate: &&Fate| matches!(fate, Fate::GivenUp { .. });
            let got = (
                matches!(outcome.then, Then::Back(..)),
                outcome.fates.values().filter(given_up).count(),
            );
            assert_eq!(got, want, "{what}");
        }
    }
}
