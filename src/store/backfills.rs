//! Backfills: what each one is, how far it is, and what people may do with it.
//!
//! Takes what was asked for, gives ids, rows and states. Every change of a state is one transaction, so that several
//! processes may work on one store. The rows that are to be judged are in [`super::chunks`]. Times are arguments. Knows
//! nothing of how a text is judged.

use super::db::{self, Connection, Optional, Row, params};
use super::error::StoreError;
use super::{Store, settling};

/// How a backfill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its source is being read.
    Spooling,
    /// Its rows are judged as workers come to them.
    Running,
    /// By a person, or because its budget is spent.
    Paused,
    /// Every row is judged or given up.
    Done,
    /// By a person.
    Cancelled,
    /// It cannot go on.
    Failed,
}

impl State {
    const ALL: [State; 6] = [
        State::Spooling,
        State::Running,
        State::Paused,
        State::Done,
        State::Cancelled,
        State::Failed,
    ];

    /// The word in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Spooling => "spooling",
            State::Running => "running",
            State::Paused => "paused",
            State::Done => "done",
            State::Cancelled => "cancelled",
            State::Failed => "failed",
        }
    }

    /// Whether workers have something to do for it.
    pub fn is_pending(self) -> bool {
        matches!(self, State::Spooling | State::Running)
    }

    fn read(row: &Row<'_>, at: usize) -> db::Result<State> {
        let word: String = row.get(at)?;
        let known = State::ALL.into_iter().find(|state| state.as_str() == word);
        known.ok_or_else(|| db::Error::Value {
            at,
            why: format!("there is no state {word}"),
        })
    }
}

/// A backfill that is asked for.
#[derive(Debug, Clone)]
pub struct NewBackfill {
    /// Under what its texts are to be judged.
    pub judging: Judging,
    /// What the requester had set, as a JSON object.
    pub settings: String,
    /// The source as typed.
    pub source: String,
    /// The query over it that is spooled.
    pub selection: String,
    /// As typed.
    pub order_by: Option<String>,
    /// Why.
    pub note: Option<String>,
    /// `affected`, where only some rows are judged.
    pub only: Option<String>,
    /// The version whose verdicts say which; pinned.
    pub from: Option<String>,
    /// Rows that the source has now.
    pub rows: u64,
    /// Tokens that it may spend.
    pub budget: Option<u64>,
    /// Who.
    pub requested_by: String,
    /// Microseconds since 1970-01-01 UTC.
    pub requested_at: i64,
}

/// Under what a text is to be judged: pinned when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Judging {
    /// What is resolved: a pinned version, or the text of an inline policy.
    pub reference: String,
    /// For people: `hate@4`, or `inline@<digest prefix>`.
    pub policy: String,
    /// From 1; 0 for an inline policy.
    pub policy_version: u32,
    /// Hex.
    pub policy_digest: String,
    /// The model's name.
    pub model: String,
    /// Weights and numerics class.
    pub model_digest: String,
    /// The setting of that name.
    pub mode: String,
    /// The setting of that name.
    pub effort: String,
}

/// How far a backfill is.
#[derive(Debug, Clone, PartialEq)]
pub struct BackfillRow {
    /// Its number.
    pub id: i64,
    /// `hate@4`
    pub policy: String,
    /// See [`Judging::model`].
    pub model: String,
    /// See [`Judging::model_digest`].
    pub model_digest: String,
    /// How it stands.
    pub state: State,
    /// Why it stands so, where there is more to say.
    pub reason: Option<String>,
    /// Rows to be judged; an estimate while it is spooling.
    pub rows: u64,
    /// Rows judged, undecided ones included.
    pub judged: u64,
    /// Rows given up.
    pub failed: u64,
    /// Rows a second, where they were measured.
    pub rate: Option<f64>,
    /// Who asked for it.
    pub requested_by: String,
}

impl BackfillRow {
    /// The share of its rows that is judged or given up, in 0..=1.
    pub fn progress(&self) -> f64 {
        match self.rows {
            0 => 1.0,
            rows => (self.judged + self.failed) as f64 / rows as f64,
        }
    }
}

/// What a person does with a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// Stop until it is resumed.
    Pause,
    /// Go on, with another budget where one is given.
    Resume {
        /// Tokens that it may spend in all.
        budget: Option<u64>,
    },
    /// Stop for good.
    Cancel,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Steered {
    /// How it stands now.
    Now(BackfillRow),
    /// There is no such backfill.
    Unknown,
    /// It stands so that this cannot be done.
    Wrong(State),
}

impl Store {
    /// Stores a backfill that is asked for, to be spooled; gives its id.
    pub async fn submit_backfill(&self, new: NewBackfill) -> Result<i64, StoreError> {
        let id = self.transact(move |c| insert(c, &new)).await?;
        self.pending().notify_one();
        Ok(id)
    }

    /// Every backfill, the oldest first.
    pub async fn backfills(&self) -> Result<Vec<BackfillRow>, StoreError> {
        self.read(|reader| {
            let mut select = reader.prepare_cached(&select("ORDER BY id"))?;
            select.query_map((), read)?.collect()
        })
        .await
    }

    /// One backfill.
    pub async fn backfill(&self, id: i64) -> Result<Option<BackfillRow>, StoreError> {
        self.read(move |reader| one(reader, id)).await
    }

