//! This program's table functions: what one takes, who may call it, and what it does when its rows are read.
//!
//! Takes [`Function`]s, gives sessions that have them. A table function's call runs whenever a plan is made (for EXPLAIN
//! and Describe too), so planning only checks arguments; the work is done when the plan runs. Arguments are literals, by
//! place or by name (`note => 'why'`). Knows nothing of what any function is for.

use super::{Engine, Session};
use crate::config::Role;
use crate::error::Error;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue, not_impl_err, plan_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use datafusion::prelude::SessionContext;
use futures::{FutureExt, Stream, StreamExt};
use safeguard_udfs::{SafeguardSettings, Statement};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A table function, as a client may be told of it.
#[derive(Debug, Clone)]
pub struct FunctionDoc {
    /// Its name.
    pub name: &'static str,
    /// Names and types of its arguments; Utf8, Int64, Float64 or Boolean.
    pub arguments: &'static [(&'static str, DataType)],
    /// How many of them, from the first, must be given.
    pub required: usize,
    /// The columns of its rows, as far as they do not depend on the arguments.
    pub returns: SchemaRef,
    /// What it does, in a sentence or two.
    pub description: &'static str,
}

impl FunctionDoc {
    /// `safeguard_publish(name, text [, note])`
    fn signature(&self) -> String {
        let names: Vec<&str> = self.arguments.iter().map(|(name, _)| *name).collect();
        let (needed, others) = names.split_at(self.required);
        let others = match (others.is_empty(), needed.is_empty()) {
            (true, _) => String::new(),
            (false, true) => format!("[{}]", others.join(", ")),
            (false, false) => format!(" [, {}]", others.join(", ")),
        };
        format!("{}({}{others})", self.name, needed.join(", "))
    }
}

/// A table function.
#[derive(Debug, Clone)]
pub struct Function {
    /// What clients are told of it.
    pub doc: FunctionDoc,
    /// The least role that may call it.
    pub role: Role,
    /// Checks a call when a plan is made; does nothing that costs or changes anything.
    pub plan: fn(&Planning<'_>) -> Result<Planned>,
}

/// A call, as planning sees it.
pub struct Planning<'a> {
    /// Store, policies, model.
    pub engine: &'a Engine,
    /// What was given.
    pub arguments: &'a Arguments,
    /// The session that plans.
    pub session: &'a dyn datafusion::catalog::Session,
}

impl Planning<'_> {
    /// The columns of a query, for a function whose own columns depend on it.
    ///
    /// # Errors
    /// As [`Session::query_columns`]; 0A000 where planning the query has to wait for something.
    pub fn columns(&self, sql: &str) -> Result<SchemaRef> {
        let session = self.engine.session("");
        let state = session.context.state_ref();
        *state.write().config_mut().options_mut() = self.session.config_options().clone();
        // A table function is planned by a call that cannot wait, and a catalog in memory never has to.
        match session.query_columns(sql).now_or_never() {
            Some(columns) => Ok(columns?),
            None => not_impl_err!("the columns of the source cannot be told without waiting"),
        }
    }
}

/// What a checked call will give, and do.
#[derive(Clone)]
pub struct Planned {
    schema: SchemaRef,
    work: Arc<dyn Fn(Call) -> SendableRecordBatchStream + Send + Sync>,
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planned").finish_non_exhaustive()
    }
}

impl Planned {
    /// Work that gives rows as they come.
    pub fn stream<S>(
        schema: &SchemaRef,
        work: impl Fn(Call) -> S + Send + Sync + 'static,
    ) -> Planned
    where
        S: Stream<Item = Result<RecordBatch>> + Send + 'static,
    {
        let columns = Arc::clone(schema);
        Planned {
            schema: Arc::clone(schema),
            work: Arc::new(move |call| {
                let rows = work(call).boxed();
                Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&columns), rows))
            }),
        }
    }

    /// Work that gives all its rows when it is done.
    pub fn once<F>(schema: &SchemaRef, work: impl Fn(Call) -> F + Send + Sync + 'static) -> Planned
    where
        F: Future<Output = Result<RecordBatch, Error>> + Send + 'static,
    {
        Planned::stream(schema, move |call| {
            let done = work(call);
            futures::stream::once(async move { done.await.map_err(DataFusionError::from) })
        })
    }
}

