//! Under which condition SQL evaluates a call.
//!
//! Takes expressions, gives the calls in them that can be made now, each with the condition that CASE, COALESCE, AND
//! and OR put before it. Where SQL leaves the order open (AND, OR) what has no call is taken first: it is cheap.

use crate::functions::{Output, as_call};
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{Case, ScalarFunction};
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// Whether a call stands anywhere in the expression (subqueries are plans of their own).
pub(crate) fn has_call(expr: &Expr) -> bool {
    expr.exists(|e| Ok(as_call(e).is_some())).unwrap_or(false)
}

/// A call that can be made now: neither its arguments nor its guard need another call first.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) expr: Expr,
    pub(crate) output: Output,
    pub(crate) policy: Expr,
    pub(crate) text: Expr,
    pub(crate) guard: Option<Expr>,
}

/// One place where a call stands.
struct Occurrence {
    call: Expr,
    /// All must be true; empty means always evaluated.
    guards: Vec<Expr>,
}

impl Occurrence {
    fn waits(&self) -> bool {
        self.guards.iter().any(has_call)
    }
}

/// The calls of these expressions that can be made now; empty only if there are none at all.
pub(crate) fn ready_calls(exprs: &[Expr]) -> Result<Vec<Ready>> {
    let mut walk = Walk::default();
    for expr in exprs {
        walk.visit(expr)?;
    }
    let mut calls: Vec<(Expr, Vec<Occurrence>)> = Vec::new();
    for occurrence in walk.found {
        if as_call(&occurrence.call).is_some_and(|(_, args)| args.iter().any(has_call)) {
            continue;
        }
        match calls.iter_mut().find(|(call, _)| *call == occurrence.call) {
            Some((_, occurrences)) => occurrences.push(occurrence),
            None => calls.push((occurrence.call.clone(), vec![occurrence])),
        }
    }
    let ready = |occurrences: &[Occurrence]| !occurrences.iter().any(Occurrence::waits);
    if !calls.iter().any(|(_, occurrences)| ready(occurrences)) {
        // Two calls guard each other in different places: one of them has to be made for every row.
        calls.truncate(1);
        return Ok(calls
            .into_iter()
            .filter_map(|(call, _)| as_ready(call, None))
            .collect());
    }
    let calls = calls
        .into_iter()
        .filter(|(_, occurrences)| ready(occurrences));
    Ok(calls
        .filter_map(|(call, occurrences)| as_ready(call, union(occurrences)))
        .collect())
}

fn as_ready(call: Expr, guard: Option<Expr>) -> Option<Ready> {
    let (output, args) = as_call(&call)?;
    let [policy, text] = args else { return None };
    let (policy, text) = (policy.clone(), text.clone());
    Some(Ready {
        expr: call,
        output,
        policy,
        text,
        guard,
    })
}

/// A call is made where any of its occurrences needs it.
fn union(occurrences: Vec<Occurrence>) -> Option<Expr> {
    let mut guards: Vec<Expr> = Vec::new();
    for occurrence in occurrences {
        // What cannot be evaluated twice, or not in the operator, is left out: then more is asked than SQL needs, and
        // the answer is the same.
        let usable = occurrence
            .guards
            .into_iter()
            .filter(|g| !g.is_volatile() && !has_subquery(g) && !g.contains_outer());
        let guard = conjunction(usable)?;
        if !guards.contains(&guard) {
            guards.push(guard);
        }
    }
    disjunction(guards)
}

fn has_subquery(expr: &Expr) -> bool {
    let subquery = |e: &Expr| {
        matches!(
            e,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::ScalarSubquery(_)
        )
    };
    expr.exists(|e| Ok(subquery(e))).unwrap_or(true)
}

#[derive(Default)]
struct Walk {
    guards: Vec<Expr>,
    found: Vec<Occurrence>,
}

