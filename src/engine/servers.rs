//! CREATE SERVER, DROP SERVER and INSERT .. ON CONFLICT: what SQL says of attached databases and DataFusion's planner lacks.
//!
//! Takes statements, gives plans that the rest of the engine knows: a server is a schema here. What ON CONFLICT may hold is
//! listed, because it is PostgreSQL that runs it, with the rights of the user that the server was made with.

use super::script::{self, Statement};
use super::{CATALOG, Session, guarded};
use crate::content::postgres::{Attached, Insertion, Options, Table};
use crate::error::Error;
use datafusion::common::plan_err;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{CreateCatalogSchema, DropCatalogSchema, LogicalPlan};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{
    self, CreateServerStatement, Expr, FunctionArguments, OnConflict, OnConflictAction, OnInsert,
    Query, Visit, Visitor,
};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The wrappers that are known.
const WRAPPERS: [&str; 2] = ["postgres", "postgres_fdw"];
/// The option that is a secret itself.
const PASSWORD: &str = "password";
/// Functions that ON CONFLICT may call: they see nothing but their arguments and the clock.
const CALLABLE: [&str; 8] = [
    "coalesce", "nullif", "greatest", "least", "now", "lower", "upper", "concat",
];

/// When a new server is first asked what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// At once: what is wrong fails the statement.
    Now,
    /// When it is needed.
    Later,
}

/// The CREATE SERVER that a statement is.
fn made(statement: &Statement) -> Option<&CreateServerStatement> {
    match statement.ast() {
        Some(ast::Statement::CreateServer(server)) => Some(server),
        _ => None,
    }
}

/// Whether a statement is CREATE SERVER.
pub(super) fn makes_one(statement: &Statement) -> bool {
    made(statement).is_some()
}

/// Whether a CREATE SERVER holds a secret.
pub(super) fn holds_secret(statement: &Statement) -> bool {
    let options = made(statement).and_then(|server| server.options.as_ref());
    options.is_some_and(|options| {
        let secret =
            |option: &ast::CreateServerOption| option.key.value.eq_ignore_ascii_case(PASSWORD);
        options.iter().any(secret)
    })
}

/// CREATE SERVER as the plan of a schema that is made; `None` for any other statement.
///
/// # Errors
/// A name, a wrapper or a clause that cannot be had.
pub(super) fn planned(statement: &Statement) -> Result<Option<LogicalPlan>, Error> {
    let Some(server) = made(statement) else {
        return Ok(None);
    };
    let wrapper = server.foreign_data_wrapper.to_string();
    if !WRAPPERS.contains(&wrapper.to_ascii_lowercase().as_str()) {
        let why = format!("foreign-data wrapper \"{wrapper}\" does not exist: there is postgres");
        return Err(Error::refused("42704", why));
    }
    if server.server_type.is_some() || server.version.is_some() {
        let why = "CREATE SERVER takes no TYPE and no VERSION";
        return Err(Error::refused("0A000", why));
    }
    let name = match server.name.0.as_slice() {
        [part] => part.as_ident().map(script::folded),
        _ => None,
    };
    let Some(name) = name else {
        let why = format!("server name {} must be one word", server.name);
        return Err(Error::refused("42602", why));
    };
    if name.starts_with("pg_") || name == "information_schema" {
        let why =
            format!("unacceptable server name \"{name}\": it would be a schema of the system");
        return Err(Error::refused("42939", why));
    }
    let there = server.if_not_exists;
    Ok(Some(guarded::plan("CREATE SERVER", name, there)))
}

