//! When a job is due: pg_cron's schedules, minute by minute, in a time zone.
//!
//! Takes a schedule's text, gives whether a minute is one of its times and which is the next. The syntax is Vixie cron's
//! as pg_cron has it: five fields of lists, ranges, steps and names, `$` for the last day of the month, `@daily` and its
//! kin, and `[1-59] seconds`. What cron's own parser skips in silence (`5#x`, a sixth field) is refused. Pure: no clock,
//! no store.
//!
//! *Clocks that are put forward or back.* Minutes are counted in UTC; the zone says what a wall clock shows. A schedule
//! whose minute or hour field begins with `*` follows that clock: it has no times in an hour that is skipped, and has
//! them in both turns of an hour that is repeated. Any other is meant for a time of the day: its times in a skipped hour
//! become one at the first minute after it, and of a repeated hour the first turn counts. That is cron's rule for steps
//! of up to three hours; a larger step is a clock that was set, and is followed.

use crate::config::{CRON_AHEAD_DAYS_MAX, CRON_SCHEDULE_BYTES_MAX, CRON_SHIFT_MINUTES_MAX};
use chrono::offset::MappedLocalTime;
use chrono::{DateTime, Datelike, NaiveDateTime, Offset, TimeZone, Timelike};
use chrono_tz::Tz;

/// Microseconds of a second.
pub const SECOND: i64 = 1_000_000;
/// Microseconds of a minute.
pub const MINUTE: i64 = 60 * SECOND;
/// Minutes of a day.
const DAY: i64 = 24 * 60;

/// When a job is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At minutes that fit.
    Fields(Fields),
    /// Every so many seconds since it was scheduled.
    Seconds(u8),
    /// When the program starts.
    Start,
}

/// Five fields, as sets: bit n is value n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u32,
    days: u32,
    /// `$`
    last_day: bool,
    months: u16,
    /// 0 and 7 are Sunday; bit 7 is folded into bit 0.
    weekdays: u8,
    /// Whether minute or hour begins with `*`: it follows the clock.
    wild: bool,
    /// Whether day or weekday begins with `*`: both must fit, and not either.
    both: bool,
}

/// A field: its name, its least and greatest value, and names of values from the least on.
struct Form {
    name: &'static str,
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FORMS: [Form; 5] = [
    Form {
        name: "minute",
        low: 0,
        high: 59,
        names: &[],
    },
    Form {
        name: "hour",
        low: 0,
        high: 23,
        names: &[],
    },
    Form {
        name: "day of the month",
        low: 1,
        high: 31,
        names: &[],
    },
    Form {
        name: "month",
        low: 1,
        high: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Form {
        name: "day of the week",
        low: 0,
        high: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"],
    },
];

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, to follow `invalid schedule: ..: `.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.len() > CRON_SCHEDULE_BYTES_MAX {
            return Err(format!("longer than {CRON_SCHEDULE_BYTES_MAX} bytes"));
        }
        let text = text.trim();
        if let Some(seconds) = seconds(text) {
            return seconds.map(Schedule::Seconds);
        }
        let fields = match text.strip_prefix('@') {
            None => text,
            Some("reboot" | "restart") => return Ok(Schedule::Start),
            Some("yearly" | "annually") => "0 0 1 1 *",
            Some("monthly") => "0 0 1 * *",
            Some("weekly") => "0 0 * * 0",
            Some("daily" | "midnight") => "0 0 * * *",
            Some("hourly") => "0 * * * *",
            Some(_) => return Err(format!("{text} is not known")),
        };
        Fields::parse(fields).map(Schedule::Fields)
    }

    /// The first time after `after` of a job whose times count from `since`, both in microseconds; `None` where it has
    /// none, or none in the next 41 years.
    pub fn next(&self, after: i64, since: i64, zone: Tz) -> Option<i64> {
        match self {
            Schedule::Fields(fields) => {
                let minute = after.max(since).div_euclid(MINUTE);
                Some(fields.next(minute, zone)? * MINUTE)
            }
            Schedule::Seconds(seconds) => {
                let every = i64::from(*seconds) * SECOND;
                Some(since + ((after - since).max(0).div_euclid(every) + 1) * every)
            }
            Schedule::Start => None,
        }
    }
}

