//! Where a store is: a file of this machine, or a database that servers share.
//!
//! Takes neither verdicts nor questions: gives connections, and what is said differently to each.

use super::db::Connection;
use super::error::StoreError;
use super::open;
use super::server::Server;
use crate::config::{STORE_READERS_MAX, STORE_SERVER_SCANS_MAX};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a store is.
#[derive(Clone)]
pub(super) enum Place {
    /// A file of SQLite's.
    File(PathBuf),
    /// A schema of a PostgreSQL database.
    Server(Arc<Server>),
}

/// Whose SQL is spoken there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
}

impl Dialect {
    /// In plans.
    pub(super) fn name(self) -> &'static str {
        match self {
            Dialect::Sqlite => "sqlite",
            Dialect::Postgres => "postgres",
        }
    }

    /// Bytes as lower-case hex digits.
    pub(super) fn hex(self, bytes: &str) -> String {
        match self {
            Dialect::Sqlite => format!("lower(hex({bytes}))"),
            Dialect::Postgres => format!("encode({bytes}, 'hex')"),
        }
    }
}

impl Place {
    /// What it is called: the file, or the database's URL without a password.
    pub(super) fn path(&self) -> &Path {
        match self {
            Place::File(path) => path,
            Place::Server(server) => server.name(),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Place::File(_) => Dialect::Sqlite,
            Place::Server(_) => Dialect::Postgres,
        }
    }

    /// A new connection that reads.
    pub(super) fn reader(&self) -> Result<Connection, StoreError> {
        match self {
            Place::File(path) => open::reader(path).map(Connection::Sqlite),
            Place::Server(server) => server.connect().map(Connection::Postgres),
        }
    }

    /// Readers that may be at work at once.
    pub(super) fn readers_max(&self) -> usize {
        match self {
            Place::File(_) => STORE_READERS_MAX,
            Place::Server(_) => STORE_SERVER_SCANS_MAX,
        }
    }
}
