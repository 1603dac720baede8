//! What a database said went wrong.

use tokio_postgres::error::SqlState;

/// What of a query is not as it should be, before anybody knows which store it was.
#[derive(Debug)]
pub(in crate::store) enum Error {
    /// SQLite's own.
    Sqlite(rusqlite::Error),
    /// PostgreSQL's own, or the way there is gone.
    Postgres(tokio_postgres::Error),
    /// There is no row.
    NoRows,
    /// A column holds something else than was expected.
    Value {
        /// The column, from 0.
        at: usize,
        /// What is wrong with it.
        why: String,
    },
}

pub(in crate::store) type Result<T, E = Error> = std::result::Result<T, E>;

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        match error {
            rusqlite::Error::QueryReturnedNoRows => Error::NoRows,
            error => Error::Sqlite(error),
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Error {
        Error::Postgres(error)
    }
}

impl Error {
    /// Whether the connection is gone, or the server is about to end it.
    pub(in crate::store) fn is_lost(&self) -> bool {
        const ENDING: [SqlState; 7] = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::CONNECTION_FAILURE,
            SqlState::CONNECTION_DOES_NOT_EXIST,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            SqlState::CONNECTION_EXCEPTION,
        ];
        let Error::Postgres(error) = self else {
            return false;
        };
        match error.code() {
            Some(code) => ENDING.contains(code),
            None => error.is_closed() || super::postgres::is_of_the_way(error),
        }
    }

    /// Whether the same transaction may succeed when it is done again: nothing of it was kept.
    pub(in crate::store) fn is_conflict(&self) -> bool {
        const CONFLICTS: [SqlState; 3] = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
        ];
        match self {
            Error::Postgres(error) => error.code().is_some_and(|code| CONFLICTS.contains(code)),
            _ => false,
        }
    }
}

/// Turns a row that may be missing into one that is there or not.
pub(in crate::store) trait Optional<T> {
    /// `None` where there is no row.
    fn optional(self) -> Result<Option<T>>;
}

impl<T> Optional<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Ok(found) => Ok(Some(found)),
            Err(Error::NoRows) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
