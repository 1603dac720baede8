//! Reading a table: what of a query PostgreSQL does, and its rows as they are wanted.
//!
//! Takes columns, filters and a limit, gives batches by binary COPY over connections of its own: one, or as many as the
//! server's options allow. At most one batch waits for each: a query that reads slowly slows PostgreSQL down. Given up, it
//! closes the connections, which ends the COPY there.

use super::columns::{Builder, Column};
use super::connect::{For, Server};
use super::filter;
use super::quoted;
use super::sink::{Insertion, Sink};
use super::split::{Held, Split};
use crate::config::SERVER_BATCH_BYTES;
use crate::content::ContentError;
use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, not_impl_err};
use datafusion::datasource::TableType;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::types::{FromSql, Type};

/// A table, view or foreign table of an attached database.
#[derive(Debug)]
pub struct Table {
    server: Arc<Server>,
    name: String,
    columns: Vec<Column>,
    schema: SchemaRef,
    /// Whether its rows lie on pages of its own, as those of a view do not.
    paged: bool,
}

impl Table {
    pub(super) fn new(server: Arc<Server>, name: &str, columns: Vec<Column>, paged: bool) -> Table {
        let fields: Vec<_> = columns.iter().map(Column::field).collect();
        Table {
            server,
            name: name.to_owned(),
            columns,
            schema: Arc::new(Schema::new(fields)),
            paged,
        }
    }

    fn qualified(&self) -> String {
        format!(
            "{}.{}",
            quoted(&self.server.options.schema),
            quoted(&self.name)
        )
    }
}

#[async_trait]
impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let there = |filter: &&Expr| match filter::sql(filter, &self.columns) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(there).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.columns.len()).collect();
        let projection = projection.cloned().unwrap_or_else(all);
        let columns = projection
            .iter()
            .map(|i| self.columns[*i].clone())
            .collect();
        let schema = Arc::new(self.schema.project(&projection)?);
        let sent = |expr: &Expr| {
            let sent = filter::sql(expr, &self.columns);
            sent.ok_or_else(|| DataFusionError::Internal(format!("filter {expr} was not promised")))
        };
        let query = Query {
            from: self.qualified(),
            filters: filters.iter().map(sent).collect::<Result<_>>()?,
            limit,
        };
        // A few rows are not worth a second connection.
        let parts = match self.paged && limit.is_none() {
            true => self.server.options.connections,
            false => 1,
        };
        let asked = Asked::Rows(columns);
        let server = Arc::clone(&self.server);
        Ok(Arc::new(Scan::new(server, query, asked, schema, parts)))
    }

    async fn delete_from(&self, _: &dyn Session, _: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!(
            "DELETE is not supported here: run it on server {}",
            self.server.name
        )
    }

    async fn update(
        &self,
        _: &dyn Session,
        _: Vec<(String, Expr)>,
        _: Vec<Expr>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let name = &self.server.name;
        not_impl_err!(
            "UPDATE is not supported here: INSERT .. ON CONFLICT DO UPDATE, or run it on server {name}"
        )
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if op != InsertOp::Append {
            return not_impl_err!("INSERT OVERWRITE into a table of PostgreSQL");
        }
        let insertion = state.config().get_extension::<Insertion>();
        let insertion = insertion.unwrap_or_default();
        let sink = Sink::new(
            Arc::clone(&self.server),
            self.qualified(),
            &self.columns,
            Arc::clone(&self.schema),
            &insertion,
        )?;
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
    }
}

/// What is read.
#[derive(Debug, Clone)]
struct Query {
    from: String,
    filters: Vec<String>,
    limit: Option<usize>,
}

/// What of it is wanted.
#[derive(Debug, Clone)]
enum Asked {
    /// These columns.
    Rows(Vec<Column>),
    /// How many there are, as the one column of this.
    Count(Column),
}

impl Query {
    /// `part` is a condition beside the filters.
    fn sql(&self, asked: &Asked, part: Option<&str>) -> String {
        let columns = match asked {
            Asked::Rows(columns) => columns
                .iter()
                .map(Column::read)
                .collect::<Vec<_>>()
                .join(", "),
            Asked::Count(_) if self.limit.is_none() => "count(*)".to_owned(),
            Asked::Count(_) => String::new(),
        };
        let mut sql = match columns.is_empty() {
            true => format!("SELECT FROM {}", self.from),
            false => format!("SELECT {columns} FROM {}", self.from),
        };
        let conditions: Vec<&str> = self
            .filters
            .iter()
            .map(String::as_str)
            .chain(part)
            .collect();
        if !conditions.is_empty() {
            sql.push_str(&format!(" WHERE {}", conditions.join(" AND ")));
        }
        let Some(limit) = self.limit else {
            return sql;
        };
        sql.push_str(&format!(" LIMIT {limit}"));
        match asked {
            Asked::Rows(_) => sql,
            Asked::Count(_) => format!("SELECT count(*) FROM ({sql}) AS counted"),
        }
    }
}

/// The operator that reads.
#[derive(Debug)]
pub(super) struct Scan {
    server: Arc<Server>,
    query: Query,
    asked: Asked,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    parts: usize,
    run: Mutex<Option<Run>>,
}

/// One reading in parts, and which of them are taken.
#[derive(Debug)]
struct Run {
    split: Arc<Split>,
    taken: Vec<bool>,
}

impl Scan {
    fn new(
        server: Arc<Server>,
        query: Query,
        asked: Asked,
        schema: SchemaRef,
        parts: usize,
    ) -> Scan {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(parts),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Scan {
            server,
            query,
            asked,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            parts,
            run: Mutex::default(),
        }
    }

