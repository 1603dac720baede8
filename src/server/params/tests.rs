use super::*;
use crate::server::encode::{Columns, Display};
use bytes::BytesMut;
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use proptest::prelude::*;
use std::sync::Arc;

/// What a text of a type is, in Arrow's words, or the SQLSTATE.
fn read(text: &str, pg_type: &Type) -> String {
    shown(decode(Some(text.as_bytes()), 0, pg_type.oid(), None))
}

pub(super) fn shown(result: Result<ScalarValue, Failure>) -> String {
    match result {
        Ok(value) => again(&value),
        Err(failure) => failure.sqlstate.to_owned(),
    }
}

/// A value as the server would print it.
fn again(value: &ScalarValue) -> String {
    match form(value, 0) {
        Some(bytes) => String::from_utf8(bytes).unwrap(),
        None => "NULL".to_owned(),
    }
}

/// A value's bytes on the wire.
fn form(value: &ScalarValue, code: i16) -> Option<Vec<u8>> {
    let array = value.to_array().unwrap();
    let batch = RecordBatch::try_from_iter_with_nullable([("a", array, true)]).unwrap();
    let columns = Columns::new(&batch.schema(), &[code], Display::default()).unwrap();
    let mut out = BytesMut::new();
    columns.write_rows(&batch, 0, 1, 1, &mut out).unwrap();
    let size = i32::from_be_bytes(out[7..11].try_into().unwrap());
    (size >= 0).then(|| out[11..].to_vec())
}

pub(super) fn check(pg_type: Type, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(read(text, &pg_type), *expected, "{text:?} as {pg_type}");
    }
}

#[test]
fn numbers() {
    check(
        Type::INT4,
        &[
            ("1", "1"),
            (" -2147483648\t", "-2147483648"),
            ("+7", "7"),
            ("2147483648", "22003"),
            ("1.0", "22P02"),
            ("", "22P02"),
            ("x", "22P02"),
            ("1 2", "22P02"),
        ],
    );
    check(Type::INT2, &[("32767", "32767"), ("32768", "22003")]);
    check(
        Type::INT8,
        &[
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "22003"),
        ],
    );
    check(
        Type::FLOAT8,
        &[
            ("1.5", "1.5"),
            ("NaN", "NaN"),
            ("-Infinity", "-Infinity"),
            ("inf", "Infinity"),
            ("1e400", "22003"),
            ("1e-400", "22003"),
            ("0e400", "0"),
            ("1,5", "22P02"),
        ],
    );
    check(Type::FLOAT4, &[("1e39", "22003"), ("0.1", "0.1")]);
    check(
        Type::BOOL,
        &[
            ("t", "t"),
            ("TRUE", "t"),
            ("yes", "t"),
            ("on", "t"),
            ("1", "t"),
            (" of ", "f"),
            ("n", "f"),
            ("o", "22P02"),
            ("maybe", "22P02"),
            ("", "22P02"),
        ],
    );
    check(
        Type::OID,
        &[
            ("4294967295", "4294967295"),
            ("-1", "4294967295"),
            ("4294967296", "22003"),
        ],
    );
    check(
        Type::NUMERIC,
        &[
            ("1.50", "1.50"),
            ("-0.05", "-0.05"),
            ("1e10", "10000000000"),
            ("1.5e-3", "0.0015"),
            (".5", "0.5"),
            ("5.", "5"),
            ("0", "0"),
            ("0.000", "0.000"),
            (
                "123456789012345678901234567890123456789012345.6",
                "123456789012345678901234567890123456789012345.6",
            ),
            ("1e76", "22003"),
            ("1e-77", "22003"),
            ("1e999999999", "22003"),
            ("0e999999999", "0"),
            ("1e99999999999", "22003"),
            ("NaN", "22003"),
            ("-Infinity", "22003"),
            (".", "22P02"),
            ("1 000", "22P02"),
            ("--1", "22P02"),
        ],
    );
}

