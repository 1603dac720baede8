//! The model's thread: prompts as token ids in, replies out, many at a time.
//!
//! Owns the model, the rows in flight and the keys and values of the policies asked lately. Each turn it takes what has
//! arrived, drops the rows whose callers have left, and has the model read one step for all that run, as [`schedule`]
//! says; so a caller who leaves costs no more than the step that was under way. A reply depends on its own prompt alone.
//! It knows ids and labels; it knows nothing of async, and not what is best read next.
//!
//! Where a step fails, what it read is lost and its rows are read again from the beginning, one at a time until the
//! place is passed: a row that fails alone is the culprit and gets the error, the others never know. A policy's prefix
//! that fails alone takes the rows that run on it along. There is no telling that the model itself is broken: then
//! every row fails alone, each with its own error.
//!
//! [`schedule`]: super::schedule

mod row;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use super::harmony::Harmony;
use super::labels::LabelTrie;
use super::prefixes::{PrefixKey, Prefixes};
use super::queue::{Placed, Queue};
use super::schedule::{Arrival, Limits, Part, PrefixId, RowId, Schedule};
use super::{BackendError, PromptPolicy, Reply};
use crate::config::{
    ADMISSION_WINDOW, ANALYSIS_TOKENS_EXPECTED, BACKFILL_SHARE, LOGITS_ROWS_MAX,
    PREFIX_CACHE_BYTES_MAX, RUNNING_KV_BYTES_MAX, RUNNING_TEXTS_KEPT, RUNNING_TEXTS_MAX,
    STEP_TOKENS_MAX,
};
use crate::model::{GptOss, KvCache, ModelError, Piece};
use row::{Forced, Row, Stage};
use safeguard_udfs::{Effort, Lane};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::oneshot;

/// One prompt on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) policy: Arc<PromptPolicy>,
    pub(super) effort: Effort,
    /// Tokens of the policy's prefix.
    pub(super) prefix_tokens: usize,
    /// The text and the generation prompt.
    pub(super) suffix: Vec<u32>,
    /// The policy's labels.
    pub(super) labels: LabelTrie,
    /// Whether an analysis is decoded first.
    pub(super) reason: bool,
    pub(super) reply: oneshot::Sender<Result<Reply, BackendError>>,
}

/// What the thread has done, for whoever wants to see that it was little.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Prefixes computed.
    pub(super) prefixes: AtomicU64,
    /// Tokens decoded, also for callers who left.
    pub(super) decoded: AtomicU64,
    /// Steps that the model was asked for.
    pub(super) steps: AtomicU64,
    /// Tokens in them.
    pub(super) tokens: AtomicU64,
}

/// The thread's state.
pub(super) struct Engine {
    model: GptOss,
    harmony: Arc<Harmony>,
    forced: Forced,
    prefixes: Prefixes<KvCache>,
    work: Arc<Work>,
    schedule: Schedule,
    /// Waiting and running.
    rows: HashMap<RowId, Row>,
    /// The policies of these rows.
    policies: HashMap<PrefixKey, Policy>,
    /// The prefixes that running rows stand on or wait for.
    open: HashMap<PrefixId, Open>,
    /// Names given.
    names: u64,
}

/// A policy of rows in flight.
struct Policy {
    prefix: PrefixId,
    /// How many.
    rows: usize,
}

/// A prefix while rows run on it.
struct Open {
    key: PrefixKey,
    /// All of it; empty where it was at hand.
    ids: Vec<u32>,
    read: usize,
    /// What has read `read` of it; gone after a step that failed.
    cache: Option<KvCache>,
    ready: bool,
}

/// Whose sequence a piece of a step is.
#[derive(Clone, Copy)]
enum Owner {
    Prefix(PrefixId),
    Row(RowId),
    /// Of a row, the inner path of this number.
    Branch(RowId, usize),
}

/// A sequence in the hands of the model.
struct Taken {
    owner: Owner,
    ids: Vec<u32>,
    cache: KvCache,
}

/// What the last token of a sequence left behind, `[hidden]`.
type Hidden = Vec<f32>;

/// The limits of this program; a small model reads more in a step.
pub(super) fn limits() -> Limits {
    Limits {
        step_tokens: STEP_TOKENS_MAX,
        rows: RUNNING_TEXTS_MAX,
        kept: RUNNING_TEXTS_KEPT,
        bytes: RUNNING_KV_BYTES_MAX,
        window: ADMISSION_WINDOW,
        expected: ANALYSIS_TOKENS_EXPECTED,
        share: BACKFILL_SHARE,
    }
}

