//! The last stage: each text is put to the model.
//!
//! Takes requests, gives verdicts as replies come, many texts in flight. A text that the model cannot judge is
//! undecided; only a policy that cannot be put to it at all, or a backend that has stopped, fails the request. A question
//! is put when the statement's budgets and the limits of whoever pays have room for the most that it can cost; what it did
//! not cost is given back. A question that is given up has cost its prompt.

use super::Waits;
use super::limits::DayLimits;
use super::meter::Meter;
use crate::backend::{Answer, Backend, BackendError, NoAnswer, Prompt, PromptPolicy, Reply};
use crate::config::{IN_FLIGHT_TEXTS_MAX, Role};
use crate::policy::{Registry, Version};
use crate::store::now;
use futures::stream::{self, BoxStream, StreamExt};
use safeguard_udfs::{
    Answer as Wait, Classifier, ClassifyError, Cost, Decision, Promise, Provenance, Reason,
    Request, Source, Stage, Undecided, Verdict,
};
use std::sync::Arc;
use std::time::Instant;

/// Asks a backend.
#[derive(Debug)]
pub struct Reasoner {
    policies: Arc<Registry>,
    backend: Arc<dyn Backend>,
    limits: Arc<DayLimits>,
    meter: Arc<Meter>,
    waits: Arc<Waits>,
}

impl Reasoner {
    /// Policies to resolve, a backend to ask, what roles may ask of it, and where it is counted how long that takes.
    pub fn new(
        policies: Arc<Registry>,
        backend: Arc<dyn Backend>,
        limits: Arc<DayLimits>,
        waits: Arc<Waits>,
    ) -> Self {
        Self {
            policies,
            backend,
            limits,
            meter: Arc::default(),
            waits,
        }
    }

    fn questions(&self, request: &Request) -> Result<Questions, ClassifyError> {
        let version = self.policies.resolve(&request.policy)?;
        let text = version.policy.prompt_text();
        let policy = Arc::new(PromptPolicy {
            digest: blake3::hash(text.as_bytes()).to_hex().as_str().into(),
            text: text.into(),
            labels: version.policy.labels.clone(),
        });
        Ok(Questions {
            version,
            policy,
            backend: Arc::clone(&self.backend),
            limits: Arc::clone(&self.limits),
            meter: Arc::clone(&self.meter),
            waits: Arc::clone(&self.waits),
            request: request.clone(),
        })
    }
}

#[async_trait::async_trait]
impl Classifier for Reasoner {
    fn classify(
        &self,
        request: Request,
    ) -> BoxStream<'static, Result<(usize, Decision), ClassifyError>> {
        if request.settings.answer == Wait::Queue {
            let why = "safeguard.answer = queue asks nobody now, and this must be asked now; \
                       SET safeguard.answer = 'wait'";
            return stream::iter([Err(ClassifyError::Unsupported(why.to_owned()))]).boxed();
        }
        let questions = match self.questions(&request) {
            Ok(questions) => Arc::new(questions),
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        stream::iter(0..request.texts.len())
            .map(move |i| {
                let questions = Arc::clone(&questions);
                async move { Ok((i, questions.ask(i).await?)) }
            })
            .buffer_unordered(IN_FLIGHT_TEXTS_MAX)
            .boxed()
    }

    async fn tokens(&self, request: Request) -> Result<Vec<u64>, ClassifyError> {
        let questions = self.questions(&request)?;
        let count = move || {
            let texts = 0..questions.request.texts.len();
            texts.map(|i| questions.tokens(i)).collect()
        };
        let counted = tokio::task::spawn_blocking(count).await;
        counted.map_err(|e| ClassifyError::Backend(e.to_string()))
    }
}

/// A request, ready to be put.
struct Questions {
    version: Arc<Version>,
    policy: Arc<PromptPolicy>,
    backend: Arc<dyn Backend>,
    limits: Arc<DayLimits>,
    meter: Arc<Meter>,
    waits: Arc<Waits>,
    request: Request,
}

