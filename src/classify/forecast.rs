//! What a request would ask, without asking: what is stored already or a screen's to decide, and what the rest would cost
//! in prompts.
//!
//! Takes requests, gives counts. In mode `auto` with a calibration a text that is not stored may take two questions, and
//! both are counted: how sure its score is cannot be known before. Knows nothing of time, rates or budgets.

use super::cascade::Cascade;
use super::screen::Screening;
use safeguard_udfs::{Classifier, ClassifyError, Mode, Request};
use std::sync::Arc;

/// Questions of one mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Questions {
    /// How many.
    pub asked: u64,
    /// Prompt tokens of those that were counted.
    pub tokens: u64,
    /// How many were counted.
    pub counted: u64,
}

/// What a request would ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Which of its texts would be asked about, by their index.
    pub asked: Vec<usize>,
    /// How many a screen would decide, or has decided.
    pub screened: u64,
    /// Questions for a score.
    pub score: Questions,
    /// Questions for an analysis; in mode `auto` at the most.
    pub reason: Questions,
    /// Whether `reason` depends on scores that are not known yet.
    pub at_most: bool,
}

impl Questions {
    /// The same and those.
    pub fn add(&mut self, more: Questions) {
        self.asked += more.asked;
        self.tokens += more.tokens;
        self.counted += more.counted;
    }
}

impl Screening {
    /// What this request would ask; prompts are counted of the first `counted` questions of each kind.
    ///
    /// # Errors
    /// An unknown policy, a failing store.
    pub async fn forecast(
        &self,
        request: &Request,
        counted: usize,
    ) -> Result<Forecast, ClassifyError> {
        let Some(in_force) = self.in_force(request).await? else {
            return self.cascade.forecast(request, counted).await;
        };
        let (mut escalated, mut unknown) = (Vec::new(), Vec::new());
        for (place, stored) in self.stored(request).await?.into_iter().enumerate() {
            match stored {
                Some(Err(_)) if request.settings.retry_undecided => escalated.push(place),
                Some(_) => {}
                None => unknown.push(place),
            }
        }
        let text = |place: &usize| Arc::clone(&request.texts[*place]);
        let scores = in_force.scores(unknown.iter().map(text).collect()).await;
        let mut screened = 0;
        for (place, score) in unknown.into_iter().zip(scores) {
            match in_force.decides(score) {
                Some(_) => screened += 1,
                None => escalated.push(place),
            }
        }
        let rest = Request {
            texts: escalated.iter().map(text).collect(),
            policy: in_force.version.reference(),
            ..request.clone()
        };
        let mut forecast = self.cascade.forecast(&rest, counted).await?;
        forecast.screened = screened;
        for place in &mut forecast.asked {
            *place = escalated[*place];
        }
        Ok(forecast)
    }
}

impl Cascade {
    /// What this request would ask; prompts are counted of the first `counted` questions of each kind.
    ///
    /// # Errors
    /// An unknown policy, a failing store.
    pub async fn forecast(
        &self,
        request: &Request,
        counted: usize,
    ) -> Result<Forecast, ClassifyError> {
        let known = self.known(request).await?;
        let unknown = known
            .iter()
            .enumerate()
            .filter(|(_, known)| known.is_none());
        let asked: Vec<usize> = unknown.map(|(place, _)| place).collect();
        let mut forecast = Forecast::default();
        let one = |request: &Request| {
            let texts = asked.iter().map(|i| Arc::clone(&request.texts[*i]));
            Request {
                texts: texts.collect(),
                ..request.clone()
            }
        };
        match request.settings.mode {
            Mode::Score => forecast.score = self.questions(one(request), counted).await?,
            Mode::Reason => forecast.reason = self.questions(one(request), counted).await?,
            Mode::Auto => {
                let plan = self.plan(request).await?;
                forecast.reason = self.questions(one(&plan.reasoned), counted).await?;
                if plan.gap.is_some() {
                    let scored = one(&plan.scored);
                    let stored = self.recall.stored(&scored).await?;
                    let mut scored = scored;
                    let mut unknown = stored.iter().map(Option::is_none);
                    scored.texts.retain(|_| unknown.next().unwrap_or(true));
                    forecast.score = self.questions(scored, counted).await?;
                    forecast.at_most = true;
                }
            }
        }
        forecast.asked = asked;
        Ok(forecast)
    }

    async fn questions(
        &self,
        mut request: Request,
        counted: usize,
    ) -> Result<Questions, ClassifyError> {
        let asked = request.texts.len() as u64;
        request.texts.truncate(counted);
        let counted = request.texts.len() as u64;
        let tokens = match counted {
            0 => 0,
            _ => self.recall.tokens(request).await?.into_iter().sum(),
        };
        Ok(Questions {
            asked,
            tokens,
            counted,
        })
    }
}
