//! What a plan will ask about, before it asks: for whoever estimates what a statement would cost.
//!
//! Takes an optimised plan, gives for each of its classifications the plan of the (policy, text) pairs that come to it.
//! That plan calls nothing of this crate. Where a classification stands on the answers of another one, rows that these would
//! leave out are left in, and it is said that there are at most so many. Runs nothing.

use crate::hoist::COLUMN_PREFIX;
use crate::node::{Call, ClassifyNode};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{JoinType, Result, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, FetchType, Filter, LogicalPlan, Projection, SkipType, when};
use std::sync::Arc;

/// What one classification of a plan will ask about.
#[derive(Debug, Clone)]
pub struct Asks {
    /// `safeguard_classify('hate', posts.body)`, each of its calls once.
    pub calls: String,
    /// Two columns for each question about a row, its policy and its text; the text is NULL where nothing is asked.
    /// `None` where the rows depend on the answers of another call in a way that bounds nothing.
    pub pairs: Option<LogicalPlan>,
    /// Whether some of these rows will be left out by the answers of another call.
    pub depends: bool,
    /// The rows that a LIMIT above wants of it at the least: it may end before its input does.
    pub wanted: Option<usize>,
}

/// The classifications of an optimised plan, those of subqueries included, from the top.
///
/// # Errors
/// A plan that cannot be taken apart.
pub fn asks(plan: &LogicalPlan) -> Result<Vec<Asks>> {
    let mut found = Vec::new();
    look(plan, None, &mut found)?;
    Ok(found)
}

fn look(plan: &LogicalPlan, limited: Option<usize>, found: &mut Vec<Asks>) -> Result<()> {
    if let Some(classify) = ClassifyNode::of(plan) {
        found.extend(of(classify, limited)?);
    }
    let limited = match plan {
        LogicalPlan::Limit(limit) => match (limit.get_skip_type()?, limit.get_fetch_type()?) {
            (SkipType::Literal(skip), FetchType::Literal(Some(fetch))) => Some(
                skip.saturating_add(fetch)
                    .min(limited.unwrap_or(usize::MAX)),
            ),
            (_, FetchType::Literal(None)) => limited,
            _ => Some(0),
        },
        // They read all of their input before they give a row.
        LogicalPlan::Aggregate(_) | LogicalPlan::Sort(_) | LogicalPlan::Window(_) => None,
        _ => limited,
    };
    for input in plan.inputs() {
        look(input, limited, found)?;
    }
    let mut subqueries = Vec::new();
    plan.apply_subqueries(|subquery| {
        subqueries.push(subquery.clone());
        Ok(TreeNodeRecursion::Jump)
    })?;
    for subquery in &subqueries {
        look(subquery, None, found)?;
    }
    Ok(())
}

fn of(classify: &ClassifyNode, wanted: Option<usize>) -> Result<Option<Asks>> {
    let mut questions: Vec<&Call> = Vec::new();
    let mut calls = Vec::new();
    for call in classify.calls.iter().filter(|c| c.output.judges()) {
        let shown = format!("{}({}, {})", call.output.function(), call.policy, call.text);
        if !calls.contains(&shown) {
            calls.push(shown);
        }
        if !questions.iter().any(|known| known.same_question(call)) {
            questions.push(call);
        }
    }
    if questions.is_empty() {
        return Ok(None);
    }
    let depends = judges(&classify.input)?;
    let input = match depends {
        false => Some(classify.input.clone()),
        true => at_most(&classify.input)?,
    };
    let needed = questions
        .iter()
        .flat_map(|c| [Some(&c.policy), Some(&c.text), c.guard.as_ref()]);
    // A guard or a text may itself be another call's answer.
    let bound = !depends || !needed.flatten().any(mentions);
    let pairs = match input.filter(|_| bound) {
        Some(input) => Some(pairs(&questions, input)?),
        None => None,
    };
    Ok(Some(Asks {
        calls: calls.join(", "),
        pairs,
        depends,
        wanted,
    }))
}

fn pairs(questions: &[&Call], input: LogicalPlan) -> Result<LogicalPlan> {
    let mut columns = Vec::with_capacity(2 * questions.len());
    for (at, call) in questions.iter().enumerate() {
        let text = match &call.guard {
            Some(guard) => when(guard.clone(), call.text.clone()).end()?,
            None => call.text.clone(),
        };
        columns.push(call.policy.clone().alias(format!("policy_{at}")));
        columns.push(text.alias(format!("text_{at}")));
    }
    let projection = Projection::try_new(columns, Arc::new(input))?;
    Ok(LogicalPlan::Projection(projection))
}

/// Whether a plan holds a classification, in subqueries too.
fn judges(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= ClassifyNode::of(node).is_some();
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

fn mentions(expr: &Expr) -> bool {
    let columns = expr.column_refs();
    columns.iter().any(|c| c.name.starts_with(COLUMN_PREFIX))
}

/// A plan with at least the rows of this one that judges nothing; `None` where there is none as simple.
fn at_most(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    if !judges(plan)? {
        return Ok(Some(plan.clone()));
    }
    if let Some(classify) = ClassifyNode::of(plan) {
        let Some(input) = at_most(&classify.input)? else {
            return Ok(None);
        };
        let own = classify.input.schema().columns().into_iter();
        let mut columns: Vec<Expr> = own.map(Expr::Column).collect();
        for call in &classify.calls {
            let null = ScalarValue::try_from(&call.output.data_type())?;
            columns.push(Expr::Literal(null, None).alias(&call.name));
        }
        let projection = Projection::try_new(columns, Arc::new(input))?;
        return Ok(Some(LogicalPlan::Projection(projection)));
    }
    if let LogicalPlan::Filter(filter) = plan {
        let Some(input) = at_most(&filter.input)? else {
            return Ok(None);
        };
        let kept = split_conjunction(&filter.predicate).into_iter();
        let kept = conjunction(kept.filter(|part| !mentions(part)).cloned());
        let bounded = match kept {
            None => input,
            Some(kept) => LogicalPlan::Filter(Filter::try_new(kept, Arc::new(input))?),
        };
        // A subquery within what is kept may judge.
        return Ok((!judges(&bounded)?).then_some(bounded));
    }
    let passes = match plan {
        // What only hands a call's answer on may hand on NULL.
        LogicalPlan::Projection(p) => p
            .expr
            .iter()
            .all(|e| !mentions(e) || matches!(e.clone().unalias(), Expr::Column(_))),
        LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Union(_) => !plan.expressions().iter().any(mentions),
        LogicalPlan::Join(join) => {
            join.join_type == JoinType::Inner && !plan.expressions().iter().any(mentions)
        }
        _ => false,
    };
    if !passes {
        return Ok(None);
    }
    let mut inputs = Vec::new();
    for input in plan.inputs() {
        match at_most(input)? {
            Some(input) => inputs.push(input),
            None => return Ok(None),
        }
    }
    let bounded = plan.with_new_exprs(plan.expressions(), inputs)?;
    Ok((!judges(&bounded)?).then_some(bounded))
}
