//! Statements that classify, spread over workers: other processes of this program, on machines with a model of their own.
//!
//! Takes a finished plan and the addresses of workers, gives the same plan with its classifications sent there, or the plan
//! as it is. Stages, transport and cancellation are datafusion-distributed's; what is sent, and what is right to send, is
//! decided here: `fragment` cuts, `codec` writes and reads our own operators, `account` brings back what was asked,
//! `faults` what went wrong, `channel` reaches workers and `worker` is one.
//!
//! # What is sent
//!
//! A scan of Parquet files, filters and projections over it, and the classifications of one text column above: one stage
//! reads (each worker some of the files) and hands each row to the worker that its *text* hashes to, the next one
//! classifies, and only its rows come back. Bytes on disk say nothing about GPU time, so that the number of tasks is the
//! number of workers, and texts are dealt evenly whatever the files are like. As one text has one worker, it is asked once
//! in the statement, as in one process; what is asked is stored in the store that all share before it comes back.
//! All else (aggregates, joins, tables of the store, PostgreSQL, functions of a connection) runs at the coordinator.
//!
//! # What is not sent
//!
//! A plan stays as it is where an account that only one process can keep is asked for: `max_rows`, `max_tokens`,
//! `max_seconds`, `max_undecided_ratio` below 1, `answer` other than `wait`, a role with limits of a day. Also where
//! only some rows are wanted (a LIMIT ends early here), where a function is not DataFusion's own, and where
//! the connection changed how values are computed (`datafusion.execution.*`) or sent (`distributed.*`).
//!
//! # What has to be the same
//!
//! Version, store and model: workers say theirs each time they are asked, and others are refused (55000), because the
//! policies, overrides and verdicts of another store would be another statement's. A worker keeps to its own content roots.
//! A worker that is lost fails the statement (08006); what was judged by then is stored, so that the next try asks less.

mod account;
mod channel;
mod codec;
mod faults;
mod fragment;
mod planner;
mod worker;

pub use worker::WorkerServer;

use super::Engine;
use crate::error::Error;
use channel::Channels;
use codec::Codec;
use datafusion::common::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    DistributedExt, RouteTasksEvent, RouteTasksEventResponse, RouteTasksHandler, WorkerResolver,
};
use planner::Planner;
use std::sync::Arc;
use url::Url;

/// The workers of an engine.
#[derive(Debug, Clone)]
pub(super) struct Workers {
    urls: Arc<[Url]>,
    channels: Channels,
}

/// Tasks of one stage at the least: one would be run by the coordinator, although its worker was named.
const TASKS_MIN: usize = 2;

impl Workers {
    /// Tasks that classify.
    fn tasks(&self) -> usize {
        self.urls.len().max(TASKS_MIN)
    }
}

impl WorkerResolver for Workers {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        Ok(self.urls.to_vec())
    }
}

/// Each task has the worker of its number, in every statement: who has judged a text has it in memory, too.
impl RouteTasksHandler for Workers {
    fn handle(
        &self,
        event: RouteTasksEvent,
    ) -> Option<datafusion::common::Result<RouteTasksEventResponse>> {
        let urls = self.urls.iter().cycle().take(event.task_count).cloned();
        Some(Ok(RouteTasksEventResponse::new(urls.collect())))
    }
}

impl Engine {
    /// The same engine, whose statements classify at these workers (see the module's page). They are asked with the token.
    ///
    /// # Errors
    /// The store fails.
    pub async fn with_workers(
        mut self,
        urls: Vec<Url>,
        token: Option<String>,
    ) -> Result<Engine, Error> {
        if urls.is_empty() {
            self.workers = None;
            return Ok(self);
        }
        let identity = identity(&self).await?;
        self.workers = Some(Workers {
            urls: urls.into(),
            channels: Channels::new(token, identity),
        });
        Ok(self)
    }
}

/// What has to be the same: version, store and model. Says nothing of what the store holds.
async fn identity(engine: &Engine) -> Result<Arc<str>, Error> {
    let secret = engine.store.mock_secret().await?;
    let store = blake3::derive_key("safeguard-sql: which store a worker has", &secret);
    let store = crate::store::to_hex(&store);
    let (version, model) = (env!("CARGO_PKG_VERSION"), &engine.model);
    Ok(format!(
        "safeguard {version} store {} model {} {}",
        &store[..16],
        model.digest,
        model.name
    )
    .into())
}

/// A session whose plans go to the workers.
pub(super) fn install(
    mut builder: SessionStateBuilder,
    workers: &Workers,
    engine: &Engine,
) -> SessionStateBuilder {
    let config = builder.config().get_or_insert_with(SessionConfig::new);
    config.set_distributed_worker_resolver(workers.clone());
    config.set_distributed_channel_resolver(workers.channels.clone());
    config.set_distributed_route_tasks_handler(workers.clone());
    config.set_distributed_user_codec(Codec::new(engine));
    let before = planner::computes(config.options());
    let inner = builder.query_planner().take();
    builder.with_query_planner(Arc::new(Planner {
        inner: inner.expect("bug: a session without a planner"),
        workers: workers.clone(),
        limits: Arc::clone(&engine.limits),
        before,
    }))
}
