//! INSERT into a Delta table: files first, then one entry of the log; all rows or none.
//!
//! Takes a plan's rows, writes them with Delta's writer through the statement's own store and commits them. Who commits at the
//! same time is no reason to fail: the entry is tried again under the next number. What went wrong in the rows is said as it
//! was, and not as Delta says it. Tables whose writers must keep promises that are not kept here take no rows.

use super::left;
use super::log::{At, Log};
use super::store::Written;
use super::writing::{Begun, Local, Writing};
use crate::engine::files::nullable;
use crate::engine::sink::{Shelf, blocking, new_id, required};
use crate::error::Error;
use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result, internal_err, not_impl_err};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use deltalake_core::delta_datafusion::DeltaScanNext;
use deltalake_core::kernel::EagerSnapshot;
use deltalake_core::kernel::transaction::PROTOCOL;
use deltalake_core::table::config::TablePropertiesExt;
use deltalake_core::{DeltaTable, DeltaTableError, checkpoints};
use futures::{StreamExt, TryStreamExt, stream};
use safeguard_udfs::Statement;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a column's metadata say that a writer must see to.
const PROMISES: [(&str, &str); 3] = [
    ("delta.invariants", "an invariant"),
    ("delta.generationExpression", "a generation expression"),
    ("delta.identity", "identity values"),
];

/// The plan that writes `input` into a table.
///
/// # Errors
/// What the table needs of a writer and this is not; REPLACE INTO.
pub(super) async fn plan(
    state: &dyn Session,
    (log, shelf): (&Log, &Shelf),
    input: Arc<dyn ExecutionPlan>,
    table: SchemaRef,
    operation: InsertOp,
) -> Result<Arc<dyn ExecutionPlan>> {
    if operation == InsertOp::Replace {
        return not_impl_err!("cannot REPLACE INTO Delta table \"{}\"", log.name);
    }
    log.check_write(&shelf.roots)?;
    let store = log.store()?;
    let now = EagerSnapshot::try_new(log.over(Arc::clone(&store)).as_ref(), None).await;
    let now = match now {
        Ok(now) => now,
        Err(error) => return Err(log.blamed(&store, error).await),
    };
    check_writer(log, &now)?;
    let local = shelf.place(&log.url)?.map(Local::new);
    let folder = log.url.prefix().clone();
    let writing = Writing::new(store, folder, local.clone(), u64::MAX);
    let version = now.version();
    let checkpoint = now.table_properties().checkpoint_interval().get();
    let target = DeltaScanNext::builder()
        .with_log_store(log.over(Arc::new(Written(Arc::clone(&writing)))))
        .with_eager_snapshot(now)
        .build()
        .await?;
    let writer = target.insert_into(state, Arc::clone(&input), operation);
    let Some(writer) = writer.await?.downcast_ref::<DataSinkExec>().cloned() else {
        return internal_err!("Delta's writer is no sink");
    };
    let sink = Appending {
        writer,
        writing,
        local,
        log: log.clone(),
        any: nullable(&table),
        table,
        version,
        checkpoint,
        empties: operation == InsertOp::Overwrite,
    };
    Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
}

/// Refuses tables whose writers must see to more than is seen to here.
fn check_writer(log: &Log, now: &EagerSnapshot) -> Result<()> {
    PROTOCOL
        .can_write_to(now)
        .map_err(|error| log.told(error.into()))?;
    let refused = |what: String| {
        let name = &log.name;
        not_impl_err!("cannot INSERT into Delta table \"{name}\": {what}")
    };
    let configuration = now.metadata().configuration();
    let checks = configuration.keys();
    if let Some(check) = checks
        .filter_map(|k| k.strip_prefix("delta.constraints."))
        .min()
    {
        return refused(format!("CHECK constraint {check} would not be checked"));
    }
    let mapped = configuration.get("delta.columnMapping.mode");
    if mapped.is_some_and(|mode| mode != "none") {
        return refused("its columns are mapped to other names in its files".to_owned());
    }
    let schema = now.arrow_schema();
    for field in schema.fields() {
        let keys: Vec<&String> = field.metadata().keys().collect();
        for (key, promise) in PROMISES {
            if keys.iter().any(|found| found.starts_with(key)) {
                let name = field.name();
                return refused(format!(
                    "column \"{name}\" has {promise}, which would not be kept"
                ));
            }
        }
    }
    Ok(())
}

/// Writes files and commits them.
#[derive(Debug)]
struct Appending {
    /// Delta's own.
    writer: DataSinkExec,
    writing: Arc<Writing>,
    local: Option<Local>,
    log: Log,
    table: SchemaRef,
    /// The table's columns, NULL taken: DataFusion would refuse it by the column's place, and not by its name.
    any: SchemaRef,
    /// The version that was there when the statement was planned.
    version: u64,
    /// A checkpoint is made each time that so many versions are there.
    checkpoint: u64,
    /// Whether no rows are a change too: the statement is an INSERT OVERWRITE.
    empties: bool,
}

