//! Columns as they fill: typed builders for what tables mostly hold, scalars for the rest.

use crate::server::encode::{Zone, pg_type};
use crate::server::failure::Failure;
use crate::server::params::{decode_in, text, utf8};
use datafusion::arrow::array::*;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use std::sync::Arc;

/// One column of the rows read.
pub struct Fill {
    builder: Builder,
    data_type: DataType,
    oid: u32,
}

enum Builder {
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Boolean(BooleanBuilder),
    Utf8(StringBuilder),
    LargeUtf8(LargeStringBuilder),
    Utf8View(StringViewBuilder),
    Other(Vec<ScalarValue>),
}

impl Fill {
    /// An empty column of the type of `field`.
    pub fn new(field: &Field) -> Fill {
        let data_type = field.data_type().clone();
        let pg_type = pg_type(field);
        // A `"char"` or an oid alias is read by its own rules.
        let plain = pg_type == crate::server::encode::oids::base_type(&data_type);
        let builder = match &data_type {
            _ if !plain => Builder::Other(Vec::new()),
            DataType::Int16 => Builder::Int16(Int16Builder::new()),
            DataType::Int32 => Builder::Int32(Int32Builder::new()),
            DataType::Int64 => Builder::Int64(Int64Builder::new()),
            DataType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            DataType::Utf8 => Builder::Utf8(StringBuilder::new()),
            DataType::LargeUtf8 => Builder::LargeUtf8(LargeStringBuilder::new()),
            DataType::Utf8View => Builder::Utf8View(StringViewBuilder::new()),
            _ => Builder::Other(Vec::new()),
        };
        Fill {
            builder,
            oid: pg_type.oid(),
            data_type,
        }
    }

    /// Adds a value from its text.
    pub fn push_text(&mut self, bytes: Option<&[u8]>, zone: &Zone) -> Result<(), Failure> {
        let text = bytes.map(utf8).transpose()?;
        match &mut self.builder {
            Builder::Int16(to) => {
                to.append_option(text.map(|t| text::integer(t, "smallint")).transpose()?);
            }
            Builder::Int32(to) => {
                to.append_option(text.map(|t| text::integer(t, "integer")).transpose()?);
            }
            Builder::Int64(to) => {
                to.append_option(text.map(|t| text::integer(t, "bigint")).transpose()?);
            }
            Builder::Boolean(to) => to.append_option(text.map(text::boolean).transpose()?),
            Builder::Utf8(to) => to.append_option(text),
            Builder::LargeUtf8(to) => to.append_option(text),
            Builder::Utf8View(to) => to.append_option(text),
            Builder::Other(to) => {
                to.push(decode_in(zone, bytes, 0, self.oid, Some(&self.data_type))?);
            }
        }
        Ok(())
    }

    /// Adds a value from its binary form.
    pub fn push_binary(&mut self, bytes: Option<&[u8]>, zone: &Zone) -> Result<(), Failure> {
        match &mut self.builder {
            Builder::Utf8(to) => to.append_option(bytes.map(utf8).transpose()?),
            Builder::LargeUtf8(to) => to.append_option(bytes.map(utf8).transpose()?),
            Builder::Utf8View(to) => to.append_option(bytes.map(utf8).transpose()?),
            Builder::Int16(to) => {
                to.append_option(
                    bytes
                        .map(|b| exact(b).map(i16::from_be_bytes))
                        .transpose()?,
                );
            }
            Builder::Int32(to) => {
                to.append_option(
                    bytes
                        .map(|b| exact(b).map(i32::from_be_bytes))
                        .transpose()?,
                );
            }
            Builder::Int64(to) => {
                to.append_option(
                    bytes
                        .map(|b| exact(b).map(i64::from_be_bytes))
                        .transpose()?,
                );
            }
            Builder::Boolean(to) => {
                to.append_option(bytes.map(|b| exact(b).map(|[b]| b != 0)).transpose()?);
            }
            Builder::Other(to) => {
                to.push(decode_in(zone, bytes, 1, self.oid, Some(&self.data_type))?);
            }
        }
        Ok(())
    }

    /// The values so far; the column is empty again.
    pub fn take(&mut self) -> Result<ArrayRef, Failure> {
        Ok(match &mut self.builder {
            Builder::Int16(from) => Arc::new(from.finish()),
            Builder::Int32(from) => Arc::new(from.finish()),
            Builder::Int64(from) => Arc::new(from.finish()),
            Builder::Boolean(from) => Arc::new(from.finish()),
            Builder::Utf8(from) => Arc::new(from.finish()),
            Builder::LargeUtf8(from) => Arc::new(from.finish()),
            Builder::Utf8View(from) => Arc::new(from.finish()),
            Builder::Other(from) if from.is_empty() => new_empty_array(&self.data_type),
            Builder::Other(from) => ScalarValue::iter_to_array(std::mem::take(from))?,
        })
    }
}

/// Exactly `N` bytes.
fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Failure> {
    let wrong = |_| Failure::new("22P03", "incorrect binary data format");
    bytes.try_into().map_err(wrong)
}
