use super::*;
use datafusion::arrow::array::*;
use datafusion::arrow::datatypes::*;
use std::sync::Arc;

/// A record batch of one column.
fn one(field: Field, array: ArrayRef) -> (Schema, RecordBatch) {
    let schema = Schema::new(vec![field]);
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![array]).unwrap();
    (schema, batch)
}

/// The first value of each row's DataRow.
fn values(schema: &Schema, batch: &RecordBatch, format: i16) -> Vec<Option<Vec<u8>>> {
    let columns = Columns::new(schema, &[format], Display::default()).unwrap();
    let mut out = BytesMut::new();
    let next = columns
        .write_rows(batch, 0, usize::MAX, usize::MAX, &mut out)
        .unwrap();
    assert_eq!(next, batch.num_rows());
    let mut rest = &out[..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        assert_eq!(rest[0], b'D');
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        let size = i32::from_be_bytes(rest[7..11].try_into().unwrap());
        found.push((size >= 0).then(|| rest[11..1 + length].to_vec()));
        if size >= 0 {
            assert_eq!(length, 4 + 2 + 4 + size as usize);
        }
        rest = &rest[1 + length..];
    }
    found
}

fn check(array: impl Array + 'static, expected: &[Option<&str>]) {
    let array: ArrayRef = Arc::new(array);
    let (schema, batch) = one(Field::new("a", array.data_type().clone(), true), array);
    let found: Vec<_> = values(&schema, &batch, 0)
        .into_iter()
        .map(|v| v.map(|v| String::from_utf8(v).unwrap()))
        .collect();
    let found: Vec<_> = found.iter().map(|v| v.as_deref()).collect();
    assert_eq!(found, expected);
}

#[test]
fn scalars_as_text() {
    check(
        BooleanArray::from(vec![Some(true), None, Some(false)]),
        &[Some("t"), None, Some("f")],
    );
    check(
        Int64Array::from(vec![i64::MIN, -1, 0, 9, 10, 99, 100, 12345, i64::MAX]),
        &[
            Some("-9223372036854775808"),
            Some("-1"),
            Some("0"),
            Some("9"),
            Some("10"),
            Some("99"),
            Some("100"),
            Some("12345"),
            Some("9223372036854775807"),
        ],
    );
    check(
        UInt64Array::from(vec![u64::MAX]),
        &[Some("18446744073709551615")],
    );
    check(
        StringArray::from(vec![Some("a"), None, Some("")]),
        &[Some("a"), None, Some("")],
    );
}
