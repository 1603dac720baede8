//! Rows as CopyData messages.

use super::Options;
use crate::server::encode::{Columns, Display, Form};
use crate::server::failure::Failure;
use bytes::BytesMut;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;

/// Writes the rows of one COPY TO.
pub struct Writer {
    columns: Columns,
    options: Options,
}

impl Writer {
    /// A writer of rows of `schema`.
    ///
    /// # Errors
    /// 42703 for an option that names a column that is not there, 54011 for too many columns.
    pub fn new(schema: &Schema, options: Options, display: Display) -> Result<Writer, Failure> {
        let columns = Columns::new(schema, &[], display)?;
        Ok(Writer { columns, options })
    }

    /// What a CopyOutResponse says: the overall format and each column's.
    pub fn column_format(&self) -> (i8, Vec<i16>) {
        let form = match self.options.format {
            super::Format::Binary => Form::Binary,
            _ => Form::Text,
        };
        (
            form.code() as i8,
            vec![form.code(); self.columns.fields().len()],
        )
    }

    /// Appends what stands before the rows: the header line. (The binary signature goes with the first row, as
    /// PostgreSQL sends it and drivers expect.)
    pub fn begin(&mut self, out: &mut BytesMut) {
        let _ = out;
    }

    /// Appends the rows from `from` on, each a CopyData message, until about `most_bytes` have been appended (at least one
    /// row is). Gives the first row not written.
    ///
    /// # Errors
    /// 54000 for a row beyond the limit.
    pub fn write_rows(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        most_bytes: usize,
        out: &mut BytesMut,
    ) -> Result<usize, Failure> {
        let _ = (batch, from, most_bytes, out);
        Err(Failure::new("0A000", "COPY is not supported"))
    }

    /// Appends what stands after the rows: the binary trailer. CopyDone is the caller's.
    pub fn end(&mut self, out: &mut BytesMut) {
        let _ = out;
    }
}
