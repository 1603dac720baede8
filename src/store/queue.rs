//! The queue: texts that somebody wants judged and nobody waits for.
//!
//! Takes texts and under what they are to be judged, gives them to whoever claims them, several of one kind at once, and
//! forgets each when it is judged or given up. A text is in the queue once for each policy version, model, mode and
//! effort. Claims are as in [`super::chunks`]. Times are arguments, in microseconds since 1970-01-01 UTC. Knows nothing of
//! how a text is judged.

use super::Store;
use super::backfills::{Judging, signed, unsigned};
use super::chunks::{Claimant, JUDGING, judging};
use super::db::{self, Connection, Optional, params};
use super::error::StoreError;
use super::records::{Digest, text_digest};
use super::settling::{Fate, Settlement, Then};
use crate::config::{BACKFILL_CHUNK_ROWS, BACKFILL_RATE_MS, QUEUE_JUDGES_MAX, QUEUE_ROWS_MAX};
use std::collections::HashSet;
use std::sync::Arc;
use tokio_postgres::types::ToSql;

/// Texts that are to be judged when somebody has time.
#[derive(Debug, Clone)]
pub struct Enqueued {
    /// Under what.
    pub judging: Judging,
    /// Whether what is stored as undecided is asked again.
    pub retry_undecided: bool,
    /// Distinct.
    pub texts: Vec<Arc<str>>,
    /// Microseconds since 1970-01-01 UTC.
    pub now: i64,
}

/// Texts of the queue that are this worker's now.
#[derive(Debug, Clone)]
pub struct QueueClaim {
    /// The row of `queue_judges`.
    pub judge: i64,
    /// Under what they are to be judged.
    pub judging: Judging,
    /// Whether what is stored as undecided is asked again.
    pub retry_undecided: bool,
    /// Times in a row that their kind failed as a whole.
    pub setbacks: u32,
    /// Distinct, each with the times that it was asked and failed.
    pub texts: Vec<(Arc<str>, u32)>,
}

impl Store {
    /// Puts texts into the queue; one that is there already stays as it is. Whether each is there now: past
    /// [`QUEUE_ROWS_MAX`] texts, or [`QUEUE_JUDGES_MAX`] kinds, no more are taken.
    pub async fn enqueue(&self, new: Enqueued) -> Result<Vec<bool>, StoreError> {
        self.enqueue_within(new, QUEUE_ROWS_MAX).await
    }

    async fn enqueue_within(&self, new: Enqueued, most: u64) -> Result<Vec<bool>, StoreError> {
        let known = {
            let new = new.clone();
            self.read(move |c| waiting(c, &new)).await?
        };
        // What a dashboard reads again and again is not written again and again.
        if known.iter().all(|known| *known) {
            return Ok(known);
        }
        let taken = self.transact(move |c| enqueue(c, &new, most)).await?;
        self.pending().notify_one();
        Ok(taken)
    }

    /// The next texts of the kind whose turn it is.
    pub async fn claim_queue(&self, by: Claimant) -> Result<Option<QueueClaim>, StoreError> {
        let some = {
            let by = by.clone();
            self.read(move |c| next_judge(c, &by)).await?
        };
        match some {
            None => Ok(None),
            Some(_) => self.transact_beside(move |c| claim(c, &by)).await,
        }
    }

    /// Holds texts for longer; whether any is still this worker's.
    pub async fn renew_queue(&self, judge: i64, by: Claimant) -> Result<bool, StoreError> {
        self.transact_once(move |c| {
            let sql = "UPDATE queue SET lease_until = ?3 WHERE judge = ?1 AND claimed_by = ?2";
            let values = params![judge, by.worker, by.lease_until];
            Ok(c.prepare_cached(sql)?.execute(values)? > 0)
        })
        .await
    }

    /// Takes texts back with what became of them. The control sample's interval is not looked at.
    pub async fn settle_queue(&self, judge: i64, settlement: Settlement) -> Result<(), StoreError> {
        self.transact_beside(move |c| settle(c, judge, &settlement))
            .await
    }

