//! `cron.schedule` and its kin: what pg_cron offers to SQL.
//!
//! Takes calls, gives changed jobs in the store. Jobs are the store's: names are unique over all users, and an admin may
//! change any. Knows nothing of when jobs run.

use crate::config::CRON_SCHEDULE_BYTES_MAX;
use crate::engine::CATALOG;
use crate::engine::procedures::{Procedure, ProcedureCall};
use crate::error::Error;
use crate::jobs::schedule::Schedule;
use crate::store::{JobChange, JobKey, NewJob, Store, now};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use futures::FutureExt;
use futures::future::BoxFuture;

/// Every procedure of the schema `cron`.
pub fn procedures() -> Vec<Procedure> {
    vec![
        Procedure {
            name: "cron.schedule",
            arguments: &[
                ("job_name", DataType::Utf8),
                ("schedule", DataType::Utf8),
                ("command", DataType::Utf8),
            ],
            places: &[
                &["schedule", "command"],
                &["job_name", "schedule", "command"],
            ],
            returns: DataType::Int64,
            description: "Makes a job, or replaces the one of this name; gives its number.",
            call: |call| schedule(call).boxed(),
        },
        Procedure {
            name: "cron.schedule_in_database",
            arguments: &[
                ("job_name", DataType::Utf8),
                ("schedule", DataType::Utf8),
                ("command", DataType::Utf8),
                ("database", DataType::Utf8),
                ("username", DataType::Utf8),
                ("active", DataType::Boolean),
            ],
            places: &[&[
                "job_name", "schedule", "command", "database", "username", "active",
            ]],
            returns: DataType::Int64,
            description: "Refused: there is one database. cron.schedule makes a job, cron.alter_job gives it a user.",
            call: elsewhere,
        },
        Procedure {
            name: "cron.unschedule",
            arguments: &[("job_name", DataType::Utf8), ("job_id", DataType::Int64)],
            places: &[&["job_name"], &["job_id"]],
            returns: DataType::Boolean,
            description: "Removes the job of this name or number. A run that runs goes on.",
            call: |call| unschedule(call).boxed(),
        },
        Procedure {
            name: "cron.alter_job",
            arguments: &[
                ("job_id", DataType::Int64),
                ("schedule", DataType::Utf8),
                ("command", DataType::Utf8),
                ("database", DataType::Utf8),
                ("username", DataType::Utf8),
                ("active", DataType::Boolean),
            ],
            places: &[&[
                "job_id", "schedule", "command", "database", "username", "active",
            ]],
            returns: DataType::Utf8,
            description: "Changes a job; what is left out or NULL stays. Gives nothing.",
            call: |call| alter(call).boxed(),
        },
    ]
}

async fn schedule(call: ProcedureCall) -> Result<ScalarValue, Error> {
    let schedule = checked(call.required("schedule")?)?;
    let job = NewJob {
        jobname: call.text("job_name").map(str::to_owned),
        schedule,
        command: command(call.required("command")?)?,
        database: CATALOG.to_owned(),
        username: call.user.to_string(),
        now: call.engine.store().clock(),
    };
    let jobid = call.engine.store().put_job(job).await?;
    Ok(ScalarValue::Int64(Some(jobid)))
}

fn elsewhere(_: ProcedureCall) -> BoxFuture<'static, Result<ScalarValue, Error>> {
    let refused = Error::Refused {
        sqlstate: "0A000",
        why: "cron.schedule_in_database is not supported: there is one database".to_owned(),
        hint: Some(
            "cron.schedule makes a job, cron.alter_job(.., username := ..) gives it another user"
                .to_owned(),
        ),
    };
    futures::future::ready(Err(refused)).boxed()
}

async fn unschedule(call: ProcedureCall) -> Result<ScalarValue, Error> {
    let (key, said) = match (call.whole("job_id"), call.text("job_name")) {
        (Some(id), None) => (JobKey::Id(id), id.to_string()),
        (None, Some(name)) => (JobKey::Name(name.to_owned()), format!("'{name}'")),
        _ => {
            return Err(Error::refused(
                "22023",
                "cron.unschedule takes a job's name or its number".to_owned(),
            ));
        }
    };
    match call.engine.store().remove_job(key).await? {
        true => Ok(ScalarValue::Boolean(Some(true))),
        false => Err(no_job(&said)),
    }
}

async fn alter(call: ProcedureCall) -> Result<ScalarValue, Error> {
    let store = call.engine.store();
    let Some(jobid) = call.whole("job_id") else {
        return Err(Error::refused(
            "22004",
            "job_id must be given and not be NULL".to_owned(),
        ));
    };
    if let Some(database) = call.text("database")
        && database != CATALOG
    {
        let why = format!("database \"{database}\" does not exist: there is one, \"{CATALOG}\"");
        return Err(Error::refused("3D000", why));
    }
    if let Some(user) = call.text("username") {
        may_run(store, user).await?;
    }
    let change = JobChange {
        schedule: call.text("schedule").map(checked).transpose()?,
        command: call.text("command").map(command).transpose()?,
        username: call.text("username").map(str::to_owned),
        active: call.flag("active"),
    };
    match store.alter_job(jobid, change, store.clock()).await? {
        true => Ok(ScalarValue::Utf8(Some(String::new()))),
        false => Err(no_job(&jobid.to_string())),
    }
}

/// Whether a user may have jobs run: there are no users, or this one is an admin who may still log in.
///
/// # Errors
/// 42501, with the reason.
pub(super) async fn may_run(store: &Store, name: &str) -> Result<(), Error> {
    let users = store.users().await?;
    if users.is_empty() {
        return Ok(());
    }
    let why = match users.iter().find(|user| user.name == name) {
        None => format!("there is no user \"{name}\""),
        Some(user) if user.role != "admin" => format!("user \"{name}\" is {}", user.role),
        Some(user) if user.valid_until.is_some_and(|until| until <= now()) => {
            format!("user \"{name}\" may log in no more")
        }
        Some(_) => return Ok(()),
    };
    Err(Error::Refused {
        sqlstate: "42501",
        why: format!("{why}, and jobs run with the rights of an admin"),
        hint: Some("cron.alter_job(.., username := ..) gives a job another user".to_owned()),
    })
}

fn checked(schedule: &str) -> Result<String, Error> {
    match Schedule::parse(schedule) {
        Ok(_) => Ok(schedule.to_owned()),
        Err(why) => {
            let most = schedule.floor_char_boundary(CRON_SCHEDULE_BYTES_MAX.min(100));
            Err(Error::Refused {
                sqlstate: "22023",
                why: format!("invalid schedule: {}: {why}", &schedule[..most]),
                hint: Some(
                    "Use cron format (e.g. 5 4 * * *), or interval format '[1-59] seconds'"
                        .to_owned(),
                ),
            })
        }
    }
}

/// A command that can be read: what its statements refer to is looked up when it runs.
fn command(text: &str) -> Result<String, Error> {
    let pieces = crate::engine::pieces(text)?;
    match pieces.is_empty() {
        true => Err(Error::refused("22023", "the command is empty".to_owned())),
        false => Ok(text.to_owned()),
    }
}

fn no_job(said: &str) -> Error {
    Error::refused(
        "42704",
        format!("could not find valid entry for job {said}"),
    )
}
