//! The server over its wire: what it does for clients of the two protocols, and against those that mean harm.

mod answers;
mod backfills;
mod budgets;
mod copies;
mod cron;
mod encrypted;
mod fuzz;
mod limits;
mod logins;
mod stops;
mod watched;

use crate::stores;
use safeguard::backend::Backend;
use safeguard::backend::local::{Local, WorkDone};
use safeguard::config::{ServeConfig, ServeOptions};
use safeguard::engine::Engine;
use safeguard::server::Shared;
use safeguard::server::connection::Shutdown;
use safeguard::server::listen::Server;
use safeguard::store::Store;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_postgres::error::DbError;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, Socket};

/// A server of the test's own, with the embedded model.
pub(crate) struct Wire {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
    pub shutdown: Shutdown,
    pub served: JoinHandle<()>,
    /// The embedded model, where it is that.
    model: Option<Arc<Local>>,
    /// The clients' ends of their connections, in the order in which they connected.
    ends: Mutex<Vec<AbortHandle>>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shutdown.soft.cancel();
        self.shutdown.hard.cancel();
    }
}

/// Settings for a test: a free port, progress soon.
pub(crate) fn config() -> ServeConfig {
    let typed = ServeOptions {
        listen: Some("127.0.0.1:0".to_owned()),
        progress_ms: Some(20),
        ..ServeOptions::default()
    };
    ServeConfig::new(typed).unwrap()
}

impl Wire {
    pub async fn start(config: ServeConfig) -> Wire {
        let model = Arc::new(Local::nano().unwrap());
        let backend: Arc<Local> = Arc::clone(&model);
        let mut wire = Wire::over(config, stores::new(), backend).await;
        wire.model = Some(model);
        wire
    }

    /// A server over this store, that asks this backend.
    pub async fn over(config: ServeConfig, store: Store, backend: Arc<dyn Backend>) -> Wire {
        let engine = Engine::with_backend(store, backend).await.unwrap();
        let roots = config.engine.content_roots.clone();
        let engine = safeguard::jobs::complete(engine.with_roots(roots).unwrap());
        let shared = Arc::new(Shared::new(engine, config).await.unwrap());
        let server = Server::bind(Arc::clone(&shared)).await.unwrap();
        let address = server.address();
        let shutdown = Shutdown::default();
        let served = tokio::spawn(server.run(shutdown.clone()));
        Wire {
            address,
            shared,
            shutdown,
            served,
            model: None,
            ends: Mutex::default(),
        }
    }

    /// The client of this number is gone, as if its process was killed.
    pub fn kill(&self, client: usize) {
        self.ends.lock().unwrap()[client].abort();
    }

    /// What the model's engine has done.
    pub fn counts(&self) -> WorkDone {
        self.model.as_ref().unwrap().work_done()
    }

    pub fn client(&self, user: &str) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.address.port())
            .user(user)
            .dbname("safeguard");
        config
    }

    pub async fn connect(&self, user: &str) -> (Client, UnboundedReceiver<DbError>) {
        self.connect_with(&self.client(user)).await.unwrap()
    }

    pub async fn connect_with(
        &self,
        config: &Config,
    ) -> Result<(Client, UnboundedReceiver<DbError>), tokio_postgres::Error> {
        self.connect_over(config, NoTls).await
    }

    /// The same over what `tls` makes of the connection.
    pub async fn connect_over<T>(
        &self,
        config: &Config,
        tls: T,
    ) -> Result<(Client, UnboundedReceiver<DbError>), tokio_postgres::Error>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let (client, mut connection) = config.connect(tls).await?;
        let (sender, notices) = unbounded_channel();
        let end = tokio::spawn(async move {
            let mut messages =
                futures::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = futures::StreamExt::next(&mut messages).await {
                if let AsyncMessage::Notice(notice) = message {
                    let _ = sender.send(notice);
                }
            }
        });
        self.ends.lock().unwrap().push(end.abort_handle());
        Ok((client, notices))
    }
}

/// The SQLSTATE and message of a failure; `ok` of none.
pub(crate) fn state<T>(result: Result<T, tokio_postgres::Error>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => match error.as_db_error() {
            Some(error) => format!("{} {}", error.code().code(), error.message()),
            None => format!("no answer: {error}"),
        },
    }
}

/// Rows of the simple protocol, cells joined by `|` and rows by `;`, or the failure.
pub(crate) async fn simple(client: &Client, sql: &str) -> String {
    let messages = match client.simple_query(sql).await {
        Ok(messages) => messages,
        Err(error) => return state::<()>(Err(error)),
    };
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL"));
            Some(cells.collect::<Vec<_>>().join("|"))
        }
        _ => None,
    });
    rows.collect::<Vec<_>>().join(";")
}
