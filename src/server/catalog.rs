//! What clients ask about the database itself: `pg_catalog`, `information_schema`, and PostgreSQL's functions.
//!
//! Takes the catalog that all sessions share, gives it the tables of PostgreSQL's own (once a server), and gives each
//! connection's session the functions that clients call, which answer from that connection's [`Facts`]. What clients
//! really send is in `tests/clients/queries`. Knows no sockets.

mod functions;
mod functions_of;
mod objects;
mod procs;
mod provider;
mod relations;
mod rows;
mod standard;
mod tables;

pub(super) use provider::{fixed_oid, has_table, is_empty};

use super::casts::Casts;
use super::settings::Settings;
use crate::engine::CATALOG;
use datafusion::common::DataFusionError;
use datafusion::prelude::SessionContext;
use pgwire::api::Type;
use provider::{PgCatalog, Shared};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a connection's functions answer from.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Who is connected.
    pub user: String,
    /// `reader`, `analyst` or `admin`.
    pub role: String,
    /// The database that the client named.
    pub database: String,
    /// The connection's number, as in BackendKeyData.
    pub pid: i32,
    /// The connection's settings.
    pub settings: Arc<Settings>,
    /// Where the client is; `None` on a socket without addresses.
    pub client_addr: Option<SocketAddr>,
}

/// The catalog's tables, made once a server.
#[derive(Debug, Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
}

impl Catalog {
    /// Reads the static tables, and registers schema `pg_catalog` in the catalog that all sessions share. The
    /// functions that clients are told of are those of `context`.
    ///
    /// # Errors
    /// When the session has no catalog to register it in.
    pub fn new(context: &SessionContext) -> Result<Catalog, DataFusionError> {
        let shared = Arc::new(Shared::new(context, CATALOG, micros())?);
        let schema = Arc::new(PgCatalog {
            shared: Arc::clone(&shared),
        });
        shared
            .catalog()?
            .register_schema(relations::PG_CATALOG, schema)?;
        Ok(Catalog { shared })
    }

    /// Gives a connection's session the functions that clients call, in place of DataFusion's of the same names.
    pub fn install(&self, context: &SessionContext, facts: Facts) {
        let facts = Arc::new(facts);
        let state = context.state_ref();
        let mut written = state.write();
        written.config_mut().set_extension(Arc::clone(&facts));
        written.add_analyzer_rule(Arc::new(Casts::new()));
        drop(written);
        functions::register(context, &self.shared, &facts);
    }
}

/// Microseconds since 1970.
fn micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}

/// The name of a type that a function takes or returns.
fn function_type(oid: i32) -> String {
    match oid {
        2249 => "record".to_owned(),
        oid => relations::type_name(oid, None, &|oid| {
            let known = u32::try_from(oid).ok().and_then(Type::from_oid);
            known.map(|known| known.name().to_owned())
        }),
    }
}

#[cfg(test)]
mod client_tests;

#[cfg(test)]
mod tests {
    #[test]
    fn every_type_of_a_function_has_a_name() {
        let cases = [
            (20, "bigint"),
            (25, "text"),
            (1009, "text[]"),
            (1016, "bigint[]"),
            (1184, "timestamp with time zone"),
            (2249, "record"),
        ];
        for (oid, name) in cases {
            assert_eq!(super::function_type(oid), name);
        }
    }
}
