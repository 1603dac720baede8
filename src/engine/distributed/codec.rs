//! Our own operators as bytes, for another process of the same version.
//!
//! Takes operators of this program, gives bytes and, at the worker, the same operators around what it has: its classifier, its
//! stores of files, the statement of the task. DataFusion's operators and functions are written by datafusion-proto, the
//! latter by name. Bytes of another version are never read: workers of another version are refused before.

use super::account::ReportExec;
use super::faults::pack;
use crate::engine::{Engine, files};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::config::ExtensionOptions;
use datafusion::common::{DataFusionError, Result, internal_datafusion_err, not_impl_err};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::{PhysicalExprNode, PhysicalPlanNode};
use prost::Message;
use safeguard_udfs::{
    Classifier, ClassifyExec, Column, Parts, Question, SafeguardSettings, Statement,
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};

/// One operator.
#[derive(Serialize, Deserialize)]
enum Node {
    Classify {
        settings: Vec<(String, String)>,
        questions: Vec<Asked>,
        /// Name, function, question.
        added: Vec<(String, String, usize)>,
    },
    Report {
        account: bool,
    },
    /// A scan of Parquet files; whether its columns come from the files.
    Scan {
        plan: String,
        inferred: bool,
    },
}

/// Expressions, in base64.
#[derive(Serialize, Deserialize)]
struct Asked {
    policy: String,
    text: String,
    guard: Option<String>,
    judges: bool,
}

/// The statement of a task, which its operators share: made by the first that says its settings.
#[derive(Debug, Default)]
pub(super) struct TaskStatement(OnceLock<Arc<Statement>>);

impl TaskStatement {
    fn of(context: &TaskContext) -> Result<Arc<TaskStatement>> {
        let own = context.session_config().get_extension::<TaskStatement>();
        own.ok_or_else(|| internal_datafusion_err!("a plan is read by who is no worker"))
    }

    fn begun(&self, settings: SafeguardSettings) -> Arc<Statement> {
        let begin = || Arc::new(Statement::new(settings));
        Arc::clone(self.0.get_or_init(begin))
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Codec {
    classifier: Arc<dyn Classifier>,
}

impl Codec {
    pub(super) fn new(engine: &Engine) -> Codec {
        let classifier = Arc::clone(&engine.classifier);
        Codec { classifier }
    }

    fn node(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Node> {
        if let Some(classify) = plan.downcast_ref::<ClassifyExec>() {
            return self.classify(classify, converter);
        }
        if let Some(report) = plan.downcast_ref::<ReportExec>() {
            return Ok(Node::Report {
                account: report.has_account(),
            });
        }
        if plan.is::<DataSourceExec>()
            && let Some((plain, inferred)) = files::plain(plan)
        {
            let node = converter.execution_plan_to_proto(&plain, self)?;
            let plan = STANDARD.encode(node.encode_to_vec());
            return Ok(Node::Scan { plan, inferred });
        }
        not_impl_err!("{} is not sent to workers", plan.name())
    }

    fn classify(
        &self,
        classify: &ClassifyExec,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Node> {
        let written = |expr: &Arc<dyn PhysicalExpr>| {
            let node = converter.physical_expr_to_proto(expr, self)?;
            Ok::<_, DataFusionError>(STANDARD.encode(node.encode_to_vec()))
        };
        let parts = classify.parts();
        let questions = parts.questions.iter().map(|question| {
            Ok(Asked {
                policy: written(&question.policy)?,
                text: written(&question.text)?,
                guard: question.guard.as_ref().map(written).transpose()?,
                judges: question.judges,
            })
        });
        let added = parts.added.iter();
        let settings = classify.settings().entries().into_iter();
        Ok(Node::Classify {
            settings: settings
                .filter_map(|entry| Some((entry.key, entry.value?)))
                .collect(),
            questions: questions.collect::<Result<_>>()?,
            added: added
                .map(|c| (c.name.clone(), c.function.clone(), c.question))
                .collect(),
        })
    }

    fn plan(
        &self,
        node: Node,
        inputs: &[Arc<dyn ExecutionPlan>],
        reading: &Reading<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = || match inputs {
            [input] => Ok(Arc::clone(input)),
            inputs => Err(internal_datafusion_err!("{} inputs, not 1", inputs.len())),
        };
        match node {
            Node::Classify {
                settings,
                questions,
                added,
            } => {
                let input = input()?;
                let schema = input.schema();
                let questions = questions.into_iter().map(|q| reading.question(q, &schema));
                let column = |(name, function, question)| Column {
                    name,
                    function,
                    question,
                };
                let parts = Parts {
                    questions: questions.collect::<Result<_>>()?,
                    added: added.into_iter().map(column).collect(),
                };
                let task = TaskStatement::of(reading.context)?;
                let statement = task.begun(settings_of(settings)?);
                let classifier = Arc::clone(&self.classifier);
                let classify = ClassifyExec::of(parts, input, classifier, statement)?;
                Ok(Arc::new(classify))
            }
            Node::Report { account: false } => Ok(Arc::new(ReportExec::of_faults(input()?))),
            Node::Report { account: true } => {
                let task = TaskStatement::of(reading.context)?;
                let statement = task.begun(SafeguardSettings::default());
                Ok(Arc::new(ReportExec::of_account(input()?, statement)))
            }
            Node::Scan { plan, inferred } => {
                let node =
                    PhysicalPlanNode::decode(bytes(&plan)?.as_slice()).map_err(unreadable)?;
                let decode = PhysicalPlanDecodeContext::new(reading.context, self);
                let plan = reading.converter.proto_to_execution_plan(&node, &decode)?;
                files::told(&plan, inferred, reading.context)
            }
        }
    }
}

/// What is needed to read expressions.
struct Reading<'a> {
    codec: &'a Codec,
    context: &'a TaskContext,
    converter: &'a dyn PhysicalProtoConverterExtension,
}

impl Reading<'_> {
    fn question(&self, asked: Asked, schema: &Schema) -> Result<Question> {
        let read = |written: &String| {
            let node = PhysicalExprNode::decode(bytes(written)?.as_slice()).map_err(unreadable)?;
            let decode = PhysicalPlanDecodeContext::new(self.context, self.codec);
            self.converter
                .proto_to_physical_expr(&node, schema, &decode)
        };
        Ok(Question {
            policy: read(&asked.policy)?,
            text: read(&asked.text)?,
            guard: asked.guard.as_ref().map(read).transpose()?,
            judges: asked.judges,
        })
    }
}

fn bytes(written: &str) -> Result<Vec<u8>> {
    STANDARD.decode(written).map_err(unreadable)
}

fn unreadable(error: impl std::fmt::Display) -> DataFusionError {
    internal_datafusion_err!("a plan that cannot be read: {error}")
}

fn settings_of(said: Vec<(String, String)>) -> Result<SafeguardSettings> {
    let mut settings = SafeguardSettings::default();
    for (key, value) in said {
        let key = key.strip_prefix("safeguard.").unwrap_or(&key);
        settings.set(key, &value)?;
    }
    Ok(settings)
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let node = serde_json::from_slice(buf).map_err(unreadable)?;
        let reading = Reading {
            codec: self,
            context,
            converter,
        };
        // What is wrong with a file's place is said as it is here.
        self.plan(node, inputs, &reading).map_err(|e| pack(e, None))
    }

    fn try_encode(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let node = self.node(&plan, converter)?;
        serde_json::to_writer(buf, &node).map_err(unreadable)
    }
}