    /// Texts that wait for this model.
    pub async fn queue_depth(&self, model_digest: &str) -> Result<u64, StoreError> {
        let model = model_digest.to_owned();
        self.read(move |c| {
            let sql = "SELECT CAST(coalesce(sum(depth), 0) AS BIGINT) FROM queue_judges
                       WHERE model_digest = ?1";
            c.prepare_cached(sql)?
                .query_row([&model], |row| unsigned(row, 0))
        })
        .await
    }
}

/// The kind of these texts, where there is one.
fn judge(c: &Connection, new: &Enqueued) -> db::Result<Option<i64>> {
    let sql = "SELECT id FROM queue_judges
               WHERE policy = ?1 AND policy_version = ?2 AND policy_digest = ?3
                 AND model_digest = ?4 AND mode = ?5 AND effort = ?6 AND retry_undecided = ?7";
    let kind = &new.judging;
    let values = params![
        kind.policy,
        kind.policy_version,
        kind.policy_digest,
        kind.model_digest,
        kind.mode,
        kind.effort,
        new.retry_undecided
    ];
    c.prepare_cached(sql)?
        .query_row(values, |row| row.get(0))
        .optional()
}

/// Whether each text is in the queue.
fn waiting(c: &Connection, new: &Enqueued) -> db::Result<Vec<bool>> {
    let Some(judge) = judge(c, new)? else {
        return Ok(vec![false; new.texts.len()]);
    };
    let digests: Vec<Digest> = new.texts.iter().map(|text| text_digest(text)).collect();
    known(c, judge, &digests)
}

/// Whether there is a text of each digest.
fn known(c: &Connection, judge: i64, digests: &[Digest]) -> db::Result<Vec<bool>> {
    if let Connection::Postgres(server) = c {
        let sql = "SELECT text_digest FROM queue WHERE judge = ?1 AND text_digest = ANY(?2)";
        let bytes: Vec<&[u8]> = digests.iter().map(|digest| &digest[..]).collect();
        let found = server.query_typed(sql, &[&judge, &bytes])?;
        let found: HashSet<&[u8]> = found.iter().map(|row| row.get(0)).collect();
        return Ok(bytes.iter().map(|digest| found.contains(digest)).collect());
    }
    let mut known =
        c.prepare_cached("SELECT 1 FROM queue WHERE judge = ?1 AND text_digest = ?2")?;
    let digests = digests.iter();
    digests
        .map(|digest| known.exists(params![judge, digest]))
        .collect()
}

fn enqueue(c: &Connection, new: &Enqueued, most: u64) -> db::Result<Vec<bool>> {
    let judge = match judge(c, new)? {
        Some(judge) => judge,
        None => match add_judge(c, new)? {
            Some(judge) => judge,
            None => return Ok(vec![false; new.texts.len()]),
        },
    };
    let depth = "SELECT CAST(coalesce(sum(depth), 0) AS BIGINT) FROM queue_judges";
    let depth = c
        .prepare_cached(depth)?
        .query_row((), |row| unsigned(row, 0))?;
    let digests: Vec<Digest> = new.texts.iter().map(|text| text_digest(text)).collect();
    let mut taken = known(c, judge, &digests)?;
    let mut room = most.saturating_sub(depth);
    let mut added = Vec::new();
    for (at, taken) in taken.iter_mut().enumerate() {
        if !*taken && room > 0 {
            added.push(at);
            room -= 1;
            *taken = true;
        }
    }
    insert(c, judge, new, &added, &digests)?;
    Ok(taken)
}

/// Those texts of `new` that are at `added`.
fn insert(
    c: &Connection,
    judge: i64,
    new: &Enqueued,
    added: &[usize],
    digests: &[Digest],
) -> db::Result<()> {
    if let Connection::Postgres(server) = c {
        let sql = "INSERT INTO queue (judge, text_digest, enqueued_at, text)
                   SELECT ?1, g.text_digest, ?2, g.text
                   FROM unnest(CAST(?3 AS BYTEA[]), CAST(?4 AS BYTEA[])) AS g (text_digest, text)
                   ON CONFLICT (judge, text_digest) DO NOTHING";
        let texts: Vec<&[u8]> = added.iter().map(|at| new.texts[*at].as_bytes()).collect();
        let digests: Vec<&[u8]> = added.iter().map(|at| &digests[*at][..]).collect();
        let values: [&(dyn ToSql + Sync); 4] = [&judge, &new.now, &digests, &texts];
        return server.query_typed(sql, &values).map(drop);
    }
    let mut insert = c.prepare_cached(
        "INSERT INTO queue (judge, text_digest, enqueued_at, text) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (judge, text_digest) DO NOTHING",
    )?;
    for at in added {
        insert.execute(params![judge, digests[*at], new.now, new.texts[*at]])?;
    }
    Ok(())
}

