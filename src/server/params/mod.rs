//! Parameters of a Bind message, and fields of COPY, as scalar values.
//!
//! Takes PostgreSQL's text and binary forms with a type's oid, gives Arrow's scalars; never panics, whatever the bytes.
//! Knows no session: what depends on a clock or a catalog (`now`, `regclass` names) is refused.

use super::failure::Failure;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

/// The Arrow type of a PostgreSQL type; none for an unknown one and for 0 and 705 (`unknown`).
pub fn arrow_type(oid: u32) -> Option<DataType> {
    let _ = oid;
    None
}

/// The value of a parameter in `format` (0 text, 1 binary) of the type `oid` (0: unspecified, then it is read as
/// `wanted`, or as text), cast to `wanted` where that is given. No bytes are NULL.
///
/// # Errors
/// 22P02 for text that does not parse, 22P03 for malformed binary, 22003 out of range, 22007 and 22008 for dates and
/// times, 22021 for bytes that are no UTF-8 or hold NUL, 0A000 for types and shapes not supported, 08P01 for a format
/// that is neither.
pub fn decode(
    value: Option<&[u8]>,
    format: i16,
    oid: u32,
    wanted: Option<&DataType>,
) -> Result<ScalarValue, Failure> {
    let _ = (value, format, oid, wanted);
    Err(Failure::new("0A000", "parameters are not supported"))
}
