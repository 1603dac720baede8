//! The scheduler on a clock of the test's own: when jobs run, that they never overlap, what is recorded of them, and what
//! becomes of them when processes come and go.

mod ready;

use crate::auto::Script;
use crate::slt::rows;
use crate::stores;
use chrono_tz::Tz;
use futures::TryStreamExt;
use safeguard::backend::{Answer, Backend, BackendError, ModelIdentity, Prompt, Reply};
use safeguard::config::CronConfig;
use safeguard::engine::{End, Engine, Session};
use safeguard::error::Error;
use safeguard::jobs::cron::{Clock, Scheduler, list, runs};
use safeguard::jobs::schedule::{MINUTE, SECOND, Schedule};
use safeguard::store::{NewJob, Store, UserRow};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};
use tokio::sync::Semaphore;

/// 2026-03-28T00:00Z, a Saturday; clocks in Berlin are put forward a day later.
const START: i64 = 1_774_656_000 * SECOND;

/// A policy of one word, for the scripted model.
const POLICY: &str =
    "SELECT * FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\nbad if it sells')";

/// A process with its engine, on a clock that moves when it is told.
struct Process {
    engine: Engine,
    scheduler: Scheduler,
    time: Arc<AtomicI64>,
}

impl Process {
    async fn new(store: Store, backend: Arc<dyn Backend>, at: i64, zone: Tz) -> Process {
        let engine = Engine::with_backend(store, backend).await.unwrap();
        Process::of(safeguard::jobs::complete(engine), at, zone)
    }

    fn of(engine: Engine, at: i64, zone: Tz) -> Process {
        let time = Arc::new(AtomicI64::new(at));
        let read = Arc::clone(&time);
        let clock: Clock = Arc::new(move || read.load(SeqCst));
        let config = CronConfig {
            zone,
            ..CronConfig::default()
        };
        let scheduler = Scheduler::with_clock(engine.clone(), config, clock).unwrap();
        Process {
            engine,
            scheduler,
            time,
        }
    }

    async fn at(&mut self, time: i64) {
        self.time.store(time, SeqCst);
        self.scheduler.tick().await.unwrap();
    }

    /// A look at every second or minute from here on, everything done before the next.
    async fn through(&mut self, to: i64, step: i64) {
        let mut now = self.time.load(SeqCst);
        while now < to {
            now += step;
            self.at(now).await;
            self.scheduler.settle().await.unwrap();
        }
    }

    async fn job(&self, name: &str, schedule: &str, command: &str) -> i64 {
        let job = NewJob {
            jobname: Some(name.to_owned()),
            schedule: schedule.to_owned(),
            command: command.to_owned(),
            database: "safeguard".to_owned(),
            username: "ann".to_owned(),
            now: self.time.load(SeqCst),
        };
        self.engine.store().put_job(job).await.unwrap()
    }

