//! What can go wrong with the store, each message naming the place and what became of it.
//!
//! A store's place is its file, or the URL of its database without a password. Takes a database's errors and a place, gives [`StoreError`]. Messages that refuse a file end in "left as it is", because
//! they are only given before anything was written to it.

use super::db;
use crate::config::{STORE_BUSY_MS, STORE_WORDS_MAX};
use crate::postgres::words;
use rusqlite::ErrorCode;
use std::path::{Path, PathBuf};

/// Why the store did not do what it was asked. Cloned to every caller whose rows shared a failed commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file is something else: no database, or another program's.
    #[error("store {} is not a safeguard store: {why} (left as it is)", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How that shows.
        why: String,
    },
    /// The store was written by a later version of this program.
    #[error(
        "store {} has format {found}, written by a newer safeguard; this one knows up to {known} (left as it is)",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// The highest that this program knows.
        known: i64,
    },
    /// Servers of an earlier version work on the store, and could not go on once it is of this one's.
    #[error(
        "store {} has format {found}, and {servers} running servers that cannot work with format {known} of this one; stop them first (left as it is)",
        path.display()
    )]
    InUse {
        /// The database.
        path: PathBuf,
        /// How many are there.
        servers: i64,
        /// Its version.
        found: i64,
        /// The version that this program writes.
        known: i64,
    },
    /// The file is a safeguard store with broken pages.
    #[error("store {} is damaged: {why} (left as it is)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first thing found wrong.
        why: String,
    },
    /// The file or its directory cannot be created, read or written.
    #[error("store {} cannot be opened for reading and writing: {why}", path.display())]
    Unopenable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Another process holds the write lock.
    #[error("store {} has been locked by another process for more than {} ms", path.display(), STORE_BUSY_MS)]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// Too many reads at once.
    #[error("store {} has {limit} readers at work, the most it takes at once", path.display())]
    TooManyReaders {
        /// The file.
        path: PathBuf,
        /// Readers allowed.
        limit: usize,
    },
    /// The server of the store does not answer, or the connection to it is lost. Of a write nothing is kept.
    #[error("store {} cannot be reached: {why}", path.display())]
    Unreachable {
        /// The database.
        path: PathBuf,
        /// What was said last.
        why: String,
    },
    /// The server of the store does not let us in.
    #[error("store {} does not let us in: {why}", path.display())]
    Denied {
        /// The database.
        path: PathBuf,
        /// What the server said.
        why: String,
    },
    /// The connection was lost while a transaction was ended. What it wrote is stored whole or not at all.
    #[error(
        "store {}: the connection was lost while something was stored, and whether it is stored is not known",
        path.display()
    )]
    Unsure {
        /// The database.
        path: PathBuf,
    },
    /// A read or a write failed; of a failed write nothing is kept.
    #[error("store {}: {why}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the database said.
        why: String,
    },
    /// This version number is taken by another text. Versions are immutable.
    #[error("policy \"{name}\" version {version} is already published with another text")]
    VersionTaken {
        /// The policy.
        name: String,
        /// The number.
        version: u32,
    },
    /// An override that cannot be stored; nothing of its statement was.
    #[error("override {row}: {why}")]
    Override {
        /// Its row in the statement, from 1.
        row: usize,
        /// What is wrong with it.
        why: String,
    },
    /// An INSERT with too many overrides; nothing of it was stored.
    #[error("an INSERT into safeguard.overrides takes at most {limit} rows")]
    TooManyOverrides {
        /// Rows allowed.
        limit: usize,
    },
}

impl StoreError {
    /// What a database said of the store at `path`.
    pub(super) fn of(path: &Path, error: db::Error) -> StoreError {
        if error.is_lost() {
            return StoreError::Unreachable {
                path: path.to_path_buf(),
                why: match &error {
                    db::Error::Postgres(error) => shortened(words(error)),
                    other => format!("{other:?}"),
                },
            };
        }
        if error.is_conflict() {
            return StoreError::Busy {
                path: path.to_path_buf(),
            };
        }
        let why = match error {
            db::Error::Sqlite(error) => return StoreError::sqlite(path, error),
            db::Error::Postgres(error) => match error.code() {
                Some(code) => format!("{} (SQLSTATE {})", words(&error), code.code()),
                None => words(&error),
            },
            db::Error::NoRows => "a row that should be there is not".to_owned(),
            db::Error::Value { at, why } => format!("column {at}: {why}"),
        };
        StoreError::Failed {
            path: path.to_path_buf(),
            why: shortened(why),
        }
    }

    /// An error of SQLite on the file at `path`.
    pub(super) fn sqlite(path: &Path, error: rusqlite::Error) -> StoreError {
        let path = path.to_path_buf();
        let why = match &error {
            rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
            other => other.to_string(),
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => StoreError::Foreign { path, why },
            Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged { path, why },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path },
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                StoreError::Unopenable { path, why }
            }
            _ => StoreError::Failed { path, why },
        }
    }
}

/// So many characters of a database's own words as an error of ours may hold.
pub(super) fn shortened(mut words: String) -> String {
    if let Some((at, _)) = words.char_indices().nth(STORE_WORDS_MAX) {
        words.truncate(at);
        words.push_str("..");
    }
    words
}
