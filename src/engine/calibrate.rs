//! `SELECT * FROM safeguard_calibrate(policy [, target [, golden]])`: from which gap on scores of a policy are trusted.
//!
//! Takes a policy, the share of right labels wanted, and the name of a table with columns `text` and `label` (else the
//! golden set that is shipped under the policy's name); gives one row, the same that is stored in
//! `safeguard.calibrations`. Arguments are checked when a plan is made; texts are asked when it runs. Knows no statistics.

use super::publish::{as_text, external};
use super::{Engine, FunctionDoc};
use crate::classify::calibrate::{Golden, in_words};
use crate::config::CALIBRATION_TARGET;
use crate::policy::golden::{GoldenRow, GoldenSet};
use crate::policy::{Version, folder};
use crate::store::CalibrationRow;
use datafusion::arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue, TableReference, plan_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use safeguard_udfs::{SafeguardSettings, Statement};
use std::sync::{Arc, LazyLock};

pub(super) const NAME: &str = "safeguard_calibrate";

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

/// What clients are told of it.
pub(super) fn documentation() -> FunctionDoc {
    FunctionDoc {
        name: NAME,
        arguments: &[
            ("policy", DataType::Utf8),
            ("target", DataType::Float64),
            ("golden", DataType::Utf8),
        ],
        returns: Arc::clone(&SCHEMA),
        description: "Scores a policy's golden set and finds from which gap on scores can stand in mode auto. Target and golden may be left out.",
    }
}

pub(super) fn register(context: &SessionContext, engine: Engine) {
    context.register_udtf(NAME, Arc::new(Calibrate { engine }));
}

#[derive(Debug)]
struct Calibrate {
    engine: Engine,
}

impl TableFunctionImpl for Calibrate {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let args = args.exprs();
        let policy = args.first().and_then(as_text);
        let target = args.get(1).map_or(Some(CALIBRATION_TARGET), as_number);
        let table = args.get(2).map(as_text);
        let (Some(policy), Some(target), false, true) =
            (policy, target, table == Some(None), args.len() <= 3)
        else {
            return plan_err!(
                "{NAME}(policy [, target [, golden]]) takes a text literal, a number and a table's name"
            );
        };
        if !(target > 0.0 && target < 1.0) {
            return Err(DataFusionError::Configuration(format!(
                "{NAME}: target {target} is not above 0 and below 1"
            )));
        }
        let version = self.engine.policies.resolve(policy).map_err(external)?;
        let golden = match table.flatten() {
            Some(table) => Source::Table(table.into()),
            None => shipped(&version)?,
        };
        Ok(Arc::new(Calibration {
            engine: self.engine.clone(),
            policy: policy.into(),
            target,
            golden,
        }))
    }
}

fn as_number(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Literal(value, _) if value.data_type().is_numeric() => {
            match value.cast_to(&DataType::Float64) {
                Ok(ScalarValue::Float64(number)) => number,
                _ => None,
            }
        }
        _ => None,
    }
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

/// A calibration that is made when it is scanned.
#[derive(Debug, Clone)]
pub(super) struct Calibration {
    engine: Engine,
    policy: Arc<str>,
    target: f64,
    golden: Source,
}

#[async_trait::async_trait]
impl TableProvider for Calibration {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = match &self.golden {
            Source::Table(name) => Some(golden_plan(name, session).await?),
            Source::Rows(_) => None,
        };
        let partition: Arc<dyn PartitionStream> = Arc::new(Run {
            calibration: self.clone(),
            table,
        });
        let schema = Arc::clone(&SCHEMA);
        let exec =
            StreamingTableExec::try_new(schema, vec![partition], projection, None, false, limit)?;
        Ok(Arc::new(exec))
    }
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

/// What the plan runs.
#[derive(Debug)]
struct Run {
    calibration: Calibration,
    table: Option<Arc<dyn ExecutionPlan>>,
}

impl PartitionStream for Run {
    fn schema(&self) -> &SchemaRef {
        &SCHEMA
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (calibration, table) = (self.calibration.clone(), self.table.clone());
        let run = async move {
            let engine = &calibration.engine;
            let golden = match (&calibration.golden, table) {
                (Source::Rows(golden), _) => Arc::clone(golden),
                (Source::Table(name), Some(table)) => {
                    let version = engine
                        .policies
                        .resolve(&calibration.policy)
                        .map_err(external)?;
                    Arc::new(Golden {
                        source: Arc::clone(name),
                        rows: read(table, &context, &version).await?,
                    })
                }
                (Source::Table(_), None) => unreachable!("bug: a golden table without a plan"),
            };
            let row = engine
                .classifier
                .calibrate(
                    calibration.policy,
                    &golden,
                    calibration.target,
                    &statement(&context),
                )
                .await
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            batch(&row)
        };
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&SCHEMA),
            futures::stream::once(run),
        ))
    }
}

/// The statement that runs, so that its budgets, its summary and the log know of what is asked.
fn statement(context: &TaskContext) -> Arc<Statement> {
    let config = context.session_config();
    let settings = || {
        let extensions = &config.options().extensions;
        extensions
            .get::<SafeguardSettings>()
            .cloned()
            .unwrap_or_default()
    };
    let watched = config.get_extension::<Statement>();
    watched.unwrap_or_else(|| Arc::new(Statement::new(settings())))
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
