//! Texts: quoting, `format`, sizes, encodings, JSON.

use super::Functions;
use crate::server::catalog::rows::{Cell, Kind};
use crate::server::failure::Failure;
use datafusion::common::Result;
use datafusion::logical_expr::Volatility::Immutable;
use datafusion::sql::sqlparser::keywords::RESERVED_FOR_COLUMN_ALIAS;

pub(super) fn define(functions: &mut Functions) {
    functions.define(("quote_ident", Kind::Text), 1..=1, Immutable, |args, _| {
        Ok(args[0].text().map(|text| quote_ident(&text)).into())
    });
    functions.define(
        ("quote_literal", Kind::Text),
        1..=1,
        Immutable,
        |args, _| Ok(args[0].text().map(|text| quote_literal(&text)).into()),
    );
    let function = functions.define(
        ("quote_nullable", Kind::Text),
        1..=1,
        Immutable,
        |args, _| {
            let text = args[0].text();
            Ok(text
                .map_or_else(|| "NULL".to_owned(), |text| quote_literal(&text))
                .into())
        },
    );
    function.strict = false;
    functions.define(
        ("pg_size_pretty", Kind::Text),
        1..=1,
        Immutable,
        |args, _| Ok(args[0].int().map(size).into()),
    );
    functions.define(
        ("pg_encoding_to_char", Kind::Text),
        1..=1,
        Immutable,
        |args, _| {
            Ok(match args[0].int() {
                Some(6) => "UTF8",
                Some(0) => "SQL_ASCII",
                _ => "",
            }
            .into())
        },
    );
    functions.define(
        ("pg_char_to_encoding", Kind::Int4),
        1..=1,
        Immutable,
        |args, _| {
            let name = args[0].text().unwrap_or_default().to_uppercase();
            Ok(match name.replace('-', "").as_str() {
                "UTF8" | "UNICODE" => 6,
                "SQL_ASCII" => 0,
                _ => -1,
            }
            .into())
        },
    );
    functions.define(("parse_ident", Kind::Texts), 1..=2, Immutable, |args, _| {
        Ok(super::objects::parts(&args[0].text().unwrap_or_default()).into())
    });
    let function = functions.define(
        ("format", Kind::Text),
        1..=16,
        Immutable,
        |args, _| match args[0].text() {
            Some(pattern) => Ok(format(&pattern, &args[1..])?.into()),
            None => Ok(Cell::Null),
        },
    );
    function.strict = false;
    for name in ["json_build_object", "jsonb_build_object"] {
        let function = functions.define((name, Kind::Text), 0..=40, Immutable, |args, _| {
            let mut object = serde_json::Map::new();
            for pair in args.chunks(2) {
                let [key, value] = pair else {
                    let message = "argument list must have even number of elements";
                    return Err(Failure::new("22023", message).into());
                };
                object.insert(key.text().unwrap_or_default(), json(value));
            }
            Ok(serde_json::Value::Object(object).to_string().into())
        });
        function.strict = false;
    }
}

fn json(cell: &Cell) -> serde_json::Value {
    match cell {
        Cell::Null => serde_json::Value::Null,
        Cell::Bool(on) => (*on).into(),
        Cell::Int(number) => (*number).into(),
        Cell::Float(number) => (*number).into(),
        Cell::Text(text) => text.as_str().into(),
        Cell::Time(micros) => (*micros).into(),
        Cell::List(items) => items.iter().map(json).collect(),
    }
}

/// An identifier, quoted where it has to be.
pub(super) fn quote_ident(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let reserved = RESERVED_FOR_COLUMN_ALIAS
        .iter()
        .any(|word| format!("{word:?}").eq_ignore_ascii_case(name));
    match starts && name.chars().all(plain) && !reserved {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

fn quote_literal(text: &str) -> String {
    let quoted = format!("'{}'", text.replace('\'', "''"));
    match text.contains('\\') {
        true => format!("E{}", quoted.replace('\\', "\\\\")),
        false => quoted,
    }
}

/// As PostgreSQL: the unit changes past ten thousand.
fn size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let (mut amount, mut unit) = (bytes, 0);
    // Beyond bytes, halves are kept until the last step, where they are rounded.
    if amount.abs() < 10 * 1024 {
        return format!("{amount} bytes");
    }
    amount >>= 9;
    unit += 1;
    while unit < UNITS.len() - 1 && amount.abs() >= 20 * 1024 - 1 {
        amount >>= 10;
        unit += 1;
    }
    let rounded = (amount + amount.signum()) / 2;
    format!("{rounded} {}", UNITS[unit])
}

fn format(pattern: &str, args: &[Cell]) -> Result<String> {
    let mut out = String::new();
    let mut next = args.iter();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let kind = letters.next();
        if kind == Some('%') {
            out.push('%');
            continue;
        }
        let Some(cell) = next.next() else {
            return Err(Failure::new("22023", "too few arguments for format()").into());
        };
        match (kind, cell.text()) {
            (Some('s'), text) => out.push_str(&text.unwrap_or_default()),
            (Some('I'), Some(text)) => out.push_str(&quote_ident(&text)),
            (Some('I'), None) => {
                let message = "null values cannot be formatted as an SQL identifier";
                return Err(Failure::new("22004", message).into());
            }
            (Some('L'), text) => {
                out.push_str(&text.map_or_else(|| "NULL".to_owned(), |t| quote_literal(&t)));
            }
            (kind, _) => {
                let kind = kind.map_or(String::new(), |k| k.to_string());
                let message = format!("unrecognized format() type specifier \"{kind}\"");
                return Err(Failure::new("22023", message).into());
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_as_postgresql_makes_them() {
        for (bytes, want) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10 kB"),
            (1_048_576, "1024 kB"),
            (10_485_760, "10 MB"),
            (123_456_789, "118 MB"),
            (-20_000, "-20 kB"),
        ] {
            assert_eq!(size(bytes), want, "{bytes}");
        }
        for (name, want) in [
            ("a", "a"),
            ("A b", "\"A b\""),
            ("select", "\"select\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            assert_eq!(quote_ident(name), want);
        }
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\b"), "E'a\\\\b'");
        let args = [Cell::from("x y"), Cell::Null];
        assert_eq!(format("%s %%", &args).unwrap(), "x y %");
        assert_eq!(format("%I=%L", &args).unwrap(), "\"x y\"=NULL");
        assert!(format("%s%s%s", &args).is_err());
    }
}
