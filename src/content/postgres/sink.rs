//! INSERT into a table of an attached database: all rows of a statement, or none.
//!
//! Takes batches, writes them by binary COPY into a temporary table as they come, and from there into the table by one
//! statement at the end, with ON CONFLICT as the user wrote it. No transaction is open there while texts are judged here.

use super::columns::{Column, EPOCH_DAYS, EPOCH_MICROS, Kind};
use super::connect::{Connection, For, Server};
use super::quoted;
use crate::config::SERVER_BATCH_BYTES;
use crate::content::ContentError;
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    SchemaRef, Time64MicrosecondType, TimestampMicrosecondType,
};
use datafusion::common::Result;
use datafusion::datasource::sink::DataSink;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType};
use futures::{SinkExt, StreamExt};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;

/// Where rows wait.
const STAGE: &str = "pg_temp.safeguard_rows";
/// The signature, flags and the length of the extension that a binary COPY begins with.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What of an INSERT DataFusion's plan does not hold: the columns that are named, and ON CONFLICT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Insertion {
    /// As named in the statement; `None` for all of them. What is left out has its default there.
    pub columns: Option<Vec<String>>,
    /// `ON CONFLICT ..`, as SQL.
    pub conflict: Option<String>,
}

/// Writes one INSERT.
pub(super) struct Sink {
    server: Arc<Server>,
    table: String,
    /// Of the rows that come, which are written: their place and what they are.
    columns: Vec<(usize, Column)>,
    schema: SchemaRef,
    conflict: Option<String>,
}

impl Sink {
    /// # Errors
    /// A column that the table does not have.
    pub(super) fn new(
        server: Arc<Server>,
        table: String,
        columns: &[Column],
        schema: SchemaRef,
        insertion: &Insertion,
    ) -> std::result::Result<Sink, ContentError> {
        let named = |column: &Column| match &insertion.columns {
            Some(named) => named.contains(&column.name),
            None => true,
        };
        let columns: Vec<_> = columns.iter().cloned().enumerate().collect();
        let columns: Vec<_> = columns.into_iter().filter(|(_, c)| named(c)).collect();
        if columns.is_empty() {
            let why = format!("INSERT into {table} names no column of it");
            return Err(ContentError::new("42703", why));
        }
        Ok(Sink {
            server,
            table,
            columns,
            schema,
            conflict: insertion.conflict.clone(),
        })
    }

    fn staging(&self) -> String {
        let column = |(i, column): (usize, &(usize, Column))| format!("c{i} {}", column.1.staged());
        let columns: Vec<_> = self.columns.iter().enumerate().map(column).collect();
        format!("CREATE TEMP TABLE safeguard_rows ({})", columns.join(", "))
    }

    fn insert(&self) -> String {
        let into: Vec<_> = self
            .columns
            .iter()
            .map(|(_, column)| quoted(&column.name))
            .collect();
        let from = self.columns.iter().enumerate();
        let from: Vec<_> = from
            .map(|(i, (_, column))| column.unstaged(&format!("c{i}")))
            .collect();
        let (into, from) = (into.join(", "), from.join(", "));
        let conflict = self.conflict.as_deref().unwrap_or_default();
        format!(
            "INSERT INTO {} ({into}) SELECT {from} FROM {STAGE} {conflict}",
            self.table
        )
    }

    async fn write(&self, mut rows: SendableRecordBatchStream) -> Result<u64> {
        let connection = self.server.connect(For::Writing).await?;
        let made = connection.batch_execute(&self.staging()).await;
        made.map_err(|e| self.server.failed(&e))?;
        let mut waiting = BytesMut::from(HEADER);
        while let Some(batch) = rows.next().await {
            self.encode(&batch?, &mut waiting)?;
            if waiting.len() >= SERVER_BATCH_BYTES {
                self.copy(&connection, &mut waiting).await?;
            }
        }
        self.copy(&connection, &mut waiting).await?;
        let inserted = connection.execute(&self.insert(), &[]).await;
        Ok(inserted.map_err(|error| match error.as_db_error() {
            Some(_) => self.server.failed(&error),
            None => {
                let lost = self.server.failed(&error);
                let why = format!("{lost}: whether the rows are written is not known");
                ContentError::new("08007", why)
            }
        })?)
    }

