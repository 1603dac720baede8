//! `SELECT * FROM safeguard_calibrate(policy [, target [, golden]])`: from which gap on scores of a policy are trusted.
//!
//! Takes a policy, the share of right labels wanted, and a table or query with columns `text` and `label` (else the
//! golden set that comes with the policy); gives one row, the same that is stored in
//! `safeguard.calibrations`. Knows no statistics.

use super::functions::{Call, Function, FunctionDoc, Planned, Planning};
use super::publish::external;
use super::{Engine, golden};
use crate::classify::calibrate::{Golden, in_words};
use crate::config::{CALIBRATION_TARGET, Role};
use crate::error::Error;
use crate::policy::Version;
use crate::store::CalibrationRow;
use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use std::sync::{Arc, LazyLock};

const NAME: &str = "safeguard_calibrate";

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name: &str, data_type| Field::new(name, data_type, name == "gap");
    Arc::new(Schema::new(vec![
        field("policy", DataType::Utf8),
        field("policy_version", DataType::Int64),
        field("model", DataType::Utf8),
        field("target", DataType::Float64),
        field("gap", DataType::Float64),
        field("golden_rows", DataType::Int64),
        field("scored", DataType::Int64),
        field("scored_right", DataType::Int64),
        field("rows_above", DataType::Int64),
        field("right_above", DataType::Int64),
        field("bound", DataType::Float64),
        field("finding", DataType::Utf8),
    ]))
});

/// The function.
pub(super) fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: NAME,
            arguments: &[
                ("policy", DataType::Utf8),
                ("target", DataType::Float64),
                ("golden", DataType::Utf8),
            ],
            required: 1,
            returns: Arc::clone(&SCHEMA),
            description: "Scores a policy's golden set and finds from which gap on scores can stand in mode auto. Target and golden may be left out.",
        },
        role: Role::Admin,
        plan,
    }
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = planning.arguments;
    let policy: Arc<str> = given.required("policy").into();
    let target = given.number("target").unwrap_or(CALIBRATION_TARGET);
    if !(target > 0.0 && target < 1.0) {
        return Err(DataFusionError::Configuration(format!(
            "{NAME}: target {target} is not above 0 and below 1"
        )));
    }
    let policies = &planning.engine.policies;
    policies.resolve(&policy).map_err(external)?;
    let golden = given.text("golden").map(Arc::from);
    let calibration = Calibration {
        policy,
        target,
        golden,
    };
    Ok(Planned::once(&SCHEMA, move |call| {
        run(call, calibration.clone())
    }))
}

/// A calibration to be made.
#[derive(Debug, Clone)]
struct Calibration {
    policy: Arc<str>,
    target: f64,
    /// A table or a query; `None` for the set that comes with the policy.
    golden: Option<Arc<str>>,
}

async fn run(call: Call, calibration: Calibration) -> Result<RecordBatch, Error> {
    let engine = &call.engine;
    let version = engine.policies.resolve(&calibration.policy)?;
    let golden = match &calibration.golden {
        Some(said) => golden::read(&call.session(), NAME, said, &version.policy).await?,
        None => own(engine, &version)?,
    };
    let Calibration { policy, target, .. } = calibration;
    let row = engine
        .classifier
        .cascade()
        .calibrate(policy, &golden, target, &call.statement())
        .await?;
    Ok(batch(&row)?)
}

fn own(engine: &Engine, version: &Version) -> Result<Golden, Error> {
    match engine.golden_set(&version.policy)? {
        Some(golden) => Ok(golden),
        None => Err(DataFusionError::Configuration(format!(
            "no golden set is shipped for policy \"{0}\"; {NAME}('{0}', {CALIBRATION_TARGET}, 'golden') takes one from \
             table golden with columns text and label",
            version.name
        ))
        .into()),
    }
}

fn batch(row: &CalibrationRow) -> Result<RecordBatch> {
    let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
    let count = |value: u64| -> ArrayRef {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        Arc::new(Int64Array::from(vec![value]))
    };
    let float = |value: Option<f64>| -> ArrayRef { Arc::new(Float64Array::from(vec![value])) };
    let columns = vec![
        text(&row.policy),
        count(row.policy_version.into()),
        text(&row.model),
        float(Some(row.target)),
        float(row.gap),
        count(row.golden_rows),
        count(row.scored),
        count(row.scored_right),
        count(row.rows_above),
        count(row.right_above),
        float(Some(row.bound)),
        text(&in_words(row)),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}
