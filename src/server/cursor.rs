//! Rows on their way to a client: a statement that runs, its columns in wire form, and how far it was read.
//!
//! Takes a running statement, appends its rows to the outbox as they come and waits whenever the client does. Says how
//! far a long classification is. Dropping it stops the statement. Knows nothing of portals or protocols.

use super::encode::{Columns, Display};
use super::failure::Failure;
use super::outbox::Outbox;
use crate::config::SERVER_SEND_BYTES;
use crate::engine::{End, Ended, Running, Session};
use datafusion::arrow::array::{RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::{RecordBatchReceiverStream, RecordBatchStreamAdapter};
use futures::StreamExt;
use safeguard_udfs::Summary;
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, sleep_until};

/// Batches that are made ahead of the client.
const AHEAD: usize = 1;

/// What a statement may do to its client.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Between two notices of progress.
    pub progress: Option<Duration>,
    /// Bytes of one answer.
    pub bytes_max: Option<u64>,
}

/// A statement's rows, partly read.
pub struct Cursor {
    rows: SendableRecordBatchStream,
    ended: Option<Ended>,
    batch: Option<RecordBatch>,
    at: usize,
    bytes: u64,
    /// When to say how far it is.
    due: Option<Instant>,
    /// Rows sent so far.
    pub sent: u64,
    /// The command tag without the count.
    pub tag: &'static str,
}

/// How rows go out: as DataRow or as CopyData messages.
pub trait Form: Send {
    /// Appends rows of `batch` from `from` on, at most `rows` of them, until `bytes` are appended; gives the next row.
    ///
    /// # Errors
    /// A row that is too long, a value that cannot be written.
    fn write(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        rows: usize,
        out: &mut bytes::BytesMut,
    ) -> Result<usize, Failure>;
}

impl Form for Columns {
    fn write(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        rows: usize,
        out: &mut bytes::BytesMut,
    ) -> Result<usize, Failure> {
        self.write_rows(batch, from, rows, SERVER_SEND_BYTES, out)
    }
}

/// What a read of rows came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Rows read now.
    pub rows: u64,
    /// Whether there are none left.
    pub done: bool,
}

