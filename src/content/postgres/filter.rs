//! Which filters PostgreSQL may decide: those that mean the same there and here.
//!
//! Takes expressions over a table's columns, gives SQL, or nothing for what is to stay here. What a filter is made of is
//! listed, not excluded: no function is ever sent, ours or another's.

use super::columns::{Column, EPOCH_MICROS, Kind};
use super::{literal, quoted};
use crate::config::{SERVER_FILTER_DEPTH_MAX, SERVER_FILTER_LITERALS_MAX};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{InList, Like};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};

/// Microseconds around 2000 within which moments are sent: years of four digits.
const MOMENTS: std::ops::Range<i64> = -63_000_000_000_000_000..252_000_000_000_000_000;

/// The SQL of a filter, if PostgreSQL may decide it.
pub(super) fn sql(expr: &Expr, columns: &[Column]) -> Option<String> {
    condition(expr, columns, SERVER_FILTER_DEPTH_MAX)
}

fn condition(expr: &Expr, columns: &[Column], depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    let nested = |expr: &Expr| condition(expr, columns, depth);
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => Some(format!("({} AND {})", nested(left)?, nested(right)?)),
            Operator::Or => Some(format!("({} OR {})", nested(left)?, nested(right)?)),
            _ => {
                let (column, op, value) = match (found(left, columns), found(right, columns)) {
                    (Some(column), None) => (column, *op, right),
                    (None, Some(column)) => (column, op.swap()?, left),
                    _ => return None,
                };
                compared(column, op, value)
            }
        },
        Expr::Not(inner) => Some(format!("(NOT {})", nested(inner)?)),
        Expr::IsNull(inner) => Some(format!("({} IS NULL)", name(inner, columns)?)),
        Expr::IsNotNull(inner) => Some(format!("({} IS NOT NULL)", name(inner, columns)?)),
        Expr::Column(_) => match found(expr, columns)? {
            column if column.kind == Kind::Bool => Some(quoted(&column.name)),
            _ => None,
        },
        Expr::Between(Between {
            expr,
            negated,
            low,
            high,
        }) => {
            let column = found(expr, columns)?;
            let low = compared(column, Operator::GtEq, low)?;
            let high = compared(column, Operator::LtEq, high)?;
            let not = if *negated { "NOT " } else { "" };
            Some(format!("({not}({low} AND {high}))"))
        }
        Expr::InList(InList {
            expr,
            list,
            negated,
        }) => {
            let column = found(expr, columns)?;
            if list.is_empty() || list.len() > SERVER_FILTER_LITERALS_MAX {
                return None;
            }
            let one = |expr| value(column, Operator::Eq, expr);
            let any: Option<Vec<String>> = list.iter().map(one).collect();
            let not = if *negated { "NOT " } else { "" };
            Some(format!("({} {not}IN ({}))", column.read(), any?.join(", ")))
        }
        Expr::Like(like) => matched(like, columns),
        _ => None,
    }
}

fn found<'a>(expr: &Expr, columns: &'a [Column]) -> Option<&'a Column> {
    let Expr::Column(column) = expr else {
        return None;
    };
    columns.iter().find(|known| known.name == column.name)
}

fn name(expr: &Expr, columns: &[Column]) -> Option<String> {
    found(expr, columns).map(|column| quoted(&column.name))
}

fn compared(column: &Column, op: Operator, expr: &Expr) -> Option<String> {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    if !matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq) {
        return None;
    }
    Some(format!(
        "({} {op} {})",
        column.read(),
        value(column, op, expr)?
    ))
}