    /// Sends what is encoded, as one COPY.
    async fn copy(
        &self,
        connection: &Connection,
        waiting: &mut BytesMut,
    ) -> std::result::Result<(), ContentError> {
        if waiting.len() == HEADER.len() {
            return Ok(());
        }
        waiting.put_i16(-1);
        let rows: Bytes = waiting.split().freeze();
        waiting.put_slice(HEADER);
        let failed = |e| self.server.failed(&e);
        let copy = format!("COPY {STAGE} FROM STDIN (FORMAT binary)");
        let sink = connection.copy_in(&copy).await.map_err(failed)?;
        let mut sink = pin!(sink);
        sink.send(rows).await.map_err(failed)?;
        sink.finish().await.map(drop).map_err(failed)
    }

    fn encode(&self, batch: &RecordBatch, out: &mut BytesMut) -> Result<()> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for (i, column) in &self.columns {
            columns.push((cast(batch.column(*i), &column.data_type())?, column.kind));
        }
        let count =
            i16::try_from(columns.len()).expect("bug: PostgreSQL has at most 1,600 columns");
        for row in 0..batch.num_rows() {
            out.put_i16(count);
            for (array, kind) in &columns {
                put(array, *kind, row, out);
            }
        }
        Ok(())
    }
}

/// One value: its length and its bytes.
fn put(array: &ArrayRef, kind: Kind, row: usize, out: &mut BytesMut) {
    if array.is_null(row) {
        out.put_i32(-1);
        return;
    }
    let mut bytes = |bytes: &[u8]| {
        let length = i32::try_from(bytes.len()).expect("bug: an array of more than 2 GiB");
        out.put_i32(length);
        out.put_slice(bytes);
    };
    match kind {
        Kind::Bool => bytes(&[u8::from(array.as_boolean().value(row))]),
        Kind::Int2 => bytes(&array.as_primitive::<Int16Type>().value(row).to_be_bytes()),
        Kind::Int4 => bytes(&array.as_primitive::<Int32Type>().value(row).to_be_bytes()),
        Kind::Int8 | Kind::Oid => {
            bytes(&array.as_primitive::<Int64Type>().value(row).to_be_bytes())
        }
        Kind::Float4 => bytes(&array.as_primitive::<Float32Type>().value(row).to_be_bytes()),
        Kind::Float8 => bytes(&array.as_primitive::<Float64Type>().value(row).to_be_bytes()),
        Kind::Numeric(..) | Kind::Unscaled => {
            let value = array.as_primitive::<Decimal128Type>().value_as_string(row);
            bytes(value.as_bytes());
        }
        Kind::Text { .. } | Kind::Uuid | Kind::Other => {
            bytes(array.as_string::<i32>().value(row).as_bytes());
        }
        Kind::Bytea => bytes(array.as_binary::<i32>().value(row)),
        Kind::Date => {
            let days = array.as_primitive::<Date32Type>().value(row);
            bytes(&days.saturating_sub(EPOCH_DAYS).to_be_bytes());
        }
        Kind::Time => {
            let micros = array.as_primitive::<Time64MicrosecondType>().value(row);
            bytes(&micros.to_be_bytes());
        }
        Kind::Timestamp | Kind::TimestampTz => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            bytes(&micros.saturating_sub(EPOCH_MICROS).to_be_bytes());
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("table", &self.table).finish()
    }
}

impl DisplayAs for Sink {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PostgresSink: server={}, sql={}",
            self.server.name,
            self.insert()
        )
    }
}

#[async_trait]
impl DataSink for Sink {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(
        &self,
        data: SendableRecordBatchStream,
        _: &Arc<TaskContext>,
    ) -> Result<u64> {
        self.write(data).await
    }
}
