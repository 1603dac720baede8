//! A Delta table as DataFusion reads it: as it is when a statement begins, and not as it was when it was registered.
//!
//! Takes a log, gives scans of its newest version, one version for all scans of a statement. A plan was made for the columns
//! that the table had then: they are found by name in the newest version, and where one is gone or of another type the
//! statement fails. Filters are Delta's to prune files with. Knows nothing of how rows are written.

use super::log::{At, Log, Mark, of_scan};
use super::{damage, left, sink};
use crate::engine::sink::Shelf;
use crate::error::Error;
use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, SchemaExt, Statistics, not_impl_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter_pushdown::{FilterDescription, FilterPushdownPhase};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use deltalake_core::delta_datafusion::{DeltaScanConfig, DeltaScanNext};
use deltalake_core::kernel::Snapshot;
use futures::TryStreamExt;
use safeguard_udfs::Statement;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A version that was read, and what tells that it is the newest one still.
#[derive(Debug, Clone)]
struct Seen {
    mark: Mark,
    snapshot: Arc<Snapshot>,
}

/// What all plans over one table share.
#[derive(Debug)]
struct Shared {
    log: Log,
    at: At,
    shelf: Shelf,
    seen: Mutex<Option<Seen>>,
    /// The statement that reads, and what it reads.
    statement: Mutex<Option<(Weak<Statement>, Arc<Snapshot>)>>,
}

/// A Delta table with the columns that it had at some time.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Table {
    shared: Arc<Shared>,
    then: Arc<DeltaScanNext>,
    /// The columns that its folders are named after.
    partitions: Arc<[String]>,
}

/// A version as DataFusion reads it.
fn reader(log: &Log, snapshot: &Arc<Snapshot>) -> Result<DeltaScanNext> {
    // Values of partitions are texts like others; a dictionary of them is what no function of ours takes.
    let config = DeltaScanConfig::new().with_wrap_partition_values(false);
    let made = DeltaScanNext::new(Arc::clone(snapshot), config);
    made.map_err(|error| of_scan(error, (&log.name, log.url.as_str())))
}

impl Table {
    /// # Errors
    /// There is no such table or version, or it cannot be read.
    pub(super) async fn open(log: Log, at: At, shelf: Shelf) -> Result<Table> {
        let shared = Shared {
            log,
            at,
            shelf,
            seen: Mutex::default(),
            statement: Mutex::default(),
        };
        Table::of(Arc::new(shared)).await
    }

    async fn of(shared: Arc<Shared>) -> Result<Table> {
        let snapshot = shared.current().await?;
        Ok(Table {
            then: Arc::new(reader(&shared.log, &snapshot)?),
            partitions: snapshot.metadata().partition_columns().into(),
            shared,
        })
    }

    /// The same table with the columns that it has now; as it was where that cannot be told, which its scan will say.
    pub(super) async fn renewed(&self) -> Table {
        match Table::of(Arc::clone(&self.shared)).await {
            Ok(table) => table,
            Err(_) => self.clone(),
        }
    }

