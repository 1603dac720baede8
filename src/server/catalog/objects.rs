//! Tables, views, columns, keys: `pg_class` and what hangs on it.

use super::Facts;
use super::provider::Shared;
use super::relations::{INFORMATION_SCHEMA, Key, PG_CATALOG, Relation, pg_type, relations};
use super::rows::{Cell, Row};
use super::tables::TABLES;
use datafusion::common::Result;
use std::sync::Arc;

/// PostgreSQL's first role, to whom its own things belong.
pub(super) const OWNER: i32 = 10;
/// Views have OIDs from here.
const FIRST_VIEW: i32 = 12_000;

/// Relations of the shared catalog.
pub(super) async fn own(shared: &Shared) -> Result<Vec<Relation>> {
    relations(&shared.catalog()?, &shared.oids).await
}

fn class(oid: i32, name: &str, schema: i32, kind: &str, columns: usize) -> Row {
    vec![
        ("oid", oid.into()),
        ("relname", name.into()),
        ("relnamespace", schema.into()),
        ("relowner", OWNER.into()),
        ("relam", if kind == "i" { 403 } else { 2 }.into()),
        ("relfilenode", oid.into()),
        ("reltuples", Cell::Float(-1.0)),
        ("relpersistence", "p".into()),
        ("relkind", kind.into()),
        ("relnatts", Cell::Int(i64::try_from(columns).unwrap_or(0))),
        ("relispopulated", true.into()),
        ("relreplident", "d".into()),
    ]
}

/// The schema of a table of PostgreSQL's, and its name in it.
fn place(name: &'static str) -> (&'static str, &'static str) {
    match name.split_once('.') {
        Some((_, name)) => (INFORMATION_SCHEMA, name),
        None => (PG_CATALOG, name),
    }
}

pub(super) async fn classes(shared: &Shared) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (table, oid, ..) in TABLES {
        let (schema, name) = place(table);
        let kind = if *oid < FIRST_VIEW { "r" } else { "v" };
        let columns = shared.columns.get(table).map_or(0, Vec::len);
        rows.push(class(*oid, name, shared.oids.schema(schema), kind, columns));
    }
    for relation in own(shared).await? {
        let schema = shared.oids.schema(&relation.schema);
        let columns = relation.columns.fields().len();
        let mut row = class(relation.oid, &relation.name, schema, relation.kind, columns);
        if !relation.keys.is_empty() {
            row.push(("relhasindex", true.into()));
        }
        rows.push(row);
        for key in &relation.keys {
            rows.push(class(key.index, &key.name, schema, "i", key.columns.len()));
        }
    }
    Ok(rows)
}

pub(super) async fn attributes(shared: &Shared) -> Result<Vec<Row>> {
    let attribute = |relation: i32, at: usize, name: &str, kind: (i32, i64, i64), not_null| {
        let (oid, length, modifier) = kind;
        let row: Row = vec![
            ("attrelid", Cell::from(relation)),
            ("attname", name.into()),
            ("atttypid", Cell::from(oid)),
            ("attstattarget", Cell::Int(-1)),
            ("attlen", Cell::Int(length)),
            ("attnum", Cell::Int(i64::try_from(at).unwrap_or(0) + 1)),
            ("attcacheoff", Cell::Int(-1)),
            ("atttypmod", Cell::Int(modifier)),
            ("attbyval", Cell::Bool((1..=8).contains(&length))),
            ("attalign", "i".into()),
            ("attstorage", if length < 0 { "x" } else { "p" }.into()),
            ("attcompression", "".into()),
            ("attnotnull", Cell::Bool(not_null)),
            ("attidentity", "".into()),
            ("attgenerated", "".into()),
            ("attislocal", true.into()),
            ("attcollation", if oid == 25 { 100 } else { 0 }.into()),
        ];
        row
    };
    let mut rows = Vec::new();
    for (table, oid, ..) in TABLES {
        let columns = shared.columns.get(table).map_or(&[][..], Vec::as_slice);
        for (at, (name, kind)) in columns.iter().enumerate() {
            rows.push(attribute(*oid, at, name, pg_type(&kind.data_type()), false));
        }
    }
    for relation in own(shared).await? {
        for (at, field) in relation.columns.fields().iter().enumerate() {
            let kind = pg_type(field.data_type());
            rows.push(attribute(
                relation.oid,
                at,
                field.name(),
                kind,
                !field.is_nullable(),
            ));
        }
        for key in &relation.keys {
            for (at, column) in key.columns.iter().enumerate() {
                let place = usize::try_from(*column).unwrap_or(0).saturating_sub(1);
                let Some(field) = relation.columns.fields().get(place) else {
                    continue;
                };
                let kind = pg_type(field.data_type());
                rows.push(attribute(key.index, at, field.name(), kind, false));
            }
        }
    }
    Ok(rows)
}

/// The schemas that there are.
pub(super) fn schemas(shared: &Shared) -> Result<Vec<String>> {
    let mut schemas = shared.catalog()?.schema_names();
    for known in [PG_CATALOG, INFORMATION_SCHEMA] {
        if !schemas.iter().any(|schema| schema == known) {
            schemas.push(known.to_owned());
        }
    }
    schemas.sort();
    Ok(schemas)
}

