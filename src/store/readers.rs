//! Reader connections: taken for one read, given back after it.
//!
//! A read never waits for another: one statement may hold several scans open at once, and scans that waited for each
//! other's connections could wait forever. So connections are opened as needed up to a limit, past which a read is
//! refused, and only a few idle ones are kept. A server has few connections to give: reads that are over at once share
//! some of them, and wait.

use super::db::Connection;
use super::error::StoreError;
use super::place::{Dialect, Place};
use crate::config::{STORE_READERS_IDLE_MAX, STORE_SERVER_READERS_MAX};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The connections of one store.
pub(super) struct Readers {
    place: Place,
    pool: Mutex<Pool>,
    /// Told when somebody who waits may look again.
    back: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    /// Taken by whoever does not wait.
    out: usize,
    /// Taken by whoever waits for one.
    short: usize,
}

/// A connection at work. Goes back when it is dropped.
pub(super) struct Reader {
    home: Arc<Readers>,
    connection: Option<Connection>,
    short: bool,
}

impl Readers {
    pub(super) fn new(place: Place) -> Readers {
        Readers {
            place,
            pool: Mutex::default(),
            back: Condvar::new(),
        }
    }

    /// An idle connection or a new one, for as long as somebody likes. Blocks only to open it.
    pub(super) fn take(self: &Arc<Self>) -> Result<Reader, StoreError> {
        let idle = {
            let mut pool = self.lock();
            let limit = self.place.readers_max();
            if pool.out == limit {
                return Err(StoreError::TooManyReaders {
                    path: self.place.path().to_path_buf(),
                    limit,
                });
            }
            pool.out += 1;
            pool.idle.pop()
        };
        self.connected(idle, false)
    }

    /// The same, for one read that waits for nothing else. Of a server's connections there are few, and this waits for
    /// one of those that are kept for such reads.
    pub(super) fn take_short(self: &Arc<Self>) -> Result<Reader, StoreError> {
        if self.place.dialect() == Dialect::Sqlite {
            return self.take();
        }
        let idle = {
            let mut pool = self.lock();
            while pool.short == STORE_SERVER_READERS_MAX {
                let waited = self.back.wait(pool);
                pool = waited.unwrap_or_else(PoisonError::into_inner);
            }
            pool.short += 1;
            pool.idle.pop()
        };
        self.connected(idle, true)
    }

    fn connected(
        self: &Arc<Self>,
        idle: Option<Connection>,
        short: bool,
    ) -> Result<Reader, StoreError> {
        // From here on the count is given back by the reader's drop, whether or not it gets its connection.
        let mut reader = Reader {
            home: Arc::clone(self),
            connection: idle.filter(Connection::is_idle),
            short,
        };
        if reader.connection.is_none() {
            reader.connection = Some(self.place.reader()?);
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
        let sound = connection.filter(Connection::is_idle);
        let mut pool = self.home.lock();
        if self.short {
            pool.short -= 1;
            self.home.back.notify_one();
        } else {
            pool.out -= 1;
        }
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
    use crate::config::STORE_READERS_MAX;
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
                path: store.path().to_path_buf(),
                limit: STORE_READERS_MAX,
            },
            "{refused}"
        );
        drop(taken);
        assert_eq!(readers.lock().idle.len(), STORE_READERS_IDLE_MAX);
        assert_eq!(readers.lock().out, 0);
        let again = readers.take().expect("an idle one");
        again
            .sqlite()
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
