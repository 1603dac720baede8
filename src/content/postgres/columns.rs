//! Columns of a PostgreSQL table: which Arrow type each is read as, and its binary form.
//!
//! Takes a type's OID and modifier (PostgreSQL's `pg_type`, `atttypmod`), gives an Arrow type, the SQL that reads the column
//! so, and builders that take the binary form of COPY (PostgreSQL's documentation, "COPY", binary format; each type's
//! `send` function). A type that Arrow has no counterpart for is read as PostgreSQL's own text of it.

use super::quoted;
use datafusion::arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use std::sync::Arc;

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
pub(super) const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
pub(super) const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Digits of an Arrow decimal.
const DIGITS_MAX: u8 = 38;
/// Digits behind the point of a numeric that was declared without them.
const SCALE: u8 = 18;

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Its type's name without a modifier, such as `character varying` or `public.mood`.
    pub(super) declared: String,
}

/// What a column is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    /// An OID, which is unsigned.
    Oid,
    Float4,
    Float8,
    /// Precision and scale.
    Numeric(u8, u8),
    /// Without precision: read with [`SCALE`] digits behind the point.
    Unscaled,
    /// `text` and `varchar`. Whether texts are equal only where their bytes are.
    Text {
        bytewise: bool,
    },
    Uuid,
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    /// Any other, as its text.
    Other,
}

impl Kind {
    pub(super) fn new(oid: u32, modifier: i32, bytewise: bool) -> Kind {
        match oid {
            16 => Kind::Bool,
            17 => Kind::Bytea,
            20 => Kind::Int8,
            21 => Kind::Int2,
            23 => Kind::Int4,
            25 | 1043 => Kind::Text { bytewise },
            26 => Kind::Oid,
            700 => Kind::Float4,
            701 => Kind::Float8,
            1082 => Kind::Date,
            1083 => Kind::Time,
            1114 => Kind::Timestamp,
            1184 => Kind::TimestampTz,
            1700 => numeric(modifier),
            2950 => Kind::Uuid,
            _ => Kind::Other,
        }
    }
}

/// The modifier holds the precision in its high half and the scale, of eleven bits with a sign, in its low one.
fn numeric(modifier: i32) -> Kind {
    if modifier < 4 {
        return Kind::Unscaled;
    }
    let (precision, scale) = ((modifier - 4) >> 16, ((modifier - 4) & 0x7ff ^ 1024) - 1024);
    match (u8::try_from(precision), u8::try_from(scale)) {
        (Ok(precision), Ok(scale)) if precision <= DIGITS_MAX && scale <= precision => {
            Kind::Numeric(precision, scale)
        }
        _ => Kind::Other,
    }
}

impl Column {
    /// NOT NULL is PostgreSQL's to check, so that a column that an INSERT leaves out can have its default there.
    pub(super) fn field(&self) -> Field {
        Field::new(&self.name, self.data_type(), true)
    }

