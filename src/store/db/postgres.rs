//! PostgreSQL behind the store's way to ask.
//!
//! Takes a client whose bytes are moved elsewhere (by a runtime of the store's own), gives answers to threads that wait
//! for them. Parameters `?1` become `$1`, once for each text; each text is prepared once a connection, and values are
//! sent as the types that the server found out. Knows nothing of where the server is.

use super::error::{Error, Result};
use super::value::{Owned, ToValue, Value};
use crate::config::STORE_STATEMENTS_MAX;
use crate::postgres::Connection;
use bytes::{BufMut, BytesMut};
use futures::StreamExt;
use futures::executor::block_on;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Row, Statement};

/// What stands for U+0000, which PostgreSQL's texts cannot hold.
const NUL: &str = "\u{2400}";

/// A connection to a server.
pub(in crate::store) struct Postgres {
    connection: Connection,
    statements: RefCell<HashMap<Box<str>, Statement>>,
    /// Whether a transaction was begun and not ended.
    open: Cell<bool>,
}

/// Something that can be told to stop what a connection does.
pub(in crate::store) struct Stopper(crate::postgres::Stopper);

impl Stopper {
    /// Ends the connection, and what the server does for it.
    pub(in crate::store) fn stop(&self) {
        self.0.stop();
    }
}

impl Postgres {
    pub(in crate::store) fn new(connection: Connection) -> Postgres {
        Postgres {
            connection,
            statements: RefCell::default(),
            open: Cell::new(false),
        }
    }

    /// Whether it is connected and in no transaction.
    pub(in crate::store) fn is_idle(&self) -> bool {
        !self.open.get() && !self.connection.is_closed()
    }

    /// For another thread.
    pub(in crate::store) fn stopper(&self) -> Stopper {
        Stopper(self.connection.stopper())
    }

    /// Statements without parameters, several at once.
    pub(in crate::store) fn batch(&self, sql: &str) -> Result<()> {
        Ok(block_on(self.connection.batch_execute(sql))?)
    }

    /// Begins a transaction.
    pub(in crate::store) fn begin(&self, sql: &str) -> Result<()> {
        self.open.set(true);
        self.batch(sql)
    }

    /// Ends the transaction: COMMIT or ROLLBACK.
    pub(in crate::store) fn end(&self, sql: &str) -> Result<()> {
        self.batch(sql)?;
        self.open.set(false);
        Ok(())
    }

    /// Every row that a statement gives.
    pub(in crate::store) fn query(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let bound: Vec<Bound<'_>> = values.iter().map(|value| Bound(*value)).collect();
        let bound: Vec<&(dyn ToSql + Sync)> = bound.iter().map(|b| b as _).collect();
        self.query_typed(sql, &bound)
    }

    /// The same, with values of PostgreSQL's own types, such as arrays.
    pub(in crate::store) fn query_typed(
        &self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let statement = self.prepared(sql)?;
        Ok(block_on(self.connection.query(&statement, values))?)
    }

    /// Rows that a statement changed.
    pub(in crate::store) fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<usize> {
        let statement = self.prepared(sql)?;
        let bound: Vec<Bound<'_>> = values.iter().map(|value| Bound(*value)).collect();
        let bound: Vec<&(dyn ToSql + Sync)> = bound.iter().map(|b| b as _).collect();
        let changed = block_on(self.connection.execute(&statement, &bound))?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    /// Reads a query `most` rows at a time, within a snapshot of its own, until `take` declines. Of a result of any size
    /// no more than that is held.
    pub(in crate::store) fn fetch(
        &self,
        sql: &str,
        values: &[&Owned],
        most: usize,
        mut take: impl FnMut(&[Row]) -> Result<bool>,
    ) -> Result<()> {
        let values: Vec<Value<'_>> = values.iter().map(|value| value.to_value()).collect();
        self.begin("BEGIN READ ONLY")?;
        let bound: Vec<Bound<'_>> = values.iter().map(|value| Bound(*value)).collect();
        let declare = translated(&format!("DECLARE scanned NO SCROLL CURSOR FOR {sql}"));
        let declared = async {
            let statement = self.connection.prepare(&declare).await?;
            let bound = bound.iter().map(|b| b as &(dyn ToSql + Sync));
            let mut none = std::pin::pin!(self.connection.query_raw(&statement, bound).await?);
            while let Some(row) = none.next().await {
                row?;
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        block_on(declared)?;
        let next = format!("FETCH {most} FROM scanned");
        loop {
            let rows = block_on(self.connection.query(&next, &[]))?;
            let ended = rows.len() < most;
            if !take(&rows)? || ended {
                break;
            }
        }
        self.end("COMMIT")
    }

    fn prepared(&self, sql: &str) -> Result<Statement> {
        if let Some(known) = self.statements.borrow().get(sql) {
            return Ok(known.clone());
        }
        let new = block_on(self.connection.prepare(&translated(sql)))?;
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= STORE_STATEMENTS_MAX {
            statements.clear();
        }
        statements.insert(sql.into(), new.clone());
        Ok(new)
    }
}

/// Parameters as PostgreSQL writes them: `?1` is `$1`, and `?` without a number is the next one.
pub(super) fn translated(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() + 8);
    let mut next = 1;
    let mut rest = sql.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '?' {
            text.push(c);
            continue;
        }
        text.push('$');
        if !rest.peek().is_some_and(char::is_ascii_digit) {
            text.push_str(&next.to_string());
            next += 1;
        }
    }
    text
}

/// Whether it is the way that failed, and not what was asked.
pub(super) fn is_of_the_way(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<io::Error>())
}

