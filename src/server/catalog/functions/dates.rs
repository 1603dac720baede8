//! Dates and times by PostgreSQL's patterns: `YYYY-MM-DD HH24:MI:SS`.
//!
//! Takes a moment and a pattern in pieces, gives a text. Names are English, as in the C locale.

use chrono::{DateTime, Datelike, NaiveDateTime, Offset, Timelike};
use datafusion::arrow::array::timezone::Tz;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const ROMAN: [&str; 12] = [
    "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII",
];
/// Keywords, longer ones before those that they begin with.
const KEYWORDS: [&str; 64] = [
    "SSSSS", "SSSS", "Y,YYY", "MONTH", "Month", "month", "IYYY", "YYYY", "HH24", "HH12", "IDDD",
    "A.M.", "P.M.", "a.m.", "p.m.", "B.C.", "A.D.", "YYY", "IYY", "DDD", "DAY", "Day", "day",
    "MON", "Mon", "mon", "TZH", "TZM", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "HH", "MI", "SS",
    "MS", "US", "AM", "PM", "am", "pm", "YY", "IY", "BC", "AD", "MM", "DY", "Dy", "dy", "DD", "ID",
    "WW", "IW", "CC", "RM", "rm", "TZ", "tz", "OF", "D", "W", "Q",
];

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Field {
        keyword: &'static str,
        /// Without padding.
        fill: bool,
        /// `TH` or `th` after it.
        ordinal: Option<bool>,
    },
}

/// A pattern's parts.
pub(super) fn parse(pattern: &str) -> Vec<Piece> {
    let (mut pieces, mut rest, mut fill) = (Vec::new(), pattern, false);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm")) {
            (fill, rest) = (true, after);
            continue;
        }
        if let Some(after) = rest.strip_prefix("TM").or_else(|| rest.strip_prefix("FX")) {
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix('"') {
            let end = after.find('"').unwrap_or(after.len());
            text(&mut pieces, &after[..end]);
            rest = after.get(end + 1..).unwrap_or_default();
            continue;
        }
        // Keywords of numbers may be written small.
        let known = KEYWORDS.iter().chain(&["Y", "I", "J"]).find(|keyword| {
            rest.starts_with(**keyword)
                || (!keyword.contains(['A', 'P', 'B'])
                    && rest
                        .get(..keyword.len())
                        .is_some_and(|r| r.eq_ignore_ascii_case(keyword))
                    && !names(keyword))
        });
        if let Some(keyword) = known {
            rest = &rest[keyword.len()..];
            let ordinal = match rest.get(..2) {
                Some("TH") => Some(true),
                Some("th") => Some(false),
                _ => None,
            };
            if ordinal.is_some() {
                rest = &rest[2..];
            }
            pieces.push(Piece::Field {
                keyword,
                fill,
                ordinal,
            });
            fill = false;
            continue;
        }
        let mut letters = rest.chars();
        let mut letter = letters.next();
        if letter == Some('\\') {
            letter = letters.next();
        }
        text(
            &mut pieces,
            letter.map_or(String::new(), |l| l.to_string()).as_str(),
        );
        rest = letters.as_str();
    }
    pieces
}

/// Keywords whose case says how the answer is written.
fn names(keyword: &str) -> bool {
    ["MON", "DAY", "DY", "RM", "TZ", "AM", "PM"]
        .iter()
        .any(|name| {
            keyword.to_uppercase().starts_with(name) && keyword != "TZH" && keyword != "TZM"
        })
}

fn text(pieces: &mut Vec<Piece>, more: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(text)) => text.push_str(more),
        _ => pieces.push(Piece::Text(more.to_owned())),
    }
}

/// A time, and where.
#[derive(Debug)]
pub(super) struct Moment {
    local: NaiveDateTime,
    /// Seconds east, and the zone's name.
    zone: Option<(i32, String)>,
}

impl Moment {
    pub fn plain(local: NaiveDateTime) -> Moment {
        Moment { local, zone: None }
    }

