//! Tables over folders of files, into which INSERT writes all of its rows or none.
//!
//! Takes the tables that DataFusion makes of files, gives the same tables with another INSERT: it writes below a hidden
//! folder and publishes when the whole statement succeeded. A scan first finishes what a crash left. Knows plans and
//! formats by their interface; how files are moved is `staging`'s.

use super::files::{self, nullable};
use super::held::{self, Whole};
use super::objects::is_remote;
use super::roots::{Roots, folder};
use super::staging::{self, Disk, Place, Staging};
use super::tables;
use crate::error::Error;
use async_trait::async_trait;
use datafusion::arrow::array::Array;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{ScanArgs, ScanResult, Session, TableProvider, TableProviderFactory};
use datafusion::common::{
    Constraints, DataFusionError, Result, SchemaExt, Statistics, internal_err, not_impl_err,
};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::{ListingTable, ListingTableUrl};
use datafusion::datasource::physical_plan::{FileGroup, FileOutputMode, FileSinkConfig};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    CreateExternalTable, Expr, LogicalPlan, TableProviderFilterPushDown, TableType,
};
use datafusion::object_store::{self, ObjectStoreExt};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use futures::StreamExt;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::RwLock;

/// What all tables over folders share.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf {
    pub(super) roots: Roots,
    pub(super) disk: Disk,
    /// Folders are listed while nothing is being published in this process.
    pub(super) gate: Arc<RwLock<()>>,
    /// Where the program keeps tables of its own.
    pub(super) own: Option<PathBuf>,
}

impl Shelf {
    /// The folder of a location; `None` where that is no folder of this machine's.
    ///
    /// # Errors
    /// It is outside of the roots.
    pub(super) fn place(&self, url: &ListingTableUrl) -> Result<Option<Place>> {
        let disk = self.disk.clone();
        if let (Some(own), tables::SCHEME) = (&self.own, url.scheme()) {
            let folder = url
                .prefix()
                .parts()
                .fold(own.clone(), |path, part| path.join(part.as_ref()));
            let roots = Roots::default();
            return Ok(Some(Place {
                folder,
                roots,
                disk,
            }));
        }
        if url.object_store() != ObjectStoreUrl::local_filesystem() || !url.is_collection() {
            return Ok(None);
        }
        let roots = self.roots.clone();
        let resolved = roots.resolve("write", &folder(url.prefix())?);
        let folder = resolved.map_err(object_store::Error::from)?;
        Ok(Some(Place {
            folder,
            roots,
            disk,
        }))
    }

    /// Finishes what a crash left in a folder.
    async fn recover(&self, place: Place) -> Result<()> {
        let seen = place.clone();
        let found = blocking(move || staging::hidden(&seen.folder)).await?;
        if found.is_empty() {
            return Ok(());
        }
        let alone = Arc::clone(&self.gate).write_owned().await;
        blocking(move || {
            let _alone = alone;
            staging::recover(&place)
        })
        .await
    }
}

/// Runs what waits for the disk where waiting is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|e| DataFusionError::Execution(e.to_string()))?;
    Ok(done?)
}

/// Makes tables of files.
#[derive(Debug)]
pub(super) struct Folders {
    pub(super) files: Arc<dyn TableProviderFactory>,
    pub(super) shelf: Shelf,
}

#[async_trait]
impl TableProviderFactory for Folders {
    async fn create(
        &self,
        state: &dyn Session,
        table: &CreateExternalTable,
    ) -> Result<Arc<dyn TableProvider>> {
        let made = match files::matching(state, self.files.as_ref(), table).await? {
            Some(made) => made,
            None => self.files.create(state, table).await?,
        };
        Ok(match made.is::<ListingTable>() {
            true => Arc::new(FolderTable::new(made, self.shelf.clone())),
            false => made,
        })
    }
}

/// A table over files.
#[derive(Debug)]
pub(super) struct FolderTable {
    /// A [`ListingTable`].
    files: Arc<dyn TableProvider>,
    shelf: Shelf,
}

impl FolderTable {
    pub(super) fn new(files: Arc<dyn TableProvider>, shelf: Shelf) -> FolderTable {
        FolderTable { files, shelf }
    }

    fn files(&self) -> &ListingTable {
        let files = self.files.downcast_ref::<ListingTable>();
        files.expect("bug: a folder's table lists no files")
    }