/// Room for one question, in the statement's budgets and in the limits of whoever pays.
struct Room {
    statement: Promise,
    day: Option<Promise>,
    /// What it is given up for, should it not be answered: its prompt.
    least: Cost,
}

impl Room {
    fn put(&mut self, again: bool) {
        self.statement.put(of_statement(self.least, again));
        if let Some(day) = &mut self.day {
            day.put(self.least);
        }
    }

    fn settle(self, again: bool, spent: Cost) {
        self.statement.settle(of_statement(spent, again));
        if let Some(day) = self.day {
            day.settle(spent);
        }
    }
}

/// A statement counts texts, not questions.
fn of_statement(cost: Cost, again: bool) -> Cost {
    Cost {
        questions: if again { 0 } else { cost.questions },
        ..cost
    }
}

impl Questions {
    fn prompt(&self, i: usize) -> Prompt {
        let settings = &self.request.settings;
        Prompt {
            policy: Arc::clone(&self.policy),
            text: Arc::clone(&self.request.texts[i]),
            mode: settings.mode,
            effort: settings.effort,
            lane: settings.lane,
        }
    }

    fn tokens(&self, i: usize) -> u64 {
        self.backend.tokens(&self.prompt(i))
    }

    fn provenance(&self, source: Source) -> Provenance {
        Provenance {
            policy: self.version.reference(),
            model: Arc::clone(&self.backend.model().name),
            judged_at: now(),
            tokens_in: 0,
            tokens_out: 0,
            seconds: 0.0,
            source,
        }
    }

    fn undecided(&self, reason: Reason, source: Source) -> Decision {
        let provenance = self.provenance(source);
        Err(Undecided { reason, provenance })
    }

    /// Room for a question; `None` where a budget or a limit has none left.
    async fn room(&self, i: usize) -> Result<Option<Room>, ClassifyError> {
        let tally = &self.request.tally;
        let payer = tally.payer().and_then(|payer| Role::parse(payer));
        let limits = payer.map(|payer| self.limits.of(payer)).unwrap_or_default();
        let counts = tally.counts_tokens() || limits.tokens_per_day.is_some();
        let prompt = if counts { self.tokens(i) } else { 0 };
        // What the model does not read costs nothing.
        let decoded = match prompt {
            0 => 0,
            _ => self.backend.decodes_most(&self.prompt(i)),
        };
        let most = prompt.saturating_add(decoded);
        let Some(statement) = tally.reserve(self.request.again, most).await else {
            return Ok(None);
        };
        let day = match payer {
            None => None,
            Some(payer) => {
                let reserved = self.limits.reserve(payer, || most).await;
                match reserved.map_err(|e| ClassifyError::Store(e.to_string()))? {
                    Ok(day) => day,
                    Err(spent) => {
                        tally.note(spent.note);
                        tally.put_off(spent.until);
                        return Ok(None);
                    }
                }
            }
        };
        let least = Cost {
            questions: 1,
            tokens: prompt,
        };
        Ok((!tally.is_late()).then_some(Room {
            statement,
            day,
            least,
        }))
    }