impl Engine {
    pub(super) fn new(
        model: GptOss,
        harmony: Arc<Harmony>,
        work: Arc<Work>,
        limits: Limits,
    ) -> Self {
        Engine {
            model,
            forced: Forced::new(&harmony),
            harmony,
            prefixes: Prefixes::new(PREFIX_CACHE_BYTES_MAX),
            work,
            schedule: Schedule::new(limits),
            rows: HashMap::new(),
            policies: HashMap::new(),
            open: HashMap::new(),
            names: 0,
        }
    }

    /// Answers what the queue holds until it closes; what is under way then is dropped.
    pub(super) fn run(mut self, queue: &Queue<Job>) {
        while let Some(arrived) = queue.take(self.rows.is_empty()) {
            self.turn(arrived);
        }
    }

    /// Takes in what arrived, lets go of who has left, and reads one step.
    fn turn(&mut self, arrived: Vec<(Lane, Placed<Job>)>) {
        for (lane, placed) in arrived {
            self.arrive(lane, placed);
        }
        self.forget(|row| row.job().reply.is_closed());
        self.admit();
        let (model, schedule) = (&self.model, &self.schedule);
        let parts = schedule.step(&|shared, tokens| model.own_bytes(shared, tokens));
        if !parts.is_empty() {
            self.step(&parts);
            self.forget(|row| row.is_answered());
        }
    }

    fn arrive(&mut self, lane: Lane, placed: Placed<Job>) {
        let job = &placed.work;
        let (prefix_tokens, reason) = (job.prefix_tokens, job.reason);
        let key = (Arc::clone(&job.policy.digest), job.effort);
        self.names += 2;
        let (name, new_prefix) = (self.names, self.names + 1);
        let policy = self.policies.entry(key).or_insert(Policy {
            prefix: new_prefix,
            rows: 0,
        });
        policy.rows += 1;
        let prefix = policy.prefix;
        let row = Row::new(placed, prefix, &self.forced);
        let prompt = row.unread();
        self.rows.insert(name, row);
        if self.is_too_long(name, 0) {
            return;
        }
        let answer = self.forced.budget + self.forced.finish.len();
        self.schedule.arrive(Arrival {
            row: name,
            lane,
            prefix,
            prefix_tokens,
            prompt,
            expected: if reason { answer } else { 0 },
        });
    }

    /// Lets go of rows, of prefixes that no other row needs, and of the places these held.
    fn forget(&mut self, is_gone: impl Fn(&Row) -> bool) {
        let policies = &mut self.policies;
        self.rows.retain(|_, row| {
            if !is_gone(row) && !row.is_answered() {
                return true;
            }
            let key = (Arc::clone(&row.job().policy.digest), row.job().effort);
            if let Some(policy) = policies.get_mut(&key) {
                policy.rows -= 1;
                if policy.rows == 0 {
                    policies.remove(&key);
                }
            }
            false
        });
        let rows = &self.rows;
        self.schedule.retain(|row| rows.contains_key(&row));
        self.close();
    }

    /// Lets go of the prefixes that no running row stands on; those that were read stay among the lately asked.
    fn close(&mut self) {
        let (schedule, prefixes) = (&self.schedule, &mut self.prefixes);
        self.open.retain(|&prefix, open| {
            let is_open = schedule.is_open(prefix);
            if !is_open
                && open.ready
                && let Some(cache) = open.cache.take()
            {
                let bytes = cache.bytes();
                prefixes.put(open.key.clone(), cache, bytes);
            }
            is_open
        });
    }

    fn admit(&mut self) {
        let model = &self.model;
        let admitted = self
            .schedule
            .admit(&|shared, tokens| model.own_bytes(shared, tokens));
        for row in admitted.sent_back {
            if let Some(row) = self.rows.get_mut(&row) {
                row.restart();
            }
        }
        self.close();
        for prefix in admitted.opened {
            self.open_prefix(prefix);
        }
    }

    fn open_prefix(&mut self, prefix: PrefixId) {
        let first = self.schedule.rows_of(prefix).next();
        let Some(row) = first.and_then(|row| self.rows.get(&row)) else {
            return;
        };
        let job = row.job();
        let key = (Arc::clone(&job.policy.digest), job.effort);
        let kept = self.prefixes.get(&key);
        let ready = kept.is_some();
        let ids = match ready {
            true => Vec::new(),
            false => self
                .harmony
                .prefix(&job.policy.text, job.effort)
                .expect("bug: a prefix that was measured is too long"),
        };
        let open = Open {
            key,
            ids,
            read: 0,
            cache: kept,
            ready,
        };
        self.open.insert(prefix, open);
        if ready {
            self.schedule.prefix_is_ready(prefix);
        }
    }

