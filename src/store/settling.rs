//! Settling: what became of a chunk's texts, as one transaction with everything that is counted.
//!
//! Takes a worker's settlement, gives how the backfill stands then. Whoever comes back late, when the chunk is another's,
//! changes nothing. A text is overwritten once it is judged, given up or erased. Times are arguments, in microseconds
//! since 1970-01-01 UTC. Knows nothing of how a text is judged.

use super::Store;
use super::backfills::{BackfillRow, COLUMNS, one, read, signed, unsigned};
use super::chunks::rows_of;
use super::db::{self, Connection, Optional, params};
use super::error::StoreError;
use super::payload::{self, SpoolRow};
use super::records::{Digest, text_digest};
use crate::config::BACKFILL_RATE_MS;
use std::collections::HashMap;
use std::sync::Arc;

/// What became of a text.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Its decision is stored: a label, or `None` for undecided.
    Judged(Option<Arc<str>>),
    /// It is still to be judged.
    Left,
    /// It is not asked again.
    GivenUp {
        /// Why, in a word.
        reason: &'static str,
        /// What was said last.
        error: Option<String>,
    },
}

/// What a worker spent, whether or not it came to an end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Texts that were stored already.
    pub recalled: u64,
    /// Questions put to a backend.
    pub asked: u64,
    /// Prompt tokens.
    pub tokens_in: u64,
    /// Decoded tokens.
    pub tokens_out: u64,
}

/// What is to be done about texts that are left.
#[derive(Debug, Clone, PartialEq)]
pub enum Then {
    /// They are taken again whenever somebody has time.
    Again,
    /// They failed, and are taken again from then on.
    Retry(i64),
    /// The work failed as a whole and nothing of it is taken before then, for this reason.
    Back(i64, String),
    /// Nothing of it is taken until somebody resumes it, for this reason.
    Pause(String),
}

/// The interval of a share, by hits and draws.
pub type Interval = fn(u64, u64) -> (f64, f64);

/// What a worker gives back with a claim.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// As in [`Claimant`].
    pub worker: Arc<str>,
    /// Microseconds since 1970-01-01 UTC.
    pub now: i64,
    /// By text; a text that is missing here is left.
    pub fates: HashMap<Digest, Fate>,
    /// Counted whatever became of the texts.
    pub spent: Spent,
    /// About what is left.
    pub then: Then,
    /// For the control sample.
    pub interval: Interval,
}

impl Store {
    /// Takes a chunk back with what became of its texts: all of it at once, or nothing where it is no longer this
    /// worker's. How the backfill stands then, where it was.
    pub async fn settle_chunk(
        &self,
        (backfill, position): (i64, i64),
        settlement: Settlement,
    ) -> Result<Option<BackfillRow>, StoreError> {
        self.transact_beside(move |c| {
            Ok(match settle(c, (backfill, position), &settlement)? {
                true => stands(c, backfill, settlement.now)?,
                false => None,
            })
        })
        .await
    }
}

/// How a backfill stands now, which is done where nothing is left to judge. Others that settle their last chunks at the
/// same moment have waited for its row, or this has waited for them.
fn stands(c: &Connection, backfill: i64, now: i64) -> db::Result<Option<BackfillRow>> {
    let sql = format!(
        "SELECT {COLUMNS}, state = 'running' AND NOT EXISTS (
             SELECT 1 FROM backfill_chunks WHERE backfill = backfills.id AND done = 0
         ) FROM backfills WHERE id = ?1"
    );
    let found = c
        .prepare_cached(&sql)?
        .query_row([backfill], |row| Ok((read(row)?, row.get::<bool>(11)?)));
    match found.optional()? {
        Some((_, true)) => {
            end_if_done(c, backfill, now)?;
            one(c, backfill)
        }
        found => Ok(found.map(|(row, _)| row)),
    }
}

/// What a settlement comes to.
#[derive(Default)]
struct Sums {
    judged: u64,
    undecided: u64,
    weight: f64,
    failed: u64,
    control: u64,
    flips: u64,
}

