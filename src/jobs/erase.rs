//! `SELECT * FROM safeguard_erase(..)`: forgets what the store quotes of texts, of one or of all that a query gives.
//!
//! Rationales of verdicts and texts and notes of overrides are blanked; labels and scores stay. Takes a text, its digest
//! or a query, gives how many texts were looked for and how many rows changed.

use crate::change::source::{Named, Source};
use crate::config::Role;
use crate::engine::functions::{Call, Function, FunctionDoc, Planned, Planning};
use crate::error::Error;
use crate::store::{Digest, from_hex, text_digest};
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result, plan_err};
use futures::TryStreamExt;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![field("texts"), field("rows_changed")]))
});

/// What is to be erased.
#[derive(Debug, Clone)]
enum What {
    One(Digest),
    Query(Arc<str>),
}

/// The function.
pub(super) fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: "safeguard_erase",
            arguments: &[
                ("text", DataType::Utf8),
                ("text_digest", DataType::Utf8),
                ("source", DataType::Utf8),
            ],
            required: 0,
            returns: Arc::clone(&SCHEMA),
            description: "Blanks what the store quotes of a text, given as it is or by its digest, or of every text that a query gives: rationales, and texts and notes of overrides.",
        },
        role: Role::Admin,
        plan,
    }
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = planning.arguments;
    let what = match (
        given.text("text"),
        given.text("text_digest"),
        given.text("source"),
    ) {
        (Some(text), None, None) => What::One(text_digest(text)),
        (None, Some(hex), None) => match from_hex(hex) {
            Some(digest) => What::One(digest),
            None => return plan_err!("safeguard_erase: text_digest is 64 hexadecimal digits"),
        },
        (None, None, Some(source)) => What::Query(source.into()),
        _ => return plan_err!("safeguard_erase takes one of text, text_digest and source"),
    };
    Ok(Planned::once(&SCHEMA, move |call| run(call, what.clone())))
}

async fn run(call: Call, what: What) -> Result<RecordBatch, Error> {
    let store = call.engine.store().clone();
    let (mut texts, mut changed) = (0, 0);
    match what {
        What::One(digest) => {
            (texts, changed) = (1, store.erase_text(digest).await?);
        }
        What::Query(sql) => {
            let session = call.session();
            let source = Source::resolve(&session, &sql, Named::default()).await?;
            let mut rows = session.query(&source.select()).await?;
            let mut seen = HashSet::new();
            while let Some(batch) = rows.try_next().await? {
                let column = batch.column_by_name("text");
                let column = column.expect("bug: a source has a text");
                let column = cast(column, &DataType::Utf8).map_err(DataFusionError::from)?;
                for text in column.as_string::<i32>().iter().flatten() {
                    let digest = text_digest(text);
                    if seen.insert(digest) {
                        texts += 1;
                        changed += store.erase_text(digest).await?;
                    }
                }
            }
        }
    }
    let number = |n: u64| -> ArrayRef {
        Arc::new(Int64Array::from(vec![i64::try_from(n).unwrap_or(i64::MAX)]))
    };
    let columns = vec![number(texts), number(changed)];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns).map_err(DataFusionError::from)?)
}
