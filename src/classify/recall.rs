//! The first stage: what was decided before is not asked again, and what is decided now is stored before it is returned.
//!
//! Takes requests, looks their keys up in the store, passes the rest on. Two sessions that want the same key at the same
//! time ask once, also on two servers that share a store. Facts are stored: verdicts, and undecided for a reason that lies in the text; what passes (a spent
//! budget, a failing backend) is not. Settings that reach it never say `auto`: see [`super::cascade`]. Knows what a key is made of; knows nothing of how a text is judged.

mod behind;

use super::flight::{Claim, Flights, Ticket};
use crate::backend::ModelIdentity;
use crate::config::{STORE_ALOFT_LOOK_MS, STORE_COMMIT_ROWS_MAX};
use crate::policy::{CONTRACT_VERSION, Registry, Version};
use crate::store::{Aloft, Digest, Record, Store, text_digest};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use safeguard_udfs::{
    Classifier, ClassifyError, Decision, Lane, Provenance, Reason, Request, SafeguardSettings,
    Source, Stage, Undecided, Verdict,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

type Decided = Result<(usize, Decision), ClassifyError>;
type Decisions = BoxStream<'static, Decided>;

/// Changes whenever the meaning of a key does.
const KEY_VERSION: &str = "safeguard verdict 1";

/// Answers from the store, and stores what the next stage decides.
#[derive(Debug, Clone)]
pub struct Recall {
    policies: Arc<Registry>,
    store: Store,
    model: ModelIdentity,
    next: Arc<dyn Classifier>,
    flights: Arc<Flights>,
}

impl Recall {
    /// In front of `next`, which puts its questions to `model`.
    pub fn new(
        policies: Arc<Registry>,
        store: Store,
        model: ModelIdentity,
        next: Arc<dyn Classifier>,
    ) -> Self {
        let flights = Arc::default();
        Self {
            policies,
            store,
            model,
            next,
            flights,
        }
    }

    /// What the decision depends on beside the text.
    fn judge(&self, version: &Version, settings: &SafeguardSettings) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(KEY_VERSION.as_bytes());
        part(version.digest.as_bytes());
        part(&CONTRACT_VERSION.to_le_bytes());
        // The model's digest holds weights, tokenizer, template, arithmetic and greedy decoding.
        part(self.model.digest.as_bytes());
        part(settings.mode.as_str().as_bytes());
        part(settings.effort.as_str().as_bytes());
        hasher
    }

    /// Digest of what a decision under these settings depends on beside the text. Their mode must not be `auto`, which
    /// is a way to choose between facts and not a fact.
    pub fn judge_digest(&self, version: &Version, settings: &SafeguardSettings) -> Digest {
        *self.judge(version, settings).finalize().as_bytes()
    }

    /// The key of each text: what its decision depends on. Two requests with the same key are the same fact.
    fn keys(&self, version: &Version, request: &Request, texts: &[Digest]) -> Vec<Digest> {
        let judge = self.judge(version, &request.settings);
        let key = |text: &Digest| {
            let mut hasher = judge.clone();
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text);
            *hasher.finalize().as_bytes()
        };
        texts.iter().map(key).collect()
    }

    /// What is stored for each text of the request, in order; asks nobody.
    ///
    /// # Errors
    /// An unknown policy, a failing store.
    pub async fn stored(&self, request: &Request) -> Result<Vec<Option<Decision>>, ClassifyError> {
        if request.fresh {
            return Ok(vec![None; request.texts.len()]);
        }
        let version = self.policies.resolve(&request.policy)?;
        let texts: Vec<Digest> = request.texts.iter().map(|text| text_digest(text)).collect();
        let keys = self.keys(&version, request, &texts);
        let stored = self.store.recall(&keys).await.map_err(store_failed)?;
        let usable = |record: Arc<Record>| usable(&record, request).then(|| decision(&record));
        Ok(stored.into_iter().map(|r| r.and_then(usable)).collect())
    }

    fn decide(self, request: Request) -> BoxFuture<'static, Result<Decisions, ClassifyError>> {
        Box::pin(async move {
            let version = self.policies.resolve(&request.policy)?;
            let texts: Vec<Digest> = request.texts.iter().map(|text| text_digest(text)).collect();
            let keys = self.keys(&version, &request, &texts);
            // Claimed before looking: a key that is free now, and is not stored, is nobody else's to ask.
            let (mut claim, tickets) = self.flights.claim(&keys);
            if request.settings.lane == Lane::Interactive && tickets.iter().any(Option::is_some) {
                // It may be decided, and stored later.
                self.store.hurry();
            }
            let stored = self.store.recall(&keys).await.map_err(store_failed)?;
            let (mut known, mut mine, mut others) = (Vec::new(), Vec::new(), Vec::new());
            for (i, (stored, ticket)) in stored.into_iter().zip(tickets).enumerate() {
                match (stored.filter(|r| usable(r, &request)), ticket) {
                    (Some(record), _) => {
                        claim.release(&keys[i]);
                        known.push(Ok((i, decision(&record))));
                    }
                    (None, None) => mine.push(i),
                    (None, Some(ticket)) => others.push((i, ticket)),
                }
            }
            let hurry = request.settings.lane == Lane::Interactive;
            let (aloft, elsewhere) = self.take_off(&keys, &mut mine, &mut claim, hurry).await?;
            others.extend(elsewhere);
            let asked = Asked {
                recall: self.clone(),
                version,
                texts,
                keys,
                mine,
                claim,
                aloft,
            };
            let waited = self.wait(request.clone(), others);
            Ok(stream::iter(known)
                .chain(asked.run(&request))
                .chain(waited)
                .boxed())
        })
    }

    /// Leaves what other servers on the store ask about to them: those places wait until they are done.
    async fn take_off(
        &self,
        keys: &[Digest],
        mine: &mut Vec<usize>,
        claim: &mut Claim,
        hurry: bool,
    ) -> Result<(Aloft, Vec<(usize, Ticket)>), ClassifyError> {
        let wanted: Vec<Digest> = mine.iter().map(|i| keys[*i]).collect();
        let (aloft, ours) = self.store.take_off(wanted).await.map_err(store_failed)?;
        let (mut elsewhere, mut waiting) = (Vec::new(), Vec::new());
        let mut ours = ours.into_iter();
        mine.retain(|i| {
            let is_ours = ours.next() == Some(true);
            if !is_ours {
                claim.release(&keys[*i]);
                let (call, ticket) = oneshot::channel();
                waiting.push((keys[*i], call));
                elsewhere.push((*i, ticket));
            }
            is_ours
        });
        if !waiting.is_empty() {
            tokio::spawn(until_landed(self.store.clone(), waiting, hurry));
        }
        Ok((aloft, elsewhere))
    }

    /// What others are asking is recalled when they are done, or asked here when they gave up.
    fn wait(self, request: Request, others: Vec<(usize, Ticket)>) -> Decisions {
        if others.is_empty() {
            return stream::empty().boxed();
        }
        let again = async move {
            let mut places = Vec::with_capacity(others.len());
            let mut texts = Vec::with_capacity(others.len());
            for (i, ticket) in others {
                // Done or given up, the key is free.
                let _ = ticket.await;
                texts.push(Arc::clone(&request.texts[i]));
                places.push(i);
            }
            let decisions = self.decide(Request { texts, ..request }).await?;
            Ok::<_, ClassifyError>(decisions.map_ok(move |(i, decision)| (places[i], decision)))
        };
        stream::once(again).try_flatten().boxed()
    }
}

