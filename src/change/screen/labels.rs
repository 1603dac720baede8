//! Labels of texts: what is stored, and what the reasoner says now.
//!
//! Takes texts, gives labels in their order. What is asked is stored like any verdict; no screen has a say in it.

use crate::config::EVALUATION_CHUNK;
use crate::engine::Asking;
use crate::engine::functions::Call;
use crate::error::Error;
use crate::screen::certify::Label;
use safeguard_udfs::{Answer, Decision, SafeguardSettings, Stage, Statement};
use std::sync::Arc;

/// Gets the labels of one policy.
pub(super) struct Labels<'a> {
    call: &'a Call,
    asking: Asking,
    /// Texts that were asked about.
    pub asked: u64,
    /// Those of them that nobody judged, because a budget was spent or a question failed.
    pub failed: u64,
}

impl<'a> Labels<'a> {
    pub(super) fn new(call: &'a Call, policy: &Arc<str>) -> Labels<'a> {
        let settings = SafeguardSettings {
            screen: false,
            retry_undecided: false,
            answer: Answer::Wait,
            ..call.settings()
        };
        let asking = Asking {
            policy: Arc::clone(policy),
            settings: Arc::new(settings),
            fresh: false,
        };
        Labels {
            call,
            asking,
            asked: 0,
            failed: 0,
        }
    }

    /// What is stored; asks nobody, and counts nowhere.
    pub(super) async fn stored(&self, texts: &[Arc<str>]) -> Result<Vec<Option<Label>>, Error> {
        let settings = SafeguardSettings {
            answer: Answer::Stored,
            ..self.asking.settings.as_ref().clone()
        };
        let lookups = Statement::new(settings.clone());
        let asking = Asking {
            settings: Arc::new(settings),
            ..self.asking.clone()
        };
        let mut labels = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(EVALUATION_CHUNK) {
            let decisions = self.call.engine.judge(&asking, chunk, &lookups).await?;
            labels.extend(decisions.iter().map(label));
        }
        Ok(labels)
    }

    /// What the reasoner says; undecided where it does not.
    pub(super) async fn ask(&mut self, texts: &[Arc<str>]) -> Result<Vec<Label>, Error> {
        let statement = self.call.statement();
        let mut labels = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(EVALUATION_CHUNK) {
            let decisions = self
                .call
                .engine
                .judge(&self.asking, chunk, &statement)
                .await?;
            for decision in &decisions {
                let label = label(decision);
                self.asked += 1;
                self.failed += u64::from(label.is_none());
                labels.push(label.unwrap_or(Label::Undecided));
            }
        }
        Ok(labels)
    }

    /// Says what whoever called should know of questions without an answer.
    pub(super) fn say(&self) {
        if self.failed > 0 {
            self.call.statement().tally().note(format!(
                "{} of {} texts that were asked about were not judged: they count against the screen",
                self.failed, self.asked
            ));
        }
    }
}

/// What a decision says of a text; `None` where nobody judged it, or only a screen did.
fn label(decision: &Decision) -> Option<Label> {
    match decision {
        Ok(verdict) if verdict.stage == Stage::Screen => None,
        Ok(verdict) if verdict.violates => Some(Label::Violates),
        Ok(_) => Some(Label::Allowed),
        Err(undecided) if undecided.reason.is_fact() => Some(Label::Undecided),
        Err(_) => None,
    }
}
