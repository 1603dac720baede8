//! One connection's session: plans statements, runs them, says what they asked.
//!
//! Takes statements and plans, gives rows as they come and notices at the end. Every plan passes the session's guard
//! before it runs. Knows DataFusion's context; knows nothing of sockets or terminals.

use super::script::{self, Statement};
use super::servers::{self, Ask};
use super::{
    Engine, estimate, files, notice, objects, procedures, relations, secrets, tables, undecided,
};
use crate::config::Role;
use crate::error::Error;
use crate::store::{QueryRow, now};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::MemTable;
use datafusion::common::DataFusionError;
use datafusion::config::{ConfigField, ExtensionOptions};
use datafusion::datasource::provider_as_source;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{DdlStatement, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast;
use futures::TryStreamExt;
use safeguard_udfs::{SafeguardSettings, Summary, Tally};
use std::sync::Arc;

/// The prefix of the settings that are this program's.
const SETTINGS: &str = "safeguard.";

/// Looks at an optimised plan before it runs; its error is the statement's.
pub type Guard = Arc<dyn Fn(&LogicalPlan) -> Result<(), DataFusionError> + Send + Sync>;

/// A session's guard where its plans run, for what they start.
pub(super) struct Guarded(Guard);

impl Guarded {
    pub(super) fn guard(&self) -> Guard {
        Arc::clone(&self.0)
    }
}

/// One connection: its settings and its rights. Starts one statement at a time; rows of several may be read in turn.
pub struct Session {
    pub(super) engine: Engine,
    pub(super) context: SessionContext,
    pub(super) user: String,
    pub(super) guard: Option<Guard>,
    /// Against whose limits of a day its questions count.
    pub(super) payer: Option<Role>,
}

/// A statement that is running.
pub struct Running {
    /// Columns of the answer; no columns for a statement that returns no rows.
    pub schema: SchemaRef,
    /// PostgreSQL's command tag without the count: `SELECT`, `CREATE TABLE`, `SET`, `INSERT 0`, ..
    pub tag: &'static str,
    rows: SendableRecordBatchStream,
    ended: Ended,
}

/// What is left of a [`Running`] whose rows are read or dropped.
pub struct Ended {
    scope: Arc<safeguard_udfs::Statement>,
    started_at: i64,
    sql: String,
}

/// How a statement ended.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// All rows were read.
    Done,
    /// It was given up before.
    Cancelled,
    /// With this SQLSTATE and message.
    Failed(&'static str, &'a str),
}

impl Running {
    /// What it has asked so far; all zero when it classifies nothing.
    pub fn progress(&self) -> Summary {
        self.ended.progress()
    }

    /// The rows as they come, and what [`Session::finish`] wants. Dropping the rows cancels the statement.
    pub fn split(self) -> (SendableRecordBatchStream, Ended) {
        (self.rows, self.ended)
    }
}

impl Ended {
    /// What it has asked so far; all zero when it classifies nothing.
    pub fn progress(&self) -> Summary {
        self.scope.tally().summary()
    }
}

impl Session {
    /// The statements of a script. One that cannot be parsed is reported in its place, and ends the list.
    pub fn split(&self, script: &str) -> Vec<Result<Statement, Error>> {
        script::split(script)
    }

    /// Whether `script` ends inside a statement, so that a prompt asks for another line.
    pub fn is_incomplete(&self, script: &str) -> bool {
        script::is_incomplete(script)
    }

