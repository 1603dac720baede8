//! A model in this process.
//!
//! Takes a model folder, or the model embedded in this program; gives a [`Backend`]. Texts, policies and labels are
//! tokenised by whoever asks, and what is too long never reaches the model. One thread of its own runs the model for all
//! who ask, so that no async worker ever waits for arithmetic; it ends, and is waited for, when the backend is dropped.

use super::engine::{Engine, Job, Work, limits};
use super::harmony::{Harmony, Template};
use super::labels::LabelTrie;
use super::prefixes::PrefixKey;
use super::queue::Queue;
use super::schedule::Limits;
use super::{Answer, Backend, BackendError, ModelIdentity, Prompt, PromptPolicy, Reply, nano};
use crate::config::{
    ANALYSIS_TOKENS_MAX, IN_FLIGHT_TEXTS_MAX, LABEL_TOKENS_MAX, POLICY_TOKENS_MAX,
    PREFIX_LENGTHS_MAX, device_choice,
};
use crate::model::tokenizer::{Tokenizer, TooMany};
use crate::model::{GptOss, Precision, chosen_device};
use candle_core::Device;
use safeguard_udfs::Mode;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The class of arithmetic: two models of the same weights and class give the same replies.
fn numerics(precision: Precision) -> &'static str {
    match precision {
        Precision::Exact => "f32 cpu 2",
        Precision::Int16 => "int16 cpu 2",
        Precision::Int8 => "int8 cpu 2",
    }
}

/// A gpt-oss model on a thread of its own.
#[derive(Debug)]
pub struct Local {
    identity: ModelIdentity,
    harmony: Arc<Harmony>,
    queue: Arc<Queue<Job>>,
    work: Arc<Work>,
    prefix_lengths: Mutex<HashMap<PrefixKey, Option<usize>>>,
    /// Taken when dropped.
    thread: Option<JoinHandle<()>>,
}

/// What a model has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkDone {
    /// Policies read, each once for an effort while it is kept.
    pub prefixes: u64,
    /// Tokens decoded, also for callers who left.
    pub decoded: u64,
    /// Steps, each over many texts.
    pub steps: u64,
    /// Tokens read in them: of policies, texts, headers, analyses and labels.
    pub tokens: u64,
}

impl Local {
    /// A released model's folder: `config.json`, safetensors, and `tokenizer.json` if it is there. Takes as long as
    /// reading all weights once. On a GPU where there is one and this program can use it, as `SAFEGUARD_DEVICE` says.
    pub fn open(dir: &Path) -> Result<Local, BackendError> {
        Self::open_as(dir, Template::released(), Precision::Int16)
    }

    /// A folder whose model was trained with another template, or is to compute with another precision. The exact one is
    /// the CPU's: it is what others are compared with.
    pub fn open_as(
        dir: &Path,
        template: Template,
        precision: Precision,
    ) -> Result<Local, BackendError> {
        let shown = dir.display().to_string();
        let name = dir
            .file_name()
            .map_or(shown.clone(), |name| name.to_string_lossy().into_owned());
        let fail = |why: String| BackendError::Open {
            model: shown.clone(),
            why,
        };
        let tokenizer = Tokenizer::open(dir).map_err(|e| fail(e.to_string()))?;
        let device = match precision {
            Precision::Int16 | Precision::Int8 => Self::device(dir)?,
            Precision::Exact => None,
        };
        let model = GptOss::open_on(dir, device.as_ref()).map_err(|e| fail(e.to_string()))?;
        let model = model.with_precision(precision);
        Self::start(&name, false, model, tokenizer, template)
    }

    /// Where [`open`](Self::open) has a folder's model run; `None` is the CPU, and then it has to fit into memory.
    pub fn device(dir: &Path) -> Result<Option<Device>, BackendError> {
        let fail = |why: String| BackendError::Open {
            model: dir.display().to_string(),
            why,
        };
        chosen_device(device_choice().map_err(fail)?).map_err(|e| fail(e.to_string()))
    }

    /// safeguard-nano, embedded: a demonstration model.
    pub fn nano() -> Result<Local, BackendError> {
        Self::nano_as(Precision::Int16)
    }

    /// The same with another precision.
    pub fn nano_as(precision: Precision) -> Result<Local, BackendError> {
        let fail = |why: String| BackendError::Open {
            model: nano::NAME.to_owned(),
            why,
        };
        let tokenizer = Tokenizer::from_bytes(nano::TOKENIZER).map_err(|e| fail(e.to_string()))?;
        let model =
            GptOss::from_bytes(nano::CONFIG, nano::WEIGHTS).map_err(|e| fail(e.to_string()))?;
        let model = model.with_precision(precision);
        Self::start(nano::NAME, true, model, tokenizer, Template::nano())
    }