/// What this request has to ask itself.
struct Asked {
    recall: Recall,
    version: Arc<Version>,
    texts: Vec<Digest>,
    keys: Vec<Digest>,
    mine: Vec<usize>,
    claim: Claim,
    /// Given up when this is dropped, but for what is stored by then.
    aloft: Aloft,
}

/// Calls whoever waits for a key when no other server asks about it any more. Where that is to be soon, those are told.
async fn until_landed(store: Store, mut waiting: Vec<(Digest, oneshot::Sender<()>)>, hurry: bool) {
    let mut look = tokio::time::interval(Duration::from_millis(STORE_ALOFT_LOOK_MS));
    while !waiting.is_empty() {
        look.tick().await;
        // Whoever is gone waits no more.
        waiting.retain(|(_, call)| !call.is_closed());
        let keys = waiting.iter().map(|(key, _)| *key).collect();
        // Of a store that fails they are told when they look there themselves.
        let Ok(elsewhere) = store.asked_elsewhere(keys, hurry).await else {
            return;
        };
        let mut still = Vec::new();
        for ((key, call), is_elsewhere) in waiting.into_iter().zip(elsewhere) {
            if is_elsewhere {
                still.push((key, call));
            } else {
                let _ = call.send(());
            }
        }
        waiting = still;
    }
}

impl Asked {
    fn run(self, request: &Request) -> Decisions {
        if self.mine.is_empty() {
            return stream::empty().boxed();
        }
        let texts = self
            .mine
            .iter()
            .map(|i| Arc::clone(&request.texts[*i]))
            .collect();
        let request = Request {
            texts,
            ..request.clone()
        };
        // What is ready together is stored together: a commit costs the same for one as for many.
        let chunks = self
            .recall
            .next
            .classify(request.clone())
            .ready_chunks(STORE_COMMIT_ROWS_MAX);
        if request.settings.lane == Lane::Backfill {
            return behind::run(self, chunks.boxed(), request);
        }
        let state = (self, chunks, request);
        let stored = stream::try_unfold(state, |(mut asked, mut chunks, request)| async move {
            let Some(chunk) = chunks.next().await else {
                return Ok(None);
            };
            let (chunk, records) = asked.placed(chunk, &request);
            let stored = keys_of(&records);
            if !records.is_empty() {
                let store = &asked.recall.store;
                store.append(records).await.map_err(store_failed)?;
            }
            asked.landed(&chunk, &stored);
            Ok::<_, ClassifyError>(Some((stream::iter(chunk), (asked, chunks, request))))
        });
        stored.try_flatten().boxed()
    }

