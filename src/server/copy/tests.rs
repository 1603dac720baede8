use super::*;
use crate::server::encode::Display;
use crate::server::failure::Failure;
use bytes::BytesMut;
use datafusion::arrow::array::*;
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Field, IntervalUnit, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;
use std::sync::Arc;

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("b", DataType::Utf8, true),
    ]))
}

/// All rows of a stream that comes in pieces of `size` bytes.
pub(super) fn read(
    schema: &SchemaRef,
    options: &Options,
    data: &[u8],
    size: usize,
) -> Result<RecordBatch, Failure> {
    let mut reader = Reader::new("t", schema.clone(), options.clone())?;
    let mut batches = Vec::new();
    for piece in data.chunks(size.max(1)) {
        reader.push(piece)?;
        while let Some(batch) = reader.take_batch(3) {
            assert_eq!(batch.num_rows(), 3);
            batches.push(batch);
        }
    }
    batches.extend(reader.finish()?);
    let batch = concat_batches(schema, &batches).unwrap();
    assert_eq!(reader.rows(), batch.num_rows() as u64);
    Ok(batch)
}

#[test]
fn nulls_and_names_that_must_not_be() {
    let strict: SchemaRef = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, false)]));
    let failure = read(&strict, &Options::new(Format::Text), b"1\n\\N\n", 9).unwrap_err();
    assert_eq!(failure.sqlstate, "23502");
    assert_eq!(
        failure.context.as_deref(),
        Some("COPY t, line 2, column a: null input")
    );
    let options = Options::parse("csv force not null zz", Direction::From).unwrap();
    let failure = Reader::new("t", schema(), options).err().unwrap();
    assert_eq!(
        failure.message,
        "column \"zz\" of relation \"t\" does not exist"
    );
    let options = Options::parse("csv force quote zz", Direction::To).unwrap();
    let failure = Writer::new(&schema(), options, Display::default())
        .err()
        .unwrap();
    assert_eq!(failure.message, "column \"zz\" does not exist");
}

#[test]
fn a_line_has_a_limit() {
    let mut reader = Reader::new("t", schema(), Options::new(Format::Text)).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let failure = (0..70).find_map(|_| reader.push(&piece).err()).unwrap();
    assert_eq!(failure.sqlstate, "54000");
    // It stays failed, and gives nothing.
    assert!(reader.push(b"\n").is_err() && reader.finish().is_err());
    assert!(reader.take_batch(1).is_none());
}

/// The payloads of CopyData messages, and how many there are.
fn written(batch: &RecordBatch, text: &str) -> (Vec<u8>, usize) {
    let messages = messages(batch, text);
    (messages.concat(), messages.len())
}

fn messages(batch: &RecordBatch, text: &str) -> Vec<Vec<u8>> {
    let options = Options::parse(text, Direction::To).unwrap();
    let mut writer = Writer::new(&batch.schema(), options, Display::default()).unwrap();
    let mut out = BytesMut::new();
    writer.begin(&mut out);
    let mut row = 0;
    while row < batch.num_rows() {
        row = writer.write_rows(batch, row, 40, &mut out).unwrap();
    }
    writer.end(&mut out);
    let (mut rest, mut messages) = (&out[..], Vec::new());
    while !rest.is_empty() {
        assert_eq!(rest[0], b'd');
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        messages.push(rest[5..1 + length].to_vec());
        rest = &rest[1 + length..];
    }
    messages
}

