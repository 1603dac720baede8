//! Columns of Delta tables: those that a statement declares, and whether a table has them.
//!
//! Takes Arrow's columns, gives Delta's. What Delta has no type for is refused with the column's name.

use crate::error::Error;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::{Snapshot, StructField};
use std::sync::Arc;

/// The columns as Delta keeps them.
///
/// # Errors
/// 0A000 naming the first column that has a type that Delta has not.
pub(super) fn kept(schema: &Schema) -> Result<Vec<StructField>, Error> {
    let kept = |field: &Arc<Field>| {
        let plain = plain(field.data_type());
        let field_of = plain.and_then(|kind| {
            let field = Field::new(field.name(), kind, field.is_nullable());
            (&field).try_into_kernel().ok()
        });
        field_of.ok_or_else(|| {
            let (name, kind) = (field.name(), field.data_type());
            let why = format!("cannot keep column \"{name}\": Delta has no type for {kind}");
            Error::refused("0A000", why)
        })
    };
    schema.fields().iter().map(kept).collect()
}

/// The type whose values Delta's files hold; `None` where there is none.
fn plain(kind: &DataType) -> Option<DataType> {
    Some(match kind {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => plain(values)?,
        DataType::Timestamp(_, zone) => {
            let zone = zone.as_ref().map(|_| "UTC".into());
            DataType::Timestamp(TimeUnit::Microsecond, zone)
        }
        DataType::List(item) | DataType::LargeList(item) => {
            DataType::List(Arc::new(plain_field(item)?))
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| plain_field(field));
            DataType::Struct(fields.collect::<Option<Fields>>()?)
        }
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Decimal128(..) => kind.clone(),
        _ => return None,
    })
}

fn plain_field(field: &Field) -> Option<Field> {
    let kind = plain(field.data_type())?;
    Some(Field::new(field.name(), kind, field.is_nullable()))
}

/// Checks that a table has the declared columns and partitions, in their order.
///
/// # Errors
/// The first difference, with the column's name.
pub(super) fn check(
    (name, table): (&str, &Snapshot),
    declared: &[StructField],
    partitions: &[String],
) -> Result<(), Error> {
    let schema = table.schema();
    let there: Vec<&StructField> = schema.fields().collect();
    let differs = |sqlstate, what: String| {
        let why = format!("Delta table \"{name}\" is there with other columns: {what}");
        let hint = "without columns in the statement they come from the table";
        Err(Error::Refused {
            sqlstate,
            why,
            hint: Some(hint.to_owned()),
        })
    };
    let described = |field: &StructField| {
        let end = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("{}{end}", field.data_type())
    };
    for (place, field) in declared.iter().enumerate() {
        let column = field.name();
        match there.iter().position(|other| other.name() == column) {
            None => return differs("42703", format!("it has no column \"{column}\"")),
            Some(other) if other != place => {
                let what = format!("column \"{column}\" is its column {}", other + 1);
                return differs("42804", format!("{what}, not {}", place + 1));
            }
            Some(other) => {
                let (is, said) = (described(there[other]), described(field));
                if is != said {
                    return differs("42804", format!("column \"{column}\" is {is}, not {said}"));
                }
            }
        }
    }
    if let Some(more) = there.get(declared.len()) {
        let column = more.name();
        return differs("42804", format!("it has a column \"{column}\" too"));
    }
    let is = table.metadata().partition_columns();
    if *is != *partitions {
        let listed = |columns: &[String]| match columns {
            [] => "not partitioned".to_owned(),
            columns => format!("partitioned by {}", columns.join(", ")),
        };
        return differs(
            "42804",
            format!("it is {}, not {}", listed(is), listed(partitions)),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_without_a_type_in_delta_are_named() {
        let seconds = DataType::Timestamp(TimeUnit::Second, Some("+02:00".into()));
        for (kind, want) in [
            (DataType::Utf8View, Ok("string")),
            (DataType::Int64, Ok("long")),
            (seconds, Ok("timestamp")),
            (
                DataType::Timestamp(TimeUnit::Nanosecond, None),
                Ok("timestamp_ntz"),
            ),
            (DataType::Decimal128(10, 2), Ok("decimal(10,2)")),
            (DataType::UInt64, Err("UInt64")),
            (DataType::Time64(TimeUnit::Nanosecond), Err("Time64(ns)")),
        ] {
            let schema = Schema::new(vec![Field::new("a", kind, true)]);
            let kept = kept(&schema).map(|fields| fields[0].data_type().to_string());
            match (kept, want) {
                (Ok(kept), Ok(want)) => assert_eq!(kept, want),
                (Err(error), Err(kind)) => assert_eq!(
                    error.to_string(),
                    format!("cannot keep column \"a\": Delta has no type for {kind}")
                ),
                other => panic!("{other:?}"),
            }
        }
    }
}