/// A call that runs.
#[derive(Clone)]
pub struct Call {
    /// Store, policies, model.
    pub engine: Engine,
    /// Who calls.
    pub user: Arc<str>,
    /// Where the plan runs.
    pub context: Arc<TaskContext>,
}

impl Call {
    /// The caller's `safeguard.*` settings.
    pub fn settings(&self) -> SafeguardSettings {
        let extensions = &self.context.session_config().options().extensions;
        extensions
            .get::<SafeguardSettings>()
            .cloned()
            .unwrap_or_default()
    }

    /// The statement that runs, so that its budgets, its summary and the log know of what is asked.
    pub fn statement(&self) -> Arc<Statement> {
        let watched = self.context.session_config().get_extension::<Statement>();
        watched.unwrap_or_else(|| Arc::new(Statement::new(self.settings())))
    }

    /// A session that may read what the caller may, under the caller's settings, and counts as the same statement.
    pub fn session(&self) -> Session {
        let mut session = self.engine.session(&self.user);
        let caller = self.context.session_config();
        let state = session.context.state_ref();
        let mut state = state.write();
        let config = state.config_mut();
        *config.options_mut() = caller.options().as_ref().clone();
        config.set_extension(self.statement());
        if let Some(guarded) = caller.get_extension::<super::session::Guarded>() {
            config.set_extension(Arc::clone(&guarded));
            session.guard = Some(guarded.guard());
        }
        drop(state);
        session
    }
}

/// What a call was given, by name.
#[derive(Debug, Clone, Default)]
pub struct Arguments(BTreeMap<&'static str, ScalarValue>);

impl Arguments {
    fn read(doc: &FunctionDoc, exprs: &[Expr]) -> Result<Arguments> {
        let mut given = BTreeMap::new();
        let signature = doc.signature();
        let mut by_name = false;
        for (place, expr) in exprs.iter().enumerate() {
            let Expr::Literal(value, _) = expr else {
                return plan_err!("{signature} takes literals, not {expr}");
            };
            let (name, value) = match named(value) {
                Some((name, value)) => {
                    by_name = true;
                    let known = doc.arguments.iter().find(|(known, _)| **known == *name);
                    let Some((known, _)) = known else {
                        return plan_err!("{signature} has no argument \"{name}\"");
                    };
                    (*known, value)
                }
                None if by_name => {
                    return plan_err!("{signature}: an argument by place follows one by name");
                }
                None => match doc.arguments.get(place) {
                    Some((name, _)) => (*name, value.clone()),
                    None => {
                        let most = doc.arguments.len();
                        return plan_err!("{signature} takes {most} arguments at the most");
                    }
                },
            };
            if value.is_null() {
                continue;
            }
            let wanted = doc.arguments.iter().find(|(known, _)| *known == name);
            let wanted = wanted.map_or(&DataType::Utf8, |(_, wanted)| wanted);
            let Some(value) = typed(&value, wanted) else {
                let wanted = said(wanted);
                return plan_err!("{signature}: argument \"{name}\" must be {wanted}, not {value}");
            };
            if given.insert(name, value).is_some() {
                return plan_err!("{signature}: argument \"{name}\" is given twice");
            }
        }
        for (name, _) in &doc.arguments[..doc.required] {
            if !given.contains_key(name) {
                return plan_err!("{signature}: argument \"{name}\" is missing");
            }
        }
        Ok(Arguments(given))
    }

    /// A text; `None` where it was not given, or NULL.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(ScalarValue::Utf8(Some(text))) => Some(text),
            _ => None,
        }
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.0.get(name) {
            Some(ScalarValue::Float64(number)) => *number,
            _ => None,
        }
    }

    /// A whole number.
    pub fn whole(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(ScalarValue::Int64(number)) => *number,
            _ => None,
        }
    }

    /// A truth value.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.0.get(name) {
            Some(ScalarValue::Boolean(flag)) => *flag,
            _ => None,
        }
    }

    /// A text that planning has seen to be there.
    ///
    /// # Panics
    /// The function's documentation does not require it.
    pub fn required(&self, name: &str) -> &str {
        self.text(name)
            .unwrap_or_else(|| panic!("bug: argument {name} is not required"))
    }
}