#[test]
fn gathered_rows_are_the_same_bytes_in_fewer_messages() {
    let rows = 0..5_000_i32;
    let columns: [ArrayRef; 2] = [
        Arc::new(Int32Array::from_iter_values(rows.clone())),
        Arc::new(StringArray::from_iter_values(
            rows.map(|row| "x".repeat(row as usize % 50)),
        )),
    ];
    let batch = RecordBatch::try_new(schema(), columns.to_vec()).unwrap();
    for form in ["format text", "format csv, header", "format binary"] {
        let each = messages(&batch, &format!("({form}, gather off)"));
        let gathered = messages(&batch, &format!("({form}, gather)"));
        assert_eq!(gathered.concat(), each.concat(), "{form}");
        assert!(each.len() >= 5_000, "{form}");
        let most = gathered.iter().map(Vec::len).max().unwrap();
        assert!(most < crate::config::SERVER_GATHER_BYTES + 100, "{form}");
        let few = each.concat().len() / crate::config::SERVER_GATHER_BYTES + 3;
        assert!(gathered.len() <= few, "{form}: {}", gathered.len());
        // No row is cut.
        let ends = |message: &Vec<u8>| message.ends_with(b"\n");
        assert!(form == "format binary" || gathered.iter().all(ends));
    }
}

/// What PostgreSQL 15 writes.
#[test]
fn rows_to_text_and_csv() {
    let values = [
        (Some(1), Some("a\tb\nc\rd\\e\u{8}f\u{c}g")),
        (Some(2), None),
        (None, Some("")),
        (Some(3), Some("a,b")),
        (Some(4), Some("a\"b")),
        (Some(5), Some("\\.")),
        (Some(6), Some("\\N")),
        (Some(7), Some("x;y")),
        (Some(8), Some(" lead")),
        (Some(9), Some("NULL")),
        (Some(10), Some("é")),
        (Some(11), Some("a#b'c")),
    ];
    let (a, b): (Vec<_>, Vec<_>) = values.into_iter().unzip();
    let columns: [ArrayRef; 2] = [
        Arc::new(Int32Array::from(a)),
        Arc::new(StringArray::from(b)),
    ];
    let batch = RecordBatch::try_new(schema(), columns.to_vec()).unwrap();
    let cases = [
        (
            "",
            12,
            "1\ta\\tb\\nc\\rd\\\\e\\bf\\fg\n2\t\\N\n\\N\t\n3\ta,b\n4\ta\"b\n5\t\\\\.\n6\t\\\\N\n7\tx;y\n\
             8\t lead\n9\tNULL\n10\té\n11\ta#b'c\n",
        ),
        (
            "csv",
            12,
            "1,\"a\tb\nc\rd\\e\x08f\x0cg\"\n2,\n,\"\"\n3,\"a,b\"\n4,\"a\"\"b\"\n5,\\.\n6,\\N\n7,x;y\n\
             8, lead\n9,NULL\n10,é\n11,a#b'c\n",
        ),
        (
            "(format csv, header, force_quote (b))",
            13,
            "a,b\n1,\"a\tb\nc\rd\\e\x08f\x0cg\"\n2,\n,\"\"\n3,\"a,b\"\n4,\"a\"\"b\"\n5,\"\\.\"\n\
             6,\"\\N\"\n7,\"x;y\"\n8,\" lead\"\n9,\"NULL\"\n10,\"é\"\n11,\"a#b'c\"\n",
        ),
        (
            "(format csv, null 'NULL', delimiter ';', quote '''', escape '#')",
            12,
            "1;'a\tb\nc\rd\\e\x08f\x0cg'\n2;NULL\nNULL;\n3;a,b\n4;a\"b\n5;\\.\n6;\\N\n7;'x;y'\n\
             8; lead\n9;'NULL'\n10;é\n11;'a##b#'c'\n",
        ),
        (
            "(delimiter '|', null '', header)",
            13,
            "a|b\n1|a\\tb\\nc\\rd\\\\e\\bf\\fg\n2|\n|\n3|a,b\n4|a\"b\n5|\\\\.\n6|\\\\N\n7|x;y\n\
             8| lead\n9|NULL\n10|é\n11|a#b'c\n",
        ),
    ];
    for (text, messages, expected) in cases {
        let (data, count) = written(&batch, text);
        assert_eq!(String::from_utf8(data).unwrap(), expected, "{text}");
        assert_eq!(count, messages);
    }
    let one =
        |array: ArrayRef| RecordBatch::try_from_iter_with_nullable([("a", array, true)]).unwrap();
    let dots = one(Arc::new(StringArray::from(vec![
        Some("\\."),
        Some("\\.x"),
        Some(""),
        None,
    ])));
    assert_eq!(written(&dots, "csv").0, b"\"\\.\"\n\\.x\n\"\"\n\n");
    let numbers = one(Arc::new(Int32Array::from(vec![0, -1])));
    assert_eq!(
        written(&numbers, "(format csv, null '0')").0,
        b"\"0\"\n-1\n"
    );
    assert_eq!(written(&numbers, "(delimiter '-')").0, b"0\n\\-1\n");
    assert_eq!(
        written(&numbers, "(format csv, force_quote *)").0,
        b"\"0\"\n\"-1\"\n"
    );
}

