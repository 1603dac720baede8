//! Scans: the physical plan that reads a table.
//!
//! Takes a table, a projection, filters that the database answers exactly and a limit; gives batches as they are read, a few
//! ahead of their consumer. The reading runs on a blocking thread with a connection of its own, over one snapshot of the
//! file. Dropping the stream interrupts it, also in the middle of a search that finds nothing.

use super::Inner;
use super::columns::Table;
use super::filter::Condition;
use super::reading::{Query, Reading, Stop, StopOnDrop};
use crate::config::STORE_SCAN_AHEAD_MAX;
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
use std::fmt;
use std::sync::Arc;

/// The physical plan of one scan.
pub(super) struct StoreScan {
    store: Arc<Inner>,
    query: Arc<Query>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
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
            dialect: store.place.dialect(),
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
            "StoreScan: table={}, {}=[{}]",
            self.query.table.name,
            self.query.dialect.name(),
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

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
