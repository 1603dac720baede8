//! Reading: one SQL statement, row by row, into Arrow batches, until it ends or nobody listens any more.
//!
//! Takes a query and a connection, gives batches to whoever sends them on. Blocks. A batch ends at a number of rows or of
//! bytes. Knows nothing of plans and streams.

use super::Inner;
use super::columns::{Column, Kind, Table, UTC};
use super::db::{self, Connection, Interrupt, Owned, Row, Value};
use super::error::StoreError;
use super::filter::Condition;
use super::index::rules;
use super::place::Dialect;
use super::readers::Reader;
use super::records::Digest;
use crate::config::STORE_SCAN_BYTES_MAX;
use datafusion::arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, RecordBatch,
    RecordBatchOptions, StringBuilder, StringViewBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::SchemaRef;
use std::sync::{Arc, Mutex, PoisonError};

/// What a scan asks of the database.
#[derive(Clone)]
pub(super) struct Query {
    pub(super) dialect: Dialect,
    pub(super) table: &'static Table,
    pub(super) columns: Vec<&'static Column>,
    pub(super) schema: SchemaRef,
    pub(super) conditions: Vec<Condition>,
    pub(super) limit: Option<usize>,
}

impl Query {
    /// The statement. Without columns it counts.
    pub(super) fn sql(&self) -> String {
        let sources: Vec<&str> = self
            .columns
            .iter()
            .map(|c| c.source(self.dialect))
            .collect();
        let list = if sources.is_empty() {
            "1".to_string()
        } else {
            sources.join(", ")
        };
        let joined = sources.iter().any(|source| source.starts_with("j."))
            || self.conditions.iter().any(|c| c.sql.contains("j."));
        let join = if joined {
            self.table.join(self.dialect)
        } else {
            ""
        };
        let mut sql = format!("SELECT {list} FROM {}{join}", self.table.from);
        for (at, condition) in self.conditions.iter().enumerate() {
            sql.push_str(if at == 0 { " WHERE " } else { " AND " });
            sql.push_str(&condition.sql);
        }
        if let Some(limit) = self.limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        if sources.is_empty() {
            sql = format!("SELECT count(*) FROM ({sql}) AS counted");
        }
        sql
    }

    /// In the order of its `?`.
    fn parameters(&self) -> Vec<&Owned> {
        self.conditions.iter().flat_map(|c| &c.parameters).collect()
    }
}

/// How a scan is told that nobody listens any more.
#[derive(Default)]
pub(super) struct Stop {
    state: Mutex<Stopping>,
}

#[derive(Default)]
struct Stopping {
    asked: bool,
    /// Set only while the connection is this scan's: an interrupt must never reach the next one's.
    running: Option<Interrupt>,
}

/// Stops a scan when it is dropped.
pub(super) struct StopOnDrop(pub(super) Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked = true;
        if let Some(running) = &state.running {
            running.interrupt();
        }
    }
}

impl Stop {
    /// Runs `read` so that it can be interrupted; not at all if it already was.
    pub(super) fn guard<T>(&self, reader: &Reader, read: impl FnOnce() -> T) -> Option<T> {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.asked {
                return None;
            }
            state.running = Some(reader.interrupt());
        }
        let done = read();
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .running = None;
        Some(done)
    }

    pub(super) fn asked(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .asked
    }
}

/// A scan at work.
pub(super) struct Reading {
    pub(super) store: Arc<Inner>,
    pub(super) query: Arc<Query>,
    pub(super) stop: Arc<Stop>,
    /// Rows of one batch.
    pub(super) rows_max: usize,
}

impl Reading {
    /// Gives batches to `send` until it declines.
    pub(super) fn read(&self, send: impl Fn(RecordBatch) -> bool) -> Result<(), StoreError> {
        let reader = self.store.readers.take()?;
        let read = self.stop.guard(&reader, || {
            if self.query.columns.is_empty() {
                self.count(&reader, &send)
            } else {
                self.rows(&reader, &send)
            }
        });
        match read {
            Some(Err(e)) if !self.stop.asked() => Err(StoreError::of(self.store.place.path(), e)),
            _ => Ok(()),
        }
    }

    fn count(&self, reader: &Reader, send: impl Fn(RecordBatch) -> bool) -> db::Result<()> {
        let mut rows: usize = reader
            .query_row(&self.query.sql(), self.query.parameters(), |row| {
                row.get::<i64>(0)
            })
            .map(|n| usize::try_from(n).expect("bug: a negative count of rows"))?;
        while rows > 0 {
            let some = rows.min(self.rows_max);
            rows -= some;
            if !send(batch(&self.query.schema, Vec::new(), some)) {
                break;
            }
        }
        Ok(())
    }

