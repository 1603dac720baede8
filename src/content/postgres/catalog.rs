//! The tables of an attached database.
//!
//! Takes a server, gives a schema. What is there is asked anew when it was last asked a while ago or a name is not known,
//! so that a table made there is seen here. While the server is away, what was known of it stands, and scans say so.

use super::columns::{Column, Kind};
use super::connect::{Connection, For, Server};
use super::options::Options;
use super::scan::Table;
use crate::config::SERVER_CATALOG_SECONDS;
use crate::content::ContentError;
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::Result;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Tables, views and foreign tables of one schema, a row a column; a domain is what it is made of. `character` and `bit`
/// without a length are one character, and a cast to them cuts.
const COLUMNS: &str = "WITH RECURSIVE base(oid, base, typmod) AS (
  SELECT oid, oid, -1 FROM pg_type WHERE typtype <> 'd'
  UNION ALL
  SELECT d.oid, b.base, CASE WHEN d.typtypmod >= 0 THEN d.typtypmod ELSE b.typmod END
  FROM pg_type d JOIN base b ON d.typbasetype = b.oid WHERE d.typtype = 'd'
)
SELECT c.relname::text, a.attname::text, b.base, CASE WHEN a.atttypmod >= 0 THEN a.atttypmod ELSE b.typmod END,
  coalesce(l.collisdeterministic, true), CASE a.atttypid
    WHEN 1042 THEN 'bpchar' WHEN 1014 THEN '_bpchar' WHEN 1560 THEN 'varbit' WHEN 1561 THEN '_varbit'
    ELSE format_type(a.atttypid, NULL) END, c.relkind IN ('r', 'm')
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN base b ON b.oid = a.atttypid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY c.relname, a.attnum";

/// A database, as a schema.
pub struct Attached {
    server: Arc<Server>,
    known: Mutex<Known>,
    /// Asks what is there; one at a time.
    asking: tokio::sync::Mutex<Option<Connection>>,
}

#[derive(Default)]
struct Known {
    tables: BTreeMap<String, Arc<Table>>,
    asked: Option<Instant>,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Attached").field(&self.server).finish()
    }
}

impl Attached {
    /// Of a server by its name here. Connects when something is asked of it.
    pub fn new(name: &str, options: Options) -> Attached {
        let server = Server {
            name: name.to_owned(),
            options,
        };
        Attached {
            server: Arc::new(server),
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// Asks the server what is there.
    ///
    /// # Errors
    /// It cannot be reached, lets nobody in, or has no such schema.
    pub async fn refresh(&self) -> std::result::Result<(), ContentError> {
        let mut asking = self.asking.lock().await;
        let connection = match asking.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.server.connect(For::Reading).await?,
        };
        let schema = &self.server.options.schema;
        let failed = |e| self.server.failed(&e);
        let there = "SELECT FROM pg_namespace WHERE nspname = $1";
        if connection
            .query_opt(there, &[schema])
            .await
            .map_err(failed)?
            .is_none()
        {
            let Server { name, options } = self.server.as_ref();
            let why = format!(
                "server {name}: database {} has no schema {schema}",
                options.dbname
            );
            return Err(ContentError::new("3F000", why));
        }
        let rows = connection.query(COLUMNS, &[schema]).await.map_err(failed)?;
        let mut tables: BTreeMap<String, (bool, Vec<Column>)> = BTreeMap::new();
        for row in rows {
            let read = || {
                Ok::<_, tokio_postgres::Error>((
                    row.try_get::<_, String>(0)?,
                    Column {
                        name: row.try_get(1)?,
                        kind: Kind::new(row.try_get(2)?, row.try_get(3)?, row.try_get(4)?),
                        declared: row.try_get(5)?,
                    },
                    row.try_get::<_, bool>(6)?,
                ))
            };
            let (table, column, paged) = read().map_err(failed)?;
            let (known, columns) = tables.entry(table).or_default();
            *known = paged;
            columns.push(column);
        }
        let table = |(name, (paged, columns)): (String, (bool, Vec<Column>))| {
            let table = Table::new(Arc::clone(&self.server), &name, columns, paged);
            (name, Arc::new(table))
        };
        *self.known() = Known {
            tables: tables.into_iter().map(table).collect(),
            asked: Some(Instant::now()),
        };
        *asking = Some(connection);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A table as it was last known, and whether that is too long ago.
    fn find(&self, name: &str) -> (Option<Arc<Table>>, bool) {
        let known = self.known();
        let limit = Duration::from_secs(SERVER_CATALOG_SECONDS);
        let old = known.asked.is_none_or(|asked| asked.elapsed() >= limit);
        (known.tables.get(name).cloned(), old)
    }
}

#[async_trait]
impl SchemaProvider for Attached {
    fn table_names(&self) -> Vec<String> {
        self.known().tables.keys().cloned().collect()
    }

    fn table_exist(&self, name: &str) -> bool {
        self.known().tables.contains_key(name)
    }

    fn register_table(
        &self,
        name: String,
        _: Arc<dyn TableProvider>,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let server = &self.server.name;
        let why =
            format!("table {name} cannot be made here: tables of server {server} are made there");
        Err(ContentError::new("0A000", why).into())
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let (found, old) = self.find(name);
        let found = match (&found, old) {
            (Some(_), false) => found,
            _ => match (self.refresh().await, found) {
                (Ok(()), _) => self.find(name).0,
                // Whoever only lists tables is answered; a scan connects and says what is wrong.
                (Err(error), Some(found)) => {
                    tracing::debug!(%error, "tables as last known");
                    Some(found)
                }
                (Err(error), None) => return Err(error.into()),
            },
        };
        Ok(found.map(|table| table as Arc<dyn TableProvider>))
    }
}
