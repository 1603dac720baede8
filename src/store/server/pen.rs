//! A pen of a shared store: owns one connection that writes, and makes a lost one anew.
//!
//! Verdicts of everybody who waits go in one statement, which may be repeated. Anything else is a transaction of its own;
//! but for claims of work, which pass each other over, no two of those run at once, on any server, so that each finds
//! what the one before it left, as in a file. A transaction that comes to nothing because of others, or because the
//! connection is lost before its end, is made again. Where the answer to its end is lost, it is made again only if that
//! changes nothing; else whoever asked is told that nobody knows.

use super::verdicts::{self, Judges};
use super::{Server, schema};
use crate::config::{STORE_APPEND_GAP_MS, STORE_RETRY_MS};
use crate::store::db::postgres::Postgres;
use crate::store::db::{self, Connection};
use crate::store::error::StoreError;
use crate::store::facts;
use crate::store::records::{OverrideRow, Record};
use crate::store::users;
use crate::store::writer::{Command, Outcome, Work, gathered};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_postgres::types::ToSql;

/// What the thread owns.
pub(in crate::store) struct Pen {
    server: Arc<Server>,
    connection: Option<Connection>,
    /// Rows of `judges` that are known.
    judges: Judges,
    /// When verdicts were last stored.
    stored: Option<Instant>,
}

/// What a transaction came to, where it came to its end.
enum End {
    Done(i64),
    /// A number of a policy's version is another text's.
    Taken,
}

impl Pen {
    pub(in crate::store) fn new(server: Arc<Server>) -> Pen {
        Pen {
            server,
            connection: None,
            judges: Judges::default(),
            stored: None,
        }
    }

