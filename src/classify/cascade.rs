//! Mode `auto`: a score stands where it is sure enough, and what is not is reasoned about.
//!
//! Takes requests of any mode; those in `auto` become requests for facts: what was reasoned before is taken, else the
//! text is scored, and reasoned about where the score's gap is below the calibrated one. Without a calibration every
//! text is reasoned about. Recall below keeps each fact as what it is (`score` or `reason`), so that another threshold
//! or mode finds it again and asks nothing twice. Knows thresholds; knows nothing of how a text is judged or stored.

use super::recall::Recall;
use crate::backend::ModelIdentity;
use crate::config::STORE_COMMIT_ROWS_MAX;
use crate::policy::{Registry, Version};
use crate::store::{CalibrationRow, Store};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use safeguard_udfs::{
    Answer, Classifier, ClassifyError, Decision, Effort, Mode, Request, SafeguardSettings, Source,
};
use std::sync::Arc;

type Decided = Result<(usize, Decision), ClassifyError>;

/// How much the model is told to think where it may not think: one scorer, and so one calibration, for every effort.
const SCORING_EFFORT: Effort = Effort::Low;

/// The first stage of all.
#[derive(Debug, Clone)]
pub struct Cascade {
    pub(super) policies: Arc<Registry>,
    pub(super) store: Store,
    pub(super) model: ModelIdentity,
    pub(super) recall: Recall,
}

impl Cascade {
    /// In front of `recall`, which asks `model`.
    pub fn new(
        policies: Arc<Registry>,
        store: Store,
        model: ModelIdentity,
        recall: Recall,
    ) -> Self {
        Self {
            policies,
            store,
            model,
            recall,
        }
    }

    /// The calibration that counts for a version of a policy under this model.
    pub(super) async fn calibration(
        &self,
        version: &Version,
    ) -> Result<Option<CalibrationRow>, ClassifyError> {
        let scorer = self
            .recall
            .judge_digest(version, &scoring(&SafeguardSettings::default()));
        let found = self.store.calibration(scorer).await;
        found.map_err(|e| ClassifyError::Store(e.to_string()))
    }

    pub(super) async fn plan(&self, request: &Request) -> Result<Plan, ClassifyError> {
        let version = self.policies.resolve(&request.policy)?;
        let calibration = self.calibration(&version).await?;
        let policy = match version.number {
            0 => Arc::clone(&request.policy),
            // Another version may become the current one while this request is under way.
            _ => version.reference(),
        };
        let with = |settings: SafeguardSettings| Request {
            policy: Arc::clone(&policy),
            settings: Arc::new(settings),
            ..request.clone()
        };
        Ok(Plan {
            scored: with(scoring(&request.settings)),
            reasoned: with(SafeguardSettings {
                mode: Mode::Reason,
                ..SafeguardSettings::clone(&request.settings)
            }),
            calibrated: calibration.is_some(),
            gap: calibration.and_then(|row| row.gap),
            version,
        })
    }

    async fn decide(self, request: Request) -> Result<BoxStream<'static, Decided>, ClassifyError> {
        let plan = self.plan(&request).await?;
        let Some(gap) = plan.gap else {
            // An inline policy has no name to calibrate it by.
            let may_help = !plan.calibrated && plan.version.number > 0;
            let hint = may_help.then(|| self.hint(&plan.version));
            let say = move |decided: &Decided| match (decided, &hint) {
                (Ok((_, Ok(v))), Some(hint)) if v.provenance.source == Source::Asked => {
                    request.tally.note(hint);
                }
                _ => {}
            };
            return Ok(self.recall.classify(plan.reasoned).inspect(say).boxed());
        };
        let stored = self.recall.stored(&plan.reasoned).await?;
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for (place, stored) in stored.into_iter().enumerate() {
            match stored {
                Some(decision) => known.push(Ok((place, decision))),
                None => unknown.push(place),
            }
        }
        let known = stream::iter(known);
        if unknown.is_empty() {
            return Ok(known.boxed());
        }
        let scored = some(&plan.scored, &unknown, request.again);
        let round = Round {
            recall: self.recall.clone(),
            reasoned: plan.reasoned,
            places: unknown,
            gap,
        };
        // What is unsure is reasoned about while the rest is still being scored.
        let decided = self
            .recall
            .classify(scored)
            .ready_chunks(STORE_COMMIT_ROWS_MAX)
            .map(move |chunk| round.settle(chunk))
            .flatten_unordered(None);
        Ok(known.chain(decided).boxed())
    }

    fn hint(&self, version: &Version) -> String {
        format!(
            "mode auto reasoned about every text: policy \"{}\" is not calibrated for {}; \
             SELECT * FROM safeguard_calibrate('{0}') measures which scores can stand",
            version.reference(),
            self.model.name
        )
    }
}

