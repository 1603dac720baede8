//! The facts that are appended one by one, in whichever database, and what erasing a text does to them.
//!
//! Takes plain rows and a connection within a transaction. Verdicts, of which there are many, are the pens' own.

use super::backtests;
use super::db::{self, Connection, Optional, params};
use super::records::{CalibrationRow, Digest, OverrideRow, QueryRow, VersionRow};
use super::{queue, settling};
use std::sync::Arc;

/// Stores a version of a policy; whether it is stored, and the number not taken by another text.
pub(super) fn version(c: &Connection, v: &VersionRow) -> db::Result<bool> {
    let known = "SELECT digest FROM policy_versions WHERE name = ?1 AND version = ?2";
    let known = c
        .prepare_cached(known)?
        .query_row(params![v.name, v.version], |row| row.get::<String>(0));
    match known.optional()? {
        Some(digest) => Ok(digest == v.digest),
        None => insert_version(c, v).map(|()| true),
    }
}

fn insert_version(c: &Connection, v: &VersionRow) -> db::Result<()> {
    let sql = "INSERT INTO policy_versions (name, version, digest, text, labels, title,
                   published_at, published_by, note)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let values = params![
        v.name,
        v.version,
        v.digest,
        v.text,
        v.labels,
        v.title,
        v.published_at,
        v.published_by,
        v.note
    ];
    c.prepare_cached(sql)?.execute(values).map(drop)
}

pub(super) fn decide(c: &Connection, o: &OverrideRow) -> db::Result<()> {
    let sql = "INSERT INTO overrides (policy, text_digest, text, label, reviewer, note,
                   decided_at, violates)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let values = params![
        o.policy,
        o.text_digest,
        o.text,
        o.label,
        o.reviewer,
        o.note,
        o.decided_at,
        o.violates
    ];
    c.prepare_cached(sql)?.execute(values).map(drop)
}

pub(super) fn query(c: &Connection, q: &QueryRow) -> db::Result<i64> {
    let sql = "INSERT INTO queries (started_at, \"user\", statement, status, \"rows\",
                   distinct_texts, recalled, screened, asked, undecided, tokens_in, tokens_out,
                   seconds, role, model, busy_seconds)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
    c.prepare_cached(sql)?.insert(params![
        q.started_at,
        q.user,
        q.statement,
        q.status,
        count(q.rows),
        count(q.distinct_texts),
        count(q.recalled),
        count(q.screened),
        count(q.asked),
        count(q.undecided),
        count(q.tokens_in),
        count(q.tokens_out),
        q.seconds,
        q.role,
        q.model,
        q.busy_seconds,
    ])
}

pub(super) fn calibration(c: &Connection, row: &CalibrationRow) -> db::Result<i64> {
    let sql = "INSERT INTO calibrations (scorer_digest, policy, policy_version, policy_digest,
                   model, model_digest, golden, golden_digest, target, gap, golden_rows,
                   scored, scored_right, rows_above, right_above, bound, calibrated_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                   ?17)";
    c.prepare_cached(sql)?.insert(params![
        row.scorer_digest,
        row.policy,
        row.policy_version,
        row.policy_digest,
        row.model,
        row.model_digest,
        row.golden,
        row.golden_digest,
        row.target,
        row.gap,
        count(row.golden_rows),
        count(row.scored),
        count(row.scored_right),
        count(row.rows_above),
        count(row.right_above),
        row.bound,
        row.calibrated_at,
    ])
}

pub(super) fn erase(c: &Connection, text_digest: &Digest) -> db::Result<i64> {
    let blank = [
        "UPDATE verdicts SET rationale = NULL
         WHERE text_digest = ?1 AND rationale IS NOT NULL",
        "UPDATE overrides SET text = NULL, note = NULL
         WHERE text_digest = ?1 AND (text IS NOT NULL OR note IS NOT NULL)",
        "UPDATE evaluation_rows SET text = NULL WHERE text_digest = ?1 AND text IS NOT NULL",
        backtests::ERASE,
        "UPDATE backfill_failures SET id = NULL, last_error = NULL
         WHERE text_digest = ?1 AND (id IS NOT NULL OR last_error IS NOT NULL)",
    ];
    let mut changed = settling::erase(c, text_digest)?;
    changed += queue::erase(c, text_digest)?;
    for sql in blank {
        changed += c.prepare_cached(sql)?.execute([text_digest])?;
    }
    Ok(i64::try_from(changed).unwrap_or(i64::MAX))
}

/// Words as a store keeps them: JSON, NULL for none.
pub(super) fn words(words: &[Arc<str>]) -> Option<String> {
    (!words.is_empty()).then(|| {
        let words: Vec<&str> = words.iter().map(|word| &**word).collect();
        serde_json::to_string(&words).expect("bug: words that are no JSON")
    })
}

/// A count as a store keeps it.
pub(super) fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
