//! The planner of a session that has workers.
//!
//! Takes the plan that one process would run, gives it with stages where it may be sent, and else as it is. EXPLAIN shows
//! what would run.

use super::faults::FaultsExec;
use super::{Workers, fragment};
use crate::classify::limits::DayLimits;
use crate::config::{Role, RoleLimits};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::common::config::{ConfigOptions, ExtensionOptions};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{ExplainFormat, LogicalPlan, PlanType, StringifiedPlan};
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_distributed::{DistributedConfig, SessionStateBuilderExt, display_plan_ascii};
use safeguard_udfs::{Answer, Statement};
use std::sync::Arc;

/// Settings of how values are computed, by name: what must be as it was when the session began.
const COMPUTES: &str = "datafusion.execution.";

/// Of these, the ones that only say how fast.
const PACE: [&str; 3] = [
    "datafusion.execution.target_partitions",
    "datafusion.execution.batch_size",
    "datafusion.execution.planning_concurrency",
];

/// What a session's values are computed by, and how workers are spoken to, which is not a client's to say.
pub(super) fn computes(options: &ConfigOptions) -> Vec<(String, Option<String>)> {
    let entries = options.entries().into_iter();
    let entries = entries.filter(|e| e.key.starts_with(COMPUTES) && !PACE.contains(&&*e.key));
    let spoken = options.extensions.get::<DistributedConfig>();
    let spoken = spoken.into_iter().flat_map(ExtensionOptions::entries);
    entries.chain(spoken).map(|e| (e.key, e.value)).collect()
}

/// See the module.
#[derive(Debug)]
pub(super) struct Planner {
    /// Of one process.
    pub inner: Arc<dyn QueryPlanner + Send + Sync>,
    pub workers: Workers,
    pub limits: Arc<DayLimits>,
    /// What the session computed by when it began.
    pub before: Vec<(String, Option<String>)>,
}

#[async_trait]
impl QueryPlanner for Planner {
    async fn create_physical_plan(
        &self,
        logical: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.inner.create_physical_plan(logical, session).await?;
        if let LogicalPlan::Explain(explain) = logical
            && let Some(shown) = plan.downcast_ref::<ExplainExec>()
        {
            // Other formats are documents in which stages have no place.
            if !matches!(
                explain.explain_format,
                ExplainFormat::Indent | ExplainFormat::Tree
            ) {
                return Ok(plan);
            }
            let inner = self
                .inner
                .create_physical_plan(&explain.plan, session)
                .await;
            let Ok(inner) = inner else {
                // Which it says itself.
                return Ok(plan);
            };
            return match self.staged(inner, logical, session).await? {
                Some(staged) => Ok(with_stages(shown, &staged)),
                None => Ok(plan),
            };
        }
        let staged = self.staged(Arc::clone(&plan), logical, session).await?;
        Ok(staged.map_or(plan, |staged| Arc::new(FaultsExec::new(staged)) as _))
    }
}

impl Planner {
    /// The plan in stages; `None` where it stays here.
    async fn staged(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        logical: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(statement) = session.config().get_extension::<Statement>() else {
            return Ok(None);
        };
        if !self.may_leave(&statement) || computes(session.config_options()) != self.before {
            return Ok(None);
        }
        let (tasks, config) = (self.workers.tasks(), session.config());
        let Some(cut) = fragment::cut(&plan, tasks, &statement, config)? else {
            return Ok(None);
        };
        let cut = gathered(cut)?;
        let mut numbered = SessionStateBuilder::new()
            .with_query_planner(Arc::new(Given(cut)))
            .with_distributed_planner();
        let numbered = numbered.query_planner().take();
        let numbered = numbered.expect("bug: a planner that was just set");
        let staged = numbered.create_physical_plan(logical, session).await?;
        Ok(Some(staged))
    }

    /// Whether what the statement may spend can be counted elsewhere.
    fn may_leave(&self, statement: &Statement) -> bool {
        let settings = statement.settings();
        let payer = statement.tally().payer();
        let limited = payer.is_some_and(|payer| {
            let limits = Role::parse(payer).map(|role| self.limits.of(role));
            limits != Some(RoleLimits::default())
        });
        settings.answer == Answer::Wait
            && settings.max_rows.is_none()
            && settings.max_tokens.is_none()
            && settings.max_seconds.is_none()
            && settings.max_undecided_ratio >= 1.0
            && !limited
    }
}

/// The plan with one partition: what has stages runs once.
fn gathered(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(analyze) = plan.downcast_ref::<AnalyzeExec>() {
        let input = gathered(Arc::clone(analyze.input()))?;
        return fragment::with_children(&plan, vec![input]);
    }
    Ok(match plan.output_partitioning().partition_count() {
        1 => plan,
        _ => Arc::new(CoalescePartitionsExec::new(plan)),
    })
}

/// Gives one plan, whatever it is asked.
#[derive(Debug)]
struct Given(Arc<dyn ExecutionPlan>);

#[async_trait]
impl QueryPlanner for Given {
    async fn create_physical_plan(
        &self,
        _: &LogicalPlan,
        _: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::clone(&self.0))
    }
}

/// What EXPLAIN shows, with the stages in the place of the plan of one process.
fn with_stages(shown: &ExplainExec, staged: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let stages = display_plan_ascii(staged.as_ref(), false);
    let plans = shown
        .stringified_plans()
        .iter()
        .map(|plan| match plan.plan_type {
            PlanType::FinalPhysicalPlan => {
                StringifiedPlan::new(PlanType::FinalPhysicalPlan, &stages)
            }
            _ => plan.clone(),
        });
    let schema = shown.schema();
    Arc::new(ExplainExec::new(schema, plans.collect(), shown.verbose()))
}