    /// The latest rate, rows a second, that was measured under the same model and mode.
    pub async fn backfill_rate(&self, judging: &Judging) -> Result<Option<f64>, StoreError> {
        let by = [judging.model_digest.clone(), judging.mode.clone()];
        self.read(move |reader| {
            let sql = "SELECT rate FROM backfills
                       WHERE model_digest = ?1 AND mode = ?2 AND rate IS NOT NULL
                       ORDER BY id DESC LIMIT 1";
            let mut select = reader.prepare_cached(sql)?;
            let [model, mode] = &by;
            select.query_row([model, mode], |row| row.get(0)).optional()
        })
        .await
    }

    /// Pauses, resumes or cancels a backfill. Cancelling overwrites the texts that it still held.
    pub async fn steer_backfill(
        &self,
        id: i64,
        steer: Steer,
        now: i64,
    ) -> Result<Steered, StoreError> {
        let steered = self.transact(move |c| steer_one(c, id, steer, now)).await?;
        self.pending().notify_one();
        Ok(steered)
    }

    /// A backfill that cannot go on, unless it has come to an end or to rest meanwhile.
    pub async fn fail_backfill(&self, id: i64, why: String, now: i64) -> Result<(), StoreError> {
        self.transact(move |c| {
            let sql = "UPDATE backfills SET state = 'failed', reason = ?2, ended_at = ?3
                       WHERE id = ?1 AND state IN ('spooling', 'running')";
            c.prepare_cached(sql)?
                .execute(params![id, why, now])
                .map(drop)
        })
        .await
    }
}

/// What [`read`] reads.
pub(super) const COLUMNS: &str =
    "id, policy, model, model_digest, state, reason, \"rows\", judged, failed, rate, requested_by";

fn select(which: &str) -> String {
    format!("SELECT {COLUMNS} FROM backfills {which}")
}

pub(super) fn read(row: &Row<'_>) -> db::Result<BackfillRow> {
    Ok(BackfillRow {
        id: row.get(0)?,
        policy: row.get(1)?,
        model: row.get(2)?,
        model_digest: row.get(3)?,
        state: State::read(row, 4)?,
        reason: row.get(5)?,
        rows: unsigned(row, 6)?,
        judged: unsigned(row, 7)?,
        failed: unsigned(row, 8)?,
        rate: row.get(9)?,
        requested_by: row.get(10)?,
    })
}

/// A count.
pub(super) fn unsigned(row: &Row<'_>, at: usize) -> db::Result<u64> {
    row.get::<i64>(at).map(|n| u64::try_from(n).unwrap_or(0))
}

/// A count as SQLite keeps it.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn one(c: &Connection, id: i64) -> db::Result<Option<BackfillRow>> {
    let mut select = c.prepare_cached(&select("WHERE id = ?1"))?;
    select.query_row([id], read).optional()
}

/// The same, which stays as it is until the transaction ends.
fn held(c: &Connection, id: i64) -> db::Result<Option<BackfillRow>> {
    let which = c.either("WHERE id = ?1", "WHERE id = ?1 FOR UPDATE");
    let mut select = c.prepare_cached(&select(which))?;
    select.query_row([id], read).optional()
}

fn insert(c: &Connection, new: &NewBackfill) -> db::Result<i64> {
    let sql = "INSERT INTO backfills (reference, policy, policy_version, policy_digest, model,
                   model_digest, mode, effort, settings, source, selection, order_by, note,
                   only_which, from_reference, state, \"rows\", budget, requested_by, requested_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15,
                   'spooling', ?16, ?17, ?18, ?19)";
    let judging = &new.judging;
    c.prepare_cached(sql)?.insert(params![
        judging.reference,
        judging.policy,
        judging.policy_version,
        judging.policy_digest,
        judging.model,
        judging.model_digest,
        judging.mode,
        judging.effort,
        new.settings,
        new.source,
        new.selection,
        new.order_by,
        new.note,
        new.only,
        new.from,
        signed(new.rows),
        new.budget.map(signed),
        new.requested_by,
        new.requested_at,
    ])
}

fn steer_one(c: &Connection, id: i64, steer: Steer, now: i64) -> db::Result<Steered> {
    let Some(row) = held(c, id)? else {
        return Ok(Steered::Unknown);
    };
    let fits = match steer {
        Steer::Pause => row.state.is_pending(),
        Steer::Resume { .. } => matches!(row.state, State::Paused | State::Failed),
        Steer::Cancel => !matches!(row.state, State::Done | State::Cancelled),
    };
    if !fits {
        return Ok(Steered::Wrong(row.state));
    }
    let update =
        |sql: &str, values: &[&dyn db::ToValue]| c.prepare_cached(sql)?.execute(values).map(drop);
    settling::forget_marks(c, id)?;
    match steer {
        Steer::Pause => update(
            "UPDATE backfills SET state = 'paused', reason = NULL WHERE id = ?1",
            &[&id],
        )?,
        Steer::Resume { budget } => {
            update(
                "UPDATE backfills
                 SET state = CASE spooled WHEN 1 THEN 'running' ELSE 'spooling' END,
                     reason = NULL, setbacks = 0, retry_at = 0, ended_at = NULL,
                     budget = coalesce(?2, budget)
                 WHERE id = ?1",
                &[&id, &budget.map(signed)],
            )?;
            settling::end_if_done(c, id, now)?;
        }
        Steer::Cancel => {
            settling::forget(c, id)?;
            update(
                "UPDATE backfills SET state = 'cancelled', reason = NULL, ended_at = ?2 WHERE id = ?1",
                &[&id, &now],
            )?;
        }
    }
    Ok(one(c, id)?.map_or(Steered::Unknown, Steered::Now))
}
