//! Subqueries that look one value up in PostgreSQL's catalog.
//!
//! DataFusion wants a subquery that depends on the outer row to be an aggregate. In the catalog a look-up finds at
//! most one row, so that its first value is its value. Only subqueries over PostgreSQL's own tables are changed: over
//! a user's tables it would hide the error for two rows.

use super::calls::call;
use crate::server::catalog::is_empty;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArguments, GroupByExpr, JoinOperator, Query, Select, SelectItem,
    SetExpr, TableFactor, TableWithJoins, Value, Visit, Visitor,
};
use std::ops::ControlFlow;

/// Aggregates that clients use in such places.
const AGGREGATES: [&str; 12] = [
    "array_agg",
    "string_agg",
    "min",
    "max",
    "count",
    "sum",
    "bool_and",
    "bool_or",
    "json_agg",
    "json_object_agg",
    "first_value",
    "avg",
];

pub(super) fn rewrite(expr: &mut Expr) {
    let Expr::Subquery(query) = expr else {
        return;
    };
    if query.with.is_some() {
        return;
    }
    let SetExpr::Select(select) = query.body.as_mut() else {
        return;
    };
    if !select.from.iter().all(is_catalog) || select.from.is_empty() || select.distinct.is_some() {
        return;
    }
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    let [SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }] =
        select.projection.as_mut_slice()
    else {
        return;
    };
    if grouped || has_aggregate(value) {
        return;
    }
    let inner = std::mem::replace(value, Expr::value(Value::Null));
    *value = call("first_value", vec![inner]);
    query.order_by = None;
    query.limit_clause = None;
}

fn has_aggregate(expr: &Expr) -> bool {
    struct Find;
    impl Visitor for Find {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(Function { name, .. }) => {
                    let words = super::words(name);
                    let last = words.last().map_or("", String::as_str);
                    match AGGREGATES.contains(&last) {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    expr.visit(&mut Find).is_break()
}

fn catalog_table(factor: &TableFactor) -> Option<String> {
    let TableFactor::Table {
        name, args: None, ..
    } = factor
    else {
        return None;
    };
    let words = super::words(name);
    match words.as_slice() {
        [table] if super::has_table(table) => Some(table.clone()),
        [schema, table] if schema == "pg_catalog" => Some(table.clone()),
        _ => None,
    }
}

fn is_catalog(tables: &TableWithJoins) -> bool {
    let joined = tables.joins.iter().map(|join| &join.relation);
    std::iter::once(&tables.relation)
        .chain(joined)
        .all(|factor| catalog_table(factor).is_some())
}

/// Whether rows can only come from a table that never has any.
fn never(tables: &TableWithJoins) -> bool {
    let empty = |factor: &TableFactor| catalog_table(factor).is_some_and(|table| is_empty(&table));
    let inner = tables.joins.iter().filter(|join| {
        matches!(
            join.join_operator,
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
        )
    });
    let plain = tables.joins.iter().all(|join| {
        !matches!(
            join.join_operator,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_)
        )
    });
    plain && (empty(&tables.relation) || inner.map(|join| &join.relation).any(empty))
}

/// Where there can be no row, what would be computed for each need not be planned.
pub(super) fn skip_for_empty(select: &mut Select) {
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    if grouped || !select.from.iter().any(never) {
        return;
    }
    for item in &mut select.projection {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            continue;
        };
        if is_heavy(expr) && !has_aggregate_outside(expr) {
            *expr = call(
                "pg_get_expr",
                vec![Expr::value(Value::Null), Expr::value(Value::Null)],
            );
        }
    }
}

/// Subqueries, and calls that give rows or arrays.
fn is_heavy(expr: &Expr) -> bool {
    struct Find;
    impl Visitor for Find {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            let heavy = match expr {
                Expr::Subquery(_)
                | Expr::Exists { .. }
                | Expr::AnyOp { .. }
                | Expr::AllOp { .. } => true,
                Expr::Function(function) => matches!(function.args, FunctionArguments::Subquery(_)),
                _ => false,
            };
            match heavy {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        }
    }
    expr.visit(&mut Find).is_break()
}

/// An aggregate of the list itself gives a row where there is none.
fn has_aggregate_outside(expr: &Expr) -> bool {
    match expr {
        Expr::Function(Function { name, .. }) => {
            let words = super::words(name);
            AGGREGATES.contains(&words.last().map_or("", String::as_str))
        }
        _ => false,
    }
}
