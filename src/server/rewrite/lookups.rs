//! Subqueries that look one value up in PostgreSQL's catalog.
//!
//! DataFusion wants a subquery that depends on the outer row to be an aggregate. In the catalog a look-up finds at
//! most one row, so that its first value is its value. Only subqueries over PostgreSQL's own tables are changed: over
//! a user's tables it would hide the error for two rows.

use super::calls::call;
use crate::server::catalog::{fixed_oid, is_empty};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArguments, GroupByExpr, JoinOperator, OrderBy, OrderByKind, Query,
    Select, SelectItem, SetExpr, Statement, TableFactor, TableWithJoins, Value, Visit, VisitMut,
    Visitor, VisitorMut,
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
    let tables: Vec<String> = select.from.iter().flat_map(tables_of).collect();
    // A column's collation is always that of its type.
    let collation =
        tables.iter().any(|t| t == "pg_collation") && tables.iter().any(|t| t == "pg_type");
    let counts = matches!(&select.projection[..], [SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. }] if has_aggregate(e));
    if collation || (select.from.iter().any(never) && !counts) {
        *expr = nothing();
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

fn tables_of(tables: &TableWithJoins) -> Vec<String> {
    let joined = tables.joins.iter().map(|join| &join.relation);
    std::iter::once(&tables.relation)
        .chain(joined)
        .filter_map(catalog_table)
        .collect()
}

/// A NULL that is a text.
fn nothing() -> Expr {
    let null = || Expr::value(Value::Null);
    call("pg_get_expr", vec![null(), null()])
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
                | Expr::InSubquery { .. }
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

/// Whether a statement reads PostgreSQL's own tables and no other.
pub(super) fn asks_catalog(statement: &Statement) -> bool {
    #[derive(Default)]
    struct Read {
        ctes: Vec<String>,
        catalog: bool,
        others: Vec<String>,
    }
    impl Visitor for Read {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
            self.ctes
                .extend(ctes.map(|cte| super::folded(&cte.alias.name)));
            ControlFlow::Continue(())
        }
        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            match catalog_table(factor) {
                Some(_) => self.catalog = true,
                None => {
                    if let TableFactor::Table {
                        name, args: None, ..
                    } = factor
                    {
                        self.others.push(super::words(name).join("."));
                    }
                }
            }
            ControlFlow::Continue(())
        }
    }
    let mut read = Read::default();
    let _ = statement.visit(&mut read);
    read.catalog && read.others.iter().all(|name| read.ctes.contains(name))
}

/// What holds in a statement about the catalog: there are no foreign keys, and `'{}'` is an empty array.
pub(super) fn assume(expr: &mut Expr) {
    if let Some(args) = super::calls::args_of(expr, "unnest")
        && matches!(args.as_slice(), [Expr::Subquery(_)] | [Expr::Nested(_)])
    {
        *expr = nothing();
        return;
    }
    // Types of types of a domain; no column here is of a domain.
    if let Expr::Subquery(query) = expr
        && query.with.as_ref().is_some_and(|with| with.recursive)
    {
        *expr = super::calls::big(Expr::value(Value::Null));
        return;
    }
    let Some(args) = super::calls::args_of(expr, "coalesce") else {
        return;
    };
    let empty = |expr: &Expr| matches!(expr, Expr::Value(value) if matches!(&value.value, Value::SingleQuotedString(text) if text == "{}"));
    if args.iter().any(|arg| empty(arg)) {
        let args = args.into_iter().map(|arg| match empty(arg) {
            true => call("make_array", Vec::new()),
            false => arg.clone(),
        });
        *expr = call("coalesce", args.collect());
    }
}

/// The planner sorts by no subquery; where all rows are shown, the others do.
pub(super) fn order_without_queries(query: &mut Query) {
    if let Some(OrderBy {
        kind: OrderByKind::Expressions(list),
        ..
    }) = &mut query.order_by
    {
        list.retain(|order| !is_heavy(&order.expr));
        if list.is_empty() {
            query.order_by = None;
        }
    }
}

/// `t.tableoid` as the OID of `t`.
pub(super) fn table_oids(select: &mut Select) {
    let mut oids: Vec<(String, i32)> = Vec::new();
    for tables in &select.from {
        let joined = tables.joins.iter().map(|join| &join.relation);
        for factor in std::iter::once(&tables.relation).chain(joined) {
            let (Some(table), TableFactor::Table { alias, .. }) = (catalog_table(factor), factor)
            else {
                continue;
            };
            let name = alias
                .as_ref()
                .map_or(table.clone(), |alias| super::folded(&alias.name));
            if let Some(oid) = fixed_oid(&table) {
                oids.push((name, oid));
            }
        }
    }
    if oids.is_empty() {
        return;
    }
    struct Replace(Vec<(String, i32)>);
    impl VisitorMut for Replace {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::CompoundIdentifier(names) = expr
                && let [table, column] = names.as_slice()
            {
                let table = super::folded(table);
                let found = self.0.iter().find(|(name, _)| *name == table);
                if let (Some((_, oid)), "tableoid") = (found, super::folded(column).as_str()) {
                    *expr = Expr::value(Value::Number(oid.to_string(), false));
                }
            }
            ControlFlow::Continue(())
        }
    }
    let mut replace = Replace(oids);
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            let _ = expr.visit(&mut replace);
        }
    }
    for expr in [&mut select.selection, &mut select.having]
        .into_iter()
        .flatten()
    {
        let _ = expr.visit(&mut replace);
    }
    for join in select.from.iter_mut().flat_map(|tables| &mut tables.joins) {
        let _ = VisitMut::visit(&mut join.join_operator, &mut replace);
    }
}
