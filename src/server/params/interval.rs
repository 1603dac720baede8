//! Intervals from text: PostgreSQL's own style, its verbose one, and ISO 8601.

use super::text::is_space;
use super::{Failure, shortened};
use crate::server::encode::datetime::{DAY, MICROS};
use datafusion::arrow::datatypes::IntervalMonthDayNano;

/// Amounts are counted in billionths, so that fractions are exact.
const ONE: i128 = 1_000_000_000;

/// Parts of an interval as they add up.
#[derive(Debug, Default)]
struct Parts {
    months: i128,
    days: i128,
    micros: i128,
}

impl Parts {
    /// Adds `amount` billionths of months; what is left of one becomes days of a 30-day month.
    fn add_months(&mut self, amount: i128) {
        self.months += amount / ONE;
        self.add_days(amount % ONE * 30);
    }

    fn add_days(&mut self, amount: i128) {
        self.days += amount / ONE;
        self.add_micros(amount % ONE, i128::from(DAY * MICROS));
    }

    fn add_micros(&mut self, amount: i128, unit: i128) {
        self.micros += amount * unit / ONE;
    }

    /// Adds `amount` billionths of a unit; false for a unit that nobody knows.
    fn add(&mut self, amount: i128, unit: &str) -> bool {
        let second = i128::from(MICROS);
        match unit {
            "us" | "usec" | "usecs" | "microsecond" | "microseconds" => self.add_micros(amount, 1),
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => {
                self.add_micros(amount, 1_000)
            }
            "s" | "sec" | "secs" | "second" | "seconds" => self.add_micros(amount, second),
            "m" | "min" | "mins" | "minute" | "minutes" => self.add_micros(amount, 60 * second),
            "h" | "hr" | "hrs" | "hour" | "hours" => self.add_micros(amount, 3_600 * second),
            "d" | "day" | "days" => self.add_days(amount),
            "w" | "week" | "weeks" => self.add_days(amount * 7),
            "mon" | "mons" | "month" | "months" => self.add_months(amount),
            // A fraction of years is whole months.
            "y" | "yr" | "yrs" | "year" | "years" => self.months += amount * 12 / ONE,
            "dec" | "decs" | "decade" | "decades" => self.months += amount * 120 / ONE,
            "c" | "cent" | "century" | "centuries" => self.months += amount * 1_200 / ONE,
            "mil" | "mils" | "millennium" | "millennia" => self.months += amount * 12_000 / ONE,
            _ => return false,
        }
        true
    }

    fn negate(&mut self) {
        (self.months, self.days, self.micros) = (-self.months, -self.days, -self.micros);
    }
}

/// The interval that `text` spells.
///
/// # Errors
/// 22007 for what is none, 22008 out of range.
pub fn parse(text: &str) -> Result<IntervalMonthDayNano, Failure> {
    let trimmed = text.trim_matches(is_space);
    let parts = match trimmed.strip_prefix(['P', 'p']) {
        Some(rest) => iso(rest),
        None => words(trimmed),
    };
    let parts = parts.ok_or_else(|| super::datetime::no_date("interval", text))?;
    let interval = || {
        Some(IntervalMonthDayNano::new(
            i32::try_from(parts.months).ok()?,
            i32::try_from(parts.days).ok()?,
            i64::try_from(parts.micros.checked_mul(1_000)?).ok()?,
        ))
    };
    interval().ok_or_else(|| {
        let text = shortened(text);
        Failure::new(
            "22008",
            format!("interval field value out of range: \"{text}\""),
        )
    })
}

/// Billionths of a decimal number and what follows it.
fn amount(text: &str) -> Option<(i128, &str)> {
    let (sign, body) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let end = body.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, rest) = body.split_at(end.unwrap_or(body.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.len() > 24 || whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut part: i128 = 0;
    for at in 0..9 {
        let digit = fraction.as_bytes().get(at).map_or(0, |b| b - b'0');
        part = part * 10 + i128::from(digit);
    }
    // 10^14 of any unit is beyond an interval, and far from the end of an i128.
    let whole = whole.min(1_000_000_000_000_000_000);
    Some((sign * (whole * ONE + part), rest))
}

/// `1 year 2 mons -3 days 04:05:06.789 ago`, and `1-2` for years and months.
fn words(text: &str) -> Option<Parts> {
    let mut parts = Parts::default();
    let mut words = text
        .split(is_space)
        .filter(|word| !word.is_empty())
        .peekable();
    if words.peek() == Some(&"@") {
        words.next();
    }
    words.peek()?;
    let mut found = false;
    while let Some(word) = words.next() {
        if word.eq_ignore_ascii_case("ago") && found && words.peek().is_none() {
            parts.negate();
            return Some(parts);
        }
        found = true;
        if word.contains(':') {
            parts.micros += time(word)?;
            continue;
        }
        let (value, rest) = amount(word)?;
        if let Some(months) = rest.strip_prefix('-') {
            let (months, after) = amount(months)?;
            let sign = if word.starts_with('-') { -1 } else { 1 };
            parts.months += value * 12 / ONE + sign * (months / ONE);
            if !after.is_empty() {
                return None;
            }
            continue;
        }
        let unit = match (rest, words.peek()) {
            // A bare number at the end is seconds.
            ("", None) => "s",
            ("", Some(next)) if next.contains(':') => "d",
            ("", Some(_)) => words.next()?,
            (unit, _) => unit,
        };
        if !parts.add(value, &unit.to_ascii_lowercase()) {
            return None;
        }
    }
    Some(parts)
}

/// Microseconds of `-04:05:06.789`; hours have no limit.
fn time(word: &str) -> Option<i128> {
    let (sign, body) = match word.as_bytes().first()? {
        b'-' => (-1, &word[1..]),
        b'+' => (1, &word[1..]),
        _ => (1, word),
    };
    let mut fields = body.split(':');
    let hours = fields.next()?;
    if hours.is_empty() || hours.len() > 12 || !hours.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let hours: i128 = hours.parse().ok()?;
    let minutes = super::datetime::seconds_of(fields.next()?).ok()?;
    let seconds = match fields.next() {
        Some(seconds) => super::datetime::seconds_of(seconds).ok()?,
        None => (0, 0),
    };
    if fields.next().is_some() || minutes.0 > 59 || seconds.0 > 59 || minutes.1 != 0 {
        return None;
    }
    let total = hours * 3_600 + i128::from(minutes.0 * 60 + seconds.0);
    Some(sign * (total * i128::from(MICROS) + i128::from(seconds.1)))
}

/// `1Y2M3DT4H5M6.789S` behind its P.
fn iso(text: &str) -> Option<Parts> {
    let mut parts = Parts::default();
    let mut rest = text;
    let mut clock = false;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(['T', 't']).filter(|_| !clock) {
            clock = true;
            rest = after;
            continue;
        }
        let (value, after) = amount(rest)?;
        let letter = after.chars().next()?;
        let unit = match (letter.to_ascii_uppercase(), clock) {
            ('Y', false) => "y",
            ('M', false) => "mon",
            ('W', false) => "w",
            ('D', false) => "d",
            ('H', true) => "h",
            ('M', true) => "m",
            ('S', true) => "s",
            _ => return None,
        };
        parts.add(value, unit);
        rest = &after[letter.len_utf8()..];
    }
    (!text.is_empty()).then_some(parts)
}
