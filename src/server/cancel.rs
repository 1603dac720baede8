//! Stopping statements: one [`Stop`] a statement, whoever asks for it.
//!
//! Takes requests to cancel, timeouts, lost clients and shutdown; gives a future that ends with the first reason. A
//! statement's work is dropped when it ends, and with it what it has waiting at the model. Knows no socket.

use super::failure::Failure;
use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio_util::sync::CancellationToken;

/// Why a statement is to end before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A CancelRequest.
    User,
    /// `statement_timeout`.
    Timeout,
    /// Nobody is there to read the answer.
    Lost,
    /// The server stops.
    Shutdown,
}

impl Why {
    /// What the client is told.
    pub fn failure(self) -> Failure {
        match self {
            Why::User => Failure::new("57014", "canceling statement due to user request"),
            Why::Timeout => Failure::new("57014", "canceling statement due to statement timeout"),
            Why::Lost => Failure::fatal("08006", "connection to client lost"),
            Why::Shutdown => Failure::fatal(
                "57P01",
                "terminating connection due to administrator command",
            ),
        }
    }
}

/// The stop of one statement. Clones share it; the first reason counts.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    why: Arc<OnceLock<Why>>,
}

impl Stop {
    /// Ends the statement.
    pub fn stop(&self, why: Why) {
        let _ = self.why.set(why);
        self.token.cancel();
    }

    /// Waits until the statement is to end.
    pub async fn stopped(&self) -> Why {
        self.token.cancelled().await;
        *self.why.get().unwrap_or(&Why::User)
    }

    /// Why it was stopped, if it was.
    pub fn why(&self) -> Option<Why> {
        self.why.get().copied()
    }
}

/// All connections by their numbers.
#[derive(Debug, Default)]
pub struct Registry {
    connections: Mutex<HashMap<i32, Line>>,
}

#[derive(Debug)]
struct Line {
    key: Bytes,
    running: Option<Stop>,
}

/// A connection's place in the registry; it is free when this is dropped.
#[derive(Debug)]
pub struct Place {
    registry: Arc<Registry>,
    /// The connection's number.
    pub pid: i32,
    /// What a client must know to cancel its statements. Never logged.
    pub key: Bytes,
}

impl Registry {
    /// A place for a connection whose secret has `bytes` bytes (4, or 32 from protocol 3.2 on).
    pub fn enter(self: &Arc<Self>, bytes: usize) -> Place {
        let mut random = [0; 36];
        SystemRandom::new()
            .fill(&mut random)
            .expect("bug: the system has no random numbers");
        let key = Bytes::copy_from_slice(&random[4..4 + bytes.min(32)]);
        let mut connections = self.lock();
        let mut pid = i32::from_be_bytes(random[..4].try_into().expect("bug: 4 bytes")) >> 8;
        loop {
            pid = (pid & 0x3f_ffff) + 1;
            if let Entry::Vacant(vacant) = connections.entry(pid) {
                vacant.insert(Line {
                    key: key.clone(),
                    running: None,
                });
                break;
            }
        }
        Place {
            registry: Arc::clone(self),
            pid,
            key,
        }
    }

    /// Stops what connection `pid` runs, if `key` is its secret. Never says whether it was.
    pub fn cancel(&self, pid: i32, key: &[u8]) {
        let connections = self.lock();
        let Some(line) = connections.get(&pid) else {
            return;
        };
        let differing = line
            .key
            .iter()
            .zip(key)
            .fold(0, |all, (a, b)| all | (a ^ b));
        if differing == 0
            && line.key.len() == key.len()
            && let Some(stop) = &line.running
        {
            stop.stop(Why::User);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Line>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What the connection runs from now on.
    pub fn set(&self, running: Option<Stop>) {
        if let Some(line) = self.registry.lock().get_mut(&self.pid) {
            line.running = running;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_cancels() {
        let registry = Arc::new(Registry::default());
        let (one, other) = (registry.enter(4), registry.enter(32));
        assert_ne!(one.pid, other.pid);
        let stop = Stop::default();
        one.set(Some(stop.clone()));
        registry.cancel(one.pid, &other.key);
        registry.cancel(one.pid, b"");
        registry.cancel(other.pid, &other.key);
        assert_eq!(stop.why(), None);
        registry.cancel(one.pid, &one.key);
        stop.stop(Why::Lost);
        assert_eq!(stop.why(), Some(Why::User));
        let pid = one.pid;
        drop(one);
        assert!(!registry.lock().contains_key(&pid));
    }
}