    /// Finishes what a crash left, and waits until nothing is being published.
    async fn settled(&self) -> Result<tokio::sync::RwLockReadGuard<'_, ()>> {
        for url in self.files().table_paths() {
            // What is outside of the roots is refused where it is read.
            if let Ok(Some(place)) = self.shelf.place(url) {
                if url.scheme() == tables::SCHEME {
                    tables::check_there(&place.folder)?;
                }
                self.shelf.recover(place).await?;
            }
        }
        Ok(self.shelf.gate.read().await)
    }

    /// That a file which the table names is there, where a scan reads none: DataFusion takes it for a table without rows.
    ///
    /// # Errors
    /// It is not.
    async fn present(&self, state: &dyn Session, plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
        if !files::scanned(plan).is_empty() {
            return Ok(());
        }
        for url in self.files().table_paths() {
            if url.is_collection() || url.get_glob().is_some() {
                continue;
            }
            let store = state.runtime_env().object_store(url)?;
            match store.head(url.prefix()).await {
                Err(object_store::Error::NotFound { .. }) if !is_remote(url.as_str()) => {
                    let why = format!("cannot read {url}: no such file");
                    return Err(io::Error::new(io::ErrorKind::NotFound, why).into());
                }
                found => drop(found?),
            }
        }
        Ok(())
    }

    /// What is written, how, and where: the statement's hidden folder.
    fn config(&self, id: &str, operation: InsertOp) -> Result<FileSinkConfig> {
        let (table, options) = (self.files(), self.files().options());
        let url = &table.table_paths()[0];
        let extension = extension(options.format.as_ref());
        if !url.is_collection() {
            return not_impl_err!(
                "cannot INSERT into {url}: it is one file; a table over a folder (LOCATION '../') takes rows"
            );
        }
        let sample = url.prefix().clone().join(format!("a.{extension}"));
        if !url.contains(&sample, false) || !sample.as_ref().ends_with(&options.file_extension) {
            return not_impl_err!(
                "cannot INSERT into {url}: a new file *.{extension} would not be one of the table's"
            );
        }
        let remote = is_remote(url.as_str());
        if remote && !options.table_partition_cols.is_empty() {
            return not_impl_err!(
                "cannot INSERT into {url}: a partitioned folder of an object store does not take rows all or nothing; a folder without partitions does"
            );
        }
        let wrong = |e| DataFusionError::External(Box::new(e));
        let (below, store, mode) = match remote {
            true => {
                let store = held::address(id)?;
                let object = url.prefix().clone().join(format!("{id}.{extension}"));
                let place: &url::Url = store.as_ref();
                let mut below = place.clone();
                below.set_path(object.as_ref());
                (below, store, FileOutputMode::SingleFile)
            }
            false => {
                let below = url.get_url().join(&staging::rows_below(id));
                let below = below.map_err(wrong)?;
                (below, url.object_store(), FileOutputMode::Directory)
            }
        };
        Ok(FileSinkConfig {
            original_url: String::new(),
            object_store_url: store,
            file_group: FileGroup::default(),
            table_paths: vec![ListingTableUrl::try_new(below, None)?],
            output_schema: table.schema(),
            table_partition_cols: options.table_partition_cols.clone(),
            insert_op: operation,
            // Reading takes them from the folders' names.
            keep_partition_by_columns: false,
            file_extension: extension,
            file_output_mode: mode,
        })
    }
}

fn unchanged(statement: &str) -> String {
    format!(
        "{statement} of a table of files is not supported: CREATE OR REPLACE TABLE .. AS makes one with other rows"
    )
}

/// What the names of a format's new files end with.
pub(super) fn extension(format: &dyn FileFormat) -> String {
    let compressed = format.compression_type();
    let compressed = compressed.and_then(|kind| format.get_ext_with_compression(&kind).ok());
    compressed.unwrap_or_else(|| format.get_ext())
}

/// Sixteen hexadecimal digits that nobody else has.
pub(super) fn new_id() -> Result<String> {
    let random = ring::rand::SystemRandom::new();
    let Ok(bytes) = ring::rand::generate::<[u8; 8]>(&random) else {
        return internal_err!("the system has no random numbers");
    };
    Ok(format!("{:016x}", u64::from_be_bytes(bytes.expose())))
}

#[async_trait]
impl TableProvider for FolderTable {
    fn schema(&self) -> SchemaRef {
        self.files.schema()
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.files.constraints()
    }

    fn table_type(&self) -> TableType {
        self.files.table_type()
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.files.get_table_definition()
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.files.get_logical_plan()
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.files.get_column_default(column)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let _settled = self.settled().await?;
        let plan = self.files.scan(state, projection, filters, limit).await?;
        self.present(state, &plan).await?;
        Ok(plan)
    }

