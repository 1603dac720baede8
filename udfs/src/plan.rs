//! From the logical node to the operator, and the one call that installs everything.

use crate::classifier::Classifier;
use crate::exec::{Added, ClassifyExec, Question, Shared};
use crate::functions::functions;
use crate::hoist::HoistCalls;
use crate::late::{DropUnusedCalls, SortBeforeClassify};
use crate::node::ClassifyNode;
use crate::settings::SafeguardSettings;
use crate::statement::Statement;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use datafusion::prelude::SessionConfig;
use std::sync::Arc;

/// Adds the functions, their planning and the `safeguard.*` settings to a session, with this classifier behind them.
/// Call it after `with_default_features`; it sets the query planner.
///
/// ```
/// # use datafusion::execution::SessionStateBuilder;
/// # use datafusion::prelude::SessionContext;
/// # use safeguard_udfs::{Scripted, install};
/// # use std::sync::Arc;
/// let builder = SessionStateBuilder::new().with_default_features();
/// let classifier = Arc::new(Scripted::new([("bad", "violates")]));
/// let ctx = SessionContext::new_with_state(install(builder, classifier).build());
/// # let _ = ctx;
/// ```
pub fn install(
    mut builder: SessionStateBuilder,
    classifier: Arc<dyn Classifier>,
) -> SessionStateBuilder {
    let settings = &mut builder
        .config()
        .get_or_insert_with(SessionConfig::new)
        .options_mut()
        .extensions;
    if settings.get::<SafeguardSettings>().is_none() {
        settings.insert(SafeguardSettings::default());
    }
    builder
        .scalar_functions()
        .get_or_insert_default()
        .extend(functions());
    builder
        .with_analyzer_rule(Arc::new(HoistCalls))
        .with_optimizer_rule(Arc::new(SortBeforeClassify))
        .with_optimizer_rule(Arc::new(DropUnusedCalls))
        .with_query_planner(Arc::new(Planner { classifier }))
}

#[derive(Debug)]
struct Planner {
    classifier: Arc<dyn Classifier>,
}

#[async_trait::async_trait]
impl QueryPlanner for Planner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let settings = || {
            session
                .config_options()
                .extensions
                .get::<SafeguardSettings>()
                .cloned()
                .unwrap_or_default()
        };
        let watched = session.config().get_extension::<Statement>();
        let statement = watched.unwrap_or_else(|| Arc::new(Statement::new(settings())));
        let nodes = ClassifyPlanner(Shared {
            classifier: Arc::clone(&self.classifier),
            statement,
            partitions: session.config().target_partitions(),
        });
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(nodes)])
            .create_physical_plan(plan, session)
            .await
    }
}

struct ClassifyPlanner(Shared);

#[async_trait::async_trait]
impl ExtensionPlanner for ClassifyPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<ClassifyNode>() else {
            return Ok(None);
        };
        let schema = node.input.schema();
        let physical = |expr| planner.create_physical_expr(expr, schema, session, context);
        let mut asked: Vec<(&crate::node::Call, bool)> = Vec::new();
        let (mut questions, mut added) = (Vec::new(), Vec::new());
        for call in &node.calls {
            let judges = call.output.judges();
            let question = match asked
                .iter()
                .position(|(c, j)| *j == judges && c.same_question(call))
            {
                Some(known) => known,
                None => {
                    let (policy, text) = (physical(&call.policy)?, physical(&call.text)?);
                    let guard = call.guard.as_ref().map(&physical).transpose()?;
                    asked.push((call, judges));
                    questions.push(Question {
                        policy,
                        text,
                        guard,
                        judges,
                    });
                    questions.len() - 1
                }
            };
            added.push(Added {
                name: call.name.clone(),
                output: call.output,
                question,
            });
        }
        let (input, shared) = (Arc::clone(&inputs[0]), self.0.clone());
        Ok(Some(Arc::new(ClassifyExec::new(
            input, questions, added, shared,
        ))))
    }
}
