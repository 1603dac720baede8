//! Optimizer rules that make fewer calls: sort first and classify what a LIMIT leaves; drop columns nobody reads.

use crate::hoist::COLUMN_PREFIX;
use crate::node::ClassifyNode;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, Sort, SortExpr};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Puts `ORDER BY .. LIMIT` below the classification that its keys do not need. The sort above stays: the operator
/// keeps its input's order, so that it costs nothing, and the answer does not depend on this rule.
#[derive(Debug)]
pub struct SortBeforeClassify;

impl OptimizerRule for SortBeforeClassify {
    fn name(&self) -> &str {
        "sort_before_classify"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Sort(sort) = &plan else {
            return Ok(Transformed::no(plan));
        };
        if sort.fetch.is_none() {
            return Ok(Transformed::no(plan));
        }
        match sink(&sort.input, &sort.expr, sort.fetch)? {
            Some(input) => {
                let (expr, fetch) = (sort.expr.clone(), sort.fetch);
                Ok(Transformed::yes(LogicalPlan::Sort(Sort {
                    expr,
                    input: Arc::new(input),
                    fetch,
                })))
            }
            None => Ok(Transformed::no(plan)),
        }
    }
}

/// The plan with a sort below the lowest classification that these keys do not need; `None` if there is none.
fn sink(
    plan: &LogicalPlan,
    keys: &[SortExpr],
    fetch: Option<usize>,
) -> Result<Option<LogicalPlan>> {
    if let Some(classify) = ClassifyNode::of(plan) {
        let own: HashSet<&str> = classify
            .calls
            .iter()
            .map(|call| call.name.as_str())
            .collect();
        if keys.iter().any(|key| {
            key.expr
                .column_refs()
                .iter()
                .any(|c| own.contains(c.name.as_str()))
        }) {
            return Ok(None);
        }
        let input = match sink(&classify.input, keys, fetch)? {
            Some(input) => input,
            None if is_sorted(&classify.input) => return Ok(None),
            None => LogicalPlan::Sort(Sort {
                expr: keys.to_vec(),
                input: Arc::new(classify.input.clone()),
                fetch,
            }),
        };
        return Ok(Some(plan.with_new_exprs(plan.expressions(), vec![input])?));
    }
    let (input, keys, fetch) = match plan {
        // What a filter will leave is not known, so that all rows are sorted; they are still asked in order, and only
        // until the limit is full.
        LogicalPlan::Filter(filter) => (&filter.input, keys.to_vec(), None),
        LogicalPlan::Projection(p) => {
            let exprs = p
                .schema
                .columns()
                .into_iter()
                .zip(p.expr.iter().map(|e| e.clone().unalias()))
                .collect();
            (&p.input, through(keys, &exprs)?, fetch)
        }
        _ => return Ok(None),
    };
    if keys.iter().any(|key| key.expr.is_volatile()) {
        return Ok(None);
    }
    let sunk = sink(input, &keys, fetch)?;
    sunk.map(|input| plan.with_new_exprs(plan.expressions(), vec![input]))
        .transpose()
}

fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(p) => is_sorted(&p.input),
        _ => false,
    }
}

fn through(keys: &[SortExpr], exprs: &HashMap<Column, Expr>) -> Result<Vec<SortExpr>> {
    let replace = |e: Expr| {
        Ok(match &e {
            Expr::Column(column) => match exprs.get(column) {
                Some(expr) => Transformed::new(expr.clone(), true, TreeNodeRecursion::Jump),
                None => Transformed::no(e),
            },
            _ => Transformed::no(e),
        })
    };
    let key = |key: &SortExpr| Ok(key.with_expr(key.expr.clone().transform_down(replace)?.data));
    keys.iter().map(key).collect()
}

/// Drops calls whose column no expression of the plan reads: their names are unique in a plan, and what hoisting
/// leaves above a node never passes them on by position.
#[derive(Debug)]
pub struct DropUnusedCalls;

impl OptimizerRule for DropUnusedCalls {
    fn name(&self) -> &str {
        "drop_unused_safeguard_calls"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        None
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let mut used: HashSet<String> = HashSet::new();
        plan.apply_with_subqueries(|node| {
            node.apply_expressions(|expr| {
                used.extend(
                    expr.column_refs()
                        .into_iter()
                        .map(|c| &c.name)
                        .filter(|n| n.starts_with(COLUMN_PREFIX))
                        .cloned(),
                );
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        used.extend(plan.schema().fields().iter().map(|f| f.name().clone()));
        plan.transform_down_with_subqueries(|node| {
            let Some(classify) = ClassifyNode::of(&node) else {
                return Ok(Transformed::no(node));
            };
            let calls: Vec<_> = classify
                .calls
                .iter()
                .filter(|call| used.contains(&call.name))
                .cloned()
                .collect();
            if calls.len() == classify.calls.len() {
                return Ok(Transformed::no(node));
            }
            let input = classify.input.clone();
            Ok(Transformed::yes(if calls.is_empty() {
                input
            } else {
                ClassifyNode::try_new(input, calls)?.into_plan()
            }))
        })
    }
}