    async fn ask(&self, i: usize) -> Result<Decision, ClassifyError> {
        let (tally, again) = (&self.request.tally, self.request.again);
        let out_of_budget = || Ok(self.undecided(Reason::Budget, Source::Unasked));
        if self.request.settings.answer == Wait::Stored {
            return out_of_budget();
        }
        let Some(mut room) = self.room(i).await? else {
            return out_of_budget();
        };
        room.put(again);
        let turn = self.meter.begin(Instant::now());
        let waiting = self.waits.questions.begin(Instant::now());
        let reply = self.backend.ask(self.prompt(i));
        let reply = match tally.deadline() {
            None => reply.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), reply).await {
                Ok(reply) => reply,
                Err(_) => return out_of_budget(),
            },
        };
        let seconds = turn.seconds(Instant::now());
        drop((turn, waiting));
        match reply {
            Ok(reply) => {
                let asked = !matches!(reply.answer, Answer::TooLong { .. });
                let spent = Cost {
                    questions: u64::from(asked),
                    tokens: reply.tokens_in.saturating_add(reply.tokens_out),
                };
                room.settle(again, spent);
                Ok(self.decision(reply, seconds))
            }
            Err(BackendError::Model(why)) => {
                tracing::warn!(policy = %self.version.reference(), why, "a text is undecided: error");
                tally.fault(&self.request.texts[i], why);
                Ok(self.undecided(Reason::Error, Source::Asked))
            }
            Err(e @ (BackendError::PolicyTooLong { .. } | BackendError::Labels(_))) => {
                room.settle(again, Cost::default());
                Err(ClassifyError::InvalidPolicy {
                    name: self.version.reference().to_string(),
                    why: e.to_string(),
                })
            }
            Err(BackendError::Unsupported(why)) => {
                room.settle(again, Cost::default());
                Err(ClassifyError::Unsupported(why))
            }
            Err(e) => {
                room.settle(again, Cost::default());
                Err(ClassifyError::Backend(e.to_string()))
            }
        }
    }

    fn decision(&self, reply: Reply, seconds: f64) -> Decision {
        let asked = || Provenance {
            tokens_in: reply.tokens_in,
            tokens_out: reply.tokens_out,
            seconds,
            ..self.provenance(Source::Asked)
        };
        let (index, probabilities, analysis, reasoned) = match reply.answer {
            Answer::Label {
                index,
                probabilities,
                analysis,
                reasoned,
            } => (index, probabilities, analysis, reasoned),
            Answer::None(why) => {
                return Err(Undecided {
                    reason: reason(why),
                    provenance: asked(),
                });
            }
            Answer::TooLong { .. } => return self.undecided(Reason::TooLong, Source::Unasked),
        };
        let known = !probabilities.is_empty();
        let policy = &self.version.policy;
        let rules = analysis.as_deref().map(|a| policy.rules_cited(a));
        Ok(Verdict {
            label: Arc::clone(&policy.labels[index]),
            violates: index != policy.allowed,
            score: known.then(|| 1.0 - probabilities[policy.allowed]),
            gap: known.then(|| gap(&probabilities, index)),
            rationale: analysis.map(Arc::from),
            rules: rules.unwrap_or_default(),
            stage: if reasoned {
                Stage::Reason
            } else {
                Stage::Score
            },
            provenance: asked(),
        })
    }
}

fn reason(why: NoAnswer) -> Reason {
    match why {
        NoAnswer::Refused => Reason::Refused,
        NoAnswer::Truncated => Reason::Truncated,
        NoAnswer::Unparsed => Reason::Unparsed,
        NoAnswer::Contradictory => Reason::Contradictory,
    }
}

/// Log-odds of the best label against the next; finite, because a probability can round to 0.
fn gap(probabilities: &[f64], best: usize) -> f64 {
    let others = probabilities.iter().enumerate().filter(|(i, _)| *i != best);
    let next = others.map(|(_, p)| *p).fold(f64::MIN_POSITIVE, f64::max);
    (probabilities[best].ln() - next.ln()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_finite_and_not_negative() {
        let check = |probabilities: &[f64], best, want: f64| {
            let got = gap(probabilities, best);
            assert!((got - want).abs() < 1e-9, "{probabilities:?}: {got}");
        };
        check(&[0.5, 0.5], 0, 0.0);
        check(&[0.25, 0.75], 1, 3_f64.ln());
        check(&[0.1, 0.6, 0.3], 1, 2_f64.ln());
        check(&[0.0, 1.0], 1, -f64::MIN_POSITIVE.ln());
    }
}
