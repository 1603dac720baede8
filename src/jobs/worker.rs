//! A worker: claims a piece of work, judges its texts, gives it back with what became of each.
//!
//! Takes work from the store: a source to spool, a chunk of a backfill, texts of the queue. What was judged before is
//! recalled by the stack below, so that work that is done twice asks nothing twice. What decisions mean for the work says
//! [`super::outcome`]. Knows nothing of SQL.

use super::outcome::{Attempt, Outcome};
use super::pace::{Pace, micros};
use super::spool;
use crate::change::stats::{CONFIDENCE, wilson};
use crate::config::Role;
use crate::engine::{Asking, Engine};
use crate::store::{
    Claimant, Claimed, Digest, Fate, Judging, QueueClaim, Settlement, Spent, Store, StoreError,
    Then, text_digest,
};
use datafusion::config::ExtensionOptions;
use safeguard_udfs::{Answer, ClassifyError, Lane, SafeguardSettings, Statement};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

/// Does one piece of work at a time.
#[derive(Debug)]
pub struct Worker {
    pub(super) engine: Engine,
    pub(super) pace: Pace,
    name: Arc<str>,
    /// Whether the queue has the next turn, else backfills have.
    queue_next: AtomicBool,
}

/// Texts to be judged, of whatever kind.
struct Work {
    judging: Judging,
    settings: SafeguardSettings,
    /// Distinct, each with the times that it was asked and failed.
    texts: Vec<(Arc<str>, u32)>,
    setbacks: u32,
    /// What tells this work from others.
    salt: [i64; 2],
}

/// What a worker has in hand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Held {
    /// The source of a backfill.
    Spool(i64),
    /// A chunk: its backfill and its position.
    Chunk(i64, i64),
    /// Texts of the queue, of this kind.
    Queue(i64),
}

/// What became of it.
struct Judged {
    fates: HashMap<Digest, Fate>,
    then: Then,
    /// Why it can never be done.
    hopeless: Option<String>,
}

impl Worker {
    /// A worker with a name that no other has.
    pub fn new(engine: Engine, pace: Pace) -> Worker {
        let random = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        Worker {
            engine,
            pace,
            name: format!("{}-{random:016x}", std::process::id()).into(),
            queue_next: AtomicBool::new(true),
        }
    }