#[test]
fn binary_files() {
    let columns: [ArrayRef; 2] = [
        Arc::new(Int32Array::from(vec![Some(1), None])),
        Arc::new(StringArray::from(vec!["a", ""])),
    ];
    let batch = RecordBatch::try_new(schema(), columns.to_vec()).unwrap();
    let (data, count) = written(&batch, "binary");
    let hex: String = data.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "5047434f50590aff0d0a0000000000000000000002000000040000000100000001610002ffffffff00000000ffff"
    );
    // The signature comes with the first row, the trailer alone.
    assert_eq!(count, 3);
    let empty = [&data[..19], b"\xff\xff"].concat();
    assert_eq!(written(&batch.slice(0, 0), "binary"), (empty, 1));
    let binary = Options::new(Format::Binary);
    let edit = |at: usize, byte: u8| {
        let mut data = data.clone();
        data[at] = byte;
        data
    };
    let more = [&data[..], b"x"].concat();
    let cases = [
        (edit(0, b'Q'), "22P04 COPY file signature not recognized"),
        (edit(12, 1), "22P04 invalid COPY file header (WITH OIDS)"),
        (
            edit(11, 1),
            "22P04 unrecognized critical flags in COPY file header",
        ),
        (
            edit(15, 0xff),
            "22P04 invalid COPY file header (wrong length)",
        ),
        (edit(20, 3), "22P04 row field count is 3, expected 2"),
        (edit(21, 0x80), "22P04 invalid field size"),
        (
            edit(21, 0x7f),
            "54000 a row exceeds the limit of 67108864 bytes",
        ),
        (
            [&data[..19], b"\0\x02\0\0\0\x02\0\x01\xff\xff\xff\xff"].concat(),
            "22P03 incorrect binary data format",
        ),
        (
            edit(33, 0xff),
            "22021 invalid byte sequence for encoding \"UTF8\": 0xff",
        ),
        (more, "22P04 received copy data after EOF marker"),
        (data[..30].to_vec(), "22P04 unexpected EOF in COPY data"),
        (
            data[..10].to_vec(),
            "22P04 COPY file signature not recognized",
        ),
    ];
    for (data, expected) in cases {
        for size in [1, data.len()] {
            let failure = read(&schema(), &binary, &data, size).unwrap_err();
            assert_eq!(
                format!("{} {}", failure.sqlstate, failure.message),
                expected
            );
        }
    }
    // Without a trailer a stream may end between two rows.
    assert_eq!(
        read(&schema(), &binary, &data[..34], 5).unwrap().num_rows(),
        1
    );
}