    async fn scan_with_args<'a>(
        &self,
        state: &dyn Session,
        args: ScanArgs<'a>,
    ) -> Result<ScanResult> {
        let _settled = self.settled().await?;
        let scan = self.files.scan_with_args(state, args).await?;
        self.present(state, scan.plan()).await?;
        Ok(scan)
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        self.files.supports_filters_pushdown(filters)
    }

    fn statistics(&self) -> Option<Statistics> {
        self.files.statistics()
    }

    async fn delete_from(&self, _: &dyn Session, _: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("{}", unchanged("DELETE"))
    }

    async fn update(
        &self,
        _: &dyn Session,
        _: Vec<(String, Expr)>,
        _: Vec<Expr>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("{}", unchanged("UPDATE"))
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        operation: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.schema();
        schema.logically_equivalent_names_and_types(&input.schema())?;
        let table = self.files();
        let url = &table.table_paths()[0];
        let id = new_id()?;
        let config = self.config(&id, operation)?;
        let place = self.shelf.place(url)?;
        let remote = is_remote(url.as_str());
        if remote {
            self.shelf.roots.urls().check_url("write", url.as_str())?;
        }
        let orders = table.try_create_output_ordering(state.execution_props(), &[])?;
        let order = orders.into_iter().next().map(Into::into);
        let format = &table.options().format;
        let writer = format
            .create_writer_physical_plan(Arc::clone(&input), state, config, order)
            .await?;
        let Some(writer) = writer.downcast_ref::<DataSinkExec>().cloned() else {
            return not_impl_err!("cannot INSERT into {url}: its format writes no files");
        };
        let order = writer.sort_order().clone();
        let any = nullable(&schema);
        if remote {
            let sink = Whole {
                writer,
                held: held::address(&id)?,
                store: url.object_store(),
                table: schema,
                any,
            };
            return Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), order)));
        }
        let Some(place) = place else {
            return not_impl_err!("cannot INSERT into {url}: it is no folder that may be written");
        };
        let sink = Publishing {
            writer,
            id,
            place,
            shelf: self.shelf.clone(),
            table: schema,
            any,
            own: url.scheme() == tables::SCHEME,
        };
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), order)))
    }
}

/// Writes with another sink below the hidden folder, then publishes.
#[derive(Debug)]
struct Publishing {
    writer: DataSinkExec,
    id: String,
    place: Place,
    shelf: Shelf,
    table: SchemaRef,
    /// The table's columns, NULL taken: DataFusion would refuse it by the column's place, and not by its name.
    any: SchemaRef,
    /// Whether the table is one that the program keeps.
    own: bool,
}

impl DisplayAs for Publishing {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all or nothing: ")?;
        self.writer.sink().fmt_as(kind, f)
    }
}

#[async_trait]
impl DataSink for Publishing {
    fn schema(&self) -> &SchemaRef {
        &self.any
    }

    async fn write_all(
        &self,
        rows: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> Result<u64> {
        if self.own {
            tables::check_there(&self.place.folder)?;
        }
        self.shelf.recover(self.place.clone()).await?;
        let (place, id) = (self.place.clone(), self.id.clone());
        let staging = blocking(move || Staging::begin(place, &id)).await?;
        let rows = required(rows, Arc::clone(&self.table));
        let written = self.writer.sink().write_all(rows, context).await?;
        let alone = Arc::clone(&self.shelf.gate).write_owned().await;
        blocking(move || {
            let _alone = alone;
            staging.publish()
        })
        .await?;
        Ok(written)
    }
}

/// The same rows, and an error in place of a NULL that the table does not take: formats write some of them as values.
pub(super) fn required(
    rows: SendableRecordBatchStream,
    table: SchemaRef,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let rows = rows.map(move |batch| {
        let batch = batch?;
        let mut columns = table.fields().iter().zip(batch.columns());
        let null =
            columns.find(|(field, values)| !field.is_nullable() && values.logical_null_count() > 0);
        match null {
            Some((field, _)) => Err(DataFusionError::External(Box::new(Error::Refused {
                sqlstate: "23502",
                why: format!(
                    "null value in column \"{}\", which takes none",
                    field.name()
                ),
                hint: None,
            }))),
            None => Ok(batch),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

#[cfg(test)]
#[path = "sink_tests.rs"]
pub(super) mod tests;
