//! Scalars from their text, as PostgreSQL's input functions read it.

use super::datetime::{self, Moment};
use super::numeric::Numeric;
use super::{interval, out_of_range, syntax, unsupported, utc};
use crate::server::encode::Zone;
use crate::server::encode::oids;
use crate::server::failure::Failure;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use pgwire::api::Type;

/// The value that `text` spells as the type `oid`.
pub fn scalar(
    text: &str,
    oid: u32,
    wanted: Option<&DataType>,
    zone: &Zone,
) -> Result<ScalarValue, Failure> {
    let Some(pg_type) = Type::from_oid(oid) else {
        // A type that only the client knows: its text.
        return Ok(ScalarValue::Utf8(Some(text.to_owned())));
    };
    Ok(match pg_type {
        Type::BOOL => ScalarValue::Boolean(Some(boolean(text)?)),
        Type::INT2 => ScalarValue::Int16(Some(integer(text, "smallint")?)),
        Type::INT4 => ScalarValue::Int32(Some(integer(text, "integer")?)),
        Type::INT8 => ScalarValue::Int64(Some(integer(text, "bigint")?)),
        Type::FLOAT4 => ScalarValue::Float32(Some(single(text)?)),
        Type::FLOAT8 => ScalarValue::Float64(Some(double(text)?)),
        Type::NUMERIC => Numeric::parse(text)?.into_scalar(wanted)?,
        Type::BYTEA => ScalarValue::Binary(Some(bytea(text)?)),
        Type::DATE => {
            let moment = Moment::parse(text).map_err(|flaw| flaw.of("date", text))?;
            let day = moment
                .day()
                .ok_or_else(|| datetime::no_date("date", text))?;
            ScalarValue::Date32(Some(day))
        }
        Type::TIME | Type::TIMETZ => {
            let moment = Moment::parse(text).map_err(|flaw| flaw.of("time", text))?;
            let time = moment
                .time()
                .ok_or_else(|| datetime::no_date("time", text))?;
            ScalarValue::Time64Microsecond(Some(time))
        }
        Type::TIMESTAMP => {
            let moment = Moment::parse(text).map_err(|flaw| flaw.of("timestamp", text))?;
            let at = moment
                .local()
                .ok_or_else(|| datetime::no_date("timestamp", text))?;
            ScalarValue::TimestampMicrosecond(Some(at), None)
        }
        Type::TIMESTAMPTZ => {
            let name = "timestamp with time zone";
            let moment = Moment::parse(text).map_err(|flaw| flaw.of(name, text))?;
            let at = moment
                .instant(zone)
                .ok_or_else(|| datetime::no_date(name, text))?;
            ScalarValue::TimestampMicrosecond(Some(at), Some(utc()))
        }
        Type::INTERVAL => ScalarValue::IntervalMonthDayNano(Some(interval::parse(text)?)),
        Type::UUID => uuid(text, wanted)?,
        Type::JSON | Type::JSONB => ScalarValue::Utf8(Some(json(text)?.to_owned())),
        Type::RECORD | Type::RECORD_ARRAY => {
            return Err(unsupported(
                "input of anonymous composite types is not implemented",
            ));
        }
        Type::CHAR => {
            let end = text.chars().next().map_or(0, char::len_utf8);
            ScalarValue::Utf8(Some(text[..end].to_owned()))
        }
        ref alias if oids::is_oid(alias) => {
            let value = integer::<i64>(text, "oid")?;
            // PostgreSQL reads a negative number as its unsigned twin.
            let known = (i64::from(i32::MIN)..=i64::from(u32::MAX)).contains(&value);
            let value = known.then(|| i64::from(value as u32));
            ScalarValue::Int64(Some(value.ok_or_else(|| out_of_range("oid", text))?))
        }
        _ => ScalarValue::Utf8(Some(text.to_owned())),
    })
}

/// As `boolin`: any beginning of true, false, yes, no; on, off, 1, 0.
pub fn boolean(text: &str) -> Result<bool, Failure> {
    let word = text.trim_matches(is_space);
    let begins = |whole: &str, least: usize| {
        word.len() >= least
            && word.len() <= whole.len()
            && whole.as_bytes()[..word.len()].eq_ignore_ascii_case(word.as_bytes())
    };
    if word == "1" || begins("true", 1) || begins("yes", 1) || begins("on", 2) {
        return Ok(true);
    }
    if word == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2) {
        return Ok(false);
    }
    Err(syntax("boolean", text))
}

