//! Arrow values as PostgreSQL writes them.
//!
//! Takes one value of an array, gives its text: `t`, `2026-11-23 18:00:00+00`, `{a,"b c"}`, `(1,)`, `1e+20`. What
//! PostgreSQL has no word for (maps, unions) is written as Arrow writes it. Knows nothing of columns or formats.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StructArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{self as types, DataType, IntervalUnit, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use std::fmt::Write;

const FORMAT: FormatOptions<'static> = FormatOptions::new()
    .with_display_error(false)
    .with_date_format(Some("%Y-%m-%d"))
    .with_datetime_format(Some("%Y-%m-%d"))
    .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
    .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f %z"))
    .with_time_format(Some("%H:%M:%S%.f"));

const NANOS_A_SECOND: i128 = 1_000_000_000;
const NANOS_A_DAY: i128 = 86_400 * NANOS_A_SECOND;

/// The text of a value; `None` for NULL.
///
/// # Errors
/// A value that its type cannot mean, such as a timestamp beyond the calendar.
pub(super) fn text(array: &dyn Array, row: usize) -> Result<Option<String>, ArrowError> {
    let mut out = String::new();
    Ok(append(&mut out, array, row)?.then_some(out))
}

/// The values of a dictionary or of runs, one for each row; other arrays as they are.
pub(super) fn plain(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Dictionary(_, values) => cast(array, values),
        DataType::RunEndEncoded(_, values) => cast(array, values.data_type()),
        _ => Ok(ArrayRef::clone(array)),
    }
}

