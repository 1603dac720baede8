//! Statements that PostgreSQL has and this server has not.

use crate::server::failure::Failure;
use datafusion::sql::sqlparser::ast::{ObjectType, Statement};

/// What a statement is called, and what to do instead.
fn refused(statement: &Statement) -> Option<(&'static str, Option<&'static str>)> {
    let plain = |name| Some((name, None));
    let with = |name, hint| Some((name, Some(hint)));
    match statement {
        Statement::LISTEN { .. } => plain("LISTEN"),
        Statement::NOTIFY { .. } => plain("NOTIFY"),
        Statement::Grant(_) => with("GRANT", "users and their roles are given by safeguard user"),
        Statement::Revoke(_) => with(
            "REVOKE",
            "users and their roles are given by safeguard user",
        ),
        Statement::CreateRole(_) => with("CREATE ROLE", "safeguard user add makes users"),
        Statement::AlterRole { .. } => with("ALTER ROLE", "safeguard user changes users"),
        Statement::CreateUser(_) => with("CREATE USER", "safeguard user add makes users"),
        Statement::AlterUser(_) => with("ALTER USER", "safeguard user changes users"),
        Statement::Comment { .. } => plain("COMMENT ON"),
        Statement::Vacuum(_) => with("VACUUM", "there is nothing to vacuum"),
        Statement::Analyze(_) => with("ANALYZE", "statistics are read from the files"),
        Statement::Truncate(_) => with("TRUNCATE", "DELETE FROM removes rows"),
        Statement::Lock(_) | Statement::LockTables { .. } => plain("LOCK TABLE"),
        Statement::Merge(_) => plain("MERGE"),
        Statement::Call(_) => plain("CALL"),
        Statement::CreateFunction(_) => plain("CREATE FUNCTION"),
        Statement::CreateProcedure { .. } => plain("CREATE PROCEDURE"),
        Statement::CreateTrigger(_) => plain("CREATE TRIGGER"),
        Statement::CreateIndex(_) => plain("CREATE INDEX"),
        Statement::CreateSequence { .. } => plain("CREATE SEQUENCE"),
        Statement::CreateType { .. } => plain("CREATE TYPE"),
        Statement::CreateDomain(_) => plain("CREATE DOMAIN"),
        Statement::CreateExtension(_) => plain("CREATE EXTENSION"),
        Statement::CreateDatabase { .. } => plain("CREATE DATABASE"),
        Statement::CreatePolicy(_) => with(
            "CREATE POLICY",
            "SELECT * FROM safeguard_publish(name, text) publishes a moderation policy",
        ),
        Statement::CreateOperator(_) => plain("CREATE OPERATOR"),
        Statement::CreateCollation(_) => plain("CREATE COLLATION"),
        Statement::AlterTable(_) => plain("ALTER TABLE"),
        Statement::AlterIndex { .. } => plain("ALTER INDEX"),
        Statement::AlterView { .. } => with("ALTER VIEW", "CREATE OR REPLACE VIEW changes a view"),
        Statement::AlterSchema(_) => plain("ALTER SCHEMA"),
        Statement::AlterType(_) => plain("ALTER TYPE"),
        Statement::AlterFunction(_) => plain("ALTER FUNCTION"),
        Statement::AlterPolicy(_) => plain("ALTER POLICY"),
        Statement::DropFunction(_) => plain("DROP FUNCTION"),
        Statement::DropProcedure { .. } => plain("DROP PROCEDURE"),
        Statement::DropTrigger(_) => plain("DROP TRIGGER"),
        Statement::DropPolicy(_) => plain("DROP POLICY"),
        Statement::DropExtension(_) => plain("DROP EXTENSION"),
        Statement::DropDomain(_) => plain("DROP DOMAIN"),
        Statement::Drop { object_type, .. } => match object_type {
            ObjectType::Table | ObjectType::View | ObjectType::Schema => None,
            ObjectType::Index => plain("DROP INDEX"),
            ObjectType::Sequence => plain("DROP SEQUENCE"),
            ObjectType::Role | ObjectType::User => {
                with("DROP ROLE", "safeguard user removes users")
            }
            ObjectType::Database => plain("DROP DATABASE"),
            ObjectType::Type => plain("DROP TYPE"),
            ObjectType::MaterializedView => plain("DROP MATERIALIZED VIEW"),
            _ => plain("DROP"),
        },
        Statement::CreateTable(table) => {
            let temporary = with(
                "CREATE TEMPORARY TABLE",
                "CREATE TABLE without AS keeps its rows in memory",
            );
            temporary.filter(|_| table.temporary)
        }
        Statement::CreateView(view) if view.materialized => with(
            "CREATE MATERIALIZED VIEW",
            "CREATE TABLE .. AS keeps the rows, CREATE VIEW the query",
        ),
        Statement::CreateView(view) if view.temporary => plain("CREATE TEMPORARY VIEW"),
        Statement::Insert(insert) if insert.returning.is_some() => returning(),
        Statement::Update(update) if update.returning.is_some() => returning(),
        Statement::Delete(delete) if delete.returning.is_some() => returning(),
        _ => None,
    }
}

fn returning() -> Option<(&'static str, Option<&'static str>)> {
    Some(("RETURNING", Some("ask for the rows with a SELECT")))
}

/// # Errors
/// 0A000, naming the statement.
pub(super) fn check(statement: &Statement) -> Result<(), Failure> {
    let Some((name, hint)) = refused(statement) else {
        return Ok(());
    };
    let failure = Failure::new("0A000", format!("{name} is not supported"));
    Err(match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    })
}
