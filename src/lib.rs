//! safeguard-sql: moderate stored content with SQL.

pub mod backend;
pub mod classify;
pub mod config;
pub mod model;
pub mod policy;
pub mod store;
