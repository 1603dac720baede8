//! Reader connections: taken for one read, given back after it.
//!
//! A read never waits for another: one statement may hold several scans open at once, and scans that waited for each
//! other's connections could wait forever. So connections are opened as needed up to a limit, past which a read is
//! refused, and only a few idle ones are kept.

use super::error::StoreError;
use super::open;
use crate::config::{STORE_READERS_IDLE_MAX, STORE_READERS_MAX};
use rusqlite::Connection;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The connections of one store.
pub(super) struct Readers {
    path: PathBuf,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    out: usize,
}

/// A connection at work. Goes back when it is dropped.
pub(super) struct Reader {
    home: Arc<Readers>,
    connection: Option<Connection>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Readers {
        Readers {
            path: path.to_path_buf(),
            pool: Mutex::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An idle connection or a new one. Blocks only to open it.
    pub(super) fn take(self: &Arc<Self>) -> Result<Reader, StoreError> {
        let idle = {
            let mut pool = self.lock();
            if pool.out == STORE_READERS_MAX {
                return Err(StoreError::TooManyReaders {
                    path: self.path.clone(),
                });
            }
            pool.out += 1;
            pool.idle.pop()
        };
        // From here on the count is given back by the reader's drop, whether or not it gets its connection.
        let mut reader = Reader {
            home: Arc::clone(self),
            connection: idle,
        };
        if reader.connection.is_none() {
            reader.connection = Some(open::reader(&self.path)?);
        }
        Ok(reader)
    }

    /// Closes the idle connections.
    pub(super) fn close(&self) {
        self.lock().idle.clear();
    }

    /// Connections taken and not yet given back.
    #[cfg(test)]
    pub(super) fn at_work(&self) -> usize {
        self.lock().out
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        // Nothing that can panic runs under the lock, so a poisoned pool is still a whole one.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("bug: a reader without its connection")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let connection = self.connection.take();
        // A connection whose transaction was left open (a read failed half-way) is closed, not kept.
        let sound = connection.filter(Connection::is_autocommit);
        let mut pool = self.home.lock();
        pool.out -= 1;
        if let Some(connection) = sound
            && pool.idle.len() < STORE_READERS_IDLE_MAX
        {
            pool.idle.push(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn readers_are_kept_and_limited() {
        let store = Store::ephemeral().expect("a store");
        let readers = &store.inner.readers;
        let taken: Vec<_> = (0..STORE_READERS_MAX)
            .map(|_| readers.take().expect("within the limit"))
            .collect();
        let refused = readers.take().err().expect("past the limit");
        assert_eq!(
            refused,
            StoreError::TooManyReaders {
                path: store.path().to_path_buf()
            },
            "{refused}"
        );
        drop(taken);
        assert_eq!(readers.lock().idle.len(), STORE_READERS_IDLE_MAX);
        assert_eq!(readers.lock().out, 0);
        let again = readers.take().expect("an idle one");
        again
            .execute_batch("BEGIN; SELECT count(*) FROM verdicts")
            .expect("a read");
        drop(again);
        assert_eq!(
            readers.lock().idle.len(),
            STORE_READERS_IDLE_MAX - 1,
            "left in a transaction"
        );
    }
}
