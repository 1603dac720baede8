//! `SELECT * FROM safeguard_calibrate(policy [, target [, golden]])`: from which gap on scores of a policy are trusted.
//!
//! Takes a policy, the share of right labels wanted, and the name of a table with columns `text` and `label` (else the
//! golden set that is shipped under the policy's name); gives one row, the same that is stored in
//! `safeguard.calibrations`. Knows no statistics.

use super::functions::{Call, Function, FunctionDoc, Planned, Planning};
use super::publish::external;
use crate::classify::calibrate::{Golden, in_words};
use crate::config::{CALIBRATION_TARGET, Role};
use crate::error::Error;
use crate::policy::golden::{GoldenRow, GoldenSet};
use crate::policy::{Version, folder};
use crate::store::CalibrationRow;
use datafusion::arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{DataFusionError, Result, TableReference, plan_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::TryStreamExt;
use std::sync::{Arc, LazyLock};

const NAME: &str = "safeguard_calibrate";

/// The columns of a golden table.
const COLUMNS: [&str; 2] = ["text", "label"];

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
    let version = planning
        .engine
        .policies
        .resolve(&policy)
        .map_err(external)?;
    let golden = match given.text("golden") {
        Some(table) => Source::Table(table.into()),
        None => shipped(&version)?,
    };
    let calibration = Calibration {
        policy,
        target,
        golden,
    };
    Ok(Planned::once(&SCHEMA, move |call| {
        run(call, calibration.clone())
    }))
}

fn shipped(version: &Version) -> Result<Source> {
    match folder::shipped_golden(&version.policy).map_err(external)? {
        Some(rows) => Ok(Source::Rows(Arc::new(Golden {
            source: "shipped".into(),
            rows,
        }))),
        None => Err(DataFusionError::Configuration(format!(
            "no golden set is shipped for policy \"{0}\"; {NAME}('{0}', {CALIBRATION_TARGET}, 'golden') takes one from \
             table golden with columns text and label",
            version.name
        ))),
    }
}

/// Where golden rows come from.
#[derive(Debug, Clone)]
enum Source {
    /// They are here.
    Rows(Arc<Golden>),
    /// They are in the table of this name.
    Table(Arc<str>),
}

/// A calibration to be made.
#[derive(Debug, Clone)]
struct Calibration {
    policy: Arc<str>,
    target: f64,
    golden: Source,
}

async fn run(call: Call, calibration: Calibration) -> Result<RecordBatch, Error> {
    let engine = &call.engine;
    let golden = match &calibration.golden {
        Source::Rows(golden) => Arc::clone(golden),
        Source::Table(name) => {
            let state = call.session().context().state();
            let table = golden_plan(name, &state).await?;
            let version = engine
                .policies
                .resolve(&calibration.policy)
                .map_err(external)?;
            Arc::new(Golden {
                source: Arc::clone(name),
                rows: read(table, &call.context, &version).await?,
            })
        }
    };
    let Calibration { policy, target, .. } = calibration;
    let row = engine
        .classifier
        .calibrate(policy, &golden, target, &call.statement())
        .await?;
    Ok(batch(&row)?)
}

/// How a golden table is read: its columns `text` and `label`.
async fn golden_plan(name: &str, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
    let catalog = &session.config_options().catalog;
    let place =
        TableReference::from(name).resolve(&catalog.default_catalog, &catalog.default_schema);
    let schema = session
        .catalog_list()
        .catalog(&place.catalog)
        .and_then(|catalog| catalog.schema(&place.schema));
    let table = match schema {
        Some(schema) => schema.table(&place.table).await?,
        None => None,
    };
    let Some(table) = table else {
        return plan_err!("table '{name}' not found");
    };
    let columns: Option<Vec<usize>> = COLUMNS
        .iter()
        .map(|column| table.schema().index_of(column).ok())
        .collect();
    let Some(columns) = columns else {
        return Err(DataFusionError::Configuration(format!(
            "{NAME}: table {name} must have the columns text and label"
        )));
    };
    table.scan(session, Some(&columns), &[], None).await
}

async fn read(
    table: Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    version: &Version,
) -> Result<Vec<GoldenRow>> {
    let mut batches = execute_stream(table, Arc::clone(context))?;
    let mut set = GoldenSet::new(&version.policy);
    let mut row = 0;
    while let Some(batch) = batches.try_next().await? {
        let column = |at| cast(batch.column(at), &DataType::Utf8);
        let (texts, labels) = (column(0)?, column(1)?);
        let (texts, labels) = (texts.as_string::<i32>(), labels.as_string::<i32>());
        for (text, label) in texts.iter().zip(labels) {
            row += 1;
            set.push(row, text.unwrap_or_default(), label.unwrap_or_default())
                .map_err(external)?;
        }
    }
    Ok(set.rows())
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
