//! The listener: accepts, counts, refuses, and stops in order.
//!
//! Takes an address, gives each client a task. Beyond the limit a client is told so and may still cancel; when the
//! server stops, idle connections end at once, running statements within a limit. Knows no message.

use super::Shared;
use super::connection::Shutdown;
use super::startup::{self, Peer};
#[cfg(any(target_os = "android", target_os = "linux"))]
use crate::config::SERVER_UNSENT_BYTES;
use crate::config::{SERVER_KEEPALIVE_SECONDS, SERVER_REFUSAL_MS, SERVER_REFUSALS_MAX};
use crate::error::Error;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A server that listens.
pub struct Server {
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
}

/// Milliseconds to wait after the system had no room for another connection.
const PAUSE_MS: u64 = 50;

impl Server {
    /// Listens where the options say.
    ///
    /// # Errors
    /// The address is in use, or not this machine's.
    pub async fn bind(shared: Arc<Shared>) -> Result<Server, Error> {
        let wanted = shared.config.listen;
        let unbound =
            |error: io::Error| Error::Usage(format!("cannot listen on {wanted}: {error}"));
        let listener = TcpListener::bind(wanted).await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        Ok(Server {
            shared,
            listener,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown.soft` ends, then waits for running statements until they are done or the limit is over.
    pub async fn run(self, shutdown: Shutdown) {
        let config = &self.shared.config;
        let grace = config.shutdown;
        let room = Arc::new(Semaphore::new(config.max_connections));
        let refusals = Arc::new(Semaphore::new(SERVER_REFUSALS_MAX));
        let mut clients = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.soft.cancelled() => break,
                accepted = self.listener.accept() => accepted,
                Some(ended) = clients.join_next(), if !clients.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!("a connection ended with a bug: {error}");
                    }
                    continue;
                }
            };
            let Ok((stream, address)) = accepted else {
                // No descriptors left, or the client was gone already.
                tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
                continue;
            };
            self.shared.counters.accepted.add();
            tune(&stream);
            let peer = Peer {
                address,
                local: self.address,
            };
            match Arc::clone(&room).try_acquire_owned() {
                Ok(place) => {
                    let shared = Arc::clone(&self.shared);
                    clients.spawn(served(shared, (stream, peer), shutdown.clone(), place));
                }
                Err(_) => {
                    self.shared.counters.refused.add();
                    if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                        clients.spawn(refused(Arc::clone(&self.shared), stream, place));
                    }
                }
            }
        }
        drop(self.listener);
        let all = async { while clients.join_next().await.is_some() {} };
        let ended = tokio::select! {
            ended = timeout(grace, all) => ended.is_ok(),
            () = shutdown.hard.cancelled() => false,
        };
        if !ended {
            shutdown.hard.cancel();
            // What does not end now has a client that does not read.
            let all = async { while clients.join_next().await.is_some() {} };
            let _ = timeout(Duration::from_secs(5), all).await;
        }
    }
}

/// Sets what can be set: a connection without is served too.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    // A client whose machine vanished says nothing: the system asks it.
    let alive = TcpKeepalive::new().with_time(Duration::from_secs(SERVER_KEEPALIVE_SECONDS));
    let _ = socket.set_tcp_keepalive(&alive);
    // Bytes under way are not limited by this, so that distant clients lose nothing.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = socket.set_tcp_notsent_lowat(SERVER_UNSENT_BYTES);
}

async fn served(
    shared: Arc<Shared>,
    (stream, peer): (TcpStream, Peer),
    shutdown: Shutdown,
    _place: OwnedSemaphorePermit,
) {
    let counters = Arc::clone(&shared.counters);
    counters.connections.add();
    startup::serve(shared, stream, peer, shutdown).await;
    counters.connections.subtract();
}

async fn refused(shared: Arc<Shared>, stream: TcpStream, _place: OwnedSemaphorePermit) {
    let most = Duration::from_millis(SERVER_REFUSAL_MS);
    let _ = timeout(most, startup::refuse(shared, stream)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn little_waits_in_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(client, listener.accept());
        let (stream, _) = accepted.unwrap();
        tune(&stream);
        let socket = SockRef::from(&stream);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), SERVER_UNSENT_BYTES);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    }
}
