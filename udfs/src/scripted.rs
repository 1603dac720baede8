//! A classifier of a few words: whoever wrote the script knows every answer, and it counts its calls.
//!
//! Public and real, for tests, examples and benches of everything that stands in front of a model.

use crate::budget::Cost;
use crate::classifier::{
    Classifier, ClassifyError, Decision, Provenance, Reason, Request, Source, Stage, Undecided,
    Verdict,
};
use crate::settings::Answer;
use futures::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The label of a text that contains none of the words.
pub const ALLOWED: &str = "allowed";

/// Labels a text by the first word of the script that it contains. The policy `none` does not exist; under any other
/// the answer is the script's. The label `undecided` in a script stands for a text that the model refuses.
#[derive(Debug, Default, Clone)]
pub struct Scripted {
    words: Arc<[(String, Arc<str>)]>,
    asked: Arc<AtomicU64>,
}

impl Scripted {
    /// (word, label) pairs; the first that fits decides.
    pub fn new<W: Into<String>, L: AsRef<str>>(words: impl IntoIterator<Item = (W, L)>) -> Self {
        let words = words
            .into_iter()
            .map(|(word, label)| (word.into(), label.as_ref().into()))
            .collect();
        Self {
            words,
            asked: Arc::default(),
        }
    }

    /// Texts judged since it was made.
    pub fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    async fn decide(&self, request: &Request, text: &str) -> Decision {
        let provenance = |source, tokens_in| Provenance {
            policy: Arc::clone(&request.policy),
            model: "scripted".into(),
            judged_at: 0,
            tokens_in,
            tokens_out: 0,
            seconds: 0.0,
            source,
        };
        let tokens = count(text);
        let room = match request.settings.answer {
            Answer::Stored => None,
            _ => request.tally.reserve(request.again, tokens).await,
        };
        let Some(room) = room else {
            return Err(Undecided {
                reason: Reason::Budget,
                provenance: provenance(Source::Unasked, 0),
            });
        };
        self.asked.fetch_add(1, Relaxed);
        room.settle(Cost {
            questions: u64::from(!request.again),
            tokens,
        });
        let provenance = provenance(Source::Asked, tokens);
        let found = self
            .words
            .iter()
            .find(|(word, _)| text.contains(word.as_str()));
        let label: Arc<str> = found.map_or_else(|| ALLOWED.into(), |(_, label)| Arc::clone(label));
        if *label == *crate::UNDECIDED {
            return Err(Undecided {
                reason: Reason::Refused,
                provenance,
            });
        }
        let violates = *label != *ALLOWED;
        Ok(Verdict {
            violates,
            score: Some(if violates { 1.0 } else { 0.0 }),
            gap: None,
            rationale: found.map(|(word, _)| format!("contains {word}").into()),
            rules: Vec::new(),
            stage: Stage::Reason,
            label,
            provenance,
        })
    }
}

/// Its token is a word.
fn count(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

fn check(policy: &str) -> Result<(), ClassifyError> {
    match policy {
        "none" => Err(ClassifyError::UnknownPolicy {
            name: policy.to_owned(),
            near: Vec::new(),
        }),
        _ => Ok(()),
    }
}

#[async_trait::async_trait]
impl Classifier for Scripted {
    fn classify(
        &self,
        request: Request,
    ) -> BoxStream<'static, Result<(usize, Decision), ClassifyError>> {
        if let Err(e) = check(&request.policy) {
            return stream::iter([Err(e)]).boxed();
        }
        let (own, texts) = (self.clone(), request.texts.clone());
        let ask = move |(i, text): (usize, Arc<str>)| {
            let (own, request) = (own.clone(), request.clone());
            async move { Ok((i, own.decide(&request, &text).await)) }
        };
        stream::iter(texts.into_iter().enumerate())
            .then(ask)
            .boxed()
    }

    async fn tokens(&self, request: Request) -> Result<Vec<u64>, ClassifyError> {
        check(&request.policy)?;
        Ok(request.texts.iter().map(|text| count(text)).collect())
    }
}
