//! `count(*)` of a table is counted where the table is.
//!
//! Takes physical plans, gives the same ones with a count over nothing but a scan of PostgreSQL in its place.

use super::scan::Scan;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use std::sync::Arc;

/// The rule.
#[derive(Debug, Default)]
pub struct CountThere;

impl PhysicalOptimizerRule for CountThere {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let replaced = plan.transform_down(|plan| {
            Ok(
                match plan.downcast_ref::<AggregateExec>().and_then(counted) {
                    Some(count) => Transformed::yes(count),
                    None => Transformed::no(plan),
                },
            )
        });
        replaced.map(|replaced| replaced.data)
    }

    fn name(&self) -> &'static str {
        "count_there"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Both a whole count and the first half of one are one column with the number of rows.
fn counted(aggregate: &AggregateExec) -> Option<Arc<dyn ExecutionPlan>> {
    let whole = match aggregate.mode() {
        AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned => true,
        AggregateMode::Final | AggregateMode::FinalPartitioned | AggregateMode::PartialReduce => {
            false
        }
    };
    let [function] = aggregate.aggr_expr() else {
        return None;
    };
    let every_row = match function.expressions().as_slice() {
        [expr] => expr
            .downcast_ref::<Literal>()
            .is_some_and(|literal| !literal.value().is_null()),
        _ => false,
    };
    let plain = function.fun().name() == "count" && every_row && !function.is_distinct();
    let filtered = aggregate.filter_expr().iter().any(Option::is_some);
    if !whole || !plain || filtered || !aggregate.group_expr().is_empty() {
        return None;
    }
    let mut input = aggregate.input();
    // What only moves rows.
    let moves = |plan: &Arc<dyn ExecutionPlan>| {
        let joins = plan.downcast_ref::<CoalescePartitionsExec>();
        plan.is::<RepartitionExec>()
            || plan.is::<CooperativeExec>()
            || joins.is_some_and(|joins| joins.fetch().is_none())
    };
    while moves(input) {
        input = *input.children().first()?;
    }
    let scan = input.downcast_ref::<Scan>()?;
    Some(Arc::new(scan.counted(aggregate.schema())))
}
