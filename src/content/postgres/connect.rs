//! Connections to an attached database, and what its errors are called.
//!
//! Takes options, gives connections that stop the server's work when they are dropped. Time limits are the config's.

use super::options::{Options, SslMode};
use super::tls::Tls;
use crate::config::{SERVER_CONNECT_SECONDS, SERVER_WORDS_MAX};
use crate::content::ContentError;
use std::ops::Deref;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio_postgres::{Client, Config, NoTls};

/// How our connections are set: what our own literals and the texts of types without an Arrow type depend on.
const SETTINGS: &str = "SET standard_conforming_strings = on; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; \
    SET timezone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = 'hex'; SET search_path = pg_catalog";

/// A database by the name that CREATE SERVER gave it.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) options: Options,
}

/// One connection. Dropping it ends what the database does for it.
pub(super) struct Connection {
    client: Client,
    /// Of the task that moves its bytes; a socket that closes is how a running COPY is told to end.
    task: AbortHandle,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Reading,
    Writing,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Server {
    /// A new connection.
    ///
    /// # Errors
    /// Nobody answers in time, or does not let us in.
    pub(super) async fn connect(&self, purpose: For) -> Result<Connection, ContentError> {
        let limit = Duration::from_secs(SERVER_CONNECT_SECONDS);
        match tokio::time::timeout(limit, self.connected(purpose)).await {
            Ok(connected) => connected,
            Err(_) => {
                let why = format!("no answer within {SERVER_CONNECT_SECONDS} s");
                Err(self.unreachable(&why))
            }
        }
    }

    async fn connected(&self, purpose: For) -> Result<Connection, ContentError> {
        let options = &self.options;
        let mut config = Config::new();
        config
            .host(&options.host)
            .port(options.port)
            .dbname(&options.dbname)
            .user(&options.user)
            .application_name("safeguard");
        if let Some(password) = options.password()? {
            config.password(password);
        }
        let (client, task) = match options.sslmode {
            SslMode::Disable => {
                config.ssl_mode(tokio_postgres::config::SslMode::Disable);
                let connected = config.connect(NoTls).await;
                let (client, connection) = connected.map_err(|e| self.refused(&e))?;
                (client, tokio::spawn(connection))
            }
            mode => {
                config.ssl_mode(tokio_postgres::config::SslMode::Require);
                let tls = Tls::new(mode, options.sslrootcert.as_deref())?;
                let connected = config.connect(tls).await;
                let (client, connection) = connected.map_err(|e| self.refused(&e))?;
                (client, tokio::spawn(connection))
            }
        };
        let connection = Connection {
            client,
            task: task.abort_handle(),
        };
        let mut settings = SETTINGS.to_owned();
        if purpose == For::Reading {
            settings.push_str("; SET default_transaction_read_only = on");
        }
        let set = connection.batch_execute(&settings).await;
        set.map_err(|e| self.failed(&e))?;
        Ok(connection)
    }

    fn unreachable(&self, why: &str) -> ContentError {
        let Options { host, port, .. } = &self.options;
        let why = format!(
            "cannot connect to server {} at {host}:{port}: {why}",
            self.name
        );
        ContentError::new("08001", why)
    }

    /// An error of connecting.
    fn refused(&self, error: &tokio_postgres::Error) -> ContentError {
        match error.as_db_error() {
            Some(_) => self.failed(error),
            // What tokio-postgres says where it has none to send.
            None if words(error) == "password missing" => {
                let why = format!("server {} wants a password", self.name);
                let error = ContentError::new("28P01", why);
                error
                    .with_hint("OPTIONS (.., password_env 'NAME') names the variable that holds it")
            }
            None => self.unreachable(&words(error)),
        }
    }

    /// An error of what was asked of it.
    pub(super) fn failed(&self, error: &tokio_postgres::Error) -> ContentError {
        let Some(said) = error.as_db_error() else {
            let why = format!(
                "server {}: the connection is lost: {}",
                self.name,
                words(error)
            );
            return ContentError::new("08006", why);
        };
        let (code, known) = (said.code().code(), known(said.code().code()));
        let mut why = format!("server {}: {}", self.name, said.message());
        if known.is_none() {
            why.push_str(&format!(" (SQLSTATE {code})"));
        }
        let detail = said.detail().map(|detail| format!(" ({detail})"));
        why.push_str(&detail.unwrap_or_default());
        let mut error = ContentError::new(known.unwrap_or("HV000"), shortened(why));
        error.hint = said.hint().map(str::to_owned);
        error
    }
}

/// What went wrong below, which tokio-postgres keeps in the sources.
fn words(error: &tokio_postgres::Error) -> String {
    let mut next = std::error::Error::source(error);
    let mut last = None;
    while let Some(source) = next {
        last = Some(source.to_string());
        next = source.source();
    }
    shortened(last.unwrap_or_else(|| error.to_string()))
}

fn shortened(mut words: String) -> String {
    if let Some((at, _)) = words.char_indices().nth(SERVER_WORDS_MAX) {
        words.truncate(at);
        words.push_str("..");
    }
    words
}

/// A SQLSTATE that means the same from us as from the database.
fn known(code: &str) -> Option<&'static str> {
    const KNOWN: [&str; 36] = [
        "08003", "08006", "08P01", "21000", "22001", "22003", "22007", "22008", "22012", "22021",
        "22023", "22P02", "22P03", "22P04", "23000", "23502", "23503", "23505", "23514", "23P01",
        "25006", "28000", "28P01", "3D000", "3F000", "40001", "40P01", "42501", "42703", "42804",
        "42P01", "42P10", "53100", "53300", "57014", "57P01",
    ];
    KNOWN.into_iter().find(|known| *known == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_between_characters() {
        let long = "é".repeat(SERVER_WORDS_MAX + 5);
        let cut = shortened(long);
        assert_eq!(cut.chars().count(), SERVER_WORDS_MAX + 2);
        assert!(cut.ends_with("é.."));
        assert_eq!(shortened("short".to_owned()), "short");
    }

    #[test]
    fn a_state_that_is_not_ours_to_say_is_told_apart() {
        assert_eq!(known("23505"), Some("23505"));
        assert_eq!(known("P0001"), None);
    }
}
