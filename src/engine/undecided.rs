//! The limit of undecided texts, looked at when a statement's last row is there.
//!
//! Takes rows and the statement's account, gives the same rows and an error behind them where too many texts are
//! undecided. What is written is looked at before the writer hears that all is there, so that no table takes rows. Knows
//! nothing of what a writer does.

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use futures::StreamExt;
use safeguard_udfs::Statement;
use std::fmt;
use std::sync::Arc;

/// The same rows, and an error behind them where too many of the statement's texts are undecided.
pub(super) fn checked(
    rows: SendableRecordBatchStream,
    statement: Arc<Statement>,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let check = async move {
        let most = statement.settings().max_undecided_ratio;
        let checked = statement.tally().check_undecided_in_all(most);
        checked.map_err(|e| DataFusionError::External(Box::new(e)))
    };
    let failed = futures::stream::once(check)
        .filter_map(|checked| futures::future::ready(checked.err().map(Err)));
    let rows = rows.chain(failed);
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

/// The same plan, whose writers write checked rows.
///
/// # Errors
/// None of its own.
pub(super) fn before_writing(
    plan: Arc<dyn ExecutionPlan>,
    statement: &Arc<Statement>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if statement.settings().max_undecided_ratio >= 1.0 {
        return Ok(plan);
    }
    let writing = plan.transform_up(|plan| {
        let Some(writer) = plan.downcast_ref::<DataSinkExec>() else {
            return Ok(Transformed::no(plan));
        };
        let (input, order) = (Arc::clone(writer.input()), writer.sort_order().clone());
        let sink = Checked {
            writer: writer.clone(),
            statement: Arc::clone(statement),
        };
        let writer = DataSinkExec::new(input, Arc::new(sink), order);
        Ok(Transformed::yes(Arc::new(writer)))
    });
    Ok(writing?.data)
}

/// Writes checked rows with another sink.
#[derive(Debug)]
struct Checked {
    writer: DataSinkExec,
    statement: Arc<Statement>,
}

impl DisplayAs for Checked {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.writer.sink().fmt_as(kind, f)
    }
}

#[async_trait]
impl DataSink for Checked {
    fn metrics(&self) -> Option<MetricsSet> {
        self.writer.sink().metrics()
    }

    fn schema(&self) -> &SchemaRef {
        self.writer.sink().schema()
    }

    async fn write_all(
        &self,
        rows: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> Result<u64> {
        let rows = checked(rows, Arc::clone(&self.statement));
        self.writer.sink().write_all(rows, context).await
    }
}
