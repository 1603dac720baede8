//! Chunks: the rows of a backfill as they were when it began, claimed by workers one chunk at a time.
//!
//! Takes rows while a source is spooled, gives them to whoever claims them. A claim is one transaction of SQLite, so that
//! no two workers of any process have the same chunk; it holds until its lease is over. What becomes of a chunk is in
//! [`super::settling`]. Times are arguments, in microseconds since 1970-01-01 UTC. Knows nothing of how a text is judged.

use super::Store;
use super::backfills::{Judging, signed};
use super::db::{self, Connection, Optional, Row, params};
use super::error::StoreError;
use super::payload::{self, SpoolRow};
use super::settling::{begin_marks, end_if_done, forget, window};
use std::sync::Arc;

/// Who takes work, of which model, when, and until when.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// A name that no other worker of any process has.
    pub worker: Arc<str>,
    /// Only work of this model is taken.
    pub model_digest: Arc<str>,
    /// Microseconds since 1970-01-01 UTC.
    pub now: i64,
    /// The same.
    pub lease_until: i64,
}

/// A backfill whose source is to be read.
#[derive(Debug, Clone)]
pub struct SpoolJob {
    /// Its number.
    pub id: i64,
    /// Under what its texts are to be judged.
    pub judging: Judging,
    /// What the requester had set, as a JSON object.
    pub settings: String,
    /// The query to read.
    pub selection: String,
    /// The version whose verdicts say which rows are affected, where only those are wanted.
    pub from: Option<String>,
    /// Who asked for it.
    pub requested_by: String,
}

/// A chunk that is this worker's now.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Its backfill.
    pub backfill: i64,
    /// Its place in the backfill's order.
    pub position: i64,
    /// Times that its texts were asked and failed.
    pub tries: u32,
    /// Times in a row that the backfill failed as a whole.
    pub setbacks: u32,
    /// Tokens that the backfill may still spend.
    pub budget_left: Option<u64>,
    /// Under what its texts are to be judged.
    pub judging: Judging,
    /// What the requester had set, as a JSON object.
    pub settings: String,
    /// What is still to be judged.
    pub rows: Vec<SpoolRow>,
}

impl Store {
    /// The oldest backfill whose source is to be read and that nobody reads. What was spooled before is dropped.
    pub async fn claim_spool(&self, by: Claimant) -> Result<Option<SpoolJob>, StoreError> {
        let free = {
            let by = by.clone();
            self.read(move |c| spoolable(c, &by, "")).await?
        };
        match free {
            None => Ok(None),
            Some(_) => self.transact(move |c| claim_spool(c, &by)).await,
        }
    }

    /// Stores chunks from a position on; whether the spool is still this worker's.
    pub async fn spool(
        &self,
        id: i64,
        by: Claimant,
        from: i64,
        chunks: Vec<(bool, Vec<SpoolRow>)>,
    ) -> Result<bool, StoreError> {
        // Compressed out of the writer's thread.
        let encode = |(control, rows): (bool, Vec<SpoolRow>)| {
            let payload = payload::encode(&rows);
            (control, payload::prefixes(&rows), payload)
        };
        let chunks: Vec<_> = chunks.into_iter().map(encode).collect();
        self.transact_beside(move |c| {
            if !renew_spool(c, id, &by)? {
                return Ok(false);
            }
            let sql = "INSERT INTO backfill_chunks (backfill, position, control, prefixes, payload)
                       VALUES (?1, ?2, ?3, ?4, ?5)";
            let mut insert = c.prepare_cached(sql)?;
            for (position, (control, prefixes, payload)) in (from..).zip(&chunks) {
                insert.execute(params![id, position, control, prefixes, payload])?;
            }
            Ok(true)
        })
        .await
    }

    /// Holds the spool for longer; whether it is still this worker's, and wanted.
    pub async fn renew_spool(&self, id: i64, by: Claimant) -> Result<bool, StoreError> {
        self.transact_once(move |c| renew_spool(c, id, &by)).await
    }

    /// Gives the spool back as it is.
    pub async fn release_spool(&self, id: i64, by: Claimant) -> Result<(), StoreError> {
        self.transact_once(move |c| {
            let sql = "UPDATE backfills SET claimed_by = NULL, lease_until = 0
                       WHERE id = ?1 AND claimed_by = ?2";
            c.prepare_cached(sql)?
                .execute(params![id, by.worker])
                .map(drop)
        })
        .await
    }

