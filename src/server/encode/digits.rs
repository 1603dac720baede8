//! Integers and decimals as digits, and PostgreSQL's binary numeric.
//!
//! Everything is made in small arrays on the stack and appended; nothing allocates.

use bytes::{BufMut, BytesMut};
use datafusion::arrow::datatypes::i256;

/// Two digits of each number below 100.
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut at = 0;
    while at < 100 {
        pairs[2 * at] = b'0' + (at / 10) as u8;
        pairs[2 * at + 1] = b'0' + (at % 10) as u8;
        at += 1;
    }
    pairs
};

/// The most digits of an unsigned 64-bit integer.
const U64_DIGITS: usize = 20;
/// The most digits of an unsigned 256-bit integer.
const U256_DIGITS: usize = 78;
/// Digits that one division of a wide integer gives.
const CHUNK: usize = 19;
const CHUNK_UNIT: u128 = 10_u128.pow(CHUNK as u32);

/// Writes the digits of `value` to the end of `digits`; gives where they begin.
fn digits_u64(mut value: u64, digits: &mut [u8]) -> usize {
    let mut at = digits.len();
    while value >= 100 {
        let pair = (value % 100) as usize * 2;
        value /= 100;
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if value >= 10 {
        let pair = value as usize * 2;
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        at -= 1;
        digits[at] = b'0' + value as u8;
    }
    at
}

/// Appends an unsigned integer.
pub fn put_u64(value: u64, out: &mut BytesMut) {
    let mut digits = [0; U64_DIGITS];
    let start = digits_u64(value, &mut digits);
    out.extend_from_slice(&digits[start..]);
}

/// Appends an integer.
pub fn put_i64(value: i64, out: &mut BytesMut) {
    let mut digits = [0; U64_DIGITS + 1];
    let mut start = digits_u64(value.unsigned_abs(), &mut digits);
    if value < 0 {
        start -= 1;
        digits[start] = b'-';
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends two digits of a number below 100.
pub fn put_two(value: u32, out: &mut BytesMut) {
    let pair = (value % 100) as usize * 2;
    out.extend_from_slice(&PAIRS[pair..pair + 2]);
}

/// A decimal taken apart: its digits without leading zeros (none for zero), its sign, and how many of them stand behind
/// the point (fewer than none: zeros follow).
pub struct Decimal {
    digits: [u8; U256_DIGITS],
    start: usize,
    negative: bool,
    scale: i32,
}

impl Decimal {
    /// `value` / 10^`scale`.
    pub fn from_i128(value: i128, scale: i32) -> Decimal {
        let magnitude = value.unsigned_abs();
        let limbs = [magnitude as u64, (magnitude >> 64) as u64, 0, 0];
        Decimal::of(limbs, value < 0, scale)
    }

    /// `value` / 10^`scale`.
    pub fn from_i256(value: i256, scale: i32) -> Decimal {
        let negative = value < i256::ZERO;
        // The least value has no positive twin, but as bits it is its own magnitude.
        let magnitude = if negative {
            value.wrapping_neg()
        } else {
            value
        };
        let (low, high) = magnitude.to_parts();
        let high = high as u128;
        let limbs = [
            low as u64,
            (low >> 64) as u64,
            high as u64,
            (high >> 64) as u64,
        ];
        Decimal::of(limbs, negative, scale)
    }

    /// From 64-bit limbs, the lowest first.
    fn of(mut limbs: [u64; 4], negative: bool, scale: i32) -> Decimal {
        let mut digits = [b'0'; U256_DIGITS];
        let mut end = U256_DIGITS;
        while limbs[1..].iter().any(|limb| *limb != 0) {
            let mut rest: u128 = 0;
            for limb in limbs.iter_mut().rev() {
                let part = (rest << 64) | u128::from(*limb);
                *limb = (part / CHUNK_UNIT) as u64;
                rest = part % CHUNK_UNIT;
            }
            digits_u64(rest as u64, &mut digits[..end]);
            end -= CHUNK;
        }
        let mut start = end;
        if limbs[0] != 0 {
            start = digits_u64(limbs[0], &mut digits[..end]);
        }
        Decimal {
            digits,
            start,
            negative,
            scale,
        }
    }

    /// Appends it as PostgreSQL prints a numeric.
    pub fn put_text(&self, out: &mut BytesMut) {
        let digits = &self.digits[self.start..];
        if self.negative {
            out.put_u8(b'-');
        }
        if self.scale <= 0 {
            match digits.is_empty() {
                true => out.put_u8(b'0'),
                false => {
                    out.extend_from_slice(digits);
                    out.put_bytes(b'0', self.scale.unsigned_abs() as usize);
                }
            }
            return;
        }
        let behind = self.scale as usize;
        match digits.len().checked_sub(behind) {
            Some(before) if before > 0 => {
                out.extend_from_slice(&digits[..before]);
                out.put_u8(b'.');
                out.extend_from_slice(&digits[before..]);
            }
            _ => {
                out.extend_from_slice(b"0.");
                out.put_bytes(b'0', behind - digits.len());
                out.extend_from_slice(digits);
            }
        }
    }

    /// Appends it as `numeric_send` does: groups of four digits aligned with the point.
    pub fn put_binary(&self, out: &mut BytesMut) {
        let digits = &self.digits[self.start..];
        let head = out.len();
        let first = digits.len() as i32 - 1 - self.scale;
        let weight = match digits.is_empty() {
            true => 0,
            false => first.div_euclid(4),
        };
        out.put_i16(0);
        out.put_i16(weight as i16);
        out.put_u16(if self.negative { 0x4000 } else { 0 });
        out.put_i16(self.scale.max(0) as i16);
        let body = out.len();
        let mut group = 0;
        for (at, digit) in digits.iter().enumerate() {
            let power = first - at as i32;
            group = group * 10 + u16::from(digit - b'0');
            if power.rem_euclid(4) == 0 {
                out.put_u16(group);
                group = 0;
            } else if at + 1 == digits.len() {
                out.put_u16(group * 10_u16.pow(power.rem_euclid(4) as u32));
            }
        }
        while out.len() > body && out.ends_with(&[0, 0]) {
            out.truncate(out.len() - 2);
        }
        let groups = ((out.len() - body) / 2) as i16;
        out[head..head + 2].copy_from_slice(&groups.to_be_bytes());
    }
}