    pub fn zoned(time: DateTime<Tz>, _: Tz) -> Moment {
        let east = time.offset().fix().local_minus_utc();
        let name = time.format("%Z").to_string();
        Moment {
            local: time.naive_local(),
            zone: Some((east, name)),
        }
    }
}

/// The moment as the pattern wants it.
pub(super) fn show(moment: &Moment, pieces: &[Piece]) -> String {
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Field {
                keyword,
                fill,
                ordinal,
            } => {
                let field = field(moment, keyword, *fill);
                out.push_str(&field);
                if let Some(upper) = ordinal {
                    let ending = ending(&field);
                    out.push_str(&if *upper {
                        ending.to_uppercase()
                    } else {
                        ending.to_owned()
                    });
                }
            }
        }
    }
    out
}

fn ending(number: &str) -> &'static str {
    let teen = number.len() > 1 && number.as_bytes()[number.len() - 2] == b'1';
    match number.as_bytes().last() {
        Some(b'1') if !teen => "st",
        Some(b'2') if !teen => "nd",
        Some(b'3') if !teen => "rd",
        _ => "th",
    }
}

fn field(moment: &Moment, keyword: &str, fill: bool) -> String {
    let time = moment.local;
    let padded = |number: i64, width: usize| match fill {
        true => number.to_string(),
        false => format!("{number:0width$}"),
    };
    let name = |names: &[&str], at: usize, width: usize| {
        let name = names[at];
        let name = if width == 3 { &name[..3] } else { name };
        let name = match keyword.as_bytes() {
            [first, second, ..] if first.is_ascii_uppercase() && second.is_ascii_uppercase() => {
                name.to_uppercase()
            }
            [first, ..] if first.is_ascii_uppercase() => name.to_owned(),
            _ => name.to_lowercase(),
        };
        if fill {
            name
        } else {
            format!("{name:<width$}")
        }
    };
    let (hour, micros) = (i64::from(time.hour()), i64::from(time.nanosecond() / 1_000));
    let weekday = time.weekday().num_days_from_sunday() as usize;
    let year = i64::from(time.year());
    let iso = time.iso_week();
    match keyword {
        "HH24" => padded(hour, 2),
        "HH12" | "HH" => padded(if hour % 12 == 0 { 12 } else { hour % 12 }, 2),
        "MI" => padded(time.minute().into(), 2),
        "SS" => padded(time.second().into(), 2),
        "MS" | "FF3" => format!("{:03}", micros / 1_000),
        "US" | "FF6" => format!("{micros:06}"),
        "FF1" => format!("{}", micros / 100_000),
        "FF2" => format!("{:02}", micros / 10_000),
        "FF4" => format!("{:04}", micros / 100),
        "FF5" => format!("{:05}", micros / 10),
        "SSSSS" | "SSSS" => time.num_seconds_from_midnight().to_string(),
        "AM" | "PM" => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        "am" | "pm" => if hour < 12 { "am" } else { "pm" }.to_owned(),
        "A.M." | "P.M." => if hour < 12 { "A.M." } else { "P.M." }.to_owned(),
        "a.m." | "p.m." => if hour < 12 { "a.m." } else { "p.m." }.to_owned(),
        "Y,YYY" => format!("{},{:03}", year / 1_000, year % 1_000),
        "YYYY" => padded(year, 4),
        "YYY" => padded(year % 1_000, 3),
        "YY" => padded(year % 100, 2),
        "Y" => (year % 10).to_string(),
        "IYYY" => padded(iso.year().into(), 4),
        "IYY" => padded(i64::from(iso.year()) % 1_000, 3),
        "IY" => padded(i64::from(iso.year()) % 100, 2),
        "I" => (iso.year() % 10).to_string(),
        "BC" | "AD" => if year > 0 { "AD" } else { "BC" }.to_owned(),
        "B.C." | "A.D." => if year > 0 { "A.D." } else { "B.C." }.to_owned(),
        "MONTH" | "Month" | "month" => name(&MONTHS, time.month0() as usize, 9),
        "MON" | "Mon" | "mon" => name(&MONTHS, time.month0() as usize, 3),
        "MM" => padded(time.month().into(), 2),
        "DAY" | "Day" | "day" => name(&DAYS, weekday, 9),
        "DY" | "Dy" | "dy" => name(&DAYS, weekday, 3),
        "DDD" => padded(time.ordinal().into(), 3),
        "IDDD" => {
            let days = i64::from(iso.week0()) * 7 + i64::from(time.weekday().number_from_monday());
            padded(days, 3)
        }
        "DD" => padded(time.day().into(), 2),
        "D" => (weekday + 1).to_string(),
        "ID" => time.weekday().number_from_monday().to_string(),
        "W" => (time.day0() / 7 + 1).to_string(),
        "WW" => padded(i64::from(time.ordinal0()) / 7 + 1, 2),
        "IW" => padded(iso.week().into(), 2),
        "CC" => padded((year + 99).div_euclid(100), 2),
        "J" => (i64::from(time.num_days_from_ce()) + 1_721_425).to_string(),
        "Q" => (time.month0() / 3 + 1).to_string(),
        "RM" | "rm" => {
            let roman = ROMAN[time.month0() as usize];
            let roman = if keyword == "rm" {
                roman.to_lowercase()
            } else {
                roman.to_owned()
            };
            if fill { roman } else { format!("{roman:<4}") }
        }
        zone => zone_field(moment, zone),
    }
}

