//! The PostgreSQL wire protocol: sessions, authentication, TLS, cancellation, COPY, SQLSTATE.

pub mod catalog;
pub mod failure;
pub mod rewrite;
pub mod settings;
