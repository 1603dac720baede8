//! The analyzer rule: every call becomes a column of a `Classify` node below the place where it stands.
//!
//! Takes a type-checked plan, gives one in which no expression holds a call. Runs before every optimizer rule, so that
//! none copies a call, folds it, or offers it to a table provider, and so that calls work wherever a column does:
//! GROUP BY, ORDER BY, aggregates, windows. Knows nothing of how a call is answered.

use crate::functions::as_call;
use crate::guard::{Ready, has_call, ready_calls};
use crate::node::{Call, ClassifyNode};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, JoinType, Result, not_impl_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Aggregate, Expr, Filter, Join, LogicalPlan, Operator, Projection};
use datafusion::optimizer::analyzer::AnalyzerRule;
use std::cell::Cell;
use std::sync::Arc;

/// Columns with this prefix are the operator's.
pub(crate) const COLUMN_PREFIX: &str = "__safeguard_";

/// Replaces calls by columns of `Classify` nodes.
#[derive(Debug)]
pub struct HoistCalls;

impl AnalyzerRule for HoistCalls {
    fn name(&self) -> &str {
        "hoist_safeguard_calls"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let names = Names::unused_in(&plan)?;
        Ok(plan
            .transform_up_with_subqueries(|node| hoist(node, &names))?
            .data)
    }
}

/// Names for the columns of one plan: numbered, so that plans are the same in every run.
struct Names(Cell<usize>);

impl Names {
    /// A view may bring columns that an earlier analysis named.
    fn unused_in(plan: &LogicalPlan) -> Result<Self> {
        let mut next = 0;
        plan.apply_with_subqueries(|node| {
            for call in ClassifyNode::of(node)
                .into_iter()
                .flat_map(|classify| &classify.calls)
            {
                let number = call
                    .name
                    .strip_prefix(COLUMN_PREFIX)
                    .and_then(|n| n.parse::<usize>().ok());
                next = next.max(number.map_or(0, |n| n + 1));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(Self(Cell::new(next)))
    }

    fn next(&self) -> String {
        let number = self.0.get();
        self.0.set(number + 1);
        format!("{COLUMN_PREFIX}{number}")
    }
}

fn hoist(plan: LogicalPlan, names: &Names) -> Result<Transformed<LogicalPlan>> {
    if ClassifyNode::of(&plan).is_some() || !plan.expressions().iter().any(has_call) {
        return Ok(Transformed::no(plan));
    }
    for expr in plan.expressions() {
        refuse_what_is_not_a_row(&expr)?;
    }
    let schema = Arc::clone(plan.schema());
    let hoisted = match plan {
        LogicalPlan::Join(join) => hoist_join(join, names)?,
        LogicalPlan::Filter(filter) => hoist_filter(filter, names)?,
        plan if plan.inputs().len() == 1 => hoist_unary(&plan, names)?,
        plan => return not_impl_err!("{} in {}", called(&plan.expressions()), plan.display()),
    };
    Ok(Transformed::yes(restore(hoisted, &schema)?))
}

/// Calls over an outer query's columns or a lambda's parameters have no row of their own to be judged with.
fn refuse_what_is_not_a_row(expr: &Expr) -> Result<()> {
    let lambda = |e: &Expr| matches!(e, Expr::Lambda(_) | Expr::HigherOrderFunction(_));
    expr.apply(|e| {
        if lambda(e) && has_call(e) {
            return not_impl_err!("{} inside a lambda", called(std::slice::from_ref(e)));
        }
        if as_call(e).is_some() && e.contains_outer() {
            return not_impl_err!(
                "{} over a column of an outer query; join the two, or call it in the outer query",
                called(std::slice::from_ref(e))
            );
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// The first function called, for an error.
fn called(exprs: &[Expr]) -> &'static str {
    let mut name = "a safeguard function";
    for expr in exprs {
        let _ = expr.apply(|e| match as_call(e) {
            Some((output, _)) => {
                name = output.function();
                Ok(TreeNodeRecursion::Stop)
            }
            None => Ok(TreeNodeRecursion::Continue),
        });
    }
    name
}

/// Projects the added columns away, so that nobody above sees them.
fn restore(plan: LogicalPlan, schema: &DFSchemaRef) -> Result<LogicalPlan> {
    if plan.schema().fields().len() == schema.fields().len() {
        return Ok(plan);
    }
    let columns = schema.columns().into_iter().map(Expr::Column).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(
        columns,
        Arc::new(plan),
    )?))
}

fn filtered(predicate: Expr, input: LogicalPlan) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Filter(Filter::try_new(
        predicate,
        Arc::new(input),
    )?))
}

fn hoist_unary(plan: &LogicalPlan, names: &Names) -> Result<LogicalPlan> {
    let preserver = NamePreserver::new(plan);
    let exprs = plan.expressions();
    let saved: Vec<_> = exprs.iter().map(|e| preserver.save(e)).collect();
    let (input, exprs) = provide_all(plan.inputs()[0].clone(), exprs, names)?;
    let exprs: Vec<Expr> = exprs
        .into_iter()
        .zip(saved)
        .map(|(e, name)| name.restore(e))
        .collect();
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let mut group = exprs;
            let aggregates = group.split_off(aggregate.group_expr.len());
            Ok(LogicalPlan::Aggregate(Aggregate::try_new(
                Arc::new(input),
                group,
                aggregates,
            )?))
        }
        _ => plan.with_new_exprs(exprs, vec![input]),
    }
}

