//! Which part of a plan is sent to workers, and what stands in its place.
//!
//! Takes the plan of one process, gives one in which each part that can be sent is two stages: rows are read and dealt out by
//! their text, and then classified. Changes nothing else. What it does not know stays where it is.

use super::account::{ReportExec, SettleExec};
use crate::engine::files;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr::{Partitioning, PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    DistributedCodec, DistributedLeafExec, NetworkCoalesceExec, NetworkShuffleExec,
};
use datafusion_proto::bytes::physical_plan_to_bytes_with_extension_codec;
use safeguard_udfs::{ClassifyExec, Statement};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

type Plan = Arc<dyn ExecutionPlan>;

/// The plan with what can be sent in stages of so many tasks; `None` where nothing can.
pub(super) fn cut(
    plan: &Plan,
    tasks: usize,
    statement: &Arc<Statement>,
    config: &SessionConfig,
) -> Result<Option<Plan>> {
    let cutter = Cutter {
        tasks,
        statement,
        config,
    };
    cutter.cut(plan, false)
}

struct Cutter<'a> {
    tasks: usize,
    statement: &'a Arc<Statement>,
    config: &'a SessionConfig,
}

impl Cutter<'_> {
    /// `limited`: whether somebody above may want only the first rows.
    fn cut(&self, plan: &Plan, limited: bool) -> Result<Option<Plan>> {
        if !limited
            && let Some(fragment) = Fragment::of(plan)
            && self.is_writable(plan)
        {
            return fragment.staged(self).map(Some);
        }
        let limited = limits(plan, limited);
        let mut changed = false;
        let mut children = Vec::new();
        for child in plan.children() {
            let cut = self.cut(child, limited)?;
            changed |= cut.is_some();
            children.push(cut.unwrap_or_else(|| Arc::clone(child)));
        }
        match changed {
            true => Ok(Some(with_children(plan, children)?)),
            false => Ok(None),
        }
    }

    /// Whether all of it can be written down for another process.
    fn is_writable(&self, plan: &Plan) -> bool {
        let codec = DistributedCodec::new_combined_with_user(self.config);
        match physical_plan_to_bytes_with_extension_codec(Arc::clone(plan), &codec) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!("a classification stays here: {error}");
                false
            }
        }
    }
}

/// The same operator over others.
pub(super) fn with_children(plan: &Plan, children: Vec<Plan>) -> Result<Plan> {
    let anew = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(plan).replace_children(children, anew)
}

/// Whether operators below `plan` may be stopped early.
fn limits(plan: &Plan, limited: bool) -> bool {
    // They read all of their input before they give a row.
    if plan.is::<SortExec>() || plan.is::<AggregateExec>() {
        return false;
    }
    limited || plan.fetch().is_some() || plan.is::<GlobalLimitExec>() || plan.is::<LocalLimitExec>()
}

/// A chain of operators from a scan to the last one that rows pass one by one, or in which they are sorted.
struct Fragment<'a> {
    /// From the top; the scan is left out.
    nodes: Vec<&'a Plan>,
    /// Of the nodes, the first one that classifies.
    first: usize,
    scan: &'a Plan,
    /// What is classified, over the columns of what is below the first one.
    text: Arc<dyn PhysicalExpr>,
}