/// What is in column `at` of a row.
pub(super) fn value(row: &Row, at: usize) -> Result<Value<'_>> {
    match row.try_get::<_, Found<'_>>(at) {
        Ok(found) => Ok(found.0),
        Err(error) => Err(Error::Value {
            at,
            why: error.to_string(),
        }),
    }
}

/// A value on its way out of a row.
struct Found<'r>(Value<'r>);

type Problem = Box<dyn std::error::Error + Sync + Send>;

impl<'r> FromSql<'r> for Found<'r> {
    fn from_sql(ty: &Type, raw: &'r [u8]) -> Result<Found<'r>, Problem> {
        Ok(Found(match *ty {
            Type::BOOL => Value::Integer(bool::from_sql(ty, raw)?.into()),
            Type::INT2 => Value::Integer(i16::from_sql(ty, raw)?.into()),
            Type::INT4 => Value::Integer(i32::from_sql(ty, raw)?.into()),
            Type::INT8 => Value::Integer(i64::from_sql(ty, raw)?),
            Type::FLOAT4 => Value::Real(f32::from_sql(ty, raw)?.into()),
            Type::FLOAT8 => Value::Real(f64::from_sql(ty, raw)?),
            Type::BYTEA => Value::Blob(raw),
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => {
                Value::Text(std::str::from_utf8(raw)?)
            }
            _ => return Err(format!("a value of type {ty}").into()),
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Found<'r>, Problem> {
        Ok(Found(Value::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A value on its way into a statement, as whatever type the server wants there.
#[derive(Debug)]
struct Bound<'v>(Value<'v>);

impl ToSql for Bound<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Problem> {
        match (self.0, ty) {
            (Value::Null, _) => return Ok(IsNull::Yes),
            (Value::Real(x), _) if x.is_nan() => return Ok(IsNull::Yes),
            (Value::Integer(n), &Type::INT8) => out.put_i64(n),
            (Value::Integer(n), &Type::INT4) => out.put_i32(n.try_into()?),
            (Value::Integer(n), &Type::INT2) => out.put_i16(n.try_into()?),
            (Value::Integer(n), &Type::BOOL) => out.put_u8(u8::from(n != 0)),
            (Value::Integer(n), &Type::FLOAT8) => out.put_f64(n as f64),
            // Zero has no sign in SQLite.
            (Value::Real(x), &Type::FLOAT8) => out.put_f64(if x == 0.0 { 0.0 } else { x }),
            (Value::Text(text), &Type::BYTEA) => out.put_slice(text.as_bytes()),
            (Value::Text(text), &(Type::TEXT | Type::VARCHAR | Type::NAME | Type::UNKNOWN)) => {
                out.put_slice(shown(text).as_bytes());
            }
            (Value::Blob(bytes), &Type::BYTEA) => out.put_slice(bytes),
            (value, ty) => return Err(format!("bug: {value:?} is no {ty}").into()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A text as PostgreSQL can hold it.
pub(in crate::store) fn shown(text: &str) -> std::borrow::Cow<'_, str> {
    match text.contains('\0') {
        true => text.replace('\0', NUL).into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_as_postgresql_numbers_them() {
        for (sql, want) in [
            ("SELECT 1", "SELECT 1"),
            (
                "a = ?1 AND b = ?12 OR c = ?1",
                "a = $1 AND b = $12 OR c = $1",
            ),
            ("a IN (?, ?) AND b = ?", "a IN ($1, $2) AND b = $3"),
        ] {
            assert_eq!(translated(sql), want);
        }
    }

    #[test]
    fn what_postgresql_cannot_hold_is_shown_instead() {
        assert_eq!(shown("a\0b"), "a\u{2400}b");
        assert_eq!(shown("ab"), "ab");
    }
}
