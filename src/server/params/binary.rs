//! Scalars from their binary form, as PostgreSQL's receive functions read it.

use super::numeric::Numeric;
use super::text::{json, uuid_scalar};
use super::{malformed, unsupported, utc, utf8};
use crate::server::encode::datetime::{DAY, EPOCH_DAYS, MICROS};
use crate::server::encode::oids;
use crate::server::failure::Failure;
use datafusion::arrow::datatypes::{DataType, IntervalMonthDayNano};
use datafusion::common::ScalarValue;
use pgwire::api::Type;

/// Exactly `N` bytes.
fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Failure> {
    bytes.try_into().map_err(|_| malformed())
}

/// The value that `bytes` are as the type `oid`.
pub fn scalar(bytes: &[u8], oid: u32, wanted: Option<&DataType>) -> Result<ScalarValue, Failure> {
    let refused = || unsupported(format!("binary input of type {oid} is not supported"));
    let pg_type = Type::from_oid(oid).ok_or_else(refused)?;
    Ok(match pg_type {
        Type::BOOL => ScalarValue::Boolean(Some(exact::<1>(bytes)? != [0])),
        Type::INT2 => ScalarValue::Int16(Some(i16::from_be_bytes(exact(bytes)?))),
        Type::INT4 => ScalarValue::Int32(Some(i32::from_be_bytes(exact(bytes)?))),
        Type::INT8 => ScalarValue::Int64(Some(i64::from_be_bytes(exact(bytes)?))),
        Type::FLOAT4 => ScalarValue::Float32(Some(f32::from_be_bytes(exact(bytes)?))),
        Type::FLOAT8 => ScalarValue::Float64(Some(f64::from_be_bytes(exact(bytes)?))),
        Type::NUMERIC => Numeric::from_binary(bytes)?.into_scalar(wanted)?,
        Type::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        Type::DATE => ScalarValue::Date32(Some(date(i32::from_be_bytes(exact(bytes)?))?)),
        Type::TIME => ScalarValue::Time64Microsecond(Some(time(&exact(bytes)?)?)),
        Type::TIMETZ => {
            let bytes: [u8; 12] = exact(bytes)?;
            ScalarValue::Time64Microsecond(Some(time(&exact(&bytes[..8])?)?))
        }
        Type::TIMESTAMP => ScalarValue::TimestampMicrosecond(
            Some(timestamp(i64::from_be_bytes(exact(bytes)?))?),
            None,
        ),
        Type::TIMESTAMPTZ => {
            let at = timestamp(i64::from_be_bytes(exact(bytes)?))?;
            ScalarValue::TimestampMicrosecond(Some(at), Some(utc()))
        }
        Type::INTERVAL => ScalarValue::IntervalMonthDayNano(Some(interval(&exact(bytes)?)?)),
        Type::UUID => uuid_scalar(exact(bytes)?, wanted),
        Type::JSON => ScalarValue::Utf8(Some(json(utf8(bytes)?)?.to_owned())),
        Type::JSONB => match bytes {
            [1, text @ ..] => ScalarValue::Utf8(Some(json(utf8(text)?)?.to_owned())),
            _ => return Err(malformed()),
        },
        Type::XML => ScalarValue::Utf8(Some(utf8(bytes)?.to_owned())),
        Type::CHAR => ScalarValue::Utf8(Some(match exact::<1>(bytes)? {
            [0] => String::new(),
            byte => utf8(&byte)?.to_owned(),
        })),
        ref alias if oids::is_oid(alias) => {
            ScalarValue::Int64(Some(u32::from_be_bytes(exact(bytes)?).into()))
        }
        _ => return Err(refused()),
    })
}

fn date(days: i32) -> Result<i32, Failure> {
    let endless = days == i32::MIN || days == i32::MAX;
    let day = days.checked_add(EPOCH_DAYS as i32);
    day.filter(|_| !endless)
        .ok_or_else(|| Failure::new("22008", "date out of range"))
}

fn time(bytes: &[u8; 8]) -> Result<i64, Failure> {
    let micros = i64::from_be_bytes(*bytes);
    match (0..=DAY * MICROS).contains(&micros) {
        true => Ok(micros),
        false => Err(Failure::new("22008", "time out of range")),
    }
}

fn timestamp(micros: i64) -> Result<i64, Failure> {
    let endless = micros == i64::MIN || micros == i64::MAX;
    let at = micros.checked_add(EPOCH_DAYS * DAY * MICROS);
    at.filter(|_| !endless)
        .ok_or_else(|| Failure::new("22008", "timestamp out of range"))
}

fn interval(bytes: &[u8; 16]) -> Result<IntervalMonthDayNano, Failure> {
    let [a, b, c, d, e, f, g, h, days @ .., i, j, k, l] = *bytes;
    let micros = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let nanos = micros.checked_mul(1_000);
    let nanos = nanos.ok_or_else(|| Failure::new("22008", "interval out of range"))?;
    Ok(IntervalMonthDayNano::new(
        i32::from_be_bytes([i, j, k, l]),
        i32::from_be_bytes(days),
        nanos,
    ))
}
