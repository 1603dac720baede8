//! The tables that there are, their OIDs, and their columns' types in PostgreSQL's numbers.
//!
//! OIDs are given when a name is first seen and stay for the life of the server. PostgreSQL's own relations keep
//! theirs, so that what its static tables refer to is found.

use super::provider;
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::catalog::CatalogProvider;
use datafusion::common::{Constraint, Result};
use datafusion::logical_expr::TableType;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The first OID of what is not PostgreSQL's own.
const FIRST_OID: i32 = 16_384;
/// The schema that holds PostgreSQL's own relations.
pub(super) const PG_CATALOG: &str = "pg_catalog";
/// The standard's schema.
pub(super) const INFORMATION_SCHEMA: &str = "information_schema";

/// OIDs of schemas that PostgreSQL knows, as its own catalog has them.
const SCHEMAS: [(&str, i32); 4] = [
    (PG_CATALOG, 11),
    ("pg_toast", 99),
    ("public", 2200),
    (INFORMATION_SCHEMA, 13_000),
];

/// A table or a view.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub oid: i32,
    pub schema: String,
    pub name: String,
    /// `r` or `v`.
    pub kind: &'static str,
    pub columns: SchemaRef,
    /// The SQL of a view, where it is known.
    pub definition: Option<String>,
    pub keys: Vec<Key>,
}

/// A primary key or a unique constraint.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub oid: i32,
    /// Of the index.
    pub index: i32,
    pub name: String,
    pub primary: bool,
    /// From 1.
    pub columns: Vec<i64>,
}

/// Names and their OIDs.
#[derive(Debug, Default)]
pub(super) struct Oids {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<(String, String), i32>,
    by_oid: HashMap<i32, (String, String)>,
    /// The SQL of views, indexes and constraints that were seen.
    definitions: HashMap<i32, String>,
}

impl Oids {
    /// The OID of a relation, given now if it has none.
    pub fn relation(&self, schema: &str, name: &str) -> i32 {
        if schema == PG_CATALOG
            && let Some(oid) = provider::fixed_oid(name)
        {
            return oid;
        }
        self.of(schema, name)
    }

    /// The OID of a schema.
    pub fn schema(&self, name: &str) -> i32 {
        let fixed = SCHEMAS.iter().find(|(schema, _)| *schema == name);
        fixed.map_or_else(|| self.of("", name), |(_, oid)| *oid)
    }

    /// The schema and the name that a relation's OID stands for, if it was ever given.
    pub fn name_of(&self, oid: i32) -> Option<(String, String)> {
        if let Some(name) = provider::name_of(oid) {
            return Some((PG_CATALOG.to_owned(), name.to_owned()));
        }
        if let Some((schema, _)) = SCHEMAS.iter().find(|(_, known)| *known == oid) {
            return Some((String::new(), (*schema).to_owned()));
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_oid.get(&oid).cloned()
    }

    /// The SQL that makes a view, an index or a constraint, as it was when the catalog was last read.
    pub fn definition(&self, oid: i32) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.definitions.get(&oid).cloned()
    }

    fn define(&self, oid: i32, definition: String) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.definitions.insert(oid, definition);
    }

    /// The OID of anything else, such as a role (`space` tells kinds apart).
    pub fn of(&self, space: &str, name: &str) -> i32 {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (space.to_owned(), name.to_owned());
        if let Some(oid) = known.by_name.get(&key) {
            return *oid;
        }
        let given = i32::try_from(known.by_name.len()).unwrap_or(i32::MAX);
        let oid = FIRST_OID.saturating_add(given);
        known.by_name.insert(key.clone(), oid);
        known.by_oid.insert(oid, key);
        oid
    }
}

/// The relations of a catalog that are not PostgreSQL's own.
pub(super) async fn relations(
    catalog: &Arc<dyn CatalogProvider>,
    oids: &Oids,
) -> Result<Vec<Relation>> {
    let mut relations = Vec::new();
    let mut schemas = catalog.schema_names();
    schemas.sort();
    for schema in schemas {
        if schema == PG_CATALOG || schema == INFORMATION_SCHEMA {
            continue;
        }
        let Some(provider) = catalog.schema(&schema) else {
            continue;
        };
        let mut names = provider.table_names();
        names.sort();
        for name in names {
            // It may be dropped meanwhile, or not be readable: then it is not there.
            let Ok(Some(table)) = provider.table(&name).await else {
                continue;
            };
            let kind = match table.table_type() {
                TableType::View => "v",
                _ => "r",
            };
            let constraints = table.constraints().cloned().unwrap_or_default();
            let oid = oids.relation(&schema, &name);
            let definition = table.get_table_definition().map(query_of);
            if let (Some(definition), "v") = (&definition, kind) {
                oids.define(oid, definition.clone());
            }
            relations.push(Relation {
                oid,
                kind,
                columns: table.schema(),
                definition,
                keys: keys(&constraints, (&schema, &name), &table.schema(), oids),
                schema: schema.clone(),
                name,
            });
        }
    }
    Ok(relations)
}

/// The query of a view; its definition is the statement that made it.
fn query_of(definition: &str) -> String {
    let lower = definition.to_lowercase();
    match lower.find(" as ") {
        Some(at) if lower.trim_start().starts_with("create") => {
            format!("{};", definition[at + 4..].trim())
        }
        _ => definition.to_owned(),
    }
}