    /// Does the next piece of work, to its end or until `stop`; whether there was one.
    ///
    /// # Errors
    /// The store fails. What was claimed stays so until its lease is over.
    pub async fn step(&self, stop: &CancellationToken) -> Result<bool, StoreError> {
        if let Some(job) = self.store().claim_spool(self.claimant()).await? {
            self.store().pending().notify_one();
            spool::run(self, job, stop).await?;
            return Ok(true);
        }
        let queue = self.queue_next.fetch_xor(true, Relaxed);
        for queue in [queue, !queue] {
            let worked = match queue {
                true => self.queue(stop).await?,
                false => self.chunk(stop).await?,
            };
            if worked {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn store(&self) -> &Store {
        self.engine.store()
    }

    /// This worker, now.
    pub(super) fn claimant(&self) -> Claimant {
        let now = self.pace.clock.now();
        Claimant {
            worker: Arc::clone(&self.name),
            model_digest: Arc::clone(&self.engine.model().digest),
            now,
            lease_until: now.saturating_add(micros(self.pace.lease)),
        }
    }

    async fn chunk(&self, stop: &CancellationToken) -> Result<bool, StoreError> {
        let Some(claimed) = self.store().claim_chunk(self.claimant()).await? else {
            return Ok(false);
        };
        self.store().pending().notify_one();
        let at = (claimed.backfill, claimed.position);
        let work = of_chunk(&claimed);
        // Only admins begin backfills.
        let statement = paid_by(Role::Admin, &work);
        let held = Held::Chunk(at.0, at.1);
        let judged = self
            .watched(stop, held, self.judge(&work, &statement))
            .await;
        let judged = judged.unwrap_or_else(given_back);
        if let Some(why) = judged.hopeless {
            let now = self.pace.clock.now();
            self.store()
                .fail_backfill(claimed.backfill, why, now)
                .await?;
        }
        let settlement = self.settlement(judged.fates, judged.then, &statement);
        self.store().settle_chunk(at, settlement).await?;
        self.engine.limits().rest(Role::Admin).await;
        Ok(true)
    }

    async fn queue(&self, stop: &CancellationToken) -> Result<bool, StoreError> {
        let Some(claimed) = self.store().claim_queue(self.claimant()).await? else {
            return Ok(false);
        };
        self.store().pending().notify_one();
        let judge = claimed.judge;
        let work = of_queue(claimed);
        // Who put a text there is not kept: it counts as that of the least who may.
        let statement = paid_by(Role::Analyst, &work);
        let held = Held::Queue(judge);
        let judged = self
            .watched(stop, held, self.judge(&work, &statement))
            .await;
        let mut judged = judged.unwrap_or_else(given_back);
        if let Some(why) = judged.hopeless.take() {
            tracing::warn!(
                policy = work.judging.policy,
                why,
                "queued texts are given up"
            );
            let gone = |(text, _): &(Arc<str>, u32)| {
                let (reason, error) = ("policy", Some(why.clone()));
                (text_digest(text), Fate::GivenUp { reason, error })
            };
            judged.fates = work.texts.iter().map(gone).collect();
        }
        let settlement = self.settlement(judged.fates, judged.then, &statement);
        self.store().settle_queue(judge, settlement).await?;
        self.engine.limits().rest(Role::Analyst).await;
        Ok(true)
    }

    /// Does `work` while it is wanted: until `stop`, or until its claim cannot be renewed.
    pub(super) async fn watched<T>(
        &self,
        stop: &CancellationToken,
        held: Held,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                done = &mut work => return Some(done),
                () = tokio::time::sleep(self.pace.watch) => match self.renew(held).await {
                    Ok(true) => {}
                    Ok(false) => return None,
                    // The lease holds for a while, and the work may come to its end in it.
                    Err(error) => tracing::warn!("a claim is not renewed: {error}"),
                },
            }
        }
    }

    async fn renew(&self, held: Held) -> Result<bool, StoreError> {
        let (store, by) = (self.store(), self.claimant());
        match held {
            Held::Spool(id) => store.renew_spool(id, by).await,
            Held::Chunk(backfill, position) => store.renew_chunk((backfill, position), by).await,
            Held::Queue(judge) => store.renew_queue(judge, by).await,
        }
    }

    async fn judge(&self, work: &Work, statement: &Statement) -> Judged {
        if let Err(why) = self.known(&work.judging).await {
            return self.failed(work, why);
        }
        let asking = Asking {
            policy: work.judging.reference.as_str().into(),
            settings: Arc::new(work.settings.clone()),
            fresh: false,
        };
        let texts: Vec<Arc<str>> = work.texts.iter().map(|(t, _)| Arc::clone(t)).collect();
        match self.engine.judge(&asking, &texts, statement).await {
            Ok(decisions) => {
                let attempt = self.attempt(work);
                let Outcome { fates, then } = attempt.decided(&decisions, statement.tally());
                Judged {
                    fates,
                    then,
                    hopeless: None,
                }
            }
            Err(error) => self.failed(work, error),
        }
    }

    /// Whether the version is known here as it was when the work was asked for; another process may have published it.
    async fn known(&self, judging: &Judging) -> Result<(), ClassifyError> {
        let resolve = || self.engine.policies().resolve(&judging.reference);
        let version = match resolve() {
            Ok(version) => version,
            Err(_) => {
                let learnt = self.engine.learn_policies().await;
                learnt.map_err(|e| ClassifyError::Store(e.to_string()))?;
                resolve()?
            }
        };
        match *version.digest == *judging.policy_digest {
            true => Ok(()),
            false => Err(ClassifyError::InvalidPolicy {
                name: judging.policy.clone(),
                why: "its text is not the one that was asked for".to_owned(),
            }),
        }
    }

    fn failed(&self, work: &Work, error: ClassifyError) -> Judged {
        let passes = matches!(error, ClassifyError::Backend(_) | ClassifyError::Store(_));
        let why = error.to_string();
        Judged {
            fates: HashMap::new(),
            then: match passes {
                true => self.attempt(work).back(&why),
                false => Then::Again,
            },
            hopeless: (!passes).then_some(why),
        }
    }

    fn attempt<'a>(&self, work: &'a Work) -> Attempt<'a> {
        Attempt {
            texts: &work.texts,
            setbacks: work.setbacks,
            salt: work.salt,
            now: self.pace.clock.now(),
        }
    }

    fn settlement(
        &self,
        fates: HashMap<Digest, Fate>,
        then: Then,
        statement: &Statement,
    ) -> Settlement {
        let done = statement.tally().summary();
        Settlement {
            worker: Arc::clone(&self.name),
            now: self.pace.clock.now(),
            fates,
            spent: Spent {
                recalled: done.recalled,
                asked: done.asked,
                tokens_in: done.tokens_in,
                tokens_out: done.tokens_out,
            },
            then,
            interval: |hits, n| {
                let interval = wilson(hits, n, CONFIDENCE);
                (interval.low, interval.high)
            },
        }
    }
}

