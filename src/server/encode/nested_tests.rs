use super::pg_type;
use super::tests::{check, check_hex, hex, nullable};
use datafusion::arrow::array::*;
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::*;
use pgwire::api::Type;
use std::sync::Arc;

#[test]
fn lists_are_arrays() {
    let words = [
        None,
        Some(""),
        Some("null"),
        Some("NULL"),
        Some("a b"),
        Some("a\"b"),
        Some("a\\b"),
        Some("{x}"),
        Some("a,b"),
        Some("é"),
        Some("a\nb"),
        Some("plain"),
        Some("()"),
    ];
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value(words);
    list.append_null();
    check(
        list.finish(),
        &[
            "{NULL,\"\",\"null\",\"NULL\",\"a b\",\"a\\\"b\",\"a\\\\b\",\"{x}\",\"a,b\",é,\"a\nb\",plain,()}",
            "∅",
        ],
    );
    let integers = || {
        let rows = [Some(vec![Some(1), None, Some(3)]), Some(vec![])];
        ListArray::from_iter_primitive::<Int32Type, _, _>(rows)
    };
    check(integers(), &["{1,NULL,3}", "{}"]);
    check_hex(
        integers(),
        &[
            "00000001000000010000001700000003000000010000000400000001ffffffff0000000400000003",
            "000000000000000000000017",
        ],
    );
    let field = Arc::new(Field::new_list_field(DataType::Int32, true));
    let fixed =
        FixedSizeListArray::new(field, 2, Arc::new(Int32Array::from(vec![1, 2, 3, 4])), None);
    check(fixed.slice(1, 1), &["{3,4}"]);
    // A view's elements may stand anywhere.
    let field = Arc::new(Field::new_list_field(DataType::Int64, true));
    let views = ListViewArray::new(
        field,
        ScalarBuffer::from(vec![1, 0]),
        ScalarBuffer::from(vec![1, 2]),
        Arc::new(Int64Array::from(vec![7, 8])),
        None,
    );
    check(views, &["{8}", "{7,8}"]);
    // Lists of lists need not be rectangular: text in both formats.
    let inner = integers();
    let field = Arc::new(Field::new_list_field(inner.data_type().clone(), true));
    let outer = ListArray::new(
        field,
        OffsetBuffer::from_lengths([2]),
        Arc::new(inner),
        None,
    );
    assert_eq!(pg_type(&nullable(&outer)), Type::TEXT);
    check(outer.clone(), &["{{1,NULL,3},{}}"]);
    assert_eq!(hex(outer), ["7b7b312c4e554c4c2c337d2c7b7d7d"]);
}

#[test]
fn structs_are_records() {
    let words = ["", "a b", "a\"b", "a\\b", "(x)", "a,b", "plain"];
    let mut fields = vec![Arc::new(Field::new("n", DataType::Int32, true))];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![None]))];
    for word in words {
        fields.push(Arc::new(Field::new("w", DataType::Utf8, true)));
        columns.push(Arc::new(StringArray::from(vec![word])));
    }
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), Some(2)])]);
    fields.push(Arc::new(nullable(&list)));
    columns.push(Arc::new(list));
    let array = StructArray::new(fields.into(), columns, None);
    check(
        array,
        &["(,\"\",\"a b\",\"a\"\"b\",\"a\\\\b\",\"(x)\",\"a,b\",plain,\"{1,2}\")"],
    );
    let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
    let fields = vec![
        field("a", DataType::Int32),
        field("b", DataType::Int32),
        field("c", DataType::Utf8),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![1, 9])),
        Arc::new(Int32Array::from(vec![None, None])),
        Arc::new(StringArray::from(vec!["a", "b"])),
    ];
    let nulls = NullBuffer::from(vec![true, false]);
    check_hex(
        StructArray::new(fields.into(), columns, Some(nulls)),
        &[
            "0000000300000017000000040000000100000017ffffffff000000190000000161",
            "∅",
        ],
    );
}

#[test]
fn what_postgresql_does_not_have_is_text() {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("a \"b\"");
    map.values().append_value(1);
    map.append(true).unwrap();
    let map = map.finish();
    assert_eq!(pg_type(&nullable(&map)), Type::TEXT);
    check(map.clone(), &["{\"a \\\"b\\\"\":1}"]);
    assert_eq!(hex(map), ["7b2261205c22625c22223a317d"]);
    let mut union = UnionBuilder::new_dense();
    union.append::<Int32Type>("a", 1).unwrap();
    union.append::<Float64Type>("b", 1.5).unwrap();
    union.append_null::<Int32Type>("a").unwrap();
    check(union.build().unwrap(), &["1", "1.5", "∅"]);
    let words = StringArray::from(vec![Some("x"), None]);
    let keys = Int8Array::from(vec![Some(0), Some(1), None, Some(0)]);
    check(
        DictionaryArray::new(keys, Arc::new(words)),
        &["x", "∅", "∅", "x"],
    );
    let ends = Int32Array::from(vec![2, 3]);
    let runs = RunArray::try_new(&ends, &Int64Array::from(vec![7, 8])).unwrap();
    assert_eq!(pg_type(&nullable(&runs)), Type::INT8);
    check(runs, &["7", "7", "8"]);
}