fn zone_field(moment: &Moment, keyword: &str) -> String {
    let Some((east, name)) = &moment.zone else {
        return String::new();
    };
    let (sign, east) = (if *east < 0 { '-' } else { '+' }, east.abs());
    let (hours, minutes) = (east / 3_600, east % 3_600 / 60);
    match keyword {
        "TZ" => match name.as_str() {
            "+00:00" => "UTC".to_owned(),
            name => name.to_owned(),
        },
        "tz" => zone_field(moment, "TZ").to_lowercase(),
        "TZH" => format!("{sign}{hours:02}"),
        "TZM" => format!("{minutes:02}"),
        _ if minutes == 0 => format!("{sign}{hours:02}"),
        _ => format!("{sign}{hours:02}:{minutes:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_as_postgresql_shows_them() {
        let at = "2024-03-05 14:07:09.012345".parse();
        let moment = Moment::plain(at.unwrap_or_else(|_| {
            NaiveDateTime::parse_from_str("2024-03-05 14:07:09.012345", "%Y-%m-%d %H:%M:%S%.f")
                .unwrap()
        }));
        for (pattern, want) in [
            ("YYYY-MM-DD HH24:MI:SS", "2024-03-05 14:07:09"),
            ("yyyy-mm-dd hh24:mi:ss", "2024-03-05 14:07:09"),
            ("YYYY-MM-DD\"T\"HH24:MI:SS.US", "2024-03-05T14:07:09.012345"),
            ("DD Mon YY, HH12:MI:SS.MS AM", "05 Mar 24, 02:07:09.012 PM"),
            ("Month|MONTH|month", "March    |MARCH    |march    "),
            ("FMMonth FMDDth, YYYY", "March 5th, 2024"),
            ("Day, Dy, DAY, D, ID", "Tuesday  , Tue, TUESDAY  , 3, 2"),
            ("DDD IDDD WW IW W Q CC J", "065 065 10 10 1 1 21 2460375"),
            ("FMMM/FMDD/YYYY pm", "3/5/2024 pm"),
            ("Y,YYY IYYY RM rm", "2,024 2024 III  iii "),
            ("SSSSS FF1 FF2", "50829 0 01"),
        ] {
            assert_eq!(show(&moment, &parse(pattern)), want, "{pattern}");
        }
    }
}