fn add_judge(c: &Connection, new: &Enqueued) -> db::Result<Option<i64>> {
    let count = "SELECT count(*) FROM queue_judges";
    let count = || {
        c.prepare_cached(count)?
            .query_row((), |row| unsigned(row, 0))
    };
    if count()? >= QUEUE_JUDGES_MAX {
        // Those that nobody waits for have only figures to lose.
        c.prepare_cached("DELETE FROM queue_judges WHERE depth = 0")?
            .execute(())?;
        if count()? >= QUEUE_JUDGES_MAX {
            return Ok(None);
        }
    }
    let sql = format!(
        "INSERT INTO queue_judges ({JUDGING}, retry_undecided)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
    );
    let kind = &new.judging;
    let values = params![
        kind.reference,
        kind.policy,
        kind.policy_version,
        kind.policy_digest,
        kind.model,
        kind.model_digest,
        kind.mode,
        kind.effort,
        new.retry_undecided
    ];
    c.prepare_cached(&sql)?.insert(values).map(Some)
}

fn next_judge(c: &Connection, by: &Claimant) -> db::Result<Option<i64>> {
    let sql = "SELECT id FROM queue_judges AS j
               WHERE depth > 0 AND model_digest = ?1 AND retry_at <= ?2
                 AND EXISTS (
                     SELECT 1 FROM queue AS q
                     WHERE q.judge = j.id AND q.not_before <= ?2 AND q.lease_until <= ?2
                 )
               ORDER BY claimed_at, id LIMIT 1";
    let mut select = c.prepare_cached(sql)?;
    select
        .query_row(params![by.model_digest, by.now], |row| row.get(0))
        .optional()
}

fn claim(c: &Connection, by: &Claimant) -> db::Result<Option<QueueClaim>> {
    let Some(judge) = next_judge(c, by)? else {
        return Ok(None);
    };
    let sql = c.either(
        "SELECT id, text, tries FROM queue INDEXED BY queue_order
         WHERE judge = ?1 AND not_before <= ?2 AND lease_until <= ?2
         ORDER BY id LIMIT ?3",
        "SELECT id, text, tries FROM queue
         WHERE judge = ?1 AND not_before <= ?2 AND lease_until <= ?2
         ORDER BY id LIMIT ?3 FOR UPDATE SKIP LOCKED",
    );
    let mut select = c.prepare_cached(sql)?;
    let most = signed(BACKFILL_CHUNK_ROWS as u64);
    let found = select.query_map(params![judge, by.now, most], |row| {
        Ok((
            row.get::<i64>(0)?,
            row.get::<Arc<str>>(1)?,
            row.get::<u32>(2)?,
        ))
    })?;
    let found: Vec<_> = found.collect::<Result<_, _>>()?;
    take(c, found.iter().map(|(id, ..)| *id).collect(), by)?;
    let sql = "UPDATE queue_judges SET claimed_at = ?2,
                   rate_judged = CASE WHEN rate_from < ?3 THEN 0 ELSE rate_judged END,
                   rate_from = CASE WHEN rate_from < ?3 THEN ?2 ELSE rate_from END
               WHERE id = ?1";
    let begins = by.now - signed(BACKFILL_RATE_MS * 1_000);
    c.prepare_cached(sql)?.execute([judge, by.now, begins])?;
    let sql =
        format!("SELECT {JUDGING}, retry_undecided, setbacks FROM queue_judges WHERE id = ?1");
    c.prepare_cached(&sql)?
        .query_row([judge], |row| {
            Ok(QueueClaim {
                judge,
                judging: judging(row)?,
                retry_undecided: row.get(8)?,
                setbacks: row.get(9)?,
                texts: found
                    .into_iter()
                    .map(|(_, text, tries)| (text, tries))
                    .collect(),
            })
        })
        .map(Some)
}

