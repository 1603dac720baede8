//! What each role may do, decided on the plan that runs.
//!
//! Takes a role and an optimised logical plan, gives leave or the reason of a refusal, in PostgreSQL's words. Looks at
//! every node, those of subqueries, views, EXPLAIN and INSERT included, and at the columns that scans really read: a
//! view's or an alias's name hides nothing. Whatever is not known here is for admins. Knows no user and no session.

use super::failure::Failure;
use super::settings::Options;
pub use crate::config::Role;
use crate::config::RoleLimits;
use crate::engine::functions::called;
use crate::engine::{guarded, procedures};
use crate::store;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    DdlStatement, DmlStatement, LogicalPlan, SetVariable, Statement, TableScan, TableSource,
    WriteOp,
};
use std::sync::Arc;

/// Columns of the store's tables that hold what people wrote or what a model said of it: not for readers.
const WITHHELD: [(&str, &[&str]); 13] = [
    ("verdicts", &["rationale", "rules"]),
    ("queries", &["statement"]),
    ("overrides", &["text", "note", "reviewer"]),
    // Where golden rows come from can be a query, and that can spell a text out.
    ("evaluations", &["golden", "note"]),
    ("evaluation_rows", &["text", "rules"]),
    ("backtests", &["source", "note"]),
    (
        "backtest_flips",
        &[
            "text",
            "old_rationale",
            "new_rationale",
            "old_rules",
            "new_rules",
        ],
    ),
    ("relations", &["sql"]),
    ("job", &["command"]),
    ("job_run_details", &["command", "return_message", "notices"]),
    ("backfills", &["source", "note", "reason"]),
    // The source of a screen can be a query, and that can spell a text out.
    ("screens", &["source"]),
    ("backfill_failures", &["id", "last_error"]),
];

/// The functions whose answers hold such columns.
const WITHHELD_FUNCTIONS: [&str; 1] = ["safeguard_verdict"];

/// The one table that people write to.
const OVERRIDES: &str = "overrides";

/// Names of this program's table functions begin so.
const FUNCTION_PREFIX: &str = "safeguard_";

/// Settings of the whole process begin so: memory, folders, caches.
const RUNTIME_SETTINGS: &str = "datafusion.runtime.";

/// Whether `role` may run `plan`, which is optimised: its scans read the columns that they need and no others.
///
/// # Errors
/// 42501, naming what is withheld, with the roles that may have it.
pub fn check(role: Role, plan: &LogicalPlan) -> Result<(), Failure> {
    if role == Role::Admin {
        return Ok(());
    }
    if let Some(name) = procedures::calls(plan)?.first() {
        return Err(only_admin(format!("permission denied for function {name}")));
    }
    let mut refused = None;
    let looked = plan.apply_with_subqueries(|node| {
        Ok(match of_node(role, node) {
            Ok(()) => TreeNodeRecursion::Continue,
            Err(failure) => {
                refused = Some(failure);
                TreeNodeRecursion::Stop
            }
        })
    });
    match refused {
        Some(failure) => Err(failure),
        None => looked.map(drop).map_err(Failure::from),
    }
}

/// Whether `role` may give this setting this value; `None` is what the session began with.
///
/// # Errors
/// 42501 for what is the whole process's, and for a reader who would ask the model.
pub fn check_setting(role: Role, name: &str, value: Option<&str>) -> Result<(), Failure> {
    let refused = || format!("permission denied to set parameter \"{name}\"");
    let name = name.to_ascii_lowercase();
    if name.starts_with(RUNTIME_SETTINGS) && role < Role::Admin {
        return Err(only_admin(refused()));
    }
    let stored = value.is_none_or(|value| value == STORED);
    if name == ANSWER && role < Role::Analyst && !stored {
        return Err(only_analysts(refused()));
    }
    Ok(())
}

/// Where answers may come from.
pub const ANSWER: &str = "safeguard.answer";
/// From the store alone: all that a reader has.
pub const STORED: &str = "stored";

