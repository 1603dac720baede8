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
    Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType,
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
#[derive(Clone)]
struct Query {
    table: &'static Table,
    columns: Vec<&'static Column>,
    schema: SchemaRef,
    conditions: Vec<Condition>,
    limit: Option<usize>,
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
        let query = Query {
            table,
            columns,
            schema,
            conditions,
            limit,
        };
        Ok(StoreScan::of(store, query))
    }

    fn of(store: Arc<Inner>, query: Query) -> StoreScan {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&query.schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        // Batches come through a channel of tokio's, which yields.
        .with_scheduling_type(SchedulingType::Cooperative);
        StoreScan {
            store,
            query: Arc::new(query),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl Query {
    /// The statement. Without columns it counts.
    fn sql(&self) -> String {
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

impl fmt::Debug for StoreScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreScan")
            .field("sql", &self.query.sql())
            .finish()
    }
}

impl DisplayAs for StoreScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "StoreScan: table={}, sqlite=[{}]",
            self.query.table.name,
            self.query.sql()
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

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        let query = Query {
            limit,
            ..Query::clone(&self.query)
        };
        Some(Arc::new(StoreScan::of(Arc::clone(&self.store), query)))
    }

    fn fetch(&self) -> Option<usize> {
        self.query.limit
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::tests::{rows, session, undecided, verdict};
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::physical_plan::displayable;
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn every_column_shows_what_was_stored() {
        let store = Store::ephemeral().unwrap();
        store
            .append(vec![verdict(2), undecided(3, "refused")])
            .await
            .unwrap();
        let session = session(&store).await;
        let frame = session
            .sql("SELECT * FROM safeguard.verdicts")
            .await
            .unwrap();
        let fields = frame.schema().fields().iter();
        let names: Vec<String> = fields
            .map(|f| format!("{} {}", f.name(), f.data_type()))
            .collect();
        let expected = [
            "verdict_digest Utf8View",
            "policy Utf8View",
            "policy_version Int64",
            "policy_digest Utf8View",
            "text_digest Utf8View",
            "label Utf8View",
            "violates Boolean",
            "score Float64",
            "rationale Utf8View",
            "rules List(Utf8)",
            "reason Utf8View",
            "stage Utf8View",
            "mode Utf8View",
            "effort Utf8View",
            "model Utf8View",
            "model_digest Utf8View",
            "tokens_in Int64",
            "tokens_out Int64",
            "judged_at Timestamp(µs, \"+00:00\")",
        ];
        assert_eq!(names, expected);
        let rows = rows(&session, "SELECT * FROM safeguard.verdicts").await;
        let hex = |digest| crate::store::to_hex(&digest);
        let record = verdict(2);
        let expected = format!(
            "{}|hate|1|{}|{}|allowed|false|2e-6|because of number 2|[H0.\"c\", H1.\"c\"]||score\
             |auto|low|safeguard-nano|f32:00ff|102|2|2023-11-14T22:13:20.000002Z",
            hex(record.verdict_digest),
            record.policy_digest,
            hex(record.text_digest),
        );
        assert_eq!(rows[0], expected);
        assert!(rows[1].contains("||||[]|refused|"), "{}", rows[1]);
    }

    #[tokio::test]
    async fn scans_come_in_batches_and_stop_at_the_limit() {
        let store = Store::ephemeral().unwrap();
        store
            .append((0..20_000).map(verdict).collect())
            .await
            .unwrap();
        let session = session(&store).await;
        let cases = [
            ("SELECT count(*) FROM safeguard.verdicts", "20000"),
            (
                "SELECT count(*) FROM safeguard.verdicts WHERE violates",
                "6667",
            ),
            (
                "SELECT count(*) FROM safeguard.verdicts WHERE length(label) > 100",
                "0",
            ),
            (
                "SELECT count(*) FROM (SELECT 1 FROM safeguard.verdicts LIMIT 12345)",
                "12345",
            ),
            (
                "SELECT count(label) FROM (SELECT label FROM safeguard.verdicts LIMIT 9000)",
                "9000",
            ),
            (
                "SELECT sum(tokens_in) FROM safeguard.verdicts WHERE policy = 'spam'",
                "40390000",
            ),
            ("SELECT count(*) FROM safeguard.queries", "0"),
        ];
        for (sql, expected) in cases {
            assert_eq!(rows(&session, sql).await, [expected], "{sql}");
        }
        let sql = "SELECT verdict_digest, judged_at FROM safeguard.verdicts";
        let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
        let sizes: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(sizes, [8192, 8192, 3616]);
        let long = crate::store::Record {
            rationale: Some("x".repeat(STORE_SCAN_BYTES_MAX / 2).into()),
            ..verdict(30_000)
        };
        let long = (30_000..30_005).map(|n| crate::store::Record {
            verdict_digest: verdict(n).verdict_digest,
            ..long.clone()
        });
        store.append(long.collect()).await.unwrap();
        let sql = "SELECT rationale FROM safeguard.verdicts WHERE tokens_in = 30100";
        let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
        let sizes: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(sizes, [2, 2, 1], "a batch ends at its bytes, too");
    }

    #[tokio::test]
    async fn the_plan_shows_what_sqlite_is_asked() {
        let store = Store::ephemeral().unwrap();
        let session = session(&store).await;
        let cases = [
            (
                "SELECT label FROM safeguard.verdicts WHERE violates LIMIT 3",
                "StoreScan: table=verdicts, \
                 sqlite=[SELECT v.label FROM verdicts AS v WHERE v.violates LIMIT 3]",
            ),
            (
                "SELECT policy FROM safeguard.verdicts WHERE label = 'x'",
                "StoreScan: table=verdicts, sqlite=[SELECT j.policy FROM verdicts AS v \
                 CROSS JOIN judges AS j ON j.id = v.judge WHERE (v.label = ?)]",
            ),
            (
                "SELECT \"user\", rows FROM safeguard.queries",
                "StoreScan: table=queries, sqlite=[SELECT \"user\", \"rows\" FROM queries]",
            ),
        ];
        for (sql, expected) in cases {
            let plan = session
                .sql(sql)
                .await
                .unwrap()
                .create_physical_plan()
                .await
                .unwrap();
            let plan = displayable(plan.as_ref()).indent(false).to_string();
            assert_eq!(plan.trim(), expected, "{sql}");
        }
        let analyzed = session.sql("EXPLAIN ANALYZE SELECT label FROM safeguard.verdicts");
        let analyzed = analyzed.await.unwrap().collect().await.unwrap();
        let analyzed = pretty_format_batches(&analyzed).unwrap().to_string();
        assert!(analyzed.contains("output_rows=0"), "{analyzed}");
    }

    #[tokio::test]
    async fn a_dropped_scan_gives_its_reader_back() {
        let store = Store::ephemeral().unwrap();
        store
            .append((0..50_000).map(verdict).collect())
            .await
            .unwrap();
        let session = session(&store).await;
        let sql = "SELECT verdict_digest, rationale FROM safeguard.verdicts";
        let mut stream = session
            .sql(sql)
            .await
            .unwrap()
            .execute_stream()
            .await
            .unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        assert_eq!(store.inner.readers.at_work(), 1);
        drop(stream);
        let given_back = async {
            while store.inner.readers.at_work() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), given_back)
            .await
            .expect("given back");
    }

    #[tokio::test]
    async fn a_search_without_end_is_interrupted() {
        let store = Store::ephemeral().unwrap();
        let reader = store.inner.readers.take().unwrap();
        let stop = Arc::new(Stop::default());
        let (found, first) = mpsc::channel();
        let search = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let endless = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n)
                               SELECT n FROM n WHERE n < 2";
                stop.guard(&reader, || {
                    let mut select = reader.prepare(endless)?;
                    let mut rows = select.query(())?;
                    rows.next()?;
                    found.send(()).unwrap();
                    rows.next().map(|row| row.is_some())
                })
            }
        });
        first.recv().unwrap();
        drop(StopOnDrop(Arc::clone(&stop)));
        let error = search.join().unwrap().expect("it ran").unwrap_err();
        assert_eq!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::OperationInterrupted),
            "{error}"
        );
        assert!(stop.asked());
        let reader = store.inner.readers.take().unwrap();
        assert!(
            stop.guard(&reader, || ()).is_none(),
            "not begun once it was stopped"
        );
    }
}
