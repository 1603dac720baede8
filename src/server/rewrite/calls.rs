//! Calls of PostgreSQL's functions: their schemas, their spellings, and those that give several rows.

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, LambdaFunction,
    LambdaFunctionParameter, LambdaSyntax, ObjectName, ObjectNamePart, OneOrManyWithParens,
    OrderByExpr, OrderByKind, Query, SelectItem, SetExpr, TableAlias, TableFactor, TableWithJoins,
    Value,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use std::sync::LazyLock;

/// A call of a function.
pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(function(name, args, Vec::new()))
}

/// In a list, `generate_series` gives a row for each of its numbers; the planner's gives an array.
pub(super) fn series(list: &mut [SelectItem]) {
    for item in list {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
            && let Expr::Function(function) = &*expr
            && super::words(&function.name).last().map(String::as_str) == Some("generate_series")
        {
            *expr = call("unnest", vec![expr.clone()]);
        }
    }
}

fn function(name: &str, args: Vec<Expr>, clauses: Vec<FunctionArgumentClause>) -> Function {
    let args = args.into_iter();
    Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args
                .map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)))
                .collect(),
            clauses,
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    }
}

/// `(SELECT value) alias`.
pub(super) fn table_of(value: Expr, alias: Option<TableAlias>) -> TableFactor {
    let mut query = VALUE.clone();
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection = vec![SelectItem::UnnamedExpr(value)];
    }
    TableFactor::Derived {
        lateral: false,
        subquery: Box::new(query),
        alias,
        sample: None,
    }
}

/// `SELECT 1`, to be filled.
static VALUE: LazyLock<Query> = LazyLock::new(|| {
    let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql("SELECT 1");
    let query = parsed.and_then(|mut parser| parser.parse_query());
    *query.expect("bug: SELECT 1 is a query")
});

/// The name without PostgreSQL's own schema; other schemas' functions keep theirs.
pub(super) fn bare(name: &mut ObjectName) {
    let words = super::words(name);
    let own = matches!(words.as_slice(), [schema, _] if schema == "pg_catalog" || schema == "information_schema");
    if own {
        name.0.remove(0);
    }
}

/// The arguments of a call of this function.
pub(super) fn args_of<'a>(expr: &'a Expr, wanted: &str) -> Option<Vec<&'a Expr>> {
    let Expr::Function(Function { name, args, .. }) = expr else {
        return None;
    };
    if super::words(name).as_slice() != [wanted] {
        return None;
    }
    let FunctionArguments::List(list) = args else {
        return None;
    };
    let exprs = list.args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    exprs.collect()
}

pub(super) fn rewrite(expr: &mut Expr) {
    if let Expr::Identifier(name) = expr {
        // Words that PostgreSQL takes for calls.
        let word = name.value.to_lowercase();
        let known = ["current_schema", "current_role", "current_catalog"];
        if name.quote_style.is_none() && known.contains(&word.as_str()) {
            *expr = call(&word, Vec::new());
        }
        return;
    }
    if let Expr::Function(function) = expr {
        bare(&mut function.name);
        if let FunctionArguments::Subquery(query) = &mut function.args {
            if super::words(&function.name).as_slice() == ["array"]
                && let Some(gathered) = gathered(query)
            {
                *expr = gathered;
            }
            return;
        }
    }
    if let Some(args) = args_of(expr, "generate_subscripts") {
        let Some(array) = args.first() else { return };
        let length = call("array_length", vec![(*array).clone()]);
        let one = Expr::value(Value::Number("1".into(), false));
        let places = call("generate_series", vec![one, big(length)]);
        *expr = call("unnest", vec![places]);
    } else if let Some(args) = args_of(expr, "_pg_expandarray") {
        let Some(array) = args.first() else { return };
        let inner = call("pg_expandarray", vec![(*array).clone()]);
        *expr = call("unnest", vec![inner]);
    } else if let Some(args) = args_of(expr, "regexp_split_to_table") {
        let args: Vec<Expr> = args.into_iter().cloned().collect();
        *expr = call("unnest", vec![call("string_to_array", args)]);
    }
}