/// Cheap conditions first, then one call after the other, each only for what the earlier ones left.
fn hoist_filter(filter: Filter, names: &Names) -> Result<LogicalPlan> {
    let (bearing, cheap): (Vec<Expr>, Vec<Expr>) = split_conjunction_owned(filter.predicate)
        .into_iter()
        .partition(has_call);
    // A condition on an outer query has to stay where decorrelation finds it, above what it cannot look through.
    let (correlated, cheap): (Vec<Expr>, Vec<Expr>) =
        cheap.into_iter().partition(Expr::contains_outer);
    let mut plan = Arc::unwrap_or_clone(filter.input);
    if let Some(predicate) = conjunction(cheap) {
        plan = filtered(predicate, plan)?;
    }
    for condition in bearing {
        let (input, conditions) = provide_all(plan, vec![condition], names)?;
        plan = conditions
            .into_iter()
            .try_fold(input, |input, condition| filtered(condition, input))?;
    }
    match conjunction(correlated) {
        Some(predicate) => filtered(predicate, plan),
        None => Ok(plan),
    }
}

/// An equality with one side a side of the join stays a join key, with its calls below that side. Any other condition
/// with a call becomes a filter above the join, where it is asked only of rows that the rest has joined.
fn hoist_join(mut join: Join, names: &Names) -> Result<LogicalPlan> {
    if join.join_type != JoinType::Inner {
        let mut exprs: Vec<Expr> = join.filter.iter().cloned().collect();
        exprs.extend(join.on.iter().flat_map(|(l, r)| [l.clone(), r.clone()]));
        return not_impl_err!(
            "{} in the ON clause of a {} join; classify in a subquery that is joined, or in WHERE",
            called(&exprs),
            join.join_type.to_string().to_ascii_lowercase()
        );
    }
    let mut left = Arc::unwrap_or_clone(join.left);
    let mut right = Arc::unwrap_or_clone(join.right);
    let (mut kept, mut above) = (Vec::new(), Vec::new());
    for condition in join
        .filter
        .take()
        .map(split_conjunction_owned)
        .unwrap_or_default()
    {
        if !has_call(&condition) {
            kept.push(condition);
        } else if let Some((l, r)) = as_key(&condition, &left, &right) {
            let (input, mut key) = provide_all(left, vec![l], names)?;
            left = input;
            let (input, other) = provide_all(right, vec![r], names)?;
            right = input;
            key.extend(other);
            kept.extend(key.into_iter().reduce(|l, r| l.eq(r)));
        } else {
            above.push(condition);
        }
    }
    let mut on = Vec::with_capacity(join.on.len());
    for (l, r) in join.on {
        let (input, l) = provide_all(left, vec![l], names)?;
        left = input;
        let (input, r) = provide_all(right, vec![r], names)?;
        right = input;
        on.extend(l.into_iter().zip(r));
    }
    let joined = LogicalPlan::Join(Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        conjunction(kept),
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?);
    let Some(predicate) = conjunction(above) else {
        return Ok(joined);
    };
    hoist_filter(Filter::try_new(predicate, Arc::new(joined))?, names)
}

/// The left and the right side of an equality between the two inputs.
fn as_key(condition: &Expr, left: &LogicalPlan, right: &LogicalPlan) -> Option<(Expr, Expr)> {
    let Expr::BinaryExpr(b) = condition else {
        return None;
    };
    let of = |e: &Expr, side: &LogicalPlan| {
        let columns = e.column_refs();
        !columns.is_empty() && columns.into_iter().all(|c| side.schema().has_column(c))
    };
    let (l, r) = (b.left.as_ref(), b.right.as_ref());
    match b.op {
        Operator::Eq if of(l, left) && of(r, right) => Some((l.clone(), r.clone())),
        Operator::Eq if of(r, left) && of(l, right) => Some((r.clone(), l.clone())),
        _ => None,
    }
}