impl Session {
    /// Attaches what CREATE SERVER names as the schema `name`.
    ///
    /// # Errors
    /// An option that cannot be used; a schema of that name; the server, when it is asked.
    pub(super) async fn attach(
        &self,
        statement: &Statement,
        create: &CreateCatalogSchema,
        ask: Ask,
    ) -> Result<(), Error> {
        let name = &create.schema_name;
        let catalog = self.context.catalog(CATALOG).expect("bug: no catalog");
        if catalog.schema(name).is_some() {
            if create.if_not_exists {
                return Ok(());
            }
            return Err(Error::Refused {
                sqlstate: "42P06",
                why: format!("schema \"{name}\" already exists"),
                hint: Some("a server is a schema here".to_owned()),
            });
        }
        let given = made(statement).and_then(|server| server.options.clone());
        let given: Vec<_> = given
            .unwrap_or_default()
            .into_iter()
            .map(|option| (option.key.value, option.value.value))
            .collect();
        let attached = Arc::new(Attached::new(name, Options::parse(&given)?));
        if ask == Ask::Now {
            attached.refresh().await?;
        }
        catalog.register_schema(name, attached)?;
        Ok(())
    }

    /// That what DROP SERVER names is a server, or may be missing.
    ///
    /// # Errors
    /// It is another schema, or none.
    pub(super) fn check_server(&self, drop: &DropCatalogSchema) -> Result<(), Error> {
        let name = drop.name.schema_name();
        let catalog = self.context.catalog(CATALOG);
        let hint = match catalog.and_then(|catalog| catalog.schema(name)) {
            Some(schema) if schema.is::<Attached>() => return Ok(()),
            None if drop.if_exists => return Ok(()),
            Some(_) => format!("DROP SCHEMA {name} drops the schema of that name"),
            None => "SELECT schema, sql FROM safeguard.relations lists what is kept".to_owned(),
        };
        Err(Error::Refused {
            sqlstate: "42704",
            why: format!("server \"{name}\" does not exist"),
            hint: Some(hint),
        })
    }
}

/// The INSERT that a statement is, or explains.
fn insert(parsed: &Parsed) -> Option<&ast::Insert> {
    match parsed {
        Parsed::Statement(statement) => match statement.as_ref() {
            ast::Statement::Insert(insert) => Some(insert),
            _ => None,
        },
        Parsed::Explain(explain) => insert(&explain.statement),
        _ => None,
    }
}

/// What DataFusion's plan will not hold of an INSERT; nothing of any other statement.
///
/// # Errors
/// ON CONFLICT with anything that PostgreSQL would have to look up.
pub(super) fn insertion(statement: &Statement) -> Result<Insertion, Error> {
    let Some(insert) = insert(&statement.parsed) else {
        return Ok(Insertion::default());
    };
    let columns = insert.columns.iter().map(|name| {
        let last = name.0.last().and_then(|part| part.as_ident());
        last.map(script::folded).unwrap_or_default()
    });
    let columns: Vec<String> = columns.collect();
    let conflict = match &insert.on {
        Some(OnInsert::OnConflict(conflict)) => {
            check_conflict(conflict)?;
            Some(conflict.to_string().trim().to_owned())
        }
        _ => None,
    };
    Ok(Insertion {
        columns: (!columns.is_empty()).then_some(columns),
        conflict,
    })
}

/// A statement as DataFusion plans it: without ON CONFLICT, which [`insertion`] keeps.
pub(super) fn plannable(mut parsed: Parsed) -> Parsed {
    let mut inner = &mut parsed;
    while let Parsed::Explain(explain) = inner {
        inner = &mut explain.statement;
    }
    if let Parsed::Statement(statement) = inner
        && let ast::Statement::Insert(insert) = statement.as_mut()
        && matches!(insert.on, Some(OnInsert::OnConflict(_)))
    {
        insert.on = None;
    }
    parsed
}

/// That an INSERT with ON CONFLICT goes to an attached database.
///
/// # Errors
/// It goes elsewhere, where nothing knows what a conflict is.
pub(super) fn check_target(plan: &LogicalPlan, insertion: &Insertion) -> Result<(), Error> {
    if insertion.conflict.is_none() {
        return Ok(());
    }
    let plan = match plan {
        LogicalPlan::Explain(explain) => explain.plan.as_ref(),
        LogicalPlan::Analyze(analyze) => analyze.input.as_ref(),
        plan => plan,
    };
    if let LogicalPlan::Dml(dml) = plan
        && source_as_provider(&dml.target)?.is::<Table>()
    {
        return Ok(());
    }
    let hint = "ask for the rows that are there first, or INSERT .. SELECT .. WHERE NOT EXISTS";
    Err(Error::Refused {
        sqlstate: "0A000",
        why: "INSERT .. ON CONFLICT is for tables of an attached PostgreSQL server".to_owned(),
        hint: Some(hint.to_owned()),
    })
}

