//! Jobs and their runs, on disk.
//!
//! Takes jobs, due times and what runs came to; gives each due time to one process only: claiming is inserting a row of
//! which there can be one, starting is a change that only the claim's owner can make, and only while no run of the job
//! runs anywhere. Knows no schedules and no clock: times are arguments, microseconds since 1970-01-01 UTC.

use super::Store;
use super::db::{self, Connection, Optional, Row, params};
use super::error::StoreError;
use crate::config::CRON_WAITING_MAX;

/// What a run is marked with whose process ended before it.
pub const RESTARTED: &str = "server restarted";

/// A schedule and a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// Its number, never given again.
    pub jobid: i64,
    /// Its name, if it has one.
    pub jobname: Option<String>,
    /// As typed.
    pub schedule: String,
    /// Statements.
    pub command: String,
    /// The database, of which there is one.
    pub database: String,
    /// Whose rights it runs with.
    pub username: String,
    /// Whether it runs.
    pub active: bool,
    /// Times up to this one do not count.
    pub since: i64,
}

/// A job to be.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its name; one that there is already is replaced.
    pub jobname: Option<String>,
    /// See [`JobRow::schedule`].
    pub schedule: String,
    /// See [`JobRow::command`].
    pub command: String,
    /// See [`JobRow::database`].
    pub database: String,
    /// See [`JobRow::username`].
    pub username: String,
    /// From when on its times count.
    pub now: i64,
}

/// What is to change of a job; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct JobChange {
    /// See [`JobRow::schedule`].
    pub schedule: Option<String>,
    /// See [`JobRow::command`].
    pub command: Option<String>,
    /// See [`JobRow::username`].
    pub username: Option<String>,
    /// See [`JobRow::active`].
    pub active: Option<bool>,
}

/// Which job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobKey {
    /// The one of this number.
    Id(i64),
    /// The one of this name.
    Name(String),
}

/// A time at which a job is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The job.
    pub jobid: i64,
    /// See [`JobRow::since`]; a job that changed meanwhile is not due.
    pub since: i64,
    /// When.
    pub at: i64,
    /// Whether it is left out while another run of the job waits.
    pub alone: bool,
}

/// Times that went by without a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// The job.
    pub jobid: i64,
    /// See [`Due::since`].
    pub since: i64,
    /// The first of them.
    pub first: i64,
    /// What is said of them.
    pub message: String,
}

/// What a process found due.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// The process: see [`Presence::id`](super::Presence::id).
    pub owner: String,
    /// When this is.
    pub now: i64,
    /// Up to when it has looked; `None` leaves what is known.
    pub seen: Option<i64>,
    /// To be run.
    pub due: Vec<Due>,
    /// To be recorded.
    pub missed: Vec<Missed>,
}

/// A run that has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its number.
    pub runid: i64,
    /// The job.
    pub jobid: i64,
    /// The job's name.
    pub jobname: Option<String>,
    /// What is run.
    pub command: String,
    /// Whose rights it runs with.
    pub username: String,
    /// When it was due.
    pub due: i64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether every statement succeeded.
    pub succeeded: bool,
    /// The last command tag, or the error.
    pub message: String,
    /// Rows given or changed.
    pub rows: u64,
    /// Questions put to a model.
    pub asked: u64,
    /// Texts left undecided.
    pub undecided: u64,
    /// What was said beside rows.
    pub notices: Vec<String>,
}

/// A run, as `cron.job_run_details` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// Its number.
    pub runid: i64,
    /// The job.
    pub jobid: i64,
    /// The job's name, if the job is still there and has one.
    pub jobname: Option<String>,
    /// `starting`, `running`, `succeeded`, `failed` or `missed`.
    pub status: String,
    /// The last command tag, or the error.
    pub message: Option<String>,
    /// When it was due.
    pub due: i64,
    /// When it began.
    pub start_time: Option<i64>,
    /// When it ended.
    pub end_time: Option<i64>,
    /// Rows given or changed.
    pub rows: Option<i64>,
}

impl Store {
    /// Every job, by number.
    pub async fn jobs(&self) -> Result<Vec<JobRow>, StoreError> {
        self.read(|reader| {
            let mut select = reader.prepare_cached(
                "SELECT jobid, jobname, schedule, command, database, username, active, since
                 FROM cron_jobs ORDER BY jobid",
            )?;
            select.query_map((), job)?.collect()
        })
        .await
    }

