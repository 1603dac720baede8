//! Values as they are typed into values as they are kept: booleans, words, numbers with units, time zones.
//!
//! Messages are PostgreSQL's. Knows no setting by name.

use super::known::{Known, Takes};
use crate::server::failure::Failure;
use datafusion::arrow::array::timezone::Tz;

/// Units of time, and of memory, in milliseconds and kB; the largest first.
const TIMES: [(&str, i64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
const SIZES: [(&str, i64); 4] = [("TB", 1 << 30), ("GB", 1 << 20), ("MB", 1 << 10), ("kB", 1)];
/// Encodings of PostgreSQL that this server cannot convert to.
const ENCODINGS: [&str; 40] = [
    "latin1",
    "latin2",
    "latin3",
    "latin4",
    "latin5",
    "latin6",
    "latin7",
    "latin8",
    "latin9",
    "latin10",
    "iso88591",
    "iso88595",
    "iso88596",
    "iso88597",
    "iso88598",
    "iso885915",
    "win1250",
    "win1251",
    "win1252",
    "win1253",
    "win1254",
    "win1255",
    "win1256",
    "win1257",
    "win1258",
    "win866",
    "win874",
    "koi8r",
    "koi8u",
    "eucjp",
    "euccn",
    "euckr",
    "euctw",
    "sjis",
    "shiftjis2004",
    "big5",
    "gbk",
    "gb18030",
    "johab",
    "uhc",
];

fn invalid(known: &Known, value: &str) -> Failure {
    let message = format!(
        "invalid value for parameter \"{}\": \"{value}\"",
        known.name
    );
    Failure::new("22023", message)
}

/// The value as it is kept and shown.
pub(super) fn check(known: &Known, value: &str) -> Result<String, Failure> {
    match known.takes {
        Takes::Bool => boolean(value).map_or_else(
            || {
                let message = format!("parameter \"{}\" requires a Boolean value", known.name);
                Err(Failure::new("22023", message))
            },
            |on| Ok(if on { "on" } else { "off" }.to_owned()),
        ),
        Takes::Words(words) => word(known, value, words),
        Takes::Only(only, others) => only_word(known, value, only, others),
        Takes::Int(least, most) => {
            let number = number(known, value, &[], "")?;
            within(known, number, "", (least, most))?;
            Ok(number.to_string())
        }
        Takes::Millis(least, most) => {
            let number = number(known, value, &TIMES, "ms")?;
            within(known, number, " ms", (least, most))?;
            Ok(shown(number, &TIMES))
        }
        Takes::Kilobytes(least, most) => {
            let number = number(known, value, &SIZES, "kB")?;
            within(known, number, " kB", (least, most))?;
            Ok(shown(number, &SIZES))
        }
        Takes::Real(least, most) => match value.trim().parse::<f64>() {
            Ok(real) if (least..=most).contains(&real) => Ok(real.to_string()),
            Ok(real) => {
                let message = format!(
                    "{real} is outside the valid range for parameter \"{}\" ({least} .. {most})",
                    known.name
                );
                Err(Failure::new("22023", message))
            }
            Err(_) => Err(invalid(known, value)),
        },
        Takes::Text => Ok(text(value)),
        Takes::Names => Ok(value.to_owned()),
        Takes::Zone => zone(value).ok_or_else(|| invalid(known, value)),
        Takes::DateStyle => date_style(known, value),
        Takes::Encoding => encoding(known, value),
    }
}

/// What a log can show: PostgreSQL keeps the ASCII of an application's name.
fn text(value: &str) -> String {
    let plain = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    value.chars().map(plain).collect()
}

fn boolean(value: &str) -> Option<bool> {
    let value = value.trim().to_lowercase();
    let is = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if value == "1" || is("true", 1) || is("yes", 1) || value == "on" {
        Some(true)
    } else if value == "0" || is("false", 1) || is("no", 1) || is("off", 2) {
        Some(false)
    } else {
        None
    }
}

fn word(known: &Known, value: &str, words: &[&str]) -> Result<String, Failure> {
    let found = words
        .iter()
        .find(|word| word.eq_ignore_ascii_case(value.trim()));
    match found {
        Some(word) => Ok((*word).to_owned()),
        None => {
            let hint = format!("Available values: {}.", words.join(", "));
            Err(invalid(known, value).with_hint(hint))
        }
    }
}

fn only_word(known: &Known, value: &str, only: &str, others: &[&str]) -> Result<String, Failure> {
    let value = match boolean(value) {
        Some(true) if only == "on" => "on",
        Some(false) if only == "on" => "off",
        _ => value.trim(),
    };
    if value.eq_ignore_ascii_case(only) {
        return Ok(only.to_owned());
    }
    if others.iter().any(|word| word.eq_ignore_ascii_case(value)) {
        let message = format!("{} = {value} is not supported", known.name);
        return Err(Failure::new("0A000", message).with_hint(format!("it is always {only}")));
    }
    Err(invalid(known, value))
}

fn within(known: &Known, number: i64, unit: &str, range: (i64, i64)) -> Result<(), Failure> {
    if (range.0..=range.1).contains(&number) {
        return Ok(());
    }
    let message = format!(
        "{number}{unit} is outside the valid range for parameter \"{}\" ({} .. {})",
        known.name, range.0, range.1
    );
    Err(Failure::new("22023", message))
}

/// A number that may have a unit and a fraction, in the setting's own unit.
fn number(known: &Known, value: &str, units: &[(&str, i64)], own: &str) -> Result<i64, Failure> {
    let value = value.trim();
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &value[digits.len()..];
    let number: f64 = digits.trim().parse().map_err(|_| invalid(known, value))?;
    let scale = match unit {
        "" => Some(1.0),
        "us" if own == "ms" => Some(0.001),
        "B" if own == "kB" => Some(1.0 / 1024.0),
        unit => {
            let found = units.iter().find(|(name, _)| *name == unit);
            found.map(|(_, scale)| *scale as f64)
        }
    };
    let Some(scale) = scale else {
        let hint = match own {
            "ms" => {
                "Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\"."
            }
            "kB" => "Valid units for this parameter are \"B\", \"kB\", \"MB\", \"GB\", and \"TB\".",
            _ => return Err(invalid(known, value)),
        };
        return Err(invalid(known, value).with_hint(hint));
    };
    Ok((number * scale).round() as i64)
}

/// With the largest unit that leaves a whole number, as SHOW gives it.
fn shown(number: i64, units: &[(&str, i64)]) -> String {
    if number <= 0 {
        return number.to_string();
    }
    let fits = units.iter().find(|(_, scale)| number % scale == 0);
    fits.map_or_else(
        || number.to_string(),
        |(unit, scale)| format!("{}{unit}", number / scale),
    )
}

/// A time that SHOW gives, in milliseconds.
pub(super) fn millis(shown: &str) -> Option<u64> {
    let digits = shown.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &shown[digits.len()..];
    let scale = match unit {
        "" => 1,
        unit => TIMES.iter().find(|(name, _)| *name == unit)?.1,
    };
    u64::try_from(digits.parse::<i64>().ok()? * scale).ok()
}

/// The names of a list: `"$user", public` and `a,b`.
pub(super) fn list(value: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted, mut was_quoted) =
        (Vec::new(), String::new(), false, false);
    let mut letters = value.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                name.push('"');
            }
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            ',' if !quoted => {
                names.push(std::mem::take(&mut name));
                was_quoted = false;
            }
            c if c.is_whitespace() && !quoted => {}
            c if !quoted => name.extend(c.to_lowercase()),
            c => name.push(c),
        }
    }
    if !name.is_empty() || was_quoted {
        names.push(name);
    }
    names.retain(|name| !name.is_empty());
    names
}