    fn start(
        name: &str,
        demonstration: bool,
        model: GptOss,
        tokenizer: Tokenizer,
        template: Template,
    ) -> Result<Local, BackendError> {
        let fail = |why: String| BackendError::Open {
            model: name.to_owned(),
            why,
        };
        let parts = [
            model.digest(),
            tokenizer.digest(),
            &template.digest(),
            (model.device_numerics()).unwrap_or(numerics(model.precision())),
        ]
        .join("\n");
        let identity = ModelIdentity {
            name: name.into(),
            digest: blake3::hash(parts.as_bytes()).to_hex().as_str().into(),
            demonstration,
            template_version: template.version.into(),
        };
        let harmony =
            Arc::new(Harmony::new(Arc::new(tokenizer), template).map_err(|e| fail(e.to_string()))?);
        let (queue, work) = (
            Arc::new(Queue::new(IN_FLIGHT_TEXTS_MAX)),
            Arc::new(Work::default()),
        );
        let limits = Limits {
            step_tokens: model.step_tokens(),
            ..limits()
        };
        let engine = Engine::new(model, Arc::clone(&harmony), Arc::clone(&work), limits);
        let closing = CloseOnDrop(Arc::clone(&queue));
        let thread = std::thread::Builder::new()
            .name("safeguard-model".to_owned())
            .spawn(move || engine.run(&closing.0))
            .map_err(|e| fail(format!("no thread for it: {e}")))?;
        let prefix_lengths = Mutex::new(HashMap::new());
        Ok(Local {
            identity,
            harmony,
            queue,
            work,
            prefix_lengths,
            thread: Some(thread),
        })
    }

    /// What the model has done since it was opened.
    pub fn work_done(&self) -> WorkDone {
        let Work {
            prefixes,
            decoded,
            steps,
            tokens,
        } = &*self.work;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkDone {
            prefixes: count(prefixes),
            decoded: count(decoded),
            steps: count(steps),
            tokens: count(tokens),
        }
    }

