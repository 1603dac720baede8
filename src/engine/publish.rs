//! `SELECT * FROM safeguard_publish(name, text, note)`: a new version of a policy.
//!
//! A table function's call runs whenever a plan is made, so it only checks its arguments; publishing happens when the
//! plan runs.

use super::{Engine, FunctionDoc, version_row};
use crate::error::Error;
use crate::policy::{Policy, PolicyError, Published, Registry};
use crate::store::{Store, now};
use datafusion::arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::SessionContext;
use safeguard_udfs::ClassifyError;
use std::sync::{Arc, LazyLock};

pub(super) const NAME: &str = "safeguard_publish";

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        field("name", DataType::Utf8),
        field("version", DataType::Int64),
        field("digest", DataType::Utf8),
        field("new", DataType::Boolean),
    ]))
});

/// What clients are told of it.
pub(super) fn documentation() -> FunctionDoc {
    FunctionDoc {
        name: NAME,
        arguments: &[
            ("name", DataType::Utf8),
            ("text", DataType::Utf8),
            ("note", DataType::Utf8),
        ],
        returns: Arc::clone(&SCHEMA),
        description: "Publishes a version of a policy; none if the text is the current one. The note may be left out.",
    }
}

pub(super) fn register(context: &SessionContext, engine: Engine, user: &str) {
    context.register_udtf(
        NAME,
        Arc::new(Publish {
            engine,
            user: user.into(),
        }),
    );
}

/// Publishes and keeps: a version that is not stored is not published.
pub(super) async fn publish(
    registry: &Registry,
    store: &Store,
    policy: Policy,
    (note, by): (&str, &str),
) -> Result<Published, Error> {
    let published = registry.publish(policy, note, by, now())?;
    if published.new {
        store
            .append_version(version_row(&published.version))
            .await?;
    }
    Ok(published)
}

#[derive(Debug)]
struct Publish {
    engine: Engine,
    user: Arc<str>,
}

impl TableFunctionImpl for Publish {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let texts: Vec<&str> = args.exprs().iter().filter_map(as_text).collect();
        let (name, text, note) = match texts[..] {
            [name, text] if args.exprs().len() == 2 => (name, text, ""),
            [name, text, note] if args.exprs().len() == 3 => (name, text, note),
            _ => return plan_err!("{NAME}(name, text [, note]) takes two or three text literals"),
        };
        let policy = Policy::parse_as(name, text).map_err(external)?;
        Ok(Arc::new(Publication {
            engine: self.engine.clone(),
            user: Arc::clone(&self.user),
            policy,
            note: note.into(),
        }))
    }
}

pub(super) fn as_text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(
            ScalarValue::Utf8(Some(text))
            | ScalarValue::Utf8View(Some(text))
            | ScalarValue::LargeUtf8(Some(text)),
            _,
        ) => Some(text),
        _ => None,
    }
}

pub(super) fn external(error: PolicyError) -> DataFusionError {
    DataFusionError::External(Box::new(ClassifyError::from(error)))
}

/// A version that is published when it is scanned.
#[derive(Debug, Clone)]
pub(super) struct Publication {
    engine: Engine,
    user: Arc<str>,
    policy: Policy,
    note: Arc<str>,
}

#[async_trait::async_trait]
impl TableProvider for Publication {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partition: Arc<dyn PartitionStream> = Arc::new(self.clone());
        let schema = Arc::clone(&SCHEMA);
        let exec =
            StreamingTableExec::try_new(schema, vec![partition], projection, None, false, limit)?;
        Ok(Arc::new(exec))
    }
}

impl PartitionStream for Publication {
    fn schema(&self) -> &SchemaRef {
        &SCHEMA
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let publication = self.clone();
        let run = async move {
            let Publication {
                engine,
                user,
                policy,
                note,
            } = publication;
            let published = publish(&engine.policies, &engine.store, policy, (&note, &user))
                .await
                .map_err(|e| DataFusionError::External(Box::new(e)))?;
            let version = &published.version;
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from(vec![version.name.as_ref()])),
                Arc::new(Int64Array::from(vec![i64::from(version.number)])),
                Arc::new(StringArray::from(vec![version.digest.as_ref()])),
                Arc::new(BooleanArray::from(vec![published.new])),
            ];
            Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
        };
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&SCHEMA),
            futures::stream::once(run),
        ))
    }
}
