use super::*;
use crate::server::encode::interval::Interval;
use datafusion::arrow::array::*;
use datafusion::arrow::datatypes::*;
use std::collections::HashMap;
use std::sync::Arc;

/// A batch of one nullable column.
fn one(field: Field, array: ArrayRef) -> (Schema, RecordBatch) {
    let schema = Schema::new(vec![field]);
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![array]).unwrap();
    (schema, batch)
}

/// The value of each row's DataRow, which has one.
fn values(field: Field, array: ArrayRef, code: i16, zone: &str) -> Vec<Option<Vec<u8>>> {
    let (schema, batch) = one(field, array);
    let columns = Columns::new(&schema, &[code], Display::new(zone).unwrap()).unwrap();
    let mut out = BytesMut::new();
    let next = columns.write_rows(&batch, 0, usize::MAX, usize::MAX, &mut out);
    assert_eq!(next.unwrap(), batch.num_rows());
    let mut rest = &out[..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        assert_eq!(rest[0], b'D');
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        let size = i32::from_be_bytes(rest[7..11].try_into().unwrap());
        let end = if size < 0 { 10 } else { 10 + size as usize };
        assert_eq!(length, end);
        found.push((size >= 0).then(|| rest[11..1 + length].to_vec()));
        rest = &rest[1 + length..];
    }
    found
}

pub(super) fn nullable(array: &dyn Array) -> Field {
    Field::new("a", array.data_type().clone(), true)
}

/// Every value's text, `∅` for null.
fn texts(field: Field, array: ArrayRef, zone: &str) -> Vec<String> {
    values(field, array, 0, zone)
        .into_iter()
        .map(|v| v.map_or("∅".to_owned(), |v| String::from_utf8(v).unwrap()))
        .collect()
}

pub(super) fn check(array: impl Array + 'static, expected: &[&str]) {
    let array: ArrayRef = Arc::new(array);
    assert_eq!(texts(nullable(&array), array, "UTC"), expected);
}

pub(super) fn hex(array: impl Array + 'static) -> Vec<String> {
    let array: ArrayRef = Arc::new(array);
    let found = values(nullable(&array), array, 1, "UTC");
    let hex = |v: Vec<u8>| v.iter().map(|b| format!("{b:02x}")).collect();
    found
        .into_iter()
        .map(|v| v.map_or("∅".to_owned(), hex))
        .collect()
}

pub(super) fn check_hex(array: impl Array + 'static, expected: &[&str]) {
    assert_eq!(hex(array), expected);
}

#[test]
fn integers_and_booleans() {
    check(
        BooleanArray::from(vec![Some(true), None, Some(false)]),
        &["t", "∅", "f"],
    );
    check(
        Int64Array::from(vec![i64::MIN, -1, 0, 9, 10, 99, 100, 12345, i64::MAX]),
        &[
            "-9223372036854775808",
            "-1",
            "0",
            "9",
            "10",
            "99",
            "100",
            "12345",
            "9223372036854775807",
        ],
    );
    check(Int8Array::from(vec![-128]), &["-128"]);
    check(
        UInt64Array::from(vec![u64::MAX, 0]),
        &["18446744073709551615", "0"],
    );
    check_hex(BooleanArray::from(vec![true]), &["01"]);
    check_hex(Int8Array::from(vec![-1]), &["ffff"]);
    check_hex(UInt8Array::from(vec![255]), &["00ff"]);
    check_hex(UInt16Array::from(vec![65_535]), &["0000ffff"]);
    check_hex(UInt32Array::from(vec![1]), &["0000000000000001"]);
    check_hex(
        Int64Array::from(vec![Some(-2), None]),
        &["fffffffffffffffe", "∅"],
    );
    check_hex(UInt64Array::from(vec![10_000]), &["00010001000000000001"]);
}

