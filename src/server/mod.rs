//! The PostgreSQL wire protocol: sessions, authentication, TLS, cancellation, COPY, SQLSTATE.

pub mod cancel;
pub mod failure;
pub mod frontend;
pub mod outbox;
pub mod roles;
pub mod scram;
pub mod tls;
pub mod transaction;