#[test]
fn texts_and_the_like() {
    check(Type::TEXT, &[("a", "a"), ("", "")]);
    check(
        Type::UUID,
        &[
            (
                "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            ),
            (
                "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            ),
            (
                "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            ),
            ("a0eebc999c0b4ef8bb6d6bb9bd380a1", "22P02"),
            ("a0eebc999c0b4ef8bb6d6bb9bd380a11-", "22P02"),
            ("g0eebc999c0b4ef8bb6d6bb9bd380a11", "22P02"),
        ],
    );
    check(
        Type::JSONB,
        &[("{\"a\": [1]}", "{\"a\": [1]}"), ("{", "22P02")],
    );
    check(
        Type::BYTEA,
        &[
            ("\\x00fF", "\\x00ff"),
            ("\\x0", "22023"),
            ("\\xzz", "22023"),
            ("a\\\\b\\001", "\\x615c6201"),
            ("a\\b", "22P02"),
        ],
    );
    check(Type::CHAR, &[("relkind", "r"), ("", "")]);
    for (bytes, expected) in [
        (&b"\xff"[..], "22021"),
        (b"a\0b", "22021"),
        (b"\xc3", "22021"),
        ("é".as_bytes(), "é"),
    ] {
        assert_eq!(shown(decode(Some(bytes), 0, 25, None)), expected);
        assert_eq!(shown(decode(Some(bytes), 1, 25, None)), expected);
    }
}

#[test]
fn arrays() {
    check(
        Type::INT4_ARRAY,
        &[
            ("{1,NULL,3}", "{1,NULL,3}"),
            (" { 1 , 2 } ", "{1,2}"),
            ("{}", "{}"),
            ("[0:1]={1,2}", "{1,2}"),
            ("{1,x}", "22P02"),
            ("{1", "22P02"),
            ("1}", "22P02"),
            ("{1,}", "22P02"),
            ("{,1}", "22P02"),
            ("{1}2", "22P02"),
            ("{{1},{2}}", "0A000"),
            ("", "22P02"),
        ],
    );
    check(
        Type::TEXT_ARRAY,
        &[
            (
                r#"{a,"b c","d\"e",f\,g,"NULL",null,""}"#,
                r#"{a,"b c","d\"e","f,g","NULL",NULL,""}"#,
            ),
            ("{ a b }", "{\"a b\"}"),
            ("{\"a\"b}", "22P02"),
        ],
    );
    check(Type::NUMERIC_ARRAY, &[("{1,2.5,100}", "{1.0,2.5,100.0}")]);
    check(
        Type::TIMESTAMP_ARRAY,
        &[("{\"2024-01-02 03:04:05\"}", "{\"2024-01-02 03:04:05\"}")],
    );
    let wanted = DataType::new_list(DataType::Utf8View, true);
    let value = decode(Some(b"{a}"), 0, 0, Some(&wanted)).unwrap();
    assert_eq!(value.data_type(), wanted);
    let wanted = DataType::new_list(DataType::Int64, true);
    let value = decode(Some(b"{1,NULL}"), 0, Type::INT4_ARRAY.oid(), Some(&wanted)).unwrap();
    assert_eq!(value.data_type(), wanted);
    let ScalarValue::List(list) = &value else {
        panic!()
    };
    assert!(
        list.value(0)
            .as_primitive::<datafusion::arrow::datatypes::Int64Type>()
            .is_null(1)
    );
}

#[test]
fn nulls_and_types() {
    assert_eq!(decode(None, 0, 23, None).unwrap(), ScalarValue::Int32(None));
    assert_eq!(decode(None, 1, 0, None).unwrap(), ScalarValue::Utf8(None));
    assert_eq!(
        decode(None, 0, 23, Some(&DataType::Int64)).unwrap(),
        ScalarValue::Int64(None)
    );
    assert_eq!(
        decode(Some(b"a"), 0, 0, Some(&DataType::Null)).unwrap(),
        ScalarValue::from("a")
    );
    assert_eq!(
        decode(Some(b"1"), 2, 23, None).unwrap_err().sqlstate,
        "08P01"
    );
    assert_eq!(arrow_type(0), None);
    assert_eq!(arrow_type(705), None);
    assert_eq!(arrow_type(16_385), None);
    assert_eq!(
        arrow_type(1007),
        Some(DataType::new_list(DataType::Int32, true))
    );
}

#[test]
fn what_is_wanted_decides() {
    let naive = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let cases: [(&str, u32, DataType, &str); 17] = [
        ("7", 0, DataType::Int64, "7"),
        ("7", 25, DataType::Int64, "7"),
        ("x", 25, DataType::Int64, "22P02"),
        ("7", 0, DataType::Utf8View, "7"),
        ("300", 23, DataType::UInt8, "22003"),
        ("1.5", 1700, DataType::Int64, "2"),
        ("-2.5", 1700, DataType::Int32, "-3"),
        ("2.5", 701, DataType::Int32, "2"),
        ("NaN", 701, DataType::Int32, "22003"),
        ("1e300", 701, DataType::Float32, "22003"),
        ("NaN", 1700, DataType::Float64, "NaN"),
        ("1.005", 1700, DataType::Decimal128(10, 2), "1.01"),
        ("12345678901", 1700, DataType::Decimal128(10, 2), "22003"),
        ("1.25", 1700, DataType::Float64, "1.25"),
        (
            "2024-01-02 03:04:05",
            1114,
            naive.clone(),
            "2024-01-02 03:04:05",
        ),
        ("2500-01-02 03:04:05", 1114, naive, "22008"),
        (
            "18446744073709551615",
            0,
            DataType::UInt64,
            "18446744073709551615",
        ),
    ];
    for (text, oid, wanted, expected) in cases {
        let value = decode(Some(text.as_bytes()), 0, oid, Some(&wanted));
        if let Ok(value) = &value {
            assert_eq!(value.data_type(), wanted);
        }
        assert_eq!(shown(value), expected, "{text} of {oid} as {wanted}");
    }
}

#[test]
fn binary() {
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16).unwrap()).collect();
        digits.chunks(2).map(|p| (p[0] << 4 | p[1]) as u8).collect()
    };
    let cases = [
        (Type::INT4, "00000007", "7"),
        (Type::INT4, "0007", "22P03"),
        (Type::BOOL, "01", "t"),
        (Type::BOOL, "", "22P03"),
        (
            Type::NUMERIC,
            "0009000700000002000c0d801ed204d2162e23340d801ed204b0",
            "123456789012345678901234567890.12",
        ),
        (Type::NUMERIC, "0001fffe0000000503e8", "0.00001"),
        (Type::NUMERIC, "0001ffff4000000201f4", "-0.05"),
        (Type::NUMERIC, "0000000000000002", "0.00"),
        (Type::NUMERIC, "0001000000000000270f", "9999"),
        (Type::NUMERIC, "00010000000000002710", "22P03"),
        (Type::NUMERIC, "00017fff000000000001", "22003"),
        (Type::NUMERIC, "00007fff00000000", "0"),
        (Type::NUMERIC, "00000000c0000000", "22003"),
        (Type::NUMERIC, "0002000000000000", "22P03"),
        (Type::DATE, "ffffd532", "1969-12-31"),
        (Type::DATE, "7fffffff", "22008"),
        (Type::TIME, "000000141dd75fff", "23:59:59.999999"),
        (Type::TIME, "ffffffffffffffff", "22008"),
        (
            Type::TIMESTAMP,
            "0002b0ec8517d3b8",
            "2024-01-02 03:04:05.123",
        ),
        (Type::TIMESTAMP, "7fffffffffffffff", "22008"),
        (
            Type::TIMESTAMPTZ,
            "0002b0ec8517d3b8",
            "2024-01-02 03:04:05.123+00",
        ),
        (
            Type::INTERVAL,
            "000000036c97ca88000000030000000e",
            "1 year 2 mons 3 days 04:05:06.789",
        ),
        (
            Type::UUID,
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ),
        (Type::JSONB, "017b7d", "{}"),
        (Type::JSONB, "027b7d", "22P03"),
        (Type::BYTEA, "00ff", "\\x00ff"),
        (Type::OID, "ffffffff", "4294967295"),
        (
            Type::INT4_ARRAY,
            "00000001000000010000001700000003000000010000000400000001ffffffff0000000400000003",
            "{1,NULL,3}",
        ),
        (Type::INT4_ARRAY, "000000000000000000000017", "{}"),
        (Type::INT4_ARRAY, "000000000000000000000019", "42804"),
        (
            Type::INT4_ARRAY,
            "0000000100000000000000177fffffff00000001",
            "22P03",
        ),
        (Type::INT4_ARRAY, "000000020000000000000017", "0A000"),
        (
            Type::TEXT_ARRAY,
            "000000010000000000000413000000010000000100000001",
            "22P03",
        ),
        (Type::RECORD, "00000000", "0A000"),
    ];
    for (pg_type, bytes, expected) in cases {
        let value = decode(Some(&hex(bytes)), 1, pg_type.oid(), None);
        assert_eq!(shown(value), expected, "{pg_type}");
    }
    assert_eq!(
        decode(Some(b"x"), 1, 16_385, None).unwrap_err().sqlstate,
        "0A000"
    );
}

