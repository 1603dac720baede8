//! INSERT into a folder of an object store: one object for each statement, which comes to be when the whole of it succeeded.
//!
//! Takes a format's writer and rows, gives the object or nothing. Object stores have no renaming of several objects at
//! once: what would need several objects is refused where the writer is made.

use super::sink::required;
use crate::content::objects::Held;
use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType};
use std::fmt;
use std::sync::Arc;

/// The store through which a statement writes, by the statement's digits.
pub(super) fn address(id: &str) -> Result<ObjectStoreUrl> {
    ObjectStoreUrl::parse(format!("safeguard-held-{id}://own"))
}

/// Writes with another sink what is not there before all of it is.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) writer: DataSinkExec,
    /// Where the writer writes.
    pub(super) held: ObjectStoreUrl,
    /// Where the object is to be.
    pub(super) store: ObjectStoreUrl,
    pub(super) table: SchemaRef,
    /// The table's columns, NULL taken.
    pub(super) any: SchemaRef,
}

impl DisplayAs for Whole {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all or nothing in {}: ", self.store)?;
        self.writer.sink().fmt_as(kind, f)
    }
}

/// A store that a session knows for as long as this is there.
struct Known {
    runtime: Arc<RuntimeEnv>,
    url: ObjectStoreUrl,
}

impl Drop for Known {
    fn drop(&mut self) {
        // It is there: nobody else knows its digits.
        let _ = self.runtime.deregister_object_store(self.url.as_ref());
    }
}

#[async_trait]
impl DataSink for Whole {
    fn schema(&self) -> &SchemaRef {
        &self.any
    }

    async fn write_all(
        &self,
        rows: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> Result<u64> {
        let runtime = context.runtime_env();
        let held = Held::new(runtime.object_store(&self.store)?);
        runtime.register_object_store(self.held.as_ref(), Arc::new(held.clone()));
        let url = self.held.clone();
        let _known = Known { runtime, url };
        let rows = required(rows, Arc::clone(&self.table));
        let written = self.writer.sink().write_all(rows, context).await?;
        held.publish().await.map_err(DataFusionError::from)?;
        Ok(written)
    }
}