/// What PostgreSQL 15 prints.
#[test]
fn floats() {
    let cases = [
        ("1e15", "1e+15"),
        ("1e14", "100000000000000"),
        ("123456789012345", "123456789012345"),
        ("1234567890123456", "1.234567890123456e+15"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("1e23", "9.999999999999999e+22"),
        ("9007199254740993", "9.007199254740992e+15"),
        ("5e-324", "5e-324"),
        ("-1.7976931348623157e308", "-1.7976931348623157e+308"),
        ("12345678901234.567", "12345678901234.566"),
        ("-0", "-0"),
        ("NaN", "NaN"),
        ("-inf", "-Infinity"),
        ("100", "100"),
        ("-1.5", "-1.5"),
        ("0.1", "0.1"),
        ("1e100", "1e+100"),
        ("9.5367431640625e-07", "9.5367431640625e-07"),
    ];
    for (value, expected) in cases {
        check(
            Float64Array::from(vec![value.parse::<f64>().unwrap()]),
            &[expected],
        );
    }
    let cases = [
        ("1e6", "1e+06"),
        ("999999", "999999"),
        ("123456.7", "123456.7"),
        ("1234567", "1.234567e+06"),
        ("16777216", "1.6777216e+07"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("3.4028235e38", "3.4028235e+38"),
        ("1e-45", "1e-45"),
        ("33554448", "3.3554448e+07"),
        ("67108872", "6.710887e+07"),
        ("0.3", "0.3"),
        ("1.17549435e-38", "1.1754944e-38"),
    ];
    for (value, expected) in cases {
        check(
            Float32Array::from(vec![value.parse::<f32>().unwrap()]),
            &[expected],
        );
    }
    check(Float16Array::from(vec![half::f16::from_f32(1.5)]), &["1.5"]);
    check_hex(
        Float16Array::from(vec![half::f16::from_f32(1.5)]),
        &["3fc00000"],
    );
    check_hex(Float64Array::from(vec![1.5]), &["3ff8000000000000"]);
}

/// Text and `numeric_send` of PostgreSQL 15.
#[test]
fn numerics() {
    let cases: [(i128, i8, &str, &str); 13] = [
        (0, 0, "0", "0000000000000000"),
        (0, 2, "0.00", "0000000000000002"),
        (-5, 2, "-0.05", "0001ffff4000000201f4"),
        (
            12_345_678_901_234_567_890_123_456_789_012,
            2,
            "123456789012345678901234567890.12",
            "0009000700000002000c0d801ed204d2162e23340d801ed204b0",
        ),
        (10_000, 0, "10000", "00010001000000000001"),
        (-1, 0, "-1", "00010000400000000001"),
        (1, 4, "0.0001", "0001ffff000000040001"),
        (1, 5, "0.00001", "0001fffe0000000503e8"),
        (12_345_678, 3, "12345.678", "0003000100000003000109291a7c"),
        (100_000_000, 0, "100000000", "00010002000000000001"),
        (99_999_999, 4, "9999.9999", "0002000000000004270f270f"),
        (110, 2, "1.10", "0002000000000002000103e8"),
        (1, -4, "10000", "00010001000000000001"),
    ];
    for (value, scale, text, binary) in cases {
        let of = |scale| {
            Decimal128Array::from(vec![value])
                .with_precision_and_scale(38, scale)
                .unwrap()
        };
        check(of(scale), &[text]);
        check_hex(of(scale), &[binary]);
        let wide = || {
            let wide = Decimal256Array::from(vec![i256::from_i128(value)]);
            wide.with_precision_and_scale(76, scale).unwrap()
        };
        check(wide(), &[text]);
        check_hex(wide(), &[binary]);
    }
    let nines = "9".repeat(76);
    let value = i256::from_string(&format!("-{nines}")).unwrap();
    let wide = Decimal256Array::from(vec![value, i256::MIN])
        .with_precision_and_scale(76, 0)
        .unwrap();
    let least = "-57896044618658097711785492504343953926634992332820282019728792003956564819968";
    check(wide, &[&format!("-{nines}"), least]);
    check(
        Decimal32Array::from(vec![-15])
            .with_precision_and_scale(9, 1)
            .unwrap(),
        &["-1.5"],
    );
    check(
        Decimal64Array::from(vec![15])
            .with_precision_and_scale(18, 3)
            .unwrap(),
        &["0.015"],
    );
}

#[test]
fn texts_and_bytes() {
    check(
        StringArray::from(vec![Some("a"), None, Some("")]),
        &["a", "∅", ""],
    );
    check(
        StringViewArray::from(vec!["a text of more than twelve bytes", "é"]),
        &["a text of more than twelve bytes", "é"],
    );
    check(LargeStringArray::from(vec!["a\0b"]), &["a\0b"]);
    check(
        BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None]),
        &["\\x00ff", "∅"],
    );
    check(BinaryViewArray::from(vec![&b""[..]]), &["\\x"]);
    check(
        FixedSizeBinaryArray::try_from_iter([[1_u8, 171]].iter()).unwrap(),
        &["\\x01ab"],
    );
    check_hex(LargeBinaryArray::from(vec![&b"\x00\xff"[..]]), &["00ff"]);
    check_hex(StringViewArray::from(vec!["é"]), &["c3a9"]);
    check(NullArray::new(2), &["∅", "∅"]);
}

