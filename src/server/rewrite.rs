//! PostgreSQL's SQL as DataFusion's planner reads it.
//!
//! Takes a parsed statement, gives one that the planner can plan and that means the same: names of PostgreSQL's own
//! tables and functions, casts to `regclass` and its like, arrays written as texts, subqueries that look one value up
//! in the catalog. What PostgreSQL has and this server has not is refused by name. Columns were named before, so
//! nothing here changes what a client sees of them. Knows no schema of a user's.

mod arrays;
mod calls;
mod casts;
mod lookups;
mod parameters;
mod refused;

pub use parameters::infer;

use super::catalog::has_table;
use super::failure::Failure;
use calls::{bare, call};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, Ident, LimitClause, ObjectName,
    ObjectNamePart, Query, Select, Statement, TableAlias, TableAliasColumnDef, TableFactor, Value,
    VisitMut, VisitorMut,
};
use std::ops::ControlFlow;

/// A statement that the planner can plan and that means the same.
///
/// # Errors
/// 0A000, naming the statement, for what PostgreSQL has and this server has not.
pub fn statement(mut statement: Statement) -> Result<Statement, Failure> {
    refused::check(&statement)?;
    casts::columns(&mut statement);
    let mut rewriter = Rewriter {
        depth: 0,
        asks: lookups::asks_catalog(&statement),
    };
    match statement.visit(&mut rewriter) {
        ControlFlow::Break(failure) => Err(failure),
        ControlFlow::Continue(()) => Ok(statement),
    }
}

struct Rewriter {
    /// Queries around this place.
    depth: usize,
    /// The statement reads PostgreSQL's own tables only.
    asks: bool,
}