impl<'a> Fragment<'a> {
    /// The longest one that ends in this operator.
    fn of(top: &'a Plan) -> Option<Fragment<'a>> {
        // Where it only gathers or sorts, whoever is above it does so too.
        if gathers(top) || sorts(top).is_some() {
            return None;
        }
        let (mut nodes, mut node, mut first) = (Vec::new(), top, None);
        // By how many keys the top has to be sorted, to sort it again.
        let mut keys = 0;
        while !node.is::<DataSourceExec>() {
            match sorts(node) {
                Some(by) if keys == 0 => keys = by,
                Some(_) => {}
                None if passes(node) => {}
                None => return None,
            }
            if node.is::<ClassifyExec>() {
                first = Some(nodes.len());
            }
            nodes.push(node);
            let [below] = node.children()[..] else {
                return None;
            };
            node = below;
        }
        let first = first?;
        if top.output_ordering().map_or(0, |order| order.len()) < keys {
            return None;
        }
        if !files::can_be_sent(node) || !is_portable(node) {
            return None;
        }
        let text = text(nodes[first])?;
        let same = |node: &&Plan| text_of(node).is_none_or(|other| is_same(&other, &text));
        let alike = nodes[..first].iter().all(same);
        alike.then_some(Fragment {
            nodes,
            first,
            scan: node,
            text,
        })
    }

    fn staged(self, cutter: &Cutter<'_>) -> Result<Plan> {
        let (mut plan, readers) = split(self.scan, cutter.tasks)?;
        for node in self.nodes[self.first + 1..].iter().rev() {
            plan = over(node, plan)?;
        }
        plan = Arc::new(ReportExec::of_faults(plan));
        let dealt = Partitioning::Hash(vec![self.text], 1);
        plan = Arc::new(RepartitionExec::try_new(plan, dealt)?);
        plan = Arc::new(NetworkShuffleExec::try_new(plan, readers)?);
        for node in self.nodes[..=self.first].iter().rev() {
            plan = over(node, plan)?;
        }
        plan = Arc::new(ReportExec::of_account(plan, Arc::clone(cutter.statement)));
        plan = Arc::new(NetworkCoalesceExec::try_new(plan, cutter.tasks, 1)?);
        plan = Arc::new(CoalescePartitionsExec::new(plan));
        let statement = Arc::clone(cutter.statement);
        let (schema, order) = (self.nodes[0].schema(), self.nodes[0].output_ordering());
        plan = Arc::new(SettleExec::new(plan, schema, statement, cutter.tasks));
        // Rows that were sorted before they were asked about, and files that are: somebody above may rely on it.
        Ok(match order.cloned() {
            Some(order) => Arc::new(SortExec::new(order, plan)),
            None => plan,
        })
    }
}

/// The same operator over another input; one that only gathers or sorts is not needed.
fn over(node: &Plan, input: Plan) -> Result<Plan> {
    if gathers(node) || sorts(node).is_some() {
        return Ok(input);
    }
    match node.downcast_ref::<ClassifyExec>() {
        Some(classify) => Ok(Arc::new(classify.alone(input))),
        None => with_children(node, vec![input]),
    }
}

/// Whether it changes neither rows nor columns.
fn gathers(node: &Plan) -> bool {
    let deals = node.downcast_ref::<RepartitionExec>();
    let deals = deals.is_some_and(|r| matches!(r.partitioning(), Partitioning::RoundRobinBatch(_)));
    deals || node.is::<CoalescePartitionsExec>() || node.is::<CooperativeExec>()
}

/// By how many keys it sorts all rows, and does nothing else.
fn sorts(node: &Plan) -> Option<usize> {
    let sort = node.downcast_ref::<SortExec>().map(|sort| sort.expr());
    let merge = node.downcast_ref::<SortPreservingMergeExec>();
    let by = sort.or_else(|| merge.map(|merge| merge.expr()))?;
    node.fetch().is_none().then_some(by.len())
}

/// Whether rows pass one by one, and what is computed is computed alike everywhere.
fn passes(node: &Plan) -> bool {
    if node.fetch().is_some() {
        return false;
    }
    let known = node.is::<ClassifyExec>()
        || gathers(node)
        || node.is::<FilterExec>()
        || node.is::<ProjectionExec>();
    known && is_portable(node)
}

/// DataFusion's own functions and `safeguard_digest`, by name: a session may have others in their place.
static FUNCTIONS: LazyLock<HashMap<String, Arc<ScalarUDF>>> = LazyLock::new(|| {
    let known = SessionStateDefaults::default_scalar_functions().into_iter();
    let known = known.chain(safeguard_udfs::functions());
    known.map(|f| (f.name().to_owned(), f)).collect()
});

/// Whether its expressions mean the same in another process.
fn is_portable(node: &Plan) -> bool {
    let mut portable = true;
    let looked = node.apply_expressions(&mut |expr| {
        expr.apply(|part| {
            if let Some(call) = part.downcast_ref::<ScalarFunctionExpr>() {
                let known = FUNCTIONS.get(call.fun().name());
                portable &= known.is_some_and(|known| known.as_ref() == call.fun());
            }
            portable &= !part.is::<ScalarSubqueryExpr>();
            Ok(TreeNodeRecursion::Continue)
        })
    });
    portable && looked.is_ok()
}

fn text_of(node: &Plan) -> Option<Option<Arc<dyn PhysicalExpr>>> {
    node.is::<ClassifyExec>().then(|| text(node))
}

/// The one text that an operator asks about.
fn text(node: &Plan) -> Option<Arc<dyn PhysicalExpr>> {
    let parts = node.downcast_ref::<ClassifyExec>()?.parts();
    let mut texts = parts.questions.into_iter().map(|q| q.text);
    let first = texts.next()?;
    texts.all(|text| text.eq(&first)).then_some(first)
}

/// Whether two operators ask about the same column, wherever it stands in their inputs.
fn is_same(one: &Option<Arc<dyn PhysicalExpr>>, other: &Arc<dyn PhysicalExpr>) -> bool {
    let Some(one) = one else {
        return false;
    };
    match (one.downcast_ref::<Column>(), other.downcast_ref::<Column>()) {
        (Some(one), Some(other)) => one.name() == other.name(),
        _ => false,
    }
}

/// A scan of some of the files for each task, the largest dealt out first; and how many tasks there are.
fn split(scan: &Plan, tasks: usize) -> Result<(Plan, usize)> {
    let bug = || internal_datafusion_err!("a scan of files that is none");
    let exec = scan.downcast_ref::<DataSourceExec>().ok_or_else(bug)?;
    let config = exec.data_source().downcast_ref::<FileScanConfig>();
    let config = config.ok_or_else(bug)?;
    let pieces = config.file_groups.iter().flat_map(|group| group.iter());
    let mut pieces: Vec<PartitionedFile> = pieces.cloned().collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.effective_size()));
    let tasks = tasks.min(pieces.len()).max(1);
    let mut dealt: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); tasks];
    for piece in pieces {
        let least = dealt.iter_mut().min_by_key(|(bytes, _)| *bytes);
        let (bytes, files) = least.expect("bug: no task");
        *bytes += piece.effective_size();
        files.push(piece);
    }
    let most = dealt.iter().map(|(_, files)| files.len()).max();
    let partitions = most.unwrap_or(1).min(config.file_groups.len()).max(1);
    let variants = dealt.into_iter().map(|(_, files)| {
        let mut groups = vec![Vec::new(); partitions];
        for (at, file) in files.into_iter().enumerate() {
            groups[at % partitions].push(file);
        }
        let mut own = config.clone();
        own.file_groups = groups.into_iter().map(FileGroup::new).collect();
        own.output_partitioning = None;
        own.output_ordering = Vec::new();
        DataSourceExec::from_data_source(own) as Plan
    });
    let leaf = DistributedLeafExec::try_new(Arc::clone(scan), variants)?;
    Ok((Arc::new(leaf), tasks))
}