    /// The source is read to its end: what was spooled is to be judged. `rows` and `weight` are those spooled, `control`
    /// whether there is a control sample.
    pub async fn end_spool(
        &self,
        id: i64,
        by: Claimant,
        (rows, weight, control): (u64, f64, bool),
    ) -> Result<bool, StoreError> {
        self.transact(move |c| {
            let sql = "UPDATE backfills
                       SET state = 'running', spooled = 1, claimed_by = NULL, lease_until = 0,
                           \"rows\" = ?3, weight_total = ?4, reason = NULL,
                           chunks = (SELECT count(*) FROM backfill_chunks WHERE backfill = ?1),
                           control_rows = CASE WHEN ?5 THEN 0 END,
                           control_flips = CASE WHEN ?5 THEN 0 END
                       WHERE id = ?1 AND state = 'spooling' AND claimed_by = ?2";
            let values = params![id, by.worker, signed(rows), weight, control];
            if c.prepare_cached(sql)?.execute(values)? == 0 {
                return Ok(false);
            }
            end_if_done(c, id, by.now)?;
            Ok(true)
        })
        .await
    }

    /// The next chunk of the backfill whose turn it is.
    pub async fn claim_chunk(&self, by: Claimant) -> Result<Option<Claimed>, StoreError> {
        if self.looks_first() {
            let by = by.clone();
            let some = self.read(move |c| next_backfill(c, &by)).await?;
            if some.is_none() {
                return Ok(None);
            }
        }
        self.transact_once(move |c| claim_chunk(c, &by)).await
    }

    /// Holds a chunk for longer; whether it is still this worker's, and wanted.
    pub async fn renew_chunk(
        &self,
        (backfill, position): (i64, i64),
        by: Claimant,
    ) -> Result<bool, StoreError> {
        self.transact_once(move |c| {
            let sql = "UPDATE backfill_chunks SET lease_until = ?4
                       WHERE backfill = ?1 AND position = ?2 AND claimed_by = ?3 AND done = 0
                         AND EXISTS (SELECT 1 FROM backfills WHERE id = ?1 AND state = 'running')";
            let values = params![backfill, position, by.worker, by.lease_until];
            Ok(c.prepare_cached(sql)?.execute(values)? > 0)
        })
        .await
    }
}

fn spoolable(c: &Connection, by: &Claimant, held: &str) -> db::Result<Option<i64>> {
    let sql = format!(
        "SELECT id FROM backfills
               WHERE state = 'spooling' AND model_digest = ?1 AND lease_until <= ?2 AND retry_at <= ?2
               ORDER BY id LIMIT 1{held}"
    );
    let mut select = c.prepare_cached(&sql)?;
    select
        .query_row(params![by.model_digest, by.now], |row| row.get(0))
        .optional()
}

fn claim_spool(c: &Connection, by: &Claimant) -> db::Result<Option<SpoolJob>> {
    let held = c.either("", " FOR UPDATE SKIP LOCKED");
    let Some(id) = spoolable(c, by, held)? else {
        return Ok(None);
    };
    forget(c, id)?;
    let sql = "UPDATE backfills SET claimed_by = ?2, lease_until = ?3 WHERE id = ?1";
    c.prepare_cached(sql)?
        .execute(params![id, by.worker, by.lease_until])?;
    let sql = format!(
        "SELECT {JUDGING}, settings, selection, from_reference, requested_by
         FROM backfills WHERE id = ?1"
    );
    let read = |row: &Row<'_>| {
        Ok(SpoolJob {
            id,
            judging: judging(row)?,
            settings: row.get(8)?,
            selection: row.get(9)?,
            from: row.get(10)?,
            requested_by: row.get(11)?,
        })
    };
    c.prepare_cached(&sql)?.query_row([id], read).map(Some)
}

fn renew_spool(c: &Connection, id: i64, by: &Claimant) -> db::Result<bool> {
    let sql = "UPDATE backfills SET lease_until = ?3
               WHERE id = ?1 AND claimed_by = ?2 AND state = 'spooling'";
    let renewed = c
        .prepare_cached(sql)?
        .execute(params![id, by.worker, by.lease_until])?;
    Ok(renewed > 0)
}

/// The columns of [`Judging`], in the order of its fields.
pub(super) const JUDGING: &str =
    "reference, policy, policy_version, policy_digest, model, model_digest, mode, effort";

/// The first columns of a row as [`JUDGING`] names them.
pub(super) fn judging(row: &Row<'_>) -> db::Result<Judging> {
    Ok(Judging {
        reference: row.get(0)?,
        policy: row.get(1)?,
        policy_version: row.get(2)?,
        policy_digest: row.get(3)?,
        model: row.get(4)?,
        model_digest: row.get(5)?,
        mode: row.get(6)?,
        effort: row.get(7)?,
    })
}

/// The backfill whose turn it is.
const NEXT: &str = "SELECT id FROM backfills AS b
               WHERE state = 'running' AND model_digest = ?1 AND retry_at <= ?2
                 AND EXISTS (
                     SELECT 1 FROM backfill_chunks AS c
                     WHERE c.backfill = b.id AND c.done = 0 AND c.not_before <= ?2
                       AND c.lease_until <= ?2
                 )
               ORDER BY claimed_at, id LIMIT 1";

