//! A store that servers share: a schema of a PostgreSQL database.
//!
//! Takes a URL, gives connections whose bytes are moved by a runtime of the store's own, so that any thread may wait for
//! an answer. The time by which servers agree is the database's: it is looked up now and then, and counted on from there
//! by a clock that nobody sets. Knows nothing of what is stored.

mod address;
mod leases;
mod pen;
mod schema;
mod verdicts;

pub(super) use leases::Lease;
pub(super) use pen::Pen;
pub(super) use verdicts::recall;

use super::db::postgres::Postgres;
use super::db::{Error, Result as DbResult, Row};
use super::error::{StoreError, shortened};
use crate::config::{STORE_CONNECT_SECONDS, STORE_RECONNECT_PAUSE_MS, STORE_RETRY_MS};
use crate::postgres::{Connection, Refusal, words};
use address::Address;
use futures::executor::block_on;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// How every connection is set.
const SETTINGS: &str = "SET standard_conforming_strings = on; SET timezone = 'UTC'; \
    SET default_transaction_isolation = 'read committed'";

/// Where a shared store is.
pub(super) struct Server {
    address: Address,
    /// The URL without its password.
    name: PathBuf,
    /// What this server's keys are marked with.
    owner: String,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    /// When the database's clock was looked at, and what it said.
    clock: Mutex<Option<(Instant, i64)>>,
    /// Told when another server waits for what this one has not stored yet.
    hurried: Arc<Notify>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Waits for nobody: this may be a thread that must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    /// The store at a URL, brought to the known version, whole.
    pub(super) fn open(url: &str) -> Result<Arc<Server>, StoreError> {
        let bad = |why| StoreError::Unopenable {
            path: PathBuf::from("postgres://.."),
            why,
        };
        let address = Address::parse(url).map_err(bad)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-server")
            .enable_all()
            .build()
            .map_err(|e| bad(e.to_string()))?;
        let server = Server {
            name: PathBuf::from(address.shown()),
            owner: format!("{:016x}", RandomState::new().build_hasher().finish()),
            address,
            runtime: Some(runtime),
            clock: Mutex::default(),
            hurried: Arc::default(),
        };
        let connection = server.connect_once()?;
        schema::prepare(&connection, &server)?;
        server.look_at(&connection).map_err(|e| server.failed(e))?;
        Ok(Arc::new(server))
    }

    /// See [`super::place::Place::path`].
    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// See [`super::aloft`].
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// The schema that it is in.
    pub(super) fn schema(&self) -> &str {
        &self.address.schema
    }

    pub(super) fn failed(&self, error: Error) -> StoreError {
        StoreError::of(&self.name, error)
    }

    /// Microseconds since 1970-01-01 UTC, by the database's clock.
    pub(super) fn now(&self) -> i64 {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.map_or_else(super::now, |(at, said)| said.saturating_add(micros(at)))
    }

    /// Takes in what the database's clock says.
    pub(super) fn look_at(&self, connection: &Postgres) -> DbResult<()> {
        let asked = Instant::now();
        let rows = connection.query(
            "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1e6 AS BIGINT)",
            &[],
        )?;
        let said: i64 = Row::Postgres(rows.first().ok_or(Error::NoRows)?).get(0)?;
        // It was said about half-way.
        let half = micros(asked) / 2;
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        *clock = Some((Instant::now(), said.saturating_add(half)));
        Ok(())
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("bug: a store that was closed")
    }

    /// What comes by a time, if it does.
    fn until<T>(&self, due: Instant, comes: impl Future<Output = T>) -> Option<T> {
        let waits = async { tokio::time::timeout_at(due.into(), comes).await.ok() };
        self.runtime().block_on(waits)
    }

    /// A new connection. One that cannot be had is tried for again for a while.
    pub(super) fn connect(&self) -> Result<Postgres, StoreError> {
        let begun = Instant::now();
        loop {
            match self.connect_once() {
                Err(StoreError::Unreachable { .. })
                    if begun.elapsed() < Duration::from_millis(STORE_RETRY_MS) =>
                {
                    std::thread::sleep(Duration::from_millis(STORE_RECONNECT_PAUSE_MS));
                }
                connected => return connected,
            }
        }
    }

    fn connect_once(&self) -> Result<Postgres, StoreError> {
        let (address, told) = (self.address.clone(), Arc::clone(&self.hurried));
        let limit = Duration::from_secs(STORE_CONNECT_SECONDS);
        let opening = async move {
            let (config, roots) = (address.config(), address.sslrootcert.as_deref());
            let opened = Connection::open_told(config, address.sslmode, roots, Some(told));
            tokio::time::timeout(limit, opened).await
        };
        let unreachable = |why| StoreError::Unreachable {
            path: self.name.clone(),
            why,
        };
        let opened = block_on(self.runtime().spawn(opening)).expect("bug: connecting panicked");
        let connection = match opened {
            Err(_) => {
                let why = format!("no answer within {STORE_CONNECT_SECONDS} s");
                return Err(unreachable(why));
            }
            Ok(Err(Refusal::Certificates(why))) => {
                let path = self.name.clone();
                return Err(StoreError::Unopenable { path, why });
            }
            Ok(Err(Refusal::Server(error))) => return Err(self.refused(error)),
            Ok(Ok(connection)) => Postgres::new(connection),
        };
        let path = self.schema().replace('"', "\"\"");
        let name = self.schema().replace('\'', "''");
        let settings = format!(
            "{SETTINGS}; SET application_name = 'safeguard {name}'; SET search_path = \"{path}\", pg_catalog"
        );
        connection.batch(&settings).map_err(|e| self.failed(e))?;
        // Older servers do not know it; newer ones then see that nobody waits for a statement any more.
        let _ = connection.batch("SET client_connection_check_interval = '5s'");
        Ok(connection)
    }

    fn refused(&self, error: tokio_postgres::Error) -> StoreError {
        let path = self.name.clone();
        let why = shortened(words(&error));
        match error.code().map(|code| code.code()) {
            Some("28P01" | "28000" | "3D000" | "42501") => StoreError::Denied { path, why },
            None if why == "password missing" => StoreError::Denied {
                path,
                why: "it wants a password, and PGPASSWORD holds none".to_owned(),
            },
            _ => StoreError::Unreachable { path, why },
        }
    }
}

/// Microseconds since then.
fn micros(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
