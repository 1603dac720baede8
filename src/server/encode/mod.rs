//! Arrow rows as PostgreSQL's wire bytes: RowDescription and DataRow, text and binary.
//!
//! Takes a result's schema, the format codes of a Bind message and how the session displays values; gives messages
//! appended to a buffer. Each column is resolved once a batch to a typed [`cell::Cell`]; rows are then written straight
//! into the buffer: lengths are patched, and no value allocates. Types that PostgreSQL does not have (maps,
//! unions, lists of lists) are text. Knows no socket and no session.

pub(super) mod cell;
pub(super) mod datetime;
pub(super) mod digits;
pub(super) mod floats;
pub(super) mod interval;
pub(super) mod nested;
#[cfg(test)]
mod nested_tests;
pub(super) mod oids;
pub(super) mod quote;
#[cfg(test)]
mod tests;
mod zone;

pub use oids::pg_type;
pub use zone::Zone;

use super::failure::Failure;
use crate::config::{SERVER_COLUMNS_MAX, SERVER_ROW_BYTES_MAX};
use bytes::{BufMut, BytesMut};
use cell::Slot;
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use pgwire::api::Type;

/// How values are printed. Dates are ISO, bytea is hexadecimal, intervals are `postgres` and floats are the shortest
/// digits that read back (`extra_float_digits` 1), always; only the time zone is the session's.
#[derive(Debug, Clone, Default)]
pub struct Display {
    /// Where `timestamptz` is printed; UTC by default.
    pub time_zone: Zone,
}

impl Display {
    /// With a time zone by its IANA name or as an offset east of Greenwich (`+02:00`).
    ///
    /// # Errors
    /// 22023 for a zone that nobody knows.
    pub fn new(time_zone: &str) -> Result<Display, Failure> {
        Ok(Display {
            time_zone: Zone::parse(time_zone)?,
        })
    }
}

/// Text or binary, as the protocol numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What a person reads.
    Text,
    /// What PostgreSQL's `send` functions give.
    Binary,
}

impl Form {
    /// From a format code.
    ///
    /// # Errors
    /// 08P01 for anything but 0 and 1.
    pub fn from_code(code: i16) -> Result<Form, Failure> {
        match code {
            0 => Ok(Form::Text),
            1 => Ok(Form::Binary),
            _ => Err(Failure::new(
                "08P01",
                format!("unsupported format code: {code}"),
            )),
        }
    }

    /// As the protocol numbers it.
    pub fn code(self) -> i16 {
        match self {
            Form::Text => 0,
            Form::Binary => 1,
        }
    }
}

/// One column as a RowDescription names it.
#[derive(Debug, Clone)]
pub struct ColumnField {
    /// The name to show: without the suffix that made it unique.
    pub name: String,
    /// PostgreSQL's type.
    pub pg_type: Type,
    /// `pg_type.typlen`: bytes of a value, -1 where they vary.
    pub type_len: i16,
    /// -1: no modifier.
    pub typmod: i32,
    /// Text or binary.
    pub form: Form,
}

/// The columns of a result: what they are called, what they are and how they are written.
#[derive(Debug, Clone)]
pub struct Columns {
    fields: Vec<ColumnField>,
    arrow: Vec<FieldRef>,
    /// What each column is cast to before it is written, where PostgreSQL's types need it.
    plain: Vec<DataType>,
    display: Display,
}

impl Columns {
    /// Columns of `schema`. `formats` are a Bind message's result format codes: none = all text, one = for all, else one
    /// each.
    ///
    /// # Errors
    /// 08P01 for a wrong number of codes or an unknown one; 54011 for too many columns.
    pub fn new(schema: &Schema, formats: &[i16], display: Display) -> Result<Columns, Failure> {
        let count = schema.fields().len();
        if count > SERVER_COLUMNS_MAX {
            return Err(Failure::new(
                "54011",
                format!("a result can have at most {SERVER_COLUMNS_MAX} columns, not {count}"),
            ));
        }
        if formats.len() > 1 && formats.len() != count {
            return Err(Failure::new(
                "08P01",
                format!(
                    "bind message has {} result formats but query has {count} columns",
                    formats.len()
                ),
            ));
        }
        let field = |(at, field): (usize, &FieldRef)| {
            let code = match formats {
                [] => 0,
                [all] => *all,
                each => each[at],
            };
            let pg_type = pg_type(field);
            Ok(ColumnField {
                name: display_name(field.name()).to_owned(),
                type_len: oids::type_len(&pg_type),
                typmod: -1,
                form: Form::from_code(code)?,
                pg_type,
            })
        };
        Ok(Columns {
            fields: (schema.fields().iter().enumerate().map(field))
                .collect::<Result<_, Failure>>()?,
            arrow: schema.fields().iter().cloned().collect(),
            plain: (schema.fields().iter().map(|f| oids::plain(f.data_type()))).collect(),
            display,
        })
    }