/// The input with a column for every call of the expressions, and the expressions over those columns.
fn provide_all(
    mut input: LogicalPlan,
    mut exprs: Vec<Expr>,
    names: &Names,
) -> Result<(LogicalPlan, Vec<Expr>)> {
    loop {
        let ready = ready_calls(&exprs)?;
        if ready.is_empty() {
            return Ok((input, exprs));
        }
        let (provided, columns) = provide(input, ready, names)?;
        input = provided;
        exprs = exprs
            .into_iter()
            .map(|e| substitute(e, &columns))
            .collect::<Result<_>>()?;
    }
}

fn substitute(expr: Expr, columns: &[(Expr, Expr)]) -> Result<Expr> {
    let replace = |e: Expr| {
        Ok(match columns.iter().find(|(call, _)| *call == e) {
            Some((_, column)) => Transformed::new(column.clone(), true, TreeNodeRecursion::Jump),
            None => Transformed::no(e),
        })
    };
    Ok(expr.transform_down(replace)?.data)
}

/// One `Classify` node for these calls, less what a node below already knows.
fn provide(
    mut plan: LogicalPlan,
    calls: Vec<Ready>,
    names: &Names,
) -> Result<(LogicalPlan, Vec<(Expr, Expr)>)> {
    let mut columns = Vec::new();
    let mut new = Vec::new();
    for ready in calls {
        let Ready {
            expr,
            output,
            policy,
            text,
            guard,
        } = ready;
        let mut call = Call {
            name: String::new(),
            output,
            policy,
            text,
            guard,
        };
        let name = match reuse(&plan, &call, names)? {
            Some((reusing, name)) => {
                plan = reusing;
                name
            }
            None => {
                call.name = names.next();
                new.push(call.clone());
                call.name
            }
        };
        columns.push((expr, Expr::Column(Column::new_unqualified(name))));
    }
    if !new.is_empty() {
        plan = ClassifyNode::try_new(plan, new)?.into_plan();
    }
    Ok((plan, columns))
}

/// Looks for the same question through nodes that keep rows as they are, and has its column handed up.
fn reuse(plan: &LogicalPlan, call: &Call, names: &Names) -> Result<Option<(LogicalPlan, String)>> {
    // A guarded column is NULL where another place needs it.
    if call.guard.is_some() {
        return Ok(None);
    }
    if let Some(classify) = ClassifyNode::of(plan) {
        let Some(same) = classify.calls.iter().find(|c| c.same_question(call)) else {
            let below = reuse(&classify.input, call, names)?;
            return below
                .map(|(input, name)| Ok((rebuild(plan, input)?, name)))
                .transpose();
        };
        if let Some(known) = classify
            .calls
            .iter()
            .find(|c| c.same_question(call) && c.output == call.output)
        {
            return Ok(Some((plan.clone(), known.name.clone())));
        }
        let mut calls = classify.calls.clone();
        let name = names.next();
        calls.push(Call {
            name: name.clone(),
            output: call.output,
            ..same.clone()
        });
        return Ok(Some((
            ClassifyNode::try_new(classify.input.clone(), calls)?.into_plan(),
            name,
        )));
    }
    match plan {
        LogicalPlan::Filter(filter) => {
            let below = reuse(&filter.input, call, names)?;
            below
                .map(|(input, name)| Ok((rebuild(plan, input)?, name)))
                .transpose()
        }
        LogicalPlan::Projection(p) if p.expr.iter().all(|e| matches!(e, Expr::Column(_))) => {
            let Some((input, name)) = reuse(&p.input, call, names)? else {
                return Ok(None);
            };
            let mut exprs = p.expr.clone();
            let column = Expr::Column(Column::new_unqualified(name.clone()));
            if !exprs.contains(&column) {
                exprs.push(column);
            }
            let projection = Projection::try_new(exprs, Arc::new(input))?;
            Ok(Some((LogicalPlan::Projection(projection), name)))
        }
        _ => Ok(None),
    }
}

fn rebuild(plan: &LogicalPlan, input: LogicalPlan) -> Result<LogicalPlan> {
    plan.with_new_exprs(plan.expressions(), vec![input])
}
