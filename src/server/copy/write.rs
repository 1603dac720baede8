//! Rows as CopyData messages: one each, as PostgreSQL's protocol has it, or gathered where the client asked for that.

use super::{Format, Header, Options};
use crate::config::SERVER_GATHER_BYTES;
use crate::server::encode::cell::{Shape, Slot};
use crate::server::encode::quote::{self, Special};
use crate::server::encode::{Columns, Display, Form, finish_row};
use crate::server::failure::Failure;
use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;

/// What a binary file begins with: signature, flags, the length of an extension.
pub(super) const BINARY_HEAD: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Writes the rows of one COPY TO.
pub struct Writer {
    columns: Columns,
    options: Options,
    special: Special,
    /// Per column: quoted always.
    forced: Vec<bool>,
    /// Numbers and the like can hold neither delimiter nor null string.
    plain: bool,
    /// The binary signature is still to be written.
    head: bool,
}

impl Writer {
    /// A writer of rows of `schema`.
    ///
    /// # Errors
    /// 42703 for an option that names a column that is not there, 54011 for too many columns.
    pub fn new(schema: &Schema, options: Options, display: Display) -> Result<Writer, Failure> {
        let code = Form::Binary.code();
        let formats: &[i16] = match options.format {
            Format::Binary => &[code],
            _ => &[],
        };
        let columns = Columns::new(schema, formats, display)?;
        let names: Vec<&str> = (columns.fields().iter().map(|f| f.name.as_str())).collect();
        let forced = options.force_quote.among(&names, None)?;
        let special = match options.format {
            Format::Csv => quote::special_in_csv(options.delimiter, options.quote),
            _ => quote::special_in_text(options.delimiter),
        };
        let usual = [options.delimiter, options.quote]
            .iter()
            .all(|b| b"\t,;|\"'".contains(b));
        Ok(Writer {
            plain: usual && (options.null.is_empty() || options.null == "\\N"),
            head: options.format == Format::Binary,
            columns,
            options,
            special,
            forced,
        })
    }

    /// What a CopyOutResponse says: the overall format and each column's.
    pub fn column_format(&self) -> (i8, Vec<i16>) {
        super::column_format(self.options.format, self.columns.fields().len())
    }

    /// Appends what stands before the rows: the header line. (The binary signature goes with the first row, as
    /// PostgreSQL sends it and drivers expect.)
    pub fn begin(&mut self, out: &mut BytesMut) {
        if self.options.header == Header::None || self.options.format == Format::Binary {
            return;
        }
        let start = begin_message(out);
        for at in 0..self.columns.fields().len() {
            if at > 0 {
                out.put_u8(self.options.delimiter);
            }
            let from = out.len();
            out.extend_from_slice(self.columns.fields()[at].name.as_bytes());
            self.finish_field(from, false, out);
        }
        out.put_u8(b'\n');
        crate::server::encode::patch(out, start + 1);
    }

    /// Appends the rows from `from` on as CopyData messages until about `most_bytes` have been appended (at least one
    /// message is). Gives the first row not written.
    ///
    /// # Errors
    /// 54000 for a message beyond the limit of a row, XX000 for a batch of another schema.
    pub fn write_rows(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        most_bytes: usize,
        out: &mut BytesMut,
    ) -> Result<usize, Failure> {
        let arrays = self.columns.arrays(batch)?;
        let slots = self.columns.slots(&arrays);
        let full = out.len().saturating_add(most_bytes);
        let mut row = from;
        while row < batch.num_rows() {
            let start = begin_message(out);
            if std::mem::take(&mut self.head) {
                out.extend_from_slice(BINARY_HEAD);
            }
            loop {
                match self.options.format {
                    Format::Binary => write_binary(&slots, row, out),
                    Format::Text | Format::Csv => self.write_line(&slots, row, out),
                }
                row += 1;
                let room = out.len() - start < SERVER_GATHER_BYTES;
                if !(self.options.gather && room && row < batch.num_rows()) {
                    break;
                }
            }
            finish_row(out, start)?;
            if out.len() >= full {
                break;
            }
        }
        Ok(row)
    }

    /// Appends what stands after the rows: the binary trailer. CopyDone is the caller's.
    pub fn end(&mut self, out: &mut BytesMut) {
        if self.options.format != Format::Binary {
            return;
        }
        let start = begin_message(out);
        if std::mem::take(&mut self.head) {
            out.extend_from_slice(BINARY_HEAD);
        }
        out.put_i16(-1);
        crate::server::encode::patch(out, start + 1);
    }

    fn write_line(&self, slots: &[Slot<'_>], row: usize, out: &mut BytesMut) {
        for (at, slot) in slots.iter().enumerate() {
            if at > 0 {
                out.put_u8(self.options.delimiter);
            }
            if slot.is_null(row) {
                out.extend_from_slice(self.options.null.as_bytes());
                continue;
            }
            let from = out.len();
            slot.put(row, out);
            if !self.plain || slot.shape != Shape::Plain || self.forced[at] {
                self.finish_field(from, self.forced[at], out);
            }
        }
        out.put_u8(b'\n');
    }

    /// Escapes or quotes the field in `out[from..]` where it must be.
    fn finish_field(&self, from: usize, forced: bool, out: &mut BytesMut) {
        if self.options.format != Format::Csv {
            return quote::copy_text(from, &self.special, out);
        }
        let field = &out[from..];
        // A lone `\.` would end the data.
        let ends = self.forced.len() == 1 && field == b"\\.";
        let null = field == self.options.null.as_bytes();
        if forced || ends || null || quote::has_special(from, &self.special, out) {
            quote::csv_field(from, self.options.quote, self.options.escape, out);
        }
    }
}

fn write_binary(slots: &[Slot<'_>], row: usize, out: &mut BytesMut) {
    out.put_i16(slots.len() as i16);
    for slot in slots {
        slot.put_sized(row, out);
    }
}

/// Begins a CopyData message; gives where.
fn begin_message(out: &mut BytesMut) -> usize {
    let start = out.len();
    out.extend_from_slice(&[b'd', 0, 0, 0, 0]);
    start
}
