//! Scans of files that another process does.
//!
//! Takes our scans, gives DataFusion's own, which can be written down; and the other way round where they are done.

use super::source::{About, Source};
use datafusion::common::{Result, internal_err};
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// The scan of files that an operator is, and our part of it.
fn scan(plan: &Arc<dyn ExecutionPlan>) -> Option<(&FileScanConfig, &Source)> {
    let scan = plan.downcast_ref::<DataSourceExec>()?;
    let config = scan.data_source().downcast_ref::<FileScanConfig>()?;
    Some((config, config.file_source().downcast_ref::<Source>()?))
}

/// Whether it is a scan of Parquet files that another process can do, a part each. Of other formats not all that says how
/// they are read can be written down.
pub(in crate::engine) fn can_be_sent(plan: &Arc<dyn ExecutionPlan>) -> bool {
    scan(plan).is_some_and(|(config, source)| source.about.parquet && config.limit.is_none())
}

/// The scan as DataFusion makes it, and whether its columns come from the files.
pub(in crate::engine) fn plain(
    plan: &Arc<dyn ExecutionPlan>,
) -> Option<(Arc<dyn ExecutionPlan>, bool)> {
    let (config, source) = scan(plan)?;
    let config = FileScanConfigBuilder::from(config.clone())
        .with_source(Arc::clone(&source.inner))
        .build();
    Some((
        DataSourceExec::from_data_source(config),
        source.about.inferred,
    ))
}

/// Such a scan of Parquet files as one of ours again, in the process that will do it.
///
/// # Errors
/// The files are where nobody may read; it is no such scan.
pub(in crate::engine) fn told(
    plan: &Arc<dyn ExecutionPlan>,
    inferred: bool,
    context: &TaskContext,
) -> Result<Arc<dyn ExecutionPlan>> {
    let scan = plan.downcast_ref::<DataSourceExec>();
    let config = scan.and_then(|s| s.data_source().downcast_ref::<FileScanConfig>());
    let Some(config) = config else {
        return internal_err!("a scan of files that is none");
    };
    let about = About {
        store: context
            .runtime_env()
            .object_store(&config.object_store_url)?,
        base: config.object_store_url.to_string(),
        text: None,
        parquet: true,
        inferred,
        lenient: false,
        tally: None,
    };
    let source = Source {
        inner: Arc::clone(config.file_source()),
        about: Arc::new(about),
    };
    let config = FileScanConfigBuilder::from(config.clone())
        .with_source(Arc::new(source))
        .build();
    Ok(DataSourceExec::from_data_source(config))
}
