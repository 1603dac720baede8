//! How much of the input is in flight: little at first, so that a LIMIT above stops early, and twice as much each round.
//!
//! Takes the input's batches, gives slices as there is room for them. Knows nothing of what is asked about them.

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::Semaphore;

/// Rows in flight when a statement begins.
pub const WINDOW_ROWS_FIRST: usize = 16;
/// Rows in flight at the most.
pub const WINDOW_ROWS_MAX: usize = 8_192;
/// How many rows may be in flight; grows by what is done.
pub(crate) struct Window {
    free: Semaphore,
    grown: AtomicUsize,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self {
            free: Semaphore::new(WINDOW_ROWS_FIRST),
            grown: WINDOW_ROWS_FIRST.into(),
        }
    }

    /// Waits for room and takes up to half of it, at most `rows`.
    async fn take(&self, rows: usize) -> usize {
        let permit = self
            .free
            .acquire()
            .await
            .expect("bug: the window is never closed");
        permit.forget();
        let more = (self.free.available_permits().div_ceil(2)).min(rows - 1);
        match self
            .free
            .try_acquire_many(u32::try_from(more).unwrap_or(u32::MAX))
        {
            Ok(permits) => {
                permits.forget();
                more + 1
            }
            Err(_) => 1,
        }
    }

    pub(crate) fn done(&self, rows: usize) {
        let now = self.grown.load(Relaxed);
        let growth = rows.min(WINDOW_ROWS_MAX.saturating_sub(now));
        self.grown.fetch_add(growth, Relaxed);
        self.free.add_permits(rows + growth);
    }
}

/// Cuts the input's batches into slices that fit the window.
pub(crate) struct Cut {
    input: SendableRecordBatchStream,
    rest: Option<RecordBatch>,
    window: Arc<Window>,
}

impl Cut {
    pub(crate) fn new(input: SendableRecordBatchStream, window: Arc<Window>) -> Self {
        Self {
            input,
            rest: None,
            window,
        }
    }

    pub(crate) async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            let Some(batch) = self.rest.take() else {
                match self.input.try_next().await? {
                    Some(batch) => self.rest = Some(batch),
                    None => return Ok(None),
                }
                continue;
            };
            if batch.num_rows() == 0 {
                continue;
            }
            let rows = self.window.take(batch.num_rows()).await;
            if rows < batch.num_rows() {
                self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
            }
            return Ok(Some((batch.slice(0, rows), self)));
        }
    }
}
