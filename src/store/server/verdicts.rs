//! Verdicts in a shared store: many in one statement, whichever server was first.
//!
//! Takes records, stores what is new of them; gives back what is stored under keys. A statement that is repeated stores
//! nothing twice, so that it may be sent again when its answer is lost. Keys go in order, so that two servers that
//! store the same ones do not wait for each other in a circle.

use crate::config::STORE_COMMIT_ROWS_MAX;
use crate::store::db::postgres::{Postgres, shown};
use crate::store::db::{self, Connection, Error, Optional, Row, params};
use crate::store::facts::{count, words};
use crate::store::index::rules;
use crate::store::records::{Digest, Record};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio_postgres::types::ToSql;

/// Rows of `judges` by what they say.
pub(super) type Judges = HashMap<Judge, i64>;

/// What judged, as the key of its row. Shares the record's words.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Judge {
    version: u32,
    words: [Arc<str>; 7],
}

/// What is to be stored under one key: what was found first, and what was decided first.
struct Found<'r> {
    first: &'r Record,
    decided: Option<&'r Record>,
}

/// Stores what is new of `records`, as if one after another.
pub(super) fn store(c: &Connection, judges: &mut Judges, records: &[&Record]) -> db::Result<()> {
    let Connection::Postgres(server) = c else {
        return Err(Error::NoRows);
    };
    let mut places: HashMap<&Digest, usize> = HashMap::new();
    let mut keys: Vec<Found<'_>> = Vec::new();
    for &record in records {
        let place = *places.entry(&record.verdict_digest).or_insert(keys.len());
        if place == keys.len() {
            keys.push(Found {
                first: record,
                decided: None,
            });
        }
        let found = &mut keys[place];
        if found.decided.is_none() && record.label.is_some() {
            found.decided = Some(record);
        }
    }
    for record in records {
        judge(c, judges, record)?;
    }
    let first: Vec<&Record> = keys.iter().map(|found| found.first).collect();
    let new = insert(server, judges, 0, &first)?;
    // A known key takes one more row if it was undecided: what a second asking decided.
    let later: Vec<&Record> = keys
        .iter()
        .filter(|found| found.first.label.is_none() || !new.contains(&found.first.verdict_digest))
        .filter_map(|found| found.decided)
        .collect();
    if !later.is_empty() {
        insert(server, judges, 1, &later)?;
    }
    Ok(())
}

/// The keys that were new, of records with distinct ones, which are numbered in their order.
fn insert(
    server: &Postgres,
    judges: &Judges,
    attempt: i64,
    records: &[&Record],
) -> db::Result<HashSet<Digest>> {
    let sql = "WITH landed AS (DELETE FROM aloft WHERE key = ANY(CAST(?2 AS BYTEA[])))
               INSERT INTO verdicts (id, verdict_digest, attempt, judge, text_digest, label, violates,
                   score, reason, tokens_in, tokens_out, judged_at, rules, rationale, gap, seconds)
               SELECT g.id, g.verdict_digest, CAST(?1 AS BIGINT), g.judge, g.text_digest, g.label,
                   g.violates, g.score, g.reason, g.tokens_in, g.tokens_out, g.judged_at, g.rules,
                   g.rationale, g.gap, g.seconds
               FROM (
                   SELECT nextval(CAST('verdicts_id_seq' AS regclass)) AS id, u.*
                   FROM unnest(CAST(?2 AS BYTEA[]), CAST(?3 AS BIGINT[]), CAST(?4 AS BYTEA[]),
                       CAST(?5 AS TEXT[]), CAST(?6 AS BOOLEAN[]), CAST(?7 AS DOUBLE PRECISION[]),
                       CAST(?8 AS TEXT[]), CAST(?9 AS BIGINT[]), CAST(?10 AS BIGINT[]),
                       CAST(?11 AS BIGINT[]), CAST(?12 AS TEXT[]), CAST(?13 AS TEXT[]),
                       CAST(?14 AS DOUBLE PRECISION[]), CAST(?15 AS DOUBLE PRECISION[])) WITH ORDINALITY
                       AS u (verdict_digest, judge, text_digest, label, violates, score, reason,
                           tokens_in, tokens_out, judged_at, rules, rationale, gap, seconds, place)
                   ORDER BY u.place
               ) AS g
               WHERE CAST(?1 AS BIGINT) = 0 OR EXISTS (
                   SELECT 1 FROM verdicts AS v WHERE v.verdict_digest = g.verdict_digest
                     AND v.attempt = 0 AND v.label IS NULL
               )
               ORDER BY g.verdict_digest
               ON CONFLICT (verdict_digest, attempt) DO NOTHING RETURNING verdict_digest";
    let all = || records.iter();
    let number = |x: Option<f64>| {
        x.filter(|x| !x.is_nan())
            .map(|x| if x == 0.0 { 0.0 } else { x })
    };
    let text = |text: &Option<Arc<str>>| text.as_deref().map(|text| shown(text).into_owned());
    let keys: Vec<&[u8]> = all().map(|r| &r.verdict_digest[..]).collect();
    let known = |r: &&&Record| judges.get(&Judge::of(r)).copied();
    let judged: Option<Vec<i64>> = all().map(|r| known(&r)).collect();
    let judged = judged.ok_or(Error::NoRows)?;
    let texts: Vec<&[u8]> = all().map(|r| &r.text_digest[..]).collect();
    let labels: Vec<Option<String>> = all().map(|r| text(&r.label)).collect();
    let violates: Vec<Option<bool>> = all().map(|r| r.violates).collect();
    let scores: Vec<Option<f64>> = all().map(|r| number(r.score)).collect();
    let reasons: Vec<Option<String>> = all().map(|r| text(&r.reason)).collect();
    let tokens_in: Vec<i64> = all().map(|r| count(r.tokens_in)).collect();
    let tokens_out: Vec<i64> = all().map(|r| count(r.tokens_out)).collect();
    let at: Vec<i64> = all().map(|r| r.judged_at).collect();
    let codes: Vec<Option<String>> = all().map(|r| words(&r.rules)).collect();
    let rationales: Vec<Option<String>> = all().map(|r| text(&r.rationale)).collect();
    let gaps: Vec<Option<f64>> = all().map(|r| number(r.gap)).collect();
    let seconds: Vec<Option<f64>> = all().map(|r| number(r.seconds)).collect();
    let values: [&(dyn ToSql + Sync); 15] = [
        &attempt,
        &keys,
        &judged,
        &texts,
        &labels,
        &violates,
        &scores,
        &reasons,
        &tokens_in,
        &tokens_out,
        &at,
        &codes,
        &rationales,
        &gaps,
        &seconds,
    ];
    let rows = server.query_typed(sql, &values)?;
    rows.iter().map(|row| Row::Postgres(row).get(0)).collect()
}

