//! The types of `$1`, `$2`, .. where the planner leaves them open.
//!
//! Takes a plan, gives it with types from what stands around a parameter, as PostgreSQL infers them: a cast around
//! it, the other side of `= ANY ($1)`, the other arguments of `coalesce`, LIMIT. What stays open is text.

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::{Cast, Placeholder, ScalarFunction, TryCast};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use std::sync::Arc;

/// Functions whose arguments are all of one type.
const ALIKE: [&str; 5] = ["coalesce", "nullif", "greatest", "least", "nvl"];

/// The plan with types for its parameters where their surroundings tell.
///
/// # Errors
/// When the plan cannot be walked, which is a fault of its maker.
pub fn infer(plan: LogicalPlan) -> Result<LogicalPlan> {
    let typed = plan.transform_up_with_subqueries(|plan| {
        let schema = merge_schema(&plan.inputs());
        let limit = matches!(plan, LogicalPlan::Limit(_));
        plan.map_expressions(|expr| {
            let expr = match limit {
                true => placed(expr, &DataType::Int64),
                false => expr,
            };
            expr.transform_up(|expr| Ok(Transformed::yes(around(expr, &schema))))
        })
    });
    Ok(typed?.data)
}

fn is_open(expr: &Expr) -> bool {
    matches!(expr, Expr::Placeholder(Placeholder { field: None, .. }))
}

/// The parameter with a type, if it has none.
fn placed(expr: Expr, data_type: &DataType) -> Expr {
    match expr {
        Expr::Placeholder(Placeholder { id, field: None }) => {
            let field: FieldRef = Arc::new(Field::new("", data_type.clone(), true));
            Expr::Placeholder(Placeholder {
                id,
                field: Some(field),
            })
        }
        other => other,
    }
}

fn around(expr: Expr, schema: &DFSchema) -> Expr {
    match expr {
        Expr::Cast(Cast { expr, field }) if is_open(&expr) => {
            let expr = Box::new(placed(*expr, field.data_type()));
            Expr::Cast(Cast { expr, field })
        }
        Expr::TryCast(TryCast { expr, field }) if is_open(&expr) => {
            let expr = Box::new(placed(*expr, field.data_type()));
            Expr::TryCast(TryCast { expr, field })
        }
        Expr::ScalarFunction(call) => Expr::ScalarFunction(arguments(call, schema)),
        other => other,
    }
}

fn arguments(mut call: ScalarFunction, schema: &DFSchema) -> ScalarFunction {
    let name = call.func.name();
    let known = |expr: &Expr| expr.get_type(schema).ok().filter(|t| *t != DataType::Null);
    if name == "array_has" && call.args.len() == 2 {
        if is_open(&call.args[0]) {
            if let Some(item) = known(&call.args[1]) {
                let list = DataType::List(Arc::new(Field::new_list_field(item, true)));
                let open = std::mem::take(&mut call.args[0]);
                call.args[0] = placed(open, &list);
            }
        } else if is_open(&call.args[1])
            && let Some(DataType::List(item) | DataType::LargeList(item)) = known(&call.args[0])
        {
            let open = std::mem::take(&mut call.args[1]);
            call.args[1] = placed(open, item.data_type());
        }
    } else if ALIKE.contains(&name) {
        let other = call.args.iter().filter(|arg| !is_open(arg)).find_map(known);
        if let Some(data_type) = other {
            let args = std::mem::take(&mut call.args).into_iter();
            call.args = args.map(|arg| placed(arg, &data_type)).collect();
        }
    }
    call
}
