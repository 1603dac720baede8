//! Keys that are asked about right now, on whichever server that shares a store: whoever meets one waits instead of asking
//! again.
//!
//! Takes keys, gives those that nobody else asks about to whoever comes first; they are given up when the [`Aloft`] is
//! dropped, when their verdicts are stored, or when their server has not renewed them for a while. What is lost with a row is
//! only that a text may be asked about twice. Within one process, and between processes on one file, this says nothing.

use super::db::{self, Connection, Error, Row};
use super::error::StoreError;
use super::place::Place;
use super::records::Digest;
use super::writer::Work;
use super::{Inner, Store};
use crate::config::{STORE_ALOFT_RENEW_SECONDS, STORE_ALOFT_SECONDS};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// Keys that only this server asks about; given up when it is dropped.
pub struct Aloft {
    store: Arc<Inner>,
    keys: HashSet<Digest>,
    /// What renews their lease.
    renewal: Option<AbortHandle>,
}

impl fmt::Debug for Aloft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aloft")
            .field("keys", &self.keys.len())
            .finish()
    }
}

impl Aloft {
    /// A key whose verdict is stored, which gave it up.
    pub fn landed(&mut self, key: &Digest) {
        self.keys.remove(key);
    }
}

impl Drop for Aloft {
    fn drop(&mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
        let Place::Server(server) = &self.store.place else {
            return;
        };
        if self.keys.is_empty() {
            return;
        }
        let (keys, owner) = (std::mem::take(&mut self.keys), server.owner().to_owned());
        let land = move |c: &Connection| land(c, &keys, &owner);
        // Nobody waits for it; what is not done is over by itself some time later.
        self.store.writer.try_write(Work::Once(Box::new(land)));
    }
}

impl Store {
    /// Takes the keys that nobody else asks about, and that were not decided meanwhile: for each key in order whether it is
    /// this server's to ask. In a file all are.
    pub async fn take_off(&self, keys: Vec<Digest>) -> Result<(Aloft, Vec<bool>), StoreError> {
        let mut aloft = Aloft {
            store: Arc::clone(&self.inner),
            keys: HashSet::new(),
            renewal: None,
        };
        let Place::Server(server) = &self.inner.place else {
            return Ok((aloft, vec![true; keys.len()]));
        };
        if keys.is_empty() {
            return Ok((aloft, Vec::new()));
        }
        let (asked, owner) = (keys.clone(), server.owner().to_owned());
        let taken = self.transact_once(move |c| take(c, &asked, &owner));
        aloft.keys = taken.await?;
        if !aloft.keys.is_empty() {
            aloft.renewal = Some(self.renewed(aloft.keys.iter().copied().collect()));
        }
        let mine = keys.iter().map(|key| aloft.keys.contains(key)).collect();
        Ok((aloft, mine))
    }

    /// Renews the lease of keys until that is ended. What has landed meanwhile is passed over.
    fn renewed(&self, keys: Vec<Digest>) -> AbortHandle {
        let (store, keys) = (Arc::downgrade(&self.inner), Arc::new(keys));
        let renewal = async move {
            let pause = Duration::from_secs(STORE_ALOFT_RENEW_SECONDS);
            loop {
                tokio::time::sleep(pause).await;
                let Some(inner) = store.upgrade() else { return };
                let Place::Server(server) = &inner.place else {
                    return;
                };
                let (keys, owner) = (Arc::clone(&keys), server.owner().to_owned());
                let store = Store { inner };
                let held = store.transact_once(move |c| renew(c, &keys, &owner));
                if let Err(error) = held.await {
                    tracing::warn!("others may ask what is asked here: {error}");
                }
            }
        };
        tokio::spawn(renewal).abort_handle()
    }

    /// Whether each key is asked about by another server now.
    pub async fn asked_elsewhere(&self, keys: Vec<Digest>) -> Result<Vec<bool>, StoreError> {
        let Place::Server(server) = &self.inner.place else {
            return Ok(vec![false; keys.len()]);
        };
        let owner = server.owner().to_owned();
        self.read(move |c| elsewhere(c, &keys, &owner)).await
    }
}

/// Now, in microseconds of the database's clock.
const NOW: &str = "CAST(extract(epoch FROM clock_timestamp()) * 1e6 AS BIGINT)";

/// Microseconds for which a key is taken.
fn lease() -> i64 {
    i64::try_from(STORE_ALOFT_SECONDS * 1_000_000).unwrap_or(i64::MAX)
}

fn bytes<'k>(keys: impl IntoIterator<Item = &'k Digest>) -> Vec<&'k [u8]> {
    keys.into_iter().map(|key| &key[..]).collect()
}

fn take(c: &Connection, keys: &[Digest], owner: &str) -> db::Result<HashSet<Digest>> {
    let Connection::Postgres(server) = c else {
        return Err(Error::NoRows);
    };
    let sql = format!(
        "INSERT INTO aloft AS f (key, owner, lease_until)
         SELECT g.key, CAST(?2 AS TEXT), {NOW} + ?3
         FROM unnest(CAST(?1 AS BYTEA[])) AS g (key)
         WHERE NOT EXISTS (
             SELECT 1 FROM verdicts AS v WHERE v.verdict_digest = g.key AND v.label IS NOT NULL
         )
         ORDER BY g.key
         ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
             WHERE f.owner = excluded.owner OR f.lease_until <= {NOW}
         RETURNING key"
    );
    let distinct: HashSet<&Digest> = keys.iter().collect();
    let found = server.query_typed(&sql, &[&bytes(distinct), &owner, &lease()])?;
    found.iter().map(|row| Row::Postgres(row).get(0)).collect()
}

/// Rows that somebody else has in hand at that moment are passed over: they land, or are renewed the next time.
pub(super) fn renew(c: &Connection, keys: &[Digest], owner: &str) -> db::Result<()> {
    let Connection::Postgres(server) = c else {
        return Err(Error::NoRows);
    };
    let sql = format!(
        "UPDATE aloft SET lease_until = {NOW} + ?3 WHERE key IN (
             SELECT key FROM aloft WHERE key = ANY(?1) AND owner = ?2 FOR UPDATE SKIP LOCKED
         )"
    );
    server
        .query_typed(&sql, &[&bytes(keys), &owner, &lease()])
        .map(drop)
}

fn land(c: &Connection, keys: &HashSet<Digest>, owner: &str) -> db::Result<()> {
    let Connection::Postgres(server) = c else {
        return Err(Error::NoRows);
    };
    let sql = "DELETE FROM aloft WHERE key = ANY(?1) AND owner = ?2";
    server.query_typed(sql, &[&bytes(keys), &owner]).map(drop)
}

fn elsewhere(c: &Connection, keys: &[Digest], owner: &str) -> db::Result<Vec<bool>> {
    let Connection::Postgres(server) = c else {
        return Err(Error::NoRows);
    };
    let sql = format!(
        "SELECT key FROM aloft WHERE key = ANY(?1) AND owner <> ?2 AND lease_until > {NOW}"
    );
    let found = server.query_typed(&sql, &[&bytes(keys), &owner])?;
    let found: db::Result<HashSet<Digest>> =
        found.iter().map(|row| Row::Postgres(row).get(0)).collect();
    let found = found?;
    Ok(keys.iter().map(|key| found.contains(key)).collect())
}
