//! Functions that do something: called once a statement, as `SELECT schema.name(..)`.
//!
//! Takes [`Procedure`]s, gives sessions that have them. They are volatile scalar functions that write when the statement
//! runs, never when it is planned, so that EXPLAIN, Describe and folding of constants do nothing. DataFusion may run an
//! asynchronous function more often than SQL says, or not at all, in almost every plan but one: a SELECT without FROM
//! whose column it is. In every other place a call is refused. Arguments are given by place or by name. What has a schema
//! in its name is a procedure, and for admins. Knows nothing of what any procedure is for.

use super::Engine;
use super::functions::{named, said, typed};
use super::script::BARE_SCHEMAS;
use crate::error::Error;
use async_trait::async_trait;
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{
    ColumnarValue, EmptyRelation, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::prelude::SessionContext;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A function that does something.
#[derive(Debug, Clone)]
pub struct Procedure {
    /// `schema.name`.
    pub name: &'static str,
    /// Names and types of its arguments; Utf8, Int64 or Boolean.
    pub arguments: &'static [(&'static str, DataType)],
    /// What arguments by place are: the first list that is long enough and whose types they have.
    pub places: &'static [&'static [&'static str]],
    /// What it returns.
    pub returns: DataType,
    /// What it does, in a sentence or two.
    pub description: &'static str,
    /// Does it.
    pub call: fn(ProcedureCall) -> BoxFuture<'static, Result<ScalarValue, Error>>,
}

/// A call that runs.
#[derive(Clone)]
pub struct ProcedureCall {
    /// Store, policies, model.
    pub engine: Engine,
    /// Who calls.
    pub user: Arc<str>,
    given: BTreeMap<&'static str, ScalarValue>,
}

impl ProcedureCall {
    /// A text; `None` where it was not given, or NULL.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.given.get(name) {
            Some(ScalarValue::Utf8(Some(text))) => Some(text),
            _ => None,
        }
    }

    /// A whole number.
    pub fn whole(&self, name: &str) -> Option<i64> {
        match self.given.get(name) {
            Some(ScalarValue::Int64(number)) => *number,
            _ => None,
        }
    }

    /// A truth value.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.given.get(name) {
            Some(ScalarValue::Boolean(flag)) => *flag,
            _ => None,
        }
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// 22004 where it is not.
    pub fn required(&self, name: &str) -> Result<&str, Error> {
        self.text(name).ok_or_else(|| Error::Refused {
            sqlstate: "22004",
            why: format!("{name} must be given and not be NULL"),
            hint: None,
        })
    }
}

/// A session's procedures, for whoever lists them.
#[derive(Debug)]
pub struct Procedures(pub Vec<Procedure>);

/// Gives a session its procedures.
pub(super) fn register(context: &SessionContext, engine: &Engine, user: &str) {
    for procedure in engine.procedures.iter() {
        let registered = Registered {
            engine: engine.clone(),
            user: user.into(),
            procedure: procedure.clone(),
            signature: Signature::variadic_any(Volatility::Volatile),
        };
        let function = AsyncScalarUDF::new(Arc::new(registered)).into_scalar_udf();
        context.register_udf(function);
    }
    let listed = Procedures(engine.procedures.as_ref().clone());
    let state = context.state_ref();
    let mut state = state.write();
    state.config_mut().set_extension(Arc::new(listed));
}

/// The procedure that an expression calls, itself and not below it.
pub fn called(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::ScalarFunction(call) => {
            let (schema, _) = call.name().split_once('.')?;
            (!BARE_SCHEMAS.contains(&schema)).then(|| call.name())
        }
        _ => None,
    }
}

/// The procedures that a plan calls, subqueries included.
pub fn calls(plan: &LogicalPlan) -> Result<Vec<String>> {
    let mut found = Vec::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                found.extend(called(expr).map(str::to_owned));
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// Whether the procedures that a plan calls, if any, will run exactly once.
///
/// # Errors
/// 0A000, where they would not.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    let found = calls(plan)?;
    let Some(first) = found.first() else {
        return Ok(());
    };
    match found.len() == 1 && is_plain(plan) {
        true => Ok(()),
        false => Err(Error::Refused {
            sqlstate: "0A000",
            why: format!("{first} is not supported in this place"),
            hint: Some(format!(
                "it is called alone: SELECT {first}(..), without FROM and with one call a statement"
            )),
        }
        .into()),
    }
}

