//! The physical operator: batches in, the same batches out with a column for each call, in the same order.
//!
//! Takes its input in slices: small at first and twice as large each round, so that a LIMIT above stops early and a
//! long scan runs full. Several slices are in flight. Groups rows by policy, asks each distinct text once, skips NULLs
//! and rows whose guard is not true. Dropping its stream cancels what is being asked.

use crate::classifier::{Classifier, ClassifyError};
use crate::functions::Output;
use crate::statement::Statement;
use crate::tally::Summary;
use crate::verdict::{Cell, column};
use crate::window::{Cut, Window};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr,
};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{
    ExecutionPlanMetricsSet, Gauge, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, EmptyRecordBatchStream, ExecutionPlan,
    ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::stream::{self, StreamExt};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Slices in flight at the most.
pub const SLICES_MAX: usize = 8;

/// A (policy, text) to ask about, and the columns that want to know.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) policy: Arc<dyn PhysicalExpr>,
    pub(crate) text: Arc<dyn PhysicalExpr>,
    pub(crate) guard: Option<Arc<dyn PhysicalExpr>>,
    /// Whether it wants decisions, or else token counts.
    pub(crate) judges: bool,
}

/// A column to add: its name, what it shows, and of which question.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    pub(crate) name: String,
    pub(crate) output: Output,
    pub(crate) question: usize,
}

/// The operator.
#[derive(Debug, Clone)]
pub struct ClassifyExec {
    input: Arc<dyn ExecutionPlan>,
    ask: Arc<Ask>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What does not change while it runs.
#[derive(Debug)]
struct Ask {
    questions: Vec<Question>,
    added: Vec<Added>,
    schema: SchemaRef,
    /// The order in which rows were planned to arrive, and so to be asked.
    order: Option<LexOrdering>,
    /// Shown above; all rows are in the first.
    partitions: usize,
    classifier: Arc<dyn Classifier>,
    statement: Arc<Statement>,
}

/// What a plan's operators share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) classifier: Arc<dyn Classifier>,
    pub(crate) statement: Arc<Statement>,
    /// The session's target partitions. The operator shows as many, or else DataFusion would put a round-robin
    /// exchange above it, which gathers thousands of rows before it hands on one: no LIMIT would stop early, and the
    /// order would be lost.
    pub(crate) partitions: usize,
}

impl ClassifyExec {
    pub(crate) fn new(
        input: Arc<dyn ExecutionPlan>,
        questions: Vec<Question>,
        added: Vec<Added>,
        shared: Shared,
    ) -> Self {
        let order = input.output_ordering().cloned();
        Self::in_order(input, questions, added, (shared, order))
    }

    fn in_order(
        input: Arc<dyn ExecutionPlan>,
        questions: Vec<Question>,
        added: Vec<Added>,
        (shared, order): (Shared, Option<LexOrdering>),
    ) -> Self {
        let schema = with_columns(&input.schema(), &added);
        let Shared {
            classifier,
            statement,
            partitions,
        } = shared;
        let ask = Arc::new(Ask {
            questions,
            added,
            schema,
            order,
            partitions,
            classifier,
            statement,
        });
        Self {
            properties: properties(&input, &ask.schema, partitions),
            input,
            ask,
            metrics: Default::default(),
        }
    }

    /// What it asks, and the columns that it adds.
    pub(crate) fn asked(&self) -> (&[Question], &[Added]) {
        (&self.ask.questions, &self.ask.added)
    }

    /// What it has of its plan.
    pub(crate) fn shared(&self) -> Shared {
        Shared {
            classifier: Arc::clone(&self.ask.classifier),
            statement: Arc::clone(&self.ask.statement),
            partitions: self.ask.partitions,
        }
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        let (ask, shared) = (self.ask.as_ref(), self.shared());
        let order = ask.order.clone();
        Self::in_order(
            input,
            ask.questions.clone(),
            ask.added.clone(),
            (shared, order),
        )
    }
}

fn with_columns(input: &Schema, added: &[Added]) -> SchemaRef {
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    fields.extend(
        added
            .iter()
            .map(|a| Arc::new(Field::new(&a.name, a.output.data_type(), true))),
    );
    Arc::new(Schema::new_with_metadata(fields, input.metadata().clone()))
}

fn properties(
    input: &Arc<dyn ExecutionPlan>,
    schema: &SchemaRef,
    partitions: usize,
) -> Arc<PlanProperties> {
    // The input's columns keep their places, so that its orderings hold; what else it knows is of no use above.
    let orderings = input.equivalence_properties().oeq_class().iter().cloned();
    let equivalence = EquivalenceProperties::new_with_orderings(Arc::clone(schema), orderings);
    let partitioning = Partitioning::UnknownPartitioning(partitions);
    Arc::new(PlanProperties::new(
        equivalence,
        partitioning,
        input.pipeline_behavior(),
        input.boundedness(),
    ))
}

