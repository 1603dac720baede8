//! safeguard-sql: moderate stored content with SQL.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod backend;
pub mod classify;
pub mod cli;
pub mod config;
pub mod engine;
pub mod error;
pub mod model;
pub mod policy;
pub mod store;
