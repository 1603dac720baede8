//! The way to a PostgreSQL server, for whoever keeps something there: attached databases and the shared store.
//!
//! Takes where it is and how the way is protected, gives connections that end the server's work when they are dropped.
//! Time limits, passwords and what a failure is called are the caller's.

mod tls;

use std::future::poll_fn;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

/// How the way is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// In the clear.
    Disable,
    /// Encrypted, to whoever answers.
    Require,
    /// Encrypted, to whoever has a trusted certificate for the host's name.
    VerifyFull,
}

impl SslMode {
    /// The words of all.
    pub const WORDS: &str = "disable, require or verify-full";

    /// By its word, in any case.
    pub fn parse(word: &str) -> Option<SslMode> {
        match word.to_ascii_lowercase().as_str() {
            "disable" => Some(SslMode::Disable),
            "require" => Some(SslMode::Require),
            "verify-full" => Some(SslMode::VerifyFull),
            _ => None,
        }
    }

    /// What is meant where nothing is said: nothing goes in the clear beyond this machine.
    pub fn of_host(host: &str) -> SslMode {
        let is_here = host == "localhost"
            || host.starts_with('/')
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        match is_here {
            true => SslMode::Disable,
            false => SslMode::VerifyFull,
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Refusal {
    /// The certificates that were to be trusted cannot be used.
    Certificates(String),
    /// Nobody answers, or does not let us in.
    Server(tokio_postgres::Error),
}

/// One connection. Dropping it ends what the server does for it.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    /// Of the task that moves its bytes; a socket that closes is how a running statement is told to end.
    task: AbortHandle,
}

/// Ends a connection from elsewhere.
#[derive(Debug)]
pub struct Stopper(AbortHandle);

impl Stopper {
    /// Ends it, and what the server does for it.
    pub fn stop(&self) {
        self.0.abort();
    }
}

impl Connection {
    /// Connects. The connection's bytes are moved by the runtime that this is called in.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn open(
        config: Config,
        mode: SslMode,
        roots: Option<&Path>,
    ) -> Result<Connection, Refusal> {
        Connection::open_told(config, mode, roots, None).await
    }

    /// The same; what others NOTIFY of, where the connection LISTENs, is told.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn open_told(
        mut config: Config,
        mode: SslMode,
        roots: Option<&Path>,
        told: Option<Arc<Notify>>,
    ) -> Result<Connection, Refusal> {
        let (client, task) = match mode {
            SslMode::Disable => {
                config.ssl_mode(tokio_postgres::config::SslMode::Disable);
                let connected = config.connect(NoTls).await;
                let (client, connection) = connected.map_err(Refusal::Server)?;
                (client, tokio::spawn(moved(connection, told)))
            }
            mode => {
                config.ssl_mode(tokio_postgres::config::SslMode::Require);
                let tls = Tls::new(mode, roots).map_err(Refusal::Certificates)?;
                let connected = config.connect(tls).await;
                let (client, connection) = connected.map_err(Refusal::Server)?;
                (client, tokio::spawn(moved(connection, told)))
            }
        };
        Ok(Connection {
            client,
            task: task.abort_handle(),
        })
    }

    /// For another thread or task.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.task.clone())
    }
}

/// Moves the bytes of a connection to its end, which its client is told of too.
async fn moved<S, T>(mut connection: tokio_postgres::Connection<S, T>, told: Option<Arc<Notify>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if let (AsyncMessage::Notification(_), Some(told)) = (message, &told) {
            told.notify_one();
        }
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

/// What went wrong below, which tokio-postgres keeps in the sources.
pub fn words(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return said.message().to_owned();
    }
    let mut next = std::error::Error::source(error);
    let mut last = None;
    while let Some(source) = next {
        last = Some(source.to_string());
        next = source.source();
    }
    last.unwrap_or_else(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ways_within_this_machine_are_open() {
        for (host, want) in [
            ("localhost", SslMode::Disable),
            ("127.0.0.1", SslMode::Disable),
            ("::1", SslMode::Disable),
            ("/run/postgresql", SslMode::Disable),
            ("db.example.org", SslMode::VerifyFull),
            ("10.0.0.7", SslMode::VerifyFull),
        ] {
            assert_eq!(SslMode::of_host(host), want, "{host}");
        }
    }
}
