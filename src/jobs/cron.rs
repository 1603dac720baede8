//! Jobs that run by themselves: which are due, and that each due time is run once.
//!
//! Takes an engine and a clock, gives runs. A look finds what is due since the last one, claims it in the store and
//! starts what may start; several processes on one store share the work, because a due time can be claimed once and a
//! run is started only while no run of its job runs anywhere. As in pg_cron a job that is due while it runs is run again
//! when that is over, once for each time that was due (once in all for `n seconds`). Times that went by while no process
//! was there are recorded and not made up for. Knows nothing of what commands do.

mod functions;
mod run;

pub use functions::procedures;

use super::schedule::{MINUTE, Moment, SECOND, Schedule};
use crate::config::{
    CRON_LATE_MINUTES_MAX, CRON_LOOK_MS, CRON_MISSED_MAX, CRON_RUNNING_MAX, CRON_SHIFT_MINUTES_MAX,
    CronConfig,
};
use crate::engine::{Engine, Session};
use crate::error::Error;
use crate::store::{
    Claims, Due, JobKey, JobRow, Missed, Outcome, Presence, RESTARTED, RunRow, Store,
};
use chrono::DateTime;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Microseconds since 1970-01-01 UTC.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What runs are made in.
#[derive(Clone)]
pub struct Host {
    /// Gives a session of this user's.
    pub session: Arc<dyn Fn(&str) -> Session + Send + Sync>,
    /// Told of every run that has ended.
    pub ended: Arc<dyn Fn() + Send + Sync>,
}

/// Microseconds of a day.
const DAY: i64 = 24 * 60 * MINUTE;
/// Runs are forgotten at minutes that are a multiple of this.
const TRIM_MINUTES: i64 = 60;

/// What a stopped process says of the runs that it gives up.
const STOPPED: &str = "ERROR: 57P01 the server was stopped";

/// Runs the jobs of one store.
pub struct Scheduler {
    engine: Engine,
    host: Host,
    config: CronConfig,
    clock: Clock,
    presence: Presence,
    /// The minute up to which this process has looked; `None` before it began.
    looked: Option<i64>,
    /// The due time up to which jobs that run every so many seconds were claimed, by number.
    claimed: HashMap<i64, i64>,
    /// Schedules that were read.
    schedules: HashMap<String, Option<Schedule>>,
    running: JoinSet<()>,
    /// Claimed runs that have not started.
    waiting: usize,
}

impl Scheduler {
    /// A scheduler by the store's clock.
    ///
    /// # Errors
    /// The file that says that this process is there cannot be made.
    pub fn new(engine: Engine, config: CronConfig) -> Result<Scheduler, Error> {
        let store = engine.store().clone();
        Scheduler::with_clock(engine, config, Arc::new(move || store.clock()))
    }

    /// A scheduler by any clock.
    ///
    /// # Errors
    /// As [`Scheduler::new`].
    pub fn with_clock(
        engine: Engine,
        config: CronConfig,
        clock: Clock,
    ) -> Result<Scheduler, Error> {
        let announced = engine.store().announce();
        let presence = announced.map_err(|error| Error::Refused {
            sqlstate: "58030",
            why: format!("jobs cannot be run: cannot say so beside the store: {error}"),
            hint: None,
        })?;
        let sessions = engine.clone();
        Ok(Scheduler {
            host: Host {
                session: Arc::new(move |user| sessions.session(user)),
                ended: Arc::new(|| {}),
            },
            engine,
            config,
            clock,
            presence,
            looked: None,
            claimed: HashMap::new(),
            schedules: HashMap::new(),
            running: JoinSet::new(),
            waiting: 0,
        })
    }

    /// The same scheduler, whose runs are made elsewhere.
    #[must_use]
    pub fn within(self, host: Host) -> Scheduler {
        Scheduler { host, ..self }
    }

