//! Dates, times of day and timestamps from text.
//!
//! Reads what PostgreSQL and its drivers print (ISO 8601 in its usual spellings, `m/d/y`, zones as offsets and names,
//! BC); words that need a clock (`now`, `today`) are syntax errors.

use super::{Failure, shortened};
use crate::server::encode::Zone;
use crate::server::encode::datetime::{DAY, MICROS, day_of};

/// The last year of a timestamp; the microseconds of the next do not fit.
const YEAR_MAX: i64 = 294_276;
/// The first: 4714 BC.
const YEAR_MIN: i64 = -4_713;
/// The farthest that a clock may be from Greenwich, in seconds.
const OFFSET_MAX: i64 = 16 * 3_600;

/// Why a text is no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It does not look like one.
    Syntax,
    /// A field is beyond its range.
    Range,
    /// The time zone is unknown.
    Zone,
}

impl Flaw {
    /// As the failure of reading `text` as a `name`.
    pub fn of(self, name: &str, text: &str) -> Failure {
        let text = shortened(text);
        match self {
            Flaw::Syntax => no_date(name, text),
            Flaw::Range => Failure::new(
                "22008",
                format!("date/time field value out of range: \"{text}\""),
            ),
            Flaw::Zone => Failure::new("22023", format!("time zone not recognized in \"{text}\"")),
        }
    }
}

/// 22007: `text` is no `name`.
pub fn no_date(name: &str, text: &str) -> Failure {
    let text = shortened(text);
    Failure::new(
        "22007",
        format!("invalid input syntax for type {name}: \"{text}\""),
    )
}

/// What a text says of a moment.
#[derive(Debug, Default)]
pub struct Moment {
    /// Year (0 is 1 BC), month, day.
    date: Option<(i64, u32, u32)>,
    /// Microseconds since midnight; a whole day is one.
    micros: Option<i64>,
    zone: Option<Where>,
    era: Option<bool>,
    afternoon: Option<bool>,
}

#[derive(Debug)]
enum Where {
    Offset(i64),
    Named(Zone),
}

impl Moment {
    /// Takes a text apart.
    pub fn parse(text: &str) -> Result<Moment, Flaw> {
        let mut moment = Moment::default();
        for word in text
            .split(super::text::is_space)
            .filter(|word| !word.is_empty())
        {
            moment.word(word)?;
        }
        moment.settle()?;
        Ok(moment)
    }

    /// The day since 1970, if a date was given.
    pub fn day(&self) -> Option<i32> {
        let (year, month, day) = self.date?;
        i32::try_from(day_of(year, month, day)).ok()
    }

    /// Microseconds since midnight, if a time was given.
    pub fn time(&self) -> Option<i64> {
        self.micros
    }

    /// Microseconds since 1970 by the clock on the wall; midnight where no time was given.
    pub fn local(&self) -> Option<i64> {
        let day = i64::from(self.day()?);
        let micros = day.checked_mul(DAY * MICROS)?;
        micros.checked_add(self.micros.unwrap_or(0))
    }

    /// Microseconds since 1970 in Greenwich; where no zone was given the clock hangs in `zone`.
    pub fn instant(&self, zone: &Zone) -> Option<i64> {
        let local = self.local()?;
        let (seconds, micros) = (local.div_euclid(MICROS), local.rem_euclid(MICROS));
        let seconds = match &self.zone {
            Some(Where::Offset(offset)) => seconds.checked_sub(*offset)?,
            Some(Where::Named(named)) => named.instant_of(seconds),
            None => zone.instant_of(seconds),
        };
        seconds.checked_mul(MICROS)?.checked_add(micros)
    }

    fn word(&mut self, word: &str) -> Result<(), Flaw> {
        let bytes = word.as_bytes();
        match bytes[0] {
            b'0'..=b'9' => {}
            b'+' | b'-' if self.micros.is_some() => return self.offset(word),
            _ => return self.name(word),
        }
        if let Some(at) = date_end(bytes) {
            let (date, rest) = word.split_at(at);
            self.date(date)?;
            let rest = rest.trim_start_matches(['T', 't']);
            return match rest {
                "" => Ok(()),
                rest => self.clock(rest),
            };
        }
        self.clock(word)
    }