impl VisitorMut for Rewriter {
    type Break = Failure;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Failure> {
        self.depth += 1;
        if !query.locks.is_empty() {
            let message = format!("{} is not supported", query.locks[0]);
            let hint = "rows are never locked";
            return ControlFlow::Break(Failure::new("0A000", message).with_hint(hint));
        }
        for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            cte.materialized = None;
        }
        if self.asks && query.limit_clause.is_none() {
            lookups::order_without_queries(query);
        }
        // LIMIT ALL and LIMIT NULL are no limit.
        if let Some(LimitClause::LimitOffset { limit, .. }) = &mut query.limit_clause
            && limit.as_ref().is_some_and(is_null)
        {
            *limit = None;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Failure> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Failure> {
        if self.depth == 1 {
            casts::shown(&mut select.projection);
        }
        calls::series(&mut select.projection);
        lookups::skip_for_empty(select);
        lookups::table_oids(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Failure> {
        table(factor);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Failure> {
        casts::before(expr);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Failure> {
        calls::ranks(expr);
        casts::after(expr);
        calls::rewrite(expr);
        arrays::rewrite(expr);
        lookups::rewrite(expr);
        if self.asks {
            lookups::assume(expr);
        }
        operators(expr);
        ControlFlow::Continue(())
    }
}

fn is_null(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if value.value == Value::Null)
}

/// The words of a name, folded.
fn words(name: &ObjectName) -> Vec<String> {
    let parts = name.0.iter().filter_map(ObjectNamePart::as_ident);
    parts.map(folded).collect()
}

fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn quoted(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

/// PostgreSQL looks for its own tables without being told where.
fn table(factor: &mut TableFactor) {
    let TableFactor::Table {
        name, alias, args, ..
    } = factor
    else {
        match factor {
            TableFactor::Function { name, .. } => bare(name),
            TableFactor::UNNEST { alias, .. } => one_column(alias, "unnest"),
            _ => {}
        }
        return;
    };
    if let Some(args) = args {
        bare(name);
        let function = words(name).join(".");
        match function.as_str() {
            "generate_series" | "unnest" | "range" => one_column(alias, &function),
            "string_to_array" | "current_schemas" | "current_schema" | "version" | "now" => {
                // A function of one value, read as a table of one row.
                let exprs = args.args.iter().filter_map(|arg| match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                    _ => None,
                });
                let value = call(&function, exprs.collect());
                one_column(alias, &function);
                let alias = alias.take();
                *factor = calls::table_of(value, alias);
            }
            _ => {}
        }
        return;
    }
    let words = words(name);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let table = match words.as_slice() {
        [table] if has_table(table) => (*table).to_owned(),
        ["pg_catalog", table] | [_, "pg_catalog", table] => (*table).to_owned(),
        ["information_schema", table] | [_, "information_schema", table]
            if has_table(&format!("information_schema.{table}")) =>
        {
            if alias.is_none() {
                *alias = Some(TableAlias {
                    explicit: true,
                    name: quoted(table),
                    columns: Vec::new(),
                    at: None,
                });
            }
            format!("information_schema.{table}")
        }
        _ => return,
    };
    let parts = ["pg_catalog", &table].map(|part| ObjectNamePart::Identifier(quoted(part)));
    *name = ObjectName(parts.to_vec());
}

/// The one column of a function in FROM is called as the function is there.
fn one_column(alias: &mut Option<TableAlias>, function: &str) {
    let alias = alias.get_or_insert_with(|| TableAlias {
        explicit: true,
        name: quoted(function),
        columns: Vec::new(),
        at: None,
    });
    if alias.columns.is_empty() {
        alias.columns.push(TableAliasColumnDef {
            name: alias.name.clone(),
            data_type: None,
        });
    }
}

/// Operators that are spelled out, collations, escapes.
fn operators(expr: &mut Expr) {
    match expr {
        Expr::Collate { expr: inner, .. } => {
            let inner = std::mem::replace(inner.as_mut(), Expr::value(Value::Null));
            *expr = inner;
        }
        Expr::BinaryOp { op, .. } => {
            let BinaryOperator::PGCustomBinaryOperator(names) = op else {
                return;
            };
            *op = match names.last().map(String::as_str) {
                Some("~") => BinaryOperator::PGRegexMatch,
                Some("~*") => BinaryOperator::PGRegexIMatch,
                Some("!~") => BinaryOperator::PGRegexNotMatch,
                Some("!~*") => BinaryOperator::PGRegexNotIMatch,
                Some("~~") => BinaryOperator::PGLikeMatch,
                Some("~~*") => BinaryOperator::PGILikeMatch,
                Some("!~~") => BinaryOperator::PGNotLikeMatch,
                Some("!~~*") => BinaryOperator::PGNotILikeMatch,
                Some("=") => BinaryOperator::Eq,
                Some("<>" | "!=") => BinaryOperator::NotEq,
                Some("<") => BinaryOperator::Lt,
                Some("<=") => BinaryOperator::LtEq,
                Some(">") => BinaryOperator::Gt,
                Some(">=") => BinaryOperator::GtEq,
                Some("||") => BinaryOperator::StringConcat,
                Some("+") => BinaryOperator::Plus,
                Some("-") => BinaryOperator::Minus,
                Some("*") => BinaryOperator::Multiply,
                Some("/") => BinaryOperator::Divide,
                _ => return,
            };
        }
        Expr::Like {
            pattern,
            escape_char,
            ..
        }
        | Expr::ILike {
            pattern,
            escape_char,
            ..
        } => {
            let Some(escape) = escape_char.take() else {
                return;
            };
            let Value::SingleQuotedString(escape) = escape.value else {
                return;
            };
            escaped(pattern, &escape);
        }
        _ => {}
    }
}

/// A pattern with another escape, as one with the backslash, which is the only one that the engine knows.
fn escaped(pattern: &mut Box<Expr>, escape: &str) {
    if escape == "\\" {
        return;
    }
    let text = |text: String| Expr::value(Value::SingleQuotedString(text));
    if let Expr::Value(value) = pattern.as_mut()
        && let Value::SingleQuotedString(known) = &mut value.value
    {
        let mut plain = known.replace('\\', "\\\\");
        if let Some(letter) = escape.chars().next() {
            let doubled = format!("{letter}{letter}");
            plain = plain.replace(&doubled, "\u{0}");
            plain = plain
                .replace(letter, "\\")
                .replace('\u{0}', &letter.to_string());
        }
        *known = plain;
        return;
    }
    let known = std::mem::replace(pattern.as_mut(), Expr::value(Value::Null));
    let doubled = call(
        "replace",
        vec![known, text("\\".into()), text("\\\\".into())],
    );
    **pattern = match escape.is_empty() {
        true => doubled,
        false => call(
            "replace",
            vec![doubled, text(escape.into()), text("\\".into())],
        ),
    };
}

#[cfg(test)]
mod tests;