/// A name of a list as PostgreSQL writes it back.
pub(super) fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    match starts && name.chars().all(plain) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// A time zone as SHOW gives it: an IANA name, or an offset in POSIX's spelling.
fn zone(value: &str) -> Option<String> {
    let value = value.trim();
    if let Ok(hours) = value.parse::<f64>() {
        // SET TIME ZONE -3: hours east of Greenwich, which POSIX counts to the west.
        if !value.contains(':') && hours.abs() < 168.0 && !value.starts_with('+') {
            let minutes = (hours * 60.0).round() as i64;
            let (sign, back) = if minutes < 0 { ('-', '+') } else { ('+', '-') };
            let (hour, minute) = (minutes.abs() / 60, minutes.abs() % 60);
            let text = match minute {
                0 => format!("{hour:02}"),
                minute => format!("{hour:02}:{minute:02}"),
            };
            return Some(format!("<{sign}{text}>{back}{text}"));
        }
    }
    if value.starts_with(['+', '-', '<']) {
        let zone = arrow_zone(value);
        return zone.parse::<Tz>().is_ok().then(|| value.to_owned());
    }
    let title = |part: &str| {
        let mut letters = part.chars();
        match letters.next() {
            Some(first) => first
                .to_uppercase()
                .chain(letters.flat_map(char::to_lowercase))
                .collect(),
            None => String::new(),
        }
    };
    let titled: Vec<String> = value
        .split('/')
        .map(|part| part.split('_').map(title).collect::<Vec<_>>().join("_"))
        .collect();
    let spellings = [value.to_owned(), value.to_uppercase(), titled.join("/")];
    spellings
        .into_iter()
        .find(|name| name.starts_with(|c: char| c.is_alphabetic()) && name.parse::<Tz>().is_ok())
}

