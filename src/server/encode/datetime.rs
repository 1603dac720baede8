//! Dates, times and timestamps as PostgreSQL prints and sends them.
//!
//! Text has the ISO date style: microseconds at most, a trimmed fraction, ` BC` for years before 1. Instants are taken
//! apart into seconds since 1970 and a fraction, so that every value of every unit has an answer and none panics.

use super::Zone;
use super::digits::{put_i64, put_two};
use bytes::{BufMut, BytesMut};
use datafusion::arrow::datatypes::TimeUnit;

/// Seconds of a day.
pub const DAY: i64 = 86_400;
/// Days from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
pub const EPOCH_DAYS: i64 = 10_957;
/// Microseconds of a second.
pub const MICROS: i64 = 1_000_000;

/// Seconds and microseconds of a value in `unit`; finer parts are cut off.
pub fn split(value: i64, unit: TimeUnit) -> (i64, u32) {
    let (per_second, micros, nanos) = match unit {
        TimeUnit::Second => return (value, 0),
        TimeUnit::Millisecond => (1_000, 1_000, 1),
        TimeUnit::Microsecond => (MICROS, 1, 1),
        TimeUnit::Nanosecond => (1_000_000_000, 1, 1_000),
    };
    let rest = value.rem_euclid(per_second) * micros / nanos;
    (value.div_euclid(per_second), rest as u32)
}

/// Year (0 is 1 BC), month and day of a day since 1970-01-01.
pub fn civil(day: i64) -> (i64, u32, u32) {
    // Eras of 400 years that begin with March: Hinnant, "chrono-compatible low-level date algorithms".
    let day = day.saturating_add(719_468);
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let date = (of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, date)
}

/// The day since 1970-01-01 of a year (0 is 1 BC), month and day of the month.
pub fn day_of(year: i64, month: u32, date: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let of_year = (153 * shifted + 2) / 5 + i64::from(date) - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

/// Appends the date without its era; says whether it is before Christ.
fn put_civil(day: i64, out: &mut BytesMut) -> bool {
    let (year, month, date) = civil(day);
    let before = year <= 0;
    let year = if before { 1 - year } else { year };
    if year < 10_000 {
        put_two((year / 100) as u32, out);
        put_two((year % 100) as u32, out);
    } else {
        put_i64(year, out);
    }
    out.put_u8(b'-');
    put_two(month, out);
    out.put_u8(b'-');
    put_two(date, out);
    before
}

/// Appends `.` and up to six digits without trailing zeros, or nothing.
pub fn put_fraction(micros: u32, out: &mut BytesMut) {
    if micros == 0 {
        return;
    }
    out.put_u8(b'.');
    put_two(micros / 10_000, out);
    put_two(micros / 100 % 100, out);
    put_two(micros % 100, out);
    while out.last() == Some(&b'0') {
        out.truncate(out.len() - 1);
    }
}

/// Appends a day since 1970.
pub fn put_date(day: i64, out: &mut BytesMut) {
    if put_civil(day, out) {
        out.extend_from_slice(b" BC");
    }
}

/// Appends a time of day; 24:00:00 is one.
pub fn put_time((seconds, micros): (i64, u32), out: &mut BytesMut) {
    let seconds = seconds.clamp(0, DAY) as u32;
    put_two(seconds / 3_600, out);
    out.put_u8(b':');
    put_two(seconds / 60 % 60, out);
    out.put_u8(b':');
    put_two(seconds % 60, out);
    put_fraction(micros, out);
}

/// Appends a timestamp without time zone.
pub fn put_timestamp((seconds, micros): (i64, u32), out: &mut BytesMut) {
    let before = put_civil(seconds.div_euclid(DAY), out);
    out.put_u8(b' ');
    put_time((seconds.rem_euclid(DAY), micros), out);
    if before {
        out.extend_from_slice(b" BC");
    }
}

/// Appends a timestamp with time zone as clocks in `zone` show it.
pub fn put_timestamptz((seconds, micros): (i64, u32), zone: &Zone, out: &mut BytesMut) {
    let offset = zone.offset_at(seconds);
    let local = seconds.saturating_add(offset);
    let before = put_civil(local.div_euclid(DAY), out);
    out.put_u8(b' ');
    put_time((local.rem_euclid(DAY), micros), out);
    out.put_u8(if offset < 0 { b'-' } else { b'+' });
    let offset = offset.unsigned_abs() as u32;
    put_two(offset / 3_600, out);
    if !offset.is_multiple_of(3_600) {
        out.put_u8(b':');
        put_two(offset / 60 % 60, out);
    }
    if !offset.is_multiple_of(60) {
        out.put_u8(b':');
        put_two(offset % 60, out);
    }
    if before {
        out.extend_from_slice(b" BC");
    }
}

/// Days since 2000, as `date_send` has them.
pub fn binary_date(day: i64) -> i32 {
    (day.saturating_sub(EPOCH_DAYS)).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// Microseconds since 2000, as `timestamp_send` has them.
pub fn binary_timestamp((seconds, micros): (i64, u32)) -> i64 {
    let seconds = seconds.saturating_sub(EPOCH_DAYS * DAY);
    seconds
        .saturating_mul(MICROS)
        .saturating_add(i64::from(micros))
}

/// Microseconds since midnight, as `time_send` has them.
pub fn binary_time((seconds, micros): (i64, u32)) -> i64 {
    seconds.clamp(0, DAY) * MICROS + i64::from(micros)
}
