//! `has_*_privilege`: what the connection's role may do, as far as PostgreSQL has words for it.

use super::Functions;
use crate::server::catalog::Facts;
use crate::server::catalog::rows::{Cell, Kind};
use datafusion::logical_expr::Volatility::Stable;
use std::sync::Arc;

const NAMES: [&str; 13] = [
    "has_table_privilege",
    "has_any_column_privilege",
    "has_column_privilege",
    "has_schema_privilege",
    "has_database_privilege",
    "has_function_privilege",
    "has_language_privilege",
    "has_sequence_privilege",
    "has_tablespace_privilege",
    "has_type_privilege",
    "has_server_privilege",
    "has_foreign_data_wrapper_privilege",
    "has_parameter_privilege",
];

pub(super) fn define(functions: &mut Functions) {
    for name in NAMES {
        let facts = Arc::clone(&functions.facts);
        functions.define((name, Kind::Bool), 2..=4, Stable, move |args, _| {
            // The privileges come last; any of those named will do.
            let words = args.last().and_then(Cell::text).unwrap_or_default();
            Ok(words.split(',').any(|word| may(&facts, word)).into())
        });
    }
    let facts = Arc::clone(&functions.facts);
    functions.define(
        ("pg_has_role", Kind::Bool),
        2..=3,
        Stable,
        move |args, _| {
            let role = args[args.len() - 2].text().unwrap_or_default();
            Ok((role == facts.user || role == facts.role || role == "10").into())
        },
    );
}

fn may(facts: &Facts, word: &str) -> bool {
    match word.trim().to_lowercase().as_str() {
        "select" | "usage" | "connect" => true,
        "execute" => facts.role != "reader",
        _ => facts.role == "admin",
    }
}