impl DisplayAs for ClassifyExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("ClassifyExec:")?;
        for (i, added) in self.ask.added.iter().enumerate() {
            let question = &self.ask.questions[added.question];
            let comma = if i == 0 { "" } else { "," };
            let function = added.output.function();
            write!(
                f,
                "{comma} {} = {function}({}, {})",
                added.name, question.policy, question.text
            )?;
            if let Some(guard) = &question.guard {
                write!(f, " when {guard}")?;
            }
        }
        Ok(())
    }
}

impl ExecutionPlan for ClassifyExec {
    fn name(&self) -> &str {
        "ClassifyExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    // The model is the cost and there is one of it: one stream keeps the rows' order and knows every text.
    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }

    // Without this, a sort that was put below to ask the first rows first would be seen as useless.
    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.ask.order.clone().map(OrderingRequirements::from)]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for question in &self.ask.questions {
            for expr in [
                Some(&question.policy),
                Some(&question.text),
                question.guard.as_ref(),
            ]
            .into_iter()
            .flatten()
            {
                if f(expr)? == TreeNodeRecursion::Stop {
                    return Ok(TreeNodeRecursion::Stop);
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.over(children.swap_remove(0))))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.over(children.swap_remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition > 0 {
            return Ok(Box::pin(EmptyRecordBatchStream::new(Arc::clone(
                &self.ask.schema,
            ))));
        }
        let input = self.input.execute(0, context)?;
        let ask = Arc::clone(&self.ask);
        let gauges = Arc::new(Gauges::new(&self.metrics, partition));
        let window = Arc::new(Window::new());
        let slices = stream::try_unfold(Cut::new(input, Arc::clone(&window)), Cut::next);
        let answered = slices
            .map(move |slice| {
                let (ask, window, gauges) =
                    (Arc::clone(&ask), Arc::clone(&window), Arc::clone(&gauges));
                async move {
                    let slice = slice?;
                    let rows = slice.num_rows();
                    // A task of its own, because another operator of the statement may wait for these texts while
                    // nobody pulls from this one.
                    let answered = {
                        let ask = Arc::clone(&ask);
                        SpawnedTask::spawn(async move { ask.answer(slice).await })
                            .join()
                            .await
                    };
                    window.done(rows);
                    gauges.show(&ask.statement.tally().summary());
                    answered.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?
                }
            })
            .buffered(SLICES_MAX);
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.ask.schema),
            answered,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The distinct texts of a slice under one policy, and their answers.
struct Group {
    policy: Arc<str>,
    judges: bool,
    texts: Vec<Arc<str>>,
    index: HashMap<Arc<str>, usize>,
}

/// Where a row's answer will be: group and text.
type Place = (usize, usize);

impl Ask {
    async fn answer(&self, slice: RecordBatch) -> Result<RecordBatch> {
        let mut groups: Vec<Group> = Vec::new();
        let mut places: Vec<Vec<Option<Place>>> = Vec::with_capacity(self.questions.len());
        for question in &self.questions {
            places.push(question.place(&slice, &mut groups)?);
        }
        let judged = |row: &usize| {
            places
                .iter()
                .zip(&self.questions)
                .any(|(p, q)| q.judges && p[*row].is_some())
        };
        self.statement
            .tally()
            .saw_rows((0..slice.num_rows()).filter(judged).count() as u64);
        let answers = futures::future::try_join_all(groups.iter().map(|group| self.ask(group)));
        let answers = answers
            .await
            .map_err(|e| DataFusionError::External(Box::new(e)))?;
        let mut columns: Vec<ArrayRef> = slice.columns().to_vec();
        for added in &self.added {
            let cell =
                |place: &Option<Place>| place.map(|(group, text)| answers[group][text].clone());
            let cells: Vec<Option<Cell>> = places[added.question].iter().map(cell).collect();
            columns.push(column(added.output, &cells));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    async fn ask(&self, group: &Group) -> Result<Vec<Cell>, ClassifyError> {
        if group.judges {
            let decisions = self
                .statement
                .decide(self.classifier.as_ref(), &group.policy, &group.texts)
                .await?;
            return Ok(decisions.into_iter().map(Cell::Decision).collect());
        }
        let request = self
            .statement
            .request(Arc::clone(&group.policy), group.texts.clone());
        Ok(self
            .classifier
            .tokens(request)
            .await?
            .into_iter()
            .map(Cell::Tokens)
            .collect())
    }
}

impl Question {
    fn place(&self, slice: &RecordBatch, groups: &mut Vec<Group>) -> Result<Vec<Option<Place>>> {
        let rows = slice.num_rows();
        let guard = match &self.guard {
            Some(guard) => Some(guard.evaluate(slice)?.into_array(rows)?),
            None => None,
        };
        let guard: Option<&BooleanArray> = guard.as_ref().map(|g| g.as_boolean());
        let asked = |row: usize| guard.is_none_or(|g| g.is_valid(row) && g.value(row));
        let texts = Strings::of(&self.text, slice)?;
        let policies = Strings::of(&self.policy, slice)?;
        let mut places = Vec::with_capacity(rows);
        let mut last: Option<usize> = None;
        for row in 0..rows {
            let (true, Some(text)) = (asked(row), texts.at(row)) else {
                places.push(None);
                continue;
            };
            let policy = policies.at(row).ok_or_else(null_policy)?;
            let fits = |g: &Group| g.judges == self.judges && *g.policy == *policy;
            let group = match last
                .filter(|i| fits(&groups[*i]))
                .or_else(|| groups.iter().position(fits))
            {
                Some(group) => group,
                None => {
                    groups.push(Group {
                        policy: policy.into(),
                        judges: self.judges,
                        texts: Vec::new(),
                        index: HashMap::new(),
                    });
                    groups.len() - 1
                }
            };
            last = Some(group);
            places.push(Some((group, groups[group].intern(text))));
        }
        Ok(places)
    }
}

fn null_policy() -> DataFusionError {
    let error = ClassifyError::InvalidPolicy {
        name: "NULL".to_owned(),
        why: "a policy is a name or a text".to_owned(),
    };
    DataFusionError::External(Box::new(error))
}

impl Group {
    fn intern(&mut self, text: &str) -> usize {
        if let Some(known) = self.index.get(text) {
            return *known;
        }
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.index.insert(text, self.texts.len() - 1);
        self.texts.len() - 1
    }
}

/// A string argument: one for all rows, or one each.
enum Strings {
    One(Option<String>),
    Each(StringArray),
}

impl Strings {
    fn of(expr: &Arc<dyn PhysicalExpr>, slice: &RecordBatch) -> Result<Self> {
        match expr.evaluate(slice)? {
            ColumnarValue::Scalar(scalar) => match scalar.cast_to(&DataType::Utf8)? {
                ScalarValue::Utf8(value) => Ok(Strings::One(value)),
                _ => Ok(Strings::One(None)),
            },
            ColumnarValue::Array(array) => Ok(Strings::Each(
                cast(&array, &DataType::Utf8)?.as_string::<i32>().clone(),
            )),
        }
    }

    fn at(&self, row: usize) -> Option<&str> {
        match self {
            Strings::One(value) => value.as_deref(),
            Strings::Each(array) => array.is_valid(row).then(|| array.value(row)),
        }
    }
}

/// The statement's counts as operator metrics, for EXPLAIN ANALYZE.
struct Gauges {
    rows: Gauge,
    distinct_texts: Gauge,
    recalled: Gauge,
    cleared: Gauge,
    convicted: Gauge,
    escalated: Gauge,
    asked: Gauge,
    undecided: Gauge,
    tokens_in: Gauge,
    tokens_out: Gauge,
}

impl Gauges {
    fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let gauge = |name: &'static str| MetricBuilder::new(metrics).gauge(name, partition);
        Self {
            rows: gauge("rows"),
            distinct_texts: gauge("distinct_texts"),
            recalled: gauge("recalled"),
            cleared: gauge("cleared"),
            convicted: gauge("convicted"),
            escalated: gauge("escalated"),
            asked: gauge("asked"),
            undecided: gauge("undecided"),
            tokens_in: gauge("tokens_in"),
            tokens_out: gauge("tokens_out"),
        }
    }

    fn show(&self, summary: &Summary) {
        let set =
            |gauge: &Gauge, value: u64| gauge.set(usize::try_from(value).unwrap_or(usize::MAX));
        set(&self.rows, summary.rows);
        set(&self.distinct_texts, summary.distinct_texts);
        set(&self.recalled, summary.recalled);
        set(
            &self.cleared,
            summary.screened.saturating_sub(summary.convicted),
        );
        set(&self.convicted, summary.convicted);
        set(&self.escalated, summary.escalated);
        set(&self.asked, summary.asked);
        set(&self.undecided, summary.undecided_total());
        set(&self.tokens_in, summary.tokens_in);
        set(&self.tokens_out, summary.tokens_out);
    }
}