    /// The columns as a RowDescription names them.
    pub fn fields(&self) -> &[ColumnField] {
        &self.fields
    }

    /// Appends a RowDescription message.
    pub fn write_row_description(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u8(b'T');
        out.put_i32(0);
        out.put_i16(self.fields.len() as i16);
        for field in &self.fields {
            let name = field.name.as_bytes();
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            out.put_slice(&name[..end]);
            out.put_u8(0);
            out.put_i32(0);
            out.put_i16(0);
            out.put_u32(field.pg_type.oid());
            out.put_i16(field.type_len);
            out.put_i32(field.typmod);
            out.put_i16(field.form.code());
        }
        patch(out, start + 1);
    }

    /// Appends DataRow messages of the rows from `from` on, at most `most_rows` of them, until about `most_bytes` have
    /// been appended (a row begun is finished, so at least one is written). Gives the first row not written.
    ///
    /// # Errors
    /// 54000 for a row beyond [`SERVER_ROW_BYTES_MAX`], XX000 for a batch of another schema; the rows before it stand in
    /// `out`.
    pub fn write_rows(
        &self,
        batch: &RecordBatch,
        from: usize,
        most_rows: usize,
        most_bytes: usize,
        out: &mut BytesMut,
    ) -> Result<usize, Failure> {
        let arrays = self.arrays(batch)?;
        let slots = self.slots(&arrays);
        let head = (slots.len() as i16).to_be_bytes();
        let end = from.saturating_add(most_rows).min(batch.num_rows());
        let full = out.len().saturating_add(most_bytes);
        let mut row = from;
        while row < end {
            let start = out.len();
            out.put_slice(&[b'D', 0, 0, 0, 0, head[0], head[1]]);
            for slot in &slots {
                slot.put_sized(row, out);
            }
            finish_row(out, start)?;
            row += 1;
            if out.len() >= full {
                break;
            }
        }
        Ok(row)
    }

    /// The batch's columns in the form in which they are written.
    pub(super) fn arrays(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, Failure> {
        if batch.num_columns() != self.arrow.len() {
            return Err(Failure::new(
                "XX000",
                format!(
                    "a batch has {} columns where the result has {}",
                    batch.num_columns(),
                    self.arrow.len()
                ),
            ));
        }
        let array = |(at, array): (usize, &ArrayRef)| {
            if *array.data_type() == self.plain[at] {
                return Ok(array.clone());
            }
            // Plans may give Utf8View where their schema says Utf8: the same bytes on the wire.
            let own = oids::plain(array.data_type());
            let same = oids::base_type(&own) == oids::base_type(&self.plain[at]);
            let to = if same { &own } else { &self.plain[at] };
            cast(array, to).map_err(|e| Failure::new("XX000", e.to_string()))
        };
        batch.columns().iter().enumerate().map(array).collect()
    }

    /// A writer for each column of `arrays`.
    pub(super) fn slots<'a>(&'a self, arrays: &'a [ArrayRef]) -> Vec<Slot<'a>> {
        let columns = arrays.iter().zip(&self.arrow).zip(&self.fields);
        columns
            .map(|((array, field), column)| {
                cell::slot(array, field, column.form, &self.display.time_zone)
            })
            .collect()
    }
}

/// The name to show: names that had to be made unique carry a suffix after U+0001.
fn display_name(name: &str) -> &str {
    name.split('\u{1}').next().unwrap_or(name)
}

/// Writes the length of what follows `at` into the four bytes there, themselves counted.
pub(super) fn patch(out: &mut BytesMut, at: usize) {
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Ends the row message that begins at `start`, or takes it back if it is too long.
pub(super) fn finish_row(out: &mut BytesMut, start: usize) -> Result<(), Failure> {
    let length = out.len() - start;
    if length > SERVER_ROW_BYTES_MAX {
        out.truncate(start);
        return Err(Failure::new(
            "54000",
            format!("a row of {length} bytes exceeds the limit of {SERVER_ROW_BYTES_MAX} bytes"),
        ));
    }
    patch(out, start + 1);
    Ok(())
}
