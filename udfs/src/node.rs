//! The logical node: its input's columns, and one more for each call.
//!
//! Tells DataFusion what may move through it: predicates and limits may, as long as they do not need its columns.

use crate::functions::Output;
use datafusion::arrow::datatypes::Field;
use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_datafusion_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A call that has become a column.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    /// The column.
    pub(crate) name: String,
    pub(crate) output: Output,
    pub(crate) policy: Expr,
    pub(crate) text: Expr,
    /// Rows where it is not true are not asked, and are NULL: SQL would not have evaluated the call there.
    pub(crate) guard: Option<Expr>,
}

impl Call {
    /// Whether it is the same question, whatever it wants to know of the answer.
    pub(crate) fn same_question(&self, other: &Call) -> bool {
        self.policy == other.policy && self.text == other.text && self.guard == other.guard
    }
}

/// The functions that this node answers; `None` for a node that is no classification. For whoever decides who may call
/// what: after [`crate::hoist`] calls stand nowhere else.
pub fn called(node: &LogicalPlan) -> Option<Vec<&'static str>> {
    let classify = ClassifyNode::of(node)?;
    let functions = classify.calls.iter().map(|call| call.output.function());
    Some(functions.collect())
}

/// Input plus the columns of `calls`.
#[derive(Debug, Clone, Eq)]
pub(crate) struct ClassifyNode {
    pub(crate) input: LogicalPlan,
    pub(crate) calls: Vec<Call>,
    schema: DFSchemaRef,
}

impl PartialEq for ClassifyNode {
    fn eq(&self, other: &Self) -> bool {
        self.input == other.input && self.calls == other.calls
    }
}

impl Hash for ClassifyNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.calls.hash(state);
    }
}

impl PartialOrd for ClassifyNode {
    fn partial_cmp(&self, _: &Self) -> Option<std::cmp::Ordering> {
        None
    }
}

impl ClassifyNode {
    pub(crate) fn try_new(input: LogicalPlan, calls: Vec<Call>) -> Result<Self> {
        let mut fields: Vec<_> = input
            .schema()
            .iter()
            .map(|(q, f)| (q.cloned(), Arc::clone(f)))
            .collect();
        for call in &calls {
            fields.push((
                None,
                Arc::new(Field::new(&call.name, call.output.data_type(), true)),
            ));
        }
        let metadata = input.schema().as_arrow().metadata().clone();
        let dependencies = input.schema().functional_dependencies().clone();
        let schema = DFSchema::new_with_metadata(fields, metadata)?
            .with_functional_dependencies(dependencies)?;
        Ok(Self {
            input,
            calls,
            schema: Arc::new(schema),
        })
    }

    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension {
            node: Arc::new(self),
        })
    }

    pub(crate) fn of(plan: &LogicalPlan) -> Option<&ClassifyNode> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }
}

impl UserDefinedLogicalNodeCore for ClassifyNode {
    fn name(&self) -> &str {
        "Classify"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let of = |call: &Call| {
            [
                Some(call.policy.clone()),
                Some(call.text.clone()),
                call.guard.clone(),
            ]
        };
        self.calls.iter().flat_map(of).flatten().collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.calls.iter().map(|call| call.name.clone()).collect()
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn necessary_children_exprs(&self, output: &[usize]) -> Option<Vec<Vec<usize>>> {
        let inherited = self.input.schema().fields().len();
        Some(vec![
            output.iter().copied().filter(|i| *i < inherited).collect(),
        ])
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Classify:")?;
        for (i, call) in self.calls.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(
                f,
                "{comma} {} = {}({}, {})",
                call.name,
                call.output.function(),
                call.policy,
                call.text
            )?;
            if let Some(guard) = &call.guard {
                write!(f, " when {guard}")?;
            }
        }
        Ok(())
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        let mut exprs = exprs.into_iter();
        let mut next = || {
            exprs
                .next()
                .ok_or_else(|| internal_datafusion_err!("Classify: too few expressions"))
        };
        let mut calls = self.calls.clone();
        for call in &mut calls {
            call.policy = next()?;
            call.text = next()?;
            if let Some(guard) = &mut call.guard {
                *guard = next()?;
            }
        }
        Self::try_new(inputs.remove(0), calls)
    }
}
