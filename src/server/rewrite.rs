//! PostgreSQL's SQL as DataFusion's planner reads it.

use super::failure::Failure;
use datafusion::sql::sqlparser::ast::Statement;

/// A statement that the planner can plan and that means the same.
///
/// # Errors
/// 0A000, naming the statement, for what PostgreSQL has and this server has not.
pub fn statement(statement: Statement) -> Result<Statement, Failure> {
    Ok(statement)
}