    async fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        query(&self.engine.session("ann"), sql).await.unwrap()
    }

    /// Waits until the latest run of this job has succeeded.
    async fn done(&self, job: &str) {
        let store = self.engine.store();
        soon(async {
            while runs(store, Some(job), 1).await.unwrap()[0].status != "succeeded" {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Cells joined by `|`, rows by `;`.
    async fn said(&self, sql: &str) -> String {
        let rows = self.sql(sql).await;
        let rows = rows.iter().map(|row| row.join("|"));
        rows.collect::<Vec<_>>().join(";")
    }
}

async fn query(session: &Session, script: &str) -> Result<Vec<Vec<String>>, Error> {
    let mut last = Vec::new();
    for statement in session.split(script) {
        let (stream, ended) = session.run(&statement?).await?.split();
        let batches: Vec<_> = stream.try_collect().await?;
        session.finish(ended, End::Done).await;
        last = batches.iter().flat_map(rows).collect();
    }
    Ok(last)
}

/// Waits for what another task does, and not for ever.
async fn soon(work: impl Future<Output = ()>) {
    let most = std::time::Duration::from_secs(60);
    tokio::time::timeout(most, work).await.unwrap();
}

fn ephemeral() -> Store {
    stores::new()
}

/// A model that answers when it is let, and knows how many were asked at once.
#[derive(Debug)]
struct Gate {
    identity: ModelIdentity,
    open: Semaphore,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Gate {
    fn new() -> Arc<Gate> {
        Arc::new(Gate {
            identity: Script::new("gate").model().clone(),
            open: Semaphore::new(0),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    /// Waits until somebody asks.
    async fn asked(&self) {
        soon(async {
            while self.now.load(SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[async_trait::async_trait]
impl Backend for Gate {
    fn model(&self) -> &ModelIdentity {
        &self.identity
    }

    fn tokens(&self, _: &Prompt) -> u64 {
        1
    }

    async fn ask(&self, _: Prompt) -> Result<Reply, BackendError> {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        self.open.acquire().await.unwrap().forget();
        self.now.fetch_sub(1, SeqCst);
        Ok(Reply {
            answer: Answer::Label {
                index: 0,
                probabilities: vec![0.9, 0.1],
                analysis: None,
                reasoned: true,
            },
            tokens_in: 1,
            tokens_out: 0,
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_says_what_it_did() {
    let mut process = Process::new(ephemeral(), Script::new("one"), START, Tz::GMT).await;
    process.sql(POLICY).await;
    process.at(START).await;
    process
        .job(
            "audit",
            "*/2 * * * *",
            "SHOW safeguard.lane; SELECT safeguard_classify('p', t) FROM (VALUES ('bad'), ('good'), ('endless')) AS v(t);",
        )
        .await;
    process
        .job(
            "broken",
            "@hourly",
            "CREATE TABLE made AS SELECT 1 AS a; INSERT INTO made VALUES (2), (3); SELECT * FROM missing; SELECT 1",
        )
        .await;
    process
        .job(
            "counts",
            "59 0 * * *",
            "CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2)",
        )
        .await;
    process
        .job(
            "lane",
            "58 0 * * *",
            "SELECT * FROM safeguard.policies WHERE name = 'p'",
        )
        .await;
    process.through(START + 60 * MINUTE, MINUTE).await;
    let details = "SELECT j.jobname, status, return_message, \"rows\", asked, undecided, count(*)
        FROM cron.job_run_details AS d JOIN cron.job AS j ON j.jobid = d.jobid
        GROUP BY ALL ORDER BY j.jobname, asked DESC";
    assert_eq!(
        process.said(details).await,
        "audit|succeeded|SELECT 3|4|2|1|1;audit|succeeded|SELECT 3|4|0|1|29;\
         broken|failed|ERROR: 42P01 table 'safeguard.public.missing' not found|2|0|0|1;\
         counts|succeeded|INSERT 0 2|2|0|0|1;lane|succeeded|SELECT 1|1|0|0|1"
    );
    assert_eq!(process.said("SELECT count(*) FROM made").await, "3");
    // What the statements said is kept; times are the clock's; the process is this one.
    let first = process
        .said("SELECT runid, job_pid, start_time, end_time, due_time, notices[2] FROM cron.job_run_details ORDER BY runid LIMIT 1")
        .await;
    let pid = std::process::id();
    let at = "2026-03-28T00:02:00Z";
    let want = format!(
        "1|{pid}|{at}|{at}|{at}|safeguard: 3 rows, 0 recalled, 2 asked, 1 undecided (1 too_long),"
    );
    assert!(first.starts_with(&want), "{first}\n{want}");
    let listed = list(
        process.engine.store(),
        &CronConfig::default(),
        START + 60 * MINUTE,
    )
    .await
    .unwrap();
    let next: Vec<i64> = listed
        .iter()
        .map(|job| (job.next.unwrap() - START) / MINUTE)
        .collect();
    assert_eq!(next, [62, 120, 1_499, 1_498]);
    let of_job = runs(process.engine.store(), Some("broken"), 10)
        .await
        .unwrap();
    assert_eq!((of_job.len(), of_job[0].status.as_str()), (1, "failed"));
    let of_number = runs(process.engine.store(), Some("1"), 3).await.unwrap();
    assert_eq!(of_number.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_never_overlaps_itself_and_waits_as_in_pg_cron() {
    let gate = Gate::new();
    let mut process = Process::new(ephemeral(), gate.clone(), START, Tz::GMT).await;
    process.sql(POLICY).await;
    // A new text each time, so that each run asks once.
    let ask = |name: &str| format!("SELECT safeguard_classify('p', '{name} ' || random())");
    process.at(START).await;
    process.job("minutes", "* * * * *", &ask("m")).await;
    process.at(START + MINUTE).await;
    gate.asked().await;
    for minute in 2..=4 {
        process.at(START + minute * MINUTE).await;
    }
    let states =
        "SELECT status, count(*) FROM cron.job_run_details GROUP BY status ORDER BY status";
    assert_eq!(process.said(states).await, "running|1;starting|3");
    gate.open.add_permits(100);
    process.scheduler.settle().await.unwrap();
    assert_eq!(process.said(states).await, "succeeded|4");
    assert_eq!(gate.most.load(SeqCst), 1);
    // Every so many seconds: one waits, however often it was due.
    process.sql("SELECT cron.unschedule('minutes')").await;
    gate.open.forget_permits(usize::MAX >> 4);
    process.job("seconds", "5 seconds", &ask("s")).await;
    let from = process.time.load(SeqCst);
    for second in 1..=42 {
        process.at(from + second * SECOND).await;
        if second == 5 {
            gate.asked().await;
        }
    }
    let of_seconds =
        "SELECT status, due_time FROM cron.job_run_details WHERE jobid = 2 ORDER BY due_time";
    let want = "running|2026-03-28T00:04:05Z;starting|2026-03-28T00:04:10Z";
    assert_eq!(process.said(of_seconds).await, want);
    gate.open.add_permits(100);
    process.scheduler.settle().await.unwrap();
    // Then it is back on its beat.
    process.at(from + 44 * SECOND).await;
    process.at(from + 45 * SECOND).await;
    process.scheduler.settle().await.unwrap();
    let due = process.said(of_seconds).await;
    assert!(
        due.ends_with("succeeded|2026-03-28T00:04:10Z;succeeded|2026-03-28T00:04:45Z"),
        "{due}"
    );
    assert_eq!(gate.most.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_is_recorded_once_and_what_was_cut_off_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let open = || stores::open(dir.path());
    let mut process = Process::new(open(), gate.clone(), START, Tz::GMT).await;
    process.sql(POLICY).await;
    process.job("hourly", "30 * * * *", "SELECT 1").await;
    process.job("yearly", "0 0 1 1 *", "SELECT 1").await;
    process.job("start", "@reboot", "SELECT 'started'").await;
    process
        .job(
            "slow",
            "1 0 * * *",
            "SELECT safeguard_classify('p', 'slow')",
        )
        .await;
    process.at(START).await;
    process.at(START + MINUTE).await;
    process.at(START + 2 * MINUTE).await;
    gate.asked().await;
    process.job("quick", "20 seconds", "SELECT 1").await;
    process.at(START + 2 * MINUTE + 20 * SECOND).await;
    process.done("start").await;
    process.done("quick").await;
    let states = "SELECT j.jobname, d.status, d.return_message, d.due_time FROM cron.job_run_details AS d
                  JOIN cron.job AS j ON j.jobid = d.jobid WHERE j.jobname <> 'start' ORDER BY runid";
    // Killed: nobody says how the run of `slow` ended.
    drop(process);
    let mut process = Process::new(
        open(),
        gate.clone(),
        START + 3 * 60 * MINUTE + 5 * SECOND,
        Tz::GMT,
    )
    .await;
    process.at(START + 3 * 60 * MINUTE + 5 * SECOND).await;
    process.scheduler.settle().await.unwrap();
    let slow = "slow|failed|server restarted|2026-03-28T00:01:00Z";
    let hourly = "hourly|missed|3 runs were missed while no server ran, the first at 2026-03-28 00:30:00 GMT|2026-03-28T00:30:00Z";
    let quick = "quick|missed|533 runs were missed while no server ran, the first at 2026-03-28 00:02:40 GMT|2026-03-28T00:02:40Z";
    let said = process.said(states).await;
    assert!(
        said.starts_with(slow) && said.contains(hourly) && said.contains(quick),
        "{said}"
    );
    assert_eq!(said.matches("missed|").count(), 2, "{said}");
    let started = "SELECT count(*), min(return_message) FROM cron.job_run_details AS d
                   JOIN cron.job AS j ON j.jobid = d.jobid WHERE j.jobname = 'start' AND d.status = 'succeeded'";
    assert_eq!(process.said(started).await, "2|SELECT 1");
    // From here on as ever.
    process
        .through(START + 3 * 60 * MINUTE + 31 * MINUTE, 30 * SECOND)
        .await;
    assert!(
        process
            .said(states)
            .await
            .contains("hourly|succeeded|SELECT 1|2026-03-28T03:30:00Z")
    );
    // A process that was asleep for longer than a few minutes runs what is due now and records the rest.
    process.at(START + 6 * 60 * MINUTE + 30 * MINUTE).await;
    process.scheduler.settle().await.unwrap();
    let said = process.said(states).await;
    assert!(said.contains("hourly|missed|2 runs were missed while no server ran, the first at 2026-03-28 04:30:00 GMT"), "{said}");
    assert!(
        said.contains("hourly|succeeded|SELECT 1|2026-03-28T06:30:00Z"),
        "{said}"
    );
    // Told to stop, it says so of what it gives up.
    process
        .job(
            "slow",
            "31 6 * * *",
            "SELECT safeguard_classify('p', 'slower')",
        )
        .await;
    process.at(START + 6 * 60 * MINUTE + 31 * MINUTE).await;
    gate.asked().await;
    let store = process.engine.store().clone();
    process.scheduler.stop().await;
    let last = &runs(&store, Some("slow"), 1).await.unwrap()[0];
    assert_eq!(
        last.message.as_deref(),
        Some("ERROR: 57P01 the server was stopped")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_store_run_each_due_time_once() {
    let dir = tempfile::tempdir().unwrap();
    let open = || stores::open(dir.path());
    let zone = Tz::Europe__Berlin;
    // From an hour before the clocks are put forward, for an hour and a half.
    let (from, minutes) = (START + 24 * 60 * MINUTE, 90);
    let mut one = Process::new(open(), Script::new("one"), from, zone).await;
    let schedules = [
        "* * * * *",
        "*/7 * * * *",
        "30 2 * * *",
        "0,15,30,45 2-3 * * *",
        "10-20/3 3,4 29 * sun",
        "0 * * * *",
        "15 seconds",
        "59 seconds",
    ];
    for (nth, schedule) in schedules.iter().enumerate() {
        one.job(&format!("job {nth}"), schedule, "SELECT 1").await;
    }
    let mut other = Process::new(open(), Script::new("one"), from, zone).await;
    one.at(from).await;
    other.at(from).await;
    // Each looks when it does: now the one is first, now the other, now both at once.
    for step in 1..=minutes * 4 {
        let now = from + step * 15 * SECOND;
        match step % 3 {
            0 => {
                one.at(now).await;
                other.at(now).await;
            }
            1 => {
                other.at(now).await;
                one.at(now).await;
            }
            _ => {
                tokio::join!(one.at(now), other.at(now));
            }
        }
        one.scheduler.settle().await.unwrap();
        other.scheduler.settle().await.unwrap();
    }
    let mut ran: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
    for run in one
        .engine
        .store()
        .runs(None, usize::MAX >> 1)
        .await
        .unwrap()
    {
        assert_eq!(run.status, "succeeded", "{run:?}");
        ran.entry(run.jobid as usize - 1).or_default().push(run.due);
    }
    for (nth, text) in schedules.iter().enumerate() {
        let schedule = Schedule::parse(text).unwrap();
        let (mut want, mut at) = (Vec::new(), from);
        while let Some(next) = schedule
            .next(at, from, zone)
            .filter(|next| *next <= from + minutes * MINUTE)
        {
            want.push(next);
            at = next;
        }
        let mut got = ran.remove(&nth).unwrap_or_default();
        got.sort_unstable();
        assert_eq!(got, want, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_with_the_rights_that_its_user_has_now() {
    let mut process = Process::new(ephemeral(), Script::new("one"), START, Tz::GMT).await;
    process.at(START).await;
    process.job("a", "* * * * *", "SELECT 1").await;
    let user = |name: &str, role: &str| UserRow {
        name: name.to_owned(),
        role: role.to_owned(),
        verifier: "SCRAM-SHA-256$".to_owned(),
        created_at: 0,
        valid_until: None,
    };
    let store = process.engine.store().clone();
    let why = "SELECT return_message FROM cron.job_run_details ORDER BY runid DESC LIMIT 1";
    process.through(START + MINUTE, MINUTE).await;
    assert_eq!(process.said(why).await, "SELECT 1");
    store.put_user(user("bob", "admin")).await.unwrap();
    process.through(START + 2 * MINUTE, MINUTE).await;
    assert_eq!(
        process.said(why).await,
        "ERROR: 42501 there is no user \"ann\", and jobs run with the rights of an admin"
    );
    store.put_user(user("ann", "analyst")).await.unwrap();
    process.through(START + 3 * MINUTE, MINUTE).await;
    assert_eq!(
        process.said(why).await,
        "ERROR: 42501 user \"ann\" is analyst, and jobs run with the rights of an admin"
    );
    let refused = query(
        &process.engine.session("bob"),
        "SELECT cron.alter_job(1, username := 'ann')",
    )
    .await
    .unwrap_err();
    assert_eq!(refused.sqlstate(), "42501");
    process
        .sql("SELECT cron.alter_job(1, username := 'bob')")
        .await;
    process.through(START + 4 * MINUTE, MINUTE).await;
    assert_eq!(process.said(why).await, "SELECT 1");
}
