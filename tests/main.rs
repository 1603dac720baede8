//! The one integration binary: every file of tests linked once, a module for each thing that is shown to hold.

/// Mode auto through the whole program, on a scripted backend.
mod auto;
/// Backfills and the queue on a scripted backend, killed and failing.
mod backfills;
/// What may be asked, exactly: budgets of statements.
mod budgets;
/// Real PostgreSQL clients against the server.
mod clients;
/// Jobs that run by themselves: when, how often, and what is recorded of them.
mod cron;
/// Delta tables, kept and filled with labels.
mod delta;
/// Examples of deployments.
mod deployments;
/// Statements that classify at workers.
mod distributed;
/// A model on servers, against a double.
mod endpoint;
/// What EXPLAIN says before anything is asked.
mod estimates;
/// Content in files.
mod files;
/// Bad input, name by name: the exact message, its SQLSTATE and its hint.
mod input;
/// A model on a real llama-server.
mod llama;
/// Models on disk: pulled, listed, verified, made.
mod models;
/// Content in object stores.
mod objects;
/// The model and its engine against other implementations.
mod parity;
/// Policies by the command line.
mod policies;
/// A real PostgreSQL as a place of content.
mod postgres;
/// A process killed at any instant loses no verdict that was returned and asks nothing twice.
mod recovery;
/// The catalog that survives a restart.
mod relations;
/// Stored verdicts asked again.
mod replay;
/// Pages about what was measured.
mod reports;
/// Screens before the model: what they decide, and what stops them.
mod screens;
/// Rows written to files by a program that is killed.
mod sinks;
/// SQL behaviour as data, on a scripted classifier.
mod slt;
/// Where tests keep a store.
mod stores;
/// The rules of the house.
mod tidy;
/// Screens trained: cut short, within their budgets, beside another reasoner.
mod training;
/// Who may log in, by the command line.
mod users;
/// The server over its wire.
mod wire;