/// Appends a value's text; `false`, and nothing appended, for NULL.
fn append(out: &mut String, array: &dyn Array, row: usize) -> Result<bool, ArrowError> {
    if array.is_null(row) {
        return Ok(false);
    }
    match array.data_type() {
        DataType::Null => return Ok(false),
        DataType::Boolean => out.push(if array.as_boolean().value(row) {
            't'
        } else {
            'f'
        }),
        DataType::Utf8 => out.push_str(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => out.push_str(array.as_string::<i64>().value(row)),
        DataType::Utf8View => out.push_str(array.as_string_view().value(row)),
        DataType::Binary => hex(out, array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => hex(out, array.as_binary::<i64>().value(row)),
        DataType::BinaryView => hex(out, array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => hex(out, array.as_fixed_size_binary().value(row)),
        DataType::Float16 => {
            let value = array.as_primitive::<types::Float16Type>().value(row);
            float(out, f64::from(value), &format!("{:e}", value.to_f32()), 6);
        }
        DataType::Float32 => {
            let value = array.as_primitive::<types::Float32Type>().value(row);
            float(out, f64::from(value), &format!("{value:e}"), 6);
        }
        DataType::Float64 => {
            let value = array.as_primitive::<types::Float64Type>().value(row);
            float(out, value, &format!("{value:e}"), 15);
        }
        DataType::List(_) => list(out, &array.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(out, &array.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(..) => list(out, &array.as_fixed_size_list().value(row))?,
        DataType::Struct(_) => record(out, array.as_struct(), row)?,
        DataType::Dictionary(..) | DataType::RunEndEncoded(..) => {
            return append(out, &plain(&array.slice(row, 1))?, 0);
        }
        _ => return moment(out, array, row).map(|()| true),
    }
    Ok(true)
}

/// Dates, times and intervals; and numbers and the rest as Arrow writes them.
fn moment(out: &mut String, array: &dyn Array, row: usize) -> Result<(), ArrowError> {
    match array.data_type() {
        DataType::Interval(IntervalUnit::YearMonth) => {
            let months = array
                .as_primitive::<types::IntervalYearMonthType>()
                .value(row);
            interval(out, months, 0, 0);
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = array
                .as_primitive::<types::IntervalDayTimeType>()
                .value(row);
            interval(
                out,
                0,
                i128::from(value.days),
                i128::from(value.milliseconds) * 1_000_000,
            );
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = array
                .as_primitive::<types::IntervalMonthDayNanoType>()
                .value(row);
            interval(
                out,
                value.months,
                i128::from(value.days),
                i128::from(value.nanoseconds),
            );
        }
        DataType::Duration(unit) => {
            let value = cast(&array.slice(row, 1), &DataType::Int64)?;
            let value = i128::from(value.as_primitive::<types::Int64Type>().value(0));
            let nanos = value * nanos_a_unit(*unit);
            interval(out, 0, nanos / NANOS_A_DAY, nanos % NANOS_A_DAY);
        }
        DataType::Timestamp(_, Some(_)) => {
            let text = arrow(array, row)?;
            let (moment, zone) = text.rsplit_once(' ').unwrap_or((&text, ""));
            out.push_str(trim_fraction(moment));
            // +0000 is written +00, +0530 is written +05:30.
            match zone.split_at_checked(3) {
                Some((hours, "00")) => out.push_str(hours),
                Some((hours, minutes)) => _ = write!(out, "{hours}:{minutes}"),
                None => out.push_str(zone),
            }
        }
        DataType::Timestamp(_, None) | DataType::Time32(_) | DataType::Time64(_) => {
            out.push_str(trim_fraction(&arrow(array, row)?));
        }
        _ => out.push_str(&arrow(array, row)?),
    }
    Ok(())
}

fn arrow(array: &dyn Array, row: usize) -> Result<String, ArrowError> {
    ArrayFormatter::try_new(array, &FORMAT)?
        .value(row)
        .try_to_string()
}

fn trim_fraction(moment: &str) -> &str {
    match moment.contains('.') {
        true => moment.trim_end_matches('0').trim_end_matches('.'),
        false => moment,
    }
}

fn nanos_a_unit(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => NANOS_A_SECOND,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn hex(out: &mut String, bytes: &[u8]) {
    out.push_str("\\x");
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

/// `scientific` is the shortest `1.5e20` that reads back as the value; from `10^digits` on it is what is written.
fn float(out: &mut String, value: f64, scientific: &str, digits: i32) {
    if value.is_nan() {
        return out.push_str("NaN");
    }
    if value.is_infinite() {
        return out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..digits).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
        return;
    }
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let figures = mantissa.replace('.', "");
    out.push_str(sign);
    let Ok(point) = usize::try_from(exponent + 1) else {
        let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
        let _ = write!(out, "0.{:0<zeros$}{figures}", "");
        return;
    };
    match figures.split_at_checked(point) {
        _ if point == 0 => _ = write!(out, "0.{figures}"),
        Some((whole, "")) => out.push_str(whole),
        Some((whole, part)) => _ = write!(out, "{whole}.{part}"),
        None => _ = write!(out, "{figures:0<point$}"),
    }
}

/// `1 year 2 mons -3 days +04:05:06.7`: a positive part after a negative one has its sign.
fn interval(out: &mut String, months: i32, days: i128, nanos: i128) {
    let mut negative = false;
    let start = out.len();
    let parts = [
        (i128::from(months / 12), "year"),
        (i128::from(months % 12), "mon"),
        (days, "day"),
    ];
    for (count, unit) in parts.into_iter().filter(|(count, _)| *count != 0) {
        let space = if out.len() > start { " " } else { "" };
        let sign = if negative && count > 0 { "+" } else { "" };
        let plural = if count == 1 { "" } else { "s" };
        let _ = write!(out, "{space}{sign}{count} {unit}{plural}");
        negative = count < 0;
    }
    if nanos == 0 && out.len() > start {
        return;
    }
    let space = if out.len() > start { " " } else { "" };
    let sign = match (nanos < 0, negative) {
        (true, _) => "-",
        (false, true) => "+",
        (false, false) => "",
    };
    let (seconds, fraction) = (nanos.abs() / NANOS_A_SECOND, nanos.abs() % NANOS_A_SECOND);
    let time = format!(
        "{:02}:{:02}:{:02}.{fraction:09}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    let _ = write!(out, "{space}{sign}{}", trim_fraction(&time));
}

fn list(out: &mut String, values: &ArrayRef) -> Result<(), ArrowError> {
    out.push('{');
    let nested = matches!(
        values.data_type(),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)
    );
    for row in 0..values.len() {
        if row > 0 {
            out.push(',');
        }
        match text(values, row)? {
            None => out.push_str("NULL"),
            Some(text) if nested => out.push_str(&text),
            Some(text) => {
                let special =
                    |c: char| c.is_ascii_whitespace() || matches!(c, '{' | '}' | ',' | '"' | '\\');
                let quote =
                    text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(special);
                member(out, &text, quote, "\\\"");
            }
        }
    }
    out.push('}');
    Ok(())
}

fn record(out: &mut String, record: &StructArray, row: usize) -> Result<(), ArrowError> {
    out.push('(');
    for (index, column) in record.columns().iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        // NULL is nothing at all, an empty text is "".
        if let Some(text) = text(column, row)? {
            let special =
                |c: char| c.is_ascii_whitespace() || matches!(c, '(' | ')' | ',' | '"' | '\\');
            member(
                out,
                &text,
                text.is_empty() || text.contains(special),
                "\"\"",
            );
        }
    }
    out.push(')');
    Ok(())
}

/// A member of a list or a record; `quoted_quote` is what a quote inside quotes becomes.
fn member(out: &mut String, text: &str, quote: bool, quoted_quote: &str) {
    if !quote {
        return out.push_str(text);
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str(quoted_quote),
            '\\' => out.push_str("\\\\"),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::*;
    use datafusion::arrow::datatypes::{Field, Int32Type, IntervalDayTime, IntervalMonthDayNano};
    use std::sync::Arc;

    fn check(array: impl Array, expected: &[&str]) {
        let got: Vec<String> = (0..array.len())
            .map(|row| {
                text(&array, row)
                    .unwrap()
                    .unwrap_or_else(|| "NULL".to_owned())
            })
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn scalars_are_written_as_postgresql_writes_them() {
        check(
            BooleanArray::from(vec![Some(true), Some(false), None]),
            &["t", "f", "NULL"],
        );
        check(NullArray::new(1), &["NULL"]);
        check(
            Int64Array::from(vec![i64::MIN, 0]),
            &["-9223372036854775808", "0"],
        );
        check(UInt64Array::from(vec![u64::MAX]), &["18446744073709551615"]);
        check(
            Decimal128Array::from(vec![-1_050, 5])
                .with_precision_and_scale(10, 2)
                .unwrap(),
            &["-10.50", "0.05"],
        );
        check(
            StringViewArray::from(vec![Some("a b"), Some(""), None]),
            &["a b", "", "NULL"],
        );
        check(
            BinaryArray::from(vec![b"\x00\xff".as_slice()]),
            &["\\x00ff"],
        );
        let values: DictionaryArray<Int32Type> =
            vec![Some("x"), None, Some("x")].into_iter().collect();
        check(values, &["x", "NULL", "x"]);
    }

    #[test]
    fn floats_are_the_shortest_that_read_back() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.000_123, "0.000123"),
            (0.000_012_3, "1.23e-05"),
            (120.0, "120"),
            (123.456, "123.456"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (-1.25e300, "-1.25e+300"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (value, expected) in cases {
            check(Float64Array::from(vec![value]), &[expected]);
        }
        check(
            Float32Array::from(vec![0.1, 1e6, 123_456.0]),
            &["0.1", "1e+06", "123456"],
        );
    }

    #[test]
    fn moments_are_written_as_postgresql_writes_them() {
        let second = 1_795_456_800;
        check(
            TimestampSecondArray::from(vec![second]).with_timezone("UTC"),
            &["2026-11-23 18:00:00+00"],
        );
        check(
            TimestampSecondArray::from(vec![second]).with_timezone("+05:30"),
            &["2026-11-23 23:30:00+05:30"],
        );
        check(
            TimestampMicrosecondArray::from(vec![second * 1_000_000 + 120_000, second * 1_000_000]),
            &["2026-11-23 18:00:00.12", "2026-11-23 18:00:00"],
        );
        check(
            TimestampNanosecondArray::from(vec![second * 1_000_000_000 + 1])
                .with_timezone("+00:00"),
            &["2026-11-23 18:00:00.000000001+00"],
        );
        check(
            Date32Array::from(vec![0, 20_780]),
            &["1970-01-01", "2026-11-23"],
        );
        check(
            Time64MicrosecondArray::from(vec![64_800_500_000]),
            &["18:00:00.5"],
        );
        check(
            DurationSecondArray::from(vec![90_061, -1]),
            &["1 day 01:01:01", "-00:00:01"],
        );
        check(
            IntervalYearMonthArray::from(vec![14, -12]),
            &["1 year 2 mons", "-1 years"],
        );
        check(
            IntervalDayTimeArray::from(vec![IntervalDayTime::new(2, 500)]),
            &["2 days 00:00:00.5"],
        );
        check(
            IntervalMonthDayNanoArray::from(vec![
                IntervalMonthDayNano::new(0, 0, 0),
                IntervalMonthDayNano::new(1, -3, 4_000_000_000),
            ]),
            &["00:00:00", "1 mon -3 days +00:00:04"],
        );
    }

    #[test]
    fn lists_and_records_quote_what_they_must() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([
            Some("a"),
            Some("b c"),
            None,
            Some(""),
            Some("null"),
            Some("q\"\\"),
        ]);
        lists.append_value(Vec::<Option<&str>>::new());
        lists.append_null();
        let lists = lists.finish();
        check(
            lists.clone(),
            &["{a,\"b c\",NULL,\"\",\"null\",\"q\\\"\\\\\"}", "{}", "NULL"],
        );
        let numbers =
            ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), Some(2)])]);
        let field = Arc::new(Field::new_list_field(numbers.data_type().clone(), true));
        let offsets = datafusion::arrow::buffer::OffsetBuffer::from_lengths([1]);
        check(
            ListArray::new(field, offsets, Arc::new(numbers), None),
            &["{{1,2}}"],
        );
        let column = |name: &str, array: ArrayRef| {
            (
                Arc::new(Field::new(name, array.data_type().clone(), true)),
                array,
            )
        };
        let record = StructArray::from(vec![
            column(
                "a",
                Arc::new(StringArray::from(vec![Some("x \"y\""), None])),
            ),
            column("b", Arc::new(Int32Array::from(vec![None, Some(1)]))),
            column("c", Arc::new(StringArray::from(vec!["", "z"]))),
            column("d", Arc::new(lists.slice(1, 2))),
        ]);
        check(record, &["(\"x \"\"y\"\"\",,\"\",{})", "(,1,z,)"]);
    }
}