/// Columns of many types out of integers and texts.
fn columns(rows: &[(Option<i64>, Option<String>)]) -> RecordBatch {
    let numbers = || rows.iter().map(|(number, _)| *number);
    let texts = || rows.iter().map(|(_, text)| text.as_deref());
    let mut integers = ListBuilder::new(Int32Builder::new());
    let mut words = ListBuilder::new(StringBuilder::new());
    for (number, text) in rows {
        match number {
            Some(number) => integers.append_value([Some(*number as i32), None]),
            None => integers.append_null(),
        }
        words.append_value([text.as_deref(), Some("x")]);
    }
    let numeric = |to: DataType| {
        let small = numbers().map(|n| n.map(|n| n % 20_000));
        cast(&(Arc::new(small.collect::<Int64Array>()) as ArrayRef), &to).unwrap()
    };
    let within = |most: i64| numbers().map(move |n| n.map(|n| n.rem_euclid(most)));
    let instants = || -> TimestampMicrosecondArray {
        let shift = |n: i64| n - 60_000_000_000_000_000;
        within(4_000_000_000_000_000_000)
            .map(|n| n.map(shift))
            .collect()
    };
    let bools = numbers().map(|n| n.map(|n| n % 2 == 0));
    let singles = numbers().map(|n| n.map(|n| n as f32 / 1e6));
    let doubles = numbers().map(|n| n.map(|n| n as f64 / 1e7));
    let days = within(3_000_000).map(|n| n.map(|n| n as i32 - 719_162));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bool", Arc::new(bools.collect::<BooleanArray>())),
        ("int2", numeric(DataType::Int16)),
        ("int4", numeric(DataType::Int32)),
        ("int8", Arc::new(numbers().collect::<Int64Array>())),
        ("float4", Arc::new(singles.collect::<Float32Array>())),
        ("float8", Arc::new(doubles.collect::<Float64Array>())),
        ("numeric", numeric(DataType::Decimal128(20, 4))),
        ("wide", numeric(DataType::Decimal256(50, 7))),
        ("text", Arc::new(texts().collect::<StringArray>())),
        ("view", Arc::new(texts().collect::<StringViewArray>())),
        ("large", Arc::new(texts().collect::<LargeStringArray>())),
        (
            "bytea",
            Arc::new(
                texts()
                    .map(|t| t.map(str::as_bytes))
                    .collect::<BinaryArray>(),
            ),
        ),
        ("date", Arc::new(days.collect::<Date32Array>())),
        (
            "time",
            Arc::new(within(86_400_000_000).collect::<Time64MicrosecondArray>()),
        ),
        ("timestamp", Arc::new(instants())),
        ("instant", Arc::new(instants().with_timezone("+00:00"))),
        ("integers", Arc::new(integers.finish())),
        ("words", Arc::new(words.finish())),
    ];
    let columns = columns
        .into_iter()
        .map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_is_read(
        rows in prop::collection::vec(
            (prop::option::of(any::<i64>()), prop::option::of("[a,\"'\\\\.N\n\r\t;|é{} x]{0,6}")),
            1..6,
        ),
        text in prop::sample::select(vec![
            "",
            "csv",
            "binary",
            "csv header",
            "(header match)",
            "(delimiter '|', null 'nil')",
            "(format csv, delimiter ';', quote '''', escape '\\', null 'x')",
            "(format csv, delimiter ' ', null '0')",
        ]),
        size in 1..200_usize,
    ) {
        let batch = columns(&rows);
        let (data, _) = written(&batch, &text.replace("match", "true"));
        let options = Options::parse(text, Direction::From).unwrap();
        let back = read(&batch.schema(), &options, &data, size);
        prop_assert_eq!(back.unwrap(), batch);
    }

    #[test]
    fn no_bytes_panic(
        data in prop::collection::vec(prop::sample::select(b"1a,\"'\\.N\n\r\t\0\xff{}PGCOPY".to_vec()), 0..60),
        text in prop::sample::select(vec!["", "csv", "binary", "csv escape '\\'", "(header match)"]),
        signed in any::<bool>(),
        size in 1..30_usize,
    ) {
        let head: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\0";
        let data = if signed { [head, &data].concat() } else { data };
        let options = Options::parse(text, Direction::From).unwrap();
        let fields = [
            DataType::Int64,
            DataType::Interval(IntervalUnit::MonthDayNano),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
        ];
        let fields = fields.map(|data_type| Field::new("a", data_type, true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let _ = read(&schema, &options, &data, size);
    }
}