/// What a column may be compared with by this operator.
fn value(column: &Column, op: Operator, expr: &Expr) -> Option<String> {
    let Expr::Literal(value, _) = expr else {
        return None;
    };
    let same = matches!(op, Operator::Eq | Operator::NotEq);
    match column.kind {
        // An index over a uuid is used, where the text is spelled as it would be read.
        Kind::Uuid => {
            let text = text(value).filter(|text| same && is_uuid(text))?;
            Some(format!("{}::uuid", literal(text)))
        }
        Kind::Text { bytewise: false } => None,
        Kind::Text { .. } | Kind::Other => {
            let text = literal(text(value)?);
            // Texts are ordered by their bytes here.
            let order = if same { "" } else { " COLLATE \"C\"" };
            Some(format!("{text}{order}"))
        }
        _ => number(column, value),
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    // PostgreSQL has no text with the character 0, and says so with an error.
    value.try_as_str()?.filter(|text| !text.contains('\0'))
}

/// A literal of a column's own type.
fn number(column: &Column, value: &ScalarValue) -> Option<String> {
    if value.data_type() != column.data_type() {
        return None;
    }
    match (column.kind, value) {
        // Rounded as it is read.
        (Kind::Unscaled, _) => None,
        (_, ScalarValue::Boolean(Some(value))) => Some(value.to_string()),
        (_, ScalarValue::Int16(Some(value))) => Some(format!("'{value}'::int2")),
        (_, ScalarValue::Int32(Some(value))) => Some(format!("'{value}'::int4")),
        (_, ScalarValue::Int64(Some(value))) => Some(format!("'{value}'::int8")),
        // 0 and -0 are one there and two here.
        (_, ScalarValue::Float32(Some(value))) if value.is_finite() && *value != 0.0 => {
            Some(format!("'{value:e}'::float4"))
        }
        (_, ScalarValue::Float64(Some(value))) if value.is_finite() && *value != 0.0 => {
            Some(format!("'{value:e}'::float8"))
        }
        (_, ScalarValue::Decimal128(Some(_), ..)) => Some(format!("'{value}'::numeric")),
        (_, ScalarValue::Date32(Some(days))) => {
            let micros = i64::from(*days).checked_mul(86_400_000_000)?;
            Some(format!("'{}'::date", moment(micros)?.format("%Y-%m-%d")))
        }
        (_, ScalarValue::TimestampMicrosecond(Some(micros), zone)) => {
            let shown = moment(*micros)?.format("%Y-%m-%d %H:%M:%S%.6f");
            Some(match zone {
                Some(_) => format!("'{shown}+00'::timestamptz"),
                None => format!("'{shown}'::timestamp"),
            })
        }
        _ => None,
    }
}

fn moment(micros: i64) -> Option<chrono::DateTime<chrono::Utc>> {
    let within = MOMENTS.contains(&micros.checked_sub(EPOCH_MICROS)?);
    within.then(|| chrono::DateTime::from_timestamp_micros(micros))?
}

/// As PostgreSQL spells one: in lower case, with four dashes.
fn is_uuid(text: &str) -> bool {
    let dash = |i: usize| [8, 13, 18, 23].contains(&i);
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(i, c)| if dash(i) { c == b'-' } else { hex(c) })
}