/// A zone that SHOW gives, as Arrow spells it: offsets count to the east.
pub(super) fn arrow_zone(shown: &str) -> String {
    let posix = shown.rsplit('>').next().unwrap_or(shown);
    let Some(sign) = posix.chars().next().filter(|c| matches!(c, '+' | '-')) else {
        return shown.to_owned();
    };
    let mut parts = posix[1..].split(':');
    let hours = parts.next().unwrap_or_default();
    let minutes = parts.next().unwrap_or("00");
    let east = if sign == '-' { '+' } else { '-' };
    format!("{east}{hours:0>2}:{minutes:0>2}")
}

fn date_style(known: &Known, value: &str) -> Result<String, Failure> {
    let mut order = "MDY";
    for word in list(value) {
        match word.as_str() {
            "iso" | "default" => {}
            "mdy" | "us" | "noneuro" | "noneuropean" => order = "MDY",
            "dmy" | "euro" | "european" => order = "DMY",
            "ymd" => order = "YMD",
            "sql" | "postgres" | "german" => {
                let message = format!("DateStyle = {word} is not supported");
                return Err(Failure::new("0A000", message).with_hint("dates are written as ISO"));
            }
            word => {
                let mut failure = invalid(known, value);
                failure.detail = Some(format!("Unrecognized key word: \"{word}\".").into());
                return Err(failure);
            }
        }
    }
    Ok(format!("ISO, {order}"))
}

fn encoding(known: &Known, value: &str) -> Result<String, Failure> {
    let letters = value.chars().filter(char::is_ascii_alphanumeric);
    let plain = letters.collect::<String>().to_lowercase();
    match plain.as_str() {
        "utf8" | "unicode" => Ok("UTF8".to_owned()),
        // It means that nothing is converted.
        "sqlascii" => Ok("SQL_ASCII".to_owned()),
        name if ENCODINGS.contains(&name) => {
            let shown = value.to_uppercase();
            let message = format!("conversion between {shown} and UTF8 is not supported");
            Err(Failure::new("0A000", message).with_hint("use client_encoding = UTF8"))
        }
        _ => Err(invalid(known, value)),
    }
}
