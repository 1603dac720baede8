//! Parameters of a Bind message, and fields of COPY, as scalar values.
//!
//! Takes PostgreSQL's text and binary forms with a type's oid, gives Arrow's scalars; never panics, whatever the bytes.
//! Knows no clock and no catalog: what depends on one (`now`, the names of tables) is refused.

mod array;
mod binary;
mod cast;
pub(super) mod datetime;
#[cfg(test)]
mod datetime_tests;
mod declared;
mod interval;
mod numeric;
#[cfg(test)]
mod tests;
pub(super) mod text;

pub use declared::declared;

use super::encode::{Form, Zone, oids, pg_type};
use super::failure::Failure;
use datafusion::arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use pgwire::api::Type;
use std::sync::Arc;

/// Bytes of a value that an error message quotes.
const QUOTED_MAX: usize = 256;

/// The Arrow type of a PostgreSQL type; none for one that is unknown here, and for 0 and 705 (`unknown`).
pub fn arrow_type(oid: u32) -> Option<DataType> {
    if let Some(element) = oids::element_of(oid) {
        let element = arrow_type(element.oid())?;
        return Some(DataType::new_list(element, true));
    }
    Some(match Type::from_oid(oid)? {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::NUMERIC => DataType::Decimal128(38, 10),
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date32,
        Type::TIME | Type::TIMETZ => DataType::Time64(TimeUnit::Microsecond),
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some(utc())),
        Type::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR => DataType::Utf8,
        Type::JSON | Type::JSONB | Type::UUID | Type::XML => DataType::Utf8,
        // Unsigned and 32 bits wide: the signed integer that holds every one.
        ref oid if oids::is_oid(oid) => DataType::Int64,
        _ => return None,
    })
}

/// The time zone of every instant read here.
fn utc() -> Arc<str> {
    Arc::from("+00:00")
}

/// The value of a parameter in `format` (0 text, 1 binary) of the type `oid` (0: unspecified, then it is read as
/// `wanted`, or as text), cast to `wanted` where that is given. No bytes are NULL. Timestamps without offset are in UTC:
/// [`decode_in`] takes another zone.
///
/// # Errors
/// 22P02 for text that does not parse, 22P03 for malformed binary, 22003 out of range, 22007 and 22008 for dates and
/// times, 22021 for bytes that are no UTF-8 or hold NUL, 0A000 for types and shapes that are not supported, 08P01 for a
/// format that is neither.
#[cfg(test)]
pub fn decode(
    value: Option<&[u8]>,
    format: i16,
    oid: u32,
    wanted: Option<&DataType>,
) -> Result<ScalarValue, Failure> {
    Source {
        format,
        oid,
        zone: &Zone::Utc,
    }
    .decode(value, wanted)
}

/// As [`decode`], with the session's time zone for `timestamptz` without offset.
///
/// # Errors
/// As [`decode`].
pub fn decode_in(
    zone: &Zone,
    value: Option<&[u8]>,
    format: i16,
    oid: u32,
    wanted: Option<&DataType>,
) -> Result<ScalarValue, Failure> {
    Source { format, oid, zone }.decode(value, wanted)
}

/// How a value was spelled.
struct Source<'a> {
    format: i16,
    oid: u32,
    zone: &'a Zone,
}

impl Source<'_> {
    fn decode(
        &self,
        value: Option<&[u8]>,
        wanted: Option<&DataType>,
    ) -> Result<ScalarValue, Failure> {
        let wanted = wanted.filter(|wanted| **wanted != DataType::Null);
        let form = Form::from_code(self.format)?;
        let Some(bytes) = value else {
            let null = wanted.cloned().or_else(|| arrow_type(self.oid));
            return ScalarValue::try_new_null(&null.unwrap_or(DataType::Utf8))
                .map_err(|e| unsupported(e.to_string()));
        };
        let of_wanted = wanted.map(|wanted| pg_type(&Field::new("", wanted.clone(), true)));
        let unspecified = [0, Type::UNKNOWN.oid()].contains(&self.oid);
        let oid = match (&of_wanted, unspecified) {
            (Some(wanted), true) => wanted.oid(),
            (None, true) => Type::TEXT.oid(),
            _ => self.oid,
        };
        let value = match form {
            // Text that is to be something else is read as that.
            _ if is_text(oid) => match &of_wanted {
                Some(wanted) if !is_text(wanted.oid()) => {
                    self.read_text(utf8(bytes)?, wanted.oid(), None)?
                }
                _ => ScalarValue::Utf8(Some(utf8(bytes)?.to_owned())),
            },
            Form::Text => self.read_text(utf8(bytes)?, oid, wanted)?,
            Form::Binary => self.read_binary(bytes, oid, wanted)?,
        };
        match wanted {
            Some(wanted) => cast::cast(value, wanted, self.zone),
            None => Ok(value),
        }
    }

    fn read_text(
        &self,
        text: &str,
        oid: u32,
        wanted: Option<&DataType>,
    ) -> Result<ScalarValue, Failure> {
        match oids::element_of(oid) {
            Some(element) => array::from_text(text, &element, wanted, self.zone),
            None => text::scalar(text, oid, wanted, self.zone),
        }
    }

    fn read_binary(
        &self,
        bytes: &[u8],
        oid: u32,
        wanted: Option<&DataType>,
    ) -> Result<ScalarValue, Failure> {
        match oids::element_of(oid) {
            Some(element) => array::from_binary(bytes, &element, wanted, self.zone),
            None => binary::scalar(bytes, oid, wanted),
        }
    }
}

/// Whether values of the type are any text.
fn is_text(oid: u32) -> bool {
    let texts = [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME];
    texts.iter().any(|text| text.oid() == oid)
}

/// Bytes as text.
///
/// # Errors
/// 22021 for what is no UTF-8 and for NUL.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, Failure> {
    let wrong = |bytes: &[u8]| {
        let shown: Vec<String> = bytes.iter().map(|b| format!("{b:#04x}")).collect();
        let shown = shown.join(" ");
        Failure::new(
            "22021",
            format!("invalid byte sequence for encoding \"UTF8\": {shown}"),
        )
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.contains(&0) => {
            debug_assert!(text.contains('\0'));
            Err(wrong(&[0]))
        }
        Ok(text) => Ok(text),
        Err(error) => {
            let from = error.valid_up_to();
            let length = error.error_len().unwrap_or(bytes.len() - from);
            Err(wrong(&bytes[from..from + length]))
        }
    }
}

/// 22P02: `text` is no `name`.
fn syntax(name: &str, text: &str) -> Failure {
    let text = shortened(text);
    Failure::new(
        "22P02",
        format!("invalid input syntax for type {name}: \"{text}\""),
    )
}

/// 22003: `text` is beyond `name`.
fn out_of_range(name: &str, text: &str) -> Failure {
    let text = shortened(text);
    Failure::new(
        "22003",
        format!("value \"{text}\" is out of range for type {name}"),
    )
}

/// 22P03: bytes that are no value.
fn malformed() -> Failure {
    Failure::new("22P03", "incorrect binary data format")
}

/// 0A000.
fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new("0A000", message)
}

/// The beginning of a value for a message.
fn shortened(text: &str) -> &str {
    let end = text.floor_char_boundary(QUOTED_MAX);
    &text[..end]
}
