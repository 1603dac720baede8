//! `information_schema._pg_expandarray`: elements with their places, as a list that `unnest` takes apart.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array, ListArray, StructArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Expand {
    signature: Signature,
}

pub(super) fn udf() -> ScalarUDF {
    ScalarUDF::new_from_impl(Expand {
        signature: Signature::any(1, Volatility::Immutable),
    })
}

/// `x`, the element, and `n`, its place from 1.
fn fields() -> Fields {
    let field = |name| Field::new(name, DataType::Int32, true);
    Fields::from(vec![field("x"), field("n")])
}

fn item() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Struct(fields()), true))
}

impl ScalarUDFImpl for Expand {
    fn name(&self) -> &'static str {
        "pg_expandarray"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let count = args.number_rows;
        let mut arrays = args.args.into_iter();
        let array = match arrays.next() {
            Some(array) => array.into_array(count)?,
            None => Arc::new(Int32Array::new_null(count)),
        };
        let wanted = Arc::new(Field::new_list_field(DataType::Int32, true));
        let lists = cast(&array, &DataType::List(wanted))?;
        let lists: &ListArray = lists.as_list::<i32>();
        let (mut values, mut places, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..count {
            let list = if lists.is_null(row) {
                None
            } else {
                Some(lists.value(row))
            };
            lengths.push(list.as_ref().map_or(0, |list| list.len()));
            for (place, at) in list.iter().flat_map(|list| 0..list.len()).zip(0..) {
                let list = lists.value(row);
                let numbers = list.as_primitive::<datafusion::arrow::datatypes::Int32Type>();
                values.push(numbers.is_valid(at).then(|| numbers.value(at)));
                places.push(i32::try_from(place).unwrap_or(i32::MAX - 1) + 1);
            }
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(values)),
            Arc::new(Int32Array::from(places)),
        ];
        let structs = StructArray::try_new(fields(), columns, None)?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        let list = ListArray::try_new(item(), offsets, Arc::new(structs), None)?;
        Ok(ColumnarValue::Array(Arc::new(list)))
    }
}
