//! `information_schema` as PostgreSQL fills it.

use super::Facts;
use super::objects::{key_columns, own, owner, schemas};
use super::provider::{Shared, database};
use super::relations::{Relation, pg_type, type_name};
use super::rows::{Cell, Row};
use datafusion::common::Result;

pub(super) async fn tables(shared: &Shared, facts: Option<&Facts>) -> Result<Vec<Row>> {
    let database = database(shared, facts);
    let row = |relation: Relation| {
        let view = relation.kind == "v";
        vec![
            ("table_catalog", database.as_str().into()),
            ("table_schema", relation.schema.into()),
            ("table_name", relation.name.into()),
            (
                "table_type",
                if view { "VIEW" } else { "BASE TABLE" }.into(),
            ),
            ("is_insertable_into", yes(!view)),
            ("is_typed", "NO".into()),
        ]
    };
    Ok(own(shared).await?.into_iter().map(row).collect())
}

fn yes(yes: bool) -> Cell {
    if yes { "YES" } else { "NO" }.into()
}

pub(super) async fn columns(shared: &Shared, facts: Option<&Facts>) -> Result<Vec<Row>> {
    let database = database(shared, facts);
    let mut rows = Vec::new();
    for relation in own(shared).await? {
        for (at, field) in relation.columns.fields().iter().enumerate() {
            let (oid, _, modifier) = pg_type(field.data_type());
            let short = shared.types.by_oid.get(&oid).cloned().unwrap_or_default();
            let name = match short.strip_prefix('_') {
                Some(_) => "ARRAY".to_owned(),
                None => type_name(oid, None, &|_| Some(short.clone())),
            };
            let (precision, scale) = match (oid, modifier) {
                (21, _) => (Some(16), Some(0)),
                (23, _) => (Some(32), Some(0)),
                (20, _) => (Some(64), Some(0)),
                (700, _) => (Some(24), None),
                (701, _) => (Some(53), None),
                (1700, modifier) if modifier > 4 => {
                    (Some((modifier - 4) >> 16), Some((modifier - 4) & 0x7ff))
                }
                _ => (None, None),
            };
            let radix = precision.map(|_| if oid == 1700 { 10_i64 } else { 2 });
            let time = matches!(oid, 1083 | 1114 | 1184 | 1186).then_some(6_i64);
            rows.push(vec![
                ("table_catalog", database.as_str().into()),
                ("table_schema", relation.schema.as_str().into()),
                ("table_name", relation.name.as_str().into()),
                ("column_name", field.name().as_str().into()),
                (
                    "ordinal_position",
                    Cell::Int(i64::try_from(at).unwrap_or(0) + 1),
                ),
                ("is_nullable", yes(field.is_nullable())),
                ("data_type", name.into()),
                ("numeric_precision", precision.into()),
                ("numeric_precision_radix", radix.into()),
                ("numeric_scale", scale.into()),
                ("datetime_precision", time.into()),
                ("udt_catalog", database.as_str().into()),
                ("udt_schema", "pg_catalog".into()),
                ("udt_name", short.into()),
                ("dtd_identifier", (at + 1).to_string().into()),
                ("is_self_referencing", "NO".into()),
                ("is_identity", "NO".into()),
                ("is_generated", "NEVER".into()),
                ("is_updatable", yes(relation.kind == "r")),
            ]);
        }
    }
    Ok(rows)
}

pub(super) fn schemata(shared: &Shared, facts: Option<&Facts>) -> Result<Vec<Row>> {
    let database = database(shared, facts);
    let row = |schema: String| {
        vec![
            ("catalog_name", database.as_str().into()),
            ("schema_name", schema.into()),
            ("schema_owner", owner(facts).into()),
        ]
    };
    Ok(schemas(shared)?.into_iter().map(row).collect())
}