    /// Works until nobody can ask any more.
    pub(in crate::store) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(first) = queue.blocking_recv() {
            if matches!(first.work, Work::Records(_)) {
                self.wait();
            }
            let group = gathered(first, &mut queue);
            self.answer(group);
        }
    }

    /// Until verdicts may be stored again: what comes meanwhile goes with them.
    fn wait(&self) {
        let gap = Duration::from_millis(STORE_APPEND_GAP_MS);
        let rest = self
            .stored
            .and_then(|stored| gap.checked_sub(stored.elapsed()));
        if let Some(rest) = rest {
            std::thread::sleep(rest);
        }
    }

    fn answer(&mut self, group: Vec<Command>) {
        let (mut records, mut waiting) = (Vec::new(), Vec::new());
        let mut others = Vec::new();
        for Command { work, done } in group {
            match work {
                Work::Records(some) => {
                    records.push(some);
                    waiting.push(done);
                }
                work => others.push((work, done)),
            }
        }
        // Whoever asked may have gone; what was committed stays.
        for (done, outcome) in waiting.into_iter().zip(self.store(&records)) {
            let _ = done.send(outcome);
        }
        for (work, done) in others {
            let _ = done.send(self.work(work));
        }
    }

    /// Stores everybody's verdicts, or where that fails each one's for themselves.
    fn store(&mut self, groups: &[Vec<Record>]) -> Vec<Outcome> {
        if groups.is_empty() {
            return Vec::new();
        }
        self.stored = Some(Instant::now());
        let all: Vec<&Record> = groups.iter().flatten().collect();
        match self.appended(&all) {
            Err(StoreError::Failed { .. }) if groups.len() > 1 => groups
                .iter()
                .map(|group| self.appended(&group.iter().collect::<Vec<_>>()))
                .collect(),
            stored => vec![stored; groups.len()],
        }
    }

    fn appended(&mut self, records: &[&Record]) -> Outcome {
        self.again(|pen, connection| {
            verdicts::store(connection, &mut pen.judges, records)
                .map(|()| 0)
                .map_err(Failure::Before)
        })
    }

    fn work(&mut self, work: Work) -> Outcome {
        let alone = !matches!(work, Work::Beside(_) | Work::Once(_) | Work::Query(_));
        let begin = match alone {
            true => schema::begin_alone(self.server.schema()),
            false => "BEGIN".to_owned(),
        };
        let end = self.again(|_, connection| transact(connection, &begin, &work))?;
        match (end, work) {
            (End::Done(n), _) => Ok(n),
            (End::Taken, Work::Version(v)) => Err(StoreError::VersionTaken {
                name: v.name,
                version: v.version,
            }),
            (End::Taken, _) => unreachable!("bug: only versions have numbers that can be taken"),
        }
    }

    /// Does `work` until it succeeds, fails for good, or has been tried long enough.
    fn again<T>(
        &mut self,
        mut work: impl FnMut(&mut Pen, &Connection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        loop {
            let connection = match self.connection.take().filter(Connection::is_idle) {
                Some(connection) => connection,
                None => self.connected()?,
            };
            let done = work(self, &connection);
            if connection.is_idle() {
                self.connection = Some(connection);
            }
            let error = match done {
                Ok(done) => return Ok(done),
                Err(Failure::Unsure) => {
                    let path = self.server.name().to_path_buf();
                    return Err(StoreError::Unsure { path });
                }
                Err(Failure::Before(error)) => error,
            };
            let in_time = begun.elapsed() < Duration::from_millis(STORE_RETRY_MS);
            if !(in_time && (error.is_lost() || error.is_conflict())) {
                return Err(self.server.failed(error));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn connected(&self) -> Result<Connection, StoreError> {
        let connection = self.server.connect()?;
        // Whoever is cut off in the middle of something must not keep the others from it.
        let settings = format!(
            "SET idle_in_transaction_session_timeout = {STORE_RETRY_MS}; SET lock_timeout = {STORE_RETRY_MS}"
        );
        connection
            .batch(&settings)
            .map_err(|e| self.server.failed(e))?;
        Ok(Connection::Postgres(connection))
    }
}

/// Why something was not done.
enum Failure {
    /// Nothing of it is kept.
    Before(db::Error),
    /// The answer to its end is lost, and doing it again could do it twice.
    Unsure,
}

/// One transaction.
fn transact(connection: &Connection, begin: &str, work: &Work) -> Result<End, Failure> {
    let Connection::Postgres(server) = connection else {
        unreachable!("bug: a shared store's pen writes to a file");
    };
    if let Work::Once(work) = work {
        return match work(connection) {
            Ok(()) => Ok(End::Done(0)),
            Err(error) => Err(Failure::Before(error)),
        };
    }
    if let Work::Query(query) = work {
        // One statement is a transaction.
        let id = facts::query(connection, query).map_err(|error| match error.is_lost() {
            true => Failure::Unsure,
            false => Failure::Before(error),
        });
        return id.map(End::Done);
    }
    server.begin(begin).map_err(Failure::Before)?;
    match within(connection, server, work) {
        Ok(end) => match server.end("COMMIT") {
            Ok(()) => Ok(end),
            Err(error) if error.is_lost() && !is_same_again(work) => Err(Failure::Unsure),
            Err(error) => {
                // Of a COMMIT that was refused nothing is left to roll back, but this is how we know.
                let _ = server.end("ROLLBACK");
                Err(Failure::Before(error))
            }
        },
        Err(error) => {
            if !error.is_lost() {
                let _ = server.end("ROLLBACK");
            }
            Err(Failure::Before(error))
        }
    }
}

/// Whether doing it twice is doing it once.
fn is_same_again(work: &Work) -> bool {
    matches!(
        work,
        Work::Records(_) | Work::Version(_) | Work::PutUser(_) | Work::Erase(_)
    )
}

fn within(c: &Connection, server: &Postgres, work: &Work) -> db::Result<End> {
    let done = match work {
        Work::Version(v) => {
            return Ok(match facts::version(c, v)? {
                true => End::Done(0),
                false => End::Taken,
            });
        }
        Work::Records(_) => unreachable!("bug: verdicts are stored apart"),
        Work::Overrides(rows) => overrides(server, rows).map(|()| 0),
        Work::Query(query) => facts::query(c, query),
        Work::Calibration(row) => facts::calibration(c, row),
        Work::Erase(text_digest) => facts::erase(c, text_digest),
        Work::PutUser(user) => users::put(c, user).map(|()| 0),
        Work::RemoveUser(name) => users::remove(c, name),
        Work::Transact(work) | Work::Beside(work) | Work::Once(work) => work(c).map(|()| 0),
    };
    done.map(End::Done)
}

/// People's labels, in one statement.
fn overrides(server: &Postgres, rows: &[OverrideRow]) -> db::Result<()> {
    use crate::store::db::postgres::shown;
    let sql = "INSERT INTO overrides (policy, text_digest, text, label, reviewer, note, decided_at,
                   violates)
               SELECT g.policy, g.text_digest, g.text, g.label, g.reviewer, g.note, g.decided_at,
                   g.violates
               FROM unnest(CAST(?1 AS TEXT[]), CAST(?2 AS BYTEA[]), CAST(?3 AS TEXT[]),
                   CAST(?4 AS TEXT[]), CAST(?5 AS TEXT[]), CAST(?6 AS TEXT[]), CAST(?7 AS BIGINT[]),
                   CAST(?8 AS BOOLEAN[])) WITH ORDINALITY
                   AS g (policy, text_digest, text, label, reviewer, note, decided_at, violates, place)
               ORDER BY g.place";
    let all = || rows.iter();
    let some = |text: &Option<String>| text.as_deref().map(|text| shown(text).into_owned());
    let policies: Vec<&str> = all().map(|o| o.policy.as_str()).collect();
    let digests: Vec<&[u8]> = all().map(|o| &o.text_digest[..]).collect();
    let texts: Vec<Option<String>> = all().map(|o| some(&o.text)).collect();
    let labels: Vec<&str> = all().map(|o| o.label.as_str()).collect();
    let reviewers: Vec<Option<String>> = all().map(|o| some(&o.reviewer)).collect();
    let notes: Vec<Option<String>> = all().map(|o| some(&o.note)).collect();
    let at: Vec<i64> = all().map(|o| o.decided_at).collect();
    let violates: Vec<bool> = all().map(|o| o.violates).collect();
    let values: [&(dyn ToSql + Sync); 8] = [
        &policies, &digests, &texts, &labels, &reviewers, &notes, &at, &violates,
    ];
    server.query_typed(sql, &values).map(drop)
}