fn settle(c: &Connection, (backfill, position): (i64, i64), s: &Settlement) -> db::Result<bool> {
    let sql = format!(
        "SELECT payload, tries, control FROM backfill_chunks
         WHERE backfill = ?1 AND position = ?2 AND claimed_by = ?3 AND done = 0{}",
        c.either("", " FOR UPDATE")
    );
    let found = c
        .prepare_cached(&sql)?
        .query_row(params![backfill, position, s.worker], |row| {
            Ok((rows_of(row, 0)?, row.get::<u32>(1)?, row.get::<bool>(2)?))
        })
        .optional()?;
    // What is left is taken from the file, where texts may have been erased since.
    let Some((rows, tries, control)) = found else {
        return Ok(false);
    };
    let mut sums = Sums::default();
    let mut left = Vec::new();
    for row in rows {
        let digest = text_digest(&row.text);
        match s.fates.get(&digest) {
            Some(Fate::Judged(label)) => {
                sums.judged += 1;
                sums.undecided += u64::from(label.is_none());
                sums.weight += row.weight();
                if let (true, Some(label), Some(old)) = (control, label, &row.old) {
                    sums.control += 1;
                    sums.flips += u64::from(label != old);
                }
            }
            Some(Fate::GivenUp { reason, error }) => {
                sums.failed += 1;
                give_up(
                    c,
                    backfill,
                    &row,
                    (*reason, error.as_deref(), tries + 1, s.now),
                )?;
            }
            Some(Fate::Left) | None => left.push(row),
        }
    }
    leave(c, (backfill, position), &left, (&s.then, tries))?;
    count(c, backfill, &sums, s)?;
    if !left.is_empty() {
        stand(c, backfill, s)?;
    }
    Ok(true)
}

fn give_up(
    c: &Connection,
    backfill: i64,
    row: &SpoolRow,
    (reason, error, tries, now): (&str, Option<&str>, u32, i64),
) -> db::Result<()> {
    let sql =
        "INSERT INTO backfill_failures (backfill, text_digest, id, reason, tries, last_error, at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let digest = text_digest(&row.text);
    let values = params![backfill, digest, row.id, reason, tries, error, now];
    c.prepare_cached(sql)?.execute(values).map(drop)
}

/// What is left of a chunk, for whoever takes it next.
fn leave(
    c: &Connection,
    (backfill, position): (i64, i64),
    left: &[SpoolRow],
    (then, tries): (&Then, u32),
) -> db::Result<()> {
    if left.is_empty() {
        let sql = "UPDATE backfill_chunks
                   SET done = 1, payload = NULL, prefixes = NULL, claimed_by = NULL, lease_until = 0
                   WHERE backfill = ?1 AND position = ?2";
        return c
            .prepare_cached(sql)?
            .execute([backfill, position])
            .map(drop);
    }
    let (tries, not_before) = match then {
        Then::Retry(at) => (tries + 1, *at),
        Then::Again | Then::Back(..) | Then::Pause(_) => (tries, 0),
    };
    let sql = "UPDATE backfill_chunks
               SET payload = ?3, prefixes = ?4, tries = ?5, not_before = ?6, claimed_by = NULL,
                   lease_until = 0
               WHERE backfill = ?1 AND position = ?2";
    let values = params![
        backfill,
        position,
        payload::encode(left),
        payload::prefixes(left),
        tries,
        not_before
    ];
    c.prepare_cached(sql)?.execute(values).map(drop)
}

