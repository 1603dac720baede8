//! The payload of a chunk of a backfill: rows as compressed Arrow, and the prefixes by which a text is found among them.
//!
//! Takes rows, gives bytes, and back. Knows nothing of SQLite.

use super::records::{Digest, text_digest};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use std::sync::{Arc, LazyLock};

/// A row that is to be judged.
#[derive(Debug, Clone, PartialEq)]
pub struct SpoolRow {
    /// What tells rows apart for the user; `None` where the source gives nothing.
    pub id: Option<Arc<str>>,
    /// What is judged.
    pub text: Arc<str>,
    /// How much it matters.
    pub weight: Option<f64>,
    /// Of a control row: its label under the earlier version.
    pub old: Option<Arc<str>>,
}

impl SpoolRow {
    /// The weight as it is summed: nothing for none, and never less than nothing.
    pub fn weight(&self) -> f64 {
        self.weight
            .filter(|w| w.is_finite())
            .map_or(0.0, |w| w.max(0.0))
    }
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("text", DataType::Utf8, false),
        Field::new("weight", DataType::Float64, true),
        Field::new("old", DataType::Utf8, true),
    ]))
});

/// Bytes of a digest that are kept to find its text.
pub(super) const PREFIX_BYTES: usize = 8;

/// Rows as bytes.
pub(super) fn encode(rows: &[SpoolRow]) -> Vec<u8> {
    let words = |word: fn(&SpoolRow) -> Option<&str>| -> ArrayRef {
        Arc::new(rows.iter().map(word).collect::<StringArray>())
    };
    let columns = vec![
        words(|row| row.id.as_deref()),
        words(|row| Some(&row.text)),
        Arc::new(rows.iter().map(|row| row.weight).collect::<Float64Array>()) as ArrayRef,
        words(|row| row.old.as_deref()),
    ];
    let write = || {
        let batch = RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?;
        let compressed =
            IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &SCHEMA, compressed)?;
        writer.write(&batch)?;
        writer.into_inner()
    };
    write().unwrap_or_else(|e: ArrowError| panic!("bug: a chunk that cannot be written: {e}"))
}

/// The rows in bytes of [`encode`].
pub(super) fn decode(payload: &[u8]) -> Result<Vec<SpoolRow>, ArrowError> {
    let mut rows = Vec::new();
    for batch in StreamReader::try_new(payload, None)? {
        let batch = batch?;
        if batch.schema() != *SCHEMA {
            return Err(ArrowError::SchemaError(
                "a chunk of a backfill has other columns".to_owned(),
            ));
        }
        let word = |column: usize, row: usize| {
            let column = batch.column(column).as_string::<i32>();
            column.is_valid(row).then(|| Arc::from(column.value(row)))
        };
        let weights = batch.column(2).as_primitive::<Float64Type>();
        rows.extend((0..batch.num_rows()).map(|row| SpoolRow {
            id: word(0, row),
            text: batch.column(1).as_string::<i32>().value(row).into(),
            weight: weights.is_valid(row).then(|| weights.value(row)),
            old: word(3, row),
        }));
    }
    Ok(rows)
}

/// The beginnings of the digests of the rows' texts, in order.
pub(super) fn prefixes(rows: &[SpoolRow]) -> Vec<u8> {
    let digests = rows.iter().map(|row| text_digest(&row.text));
    digests.flat_map(|d| prefix(&d)).collect()
}

/// The beginning of a digest.
pub(super) fn prefix(digest: &Digest) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    prefix.copy_from_slice(&digest[..PREFIX_BYTES]);
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were() {
        let row = |id: Option<&str>, text: &str, weight, old: Option<&str>| SpoolRow {
            id: id.map(Arc::from),
            text: text.into(),
            weight,
            old: old.map(Arc::from),
        };
        let rows = vec![
            row(Some("1"), "plain", Some(2.5), None),
            row(None, "", None, Some("allowed")),
            row(Some(""), "naïve \u{1f600}\n\0", Some(-1.0), Some("bad")),
        ];
        assert_eq!(decode(&encode(&rows)).unwrap(), rows);
        assert_eq!(decode(&encode(&[])).unwrap(), []);
        assert!(decode(b"not arrow").is_err());
        let found = prefixes(&rows);
        assert_eq!(found[..8], text_digest("plain")[..8]);
        assert_eq!(found.len(), 24);
        let weights: Vec<f64> = rows.iter().map(SpoolRow::weight).collect();
        assert_eq!(weights, [2.5, 0.0, 0.0]);
    }

    #[test]
    fn texts_are_compressed() {
        let rows: Vec<SpoolRow> = (0..256)
            .map(|n| SpoolRow {
                id: Some(n.to_string().into()),
                text: format!("nobody knows what this says, {n}").into(),
                weight: None,
                old: None,
            })
            .collect();
        let plain: usize = rows.iter().map(|row| row.text.len()).sum();
        assert!(encode(&rows).len() < plain / 2);
    }
}
