//! What judged, as a row of `judges` that many verdicts share.
//!
//! Takes a record and a connection within a transaction, gives the row's number. What is remembered of rows must be
//! forgotten when their transaction fails.

use super::db::{self, Connection, Error, Optional, params};
use super::records::Record;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows of `judges` by what they say.
pub(super) type Judges = HashMap<Judge, i64>;

/// What judged, as the key of its row. Shares the record's words.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Judge {
    version: u32,
    words: [Arc<str>; 7],
}

impl Judge {
    pub(super) fn of(r: &Record) -> Judge {
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
pub(super) fn judge(c: &Connection, judges: &mut Judges, r: &Record) -> db::Result<i64> {
    let judge = Judge::of(r);
    if let Some(id) = judges.get(&judge) {
        return Ok(*id);
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
    Ok(id)
}
