//! The stage between recall and the model: what a certified screen can decide, the model is not asked.
//!
//! Takes requests of any mode. What is stored of the model's own verdicts counts first; of the rest, texts that the screen
//! in force clears or convicts get its verdict, stored before it is returned as every verdict is, and all others are
//! escalated to [`super::cascade`]. No screen decides for inline policies, for texts that the model left undecided, for
//! `safeguard.screen = off`, or where measuring asks afresh. Knows how screens are kept and scored; knows nothing of how
//! one is made or certified.

use super::cascade::Cascade;
use crate::config::{SCREENS_LOADED_MAX, STORE_COMMIT_ROWS_MAX};
use crate::policy::{Policy, ScreenUse, Version};
use crate::screen::Screen;
use crate::store::{Digest, Record, ScreenInForce, now, text_digest, to_hex};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use safeguard_udfs::{
    Classifier, ClassifyError, Decision, Provenance, Request, Source, Stage, Verdict,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

type Decided = Result<(usize, Decision), ClassifyError>;

/// Changes whenever the meaning of a screen's key does.
const KEY_VERSION: &str = "safeguard screen 1";

/// What a screen's verdicts say where the model's say how they were asked.
const MODE: &str = "screen";

/// A screen thinks as much as it always does.
const EFFORT: &str = "none";

/// The first stage of all.
#[derive(Debug, Clone)]
pub struct Screening {
    pub(super) cascade: Cascade,
    loaded: Arc<Mutex<HashMap<Digest, Screen>>>,
}

impl Screening {
    /// In front of `cascade`.
    pub fn new(cascade: Cascade) -> Self {
        Self {
            cascade,
            loaded: Arc::default(),
        }
    }

    /// What decides without a screen.
    pub fn cascade(&self) -> &Cascade {
        &self.cascade
    }

    /// The screen that may decide for this request, if any.
    pub(super) async fn in_force(
        &self,
        request: &Request,
    ) -> Result<Option<InForce>, ClassifyError> {
        let version = self.cascade.policies.resolve(&request.policy)?;
        let asked = request.settings.screen && !request.fresh && !request.again;
        if !asked || version.number == 0 || version.policy.screen == ScreenUse::Never {
            return Ok(None);
        }
        let reasoner = &self.cascade.model.digest;
        let store = &self.cascade.store;
        let found = store.screen_in_force(&version.digest, reasoner).await;
        let Some(found) = found.map_err(store_failed)? else {
            return Ok(None);
        };
        match self.load(found.digest).await {
            Ok(screen) => Ok(Some(InForce::new(screen, found, version))),
            Err(why) => {
                // Without its screen a policy is dear, and not wrong.
                let note = format!(
                    "the screen of policy \"{}\" cannot be used: {why}; every text goes to the model",
                    version.reference()
                );
                tracing::warn!("{note}");
                request.tally.note(note);
                Ok(None)
            }
        }
    }

    async fn load(&self, digest: Digest) -> Result<Screen, String> {
        let known = |loaded: &HashMap<Digest, Screen>| loaded.get(&digest).cloned();
        let loaded = || self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(screen) = known(&loaded()) {
            return Ok(screen);
        }
        let found = self.cascade.store.screen_weights(digest).await;
        let bytes = found.map_err(|e| e.to_string())?;
        let bytes = bytes.ok_or_else(|| "its weights are not stored".to_owned())?;
        let screen = Screen::from_bytes(&bytes).map_err(|e| e.to_string())?;
        if screen.digest() != digest {
            return Err("its weights are not the ones that were certified".to_owned());
        }
        let mut loaded = loaded();
        if loaded.len() >= SCREENS_LOADED_MAX {
            loaded.clear();
        }
        Ok(loaded.entry(digest).or_insert(screen).clone())
    }

    async fn decide(self, request: Request) -> Result<BoxStream<'static, Decided>, ClassifyError> {
        let Some(in_force) = self.in_force(&request).await? else {
            return Ok(self.cascade.classify(request));
        };
        let (mut decided, mut unknown, mut escalated) = (Vec::new(), Vec::new(), Vec::new());
        for (place, stored) in self.stored(&request).await?.into_iter().enumerate() {
            match stored {
                // What the model could not decide, statistics do not either.
                Some(Err(_)) if request.settings.retry_undecided => escalated.push(place),
                Some(decision) => decided.push(Ok((place, decision))),
                None => unknown.push(place),
            }
        }
        let settled = self.screen(&in_force, &request, unknown).await?;
        request.tally.escalated(settled.escalated.len() as u64);
        decided.extend(settled.decided.into_iter().map(Ok));
        escalated.extend(settled.escalated);
        let decided = stream::iter(decided);
        if escalated.is_empty() {
            return Ok(decided.boxed());
        }
        let texts = escalated.iter().map(|i| Arc::clone(&request.texts[*i]));
        let rest = Request {
            texts: texts.collect(),
            // Another version may become the current one while this request is under way.
            policy: in_force.version.reference(),
            ..request
        };
        let asked = self.cascade.classify(rest);
        let asked = asked.map_ok(move |(i, decision)| (escalated[i], decision));
        Ok(decided.chain(asked).boxed())
    }

    /// What the model said before of each text, undecided included.
    pub(super) async fn stored(
        &self,
        request: &Request,
    ) -> Result<Vec<Option<Decision>>, ClassifyError> {
        let mut settings = request.settings.as_ref().clone();
        settings.retry_undecided = false;
        let all = Request {
            settings: Arc::new(settings),
            ..request.clone()
        };
        self.cascade.known(&all).await
    }

    /// Scores the texts at these places, and stores what the screen decides.
    async fn screen(
        &self,
        in_force: &InForce,
        request: &Request,
        places: Vec<usize>,
    ) -> Result<Settled, ClassifyError> {
        let mut settled = Settled::default();
        for places in places.chunks(STORE_COMMIT_ROWS_MAX) {
            let texts = places.iter().map(|i| Arc::clone(&request.texts[*i]));
            let began = Instant::now();
            let scores = in_force.scores(texts.collect()).await;
            let each = began.elapsed().as_secs_f64() / places.len() as f64;
            let mut keyed = Vec::new();
            for (place, score) in places.iter().zip(scores) {
                match in_force.decides(score) {
                    None => settled.escalated.push(*place),
                    Some(violates) => {
                        let text = text_digest(&request.texts[*place]);
                        keyed.push((*place, in_force.record(text, (score, each), violates)));
                    }
                }
            }
            let keys: Vec<Digest> = keyed.iter().map(|(_, r)| r.verdict_digest).collect();
            let stored = self.cascade.store.recall(&keys).await;
            let (mut known, mut new) = (Vec::new(), Vec::new());
            let stored = stored.map_err(store_failed)?.into_iter();
            for ((place, record), stored) in keyed.into_iter().zip(stored) {
                match stored {
                    Some(stored) => known.push((place, in_force.decision(&stored, true))),
                    None => new.push((place, record)),
                }
            }
            if !new.is_empty() {
                let records = new.iter().map(|(_, record)| record.clone()).collect();
                let kept = self.cascade.store.append(records).await;
                kept.map_err(store_failed)?;
            }
            settled.decided.extend(known);
            let fresh = new.iter().map(|(i, r)| (*i, in_force.decision(r, false)));
            settled.decided.extend(fresh);
        }
        Ok(settled)
    }
}