    pub(super) fn data_type(&self) -> DataType {
        match self.kind {
            Kind::Bool => DataType::Boolean,
            Kind::Int2 => DataType::Int16,
            Kind::Int4 => DataType::Int32,
            Kind::Int8 | Kind::Oid => DataType::Int64,
            Kind::Float4 => DataType::Float32,
            Kind::Float8 => DataType::Float64,
            Kind::Numeric(precision, scale) => DataType::Decimal128(precision, signed(scale)),
            Kind::Unscaled => DataType::Decimal128(DIGITS_MAX, signed(SCALE)),
            Kind::Text { .. } | Kind::Uuid | Kind::Other => DataType::Utf8,
            Kind::Bytea => DataType::Binary,
            Kind::Date => DataType::Date32,
            Kind::Time => DataType::Time64(TimeUnit::Microsecond),
            Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Kind::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }

    /// The SQL whose binary form [`Builder`] takes.
    pub(super) fn read(&self) -> String {
        let name = quoted(&self.name);
        match self.kind {
            Kind::Oid => format!("{name}::int8"),
            Kind::Unscaled => format!("{name}::numeric({DIGITS_MAX},{SCALE})"),
            // A domain sends what its base does.
            Kind::Other => format!("{name}::text"),
            _ => name,
        }
    }

    /// The type in which a value waits to be written.
    pub(super) fn staged(&self) -> &'static str {
        match self.kind {
            Kind::Bool => "bool",
            Kind::Int2 => "int2",
            Kind::Int4 => "int4",
            Kind::Int8 | Kind::Oid => "int8",
            Kind::Float4 => "float4",
            Kind::Float8 => "float8",
            Kind::Bytea => "bytea",
            Kind::Date => "date",
            Kind::Time => "time",
            Kind::Timestamp => "timestamp",
            Kind::TimestampTz => "timestamptz",
            Kind::Numeric(..) | Kind::Unscaled | Kind::Text { .. } | Kind::Uuid | Kind::Other => {
                "text"
            }
        }
    }

    /// The SQL that makes a staged value one of the column. A cast to a type with a length would cut texts in silence, so
    /// there is none where assignment does it.
    pub(super) fn unstaged(&self, staged: &str) -> String {
        match self.kind {
            Kind::Numeric(..) | Kind::Unscaled | Kind::Uuid | Kind::Other | Kind::Oid => {
                format!("{staged}::{}", self.declared)
            }
            _ => staged.to_owned(),
        }
    }
}

fn signed(scale: u8) -> i8 {
    i8::try_from(scale).expect("bug: a scale beyond 38")
}

