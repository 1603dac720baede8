//! Names of output columns, as PostgreSQL gives them.
//!
//! Takes a parsed statement, gives every unnamed expression of every SELECT list an alias by PostgreSQL's rules
//! (`count(*)` is `count`, `1` is `?column?`, `x::int` is `x`), and makes equal names different, since DataFusion
//! wants them unique: `a`, `a␁2`. Whoever shows a name cuts it with [`display_name`]. Columns stay as they are where
//! that can be, so that GROUP BY, ORDER BY and DISTINCT find them. Knows no schema.

use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, DataType, Expr, Ident, ObjectName, OrderBy, OrderByKind, Query,
    Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement, Subscript,
    TimezoneInfo, TrimWhereField, Value, VisitMut, VisitorMut,
};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

/// Stands between a name and the number that makes it unique.
const MARK: char = '\u{1}';
/// The name of what has none.
const UNNAMED: &str = "?column?";

/// The name that a client is to see of a column.
pub fn display_name(name: &str) -> &str {
    name.split(MARK).next().unwrap_or(name)
}

/// A name for a place that knows no two of one name, such as a JSON object's keys.
pub fn unique_name(name: &str) -> String {
    name.replace(MARK, "_")
}

/// Names every SELECT list of a statement.
///
/// # Errors
/// SQLSTATE 42701 for a view or a table with two columns of one name.
pub(super) fn name_columns(statement: &mut Statement) -> Result<(), DataFusionError> {
    let defines = match statement {
        Statement::CreateView(_) => true,
        Statement::CreateTable(table) => table.columns.is_empty() && table.query.is_some(),
        _ => false,
    };
    let mut names = Names {
        defines,
        queries: Vec::new(),
    };
    match statement.visit(&mut names) {
        ControlFlow::Break(name) => Err(twice(&name)),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// As [`name_columns`], for a query that stands alone.
pub(super) fn name_query(query: &mut Query) {
    let mut names = Names {
        defines: false,
        queries: Vec::new(),
    };
    let _ = query.visit(&mut names);
}

fn twice(name: &str) -> DataFusionError {
    let error = SchemaError::DuplicateUnqualifiedField {
        name: name.to_owned(),
    };
    DataFusionError::SchemaError(Box::new(error), Box::new(None))
}

struct Names {
    /// The outermost columns become those of a table or a view.
    defines: bool,
    /// Whether each query around this place has an ORDER BY.
    queries: Vec<bool>,
}

impl VisitorMut for Names {
    type Break = String;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<String> {
        self.queries.push(query.order_by.is_some());
        order_by_place(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<String> {
        self.queries.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<String> {
        let outermost = self.queries.len() <= 1;
        let ordered = self.queries.last().copied().unwrap_or(false);
        // A name that stands for two columns cannot be used from outside: the first may not answer for both.
        let hide_first = !outermost && !ordered && select.distinct.is_none();
        match name_list(&mut select.projection, outermost && !ordered, hide_first) {
            Some(name) if outermost && self.defines => ControlFlow::Break(name),
            _ => {
                // A set operation has the names of its first list.
                self.defines = self.defines && !outermost;
                ControlFlow::Continue(())
            }
        }
    }
}

/// `SELECT DISTINCT f(a) .. ORDER BY f(a)` by the place of `f(a)`: by its name the planner would not know it again.
fn order_by_place(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return;
    };
    let whole = |item: &SelectItem| {
        matches!(
            item,
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
        )
    };
    if select.distinct.is_none() || select.projection.iter().any(whole) {
        return;
    }
    let Some(OrderBy {
        kind: OrderByKind::Expressions(orders),
        ..
    }) = &mut query.order_by
    else {
        return;
    };
    for order in orders {
        let sought = order.expr.to_string();
        let same = |item: &SelectItem| match item {
            SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => false,
            SelectItem::UnnamedExpr(expr) => expr.to_string() == sought,
            _ => false,
        };
        if let Some(at) = select.projection.iter().position(same) {
            order.expr = Expr::value(Value::Number((at + 1).to_string(), false));
        }
    }
}

/// Which tables' columns a list takes whole.
fn wildcards(list: &[SelectItem]) -> (bool, HashSet<String>) {
    let mut tables = HashSet::new();
    let mut all = false;
    for item in list {
        match item {
            SelectItem::Wildcard(_) => all = true,
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                tables.insert(name.to_string());
            }
            _ => {}
        }
    }
    (all, tables)
}

/// Whether an item is a column without an alias, and of which table.
fn as_column(item: &SelectItem) -> Option<(Option<String>, String)> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some((None, folded(name))),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(names)) => {
            let (last, table) = names.split_last()?;
            let table: Vec<String> = table.iter().map(ToString::to_string).collect();
            Some((Some(table.join(".")), folded(last)))
        }
        _ => None,
    }
}

