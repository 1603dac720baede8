//! Filters: what the store's database can answer exactly as DataFusion would.
//!
//! Takes a filter over a table's columns, gives SQL with its parameters, or nothing where the two might differ: then
//! DataFusion does it itself. Three-valued logic and comparison of text by bytes are the same in both; not-a-number and
//! negative zero are not, and are left to DataFusion. Literals are always parameters.

use super::columns::{Column, Kind, Table};
use super::db::Owned;
use super::place::Dialect;
use super::records::from_hex;
use crate::config::{STORE_FILTER_DEPTH_MAX, STORE_FILTER_LITERALS_MAX};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// A condition in the database's words.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    /// With a `?` for each parameter, in parentheses where it has parts.
    pub(super) sql: String,
    /// In the order of the `?`.
    pub(super) parameters: Vec<Owned>,
}

/// The condition that keeps exactly the rows that `filter` keeps; `None` if DataFusion must do it.
pub(super) fn translate(dialect: Dialect, table: &Table, filter: &Expr) -> Option<Condition> {
    let mut translation = Translation {
        dialect,
        table,
        parameters: Vec::new(),
    };
    let sql = translation.condition(filter, 0)?;
    Some(Condition {
        sql,
        parameters: translation.parameters,
    })
}

struct Translation<'a> {
    dialect: Dialect,
    table: &'a Table,
    parameters: Vec<Owned>,
}

impl Translation<'_> {
    fn condition(&mut self, expr: &Expr, depth: usize) -> Option<String> {
        if depth > STORE_FILTER_DEPTH_MAX {
            return None;
        }
        let below = depth + 1;
        match expr {
            Expr::Column(_) => self
                .column(expr)
                .filter(|c| c.kind == Kind::Bool)
                .map(|c| c.source(self.dialect).to_string()),
            Expr::Not(inner) => Some(format!("(NOT {})", self.condition(inner, below)?)),
            Expr::IsTrue(inner) => self.test(inner, "IS TRUE", below),
            Expr::IsNotTrue(inner) => self.test(inner, "IS NOT TRUE", below),
            Expr::IsFalse(inner) => self.test(inner, "IS FALSE", below),
            Expr::IsNotFalse(inner) => self.test(inner, "IS NOT FALSE", below),
            Expr::IsUnknown(inner) => self.test(inner, "IS NULL", below),
            Expr::IsNotUnknown(inner) => self.test(inner, "IS NOT NULL", below),
            Expr::IsNull(inner) => self.null(inner, "IS NULL"),
            Expr::IsNotNull(inner) => self.null(inner, "IS NOT NULL"),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::And | Operator::Or => {
                    let word = if *op == Operator::And { "AND" } else { "OR" };
                    let left = self.condition(left, below)?;
                    let right = self.condition(right, below)?;
                    Some(format!("({left} {word} {right})"))
                }
                _ => self.comparison(left, *op, right),
            },
            Expr::Between(between) => {
                let (low, high) = if between.negated {
                    (Operator::Lt, Operator::Gt)
                } else {
                    (Operator::GtEq, Operator::LtEq)
                };
                let word = if between.negated { "OR" } else { "AND" };
                let low = self.comparison(&between.expr, low, &between.low)?;
                let high = self.comparison(&between.expr, high, &between.high)?;
                Some(format!("({low} {word} {high})"))
            }
            Expr::InList(list) => self.member(&list.expr, &list.list, list.negated),
            _ => None,
        }
    }

    fn test(&mut self, inner: &Expr, test: &str, depth: usize) -> Option<String> {
        Some(format!("({} {test})", self.condition(inner, depth)?))
    }

    fn null(&mut self, inner: &Expr, test: &str) -> Option<String> {
        // An empty list is NULL in the file only.
        let column = self.column(inner).filter(|c| c.kind != Kind::Words)?;
        Some(format!("({} {test})", column.source(self.dialect)))
    }

    fn comparison(&mut self, left: &Expr, op: Operator, right: &Expr) -> Option<String> {
        let (column, op, literal) = match (self.column(left), self.column(right)) {
            (Some(column), None) => (column, op, right),
            (None, Some(column)) => (column, op.swap()?, left),
            _ => return None,
        };
        let sign = match op {
            Operator::Eq => "=",
            Operator::NotEq => "<>",
            Operator::Lt => "<",
            Operator::LtEq => "<=",
            Operator::Gt => ">",
            Operator::GtEq => ">=",
            _ => return None,
        };
        let literal = literal_of(column, literal)?;
        let source = column.source(self.dialect);
        if column.kind == Kind::Hex {
            // Bytes compare as their hex does, and by an index; whatever is not a digest is compared as hex.
            return match digest_of(&literal) {
                Some(digest) => self.bind(format!("({source} {sign} ?)"), digest),
                None => {
                    let hex = self.dialect.hex(source);
                    self.bind(format!("({hex} {sign} ?)"), literal)
                }
            };
        }
        self.bind(format!("({source} {sign} ?)"), literal)
    }

    fn member(&mut self, expr: &Expr, list: &[Expr], negated: bool) -> Option<String> {
        let column = self.column(expr)?;
        let literals: Option<Vec<Owned>> = list.iter().map(|e| literal_of(column, e)).collect();
        let mut literals = literals.filter(|l| !l.is_empty())?;
        let mut source = column.source(self.dialect).to_string();
        if column.kind == Kind::Hex {
            match literals.iter().map(digest_of).collect() {
                Some(digests) => literals = digests,
                None => source = self.dialect.hex(&source),
            }
        }
        if self.parameters.len() + literals.len() > STORE_FILTER_LITERALS_MAX {
            return None;
        }
        let word = if negated { "NOT IN" } else { "IN" };
        let marks = vec!["?"; literals.len()].join(", ");
        self.parameters.extend(literals);
        Some(format!("({source} {word} ({marks}))"))
    }

    fn bind(&mut self, sql: String, parameter: Owned) -> Option<String> {
        self.parameters.push(parameter);
        (self.parameters.len() <= STORE_FILTER_LITERALS_MAX).then_some(sql)
    }

    fn column(&self, expr: &Expr) -> Option<&'static Column> {
        match expr {
            Expr::Column(column) => self.table.column(&column.name),
            _ => None,
        }
    }
}