/// Marks texts as a worker's.
fn take(c: &Connection, ids: Vec<i64>, by: &Claimant) -> db::Result<()> {
    if let Connection::Postgres(server) = c {
        let sql = "UPDATE queue SET claimed_by = ?2, lease_until = ?3 WHERE id = ANY(?1)";
        let values: [&(dyn ToSql + Sync); 3] = [&ids, &&*by.worker, &by.lease_until];
        return server.query_typed(sql, &values).map(drop);
    }
    let sql = "UPDATE queue SET claimed_by = ?2, lease_until = ?3 WHERE id = ?1";
    let mut take = c.prepare_cached(sql)?;
    for id in ids {
        take.execute(params![id, by.worker, by.lease_until])?;
    }
    Ok(())
}

fn settle(c: &Connection, judge: i64, s: &Settlement) -> db::Result<()> {
    let (mut judged, mut failed) = (Vec::new(), Vec::new());
    for (digest, fate) in &s.fates {
        match fate {
            Fate::Judged(_) => judged.push(&digest[..]),
            Fate::GivenUp { .. } => failed.push(&digest[..]),
            Fate::Left => {}
        }
    }
    let judged = remove(c, judge, &s.worker, judged)?;
    let failed = remove(c, judge, &s.worker, failed)?;
    // What is this worker's now is what is left.
    let (more, not_before) = match &s.then {
        Then::Retry(at) => (1, *at),
        Then::Again | Then::Back(..) | Then::Pause(_) => (0, 0),
    };
    let sql =
        "UPDATE queue SET claimed_by = NULL, lease_until = 0, tries = tries + ?3, not_before = ?4
               WHERE judge = ?1 AND claimed_by = ?2";
    c.prepare_cached(sql)?
        .execute(params![judge, s.worker, more, not_before])?;
    let sql = "UPDATE queue_judges
               SET judged = judged + ?2, failed = failed + ?3, rate_judged = rate_judged + ?2,
                   rate = CASE WHEN ?4 > rate_from
                       THEN (rate_judged + ?2) * 1e6 / (?4 - rate_from) ELSE rate END
               WHERE id = ?1";
    c.prepare_cached(sql)?
        .execute([judge, signed(judged), signed(failed), s.now])?;
    match &s.then {
        Then::Back(at, why) => {
            let sql = "UPDATE queue_judges SET setbacks = setbacks + 1, retry_at = ?2, reason = ?3
                       WHERE id = ?1";
            c.prepare_cached(sql)?.execute(params![judge, at, why])?;
        }
        Then::Pause(_) | Then::Again | Then::Retry(_) if judged > 0 => {
            let sql = "UPDATE queue_judges SET setbacks = 0, retry_at = 0, reason = NULL
                       WHERE id = ?1 AND setbacks > 0";
            c.prepare_cached(sql)?.execute([judge])?;
        }
        _ => {}
    }
    Ok(())
}

/// Takes texts that are a worker's out of the queue. Gives the rows removed.
fn remove(c: &Connection, judge: i64, worker: &str, digests: Vec<&[u8]>) -> db::Result<u64> {
    if digests.is_empty() {
        return Ok(0);
    }
    if let Connection::Postgres(server) = c {
        let sql = "WITH gone AS (
                       DELETE FROM queue
                       WHERE judge = ?1 AND claimed_by = ?2 AND text_digest = ANY(?3) RETURNING 1
                   )
                   SELECT count(*) FROM gone";
        let found = server.query_typed(sql, &[&judge, &worker, &digests])?;
        let removed = found.first().map_or(0, |row| row.get::<_, i64>(0));
        return Ok(u64::try_from(removed).unwrap_or(0));
    }
    let sql = "DELETE FROM queue WHERE judge = ?1 AND claimed_by = ?2 AND text_digest = ?3";
    let mut gone = c.prepare_cached(sql)?;
    let mut removed = 0;
    for digest in digests {
        removed += gone.execute(params![judge, worker, digest])? as u64;
    }
    Ok(removed)
}

/// Takes a text out of the queue. Gives the rows removed.
pub(super) fn erase(c: &Connection, digest: &Digest) -> db::Result<usize> {
    c.prepare_cached("DELETE FROM queue WHERE text_digest = ?1")?
        .execute([digest])
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
