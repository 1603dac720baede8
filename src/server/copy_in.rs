//! COPY FROM STDIN: data that comes in messages, into a table.
//!
//! Takes CopyData as it comes, gives rows to an INSERT that runs beside it and is waited for whenever it is slower. The
//! table takes all rows or none, as far as its provider does. Knows the formats through `copy`.

use super::cancel::Stop;
use super::copy;
use super::cursor::gone;
use super::failure::Failure;
use super::frontend::Message;
use super::outbox::Outbox;
use super::session::Session;
use crate::config::SERVER_COPY_ROWS;
use crate::engine::{self, End, Ended};
use crate::error::Error;
use datafusion::arrow::array::{RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{DataFusionError, ScalarValue, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use futures::StreamExt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

type Rows = Result<RecordBatch, DataFusionError>;

/// Batches between the client and the INSERT.
const AHEAD: usize = 2;

/// A COPY that has begun.
pub struct CopyIn {
    reader: copy::Reader,
    formats: (i8, Vec<i16>),
    rows: Option<Sender<Rows>>,
    insert: Option<JoinHandle<Result<(), DataFusionError>>>,
    ended: Option<Ended>,
    /// Whether it was begun by the extended protocol.
    pub extended: bool,
}

impl Drop for CopyIn {
    fn drop(&mut self) {
        let (insert, rows) = (self.insert.take(), self.rows.take());
        if let Some(insert) = insert {
            insert.abort();
            // Until it is gone it must not take the end of the data for the end of its rows.
            tokio::spawn(async move {
                let _ = insert.await;
                drop(rows);
            });
        }
    }
}

/// Rows from a channel, once.
#[derive(Debug)]
struct Incoming {
    schema: SchemaRef,
    rows: Mutex<Option<Receiver<Rows>>>,
}

impl PartitionStream for Incoming {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self
            .rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let stream = futures::stream::unfold(rows, |rows| async {
            let mut rows = rows?;
            Some((rows.recv().await?, Some(rows)))
        });
        let schema = Arc::clone(&self.schema);
        Box::pin(RecordBatchStreamAdapter::new(schema, stream.boxed()))
    }
}

impl CopyIn {
    /// Starts the INSERT that the data is for.
    ///
    /// # Errors
    /// 42P01 and 42703 for what is not there, and what the session's guard refuses.
    pub(super) async fn start(
        session: &mut Session,
        (table, columns): (&ObjectName, &[Ident]),
        options: &copy::Options,
        sql: &str,
    ) -> Result<CopyIn, Failure> {
        let name = table.to_string();
        let reference = TableReference::parse_str(&name);
        let context = session.engine.context();
        let provider = context
            .table_provider(reference.clone())
            .await
            .map_err(|_| Failure::new("42P01", format!("relation \"{name}\" does not exist")))?;
        let target = provider.schema();
        let given = given(&target, columns, &name)?;
        let (sender, receiver) = channel(AHEAD);
        let incoming = Incoming {
            schema: Arc::clone(&given),
            rows: Mutex::new(Some(receiver)),
        };
        let stream = StreamingTable::try_new(Arc::clone(&given), vec![Arc::new(incoming)])?;
        let source = provider_as_source(Arc::new(stream));
        let mut scan = LogicalPlanBuilder::scan("incoming", source, None)?;
        if given.fields().len() != target.fields().len() || !columns.is_empty() {
            scan = scan.project(target.fields().iter().map(|field| {
                match given.field_with_name(field.name()) {
                    Ok(_) => col(Ident::with_quote('"', field.name()).to_string()),
                    Err(_) => {
                        lit(ScalarValue::try_from(field.data_type()).unwrap_or(ScalarValue::Null))
                            .alias(field.name())
                    }
                }
            }))?;
        }
        let target = provider_as_source(provider);
        let plan =
            LogicalPlanBuilder::insert_into(scan.build()?, reference, target, InsertOp::Append)?
                .build()?;
        let reader = copy::Reader::new(&name, given, options.clone())?;
        let reader = reader.in_zone(session.display().time_zone);
        CopyIn::of(session, plan, (reader, sender), sql).await
    }

    async fn of(
        session: &mut Session,
        plan: LogicalPlan,
        (reader, sender): (copy::Reader, Sender<Rows>),
        sql: &str,
    ) -> Result<CopyIn, Failure> {
        // What is logged and what errors name is the COPY, not the plan that stands for it.
        let statement = engine::Statement::parse("SELECT 1")?.named(sql);
        let engine = Arc::clone(&session.engine);
        let started = async move {
            let (mut stream, ended) = engine.run_plan(&statement, plan).await?.split();
            let insert = tokio::spawn(async move {
                while let Some(counts) = stream.next().await {
                    let counts = counts?;
                    debug_assert!(
                        counts
                            .columns()
                            .first()
                            .is_none_or(|c| c.as_any().is::<UInt64Array>())
                    );
                }
                Ok(())
            });
            Ok::<_, Error>((insert, ended))
        };
        let (insert, ended) = session.shared.workers.run(started).await?;
        Ok(CopyIn {
            formats: reader.column_format(),
            reader,
            rows: Some(sender),
            insert: Some(insert),
            ended: Some(ended),
            extended: false,
        })
    }

    /// The overall format, and each column's.
    pub fn formats(&self) -> (i8, Vec<i16>) {
        self.formats.clone()
    }

    async fn data(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.reader.push(data)?;
        while let Some(batch) = self.reader.take_batch(SERVER_COPY_ROWS) {
            self.give(batch).await?;
        }
        Ok(())
    }

    async fn give(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        let Some(rows) = &self.rows else {
            return Ok(());
        };
        if rows.send(Ok(batch)).await.is_err() {
            // The INSERT gave up: it says why.
            return self.inserted().await;
        }
        Ok(())
    }

    async fn inserted(&mut self) -> Result<(), Failure> {
        self.rows = None;
        match self.insert.take() {
            None => Ok(()),
            Some(insert) => match insert.await {
                Ok(done) => Ok(done?),
                Err(_) => Err(Failure::new("XX000", "the insert of a copy ended early")),
            },
        }
    }

    async fn done(&mut self) -> Result<u64, Failure> {
        if let Some(last) = self.reader.finish()? {
            self.give(last).await?;
        }
        self.inserted().await?;
        Ok(self.reader.rows())
    }
}

/// The columns that are given, in the order in which they are.
fn given(target: &Schema, columns: &[Ident], table: &str) -> Result<SchemaRef, Failure> {
    if columns.is_empty() {
        return Ok(Arc::new(Schema::new(target.fields().clone())));
    }
    let mut fields: Vec<Arc<Field>> = Vec::new();
    for column in columns {
        let name = super::statement::folded(column);
        let Some((_, field)) = target.fields().find(&name) else {
            return Err(Failure::new(
                "42703",
                format!("column \"{name}\" of relation \"{table}\" does not exist"),
            ));
        };
        if fields.iter().any(|known| known.name() == field.name()) {
            return Err(Failure::new(
                "42701",
                format!("column \"{name}\" specified more than once"),
            ));
        }
        fields.push(Arc::clone(field));
    }
    Ok(Arc::new(Schema::new(fields)))
}

impl Session {
    /// Answers a message while a COPY awaits data.
    pub(super) async fn copying<W: AsyncWrite + Unpin + Send>(
        &mut self,
        message: Message,
        out: &mut Outbox<W>,
        stop: &Stop,
    ) -> Result<(), Failure> {
        let Some(mut copy) = self.copy.take() else {
            return Ok(());
        };
        let limits = self.limits(stop);
        let done = match message {
            Message::CopyData(data) => match limits.run(copy.data(&data)).await {
                Ok(()) => {
                    self.copy = Some(copy);
                    return Ok(());
                }
                Err(failure) => Err(failure),
            },
            Message::CopyDone => limits.run(copy.done()).await,
            Message::CopyFail(why) => Err(Failure::new(
                "57014",
                format!("COPY from stdin failed: {why}"),
            )),
            // A client may send these behind its Execute, before any data.
            Message::Sync | Message::Flush => {
                self.copy = Some(copy);
                return Ok(());
            }
            Message::Broken { failure, .. } => Err(failure),
            _ => Err(Failure::new(
                "08P01",
                "a message that was not expected during COPY from stdin",
            )),
        };
        self.copied(copy, done, out, stop).await
    }

    /// A COPY that awaits data is cancelled.
    ///
    /// # Errors
    /// As [`Session::handle`].
    pub async fn cancel_copy<W: AsyncWrite + Unpin + Send>(
        &mut self,
        why: Failure,
        out: &mut Outbox<W>,
    ) -> Result<(), Failure> {
        match self.copy.take() {
            Some(copy) => self.copied(copy, Err(why), out, &Stop::default()).await,
            None => Ok(()),
        }
    }

    async fn copied<W: AsyncWrite + Unpin + Send>(
        &mut self,
        mut copy: CopyIn,
        done: Result<u64, Failure>,
        out: &mut Outbox<W>,
        stop: &Stop,
    ) -> Result<(), Failure> {
        if let Some(ended) = copy.ended.take() {
            let end = match &done {
                Ok(_) => End::Done,
                Err(failure) => End::Failed(failure.sqlstate, &failure.message),
            };
            for line in self.engine.finish(ended, end).await {
                self.tell(&Failure::notice(line), out);
            }
        }
        let extended = copy.extended;
        drop(copy);
        if let Ok(rows) = &done {
            out.complete(format!("COPY {rows}"));
        }
        let done = done.map(|_| ());
        if !extended {
            let done = match done {
                Ok(()) => self.go_on(out, stop).await,
                failed => failed,
            };
            return self.simple_end(done, out).await;
        }
        match done {
            Ok(()) => out.flush().await.map_err(|_| gone()),
            Err(failure) => self.extended_end(failure, out).await,
        }
    }
}
