//! The PostgreSQL wire protocol: sessions, authentication, TLS, cancellation, COPY, SQLSTATE.
//!
//! Takes an engine and options, serves clients until it is told to stop. One file an arrow: `listen` accepts, `startup`
//! finds out who it is (`tls`, `scram`, `roles`), `connection` reads messages with `frontend` and watches the client,
//! `session` answers them by the simple protocol or `extended`, `statement` tells what is asked, `run` does it, `cursor`
//! reads rows, `encode` and `copy` write them, `outbox` sends them. `settings` and `catalog` answer what clients ask
//! about the server. Only this module knows pgwire.

mod adjust;
pub mod cancel;
pub mod catalog;
pub mod connection;
mod copy;
mod copy_in;
pub mod counters;
mod cursor;
mod encode;
mod extended;
pub mod failure;
pub mod frontend;
pub mod health;
mod link;
pub mod listen;
mod outbox;
mod params;
mod portal;
mod rewrite;
pub mod roles;
mod run;
pub mod scram;
mod session;
pub mod settings;
pub mod startup;
mod statement;
pub mod tls;
mod transaction;

use crate::engine::Engine;
use crate::error::Error;
use cancel::Registry;
use catalog::Catalog;
use counters::Counters;
use roles::Role;
use startup::Peer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tls::Tls;

/// How a server serves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Connections at once.
    pub connections_max: usize,
    /// Bytes of one statement.
    pub statement_bytes_max: usize,
    /// Bytes of one answer; 0 for any number.
    pub result_bytes_max: u64,
    /// What `statement_timeout` begins as; zero for none.
    pub statement: Duration,
    /// What `idle_session_timeout` begins as; zero for none.
    pub idle: Duration,
    /// How long a client may take to say who it is.
    pub startup: Duration,
    /// How long running statements may go on when the server stops.
    pub shutdown: Duration,
    /// Between two notices of progress; zero for none.
    pub progress: Duration,
    /// Whether connections in the clear are refused.
    pub tls_required: bool,
    /// Whose rights connections have while there are no users.
    pub anonymous: Role,
    /// Whether connections from other machines need no users.
    pub allow_insecure: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 5433)),
            connections_max: 100,
            statement_bytes_max: 1 << 20,
            result_bytes_max: 0,
            statement: Duration::ZERO,
            idle: Duration::ZERO,
            startup: Duration::from_secs(60),
            shutdown: Duration::from_secs(30),
            progress: Duration::from_secs(5),
            tls_required: false,
            anonymous: Role::Admin,
            allow_insecure: false,
        }
    }
}

impl Options {
    /// Whether this client needs no password while there are no users.
    fn trusts(&self, peer: Peer) -> bool {
        self.allow_insecure || peer.address.ip().is_loopback()
    }
}

/// What all connections share.
pub struct Shared {
    /// Store, policies, model, tables.
    pub engine: Engine,
    /// How it serves.
    pub options: Options,
    /// What clients ask about tables and types.
    pub catalog: Catalog,
    /// What it has done.
    pub counters: Arc<Counters>,
    /// Where CancelRequests find statements.
    pub registry: Arc<Registry>,
    /// Certificate and key, where it has them.
    pub tls: Option<Tls>,
    /// Grows with every change of a table.
    pub tables: AtomicU64,
    /// What answers for users that do not exist are made of. Never shown.
    pub mock: scram::Mock,
}

impl Shared {
    /// What connections of a server over this engine share.
    ///
    /// # Errors
    /// The engine's catalog cannot take PostgreSQL's tables.
    pub fn new(engine: Engine, options: Options, tls: Option<Tls>) -> Result<Shared, Error> {
        let catalog = Catalog::new(engine.session("safeguard").context())?;
        Ok(Shared {
            engine,
            options,
            catalog,
            counters: Arc::default(),
            registry: Arc::default(),
            tls,
            tables: AtomicU64::new(0),
            mock: scram::Mock,
        })
    }
}
