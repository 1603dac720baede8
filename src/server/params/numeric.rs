//! Numerics from text and binary with every digit, and as Arrow decimals of just the right size.

use super::{malformed, out_of_range, shortened, syntax};
use crate::server::failure::Failure;
use datafusion::arrow::datatypes::{DataType, i256};
use datafusion::common::ScalarValue;

/// The most digits of a decimal in Arrow.
const DIGITS_MAX: usize = 76;
/// The most digits of a decimal of 128 bits.
const DIGITS_128: usize = 38;

/// A numeric as it came.
#[derive(Debug, PartialEq)]
pub enum Numeric {
    /// Digits (no leading zeros, none for zero), of which `scale` stand behind the point.
    Number {
        /// Below zero.
        negative: bool,
        /// Each 0 to 9.
        digits: Vec<u8>,
        /// Digits behind the point; may exceed their number.
        scale: usize,
    },
    /// `NaN`, `Infinity` or `-Infinity`.
    Special(f64),
}

fn overflow() -> Failure {
    Failure {
        detail: Some(format!("a numeric has at most {DIGITS_MAX} digits here").into()),
        ..Failure::new("22003", "value overflows numeric format")
    }
}

impl Numeric {
    /// As `numeric_in` reads it.
    pub fn parse(text: &str) -> Result<Numeric, Failure> {
        let wrong = || syntax("numeric", text);
        let body = text.trim_matches(super::text::is_space);
        let (negative, body) = match body.as_bytes().first() {
            Some(b'-') => (true, &body[1..]),
            Some(b'+') => (false, &body[1..]),
            _ => (false, body),
        };
        if body.eq_ignore_ascii_case("nan") && !text.contains(['+', '-']) {
            return Ok(Numeric::Special(f64::NAN));
        }
        if ["inf", "infinity"]
            .iter()
            .any(|word| body.eq_ignore_ascii_case(word))
        {
            let sign = if negative { -1.0 } else { 1.0 };
            return Ok(Numeric::Special(sign * f64::INFINITY));
        }
        let (mantissa, exponent) = match body.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                let exponent = super::text::integer::<i32>(exponent, "numeric");
                let exponent = exponent.map_err(|failure| match failure.sqlstate {
                    "22003" => overflow(),
                    _ => wrong(),
                })?;
                (mantissa, exponent)
            }
            None => (body, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = whole.bytes().chain(fraction.bytes());
        if whole.len() + fraction.len() == 0 || !all.clone().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let scale = fraction.len() as i64 - i64::from(exponent);
        let mut digits: Vec<u8> = all.map(|b| b - b'0').skip_while(|d| *d == 0).collect();
        if scale < 0 && !digits.is_empty() {
            let zeros = scale.unsigned_abs() as usize;
            if zeros > DIGITS_MAX {
                return Err(overflow());
            }
            digits.resize(digits.len() + zeros, 0);
        }
        let scale = usize::try_from(scale).unwrap_or(0);
        Ok(Numeric::Number {
            negative,
            digits,
            scale,
        })
    }