fn next_backfill(c: &Connection, by: &Claimant) -> db::Result<Option<i64>> {
    c.prepare_cached(NEXT)?
        .query_row(params![by.model_digest, by.now], |row| row.get(0))
        .optional()
}

fn claim_chunk(c: &Connection, by: &Claimant) -> db::Result<Option<Claimed>> {
    if let Connection::Postgres(_) = c {
        return claim_in_one(c, by);
    }
    // After a setback a chunk that has not failed yet tells most about whether it is over.
    let sql = format!(
        "SELECT {JUDGING}, b.settings, b.budget, b.tokens_in + b.tokens_out, c.backfill, c.position,
                c.tries, b.setbacks, c.payload
         FROM backfill_chunks AS c JOIN backfills AS b ON b.id = c.backfill
         WHERE c.backfill = ({NEXT}) AND c.done = 0 AND c.not_before <= ?2 AND c.lease_until <= ?2
         ORDER BY b.setbacks > 0 AND c.tries > 0, c.position LIMIT 1"
    );
    let values = params![by.model_digest, by.now];
    let found = c.prepare_cached(&sql)?.query_row(values, claimed);
    let Some(claimed) = found.optional()? else {
        return Ok(None);
    };
    let (backfill, position) = (claimed.backfill, claimed.position);
    let sql = "UPDATE backfill_chunks SET claimed_by = ?3, lease_until = ?4
               WHERE backfill = ?1 AND position = ?2";
    c.prepare_cached(sql)?
        .execute(params![backfill, position, by.worker, by.lease_until])?;
    let sql = "UPDATE backfills SET claimed_at = ?2, started_at = coalesce(started_at, ?2)
               WHERE id = ?1";
    c.prepare_cached(sql)?.execute([backfill, by.now])?;
    begin_marks(c, backfill, by.now)?;
    Ok(Some(claimed))
}

/// The same in one statement of PostgreSQL. What another worker takes at the same moment is passed over.
fn claim_in_one(c: &Connection, by: &Claimant) -> db::Result<Option<Claimed>> {
    let sql = format!(
        "WITH next AS (
             SELECT c.backfill, c.position
             FROM backfill_chunks AS c JOIN backfills AS b ON b.id = c.backfill
             WHERE c.backfill = ({NEXT}) AND c.done = 0 AND c.not_before <= ?2 AND c.lease_until <= ?2
             ORDER BY b.setbacks > 0 AND c.tries > 0, c.position LIMIT 1
             FOR UPDATE OF c SKIP LOCKED
         ), taken AS (
             UPDATE backfill_chunks AS c SET claimed_by = ?3, lease_until = ?4
             FROM next AS n WHERE c.backfill = n.backfill AND c.position = n.position
             RETURNING c.backfill, c.position, c.tries, c.payload
         ), begun AS (
             UPDATE backfills AS b SET claimed_at = ?2, started_at = coalesce(b.started_at, ?2)
             FROM taken AS t WHERE b.id = t.backfill RETURNING b.*
         ), old AS (
             DELETE FROM backfill_marks AS m USING taken AS t
             WHERE m.backfill = t.backfill AND m.at < ?5
         ), marked AS (
             INSERT INTO backfill_marks (backfill, at, judged)
             SELECT b.id, CAST(?2 AS BIGINT), b.judged FROM begun AS b WHERE NOT EXISTS (
                 SELECT 1 FROM backfill_marks AS m WHERE m.backfill = b.id AND m.at >= ?5
             )
         )
         SELECT {JUDGING}, b.settings, b.budget, b.tokens_in + b.tokens_out, t.backfill, t.position,
                t.tries, b.setbacks, t.payload
         FROM begun AS b JOIN taken AS t ON t.backfill = b.id"
    );
    let values = params![
        by.model_digest,
        by.now,
        by.worker,
        by.lease_until,
        by.now - window()
    ];
    c.query_row(&sql, values, claimed).optional()
}

fn claimed(row: &Row<'_>) -> db::Result<Claimed> {
    let budget: Option<i64> = row.get(9)?;
    let spent: i64 = row.get(10)?;
    Ok(Claimed {
        judging: judging(row)?,
        settings: row.get(8)?,
        budget_left: budget.map(|budget| u64::try_from(budget - spent).unwrap_or(0)),
        backfill: row.get(11)?,
        position: row.get(12)?,
        tries: row.get(13)?,
        setbacks: row.get(14)?,
        rows: rows_of(row, 15)?,
    })
}

/// The rows in a column that holds a payload.
pub(super) fn rows_of(row: &Row<'_>, at: usize) -> db::Result<Vec<SpoolRow>> {
    let bad = |why| db::Error::Value { at, why };
    let bytes = row.get_ref(at)?.blob().map_err(bad)?;
    let bytes = bytes.ok_or_else(|| bad("there is no payload".to_owned()))?;
    payload::decode(bytes).map_err(|e| bad(e.to_string()))
}
