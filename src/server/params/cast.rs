//! A value as the type that a plan wants, by PostgreSQL's rules where Arrow's differ.

use super::{out_of_range, shortened, utc};
use crate::server::encode::Zone;
use crate::server::encode::datetime::MICROS;
use crate::server::failure::Failure;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;

/// `value` as `wanted`.
///
/// # Errors
/// 22003 for a number and 22008 for a time beyond it, 42846 where there is no such cast.
pub fn cast(value: ScalarValue, wanted: &DataType, zone: &Zone) -> Result<ScalarValue, Failure> {
    if value.data_type() == *wanted {
        return Ok(value);
    }
    let value = match (value, wanted) {
        // Arrow cuts fractions off, PostgreSQL rounds them to the nearest even whole.
        (ScalarValue::Float64(Some(v)), to) if to.is_integer() => whole(v, to)?,
        (ScalarValue::Float32(Some(v)), to) if to.is_integer() => whole(f64::from(v), to)?,
        (ScalarValue::Float64(Some(v)), DataType::Float32) => {
            let narrow = v as f32;
            let lost = (narrow.is_infinite() && v.is_finite()) || (narrow == 0.0 && v != 0.0);
            if lost {
                return Err(out_of_range("real", &v.to_string()));
            }
            ScalarValue::Float32(Some(narrow))
        }
        // Local times and instants meet at the session's clock, not at Greenwich.
        (ScalarValue::TimestampMicrosecond(Some(at), None), DataType::Timestamp(_, Some(_))) => {
            let (seconds, micros) = (at.div_euclid(MICROS), at.rem_euclid(MICROS));
            let at =
                (zone.instant_of(seconds).checked_mul(MICROS)).and_then(|v| v.checked_add(micros));
            let at = at.ok_or_else(|| Failure::new("22008", "timestamp out of range"))?;
            ScalarValue::TimestampMicrosecond(Some(at), Some(utc()))
        }
        (
            ScalarValue::TimestampMicrosecond(Some(at), Some(_)),
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, None),
        ) => {
            let offset = zone.offset_at(at.div_euclid(MICROS));
            ScalarValue::TimestampMicrosecond(Some(at.saturating_add(offset * MICROS)), None)
        }
        (value, _) => value,
    };
    if let (ScalarValue::TimestampMicrosecond(Some(at), _), DataType::Timestamp(unit, _)) =
        (&value, wanted)
        && *unit == TimeUnit::Nanosecond
        && at.checked_mul(1_000).is_none()
    {
        return Err(Failure::new("22008", "timestamp out of range"));
    }
    let from = value.data_type();
    value.cast_to(wanted).map_err(|error| {
        let code = match &from {
            from if from.is_temporal() => "22008",
            from if from.is_numeric() && wanted.is_numeric() => "22003",
            _ => "42846",
        };
        let shown = error.strip_backtrace();
        Failure::new(
            code,
            format!("cannot cast {from} to {wanted}: {}", shortened(&shown)),
        )
    })
}

/// The nearest whole number, halves to the even one.
fn whole(value: f64, wanted: &DataType) -> Result<ScalarValue, Failure> {
    let rounded = value.round_ties_even();
    // 2^64 bounds every integer; Arrow checks the narrower ones.
    if !rounded.is_finite() || rounded.abs() > 18_446_744_073_709_551_616.0 {
        return Err(Failure::new("22003", format!("{wanted} out of range")));
    }
    Ok(ScalarValue::Decimal128(Some(rounded as i128), 38, 0))
}