impl Cursor {
    /// The rows of a statement that has begun.
    pub fn new(running: Running) -> Cursor {
        let tag = running.tag;
        let (mut made, ended) = running.split();
        // On a task of its own: an operator that computes long without a pause must not keep a cancel request waiting.
        let mut rows = RecordBatchReceiverStream::builder(made.schema(), AHEAD);
        let sender = rows.tx();
        rows.spawn(async move {
            while let Some(batch) = made.next().await {
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        Cursor::over(rows.build(), Some(ended), tag)
    }

    /// Rows that are here already.
    pub fn of(batch: RecordBatch, tag: &'static str) -> Cursor {
        let schema = batch.schema();
        let rows = futures::stream::iter([Ok(batch)]);
        let rows = RecordBatchStreamAdapter::new(schema, rows);
        Cursor::over(Box::pin(rows), None, tag)
    }

    fn over(rows: SendableRecordBatchStream, ended: Option<Ended>, tag: &'static str) -> Cursor {
        Cursor {
            rows,
            ended,
            batch: None,
            at: 0,
            bytes: 0,
            due: None,
            sent: 0,
            tag,
        }
    }

    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// The columns in wire form.
    ///
    /// # Errors
    /// Formats that fit no columns.
    pub fn columns(&self, formats: &[i16], display: Display) -> Result<Columns, Failure> {
        Columns::new(&self.schema(), formats, display)
    }

    /// Sends rows, `most` or all. May be dropped at any point and called again.
    ///
    /// # Errors
    /// What the statement fails with, and a client that is gone.
    pub async fn send<W: AsyncWrite + Unpin>(
        &mut self,
        form: &mut dyn Form,
        most: Option<u64>,
        manners: Manners,
        out: &mut Outbox<W>,
    ) -> Result<Read, Failure> {
        let begin = self.sent;
        loop {
            while let Some(batch) = &self.batch {
                let left = most.map_or(u64::MAX, |most| most - (self.sent - begin));
                if left == 0 {
                    return Ok(Read {
                        rows: self.sent - begin,
                        done: false,
                    });
                }
                let before = out.bytes.len();
                let rows = usize::try_from(left).unwrap_or(usize::MAX);
                let next = form.write(batch, self.at, rows, &mut out.bytes)?;
                self.bytes += (out.bytes.len() - before) as u64;
                self.sent += (next - self.at) as u64;
                self.at = next;
                if self.at >= batch.num_rows() {
                    self.batch = None;
                }
                if let Some(most) = manners.bytes_max.filter(|most| self.bytes > *most) {
                    return Err(too_much(most));
                }
                if out.bytes.len() >= SERVER_SEND_BYTES {
                    out.flush().await.map_err(|_| gone())?;
                }
            }
            if most.is_some_and(|most| self.sent - begin >= most) {
                return Ok(Read {
                    rows: self.sent - begin,
                    done: false,
                });
            }
            if !self.next(manners, out).await? {
                return Ok(Read {
                    rows: self.sent - begin,
                    done: true,
                });
            }
        }
    }

    /// Passes rows by.
    ///
    /// # Errors
    /// What the statement fails with.
    pub async fn skip<W: AsyncWrite + Unpin>(
        &mut self,
        most: Option<u64>,
        manners: Manners,
        out: &mut Outbox<W>,
    ) -> Result<Read, Failure> {
        self.send(&mut Nowhere, most, manners, out).await
    }

    /// Runs a statement without rows of its own to its end; gives the rows that it changed, where it says so.
    ///
    /// # Errors
    /// What the statement fails with.
    pub async fn drain<W: AsyncWrite + Unpin>(
        &mut self,
        manners: Manners,
        out: &mut Outbox<W>,
    ) -> Result<u64, Failure> {
        let mut changed = 0;
        while self.next(manners, out).await? {
            let Some(batch) = self.batch.take() else {
                break;
            };
            let counts = batch.columns().first();
            if let Some(counts) = counts.and_then(|c| c.as_any().downcast_ref::<UInt64Array>()) {
                changed += counts.iter().flatten().sum::<u64>();
            }
        }
        Ok(changed)
    }

    /// Gets the next batch; `false` when there is none.
    async fn next<W: AsyncWrite + Unpin>(
        &mut self,
        manners: Manners,
        out: &mut Outbox<W>,
    ) -> Result<bool, Failure> {
        let every = manners.progress.filter(|_| self.ended.is_some());
        loop {
            let due = every.map(|every| *self.due.get_or_insert_with(|| Instant::now() + every));
            let tick = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // First: rows that keep coming must not keep it from being said.
                () = tick => {
                    self.due = None;
                    if let Some(line) = self.ended.as_ref().and_then(progress) {
                        out.failure(&Failure::notice(line));
                        out.flush().await.map_err(|_| gone())?;
                    }
                }
                next = self.rows.next() => {
                    self.at = 0;
                    self.batch = next.transpose().map_err(Failure::from)?;
                    return Ok(self.batch.is_some());
                }
            }
        }
    }

    /// What it has asked so far; `None` once it is finished.
    pub fn progress(&self) -> Option<Summary> {
        self.ended.as_ref().map(Ended::progress)
    }

    /// To be called when the rows are read or given up; gives the statement's notices.
    pub async fn finish(&mut self, session: &Session, end: End<'_>) -> Vec<String> {
        match self.ended.take() {
            Some(ended) => session.finish(ended, end).await,
            None => Vec::new(),
        }
    }
}

/// Rows that nobody wants.
struct Nowhere;

impl Form for Nowhere {
    fn write(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        rows: usize,
        _: &mut bytes::BytesMut,
    ) -> Result<usize, Failure> {
        Ok(batch.num_rows().min(from.saturating_add(rows)))
    }
}

/// A line about a classification that goes on; `None` for any other statement.
fn progress(ended: &Ended) -> Option<String> {
    let now = ended.progress();
    if now.distinct_texts == 0 {
        return None;
    }
    let seconds = now.elapsed.as_secs_f64();
    let rate = now.rows as f64 / seconds.max(0.001);
    let screened = match now.screened {
        0 => String::new(),
        screened => format!("{screened} screened, "),
    };
    Some(format!(
        "safeguard: {} rows so far, {} recalled, {screened}{} asked, {rate:.0} rows/s, {seconds:.0} s",
        now.rows, now.recalled, now.asked
    ))
}

/// The client is gone.
pub fn gone() -> Failure {
    super::cancel::Why::Lost.failure()
}

fn too_much(most: u64) -> Failure {
    Failure::new(
        "54000",
        format!("the answer is longer than {most} bytes, the limit of one answer"),
    )
    .with_hint("max_result_bytes in the server's settings; LIMIT, or COPY in parts")
}

/// The end that an outcome is logged as.
pub fn logged(outcome: &Result<(), Failure>) -> End<'_> {
    match outcome {
        Ok(()) => End::Done,
        Err(failure) if matches!(failure.sqlstate, "57014" | "57P01" | "08006") => End::Cancelled,
        Err(failure) => End::Failed(failure.sqlstate, &failure.message),
    }
}
