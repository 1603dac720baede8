//! Reading: one SQL statement, row by row, into Arrow batches, until it ends or nobody listens any more.
//!
//! Takes a query and a connection, gives batches to whoever sends them on. Blocks. A batch ends at a number of rows or of
//! bytes. Knows nothing of plans and streams.

use super::Inner;
use super::columns::{Column, Kind, Table, UTC};
use super::error::StoreError;
use super::filter::Condition;
use super::index::rules;
use super::readers::Reader;
use super::records::Digest;
use crate::config::STORE_SCAN_BYTES_MAX;
use datafusion::arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, RecordBatch,
    RecordBatchOptions, StringBuilder, StringViewBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::SchemaRef;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{InterruptHandle, Row, params_from_iter};
use std::sync::{Arc, Mutex, PoisonError};

/// What a scan asks of SQLite.
#[derive(Clone)]
pub(super) struct Query {
    pub(super) table: &'static Table,
    pub(super) columns: Vec<&'static Column>,
    pub(super) schema: SchemaRef,
    pub(super) conditions: Vec<Condition>,
    pub(super) limit: Option<usize>,
}

impl Query {
    /// The statement. Without columns it counts.
    pub(super) fn sql(&self) -> String {
        let sources: Vec<&str> = self.columns.iter().map(|c| c.source).collect();
        let list = if sources.is_empty() {
            "1".to_string()
        } else {
            sources.join(", ")
        };
        let joined = sources.iter().any(|source| source.starts_with("j."))
            || self.conditions.iter().any(|c| c.sql.contains("j."));
        let join = if joined { self.table.join } else { "" };
        let mut sql = format!("SELECT {list} FROM {}{join}", self.table.from);
        for (at, condition) in self.conditions.iter().enumerate() {
            sql.push_str(if at == 0 { " WHERE " } else { " AND " });
            sql.push_str(&condition.sql);
        }
        if let Some(limit) = self.limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        if sources.is_empty() {
            sql = format!("SELECT count(*) FROM ({sql})");
        }
        sql
    }

    /// In the order of its `?`.
    fn parameters(&self) -> impl Iterator<Item = &Value> {
        self.conditions.iter().flat_map(|c| &c.parameters)
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
    running: Option<InterruptHandle>,
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
            state.running = Some(reader.get_interrupt_handle());
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
            Some(Err(e)) if !self.stop.asked() => {
                Err(StoreError::sqlite(self.store.readers.path(), e))
            }
            _ => Ok(()),
        }
    }

    fn count(&self, reader: &Reader, send: impl Fn(RecordBatch) -> bool) -> rusqlite::Result<()> {
        let parameters = params_from_iter(self.query.parameters());
        let mut rows: usize = reader
            .query_row(&self.query.sql(), parameters, |row| row.get::<_, i64>(0))
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

    fn rows(&self, reader: &Reader, send: impl Fn(RecordBatch) -> bool) -> rusqlite::Result<()> {
        let mut select = reader.prepare(&self.query.sql())?;
        let mut found = select.query(params_from_iter(self.query.parameters()))?;
        let mut columns: Vec<Values> = self
            .query
            .columns
            .iter()
            .map(|c| Values::new(c.kind))
            .collect();
        let (mut rows, mut bytes) = (0, 0);
        loop {
            let row = found.next()?;
            let full = rows == self.rows_max || bytes >= STORE_SCAN_BYTES_MAX;
            if rows > 0 && (full || row.is_none()) {
                let arrays = columns.iter_mut().map(Values::finish).collect();
                if !send(batch(&self.query.schema, arrays, rows)) {
                    return Ok(());
                }
                (rows, bytes) = (0, 0);
            }
            let Some(row) = row else { return Ok(()) };
            for (at, column) in columns.iter_mut().enumerate() {
                bytes += column.push(row, at)?;
            }
            rows += 1;
        }
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

    /// Takes column `at` of a row; gives about how many bytes it takes.
    fn push(&mut self, row: &Row<'_>, at: usize) -> rusqlite::Result<usize> {
        let value = row.get_ref(at)?;
        let mut bytes = 16;
        match self {
            Values::Text(values) => {
                let text = value.as_str_or_null()?;
                bytes += text.map_or(0, str::len);
                values.append_option(text);
            }
            Values::Hex(values) => match value {
                ValueRef::Null => values.append_null(),
                _ => {
                    let digest = row.get::<_, Digest>(at)?;
                    values.append_value(blake3::Hash::from_bytes(digest).to_hex().as_str());
                    bytes += 2 * digest.len();
                }
            },
            Values::Int(values) => values.append_option(value.as_i64_or_null()?),
            Values::Float(values) => values.append_option(value.as_f64_or_null()?),
            Values::Time(values) => values.append_option(value.as_i64_or_null()?),
            Values::Bool(values) => {
                values.append_option(value.as_i64_or_null()?.map(|bit| bit != 0));
            }
            Values::Words(values) => {
                for word in rules(value.as_str_or_null()?)? {
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
