//! A worker: stages of other processes' plans, run with this engine's model, store and content roots.
//!
//! Takes an engine and an address, serves gRPC until it is told to stop. Whoever does not know the token, where there is
//! one, is let in nowhere. Every task begins with the policies that are in the store by then.

use super::channel::Channels;
use super::codec::{Codec, TaskStatement};
use super::faults::pack;
use super::identity;
use crate::config::{WORKER_KEEPALIVE_MS, WORKER_SILENCE_MS, WorkerListen};
use crate::engine::{Engine, computing};
use crate::error::Error;
use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::execution::SessionState;
use datafusion_distributed::{DistributedExt, Worker, WorkerQueryContext, WorkerSessionBuilder};
use safeguard_udfs::install;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};

/// A worker that listens.
pub struct WorkerServer {
    worker: Worker,
    door: Door,
    listener: TcpListener,
    address: SocketAddr,
}

impl WorkerServer {
    /// Listens.
    ///
    /// # Errors
    /// The address is in use, or not this machine's; the store fails.
    pub async fn bind(engine: &Engine, listen: WorkerListen) -> Result<WorkerServer, Error> {
        let wanted = listen.address;
        let unbound =
            |error: std::io::Error| Error::Usage(format!("cannot listen on {wanted}: {error}"));
        let listener = TcpListener::bind(wanted).await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        let identity = identity(engine).await?;
        let tasks = Tasks {
            channels: Channels::new(listen.token.clone(), Arc::clone(&identity)),
            engine: engine.clone(),
        };
        let worker = Worker::from_session_builder(tasks)
            .with_runtime_env(Arc::clone(&engine.runtime))
            .with_version(identity.to_string());
        let digest = |token: String| blake3::hash(format!("Bearer {token}").as_bytes());
        Ok(WorkerServer {
            worker,
            door: Door(listen.token.map(digest)),
            listener,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` ends, then finishes what runs.
    ///
    /// # Errors
    /// The system takes the address away.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let door = self.door;
        let check = move |request: Request<()>| door.check(request);
        let service = InterceptedService::new(self.worker.into_worker_server(), check);
        let served = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_millis(WORKER_KEEPALIVE_MS)))
            .http2_keepalive_timeout(Some(Duration::from_millis(WORKER_SILENCE_MS)))
            .add_service(service)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(self.listener).with_nodelay(Some(true)),
                stop,
            )
            .await;
        served.map_err(|e| Error::refused("58000", format!("the worker ended: {e}")))
    }
}

/// Who is let in: the digest of what a request must carry.
#[derive(Debug, Clone, Copy)]
struct Door(Option<blake3::Hash>);

impl Door {
    #[allow(clippy::result_large_err)]
    fn check(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(wanted) = self.0 else {
            return Ok(request);
        };
        let said = request.metadata().get("authorization");
        // Digests are compared in constant time.
        let known = said.is_some_and(|said| blake3::hash(said.as_encoded_bytes()) == wanted);
        match known {
            true => Ok(request),
            false => Err(Status::unauthenticated("not the token of this worker")),
        }
    }
}

/// Makes the session of a task.
struct Tasks {
    engine: Engine,
    channels: Channels,
}

#[async_trait]
impl WorkerSessionBuilder for Tasks {
    async fn build_session_state(
        &self,
        context: WorkerQueryContext,
    ) -> Result<SessionState, DataFusionError> {
        let learned = self.engine.learn_policies().await;
        learned.map_err(|e| pack(e.into(), None))?;
        let mut builder = context.builder;
        let config = computing(builder.config().take().unwrap_or_default())
            .with_extension(Arc::new(TaskStatement::default()))
            .with_distributed_user_codec(Codec::new(&self.engine))
            .with_distributed_channel_resolver(self.channels.clone());
        let classifier = Arc::clone(&self.engine.classifier);
        Ok(install(builder.with_config(config), classifier).build())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_token_comes_in() {
        let token = Some(blake3::hash(b"Bearer 0123456789abcdef"));
        for (door, said, good) in [
            (None, None, true),
            (None, Some("Bearer other"), true),
            (token, None, false),
            (token, Some("Bearer 0123456789abcdee"), false),
            (token, Some("0123456789abcdef"), false),
            (token, Some("Bearer 0123456789abcdef"), true),
        ] {
            let mut request = Request::new(());
            if let Some(said) = said {
                let value = said.parse().unwrap();
                request.metadata_mut().insert("authorization", value);
            }
            assert_eq!(Door(door).check(request).is_ok(), good, "{said:?}");
        }
    }
}