pub(super) async fn views(shared: &Shared, facts: Option<&Facts>) -> Result<Vec<Row>> {
    let database = database(shared, facts);
    let row = |relation: Relation| {
        vec![
            ("table_catalog", database.as_str().into()),
            ("table_schema", relation.schema.into()),
            ("table_name", relation.name.into()),
            ("view_definition", relation.definition.into()),
            ("check_option", "NONE".into()),
            ("is_updatable", "NO".into()),
            ("is_insertable_into", "NO".into()),
        ]
    };
    let views = own(shared).await?.into_iter().filter(|r| r.kind == "v");
    Ok(views.map(row).collect())
}

pub(super) async fn constraints(shared: &Shared, facts: Option<&Facts>) -> Result<Vec<Row>> {
    let database = database(shared, facts);
    let mut rows = Vec::new();
    for relation in own(shared).await? {
        for key in &relation.keys {
            rows.push(vec![
                ("constraint_catalog", database.as_str().into()),
                ("constraint_schema", relation.schema.as_str().into()),
                ("constraint_name", key.name.as_str().into()),
                ("table_catalog", database.as_str().into()),
                ("table_schema", relation.schema.as_str().into()),
                ("table_name", relation.name.as_str().into()),
                (
                    "constraint_type",
                    if key.primary { "PRIMARY KEY" } else { "UNIQUE" }.into(),
                ),
                ("is_deferrable", "NO".into()),
                ("initially_deferred", "NO".into()),
                ("enforced", "NO".into()),
            ]);
        }
    }
    Ok(rows)
}

pub(super) async fn keys(shared: &Shared, facts: Option<&Facts>) -> Result<Vec<Row>> {
    let database = database(shared, facts);
    let mut rows = Vec::new();
    for relation in own(shared).await? {
        for key in &relation.keys {
            for (at, column) in key_columns(&relation, key).into_iter().enumerate() {
                rows.push(vec![
                    ("constraint_catalog", database.as_str().into()),
                    ("constraint_schema", relation.schema.as_str().into()),
                    ("constraint_name", key.name.as_str().into()),
                    ("table_catalog", database.as_str().into()),
                    ("table_schema", relation.schema.as_str().into()),
                    ("table_name", relation.name.as_str().into()),
                    ("column_name", column.into()),
                    (
                        "ordinal_position",
                        Cell::Int(i64::try_from(at).unwrap_or(0) + 1),
                    ),
                ]);
            }
        }
    }
    Ok(rows)
}

pub(super) fn routines(shared: &Shared, facts: Option<&Facts>) -> Vec<Row> {
    let database = database(shared, facts);
    let row = |function: &super::functions_of::Function| {
        vec![
            ("specific_catalog", database.as_str().into()),
            ("specific_schema", function.schema.into()),
            (
                "specific_name",
                format!("{}_{}", function.name, function.oid).into(),
            ),
            ("routine_catalog", database.as_str().into()),
            ("routine_schema", function.schema.into()),
            ("routine_name", function.name.as_str().into()),
            ("routine_type", "FUNCTION".into()),
            ("data_type", super::function_type(function.returns).into()),
            ("routine_body", "EXTERNAL".into()),
            ("external_language", "INTERNAL".into()),
            ("is_deterministic", "NO".into()),
        ]
    };
    shared.functions.iter().map(row).collect()
}

pub(super) fn parameters(shared: &Shared, facts: Option<&Facts>) -> Vec<Row> {
    let database = database(shared, facts);
    let mut rows = Vec::new();
    for function in &shared.functions {
        for (at, (name, oid)) in function.arguments.iter().enumerate() {
            rows.push(vec![
                ("specific_catalog", database.as_str().into()),
                ("specific_schema", function.schema.into()),
                (
                    "specific_name",
                    format!("{}_{}", function.name, function.oid).into(),
                ),
                (
                    "ordinal_position",
                    Cell::Int(i64::try_from(at).unwrap_or(0) + 1),
                ),
                ("parameter_mode", "IN".into()),
                ("is_result", "NO".into()),
                ("parameter_name", name.as_str().into()),
                ("data_type", super::function_type(*oid).into()),
            ]);
        }
    }
    rows
}