    fn step(&mut self, parts: &[Part]) {
        let mut taken: Vec<Taken> = Vec::with_capacity(parts.len());
        for part in parts {
            self.take(*part, &mut taken);
        }
        let tokens: usize = taken.iter().map(|taken| taken.ids.len()).sum();
        self.work.steps.fetch_add(1, Ordering::Relaxed);
        self.work.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        let mut pieces: Vec<Piece> = taken
            .iter_mut()
            .map(|Taken { ids, cache, .. }| Piece { ids, cache })
            .collect();
        match self.model.step(&mut pieces) {
            Ok(hidden) => {
                self.schedule.succeeded(parts);
                self.succeeded(taken, &hidden);
            }
            Err(e) => self.failed(parts, &e),
        }
    }

    /// The sequences of one part, with the ids to append to them.
    fn take(&mut self, part: Part, taken: &mut Vec<Taken>) {
        const UNKNOWN: &str = "bug: a step of a sequence that nobody has";
        match part {
            Part::Prefix { prefix, tokens } => {
                let new_cache = || self.model.new_cache();
                let open = self.open.get_mut(&prefix).expect(UNKNOWN);
                taken.push(Taken {
                    owner: Owner::Prefix(prefix),
                    ids: open.ids[open.read..open.read + tokens].to_vec(),
                    cache: open.cache.take().unwrap_or_else(new_cache),
                });
            }
            Part::Row { row: name, tokens } => {
                let row = self.rows.get_mut(&name).expect(UNKNOWN);
                let prefix = self.open.get(&row.prefix).and_then(|p| p.cache.as_ref());
                taken.push(Taken {
                    owner: Owner::Row(name),
                    ids: row.next(tokens),
                    cache: row.take_cache(prefix.expect(UNKNOWN)),
                });
            }
            Part::Branches { row: name, count } => {
                let row = self.rows.get_mut(&name).expect(UNKNOWN);
                for (number, ids, cache) in row.branches(count) {
                    let owner = Owner::Branch(name, number);
                    taken.push(Taken { owner, ids, cache });
                }
            }
        }
    }

    /// Puts the sequences back, and asks for logits where one is at the end of what it had.
    fn succeeded(&mut self, taken: Vec<Taken>, hidden: &[f32]) {
        let width = self.model.config().hidden_size;
        let (mut decoding, mut labels, mut branches) = (Vec::new(), Vec::new(), Vec::new());
        for (Taken { owner, ids, cache }, hidden) in taken.into_iter().zip(hidden.chunks(width)) {
            match owner {
                Owner::Prefix(prefix) => self.prefix_read(prefix, ids.len(), cache),
                Owner::Branch(row, number) => branches.push(((row, number), hidden.to_vec())),
                Owner::Row(name) => {
                    let Some(row) = self.rows.get_mut(&name) else {
                        continue;
                    };
                    row.read(ids.len(), cache);
                    match row.stage {
                        _ if row.unread() > 0 => {}
                        Stage::Analysis => decoding.push((name, hidden.to_vec())),
                        _ => labels.push((name, hidden.to_vec())),
                    }
                }
            }
        }
        self.decode(&decoding);
        self.score(labels);
        self.branch(&branches);
    }

    fn prefix_read(&mut self, prefix: PrefixId, tokens: usize, cache: KvCache) {
        let Some(open) = self.open.get_mut(&prefix) else {
            return;
        };
        open.read += tokens;
        if open.read == open.ids.len() {
            open.ready = true;
            self.work.prefixes.fetch_add(1, Ordering::Relaxed);
            let bytes = cache.bytes();
            self.prefixes.put(open.key.clone(), cache.clone(), bytes);
        }
        open.cache = Some(cache);
    }

    /// The next token of each analysis.
    fn decode(&mut self, rows: &[(RowId, Hidden)]) {
        for rows in rows.chunks(LOGITS_ROWS_MAX) {
            let all = logits_of(rows, |hidden| self.model.all_logits(hidden));
            for ((name, _), logits) in rows.iter().zip(all) {
                let next = match logits {
                    Ok(logits) => self.most_probable(&logits),
                    Err(e) => {
                        self.fail(*name, &e);
                        continue;
                    }
                };
                self.work.decoded.fetch_add(1, Ordering::Relaxed);
                if let Some(row) = self.rows.get_mut(name) {
                    row.decoded(next, &self.forced);
                    let unread = row.unread();
                    if !self.is_too_long(*name, 0) {
                        self.schedule.read_on(*name, unread);
                    }
                }
            }
        }
    }