/// Types that are read and written alike.
fn types() -> Vec<DataType> {
    vec![
        DataType::Boolean,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt64,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal128(38, 10),
        DataType::Decimal256(76, 5),
        DataType::Utf8View,
        DataType::LargeBinary,
        DataType::FixedSizeBinary(3),
        DataType::Date32,
        DataType::Date64,
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Timestamp(TimeUnit::Second, Some(Arc::from("Europe/Berlin"))),
        DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Interval(IntervalUnit::YearMonth),
        DataType::Duration(TimeUnit::Second),
        DataType::new_list(DataType::Int32, true),
        DataType::new_large_list(DataType::Utf8, true),
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
        DataType::Struct(vec![Field::new("a", DataType::Int8, true)].into()),
    ]
}

const OIDS: [u32; 34] = [
    0, 16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 142, 700, 701, 705, 1042, 1043, 1082, 1083, 1114,
    1184, 1186, 1266, 1700, 2249, 2287, 2950, 3802, 1007, 1009, 1231, 1115, 16_385, 2205,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_bytes_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        format in 0..2_i16,
        oid in prop::sample::select(&OIDS[..]),
        wanted in prop::option::of(prop::sample::select(types())),
    ) {
        let _ = decode(Some(&bytes), format, oid, wanted.as_ref());
    }

    #[test]
    fn no_text_panics(
        text in "[-+0-9.eE:/TZ{}\"\\\\,aPBCnul \\[\\]=é]{0,24}",
        oid in prop::sample::select(&OIDS[..]),
        wanted in prop::option::of(prop::sample::select(types())),
    ) {
        let _ = decode(Some(text.as_bytes()), 0, oid, wanted.as_ref());
    }

    #[test]
    fn numerics_come_back(value in any::<i128>(), scale in 0..38_i8) {
        let value = value / 10;
        let decimal = ScalarValue::Decimal128(Some(value), 38, scale);
        for code in [0, 1] {
            let bytes = form(&decimal, code).unwrap();
            let back = decode(Some(&bytes), code, 1700, Some(&decimal.data_type())).unwrap();
            prop_assert_eq!(&back, &decimal);
        }
    }

    #[test]
    fn instants_come_back(micros in -62_000_000_000_000_000..200_000_000_000_000_000_i64) {
        let values = [
            (ScalarValue::TimestampMicrosecond(Some(micros), None), 1114),
            (ScalarValue::TimestampMicrosecond(Some(micros), Some(utc())), 1184),
            (ScalarValue::Date32(Some((micros / 86_400_000_000) as i32)), 1082),
        ];
        for (value, oid) in values {
            for code in [0, 1] {
                let bytes = form(&value, code).unwrap();
                prop_assert_eq!(&decode(Some(&bytes), code, oid, None).unwrap(), &value);
            }
        }
    }
}