/// C's `isspace`.
pub fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// A whole number with spaces around it.
pub fn integer<N>(text: &str, name: &str) -> Result<N, Failure>
where
    N: std::str::FromStr<Err = std::num::ParseIntError>,
{
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let digits = text.trim_matches(is_space);
    digits.parse().map_err(|error: std::num::ParseIntError| {
        match matches!(error.kind(), PosOverflow | NegOverflow) {
            true => out_of_range(name, text),
            false => syntax(name, text),
        }
    })
}

fn double(text: &str) -> Result<f64, Failure> {
    let digits = text.trim_matches(is_space);
    let value: f64 = (digits.parse()).map_err(|_| syntax("double precision", text))?;
    match beyond(value, digits) {
        true => Err(float_range("double precision", text)),
        false => Ok(value),
    }
}

fn single(text: &str) -> Result<f32, Failure> {
    let digits = text.trim_matches(is_space);
    let value: f32 = digits.parse().map_err(|_| syntax("real", text))?;
    match beyond(f64::from(value), digits) {
        true => Err(float_range("real", text)),
        false => Ok(value),
    }
}

fn float_range(name: &str, text: &str) -> Failure {
    let text = super::shortened(text);
    Failure::new(
        "22003",
        format!("\"{text}\" is out of range for type {name}"),
    )
}

/// Whether a number is infinite without saying so, or zero without being it.
fn beyond(value: f64, digits: &str) -> bool {
    let mantissa = digits.split(['e', 'E']).next().unwrap_or(digits);
    (value.is_infinite() && mantissa.contains(|c: char| c.is_ascii_digit()))
        || (value == 0.0 && mantissa.contains(|c: char| ('1'..='9').contains(&c)))
}

/// Hexadecimal (`\x..`) or escaped bytes.
pub fn bytea(text: &str) -> Result<Vec<u8>, Failure> {
    let bytes = text.as_bytes();
    if let Some(digits) = bytes.strip_prefix(b"\\x") {
        let digit = |byte: u8| {
            let value = char::from(byte).to_digit(16);
            value.map(|v| v as u8).ok_or_else(|| {
                let byte = char::from(byte);
                Failure::new("22023", format!("invalid hexadecimal digit: \"{byte}\""))
            })
        };
        let mut digits = digits.iter().filter(|b| !is_space(char::from(**b)));
        let mut found = Vec::with_capacity(bytes.len() / 2);
        while let Some(high) = digits.next() {
            let low = digits.next().ok_or_else(|| {
                Failure::new("22023", "invalid hexadecimal data: odd number of digits")
            })?;
            found.push(digit(*high)? << 4 | digit(*low)?);
        }
        return Ok(found);
    }
    let mut found = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                found.push(b'\\');
                after
            }
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                found.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            (b'\\', _) => return Err(syntax("bytea", text)),
            (byte, after) => {
                found.push(*byte);
                after
            }
        };
    }
    Ok(found)
}

/// Thirty-two digits with hyphens after any four of them, perhaps in braces.
fn uuid(text: &str, wanted: Option<&DataType>) -> Result<ScalarValue, Failure> {
    let wrong = || syntax("uuid", text);
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(wrong)?,
        None => text,
    };
    let mut bytes = [0_u8; 16];
    let mut count = 0;
    let mut hyphen = true;
    for letter in inner.chars() {
        if letter == '-' && count > 0 && count % 4 == 0 && !hyphen {
            hyphen = true;
            continue;
        }
        let digit = letter.to_digit(16).ok_or_else(wrong)? as u8;
        let byte = bytes.get_mut(count / 2).ok_or_else(wrong)?;
        *byte = *byte << 4 | digit;
        count += 1;
        hyphen = false;
    }
    if count != 32 || hyphen {
        return Err(wrong());
    }
    Ok(uuid_scalar(bytes, wanted))
}

/// A uuid as its text, or as bytes where they are wanted.
pub fn uuid_scalar(bytes: [u8; 16], wanted: Option<&DataType>) -> ScalarValue {
    if wanted == Some(&DataType::FixedSizeBinary(16)) {
        return ScalarValue::FixedSizeBinary(16, Some(bytes.to_vec()));
    }
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
        }
    }
    ScalarValue::Utf8(Some(text))
}

/// Text that is JSON.
pub fn json(text: &str) -> Result<&str, Failure> {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure {
            detail: Some(error.to_string().into()),
            ..Failure::new("22P02", "invalid input syntax for type json")
        }),
    }
}
