//! What SQL made beside data: external tables, views, schemas and secrets, so that the next start can make them again.
//!
//! Takes and gives [`RelationRow`]s. A relation that is made again under its name keeps its place in the order. Knows no
//! SQL: what a statement makes is the engine's to say.

use super::Store;
use super::db::{self, Connection, Row, params};
use super::error::StoreError;

/// A schema, an external table, a view or a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationRow {
    /// `schema`, `table`, `view` or `secret`.
    pub kind: String,
    /// The schema that it is, or is in; empty for a secret.
    pub schema: String,
    /// Its name; empty for a schema.
    pub name: String,
    /// The statement as typed.
    pub sql: String,
    /// The statement that makes it again, wherever the program is started.
    pub made_by: String,
    /// The schema that `made_by` means where it names none.
    pub default_schema: String,
    /// Who.
    pub created_by: String,
    /// Microseconds since 1970-01-01 UTC.
    pub created_at: i64,
}

impl Store {
    /// Every relation, in the order in which they were first made.
    pub async fn relations(&self) -> Result<Vec<RelationRow>, StoreError> {
        self.read(|reader| {
            let mut select = reader.prepare_cached(
                "SELECT kind, \"schema\", name, sql, made_by, default_schema, created_by, created_at
                 FROM relations ORDER BY position",
            )?;
            select.query_map((), relation)?.collect()
        })
        .await
    }

    /// Keeps a relation, in the place of one of the same name.
    pub async fn put_relation(&self, row: RelationRow) -> Result<(), StoreError> {
        self.transact(move |writer| put(writer, &row)).await
    }

    /// Forgets a table or view, or with an empty name a schema; whether there was one.
    pub async fn remove_relation(&self, schema: &str, name: &str) -> Result<bool, StoreError> {
        let (schema, name) = (schema.to_owned(), name.to_owned());
        self.transact(move |writer| {
            let sql = "DELETE FROM relations WHERE \"schema\" = ?1 AND name = ?2";
            Ok(writer.execute(sql, [&schema, &name])? > 0)
        })
        .await
    }

    /// Forgets a schema and everything in it; how many relations that were.
    pub async fn remove_schema(&self, schema: &str) -> Result<usize, StoreError> {
        let schema = schema.to_owned();
        self.transact(move |writer| {
            writer.execute("DELETE FROM relations WHERE \"schema\" = ?1", [&schema])
        })
        .await
    }
}

fn put(writer: &Connection, row: &RelationRow) -> db::Result<()> {
    let sql = "INSERT INTO relations
                   (kind, \"schema\", name, sql, made_by, default_schema, created_by, created_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
               ON CONFLICT (\"schema\", name) DO UPDATE SET
                   kind = excluded.kind, sql = excluded.sql, made_by = excluded.made_by,
                   default_schema = excluded.default_schema, created_by = excluded.created_by,
                   created_at = excluded.created_at";
    let values = params![
        row.kind,
        row.schema,
        row.name,
        row.sql,
        row.made_by,
        row.default_schema,
        row.created_by,
        row.created_at
    ];
    writer.execute(sql, values).map(drop)
}

fn relation(row: &Row<'_>) -> db::Result<RelationRow> {
    Ok(RelationRow {
        kind: row.get(0)?,
        schema: row.get(1)?,
        name: row.get(2)?,
        sql: row.get(3)?,
        made_by: row.get(4)?,
        default_schema: row.get(5)?,
        created_by: row.get(6)?,
        created_at: row.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::bed::{Bed, on_both};

    fn row(kind: &str, name: &str, sql: &str) -> RelationRow {
        RelationRow {
            kind: kind.to_owned(),
            schema: "public".to_owned(),
            name: name.to_owned(),
            sql: sql.to_owned(),
            made_by: sql.to_owned(),
            default_schema: "public".to_owned(),
            created_by: "ann".to_owned(),
            created_at: 1,
        }
    }

    async fn relations_keep_their_order_and_are_there_after_a_restart(bed: Bed) {
        let store = bed.open();
        for (name, sql) in [("a", "1"), ("b", "2"), ("c", "3")] {
            store.put_relation(row("view", name, sql)).await.unwrap();
        }
        // Made again, it keeps its place.
        store.put_relation(row("table", "a", "4")).await.unwrap();
        assert!(store.remove_relation("public", "b").await.unwrap());
        assert!(!store.remove_relation("public", "b").await.unwrap());
        drop(store);
        let store = bed.open();
        let kept = store.relations().await.unwrap();
        assert_eq!(kept, [row("table", "a", "4"), row("view", "c", "3")]);
        assert_eq!(store.remove_schema("public").await.unwrap(), 2);
        assert!(store.relations().await.unwrap().is_empty());
    }

    on_both!(relations_keep_their_order_and_are_there_after_a_restart,);
}
