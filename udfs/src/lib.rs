//! Classification functions for any DataFusion project: SQL meets a [`Classifier`].
//!
//! `safeguard_classify(policy, text)` and its kin look like scalar functions and cost like none: a call may take a
//! second of a GPU. So they are planned apart: [`hoist`] makes every call a column of a `Classify` node, [`exec`]
//! answers it with as few questions as the statement needs. Knows DataFusion; knows no model, disk or network.
//!
//! Read [`classifier`] first: it is the port. Then `functions` (what SQL sees) → [`hoist`] with `guard` (where a call
//! is made, and for which rows) → `node` → [`late`] (fewer rows yet) → [`plan`] → [`exec`] with [`statement`] (each
//! text once) → `verdict` (Arrow). [`settings`] is `SET safeguard.*`, [`tally`] what a statement spent, [`budget`] what
//! it may spend, `asks` what a plan will ask about,
//! [`scripted`] a classifier for tests. `digest` names a text as verdict stores do. `parts` takes
//! an operator apart for another process.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod asks;
pub mod budget;
pub mod classifier;
mod digest;
pub mod exec;
mod functions;
mod guard;
pub mod hoist;
pub mod late;
mod node;
mod parts;
pub mod plan;
pub mod scripted;
pub mod settings;
pub mod statement;
pub mod tally;
mod verdict;
mod window;

pub use asks::{Asks, asks};
pub use budget::{Budget, Cost, Most, Promise};
pub use classifier::{
    Classifier, ClassifyError, Decision, Provenance, Reason, Request, Source, Stage, Undecided,
    Verdict,
};
pub use exec::ClassifyExec;
pub use functions::functions;
pub use node::called;
pub use parts::{Column, Parts, Question};
pub use plan::install;
pub use scripted::Scripted;
pub use settings::{Answer, Effort, Lane, Mode, SafeguardSettings};
pub use statement::Statement;
pub use tally::{Summary, Tally};
pub use verdict::UNDECIDED;
