//! The last stage: each text is put to the model.
//!
//! Takes requests, gives verdicts as replies come, many texts in flight. A text that the model cannot judge is
//! undecided; only a policy that cannot be put to it at all, or a backend that has stopped, fails the request.

use crate::backend::{Answer, Backend, BackendError, NoAnswer, Prompt, PromptPolicy, Reply};
use crate::config::IN_FLIGHT_TEXTS_MAX;
use crate::policy::{Registry, Version};
use crate::store::now;
use futures::stream::{self, BoxStream, StreamExt};
use safeguard_udfs::{
    Answer as Wait, Classifier, ClassifyError, Decision, Provenance, Reason, Request, Source,
    Stage, Undecided, Verdict,
};
use std::sync::Arc;

/// Asks a backend.
#[derive(Debug)]
pub struct Reasoner {
    policies: Arc<Registry>,
    backend: Arc<dyn Backend>,
}

impl Reasoner {
    /// Policies to resolve and a backend to ask.
    pub fn new(policies: Arc<Registry>, backend: Arc<dyn Backend>) -> Self {
        Self { policies, backend }
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
    request: Request,
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
            source,
        }
    }

    fn undecided(&self, reason: Reason, source: Source) -> Decision {
        let provenance = self.provenance(source);
        Err(Undecided { reason, provenance })
    }

    async fn ask(&self, i: usize) -> Result<Decision, ClassifyError> {
        let stored_only = self.request.settings.answer == Wait::Stored;
        let may_begin = || {
            let request = &self.request;
            request.tally.begin(request.again, || self.tokens(i))
        };
        if stored_only || !may_begin() {
            return Ok(self.undecided(Reason::Budget, Source::Unasked));
        }
        match self.backend.ask(self.prompt(i)).await {
            Ok(reply) => Ok(self.decision(reply)),
            Err(BackendError::Model(why)) => {
                tracing::warn!(policy = %self.version.reference(), why, "a text is undecided: error");
                let request = &self.request;
                request.tally.fault(&request.texts[i], why);
                Ok(self.undecided(Reason::Error, Source::Asked))
            }
            Err(e @ (BackendError::PolicyTooLong { .. } | BackendError::Labels(_))) => {
                Err(ClassifyError::InvalidPolicy {
                    name: self.version.reference().to_string(),
                    why: e.to_string(),
                })
            }
            Err(BackendError::Unsupported(why)) => Err(ClassifyError::Unsupported(why)),
            Err(e) => Err(ClassifyError::Backend(e.to_string())),
        }
    }

    fn decision(&self, reply: Reply) -> Decision {
        let asked = || Provenance {
            tokens_in: reply.tokens_in,
            tokens_out: reply.tokens_out,
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
