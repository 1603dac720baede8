//! The model's thread: prompts as token ids in, replies out, one after another.
//!
//! Owns the model and the keys and values of the policies asked lately. A policy's prefix is computed once; each text
//! starts from a copy of it. A reply depends on its own prompt alone: nothing of another text is ever in its sequence,
//! and a prefix from the cache is the prefix computed anew. It notices a caller who has gone between two goes of the
//! model. It knows ids and labels; it knows nothing of async.

use super::harmony::Harmony;
use super::labels::{LabelTrie, most_probable};
use super::prefixes::Prefixes;
use super::queue::Queue;
use super::{Answer, BackendError, PromptPolicy, Reply};
use crate::config::{
    ANALYSIS_TOKENS_MAX, POLICY_TOKENS_MAX, PREFILL_TOKENS, PREFIX_CACHE_BYTES_MAX,
};
use crate::model::{GptOss, KvCache, ModelError};
use candle_core::Tensor;
use safeguard_udfs::Effort;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::oneshot;

/// One prompt on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) policy: Arc<PromptPolicy>,
    pub(super) effort: Effort,
    /// The text and the generation prompt.
    pub(super) suffix: Vec<u32>,
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
}

/// The thread's state.
pub(super) struct Engine {
    model: GptOss,
    harmony: Arc<Harmony>,
    prefixes: Prefixes<KvCache>,
    work: Arc<Work>,
    analysis_header: Vec<u32>,
    final_header: Vec<u32>,
}

/// A job ends early: the caller has gone, or the model failed.
enum Stop {
    Cancelled,
    Failed(BackendError),
}

impl From<ModelError> for Stop {
    fn from(e: ModelError) -> Self {
        Stop::Failed(BackendError::Model(e.to_string()))
    }
}

impl From<candle_core::Error> for Stop {
    fn from(e: candle_core::Error) -> Self {
        ModelError::from(e).into()
    }
}

impl Engine {
    pub(super) fn new(model: GptOss, harmony: Arc<Harmony>, work: Arc<Work>) -> Self {
        let prefixes = Prefixes::new(PREFIX_CACHE_BYTES_MAX);
        let (analysis_header, final_header) = (harmony.analysis_header(), harmony.final_header());
        Engine {
            model,
            harmony,
            prefixes,
            work,
            analysis_header,
            final_header,
        }
    }

    /// Answers what the queue holds until it closes.
    pub(super) fn run(mut self, queue: &Queue<Job>) {
        while let Some(placed) = queue.pop() {
            let job = placed.work;
            if job.reply.is_closed() {
                continue;
            }
            let cancelled = || job.reply.is_closed() || queue.is_closed();
            match self.answer(&job, &cancelled) {
                Err(Stop::Cancelled) => {}
                // A caller who leaves at the very end is a cancelled one: there is no one to tell.
                Ok(reply) => drop(job.reply.send(Ok(reply))),
                Err(Stop::Failed(e)) => drop(job.reply.send(Err(e))),
            }
        }
    }

    fn answer(&mut self, job: &Job, cancelled: &dyn Fn() -> bool) -> Result<Reply, Stop> {
        let labels = job
            .policy
            .labels
            .iter()
            .map(|label| self.harmony.label(label))
            .collect();
        let trie = LabelTrie::new(labels).map_err(|why| Stop::Failed(BackendError::Labels(why)))?;
        let mut sequence = self.prefix(job, cancelled)?;
        let tokens_in = (sequence.len() + job.suffix.len()) as u64;

        let mut unread = job.suffix.clone();
        unread.extend_from_slice(&self.analysis_header);
        let (mut analysis, mut tokens_out) = (None, 0);
        if job.reason {
            let decoded = self.analyse(&mut sequence, &mut unread, cancelled)?;
            tokens_out = decoded.tokens;
            analysis = Some(self.harmony.tokenizer().decode(&decoded.analysis));
        }
        unread.extend_from_slice(&self.final_header);
        let hidden = self.read(&unread, &mut sequence, cancelled)?;
        let probabilities = self.score(&trie, &hidden, &sequence)?;
        let answer = Answer::Label {
            index: most_probable(&probabilities),
            probabilities,
            analysis,
            reasoned: job.reason,
        };
        Ok(Reply {
            answer,
            tokens_in,
            tokens_out,
        })
    }