#[test]
fn dates_and_times() {
    check(
        Date32Array::from(vec![0, -1, 19_724, 2_932_897, -735_599, -719_162]),
        &[
            "1970-01-01",
            "1969-12-31",
            "2024-01-02",
            "10000-01-01",
            "0045-01-01 BC",
            "0001-01-01",
        ],
    );
    check(
        Date64Array::from(vec![-1, 86_400_000]),
        &["1969-12-31", "1970-01-02"],
    );
    check_hex(
        Date32Array::from(vec![-1, i32::MIN]),
        &["ffffd532", "80000000"],
    );
    check(
        Time32SecondArray::from(vec![0, 86_400]),
        &["00:00:00", "24:00:00"],
    );
    check(Time32MillisecondArray::from(vec![1_500]), &["00:00:01.5"]);
    check(
        Time64MicrosecondArray::from(vec![86_399_999_999]),
        &["23:59:59.999999"],
    );
    check(
        Time64NanosecondArray::from(vec![1_999]),
        &["00:00:00.000001"],
    );
    check_hex(
        Time64MicrosecondArray::from(vec![86_399_999_999]),
        &["000000141dd75fff"],
    );
    let micros = 1_704_164_645_123_000;
    check(
        TimestampMicrosecondArray::from(vec![micros, -1]),
        &["2024-01-02 03:04:05.123", "1969-12-31 23:59:59.999999"],
    );
    check(
        TimestampSecondArray::from(vec![-63_549_360_000]),
        &["0045-03-15 00:00:00 BC"],
    );
    check(
        TimestampMillisecondArray::from(vec![micros / 1_000]),
        &["2024-01-02 03:04:05.123"],
    );
    check(
        TimestampNanosecondArray::from(vec![micros * 1_000 + 999]),
        &["2024-01-02 03:04:05.123"],
    );
    check_hex(
        TimestampNanosecondArray::from(vec![micros * 1_000]),
        &["0002b0ec8517d3b8"],
    );
    check_hex(
        TimestampSecondArray::from(vec![i64::MAX]),
        &["7fffffffffffffff"],
    );
    // Nothing panics at the ends of time.
    for value in [i64::MIN, i64::MAX] {
        texts_of(TimestampSecondArray::from(vec![value]).with_timezone("UTC"));
        texts_of(TimestampNanosecondArray::from(vec![value]));
        texts_of(Date64Array::from(vec![value]));
        texts_of(Time64NanosecondArray::from(vec![value]));
        hex(DurationSecondArray::from(vec![value]));
    }
}

fn texts_of(array: impl Array + 'static) -> Vec<String> {
    let array: ArrayRef = Arc::new(array);
    texts(nullable(&array), array, "America/New_York")
}

