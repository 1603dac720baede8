//! The port: what a thing must do to judge texts for SQL.
//!
//! Takes a policy and distinct texts, gives a verdict or a reason for each, in any order, as they are reached. The
//! operator (`exec`) is its only caller; scripted classifiers, verdict stores, screens and models stand behind it and
//! may wrap one another. It knows nothing of how a text is judged, and nothing of Arrow.

use crate::settings::SafeguardSettings;
use crate::tally::Tally;
use futures::stream::BoxStream;
use std::fmt::Debug;
use std::sync::Arc;

/// Judges texts under policies. Implementations are shared by all partitions, statements and sessions.
#[async_trait::async_trait]
pub trait Classifier: Debug + Send + Sync + 'static {
    /// One [`Decision`] for each text of the request, by its index, in any order. Dropping the stream cancels what was
    /// not yet decided. An `Err` fails the statement: it is for what is wrong with the policy or the machinery, never
    /// with one text.
    fn classify(
        &self,
        request: Request,
    ) -> BoxStream<'static, Result<(usize, Decision), ClassifyError>>;

    /// Prompt tokens that each text of the request would cost if it were asked now, without asking. In order.
    async fn tokens(&self, request: Request) -> Result<Vec<u64>, ClassifyError>;
}

/// A question about several texts under one policy.
#[derive(Debug, Clone)]
pub struct Request {
    /// As SQL gave it: a name, a pinned version `name@3` or `name@<digest prefix>`, or, with a newline, an inline text.
    pub policy: Arc<str>,
    /// Distinct, in the order of their first row.
    pub texts: Vec<Arc<str>>,
    /// The connection's settings when the statement began.
    pub settings: Arc<SafeguardSettings>,
    /// What the statement has spent and may still spend, shared by all its requests.
    pub tally: Arc<Tally>,
    /// Whether these texts are in the statement's budget of texts already: a second question about them.
    pub again: bool,
    /// Whether to ask even about what is stored, and to store nothing: a repetition that is compared, not a verdict.
    pub fresh: bool,
}

/// What is known of a text under a policy: a verdict, or why there is none.
pub type Decision = Result<Verdict, Undecided>;

/// One decision, with where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// One of the policy's labels.
    pub label: Arc<str>,
    /// Whether `label` is another than the policy's allowed label.
    pub violates: bool,
    /// P(not the allowed label) in 0..=1, where the stage gives one.
    pub score: Option<f64>,
    /// Log-odds of the label against the next best one, at least 0, where the stage gives them.
    pub gap: Option<f64>,
    /// The stored why; for staff, not for end users.
    pub rationale: Option<Arc<str>>,
    /// Codes of the policy's rules that the rationale names, in the policy's order.
    pub rules: Vec<Arc<str>>,
    /// Which stage decided.
    pub stage: Stage,
    /// Where and when.
    pub provenance: Provenance,
}

/// No verdict could be reached. Never to be read as allowed.
#[derive(Debug, Clone, PartialEq)]
pub struct Undecided {
    /// Why.
    pub reason: Reason,
    /// Where and when it was given up.
    pub provenance: Provenance,
}

/// Where a decision came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// `name@version`, or `inline@<digest prefix>`.
    pub policy: Arc<str>,
    /// The model that stands behind the stage, also where it was not asked.
    pub model: Arc<str>,
    /// Microseconds since 1970-01-01 UTC.
    pub judged_at: i64,
    /// Prompt tokens, when it was asked.
    pub tokens_in: u64,
    /// Decoded tokens, when it was asked.
    pub tokens_out: u64,
    /// Seconds in which the backend was busy, each moment shared evenly by the questions that it had then: this one's
    /// part, when it was asked.
    pub seconds: f64,
    /// How it reached this statement.
    pub source: Source,
}