/// `SELECT f(..)`: one call, no rows to call it for.
fn is_plain(plan: &LogicalPlan) -> bool {
    let plan = match plan {
        LogicalPlan::Explain(explain) => explain.plan.as_ref(),
        LogicalPlan::Analyze(analyze) => analyze.input.as_ref(),
        plan => plan,
    };
    let LogicalPlan::Projection(projection) = plan else {
        return false;
    };
    let one_row = matches!(
        projection.input.as_ref(),
        LogicalPlan::EmptyRelation(EmptyRelation {
            produce_one_row: true,
            ..
        })
    );
    let is_call = |mut expr: &Expr| {
        loop {
            expr = match expr {
                Expr::Alias(alias) => &alias.expr,
                Expr::Cast(cast) => &cast.expr,
                other => break called(other).is_some(),
            }
        }
    };
    one_row && projection.expr.iter().any(is_call)
}

#[derive(Debug)]
struct Registered {
    engine: Engine,
    user: Arc<str>,
    procedure: Procedure,
    signature: Signature,
}

impl PartialEq for Registered {
    fn eq(&self, other: &Self) -> bool {
        self.procedure.name == other.procedure.name && self.user == other.user
    }
}

impl Eq for Registered {}

impl Hash for Registered {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.procedure.name.hash(state);
        self.user.hash(state);
    }
}

impl ScalarUDFImpl for Registered {
    fn name(&self) -> &str {
        self.procedure.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.procedure.returns.clone())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("{} runs with its statement only", self.procedure.name)
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Registered {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.number_rows != 1 {
            let name = self.procedure.name;
            return internal_err!("{name} is called for {} rows", args.number_rows);
        }
        let values = args.args.into_iter().map(|value| match value {
            ColumnarValue::Scalar(value) => Ok(value),
            ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0),
        });
        let values = values.collect::<Result<Vec<_>>>()?;
        let call = ProcedureCall {
            engine: self.engine.clone(),
            user: Arc::clone(&self.user),
            given: self.procedure.given(values)?,
        };
        let value = (self.procedure.call)(call).await?;
        let value: ArrayRef = value
            .cast_to(&self.procedure.returns)?
            .to_array_of_size(1)?;
        Ok(ColumnarValue::Array(value))
    }
}

impl Procedure {
    /// `cron.schedule(job_name, schedule, command)`
    fn signature(&self) -> String {
        let names: Vec<&str> = self.arguments.iter().map(|(name, _)| *name).collect();
        format!("{}({})", self.name, names.join(", "))
    }

    /// The value as the argument of this name has it, if it can be one.
    fn typed(&self, name: &str, value: &ScalarValue) -> Option<ScalarValue> {
        let (_, wanted) = self.arguments.iter().find(|(known, _)| *known == name)?;
        typed(value, wanted)
    }

    /// Arguments by name. NULL is the same as not given.
    fn given(
        &self,
        values: Vec<ScalarValue>,
    ) -> Result<BTreeMap<&'static str, ScalarValue>, Error> {
        let wrong = |why: String| Error::Refused {
            sqlstate: "42883",
            why: format!("{}: {why}", self.signature()),
            hint: None,
        };
        let by_place = values.iter().take_while(|v| named(v).is_none()).count();
        let long = |names: &&&[&str]| names.len() >= by_place;
        let typed_so = |names: &&&[&str]| {
            let mut pairs = names.iter().zip(&values[..by_place]);
            pairs.all(|(name, value)| value.is_null() || self.typed(name, value).is_some())
        };
        let fitting = self.places.iter().filter(long).find(typed_so);
        let places = fitting.or_else(|| self.places.iter().find(long));
        let places = places.ok_or_else(|| wrong(format!("{by_place} arguments are too many")))?;
        let mut given = BTreeMap::new();
        for (at, value) in values.into_iter().enumerate() {
            let (name, value) = match named(&value) {
                Some((name, value)) => (name, value),
                None if at >= by_place => {
                    return Err(wrong("an argument by place follows one by name".to_owned()));
                }
                None => (places[at].to_owned(), value),
            };
            let known = self.arguments.iter().find(|(known, _)| **known == *name);
            let Some((known, wanted)) = known else {
                return Err(wrong(format!("there is no argument \"{name}\"")));
            };
            if value.is_null() {
                continue;
            }
            let Some(value) = self.typed(known, &value) else {
                let wanted = said(wanted);
                return Err(wrong(format!(
                    "argument \"{name}\" must be {wanted}, not {value}"
                )));
            };
            if given.insert(*known, value).is_some() {
                return Err(wrong(format!("argument \"{name}\" is given twice")));
            }
        }
        Ok(given)
    }
}