/// LIKE without ILIKE: what is the same letter in another case is asked of Unicode here and of the locale there.
fn matched(like: &Like, columns: &[Column]) -> Option<String> {
    let column = found(&like.expr, columns)?;
    let known = matches!(column.kind, Kind::Text { bytewise: true } | Kind::Other);
    let Expr::Literal(pattern, _) = like.pattern.as_ref() else {
        return None;
    };
    let pattern = text(pattern)?;
    // A backslash at the end is an error there.
    if !known || like.case_insensitive || like.escape_char.is_some() || pattern.contains('\\') {
        return None;
    }
    let not = if like.negated { "NOT " } else { "" };
    Some(format!(
        "({} {not}LIKE {})",
        column.read(),
        literal(pattern)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::{col, lit, lower};

    fn columns() -> Vec<Column> {
        let column = |name: &str, oid, modifier| Column {
            name: name.to_owned(),
            kind: Kind::new(oid, modifier, true),
            declared: "x".to_owned(),
        };
        let mut columns = vec![
            column("id", 20, -1),
            column("n", 23, -1),
            column("ok", 16, -1),
            column("body", 25, -1),
            column("key", 2950, -1),
            column("mood", 99_999, -1),
            column("score", 701, -1),
            column("price", 1700, (10 << 16 | 2) + 4),
            column("sum", 1700, -1),
            column("day", 1082, -1),
            column("at", 1184, -1),
        ];
        columns.push(Column {
            name: "soft".to_owned(),
            kind: Kind::Text { bytewise: false },
            declared: "text".to_owned(),
        });
        columns
    }

    #[test]
    fn what_means_the_same_on_both_sides_is_sent() {
        let at = ScalarValue::TimestampMicrosecond(Some(1_767_225_600_000_001), Some("UTC".into()));
        let key = "00112233-4455-6677-8899-aabbccddeeff";
        for (expr, want) in [
            (col("id").gt(lit(5i64)), "(\"id\" > '5'::int8)"),
            (lit(5i64).gt(col("id")), "(\"id\" < '5'::int8)"),
            (col("n").eq(lit(-3i32)), "(\"n\" = '-3'::int4)"),
            (col("ok"), "\"ok\""),
            (!col("ok"), "(NOT \"ok\")"),
            (col("body").eq(lit("it's")), "(\"body\" = 'it''s')"),
            (col("body").lt(lit("m")), "(\"body\" < 'm' COLLATE \"C\")"),
            (col("mood").eq(lit("sad")), "(\"mood\"::text = 'sad')"),
            (
                col("key").eq(lit(key)),
                "(\"key\" = '00112233-4455-6677-8899-aabbccddeeff'::uuid)",
            ),
            (
                col("score").gt_eq(lit(0.5)),
                "(\"score\" >= '5e-1'::float8)",
            ),
            (
                col("price").lt(lit(ScalarValue::Decimal128(Some(1050), 10, 2))),
                "(\"price\" < '10.50'::numeric)",
            ),
            (
                col("day").eq(lit(ScalarValue::Date32(Some(20_454)))),
                "(\"day\" = '2026-01-01'::date)",
            ),
            (
                col("at").gt(lit(at)),
                "(\"at\" > '2026-01-01 00:00:00.000001+00'::timestamptz)",
            ),
            (
                col("id").in_list(vec![lit(1i64), lit(2i64)], true),
                "(\"id\" NOT IN ('1'::int8, '2'::int8))",
            ),
            (
                col("id").between(lit(1i64), lit(2i64)),
                "((\"id\" >= '1'::int8 AND \"id\" <= '2'::int8))",
            ),
            (
                col("body").is_null().or(col("ok")),
                "((\"body\" IS NULL) OR \"ok\")",
            ),
            (col("body").like(lit("a%")), "(\"body\" LIKE 'a%')"),
        ] {
            let got = sql(&expr, &columns());
            let plain = |sql: &str| sql.replace(['(', ')'], "");
            assert_eq!(got.as_deref().map(plain), Some(plain(want)), "{expr}");
        }
    }

    #[test]
    fn what_may_mean_something_else_stays_here() {
        let deep = (0..SERVER_FILTER_DEPTH_MAX).fold(col("ok"), |expr, _| !expr);
        for expr in [
            lower(col("body")).eq(lit("x")),
            col("body").eq(lower(lit("X"))),
            col("body").ilike(lit("a%")),
            col("body").like(lit("a\\%")),
            col("body").eq(lit("a\0")),
            col("soft").eq(lit("x")),
            col("key").eq(lit("00112233-4455-6677-8899-AABBCCDDEEFF")),
            col("key").lt(lit("00112233-4455-6677-8899-aabbccddeeff")),
            col("score").eq(lit(0.0)),
            col("score").gt(lit(f64::NAN)),
            col("sum").gt(lit(ScalarValue::Decimal128(Some(1), 38, 18))),
            col("id").gt(lit(5i32)),
            col("id").in_list(vec![lit(1i64); SERVER_FILTER_LITERALS_MAX + 1], false),
            col("id").gt(lit(ScalarValue::Int64(None))),
            col("id").gt(col("n")),
            col("id") + lit(1i64),
            col("ok").and(lower(col("body")).eq(lit("x"))),
            deep,
        ] {
            assert_eq!(sql(&expr, &columns()), None, "{expr}");
        }
    }
}