    /// What this statement reads.
    async fn snapshot(&self, state: &dyn Session) -> Result<Arc<Snapshot>> {
        let statement = state.config().get_extension::<Statement>();
        let slot = || {
            let slot = self.shared.statement.lock();
            slot.unwrap_or_else(PoisonError::into_inner)
        };
        let same = |known: &Weak<Statement>, statement: &Arc<Statement>| {
            std::ptr::eq(known.as_ptr(), Arc::as_ptr(statement))
        };
        if let (Some(statement), Some((known, snapshot))) = (&statement, &*slot())
            && same(known, statement)
        {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot = self.shared.current().await?;
        if let Some(statement) = &statement {
            *slot() = Some((Arc::downgrade(statement), Arc::clone(&snapshot)));
        }
        Ok(snapshot)
    }

    /// The columns of `now` that these of the plan's are.
    fn found(&self, now: &DeltaScanNext, columns: &[usize]) -> Result<Vec<usize>> {
        let (then, now) = (self.schema(), now.schema());
        let place = |column: &usize| {
            let field = then.field(*column);
            let place = now.fields().iter().position(|other| is_same(field, other));
            place.ok_or_else(|| {
                let is = now.field_with_name(field.name());
                let is = match is {
                    Ok(other) => format!("now {}", described(other)),
                    Err(_) => "gone".to_owned(),
                };
                self.changed(&format!(
                    "column \"{}\", {} then, is {is}",
                    field.name(),
                    described(field)
                ))
            })
        };
        Ok(columns.iter().map(place).collect::<Result<_, Error>>()?)
    }

    fn changed(&self, how: &str) -> Error {
        Error::Refused {
            sqlstate: "0A000",
            why: format!(
                "Delta table \"{}\" has changed since the statement or view was made: {how}",
                self.shared.log.name
            ),
            hint: Some("plan the statement again, or make the view again".to_owned()),
        }
    }

    fn unchanged(&self, statement: &str) -> String {
        let name = &self.shared.log.name;
        format!("{statement} of Delta table \"{name}\" is not supported: only INSERT is")
    }
}

impl Shared {
    async fn current(&self) -> Result<Arc<Snapshot>> {
        if self.at != At::Newest {
            return self.log.load(self.at).await;
        }
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let store = self.log.store()?;
        let known = seen().clone();
        if let Some(known) = known
            && known.mark.holds(&self.log, &store).await
        {
            return Ok(known.snapshot);
        }
        let snapshot = self.log.load(self.at).await?;
        let mark = Mark::of(&self.log, &store, snapshot.version()).await;
        *seen() = mark.map(|mark| Seen {
            mark,
            snapshot: Arc::clone(&snapshot),
        });
        Ok(snapshot)
    }
}

fn is_same(one: &Field, other: &Field) -> bool {
    one.name() == other.name()
        && one.data_type() == other.data_type()
        && one.is_nullable() == other.is_nullable()
}

fn described(field: &Field) -> String {
    let end = if field.is_nullable() { "" } else { " NOT NULL" };
    format!("{}{end}", field.data_type())
}

#[async_trait]
impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        self.then.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        self.then.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let log = &self.shared.log;
        left::clear(&self.shared.shelf, log).await?;
        let snapshot = self.snapshot(state).await?;
        let now = reader(log, &snapshot)?;
        if *snapshot.metadata().partition_columns() != *self.partitions {
            return Err(self.changed("other columns are its partitions").into());
        }
        let schema = self.schema();
        let all = || (0..schema.fields().len()).collect();
        let wanted = projection.cloned().unwrap_or_else(all);
        let found = self.found(&now, &wanted)?;
        let named = filters.iter().flat_map(|filter| filter.column_refs());
        let named = named.map(|column| schema.index_of(&column.name));
        self.found(&now, &named.collect::<Result<Vec<_>, _>>()?)?;
        let scan = now.scan(state, Some(&found), filters, limit).await;
        let whose = (log.name.clone(), log.url.as_str().to_owned());
        match scan {
            Ok(scan) => Ok(Arc::new(Scan { scan, whose })),
            Err(error) => Err(of_scan(error, (&whose.0, &whose.1))),
        }
    }

    async fn delete_from(&self, _: &dyn Session, _: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("{}", self.unchanged("DELETE"))
    }

    async fn update(
        &self,
        _: &dyn Session,
        _: Vec<(String, Expr)>,
        _: Vec<Expr>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("{}", self.unchanged("UPDATE"))
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        operation: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.schema();
        schema.logically_equivalent_names_and_types(&input.schema())?;
        let Shared { log, at, shelf, .. } = &*self.shared;
        if *at != At::Newest {
            let name = &log.name;
            return not_impl_err!(
                "cannot INSERT into Delta table \"{name}\": it shows an older version"
            );
        }
        let now = Table::of(Arc::clone(&self.shared)).await?;
        if now.schema().fields().len() != schema.fields().len() {
            return Err(self.changed("it has other columns").into());
        }
        self.found(&now.then, &(0..schema.fields().len()).collect::<Vec<_>>())?;
        sink::plan(state, (log, shelf), input, schema, operation).await
    }
}

/// Delta's scan, and whose files they are that cannot be read.
#[derive(Debug)]
struct Scan {
    scan: Arc<dyn ExecutionPlan>,
    /// The table's name and place.
    whose: (String, String),
}

impl Scan {
    fn over(&self, scan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let whose = self.whose.clone();
        Arc::new(Scan { scan, whose })
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeltaTable: {}", self.whose.0)
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &'static str {
        "DeltaTable"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.scan]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.over(children.swap_remove(0)))
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        config: &ConfigOptions,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let scan = self.scan.repartitioned(target_partitions, config)?;
        Ok(scan.map(|scan| self.over(scan)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let whose = self.whose.clone();
        let store = Arc::clone(&context);
        let scanned = damage::scanned(&self.scan);
        let rows = self.scan.execute(partition, context)?;
        let schema = rows.schema();
        let rows = rows.or_else(move |error| {
            let (whose, context) = (whose.clone(), Arc::clone(&store));
            let scanned = scanned.clone();
            async move {
                let error = damage::blamed(error, &context, &scanned).await;
                Err(of_scan(error, (&whose.0, &whose.1)))
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(filters, &self.children())
    }
}
