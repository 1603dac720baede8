//! `SELECT * FROM safeguard_publish(name, text, note)`: a new version of a policy.

use super::functions::{Call, Function, FunctionDoc, Planned, Planning};
use super::policies;
use crate::config::Role;
use crate::error::Error;
use crate::policy::{Policy, PolicyError};
use datafusion::arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use safeguard_udfs::ClassifyError;
use std::sync::{Arc, LazyLock};

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        field("name", DataType::Utf8),
        field("version", DataType::Int64),
        field("digest", DataType::Utf8),
        field("new", DataType::Boolean),
    ]))
});

/// The function.
pub(super) fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: "safeguard_publish",
            arguments: &[
                ("name", DataType::Utf8),
                ("text", DataType::Utf8),
                ("note", DataType::Utf8),
            ],
            required: 2,
            returns: Arc::clone(&SCHEMA),
            description: "Publishes a version of a policy; none if the text is the current one. The note may be left out.",
        },
        role: Role::Admin,
        plan,
    }
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = planning.arguments;
    let policy =
        Policy::parse_as(given.required("name"), given.required("text")).map_err(external)?;
    let note: Arc<str> = given.text("note").unwrap_or_default().into();
    Ok(Planned::once(&SCHEMA, move |call| {
        run(call, policy.clone(), Arc::clone(&note))
    }))
}

async fn run(call: Call, policy: Policy, note: Arc<str>) -> Result<RecordBatch, Error> {
    let Call { engine, user, .. } = call;
    let published =
        policies::publish(&engine.policies, &engine.store, policy, (&note, &user)).await?;
    let version = &published.version;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![version.name.as_ref()])),
        Arc::new(Int64Array::from(vec![i64::from(version.number)])),
        Arc::new(StringArray::from(vec![version.digest.as_ref()])),
        Arc::new(BooleanArray::from(vec![published.new])),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns).map_err(DataFusionError::from)?)
}

pub(crate) fn external(error: PolicyError) -> DataFusionError {
    DataFusionError::External(Box::new(ClassifyError::from(error)))
}