/// How a decision reached the statement that wanted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the verdict store.
    Recalled,
    /// From a screen.
    Screened,
    /// A question was put to a backend.
    Asked,
    /// Nobody was asked (a text over the limit, a spent budget).
    Unasked,
}

/// The stage that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A cheap statistical classifier.
    Screen,
    /// The reasoner, its label read from the logits at once.
    Score,
    /// The reasoner, after an analysis.
    Reason,
    /// A person.
    Human,
}

impl Stage {
    /// The word in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Screen => "screen",
            Stage::Score => "score",
            Stage::Reason => "reason",
            Stage::Human => "human",
        }
    }
}

/// Why a text has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The model declined to judge.
    Refused,
    /// The reply was cut before its answer.
    Truncated,
    /// The answer names no label of the policy.
    Unparsed,
    /// The answer names two different labels.
    Contradictory,
    /// The text is longer than the limit. Texts are never cut.
    TooLong,
    /// The backend failed on this text.
    Error,
    /// The statement's budget was spent.
    Budget,
    /// To be judged later, in the background.
    Queued,
    /// The statement ended first.
    Cancelled,
}

impl Reason {
    /// Every reason, in the order of the summary.
    pub const ALL: [Reason; 9] = [
        Reason::Refused,
        Reason::Truncated,
        Reason::Unparsed,
        Reason::Contradictory,
        Reason::TooLong,
        Reason::Error,
        Reason::Budget,
        Reason::Queued,
        Reason::Cancelled,
    ];

    /// The word in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Refused => "refused",
            Reason::Truncated => "truncated",
            Reason::Unparsed => "unparsed",
            Reason::Contradictory => "contradictory",
            Reason::TooLong => "too_long",
            Reason::Error => "error",
            Reason::Budget => "budget",
            Reason::Queued => "queued",
            Reason::Cancelled => "cancelled",
        }
    }

    /// Whether it is a fact about the text, worth storing, rather than a passing state of the machinery.
    pub fn is_fact(self) -> bool {
        matches!(
            self,
            Reason::Refused
                | Reason::Truncated
                | Reason::Unparsed
                | Reason::Contradictory
                | Reason::TooLong
        )
    }
}

/// Why a whole request failed. Whoever reports it to a client adds the SQLSTATE.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClassifyError {
    /// No policy of this name or version. SQLSTATE 42704.
    #[error("policy \"{name}\" does not exist")]
    UnknownPolicy {
        /// As SQL gave it.
        name: String,
        /// Registered names nearest to it, best first.
        near: Vec<String>,
    },
    /// The policy's text cannot be judged under. SQLSTATE 22023.
    #[error("policy \"{name}\" is not usable: {why}")]
    InvalidPolicy {
        /// Its name, or `inline`.
        name: String,
        /// What is wrong, and the limit where there is one.
        why: String,
    },
    /// A setting asks for what this classifier does not do. SQLSTATE 0A000.
    #[error("{0}")]
    Unsupported(String),
    /// Too many of the statement's texts stayed undecided; what was judged is stored. SQLSTATE 53400.
    #[error(
        "{undecided} of {judged} texts are undecided, above safeguard.max_undecided_ratio = {limit}"
    )]
    TooManyUndecided {
        /// Undecided so far.
        undecided: u64,
        /// Decided or not, so far.
        judged: u64,
        /// The setting.
        limit: f64,
    },
    /// Golden rows stayed without a score for a reason that passes, so that nothing was calibrated. SQLSTATE 53400.
    #[error("{missing} of {rows} golden rows have no score ({why}); nothing was calibrated")]
    Unscored {
        /// Rows without a score.
        missing: u64,
        /// Rows of the golden set.
        rows: u64,
        /// How many for which reason.
        why: String,
    },
    /// The verdict store failed. SQLSTATE 58030.
    #[error("verdict store: {0}")]
    Store(String),
    /// The backend failed as a whole. SQLSTATE 58000.
    #[error("backend: {0}")]
    Backend(String),
}