impl Judge {
    fn of(r: &Record) -> Judge {
        let words = [
            &r.policy,
            &r.policy_digest,
            &r.stage,
            &r.mode,
            &r.effort,
            &r.model,
            &r.model_digest,
        ];
        Judge {
            version: r.policy_version,
            words: words.map(Arc::clone),
        }
    }
}

/// Finds the number of what judged a record, or gives it one.
fn judge(c: &Connection, judges: &mut Judges, r: &Record) -> db::Result<()> {
    let judge = Judge::of(r);
    if judges.contains_key(&judge) {
        return Ok(());
    }
    let values = params![
        r.policy,
        r.policy_version,
        r.policy_digest,
        r.stage,
        r.mode,
        r.effort,
        r.model,
        r.model_digest
    ];
    let known = "SELECT id FROM judges WHERE policy = ?1 AND policy_version = ?2
                 AND policy_digest = ?3 AND stage = ?4 AND mode = ?5 AND effort = ?6
                 AND model = ?7 AND model_digest = ?8";
    let find = || c.query_row(known, values, |row| row.get(0)).optional();
    let id = match find()? {
        Some(id) => id,
        None => {
            let new = "INSERT INTO judges (policy, policy_version, policy_digest, stage, mode,
                           effort, model, model_digest)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";
            c.execute(new, values)?;
            find()?.ok_or(Error::NoRows)?
        }
    };
    judges.insert(judge, id);
    Ok(())
}

/// See [`crate::store::Store::recall`].
pub(in crate::store) fn recall(
    c: &Connection,
    keys: &[Digest],
) -> db::Result<Vec<Option<Arc<Record>>>> {
    let Connection::Postgres(server) = c else {
        return Err(Error::NoRows);
    };
    let sql = "SELECT DISTINCT ON (v.verdict_digest) v.verdict_digest, j.policy, j.policy_version,
                   j.policy_digest, v.text_digest, v.label, v.violates, v.score, v.gap, v.rationale,
                   v.rules, v.reason, j.stage, j.mode, j.effort, j.model, j.model_digest,
                   v.tokens_in, v.tokens_out, v.judged_at
               FROM verdicts AS v JOIN judges AS j ON j.id = v.judge
               WHERE v.verdict_digest = ANY(?1) ORDER BY v.verdict_digest, v.attempt DESC";
    let mut found: HashMap<Digest, Arc<Record>> = HashMap::new();
    let mut words = Words::default();
    for keys in keys.chunks(STORE_COMMIT_ROWS_MAX) {
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        for row in server.query_typed(sql, &[&keys])? {
            let record = words.record(&Row::Postgres(&row))?;
            found.insert(record.verdict_digest, Arc::new(record));
        }
    }
    Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
}

/// Words that recur from row to row.
#[derive(Default)]
struct Words(HashSet<Arc<str>>);

impl Words {
    fn word(&mut self, row: &Row<'_>, at: usize) -> db::Result<Option<Arc<str>>> {
        let bad = |why| Error::Value { at, why };
        let Some(text) = row.get_ref(at)?.text().map_err(bad)? else {
            return Ok(None);
        };
        if let Some(known) = self.0.get(text) {
            return Ok(Some(Arc::clone(known)));
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        Ok(Some(new))
    }

    fn there(&mut self, row: &Row<'_>, at: usize) -> db::Result<Arc<str>> {
        let why = || "nothing is there".to_owned();
        let word = self.word(row, at)?;
        word.ok_or_else(|| Error::Value { at, why: why() })
    }

    fn record(&mut self, row: &Row<'_>) -> db::Result<Record> {
        let bad = |why| Error::Value { at: 10, why };
        let count = |at| row.get::<i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
        Ok(Record {
            verdict_digest: row.get(0)?,
            policy: self.there(row, 1)?,
            policy_version: row.get(2)?,
            policy_digest: self.there(row, 3)?,
            text_digest: row.get(4)?,
            label: self.word(row, 5)?,
            violates: row.get(6)?,
            score: row.get(7)?,
            gap: row.get(8)?,
            rationale: row.get(9)?,
            rules: rules(row.get_ref(10)?.text().map_err(bad)?).map_err(bad)?,
            reason: self.word(row, 11)?,
            stage: self.there(row, 12)?,
            mode: self.there(row, 13)?,
            effort: self.there(row, 14)?,
            model: self.there(row, 15)?,
            model_digest: self.there(row, 16)?,
            tokens_in: count(17)?,
            tokens_out: count(18)?,
            seconds: None,
            judged_at: row.get(19)?,
        })
    }
}