/// `name => value`, which the parser of statements made a struct of one field: see `script`.
pub(super) fn named(value: &ScalarValue) -> Option<(String, ScalarValue)> {
    let ScalarValue::Struct(fields) = value else {
        return None;
    };
    let (name, column) = (fields.column_names().first()?.to_string(), fields.columns());
    let value = ScalarValue::try_from_array(column.first()?, 0).ok()?;
    Some((name, value))
}

pub(super) fn typed(value: &ScalarValue, wanted: &DataType) -> Option<ScalarValue> {
    let given = value.data_type();
    let fits = match wanted {
        DataType::Utf8 => given.is_string(),
        DataType::Int64 => given.is_integer(),
        DataType::Float64 => given.is_numeric(),
        other => given == *other,
    };
    fits.then(|| value.cast_to(wanted).ok()).flatten()
}

pub(super) fn said(wanted: &DataType) -> &'static str {
    match wanted {
        DataType::Int64 => "a whole number",
        DataType::Float64 => "a number",
        DataType::Boolean => "true or false",
        _ => "a text",
    }
}

/// What a session's table functions are, for whoever lists them.
#[derive(Debug)]
pub struct Functions(pub Vec<FunctionDoc>);

/// Gives a session its functions.
pub(super) fn register(context: &SessionContext, engine: &Engine, user: &str) {
    for function in engine.functions.iter() {
        let registered = Registered {
            engine: engine.clone(),
            user: user.into(),
            function: function.clone(),
        };
        context.register_udtf(function.doc.name, Arc::new(registered));
    }
    let docs = engine.functions.iter().map(|f| f.doc.clone()).collect();
    let state = context.state_ref();
    let mut state = state.write();
    state.config_mut().set_extension(Arc::new(Functions(docs)));
}

/// The name of this program's table function that `provider` comes from, and the least role that may call it.
pub fn called(provider: &dyn TableProvider) -> Option<(&'static str, Role)> {
    let table = provider.downcast_ref::<Table>()?;
    Some((table.function.doc.name, table.function.role))
}

#[derive(Debug)]
struct Registered {
    engine: Engine,
    user: Arc<str>,
    function: Function,
}

impl TableFunctionImpl for Registered {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let arguments = Arguments::read(&self.function.doc, args.exprs())?;
        let planned = (self.function.plan)(&Planning {
            engine: &self.engine,
            arguments: &arguments,
            session: args.session(),
        })?;
        Ok(Arc::new(Table {
            engine: self.engine.clone(),
            user: Arc::clone(&self.user),
            function: self.function.clone(),
            planned,
        }))
    }
}

/// A call as a table: its rows are read once.
#[derive(Debug, Clone)]
struct Table {
    engine: Engine,
    user: Arc<str>,
    function: Function,
    planned: Planned,
}

#[async_trait::async_trait]
impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.planned.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn datafusion::catalog::Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partition: Arc<dyn PartitionStream> = Arc::new(self.clone());
        let exec = StreamingTableExec::try_new(
            Arc::clone(&self.planned.schema),
            vec![partition],
            projection,
            None,
            false,
            limit,
        )?;
        Ok(Arc::new(exec))
    }
}

impl PartitionStream for Table {
    fn schema(&self) -> &SchemaRef {
        &self.planned.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        (self.planned.work)(Call {
            engine: self.engine.clone(),
            user: Arc::clone(&self.user),
            context,
        })
    }
}