fn keys(
    constraints: &[Constraint],
    (schema, table): (&str, &str),
    columns: &SchemaRef,
    oids: &Oids,
) -> Vec<Key> {
    let key = |constraint: &Constraint| {
        let (primary, places) = match constraint {
            Constraint::PrimaryKey(places) => (true, places),
            Constraint::Unique(places) => (false, places),
        };
        let names: Vec<&str> = places
            .iter()
            .filter_map(|at| columns.fields().get(*at))
            .map(|field| field.name().as_str())
            .collect();
        let name = match primary {
            true => format!("{table}_pkey"),
            false => format!("{table}_{}_key", names.join("_")),
        };
        let oid = oids.of("constraint", &format!("{schema}.{name}"));
        let index = oids.relation(schema, &name);
        let word = if primary { "PRIMARY KEY" } else { "UNIQUE" };
        let list = names.join(", ");
        oids.define(oid, format!("{word} ({list})"));
        let made = format!("CREATE UNIQUE INDEX {name} ON {schema}.{table} USING btree ({list})");
        oids.define(index, made);
        Key {
            oid,
            index,
            name,
            primary,
            columns: places
                .iter()
                .map(|at| i64::try_from(*at).unwrap_or(0) + 1)
                .collect(),
        }
    };
    constraints.iter().map(key).collect()
}

/// PostgreSQL's type of a column: its OID, its length (-1: it varies), and its modifier (-1: none).
pub(super) fn pg_type(data_type: &DataType) -> (i32, i64, i64) {
    let plain = |oid, length| (oid, length, -1);
    match data_type {
        DataType::Boolean => plain(16, 1),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => plain(21, 2),
        DataType::Int32 | DataType::UInt16 => plain(23, 4),
        DataType::Int64 | DataType::UInt32 => plain(20, 8),
        DataType::UInt64 => plain(1700, -1),
        DataType::Float16 | DataType::Float32 => plain(700, 4),
        DataType::Float64 => plain(701, 8),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            let modifier = (i64::from(*precision) << 16 | (i64::from(*scale) & 0x7ff)) + 4;
            (1700, -1, modifier)
        }
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => plain(17, -1),
        DataType::Date32 | DataType::Date64 => plain(1082, 4),
        DataType::Time32(_) | DataType::Time64(_) => plain(1083, 8),
        DataType::Timestamp(_, None) => plain(1114, 8),
        DataType::Timestamp(TimeUnit::Second, Some(_)) | DataType::Timestamp(_, Some(_)) => {
            plain(1184, 8)
        }
        DataType::Interval(_) | DataType::Duration(_) => plain(1186, 16),
        DataType::Struct(_) => plain(2249, -1),
        DataType::Dictionary(_, value) => pg_type(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            plain(array_of(pg_type(item.data_type()).0), -1)
        }
        _ => plain(25, -1),
    }
}

/// The array type of a type that [`pg_type`] gives.
fn array_of(oid: i32) -> i32 {
    match oid {
        16 => 1000,
        17 => 1001,
        20 => 1016,
        21 => 1005,
        23 => 1007,
        700 => 1021,
        701 => 1022,
        1082 => 1182,
        1083 => 1183,
        1114 => 1115,
        1184 => 1185,
        1186 => 1187,
        1700 => 1231,
        2249 => 2287,
        _ => 1009,
    }
}

/// The standard's name of a type, as `format_type` gives it.
pub(super) fn type_name(
    oid: i32,
    modifier: Option<i64>,
    catalog: &dyn Fn(i32) -> Option<String>,
) -> String {
    let name = match oid {
        0 => "-",
        16 => "boolean",
        18 => "\"char\"",
        20 => "bigint",
        21 => "smallint",
        23 => "integer",
        700 => "real",
        701 => "double precision",
        1042 => "character",
        1043 => "character varying",
        1083 => "time without time zone",
        1114 => "timestamp without time zone",
        1184 => "timestamp with time zone",
        1266 => "time with time zone",
        1560 => "bit",
        1562 => "bit varying",
        1700 => match modifier {
            Some(modifier) if modifier > 4 => {
                let (precision, scale) = ((modifier - 4) >> 16, (modifier - 4) & 0x7ff);
                return format!("numeric({precision},{scale})");
            }
            _ => "numeric",
        },
        _ => {
            return match catalog(oid) {
                // Arrays are named after what they hold.
                Some(name) => match name.strip_prefix('_') {
                    Some(item) => format!("{}[]", standard_name(item)),
                    None => name,
                },
                None => "???".to_owned(),
            };
        }
    };
    name.to_owned()
}

/// The standard's name for one of PostgreSQL's short names.
pub(super) fn standard_name(short: &str) -> &str {
    match short {
        "bool" => "boolean",
        "char" => "\"char\"",
        "int8" => "bigint",
        "int2" => "smallint",
        "int4" => "integer",
        "float4" => "real",
        "float8" => "double precision",
        "bpchar" => "character",
        "varchar" => "character varying",
        "time" => "time without time zone",
        "timestamp" => "timestamp without time zone",
        "timestamptz" => "timestamp with time zone",
        "timetz" => "time with time zone",
        "bit" => "bit",
        "varbit" => "bit varying",
        other => other,
    }
}
