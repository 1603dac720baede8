//! `to_char` with PostgreSQL's patterns. A pattern with `%` is DataFusion's own (strftime).

use super::{dates, numbers};
use crate::server::failure::Failure;
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToChar {
    signature: Signature,
    strftime: Arc<ScalarUDF>,
}

pub(super) fn udf() -> ScalarUDF {
    ScalarUDF::new_from_impl(ToChar {
        // The zone is a setting.
        signature: Signature::any(2, Volatility::Stable),
        strftime: datafusion::functions::datetime::to_char(),
    })
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &'static str {
        "to_char"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [_, ColumnarValue::Scalar(pattern)] = args.args.as_slice() {
            let percent = pattern
                .try_as_str()
                .flatten()
                .is_some_and(|p| p.contains('%'));
            if percent {
                return self.strftime.invoke_with_args(args);
            }
        }
        let zone = args.config_options.execution.time_zone.clone();
        let scalar = args
            .args
            .iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let count = if scalar { 1 } else { args.number_rows };
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [values, patterns] = arrays.as_slice() else {
            return Err(unfit(&DataType::Null).into());
        };
        let patterns = cast(patterns, &DataType::Utf8)?;
        let patterns = patterns.as_string::<i32>();
        let shown = match values.data_type() {
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
                times(values, patterns, zone.as_deref().unwrap_or("+00:00"))?
            }
            kind if kind.is_numeric() => amounts(values, patterns)?,
            DataType::Null => StringArray::new_null(count),
            kind => return Err(unfit(kind).into()),
        };
        Ok(match scalar && shown.len() == 1 {
            true => {
                let text = shown.is_valid(0).then(|| shown.value(0).to_owned());
                ColumnarValue::Scalar(ScalarValue::Utf8(text))
            }
            false => ColumnarValue::Array(Arc::new(shown)),
        })
    }
}

fn unfit(kind: &DataType) -> Failure {
    Failure::new(
        "42883",
        format!("function to_char({kind}, text) does not exist"),
    )
    .with_hint("it takes dates, timestamps and numbers")
}

fn times(values: &ArrayRef, patterns: &StringArray, zone: &str) -> Result<StringArray> {
    let zoned = matches!(values.data_type(), DataType::Timestamp(_, Some(_)));
    let wanted = DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| zone.into()));
    let values = cast(values, &wanted)?;
    let values = values.as_primitive::<TimestampMicrosecondType>();
    let zone: Tz = zone.parse()?;
    let mut parsed = Parsed::default();
    let shown = (0..values.len()).map(|row| {
        if values.is_null(row) || patterns.is_null(row) {
            return None;
        }
        let pattern = parsed.of(patterns.value(row));
        let moment = match zoned {
            true => dates::Moment::zoned(values.value_as_datetime_with_tz(row, zone)?, zone),
            false => dates::Moment::plain(values.value_as_datetime(row)?),
        };
        Some(dates::show(&moment, pattern))
    });
    Ok(shown.collect())
}

/// The last pattern, which is nearly always the next one too.
#[derive(Default)]
struct Parsed {
    text: String,
    pieces: Vec<dates::Piece>,
}

impl Parsed {
    fn of(&mut self, text: &str) -> &[dates::Piece] {
        if self.text != text {
            self.pieces = dates::parse(text);
            text.clone_into(&mut self.text);
        }
        &self.pieces
    }
}

fn amounts(values: &ArrayRef, patterns: &StringArray) -> Result<StringArray> {
    let options = FormatOptions::default();
    // Decimals and whole numbers are texts of digits already.
    let formatter = ArrayFormatter::try_new(values, &options)?;
    let floats = values.data_type().is_floating();
    let wide = if floats {
        Some(cast(values, &DataType::Float64)?)
    } else {
        None
    };
    let shown = (0..values.len()).map(|row| {
        if values.is_null(row) || patterns.is_null(row) {
            return None;
        }
        let digits = match &wide {
            Some(wide) => {
                let value = wide
                    .as_primitive::<datafusion::arrow::datatypes::Float64Type>()
                    .value(row);
                format!("{value}")
            }
            None => formatter.value(row).to_string(),
        };
        Some(numbers::show(&digits, patterns.value(row)))
    });
    Ok(shown.collect())
}
