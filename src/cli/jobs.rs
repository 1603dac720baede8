//! `safeguard job ..`, and what `safeguard sql` says of backfills that it leaves behind.
//!
//! Takes checked commands, runs the workers until nothing is left or Ctrl-C is pressed, says on stderr how far they are.
//! Knows the store's backfills and the runner, and nothing of how either works.

use super::args::{DataDir, Job, JobRun};
use super::interrupt::{self, Interrupts};
use super::{cannot_write, report, say};
use crate::config::{CRON_RUNS_LISTED, Config, PROGRESS_NOTICE_MS};
use crate::engine::Engine;
use crate::error::Error;
use crate::jobs::{self, cron, runner::Runner};
use crate::store::{BackfillRow, JobRow, RunRow, State, StoreError};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks at how far the workers are.
const LOOK: Duration = Duration::from_millis(200);

/// Does what was typed.
pub(super) async fn run(command: Job) -> ExitCode {
    let done = match command {
        Job::Run(args) => work_off(args).await,
        Job::List { data } => list(&data).await,
    };
    done.unwrap_or_else(|error| {
        report(&error);
        ExitCode::FAILURE
    })
}

async fn work_off(args: JobRun) -> Result<ExitCode, Error> {
    let engine = jobs::open(Config {
        data_dir: Some(args.data.dir),
        store: args.data.shared.url,
        model: args.model,
        models_dir: args.models.get(),
        allow_swap: args.swap.allow_swap,
        content_roots: None,
        content_urls: None,
        policies: None,
        workers: Vec::new(),
    })
    .await?;
    if let Some(line) = engine.demonstration() {
        say(&line);
    }
    let before = engine.store().backfills().await?;
    for other in foreign(&engine, &before) {
        let (id, model) = (other.id, &other.model);
        say(&format!(
            "backfill {id} waits for the model that it was asked for, {model}: this is another"
        ));
    }
    let interrupts = Interrupts::listen();
    let runner = Runner::start(&engine);
    let finished = tokio::select! {
        () = interrupts.pressed() => None,
        finished = until_done(&engine) => Some(finished?),
    };
    runner.stop().await;
    let Some(()) = finished else {
        say("interrupted: safeguard job run or safeguard serve goes on with what is left");
        return Ok(ExitCode::from(interrupt::EXIT));
    };
    let after = engine.store().backfills().await?;
    let mut code = ExitCode::SUCCESS;
    for row in after.iter().filter(|row| was_pending(&before, row.id)) {
        say(&said(row));
        if row.state == State::Failed || row.failed > 0 {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Whether a backfill had something to do when this began; one that came later had.
fn was_pending(before: &[BackfillRow], id: i64) -> bool {
    let known = before.iter().find(|row| row.id == id);
    known.is_none_or(|row| row.state.is_pending())
}

/// Pending backfills of another model.
fn foreign<'a>(
    engine: &'a Engine,
    rows: &'a [BackfillRow],
) -> impl Iterator<Item = &'a BackfillRow> {
    rows.iter()
        .filter(|row| row.state.is_pending() && *row.model_digest != *engine.model().digest)
}

/// Waits until nothing of this engine's model is pending, and says now and then how far it is.
async fn until_done(engine: &Engine) -> Result<(), StoreError> {
    let store = engine.store();
    let digest = &engine.model().digest;
    let mut next = Instant::now() + Duration::from_millis(PROGRESS_NOTICE_MS);
    loop {
        let rows = store.backfills().await?;
        let pending = rows
            .iter()
            .filter(|row| row.state.is_pending() && row.model_digest == **digest);
        let pending: Vec<&BackfillRow> = pending.collect();
        let queued = store.queue_depth(digest).await?;
        if pending.is_empty() && queued == 0 {
            return Ok(());
        }
        if Instant::now() >= next {
            pending.iter().for_each(|row| say(&said(row)));
            if queued > 0 {
                say(&format!("queue: {queued} texts"));
            }
            next += Duration::from_millis(PROGRESS_NOTICE_MS);
        }
        sleep(LOOK).await;
    }
}

/// `backfill 3 (hate@4): running, 1200 of 50000 rows (2%), 41.2 rows/s, 3 failed: why`
fn said(row: &BackfillRow) -> String {
    let BackfillRow {
        id,
        policy,
        rows,
        judged,
        ..
    } = row;
    let share = 100.0 * row.progress();
    let mut line = format!(
        "backfill {id} ({policy}): {}, {judged} of {rows} rows ({share:.0}%)",
        row.state.as_str()
    );
    if let (State::Running, Some(rate)) = (row.state, row.rate) {
        line += &format!(", {rate:.1} rows/s");
    }
    if row.failed > 0 {
        line += &format!(", {} failed", row.failed);
    }
    if let Some(reason) = &row.reason {
        line += &format!(": {reason}");
    }
    line
}

async fn list(data: &DataDir) -> Result<ExitCode, Error> {
    if !data.is_there() {
        let why = format!("there is no store in {}", data.dir.display());
        return Err(Error::Usage(why));
    }
    let store = data.open()?;
    let rows = store.backfills().await?;
    let mut lines: String = rows.iter().map(|row| said(row) + "\n").collect();
    let runs = cron::runs(&store, None, CRON_RUNS_LISTED).await?;
    for job in store.jobs().await? {
        let last = runs.iter().find(|run| run.jobid == job.jobid);
        lines += &scheduled(&job, last);
    }
    match io::stdout().lock().write_all(lines.as_bytes()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(cannot_write(&error)),
    }
}

/// A job with its latest run, where that is among the latest of all.
fn scheduled(job: &JobRow, last: Option<&RunRow>) -> String {
    let name = job.jobname.as_deref();
    let name = name.map_or_else(String::new, |name| format!(" ({name})"));
    let off = if job.active { "" } else { ", off" };
    let last = last.map_or_else(String::new, |run| {
        let message = run.message.as_deref().unwrap_or_default();
        format!("; last run {}: {message}", run.status)
    });
    format!("job {}{name}: {}{off}{last}\n", job.jobid, job.schedule)
}

/// Workers beside statements of `safeguard sql`, which judge what those leave for the background.
pub(super) struct Beside {
    engine: Engine,
    runner: Runner,
    user: String,
    /// Backfills that were there before.
    before: i64,
    ephemeral: bool,
}

impl Beside {
    /// Starts them.
    ///
    /// # Errors
    /// The store fails.
    pub async fn start(engine: &Engine, user: &str, ephemeral: bool) -> Result<Beside, Error> {
        let rows = engine.store().backfills().await?;
        Ok(Beside {
            engine: engine.clone(),
            runner: Runner::start(engine),
            user: user.to_owned(),
            before: rows.last().map_or(0, |row| row.id),
            ephemeral,
        })
    }

    /// Stops them; first the sources of backfills that were asked for here are read to their end, because they may be
    /// gone with this process. Says what is not finished.
    pub async fn stop(self, interrupts: &Interrupts) {
        let spooled = async {
            while self
                .mine()
                .await?
                .iter()
                .any(|row| row.state == State::Spooling)
            {
                sleep(LOOK).await;
            }
            Ok::<_, StoreError>(())
        };
        let spooled = tokio::select! {
            () = interrupts.pressed() => Ok(()),
            spooled = spooled => spooled,
        };
        let mine = match spooled {
            Ok(()) => self.mine().await,
            Err(error) => Err(error),
        };
        match mine {
            Ok(mine) => mine.iter().for_each(|row| self.told(row)),
            Err(error) => report(&Error::from(error)),
        }
        self.runner.stop().await;
    }

    /// Unfinished backfills that were asked for here.
    async fn mine(&self) -> Result<Vec<BackfillRow>, StoreError> {
        let mut rows = self.engine.store().backfills().await?;
        rows.retain(|row| {
            row.id > self.before && row.requested_by == self.user && row.state.is_pending()
        });
        Ok(rows)
    }

    fn told(&self, row: &BackfillRow) {
        let (id, share) = (row.id, (100.0 * row.progress()).floor());
        let then = match self.ephemeral {
            true => "it is gone with --ephemeral",
            false => "safeguard job run or safeguard serve goes on with it",
        };
        say(&format!(
            "NOTICE:  backfill {id} is not finished ({share}%): {then}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backfill_is_said_with_what_is_known_of_it() {
        let row = BackfillRow {
            id: 3,
            policy: "hate@4".into(),
            model: "nano".into(),
            model_digest: "f32:0".into(),
            state: State::Running,
            reason: None,
            rows: 50_000,
            judged: 1_200,
            failed: 0,
            rate: Some(41.234),
            requested_by: "ann".into(),
        };
        assert_eq!(
            said(&row),
            "backfill 3 (hate@4): running, 1200 of 50000 rows (2%), 41.2 rows/s"
        );
        let row = BackfillRow {
            state: State::Failed,
            reason: Some("source: table 'x' not found".into()),
            failed: 2,
            ..row
        };
        assert_eq!(
            said(&row),
            "backfill 3 (hate@4): failed, 1200 of 50000 rows (2%), 2 failed: source: table 'x' not found"
        );
    }
}