/// As a BIGINT.
pub(super) fn big(expr: Expr) -> Expr {
    use datafusion::sql::sqlparser::ast::{CastKind, DataType};
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(expr),
        data_type: DataType::BigInt(None),
        array: false,
        format: None,
    }
}

/// `ARRAY(SELECT f(x) FROM unnest(a) x)` as `array_transform(a, x -> f(x))`.
fn transformed(query: &Query) -> Option<Expr> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    let [TableWithJoins { relation, joins }] = select.from.as_slice() else {
        return None;
    };
    let (arrays, alias): (Vec<Expr>, _) = match relation {
        TableFactor::UNNEST {
            alias, array_exprs, ..
        } => (array_exprs.clone(), alias.as_ref()?),
        TableFactor::Table {
            name, alias, args, ..
        } if super::words(name)
            .last()
            .is_some_and(|last| last == "unnest") =>
        {
            let args = args.as_ref()?.args.iter().map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                _ => None,
            });
            (args.collect::<Option<_>>()?, alias.as_ref()?)
        }
        _ => return None,
    };
    let ([array], true, None) = (arrays.as_slice(), joins.is_empty(), &select.selection) else {
        return None;
    };
    let [SelectItem::UnnamedExpr(body) | SelectItem::ExprWithAlias { expr: body, .. }] =
        select.projection.as_slice()
    else {
        return None;
    };
    let name = match alias.columns.as_slice() {
        [] => alias.name.clone(),
        [column] => column.name.clone(),
        _ => return None,
    };
    if matches!(body, Expr::Identifier(column) if column.value == name.value) {
        return Some(array.clone());
    }
    let lambda = Expr::Lambda(LambdaFunction {
        params: OneOrManyWithParens::One(LambdaFunctionParameter {
            name,
            data_type: None,
        }),
        body: Box::new(body.clone()),
        syntax: LambdaSyntax::Arrow,
    });
    Some(call("array_transform", vec![array.clone(), lambda]))
}

/// Ranks are bigint to PostgreSQL, and unsigned to DataFusion, which clients would take for numeric.
pub(super) fn ranks(expr: &mut Expr) {
    const RANKS: [&str; 4] = ["row_number", "rank", "dense_rank", "ntile"];
    let Expr::Function(function) = expr else {
        return;
    };
    let name = function.name.to_string().to_lowercase();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
    if function.over.is_some() && RANKS.contains(&name) {
        let rank = std::mem::replace(expr, Expr::value(Value::Null));
        *expr = Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(rank),
            data_type: DataType::BigInt(None),
            array: false,
            format: None,
        };
    }
}

/// `ARRAY(SELECT x ..)` as `(SELECT array_agg(x) ..)`.
fn gathered(query: &Query) -> Option<Expr> {
    if let Some(transformed) = transformed(query) {
        return Some(transformed);
    }
    let mut query = query.clone();
    let order = query.order_by.take();
    let SetExpr::Select(select) = query.body.as_mut() else {
        return None;
    };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    if grouped || select.distinct.is_some() || query.limit_clause.is_some() {
        return None;
    }
    let [item] = select.projection.as_mut_slice() else {
        return None;
    };
    let value = match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => expr.clone(),
        _ => return None,
    };
    let by = match order.map(|order| order.kind) {
        Some(OrderByKind::Expressions(list)) => list,
        _ => Vec::new(),
    };
    let by = by.into_iter().map(|mut order: OrderByExpr| {
        // ORDER BY 1 is the value itself.
        if matches!(&order.expr, Expr::Value(value) if matches!(value.value, Value::Number(..))) {
            order.expr = value.clone();
        }
        order
    });
    let by: Vec<OrderByExpr> = by.collect();
    let clauses = match by.is_empty() {
        true => Vec::new(),
        false => vec![FunctionArgumentClause::OrderBy(by)],
    };
    let gathered = Expr::Function(function("array_agg", vec![value], clauses));
    *item = SelectItem::UnnamedExpr(gathered);
    Some(Expr::Subquery(Box::new(query)))
}
