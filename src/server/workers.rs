//! Threads for statements, apart from those that talk to clients.
//!
//! Takes futures, gives what they come to. A statement can keep a thread for seconds without a pause; the threads that
//! read cancel requests, watch clocks and accept connections must not be among those. Dropping a wait ends its work at
//! the work's next pause.

use crate::config::{SERVER_THREADS_MIN, SERVER_THREADS_PER_CORE, THREAD_STACK_BYTES};
use std::io;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// Threads that run statements.
#[derive(Debug)]
pub struct Workers {
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

impl Workers {
    /// Starts them.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new() -> io::Result<Workers> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores * SERVER_THREADS_PER_CORE).max(SERVER_THREADS_MIN);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("statements")
            .thread_stack_size(THREAD_STACK_BYTES)
            .enable_all()
            .build()?;
        Ok(Workers {
            runtime: Some(runtime),
        })
    }

    /// Runs `work` on one of them; what it spawns stays there too.
    ///
    /// # Panics
    /// As `work` does.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let runtime = self
            .runtime
            .as_ref()
            .expect("bug: it is taken when dropped");
        // A set of one: unlike a handle it ends its task when it is dropped.
        let mut tasks = JoinSet::new();
        tasks.spawn_on(work, runtime.handle());
        match tasks.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(ended)) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            // The server is being dropped, and whoever waits with it.
            _ => std::future::pending().await,
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
