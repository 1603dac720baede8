//! A query's rows as texts and numbers, whatever their types.

use crate::engine::Session;
use crate::error::Error;
use datafusion::arrow::array::{Array, AsArray, RecordBatch, StringArray};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use futures::TryStreamExt;
use std::collections::HashMap;

/// Rows that were read whole.
pub(super) struct Rows {
    columns: HashMap<String, StringArray>,
    len: usize,
}

impl Rows {
    /// The rows of one query.
    pub(super) async fn read(session: &Session, sql: &str) -> Result<Rows, Error> {
        let stream = session.query(sql).await?;
        let schema = stream.schema();
        let batches: Vec<RecordBatch> = stream.try_collect().await?;
        let batch = concat_batches(&schema, &batches).map_err(DataFusionError::from)?;
        let mut columns = HashMap::new();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            let shown = match field.data_type() {
                DataType::List(_) => listed(column.as_ref()),
                _ => cast(column, &DataType::Utf8)
                    .map_err(DataFusionError::from)?
                    .as_string::<i32>()
                    .clone(),
            };
            columns.insert(field.name().clone(), shown);
        }
        Ok(Rows {
            columns,
            len: batch.num_rows(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A cell; none where it is NULL.
    ///
    /// # Panics
    /// The query gives no such column.
    pub(super) fn get(&self, row: usize, column: &str) -> Option<&str> {
        let cells = self.columns.get(column);
        let cells = cells.unwrap_or_else(|| panic!("bug: no column {column} was read"));
        cells.is_valid(row).then(|| cells.value(row))
    }

    /// A cell; empty where it is NULL.
    pub(super) fn text(&self, row: usize, column: &str) -> String {
        self.get(row, column).unwrap_or_default().to_owned()
    }

    /// A cell that holds a number.
    pub(super) fn number(&self, row: usize, column: &str) -> Option<f64> {
        self.get(row, column)?.parse().ok()
    }

    /// A cell that holds a count; 0 where it is NULL.
    pub(super) fn count(&self, row: usize, column: &str) -> u64 {
        self.get(row, column)
            .and_then(|cell| cell.parse().ok())
            .unwrap_or(0)
    }

    /// Some columns of all rows, as they are.
    pub(super) fn table(&self, columns: &[&str]) -> Vec<Vec<String>> {
        let row = |row| columns.iter().map(|c| self.text(row, c)).collect();
        (0..self.len).map(row).collect()
    }
}

/// Lists of words, joined.
fn listed(column: &dyn Array) -> StringArray {
    let lists = column.as_list::<i32>();
    let joined = lists.iter().map(|list| {
        let words = cast(&list?, &DataType::Utf8).ok()?;
        let words: Vec<&str> = words.as_string::<i32>().iter().flatten().collect();
        Some(words.join(", "))
    });
    joined.collect()
}