#[test]
fn instants_in_the_zone_of_the_session() {
    let cases = [
        ("UTC", 1_704_164_645_123_000, "2024-01-02 03:04:05.123+00"),
        (
            "Asia/Kolkata",
            1_704_164_645_123_000,
            "2024-01-02 08:34:05.123+05:30",
        ),
        (
            "America/New_York",
            1_719_889_445_000_000,
            "2024-07-01 23:04:05-04",
        ),
        (
            "America/New_York",
            1_704_164_645_000_000,
            "2024-01-01 22:04:05-05",
        ),
        (
            "America/New_York",
            -5_364_662_400_000_000,
            "1799-12-31 19:03:58-04:56:02",
        ),
        (
            "America/St_Johns",
            1_704_164_645_000_000,
            "2024-01-01 23:34:05-03:30",
        ),
        ("+02:00", 1_704_164_645_000_000, "2024-01-02 05:04:05+02"),
        ("utc", -63_517_780_800_000_000, "0044-03-15 12:00:00+00 BC"),
    ];
    for (zone, micros, expected) in cases {
        let array = TimestampMicrosecondArray::from(vec![micros]).with_timezone("+01:00");
        let array: ArrayRef = Arc::new(array);
        assert_eq!(texts(nullable(&array), array, zone), [expected]);
    }
    assert_eq!(Display::new("Mars/Olympus").unwrap_err().sqlstate, "22023");
}

/// What PostgreSQL 15 prints and sends.
#[test]
fn intervals() {
    let cases = [
        (14, 3, 14_706_789_000, "1 year 2 mons 3 days 04:05:06.789"),
        (-14, 3, 0, "-1 years -2 mons +3 days"),
        (1, -1, 0, "1 mon -1 days"),
        (-1, 1, 7_384_000_000, "-1 mons +1 day 02:03:04"),
        (0, 0, 0, "00:00:00"),
        (0, 0, -1_000_000, "-00:00:01"),
        (0, 0, 360_000_500_000, "100:00:00.5"),
        (0, -1, -1, "-1 days -00:00:00.000001"),
        (13, 0, 0, "1 year 1 mon"),
        (-13, 0, 0, "-1 years -1 mons"),
        (0, 1, 0, "1 day"),
        (24, 0, 0, "2 years"),
        (1, 0, 1_000_000, "1 mon 00:00:01"),
        (-1, 0, 1_000_000, "-1 mons +00:00:01"),
        (-12, 1, 1_000_000, "-1 years +1 day 00:00:01"),
    ];
    for (months, days, micros, expected) in cases {
        let mut out = BytesMut::new();
        Interval {
            months,
            days,
            micros,
        }
        .put_text(&mut out);
        assert_eq!(out, expected.as_bytes());
    }
    check(IntervalYearMonthArray::from(vec![14]), &["1 year 2 mons"]);
    check(
        IntervalDayTimeArray::from(vec![IntervalDayTime::new(1, 1_500)]),
        &["1 day 00:00:01.5"],
    );
    let whole = IntervalMonthDayNano::new(14, 3, 14_706_789_000_000);
    check_hex(
        IntervalMonthDayNanoArray::from(vec![whole]),
        &["000000036c97ca88000000030000000e"],
    );
    check(
        DurationMillisecondArray::from(vec![360_000_500]),
        &["100:00:00.5"],
    );
}

