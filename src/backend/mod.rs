//! Where prompts run: one prompt in, one reply out; batching is the owner's business.
//!
//! Takes a policy's text with its labels and one text, gives the label's probabilities (and the analysis, where one was
//! decoded), or the fact that the text is too long. Implementations: [`local`], in this process; [`endpoint`], on servers.
//! It knows prompts, tokens and models; it knows nothing of policy versions, stored verdicts or SQL. Only [`harmony`] knows the format of a
//! prompt.

pub mod endpoint;
mod engine;
pub mod harmony;
mod labels;
pub mod local;
mod nano;
mod prefixes;
mod queue;
pub mod schedule;

use crate::config::ANALYSIS_TOKENS_MAX;
use safeguard_udfs::{Effort, Lane, Mode};
use std::fmt::Debug;
use std::sync::Arc;

/// The files of the model that is a part of this program.
#[derive(Debug, Clone, Copy)]
pub struct NanoFiles {
    /// `config.json`
    pub config: &'static [u8],
    /// `tokenizer.json`
    pub tokenizer: &'static [u8],
    /// `model.safetensors`
    pub weights: &'static [u8],
}

/// safeguard-nano, byte for byte.
pub fn nano_files() -> NanoFiles {
    NanoFiles {
        config: nano::CONFIG,
        tokenizer: nano::TOKENIZER,
        weights: nano::WEIGHTS,
    }
}

/// Runs prompts. Implementations are shared by all statements and sessions.
#[async_trait::async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// What answers: the same for the life of the backend.
    fn model(&self) -> &ModelIdentity;

    /// Prompt tokens that [`Backend::ask`] would read for this prompt; 0 where it would not read it (a policy or a text
    /// over its limit). Asks no model.
    fn tokens(&self, prompt: &Prompt) -> u64;

    /// The most tokens that [`Backend::ask`] can decode for this prompt.
    fn decodes_most(&self, prompt: &Prompt) -> u64 {
        match prompt.mode {
            Mode::Score => 0,
            // The one more ends the analysis.
            Mode::Reason | Mode::Auto => ANALYSIS_TOKENS_MAX as u64 + 1,
        }
    }

    /// How many prompts are taken at once, where somebody else decides that.
    fn places(&self) -> Option<Places> {
        None
    }

    /// The reply to one prompt. Waits where too many are in flight; dropping the future cancels the work. The reply does
    /// not depend on what else is in flight.
    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError>;
}

/// How much the servers of a model have in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Prompts that are at one of them.
    pub in_hand: usize,
    /// Prompts that they bear at once, as far as is known.
    pub most: usize,
    /// How many there are.
    pub servers: usize,
    /// Of these, how many are not left alone because they failed.
    pub well: usize,
}

/// Who answers, precisely enough to be part of a verdict's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// For people: `safeguard-nano`, or the name of the model's folder.
    pub name: Arc<str>,
    /// Digest (BLAKE3, hex) of all that decides a reply beside the prompt's own words: weights, tokenizer, template and
    /// the class of arithmetic.
    pub digest: Arc<str>,
    /// Whether its verdicts are to be shown as those of a demonstration model.
    pub demonstration: bool,
    /// The prompt template's version; already a part of `digest`.
    pub template_version: Arc<str>,
}

/// One question.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Shared by all texts judged under it.
    pub policy: Arc<PromptPolicy>,
    /// What is judged.
    pub text: Arc<str>,
    /// How the label is reached.
    pub mode: Mode,
    /// How much the model is told to think.
    pub effort: Effort,
    /// Which queue it waits in.
    pub lane: Lane,
}

/// A policy as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPolicy {
    /// Digest of `text`: two policies of the same digest share their prefix.
    pub digest: Arc<str>,
    /// The policy's text with its contract.
    pub text: Arc<str>,
    /// In the policy's order; distinct, none empty.
    pub labels: Vec<Arc<str>>,
}

/// What a backend says to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The label, or why there is none.
    pub answer: Answer,
    /// Tokens of the rendered prompt: system, policy, text and generation prompt. Forced headers are not counted.
    pub tokens_in: u64,
    /// Tokens the model decoded. Forced headers and scored labels are not counted, so score mode has 0.
    pub tokens_out: u64,
}

/// The decision in a reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A label of the policy.
    Label {
        /// Of the label in [`PromptPolicy::labels`]; the first of the most probable.
        index: usize,
        /// One for each label, in their order; they sum to 1. None at all where the model wrote its answer on a server
        /// that tells no probabilities.
        probabilities: Vec<f64>,
        /// The analysis as decoded, without its end; only where one was decoded.
        analysis: Option<String>,
        /// Whether the label stands behind a decoded analysis rather than an empty one.
        reasoned: bool,
    },
    /// The model was asked and what it said is no label; only where it writes its answer freely.
    None(NoAnswer),
    /// The text has more tokens than [`crate::config::TEXT_TOKENS_MAX`]; the model was not asked.
    TooLong {
        /// How many it has at least: counting stops when the limit is passed.
        tokens: usize,
    },
}

/// Why a reply holds no label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// The model declined to judge.
    Refused,
    /// The reply was cut by its length.
    Truncated,
    /// There is no answer, or it names no label.
    Unparsed,
    /// It names two different labels.
    Contradictory,
}

/// Why a prompt has no reply.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BackendError {
    /// The policy cannot be put to the model at all.
    #[error("policy has more than {limit} tokens")]
    PolicyTooLong {
        /// [`crate::config::POLICY_TOKENS_MAX`].
        limit: usize,
    },
    /// The labels cannot be told apart by the model.
    #[error("labels of the policy cannot be scored: {0}")]
    Labels(String),
    /// A model could not be opened.
    #[error("cannot open model \"{model}\": {why}")]
    Open {
        /// Its folder or name.
        model: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not the address of a server.
    #[error("{0}")]
    Address(String),
    /// No server answers.
    #[error("no server answers: {0}")]
    Unreachable(String),
    /// A server does not let us in.
    #[error("{0}")]
    Key(String),
    /// A server's certificate is not to be trusted, or it does not encrypt.
    #[error("{0}")]
    Untrusted(String),
    /// A file of certificates cannot be used.
    #[error("{0}")]
    Certificates(String),
    /// A server does not have the model.
    #[error("{0}")]
    NoModel(String),
    /// A server does not speak as we do.
    #[error("{0}")]
    Protocol(String),
    /// The model cannot be asked like this.
    #[error("{0}")]
    Unsupported(String),
    /// The model failed on this prompt.
    #[error("model failed: {0}")]
    Model(String),
    /// The backend has stopped and answers nothing any more.
    #[error("model \"{0}\" has stopped")]
    Stopped(Arc<str>),
}