    /// A sequence that has read the policy's prefix, for one text to go on with.
    fn prefix(&mut self, job: &Job, cancelled: &dyn Fn() -> bool) -> Result<KvCache, Stop> {
        let key = (Arc::clone(&job.policy.digest), job.effort);
        if let Some(kept) = self.prefixes.get(&key) {
            return Ok(kept);
        }
        let too_long = |_| {
            Stop::Failed(BackendError::PolicyTooLong {
                limit: POLICY_TOKENS_MAX,
            })
        };
        let ids = self
            .harmony
            .prefix(&job.policy.text, job.effort)
            .map_err(too_long)?;
        let mut sequence = self.model.new_cache();
        self.read(&ids, &mut sequence, cancelled)?;
        self.work.prefixes.fetch_add(1, Ordering::Relaxed);
        let bytes = sequence.bytes();
        self.prefixes.put(key, sequence.clone(), bytes);
        Ok(sequence)
    }

    /// Decodes greedily up to `<|end|>` or the budget. `unread` is what the sequence has yet to read: first the prompt,
    /// in the end the last decoded token where the budget cut the analysis.
    fn analyse(
        &self,
        sequence: &mut KvCache,
        unread: &mut Vec<u32>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Decoded, Stop> {
        let budget = self
            .harmony
            .template()
            .analysis_tokens_max
            .min(ANALYSIS_TOKENS_MAX);
        let mut decoded = Decoded {
            analysis: Vec::new(),
            tokens: 0,
        };
        while decoded.analysis.len() < budget {
            let hidden = self.read(unread, sequence, cancelled)?;
            unread.clear();
            let next = self.next_token(&hidden)?;
            decoded.tokens += 1;
            self.work.decoded.fetch_add(1, Ordering::Relaxed);
            if next == self.harmony.end() {
                break;
            }
            decoded.analysis.push(next);
            unread.push(next);
        }
        Ok(decoded)
    }

    /// The most probable token that an analysis may go on with: an ordinary one, or `<|end|>`.
    fn next_token(&self, hidden: &Tensor) -> Result<u32, Stop> {
        let logits: Vec<f32> = self.model.logits(hidden)?.flatten_all()?.to_vec1()?;
        let (tokenizer, end) = (self.harmony.tokenizer(), self.harmony.end());
        let mut best = (end, f32::NEG_INFINITY);
        for (id, &logit) in (0u32..).zip(&logits) {
            if logit > best.1 && (id == end || tokenizer.is_ordinary(id)) {
                best = (id, logit);
            }
        }
        Ok(best.0)
    }

    /// Probabilities of the labels behind a sequence whose last token left `hidden`, `[1, hidden]`.
    fn score(
        &self,
        trie: &LabelTrie,
        hidden: &Tensor,
        sequence: &KvCache,
    ) -> Result<Vec<f64>, Stop> {
        let root: Vec<f32> = self
            .model
            .logits_of(hidden, trie.first_tokens())?
            .flatten_all()?
            .to_vec1()?;
        let behind = |path: &[u32]| -> Result<Vec<f32>, Stop> {
            let mut branch = sequence.clone();
            let hidden = self.read(path, &mut branch, &|| false)?;
            Ok(self.model.logits(&hidden)?.flatten_all()?.to_vec1()?)
        };
        let not_numbers =
            || Stop::Failed(BackendError::Model("its logits are not numbers".to_owned()));
        trie.probabilities(&root, self.harmony.stop_ids(), behind)?
            .ok_or_else(not_numbers)
    }

    /// Appends ids to the sequence; what the last one leaves, `[1, hidden]`.
    fn read(
        &self,
        ids: &[u32],
        sequence: &mut KvCache,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Tensor, Stop> {
        let mut last = None;
        for go in ids.chunks(PREFILL_TOKENS) {
            if cancelled() {
                return Err(Stop::Cancelled);
            }
            last = Some(
                self.model
                    .forward(go, sequence)?
                    .narrow(0, go.len() - 1, 1)?,
            );
        }
        last.ok_or_else(|| ModelError::NoIds.into())
    }
}

/// An analysis.
struct Decoded {
    /// Without its end.
    analysis: Vec<u32>,
    /// With it.
    tokens: u64,
}