/// Builds one column of a batch.
pub(super) enum Builder {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Numeric(Decimal128Builder, u8),
    Text(StringBuilder),
    Uuid(StringBuilder),
    Bytea(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

/// What is wrong with a value, in words.
type Wrong = String;

impl Builder {
    pub(super) fn new(column: &Column) -> Builder {
        let timestamps = || TimestampMicrosecondBuilder::new().with_data_type(column.data_type());
        let decimals = |scale| {
            let builder = Decimal128Builder::new().with_data_type(column.data_type());
            Builder::Numeric(builder, scale)
        };
        match column.kind {
            Kind::Bool => Builder::Bool(BooleanBuilder::new()),
            Kind::Int2 => Builder::Int2(Int16Builder::new()),
            Kind::Int4 => Builder::Int4(Int32Builder::new()),
            Kind::Int8 | Kind::Oid => Builder::Int8(Int64Builder::new()),
            Kind::Float4 => Builder::Float4(Float32Builder::new()),
            Kind::Float8 => Builder::Float8(Float64Builder::new()),
            Kind::Numeric(_, scale) => decimals(scale),
            Kind::Unscaled => decimals(SCALE),
            Kind::Text { .. } | Kind::Other => Builder::Text(StringBuilder::new()),
            Kind::Uuid => Builder::Uuid(StringBuilder::new()),
            Kind::Bytea => Builder::Bytea(BinaryBuilder::new()),
            Kind::Date => Builder::Date(Date32Builder::new()),
            Kind::Time => Builder::Time(Time64MicrosecondBuilder::new()),
            Kind::Timestamp | Kind::TimestampTz => Builder::Timestamp(timestamps()),
        }
    }

    /// Adds a value in binary form, `None` for NULL.
    ///
    /// # Errors
    /// It has another length than its type, or is one that Arrow cannot hold: `infinity`, `NaN`.
    pub(super) fn push(&mut self, value: Option<&[u8]>) -> Result<(), Wrong> {
        match self {
            Builder::Bool(b) => b.append_option(value.map(fixed).transpose()?.map(|[v]| v != 0)),
            Builder::Int2(b) => {
                b.append_option(value.map(fixed).transpose()?.map(i16::from_be_bytes));
            }
            Builder::Int4(b) => {
                b.append_option(value.map(fixed).transpose()?.map(i32::from_be_bytes));
            }
            Builder::Int8(b) => {
                b.append_option(value.map(fixed).transpose()?.map(i64::from_be_bytes));
            }
            Builder::Float4(b) => {
                b.append_option(value.map(fixed).transpose()?.map(f32::from_be_bytes));
            }
            Builder::Float8(b) => {
                b.append_option(value.map(fixed).transpose()?.map(f64::from_be_bytes));
            }
            Builder::Numeric(b, scale) => {
                b.append_option(value.map(|v| decimal(v, *scale)).transpose()?);
            }
            Builder::Text(b) => b.append_option(value.map(text).transpose()?),
            Builder::Uuid(b) => b.append_option(value.map(uuid).transpose()?),
            Builder::Bytea(b) => b.append_option(value),
            Builder::Date(b) => b.append_option(value.map(date).transpose()?),
            Builder::Time(b) => {
                b.append_option(value.map(fixed).transpose()?.map(i64::from_be_bytes));
            }
            Builder::Timestamp(b) => b.append_option(value.map(timestamp).transpose()?),
        }
        Ok(())
    }

    /// What was added, as an array; the builder is empty again.
    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Bool(b) => Arc::new(b.finish()),
            Builder::Int2(b) => Arc::new(b.finish()),
            Builder::Int4(b) => Arc::new(b.finish()),
            Builder::Int8(b) => Arc::new(b.finish()),
            Builder::Float4(b) => Arc::new(b.finish()),
            Builder::Float8(b) => Arc::new(b.finish()),
            Builder::Numeric(b, _) => Arc::new(b.finish()),
            Builder::Text(b) | Builder::Uuid(b) => Arc::new(b.finish()),
            Builder::Bytea(b) => Arc::new(b.finish()),
            Builder::Date(b) => Arc::new(b.finish()),
            Builder::Time(b) => Arc::new(b.finish()),
            Builder::Timestamp(b) => Arc::new(b.finish()),
        }
    }
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Wrong> {
    let wrong = |_| format!("{} bytes where there should be {N}", value.len());
    value.try_into().map_err(wrong)
}

fn text(value: &[u8]) -> Result<&str, Wrong> {
    std::str::from_utf8(value).map_err(|_| "a text that is not UTF-8".to_owned())
}

fn uuid(value: &[u8]) -> Result<String, Wrong> {
    let bytes: [u8; 16] = fixed(value)?;
    let mut out = String::with_capacity(36);
    for (i, byte) in bytes.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            out.push('-');
        }
        for half in [byte >> 4, byte & 15] {
            out.push(char::from_digit(u32::from(half), 16).expect("bug: half a byte beyond 15"));
        }
    }
    Ok(out)
}

const INFINITE: &str = "an infinite one, which cannot be read; a view there can leave it out";

fn date(value: &[u8]) -> Result<i32, Wrong> {
    match i32::from_be_bytes(fixed(value)?) {
        i32::MAX | i32::MIN => Err(INFINITE.to_owned()),
        days => Ok(days + EPOCH_DAYS),
    }
}

fn timestamp(value: &[u8]) -> Result<i64, Wrong> {
    match i64::from_be_bytes(fixed(value)?) {
        i64::MAX | i64::MIN => Err(INFINITE.to_owned()),
        micros => micros
            .checked_add(EPOCH_MICROS)
            .ok_or_else(|| INFINITE.to_owned()),
    }
}