    /// Runs jobs until it is told to stop; what runs then is given up and recorded as failed. A store that fails is
    /// tried again at the next look.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failing = false;
        loop {
            match self.tick().await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!("jobs: {error}");
                    }
                    failing = true;
                }
            }
            let pause = tokio::time::sleep(Duration::from_millis(CRON_LOOK_MS));
            tokio::select! {
                () = stop.cancelled() => break,
                () = pause => {}
                Some(_) = self.running.join_next() => {}
            }
        }
        self.stop().await;
    }

    /// Gives up what runs, as at the end of the process.
    pub async fn stop(mut self) {
        self.running.shutdown().await;
        let (store, id) = (self.engine.store(), self.presence.id());
        if let Err(error) = store.abandon_runs(id, STOPPED, (self.clock)()).await {
            tracing::warn!("jobs: {error}");
        }
    }

    /// Looks once: claims what is due by now, and starts what may start.
    ///
    /// # Errors
    /// The store fails; nothing is lost, the next look finds it again.
    pub async fn tick(&mut self) -> Result<(), Error> {
        let now = (self.clock)();
        let minute = now.div_euclid(MINUTE);
        let looked = match self.looked {
            Some(looked) => looked,
            None => self.begin(now).await?,
        };
        if minute != looked || self.looked.is_none() {
            self.bury(now).await?;
        }
        let jobs = self.active().await?;
        let mut claims = self.claims(now);
        match minute - looked {
            // Back by less than a season's step: wait until the clock has caught up. By more, it was set.
            step if step < -CRON_SHIFT_MINUTES_MAX => self.looked = Some(minute),
            step if step <= 0 => {}
            step => {
                let late = step > CRON_LATE_MINUTES_MAX;
                let from = if late { minute - 1 } else { looked };
                claims.due = self.due(&jobs, from, minute);
                if late {
                    claims.missed = self.missed(&jobs, looked * MINUTE, from * MINUTE);
                }
                claims.seen = Some(minute * MINUTE);
            }
        }
        let steady = claims.seen;
        claims.due.extend(self.due_seconds(&jobs, now));
        if !jobs.is_empty() && (claims.seen.is_some() || !claims.due.is_empty()) {
            let due = claims.due.clone();
            self.waiting += self.engine.store().claim(claims).await?;
            for due in due.iter().filter(|due| due.alone) {
                self.claimed.insert(due.jobid, due.at);
            }
        }
        if steady.is_some() {
            self.looked = Some(minute);
            self.trim(minute, now).await?;
        }
        self.start().await
    }

    /// Waits until nothing runs or waits any more. For tests, and whoever runs jobs by hand.
    ///
    /// # Errors
    /// As [`Scheduler::tick`].
    pub async fn settle(&mut self) -> Result<(), Error> {
        while self.running.join_next().await.is_some() {
            self.start().await?;
        }
        Ok(())
    }

    /// The first look: what was missed, and what runs at every start.
    async fn begin(&mut self, now: i64) -> Result<i64, Error> {
        self.bury(now).await?;
        let minute = now.div_euclid(MINUTE);
        let seen = self.engine.store().cron_seen().await?;
        let jobs = self.active().await?;
        let mut claims = self.claims(now);
        for job in &jobs {
            if self.schedule(job) == Some(&Schedule::Start) {
                claims.due.push(due(job, now, false));
            }
        }
        let store = self.engine.store().clone();
        let present = waiting(move || store.present().unwrap_or_default()).await;
        let others = present.len() > 1;
        let mut looked = minute;
        match seen {
            // Somebody else looks: nothing was missed, and this process goes on from where that one is.
            Some(seen) if others => looked = seen.div_euclid(MINUTE).min(minute),
            // Without a process so far, everything since a job was scheduled was missed.
            seen => {
                let seen = seen.unwrap_or(0);
                let last = self.engine.store().last_due().await?;
                let last: HashMap<i64, i64> = last.into_iter().collect();
                claims.missed = self.missed(&jobs, seen, minute * MINUTE);
                claims
                    .missed
                    .extend(self.missed_seconds(&jobs, seen, &last, now));
                claims.seen = Some(minute * MINUTE);
            }
        }
        if !jobs.is_empty() {
            self.waiting += self.engine.store().claim(claims).await?;
        }
        for job in &jobs {
            if let Some(every) = self.every(job) {
                self.claimed.insert(job.jobid, latest(job, every, now));
            }
        }
        self.looked = Some(looked);
        Ok(looked)
    }

    /// Ends the runs of processes that are gone.
    async fn bury(&self, now: i64) -> Result<(), Error> {
        let store = self.engine.store();
        let mut owners = store.run_owners().await?;
        owners.retain(|owner| owner != self.presence.id());
        if owners.is_empty() {
            return Ok(());
        }
        let gone = {
            let store = store.clone();
            let is_gone = move |owner: &String| !store.is_present(owner);
            waiting(move || owners.into_iter().filter(is_gone).collect::<Vec<String>>()).await
        };
        for owner in gone {
            store.abandon_runs(&owner, RESTARTED, now).await?;
        }
        Ok(())
    }

    async fn active(&mut self) -> Result<Vec<JobRow>, Error> {
        let jobs = self.engine.store().jobs().await?;
        let active: Vec<JobRow> = jobs.into_iter().filter(|job| job.active).collect();
        self.schedules
            .retain(|text, _| active.iter().any(|job| job.schedule == *text));
        self.claimed
            .retain(|id, _| active.iter().any(|job| job.jobid == *id));
        for job in &active {
            if !self.schedules.contains_key(&job.schedule) {
                let schedule = Schedule::parse(&job.schedule);
                if let Err(why) = &schedule {
                    tracing::warn!("job {}: schedule {}: {why}", job.jobid, job.schedule);
                }
                self.schedules.insert(job.schedule.clone(), schedule.ok());
            }
        }
        Ok(active)
    }

    fn claims(&self, now: i64) -> Claims {
        Claims {
            owner: self.presence.id().to_owned(),
            now,
            ..Claims::default()
        }
    }

    fn schedule(&self, job: &JobRow) -> Option<&Schedule> {
        self.schedules.get(&job.schedule).and_then(Option::as_ref)
    }

    /// Microseconds between two times of a job that runs every so many seconds.
    fn every(&self, job: &JobRow) -> Option<i64> {
        match self.schedule(job) {
            Some(Schedule::Seconds(seconds)) => Some(i64::from(*seconds) * SECOND),
            _ => None,
        }
    }

    /// What is due in the minutes after `from` up to `to`, oldest first.
    fn due(&self, jobs: &[JobRow], from: i64, to: i64) -> Vec<Due> {
        let mut found = Vec::new();
        for minute in from + 1..=to {
            let moment = Moment::at(minute, self.config.zone);
            for job in jobs {
                if let Some(Schedule::Fields(fields)) = self.schedule(job)
                    && minute * MINUTE > job.since
                    && fields.fires(&moment)
                {
                    found.push(due(job, minute * MINUTE, false));
                }
            }
        }
        found
    }

    /// The latest due time of each job that runs every so many seconds, if it was not claimed yet.
    fn due_seconds(&self, jobs: &[JobRow], now: i64) -> Vec<Due> {
        let due = |job: &JobRow| {
            let at = latest(job, self.every(job)?, now);
            let known = self.claimed.get(&job.jobid).copied().unwrap_or(job.since);
            (at > known.max(job.since)).then(|| due(job, at, true))
        };
        jobs.iter().filter_map(due).collect()
    }

    /// What went by after `from` up to `to`, in microseconds.
    fn missed(&self, jobs: &[JobRow], from: i64, to: i64) -> Vec<Missed> {
        let zone = self.config.zone;
        let missed = |job: &JobRow| {
            let schedule = self.schedule(job)?;
            if !matches!(schedule, Schedule::Fields(_)) {
                return None;
            }
            let next = |after| schedule.next(after, job.since, zone).filter(|at| *at <= to);
            let first = next(from)?;
            let (mut count, mut at) = (1, first);
            while count < CRON_MISSED_MAX
                && let Some(later) = next(at)
            {
                count += 1;
                at = later;
            }
            Some(missed_row(job, first, count))
        };
        jobs.iter().filter_map(missed).collect()
    }

    fn missed_seconds(
        &self,
        jobs: &[JobRow],
        seen: i64,
        last: &HashMap<i64, i64>,
        now: i64,
    ) -> Vec<Missed> {
        let missed = |job: &JobRow| {
            let every = self.every(job)?;
            // What was seen is known to the minute, what ran exactly.
            let from = last
                .get(&job.jobid)
                .map_or(seen, |due| seen.max(*due))
                .max(job.since);
            let first = self
                .schedule(job)?
                .next(from, job.since, self.config.zone)?;
            let count = (latest(job, every, now) - first).div_euclid(every) + 1;
            let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
            Some(missed_row(job, first, count.min(CRON_MISSED_MAX)))
        };
        jobs.iter().filter_map(missed).collect()
    }

    /// Starts what was claimed, as far as there is room.
    async fn start(&mut self) -> Result<(), Error> {
        // Those that ended make room.
        while self.running.try_join_next().is_some() {}
        let room = CRON_RUNNING_MAX.saturating_sub(self.running.len());
        if self.waiting == 0 || room == 0 {
            return Ok(());
        }
        let (store, id) = (self.engine.store(), self.presence.id());
        let (started, waiting) = store.start_runs(id, room, (self.clock)()).await?;
        self.waiting = waiting;
        for run in started {
            let (engine, host) = (self.engine.clone(), self.host.clone());
            let clock = Arc::clone(&self.clock);
            self.running.spawn(async move {
                let session = (host.session)(&run.username);
                let outcome = run::command(engine.store(), &session, &run.command).await;
                record(&engine, run.runid, outcome, clock()).await;
                (host.ended)();
            });
        }
        Ok(())
    }

    async fn trim(&self, minute: i64, now: i64) -> Result<(), Error> {
        if let Some(days) = self.config.history_days
            && minute % TRIM_MINUTES == 0
        {
            let before = now - i64::from(days) * DAY;
            self.engine.store().trim_runs(before).await?;
        }
        Ok(())
    }
}

