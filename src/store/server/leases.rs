//! That a server works on a shared store: a row that it renews, by the database's clock.
//!
//! A server that is killed, or cut off, is taken to be gone when its row was not renewed for a while; one that leaves
//! takes its row along. Knows nothing of what the server does.

use super::Server;
use crate::config::{STORE_LEAVE_MS, STORE_PRESENCE_RENEW_SECONDS, STORE_PRESENCE_SECONDS};
use crate::store::db::postgres::Postgres;
use crate::store::db::{self, Row, Value};
use crate::store::error::StoreError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Holds a row for as long as it lives.
pub(in crate::store) struct Lease {
    /// Whose runtime the last statement needs.
    _server: Arc<Server>,
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    left: Mutex<Receiver<()>>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.take();
        // A database that does not answer finds out by itself.
        let left = self.left.get_mut().unwrap_or_else(PoisonError::into_inner);
        let left = left.recv_timeout(Duration::from_millis(STORE_LEAVE_MS));
        if left.is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

const RENEW: &str = "INSERT INTO presences (id, lease_until)
    VALUES (?1, CAST(extract(epoch FROM clock_timestamp()) * 1e6 AS BIGINT) + ?2)
    ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until";
const PRESENT: &str = "SELECT id FROM presences
    WHERE lease_until > CAST(extract(epoch FROM clock_timestamp()) * 1e6 AS BIGINT)";

fn renew(connection: &Postgres, id: &str) -> db::Result<()> {
    let lease = i64::try_from(STORE_PRESENCE_SECONDS * 1_000_000).unwrap_or(i64::MAX);
    let values = [Value::Text(id), Value::Integer(lease)];
    connection.execute(RENEW, &values).map(drop)
}

impl Lease {
    /// Holds the row `id`.
    pub(in crate::store) fn take(server: &Arc<Server>, id: &str) -> Result<Lease, StoreError> {
        let connection = server.connect()?;
        renew(&connection, id).map_err(|e| server.failed(e))?;
        // Rows of long ago, which nobody asks after any more.
        let gone = "DELETE FROM presences WHERE lease_until + 86400000000
                    < CAST(extract(epoch FROM clock_timestamp()) * 1e6 AS BIGINT)";
        connection
            .execute(gone, &[])
            .map_err(|e| server.failed(e))?;
        let (stop, stopped) = channel::<()>();
        let (leaving, left) = channel();
        let (weak, id) = (Arc::downgrade(server), id.to_owned());
        let thread = std::thread::Builder::new().name("store-presence".into());
        let thread = thread.spawn(move || {
            let pause = Duration::from_secs(STORE_PRESENCE_RENEW_SECONDS);
            let mut connection = Some(connection);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                if !hold(&weak, &mut connection, &id) {
                    break;
                }
            }
            if let Some(connection) = connection.filter(Postgres::is_idle) {
                let leave = "DELETE FROM presences WHERE id = ?1";
                let _ = connection.execute(leave, &[Value::Text(&id)]);
            }
            let _ = leaving.send(());
        });
        let thread = thread.map_err(|e| StoreError::Failed {
            path: server.name().to_path_buf(),
            why: e.to_string(),
        })?;
        Ok(Lease {
            _server: Arc::clone(server),
            stop: Some(stop),
            thread: Some(thread),
            left: Mutex::new(left),
        })
    }
}

/// Renews the row and looks at the clock; whether the store is still open.
fn hold(server: &Weak<Server>, connection: &mut Option<Postgres>, id: &str) -> bool {
    let Some(server) = server.upgrade() else {
        return false;
    };
    let usable = match connection.take().filter(Postgres::is_idle) {
        Some(usable) => Ok(usable),
        None => server.connect(),
    };
    let held = usable.and_then(|usable| {
        let held = renew(&usable, id).and_then(|()| server.look_at(&usable));
        held.map_err(|e| server.failed(e)).map(|()| usable)
    });
    match held {
        Ok(held) => *connection = Some(held),
        Err(error) => tracing::warn!("this server may be taken to be gone: {error}"),
    }
    true
}

impl Server {
    /// The rows that are held.
    pub(in crate::store) fn present(&self) -> Result<Vec<String>, StoreError> {
        let connection = self.connect()?;
        let read = || -> db::Result<Vec<String>> {
            let found = connection.query(PRESENT, &[])?;
            found.iter().map(|row| Row::Postgres(row).get(0)).collect()
        };
        read().map_err(|e| self.failed(e))
    }
}
