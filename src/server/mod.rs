//! The PostgreSQL wire protocol: sessions, authentication, TLS, cancellation, COPY, SQLSTATE.

pub mod failure;
