//! A pen of a shared store: owns one connection that writes, and makes a lost one anew.
//!
//! Verdicts of everybody who waits go in one statement, which may be repeated; those that nobody waits for wait until they
//! are many, or somebody does, here or on another server. Anything else is a transaction of its own;
//! but for claims of work, which pass each other over, no two of those run at once, on any server, so that each finds
//! what the one before it left, as in a file. A transaction that comes to nothing because of others, or because the
//! connection is lost before its end, is made again. Where the answer to its end is lost, it is made again only if that
//! changes nothing; else whoever asked is told that nobody knows.

use super::verdicts;
use super::{Server, schema};
use crate::config::{
    STORE_AGAIN_PAUSE_MS, STORE_APPEND_GAP_MS, STORE_APPEND_LATER_MS, STORE_APPEND_LATER_ROWS,
    STORE_COMMIT_ROWS_MAX, STORE_QUEUE_MAX, STORE_RETRY_MS,
};
use crate::store::db::postgres::Postgres;
use crate::store::db::{self, Connection};
use crate::store::error::StoreError;
use crate::store::facts;
use crate::store::judges::Judges;
use crate::store::records::{OverrideRow, Record};
use crate::store::users;
use crate::store::writer::{Command, Outcome, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
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

/// Verdicts that are not stored yet, and who waits for which.
#[derive(Default)]
struct Held {
    records: Vec<Vec<Record>>,
    waiting: Vec<oneshot::Sender<Outcome>>,
    rows: usize,
    /// Whether somebody waits for more than to be told.
    urgent: bool,
}

impl Held {
    fn push(&mut self, records: Vec<Record>, done: oneshot::Sender<Outcome>, urgent: bool) {
        self.rows += records.len();
        self.urgent |= urgent;
        self.records.push(records);
        self.waiting.push(done);
    }

    /// When they are to be stored, by when verdicts were stored last: what comes meanwhile goes with them.
    fn due(&self, stored: Option<Instant>) -> Option<Instant> {
        if self.records.is_empty() {
            return None;
        }
        let gap = match self.rows {
            rows if rows >= STORE_COMMIT_ROWS_MAX => 0,
            rows if self.urgent || rows >= STORE_APPEND_LATER_ROWS => STORE_APPEND_GAP_MS,
            _ => STORE_APPEND_LATER_MS,
        };
        let due = stored.map(|stored| stored + Duration::from_millis(gap));
        Some(due.unwrap_or_else(Instant::now))
    }
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
        let mut held = Held::default();
        loop {
            let next = match held.due(self.stored) {
                None => queue.blocking_recv(),
                Some(due) if due <= Instant::now() => {
                    // With whatever else is there by now.
                    for _ in 0..STORE_QUEUE_MAX {
                        match queue.try_recv() {
                            Ok(next) if held.rows < STORE_COMMIT_ROWS_MAX => {
                                self.take(next, &mut held);
                            }
                            Ok(next) => {
                                self.write_down(&mut held);
                                self.take(next, &mut held);
                            }
                            Err(_) => break,
                        }
                    }
                    self.write_down(&mut held);
                    continue;
                }
                Some(due) => {
                    let comes = async {
                        tokio::select! {
                            next = queue.recv() => Some(next),
                            () = self.server.hurried.notified() => None,
                        }
                    };
                    match self.server.until(due, comes) {
                        Some(Some(next)) => next,
                        Some(None) => {
                            held.urgent = true;
                            continue;
                        }
                        None => continue,
                    }
                }
            };
            let Some(next) = next else {
                self.write_down(&mut held);
                return;
            };
            self.take(next, &mut held);
        }
    }

    /// Verdicts are held for a while; anything else is done.
    fn take(&mut self, Command { work, done }: Command, held: &mut Held) {
        match work {
            Work::Records(records) => held.push(records, done, true),
            Work::Later(records) => held.push(records, done, false),
            // Whoever asked may have gone; what was committed stays.
            work => drop(done.send(self.work(work))),
        }
    }

    /// Stores what is held, and tells whoever waits.
    fn write_down(&mut self, held: &mut Held) {
        let Held {
            records, waiting, ..
        } = std::mem::take(held);
        for (done, outcome) in waiting.into_iter().zip(self.store(&records)) {
            let _ = done.send(outcome);
        }
    }

    /// Stores everybody's verdicts, or where that fails each one's for themselves.
    fn store(&mut self, groups: &[Vec<Record>]) -> Vec<Outcome> {
        let all: Vec<&Record> = groups.iter().flatten().collect();
        if all.is_empty() {
            return vec![Ok(0); groups.len()];
        }
        self.stored = Some(Instant::now());
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
            std::thread::sleep(Duration::from_millis(STORE_AGAIN_PAUSE_MS));
        }
    }

    fn connected(&self) -> Result<Connection, StoreError> {
        let connection = self.server.connect()?;
        // Whoever is cut off in the middle of something must not keep the others from it.
        // Others say there that they wait for what is not stored yet.
        let channel = self.server.schema().replace('"', "\"\"");
        let settings = format!(
            "SET idle_in_transaction_session_timeout = {STORE_RETRY_MS}; SET lock_timeout = {STORE_RETRY_MS};
             LISTEN \"{channel}\""
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
    matches!(work, Work::Version(_) | Work::PutUser(_) | Work::Erase(_))
}

fn within(c: &Connection, server: &Postgres, work: &Work) -> db::Result<End> {
    let done = match work {
        Work::Version(v) => {
            return Ok(match facts::version(c, v)? {
                true => End::Done(0),
                false => End::Taken,
            });
        }
        Work::Records(_) | Work::Later(_) => unreachable!("bug: verdicts are stored apart"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_wait_for_others_as_long_as_somebody_can() {
        let (ms, stored) = (Duration::from_millis, Instant::now());
        let record = crate::store::tests::verdict;
        // How many records, whether somebody waits, after which time they are stored.
        for (rows, urgent, gap) in [
            (1, true, STORE_APPEND_GAP_MS),
            (1, false, STORE_APPEND_LATER_MS),
            (STORE_APPEND_LATER_ROWS - 1, false, STORE_APPEND_LATER_MS),
            (STORE_APPEND_LATER_ROWS, false, STORE_APPEND_GAP_MS),
            (STORE_COMMIT_ROWS_MAX, false, 0),
            (0, true, STORE_APPEND_GAP_MS),
        ] {
            let mut held = Held::default();
            assert_eq!(held.due(Some(stored)), None);
            let records = (0..rows as u64).map(record).collect();
            held.push(records, oneshot::channel().0, urgent);
            assert_eq!(held.due(Some(stored)), Some(stored + ms(gap)), "{rows}");
            assert!(
                held.due(None) <= Some(Instant::now()),
                "none was stored yet"
            );
            // Somebody hurries.
            held.push(Vec::new(), oneshot::channel().0, true);
            let soon = stored + ms(gap.min(STORE_APPEND_GAP_MS));
            assert_eq!(held.due(Some(stored)), Some(soon), "{rows}");
        }
    }
}