impl Walk {
    fn visit(&mut self, expr: &Expr) -> Result<()> {
        if as_call(expr).is_some() {
            self.found.push(Occurrence {
                call: expr.clone(),
                guards: self.guards.clone(),
            });
        }
        match expr {
            Expr::BinaryExpr(b) if matches!(b.op, Operator::And | Operator::Or) => {
                self.visit_logic(b)
            }
            Expr::Case(case) => self.visit_case(case),
            Expr::ScalarFunction(f) if matches!(f.name(), "coalesce" | "nvl" | "ifnull") => {
                self.visit_coalesce(f)
            }
            Expr::ScalarFunction(f) if f.name() == "nvl2" && f.args.len() == 3 => {
                self.visit(&f.args[0])?;
                self.visit_under(f.args[0].clone().is_not_null(), &f.args[1])?;
                self.visit_under(f.args[0].clone().is_null(), &f.args[2])
            }
            Expr::AggregateFunction(f) => match &f.params.filter {
                Some(filter) => self.visit_filtered(expr, filter),
                None => self.visit_children(expr),
            },
            Expr::WindowFunction(f) => match &f.params.filter {
                Some(filter) => self.visit_filtered(expr, filter),
                None => self.visit_children(expr),
            },
            other => self.visit_children(other),
        }
    }

    fn visit_children(&mut self, expr: &Expr) -> Result<()> {
        expr.apply_children(|child| {
            self.visit(child)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(())
    }

    fn visit_under(&mut self, guard: Expr, expr: &Expr) -> Result<()> {
        self.guards.push(guard);
        let visited = self.visit(expr);
        self.guards.pop();
        visited
    }

    /// `a AND b` needs b only where a is not false, `a OR b` only where a is not true.
    fn visit_logic(&mut self, top: &BinaryExpr) -> Result<()> {
        let mut operands = Vec::new();
        flatten(top, top.op, &mut operands);
        let (bearing, cheap): (Vec<&Expr>, Vec<&Expr>) =
            operands.into_iter().partition(|e| has_call(e));
        let open = self.guards.len();
        let guard = |e: &Expr| match top.op {
            Operator::And => e.clone().is_not_false(),
            _ => e.clone().is_not_true(),
        };
        self.guards.extend(cheap.into_iter().map(guard));
        for operand in bearing {
            self.visit(operand)?;
            self.guards.push(guard(operand));
        }
        self.guards.truncate(open);
        Ok(())
    }

    fn visit_case(&mut self, case: &Case) -> Result<()> {
        if let Some(base) = &case.expr {
            self.visit(base)?;
        }
        let open = self.guards.len();
        for (when, then) in &case.when_then_expr {
            let condition = match &case.expr {
                Some(base) => base.as_ref().clone().eq(when.as_ref().clone()),
                None => when.as_ref().clone(),
            };
            self.visit(when)?;
            self.visit_under(condition.clone().is_true(), then)?;
            self.guards.push(condition.is_not_true());
        }
        if let Some(otherwise) = &case.else_expr {
            self.visit(otherwise)?;
        }
        self.guards.truncate(open);
        Ok(())
    }

    fn visit_coalesce(&mut self, function: &ScalarFunction) -> Result<()> {
        let open = self.guards.len();
        for arg in &function.args {
            self.visit(arg)?;
            self.guards.push(arg.clone().is_null());
        }
        self.guards.truncate(open);
        Ok(())
    }

    /// An aggregate with a FILTER reads its arguments only where the filter is true.
    fn visit_filtered(&mut self, expr: &Expr, filter: &Expr) -> Result<()> {
        self.visit(filter)?;
        let under = filter.clone().is_true();
        expr.apply_children(|child| {
            if child != filter {
                self.visit_under(under.clone(), child)?;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(())
    }
}

fn flatten<'a>(top: &'a BinaryExpr, op: Operator, operands: &mut Vec<&'a Expr>) {
    // A chain of a thousand ORs leans left: a stack of our own, so that its depth is nobody's call stack.
    let mut pending = vec![top.right.as_ref(), top.left.as_ref()];
    while let Some(expr) = pending.pop() {
        match expr {
            Expr::BinaryExpr(b) if b.op == op => {
                pending.extend([b.right.as_ref(), b.left.as_ref()])
            }
            other => operands.push(other),
        }
    }
}