    /// What a part reads with; a part that comes again begins another reading.
    fn split(&self, part: usize) -> Option<Arc<Split>> {
        if self.parts == 1 {
            return None;
        }
        // A panic leaves a run that is whole.
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        if run.as_ref().is_some_and(|run| run.taken[part]) {
            *run = None;
        }
        let new = || {
            let (server, from) = (Arc::clone(&self.server), self.query.from.clone());
            Run {
                split: Arc::new(Split::new(server, from, self.parts)),
                taken: vec![false; self.parts],
            }
        };
        let current = run.get_or_insert_with(new);
        current.taken[part] = true;
        let split = Arc::clone(&current.split);
        if current.taken.iter().all(|taken| *taken) {
            // The snapshot is the readers' from now on, and ends with the last of them.
            *run = None;
        }
        Some(split)
    }

    /// The same scan's count of rows, as the one column of `schema`.
    pub(super) fn counted(&self, schema: SchemaRef) -> Scan {
        let column = Column {
            name: schema.field(0).name().clone(),
            kind: super::columns::Kind::Int8,
            declared: "bigint".to_owned(),
        };
        let (server, query) = (Arc::clone(&self.server), self.query.clone());
        Scan::new(server, query, Asked::Count(column), schema, 1)
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresScan: server={}, ", self.server.name)?;
        if self.parts > 1 {
            write!(f, "connections={}, ", self.parts)?;
        }
        write!(f, "sql={}", self.query.sql(&self.asked, None))
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &'static str {
        "PostgresScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let columns = match &self.asked {
            Asked::Rows(columns) => columns.clone(),
            Asked::Count(column) => vec![column.clone()],
        };
        let reading = Reading {
            server: Arc::clone(&self.server),
            query: self.query.clone(),
            asked: self.asked.clone(),
            split: self.split(partition),
            part: partition,
            columns,
            schema: Arc::clone(&self.schema),
            rows_max: context.session_config().batch_size(),
        };
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let batches = reading.batches().map_err(DataFusionError::from);
        let counted = batches.inspect_ok(move |batch| metrics.record_output(batch.num_rows()));
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// What a running scan needs to know.
struct Reading {
    server: Arc<Server>,
    query: Query,
    asked: Asked,
    /// Where others read other parts.
    split: Option<Arc<Split>>,
    part: usize,
    columns: Vec<Column>,
    schema: SchemaRef,
    rows_max: usize,
}

/// A scan that is under way.
struct Open {
    reading: Reading,
    rows: Pin<Box<BinaryCopyOutStream>>,
    builders: Vec<Builder>,
    ended: bool,
    /// Closed when the scan is dropped.
    _connection: Held,
}

/// A value in binary form, whatever its type.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Reading {
    fn batches(self) -> impl Stream<Item = std::result::Result<RecordBatch, ContentError>> + Send {
        stream::once(self.open())
            .map_ok(|open| {
                stream::try_unfold(open, |open: Option<Open>| async move {
                    let next = match open {
                        Some(open) => open.next().await?,
                        None => None,
                    };
                    Ok(next.map(|(batch, open)| (batch, Some(open))))
                })
            })
            .try_flatten()
    }

    /// `None` where there is nothing for this part.
    async fn open(mut self) -> std::result::Result<Option<Open>, ContentError> {
        let (connection, condition) = match self.split.take() {
            None => (self.server.connect(For::Reading).await?.into(), None),
            Some(split) => match split.part(self.part).await? {
                None => return Ok(None),
                Some(part) => part,
            },
        };
        let sql = self.query.sql(&self.asked, condition.as_deref());
        let copy = format!("COPY ({sql}) TO STDOUT (FORMAT binary)");
        let out = connection.copy_out(&copy).await;
        let out = out.map_err(|e| self.server.failed(&e))?;
        let types = vec![Type::BYTEA; self.columns.len()];
        Ok(Some(Open {
            builders: self.columns.iter().map(Builder::new).collect(),
            rows: Box::pin(BinaryCopyOutStream::new(out, &types)),
            reading: self,
            ended: false,
            _connection: connection,
        }))
    }
}

impl Open {
    async fn next(mut self) -> std::result::Result<Option<(RecordBatch, Open)>, ContentError> {
        let (mut rows, mut bytes) = (0, 0);
        while !self.ended && rows < self.reading.rows_max && bytes < SERVER_BATCH_BYTES {
            let Some(row) = self.rows.next().await else {
                self.ended = true;
                break;
            };
            let failed = |e| self.reading.server.failed(&e);
            let row = row.map_err(failed)?;
            for (i, builder) in self.builders.iter_mut().enumerate() {
                let value = row.try_get::<Option<Raw<'_>>>(i).map_err(failed)?;
                bytes += value.as_ref().map_or(1, |value| value.0.len());
                let pushed = builder.push(value.map(|value| value.0));
                pushed.map_err(|why| {
                    let (name, from) = (&self.reading.server.name, &self.reading.query.from);
                    let column = &self.reading.columns[i].name;
                    let why = format!(
                        "server {name}: column {column} of {from} has a value that is {why}"
                    );
                    ContentError::new("22000", why)
                })?;
            }
            rows += 1;
        }
        if rows == 0 {
            return Ok(None);
        }
        let arrays: Vec<ArrayRef> = self.builders.iter_mut().map(Builder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::clone(&self.reading.schema);
        let batch = RecordBatch::try_new_with_options(schema, arrays, &options);
        let batch = batch.expect("bug: a column is not of the table's type");
        Ok(Some((batch, self)))
    }
}