    /// The same session, whose plans pass `guard` before they run.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Session {
        let state = self.context.state_ref();
        let guarded = Arc::new(Guarded(Arc::clone(&guard)));
        state.write().config_mut().set_extension(guarded);
        self.guard = Some(guard);
        self
    }

    /// The same session, whose questions count against what this role may ask in a day.
    #[must_use]
    pub fn paid_by(mut self, role: Role) -> Session {
        self.payer = Some(role);
        self
    }

    /// The rows of a query that is a part of the statement that runs: under this session's guard and settings, asked on
    /// the same account.
    ///
    /// # Errors
    /// It is not one query; what the guard refuses; what planning it finds.
    pub async fn query(&self, sql: &str) -> Result<SendableRecordBatchStream, Error> {
        let (state, plan) = self.query_plan(sql).await?;
        self.stream(&state, &plan).await
    }

    /// The rows of a plan, under the guard.
    pub(super) async fn stream(
        &self,
        state: &SessionState,
        plan: &LogicalPlan,
    ) -> Result<SendableRecordBatchStream, Error> {
        rows_of(self.physical(state, plan).await?, state.task_ctx())
    }

    /// The columns of such a query.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub async fn query_columns(&self, sql: &str) -> Result<SchemaRef, Error> {
        let (_, plan) = self.query_plan(sql).await?;
        self.columns(&plan)
    }

    async fn query_plan(&self, sql: &str) -> Result<(SessionState, LogicalPlan), Error> {
        let sql = sql.trim().trim_end_matches(';');
        let statement = Statement::parse(sql)?;
        if statement.tag != "SELECT" || statement.ast().is_none_or(|ast| !is_query(ast)) {
            let why = "a source must be one query: SELECT ..";
            return Err(DataFusionError::Plan(why.to_owned()).into());
        }
        let state = self.context.state();
        let plan = state.statement_to_plan(statement.parsed).await?;
        Ok((state, plan))
    }

    /// Whose it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Where functions of one connection are registered.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Plans a statement; parameters (`$1`) stay open.
    pub async fn plan(&self, statement: &Statement) -> Result<LogicalPlan, Error> {
        if let Some(plan) = servers::planned(statement)? {
            return Ok(plan);
        }
        if let Some(plan) = secrets::planned(statement)? {
            return Ok(plan);
        }
        let state = self.context.state();
        let parsed = servers::plannable(statement.parsed.clone());
        let plan = state.statement_to_plan(parsed).await?;
        servers::check_target(&plan, &servers::insertion(statement)?)?;
        Ok(plan)
    }

    /// The columns that a plan's rows will have.
    pub fn columns(&self, plan: &LogicalPlan) -> Result<SchemaRef, Error> {
        let state = self.context.state();
        let config = state.config_options();
        let analyzed = state
            .analyzer()
            .execute_and_check(plan.clone(), config, |_, _| {})?;
        Ok(Arc::new(analyzed.schema().as_arrow().clone()))
    }

    /// Plans and starts a statement. What it is to see of its own questions begins here.
    pub async fn run(&self, statement: &Statement) -> Result<Running, Error> {
        self.start(statement, None).await
    }

    /// Starts a statement that is planned, its parameters filled in.
    pub async fn run_plan(
        &self,
        statement: &Statement,
        plan: LogicalPlan,
    ) -> Result<Running, Error> {
        self.start(statement, Some(plan)).await
    }

    async fn start(
        &self,
        statement: &Statement,
        plan: Option<LogicalPlan>,
    ) -> Result<Running, Error> {
        let payer = self.payer.map(|role| role.as_str().into());
        let scope = safeguard_udfs::Statement::paid_by(self.settings(), payer);
        let scope = Arc::new(scope);
        let ended = Ended {
            scope: Arc::clone(&scope),
            started_at: now(),
            sql: statement.sql.clone(),
        };
        match self.rows(statement, plan, scope).await {
            Ok(rows) => Ok(Running {
                schema: rows.schema(),
                tag: statement.tag,
                rows,
                ended,
            }),
            Err(error) => {
                // CREATE TABLE AS has judged by now.
                let message = error.to_string();
                self.finish(ended, End::Failed(error.sqlstate(), &message))
                    .await;
                Err(error)
            }
        }
    }

    async fn rows(
        &self,
        statement: &Statement,
        plan: Option<LogicalPlan>,
        scope: Arc<safeguard_udfs::Statement>,
    ) -> Result<SendableRecordBatchStream, Error> {
        let reset = script::as_reset(statement).filter(|n| n == "all" || n.starts_with(SETTINGS));
        if let Some(name) = reset {
            self.reset(&name)?;
            return self.nothing().await;
        }
        let state = self.context.state_ref();
        let tally = Arc::clone(scope.tally());
        let judged = Arc::clone(&scope);
        let insertion = servers::insertion(statement)?;
        {
            let mut state = state.write();
            state.config_mut().set_extension(scope);
            state.config_mut().set_extension(Arc::new(insertion));
        }
        let state = self.context.state();
        let plan = match plan {
            Some(plan) => plan,
            None => self.plan(statement).await?,
        };
        if let LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) = &plan {
            procedures::check(&plan)?;
            if let Some(guard) = &self.guard {
                guard(&state.optimize(&plan)?)?;
            }
            return self.define(statement, plan, tally).await;
        }
        files::locations(&plan, &self.engine.roots)?;
        let rows = self.stream(&state, &plan).await?;
        Ok(match &plan {
            // Checked before it was written.
            LogicalPlan::Dml(_) | LogicalPlan::Copy(_) => rows,
            LogicalPlan::Explain(explain) => estimate::with_estimates(self, &state, explain, rows),
            _ => undecided::checked(rows, judged),
        })
    }

    /// Runs what makes or drops something, or sets a setting; what is to be there after a restart is kept.
    async fn define(
        &self,
        statement: &Statement,
        plan: LogicalPlan,
        tally: Arc<Tally>,
    ) -> Result<SendableRecordBatchStream, Error> {
        if self.secret(statement, &tally).await? {
            return self.nothing().await;
        }
        if let Some(table) = tables::kept(&self.engine, &plan) {
            tables::create(self, statement, table, &tally).await?;
            return self.nothing().await;
        }
        let change = relations::change(self, statement, &plan);
        if let Some(change) = &change
            && relations::forget_unmade(self, change).await?
        {
            tables::sweep(&self.engine).await?;
            return self.nothing().await;
        }
        if statement.tag == script::DROP_SERVER
            && let LogicalPlan::Ddl(DdlStatement::DropCatalogSchema(drop)) = &plan
        {
            self.check_server(drop)?;
        }
        let rows = match &plan {
            LogicalPlan::Ddl(DdlStatement::CreateCatalogSchema(create))
                if servers::makes_one(statement) =>
            {
                self.attach(statement, create, Ask::Now).await?;
                self.nothing().await?
            }
            _ => {
                let plan = self.filled(plan).await?;
                self.execute(plan).await?
            }
        };
        if let Some(change) = change {
            if let Some(note) = relations::keep(self, change).await? {
                tally.note(note);
            }
            tables::sweep(&self.engine).await?;
        }
        Ok(rows)
    }

    /// A table that is made in memory, with its rows, where they fail if too many texts are undecided.
    async fn filled(&self, plan: LogicalPlan) -> Result<LogicalPlan, Error> {
        let state = self.context.state();
        let statement = state.config().get_extension::<safeguard_udfs::Statement>();
        Ok(match (plan, statement) {
            (LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(mut table)), Some(statement))
                if statement.settings().max_undecided_ratio < 1.0
                    && (table.or_replace || !self.context.table_exist(table.name.clone())?) =>
            {
                let rows = self.stream(&state, &table.input).await?;
                let rows = undecided::checked(rows, statement);
                let (schema, batches) = (rows.schema(), rows.try_collect().await?);
                let rows = provider_as_source(Arc::new(MemTable::try_new(schema, vec![batches])?));
                let rows = LogicalPlanBuilder::scan(table.name.clone(), rows, None)?;
                table.input = Arc::new(rows.build()?);
                LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table))
            }
            (plan, _) => plan,
        })
    }

    /// Runs a plan that makes or drops something, and keeps nothing.
    pub(super) async fn execute(
        &self,
        plan: LogicalPlan,
    ) -> Result<SendableRecordBatchStream, Error> {
        let locations = files::locations(&plan, &self.engine.roots)?;
        objects::reach(&self.engine.runtime, &locations).await?;
        let plan = files::compressed(plan);
        let frame = self.context.execute_logical_plan(plan).await;
        let frame = frame.map_err(|e| files::named(e, &locations))?;
        let context = Arc::new(frame.task_ctx());
        rows_of(frame.create_physical_plan().await?, context)
    }

    /// The rows of a statement that gives none.
    async fn nothing(&self) -> Result<SendableRecordBatchStream, Error> {
        let nothing = self.context.read_empty()?.select_columns(&[])?;
        let nothing = nothing.limit(0, Some(0))?;
        Ok(nothing.execute_stream().await?)
    }

    /// Optimised once, looked at, made physical.
    async fn physical(
        &self,
        state: &SessionState,
        plan: &LogicalPlan,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        procedures::check(plan)?;
        let plan = state.optimize(plan)?;
        if let Some(guard) = &self.guard {
            guard(&plan)?;
        }
        let planner = state.query_planner();
        let made = planner.create_physical_plan(&plan, state).await?;
        match state.config().get_extension::<safeguard_udfs::Statement>() {
            Some(statement) => Ok(undecided::before_writing(made, &statement)?),
            None => Ok(made),
        }
    }

    /// To be called when the rows are read or given up: logs a statement that classified in `safeguard.queries`, and
    /// gives its notices.
    pub async fn finish(&self, ended: Ended, end: End<'_>) -> Vec<String> {
        let summary = ended.progress();
        if let Some(role) = self.payer {
            self.engine.limits.rest(role).await;
        }
        let mut notices = ended.scope.tally().notes();
        if summary.distinct_texts == 0 {
            return notices;
        }
        notices.push(notice(&summary));
        let status = match end {
            End::Done => "ok".to_owned(),
            End::Cancelled => "57014: cancelled".to_owned(),
            End::Failed(sqlstate, message) => format!("{sqlstate}: {message}"),
        };
        let row = QueryRow {
            started_at: ended.started_at,
            user: self.user.clone(),
            statement: ended.sql,
            status,
            rows: summary.rows,
            distinct_texts: summary.distinct_texts,
            recalled: summary.recalled,
            screened: summary.screened,
            asked: summary.asked,
            undecided: summary.undecided_total(),
            tokens_in: summary.tokens_in,
            tokens_out: summary.tokens_out,
            seconds: summary.elapsed.as_secs_f64(),
            role: self.payer.map(|role| role.to_string()),
            model: Some(self.engine.model.name.to_string()),
            busy_seconds: Some(summary.busy_seconds),
        };
        if let Err(e) = self.engine.store.append_query(row).await {
            notices.push(format!(
                "the statement is missing from safeguard.queries: {e}"
            ));
        }
        notices
    }

    pub(super) fn settings(&self) -> SafeguardSettings {
        let state = self.context.state();
        state
            .config_options()
            .extensions
            .get::<SafeguardSettings>()
            .cloned()
            .unwrap_or_default()
    }

    /// The value of one of DataFusion's or this program's settings; `None` where there is no such setting.
    pub fn setting(&self, name: &str) -> Option<String> {
        let state = self.context.state();
        let entries = state.config_options().entries();
        let entry = entries.into_iter().find(|entry| entry.key == name)?;
        Some(entry.value.unwrap_or_default())
    }

    /// Sets one of DataFusion's or this program's settings.
    pub fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        let state = self.context.state_ref();
        let mut state = state.write();
        Ok(state.config_mut().options_mut().set(name, value)?)
    }

    /// Puts a setting back to what a new session has; `all` for all of this program's.
    ///
    /// DataFusion resets only its own settings.
    pub fn reset(&self, name: &str) -> Result<(), Error> {
        let defaults = SafeguardSettings::default().entries();
        let state = self.context.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        for entry in defaults {
            if name == "all" || entry.key == name {
                options.set(&entry.key, entry.value.as_deref().unwrap_or_default())?;
                if name != "all" {
                    return Ok(());
                }
            }
        }
        if name == "all" {
            return Ok(());
        }
        if name.starts_with("datafusion.") {
            return Ok(ConfigField::reset(options, name)?);
        }
        // Says that there is no such setting, and which there are.
        Ok(options.set(name, "")?)
    }
}

fn is_query(statement: &ast::Statement) -> bool {
    matches!(statement, ast::Statement::Query(_))
}

/// The rows of a plan; what is wrong in a file is said with the file's name.
fn rows_of(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream, Error> {
    let files = files::scanned(&plan);
    let rows = execute_stream(plan, context)?;
    let schema = rows.schema();
    let rows = rows.map_err(move |e| files::named(e, &files));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}
