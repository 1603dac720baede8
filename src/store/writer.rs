//! The one writer: a thread that owns the writing connection and commits in groups.
//!
//! Takes work from a bounded channel, gives each caller its answer when the commit that holds its rows is on the disk.
//! While one commit waits for the disk the next group gathers, so that many callers share few waits. Work that fails is
//! undone alone; a failed commit fails everybody in it, and nothing of it is kept.

use super::backtests;
use super::error::StoreError;
use super::records::{CalibrationRow, Digest, OverrideRow, QueryRow, Record, VersionRow};
use super::users::{self, UserRow};
use super::{queue, settling};
use crate::config::{STORE_COMMIT_ROWS_MAX, STORE_QUEUE_MAX};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// What the writer can be asked to do. Each is done whole or not at all.
pub(super) enum Work {
    /// Append verdicts and undecided.
    Records(Vec<Record>),
    /// Append a version of a policy.
    Version(Box<VersionRow>),
    /// Append people's labels.
    Overrides(Vec<OverrideRow>),
    /// Append what a statement did. Gives its id.
    Query(Box<QueryRow>),
    /// Append a calibration. Gives its id.
    Calibration(Box<CalibrationRow>),
    /// Blank what quotes a text. Gives the rows changed.
    Erase(Digest),
    /// Store a user, in the place of one of the same name.
    PutUser(Box<UserRow>),
    /// Remove a user. Gives the rows removed.
    RemoveUser(String),
    /// Anything else, within the transaction.
    Transact(Transaction),
}

/// What is done within a transaction.
pub(super) type Transaction = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

impl Work {
    fn rows(&self) -> usize {
        match self {
            Work::Records(records) => records.len(),
            Work::Overrides(overrides) => overrides.len(),
            _ => 1,
        }
    }

    /// Whether what it replaces must not linger in the write-ahead log.
    fn erases(&self) -> bool {
        matches!(
            self,
            Work::Erase(_) | Work::PutUser(_) | Work::RemoveUser(_)
        )
    }
}

type Outcome = Result<i64, StoreError>;

struct Command {
    work: Work,
    done: oneshot::Sender<Outcome>,
}

