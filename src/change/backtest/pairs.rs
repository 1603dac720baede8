//! What both versions say about the sampled texts, and what the old one says when it is asked again.
//!
//! Takes distinct texts, gives pairs of decisions. What is stored is recalled and the rest is asked, a chunk under the one
//! version and then under the other, so that a budget that is spent leaves whole pairs. Knows nothing of samples.

use crate::change::direction::{Direction, Said, direction};
use crate::config::{BACKTEST_BUDGETED_TEXTS, BACKTEST_CHUNK_TEXTS};
use crate::engine::Asking;
use crate::engine::functions::Call;
use crate::error::Error;
use safeguard_udfs::{Decision, Provenance, SafeguardSettings, Source};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One text under both versions.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Under the version that stands.
    pub old: Decision,
    /// Under the one that is tried.
    pub new: Decision,
}

/// All texts under both versions, and what that took.
#[derive(Debug, Default)]
pub struct Pairs {
    /// By text.
    pub by_text: HashMap<Arc<str>, Pair>,
    /// Texts that were asked, under either version.
    pub asked: u64,
    /// In how long.
    pub asking: Duration,
}

/// What a decision says: a label, or `None` for a text that is undecided for a reason that lies in it. The outer `None`
/// is for what passes: nobody judged.
pub fn said(decision: &Decision) -> Option<Option<Said<'_>>> {
    match decision {
        Ok(verdict) => Some(Some(Said {
            label: &verdict.label,
            violates: verdict.violates,
        })),
        Err(undecided) if undecided.reason.is_fact() => Some(None),
        Err(_) => None,
    }
}

impl Pair {
    /// Whether both versions judged.
    pub fn is_judged(&self) -> bool {
        said(&self.old).is_some() && said(&self.new).is_some()
    }

    /// How the decision changed; `None` where it did not, and where it is not judged.
    pub fn direction(&self) -> Option<Direction> {
        direction(said(&self.old)?, said(&self.new)?)
    }

    /// The rules of a change: those that the new verdict cites; those of the old one where the new one does not violate.
    pub fn rules(&self) -> &[Arc<str>] {
        let verdict = match (&self.old, &self.new) {
            (_, Ok(new)) if new.violates => new,
            (Ok(old), _) => old,
            (Err(_), Ok(new)) => new,
            (Err(_), Err(_)) => return &[],
        };
        &verdict.rules
    }

    /// Why it is not judged, in SQL's word.
    pub fn missing(&self) -> Option<&'static str> {
        let passing = |decision: &Decision| match decision {
            Err(undecided) if !undecided.reason.is_fact() => Some(undecided.reason.as_str()),
            _ => None,
        };
        passing(&self.old).or_else(|| passing(&self.new))
    }
}

fn provenance(decision: &Decision) -> &Provenance {
    match decision {
        Ok(verdict) => &verdict.provenance,
        Err(undecided) => &undecided.provenance,
    }
}

/// Texts that are judged under the one version before they are under the other.
fn chunk(settings: &SafeguardSettings) -> usize {
    let SafeguardSettings {
        max_rows,
        max_tokens,
        max_seconds,
        ..
    } = settings;
    match max_rows.is_some() || max_tokens.is_some() || max_seconds.is_some() {
        true => BACKTEST_BUDGETED_TEXTS,
        false => BACKTEST_CHUNK_TEXTS,
    }
}

/// Judges distinct texts under both versions.
///
/// # Errors
/// As [`crate::engine::Engine::judge`].
pub async fn judge(
    call: &Call,
    (old, new): (&Asking, &Asking),
    texts: &[Arc<str>],
) -> Result<Pairs, Error> {
    let statement = call.statement();
    let mut pairs = Pairs::default();
    for chunk in texts.chunks(chunk(&old.settings)) {
        let began = Instant::now();
        let olds = call.engine.judge(old, chunk, &statement).await?;
        let news = call.engine.judge(new, chunk, &statement).await?;
        let was_asked = |decision: &&Decision| provenance(decision).source == Source::Asked;
        let asked = olds.iter().chain(&news).filter(was_asked).count();
        if asked > 0 {
            pairs.asked += asked as u64;
            pairs.asking += began.elapsed();
        }
        for (text, (old, new)) in chunk.iter().zip(olds.into_iter().zip(news)) {
            pairs.by_text.insert(Arc::clone(text), Pair { old, new });
        }
    }
    Ok(pairs)
}

/// How often each text, asked `repeats` times again, says something else than it did; 0 to 1, and how many answers that
/// stands on. Texts that were not answered are missing.
///
/// # Errors
/// As [`crate::engine::Engine::judge`].
pub async fn repeat(
    call: &Call,
    asking: &Asking,
    repeats: usize,
    texts: &[(Arc<str>, &Decision)],
) -> Result<HashMap<Arc<str>, (u64, u64)>, Error> {
    let again = Asking {
        fresh: true,
        ..asking.clone()
    };
    let statement = call.statement();
    let mut changed: HashMap<Arc<str>, (u64, u64)> = HashMap::new();
    for _ in 0..repeats {
        for chunk in texts.chunks(BACKTEST_CHUNK_TEXTS) {
            let asked: Vec<Arc<str>> = chunk.iter().map(|(text, _)| Arc::clone(text)).collect();
            let answers = call.engine.judge(&again, &asked, &statement).await?;
            for ((text, before), answer) in chunk.iter().zip(&answers) {
                if let (Some(before), Some(now)) = (said(before), said(answer)) {
                    let (changes, answers) = changed.entry(Arc::clone(text)).or_default();
                    *changes += u64::from(direction(before, now).is_some());
                    *answers += 1;
                }
            }
        }
    }
    Ok(changed)
}
