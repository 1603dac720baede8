//! `safeguard worker`: classifies for other processes until it is told to stop.

use super::args::Worker;
use super::say;
use super::serve::ended;
use crate::config::{ServeConfig, WorkerListen, worker_token};
use crate::engine::WorkerServer;
use crate::error::Error;
use std::process::ExitCode;

/// Serves until the process is told to stop: then no more is taken on, and what runs is finished; at once when it is told
/// twice.
pub(super) async fn run(args: Worker) -> ExitCode {
    ended(serve(args).await)
}

async fn serve(args: Worker) -> Result<(), Error> {
    let listen = WorkerListen::new(args.listen.as_deref(), args.allow_insecure, worker_token()?)?;
    let config = ServeConfig::new(args.options())?.engine;
    let engine = crate::jobs::open(config).await?;
    if let Some(line) = engine.demonstration() {
        say(&line);
    }
    // Secrets of object stores are among what SQL made.
    for line in engine.restore(&engine.session("safeguard")).await? {
        say(&format!("WARNING:  {line}"));
    }
    let server = WorkerServer::bind(&engine, listen).await?;
    say(&format!("listening on {}", server.address()));
    tokio::select! {
        served = server.run(stopped()) => served,
        () = twice() => Ok(()),
    }
}

async fn twice() {
    stopped().await;
    stopped().await;
}

/// Ends with the next signal to stop.
#[cfg(unix)]
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn stopped() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