    /// Stores a job, in the place of the one of its name; gives its number. Runs that wait are those of the old one and
    /// go with it.
    pub async fn put_job(&self, job: NewJob) -> Result<i64, StoreError> {
        self.transact(move |writer| {
            let sql = "INSERT INTO cron_jobs (jobname, schedule, command, database, username, active, since)
                       VALUES (?1, ?2, ?3, ?4, ?5, TRUE, ?6)
                       ON CONFLICT (jobname) DO UPDATE SET
                           schedule = excluded.schedule, command = excluded.command,
                           database = excluded.database, username = excluded.username,
                           active = TRUE,
                           since = CASE WHEN cron_jobs.since + 1 > excluded.since
                               THEN cron_jobs.since + 1 ELSE excluded.since END
                       RETURNING jobid";
            let values = params![
                job.jobname,
                job.schedule,
                job.command,
                job.database,
                job.username,
                job.now
            ];
            let jobid = writer.query_row(sql, values, |row| row.get(0))?;
            forget_waiting(writer, jobid)?;
            Ok(jobid)
        })
        .await
    }

    /// Changes a job; whether there is one of this number. Its times count from `now` on, unless only the command or
    /// the user changed. Runs of a job that is switched off, or has another schedule now, wait no longer.
    pub async fn alter_job(
        &self,
        jobid: i64,
        change: JobChange,
        now: i64,
    ) -> Result<bool, StoreError> {
        self.transact(move |writer| {
            let anew = change.schedule.is_some() || change.active.is_some();
            let sql = "UPDATE cron_jobs SET
                           schedule = coalesce(?2, schedule), command = coalesce(?3, command),
                           username = coalesce(?4, username), active = coalesce(?5, active),
                           since = CASE WHEN NOT ?6 THEN since WHEN since + 1 > ?7 THEN since + 1 ELSE ?7 END
                       WHERE jobid = ?1";
            let values = params![
                jobid,
                change.schedule,
                change.command,
                change.username,
                change.active,
                anew,
                now
            ];
            let found = writer.execute(sql, values)? > 0;
            if anew {
                forget_waiting(writer, jobid)?;
            }
            Ok(found)
        })
        .await
    }

    /// Removes a job and its runs that wait; whether there was one. A run that runs goes on, and what ran stays on record.
    pub async fn remove_job(&self, key: JobKey) -> Result<bool, StoreError> {
        self.transact(move |writer| {
            let found: Option<i64> = match &key {
                JobKey::Id(jobid) => Some(*jobid),
                JobKey::Name(name) => writer
                    .query_row(
                        "SELECT jobid FROM cron_jobs WHERE jobname = ?1",
                        [name],
                        |row| row.get(0),
                    )
                    .optional()?,
            };
            let Some(jobid) = found else { return Ok(false) };
            forget_waiting(writer, jobid)?;
            Ok(writer.execute("DELETE FROM cron_jobs WHERE jobid = ?1", [jobid])? > 0)
        })
        .await
    }

    /// Up to when some process has looked for due times.
    pub async fn cron_seen(&self) -> Result<Option<i64>, StoreError> {
        self.read(|reader| {
            let sql = "SELECT seen FROM cron_state";
            reader.query_row(sql, (), |row| row.get(0)).optional()
        })
        .await
    }