/// Names a list; gives a name that it holds twice, if there is one.
fn name_list(list: &mut [SelectItem], free: bool, hide_first: bool) -> Option<String> {
    let (all, tables) = wildcards(list);
    let starred = all || !tables.is_empty();
    let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, item) in list.iter().enumerate() {
        let name = match item {
            SelectItem::UnnamedExpr(expr) => name_of(expr),
            SelectItem::ExprWithAlias { alias, .. } => folded(alias),
            _ => continue,
        };
        groups.entry(name).or_default().push(at);
    }
    let mut double = None;
    for (name, places) in groups {
        let columns: Vec<_> = places.iter().map(|at| as_column(&list[*at])).collect();
        // Columns of different tables may share a name, as long as nobody names the list's columns from outside.
        let apart = {
            let tables: HashSet<_> = columns.iter().flatten().map(|(table, _)| table).collect();
            columns.iter().all(|c| matches!(c, Some((Some(_), _)))) && tables.len() == places.len()
        };
        if places.len() > 1 {
            double = Some(name.clone());
        }
        for (nth, at) in places.iter().enumerate() {
            let again = match &columns[nth] {
                // The star has it already.
                Some((table, _)) if all || table.as_ref().is_some_and(|t| tables.contains(t)) => {
                    true
                }
                Some(_) if apart && !hide_first => false,
                _ if places.len() > 1 => nth > 0 || hide_first,
                // The star may have a column of this name, which nobody here can know.
                None => starred && free && matches!(list[*at], SelectItem::UnnamedExpr(_)),
                Some(_) => false,
            };
            let alias = match again {
                true => format!("{name}{MARK}{}", at + 1),
                false if columns[nth].is_some() => continue,
                false => name.clone(),
            };
            set_alias(&mut list[*at], alias, again);
        }
    }
    double
}

fn set_alias(item: &mut SelectItem, name: String, again: bool) {
    let quoted = Ident::with_quote('"', name);
    match item {
        SelectItem::UnnamedExpr(expr) => {
            let expr = std::mem::replace(expr, Expr::value(Value::Null));
            *item = SelectItem::ExprWithAlias {
                expr,
                alias: quoted,
            };
        }
        SelectItem::ExprWithAlias { alias, .. } if again => *alias = quoted,
        _ => {}
    }
}

/// An identifier as PostgreSQL reads it.
pub fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn last_of(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(|part| part.as_ident()).map(folded)
}

fn name_of(expr: &Expr) -> String {
    figure(expr).map_or_else(|| UNNAMED.to_owned(), |(name, _)| name)
}