#[test]
fn metadata_gives_types() {
    let tagged = |key: &str, value: &str, data_type| {
        let pair = HashMap::from([(key.to_owned(), value.to_owned())]);
        Field::new("a", data_type, true).with_metadata(pair)
    };
    let oid = tagged("pg.oid_alias", "oid", DataType::Int32);
    assert_eq!(pg_type(&oid), Type::OID);
    let array: ArrayRef = Arc::new(Int32Array::from(vec![-1]));
    assert_eq!(texts(oid.clone(), array.clone(), "UTC"), ["4294967295"]);
    assert_eq!(values(oid, array, 1, "UTC"), [Some(vec![255; 4])]);
    let class = tagged("pg.oid_alias", "regclass", DataType::Int64);
    assert_eq!(
        values(class, Arc::new(Int64Array::from(vec![1259])), 1, "UTC"),
        [Some(vec![0, 0, 4, 235])]
    );
    let char = tagged("pg.char", "char", DataType::Utf8);
    assert_eq!(pg_type(&char), Type::CHAR);
    let array: ArrayRef = Arc::new(StringArray::from(vec!["r", ""]));
    assert_eq!(
        values(char.clone(), array.clone(), 1, "UTC"),
        [Some(vec![b'r']), Some(vec![0])]
    );
    assert_eq!(texts(char, array, "UTC"), ["r", ""]);
    let json = tagged("ARROW:extension:name", "arrow.json", DataType::Utf8View);
    assert_eq!(pg_type(&json), Type::JSON);
    let uuid = tagged(
        "ARROW:extension:name",
        "arrow.uuid",
        DataType::FixedSizeBinary(16),
    );
    assert_eq!(pg_type(&uuid), Type::UUID);
    let bytes: [u8; 16] = std::array::from_fn(|at| at as u8 * 17);
    let array: ArrayRef = Arc::new(FixedSizeBinaryArray::try_from_iter([bytes].iter()).unwrap());
    assert_eq!(
        texts(uuid.clone(), array.clone(), "UTC"),
        ["00112233-4455-6677-8899-aabbccddeeff"]
    );
    assert_eq!(values(uuid, array, 1, "UTC"), [Some(bytes.to_vec())]);
}

#[test]
fn descriptions_and_formats() {
    let schema = Schema::new(vec![
        Field::new("a\u{1}2", DataType::Int32, true),
        Field::new("b", DataType::Utf8, true),
    ]);
    let columns = Columns::new(&schema, &[0, 1], Display::default()).unwrap();
    let mut out = BytesMut::new();
    columns.write_row_description(&mut out);
    let mut expected = vec![b'T', 0, 0, 0, 46, 0, 2];
    expected.extend(b"a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
    expected.extend(b"b\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\x01");
    assert_eq!(out, expected);
    for formats in [&[0, 1, 0][..], &[2]] {
        let failure = Columns::new(&schema, formats, Display::default()).unwrap_err();
        assert_eq!(failure.sqlstate, "08P01");
    }
    assert!(Columns::new(&schema, &[1], Display::default()).is_ok());
    let many: Vec<Field> = (0..1_665)
        .map(|at| Field::new(format!("{at}"), DataType::Int8, true))
        .collect();
    let failure = Columns::new(&Schema::new(many), &[], Display::default()).unwrap_err();
    assert_eq!(failure.sqlstate, "54011");
}

#[test]
fn rows_end_at_the_limits() {
    let schema = Schema::new(vec![Field::new("a", DataType::Utf8, true)]);
    // A plan may give views where its schema says strings.
    let views: ArrayRef = Arc::new(StringViewArray::from(vec!["x"; 10]));
    let of = |array: ArrayRef| RecordBatch::try_from_iter([("a", array)]).unwrap();
    let columns = Columns::new(&schema, &[], Display::default()).unwrap();
    let mut out = BytesMut::new();
    let batch = of(views);
    assert_eq!(
        columns
            .write_rows(&batch, 0, 3, usize::MAX, &mut out)
            .unwrap(),
        3
    );
    assert_eq!(out.len(), 3 * 12);
    assert_eq!(
        columns
            .write_rows(&batch, 3, usize::MAX, 13, &mut out)
            .unwrap(),
        5
    );
    assert_eq!(
        columns
            .write_rows(&batch, 5, usize::MAX, 0, &mut out)
            .unwrap(),
        6
    );
    assert_eq!(
        columns
            .write_rows(&batch, 10, usize::MAX, 0, &mut out)
            .unwrap(),
        10
    );
    // An integer where text was promised is cast, not sent as it is.
    out.clear();
    columns
        .write_rows(&of(Arc::new(Int32Array::from(vec![7]))), 0, 1, 1, &mut out)
        .unwrap();
    assert!(out.ends_with(b"\0\0\0\x017"));
    out.clear();
    let long = "x".repeat(SERVER_ROW_BYTES_MAX);
    let batch = of(Arc::new(StringArray::from(vec!["short", &long])));
    let failure = columns
        .write_rows(&batch, 0, 9, usize::MAX, &mut out)
        .unwrap_err();
    assert_eq!((failure.sqlstate, out.len()), ("54000", 16));
}
