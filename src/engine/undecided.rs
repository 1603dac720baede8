//! The limit of undecided texts, looked at when a statement's last row is there.
//!
//! Takes rows and the statement's account, gives the same rows and an error behind them where too many texts are
//! undecided. What is written is looked at before the writer hears that all is there, so that no table takes rows. Knows
//! nothing of writers.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;
use safeguard_udfs::{Statement, Tally};
use std::fmt;
use std::sync::Arc;

/// The same rows, and an error behind them where more than `most` of the statement's texts are undecided.
pub(super) fn checked(
    rows: SendableRecordBatchStream,
    tally: Arc<Tally>,
    most: f64,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let check = async move {
        let checked = tally.check_undecided_in_all(most);
        checked.map_err(|e| DataFusionError::External(Box::new(e)))
    };
    let failed = futures::stream::once(check)
        .filter_map(|checked| futures::future::ready(checked.err().map(Err)));
    let rows = rows.chain(failed);
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

/// The same plan, in which what goes to a writer is checked first.
///
/// # Errors
/// A writer takes no other input.
pub(super) fn before_writing(
    plan: Arc<dyn ExecutionPlan>,
    statement: &Arc<Statement>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if statement.settings().max_undecided_ratio >= 1.0 {
        return Ok(plan);
    }
    let checked = plan.transform_up(|plan| match plan.downcast_ref::<DataSinkExec>() {
        Some(writer) => {
            let (input, statement) = (Arc::clone(writer.input()), Arc::clone(statement));
            let input = Arc::new(UndecidedExec { input, statement });
            replace_children_if_necessary(plan, vec![input]).map(Transformed::yes)
        }
        None => Ok(Transformed::no(plan)),
    });
    Ok(checked?.data)
}

/// Rows of its input; where too many texts are undecided by the end, that error.
#[derive(Debug)]
struct UndecidedExec {
    input: Arc<dyn ExecutionPlan>,
    statement: Arc<Statement>,
}

impl DisplayAs for UndecidedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let most = self.statement.settings().max_undecided_ratio;
        write!(f, "UndecidedExec: max_undecided_ratio={most}")
    }
}

impl ExecutionPlan for UndecidedExec {
    fn name(&self) -> &str {
        "UndecidedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        let statement = Arc::clone(&self.statement);
        let input = children.swap_remove(0);
        Ok(Arc::new(UndecidedExec { input, statement }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let tally = Arc::clone(self.statement.tally());
        let most = self.statement.settings().max_undecided_ratio;
        Ok(checked(rows, tally, most))
    }
}
