use super::Options;
use super::options::Direction;
use super::tests::{read, schema};
use datafusion::arrow::array::{Array, AsArray, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;

fn shown(batch: &RecordBatch) -> String {
    let (a, b) = (
        cast(batch.column(0), &DataType::Utf8).unwrap(),
        batch.column(1),
    );
    let (a, b) = (a.as_string::<i32>(), b.as_string::<i32>());
    let cell = |column: &StringArray, row| match column.is_null(row) {
        true => "∅".to_owned(),
        false => column.value(row).to_owned(),
    };
    (0..batch.num_rows())
        .map(|row| format!("{}|{}\n", cell(a, row), cell(b, row)))
        .collect()
}

/// What PostgreSQL 15 makes of the same bytes, wherever they are cut.
#[test]
fn rows_from_text_and_csv() {
    let cases: [(&str, &[u8], &str, &str); 58] = [
        ("", b"1\ta\n2\tb\n", "1|a\n2|b\n", ""),
        ("", b"1\ta\r\n2\tb\r\n", "1|a\n2|b\n", ""),
        ("", b"1\ta\r2\tb\r", "1|a\n2|b\n", ""),
        ("", b"1\ta", "1|a\n", ""),
        ("", b"1\t\\N\n\\N\t\n", "1|∅\n∅|\n", ""),
        (
            "",
            b"1\ta\\tb\\n\\\\c\\101\\x41\\q\n",
            "1|a\tb\n\\cAAq\n",
            "",
        ),
        ("", b"1\ta\\\nb\n2\tc\n", "1|a\nb\n2|c\n", ""),
        ("", b"1\ta\n\\.\n2\tb\n", "1|a\n", ""),
        ("", b"1\ta\\.\n2\tb\n", "1|a\n", ""),
        (
            "",
            b"1\ta\\.b\n",
            "22P04 end-of-copy marker corrupt",
            "COPY t, line 1",
        ),
        (
            "",
            b"1\n",
            "22P04 missing data for column \"b\"",
            "COPY t, line 1: \"1\"",
        ),
        (
            "",
            b"1\ta\tb\n",
            "22P04 extra data after last expected column",
            "COPY t, line 1: \"1\ta\tb\"",
        ),
        (
            "",
            b"x\ta\n",
            "22P02 invalid input syntax for type integer: \"x\"",
            "COPY t, line 1, column a: \"x\"",
        ),
        (
            "",
            b"1\ta\n2\tb\r\n",
            "22P04 literal carriage return found in data",
            "COPY t, line 2",
        ),
        (
            "",
            b"1\ta\r\n2\tb\n",
            "22P04 literal newline found in data",
            "COPY t, line 2",
        ),
        (
            "",
            b"\n",
            "22P02 invalid input syntax for type integer: \"\"",
            "COPY t, line 1, column a: \"\"",
        ),
        (
            "",
            b"1\t\xff\n",
            "22021 invalid byte sequence for encoding \"UTF8\": 0xff",
            "COPY t, line 1",
        ),
        (
            "",
            b"1\ta\\000b\n",
            "22021 invalid byte sequence for encoding \"UTF8\": 0x00",
            "COPY t, line 1",
        ),
        (
            "",
            b"1\ta\\xffb\n",
            "22021 invalid byte sequence for encoding \"UTF8\": 0xff",
            "COPY t, line 1",
        ),
        (
            "",
            b"99999999999\ta\n",
            "22003 value \"99999999999\" is out of range for type integer",
            "COPY t, line 1, column a: \"99999999999\"",
        ),
        ("(header)", b"x\ty\n1\ta\n", "1|a\n", ""),
        ("(header match)", b"a\tb\n1\ta\n", "1|a\n", ""),
        (
            "(header match)",
            b"a\tc\n1\ta\n",
            "22P04 column name mismatch in header line field 2: got \"c\", expected \"b\"",
            "COPY t, line 1: \"a\tc\"",
        ),
        (
            "(header match)",
            b"a\n1\ta\n",
            "22P04 wrong number of fields in header line: got 1, expected 2",
            "COPY t, line 1: \"a\"",
        ),
        (
            "(header match)",
            b"a\t\\N\n1\ta\n",
            "22P04 column name mismatch in header line field 2: got null value (\"\\N\"), expected \"b\"",
            "COPY t, line 1: \"a\t\\N\"",
        ),
        ("csv", b"1,a\n2,b\n", "1|a\n2|b\n", ""),
        ("csv", b"1,\"a,b\"\n2,\"a\"\"b\"\n", "1|a,b\n2|a\"b\n", ""),
        ("csv", b"1,\"a\nb\"\n2,c\n", "1|a\nb\n2|c\n", ""),
        ("csv", b"1,\n2,\"\"\n", "1|∅\n2|\n", ""),
        ("csv", b",a\n", "∅|a\n", ""),
        (
            "csv",
            b"1,\"abc\n2,b\n",
            "22P04 unterminated CSV quoted field",
            "COPY t, line 1: \"1,\"abc",
        ),
        ("csv", b"1,a\"b\"c\n", "1|abc\n", ""),
        ("csv", b"1,a\n\\.\n2,b\n", "1|a\n", ""),
        ("csv", b"1,\\.\n2,b\n", "1|\\.\n2|b\n", ""),
        (
            "csv",
            b"\\.x,b\n",
            "22P02 invalid input syntax for type integer: \"\\.x\"",
            "COPY t, line 1, column a: \"\\.x\"",
        ),
        (
            "(format csv, escape '\\')",
            b"1,\"a\\\"b\\\\c\\d\"\n2,x\n",
            "1|a\"b\\c\\d\n2|x\n",
            "",
        ),
        ("(format csv, header)", b"h\n1,a\n", "1|a\n", ""),
        ("(format csv, header match)", b"a,\"b\"\n1,a\n", "1|a\n", ""),
        (
            "(format csv, null 'NULL')",
            b"1,NULL\n2,\"NULL\"\nNULL,\n",
            "1|∅\n2|NULL\n∅|\n",
            "",
        ),
        ("(format csv, force_not_null (b))", b"1,\n", "1|\n", ""),
        (
            "(format csv, null 'x', force_null (b))",
            b"1,\"x\"\n2,x\n",
            "1|∅\n2|∅\n",
            "",
        ),
        (
            "(format csv, null 'x', force_not_null (b))",
            b"1,\"x\"\n2,x\n",
            "1|x\n2|x\n",
            "",
        ),
        (
            "(format csv, quote '''', delimiter ';')",
            b"1;'a;''b'\n",
            "1|a;'b\n",
            "",
        ),
        ("csv", b"1,a\r\n2,\"b\r\nc\"\r\n", "1|a\n2|b\r\nc\n", ""),
        (
            "csv",
            b"1,a\n2,b\rc\n",
            "22P04 unquoted carriage return found in data",
            "COPY t, line 2",
        ),
        (
            "csv",
            b"1,a\r\n2,b\n",
            "22P04 unquoted newline found in data",
            "COPY t, line 2",
        ),
        (
            "csv",
            b"x,a\n",
            "22P02 invalid input syntax for type integer: \"x\"",
            "COPY t, line 1, column a: \"x\"",
        ),
        ("csv", b"1, \"a\" \n", "1| a \n", ""),
        ("(null '')", b"1\t\n\ta\n", "1|∅\n∅|a\n", ""),
        ("(delimiter '|')", b"1|a\\|b\n", "1|a|b\n", ""),
        ("", b"1\ta\\", "1|a\n", ""),
        (
            "csv",
            b"1,a\n\n",
            "22P04 missing data for column \"b\"",
            "COPY t, line 2: \"\"",
        ),
        ("", b"\\N\ta\n", "∅|a\n", ""),
        ("", b"1\ta\\N\n", "1|aN\n", ""),
        ("", b"1\t\\\\N\n", "1|\\N\n", ""),
        ("", b"1\ta\\x\n", "1|ax\n", ""),
        ("", b"1\t\\8\\18\\1234\n", "1|8\x018S4\n", ""),
        (
            "csv",
            b"1,\"a\n\nb\"\nx,c\n",
            "22P02 invalid input syntax for type integer: \"x\"",
            "COPY t, line 2, column a: \"x\"",
        ),
    ];
    for (text, data, expected, place) in cases {
        let options = Options::parse(text, Direction::From).unwrap();
        for size in [1, 2, 5, data.len()] {
            match read(&schema(), &options, data, size) {
                Ok(batch) => assert_eq!(shown(&batch), expected, "{text} {data:?}"),
                Err(failure) => {
                    let found = format!("{} {}", failure.sqlstate, failure.message);
                    assert_eq!(found, expected, "{text} {data:?}");
                    let context = failure.context.unwrap();
                    assert!(context.starts_with(place), "{context} {place}");
                }
            }
        }
    }
}
