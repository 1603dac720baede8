//! Opening the file: checked before it is written to, refused rather than repaired, brought to the known version.
//!
//! An existing file is first read through a connection that cannot write: only a file that is plainly ours is then opened
//! for writing. Files are read through SQLite alone: opening and closing one by other means would drop the locks that this
//! process holds on it.

use super::create;
use super::error::StoreError;
use crate::config::{STORE_BUSY_MS, STORE_CHECK_BYTES_MAX, STORE_WAL_BYTES_MAX};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Marks the file as ours, in its header: "SGsq".
const APPLICATION_ID: i64 = 0x5347_7371;

/// What takes a file from each `user_version` to the next.
const MIGRATIONS: &[&str] = &[
    include_str!("../../sql/store/1.sql"),
    include_str!("../../sql/store/2.sql"),
    include_str!("../../sql/store/3.sql"),
    include_str!("../../sql/store/4.sql"),
    include_str!("../../sql/store/5.sql"),
    include_str!("../../sql/store/6.sql"),
    include_str!("../../sql/store/7.sql"),
    include_str!("../../sql/store/8.sql"),
    include_str!("../../sql/store/9.sql"),
    include_str!("../../sql/store/10.sql"),
];

/// The `user_version` that this program writes.
const KNOWN: i64 = MIGRATIONS.len() as i64;

/// Tables and views that a store of the known version has.
pub(super) const PARTS: [&str; 27] = [
    "judges",
    "verdicts",
    "policy_versions",
    "policies",
    "overrides",
    "queries",
    "calibrations",
    "users",
    "particulars",
    "evaluations",
    "evaluation_rows",
    "backtests",
    "backtest_findings",
    "backtest_flips",
    "relations",
    "cron_jobs",
    "cron_runs",
    "cron_state",
    "backfills",
    "backfill_chunks",
    "backfill_marks",
    "backfill_failures",
    "queue_judges",
    "queue",
    "screen_weights",
    "screens",
    "limit_days",
];

/// Bytes of SQLite's smallest page.
const PAGE_MIN: u64 = 512;

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// Nothing committed is lost to a power cut.
    Yes,
    /// The file is thrown away anyway.
    No,
}

/// Makes the directory and the file where they are missing, and checks the file where it is not. Gives its path.
pub(super) fn prepare(dir: &Path) -> Result<PathBuf, StoreError> {
    let path = dir.join("verdicts.db");
    let unopenable = |e: io::Error| StoreError::Unopenable {
        path: path.clone(),
        why: e.to_string(),
    };
    create::directory(dir).map_err(unopenable)?;
    if let Err(e) = fs::metadata(&path)
        && e.kind() == ErrorKind::NotFound
    {
        create::file(&path)?;
    }
    let file = fs::metadata(&path).map_err(unopenable)?;
    if !file.is_file() {
        return Err(unopenable(io::Error::other("not a file")));
    }
    check(&path, file.len())?;
    Ok(path)
}

/// A whole, closed store in the one file `draft`.
pub(super) fn build(draft: &Path) -> rusqlite::Result<()> {
    let mut connection = connect(draft, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    settle(&connection, Durable::Yes)?;
    migrate(&mut connection)?;
    connection.close().map_err(|(_, e)| e)
}

/// The one connection that writes. `path` must have been prepared.
pub(super) fn writer(path: &Path, durable: Durable) -> Result<Connection, StoreError> {
    let open = || {
        let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        settle(&writer, durable)?;
        migrate(&mut writer)?;
        Ok(writer)
    };
    open().map_err(|e| StoreError::sqlite(path, e))
}

/// A connection that reads. `path` must have been prepared.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        // Not opened read-only: the last reader to leave must be able to tidy the shared memory.
        let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(reader)
    };
    open().map_err(|e| StoreError::sqlite(path, e))
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_millis(STORE_BUSY_MS))?;
    Ok(connection)
}

/// Refuses a file that is not a whole store of a known version. Writes nothing to it.
fn check(path: &Path, bytes: u64) -> Result<(), StoreError> {
    let path_buf = || path.to_path_buf();
    if bytes == 0 {
        return Err(StoreError::Damaged {
            path: path_buf(),
            why: "file is empty".into(),
        });
    }
    if bytes < PAGE_MIN {
        // SQLite would take it for a database without pages.
        return Err(StoreError::Foreign {
            path: path_buf(),
            why: "file is not a database".into(),
        });
    }
    let sqlite = |e| StoreError::sqlite(path, e);
    let probe = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sqlite)?;
    probe
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(sqlite)?;
    let pragma = |name| probe.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(sqlite)?;
    let found = pragma("user_version").map_err(sqlite)?;
    if application != APPLICATION_ID {
        let why = format!("application_id is {application}, not {APPLICATION_ID}");
        return Err(StoreError::Foreign {
            path: path_buf(),
            why,
        });
    }
    if found > KNOWN {
        return Err(StoreError::Newer {
            path: path_buf(),
            found,
            known: KNOWN,
        });
    }
    let damaged = |why| StoreError::Damaged {
        path: path_buf(),
        why,
    };
    if found < 1 {
        return Err(damaged(format!("format {found}")));
    }
    if bytes <= STORE_CHECK_BYTES_MAX {
        let verdict: String = probe
            .query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
            .map_err(sqlite)?;
        if verdict != "ok" {
            return Err(damaged(verdict.replace('\n', " ")));
        }
    }
    if found == KNOWN {
        for part in PARTS {
            // Reads the schema and the first page of each; a missing table is no error of SQLite's file layer.
            let first = probe.query_row(&format!("SELECT 1 FROM {part} LIMIT 1"), (), |_| Ok(()));
            match first {
                Ok(()) | Err(rusqlite::Error::QueryReturnedNoRows) => {}
                Err(e) => match StoreError::sqlite(path, e) {
                    StoreError::Failed { why, .. } => return Err(damaged(why)),
                    other => return Err(other),
                },
            }
        }
    }
    Ok(())
}

/// Settings of the writing connection.
fn settle(writer: &Connection, durable: Durable) -> rusqlite::Result<()> {
    let waited = Instant::now();
    loop {
        // SQLite does not wait for a lock when two connections change the journal mode at once.
        match writer.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)) {
            Ok(mode) => {
                let mode: String = mode;
                if mode != "wal" {
                    return Err(rusqlite::Error::SqliteFailure(
                        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                        Some(format!(
                            "no write-ahead log here: journal mode stays {mode}"
                        )),
                    ));
                }
                break;
            }
            Err(e)
                if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && waited.elapsed() < Duration::from_millis(STORE_BUSY_MS) =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e),
        }
    }
    let synchronous = if durable == Durable::Yes {
        "FULL"
    } else {
        "OFF"
    };
    writer.pragma_update(None, "synchronous", synchronous)?;
    writer.pragma_update(None, "foreign_keys", true)?;
    // Erased rationales must not linger in freed space.
    writer.pragma_update(None, "secure_delete", true)?;
    let wal = i64::try_from(STORE_WAL_BYTES_MAX).expect("bug: a limit that SQLite cannot hold");
    writer.pragma_update_and_check(None, "journal_size_limit", wal, |_| Ok(()))
}

/// Brings a file to the known version, in one transaction, which another process may have been quicker to do.
fn migrate(writer: &mut Connection) -> rusqlite::Result<()> {
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(found).unwrap_or(MIGRATIONS.len());
    if done < MIGRATIONS.len() {
        for step in &MIGRATIONS[done..] {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", KNOWN)?;
    }
    transaction.commit()
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