/// `[1-59] seconds`, in any case and with any space; `None` for what does not end like it.
fn seconds(text: &str) -> Option<Result<u8, String>> {
    let lower = text.to_ascii_lowercase();
    let number = lower
        .strip_suffix("seconds")
        .or_else(|| lower.strip_suffix("second"))?;
    let number = number.trim_end();
    let known = number.bytes().all(|b| b.is_ascii_digit());
    let parsed = number
        .parse()
        .ok()
        .filter(|n| known && (1..=59).contains(n));
    Some(parsed.ok_or_else(|| "seconds are 1 to 59".to_owned()))
}

impl Fields {
    fn parse(text: &str) -> Result<Fields, String> {
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err(format!("{} fields, not 5", parts.len()));
        };
        let [minutes, hours, days, months, weekdays] = [minute, hour, day, month, weekday];
        let last_day = **days == *"$";
        let set =
            |part: &str, form: &Form| list(part, form).map_err(|e| format!("{}: {e}", form.name));
        let [of_minute, of_hour, of_day, of_month, of_weekday] = &FORMS;
        let weekdays_set = set(weekdays, of_weekday)?;
        let star = |part: &str| part.starts_with('*');
        Ok(Fields {
            minutes: set(minutes, of_minute)?,
            hours: set(hours, of_hour)? as u32,
            days: if last_day {
                0
            } else {
                set(days, of_day)? as u32
            },
            last_day,
            months: set(months, of_month)? as u16,
            weekdays: ((weekdays_set | weekdays_set >> 7) & 0x7f) as u8,
            wild: star(minutes) || star(hours),
            both: star(days) || star(weekdays),
        })
    }

    /// Whether a minute is one of its times.
    pub fn fires(&self, moment: &Moment) -> bool {
        if self.wild {
            return self.fits(&moment.shown);
        }
        (self.fits(&moment.shown) && !moment.repeated)
            || moment.skipped.iter().any(|shown| self.fits(shown))
    }

    fn fits(&self, shown: &Shown) -> bool {
        self.minutes & (1 << shown.minute) != 0
            && self.hours & (1 << shown.hour) != 0
            && self.day_fits(shown)
    }

    fn day_fits(&self, shown: &Shown) -> bool {
        let day = self.days & (1 << shown.day) != 0 || (self.last_day && shown.last_day);
        let weekday = self.weekdays & (1 << shown.weekday) != 0;
        self.months & (1 << shown.month) != 0
            && if self.both {
                day && weekday
            } else {
                day || weekday
            }
    }

    /// The first minute after `after` at which it is due.
    fn next(&self, after: i64, zone: Tz) -> Option<i64> {
        let end = after + CRON_AHEAD_DAYS_MAX * DAY;
        let mut at = after + 1;
        while at < end {
            let found = match steady(at, at + DAY, zone) {
                Some(ahead) => self.next_steady(at, ahead),
                None => (at..at + DAY).find(|minute| self.fires(&Moment::at(*minute, zone))),
            };
            if found.is_some() {
                return found;
            }
            at += DAY;
        }
        None
    }

    /// The first time within a day from `at` on, in which the wall clock is `ahead` minutes ahead of UTC.
    fn next_steady(&self, at: i64, ahead: i64) -> Option<i64> {
        let (from, to) = (at + ahead, at + ahead + DAY);
        for day in from.div_euclid(DAY)..=(to - 1).div_euclid(DAY) {
            if !self.day_fits(&Shown::of(day * DAY)) {
                continue;
            }
            for hour in (0..24).filter(|hour| self.hours & (1 << hour) != 0) {
                let first = day * DAY + hour * 60;
                let minutes = (0..60).filter(|minute| self.minutes & (1 << minute) != 0);
                let found = minutes
                    .map(|minute| first + minute)
                    .find(|m| (from..to).contains(m));
                if let Some(minute) = found {
                    return Some(minute - ahead);
                }
            }
        }
        None
    }
}

/// A field's values as bits.
fn list(text: &str, form: &Form) -> Result<u64, String> {
    let mut bits = 0;
    for part in text.split(',') {
        bits |= range(part, form)?;
    }
    Ok(bits)
}