    /// The latest due time of each job that has a row, by number.
    pub async fn last_due(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        self.read(|reader| {
            let sql = "SELECT jobid, max(due) FROM cron_runs GROUP BY jobid";
            let mut select = reader.prepare_cached(sql)?;
            let rows = select.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
        .await
    }

    /// Claims due times and records missed ones, all or nothing; gives how many runs this process got to make. Times of
    /// jobs that are gone, off or changed are left out, as are those that another process claimed. Past
    /// [`CRON_WAITING_MAX`] waiting runs of a job the time is recorded as missed.
    pub async fn claim(&self, claims: Claims) -> Result<usize, StoreError> {
        self.transact(move |writer| {
            if let Some(seen) = claims.seen {
                let sql = "INSERT INTO cron_state (id, seen) VALUES (1, ?1)
                           ON CONFLICT (id) DO UPDATE SET seen = excluded.seen
                           WHERE excluded.seen > cron_state.seen";
                writer.execute(sql, [seen])?;
            }
            let mut claimed = 0;
            for due in &claims.due {
                claimed += usize::from(claim(writer, &claims, due)?);
            }
            for missed in &claims.missed {
                let said = (missed.message.as_str(), claims.now);
                miss(
                    writer,
                    &claims.owner,
                    (missed.jobid, missed.since, missed.first),
                    said,
                )?;
            }
            Ok(claimed)
        })
        .await
    }

    /// Starts runs that `owner` claimed, at most `most` of them and none of a job of which a run runs already, oldest
    /// first. Gives them with the jobs' present commands, and how many go on waiting.
    pub async fn start_runs(
        &self,
        owner: &str,
        most: usize,
        now: i64,
    ) -> Result<(Vec<Started>, usize), StoreError> {
        let owner = owner.to_owned();
        self.transact(move |writer| {
            let sql = "SELECT r.runid, r.jobid, j.jobname, j.command, j.username, r.due
                       FROM cron_runs AS r JOIN cron_jobs AS j ON j.jobid = r.jobid
                       WHERE r.status = 'starting' AND r.owner = ?1 AND NOT EXISTS (
                           SELECT 1 FROM cron_runs AS o
                           WHERE o.jobid = r.jobid AND o.status IN ('starting', 'running')
                             AND (o.status = 'running' OR o.due < r.due))
                       ORDER BY r.due, r.runid LIMIT ?2";
            let limit = i64::try_from(most).unwrap_or(i64::MAX);
            let mut select = writer.prepare_cached(sql)?;
            let found = select.query_map(params![owner, limit], started)?;
            let runs = found.collect::<db::Result<Vec<Started>>>()?;
            let pid = std::process::id();
            for run in &runs {
                let sql = "UPDATE cron_runs SET status = 'running', job_pid = ?2, start_time = ?3,
                               command = ?4, username = ?5
                           WHERE runid = ?1";
                writer.execute(sql, params![run.runid, pid, now, run.command, run.username])?;
            }
            let sql = "SELECT count(*) FROM cron_runs WHERE status = 'starting' AND owner = ?1";
            let waiting: i64 = writer.query_row(sql, [&owner], |row| row.get(0))?;
            Ok((runs, usize::try_from(waiting).unwrap_or(0)))
        })
        .await
    }

    /// Records how a run ended.
    pub async fn end_run(&self, runid: i64, outcome: Outcome, now: i64) -> Result<(), StoreError> {
        self.transact(move |writer| {
            let status = if outcome.succeeded {
                "succeeded"
            } else {
                "failed"
            };
            let notices = (!outcome.notices.is_empty())
                .then(|| serde_json::Value::from(outcome.notices.clone()).to_string());
            let sql = "UPDATE cron_runs SET status = ?2, return_message = ?3, end_time = ?4,
                           \"rows\" = ?5, asked = ?6, undecided = ?7, notices = ?8
                       WHERE runid = ?1 AND status = 'running'";
            let values = params![
                runid,
                status,
                outcome.message,
                now,
                count(outcome.rows),
                count(outcome.asked),
                count(outcome.undecided),
                notices
            ];
            writer.execute(sql, values).map(drop)
        })
        .await
    }

    /// The owners of runs that have not ended.
    pub async fn run_owners(&self) -> Result<Vec<String>, StoreError> {
        self.read(|reader| {
            let sql =
                "SELECT DISTINCT owner FROM cron_runs WHERE status IN ('starting', 'running')";
            let mut select = reader.prepare_cached(sql)?;
            select.query_map((), |row| row.get(0))?.collect()
        })
        .await
    }

    /// Ends the runs of an owner that ends or is gone, those that waited too; gives their number.
    pub async fn abandon_runs(
        &self,
        owner: &str,
        message: &str,
        now: i64,
    ) -> Result<usize, StoreError> {
        let (owner, message) = (owner.to_owned(), message.to_owned());
        self.transact(move |writer| {
            let sql = "UPDATE cron_runs SET status = 'failed', return_message = ?2, end_time = ?3
                       WHERE owner = ?1 AND status IN ('starting', 'running')";
            writer.execute(sql, params![owner, message, now])
        })
        .await
    }

    /// Forgets runs that ended before this time; gives their number.
    pub async fn trim_runs(&self, before: i64) -> Result<usize, StoreError> {
        self.transact(move |writer| {
            let sql = "DELETE FROM cron_runs
                       WHERE end_time < ?1 AND status NOT IN ('starting', 'running')";
            writer.execute(sql, [before])
        })
        .await
    }

    /// The latest runs, of all jobs or of the one of this name or number, latest first.
    pub async fn runs(&self, of: Option<JobKey>, most: usize) -> Result<Vec<RunRow>, StoreError> {
        self.read(move |reader| {
            let (id, name) = match &of {
                Some(JobKey::Id(id)) => (Some(*id), None),
                Some(JobKey::Name(name)) => (None, Some(name)),
                None => (None, None),
            };
            let sql = "SELECT r.runid, r.jobid, j.jobname, r.status, r.return_message, r.due,
                              r.start_time, r.end_time, r.\"rows\"
                       FROM cron_runs AS r LEFT JOIN cron_jobs AS j ON j.jobid = r.jobid
                       WHERE (CAST(?1 AS BIGINT) IS NULL OR r.jobid = ?1)
                         AND (CAST(?2 AS TEXT) IS NULL OR j.jobname = ?2)
                       ORDER BY r.runid DESC LIMIT ?3";
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let mut select = reader.prepare_cached(sql)?;
            select.query_map(params![id, name, most], run)?.collect()
        })
        .await
    }
}

/// Whether this process got it.
fn claim(writer: &Connection, claims: &Claims, due: &Due) -> db::Result<bool> {
    let sql = "SELECT count(*) FROM cron_runs WHERE jobid = ?1 AND status = 'starting'";
    let mut waiting = writer.prepare_cached(sql)?;
    let waiting: i64 = waiting.query_row([due.jobid], |row| row.get(0))?;
    let waiting = usize::try_from(waiting).unwrap_or(0);
    if due.alone && waiting > 0 {
        return Ok(false);
    }
    if waiting >= CRON_WAITING_MAX {
        let message = format!("not run: {waiting} runs of the job wait already, the limit");
        let of = (due.jobid, due.since, due.at);
        miss(writer, &claims.owner, of, (&message, claims.now))?;
        return Ok(false);
    }
    let sql =
        "INSERT INTO cron_runs (jobid, due, owner, database, username, command, status)
               SELECT jobid, CAST(?3 AS BIGINT), CAST(?4 AS TEXT), database, username, command, 'starting'
               FROM cron_jobs WHERE jobid = ?1 AND active AND since = ?2
               ON CONFLICT (jobid, due) DO NOTHING";
    let mut insert = writer.prepare_cached(sql)?;
    let values = params![due.jobid, due.since, due.at, claims.owner];
    Ok(insert.execute(values)? > 0)
}

/// Records times that went by, once.
fn miss(
    writer: &Connection,
    owner: &str,
    (jobid, since, first): (i64, i64, i64),
    (message, now): (&str, i64),
) -> db::Result<()> {
    let sql = "INSERT INTO cron_runs
                   (jobid, due, owner, database, username, command, status, return_message, end_time)
               SELECT jobid, CAST(?3 AS BIGINT), CAST(?4 AS TEXT), database, username, command, 'missed',
                   CAST(?5 AS TEXT), CAST(?6 AS BIGINT)
               FROM cron_jobs WHERE jobid = ?1 AND active AND since = ?2
               ON CONFLICT (jobid, due) DO NOTHING";
    let values = params![jobid, since, first, owner, message, now];
    writer.prepare_cached(sql)?.execute(values).map(drop)
}

fn forget_waiting(writer: &Connection, jobid: i64) -> db::Result<()> {
    let sql = "DELETE FROM cron_runs WHERE jobid = ?1 AND status = 'starting'";
    writer.execute(sql, [jobid]).map(drop)
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn job(row: &Row<'_>) -> db::Result<JobRow> {
    Ok(JobRow {
        jobid: row.get(0)?,
        jobname: row.get(1)?,
        schedule: row.get(2)?,
        command: row.get(3)?,
        database: row.get(4)?,
        username: row.get(5)?,
        active: row.get(6)?,
        since: row.get(7)?,
    })
}

fn started(row: &Row<'_>) -> db::Result<Started> {
    Ok(Started {
        runid: row.get(0)?,
        jobid: row.get(1)?,
        jobname: row.get(2)?,
        command: row.get(3)?,
        username: row.get(4)?,
        due: row.get(5)?,
    })
}

fn run(row: &Row<'_>) -> db::Result<RunRow> {
    Ok(RunRow {
        runid: row.get(0)?,
        jobid: row.get(1)?,
        jobname: row.get(2)?,
        status: row.get(3)?,
        message: row.get(4)?,
        due: row.get(5)?,
        start_time: row.get(6)?,
        end_time: row.get(7)?,
        rows: row.get(8)?,
    })
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;
