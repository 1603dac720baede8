//! `safeguard.answer = queue`: what is stored comes back, and the rest is put into the queue instead of to the model.
//!
//! Takes requests, gives the stored decisions and `undecided: queued` for the others, at once: it waits for nobody, not
//! even for those who ask the same just now. What mode `auto` would take is taken here too. A text that the queue has no
//! room for is `undecided: budget`. Knows nothing of who works the queue off.

use super::cascade::{Cascade, is_sure};
use crate::backend::ModelIdentity;
use crate::config::{QUEUE_ROWS_MAX, QUEUE_TEXT_BYTES_MAX, STORE_COMMIT_ROWS_MAX};
use crate::policy::Version;
use crate::store::{Enqueued, Judging, now};
use futures::stream::{self, BoxStream, StreamExt};
use safeguard_udfs::{
    ClassifyError, Decision, Mode, Provenance, Reason, Request, SafeguardSettings, Source,
    Undecided,
};
use std::sync::Arc;

/// Under what a text is to be judged later: the version that `reference` names now.
pub fn judging(
    reference: &str,
    version: &Version,
    model: &ModelIdentity,
    settings: &SafeguardSettings,
) -> Judging {
    let policy = version.reference().to_string();
    Judging {
        reference: match version.number {
            0 => reference.to_owned(),
            _ => policy.clone(),
        },
        policy,
        policy_version: version.number,
        policy_digest: version.digest.to_string(),
        model: model.name.to_string(),
        model_digest: model.digest.to_string(),
        mode: settings.mode.to_string(),
        effort: settings.effort.to_string(),
    }
}

impl Cascade {
    /// See the module.
    pub(super) async fn queue(
        self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<(usize, Decision), ClassifyError>>, ClassifyError> {
        let version = self.policies.resolve(&request.policy)?;
        let stored = self.known(&request).await?;
        let (mut decided, mut unknown) = (Vec::new(), Vec::new());
        for (place, stored) in stored.into_iter().enumerate() {
            match stored {
                Some(decision) => decided.push(Ok((place, decision))),
                None => unknown.push(place),
            }
        }
        for places in unknown.chunks(STORE_COMMIT_ROWS_MAX) {
            let queued = self.enqueue(&request, &version, places).await?;
            let undecided = |(place, queued): (&usize, bool)| {
                let reason = if queued {
                    Reason::Queued
                } else {
                    Reason::Budget
                };
                let provenance = Provenance {
                    policy: version.reference(),
                    model: Arc::clone(&self.model.name),
                    judged_at: now(),
                    tokens_in: 0,
                    tokens_out: 0,
                    seconds: 0.0,
                    source: Source::Unasked,
                };
                Ok((*place, Err(Undecided { reason, provenance })))
            };
            decided.extend(places.iter().zip(queued).map(undecided));
        }
        Ok(stream::iter(decided).boxed())
    }

    /// What is stored for each text, where mode `auto` would let it stand.
    pub(super) async fn known(
        &self,
        request: &Request,
    ) -> Result<Vec<Option<Decision>>, ClassifyError> {
        if request.settings.mode != Mode::Auto {
            return self.recall.stored(request).await;
        }
        let plan = self.plan(request).await?;
        let mut known = self.recall.stored(&plan.reasoned).await?;
        if let Some(gap) = plan.gap {
            let scored = self.recall.stored(&plan.scored).await?;
            for (known, scored) in known.iter_mut().zip(scored) {
                if known.is_none() {
                    *known = scored.filter(|decision| is_sure(decision, gap));
                }
            }
        }
        Ok(known)
    }

    /// Whether each of the texts at these places is in the queue now.
    async fn enqueue(
        &self,
        request: &Request,
        version: &Version,
        places: &[usize],
    ) -> Result<Vec<bool>, ClassifyError> {
        let fits = |place: &usize| request.texts[*place].len() <= QUEUE_TEXT_BYTES_MAX;
        let short: Vec<usize> = places.iter().copied().filter(fits).collect();
        let new = Enqueued {
            judging: judging(&request.policy, version, &self.model, &request.settings),
            retry_undecided: request.settings.retry_undecided,
            texts: short
                .iter()
                .map(|i| Arc::clone(&request.texts[*i]))
                .collect(),
            now: self.store.clock(),
        };
        let taken = self.store.enqueue(new).await;
        let mut taken = taken
            .map_err(|e| ClassifyError::Store(e.to_string()))?
            .into_iter();
        let mut full = false;
        let queued = places.iter().map(|place| {
            let queued = fits(place) && taken.next().unwrap_or(false);
            full |= fits(place) && !queued;
            queued
        });
        let queued: Vec<bool> = queued.collect();
        if full {
            request.tally.note(format!(
                "the queue is full: it takes {QUEUE_ROWS_MAX} texts; ask again when some are judged"
            ));
        }
        if short.len() < places.len() {
            request.tally.note(format!(
                "texts of more than {QUEUE_TEXT_BYTES_MAX} bytes are not queued; safeguard.answer = wait decides them"
            ));
        }
        Ok(queued)
    }
}
