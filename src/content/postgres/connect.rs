//! Connections to an attached database, and what its errors are called.
//!
//! Takes options, gives connections that stop the server's work when they are dropped. Time limits are the config's.

use super::options::Options;
use crate::config::{SERVER_CONNECT_SECONDS, SERVER_WORDS_MAX};
use crate::content::ContentError;
pub(super) use crate::postgres::Connection;
use crate::postgres::{Refusal, words};
use std::time::Duration;
use tokio_postgres::Config;

/// How our connections are set: what our own literals and the texts of types without an Arrow type depend on.
const SETTINGS: &str = "SET standard_conforming_strings = on; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; \
    SET timezone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = 'hex'; SET search_path = pg_catalog";

/// A database by the name that CREATE SERVER gave it.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) options: Options,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Reading,
    Writing,
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
        let opened = Connection::open(config, options.sslmode, options.sslrootcert.as_deref());
        let connection = opened.await.map_err(|refusal| match refusal {
            Refusal::Certificates(why) => ContentError::new("F0000", why),
            Refusal::Server(error) => self.refused(&error),
        })?;
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
            None => self.unreachable(&shortened(words(error))),
        }
    }

    /// An error of what was asked of it.
    pub(super) fn failed(&self, error: &tokio_postgres::Error) -> ContentError {
        let Some(said) = error.as_db_error() else {
            let why = format!(
                "server {}: the connection is lost: {}",
                self.name,
                shortened(words(error))
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
