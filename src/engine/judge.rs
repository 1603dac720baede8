//! Judging texts outside of a plan: for what measures policies, and for work in the background.
//!
//! The same stack as SQL's calls, on the account of a statement. Knows nothing of why.

use super::Engine;
use futures::TryStreamExt;
use safeguard_udfs::{
    Answer, Classifier, ClassifyError, Decision, Request, SafeguardSettings, Statement,
};
use std::sync::Arc;

/// How texts are to be judged.
#[derive(Debug, Clone)]
pub struct Asking {
    /// As SQL names a policy.
    pub policy: Arc<str>,
    /// Mode, effort, whether to wait, lane. Budgets are the statement's.
    pub settings: Arc<SafeguardSettings>,
    /// See [`Request::fresh`].
    pub fresh: bool,
}

impl Engine {
    /// The decision about each of these distinct texts, in their order; counted on the statement's account.
    ///
    /// # Errors
    /// As [`Classifier::classify`]; too many undecided of all that the statement judged so far.
    pub async fn judge(
        &self,
        asking: &Asking,
        texts: &[Arc<str>],
        statement: &Statement,
    ) -> Result<Vec<Decision>, ClassifyError> {
        let tally = statement.tally();
        tally.saw_rows(texts.len() as u64);
        let mut decisions: Vec<Option<Decision>> = vec![None; texts.len()];
        let mut decided = self.classifier.classify(Request {
            policy: Arc::clone(&asking.policy),
            texts: texts.to_vec(),
            settings: Arc::clone(&asking.settings),
            tally: Arc::clone(tally),
            again: false,
            fresh: asking.fresh,
        });
        while let Some((i, decision)) = decided.try_next().await? {
            tally.decided(&decision);
            decisions[i] = Some(decision);
        }
        // When all are there: what is undecided at once, such as a text that is too long, comes first. Whoever only looks
        // things up expects not to find them.
        if asking.settings.answer != Answer::Stored {
            tally.check_undecided(asking.settings.max_undecided_ratio)?;
        }
        let all = decisions
            .into_iter()
            .map(|decision| decision.expect("bug: the classifier left a text without a decision"));
        Ok(all.collect())
    }

    /// Prompt tokens that each of these texts would cost, in their order; asks no model.
    ///
    /// # Errors
    /// As [`Classifier::tokens`].
    pub async fn tokens(
        &self,
        asking: &Asking,
        texts: &[Arc<str>],
    ) -> Result<Vec<u64>, ClassifyError> {
        let statement = Statement::new(asking.settings.as_ref().clone());
        let request = Request {
            policy: Arc::clone(&asking.policy),
            texts: texts.to_vec(),
            settings: Arc::clone(&asking.settings),
            tally: Arc::clone(statement.tally()),
            again: false,
            fresh: asking.fresh,
        };
        self.classifier.tokens(request).await
    }
}
