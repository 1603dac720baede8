//! Casts: PostgreSQL's types that the engine has under other names, and those that stand for OIDs.
//!
//! `'t'::regclass` is the OID of `t`, and `oid::regclass::text` the name of what has it: both become calls. What a
//! statement shows of a `regclass` is the name.

use super::calls::call;
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, CastKind, DataType, Expr, ObjectName, ObjectNamePart, SelectItem, Statement,
    TimezoneInfo, TypedString, Value,
};

/// A type that stands for OIDs and shows names; with the first part of its functions' names.
fn registered(data_type: &DataType) -> Option<&'static str> {
    let name = match data_type {
        DataType::Regclass => return Some("regclass"),
        DataType::Custom(name, _) => last_word(name)?,
        _ => return None,
    };
    Some(match name.as_str() {
        "regclass" => "regclass",
        "regtype" => "regtype",
        "regproc" | "regprocedure" => "regproc",
        "regnamespace" => "regnamespace",
        "regrole" => "regrole",
        _ => return None,
    })
}

fn last_word(name: &ObjectName) -> Option<String> {
    let words = super::words(name);
    match words.as_slice() {
        [word] => Some(word.clone()),
        [schema, word] if schema == "pg_catalog" => Some(word.clone()),
        _ => None,
    }
}

/// The type as the engine knows it.
fn known(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Uuid
        | DataType::JSON
        | DataType::JSONB
        | DataType::TsVector
        | DataType::TsQuery => DataType::Text,
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, size)) => {
            let item = known(item)?;
            DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(item), *size))
        }
        DataType::Custom(name, _) => {
            let quoted = name.0.last().and_then(ObjectNamePart::as_ident);
            let quoted = quoted.is_some_and(|ident| ident.quote_style.is_some());
            match last_word(name)?.as_str() {
                "char" if quoted => DataType::Text,
                "oid" | "xid" | "cid" => DataType::Int(None),
                "xid8" | "int8" => DataType::BigInt(None),
                "int4" | "integer" | "serial" | "serial4" => DataType::Int(None),
                "bigserial" | "serial8" => DataType::BigInt(None),
                "smallserial" | "serial2" | "int2" => DataType::SmallInt(None),
                "bool" | "boolean" => DataType::Boolean,
                "float4" => DataType::Real,
                "float8" => DataType::DoublePrecision,
                "date" => DataType::Date,
                "timestamp" => DataType::Timestamp(None, TimezoneInfo::None),
                "timestamptz" => DataType::Timestamp(None, TimezoneInfo::Tz),
                "bytea" => DataType::Bytea,
                "text" | "varchar" | "bpchar" | "name" | "cstring" | "citext" | "inet" | "cidr"
                | "macaddr" | "macaddr8" | "xml" | "json" | "jsonb" | "uuid" | "jsonpath"
                | "pg_node_tree" | "aclitem" | "regoper" | "regoperator" | "regconfig"
                | "regdictionary" | "regcollation" | "ltree" | "money" | "unknown" => {
                    DataType::Text
                }
                _ => return None,
            }
        }
        _ => return None,
    })
}

fn is_text(data_type: &DataType) -> bool {
    let known = known(data_type);
    matches!(
        known.as_ref().unwrap_or(data_type),
        DataType::Text | DataType::Varchar(_) | DataType::CharacterVarying(_)
    )
}

/// A name or a number that a client wrote, or will give.
fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => matches!(
            value.value,
            Value::SingleQuotedString(_) | Value::Placeholder(_) | Value::EscapedStringLiteral(_)
        ),
        Expr::Nested(inner) => is_literal(inner),
        Expr::Cast {
            expr, data_type, ..
        } => is_text(data_type) && is_literal(expr),
        _ => false,
    }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::value(Value::Null))
}

/// Taken apart: the value, and the kind of the cast to an OID's type that is around it.
fn as_registered(expr: &Expr) -> Option<(&'static str, &Expr)> {
    match expr {
        Expr::Cast {
            expr, data_type, ..
        } => registered(data_type).map(|kind| (kind, expr.as_ref())),
        Expr::Nested(inner) => as_registered(inner),
        _ => None,
    }
}

/// The OID that a value of such a type is; the value may be a name or an OID already.
fn number(kind: &str, value: &Expr) -> Expr {
    match as_registered(value) {
        Some((kind, value)) => number(kind, value),
        None => call(&format!("{kind}_in"), vec![value.clone()]),
    }
}

/// What is shown of it: its name, without a look-up that could fail for a number.
fn name(kind: &str, value: &Expr) -> Expr {
    let out = format!("{kind}_out");
    match is_literal(value) || as_registered(value).is_some() {
        true => call(&out, vec![number(kind, value)]),
        false => call(&out, vec![value.clone()]),
    }
}

/// What the outermost list shows of such types: names.
pub(super) fn shown(list: &mut [SelectItem]) {
    for item in list {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            continue;
        };
        if let Some((kind, value)) = as_registered(expr) {
            *expr = name(kind, value);
        }
    }
}

/// Before the parts of an expression are looked at: whole chains of casts.
pub(super) fn before(expr: &mut Expr) {
    if let Expr::Cast {
        expr: inner,
        data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)),
        ..
    } = expr
        && registered(item) == Some("regtype")
    {
        *expr = call("regtypes_out", vec![take(inner)]);
        return;
    }
    if let Expr::Cast {
        expr: inner,
        data_type,
        ..
    } = expr
        && is_text(data_type)
        && let Some((kind, value)) = as_registered(inner)
    {
        *expr = name(kind, value);
        return;
    }
    if let Some((kind, value)) = as_registered(expr) {
        *expr = number(kind, value);
    }
}

/// After them: types by their other names.
pub(super) fn after(expr: &mut Expr) {
    match expr {
        Expr::Cast { data_type, .. } => {
            if let Some(known) = known(data_type) {
                *data_type = known;
            }
        }
        Expr::TypedString(TypedString {
            data_type, value, ..
        }) => {
            if let Some(kind) = registered(data_type) {
                *expr = call(&format!("{kind}_in"), vec![Expr::Value(value.clone())]);
            } else if let Some(known) = known(data_type) {
                *expr = Expr::Cast {
                    kind: CastKind::Cast,
                    expr: Box::new(Expr::Value(value.clone())),
                    data_type: known,
                    array: false,
                    format: None,
                };
            }
        }
        Expr::Nested(inner) if matches!(inner.as_ref(), Expr::Function(_)) => *expr = take(inner),
        _ => {}
    }
}

/// The columns of a new table.
pub(super) fn columns(statement: &mut Statement) {
    if let Statement::CreateTable(table) = statement {
        for column in &mut table.columns {
            if let Some(known) = known(&column.data_type) {
                column.data_type = known;
            }
        }
    }
}