/// `numeric_send`: count of digits, weight, sign, scale, then digits of base 10,000, the first of them times
/// 10,000 to the weight.
fn decimal(value: &[u8], scale: u8) -> Result<i128, Wrong> {
    let mut words = value
        .chunks_exact(2)
        .map(|pair| i16::from_be_bytes([pair[0], pair[1]]));
    let mut word = || {
        words
            .next()
            .ok_or_else(|| "a numeric that is cut".to_owned())
    };
    let (digits, weight, sign, _) = (word()?, word()?, word()?, word()?);
    let negative = match u16::from_be_bytes(sign.to_be_bytes()) {
        0 => false,
        0x4000 => true,
        0xc000 => return Err("NaN, which no decimal holds; cast it there in a view".to_owned()),
        _ => return Err(INFINITE.to_owned()),
    };
    let beyond = || "a numeric of more digits than 38".to_owned();
    let mut sum: i128 = 0;
    for i in 0..digits {
        let digit = i128::from(word()?);
        // The digit stands for digit * 10^exponent once the scale is taken out.
        let exponent = 4 * (i32::from(weight) - i32::from(i)) + i32::from(scale);
        let part = match u32::try_from(exponent) {
            Ok(up) => 10i128
                .checked_pow(up)
                .and_then(|power| digit.checked_mul(power)),
            // Its last digits are behind the scale and are zeros, as the column's type says.
            Err(_) => 10i128
                .checked_pow(exponent.unsigned_abs())
                .map(|power| digit / power),
        };
        // A digit of zero may stand anywhere.
        let part = if digit == 0 {
            0
        } else {
            part.ok_or_else(beyond)?
        };
        sum = sum.checked_add(part).ok_or_else(beyond)?;
    }
    Ok(if negative { -sum } else { sum })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modifier(precision: i32, scale: i32) -> i32 {
        (precision << 16 | scale & 0x7ff) + 4
    }

    #[test]
    fn numerics_have_the_digits_that_arrow_has() {
        for (given, want) in [
            (-1, Kind::Unscaled),
            (modifier(10, 2), Kind::Numeric(10, 2)),
            (modifier(38, 38), Kind::Numeric(38, 38)),
            (modifier(39, 2), Kind::Other),
            (modifier(5, -2), Kind::Other),
            (modifier(2, 5), Kind::Other),
        ] {
            assert_eq!(Kind::new(1700, given, true), want, "{given}");
        }
    }

    fn numeric_bytes(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn numerics_are_read_to_the_last_digit() {
        for (words, scale, want) in [
            // 0
            (&[0, 0, 0, 2][..], 2, Ok(0)),
            // 12345.67: 1 2345 . 6700
            (&[3, 1, 0, 2, 1, 2345, 6700], 2, Ok(1_234_567)),
            (&[3, 1, 0x4000, 2, 1, 2345, 6700], 2, Ok(-1_234_567)),
            // 0.0001
            (&[1, 0xffff, 0, 4, 1], 4, Ok(1)),
            // 10000000
            (&[1, 1, 0, 0, 1000], 3, Ok(10_000_000_000)),
            (&[0, 0, 0xc000, 0], 2, Err("NaN")),
            (&[0, 0, 0xd000, 0], 2, Err("infinite")),
            (&[2, 0, 0, 0, 1], 0, Err("cut")),
            (&[1, 20, 0, 0, 1], 0, Err("38")),
        ] {
            match (decimal(&numeric_bytes(words), scale), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{words:?}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{words:?}: {got}"),
                (got, want) => panic!("{words:?}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn days_and_moments_count_from_1970() {
        assert_eq!(date(&(-EPOCH_DAYS).to_be_bytes()), Ok(0));
        assert_eq!(timestamp(&(-EPOCH_MICROS).to_be_bytes()), Ok(0));
        for infinite in [i64::MAX, i64::MIN] {
            assert!(timestamp(&infinite.to_be_bytes()).is_err());
        }
        assert!(date(&i32::MAX.to_be_bytes()).is_err());
        assert!(date(&[0; 3]).unwrap_err().contains("3 bytes"));
    }

    #[test]
    fn a_uuid_is_spelled_as_postgres_does() {
        let bytes: Vec<u8> = (0..16).map(|i| i * 17).collect();
        assert_eq!(
            uuid(&bytes).unwrap(),
            "00112233-4455-6677-8899-aabbccddeeff"
        );
    }
}
