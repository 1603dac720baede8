//! One column's values as bytes: a typed array and a function, resolved once a batch.
//!
//! Gives a [`Slot`] for an array; whoever asks adds lengths (DataRow, COPY binary) or quotes (arrays, records, COPY text
//! and csv). Writing a value is one indirect call, bounds checks and the bytes.

use super::datetime::{self, MICROS, split};
use super::digits::{Decimal, put_i64, put_u64};
use super::floats::{put_f32, put_f64};
use super::interval::Interval;
use super::{Form, Zone, nested, oids};
use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::*;
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::*;
use pgwire::api::Type;

/// Values of one column.
pub trait Cell {
    /// Appends the value of a row that is not null.
    fn put(&self, row: usize, out: &mut BytesMut);
}

/// What a value's text may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Letters, digits, signs, points and colons: never a space, a quote or a backslash, never empty.
    Plain,
    /// Anything.
    Free,
    /// An array, which stands unquoted in another array.
    List,
}

/// A column ready to be written.
pub struct Slot<'a> {
    nulls: Option<NullBuffer>,
    cell: Box<dyn Cell + 'a>,
    /// What its text may hold.
    pub shape: Shape,
}

impl<'a> Slot<'a> {
    /// A slot of `array`, whose nulls it takes, with `cell` for its values.
    pub fn new(array: &dyn Array, shape: Shape, cell: Box<dyn Cell + 'a>) -> Slot<'a> {
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        Slot { nulls, cell, shape }
    }

    /// Whether the row has no value.
    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Appends the value of a row that is not null.
    #[inline]
    pub fn put(&self, row: usize, out: &mut BytesMut) {
        self.cell.put(row, out);
    }

    /// Appends length and value; -1 for null.
    #[inline]
    pub fn put_sized(&self, row: usize, out: &mut BytesMut) {
        if self.is_null(row) {
            return out.extend_from_slice(&(-1_i32).to_be_bytes());
        }
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        self.cell.put(row, out);
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// An array and what to do with each of its values.
struct Each<A, F> {
    array: A,
    put: F,
}

impl<A: ArrayAccessor, F: Fn(A::Item, &mut BytesMut)> Cell for Each<A, F> {
    fn put(&self, row: usize, out: &mut BytesMut) {
        (self.put)(self.array.value(row), out);
    }
}

fn each<'a, A, F>(array: A, put: F) -> Box<dyn Cell + 'a>
where
    A: ArrayAccessor + 'a,
    F: Fn(A::Item, &mut BytesMut) + 'a,
{
    Box::new(Each { array, put })
}

/// A slot of `array` (of a type that [`oids::plain`] gives), as `field` says what its values mean.
pub fn slot<'a>(array: &'a dyn Array, field: &'a FieldRef, form: Form, zone: &'a Zone) -> Slot<'a> {
    if let Some(cell) = special(array, field, form) {
        return Slot::new(array, Shape::Free, cell);
    }
    let (shape, cell) = match form {
        Form::Text => text(array, zone).map(|(shape, cell)| (shape, Some(cell))),
        Form::Binary => binary(array).map(|cell| (Shape::Free, Some(cell))),
    }
    .unwrap_or((Shape::Free, None));
    match cell {
        Some(cell) => Slot::new(array, shape, cell),
        None => nested::slot(array, field, form, zone),
    }
}

/// Fields whose metadata gives them a type of their own.
fn special<'a>(array: &'a dyn Array, field: &Field, form: Form) -> Option<Box<dyn Cell + 'a>> {
    let pg_type = oids::pg_type(field);
    let found = match (array.data_type(), form) {
        (DataType::Int32, Form::Text) if oids::is_oid(&pg_type) => {
            each(array.as_primitive::<Int32Type>(), |v, out| {
                put_u64(u64::from(v as u32), out)
            })
        }
        (DataType::Int64, Form::Binary) if oids::is_oid(&pg_type) => {
            each(array.as_primitive::<Int64Type>(), |v, out| {
                out.put_u32(v as u32)
            })
        }
        (DataType::UInt32, Form::Binary) if oids::is_oid(&pg_type) => {
            each(array.as_primitive::<UInt32Type>(), |v, out| out.put_u32(v))
        }
        (DataType::FixedSizeBinary(16), Form::Text) if pg_type == Type::UUID => {
            each(array.as_fixed_size_binary(), put_uuid)
        }
        _ if pg_type != Type::CHAR => return None,
        // One byte, and none at all for the empty string.
        (DataType::Utf8, Form::Binary) => each(array.as_string::<i32>(), put_char),
        (DataType::LargeUtf8, Form::Binary) => each(array.as_string::<i64>(), put_char),
        (DataType::Utf8View, Form::Binary) => each(array.as_string_view(), put_char),
        _ => return None,
    };
    Some(found)
}

