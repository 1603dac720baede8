//! `pg_sleep`: waits without holding a thread, and stops when the statement is dropped.

use datafusion::arrow::array::{AsArray, StringArray};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;
use std::time::Duration;

/// Longest sleep of one call, in seconds: a day.
const SECONDS_MAX: f64 = 86_400.0;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sleep {
    signature: Signature,
}

pub(super) fn udf() -> ScalarUDF {
    let sleep = Sleep {
        signature: Signature::exact(vec![DataType::Float64], Volatility::Volatile),
    };
    AsyncScalarUDF::new(Arc::new(sleep)).into_scalar_udf()
}

impl ScalarUDFImpl for Sleep {
    fn name(&self) -> &'static str {
        "pg_sleep"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("bug: pg_sleep is asynchronous")
    }
}

#[async_trait::async_trait]
impl AsyncScalarUDFImpl for Sleep {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let count = args.number_rows;
        let seconds = match args.args.into_iter().next() {
            Some(arg) => arg.into_array(count)?,
            None => return internal_err!("bug: pg_sleep takes an argument"),
        };
        for seconds in seconds.as_primitive::<Float64Type>().iter().flatten() {
            if seconds > 0.0 {
                tokio::time::sleep(Duration::from_secs_f64(seconds.min(SECONDS_MAX))).await;
            }
        }
        // PostgreSQL's void, which clients read as an empty text.
        let nothing = StringArray::from(vec![""; count]);
        Ok(ColumnarValue::Array(Arc::new(nothing)))
    }
}