fn count(c: &Connection, backfill: i64, sums: &Sums, s: &Settlement) -> db::Result<()> {
    // Where something went well, whatever was wrong with the whole is over; and the rate over the window that ends now is
    // that since its first mark.
    let sql = "UPDATE backfills
               SET judged = judged + ?2, undecided = undecided + ?3, failed = failed + ?4,
                   weight_judged = weight_judged + ?5, recalled = recalled + ?6, asked = asked + ?7,
                   tokens_in = tokens_in + ?8, tokens_out = tokens_out + ?9,
                   control_rows = control_rows + ?10, control_flips = control_flips + ?11,
                   reason = CASE WHEN ?2 > 0 AND state = 'running' AND setbacks > 0
                       THEN NULL ELSE reason END,
                   retry_at = CASE WHEN ?2 > 0 AND state = 'running' AND setbacks > 0
                       THEN 0 ELSE retry_at END,
                   setbacks = CASE WHEN ?2 > 0 AND state = 'running' THEN 0 ELSE setbacks END,
                   rate = coalesce((
                       SELECT (backfills.judged + ?2 - m.judged) * 1e6 / (?12 - m.at)
                       FROM backfill_marks AS m
                       WHERE m.backfill = ?1 AND m.at >= ?13 AND m.at < ?12 AND ?2 > 0
                       ORDER BY m.at LIMIT 1
                   ), rate)
               WHERE id = ?1";
    let from = s.now - window();
    let values = params![
        backfill,
        signed(sums.judged),
        signed(sums.undecided),
        signed(sums.failed),
        sums.weight,
        signed(s.spent.recalled),
        signed(s.spent.asked),
        signed(s.spent.tokens_in),
        signed(s.spent.tokens_out),
        signed(sums.control),
        signed(sums.flips),
        s.now,
        from,
    ];
    if let Connection::Postgres(_) = c {
        // How far it is now is noted in the same statement.
        let sql = format!(
            "WITH counted AS ({sql} RETURNING id, judged), old AS (
                 DELETE FROM backfill_marks WHERE backfill = ?1 AND at < ?13
             )
             INSERT INTO backfill_marks (backfill, at, judged)
             SELECT id, CAST(?12 AS BIGINT), judged FROM counted WHERE ?2 > 0"
        );
        c.execute(&sql, values)?;
    } else {
        c.execute(sql, values)?;
        if sums.judged > 0 {
            mark(c, backfill, s.now)?;
        }
    }
    if sums.control > 0 {
        missed(c, backfill, s.interval)?;
    }
    Ok(())
}

/// What the control sample says as far as it is judged: pausing for good before the end still tells something.
fn missed(c: &Connection, backfill: i64, interval: Interval) -> db::Result<()> {
    let sql = "SELECT control_rows, control_flips FROM backfills
               WHERE id = ?1 AND control_rows > 0";
    let control = c
        .prepare_cached(sql)?
        .query_row([backfill], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))
        .optional()?;
    let Some((rows, flips)) = control else {
        return Ok(());
    };
    let (low, high) = interval(flips, rows);
    let sql = "UPDATE backfills SET missed_share = ?2, missed_low = ?3, missed_high = ?4
               WHERE id = ?1";
    let share = flips as f64 / rows as f64;
    c.prepare_cached(sql)?
        .execute(params![backfill, share, low, high])
        .map(drop)
}

/// What the rows that are left mean for the backfill.
fn stand(c: &Connection, backfill: i64, s: &Settlement) -> db::Result<()> {
    match &s.then {
        Then::Again | Then::Retry(_) => Ok(()),
        Then::Back(at, why) => {
            let sql = "UPDATE backfills SET setbacks = setbacks + 1, retry_at = ?2, reason = ?3
                       WHERE id = ?1 AND state = 'running'";
            c.prepare_cached(sql)?.execute(params![backfill, at, why])?;
            forget_marks(c, backfill)
        }
        Then::Pause(why) => {
            let sql = "UPDATE backfills SET state = 'paused', reason = ?2
                       WHERE id = ?1 AND state = 'running'";
            c.prepare_cached(sql)?.execute(params![backfill, why])?;
            forget_marks(c, backfill)
        }
    }
}

/// Drops the rows that a backfill still holds.
pub(super) fn forget(c: &Connection, backfill: i64) -> db::Result<()> {
    let sql = "DELETE FROM backfill_chunks WHERE backfill = ?1";
    c.prepare_cached(sql)?.execute([backfill]).map(drop)
}

/// A rate is not measured over a rest.
pub(super) fn forget_marks(c: &Connection, backfill: i64) -> db::Result<()> {
    let sql = "DELETE FROM backfill_marks WHERE backfill = ?1";
    c.prepare_cached(sql)?.execute([backfill]).map(drop)
}