    fn rows(&self, reader: &Reader, send: impl Fn(RecordBatch) -> bool) -> db::Result<()> {
        let (sql, parameters) = (self.query.sql(), self.query.parameters());
        let mut filling = Filling::new(&self.query, self.rows_max);
        match &**reader {
            Connection::Sqlite(file) => {
                let values = db::Params::values(&parameters);
                let mut select = file.prepare(&sql)?;
                let mut found = select.query(rusqlite::params_from_iter(values))?;
                while let Some(row) = found.next()? {
                    if !filling.push(&Row::Sqlite(row), &send)? {
                        return Ok(());
                    }
                }
            }
            Connection::Postgres(server) => {
                server.fetch(&sql, &parameters, self.rows_max, |rows| {
                    for row in rows {
                        if !filling.push(&Row::Postgres(row), &send)? {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                })?;
            }
        }
        filling.flush(&send);
        Ok(())
    }
}

/// A batch in the making.
struct Filling<'q> {
    query: &'q Query,
    rows_max: usize,
    columns: Vec<Values>,
    rows: usize,
    bytes: usize,
}

impl<'q> Filling<'q> {
    fn new(query: &'q Query, rows_max: usize) -> Filling<'q> {
        Filling {
            query,
            rows_max,
            columns: query.columns.iter().map(|c| Values::new(c.kind)).collect(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Takes a row, before which a full batch is sent; whether anybody still listens.
    fn push(&mut self, row: &Row<'_>, send: impl Fn(RecordBatch) -> bool) -> db::Result<bool> {
        let full = self.rows == self.rows_max || self.bytes >= STORE_SCAN_BYTES_MAX;
        if full && !self.flush(send) {
            return Ok(false);
        }
        for (at, column) in self.columns.iter_mut().enumerate() {
            let value = row.get_ref(at)?;
            let pushed = column.push(value);
            self.bytes += pushed.map_err(|why| db::Error::Value { at, why })?;
        }
        self.rows += 1;
        Ok(true)
    }

    /// Sends what there is.
    fn flush(&mut self, send: impl Fn(RecordBatch) -> bool) -> bool {
        if self.rows == 0 {
            return true;
        }
        let arrays = self.columns.iter_mut().map(Values::finish).collect();
        let batch = batch(&self.query.schema, arrays, self.rows);
        (self.rows, self.bytes) = (0, 0);
        send(batch)
    }
}

fn batch(schema: &SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)
        .expect("bug: a scan's columns are not its schema's")
}

/// A column of a batch in the making.
enum Values {
    Text(StringViewBuilder),
    Hex(StringViewBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
    Words(ListBuilder<StringBuilder>),
}

impl Values {
    fn new(kind: Kind) -> Values {
        match kind {
            Kind::Text => Values::Text(StringViewBuilder::new()),
            Kind::Hex => Values::Hex(StringViewBuilder::new()),
            Kind::Int => Values::Int(Int64Builder::new()),
            Kind::Float => Values::Float(Float64Builder::new()),
            Kind::Bool => Values::Bool(BooleanBuilder::new()),
            Kind::Time => Values::Time(TimestampMicrosecondBuilder::new().with_timezone(UTC)),
            Kind::Words => Values::Words(ListBuilder::new(StringBuilder::new())),
        }
    }

    /// Takes a value; gives about how many bytes it takes.
    fn push(&mut self, value: Value<'_>) -> Result<usize, String> {
        let mut bytes = 16;
        match self {
            Values::Text(values) => {
                let text = value.text()?;
                bytes += text.map_or(0, str::len);
                values.append_option(text);
            }
            Values::Hex(values) => match value.blob()? {
                None => values.append_null(),
                Some(digest) => {
                    let digest: Digest = digest
                        .try_into()
                        .map_err(|_| format!("{} bytes instead of 32", digest.len()))?;
                    values.append_value(blake3::Hash::from_bytes(digest).to_hex().as_str());
                    bytes += 2 * digest.len();
                }
            },
            Values::Int(values) => values.append_option(value.integer()?),
            Values::Float(values) => values.append_option(value.real()?),
            Values::Time(values) => values.append_option(value.integer()?),
            Values::Bool(values) => values.append_option(value.integer()?.map(|bit| bit != 0)),
            Values::Words(values) => {
                for word in rules(value.text()?)? {
                    bytes += word.len();
                    values.values().append_value(word);
                }
                values.append(true);
            }
        }
        Ok(bytes)
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Values::Text(values) | Values::Hex(values) => Arc::new(values.finish()),
            Values::Int(values) => Arc::new(values.finish()),
            Values::Float(values) => Arc::new(values.finish()),
            Values::Bool(values) => Arc::new(values.finish()),
            Values::Time(values) => Arc::new(values.finish()),
            Values::Words(values) => Arc::new(values.finish()),
        }
    }
}
