//! PostgreSQL's functions that DataFusion lacks or has with other meanings.
//!
//! Each is a closure from cells to a cell. They answer questions about catalogs, so they are made to be short rather
//! than fast; `to_char`, which is for data too, is apart.

mod dates;
mod expand;
mod identity;
mod numbers;
mod objects;
mod privileges;
mod sleep;
mod text;
mod to_char;

use super::Facts;
use super::provider::Shared;
use super::rows::{self, Cell, Kind};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};
use datafusion::prelude::SessionContext;
use datafusion_pg_catalog::pg_catalog::array_bounds_udf;
use datafusion_pg_catalog::pg_catalog::generate_series_arg_coercion::CoerceIntArgsToBigInt;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;

type Run = dyn Fn(&[Cell], &[DataType]) -> Result<Cell> + Send + Sync;

/// A function.
#[derive(Clone)]
struct Function {
    name: &'static str,
    signature: Signature,
    returns: Kind,
    /// NULL for a NULL argument.
    strict: bool,
    run: Arc<Run>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Function) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.run, &other.run)
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.data_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args
            .args
            .iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)))
            && self.signature.volatility != Volatility::Volatile;
        let count = if constant { 1 } else { args.number_rows };
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        let mut columns = Vec::with_capacity(args.args.len());
        for arg in args.args {
            columns.push(rows::cells(&arg.into_array(count)?)?);
        }
        let mut results = Vec::with_capacity(count);
        let mut row = Vec::with_capacity(columns.len());
        for at in 0..count {
            row.clear();
            row.extend(columns.iter().map(|column| column[at].clone()));
            results.push(match self.strict && row.contains(&Cell::Null) {
                true => Cell::Null,
                false => (self.run)(&row, &types)?,
            });
        }
        let array: ArrayRef = rows::column(self.returns, results.iter());
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?),
            false => ColumnarValue::Array(array),
        })
    }
}

/// The functions of one connection as they are gathered.
struct Functions {
    list: Vec<Function>,
    shared: Arc<Shared>,
    facts: Arc<Facts>,
}

impl Functions {
    fn define(
        &mut self,
        (name, returns): (&'static str, Kind),
        arguments: RangeInclusive<usize>,
        volatility: Volatility,
        run: impl Fn(&[Cell], &[DataType]) -> Result<Cell> + Send + Sync + 'static,
    ) -> &mut Function {
        let of = |count| match count {
            0 => TypeSignature::Nullary,
            count => TypeSignature::Any(count),
        };
        let signature = match arguments.clone().count() {
            1 => of(*arguments.start()),
            _ => TypeSignature::OneOf(arguments.map(of).collect()),
        };
        self.list.push(Function {
            name,
            signature: Signature::new(signature, volatility),
            returns,
            strict: true,
            run: Arc::new(run),
        });
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    /// One that always gives the same.
    fn constant(
        &mut self,
        names: &[&'static str],
        arguments: RangeInclusive<usize>,
        cell: &Cell,
        kind: Kind,
    ) {
        for name in names {
            let cell = cell.clone();
            self.define(
                (name, kind),
                arguments.clone(),
                Volatility::Stable,
                move |_, _| Ok(cell.clone()),
            );
        }
    }
}

/// Registers all of them.
pub(super) fn register(context: &SessionContext, shared: &Arc<Shared>, facts: &Arc<Facts>) {
    let mut functions = Functions {
        list: Vec::new(),
        shared: Arc::clone(shared),
        facts: Arc::clone(facts),
    };
    identity::define(&mut functions);
    objects::define(&mut functions);
    privileges::define(&mut functions);
    text::define(&mut functions);
    for function in functions.list {
        context.register_udf(ScalarUDF::new_from_impl(function));
    }
    context.register_udf(to_char::udf());
    context.register_udf(expand::udf());
    context.register_udtf("pg_get_keywords", Arc::clone(&shared.keywords) as Arc<_>);
    CoerceIntArgsToBigInt::widen(context);
    context.register_udf(sleep::udf());
    context.register_udf(array_bounds_udf::create_array_upper_udf());
    context.register_udf(array_bounds_udf::create_array_lower_udf());
    let uuid = datafusion::functions::string::uuid();
    context.register_udf(
        uuid.as_ref()
            .clone()
            .with_aliases(["gen_random_uuid", "uuid_generate_v4"]),
    );
}