pub(super) fn namespaces(shared: &Arc<Shared>) -> Result<Vec<Row>> {
    let row = |schema: String| {
        vec![
            ("oid", shared.oids.schema(&schema).into()),
            ("nspname", schema.into()),
            ("nspowner", OWNER.into()),
        ]
    };
    Ok(schemas(shared)?.into_iter().map(row).collect())
}

async fn keyed(shared: &Shared) -> Result<Vec<(Relation, Key)>> {
    let relations = own(shared).await?.into_iter();
    Ok(relations
        .flat_map(|relation| {
            let keys = relation.keys.clone();
            keys.into_iter().map(move |key| (relation.clone(), key))
        })
        .collect())
}

pub(super) async fn indexes(shared: &Shared) -> Result<Vec<Row>> {
    let row = |(relation, key): (Relation, Key)| {
        let count = Cell::Int(i64::try_from(key.columns.len()).unwrap_or(0));
        let zeros = vec![0_i64; key.columns.len()];
        vec![
            ("indexrelid", key.index.into()),
            ("indrelid", relation.oid.into()),
            ("indnatts", count.clone()),
            ("indnkeyatts", count),
            ("indisunique", true.into()),
            ("indisprimary", key.primary.into()),
            ("indimmediate", true.into()),
            ("indisvalid", true.into()),
            ("indisready", true.into()),
            ("indislive", true.into()),
            ("indkey", key.columns.into()),
            ("indcollation", zeros.clone().into()),
            ("indclass", zeros.clone().into()),
            ("indoption", zeros.into()),
        ]
    };
    Ok(keyed(shared).await?.into_iter().map(row).collect())
}

/// The columns of a key, by name.
pub(super) fn key_columns(relation: &Relation, key: &Key) -> Vec<String> {
    let name = |at: &i64| {
        let at = usize::try_from(*at).ok()?.checked_sub(1)?;
        Some(relation.columns.fields().get(at)?.name().clone())
    };
    key.columns.iter().filter_map(name).collect()
}

pub(super) async fn index_list(shared: &Shared) -> Result<Vec<Row>> {
    let row = |(relation, key): (Relation, Key)| {
        let columns = key_columns(&relation, &key).join(", ");
        let definition = format!(
            "CREATE UNIQUE INDEX {} ON {}.{} ({columns})",
            key.name, relation.schema, relation.name
        );
        vec![
            ("schemaname", relation.schema.into()),
            ("tablename", relation.name.into()),
            ("indexname", key.name.into()),
            ("indexdef", definition.into()),
        ]
    };
    Ok(keyed(shared).await?.into_iter().map(row).collect())
}

pub(super) async fn constraints(shared: &Shared) -> Result<Vec<Row>> {
    let row = |(relation, key): (Relation, Key)| {
        vec![
            ("oid", key.oid.into()),
            ("conname", key.name.into()),
            ("connamespace", shared.oids.schema(&relation.schema).into()),
            ("contype", if key.primary { "p" } else { "u" }.into()),
            ("convalidated", true.into()),
            ("conrelid", relation.oid.into()),
            ("conindid", key.index.into()),
            ("confupdtype", " ".into()),
            ("confdeltype", " ".into()),
            ("confmatchtype", " ".into()),
            ("conislocal", true.into()),
            ("connoinherit", true.into()),
            ("conkey", key.columns.into()),
        ]
    };
    Ok(keyed(shared).await?.into_iter().map(row).collect())
}

/// Whom tables belong to: this server has no owners.
pub(super) fn owner(facts: Option<&Facts>) -> String {
    facts.map_or_else(|| "safeguard".to_owned(), |facts| facts.user.clone())
}

pub(super) async fn tables(shared: &Shared, facts: Option<&Facts>) -> Result<Vec<Row>> {
    let row = |schema: &str, name: &str, keyed: bool| -> Row {
        vec![
            ("schemaname", schema.into()),
            ("tablename", name.into()),
            ("tableowner", owner(facts).into()),
            ("hasindexes", keyed.into()),
        ]
    };
    let mut rows = Vec::new();
    for (table, oid, ..) in TABLES {
        let (schema, name) = place(table);
        if *oid < FIRST_VIEW {
            rows.push(row(schema, name, false));
        }
    }
    for relation in own(shared).await?.iter().filter(|r| r.kind == "r") {
        rows.push(row(
            &relation.schema,
            &relation.name,
            !relation.keys.is_empty(),
        ));
    }
    Ok(rows)
}

pub(super) async fn views(shared: &Shared, facts: Option<&Facts>) -> Result<Vec<Row>> {
    let relations = own(shared).await?.into_iter().filter(|r| r.kind == "v");
    let row = |relation: Relation| {
        vec![
            ("schemaname", relation.schema.into()),
            ("viewname", relation.name.into()),
            ("viewowner", owner(facts).into()),
            ("definition", relation.definition.into()),
        ]
    };
    Ok(relations.map(row).collect())
}