/// The account of some work, against a role's limits of a day.
fn paid_by(role: Role, work: &Work) -> Statement {
    Statement::paid_by(work.settings.clone(), Some(role.as_str().into()))
}

/// Nothing came of it, and nobody is to blame.
fn given_back() -> Judged {
    Judged {
        fates: HashMap::new(),
        then: Then::Again,
        hopeless: None,
    }
}

fn of_chunk(claimed: &Claimed) -> Work {
    // In their order, each once.
    let mut seen = std::collections::HashSet::new();
    let texts = claimed.rows.iter().map(|row| &row.text);
    let distinct = texts.filter(|text| seen.insert(Arc::clone(text)));
    let settings = SafeguardSettings {
        max_tokens: claimed.budget_left,
        ..settings_of(&claimed.settings, &claimed.judging)
    };
    Work {
        judging: claimed.judging.clone(),
        settings,
        texts: distinct.map(|t| (Arc::clone(t), claimed.tries)).collect(),
        setbacks: claimed.setbacks,
        salt: [claimed.backfill, claimed.position],
    }
}

fn of_queue(claimed: QueueClaim) -> Work {
    let settings = SafeguardSettings {
        retry_undecided: claimed.retry_undecided,
        ..settings_of("{}", &claimed.judging)
    };
    Work {
        settings,
        texts: claimed.texts,
        setbacks: claimed.setbacks,
        salt: [-1, claimed.judge],
        judging: claimed.judging,
    }
}

/// The settings under which texts are judged: those of whoever asked for it, without what is about a statement.
pub(super) fn settings_of(stored: &str, judging: &Judging) -> SafeguardSettings {
    let mut settings = SafeguardSettings::default();
    for (name, value) in named(stored) {
        if let Some(name) = name.strip_prefix("safeguard.")
            && let Err(error) = settings.set(name, &value)
        {
            tracing::warn!("a setting of background work is left out: {error}");
        }
    }
    for (name, value) in [("mode", &judging.mode), ("effort", &judging.effort)] {
        if let Err(error) = settings.set(name, value) {
            tracing::warn!("a setting of background work is left out: {error}");
        }
    }
    SafeguardSettings {
        answer: Answer::Wait,
        lane: Lane::Backfill,
        max_rows: None,
        max_tokens: None,
        max_seconds: None,
        max_undecided_ratio: 1.0,
        ..settings
    }
}

/// Settings by name, as they are stored.
pub(super) fn named(stored: &str) -> BTreeMap<String, String> {
    serde_json::from_str(stored).unwrap_or_default()
}