    /// Decisions by their places in the whole request, and what is to be stored of them.
    fn placed(&self, chunk: Vec<Decided>, request: &Request) -> (Vec<Decided>, Vec<Record>) {
        let place = |(i, decision)| (self.mine[i], decision);
        let chunk: Vec<Decided> = chunk.into_iter().map(|item| item.map(place)).collect();
        let record = |(i, decision): &(usize, Decision)| self.record(*i, decision, request);
        let records = chunk.iter().flatten().filter_map(record).collect();
        (chunk, records)
    }

    /// They are stored: nobody has to wait for them any more.
    fn landed(&mut self, chunk: &[Decided], stored: &[Digest]) {
        stored.iter().for_each(|key| self.aloft.landed(key));
        for (i, _) in chunk.iter().flatten() {
            self.claim.release(&self.keys[*i]);
        }
    }

    /// `None` for what passes.
    fn record(&self, i: usize, decision: &Decision, request: &Request) -> Option<Record> {
        let provenance = match decision {
            Ok(verdict) => &verdict.provenance,
            Err(undecided) if undecided.reason.is_fact() => &undecided.provenance,
            Err(_) => return None,
        };
        let verdict = decision.as_ref().ok();
        let mode = request.settings.mode.as_str();
        Some(Record {
            verdict_digest: self.keys[i],
            policy: Arc::clone(&self.version.name),
            policy_version: self.version.number,
            policy_digest: Arc::clone(&self.version.digest),
            text_digest: self.texts[i],
            label: verdict.map(|v| Arc::clone(&v.label)),
            violates: verdict.map(|v| v.violates),
            score: verdict.and_then(|v| v.score),
            gap: verdict.and_then(|v| v.gap),
            rationale: verdict.and_then(|v| v.rationale.clone()),
            rules: verdict.map(|v| v.rules.clone()).unwrap_or_default(),
            reason: decision.as_ref().err().map(|u| u.reason.as_str().into()),
            stage: verdict.map_or(mode, |v| v.stage.as_str()).into(),
            mode: mode.into(),
            effort: request.settings.effort.as_str().into(),
            model: Arc::clone(&self.recall.model.name),
            model_digest: Arc::clone(&self.recall.model.digest),
            tokens_in: provenance.tokens_in,
            tokens_out: provenance.tokens_out,
            seconds: (provenance.source != Source::Recalled).then_some(provenance.seconds),
            judged_at: provenance.judged_at,
        })
    }
}

fn keys_of(records: &[Record]) -> Vec<Digest> {
    records.iter().map(|record| record.verdict_digest).collect()
}

/// Whether the request is content with what is stored.
fn usable(record: &Record, request: &Request) -> bool {
    record.label.is_some() || !request.settings.retry_undecided
}

fn store_failed(error: impl std::fmt::Display) -> ClassifyError {
    ClassifyError::Store(error.to_string())
}

fn decision(record: &Record) -> Decision {
    let policy = match record.policy_version {
        0 => format!("{}@{}", record.policy, &record.policy_digest[..12]),
        version => format!("{}@{version}", record.policy),
    };
    let provenance = Provenance {
        policy: policy.into(),
        model: Arc::clone(&record.model),
        judged_at: record.judged_at,
        tokens_in: record.tokens_in,
        tokens_out: record.tokens_out,
        seconds: 0.0,
        source: Source::Recalled,
    };
    let Some(label) = &record.label else {
        let named = |r: &Reason| record.reason.as_deref() == Some(r.as_str());
        // A reason of a newer version of this program is still no verdict.
        let reason = Reason::ALL.into_iter().find(named).unwrap_or(Reason::Error);
        return Err(Undecided { reason, provenance });
    };
    let stages = [Stage::Screen, Stage::Score, Stage::Reason, Stage::Human];
    let stage = stages.into_iter().find(|s| *record.stage == *s.as_str());
    Ok(Verdict {
        label: Arc::clone(label),
        // The store holds both or neither; were it otherwise, the text would not be cleared by it.
        violates: record.violates.unwrap_or(true),
        score: record.score,
        gap: record.gap,
        rationale: record.rationale.clone(),
        rules: record.rules.clone(),
        stage: stage.unwrap_or(Stage::Reason),
        provenance,
    })
}

#[async_trait::async_trait]
impl Classifier for Recall {
    fn classify(&self, request: Request) -> Decisions {
        if request.fresh {
            return self.next.classify(request);
        }
        stream::once(self.clone().decide(request))
            .try_flatten()
            .boxed()
    }

    async fn tokens(&self, request: Request) -> Result<Vec<u64>, ClassifyError> {
        self.next.tokens(request).await
    }
}
