//! The schema of a shared store: made where it is missing, checked where it is not, brought to the known version.
//!
//! Versions are those of SQLite's files. Each says what the oldest program is that can work on it: as long as tables and
//! columns are only added, servers of two versions share a store while they are replaced one by one. A step that older
//! programs cannot work with is taken only while no server is there. Several may open a store at once: one of them makes it.

use super::Server;
use crate::store::db::postgres::Postgres;
use crate::store::db::{self, Error, Row, Value};
use crate::store::error::StoreError;

/// A step: the version that it leads to, the oldest version whose programs can work on that, and what it does.
pub(super) struct Step {
    pub(super) version: i64,
    pub(super) oldest: i64,
    pub(super) sql: &'static str,
}

const STEPS: [Step; 1] = [Step {
    version: 10,
    oldest: 10,
    sql: include_str!("../../../sql/store/postgres/10.sql"),
}];

/// The version that this program writes.
#[cfg(test)]
pub(super) const KNOWN: i64 = STEPS[STEPS.len() - 1].version;

/// Of the locks of stores: two numbers each, the first of them one of these.
const OPENING: i32 = 0x5347_7371;
const WRITING: i32 = 0x5347_7372;

/// Begins a transaction that no other of its kind runs beside, on any server.
pub(super) fn begin_alone(schema: &str) -> String {
    locked(WRITING, schema)
}

fn locked(kind: i32, schema: &str) -> String {
    let name = schema.replace('\'', "''");
    format!("BEGIN; SELECT pg_advisory_xact_lock({kind}, hashtext('{name}'))")
}

/// See the module.
pub(super) fn prepare(connection: &Postgres, server: &Server) -> Result<(), StoreError> {
    prepare_by(connection, server, &STEPS)
}

/// The same as a program does that knows these steps, the last of which leads to the version that it writes.
pub(super) fn prepare_by(
    connection: &Postgres,
    server: &Server,
    steps: &[Step],
) -> Result<(), StoreError> {
    let failed = |e| server.failed(e);
    let begin = locked(OPENING, server.schema());
    connection.begin(&begin).map_err(failed)?;
    let prepared = within(connection, server, steps);
    let end = if prepared.is_ok() {
        "COMMIT"
    } else {
        "ROLLBACK"
    };
    let ended = connection.end(end).map_err(failed);
    prepared.and(ended)
}

fn within(connection: &Postgres, server: &Server, steps: &[Step]) -> Result<(), StoreError> {
    let known = steps.last().map_or(0, |step| step.version);
    let failed = |e| server.failed(e);
    let path = || server.name().to_path_buf();
    let schema = [Value::Text(server.schema())];
    let there = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = ?1)";
    if one::<bool>(connection, there, &schema).map_err(failed)? == Some(false) {
        let name = server.schema().replace('"', "\"\"");
        let create = format!("CREATE SCHEMA \"{name}\"");
        connection.batch(&create).map_err(failed)?;
    }
    let tables =
        "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                  WHERE n.nspname = ?1 AND c.relkind IN ('r', 'v', 'p')";
    let marked = "SELECT EXISTS (SELECT 1 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                  WHERE n.nspname = ?1 AND c.relname = 'store_format')";
    let found = match one::<bool>(connection, marked, &schema).map_err(failed)? {
        Some(true) => {
            let format = "SELECT max(version) FROM store_format";
            let oldest = "SELECT max(oldest) FROM store_format";
            let found = one::<i64>(connection, format, &[]).map_err(failed)?;
            let oldest = one::<i64>(connection, oldest, &[]).map_err(failed)?;
            let (found, oldest) = (found.unwrap_or(0), oldest.unwrap_or(0));
            if found > known && oldest > known {
                return Err(StoreError::Newer {
                    path: path(),
                    found,
                    known,
                });
            }
            found
        }
        _ if one::<i64>(connection, tables, &schema).map_err(failed)? == Some(0) => 0,
        _ => {
            let why = format!("schema {} holds other tables", server.schema());
            return Err(StoreError::Foreign { path: path(), why });
        }
    };
    let ahead = || steps.iter().filter(|step| step.version > found);
    if found > 0 && ahead().any(|step| step.oldest > found) {
        let there = "SELECT count(*) FROM presences
                     WHERE lease_until > CAST(extract(epoch FROM clock_timestamp()) * 1e6 AS BIGINT)";
        let servers = one::<i64>(connection, there, &[]).map_err(failed)?;
        if let Some(servers @ 1..) = servers {
            return Err(StoreError::InUse {
                path: path(),
                servers,
                found,
                known,
            });
        }
    }
    for step in ahead() {
        connection.batch(step.sql).map_err(failed)?;
        let note = "INSERT INTO store_format (version, oldest) VALUES (?1, ?2)";
        let values = [Value::Integer(step.version), Value::Integer(step.oldest)];
        connection.execute(note, &values).map_err(failed)?;
    }
    for part in crate::store::open::PARTS {
        let there = "SELECT to_regclass(?1) IS NOT NULL";
        if one::<bool>(connection, there, &[Value::Text(part)]).map_err(failed)? != Some(true) {
            let why = format!("no such table: {part}");
            return Err(StoreError::Damaged { path: path(), why });
        }
    }
    Ok(())
}

fn one<T: db::FromValue>(
    connection: &Postgres,
    sql: &str,
    values: &[Value<'_>],
) -> db::Result<Option<T>> {
    let found = connection.query(sql, values)?;
    Row::Postgres(found.first().ok_or(Error::NoRows)?).get(0)
}
