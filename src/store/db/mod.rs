//! One way to ask both of the databases that a store can be in.
//!
//! Takes SQL in one dialect with parameters `?1`, `?2`, gives rows and counts. The API is that of rusqlite as far as the
//! store uses it: SQLite is asked directly, PostgreSQL through [`postgres`]. A statement that must differ stands twice
//! beside its use, chosen by [`Connection::either`]. Blocks. Knows nothing of what is stored.

mod error;
pub(super) mod postgres;
mod value;

pub(super) use error::{Error, Optional, Result};
pub(super) use value::{FromValue, Owned, Params, ToValue, Value, params};

use postgres::Postgres;
use rusqlite::params_from_iter;

/// One connection.
pub(super) enum Connection {
    /// To a file.
    Sqlite(rusqlite::Connection),
    /// To a server.
    Postgres(Postgres),
}

/// A statement to be run, prepared once a connection.
pub(super) enum Statement<'c> {
    /// SQLite's own.
    Sqlite(rusqlite::CachedStatement<'c>),
    /// Its text; prepared when it is first run.
    Postgres(&'c Postgres, Box<str>),
}

/// A row that was found.
pub(super) enum Row<'r> {
    /// SQLite's own.
    Sqlite(&'r rusqlite::Row<'r>),
    /// PostgreSQL's own.
    Postgres(&'r tokio_postgres::Row),
}

impl Connection {
    /// A statement that is run again and again.
    pub(super) fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>> {
        Ok(match self {
            Connection::Sqlite(file) => Statement::Sqlite(file.prepare_cached(sql)?),
            Connection::Postgres(server) => Statement::Postgres(server, sql.into()),
        })
    }

    /// Runs a statement; gives the rows that it changed.
    pub(super) fn execute(&self, sql: &str, values: impl Params) -> Result<usize> {
        self.prepare_cached(sql)?.execute(values)
    }

    /// The first row of a query.
    pub(super) fn query_row<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.prepare_cached(sql)?.query_row(values, read)
    }

    /// The text for the database that this is.
    pub(super) fn either<'s>(&self, sqlite: &'s str, postgres: &'s str) -> &'s str {
        match self {
            Connection::Sqlite(_) => sqlite,
            Connection::Postgres(_) => postgres,
        }
    }

    /// SQLite's own, for what only a file has.
    pub(super) fn sqlite(&self) -> &rusqlite::Connection {
        match self {
            Connection::Sqlite(file) => file,
            Connection::Postgres(_) => panic!("bug: a server was asked what only a file knows"),
        }
    }

    /// For another thread.
    pub(super) fn interrupt(&self) -> Interrupt {
        match self {
            Connection::Sqlite(file) => Interrupt::Sqlite(file.get_interrupt_handle()),
            Connection::Postgres(server) => Interrupt::Postgres(server.stopper()),
        }
    }

    /// Whether it can be used for something else: it is connected, and in no transaction.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Connection::Sqlite(file) => file.is_autocommit(),
            Connection::Postgres(server) => server.is_idle(),
        }
    }
}

impl Statement<'_> {
    /// Runs it; gives the rows that it changed.
    pub(super) fn execute(&mut self, values: impl Params) -> Result<usize> {
        let values = values.values();
        match self {
            Statement::Sqlite(statement) => Ok(statement.execute(params_from_iter(values))?),
            Statement::Postgres(server, sql) => server.execute(sql, &values),
        }
    }

    /// Runs an INSERT of one row into a table whose key is `id`; gives that.
    pub(super) fn insert(&mut self, values: impl Params) -> Result<i64> {
        let values = values.values();
        match self {
            Statement::Sqlite(statement) => Ok(statement.insert(params_from_iter(values))?),
            Statement::Postgres(server, sql) => {
                let found = server.query(&format!("{sql} RETURNING id"), &values)?;
                Row::Postgres(found.first().ok_or(Error::NoRows)?).get(0)
            }
        }
    }

    /// The first row.
    pub(super) fn query_row<T>(
        &mut self,
        values: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        let values = values.values();
        match self {
            Statement::Sqlite(statement) => {
                let mut found = statement.query(params_from_iter(values))?;
                read(&Row::Sqlite(found.next()?.ok_or(Error::NoRows)?))
            }
            Statement::Postgres(server, sql) => {
                let found = server.query(sql, &values)?;
                read(&Row::Postgres(found.first().ok_or(Error::NoRows)?))
            }
        }
    }

    /// Every row.
    pub(super) fn query_map<T>(
        &mut self,
        values: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<std::vec::IntoIter<Result<T>>> {
        let values = values.values();
        let mut all = Vec::new();
        match self {
            Statement::Sqlite(statement) => {
                let mut found = statement.query(params_from_iter(values))?;
                while let Some(row) = found.next()? {
                    all.push(read(&Row::Sqlite(row)));
                }
            }
            Statement::Postgres(server, sql) => {
                let found = server.query(sql, &values)?;
                all.extend(found.iter().map(|row| read(&Row::Postgres(row))));
            }
        }
        Ok(all.into_iter())
    }

    /// Whether there is a row.
    pub(super) fn exists(&mut self, values: impl Params) -> Result<bool> {
        let values = values.values();
        match self {
            Statement::Sqlite(statement) => Ok(statement.exists(params_from_iter(values))?),
            Statement::Postgres(server, sql) => Ok(!server.query(sql, &values)?.is_empty()),
        }
    }
}

impl Row<'_> {
    /// What is in column `at`, from 0.
    pub(super) fn get<T: FromValue>(&self, at: usize) -> Result<T> {
        T::from_value(self.get_ref(at)?).map_err(|why| Error::Value { at, why })
    }

    /// The same, as it lies there.
    pub(super) fn get_ref(&self, at: usize) -> Result<Value<'_>> {
        match self {
            Row::Sqlite(row) => Value::of_sqlite(row.get_ref(at)?).map_err(|why| Error::Value {
                at,
                why: why.to_owned(),
            }),
            Row::Postgres(row) => postgres::value(row, at),
        }
    }
}

/// Ends what a connection does, from another thread.
pub(super) enum Interrupt {
    /// The connection can be used again.
    Sqlite(rusqlite::InterruptHandle),
    /// It is closed.
    Postgres(postgres::Stopper),
}

impl Interrupt {
    pub(super) fn interrupt(&self) {
        match self {
            Interrupt::Sqlite(handle) => handle.interrupt(),
            Interrupt::Postgres(stopper) => stopper.stop(),
        }
    }
}