    /// Tokens of a policy's prefix; `None` where it is too long. Remembered, since it is asked for every text.
    fn prefix_length(&self, prompt: &Prompt) -> Option<usize> {
        let key = (Arc::clone(&prompt.policy.digest), prompt.effort);
        let lengths = || {
            self.prefix_lengths
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(&length) = lengths().get(&key) {
            return length;
        }
        let length = self
            .harmony
            .prefix(&prompt.policy.text, prompt.effort)
            .ok()
            .map(|ids| ids.len());
        let mut lengths = lengths();
        if lengths.len() >= PREFIX_LENGTHS_MAX {
            lengths.clear();
        }
        lengths.insert(key, length);
        length
    }

    /// The policy's labels as the model reads them.
    fn labels(&self, policy: &PromptPolicy) -> Result<LabelTrie, BackendError> {
        let labels = policy.labels.iter().map(|label| self.harmony.label(label));
        let trie = LabelTrie::new(labels.collect()).map_err(BackendError::Labels)?;
        if trie.depth() > LABEL_TOKENS_MAX {
            let why = format!("one has more than {LABEL_TOKENS_MAX} tokens");
            return Err(BackendError::Labels(why));
        }
        Ok(trie)
    }

    fn stopped(&self) -> BackendError {
        BackendError::Stopped(Arc::clone(&self.identity.name))
    }
}

/// In the thread's hands: however it ends, nobody waits for it any longer.
struct CloseOnDrop(Arc<Queue<Job>>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[async_trait::async_trait]
impl Backend for Local {
    fn model(&self) -> &ModelIdentity {
        &self.identity
    }

    fn tokens(&self, prompt: &Prompt) -> u64 {
        let prefix = self.prefix_length(prompt);
        let suffix = self.harmony.suffix(&prompt.text).ok();
        prefix
            .zip(suffix)
            .map_or(0, |(prefix, suffix)| (prefix + suffix.len()) as u64)
    }

    fn decodes_most(&self, prompt: &Prompt) -> u64 {
        let most = self.harmony.template().analysis_tokens_max;
        match prompt.mode {
            Mode::Score => 0,
            // The one more ends the analysis.
            Mode::Reason | Mode::Auto => most.min(ANALYSIS_TOKENS_MAX) as u64 + 1,
        }
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        let suffix = match self.harmony.suffix(&prompt.text) {
            Ok(suffix) => suffix,
            Err(TooMany { at_least: tokens }) => {
                return Ok(Reply {
                    answer: Answer::TooLong { tokens },
                    tokens_in: 0,
                    tokens_out: 0,
                });
            }
        };
        let labels = self.labels(&prompt.policy)?;
        let prefix_tokens = self
            .prefix_length(&prompt)
            .ok_or(BackendError::PolicyTooLong {
                limit: POLICY_TOKENS_MAX,
            })?;
        // Without a calibration, auto reasons.
        let reason = matches!(prompt.mode, Mode::Auto | Mode::Reason);
        let (reply, answer) = oneshot::channel();
        let Prompt {
            policy,
            effort,
            lane,
            ..
        } = prompt;
        let job = Job {
            policy,
            effort,
            prefix_tokens,
            suffix,
            labels,
            reason,
            reply,
        };
        self.queue
            .push(lane, job)
            .await
            .map_err(|_| self.stopped())?;
        answer.await.map_err(|_| self.stopped())?
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported where it happened, and whoever asked was told that it stopped.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use safeguard_udfs::{Effort, Lane};

    const SPAM: &str = include_str!("nano/policies/spam.md");

    fn policy(labels: &[&str]) -> Arc<PromptPolicy> {
        let text: Arc<str> = SPAM.trim_end().into();
        let digest = blake3::hash(text.as_bytes()).to_hex().as_str().into();
        Arc::new(PromptPolicy {
            digest,
            text,
            labels: labels.iter().map(|&label| label.into()).collect(),
        })
    }

    fn prompt(policy: &Arc<PromptPolicy>, text: &str, mode: Mode) -> Prompt {
        let (policy, text) = (Arc::clone(policy), text.into());
        Prompt {
            policy,
            text,
            mode,
            effort: Effort::Low,
            lane: Lane::Interactive,
        }
    }

    fn label(reply: &Reply) -> (usize, &[f64], Option<&str>, bool) {
        match &reply.answer {
            Answer::Label {
                index,
                probabilities,
                analysis,
                reasoned,
            } => (*index, probabilities, analysis.as_deref(), *reasoned),
            Answer::None(_) | Answer::TooLong { .. } => panic!("{reply:?}"),
        }
    }

    #[test]
    fn modes_differ_in_analysis_and_in_tokens() {
        let nano = Local::nano().unwrap();
        assert_eq!(
            (&*nano.model().name, nano.model().demonstration),
            ("safeguard-nano", true)
        );
        let policy = policy(&["allowed", "violates"]);
        let text = "Click here to win a free prize now!!!";
        let ask = |mode| block_on(nano.ask(prompt(&policy, text, mode))).unwrap();
        let (score, reason, auto) = (ask(Mode::Score), ask(Mode::Reason), ask(Mode::Auto));
        assert_eq!(
            (label(&score).2, label(&score).3, score.tokens_out),
            (None, false, 0)
        );
        assert!(
            label(&reason)
                .2
                .is_some_and(|analysis| !analysis.is_empty() && !analysis.contains("<|"))
        );
        assert!(
            label(&reason).3 && (2..=33).contains(&reason.tokens_out),
            "{reason:?}"
        );
        assert_eq!(auto, reason, "without a calibration");
        for reply in [&score, &reason] {
            assert_eq!(
                reply.tokens_in,
                nano.tokens(&prompt(&policy, text, Mode::Score))
            );
        }
        let work = nano.work_done();
        assert_eq!((work.prefixes, work.decoded), (1, 2 * reason.tokens_out));
    }

    #[test]
    fn every_reply_is_a_legal_label() {
        let nano = Local::nano().unwrap();
        for labels in [
            &["allowed", "violates"][..],
            &["violates", "allowed"],
            &["allowed", "violates", "violates badly", "violates the law"],
            &["SP0", "SP2.a", "SP2", "<|end|>", "quite another label"],
            &["1"],
        ] {
            for mode in [Mode::Score, Mode::Reason] {
                let reply = block_on(nano.ask(prompt(&policy(labels), "Buy now", mode))).unwrap();
                let (index, probabilities, ..) = label(&reply);
                assert_eq!(probabilities.len(), labels.len());
                assert!(
                    (probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9,
                    "{probabilities:?}"
                );
                assert!(
                    probabilities.iter().all(|&p| p <= probabilities[index]),
                    "{probabilities:?}"
                );
            }
        }
        for (labels, why) in [
            (&[][..], "none"),
            (&["a", "a"][..], "twice"),
            (&["a", ""][..], "empty"),
        ] {
            let refused =
                block_on(nano.ask(prompt(&policy(labels), "x", Mode::Score))).unwrap_err();
            assert!(
                matches!(&refused, BackendError::Labels(said) if said.contains(why)),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_order_of_labels_does_not_matter() {
        let nano = Local::nano().unwrap();
        let ask = |labels: &[&str]| {
            let reply =
                block_on(nano.ask(prompt(&policy(labels), "Win money", Mode::Score))).unwrap();
            label(&reply).1.to_vec()
        };
        let [a, b] = [
            ask(&["allowed", "violates", "violates twice"]),
            ask(&["violates twice", "violates", "allowed"]),
        ];
        assert!(
            a.iter()
                .zip(b.iter().rev())
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{a:?} {b:?}"
        );
    }

    #[test]
    fn a_reply_does_not_depend_on_what_else_is_asked() {
        let texts: Vec<String> = (0..8)
            .map(|n| format!("Text number {n}, {}", "more ".repeat(n * 40)))
            .collect();
        let policies = [
            policy(&["allowed", "violates"]),
            policy(&["violates", "allowed"]),
        ];
        let asked: Vec<Prompt> = (0..texts.len())
            .map(|n| {
                let mode = if n % 2 == 0 {
                    Mode::Score
                } else {
                    Mode::Reason
                };
                let lane = if n % 3 == 0 {
                    Lane::Backfill
                } else {
                    Lane::Interactive
                };
                Prompt {
                    lane,
                    ..prompt(&policies[n % 2], &texts[n], mode)
                }
            })
            .collect();
        let alone: Vec<Reply> = asked
            .iter()
            .map(|prompt| block_on(Local::nano().unwrap().ask(prompt.clone())).unwrap())
            .collect();
        let nano = Local::nano().unwrap();
        let mut together = asked.clone();
        together.reverse();
        let replies = block_on(futures::future::try_join_all(
            together.into_iter().map(|prompt| nano.ask(prompt)),
        ));
        let mut replies = replies.unwrap();
        replies.reverse();
        assert_eq!(replies, alone);
    }

    #[test]
    fn what_is_too_long_never_reaches_the_model() {
        let nano = Local::nano().unwrap();
        let short = policy(&["allowed", "violates"]);
        for text in ["a".repeat(1_000_000), "long ".repeat(5_000)] {
            let prompt = prompt(&short, &text, Mode::Reason);
            assert_eq!(nano.tokens(&prompt), 0);
            let reply = block_on(nano.ask(prompt)).unwrap();
            let Answer::TooLong { tokens } = reply.answer else {
                panic!("{reply:?}")
            };
            assert!(tokens > crate::config::TEXT_TOKENS_MAX);
            assert_eq!((reply.tokens_in, reply.tokens_out), (0, 0));
        }
        let long = PromptPolicy {
            digest: "long".into(),
            text: "rule ".repeat(17_000).into(),
            ..(*short).clone()
        };
        let long = Arc::new(long);
        let asked = prompt(&long, "x", Mode::Score);
        assert_eq!(nano.tokens(&asked), 0);
        let limit = crate::config::POLICY_TOKENS_MAX;
        assert_eq!(
            block_on(nano.ask(asked)),
            Err(BackendError::PolicyTooLong { limit })
        );
        assert_eq!(
            nano.work_done(),
            WorkDone {
                prefixes: 0,
                decoded: 0,
                steps: 0,
                tokens: 0
            }
        );
    }

    #[test]
    fn dropping_ends_the_thread_and_a_closed_backend_says_so() {
        let nano = Local::nano().unwrap();
        let policy = policy(&["allowed", "violates"]);
        nano.queue.close();
        let stopped = BackendError::Stopped(Arc::clone(&nano.model().name));
        assert_eq!(
            block_on(nano.ask(prompt(&policy, "x", Mode::Score))),
            Err(stopped)
        );
        let harmony = Arc::downgrade(&nano.harmony);
        drop(nano);
        assert!(harmony.upgrade().is_none(), "the thread is gone");
    }

    #[test]
    fn a_folder_that_is_no_model_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let refused = Local::open(dir.path()).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains(&dir.path().display().to_string()),
            "{refused}"
        );
        std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
        let refused = Local::open(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("tokenizer.json"), "{refused}");
    }
}