/// A literal of the column's own type, as the store holds it.
fn literal_of(column: &Column, expr: &Expr) -> Option<Owned> {
    let Expr::Literal(literal, _) = expr else {
        return None;
    };
    match (column.kind, literal) {
        (
            Kind::Text | Kind::Hex,
            ScalarValue::Utf8(Some(text))
            | ScalarValue::Utf8View(Some(text))
            | ScalarValue::LargeUtf8(Some(text)),
        ) => Some(Owned::Text(text.clone())),
        (Kind::Int, ScalarValue::Int64(Some(n))) => Some(Owned::Integer(*n)),
        (Kind::Float, ScalarValue::Float64(Some(x)))
            if !x.is_nan() && x.to_bits() != (-0.0_f64).to_bits() =>
        {
            Some(Owned::Real(*x))
        }
        (Kind::Bool, ScalarValue::Boolean(Some(b))) => Some(Owned::Integer(i64::from(*b))),
        // A time zone changes how a time is shown, not which it is.
        (Kind::Time, ScalarValue::TimestampMicrosecond(Some(t), Some(_))) => {
            Some(Owned::Integer(*t))
        }
        _ => None,
    }
}

/// The bytes of a digest spelled as this store spells it.
fn digest_of(literal: &Owned) -> Option<Owned> {
    let Owned::Text(hex) = literal else {
        return None;
    };
    if hex.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    from_hex(hex).map(|digest| Owned::Blob(digest.to_vec()))
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
