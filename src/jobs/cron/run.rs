//! One run of a job: its statements in order, in a session of its user's.
//!
//! Takes a user's session and a command, gives what the statements came to: rows, questions, notices, the last command tag or the
//! error that ended it. Texts are judged in the backfill lane unless the command says otherwise. Knows no schedules.

use super::functions::may_run;
use crate::config::CRON_NOTICES_MAX;
use crate::engine::{End, Session, Statement};
use crate::error::Error;
use crate::store::{Outcome, Store};
use datafusion::arrow::array::{Array, RecordBatch, UInt64Array};
use futures::TryStreamExt;

/// Runs a command to its end or its first error.
pub(super) async fn command(store: &Store, session: &Session, sql: &str) -> Outcome {
    let mut outcome = Outcome {
        succeeded: true,
        message: String::new(),
        rows: 0,
        asked: 0,
        undecided: 0,
        notices: Vec::new(),
    };
    if let Err(error) = statements(store, session, sql, &mut outcome).await {
        outcome.succeeded = false;
        outcome.message = said(&error);
    }
    outcome
}

/// As it is kept: `ERROR: 42P01 table 'x' not found`.
fn said(error: &Error) -> String {
    format!("ERROR: {} {error}", error.sqlstate())
}

async fn statements(
    store: &Store,
    session: &Session,
    sql: &str,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    may_run(store, session.user()).await?;
    session.set("safeguard.lane", "backfill")?;
    for statement in session.split(sql) {
        one(session, &statement?, outcome).await?;
    }
    Ok(())
}

async fn one(session: &Session, statement: &Statement, outcome: &mut Outcome) -> Result<(), Error> {
    let running = session.run(statement).await?;
    let tag = running.tag;
    let (mut rows, ended) = running.split();
    let mut count = 0;
    let read = async {
        while let Some(batch) = rows.try_next().await? {
            count += counted(tag, &batch);
        }
        Ok::<(), Error>(())
    };
    let read = read.await;
    drop(rows);
    let summary = ended.progress();
    outcome.rows += count;
    outcome.asked += summary.asked;
    outcome.undecided += summary.undecided_total();
    let message = read.as_ref().err().map(ToString::to_string);
    let end = match (&read, &message) {
        (Err(error), Some(message)) => End::Failed(error.sqlstate(), message),
        _ => End::Done,
    };
    let notices = session.finish(ended, end).await;
    let room = CRON_NOTICES_MAX.saturating_sub(outcome.notices.len());
    outcome.notices.extend(notices.into_iter().take(room));
    outcome.message = match tag {
        "SELECT" | "INSERT 0" | "UPDATE" | "DELETE" | "COPY" => format!("{tag} {count}"),
        other => other.to_owned(),
    };
    read
}

/// Rows given, or changed where that is what a statement gives.
fn counted(tag: &str, batch: &RecordBatch) -> u64 {
    let changes = matches!(tag, "INSERT 0" | "UPDATE" | "DELETE" | "COPY");
    let counts = batch.columns().first().filter(|_| changes);
    match counts.and_then(|column| column.as_any().downcast_ref::<UInt64Array>()) {
        Some(counts) => counts.iter().flatten().sum(),
        None => batch.num_rows() as u64,
    }
}
