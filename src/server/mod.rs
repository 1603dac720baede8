//! The PostgreSQL wire protocol: sessions, authentication, TLS, cancellation, COPY, SQLSTATE.
//!
//! Takes an engine and options, serves clients until it is told to stop. One file an arrow: `listen` accepts, `startup`
//! finds out who it is (`tls`, `scram`, `roles`), `connection` reads messages with `frontend` and watches the client,
//! `session` answers them by the simple protocol or `extended`, `statement` tells what is asked, `run` does it, `cursor`
//! reads rows, `encode` and `copy` write them, `outbox` sends them. `settings` and `catalog` answer what clients ask
//! about the server. Only this module knows pgwire.

mod adjust;
mod bounds;
pub mod cancel;
mod casts;
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
mod prepare;
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
mod workers;

use crate::config::{Role, ServeConfig};
use crate::engine::{self, Engine};
use crate::error::Error;
use crate::jobs::cron::{Host, Scheduler};
use crate::jobs::{self, pace::Pace};
use cancel::Registry;
use catalog::{Catalog, Facts};
use connection::Shutdown;
use counters::Counters;
use datafusion::common::DataFusionError;
use health::Health;
use listen::Server;
use scram::Mock;
use settings::{SessionOptions, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tls::Tls;
use workers::Workers;

/// What all connections share.
pub struct Shared {
    /// Store, policies, model, tables.
    pub engine: Engine,
    /// How it serves.
    pub config: ServeConfig,
    /// What clients ask about tables and types.
    pub catalog: Catalog,
    /// What it has done.
    pub counters: Arc<Counters>,
    /// Where CancelRequests find statements.
    pub registry: Arc<Registry>,
    /// Certificate and key, where it has them.
    pub tls: Option<Tls>,
    /// What runs statements.
    pub(crate) workers: Workers,
    /// Grows with every change of a table.
    pub tables: AtomicU64,
    /// What answers for users that do not exist are made of. Never shown.
    pub mock: Mock,
}

impl Shared {
    /// What connections of a server over this engine share.
    ///
    /// # Errors
    /// The engine's catalog cannot take PostgreSQL's tables; certificate or key cannot be used; the store fails.
    pub async fn new(engine: Engine, config: ServeConfig) -> Result<Shared, Error> {
        let catalog = Catalog::new(engine.session("safeguard").context())?;
        let tls = match &config.tls {
            Some(files) => Some(Tls::load(&files.cert, &files.key)?),
            None => None,
        };
        let secret = engine.store().mock_secret().await?;
        let store = engine.store().clone();
        engine.limit(config.limits, Arc::new(move || store.clock()));
        Ok(Shared {
            mock: Mock::new(secret),
            engine,
            config,
            catalog,
            counters: Arc::default(),
            registry: Arc::default(),
            tls,
            workers: Workers::new().map_err(DataFusionError::from)?,
            tables: AtomicU64::new(0),
        })
    }

    /// A session that is no client's and has the functions that clients have.
    pub fn own_session(&self, user: &str) -> engine::Session {
        let session = self.engine.session(user).paid_by(Role::Admin);
        let options = SessionOptions::new(session.context());
        let facts = Facts {
            user: user.to_owned(),
            role: Role::Admin.as_str().to_owned(),
            database: engine::CATALOG.to_owned(),
            pid: 0,
            settings: Arc::new(Settings::new(Arc::new(options), user, true)),
            client_addr: None,
        };
        self.catalog.install(session.context(), facts);
        session
    }

    /// What jobs run in.
    pub fn host(self: &Arc<Self>) -> Host {
        let (sessions, tables) = (Arc::clone(self), Arc::clone(self));
        Host {
            session: Arc::new(move |user| sessions.own_session(user)),
            // It may have made tables.
            ended: Arc::new(move || {
                tables.tables.fetch_add(1, Ordering::AcqRel);
            }),
        }
    }
}

/// Serves until the process is told to stop: by SIGINT or SIGTERM once in order, twice at once. SIGHUP reads certificate
/// and key, the policies that other processes published and those of the user's folder anew. `say` is told where it
/// listens, and what became of the folder's policies.
///
/// # Errors
/// Store, policies or model cannot be opened, the address cannot be had, or it is one that others reach and there are
/// no users.
pub async fn serve(
    config: ServeConfig,
    say: impl Fn(&str) + Send + Sync + 'static,
) -> Result<(), Error> {
    let engine = jobs::open(config.engine.clone()).await?;
    let users = engine.store().users().await?.len();
    config.may_listen(users)?;
    for line in engine.take_policies().await? {
        say(&line);
    }
    if let Some(line) = engine.demonstration() {
        say(&line);
    }
    let watched = config.metrics_listen;
    let shared = Arc::new(Shared::new(engine, config).await?);
    let own = shared.own_session("safeguard");
    for line in shared.engine.restore(&own).await? {
        say(&format!("WARNING:  {line}"));
    }
    let server = Server::bind(Arc::clone(&shared)).await?;
    let shutdown = Shutdown::default();
    if let Some(watched) = watched {
        let health = Health::bind(Arc::clone(&shared), watched).await?;
        say(&format!(
            "health and metrics on http://{}",
            health.address()
        ));
        tokio::spawn(health.run(shutdown.clone()));
    }
    if users == 0 {
        let role = shared.config.anonymous_role;
        say(&format!(
            "there are no users: whoever connects is {role} (safeguard user add)"
        ));
    }
    say(&format!("listening on {}", server.address()));
    tokio::spawn(signals(Arc::clone(&shared), shutdown.clone(), say));
    let scheduler = Scheduler::new(shared.engine.clone(), shared.config.cron)?;
    let jobs = scheduler.within(shared.host()).run(shutdown.soft.clone());
    let background = tokio::spawn(background(Arc::clone(&shared), shutdown.clone()));
    // Commands compute as statements do, and on the same threads.
    tokio::join!(shared.workers.run(jobs), server.run(shutdown));
    if let Err(ended) = background.await {
        tracing::error!("bug: background work ended: {ended}");
    }
    Ok(())
}

/// Works off backfills and the queue, among the threads of statements, until the server begins to stop.
async fn background(shared: Arc<Shared>, shutdown: Shutdown) {
    let engine = shared.engine.clone();
    let pace = Pace::of(engine.store());
    let work = jobs::runner::run(engine, pace, shutdown.soft);
    shared.workers.run(work).await;
}

#[cfg(unix)]
async fn signals(shared: Arc<Shared>, shutdown: Shutdown, say: impl Fn(&str) + Send + Sync) {
    use tokio::signal::unix::{SignalKind, signal};
    let all = [
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = all else {
        tracing::warn!("signals cannot be listened for");
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => shutdown.next(),
            _ = terminate.recv() => shutdown.next(),
            _ = hangup.recv() => {
                if let Some(Err(error)) = shared.tls.as_ref().map(Tls::reload) {
                    tracing::error!("{error}; the old certificate stays");
                }
                match shared.engine.take_policies().await {
                    Ok(lines) => lines.iter().for_each(|line| say(line)),
                    Err(error) => tracing::error!("{error}; the policies stay as they were"),
                }
            }
        }
    }
}

#[cfg(not(unix))]
async fn signals(_: Arc<Shared>, shutdown: Shutdown, _: impl Fn(&str)) {
    while tokio::signal::ctrl_c().await.is_ok() {
        shutdown.next();
    }
}