/// What became of the texts that a screen looked at.
#[derive(Default)]
struct Settled {
    decided: Vec<(usize, Decision)>,
    escalated: Vec<usize>,
}

/// A screen that may decide under one version of a policy.
pub(super) struct InForce {
    screen: Screen,
    /// What a verdict depends on beside the text.
    judge: blake3::Hasher,
    clear_below: f64,
    /// With the label that it gives.
    convict: Option<(f64, Arc<str>)>,
    pub(super) version: Arc<Version>,
    /// `screen 9f3a2b1c0d4e`
    name: Arc<str>,
    model_digest: Arc<str>,
}

impl InForce {
    fn new(screen: Screen, found: ScreenInForce, version: Arc<Version>) -> Self {
        let hex = to_hex(&found.digest);
        let clear_below = found.clear_below.unwrap_or(f64::NEG_INFINITY);
        let convict = convicts(&version.policy)
            .zip(found.convict_above)
            .map(|(label, above)| (above, label));
        let above = convict.as_ref().map_or(f64::INFINITY, |(at, _)| *at);
        let mut judge = blake3::Hasher::new();
        part(&mut judge, KEY_VERSION.as_bytes());
        part(&mut judge, version.digest.as_bytes());
        part(&mut judge, &found.digest);
        part(&mut judge, &clear_below.to_le_bytes());
        part(&mut judge, &above.to_le_bytes());
        Self {
            screen,
            judge,
            clear_below,
            convict,
            version,
            name: format!("screen {}", &hex[..12]).into(),
            model_digest: hex.into(),
        }
    }