/// What a request in mode `auto` is made of.
pub(super) struct Plan {
    version: Arc<Version>,
    pub(super) scored: Request,
    pub(super) reasoned: Request,
    calibrated: bool,
    pub(super) gap: Option<f64>,
}

/// The settings under which a text is scored for mode `auto`, and golden rows for a calibration.
pub(super) fn scoring(settings: &SafeguardSettings) -> SafeguardSettings {
    SafeguardSettings {
        mode: Mode::Score,
        effort: SCORING_EFFORT,
        ..settings.clone()
    }
}

/// The request for the texts at some places.
fn some(request: &Request, places: &[usize], again: bool) -> Request {
    let texts = places.iter().map(|i| Arc::clone(&request.texts[*i]));
    Request {
        texts: texts.collect(),
        again,
        ..request.clone()
    }
}

/// Whether a scored decision stands where `gap` is the calibrated one.
pub(super) fn is_sure(decision: &Decision, gap: f64) -> bool {
    match decision {
        Ok(verdict) => verdict.gap.is_some_and(|own| own >= gap),
        Err(_) => true,
    }
}

/// Scores that come in, and what is to be done about the unsure ones.
struct Round {
    recall: Recall,
    reasoned: Request,
    /// Of each scored text among the request's.
    places: Vec<usize>,
    gap: f64,
}

impl Round {
    /// Sure scores as they are; reasoned decisions for the others.
    fn settle(&self, chunk: Vec<Decided>) -> BoxStream<'static, Decided> {
        let mut sure = Vec::new();
        // The texts whose score was asked for are in the statement's budget of texts, the others are not.
        let (mut asked, mut recalled) = (Vec::new(), Vec::new());
        for decided in chunk {
            let (place, decision) = match decided {
                Ok((i, decision)) => (self.places[i], decision),
                Err(e) => {
                    sure.push(Err(e));
                    continue;
                }
            };
            match &decision {
                Ok(verdict) if !is_sure(&decision, self.gap) => {
                    self.reasoned.tally.answered(&verdict.provenance);
                    match verdict.provenance.source {
                        Source::Asked => asked.push(place),
                        _ => recalled.push(place),
                    }
                }
                _ => sure.push(Ok((place, decision))),
            }
        }
        let again = self.reasoned.again;
        let reasoned = stream::select(self.reason(asked, true), self.reason(recalled, again));
        stream::iter(sure).chain(reasoned).boxed()
    }

    fn reason(&self, places: Vec<usize>, again: bool) -> BoxStream<'static, Decided> {
        if places.is_empty() {
            return stream::empty().boxed();
        }
        self.recall
            .classify(some(&self.reasoned, &places, again))
            .map_ok(move |(i, decision)| (places[i], decision))
            .boxed()
    }
}

#[async_trait::async_trait]
impl Classifier for Cascade {
    fn classify(&self, request: Request) -> BoxStream<'static, Decided> {
        if request.settings.answer == Answer::Queue && !request.fresh {
            return stream::once(self.clone().queue(request))
                .try_flatten()
                .boxed();
        }
        match request.settings.mode {
            Mode::Auto => stream::once(self.clone().decide(request))
                .try_flatten()
                .boxed(),
            Mode::Score | Mode::Reason => self.recall.classify(request),
        }
    }

    /// In mode `auto` the most that a text can cost: scored, then reasoned about.
    async fn tokens(&self, request: Request) -> Result<Vec<u64>, ClassifyError> {
        if request.settings.mode != Mode::Auto {
            return self.recall.tokens(request).await;
        }
        let plan = self.plan(&request).await?;
        let mut tokens = self.recall.tokens(plan.reasoned).await?;
        if plan.gap.is_some() {
            let scored = self.recall.tokens(plan.scored).await?;
            tokens.iter_mut().zip(scored).for_each(|(t, s)| *t += s);
        }
        Ok(tokens)
    }
}