impl DisplayAs for Appending {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one commit to {}: ", self.log.url)?;
        self.writer.sink().fmt_as(kind, f)
    }
}

#[async_trait]
impl DataSink for Appending {
    fn schema(&self) -> &SchemaRef {
        &self.any
    }

    async fn write_all(
        &self,
        rows: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> Result<u64> {
        let Some(rows) = started(rows, self.empties).await? else {
            return Ok(0);
        };
        let begun = self.begin().await?;
        let seen = Arc::new(Rows::default());
        let rows = required(rows, Arc::clone(&self.table));
        let rows = seen.watch(rows, Arc::clone(&self.writing));
        let done = self.writer.sink().write_all(rows, context).await;
        let committed = self.writing.is_committed();
        let unsure = self.writing.is_unsure();
        drop(begun);
        let statement = context.session_config().get_extension::<Statement>();
        let note = |why: String| {
            let why = format!("Delta table \"{}\": {why}", self.log.name);
            tracing::warn!("{why}");
            if let Some(statement) = &statement {
                statement.tally().note(why);
            }
        };
        match done {
            Err(error) if !committed => return Err(self.failed(error, &seen, unsure).await),
            // The rows are there: what came after is no reason to write them again.
            Err(error) => note(format!("after the commit: {error}")),
            Ok(_) => {}
        }
        if let Some(doubt) = self.writing.doubt() {
            note(doubt);
        }
        if let Err(error) = self.shorten().await {
            note(format!("no checkpoint could be made: {error}"));
        }
        Ok(seen.count.load(Ordering::Relaxed))
    }
}

impl Appending {
    /// Clears away what killed statements left, and begins this one.
    async fn begin(&self) -> Result<Begun> {
        let (writing, local) = (Arc::clone(&self.writing), self.local.clone());
        let (id, version) = (new_id()?, self.version);
        blocking(move || {
            if let Some(local) = local {
                left::recover(&local.place)?;
            }
            writing.begin(&id, Some(version))
        })
        .await
    }

    /// What is said of a statement that left nothing.
    async fn failed(&self, error: DataFusionError, seen: &Rows, unsure: bool) -> DataFusionError {
        let own = seen
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(own) = own {
            return own;
        }
        if let Some(broken) = self.writing.broken() {
            return broken.into();
        }
        if unsure {
            let why = format!(
                "Delta table \"{}\": whether the rows are there cannot be told, look before this is repeated: {error}",
                self.log.name
            );
            return Error::refused("40003", why).into();
        }
        match error {
            DataFusionError::External(source) => match source.downcast::<DeltaTableError>() {
                Ok(error) => self.log.blamed(self.writing.inner(), *error).await,
                Err(source) => DataFusionError::External(source),
            },
            other => other,
        }
    }

    /// Makes a checkpoint where one is due, so that readers need not read the whole log.
    async fn shorten(&self) -> Result<()> {
        let snapshot = self.log.load(At::Newest).await?;
        let version = snapshot.version();
        // Others may have gone past the number that is due.
        if (version + 1) / self.checkpoint == (self.version + 1) / self.checkpoint {
            return Ok(());
        }
        let mut table = DeltaTable::new(self.log.over(self.log.store()?));
        let told = |error| self.log.told(error);
        table.load_version(version).await.map_err(told)?;
        checkpoints::create_checkpoint(&table, None)
            .await
            .map_err(told)
    }
}

/// The rows, where there are any or none are a change too.
async fn started(
    mut rows: SendableRecordBatchStream,
    empties: bool,
) -> Result<Option<SendableRecordBatchStream>> {
    if empties {
        return Ok(Some(rows));
    }
    while let Some(batch) = rows.try_next().await? {
        if batch.num_rows() > 0 {
            let schema = rows.schema();
            let rows = stream::once(std::future::ready(Ok(batch))).chain(rows);
            return Ok(Some(Box::pin(RecordBatchStreamAdapter::new(schema, rows))));
        }
    }
    Ok(None)
}

/// What went through to Delta's writer, which keeps of an error its words only.
#[derive(Debug, Default)]
struct Rows {
    count: AtomicU64,
    failed: Mutex<Option<DataFusionError>>,
}

impl Rows {
    fn watch(
        self: &Arc<Self>,
        rows: SendableRecordBatchStream,
        writing: Arc<Writing>,
    ) -> SendableRecordBatchStream {
        let (schema, seen) = (rows.schema(), Arc::clone(self));
        let rows = rows.map(move |batch| match batch {
            // More of them would be judged in vain.
            Ok(_) if writing.is_broken() => {
                let why = "a file could not be written".to_owned();
                Err(DataFusionError::Execution(why))
            }
            Ok(batch) => {
                let rows = u64::try_from(batch.num_rows()).unwrap_or_default();
                seen.count.fetch_add(rows, Ordering::Relaxed);
                Ok(batch)
            }
            Err(error) => {
                let stand_in = DataFusionError::Execution(error.to_string());
                let mut failed = seen.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
                Err(stand_in)
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}