/// A name, and whether it is a strong one: that of a column or a function, which a cast around it keeps.
/// PostgreSQL's FigureColname.
fn figure(expr: &Expr) -> Option<(String, bool)> {
    let strong = |name: &str| Some((name.to_owned(), true));
    match expr {
        Expr::Identifier(name) => Some((folded(name), true)),
        Expr::CompoundIdentifier(names) => names.last().map(|name| (folded(name), true)),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(name)) => Some(folded(name)),
                AccessExpr::Subscript(Subscript::Index { index }) => literal(index),
                _ => None,
            });
            field.map_or_else(|| figure(root), |name| Some((name, true)))
        }
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => figure(inner),
        Expr::Function(function) => last_of(&function.name).map(|name| (name, true)),
        Expr::Cast {
            expr, data_type, ..
        } => match figure(expr) {
            Some((name, true)) => Some((name, true)),
            _ => Some((type_name(data_type), false)),
        },
        Expr::TypedString(typed) => Some((type_name(&typed.data_type), false)),
        Expr::Interval(_) => Some(("interval".to_owned(), false)),
        Expr::Value(value) => match value.value {
            Value::Boolean(_) => Some(("bool".to_owned(), false)),
            _ => None,
        },
        Expr::Case { else_result, .. } => match else_result.as_deref().and_then(figure) {
            Some((name, true)) => Some((name, true)),
            _ => Some(("case".to_owned(), false)),
        },
        Expr::Exists { negated: false, .. } => strong("exists"),
        Expr::Subquery(query) => subquery_name(&query.body),
        Expr::Array(_) => strong("array"),
        Expr::Tuple(_) => strong("row"),
        Expr::Extract { .. } => strong("extract"),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::Position { .. } => strong("position"),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::Substring { shorthand, .. } => {
            strong(if *shorthand { "substr" } else { "substring" })
        }
        Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }),
        _ => None,
    }
}