fn check_conflict(conflict: &OnConflict) -> Result<(), Error> {
    let OnConflictAction::DoUpdate(update) = &conflict.action else {
        return Ok(());
    };
    match update.visit(&mut Plain) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(what) => {
            plan_err!("ON CONFLICT DO UPDATE cannot hold {what}").map_err(Error::from)
        }
    }
}

/// Finds what is more than columns, values and operators.
struct Plain;

impl Visitor for Plain {
    type Break = String;

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<String> {
        ControlFlow::Break("a query".to_owned())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        match expr {
            Expr::Function(function) => {
                let name = function.name.to_string().to_ascii_lowercase();
                let plain = matches!(
                    function.args,
                    FunctionArguments::List(_) | FunctionArguments::None
                );
                match plain && CALLABLE.contains(&name.as_str()) {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(format!("a call of {name}")),
                }
            }
            Expr::Value(value) if matches!(value.value, ast::Value::Placeholder(_)) => {
                ControlFlow::Break("a parameter".to_owned())
            }
            Expr::Cast { .. } => ControlFlow::Break("a cast".to_owned()),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insertion(sql: &str) -> Result<Insertion, Error> {
        super::insertion(&Statement::parse(sql).unwrap())
    }

    #[test]
    fn what_an_insert_says_of_conflicts_is_kept_as_sql() {
        for (sql, columns, conflict) in [
            ("SELECT 1", None, None),
            ("INSERT INTO t SELECT 1", None, None),
            (
                "INSERT INTO t (A, \"B\") SELECT 1, 2",
                Some(vec!["a", "B"]),
                None,
            ),
            (
                "INSERT INTO t (a) VALUES (1) ON CONFLICT DO NOTHING",
                Some(vec!["a"]),
                Some("ON CONFLICT DO NOTHING"),
            ),
            (
                "EXPLAIN INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET label = excluded.label WHERE t.label <> 'x'",
                None,
                Some("ON CONFLICT (id) DO UPDATE SET label = excluded.label WHERE t.label <> 'x'"),
            ),
        ] {
            let columns = columns.map(|names| names.into_iter().map(str::to_owned).collect());
            let conflict = conflict.map(str::to_owned);
            let got = insertion(sql).unwrap();
            let got = Insertion {
                conflict: got
                    .conflict
                    .map(|sql| sql.replace("CONFLICT(", "CONFLICT (")),
                ..got
            };
            assert_eq!(got, Insertion { columns, conflict }, "{sql}");
        }
    }

    #[test]
    fn a_conflict_looks_nothing_up() {
        for (set, want) in [
            ("a = (SELECT passwd FROM pg_shadow)", "a query"),
            ("a = pg_read_file('/etc/passwd')", "a call of pg_read_file"),
            ("a = excluded.a WHERE EXISTS (SELECT 1)", "a query"),
            ("a = 'x'::regclass", "a cast"),
            ("a = $1", "a parameter"),
        ] {
            let sql = format!("INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET {set}");
            let error = insertion(&sql).unwrap_err().to_string();
            assert!(error.contains(want), "{set}: {error}");
        }
        let fine = "a = coalesce(excluded.a, t.a) || 'x', at = now() WHERE t.a IS DISTINCT FROM excluded.a";
        let sql = format!("INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET {fine}");
        assert!(
            insertion(&sql)
                .unwrap()
                .conflict
                .unwrap()
                .contains("coalesce(excluded.a, t.a)")
        );
    }
}
