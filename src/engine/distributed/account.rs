//! The account of a statement whose questions are asked elsewhere.
//!
//! A worker's rows carry one column more. It is NULL in rows; behind each batch comes a line in which only it is set, with
//! what was asked since the last one. The coordinator takes these lines out and counts what they say, so that progress, the
//! closing notice and `safeguard.queries` are as in one process. The last line of a worker says that it is the last: rows
//! without one are not all, and are an error. Where a statement is stopped, what workers asked since their last batch is
//! not counted.

use super::faults::{Fault, gone, pack};
use crate::engine::files;
use datafusion::arrow::array::{
    ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array,
};
use datafusion::arrow::compute::{filter_record_batch, is_null};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};
use safeguard_udfs::{Reason, Statement, Summary};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// The column that carries it.
const COLUMN: &str = "safeguard_account";

/// What a task asked since it last said so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Account {
    rows: u64,
    distinct_texts: u64,
    recalled: u64,
    screened: u64,
    convicted: u64,
    escalated: u64,
    asked: u64,
    undecided: Vec<(String, u64)>,
    tokens_in: u64,
    tokens_out: u64,
    busy_seconds: f64,
    notes: Vec<String>,
    /// Whether nothing comes after it.
    last: bool,
}

impl Account {
    fn between(before: &Summary, after: &Summary) -> Account {
        let of = |summary: &Summary, reason: Reason| {
            let found = summary.undecided.iter().find(|(r, _)| *r == reason);
            found.map_or(0, |(_, n)| *n)
        };
        let undecided = after.undecided.iter();
        let undecided = undecided.map(|(r, n)| (r.as_str().to_owned(), n - of(before, *r)));
        Account {
            rows: after.rows - before.rows,
            distinct_texts: after.distinct_texts - before.distinct_texts,
            recalled: after.recalled - before.recalled,
            screened: after.screened - before.screened,
            convicted: after.convicted - before.convicted,
            escalated: after.escalated - before.escalated,
            asked: after.asked - before.asked,
            undecided: undecided.filter(|(_, n)| *n > 0).collect(),
            tokens_in: after.tokens_in - before.tokens_in,
            tokens_out: after.tokens_out - before.tokens_out,
            busy_seconds: (after.busy_seconds - before.busy_seconds).max(0.0),
            notes: Vec::new(),
            last: false,
        }
    }

    fn settle(self, statement: &Statement) {
        let reason = |word: &str| Reason::ALL.into_iter().find(|r| r.as_str() == word);
        let undecided = self.undecided.iter();
        let undecided = undecided.filter_map(|(word, n)| Some((reason(word)?, *n)));
        statement.tally().absorb(&Summary {
            rows: self.rows,
            distinct_texts: self.distinct_texts,
            recalled: self.recalled,
            screened: self.screened,
            convicted: self.convicted,
            escalated: self.escalated,
            asked: self.asked,
            undecided: undecided.collect(),
            tokens_in: self.tokens_in,
            tokens_out: self.tokens_out,
            busy_seconds: self.busy_seconds,
            elapsed: std::time::Duration::ZERO,
        });
        for note in self.notes {
            statement.tally().note(note);
        }
    }
}

/// The top of what a worker runs: its errors can be sent, and where it classifies its account goes with the rows.
#[derive(Debug)]
pub(super) struct ReportExec {
    input: Arc<dyn ExecutionPlan>,
    statement: Option<Arc<Statement>>,
    properties: Arc<PlanProperties>,
}

impl ReportExec {
    /// Over what asks nothing.
    pub(super) fn of_faults(input: Arc<dyn ExecutionPlan>) -> ReportExec {
        let properties = Arc::clone(input.properties());
        ReportExec {
            input,
            statement: None,
            properties,
        }
    }

