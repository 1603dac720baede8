//! A classification taken apart, and put together again: for whoever sends it to another process.
//!
//! Takes an operator, gives its expressions and columns by themselves. Knows no bytes: whoever sends them writes them.

use crate::classifier::Classifier;
use crate::exec::{self, Added, ClassifyExec, Shared};
use crate::functions::Output;
use crate::settings::SafeguardSettings;
use crate::statement::Statement;
use datafusion::common::{Result, plan_datafusion_err};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// What an operator asks, and the columns that it adds.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Each (policy, text) once.
    pub questions: Vec<Question>,
    /// In their order behind the input's columns.
    pub added: Vec<Column>,
}

/// A (policy, text) to ask about, as expressions over the input.
#[derive(Debug, Clone)]
pub struct Question {
    /// The policy.
    pub policy: Arc<dyn PhysicalExpr>,
    /// The text.
    pub text: Arc<dyn PhysicalExpr>,
    /// Rows where it is not true are not asked.
    pub guard: Option<Arc<dyn PhysicalExpr>>,
    /// Whether it wants decisions, or else token counts.
    pub judges: bool,
}

/// A column that is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name in the plan.
    pub name: String,
    /// The function that it answers, by its name in SQL.
    pub function: String,
    /// Which question of the operator it shows.
    pub question: usize,
}

impl ClassifyExec {
    /// What it asks.
    pub fn parts(&self) -> Parts {
        let (questions, added) = self.asked();
        let question = |q: &exec::Question| Question {
            policy: Arc::clone(&q.policy),
            text: Arc::clone(&q.text),
            guard: q.guard.clone(),
            judges: q.judges,
        };
        let column = |a: &Added| Column {
            name: a.name.clone(),
            function: a.output.function().to_owned(),
            question: a.question,
        };
        Parts {
            questions: questions.iter().map(question).collect(),
            added: added.iter().map(column).collect(),
        }
    }

    /// The settings of its statement.
    pub fn settings(&self) -> Arc<SafeguardSettings> {
        Arc::clone(self.shared().statement.settings())
    }

    /// The same over another input, showing one partition.
    pub fn alone(&self, input: Arc<dyn ExecutionPlan>) -> ClassifyExec {
        let (questions, added) = self.asked();
        let shared = Shared {
            partitions: 1,
            ..self.shared()
        };
        ClassifyExec::new(input, questions.to_vec(), added.to_vec(), shared)
    }

    /// An operator of one partition that asks this, on the account of this statement.
    ///
    /// # Errors
    /// A function that is not known, a column of a question that is not there.
    pub fn of(
        parts: Parts,
        input: Arc<dyn ExecutionPlan>,
        classifier: Arc<dyn Classifier>,
        statement: Arc<Statement>,
    ) -> Result<ClassifyExec> {
        let many = parts.questions.len();
        let question = |q: Question| exec::Question {
            policy: q.policy,
            text: q.text,
            guard: q.guard,
            judges: q.judges,
        };
        let column = |c: Column| {
            let known = Output::ALL.into_iter().find(|o| o.function() == c.function);
            match known {
                Some(output) if c.question < many => Ok(Added {
                    name: c.name,
                    output,
                    question: c.question,
                }),
                _ => Err(plan_datafusion_err!(
                    "{} of question {} of {many} is no column of a classification",
                    c.function,
                    c.question
                )),
            }
        };
        let added = parts
            .added
            .into_iter()
            .map(column)
            .collect::<Result<Vec<_>>>()?;
        let shared = Shared {
            classifier,
            statement,
            partitions: 1,
        };
        let questions = parts.questions.into_iter().map(question).collect();
        Ok(ClassifyExec::new(input, questions, added, shared))
    }
}
