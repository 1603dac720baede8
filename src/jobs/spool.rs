//! Spooling: a source is read once, and its rows are put into the store in chunks.
//!
//! Takes a query as it was asked for, under the requester's settings, gives chunks in its order; from then on a source that
//! changes or goes away changes nothing. A spool that was cut is dropped and read anew by whoever finds it, as long as the
//! source can still be planned. Knows nothing of how texts are judged.

use super::affected::Affected;
use super::worker::{Held, Worker, named, settings_of};
use crate::config::{BACKFILL_CHUNK_BYTES, BACKFILL_CHUNK_ROWS, BACKFILL_SPOOL_CHUNKS};
use crate::error::Error;
use crate::store::{SpoolJob, SpoolRow, StoreError};
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::DataFusionError;
use futures::TryStreamExt;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Spools a source to its end, or until `stop`, or until nobody wants it any more. A source that cannot be read fails its
/// backfill.
///
/// # Errors
/// The store fails; the spool is read anew when it works again.
pub(super) async fn run(
    worker: &Worker,
    job: SpoolJob,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let (id, store) = (job.id, worker.store());
    let read = worker
        .watched(stop, Held::Spool(id), read(worker, &job))
        .await;
    let failed = match read {
        None | Some(Ok(())) => None,
        Some(Err(Error::Store(error))) => Some(error),
        Some(Err(error)) => {
            let why = format!("source: {error}");
            store
                .fail_backfill(id, why, worker.pace.clock.now())
                .await?;
            None
        }
    };
    store.release_spool(id, worker.claimant()).await?;
    failed.map_or(Ok(()), Err)
}

async fn read(worker: &Worker, job: &SpoolJob) -> Result<(), Error> {
    let session = worker.engine.session(&job.requested_by);
    for (name, value) in named(&job.settings) {
        if let Err(error) = session.set(&name, &value) {
            tracing::warn!("a source is read without a setting of its requester's: {error}");
        }
    }
    let mut affected = affected(worker, job)?;
    let mut spooler = Spooler::new(worker, job.id);
    let mut batches = session.query(&job.selection).await?;
    loop {
        let waiting = worker.engine.waits().sources.begin(Instant::now());
        let next = batches.try_next().await?;
        drop(waiting);
        let Some(batch) = next else { break };
        let mut rows = rows(&batch)?;
        if let Some(affected) = &mut affected {
            rows = affected.of(rows).await?;
        }
        for row in rows {
            if !spooler.add(row, false).await? {
                return Ok(());
            }
        }
    }
    let control = affected.is_some();
    spooler.cut(false);
    for row in affected.map_or_else(Vec::new, Affected::control) {
        if !spooler.add(row, true).await? {
            return Ok(());
        }
    }
    spooler.end(control).await
}

/// What tells affected rows from others, where only those are wanted.
fn affected(worker: &Worker, job: &SpoolJob) -> Result<Option<Affected>, Error> {
    let Some(from) = &job.from else {
        return Ok(None);
    };
    let policies = worker.engine.policies();
    let (old, new) = (
        policies.resolve(from)?,
        policies.resolve(&job.judging.reference)?,
    );
    let settings = settings_of(&job.settings, &job.judging);
    // Drawn anew, the sample is the same.
    let seed = job.id.unsigned_abs();
    let versions = (old.as_ref(), new.as_ref());
    Ok(Some(Affected::new(
        &worker.engine,
        from,
        versions,
        settings,
        seed,
    )))
}

/// The rows of a batch with the columns id, text and, where there is one, weight.
fn rows(batch: &RecordBatch) -> Result<Vec<SpoolRow>, Error> {
    let words = |at: usize| cast(batch.column(at), &DataType::Utf8).map_err(DataFusionError::from);
    let (ids, texts) = (words(0)?, words(1)?);
    let (ids, texts) = (ids.as_string::<i32>(), texts.as_string::<i32>());
    let weights = batch
        .columns()
        .get(2)
        .map(|w| w.as_primitive::<Float64Type>());
    let row = |at: usize| SpoolRow {
        id: ids.is_valid(at).then(|| ids.value(at).into()),
        text: texts.value(at).into(),
        weight: weights.and_then(|w| w.is_valid(at).then(|| w.value(at))),
        old: None,
    };
    Ok((0..batch.num_rows())
        .filter(|at| texts.is_valid(*at))
        .map(row)
        .collect())
}

