use super::*;
use crate::server::copy::options::Names;

/// What PostgreSQL 15 says of options, in its words but for encodings.
#[test]
fn options() {
    let cases = [
        (
            Direction::From,
            "(format xml)",
            "22023",
            "COPY format \"xml\" not recognized",
        ),
        (
            Direction::From,
            "(format csv, format csv)",
            "42601",
            "conflicting or redundant options",
        ),
        (
            Direction::From,
            "(format binary, delimiter ',')",
            "42601",
            "cannot specify DELIMITER in BINARY mode",
        ),
        (
            Direction::From,
            "(format binary, null '')",
            "42601",
            "cannot specify NULL in BINARY mode",
        ),
        (
            Direction::From,
            "(delimiter ',,')",
            "0A000",
            "COPY delimiter must be a single one-byte character",
        ),
        (
            Direction::From,
            "(delimiter E'\\n')",
            "22023",
            "COPY delimiter cannot be newline or carriage return",
        ),
        (
            Direction::From,
            "(null E'a\\nb')",
            "22023",
            "COPY null representation cannot use newline or carriage return",
        ),
        (
            Direction::From,
            "(delimiter 'a')",
            "22023",
            "COPY delimiter cannot be \"a\"",
        ),
        (
            Direction::From,
            "(delimiter '\\')",
            "22023",
            "COPY delimiter cannot be \"\\\"",
        ),
        (Direction::From, "(format csv, delimiter 'a')", "", ""),
        (
            Direction::From,
            "(format binary, header)",
            "0A000",
            "cannot specify HEADER in BINARY mode",
        ),
        (
            Direction::To,
            "(header match)",
            "0A000",
            "cannot use \"match\" with HEADER in COPY TO",
        ),
        (
            Direction::From,
            "(quote '''')",
            "0A000",
            "COPY quote available only in CSV mode",
        ),
        (
            Direction::From,
            "(format csv, quote 'ab')",
            "0A000",
            "COPY quote must be a single one-byte character",
        ),
        (
            Direction::From,
            "(format csv, quote ',')",
            "22023",
            "COPY delimiter and quote must be different",
        ),
        (
            Direction::From,
            "(escape 'x')",
            "0A000",
            "COPY escape available only in CSV mode",
        ),
        (
            Direction::From,
            "(format csv, escape '')",
            "0A000",
            "COPY escape must be a single one-byte character",
        ),
        (
            Direction::From,
            "(force_quote (a))",
            "0A000",
            "COPY force quote available only in CSV mode",
        ),
        (
            Direction::From,
            "(format csv, force_quote (a))",
            "0A000",
            "COPY force quote only available using COPY TO",
        ),
        (
            Direction::To,
            "(format csv, force_not_null (a))",
            "0A000",
            "COPY force not null only available using COPY FROM",
        ),
        (
            Direction::To,
            "(format csv, force_null (a))",
            "0A000",
            "COPY force null only available using COPY FROM",
        ),
        (
            Direction::From,
            "(force_null (a))",
            "0A000",
            "COPY force null available only in CSV mode",
        ),
        (
            Direction::From,
            "(force_not_null (a))",
            "0A000",
            "COPY force not null available only in CSV mode",
        ),
        (
            Direction::From,
            "(delimiter '|', null 'a|b')",
            "0A000",
            "COPY delimiter must not appear in the NULL specification",
        ),
        (
            Direction::From,
            "(format csv, null 'a\"b')",
            "0A000",
            "CSV quote character must not appear in the NULL specification",
        ),
        (
            Direction::From,
            "(encoding 'klingon')",
            "0A000",
            "COPY encoding \"klingon\" is not supported, only UTF8 is",
        ),
        (
            Direction::From,
            "(header maybe)",
            "42601",
            "header requires a Boolean value or \"match\"",
        ),
        (
            Direction::From,
            "(freeze maybe)",
            "42601",
            "freeze requires a Boolean value",
        ),
        (
            Direction::From,
            "(wrong)",
            "42601",
            "option \"wrong\" not recognized",
        ),
        (Direction::To, "(format csv, force_quote *)", "", ""),
        (
            Direction::From,
            "csv header delimiter as ';' null as 'x' quote '''' escape '#' force not null b",
            "",
            "",
        ),
        (Direction::To, "csv force quote a,b", "", ""),
        (Direction::To, "csv force quote *", "", ""),
        (
            Direction::From,
            "(format csv",
            "42601",
            "syntax error at end of input",
        ),
        (
            Direction::From,
            "binary csv",
            "42601",
            "conflicting or redundant options",
        ),
        (
            Direction::From,
            "(delimiter '')",
            "0A000",
            "COPY delimiter must be a single one-byte character",
        ),
        (Direction::From, "with (format 'csv', header 'on')", "", ""),
        (Direction::From, "(format CSV)", "", ""),
        (
            Direction::From,
            "(format \"CSV\")",
            "22023",
            "COPY format \"CSV\" not recognized",
        ),
        (
            Direction::From,
            "csv csv",
            "42601",
            "conflicting or redundant options",
        ),
        (
            Direction::From,
            "(header 2)",
            "42601",
            "header requires a Boolean value or \"match\"",
        ),
        (Direction::To, "(format csv, gather, header)", "", ""),
        (Direction::From, "(gather off)", "", ""),
        (
            Direction::From,
            "(gather)",
            "0A000",
            "COPY gather only available using COPY TO",
        ),
        (
            Direction::To,
            "(gather 16)",
            "42601",
            "gather requires a Boolean value",
        ),
        (
            Direction::To,
            "(gather, gather true)",
            "42601",
            "conflicting or redundant options",
        ),
    ];
    for (direction, text, code, message) in cases {
        match Options::parse(text, direction) {
            Ok(_) => assert_eq!("", code, "{text}"),
            Err(failure) => {
                assert_eq!(
                    (failure.sqlstate, failure.message.as_str()),
                    (code, message),
                    "{text}"
                );
            }
        }
    }
    let text =
        "csv header delimiter as ';' null as 'x' quote '''' escape '#' force not null b, \"C\";";
    let options = Options::parse(text, Direction::From).unwrap();
    let expected = Options {
        delimiter: b';',
        null: "x".to_owned(),
        header: Header::Line,
        quote: b'\'',
        escape: b'#',
        force_not_null: Names::Some(vec!["b".to_owned(), "C".to_owned()]),
        ..Options::new(Format::Csv)
    };
    assert_eq!(options, expected);
}