    /// Over what asks on this statement's account, in one partition.
    pub(super) fn of_account(
        input: Arc<dyn ExecutionPlan>,
        statement: Arc<Statement>,
    ) -> ReportExec {
        let mut fields: Vec<Field> = files::nullable(&input.schema())
            .fields()
            .iter()
            .map(|field| field.as_ref().clone())
            .collect();
        fields.push(Field::new(COLUMN, DataType::Utf8, true));
        let metadata = input.schema().metadata().clone();
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        ReportExec {
            properties: one_partition(&input, schema),
            input,
            statement: Some(statement),
        }
    }

    /// Whether it carries an account.
    pub(super) fn has_account(&self) -> bool {
        self.statement.is_some()
    }
}

fn one_partition(input: &Arc<dyn ExecutionPlan>, schema: SchemaRef) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(1),
        input.pipeline_behavior(),
        input.boundedness(),
    ))
}

impl DisplayAs for ReportExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("ReportExec")?;
        match self.has_account() {
            true => f.write_str(": with the account"),
            false => Ok(()),
        }
    }
}

impl ExecutionPlan for ReportExec {
    fn name(&self) -> &str {
        "ReportExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        Ok(Arc::new(match &self.statement {
            Some(statement) => ReportExec::of_account(input, Arc::clone(statement)),
            None => ReportExec::of_faults(input),
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let read = files::scanned(&self.input);
        let rows = self.input.execute(partition, context);
        let rows = rows.map_err(|e| pack(e, None))?;
        let schema = self.schema();
        let Some(statement) = &self.statement else {
            let rows = rows.map_err(move |e| pack(files::named(e, &read), None));
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)));
        };
        let reporting = Reporting {
            rows,
            schema: Arc::clone(&schema),
            statement: Arc::clone(statement),
            said: Summary::default(),
            ready: VecDeque::new(),
            ended: false,
        };
        let lines = stream::try_unfold(reporting, Reporting::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, lines)))
    }
}

/// Rows on their way, and what was said of their account.
struct Reporting {
    rows: SendableRecordBatchStream,
    schema: SchemaRef,
    statement: Arc<Statement>,
    said: Summary,
    ready: VecDeque<RecordBatch>,
    ended: bool,
}

impl Reporting {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some((batch, self)));
            }
            if self.ended {
                return Ok(None);
            }
            match self.rows.next().await {
                Some(Ok(batch)) => {
                    let rows = self.with_column(&batch)?;
                    self.ready.push_back(rows);
                    let account = self.account();
                    if account != Account::default() {
                        let line = self.line(&account)?;
                        self.ready.push_back(line);
                    }
                }
                Some(Err(error)) => {
                    let account = self.account();
                    return Err(pack(error, Some(account)));
                }
                None => {
                    self.ended = true;
                    let account = Account {
                        notes: self.statement.tally().notes(),
                        last: true,
                        ..self.account()
                    };
                    let line = self.line(&account)?;
                    self.ready.push_back(line);
                }
            }
        }
    }

    /// What was asked since this was asked last.
    fn account(&mut self) -> Account {
        let now = self.statement.tally().summary();
        let account = Account::between(&self.said, &now);
        self.said = now;
        account
    }

    fn with_column(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        columns.push(new_null_array(&DataType::Utf8, batch.num_rows()));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    fn line(&self, account: &Account) -> Result<RecordBatch> {
        let said = serde_json::to_string(account).expect("bug: an account that is no JSON");
        let own = self.schema.fields().len() - 1;
        let fields = self.schema.fields().iter().take(own);
        let mut columns: Vec<ArrayRef> = fields.map(|f| new_null_array(f.data_type(), 1)).collect();
        columns.push(Arc::new(StringArray::from(vec![said])));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Where rows of workers come in: takes the lines of their accounts out, and counts what they say.
#[derive(Debug)]
pub(super) struct SettleExec {
    input: Arc<dyn ExecutionPlan>,
    statement: Arc<Statement>,
    /// Workers' tasks that must say that they are done.
    tasks: usize,
    properties: Arc<PlanProperties>,
}

impl SettleExec {
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        schema: SchemaRef,
        statement: Arc<Statement>,
        tasks: usize,
    ) -> SettleExec {
        SettleExec {
            properties: one_partition(&input, schema),
            input,
            statement,
            tasks,
        }
    }
}

impl DisplayAs for SettleExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SettleExec: tasks={}", self.tasks)
    }
}

