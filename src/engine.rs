//! The only place that builds a session.

use crate::config::Config;
use crate::error::Error;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use safeguard_udfs::Summary;
use std::sync::Arc;

/// What all sessions share: store, policies, model.
#[derive(Debug, Clone)]
pub struct Engine {}

impl Engine {
    /// Opens store, policies and model. Blocks on none of it but disk.
    pub async fn open(config: Config) -> Result<Engine, Error> {
        let _ = config;
        Err(Error::Usage("engine".to_owned()))
    }

    /// A session of its own settings for this user.
    pub fn session(&self, user: &str) -> Result<Session, Error> {
        let _ = user;
        Err(Error::Usage("session".to_owned()))
    }

    /// A line for the screen when verdicts come from a demonstration model, else `None`.
    pub fn demonstration(&self) -> Option<String> {
        None
    }
}

/// One connection: its settings, its temporary tables.
#[derive(Debug)]
pub struct Session {}

/// One statement of a script, as typed.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Its text, without the semicolon.
    pub sql: String,
}

/// A statement that is running.
pub struct Running {
    /// Columns of the answer; no columns for a statement that returns no rows.
    pub schema: SchemaRef,
    /// Rows as they come. Dropping it cancels the statement.
    pub rows: SendableRecordBatchStream,
    /// PostgreSQL's command tag without the count: `SELECT`, `CREATE TABLE`, `SET`, `INSERT 0`, ..
    pub tag: &'static str,
    scope: Arc<safeguard_udfs::Statement>,
}

impl Running {
    /// What it has asked so far; all zero when it classifies nothing.
    pub fn progress(&self) -> Summary {
        self.scope.tally().summary()
    }
}

impl Session {
    /// The statements of a script, up to the first that cannot be parsed (reported when it is reached).
    pub fn split(&self, script: &str) -> Vec<Result<Statement, Error>> {
        let _ = script;
        Vec::new()
    }

    /// Whether `script` ends inside a statement, so that a prompt asks for another line.
    pub fn is_incomplete(&self, script: &str) -> bool {
        let _ = script;
        false
    }

    /// Plans and starts a statement.
    pub async fn run(&self, statement: &Statement) -> Result<Running, Error> {
        Err(Error::Usage(statement.sql.clone()))
    }

    /// To be called when the rows are read or given up: logs the statement in `safeguard.queries` and gives the notices
    /// for the user (none for a statement that classified nothing). `failed` is the error it ended with, if any; a
    /// statement that was dropped half way is `cancelled`.
    pub async fn finish(&self, running: Ended, failed: Option<&Error>) -> Vec<String> {
        let _ = (running, failed);
        Vec::new()
    }
}

/// What is left of a [`Running`] whose rows are read or dropped.
pub struct Ended {}

impl Running {
    /// Splits the rows off, so that they can be read while the rest is kept for [`Session::finish`].
    pub fn split(self) -> (SendableRecordBatchStream, Ended) {
        (self.rows, Ended {})
    }
}