    /// `2024-01-31`, `20240131`, `1/31/2024`, `2024/1/31`.
    fn date(&mut self, word: &str) -> Result<(), Flaw> {
        if self.date.is_some() {
            return Err(Flaw::Syntax);
        }
        if word.len() == 8 && word.bytes().all(|b| b.is_ascii_digit()) {
            let part = |range: std::ops::Range<usize>| number(&word[range], 4);
            self.date = Some((part(0..4)?, part(4..6)? as u32, part(6..8)? as u32));
            return Ok(());
        }
        let mut parts = word.split(['-', '/', '.']);
        let (Some(a), Some(b), Some(c), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Flaw::Syntax);
        };
        let (year, month, day) = match a.len() >= 3 {
            true => (number(a, 7)?, number(b, 2)?, number(c, 2)?),
            false => {
                let short = c.len() <= 2;
                let year = number(c, 7)?;
                let century = match (short, year < 70) {
                    (true, true) => 2_000,
                    (true, false) => 1_900,
                    _ => 0,
                };
                (year + century, number(a, 2)?, number(b, 2)?)
            }
        };
        self.date = Some((year, month as u32, day as u32));
        Ok(())
    }

    /// `04:05`, `04:05:06.789`, with a zone behind it.
    fn clock(&mut self, word: &str) -> Result<(), Flaw> {
        let end = word.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.'));
        let (time, rest) = word.split_at(end.unwrap_or(word.len()));
        if self.micros.is_some() {
            return Err(Flaw::Syntax);
        }
        self.micros = Some(clock(time)?);
        match rest.as_bytes().first() {
            None => Ok(()),
            Some(b'+' | b'-') => self.offset(rest),
            Some(_) => self.name(rest),
        }
    }

    /// `+02`, `-03:30`, `+0530`, `+05:53:28`.
    fn offset(&mut self, word: &str) -> Result<(), Flaw> {
        let (sign, digits) = match word.as_bytes().first() {
            Some(b'-') => (-1, &word[1..]),
            _ => (1, &word[1..]),
        };
        let parts: Vec<&str> = match digits.contains(':') {
            true => digits.split(':').collect(),
            false if digits.len() > 2 && digits.is_ascii() => {
                let (hours, minutes) = digits.split_at(digits.len() - 2);
                vec![hours, minutes]
            }
            false => vec![digits],
        };
        let mut offset = 0;
        for (part, unit) in parts.iter().zip([3_600, 60, 1]) {
            let value = number(part, 2)?;
            if unit < 3_600 && value > 59 {
                return Err(Flaw::Range);
            }
            offset += value * unit;
        }
        if parts.len() > 3 {
            return Err(Flaw::Syntax);
        }
        if offset >= OFFSET_MAX {
            return Err(Flaw::Range);
        }
        self.set_zone(Where::Offset(sign * offset))
    }

    fn set_zone(&mut self, zone: Where) -> Result<(), Flaw> {
        match self.zone.replace(zone) {
            Some(_) => Err(Flaw::Syntax),
            None => Ok(()),
        }
    }

    /// A word: an era, a half of the day, a zone, or `epoch`.
    fn name(&mut self, word: &str) -> Result<(), Flaw> {
        let set = |slot: &mut Option<bool>, value: bool| match slot.replace(value) {
            Some(_) => Err(Flaw::Syntax),
            None => Ok(()),
        };
        match word.to_ascii_lowercase().as_str() {
            "bc" => set(&mut self.era, true),
            "ad" => set(&mut self.era, false),
            "am" => set(&mut self.afternoon, false),
            "pm" => set(&mut self.afternoon, true),
            "epoch" if self.date.is_none() => {
                self.date = Some((1970, 1, 1));
                self.set_zone(Where::Offset(0))
            }
            "infinity" | "-infinity" => Err(Flaw::Range),
            _ if self.micros.is_none() => Err(Flaw::Syntax),
            "z" | "utc" | "gmt" | "zulu" => self.set_zone(Where::Offset(0)),
            _ => {
                let zone = Zone::parse(word).map_err(|_| match word.contains('/') {
                    true => Flaw::Zone,
                    false => Flaw::Syntax,
                })?;
                self.set_zone(Where::Named(zone))
            }
        }
    }

    /// Joins what words said of one another, and checks the ranges.
    fn settle(&mut self) -> Result<(), Flaw> {
        if let (Some(afternoon), Some(micros)) = (self.afternoon, self.micros) {
            let hour = 3_600 * MICROS;
            if !(1..=12).contains(&(micros / hour)) {
                return Err(Flaw::Range);
            }
            let of_half = micros % (12 * hour);
            self.micros = Some(of_half + if afternoon { 12 * hour } else { 0 });
        }
        let Some((mut year, month, day)) = self.date else {
            return match self.era {
                Some(_) => Err(Flaw::Syntax),
                None => Ok(()),
            };
        };
        // There is no year 0: it is 1 BC that comes before 1 AD.
        if year == 0 {
            return Err(Flaw::Range);
        }
        if self.era == Some(true) {
            year = 1 - year;
        }
        self.date = Some((year, month, day));
        let days = match month {
            4 | 6 | 9 | 11 => 30,
            2 if year.rem_euclid(4) == 0
                && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0) =>
            {
                29
            }
            2 => 28,
            1..=12 => 31,
            _ => return Err(Flaw::Range),
        };
        match (1..=days).contains(&day) && (YEAR_MIN..=YEAR_MAX).contains(&year) {
            true => Ok(()),
            false => Err(Flaw::Range),
        }
    }
}

