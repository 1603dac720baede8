//! Intervals as PostgreSQL prints and sends them: months, days and microseconds side by side.

use super::datetime::{MICROS, put_fraction};
use super::digits::{put_i64, put_two};
use bytes::{BufMut, BytesMut};

/// An interval: months, days and microseconds, none folded into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Months; years are twelve.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

impl Interval {
    /// Appends it in the style `postgres`: `1 year 2 mons -3 days +04:05:06.7`.
    pub fn put_text(self, out: &mut BytesMut) {
        let start = out.len();
        let mut below = false;
        let parts = [
            (self.months / 12, "year"),
            (self.months % 12, "mon"),
            (self.days, "day"),
        ];
        for (value, unit) in parts {
            if value == 0 {
                continue;
            }
            if out.len() > start {
                out.put_u8(b' ');
            }
            // After a negative part a positive one says so.
            if below && value > 0 {
                out.put_u8(b'+');
            }
            put_i64(i64::from(value), out);
            out.put_u8(b' ');
            out.extend_from_slice(unit.as_bytes());
            if value != 1 {
                out.put_u8(b's');
            }
            below = value < 0;
        }
        if self.micros == 0 && out.len() > start {
            return;
        }
        if out.len() > start {
            out.put_u8(b' ');
        }
        if self.micros < 0 {
            out.put_u8(b'-');
        } else if below {
            out.put_u8(b'+');
        }
        let micros = self.micros.unsigned_abs();
        let seconds = micros / MICROS as u64;
        let hours = seconds / 3_600;
        match hours < 100 {
            true => put_two(hours as u32, out),
            false => put_i64(hours as i64, out),
        }
        out.put_u8(b':');
        put_two((seconds / 60 % 60) as u32, out);
        out.put_u8(b':');
        put_two((seconds % 60) as u32, out);
        put_fraction((micros % MICROS as u64) as u32, out);
    }

    /// Appends it as `interval_send` does.
    pub fn put_binary(self, out: &mut BytesMut) {
        out.put_i64(self.micros);
        out.put_i32(self.days);
        out.put_i32(self.months);
    }
}
