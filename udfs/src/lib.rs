//! Classification functions for any DataFusion project: SQL meets a [`Classifier`].

pub mod classifier;
pub mod settings;
pub mod tally;

pub use classifier::{
    Classifier, ClassifyError, Decision, Provenance, Reason, Request, Source, Stage, Undecided,
    Verdict,
};
pub use settings::{Answer, Effort, Lane, Mode, SafeguardSettings};
pub use tally::Tally;