/// A session's settings as far as its role may change them. SET, RESET, `set_config` and the startup packet all come
/// through here.
#[derive(Debug)]
pub struct Permitted<O> {
    /// The settings.
    pub options: O,
    /// Whose they are.
    pub role: Role,
    /// What the role may ask in a day: shown, and the server's to set.
    pub limits: RoleLimits,
}

impl<O> Permitted<O> {
    /// Settings that can only be read.
    fn fixed(&self) -> [(&'static str, Option<u64>, &'static str); 2] {
        [
            (
                "safeguard.asked_per_day",
                self.limits.asked_per_day,
                "most questions that all users of this role may put in a day",
            ),
            (
                "safeguard.tokens_per_day",
                self.limits.tokens_per_day,
                "most tokens that all users of this role may spend in a day",
            ),
        ]
    }

    fn is_fixed(&self, name: &str) -> bool {
        self.fixed().iter().any(|(fixed, ..)| *fixed == name)
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

impl<O: Options> Options for Permitted<O> {
    fn get(&self, name: &str) -> Result<String, Failure> {
        match self.fixed().into_iter().find(|(fixed, ..)| *fixed == name) {
            Some((_, limit, _)) => Ok(shown(limit)),
            None => self.options.get(name),
        }
    }

    fn set(&self, name: &str, value: Option<&str>) -> Result<(), Failure> {
        if self.is_fixed(name) {
            let why =
                format!("parameter \"{name}\" cannot be changed without restarting the server");
            return value.map_or(Ok(()), |_| Err(Failure::new("55P02", why)));
        }
        check_setting(self.role, name, value)?;
        self.options.set(name, value)
    }

    fn all(&self) -> Vec<(String, String, String)> {
        let mut all = self.options.all();
        let fixed = self.fixed().into_iter();
        all.extend(fixed.map(|(name, limit, why)| (name.to_owned(), shown(limit), why.to_owned())));
        all
    }

    fn follow(&self, name: &str, values: &[String]) {
        self.options.follow(name, values);
    }
}

/// One node, without what is below it.
fn of_node(role: Role, node: &LogicalPlan) -> Result<(), Failure> {
    match node {
        LogicalPlan::TableScan(scan) => of_scan(role, scan),
        LogicalPlan::Analyze(_) if role < Role::Analyst => Err(only_analysts(
            "permission denied for EXPLAIN ANALYZE".to_owned(),
        )),
        LogicalPlan::Extension(_) => match safeguard_udfs::called(node) {
            Some(functions) => functions
                .into_iter()
                .try_for_each(|name| of_function(role, name)),
            None => Err(only_admin(format!("permission denied for {}", node.display()))),
        },
        LogicalPlan::Dml(dml) => of_dml(role, dml),
        LogicalPlan::Ddl(ddl) => Err(only_admin(format!("permission denied to {}", said(ddl)))),
        LogicalPlan::Copy(_) => Err(Failure::new(
            "42501",
            "permission denied to COPY to or from a file",
        )
        .with_hint(
            "only the role admin may; everybody may COPY to stdout, and psql's \\copy works for everybody",
        )),
        LogicalPlan::Statement(statement) => of_statement(role, statement),
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Aggregate(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Subquery(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Values(_)
        | LogicalPlan::Explain(_)
        | LogicalPlan::Analyze(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::DescribeTable(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::RecursiveQuery(_) => Ok(()),
    }
}

fn of_function(role: Role, name: &str) -> Result<(), Failure> {
    match role < Role::Analyst && WITHHELD_FUNCTIONS.contains(&name) {
        true => Err(only_analysts(format!(
            "permission denied for function {name}"
        ))),
        false => Ok(()),
    }
}

fn of_scan(role: Role, scan: &TableScan) -> Result<(), Failure> {
    let provider = provider(&scan.source)?;
    let unknown = || {
        let name = as_function(&scan.table_name)?;
        name.starts_with(FUNCTION_PREFIX)
            .then_some((name, Role::Admin))
    };
    if let Some((name, least)) = called(provider.as_ref()).or_else(unknown)
        && role < least
    {
        let why = format!("permission denied for function {name}");
        return Err(match least {
            Role::Admin => only_admin(why),
            _ => only_analysts(why),
        });
    }
    let Some(table) = store::table_name(provider.as_ref()) else {
        return Ok(());
    };
    let withheld = WITHHELD
        .iter()
        .find(|(name, _)| *name == table && role < Role::Analyst);
    let Some((_, withheld)) = withheld else {
        return Ok(());
    };
    match read_columns(scan).find(|column| withheld.contains(column)) {
        Some(column) => Err(only_analysts(format!(
            "permission denied for column \"{column}\" of table {table}"
        ))),
        None => Ok(()),
    }
}

/// The columns that a scan gives out or filters by.
fn read_columns(scan: &TableScan) -> impl Iterator<Item = &str> {
    let projected = scan.projected_schema.fields().iter();
    let filtered = scan.filters.iter().flat_map(|filter| filter.column_refs());
    projected
        .map(|field| field.name().as_str())
        .chain(filtered.map(|column| column.name.as_str()))
}

/// The name of the table function that a scan reads, as planning names it.
fn as_function(table: &TableReference) -> Option<&str> {
    match table {
        TableReference::Bare { table } => table.strip_suffix("()"),
        _ => None,
    }
}

fn of_dml(role: Role, dml: &DmlStatement) -> Result<(), Failure> {
    let provider = provider(&dml.target)?;
    let overrides = store::table_name(provider.as_ref()) == Some(OVERRIDES);
    let table = dml.table_name.table();
    match dml.op {
        WriteOp::Insert(InsertOp::Append) if overrides && role >= Role::Analyst => Ok(()),
        WriteOp::Insert(InsertOp::Append) if overrides => Err(only_analysts(format!(
            "permission denied for table {table}"
        ))),
        _ => Err(only_admin(format!("permission denied for table {table}"))),
    }
}

fn of_statement(role: Role, statement: &Statement) -> Result<(), Failure> {
    match statement {
        Statement::SetVariable(SetVariable { variable, value }) => {
            check_setting(role, variable, Some(value))
        }
        // DataFusion's RESET knows its own defaults, not what the session began with.
        Statement::ResetVariable(reset) => check_setting(role, &reset.variable, Some("")),
        other => Err(only_admin(format!(
            "permission denied for {}",
            other.name()
        ))),
    }
}

fn provider(source: &Arc<dyn TableSource>) -> Result<Arc<dyn TableProvider>, Failure> {
    let unknown = |error: DataFusionError| {
        // What cannot be looked at may be anything.
        only_admin(format!(
            "permission denied for a table of an unknown kind: {error}"
        ))
    };
    source_as_provider(source).map_err(unknown)
}

fn said(ddl: &DdlStatement) -> &str {
    match ddl {
        DdlStatement::CreateExternalTable(_) => "CREATE EXTERNAL TABLE",
        DdlStatement::CreateMemoryTable(_) => "CREATE TABLE",
        DdlStatement::CreateView(_) => "CREATE VIEW",
        DdlStatement::CreateCatalogSchema(create) => guarded::statement(create),
        DdlStatement::CreateCatalog(_) => "CREATE DATABASE",
        DdlStatement::CreateIndex(_) => "CREATE INDEX",
        DdlStatement::DropTable(_) => "DROP TABLE",
        DdlStatement::DropView(_) => "DROP VIEW",
        DdlStatement::DropCatalogSchema(_) => "DROP SCHEMA",
        DdlStatement::CreateFunction(_) => "CREATE FUNCTION",
        DdlStatement::DropFunction(_) => "DROP FUNCTION",
    }
}

fn only_admin(why: String) -> Failure {
    Failure::new("42501", why).with_hint("only the role admin may")
}

fn only_analysts(why: String) -> Failure {
    Failure::new("42501", why).with_hint("only the roles analyst and admin may")
}

#[cfg(test)]
#[path = "roles_tests.rs"]
mod tests;
