//! Rows out of a stream of bytes that is cut anywhere.

use super::Options;
use crate::server::failure::Failure;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

/// Reads the rows of one COPY FROM.
pub struct Reader {
    rows: u64,
}

impl Reader {
    /// A reader of rows of `schema`, the target columns in the order of the statement. `table` is for errors.
    ///
    /// # Errors
    /// 42703 for an option that names a column that is not there.
    pub fn new(table: &str, schema: SchemaRef, options: Options) -> Result<Reader, Failure> {
        let _ = (table, schema, options);
        Ok(Reader { rows: 0 })
    }

    /// What a CopyInResponse says: the overall format and each column's.
    pub fn column_format(&self) -> (i8, Vec<i16>) {
        (0, Vec::new())
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// 22P04 for a malformed file, 22P02 and its like for a value, 54000 for a row beyond the limit.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let _ = bytes;
        Err(Failure::new("0A000", "COPY is not supported"))
    }

    /// `most_rows` rows, once as many are there.
    pub fn take_batch(&mut self, most_rows: usize) -> Option<RecordBatch> {
        let _ = most_rows;
        None
    }

    /// Ends the stream (CopyDone); the remaining rows, if any.
    ///
    /// # Errors
    /// As [`Reader::push`], of a stream that ends too early.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, Failure> {
        Ok(None)
    }

    /// Rows read so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}
