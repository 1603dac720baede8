//! The PostgreSQL wire protocol: sessions, authentication, TLS, cancellation, COPY, SQLSTATE.

pub mod copy;
pub mod encode;
pub mod failure;
pub mod params;