fn put_char(text: &str, out: &mut BytesMut) {
    out.put_u8(text.as_bytes().first().copied().unwrap_or(0));
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn put_hex(bytes: &[u8], out: &mut BytesMut) {
    out.reserve(2 * bytes.len());
    for byte in bytes {
        let pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
        out.extend_from_slice(&pair);
    }
}

fn put_uuid(bytes: &[u8], out: &mut BytesMut) {
    for (at, part) in bytes.chunks(2).enumerate() {
        if (2..=5).contains(&at) {
            out.put_u8(b'-');
        }
        put_hex(part, out);
    }
}

fn put_bytea(bytes: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(b"\\x");
    put_hex(bytes, out);
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(bytes);
}

fn put_str(text: &str, out: &mut BytesMut) {
    out.extend_from_slice(text.as_bytes());
}

/// Text of scalars.
fn text<'a>(array: &'a dyn Array, zone: &'a Zone) -> Option<(Shape, Box<dyn Cell + 'a>)> {
    use DataType as D;
    macro_rules! whole {
        ($t:ty) => {
            each(array.as_primitive::<$t>(), |v, out| {
                put_i64(i64::from(v), out)
            })
        };
    }
    let plain = match array.data_type() {
        D::Boolean => each(array.as_boolean(), |v, out| {
            out.put_u8(if v { b't' } else { b'f' })
        }),
        D::Int8 => whole!(Int8Type),
        D::Int16 => whole!(Int16Type),
        D::Int32 => whole!(Int32Type),
        D::Int64 => whole!(Int64Type),
        D::UInt8 => whole!(UInt8Type),
        D::UInt16 => whole!(UInt16Type),
        D::UInt32 => whole!(UInt32Type),
        D::UInt64 => each(array.as_primitive::<UInt64Type>(), put_u64),
        D::Float32 => each(array.as_primitive::<Float32Type>(), put_f32),
        D::Float64 => each(array.as_primitive::<Float64Type>(), put_f64),
        _ => match decimals(array, |decimal, out| decimal.put_text(out)) {
            Some(cell) => cell,
            None => return text_free(array).or_else(|| text_dates(array, zone)),
        },
    };
    Some((Shape::Plain, plain))
}

/// Text of strings and bytes.
fn text_free<'a>(array: &'a dyn Array) -> Option<(Shape, Box<dyn Cell + 'a>)> {
    use DataType as D;
    let cell = match array.data_type() {
        D::Utf8 => each(array.as_string::<i32>(), put_str),
        D::LargeUtf8 => each(array.as_string::<i64>(), put_str),
        D::Utf8View => each(array.as_string_view(), put_str),
        D::Binary => each(array.as_binary::<i32>(), put_bytea),
        D::LargeBinary => each(array.as_binary::<i64>(), put_bytea),
        D::BinaryView => each(array.as_binary_view(), put_bytea),
        D::FixedSizeBinary(_) => each(array.as_fixed_size_binary(), put_bytea),
        _ => return None,
    };
    Some((Shape::Free, cell))
}

/// Text of dates, times and spans.
fn text_dates<'a>(array: &'a dyn Array, zone: &'a Zone) -> Option<(Shape, Box<dyn Cell + 'a>)> {
    use datetime::*;
    let cell = match array.data_type() {
        DataType::Timestamp(_, None) => timestamps(array, put_timestamp),
        DataType::Timestamp(_, Some(_)) => {
            timestamps(array, move |at, out| put_timestamptz(at, zone, out))
        }
        DataType::Date32 | DataType::Date64 => dates(array, put_date),
        DataType::Time32(_) | DataType::Time64(_) => times(array, put_time),
        _ => intervals(array, Interval::put_text),
    };
    cell.map(|cell| (Shape::Free, cell))
}