/// Where a date ends that begins a word; none if the word begins with a time.
fn date_end(bytes: &[u8]) -> Option<usize> {
    let end = bytes
        .iter()
        .position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'/' | b'.'))
        .unwrap_or(bytes.len());
    let head = &bytes[..end];
    let marks = head.iter().filter(|b| !b.is_ascii_digit()).count();
    let follows = matches!(bytes.get(end), None | Some(b'T' | b't'));
    (follows && (marks == 2 || (marks == 0 && head.len() == 8))).then_some(end)
}

/// A whole number of at most `most` digits.
fn number(digits: &str, most: usize) -> Result<i64, Flaw> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Flaw::Syntax);
    }
    if digits.len() > most {
        return Err(Flaw::Range);
    }
    digits.parse().map_err(|_| Flaw::Range)
}

/// Microseconds of `04:05:06.789`; the seconds may be left out.
pub fn clock(text: &str) -> Result<i64, Flaw> {
    let mut parts = text.split(':');
    let (hours, minutes) = match (parts.next(), parts.next()) {
        (Some(hours), Some(minutes)) => (number(hours, 2)?, number(minutes, 2)?),
        _ => return Err(Flaw::Syntax),
    };
    let (seconds, micros) = match parts.next() {
        Some(seconds) => seconds_of(seconds)?,
        None => (0, 0),
    };
    if parts.next().is_some() {
        return Err(Flaw::Syntax);
    }
    let total = (hours * 3_600 + minutes * 60 + seconds) * MICROS + micros;
    // 23:59:60 is the next midnight, and 24:00:00 the last moment of a day.
    match minutes < 60 && seconds <= 60 && total <= DAY * MICROS {
        true => Ok(total),
        false => Err(Flaw::Range),
    }
}

/// Whole seconds and microseconds, rounded, of `06.789`.
pub fn seconds_of(text: &str) -> Result<(i64, i64), Flaw> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Flaw::Syntax);
    }
    let mut micros = 0;
    let mut digits = fraction.bytes().map(|b| i64::from(b - b'0'));
    for _ in 0..6 {
        micros = micros * 10 + digits.next().unwrap_or(0);
    }
    let up = digits.next().is_some_and(|digit| digit >= 5);
    Ok((number(whole, 2)?, micros + i64::from(up)))
}
