//! EXISTS as a value: `SELECT EXISTS (..)`, alone or within an expression.
//!
//! The planner knows EXISTS as a condition only. Takes an analyzed plan, gives one in which a column asks instead whether
//! the query's count is above zero. A query that stands by itself is read to its first row and no further.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::functions_aggregate::count::count_all;
use datafusion::logical_expr::expr::Exists;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery, lit};
use datafusion::optimizer::analyzer::AnalyzerRule;
use std::sync::Arc;

/// The rule of an analyzer.
#[derive(Debug)]
pub struct ExistsAsValue;

impl AnalyzerRule for ExistsAsValue {
    fn name(&self) -> &'static str {
        "exists_as_value"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(node)?.data)
    }
}

fn node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    // As a condition it becomes a join.
    if !matches!(plan, LogicalPlan::Projection(_)) {
        return Ok(Transformed::no(plan));
    }
    let names = NamePreserver::new_for_projection();
    let counted = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let counted = expr.transform_up(|expr| match expr {
            Expr::Exists(exists) => Ok(Transformed::yes(counted(&exists)?)),
            expr => Ok(Transformed::no(expr)),
        })?;
        Ok(match counted.transformed {
            true => counted.update_data(|expr| name.restore(expr)),
            false => counted,
        })
    })?;
    match counted.transformed {
        true => counted.map_data(LogicalPlan::recompute_schema),
        false => Ok(counted),
    }
}

/// Whether the query has rows, as a query of one row.
fn counted(Exists { subquery, negated }: &Exists) -> Result<Expr> {
    let rows = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
    let rows = match subquery.outer_ref_columns.is_empty() {
        true => rows.limit(0, Some(1))?,
        false => rows,
    };
    let count = rows.aggregate(Vec::<Expr>::new(), vec![count_all()])?;
    let column = Expr::Column(Column::from(count.schema().qualified_field(0)));
    let compared = match negated {
        true => column.eq(lit(0_i64)),
        false => column.gt(lit(0_i64)),
    };
    Ok(Expr::ScalarSubquery(Subquery {
        subquery: Arc::new(count.project(vec![compared])?.build()?),
        ..subquery.clone()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    async fn shown(context: &SessionContext, sql: &str) -> String {
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        let table = pretty_format_batches(&batches).unwrap().to_string();
        let rows = table.lines().skip(3).filter(|line| line.starts_with('|'));
        let cells = rows.map(|row| {
            let cells = row.trim_matches('|').split('|').map(str::trim);
            cells.collect::<Vec<_>>().join(",")
        });
        cells.collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn exists_is_a_value() {
        let context = SessionContext::new();
        let state = context.state_ref();
        state.write().add_analyzer_rule(Arc::new(ExistsAsValue));
        for sql in [
            "CREATE TABLE a AS SELECT * FROM (VALUES (1), (2), (3), (NULL)) AS v(id)",
            "CREATE TABLE b AS SELECT * FROM (VALUES (1, 'x'), (1, 'y'), (3, 'z'), (NULL, 'n')) AS v(id, w)",
        ] {
            shown(&context, sql).await;
        }
        let cases = [
            ("SELECT EXISTS (SELECT 1)", "true"),
            (
                "SELECT NOT EXISTS (SELECT 1), EXISTS (SELECT 1 WHERE false)",
                "false,false",
            ),
            (
                "SELECT EXISTS (SELECT * FROM b WHERE w = 'q') AS e, EXISTS (SELECT * FROM b) AS f",
                "false,true",
            ),
            (
                "SELECT a.id, EXISTS (SELECT 1 FROM b WHERE b.id = a.id) FROM a ORDER BY a.id",
                "1,true 2,false 3,true ,false",
            ),
            (
                "SELECT a.id, NOT EXISTS (SELECT w FROM b WHERE b.id = a.id AND w > 'x') FROM a ORDER BY a.id",
                "1,false 2,true 3,false ,true",
            ),
            (
                "SELECT a.id, CASE WHEN EXISTS (SELECT 1 FROM b WHERE b.id = a.id) THEN 'in' ELSE 'out' END FROM a WHERE a.id < 3 ORDER BY 1",
                "1,in 2,out",
            ),
            (
                "SELECT count(*) FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.id = a.id)",
                "2",
            ),
            (
                "SELECT (SELECT EXISTS (SELECT 1 FROM b WHERE w = 'z')), e FROM (SELECT EXISTS (SELECT 1 FROM a) AS e) AS s WHERE e",
                "true,true",
            ),
        ];
        for (sql, wanted) in cases {
            assert_eq!(shown(&context, sql).await, wanted, "{sql}");
        }
    }
}
