//! Statements of this program's own as plans that guards know.
//!
//! Takes what a statement is called, gives the plan of a schema that is made: who may make a schema may do this too. The
//! plan says what it stands for, so that a refusal can.

use datafusion::common::DFSchema;
use datafusion::logical_expr::{CreateCatalogSchema, DdlStatement, LogicalPlan};
use std::collections::HashMap;
use std::sync::Arc;

/// Where the plan says it.
const STATEMENT: &str = "safeguard.statement";

/// The plan of `statement`, such as `CREATE SERVER`.
pub(super) fn plan(statement: &str, schema_name: String, if_not_exists: bool) -> LogicalPlan {
    let said = HashMap::from([(STATEMENT.to_owned(), statement.to_owned())]);
    let schema = DFSchema::new_with_metadata(Vec::new(), said);
    LogicalPlan::Ddl(DdlStatement::CreateCatalogSchema(CreateCatalogSchema {
        schema_name,
        if_not_exists,
        schema: Arc::new(schema.expect("bug: a schema without columns")),
    }))
}

/// What a plan of a schema that is made stands for.
pub fn statement(create: &CreateCatalogSchema) -> &str {
    let said = create.schema.metadata().get(STATEMENT);
    said.map_or("CREATE SCHEMA", String::as_str)
}
