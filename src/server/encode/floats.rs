//! Floats as PostgreSQL prints them: the shortest digits that read back, with an exponent only where it is long.
//!
//! Rust finds the same digits but for two cases, which are found exactly: it may choose a decimal that lies in the middle
//! between two floats (and reads back to the even one), PostgreSQL never does; and of two decimals equally near it takes
//! the greater, PostgreSQL the even one.

use super::digits::put_i64;
use bytes::{BufMut, BytesMut};
use std::fmt::{LowerExp, Write};
use std::str::FromStr;

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

/// A positive float taken apart: `mantissa` * 2^`power`.
struct Parts {
    mantissa: u64,
    power: i32,
    /// The neighbour below is half as far as the one above.
    narrow: bool,
}

impl Parts {
    /// From the bits of a float whose fraction has `fraction` of them; `bias` is that of its power.
    fn of(bits: u64, fraction: u32, bias: i32) -> Parts {
        let hidden = 1 << fraction;
        let (low, biased) = (bits & (hidden - 1), (bits >> fraction) as i32);
        Parts {
            mantissa: if biased == 0 { low } else { low | hidden },
            power: biased.max(1) - bias,
            narrow: low == 0 && biased > 1,
        }
    }

    /// Whether a decimal lies exactly between this float and one of its neighbours.
    fn is_middle(&self, decimal: &Shortest) -> bool {
        let digits = decimal.digits[..decimal.len].iter();
        let value = digits.fold(0_u64, |value, digit| value * 10 + u64::from(digit - b'0'));
        let tens = decimal.exponent - (decimal.len as i32 - 1);
        let below = match self.narrow {
            true => (4 * self.mantissa - 1, self.power - 2),
            false => (2 * self.mantissa - 1, self.power - 1),
        };
        let above = (2 * self.mantissa + 1, self.power - 1);
        [below, above]
            .iter()
            .any(|(odd, twos)| equal(value, tens, *odd, *twos))
    }

    /// Whether all of its digits are so few that two decimals of one digit less can be equally near.
    fn is_short(&self, exponent: i32) -> bool {
        let twos = self.power + self.mantissa.trailing_zeros() as i32;
        twos >= 0 || exponent + 1 - twos <= 18
    }
}

/// The digits that PostgreSQL chooses for `value`, which needs at most `most`.
fn shortest<F>(value: F, parts: &Parts, most: usize) -> Shortest
where
    F: Copy + PartialEq + LowerExp + FromStr,
{
    let found = Shortest::parse(Text::of(format_args!("{value:e}")).as_str());
    let middle = parts.mantissa.is_multiple_of(2) && parts.is_middle(&found);
    if !middle && !parts.is_short(found.exponent) {
        return found;
    }
    // With a given number of digits Rust rounds to even, too.
    let last = if middle { most } else { found.len };
    for digits in found.len..=last {
        let behind = digits - 1;
        let text = Text::of(format_args!("{value:.behind$e}"));
        let next = Shortest::parse(text.as_str());
        let same = text.as_str().parse().is_ok_and(|back: F| back == value);
        if same && !parts.is_middle(&next) {
            return next;
        }
    }
    found
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
    if value < 0.0 {
        out.put_u8(b'-');
    }
    let value = value.abs();
    let parts = Parts::of(value.to_bits(), 52, 1_075);
    shortest(value, &parts, 17).put(15, out);
}

/// Appends a single.
pub fn put_f32(value: f32, out: &mut BytesMut) {
    if put_special(f64::from(value), out) {
        return;
    }
    if value.abs() < 1e6 && value.trunc() == value {
        return put_i64(value as i64, out);
    }
    if value < 0.0 {
        out.put_u8(b'-');
    }
    let value = value.abs();
    let parts = Parts::of(u64::from(value.to_bits()), 23, 150);
    shortest(value, &parts, 9).put(6, out);
}

/// Appends what is not a number, or the zeros.
fn put_special(value: f64, out: &mut BytesMut) -> bool {
    let text: &[u8] = match value {
        v if v.is_nan() => b"NaN",
        f64::INFINITY => b"Infinity",
        f64::NEG_INFINITY => b"-Infinity",
        v if v == 0.0 && v.is_sign_negative() => b"-0",
        0.0 => b"0",
        _ => return false,
    };
    out.extend_from_slice(text);
    true
}
