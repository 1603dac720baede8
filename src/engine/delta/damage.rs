//! Which of a scan's files it is that cannot be read.
//!
//! Takes the error of a scan and its files, gives the error with the file in it. Looks at files only after an error.

use crate::engine::files::of_parquet;
use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::object_store::{self, ObjectStore, ObjectStoreExt, path::Path};
use datafusion::parquet::arrow::ParquetRecordBatchStreamBuilder;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::{ParquetError, Result};
use datafusion::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use std::ops::Range;
use std::sync::Arc;

/// A file that a plan reads.
#[derive(Debug, Clone)]
pub(super) struct Scanned {
    base: ObjectStoreUrl,
    path: Path,
}

/// The files that a plan reads.
pub(super) fn scanned(plan: &Arc<dyn ExecutionPlan>) -> Vec<Scanned> {
    let mut files = Vec::new();
    let mut pending = vec![plan];
    while let Some(plan) = pending.pop() {
        pending.extend(plan.children());
        let scan = plan.downcast_ref::<DataSourceExec>();
        let scan = scan.and_then(|s| s.data_source().downcast_ref::<FileScanConfig>());
        let Some(scan) = scan else {
            continue;
        };
        let found = scan.file_groups.iter().flat_map(|group| group.iter());
        files.extend(found.map(|file| Scanned {
            base: scan.object_store_url.clone(),
            path: file.object_meta.location.clone(),
        }));
    }
    files
}

/// The error with the file that cannot be read; as it is where all can, or it is about something else.
pub(super) async fn blamed(
    error: DataFusionError,
    context: &Arc<TaskContext>,
    files: &[Scanned],
) -> DataFusionError {
    if !matches!(error.find_root(), DataFusionError::ParquetError(_)) {
        return error;
    }
    for Scanned { base, path } in files {
        let Ok(store) = context.runtime_env().object_store(base) else {
            continue;
        };
        match is_whole(store, path).await {
            Ok(true) => {}
            Ok(false) => return of_parquet(error, &format!("{base}{path}"), None),
            // Not there, or not to be read: the reader of Parquet keeps of it the words only.
            Err(error) => return error.into(),
        }
    }
    error
}

/// Whether all rows of a file can be read.
///
/// # Errors
/// The file cannot be had.
async fn is_whole(store: Arc<dyn ObjectStore>, path: &Path) -> object_store::Result<bool> {
    let found = store.head(path).await?;
    let file = File {
        store,
        path: path.clone(),
        size: found.size,
    };
    let Ok(rows) = ParquetRecordBatchStreamBuilder::new(file).await else {
        return Ok(false);
    };
    let Ok(mut rows) = rows.build() else {
        return Ok(false);
    };
    loop {
        match rows.next().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return Ok(false),
            None => return Ok(true),
        }
    }
}

/// A file in a store.
struct File {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl AsyncFileReader for File {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        let bytes = async move {
            let bytes = self.store.get_range(&self.path, range).await;
            bytes.map_err(|error| ParquetError::External(Box::new(error)))
        };
        bytes.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let size = self.size;
        let metadata = async move {
            let reader = ParquetMetaDataReader::new();
            reader.load_and_finish(self, size).await.map(Arc::new)
        };
        metadata.boxed()
    }
}
