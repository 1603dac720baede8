//! safeguard-sql: moderate stored content with SQL. This page is the map.
//!
//! # The flow, one file an arrow
//!
//! SQL → [`engine`] (a session) → `safeguard_udfs::hoist` (calls become columns) → `safeguard_udfs::exec` (distinct
//! texts by policy) → [`classify::screen`] (what statistics can decide) → `classify/queued` (what is to wait goes to the store) → [`classify::cascade`] → [`classify::recall`] → [`classify::reasoner`] → [`backend::local`] or [`backend::endpoint`] →
//! [`model`] → [`store`] (before it is returned) → `safeguard_udfs` (Arrow) → [`cli`] or [`server`].
//!
//! # Floors
//!
//! A module imports only lower floors; `tests/tidy.rs` checks it.
//!
//! | floor | |
//! |---|---|
//! | 0 | `safeguard-udfs`: SQL meets the port [`safeguard_udfs::Classifier`] |
//! | 1 | [`config`]: settings and every limit by name · [`report`]: pages of HTML · [`postgres`]: the way to a PostgreSQL server · [`waits`]: what work waits for, and how long |
//! | 2 | [`policy`]: texts, versions, golden sets · [`model`]: gpt-oss; its kernels are a crate in `model/kernels` · [`screen`]: statistics that clear or escalate, and what they may claim · [`store`]: verdicts in a file, or in a database that servers share |
//! | 3 | [`backend`]: one prompt in, one reply out |
//! | 4 | [`classify`]: policy and texts in, verdicts out; stages that wrap one another · [`models`]: model folders by name · [`content`]: databases that are attached, object stores |
//! | 5 | [`error`]: what reaches a user, and the one SQLSTATE table |
//! | 6 | [`engine`]: the only builder of sessions; tables over files, Delta tables in `engine/delta`, other processes that classify in `engine/distributed` |
//! | 7 | [`change`]: what an edit of a policy would do, and did |
//! | 8 | [`jobs`]: work that outlives a statement |
//! | 9 | [`server`]: PostgreSQL's wire protocol, sessions, roles, TLS |
//! | 10 | [`cli`] and `main`: glue |
//!
//! # Invariants, most of them absences
//!
//! - `safeguard-udfs` knows no model, disk or network; [`model`] knows no policy, SQL, tokio or Arrow.
//! - Only `backend/harmony.rs` knows the prompt format. Only [`store`] touches stored verdicts; they are appended, never
//!   updated. Only [`config`] reads the environment.
//! - Only [`server`] knows pgwire. Every plan of a connection passes its role's guard; no plan reads a file outside of the
//!   content roots.
//! - Every caller goes through the same classifier stack: there is no side door to the model.
//! - A verdict is stored before it is returned. Unknown is undecided, never allowed.
//! - An INSERT is there whole or not at all, wherever it goes. deltalake touches files through the session's stores only.
//! - A question is put only while the budgets of its statement, and the limits of whoever pays, have room for the most that
//!   it can cost.
//! - A plan leaves this process only where its account and its rows are those of one process.
//! - Every queue, cache, batch, text length and retry has a named limit in [`config`].

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod backend;
pub mod change;
pub mod classify;
pub mod cli;
pub mod config;
pub mod content;
pub mod engine;
pub mod error;
pub mod jobs;
pub mod model;
pub mod models;
pub mod policy;
pub mod postgres;
pub mod report;
pub mod screen;
pub mod server;
pub mod store;
pub mod waits;