/// The way to the thread.
pub(super) struct Writer {
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread. `connection` must be a writing one on `path`.
    pub(super) fn start(connection: Connection, path: &Path) -> Result<Writer, StoreError> {
        let (commands, queue) = mpsc::channel(STORE_QUEUE_MAX);
        let pen = Pen {
            connection,
            path: path.to_path_buf(),
            judges: HashMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || pen.run(queue))
            .map_err(|e| StoreError::Failed {
                path: path.to_path_buf(),
                why: e.to_string(),
            })?;
        Ok(Writer {
            commands: Mutex::new(Some(commands)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Waits for room in the queue, then for the commit.
    pub(super) async fn write(&self, work: Work) -> Outcome {
        let commands = self
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let commands = commands.expect("bug: a write after the store was closed");
        let (done, outcome) = oneshot::channel();
        let sent = commands.send(Command { work, done }).await;
        assert!(sent.is_ok(), "bug: the store's writer has ended");
        outcome
            .await
            .expect("bug: the store's writer ended before it answered")
    }

    /// Finishes what was handed over, and closes the file.
    pub(super) fn close(&self) {
        drop(
            self.commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("bug: the store's writer panicked");
        }
    }
}

/// What the thread owns.
struct Pen {
    connection: Connection,
    path: PathBuf,
    /// Rows of `judges` known to be committed or in the open transaction.
    judges: HashMap<Judge, i64>,
}

/// What judged, as the key of its row. Shares the record's words.
#[derive(PartialEq, Eq, Hash)]
struct Judge {
    version: u32,
    words: [Arc<str>; 7],
}

impl Pen {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(first) = queue.blocking_recv() {
            let mut rows = first.work.rows();
            let mut group = vec![first];
            while rows < STORE_COMMIT_ROWS_MAX
                && let Ok(next) = queue.try_recv()
            {
                rows += next.work.rows();
                group.push(next);
            }
            self.answer(group);
        }
        if let Err((_, e)) = self.connection.close() {
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
                    row.get::<_, i64>(0)
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
            if self.connection.is_autocommit() {
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
        if !self.connection.is_autocommit()
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
        done.map(drop)
            .map_err(|e| StoreError::sqlite(&self.path, e))
    }

    fn work(&mut self, work: Work) -> Outcome {
        let done = match work {
            Work::Version(version) => return self.version(&version),
            Work::Records(records) => records.iter().try_for_each(|r| self.record(r)).map(|()| 0),
            Work::Overrides(rows) => rows.iter().try_for_each(|r| self.decide(r)).map(|()| 0),
            Work::Query(query) => self.query(&query),
            Work::Calibration(row) => self.calibration(&row),
            Work::Erase(text_digest) => self.erase(&text_digest),
            Work::PutUser(user) => users::put(&self.connection, &user).map(|()| 0),
            Work::RemoveUser(name) => users::remove(&self.connection, &name),
            Work::Transact(work) => work(&self.connection).map(|()| 0),
        };
        done.map_err(|e| StoreError::sqlite(&self.path, e))
    }

    fn record(&mut self, r: &Record) -> rusqlite::Result<()> {
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
    fn insert(&self, r: &Record, judge: i64, attempt: i64) -> rusqlite::Result<usize> {
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
    fn judge(&mut self, r: &Record) -> rusqlite::Result<i64> {
        let words = [
            &r.policy,
            &r.policy_digest,
            &r.stage,
            &r.mode,
            &r.effort,
            &r.model,
            &r.model_digest,
        ];
        let judge = Judge {
            version: r.policy_version,
            words: words.map(Arc::clone),
        };
        if let Some(id) = self.judges.get(&judge) {
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
        let known = self
            .connection
            .prepare_cached(known)?
            .query_row(values, |row| row.get(0));
        let id = match known.optional()? {
            Some(id) => id,
            None => {
                let new = "INSERT INTO judges (policy, policy_version, policy_digest, stage, mode,
                               effort, model, model_digest)
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
                self.connection.prepare_cached(new)?.insert(values)?
            }
        };
        self.judges.insert(judge, id);
        Ok(id)
    }

    fn version(&self, v: &VersionRow) -> Outcome {
        let sqlite = |e| StoreError::sqlite(&self.path, e);
        let known = "SELECT digest FROM policy_versions WHERE name = ?1 AND version = ?2";
        let known = self.connection.prepare_cached(known).and_then(|mut s| {
            s.query_row(params![v.name, v.version], |row| row.get(0))
                .optional()
        });
        let known: Option<String> = known.map_err(sqlite)?;
        match known {
            Some(digest) if digest == v.digest => Ok(0),
            Some(_) => Err(StoreError::VersionTaken {
                name: v.name.clone(),
                version: v.version,
            }),
            None => self.insert_version(v).map(|()| 0).map_err(sqlite),
        }
    }

    fn insert_version(&self, v: &VersionRow) -> rusqlite::Result<()> {
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
        self.connection
            .prepare_cached(sql)?
            .execute(values)
            .map(drop)
    }

    fn decide(&self, o: &OverrideRow) -> rusqlite::Result<()> {
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
        self.connection
            .prepare_cached(sql)?
            .execute(values)
            .map(drop)
    }

    fn query(&self, q: &QueryRow) -> rusqlite::Result<i64> {
        let sql = "INSERT INTO queries (started_at, \"user\", statement, status, \"rows\",
                       distinct_texts, recalled, screened, asked, undecided, tokens_in, tokens_out,
                       seconds, role, model, busy_seconds)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
        self.connection.prepare_cached(sql)?.insert(params![
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

    fn calibration(&self, c: &CalibrationRow) -> rusqlite::Result<i64> {
        let sql = "INSERT INTO calibrations (scorer_digest, policy, policy_version, policy_digest,
                       model, model_digest, golden, golden_digest, target, gap, golden_rows,
                       scored, scored_right, rows_above, right_above, bound, calibrated_at)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                       ?17)";
        self.connection.prepare_cached(sql)?.insert(params![
            c.scorer_digest,
            c.policy,
            c.policy_version,
            c.policy_digest,
            c.model,
            c.model_digest,
            c.golden,
            c.golden_digest,
            c.target,
            c.gap,
            count(c.golden_rows),
            count(c.scored),
            count(c.scored_right),
            count(c.rows_above),
            count(c.right_above),
            c.bound,
            c.calibrated_at,
        ])
    }

    fn erase(&self, text_digest: &Digest) -> rusqlite::Result<i64> {
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
        let mut changed = settling::erase(&self.connection, text_digest)?;
        changed += queue::erase(&self.connection, text_digest)?;
        for sql in blank {
            changed += self
                .connection
                .prepare_cached(sql)?
                .execute([text_digest])?;
        }
        Ok(i64::try_from(changed).unwrap_or(i64::MAX))
    }
}

/// Words as SQLite keeps them: JSON, NULL for none.
pub(super) fn words(words: &[Arc<str>]) -> Option<String> {
    (!words.is_empty()).then(|| {
        let words: Vec<&str> = words.iter().map(|word| &**word).collect();
        serde_json::to_string(&words).expect("bug: words that are no JSON")
    })
}

/// A count as SQLite keeps it.
pub(super) fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
