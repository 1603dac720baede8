//! The way to workers: one connection to each, kept; the token in every request; what the worker is, asked before each task.

use super::faults::unpack;
use crate::config::{WORKER_CONNECT_MS, WORKER_KEEPALIVE_MS, WORKER_SILENCE_MS};
use crate::error::Error;
use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion_distributed::grpc::{BoxCloneSyncChannel, create_worker_client};
use datafusion_distributed::{ChannelResolver, GetWorkerInfoRequest, WorkerChannel};
use http::header::{AUTHORIZATION, HeaderValue};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use url::Url;

/// Connections to workers.
#[derive(Clone)]
pub(super) struct Channels {
    /// `Bearer ..`
    token: Option<HeaderValue>,
    /// What a worker has to be.
    identity: Arc<str>,
    open: Arc<Mutex<HashMap<Url, Channel>>>,
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Channels {
    pub(super) fn new(token: Option<String>, identity: Arc<str>) -> Channels {
        let header = |token: String| {
            let mut header = HeaderValue::try_from(format!("Bearer {token}"))
                .expect("bug: a token that no header can carry");
            header.set_sensitive(true);
            header
        };
        Channels {
            token: token.map(header),
            identity,
            open: Arc::default(),
        }
    }

    async fn channel(&self, url: &Url) -> Result<Channel, DataFusionError> {
        let known = self.lock().get(url).cloned();
        if let Some(channel) = known {
            return Ok(channel);
        }
        let unreachable = |why: String| Error::Refused {
            sqlstate: "08001",
            why: format!("cannot reach the worker at {url}: {why}"),
            hint: Some("start `safeguard worker` there, or leave it out of --workers".to_owned()),
        };
        let endpoint = Endpoint::from_shared(url.to_string());
        let endpoint = endpoint.map_err(|e| unreachable(e.to_string()))?;
        let channel = endpoint
            .connect_timeout(Duration::from_millis(WORKER_CONNECT_MS))
            .http2_keep_alive_interval(Duration::from_millis(WORKER_KEEPALIVE_MS))
            .keep_alive_timeout(Duration::from_millis(WORKER_SILENCE_MS))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|e| unreachable(innermost(&e)))?;
        self.lock().insert(url.clone(), channel.clone());
        Ok(channel)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Url, Channel>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let last = std::iter::successors(Some(error), |error| error.source()).last();
    last.unwrap_or(error).to_string()
}

#[async_trait]
impl ChannelResolver for Channels {
    async fn get_worker_client_for_url(
        &self,
        url: &Url,
    ) -> Result<Box<dyn WorkerChannel>, DataFusionError> {
        let channel = self.channel(url).await?;
        let authorized = Authorized {
            channel,
            token: self.token.clone(),
        };
        let mut client = create_worker_client(BoxCloneSyncChannel::new(authorized));
        // It may have been replaced since it was asked last.
        let told = client.get_worker_info(GetWorkerInfoRequest {}).await;
        let told = match told {
            Ok(told) => told.version,
            Err(error) => {
                self.lock().remove(url);
                return Err(unpack(error));
            }
        };
        match *told == *self.identity {
            true => Ok(client),
            false => Err(Error::Refused {
                sqlstate: "55000",
                why: format!("the worker at {url} is {told}, not {}", self.identity),
                hint: Some(
                    "workers need the version, the store and the model of who asks them".to_owned(),
                ),
            }
            .into()),
        }
    }
}

/// A connection whose requests carry the token.
#[derive(Clone)]
struct Authorized {
    channel: Channel,
    token: Option<HeaderValue>,
}

impl Service<http::Request<Body>> for Authorized {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        Service::call(&mut self.channel, request)
    }
}