    pub(super) async fn scores(&self, texts: Vec<Arc<str>>) -> Vec<f64> {
        let screen = self.screen.clone();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let scored = tokio::task::spawn_blocking(move || screen.scores(&texts, threads));
        scored.await.expect("bug: scoring panicked")
    }

    /// Whether a text with this score violates; `None` where the screen does not say.
    pub(super) fn decides(&self, score: f64) -> Option<bool> {
        match &self.convict {
            Some((above, _)) if score >= *above => Some(true),
            _ => (score < self.clear_below).then_some(false),
        }
    }

    /// What the verdict depends on: two with the same key are the same fact.
    fn key(&self, text: &Digest) -> Digest {
        let mut hasher = self.judge.clone();
        part(&mut hasher, text);
        *hasher.finalize().as_bytes()
    }

    fn record(&self, text: Digest, (score, seconds): (f64, f64), violates: bool) -> Record {
        let policy = &self.version.policy;
        let label = match &self.convict {
            Some((_, label)) if violates => label,
            _ => policy.allowed_label(),
        };
        Record {
            verdict_digest: self.key(&text),
            policy: Arc::clone(&self.version.name),
            policy_version: self.version.number,
            policy_digest: Arc::clone(&self.version.digest),
            text_digest: text,
            label: Some(Arc::clone(label)),
            violates: Some(violates),
            score: Some(score),
            gap: None,
            rationale: None,
            rules: Vec::new(),
            reason: None,
            stage: Stage::Screen.as_str().into(),
            mode: MODE.into(),
            effort: EFFORT.into(),
            model: Arc::clone(&self.name),
            model_digest: Arc::clone(&self.model_digest),
            tokens_in: 0,
            tokens_out: 0,
            seconds: Some(seconds),
            judged_at: now(),
        }
    }

    fn decision(&self, record: &Record, recalled: bool) -> Decision {
        let label = record
            .label
            .as_ref()
            .unwrap_or_else(|| self.version.policy.allowed_label());
        Ok(Verdict {
            label: Arc::clone(label),
            violates: record.violates.unwrap_or(true),
            score: record.score,
            gap: None,
            rationale: None,
            rules: Vec::new(),
            stage: Stage::Screen,
            provenance: Provenance {
                policy: self.version.reference(),
                model: Arc::clone(&record.model),
                judged_at: record.judged_at,
                tokens_in: 0,
                tokens_out: 0,
                seconds: 0.0,
                source: if recalled {
                    Source::Recalled
                } else {
                    Source::Screened
                },
            },
        })
    }
}

fn part(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// The label that a screen convicts with; `None` where the policy does not let it, or has several to choose from.
pub fn convicts(policy: &Policy) -> Option<Arc<str>> {
    match policy.screen {
        ScreenUse::Convict => policy.violating_label().cloned(),
        ScreenUse::Never | ScreenUse::Clear => None,
    }
}

fn store_failed(error: impl std::fmt::Display) -> ClassifyError {
    ClassifyError::Store(error.to_string())
}

#[async_trait::async_trait]
impl Classifier for Screening {
    fn classify(&self, request: Request) -> BoxStream<'static, Decided> {
        stream::once(self.clone().decide(request))
            .try_flatten()
            .boxed()
    }

    /// What the model would take: no screen is asked first.
    async fn tokens(&self, request: Request) -> Result<Vec<u64>, ClassifyError> {
        self.cascade.tokens(request).await
    }
}
