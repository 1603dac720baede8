//! A model in this process.
//!
//! Takes a model folder, or the model embedded in this program; gives a [`Backend`]. Texts are tokenised by whoever asks,
//! and one that is too long never reaches the model. One thread of its own runs the model, so that no async worker ever
//! waits for arithmetic; it ends, and is waited for, when the backend is dropped.

use super::engine::{Engine, Job, Work};
use super::harmony::{Harmony, Template};
use super::queue::Queue;
use super::{Answer, Backend, BackendError, ModelIdentity, Prompt, Reply, nano};
use crate::config::{IN_FLIGHT_TEXTS_MAX, PREFIX_LENGTHS_MAX};
use crate::model::GptOss;
use crate::model::tokenizer::{Tokenizer, TooMany};
use safeguard_udfs::{Effort, Mode};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The class of arithmetic: two models of the same weights and class give the same replies.
const NUMERICS: &str = "f32 cpu 1";

/// A gpt-oss model on a thread of its own.
#[derive(Debug)]
pub struct Local {
    identity: ModelIdentity,
    harmony: Arc<Harmony>,
    queue: Arc<Queue<Job>>,
    work: Arc<Work>,
    prefix_lengths: Mutex<HashMap<(Arc<str>, Effort), Option<usize>>>,
    /// Taken when dropped.
    thread: Option<JoinHandle<()>>,
}

impl Local {
    /// A released model's folder: `config.json`, safetensors, and `tokenizer.json` if it is there. Takes as long as
    /// reading all weights once.
    pub fn open(dir: &Path) -> Result<Local, BackendError> {
        Self::open_as(dir, Template::released())
    }

    /// A folder whose model was trained with another template.
    pub fn open_as(dir: &Path, template: Template) -> Result<Local, BackendError> {
        let shown = dir.display().to_string();
        let name = dir.file_name().map_or(shown.clone(), |name| name.to_string_lossy().into_owned());
        let fail = |why: String| BackendError::Open { model: shown.clone(), why };
        let tokenizer = Tokenizer::open(dir).map_err(|e| fail(e.to_string()))?;
        let model = GptOss::open(dir).map_err(|e| fail(e.to_string()))?;
        Self::start(&name, false, model, tokenizer, template)
    }

    /// safeguard-nano, embedded: a demonstration model.
    pub fn nano() -> Result<Local, BackendError> {
        let fail = |why: String| BackendError::Open { model: nano::NAME.to_owned(), why };
        let tokenizer = Tokenizer::from_bytes(nano::TOKENIZER).map_err(|e| fail(e.to_string()))?;
        let model = GptOss::from_bytes(nano::CONFIG, nano::WEIGHTS).map_err(|e| fail(e.to_string()))?;
        Self::start(nano::NAME, true, model, tokenizer, Template::nano())
    }

    fn start(
        name: &str,
        demonstration: bool,
        model: GptOss,
        tokenizer: Tokenizer,
        template: Template,
    ) -> Result<Local, BackendError> {
        let fail = |why: String| BackendError::Open { model: name.to_owned(), why };
        let parts = [model.digest(), tokenizer.digest(), &template.digest(), NUMERICS].join("\n");
        let identity = ModelIdentity {
            name: name.into(),
            digest: blake3::hash(parts.as_bytes()).to_hex().as_str().into(),
            demonstration,
            template_version: template.version.into(),
        };
        let harmony = Arc::new(Harmony::new(Arc::new(tokenizer), template).map_err(|e| fail(e.to_string()))?);
        let (queue, work) = (Arc::new(Queue::new(IN_FLIGHT_TEXTS_MAX)), Arc::new(Work::default()));
        let engine = Engine::new(model, Arc::clone(&harmony), Arc::clone(&work));
        let closing = CloseOnDrop(Arc::clone(&queue));
        let thread = std::thread::Builder::new()
            .name("safeguard-model".to_owned())
            .spawn(move || engine.run(&closing.0))
            .map_err(|e| fail(format!("no thread for it: {e}")))?;
        let prefix_lengths = Mutex::new(HashMap::new());
        Ok(Local { identity, harmony, queue, work, prefix_lengths, thread: Some(thread) })
    }

    /// Tokens of a policy's prefix; `None` where it is too long. Remembered, since it is asked for every text.
    fn prefix_length(&self, prompt: &Prompt) -> Option<usize> {
        let key = (Arc::clone(&prompt.policy.digest), prompt.effort);
        let lengths = || self.prefix_lengths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&length) = lengths().get(&key) {
            return length;
        }
        let length = self.harmony.prefix(&prompt.policy.text, prompt.effort).ok().map(|ids| ids.len());
        let mut lengths = lengths();
        if lengths.len() >= PREFIX_LENGTHS_MAX {
            lengths.clear();
        }
        lengths.insert(key, length);
        length
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
        prefix.zip(suffix).map_or(0, |(prefix, suffix)| (prefix + suffix.len()) as u64)
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        let suffix = match self.harmony.suffix(&prompt.text) {
            Ok(suffix) => suffix,
            Err(TooMany { at_least: tokens }) => {
                return Ok(Reply { answer: Answer::TooLong { tokens }, tokens_in: 0, tokens_out: 0 });
            }
        };
        // Without a calibration, auto reasons.
        let reason = matches!(prompt.mode, Mode::Auto | Mode::Reason);
        let (reply, answer) = oneshot::channel();
        let Prompt { policy, effort, lane, .. } = prompt;
        let job = Job { policy, effort, suffix, reason, reply };
        self.queue.push(lane, job).await.map_err(|_| self.stopped())?;
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
