//! Casts between text and other types as PostgreSQL does them, where the planner would not.
//!
//! Takes a plan whose types are known. Texts that are cast, because the statement says so or because what they are
//! compared with is no text, become the values that PostgreSQL's input functions read; what the planner reads itself it
//! may, so that nothing is lost of what it knows beyond PostgreSQL (nanoseconds), but for `bytea`, whose notation it does
//! not know. Timestamps that are cast to text are spelled as PostgreSQL spells them. Knows no statement's text.

use super::encode::{Form, Zone, cell, oids};
use super::failure::Failure;
use super::params::text;
use bytes::BytesMut;
use datafusion::arrow::array::{Array, ArrayRef, StringArray};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::optimizer::analyzer::AnalyzerRule;
use pgwire::api::Type;
use std::sync::Arc;

/// The rule of an analyzer, after the one that gives types.
#[derive(Debug)]
pub struct Casts {
    shown: Arc<ScalarUDF>,
}

impl Casts {
    /// The rule.
    pub fn new() -> Casts {
        Casts {
            shown: Arc::new(ScalarUDF::new_from_impl(Shown {
                // The zone is a setting.
                signature: Signature::any(1, Volatility::Stable),
            })),
        }
    }

    fn node(&self, plan: LogicalPlan, zone: &Zone) -> Result<Transformed<LogicalPlan>> {
        // A node of the engine's own names its arguments itself.
        if matches!(plan, LogicalPlan::Extension(_)) {
            return Ok(Transformed::no(plan));
        }
        let names = NamePreserver::new(&plan);
        let schema = merge_schema(&plan.inputs());
        let read = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let read = expr.transform_up(|expr| self.expression(expr, &schema, zone))?;
            Ok(match read.transformed {
                true => read.update_data(|expr| name.restore(expr)),
                false => read,
            })
        })?;
        match read.transformed {
            true => read.map_data(LogicalPlan::recompute_schema),
            false => Ok(read),
        }
    }

    fn expression(&self, expr: Expr, schema: &DFSchema, zone: &Zone) -> Result<Transformed<Expr>> {
        let Expr::Cast(cast) = &expr else {
            return Ok(Transformed::no(expr));
        };
        let wanted = cast.field.data_type();
        if let Expr::Literal(literal, metadata) = cast.expr.as_ref()
            && let Some(Some(written)) = literal.try_as_str()
        {
            let value = value(literal, written, (wanted, zone))?;
            return Ok(match value {
                Some(value) => Transformed::yes(Expr::Literal(value, metadata.clone())),
                None => Transformed::no(expr),
            });
        }
        let shown =
            wanted.is_string() && matches!(cast.expr.get_type(schema), Ok(DataType::Timestamp(..)));
        if !shown {
            return Ok(Transformed::no(expr));
        }
        let call = self.shown.call(vec![cast.expr.as_ref().clone()]);
        Ok(Transformed::yes(match wanted {
            DataType::Utf8 => call,
            wanted => Expr::Cast(Cast::new(Box::new(call), wanted.clone())),
        }))
    }
}

impl AnalyzerRule for Casts {
    fn name(&self) -> &'static str {
        "casts_of_postgresql"
    }

    /// # Errors
    /// 22P02, 22007 and their kin, in PostgreSQL's words.
    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let zone = zone(config);
        let read = plan.transform_up_with_subqueries(|plan| self.node(plan, &zone))?;
        Ok(read.data)
    }
}

/// The session's.
fn zone(config: &ConfigOptions) -> Zone {
    let zone = config.execution.time_zone.as_deref();
    let zone = zone.and_then(|name| Zone::parse(name).ok());
    zone.unwrap_or_default()
}

/// A value as another type; a text is read as PostgreSQL reads it.
///
/// # Errors
/// As PostgreSQL's input functions; 22P02 and its kin for what is no text and cannot be cast.
pub fn as_type(from: &ScalarValue, wanted: &DataType, zone: &Zone) -> Result<ScalarValue> {
    if let Some(Some(written)) = from.try_as_str()
        && let Some(value) = value(from, written, (wanted, zone))?
    {
        return Ok(value);
    }
    from.cast_to(wanted)
}

/// What `written` is as another type; none where the planner is to read it.
fn value(
    literal: &ScalarValue,
    written: &str,
    (wanted, zone): (&DataType, &Zone),
) -> Result<Option<ScalarValue>, Failure> {
    let pg_type = oids::base_type(wanted);
    let known = matches!(
        pg_type,
        Type::BOOL
            | Type::INT2
            | Type::INT4
            | Type::INT8
            | Type::FLOAT4
            | Type::FLOAT8
            | Type::NUMERIC
            | Type::BYTEA
            | Type::DATE
            | Type::TIME
            | Type::TIMESTAMP
            | Type::TIMESTAMPTZ
            | Type::INTERVAL
    );
    if !known || pg_type != Type::BYTEA && literal.cast_to(wanted).is_ok() {
        return Ok(None);
    }
    let read = text::scalar(written, pg_type.oid(), Some(wanted), zone)?;
    Ok(read.cast_to(wanted).ok())
}

/// A timestamp as PostgreSQL shows it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Shown {
    signature: Signature,
}

impl ScalarUDFImpl for Shown {
    fn name(&self) -> &'static str {
        "timestamp_out"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let zone = zone(&args.config_options);
        let [field] = args.arg_fields.as_slice() else {
            return Err(Failure::new("42883", "timestamp_out takes one argument").into());
        };
        Ok(match &args.args[0] {
            ColumnarValue::Scalar(value) => {
                let shown = shown(&value.to_array()?, field, &zone)?;
                let text = shown.is_valid(0).then(|| shown.value(0).to_owned());
                ColumnarValue::Scalar(ScalarValue::Utf8(text))
            }
            ColumnarValue::Array(array) => {
                ColumnarValue::Array(Arc::new(shown(array, field, &zone)?))
            }
        })
    }
}

fn shown(array: &ArrayRef, field: &FieldRef, zone: &Zone) -> Result<StringArray> {
    let slot = cell::slot(array, field, Form::Text, zone);
    let mut out = BytesMut::new();
    let texts = (0..array.len()).map(|row| {
        if slot.is_null(row) {
            return Ok(None);
        }
        out.clear();
        slot.put(row, &mut out);
        let text = std::str::from_utf8(&out).map(str::to_owned);
        text.map(Some)
            .map_err(|_| Failure::new("XX000", "bug: a timestamp that is no text").into())
    });
    texts.collect()
}

#[cfg(test)]
#[path = "casts_tests.rs"]
mod tests;