/// A backfill with nothing left to judge is done.
pub(super) fn end_if_done(c: &Connection, backfill: i64, now: i64) -> db::Result<()> {
    let sql = "UPDATE backfills SET state = 'done', reason = NULL, ended_at = ?2
               WHERE id = ?1 AND state = 'running' AND NOT EXISTS (
                   SELECT 1 FROM backfill_chunks WHERE backfill = ?1 AND done = 0
               )";
    if c.prepare_cached(sql)?.execute([backfill, now])? > 0 {
        forget(c, backfill)?;
        forget_marks(c, backfill)?;
    }
    Ok(())
}

/// Begins to measure a rate, where nothing was measured lately.
pub(super) fn begin_marks(c: &Connection, backfill: i64, now: i64) -> db::Result<()> {
    drop_marks(c, backfill, now)?;
    let sql = "INSERT INTO backfill_marks (backfill, at, judged)
               SELECT id, ?2, judged FROM backfills WHERE id = ?1
                 AND NOT EXISTS (SELECT 1 FROM backfill_marks WHERE backfill = ?1)";
    c.prepare_cached(sql)?.execute([backfill, now]).map(drop)
}

/// Notes how far a backfill is now.
fn mark(c: &Connection, backfill: i64, now: i64) -> db::Result<()> {
    let sql = "INSERT INTO backfill_marks (backfill, at, judged)
               SELECT id, ?2, judged FROM backfills WHERE id = ?1";
    c.prepare_cached(sql)?.execute([backfill, now])?;
    drop_marks(c, backfill, now)
}

/// Drops marks of before the window that ends now.
fn drop_marks(c: &Connection, backfill: i64, now: i64) -> db::Result<()> {
    let sql = "DELETE FROM backfill_marks WHERE backfill = ?1 AND at < ?2";
    c.prepare_cached(sql)?
        .execute([backfill, now - window()])
        .map(drop)
}

/// In microseconds.
pub(super) fn window() -> i64 {
    signed(BACKFILL_RATE_MS * 1_000)
}

/// Takes a text out of the chunks that hold it. Gives the chunks changed.
pub(super) fn erase(c: &Connection, digest: &Digest) -> db::Result<usize> {
    let sql = c.either(
        "SELECT backfill, position, payload FROM backfill_chunks
         WHERE done = 0 AND instr(prefixes, ?1) > 0",
        "SELECT backfill, position, payload FROM backfill_chunks
         WHERE done = 0 AND position(?1 IN prefixes) > 0 FOR UPDATE",
    );
    let prefix = payload::prefix(digest);
    let mut select = c.prepare_cached(sql)?;
    let found = select.query_map([&prefix[..]], |row| {
        Ok((row.get::<i64>(0)?, row.get::<i64>(1)?, rows_of(row, 2)?))
    })?;
    let found: Vec<_> = found.collect::<Result<_, _>>()?;
    let mut changed = 0;
    for (backfill, position, rows) in found {
        let of = |row: &SpoolRow| text_digest(&row.text) == *digest;
        let (gone, left): (Vec<_>, Vec<_>) = rows.into_iter().partition(of);
        if gone.is_empty() {
            continue;
        }
        changed += 1;
        let sql = "UPDATE backfills SET \"rows\" = \"rows\" - ?2, weight_total = weight_total - ?3
                   WHERE id = ?1";
        let weight: f64 = gone.iter().map(SpoolRow::weight).sum();
        let rows = signed(gone.len() as u64);
        c.prepare_cached(sql)?
            .execute(params![backfill, rows, weight])?;
        // An empty payload is settled by whoever takes it: a worker may be at it now.
        let sql = "UPDATE backfill_chunks SET payload = ?3, prefixes = ?4
                   WHERE backfill = ?1 AND position = ?2";
        let (bytes, prefixes) = (payload::encode(&left), payload::prefixes(&left));
        c.prepare_cached(sql)?
            .execute(params![backfill, position, bytes, prefixes])?;
    }
    Ok(changed)
}