/// Binary of scalars.
fn binary<'a>(array: &'a dyn Array) -> Option<Box<dyn Cell + 'a>> {
    use DataType as D;
    Some(match array.data_type() {
        D::Boolean => each(array.as_boolean(), |v, out| out.put_u8(u8::from(v))),
        D::Int8 => each(array.as_primitive::<Int8Type>(), |v, out| {
            out.put_i16(v.into())
        }),
        D::Int16 => each(array.as_primitive::<Int16Type>(), |v, out| out.put_i16(v)),
        D::Int32 => each(array.as_primitive::<Int32Type>(), |v, out| out.put_i32(v)),
        D::Int64 => each(array.as_primitive::<Int64Type>(), |v, out| out.put_i64(v)),
        D::UInt8 => each(array.as_primitive::<UInt8Type>(), |v, out| {
            out.put_i16(v.into())
        }),
        D::UInt16 => each(array.as_primitive::<UInt16Type>(), |v, out| {
            out.put_i32(v.into())
        }),
        D::UInt32 => each(array.as_primitive::<UInt32Type>(), |v, out| {
            out.put_i64(v.into())
        }),
        D::UInt64 => each(array.as_primitive::<UInt64Type>(), |v, out| {
            Decimal::from_i128(i128::from(v), 0).put_binary(out);
        }),
        D::Float32 => each(array.as_primitive::<Float32Type>(), |v, out| out.put_f32(v)),
        D::Float64 => each(array.as_primitive::<Float64Type>(), |v, out| out.put_f64(v)),
        D::Utf8 => each(array.as_string::<i32>(), put_str),
        D::LargeUtf8 => each(array.as_string::<i64>(), put_str),
        D::Utf8View => each(array.as_string_view(), put_str),
        D::Binary => each(array.as_binary::<i32>(), put_bytes),
        D::LargeBinary => each(array.as_binary::<i64>(), put_bytes),
        D::BinaryView => each(array.as_binary_view(), put_bytes),
        D::FixedSizeBinary(_) => each(array.as_fixed_size_binary(), put_bytes),
        D::Timestamp(..) => timestamps(array, |at, out| {
            out.put_i64(datetime::binary_timestamp(at));
        })?,
        D::Date32 | D::Date64 => dates(array, |day, out| out.put_i32(datetime::binary_date(day)))?,
        D::Time32(_) | D::Time64(_) => times(array, |at, out| {
            out.put_i64(datetime::binary_time(at));
        })?,
        _ => intervals(array, Interval::put_binary)
            .or_else(|| decimals(array, |decimal, out| decimal.put_binary(out)))?,
    })
}

fn decimals<'a, F>(array: &'a dyn Array, put: F) -> Option<Box<dyn Cell + 'a>>
where
    F: Fn(&Decimal, &mut BytesMut) + 'a,
{
    macro_rules! narrow {
        ($t:ty, $scale:expr) => {{
            let scale = i32::from(*$scale);
            each(array.as_primitive::<$t>(), move |v, out| {
                put(&Decimal::from_i128(i128::from(v), scale), out);
            })
        }};
    }
    Some(match array.data_type() {
        DataType::Decimal32(_, scale) => narrow!(Decimal32Type, scale),
        DataType::Decimal64(_, scale) => narrow!(Decimal64Type, scale),
        DataType::Decimal128(_, scale) => narrow!(Decimal128Type, scale),
        DataType::Decimal256(_, scale) => {
            let scale = i32::from(*scale);
            each(array.as_primitive::<Decimal256Type>(), move |v, out| {
                put(&Decimal::from_i256(v, scale), out);
            })
        }
        _ => return None,
    })
}

