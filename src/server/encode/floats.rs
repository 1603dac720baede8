//! Floats as PostgreSQL prints them: the shortest digits that read back, with an exponent only where it is long.
//!
//! Rust finds the same digits but for one case: it may choose a decimal that lies exactly between two floats (and reads
//! back to the even one), PostgreSQL never does. Such decimals are found exactly and given another digit.

use super::digits::put_i64;
use bytes::{BufMut, BytesMut};
use std::fmt::Write;

/// The longest `{:e}` of a float: 17 digits, sign, point, exponent.
const TEXT_MAX: usize = 32;

/// A little text on the stack.
struct Text {
    bytes: [u8; TEXT_MAX],
    len: usize,
}

impl Text {
    fn of(arguments: std::fmt::Arguments<'_>) -> Text {
        let mut text = Text {
            bytes: [0; TEXT_MAX],
            len: 0,
        };
        text.write_fmt(arguments)
            .expect("bug: a float is longer than any float");
        text
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("bug: digits are not text")
    }
}

impl Write for Text {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let end = self.len + part.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Digits of a positive number: d.ddd * 10^exponent.
struct Shortest {
    digits: [u8; 20],
    len: usize,
    exponent: i32,
}

impl Shortest {
    /// From Rust's `{:e}`.
    fn parse(text: &str) -> Shortest {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let mut found = Shortest {
            digits: [0; 20],
            len: 0,
            exponent: exponent.parse().unwrap_or(0),
        };
        for digit in mantissa.bytes().filter(u8::is_ascii_digit).take(20) {
            found.digits[found.len] = digit;
            found.len += 1;
        }
        while found.len > 1 && found.digits[found.len - 1] == b'0' {
            found.len -= 1;
        }
        found
    }

    /// Whether it is the exact middle of the float `mantissa` * 2^`power` and one of its neighbours.
    fn is_middle(&self, mantissa: u64, power: i32) -> bool {
        let digits = self.digits[..self.len].iter();
        let value = digits.fold(0_u64, |value, digit| value * 10 + u64::from(digit - b'0'));
        let tens = self.exponent - (self.len as i32 - 1);
        let middles = [
            (2 * mantissa + 1, power - 1),
            (2 * mantissa - 1, power - 1),
            // Below a power of two the neighbour is half as far.
            (4 * mantissa - 1, power - 2),
        ];
        middles
            .iter()
            .any(|(odd, twos)| equal(value, tens, *odd, *twos))
    }

    /// Appends it, with an exponent from 10^`limit` on and below 10^-4.
    fn put(&self, limit: i32, out: &mut BytesMut) {
        let digits = &self.digits[..self.len];
        if self.exponent < -4 || self.exponent >= limit {
            out.put_u8(digits[0]);
            if self.len > 1 {
                out.put_u8(b'.');
                out.extend_from_slice(&digits[1..]);
            }
            out.extend_from_slice(if self.exponent < 0 { b"e-" } else { b"e+" });
            if self.exponent.abs() < 10 {
                out.put_u8(b'0');
            }
            put_i64(i64::from(self.exponent.abs()), out);
        } else if self.exponent < 0 {
            out.extend_from_slice(b"0.");
            out.put_bytes(b'0', (-1 - self.exponent) as usize);
            out.extend_from_slice(digits);
        } else {
            let before = self.exponent as usize + 1;
            if self.len <= before {
                out.extend_from_slice(digits);
                out.put_bytes(b'0', before - self.len);
            } else {
                out.extend_from_slice(&digits[..before]);
                out.put_u8(b'.');
                out.extend_from_slice(&digits[before..]);
            }
        }
    }
}

/// Whether `value` * 10^`tens` = `odd` * 2^`twos`, by comparing odd parts and powers of two.
fn equal(value: u64, tens: i32, odd: u64, twos: i32) -> bool {
    // 5^27 is the last power of five below 2^64; a longer one divides no such number.
    if value == 0 || tens.abs() > 27 {
        return false;
    }
    let shift = value.trailing_zeros();
    let fives = 5_u128.pow(tens.unsigned_abs());
    let (mut left, mut right) = (u128::from(value >> shift), u128::from(odd));
    match tens >= 0 {
        true => left = left.saturating_mul(fives),
        false => right = right.saturating_mul(fives),
    }
    left == right && shift as i32 + tens == twos
}

/// Appends a double.
pub fn put_f64(value: f64, out: &mut BytesMut) {
    if put_special(value, out) {
        return;
    }
    // Below 10^15 whole numbers have their own digits and no exponent.
    if value.abs() < 1e15 && value.trunc() == value {
        return put_i64(value as i64, out);
    }
    let magnitude = value.abs();
    if value < 0.0 {
        out.put_u8(b'-');
    }
    let mut shortest = Shortest::parse(Text::of(format_args!("{magnitude:e}")).as_str());
    let bits = magnitude.to_bits();
    let (fraction, biased) = (bits & ((1 << 52) - 1), (bits >> 52) as i32);
    let (mantissa, power) = match biased {
        0 => (fraction, -1074),
        _ => (fraction | (1 << 52), biased - 1075),
    };
    if mantissa % 2 == 0 && shortest.is_middle(mantissa, power) {
        for more in shortest.len..=17 {
            let longer = Text::of(format_args!("{magnitude:.more$e}"));
            let next = Shortest::parse(longer.as_str());
            if longer.as_str().parse() == Ok(magnitude) && !next.is_middle(mantissa, power) {
                shortest = next;
                break;
            }
        }
    }
    shortest.put(15, out);
}

/// Appends a single.
pub fn put_f32(value: f32, out: &mut BytesMut) {
    if put_special(f64::from(value), out) {
        return;
    }
    if value.abs() < 1e6 && value.trunc() == value {
        return put_i64(value as i64, out);
    }
    let magnitude = value.abs();
    if value < 0.0 {
        out.put_u8(b'-');
    }
    let mut shortest = Shortest::parse(Text::of(format_args!("{magnitude:e}")).as_str());
    let bits = magnitude.to_bits();
    let (fraction, biased) = (bits & ((1 << 23) - 1), (bits >> 23) as i32);
    let (mantissa, power) = match biased {
        0 => (fraction, -149),
        _ => (fraction | (1 << 23), biased - 150),
    };
    let mantissa = u64::from(mantissa);
    if mantissa % 2 == 0 && shortest.is_middle(mantissa, power) {
        for more in shortest.len..=9 {
            let longer = Text::of(format_args!("{magnitude:.more$e}"));
            let next = Shortest::parse(longer.as_str());
            if longer.as_str().parse() == Ok(magnitude) && !next.is_middle(mantissa, power) {
                shortest = next;
                break;
            }
        }
    }
    shortest.put(6, out);
}

/// Appends what is not a number, or the zeros.
fn put_special(value: f64, out: &mut BytesMut) -> bool {
    let text: &[u8] = match value {
        v if v.is_nan() => b"NaN",
        f64::INFINITY => b"Infinity",
        f64::NEG_INFINITY => b"-Infinity",
        v if v == 0.0 && v.is_sign_negative() => b"-0",
        v if v == 0.0 => b"0",
        _ => return false,
    };
    out.extend_from_slice(text);
    true
}
