//! Which part of a damaged Parquet file cannot be read.
//!
//! Takes a file that failed, and the columns that were read of it; gives the first of its row groups that fails, with its
//! rows and the column. Reads the file again, a group after the other, and only where something has failed already.

use datafusion::datasource::listing::PartitionedFile;
use datafusion::object_store::ObjectStore;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use datafusion::parquet::arrow::async_reader::{
    ParquetObjectReader, ParquetRecordBatchStreamBuilder,
};
use datafusion::parquet::errors::Result;
use datafusion::parquet::file::metadata::RowGroupMetaData;
use futures::TryStreamExt;
use std::sync::Arc;

/// A row group as messages name it, counted from 0 as other tools do. `None` where every one can be read, and where the
/// file does not tell which it has.
pub(super) async fn unreadable(
    store: &Arc<dyn ObjectStore>,
    part: &PartitionedFile,
    columns: &[String],
) -> Option<String> {
    let object = &part.object_meta;
    let reader = ParquetObjectReader::new(Arc::clone(store), object.location.clone());
    let mut reader = reader.with_file_size(object.size);
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

struct File {
    reader: ParquetObjectReader,
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