/// Instants in seconds since 1970 and microseconds.
fn timestamps<'a, F>(array: &'a dyn Array, put: F) -> Option<Box<dyn Cell + 'a>>
where
    F: Fn((i64, u32), &mut BytesMut) + 'a,
{
    macro_rules! unit {
        ($t:ty, $unit:expr) => {
            each(array.as_primitive::<$t>(), move |v, out| {
                put(split(v, $unit), out)
            })
        };
    }
    let DataType::Timestamp(unit, _) = array.data_type() else {
        return None;
    };
    Some(match unit {
        TimeUnit::Second => unit!(TimestampSecondType, TimeUnit::Second),
        TimeUnit::Millisecond => unit!(TimestampMillisecondType, TimeUnit::Millisecond),
        TimeUnit::Microsecond => unit!(TimestampMicrosecondType, TimeUnit::Microsecond),
        TimeUnit::Nanosecond => unit!(TimestampNanosecondType, TimeUnit::Nanosecond),
    })
}

/// Days since 1970.
fn dates<'a, F>(array: &'a dyn Array, put: F) -> Option<Box<dyn Cell + 'a>>
where
    F: Fn(i64, &mut BytesMut) + 'a,
{
    Some(match array.data_type() {
        DataType::Date32 => each(array.as_primitive::<Date32Type>(), move |v, out| {
            put(v.into(), out)
        }),
        DataType::Date64 => each(array.as_primitive::<Date64Type>(), move |v, out| {
            put(v.div_euclid(datetime::DAY * 1_000), out);
        }),
        _ => return None,
    })
}

/// Times of day in seconds and microseconds.
fn times<'a, F>(array: &'a dyn Array, put: F) -> Option<Box<dyn Cell + 'a>>
where
    F: Fn((i64, u32), &mut BytesMut) + 'a,
{
    macro_rules! unit {
        ($t:ty, $unit:expr) => {
            each(array.as_primitive::<$t>(), move |v, out| {
                put(split(v.into(), $unit), out)
            })
        };
    }
    Some(match array.data_type() {
        DataType::Time32(TimeUnit::Second) => unit!(Time32SecondType, TimeUnit::Second),
        DataType::Time32(_) => unit!(Time32MillisecondType, TimeUnit::Millisecond),
        DataType::Time64(TimeUnit::Microsecond) => {
            unit!(Time64MicrosecondType, TimeUnit::Microsecond)
        }
        DataType::Time64(_) => unit!(Time64NanosecondType, TimeUnit::Nanosecond),
        _ => return None,
    })
}

/// Intervals, and durations as intervals of microseconds.
fn intervals<'a, F>(array: &'a dyn Array, put: F) -> Option<Box<dyn Cell + 'a>>
where
    F: Fn(Interval, &mut BytesMut) + 'a,
{
    let interval = |months, days, micros| Interval {
        months,
        days,
        micros,
    };
    macro_rules! duration {
        ($t:ty, $to_micros:expr) => {
            each(array.as_primitive::<$t>(), move |v: i64, out| {
                put(interval(0, 0, $to_micros(v)), out);
            })
        };
    }
    Some(match array.data_type() {
        DataType::Interval(IntervalUnit::YearMonth) => each(
            array.as_primitive::<IntervalYearMonthType>(),
            move |v, out| {
                put(interval(v, 0, 0), out);
            },
        ),
        DataType::Interval(IntervalUnit::DayTime) => each(
            array.as_primitive::<IntervalDayTimeType>(),
            move |v, out| {
                put(interval(0, v.days, i64::from(v.milliseconds) * 1_000), out);
            },
        ),
        DataType::Interval(IntervalUnit::MonthDayNano) => each(
            array.as_primitive::<IntervalMonthDayNanoType>(),
            move |v, out| {
                put(interval(v.months, v.days, v.nanoseconds / 1_000), out);
            },
        ),
        DataType::Duration(TimeUnit::Second) => {
            duration!(DurationSecondType, |v: i64| v.saturating_mul(MICROS))
        }
        DataType::Duration(TimeUnit::Millisecond) => {
            duration!(DurationMillisecondType, |v: i64| v.saturating_mul(1_000))
        }
        DataType::Duration(TimeUnit::Microsecond) => duration!(DurationMicrosecondType, |v: i64| v),
        DataType::Duration(TimeUnit::Nanosecond) => {
            duration!(DurationNanosecondType, |v: i64| v / 1_000)
        }
        _ => return None,
    })
}