    /// As `numeric_recv` reads it.
    pub fn from_binary(bytes: &[u8]) -> Result<Numeric, Failure> {
        let word = |at: usize| -> Result<u16, Failure> {
            let pair = bytes.get(2 * at..2 * at + 2).ok_or_else(malformed)?;
            Ok(u16::from_be_bytes([pair[0], pair[1]]))
        };
        let (count, weight) = (usize::from(word(0)?), i32::from(word(1)? as i16));
        let (sign, scale) = (word(2)?, usize::from(word(3)?));
        if bytes.len() != 8 + 2 * count || scale > 0x3fff {
            return Err(malformed());
        }
        let negative = match sign {
            0 => false,
            0x4000 => true,
            0xc000 => return Ok(Numeric::Special(f64::NAN)),
            0xd000 => return Ok(Numeric::Special(f64::INFINITY)),
            0xf000 => return Ok(Numeric::Special(f64::NEG_INFINITY)),
            _ => return Err(malformed()),
        };
        let mut groups = Vec::with_capacity(count);
        for at in 0..count {
            let group = word(4 + at)?;
            if group > 9_999 {
                return Err(malformed());
            }
            groups.push(group);
        }
        // Groups before the point, then those behind it as far as the scale goes.
        let zeros = groups.iter().take_while(|group| **group == 0).count();
        groups.drain(..zeros);
        let weight = match groups.is_empty() {
            true => -1,
            false => weight - zeros as i32,
        };
        if weight > (DIGITS_MAX / 4) as i32 {
            return Err(overflow());
        }
        let behind = scale.div_ceil(4);
        let mut digits = Vec::new();
        for power in (-(behind as i32)..=weight.max(-1)).rev() {
            let group = usize::try_from(weight - power).ok();
            let group = group.and_then(|at| groups.get(at)).copied().unwrap_or(0);
            let four = [group / 1000, group / 100 % 10, group / 10 % 10, group % 10];
            digits.extend(four.map(|digit| digit as u8));
        }
        digits.truncate(digits.len().saturating_sub(behind * 4 - scale));
        let zeros = digits.iter().take_while(|d| **d == 0).count();
        digits.drain(..zeros);
        Ok(Numeric::Number {
            negative,
            digits,
            scale,
        })
    }

    /// The decimal that holds it exactly; a float where one is wanted; a rounded integer likewise.
    pub fn into_scalar(self, wanted: Option<&DataType>) -> Result<ScalarValue, Failure> {
        let (negative, digits, scale) = match self {
            Numeric::Number {
                negative,
                digits,
                scale,
            } => (negative, digits, scale),
            Numeric::Special(value) => {
                let float = wanted.is_some_and(DataType::is_floating);
                return match float {
                    true => Ok(ScalarValue::Float64(Some(value))),
                    false => Err(Failure::new(
                        "22003",
                        format!("numeric {} is not supported", special(value)),
                    )),
                };
            }
        };
        if wanted.is_some_and(DataType::is_floating) {
            let text = spelled(negative, &digits, scale);
            let value = text.parse().map_err(|_| syntax("numeric", &text))?;
            return Ok(ScalarValue::Float64(Some(value)));
        }
        if wanted.is_some_and(DataType::is_integer) {
            let value = rounded(negative, &digits, scale);
            let text = || spelled(negative, &digits, scale);
            let value = value.ok_or_else(|| out_of_range("bigint", shortened(&text())))?;
            return Ok(ScalarValue::Decimal128(Some(value), DIGITS_128 as u8, 0));
        }
        let precision = digits.len().max(scale).max(1);
        if precision > DIGITS_MAX {
            return Err(overflow());
        }
        let mut value = i256::ZERO;
        let ten = i256::from_i128(10);
        for digit in &digits {
            value = value
                .wrapping_mul(ten)
                .wrapping_add(i256::from_i128(i128::from(*digit)));
        }
        if negative {
            value = value.wrapping_neg();
        }
        let (size, scale) = (precision as u8, scale as i8);
        Ok(match (precision <= DIGITS_128, value.to_i128()) {
            (true, Some(value)) => ScalarValue::Decimal128(Some(value), size, scale),
            _ => ScalarValue::Decimal256(Some(value), size, scale),
        })
    }
}

fn special(value: f64) -> &'static str {
    match value {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// `-12e-1`, for Rust's parser of floats.
fn spelled(negative: bool, digits: &[u8], scale: usize) -> String {
    let digits: String = digits.iter().map(|d| char::from(b'0' + d)).collect();
    let sign = if negative { "-" } else { "" };
    format!("{sign}0{digits}e-{scale}")
}

/// The nearest whole number, halves away from zero, as PostgreSQL casts a numeric to an integer.
fn rounded(negative: bool, digits: &[u8], scale: usize) -> Option<i128> {
    let whole = digits.len().saturating_sub(scale);
    let mut value: i128 = 0;
    for digit in &digits[..whole] {
        value = value.checked_mul(10)?.checked_add(i128::from(*digit))?;
    }
    let next = match digits.len() < scale {
        true => 0,
        false => digits.get(whole).copied().unwrap_or(0),
    };
    value = value.checked_add(i128::from(next >= 5))?;
    Some(if negative { -value } else { value })
}
