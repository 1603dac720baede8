//! This program's own functions, as `pg_proc` is to tell of them.
//!
//! Takes what is registered in a session and its documentation, gives names, arguments, results and descriptions, so
//! that a new function is listed without being listed here.

use super::relations::pg_type;
use crate::engine::functions::{FunctionDoc, Functions};
use crate::engine::procedures::{Procedure, Procedures};
use datafusion::arrow::datatypes::DataType;
use datafusion::prelude::SessionContext;

/// What this program's functions begin with.
const PREFIX: &str = "safeguard_";
/// The OID of the first; they are numbered by name.
const FIRST_OID: i32 = 15_000;

/// A function.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub oid: i32,
    /// The schema that it is called with, or may be.
    pub schema: &'static str,
    pub name: String,
    /// Names and types, types by OID.
    pub arguments: Vec<(String, i32)>,
    /// What it returns: a type by OID.
    pub returns: i32,
    /// The columns of a function that gives a table.
    pub columns: Option<Vec<(String, i32)>>,
    pub description: String,
}

impl Function {
    fn typed(arguments: &[(String, i32)]) -> String {
        let shown = |(name, oid): &(String, i32)| format!("{name} {}", super::function_type(*oid));
        arguments.iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    /// As `pg_get_function_arguments` gives them.
    pub fn shown_arguments(&self) -> String {
        Function::typed(&self.arguments)
    }

    /// As `pg_get_function_result` gives it.
    pub fn shown_result(&self) -> String {
        match &self.columns {
            Some(columns) => format!("TABLE({})", Function::typed(columns)),
            None => super::function_type(self.returns),
        }
    }
}

/// Every function of this program's that a session has, by name.
pub(super) fn functions(context: &SessionContext) -> Vec<Function> {
    let state = context.state();
    let mut functions = Vec::new();
    for (name, function) in state.scalar_functions() {
        if !name.starts_with(PREFIX) {
            continue;
        }
        let documentation = function.documentation();
        let arguments = documentation.and_then(|d| d.arguments.clone());
        let arguments = arguments.unwrap_or_default();
        let types = vec![DataType::Utf8; arguments.len()];
        let returns = function.return_type(&types).unwrap_or(DataType::Utf8);
        functions.push(Function {
            oid: 0,
            schema: "public",
            name: name.clone(),
            arguments: arguments.into_iter().map(|(name, _)| (name, 25)).collect(),
            returns: pg_type(&returns).0,
            columns: None,
            description: documentation.map_or_else(String::new, |d| d.description.clone()),
        });
    }
    let documented = state.config().get_extension::<Functions>();
    for name in state.table_functions().keys() {
        if name.starts_with(PREFIX) {
            let mut documented = documented.iter().flat_map(|known| known.0.iter());
            let found = documented.find(|doc| doc.name == name);
            functions.push(table_function(name, found));
        }
    }
    functions.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(procedures) = state.config().get_extension::<Procedures>() {
        functions.extend(procedures.0.iter().filter_map(procedure));
    }
    for (function, oid) in functions.iter_mut().zip(FIRST_OID..) {
        function.oid = oid;
    }
    functions
}

fn procedure(procedure: &Procedure) -> Option<Function> {
    let (schema, name) = procedure.name.split_once('.')?;
    let argument =
        |(name, data_type): &(&str, DataType)| ((*name).to_owned(), pg_type(data_type).0);
    Some(Function {
        oid: 0,
        schema,
        name: name.to_owned(),
        arguments: procedure.arguments.iter().map(argument).collect(),
        returns: pg_type(&procedure.returns).0,
        columns: None,
        description: procedure.description.to_owned(),
    })
}

fn table_function(name: &str, doc: Option<&FunctionDoc>) -> Function {
    let columns = doc.map(|doc| {
        let fields = doc.returns.fields().iter();
        fields
            .map(|f| (f.name().clone(), pg_type(f.data_type()).0))
            .collect()
    });
    let arguments = doc.map_or(&[][..], |doc| doc.arguments);
    let argument =
        |(name, data_type): &(&str, DataType)| ((*name).to_owned(), pg_type(data_type).0);
    Function {
        oid: 0,
        schema: "public",
        name: name.to_owned(),
        arguments: arguments.iter().map(argument).collect(),
        returns: 2249,
        columns,
        description: doc.map_or_else(String::new, |doc| doc.description.to_owned()),
    }
}
