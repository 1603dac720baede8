//! Scans: one SQL statement read row by row into Arrow batches.
//!
//! Takes a table, a projection, filters that SQLite answers exactly and a limit; gives batches as they are read, a few
//! ahead of their consumer. The reading runs on a blocking thread with a connection of its own, over one snapshot of the
//! file. Dropping the stream interrupts it, also in the middle of a search that finds nothing.

use super::Inner;
use super::columns::{Column, Kind, Table, UTC};
use super::error::StoreError;
use super::filter::Condition;
use super::index::rules;
use super::readers::Reader;
use super::records::Digest;
use crate::config::{STORE_SCAN_AHEAD_MAX, STORE_SCAN_BYTES_MAX};
use datafusion::arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, RecordBatch,
    RecordBatchOptions, StringBuilder, StringViewBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::{RecordBatchReceiverStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
    SendableRecordBatchStream,
};
use futures::StreamExt;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{InterruptHandle, Row, params_from_iter};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The physical plan of one scan.
pub(super) struct StoreScan {
    store: Arc<Inner>,
    query: Arc<Query>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What a scan asks of SQLite.
struct Query {
    table: &'static Table,
    columns: Vec<&'static Column>,
    schema: SchemaRef,
    sql: String,
    parameters: Vec<Value>,
}

impl StoreScan {
    /// A scan of `table`. `projection` holds indexes of its columns.
    pub(super) fn new(
        store: Arc<Inner>,
        table: &'static Table,
        projection: Option<&Vec<usize>>,
        conditions: Vec<Condition>,
        limit: Option<usize>,
    ) -> Result<StoreScan> {
        let schema = match projection {
            Some(projection) => Arc::new(table.schema().project(projection)?),
            None => table.schema(),
        };
        let columns: Vec<_> = match projection {
            Some(projection) => projection.iter().map(|at| &table.columns[*at]).collect(),
            None => table.columns.iter().collect(),
        };
        let sql = sql(table, &columns, &conditions, limit);
        let parameters = conditions.into_iter().flat_map(|c| c.parameters).collect();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(StoreScan {
            store,
            query: Arc::new(Query {
                table,
                columns,
                schema,
                sql,
                parameters,
            }),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

/// The statement. Without columns it counts.
fn sql(
    table: &Table,
    columns: &[&'static Column],
    conditions: &[Condition],
    limit: Option<usize>,
) -> String {
    let sources: Vec<&str> = columns.iter().map(|c| c.source).collect();
    let list = if sources.is_empty() {
        "1".to_string()
    } else {
        sources.join(", ")
    };
    let joined = sources.iter().any(|source| source.starts_with("j."))
        || conditions.iter().any(|c| c.sql.contains("j."));
    let join = if joined { table.join } else { "" };
    let mut sql = format!("SELECT {list} FROM {}{join}", table.from);
    for (at, condition) in conditions.iter().enumerate() {
        sql.push_str(if at == 0 { " WHERE " } else { " AND " });
        sql.push_str(&condition.sql);
    }
    if let Some(limit) = limit {
        sql.push_str(&format!(" LIMIT {limit}"));
    }
    if columns.is_empty() {
        sql = format!("SELECT count(*) FROM ({sql})");
    }
    sql
}

impl fmt::Debug for StoreScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreScan")
            .field("sql", &self.query.sql)
            .finish()
    }
}

impl DisplayAs for StoreScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "StoreScan: table={}, sqlite=[{}]",
            self.query.table.name, self.query.sql
        )
    }
}

impl ExecutionPlan for StoreScan {
    fn name(&self) -> &'static str {
        "StoreScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !children.is_empty() {
            return internal_err!("a StoreScan has no children");
        }
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !children.is_empty() {
            return internal_err!("a StoreScan has no children");
        }
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("a StoreScan has one partition, not {}", partition + 1);
        }
        let schema = Arc::clone(&self.query.schema);
        let mut stream = RecordBatchReceiverStream::builder(schema, STORE_SCAN_AHEAD_MAX);
        let batches = stream.tx();
        let stop = Arc::new(Stop::default());
        let reading = Reading {
            store: Arc::clone(&self.store),
            query: Arc::clone(&self.query),
            stop: Arc::clone(&stop),
            rows_max: context.session_config().batch_size(),
        };
        stream.spawn_blocking(move || {
            let sent = reading.read(|batch| batches.blocking_send(Ok(batch)).is_ok());
            sent.map_err(|e| DataFusionError::External(Box::new(e)))
        });
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let stop = StopOnDrop(stop);
        let counted = stream.build().inspect(move |batch| {
            let _ = &stop;
            if let Ok(batch) = batch {
                metrics.record_output(batch.num_rows());
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.query.schema),
            counted,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// How a scan is told that nobody listens any more.
#[derive(Default)]
struct Stop {
    state: Mutex<Stopping>,
}

#[derive(Default)]
struct Stopping {
    asked: bool,
    /// Set only while the connection is this scan's: an interrupt must never reach the next one's.
    running: Option<InterruptHandle>,
}

struct StopOnDrop(Arc<Stop>);

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
    fn guard<T>(&self, reader: &Reader, read: impl FnOnce() -> T) -> Option<T> {
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

    fn asked(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .asked
    }
}

/// A scan at work.
struct Reading {
    store: Arc<Inner>,
    query: Arc<Query>,
    stop: Arc<Stop>,
    rows_max: usize,
}

impl Reading {
    /// Gives batches to `send` until it declines.
    fn read(&self, send: impl Fn(RecordBatch) -> bool) -> Result<(), StoreError> {
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
        let parameters = params_from_iter(&self.query.parameters);
        let mut rows: usize = reader
            .query_row(&self.query.sql, parameters, |row| row.get::<_, i64>(0))
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
        let mut select = reader.prepare(&self.query.sql)?;
        let mut found = select.query(params_from_iter(&self.query.parameters))?;
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
