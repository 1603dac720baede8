//! What one statement knows already: each (policy, text) is asked once, wherever in the plan it stands.
//!
//! Takes texts from any operator of the statement, gives their decisions. Two operators, or two batches of one, that
//! meet the same text wait for the same answer. Knows nothing of where decisions come from.

use crate::classifier::{Classifier, ClassifyError, Decision, Request};
use crate::settings::SafeguardSettings;
use crate::tally::Tally;
use futures::TryStreamExt;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Decisions remembered within one statement; beyond it a text that comes again is asked again, and the verdict store
/// behind the classifier recalls it.
pub const KNOWN_MAX: usize = 100_000;

/// Texts judged before [`SafeguardSettings::max_undecided_ratio`] is looked at.
pub const UNDECIDED_RATIO_TEXTS_MIN: u64 = 20;

/// One statement: its settings, its tally and what it knows. Put one into the session's config as an extension to
/// watch a statement; else the planner makes one for each plan.
#[derive(Debug)]
pub struct Statement {
    settings: Arc<SafeguardSettings>,
    tally: Arc<Tally>,
    known: Mutex<HashMap<Key, Slot>>,
}

type Key = [u8; 32];

#[derive(Debug)]
enum Slot {
    /// Being asked; these wait for it.
    Asked(Vec<oneshot::Sender<Arc<Decision>>>),
    Known(Arc<Decision>),
}

impl Statement {
    /// A statement that begins now.
    pub fn new(settings: SafeguardSettings) -> Self {
        Self::paid_by(settings, None)
    }

    /// The same, whose questions count against what `payer` may ask besides.
    pub fn paid_by(settings: SafeguardSettings, payer: Option<Arc<str>>) -> Self {
        let tally = Arc::new(Tally::paid_by(&settings, payer));
        Self {
            settings: Arc::new(settings),
            tally,
            known: Mutex::default(),
        }
    }

    /// The settings it began with.
    pub fn settings(&self) -> &Arc<SafeguardSettings> {
        &self.settings
    }

    /// Its counters.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    pub(crate) fn request(&self, policy: Arc<str>, texts: Vec<Arc<str>>) -> Request {
        Request {
            policy,
            texts,
            settings: Arc::clone(&self.settings),
            tally: Arc::clone(&self.tally),
            again: false,
            fresh: false,
        }
    }

    /// The decisions of these texts, in their order.
    pub(crate) async fn decide(
        &self,
        classifier: &dyn Classifier,
        policy: &Arc<str>,
        texts: &[Arc<str>],
    ) -> Result<Vec<Arc<Decision>>, ClassifyError> {
        let keys: Vec<Key> = texts.iter().map(|text| key(policy, text)).collect();
        let mut answers: Vec<Option<Arc<Decision>>> = vec![None; texts.len()];
        loop {
            let (mine, others) = self.claim(&keys, &mut answers);
            if mine.is_empty() && others.is_empty() {
                return Ok(answers.into_iter().flatten().collect());
            }
            let claim = Claim {
                statement: self,
                keys: mine.iter().map(|i| keys[*i]).collect(),
            };
            if !mine.is_empty() {
                let request = self.request(
                    Arc::clone(policy),
                    mine.iter().map(|i| Arc::clone(&texts[*i])).collect(),
                );
                let mut decisions = classifier.classify(request);
                while let Some((i, decision)) = decisions.try_next().await? {
                    let decision = Arc::new(decision);
                    self.settle(&claim.keys[i], &decision)?;
                    answers[mine[i]] = Some(decision);
                }
                let missing = mine.iter().filter(|i| answers[**i].is_none()).count();
                assert!(
                    missing == 0,
                    "bug: the classifier left {missing} of {} texts without a decision",
                    mine.len()
                );
            }
            for (i, answer) in others {
                // Whoever asked was cancelled: the next round asks.
                answers[i] = answer.await.ok();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills in what is known; claims what nobody asked yet; waits for the rest.
    #[allow(clippy::type_complexity)]
    fn claim(
        &self,
        keys: &[Key],
        answers: &mut [Option<Arc<Decision>>],
    ) -> (Vec<usize>, Vec<(usize, oneshot::Receiver<Arc<Decision>>)>) {
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        let mut known = self.lock();
        for (i, key) in keys
            .iter()
            .enumerate()
            .filter(|(i, _)| answers[*i].is_none())
            .collect::<Vec<_>>()
        {
            match known.entry(*key) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Slot::Asked(Vec::new()));
                    mine.push(i);
                }
                Entry::Occupied(mut slot) => match slot.get_mut() {
                    Slot::Known(decision) => answers[i] = Some(Arc::clone(decision)),
                    Slot::Asked(waiting) => {
                        let (sender, receiver) = oneshot::channel();
                        waiting.push(sender);
                        others.push((i, receiver));
                    }
                },
            }
        }
        (mine, others)
    }

    fn settle(&self, key: &Key, decision: &Arc<Decision>) -> Result<(), ClassifyError> {
        let mut known = self.lock();
        let slot = known.remove(key);
        if known.len() < KNOWN_MAX {
            known.insert(*key, Slot::Known(Arc::clone(decision)));
        }
        drop(known);
        if let Some(Slot::Asked(waiting)) = slot {
            for sender in waiting {
                // A waiter that is gone no longer wants it.
                let _ = sender.send(Arc::clone(decision));
            }
            self.tally.decided(decision);
        }
        self.tally
            .check_undecided(self.settings.max_undecided_ratio)
    }
}

/// Keys that are being asked; given up where no decision came.
struct Claim<'a> {
    statement: &'a Statement,
    keys: Vec<Key>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut known = self.statement.lock();
        for key in &self.keys {
            if matches!(known.get(key), Some(Slot::Asked(_))) {
                known.remove(key);
            }
        }
    }
}

fn key(policy: &str, text: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(policy.len() as u64).to_le_bytes());
    hasher.update(policy.as_bytes());
    hasher.update(text.as_bytes());
    *hasher.finalize().as_bytes()
}