/// What `ask` finds out, where waiting for it is allowed.
async fn waiting<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
    let asked = tokio::task::spawn_blocking(ask).await;
    asked.expect("bug: looking for other servers panicked")
}

async fn record(engine: &Engine, runid: i64, outcome: Outcome, now: i64) {
    if let Err(error) = engine.store().end_run(runid, outcome, now).await {
        tracing::warn!("run {runid} of a job ended and is not recorded: {error}");
    }
}

fn due(job: &JobRow, at: i64, alone: bool) -> Due {
    Due {
        jobid: job.jobid,
        since: job.since,
        at,
        alone,
    }
}

/// The last time up to `now` of a job that runs every so often; `since` is none of them.
fn latest(job: &JobRow, every: i64, now: i64) -> i64 {
    job.since + (now - job.since).max(0).div_euclid(every) * every
}

fn missed_row(job: &JobRow, first: i64, count: u64) -> Missed {
    let at = DateTime::from_timestamp_micros(first).unwrap_or_default();
    let more = if count < CRON_MISSED_MAX {
        ""
    } else {
        " or more"
    };
    let (runs, were) = if count == 1 {
        ("run", "was")
    } else {
        ("runs", "were")
    };
    Missed {
        jobid: job.jobid,
        since: job.since,
        first,
        message: format!(
            "{count}{more} {runs} {were} missed while no server ran, the first at {} GMT",
            at.format("%Y-%m-%d %H:%M:%S")
        ),
    }
}

/// A job, for whoever lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The job.
    pub job: JobRow,
    /// When it is due next, in microseconds; `None` where it is off or never due.
    pub next: Option<i64>,
}

/// Every job, by number, with its next time after `now`.
///
/// # Errors
/// The store cannot be read.
pub async fn list(store: &Store, config: &CronConfig, now: i64) -> Result<Vec<Listed>, Error> {
    let jobs = store.jobs().await?.into_iter().map(|job| {
        let schedule = Schedule::parse(&job.schedule).ok().filter(|_| job.active);
        let next = schedule.and_then(|schedule| schedule.next(now, job.since, config.zone));
        Listed { job, next }
    });
    Ok(jobs.collect())
}

/// The latest runs, of all jobs or of the one of this name or number, latest first.
///
/// # Errors
/// The store cannot be read.
pub async fn runs(store: &Store, job: Option<&str>, most: usize) -> Result<Vec<RunRow>, Error> {
    let of = job.map(|said| match said.parse() {
        Ok(id) => JobKey::Id(id),
        Err(_) => JobKey::Name(said.to_owned()),
    });
    Ok(store.runs(of, most).await?)
}
