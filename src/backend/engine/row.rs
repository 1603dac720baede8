//! One text on its way to a reply.
//!
//! Takes what the model said of it, gives the ids it has to read next and in the end its reply: the prompt and the header
//! of an analysis, then the analysis token by token, the header of the answer, the labels. It can begin anew at any
//! time: it keeps its ids, and only its sequence has to be read again. It asks no model.

use super::Job;
use crate::backend::harmony::Harmony;
use crate::backend::labels::{most_probable, shares};
use crate::backend::queue::Placed;
use crate::backend::schedule::PrefixId;
use crate::backend::{Answer, BackendError, Reply};
use crate::config::ANALYSIS_TOKENS_MAX;
use crate::model::KvCache;
use std::ops::Range;
use tokio::sync::oneshot;

/// What is the same for all texts.
#[derive(Debug)]
pub(super) struct Forced {
    /// Opens an analysis.
    pub(super) analysis: Vec<u32>,
    /// Ends it and opens the answer.
    pub(super) finish: Vec<u32>,
    /// Ends an analysis where the model says so.
    pub(super) end: u32,
    /// Tokens of an analysis.
    pub(super) budget: usize,
}

impl Forced {
    pub(super) fn new(harmony: &Harmony) -> Forced {
        let budget = harmony.template().analysis_tokens_max;
        Forced {
            analysis: harmony.analysis_header(),
            finish: harmony.final_header(),
            end: harmony.end(),
            budget: budget.min(ANALYSIS_TOKENS_MAX),
        }
    }
}

/// What is asked of the model where the row's ids end.
#[derive(Debug)]
pub(super) enum Stage {
    /// The next token of the analysis.
    Analysis,
    /// The labels.
    Label,
    /// What is behind the labels' branches: each label's score so far, and branches that were read.
    Branches { scores: Vec<f64>, read: usize },
}

#[derive(Debug)]
pub(super) struct Row {
    placed: Placed<Job>,
    pub(super) prefix: PrefixId,
    pub(super) stage: Stage,
    /// All that stands behind the prefix so far.
    ids: Vec<u32>,
    /// How many of them the sequence has read.
    read: usize,
    /// The sequence; none before its first step.
    cache: Option<KvCache>,
    /// Where the analysis stands in `ids`, without its end.
    analysis: Range<usize>,
    /// Tokens decoded, with the end.
    tokens_out: u64,
    /// Whether the caller has been told.
    answered: bool,
}

impl Row {
    pub(super) fn new(placed: Placed<Job>, prefix: PrefixId, forced: &Forced) -> Row {
        let job = &placed.work;
        let mut ids = job.suffix.clone();
        ids.extend(&forced.analysis);
        let analysis = ids.len()..ids.len();
        let stage = match job.reason && forced.budget > 0 {
            true => Stage::Analysis,
            false => {
                ids.extend(&forced.finish);
                Stage::Label
            }
        };
        Row {
            placed,
            prefix,
            stage,
            ids,
            read: 0,
            cache: None,
            analysis,
            tokens_out: 0,
            answered: false,
        }
    }

    pub(super) fn job(&self) -> &Job {
        &self.placed.work
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Tokens of the prefix and of all that stands behind it.
    pub(super) fn len(&self) -> usize {
        self.job().prefix_tokens + self.ids.len()
    }

    /// Tokens that the sequence has yet to read.
    pub(super) fn unread(&self) -> usize {
        self.ids.len() - self.read
    }

    /// The next so many of them.
    pub(super) fn next(&self, tokens: usize) -> Vec<u32> {
        self.ids[self.read..self.read + tokens].to_vec()
    }

    /// The sequence, to be read on; it begins as a copy of the prefix.
    pub(super) fn take_cache(&mut self, prefix: &KvCache) -> KvCache {
        self.cache.take().unwrap_or_else(|| prefix.clone())
    }

    /// The sequence has read so many tokens more.
    pub(super) fn read(&mut self, tokens: usize, cache: KvCache) {
        self.read += tokens;
        self.cache = Some(cache);
    }

    /// The sequence is gone.
    pub(super) fn restart(&mut self) {
        (self.read, self.cache) = (0, None);
        if matches!(self.stage, Stage::Branches { .. }) {
            self.stage = Stage::Label;
        }
    }

    /// The model goes on with this token.
    pub(super) fn decoded(&mut self, token: u32, forced: &Forced) {
        self.tokens_out += 1;
        if token != forced.end {
            self.ids.push(token);
            self.analysis.end = self.ids.len();
        }
        if token == forced.end || self.analysis.len() >= forced.budget {
            self.ids.extend(&forced.finish);
            self.stage = Stage::Label;
        }
    }

    /// The logits of the labels' first tokens are known; the lengths of the branches to read, none where that was all.
    pub(super) fn scored(&mut self, root: &[f32]) -> Vec<usize> {
        let labels = &self.job().labels;
        let paths = labels.inner().iter().map(Vec::len).collect();
        let scores = labels.root(root);
        self.stage = Stage::Branches { scores, read: 0 };
        paths
    }

    /// The next branches with their numbers, each with a copy of the sequence; the last of all takes the sequence.
    pub(super) fn branches(&mut self, count: usize) -> Vec<(usize, Vec<u32>, KvCache)> {
        let Stage::Branches { read: first, .. } = self.stage else {
            panic!("bug: branches of a row that has no scores yet");
        };
        let inner = self.placed.work.labels.inner();
        let mut branches = Vec::with_capacity(count);
        for (number, path) in inner.iter().enumerate().skip(first).take(count) {
            let cache = match number + 1 == inner.len() {
                true => self.cache.take(),
                false => self.cache.clone(),
            };
            let cache = cache.expect("bug: branches of a row that has no sequence");
            branches.push((number, path.clone(), cache));
        }
        branches
    }

    /// The logits behind a branch are known; with those of the last one the row is answered.
    pub(super) fn branched(&mut self, number: usize, logits: &[f32], harmony: &Harmony) {
        let labels = &self.placed.work.labels;
        let Stage::Branches { scores, read } = &mut self.stage else {
            return;
        };
        labels.branch(scores, number, logits, harmony.stop_ids());
        *read = number + 1;
        if *read == labels.inner().len() {
            self.answer(harmony);
        }
    }

    /// Tells the caller what the scores say.
    pub(super) fn answer(&mut self, harmony: &Harmony) {
        let Stage::Branches { scores, .. } = &self.stage else {
            panic!("bug: an answer of a row that has no scores");
        };
        let Some(probabilities) = shares(scores) else {
            let why = "its logits are not numbers".to_owned();
            return self.reply(Err(BackendError::Model(why)));
        };
        let job = self.job();
        let analysis = &self.ids[self.analysis.clone()];
        let answer = Answer::Label {
            index: most_probable(&probabilities),
            probabilities,
            analysis: job.reason.then(|| harmony.tokenizer().decode(analysis)),
            reasoned: job.reason,
        };
        let reply = Reply {
            answer,
            tokens_in: (job.prefix_tokens + job.suffix.len()) as u64,
            tokens_out: self.tokens_out,
        };
        self.reply(Ok(reply));
    }

    /// Tells the caller, once. One who left at the very end is not told: there is no one.
    pub(super) fn reply(&mut self, reply: Result<Reply, BackendError>) {
        if !std::mem::replace(&mut self.answered, true) {
            let (spent, _) = oneshot::channel();
            let caller = std::mem::replace(&mut self.placed.work.reply, spent);
            drop(caller.send(reply));
        }
    }
}
