//! `/health` and `/metrics` over HTTP, for whoever watches the server.
//!
//! Takes GET requests on a port of its own, gives the counters in Prometheus' text format and whether the server takes
//! connections. One request a connection; no passwords, no tables, nothing that users wrote.

use super::connection::Shutdown;
use super::{Shared, bounds};
use crate::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Requests at once; further ones wait.
const REQUESTS_MAX: usize = 16;
/// How long a request may take to come and its answer to go.
const REQUEST: Duration = Duration::from_secs(5);

/// A listener for those who watch.
pub struct Health {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Health {
    /// Listens on `wanted`.
    ///
    /// # Errors
    /// The address is in use, or not this machine's.
    pub async fn bind(shared: Arc<Shared>, wanted: SocketAddr) -> Result<Health, Error> {
        let unbound =
            |error: io::Error| Error::Usage(format!("cannot listen on {wanted}: {error}"));
        let listener = TcpListener::bind(wanted).await.map_err(unbound)?;
        Ok(Health {
            address: listener.local_addr().map_err(unbound)?,
            listener,
            shared,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the server has stopped; from its stop on it is not healthy.
    pub async fn run(self, shutdown: Shutdown) {
        let room = Arc::new(Semaphore::new(REQUESTS_MAX));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = shutdown.hard.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                continue;
            };
            let (shared, stopping) = (Arc::clone(&self.shared), shutdown.soft.is_cancelled());
            tokio::spawn(async move {
                let _ = timeout(REQUEST, answer(stream, &shared, stopping)).await;
                drop(place);
            });
        }
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared, stopping: bool) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut some = [0; 1024];
        let read = stream.read(&mut some).await?;
        request.extend_from_slice(&some[..read]);
        if read == 0 || request.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
    }
    let line = request.split(|byte| *byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some("/health")) if stopping => {
            ("503 Service Unavailable", "stopping\n".to_owned())
        }
        (Some("GET" | "HEAD"), Some("/health")) => ("200 OK", "ok\n".to_owned()),
        (Some("GET" | "HEAD"), Some("/metrics")) => {
            let text = shared.counters.text() + &bounds::text(&shared.engine);
            ("200 OK", text)
        }
        (Some("GET" | "HEAD"), _) => ("404 Not Found", "/health or /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "GET\n".to_owned()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    if !line.starts_with("HEAD") {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}