fn subquery_name(body: &SetExpr) -> Option<(String, bool)> {
    match body {
        SetExpr::Select(select) => match select.projection.first()? {
            SelectItem::UnnamedExpr(expr) => figure(expr),
            SelectItem::ExprWithAlias { alias, .. } => Some((folded(alias), true)),
            _ => None,
        },
        SetExpr::Query(query) => subquery_name(&query.body),
        SetExpr::SetOperation { left, .. } => subquery_name(left),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// PostgreSQL's own name of a type that may be spelled in several ways.
fn type_name(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => "int4",
        DataType::BigInt(_) | DataType::Int8(_) => "int8",
        DataType::SmallInt(_) | DataType::Int2(_) => "int2",
        DataType::Real | DataType::Float4 => "float4",
        DataType::DoublePrecision | DataType::Double(_) | DataType::Float8 | DataType::Float(_) => {
            "float8"
        }
        DataType::Numeric(_) | DataType::Decimal(_) | DataType::Dec(_) => "numeric",
        DataType::Bool | DataType::Boolean => "bool",
        DataType::Varchar(_) | DataType::CharacterVarying(_) | DataType::CharVarying(_) => {
            "varchar"
        }
        DataType::Char(_) | DataType::Character(_) => "bpchar",
        DataType::Time(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => "timetz",
        DataType::Time(..) => "time",
        DataType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => "timestamptz",
        DataType::Timestamp(..) => "timestamp",
        DataType::Interval { .. } => "interval",
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(inner, _) | ArrayElemTypeDef::AngleBracket(inner),
        ) => return type_name(inner),
        DataType::Custom(name, _) => return last_of(name).unwrap_or_default(),
        other => {
            let text = other.to_string().to_lowercase();
            return text.split('(').next().unwrap_or_default().trim().to_owned();
        }
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    fn named(sql: &str) -> Result<Statement, DataFusionError> {
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql)
            .unwrap()
            .remove(0);
        name_columns(&mut statement)?;
        Ok(statement)
    }

    /// The outermost list's names, marks as `#`.
    fn names(sql: &str) -> String {
        let Statement::Query(query) = named(sql).unwrap() else {
            panic!("{sql}")
        };
        let SetExpr::Select(select) = *query.body else {
            panic!("{sql}")
        };
        let name = |item: &SelectItem| match item {
            SelectItem::ExprWithAlias { alias, .. } => alias.value.replace(MARK, "#"),
            SelectItem::UnnamedExpr(expr) => format!("[{expr}]"),
            other => other.to_string(),
        };
        let names: Vec<String> = select.projection.iter().map(name).collect();
        names.join(" ")
    }

    #[test]
    fn expressions_are_named_as_postgresql_names_them() {
        for (list, want) in [
            ("1, 'a', NULL", "?column? ?column?#2 ?column?#3"),
            ("true", "bool"),
            (
                "count(*), Sum(x), pg_catalog.version()",
                "count sum version",
            ),
            (
                "a + 1, -a, NOT b, a = 1, a IS NULL",
                "?column? ?column?#2 ?column?#3 ?column?#4 ?column?#5",
            ),
            (
                "a::int, 1::int, '1'::bigint::text, lower(x)::text",
                "a int4 text lower",
            ),
            (
                "date '2020-01-01', interval '1 day', '1'::double precision",
                "date interval float8",
            ),
            (
                "'2020-01-01'::timestamptz, '{1}'::int[], 'x'::pg_catalog.regclass",
                "timestamptz int4 regclass",
            ),
            (
                "CASE WHEN a THEN 1 END, CASE WHEN a THEN 1 ELSE b END",
                "case b",
            ),
            (
                "EXISTS (SELECT 1), (SELECT max(x) FROM t), (SELECT 1 AS n)",
                "exists max n",
            ),
            ("(v).label, v['score'], a[1], (f(x)).y", "label score a y"),
            (
                "COALESCE(a, b), NULLIF(a, b), ARRAY[1], ARRAY(SELECT 1)",
                "coalesce nullif array array#4",
            ),
            (
                "extract(year FROM d), trim(x), substring(x FROM 1), position('a' IN x)",
                "extract btrim substring position",
            ),
            ("d AT TIME ZONE 'UTC', x COLLATE \"C\"", "timezone x"),
            ("current_user, current_date", "current_user current_date"),
            ("\"Upper\", \"F\"(1)", "[\"Upper\"] F"),
            // Columns stay columns.
            ("a, t.b", "[a] [t.b]"),
            ("a, a", "[a] a#2"),
            ("t.id, u.id", "[t.id] [u.id]"),
            ("t.id, t.id", "[t.id] id#2"),
            ("1 AS a, 2 AS a", "a a#2"),
            ("a, b AS a", "[a] a#2"),
            // A star may hold anything.
            ("*, a", "* a#2"),
            ("t.*, t.a, u.a", "t.* a#2 [u.a]"),
            ("*, upper(a)", "* upper#2"),
        ] {
            assert_eq!(names(&format!("SELECT {list} FROM t, u")), want, "{list}");
        }
    }

    #[test]
    fn names_inside_are_those_that_the_outside_uses() {
        for (sql, want) in [
            (
                "SELECT count FROM (SELECT count(*) FROM t) x",
                "SELECT count FROM (SELECT count(*) AS \"count\" FROM t) x",
            ),
            (
                "SELECT * FROM (SELECT a.id, b.id FROM a, b) x",
                "SELECT * FROM (SELECT a.id AS \"id#1\", b.id AS \"id#2\" FROM a, b) x",
            ),
            (
                "SELECT 1, 1 UNION SELECT 2, 2",
                "SELECT 1 AS \"?column?\", 1 AS \"?column?#2\" UNION SELECT 2 AS \"?column?\", 2 AS \"?column?#2\"",
            ),
            (
                "SELECT *, upper(a) FROM t ORDER BY upper",
                "SELECT *, upper(a) AS \"upper\" FROM t ORDER BY upper",
            ),
        ] {
            let got = named(sql).unwrap().to_string().replace(MARK, "#");
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_table_has_no_two_columns_of_one_name() {
        for (sql, fails) in [
            ("CREATE VIEW v AS SELECT 1, 2", true),
            ("CREATE TABLE t AS SELECT a, a FROM u", true),
            (
                "CREATE TABLE t AS SELECT 1 AS a, 2 AS b UNION SELECT 3, 4",
                false,
            ),
            ("CREATE VIEW v AS SELECT 1 AS a, 2 AS b", false),
            (
                "CREATE VIEW v AS SELECT a FROM (SELECT 1 AS a, 2 AS b, 3 AS b) x",
                false,
            ),
        ] {
            let error = named(sql).err();
            assert_eq!(error.is_some(), fails, "{sql}");
            let state = error.map(|e| crate::error::sqlstate(&e));
            assert_eq!(state, fails.then_some("42701"), "{sql}");
        }
    }
}
