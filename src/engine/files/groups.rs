//! Which part of a damaged Parquet file cannot be read.
//!
//! Takes a file that failed, and the columns that were read of it; gives the first of its row groups that fails, with its
//! rows and the column. Reads the file again, a group after the other, and only where something has failed already.

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectStore, ObjectStoreExt};
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use datafusion::parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use datafusion::parquet::errors::{ParquetError, Result};
use datafusion::parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use std::ops::Range;
use std::sync::Arc;

/// A row group as messages name it, counted from 0 as other tools do. `None` where every one can be read, and where the
/// file does not tell which it has.
pub(super) async fn unreadable(
    store: &Arc<dyn ObjectStore>,
    part: &PartitionedFile,
    columns: &[String],
) -> Option<String> {
    let object = &part.object_meta;
    let mut reader = Reader {
        store: Arc::clone(store),
        location: object.location.clone(),
        size: object.size,
    };
    let options = ArrowReaderOptions::default();
    let metadata = ArrowReaderMetadata::load_async(&mut reader, options).await;
    let file = File {
        reader,
        metadata: metadata.ok()?,
    };
    let groups = file.metadata.metadata().row_groups();
    let mut before = 0;
    for (number, group) in groups.iter().enumerate() {
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        if is_in(group, part) && file.read(number, &names).await.is_err() {
            let mut said = format!(
                "row group {number} of {} (rows {before} to {})",
                groups.len(),
                before + group.num_rows() - 1
            );
            for name in names {
                if file.read(number, &[name]).await.is_err() {
                    said.push_str(&format!(", column \"{name}\""));
                    break;
                }
            }
            return Some(said);
        }
        before += group.num_rows();
    }
    None
}

/// Whether a scan of this part of the file reads the group: where it begins counts.
fn is_in(group: &RowGroupMetaData, part: &PartitionedFile) -> bool {
    let Some(range) = &part.range else {
        return true;
    };
    let first = group.columns().first();
    let begin = first.map_or(0, |column| {
        let dictionary = column.dictionary_page_offset();
        dictionary.unwrap_or_else(|| column.data_page_offset())
    });
    (range.start..range.end).contains(&begin)
}

/// Bytes of one file.
#[derive(Clone)]
struct Reader {
    store: Arc<dyn ObjectStore>,
    location: Path,
    size: u64,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        let read = self.store.get_range(&self.location, range);
        read.map(|bytes| bytes.map_err(|e| ParquetError::External(Box::new(e))))
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let size = self.size;
        let read = ParquetMetaDataReader::new().load_and_finish(self, size);
        read.map(|metadata| metadata.map(Arc::new)).boxed()
    }
}

struct File {
    reader: Reader,
    metadata: ArrowReaderMetadata,
}

impl File {
    /// Reads columns of one group, and keeps nothing of them.
    async fn read(&self, group: usize, columns: &[&str]) -> Result<()> {
        let schema = self.metadata.metadata().file_metadata().schema_descr();
        let fields = schema.root_schema().get_fields().iter().enumerate();
        let read = fields.filter(|(_, field)| columns.contains(&field.name()));
        let mask = ProjectionMask::roots(schema, read.map(|(index, _)| index));
        let (reader, metadata) = (self.reader.clone(), self.metadata.clone());
        let rows = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata)
            .with_row_groups(vec![group])
            .with_projection(mask)
            .build()?;
        rows.try_for_each(|_| std::future::ready(Ok(()))).await
    }
}
