//! The pen of a file: owns the one connection that writes to it, and commits in groups.
//!
//! Work that fails is undone alone; a failed commit fails everybody in it, and nothing of it is kept.

use super::db::{self, Connection, params};
use super::error::StoreError;
use super::facts::{self, count, words};
use super::judges::{Judges, judge};
use super::records::Record;
use super::users;
use super::writer::{Command, Outcome, Work, gathered};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// What the thread owns.
pub(super) struct Pen {
    connection: Connection,
    path: PathBuf,
    /// Rows of `judges` known to be committed or in the open transaction.
    judges: Judges,
}

impl Pen {
    /// `connection` must be the writing one on `path`.
    pub(super) fn new(connection: Connection, path: &Path) -> Pen {
        Pen {
            connection,
            path: path.to_path_buf(),
            judges: Judges::default(),
        }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(first) = queue.blocking_recv() {
            let group = gathered(first, &mut queue);
            self.answer(group);
        }
        if let Connection::Sqlite(file) = self.connection
            && let Err((_, e)) = file.close()
        {
            tracing::error!("store {}: {e}", self.path.display());
        }
    }

    /// Commits a group and tells everybody in it.
    fn answer(&mut self, group: Vec<Command>) {
        let (work, waiting): (Vec<_>, Vec<_>) = group.into_iter().map(|c| (c.work, c.done)).unzip();
        let erases = work.iter().any(Work::erases);
        let outcomes = self.commit(work).unwrap_or_else(|e| {
            // Rows of `judges` may have gone with the transaction.
            self.judges.clear();
            vec![Err(e); waiting.len()]
        });
        if erases {
            // A reader that still needs the log only delays this: the next checkpoint writes over it.
            let emptied = self
                .connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| {
                    row.get::<i64>(0)
                });
            if !matches!(emptied, Ok(0)) {
                tracing::warn!(
                    "store {}: what was erased is still in the log",
                    self.path.display()
                );
            }
        }
        for (done, outcome) in waiting.into_iter().zip(outcomes) {
            // Whoever asked may have gone; what was committed stays.
            let _ = done.send(outcome);
        }
    }

    /// One transaction for all. `Err` if nothing of it was kept.
    fn commit(&mut self, group: Vec<Work>) -> Result<Vec<Outcome>, StoreError> {
        self.batch("BEGIN IMMEDIATE")?;
        let mut outcomes = Vec::with_capacity(group.len());
        for work in group {
            match self.attempt(work) {
                Ok(outcome) => outcomes.push(outcome),
                Err(e) => return Err(self.give_up(e)),
            }
        }
        self.batch("COMMIT").map_err(|e| self.give_up(e))?;
        Ok(outcomes)
    }

    /// Does one work within the transaction. The outer `Err` says that the transaction itself is lost.
    fn attempt(&mut self, work: Work) -> Result<Outcome, StoreError> {
        self.batch("SAVEPOINT work")?;
        let outcome = self.work(work);
        if let Err(e) = &outcome {
            if self.connection.is_idle() {
                // A full disk and its like: SQLite has rolled everything back.
                return Err(e.clone());
            }
            self.judges.clear();
            self.batch("ROLLBACK TO work")?;
        }
        self.batch("RELEASE work")?;
        Ok(outcome)
    }

    fn give_up(&self, cause: StoreError) -> StoreError {
        if !self.connection.is_idle()
            && let Err(e) = self.batch("ROLLBACK")
        {
            tracing::error!("cannot roll back: {e}");
        }
        cause
    }

    fn batch(&self, sql: &str) -> Result<(), StoreError> {
        let done = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut s| s.execute(()));
        done.map(drop).map_err(|e| StoreError::of(&self.path, e))
    }

    fn work(&mut self, work: Work) -> Outcome {
        let c = &self.connection;
        let done = match work {
            Work::Version(v) => match facts::version(c, &v) {
                Ok(false) => {
                    return Err(StoreError::VersionTaken {
                        name: v.name,
                        version: v.version,
                    });
                }
                done => done.map(|_| 0),
            },
            Work::Records(records) | Work::Later(records) => {
                records.iter().try_for_each(|r| self.record(r)).map(|()| 0)
            }
            Work::Overrides(rows) => rows
                .iter()
                .try_for_each(|r| facts::decide(c, r))
                .map(|()| 0),
            Work::Query(query) => facts::query(c, &query),
            Work::Calibration(row) => facts::calibration(c, &row),
            Work::Erase(text_digest) => facts::erase(c, &text_digest),
            Work::PutUser(user) => users::put(c, &user).map(|()| 0),
            Work::RemoveUser(name) => users::remove(c, &name),
            Work::Transact(work) | Work::Beside(work) | Work::Once(work) => work(c).map(|()| 0),
        };
        done.map_err(|e| StoreError::of(&self.path, e))
    }

    fn record(&mut self, r: &Record) -> db::Result<()> {
        let judge = self.judge(r)?;
        if self.insert(r, judge, 0)? == 0 && r.label.is_some() {
            // The key is known. It takes one more row if it was undecided: what a second asking decided.
            let undecided = "SELECT 1 FROM verdicts
                             WHERE verdict_digest = ?1 AND attempt = 0 AND label IS NULL";
            if self
                .connection
                .prepare_cached(undecided)?
                .exists([r.verdict_digest])?
            {
                self.insert(r, judge, 1)?;
            }
        }
        Ok(())
    }

    /// Rows inserted: none where the key has this attempt already. Any other conflict is an error, not a row dropped.
    fn insert(&self, r: &Record, judge: i64, attempt: i64) -> db::Result<usize> {
        let sql =
            "INSERT INTO verdicts (verdict_digest, attempt, judge, text_digest, label, violates,
                       score, reason, tokens_in, tokens_out, judged_at, rules, rationale,
                       gap, seconds)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
                   ON CONFLICT (verdict_digest, attempt) DO NOTHING";
        self.connection.prepare_cached(sql)?.execute(params![
            r.verdict_digest,
            attempt,
            judge,
            r.text_digest,
            r.label,
            r.violates,
            r.score,
            r.reason,
            count(r.tokens_in),
            count(r.tokens_out),
            r.judged_at,
            words(&r.rules),
            r.rationale,
            r.gap,
            r.seconds,
        ])
    }

    /// The number of what judged this record.
    fn judge(&mut self, r: &Record) -> db::Result<i64> {
        judge(&self.connection, &mut self.judges, r)
    }
}