    /// The most probable token that an analysis may go on with: an ordinary one, or `<|end|>`.
    fn most_probable(&self, logits: &[f32]) -> u32 {
        let (tokenizer, end) = (self.harmony.tokenizer(), self.harmony.end());
        let mut best = (end, f32::NEG_INFINITY);
        for (id, &logit) in (0u32..).zip(logits) {
            if logit > best.1 && (id == end || tokenizer.is_ordinary(id)) {
                best = (id, logit);
            }
        }
        best.0
    }

    /// The logits of the labels' first tokens; rows whose labels begin alike are computed together.
    fn score(&mut self, mut rows: Vec<(RowId, Hidden)>) {
        while let Some((first, _)) = rows.first() {
            let Some(row) = self.rows.get(first) else {
                rows.remove(0);
                continue;
            };
            let tokens = row.job().labels.first_tokens().to_vec();
            let alike = |name: &RowId| {
                let row = self.rows.get(name);
                row.is_some_and(|row| row.job().labels.first_tokens() == tokens)
            };
            let (group, others) = rows.into_iter().partition(|(name, _)| alike(name));
            rows = others;
            let all = logits_of(&group, |hidden| self.model.some_logits(hidden, &tokens));
            for ((name, _), logits) in group.iter().zip(all) {
                match logits {
                    Ok(logits) => self.scored(*name, &logits),
                    Err(e) => self.fail(*name, &e),
                }
            }
        }
    }

    fn scored(&mut self, name: RowId, root: &[f32]) {
        let Some(row) = self.rows.get_mut(&name) else {
            return;
        };
        let paths = row.scored(root);
        if paths.is_empty() {
            row.answer(&self.harmony);
        } else if !self.is_too_long(name, paths.iter().copied().max().unwrap_or(0)) {
            self.schedule.branch(name, paths);
        }
    }

    /// What the labels have behind their branches.
    fn branch(&mut self, branches: &[((RowId, usize), Hidden)]) {
        for branches in branches.chunks(LOGITS_ROWS_MAX) {
            let all = logits_of(branches, |hidden| self.model.all_logits(hidden));
            for (((name, number), _), logits) in branches.iter().zip(all) {
                let row = self.rows.get_mut(name);
                match (logits, row) {
                    (Err(e), _) => self.fail(*name, &e),
                    (Ok(logits), Some(row)) => row.branched(*number, &logits, &self.harmony),
                    (Ok(_), None) => {}
                }
            }
        }
    }

    /// A step that failed: its sequences are lost.
    fn failed(&mut self, parts: &[Part], e: &ModelError) {
        self.schedule.failed(parts);
        if let [part] = parts {
            let culprits: Vec<RowId> = match *part {
                Part::Prefix { prefix, .. } => self.schedule.rows_of(prefix).collect(),
                Part::Row { row, .. } | Part::Branches { row, .. } => vec![row],
            };
            culprits.into_iter().for_each(|row| self.fail(row, e));
            return;
        }
        for part in parts {
            match part {
                Part::Prefix { prefix, .. } => {
                    if let Some(open) = self.open.get_mut(prefix) {
                        (open.read, open.cache) = (0, None);
                    }
                }
                Part::Row { row, .. } | Part::Branches { row, .. } => {
                    if let Some(row) = self.rows.get_mut(row) {
                        row.restart();
                    }
                }
            }
        }
    }

    fn fail(&mut self, row: RowId, e: &ModelError) {
        if let Some(row) = self.rows.get_mut(&row) {
            row.reply(Err(BackendError::Model(e.to_string())));
        }
    }

    /// Whether the model has no positions for what a row has yet to read, and `more` behind it; then the row has failed.
    fn is_too_long(&mut self, name: RowId, more: usize) -> bool {
        let limit = self.model.config().max_position_embeddings;
        let len = self.rows.get(&name).map_or(0, Row::len) + more;
        if len > limit {
            self.fail(name, &ModelError::TooLong { len, limit });
        }
        len > limit
    }
}

/// The logits of each row: of all at once, or one by one where that fails.
fn logits_of<T>(
    rows: &[(T, Hidden)],
    logits: impl Fn(&[f32]) -> Result<Vec<f32>, ModelError>,
) -> Vec<Result<Vec<f32>, ModelError>> {
    if rows.is_empty() {
        return Vec::new();
    }
    let hidden: Vec<&[f32]> = rows.iter().map(|(_, hidden)| hidden.as_slice()).collect();
    match logits(&hidden.concat()) {
        Ok(all) => {
            let width = all.len() / rows.len();
            all.chunks(width).map(|row| Ok(row.to_vec())).collect()
        }
        Err(e) if rows.len() == 1 => vec![Err(e)],
        Err(_) => hidden.into_iter().map(logits).collect(),
    }
}
