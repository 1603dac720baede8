//! The runner: workers that look for work until they are stopped.
//!
//! Takes an engine, works off what this and other processes leave in its store. A runner that is stopped gives back what
//! its workers have in hand, so that another goes on with it at once; one that is killed leaves it until the lease is
//! over. Knows nothing of what the work is.

use super::pace::{Pace, pause};
use super::worker::Worker;
use crate::engine::Engine;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Workers at work; stopped when it is dropped.
#[derive(Debug)]
pub struct Runner {
    stop: CancellationToken,
    workers: JoinSet<()>,
}

impl Runner {
    /// Starts workers on this runtime.
    pub fn start(engine: &Engine) -> Runner {
        Runner::paced(engine, &Pace::of(engine.store()))
    }

    /// The same at another pace.
    pub fn paced(engine: &Engine, pace: &Pace) -> Runner {
        let stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        for _ in 0..pace.workers {
            let worker = Worker::new(engine.clone(), pace.clone());
            workers.spawn(work(worker, stop.clone()));
        }
        Runner { stop, workers }
    }

    /// Stops the workers and waits until they have given back what they had in hand.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.joined().await;
    }

    async fn joined(&mut self) {
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended {
                tracing::error!("bug: a worker ended: {error}");
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop.cancel();
        // They end by themselves, in order.
        self.workers.detach_all();
    }
}

/// Works until `stop`, then until everything in hand is given back.
pub async fn run(engine: Engine, pace: Pace, stop: CancellationToken) {
    let mut runner = Runner::paced(&engine, &pace);
    stop.cancelled().await;
    runner.stop.cancel();
    runner.joined().await;
}

async fn work(worker: Worker, stop: CancellationToken) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let wait: Duration = match worker.step(&stop).await {
            Ok(true) => {
                failures = 0;
                continue;
            }
            Ok(false) => {
                failures = 0;
                worker.pace.poll
            }
            Err(error) => {
                tracing::warn!("background work waits: {error}");
                let wait = pause(failures, &[]);
                failures = failures.saturating_add(1);
                wait
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = worker.store().pending().notified(), if failures == 0 => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}