/// Gathers rows into chunks, and chunks into commits.
struct Spooler<'a> {
    worker: &'a Worker,
    id: i64,
    chunk: Vec<SpoolRow>,
    bytes: usize,
    ready: Vec<(bool, Vec<SpoolRow>)>,
    position: i64,
    rows: u64,
    weight: f64,
}

impl<'a> Spooler<'a> {
    fn new(worker: &'a Worker, id: i64) -> Spooler<'a> {
        Spooler {
            worker,
            id,
            chunk: Vec::new(),
            bytes: 0,
            ready: Vec::new(),
            position: 0,
            rows: 0,
            weight: 0.0,
        }
    }

    /// Whether the spool is still wanted.
    async fn add(&mut self, row: SpoolRow, control: bool) -> Result<bool, StoreError> {
        self.rows += 1;
        self.weight += row.weight();
        self.bytes += row.text.len();
        self.chunk.push(row);
        if self.chunk.len() == BACKFILL_CHUNK_ROWS || self.bytes >= BACKFILL_CHUNK_BYTES {
            self.cut(control);
        }
        match self.ready.len() < BACKFILL_SPOOL_CHUNKS {
            true => Ok(true),
            false => self.commit().await,
        }
    }

    /// Ends a chunk.
    fn cut(&mut self, control: bool) {
        self.bytes = 0;
        if !self.chunk.is_empty() {
            self.ready.push((control, std::mem::take(&mut self.chunk)));
        }
    }

    async fn commit(&mut self) -> Result<bool, StoreError> {
        let ready = std::mem::take(&mut self.ready);
        let (from, store) = (self.position, self.worker.store());
        self.position += i64::try_from(ready.len()).expect("bug: chunks beyond counting");
        let by = self.worker.claimant();
        store.spool(self.id, by, from, ready).await
    }

    async fn end(mut self, control: bool) -> Result<(), Error> {
        self.cut(control);
        if !self.commit().await? {
            return Ok(());
        }
        let sums = (self.rows, self.weight, control);
        let by = self.worker.claimant();
        self.worker.store().end_spool(self.id, by, sums).await?;
        Ok(())
    }
}

/// What a source is ordered by: a column, and whether the largest comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// As the source names it.
    pub column: Arc<str>,
    /// Largest first.
    pub descending: bool,
}

impl Order {
    /// From `column`, `column asc` or `column desc`; a column in double quotes may hold anything.
    pub fn parse(said: &str) -> Option<Order> {
        let said = said.trim();
        let (column, rest) = match said.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.rfind('"')?;
                (quoted[..end].replace("\"\"", "\""), &quoted[end + 1..])
            }
            None => match said.split_once(char::is_whitespace) {
                Some((column, rest)) => (column.to_owned(), rest),
                None => (said.to_owned(), ""),
            },
        };
        let descending = match rest.trim().to_ascii_lowercase().as_str() {
            "" | "asc" => false,
            "desc" => true,
            _ => return None,
        };
        let column: Arc<str> = column.into();
        (!column.is_empty()).then_some(Order { column, descending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_column_and_a_direction() {
        let cases = [
            ("views", Some(("views", false))),
            (" views  DESC ", Some(("views", true))),
            ("views asc", Some(("views", false))),
            ("\"my \"\"views\" desc", Some(("my \"views", true))),
            ("\"a b\"", Some(("a b", false))),
            ("views down", None),
            ("views desc, id", None),
            ("\"views desc", None),
            ("", None),
        ];
        for (said, want) in cases {
            let got = Order::parse(said);
            let got = got.as_ref().map(|order| (&*order.column, order.descending));
            assert_eq!(got, want, "{said}");
        }
    }
}