impl ExecutionPlan for SettleExec {
    fn name(&self) -> &str {
        "SettleExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (schema, statement) = (self.schema(), Arc::clone(&self.statement));
        let input = children.swap_remove(0);
        Ok(Arc::new(SettleExec::new(
            input, schema, statement, self.tasks,
        )))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let settling = Settling {
            rows: self.input.execute(partition, context)?,
            schema: self.schema(),
            statement: Arc::clone(&self.statement),
            missing: self.tasks,
        };
        let rows = stream::try_unfold(settling, Settling::next);
        let schema = self.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

struct Settling {
    rows: SendableRecordBatchStream,
    schema: SchemaRef,
    statement: Arc<Statement>,
    missing: usize,
}

impl Settling {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            match self.rows.next().await {
                Some(Ok(batch)) => {
                    let rows = self.settle(&batch)?;
                    if rows.num_rows() > 0 {
                        return Ok(Some((rows, self)));
                    }
                }
                Some(Err(error)) => {
                    if let Some(account) = Fault::of(&error).and_then(|fault| fault.account) {
                        account.settle(&self.statement);
                    }
                    return Err(error);
                }
                None if self.missing > 0 => {
                    let why = format!("{} of the tasks did not end", self.missing);
                    return Err(gone(&why));
                }
                None => return Ok(None),
            }
        }
    }

    /// The rows of a batch without the lines between them.
    fn settle(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let own = self.schema.fields().len();
        let bug = || DataFusionError::Internal("rows of a worker without an account".to_owned());
        let column = batch.columns().get(own).ok_or_else(bug)?;
        let said = column.as_string_opt::<i32>().ok_or_else(bug)?;
        for line in said.iter().flatten() {
            let account: Account = serde_json::from_str(line)
                .map_err(|e| DataFusionError::Internal(format!("a worker's account: {e}")))?;
            self.missing -= usize::from(account.last && self.missing > 0);
            account.settle(&self.statement);
        }
        let kept: BooleanArray = is_null(said)?;
        let rows = match kept.true_count() == batch.num_rows() {
            true => batch.clone(),
            false => filter_record_batch(batch, &kept)?,
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = rows.columns()[..own].to_vec();
        let schema = Arc::clone(&self.schema);
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::Int64Array;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;
    use datafusion_datasource::memory::MemorySourceConfig;
    use safeguard_udfs::SafeguardSettings;

    fn numbers() -> Arc<dyn ExecutionPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = |from: i64| {
            let column = Arc::new(Int64Array::from_iter_values(from..from + 3));
            RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap()
        };
        let parts = [vec![batch(0), batch(3)]];
        MemorySourceConfig::try_new_exec(&parts, Arc::clone(&schema), None).unwrap()
    }

    #[tokio::test]
    async fn an_account_travels_with_the_rows_and_only_it_is_taken_out() {
        let statement = || Arc::new(Statement::new(SafeguardSettings::default()));
        let (there, here) = (statement(), statement());
        there.tally().saw_rows(6);
        there.tally().note("three of a.csv were broken");
        let settled = |tasks| {
            let sent = Arc::new(ReportExec::of_account(numbers(), Arc::clone(&there)));
            let schema = numbers().schema();
            Arc::new(SettleExec::new(sent, schema, Arc::clone(&here), tasks))
        };
        let context = SessionContext::new();
        let rows = collect(settled(1), context.task_ctx()).await.unwrap();
        let expected = collect(numbers(), context.task_ctx()).await.unwrap();
        assert_eq!(rows, expected);
        assert_eq!(here.tally().summary().rows, 6);
        assert_eq!(here.tally().notes(), ["three of a.csv were broken"]);
        let error = collect(settled(2), context.task_ctx()).await;
        let error = crate::error::Error::Statement(error.unwrap_err());
        assert_eq!(error.sqlstate(), "08006", "{error}");
    }
}