fn range(text: &str, form: &Form) -> Result<u64, String> {
    let (values, step) = match text.split_once('/') {
        Some((values, step)) => (values, Some(step)),
        None => (text, None),
    };
    let (first, last) = match (values, values.split_once('-')) {
        ("*", _) => (form.low, form.high),
        (_, Some((first, last))) => (value(first, form)?, value(last, form)?),
        (one, None) => {
            if step.is_some() {
                return Err(format!("{text}: a step needs a range or *"));
            }
            let one = value(one, form)?;
            (one, one)
        }
    };
    if first > last {
        return Err(format!("{text}: the range goes backward"));
    }
    let step: usize = match step {
        None => 1,
        Some(step) => number(step)
            .and_then(|step| usize::try_from(step).ok())
            .filter(|step| *step > 0)
            .ok_or_else(|| format!("{text}: a step is a number from 1 on"))?,
    };
    Ok((first..=last)
        .step_by(step)
        .fold(0, |bits, n| bits | 1 << n))
}

fn value(text: &str, form: &Form) -> Result<u32, String> {
    let named = form
        .names
        .iter()
        .position(|name| name.eq_ignore_ascii_case(text));
    let value = match named {
        Some(place) => u32::try_from(place).ok().map(|place| place + form.low),
        None => number(text),
    };
    let (low, high) = (form.low, form.high);
    value
        .filter(|value| (low..=high).contains(value))
        .ok_or_else(|| format!("\"{text}\" is not {low} to {high}"))
}

/// Digits alone: neither sign nor space.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// What a wall clock and a calendar show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    minute: u32,
    hour: u32,
    day: u32,
    month: u32,
    /// From Sunday, 0.
    weekday: u32,
    last_day: bool,
}

impl Shown {
    /// `minute` counts from 1970 as if the wall clock were in UTC.
    fn of(minute: i64) -> Shown {
        let shown = civil(minute);
        Shown {
            minute: shown.minute(),
            hour: shown.hour(),
            day: shown.day(),
            month: shown.month(),
            weekday: shown.weekday().num_days_from_sunday(),
            last_day: civil(minute + DAY).day() == 1,
        }
    }
}

/// A minute, as a zone's wall clock shows it. Made once for all schedules.
#[derive(Debug, Clone)]
pub struct Moment {
    shown: Shown,
    /// What the clock would have shown in the minutes that it skipped just now.
    skipped: Vec<Shown>,
    /// Whether the clock showed the same not long ago.
    repeated: bool,
}

impl Moment {
    /// The minute of this number since 1970-01-01 UTC.
    pub fn at(minute: i64, zone: Tz) -> Moment {
        let shown = minute + ahead(minute, zone);
        let jump = ahead(minute, zone) - ahead(minute - 1, zone);
        let skipped = match jump {
            1..=CRON_SHIFT_MINUTES_MAX => (shown - jump..shown).map(Shown::of).collect(),
            _ => Vec::new(),
        };
        let earlier = match zone.from_local_datetime(&civil(shown)) {
            MappedLocalTime::Ambiguous(first, _) => Some(first.timestamp().div_euclid(60)),
            _ => None,
        };
        let repeated =
            earlier.is_some_and(|first| first < minute && minute - first <= CRON_SHIFT_MINUTES_MAX);
        Moment {
            shown: Shown::of(shown),
            skipped,
            repeated,
        }
    }
}

/// Date and time of a minute since 1970, in no zone.
fn civil(minute: i64) -> NaiveDateTime {
    let at = DateTime::from_timestamp(minute.saturating_mul(60), 0);
    at.unwrap_or_default().naive_utc()
}

/// Minutes that the wall clock is ahead of UTC, rounded down.
fn ahead(minute: i64, zone: Tz) -> i64 {
    let offset = zone.offset_from_utc_datetime(&civil(minute));
    i64::from(offset.fix().local_minus_utc()).div_euclid(60)
}

/// Minutes ahead of UTC of a clock that is not put forward or back from three hours before `from` until `to`.
fn steady(from: i64, to: i64, zone: Tz) -> Option<i64> {
    let first = ahead(from, zone);
    let mut looks = (from - CRON_SHIFT_MINUTES_MAX - 1..to)
        .step_by(60)
        .chain([from - 1, to]);
    looks
        .all(|minute| ahead(minute, zone) == first)
        .then_some(first)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
