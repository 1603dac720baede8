//! Scans of files whose errors say in which file, and on which line, and that look at a file's header before its rows.
//!
//! Takes DataFusion's scan of a format and gives the same one around it. Changes no rows, unless broken ones are to be
//! left out.

use super::broken::Whole;
use super::text::Text;
use super::{columns, groups};
use crate::error::{Error, content, message, sqlstate};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::object_store::{ObjectStore, ObjectStoreExt};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::filter_pushdown::FilterPushdownPropagation;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, SortOrderPushdownResult};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use futures::StreamExt;
use futures::stream::BoxStream;
use safeguard_udfs::Tally;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What is known of the files that a scan reads.
#[derive(Debug)]
pub(super) struct About {
    pub store: Arc<dyn ObjectStore>,
    /// What a location begins with: `file:///`.
    pub base: String,
    /// `None` for files that are no lines.
    pub text: Option<Text>,
    pub parquet: bool,
    /// Whether the columns come from the files themselves.
    pub inferred: bool,
    /// Whether broken rows are left out.
    pub lenient: bool,
    /// Of the statement that reads.
    pub tally: Option<Arc<Tally>>,
}

impl About {
    /// The error with the file and, where it is about a row, the line in it.
    async fn told(
        &self,
        error: DataFusionError,
        file: &PartitionedFile,
        columns: &[String],
    ) -> DataFusionError {
        let name = format!("{}{}", self.base, file.object_meta.location);
        let start = file.range.as_ref().map_or(0, |range| range.start);
        let start = u64::try_from(start).unwrap_or_default();
        if let Some(text) = &self.text {
            let at = &file.object_meta.location;
            return match error.find_root() {
                DataFusionError::ArrowError(inner, _) => {
                    match self.of_text(text, inner, (at, start)).await {
                        Some((kind, why)) => refused(&error, format!("{kind}: {name}: {why}")),
                        None => error,
                    }
                }
                _ => error,
            };
        }
        if !self.parquet {
            return error;
        }
        if !is_damage(&error) {
            return of_parquet(error, &name, None);
        }
        // DataFusion makes words of what a store says while it looks for a file's metadata.
        if let Err(why) = self.store.head(&file.object_meta.location).await {
            return why.into();
        }
        let place = groups::unreadable(&self.store, file, columns).await;
        of_parquet(error, &name, place.as_deref())
    }

    /// The kind of a text file's error, and what it says.
    async fn of_text(
        &self,
        text: &Text,
        error: &ArrowError,
        (location, start): (&datafusion::object_store::path::Path, u64),
    ) -> Option<(&'static str, String)> {
        match error {
            ArrowError::JsonError(why) => {
                let broken = |_, record: &super::records::Record| {
                    text.check(std::slice::from_ref(record)).is_err()
                };
                let found = text.find(&self.store, location, start, broken).await;
                let line = found.map(|record| format!("line {}: ", record.line));
                Some(("Json error", line.unwrap_or_default() + why))
            }
            ArrowError::CsvError(why) | ArrowError::ParseError(why) => {
                let Some((before, number, after)) = numbered(why) else {
                    // Casts of values fail with this one too, which know no line.
                    let csv = matches!(error, ArrowError::CsvError(_));
                    return csv.then(|| ("Csv error", why.clone()));
                };
                // The one counts rows from 1, the other from 0.
                let (kind, index) = match error {
                    ArrowError::CsvError(_) => ("Csv error", number.saturating_sub(1)),
                    _ => ("Parser error", number),
                };
                let found = text
                    .find(&self.store, location, start, |at, _| at == index)
                    .await;
                let place = match found {
                    Some(record) => format!("line {}", record.line),
                    None => format!("row {} of the part from byte {start}", index + 1),
                };
                let before = columns::named(before, &text.schema);
                Some((kind, format!("{before}{place}{after}")))
            }
            _ => None,
        }
    }

    /// Whether the columns of this file have to be looked at before its rows.
    fn has_header(&self, file: &PartitionedFile) -> bool {
        let whole = file.range.as_ref().is_none_or(|range| range.start == 0);
        whole
            && self
                .text
                .as_ref()
                .is_some_and(|text| text.csv && text.header)
    }

    async fn check_header(&self, file: &PartitionedFile) -> Result<()> {
        let Some(text) = &self.text else {
            return Ok(());
        };
        let location = &file.object_meta.location;
        let Some(names) = text.names(&self.store, location).await else {
            return Ok(());
        };
        match columns::misplaced(&names, text, self.inferred) {
            Some(why) => Err(Error::Refused {
                sqlstate: "22P04",
                why: format!("{}{location}: {why}", self.base),
                hint: None,
            }
            .into()),
            None => Ok(()),
        }
    }
}

/// The text before `line n`, n, and what follows.
fn numbered(why: &str) -> Option<(&str, u64, &str)> {
    let at = why.find("line ")?;
    let digits = &why[at + "line ".len()..];
    let end = digits.find(|c: char| !c.is_ascii_digit());
    let (number, after) = digits.split_at(end.unwrap_or(digits.len()));
    Some((&why[..at], number.parse().ok()?, after))
}

/// The same SQLSTATE with other words.
pub(super) fn refused(error: &DataFusionError, why: String) -> DataFusionError {
    Error::Refused {
        sqlstate: sqlstate(error),
        why,
        hint: None,
    }
    .into()
}

/// Whether the bytes of a Parquet file are not what they should be.
fn is_damage(error: &DataFusionError) -> bool {
    // The store names the file, which is not to blame.
    if content(error).is_some() {
        return false;
    }
    match error.find_root() {
        DataFusionError::ParquetError(_) => true,
        DataFusionError::ArrowError(inner, _) => matches!(**inner, ArrowError::ParquetError(_)),
        _ => false,
    }
}

/// What is said of a Parquet file that cannot be read, and of the place in it where that is known.
pub(in crate::engine) fn of_parquet(
    error: DataFusionError,
    name: &str,
    place: Option<&str>,
) -> DataFusionError {
    if content(&error).is_some() {
        return error;
    }
    let why = message(&error);
    if !is_damage(&error) {
        return match error.find_root() {
            // A value of the file that is none of the table's type.
            DataFusionError::ArrowError(inner, _)
                if matches!(**inner, ArrowError::CastError(_)) =>
            {
                refused(&error, format!("{name}: {why}"))
            }
            DataFusionError::Plan(_) | DataFusionError::Execution(_) => {
                refused(&error, format!("{name}: {why}"))
            }
            _ => error,
        };
    }
    // Each layer that it came through puts its name before it.
    let layers = ["Parquet error: ", "Parquet argument error: ", "External: "];
    let mut why = why.as_str();
    while let Some(inner) = layers.iter().find_map(|layer| why.strip_prefix(layer)) {
        why = inner;
    }
    Error::Refused {
        sqlstate: "XX001",
        why: match place {
            Some(place) => format!("{name} is damaged: {place}: {why}"),
            None => format!("{name} is no Parquet file, or a damaged one: {why}"),
        },
        hint: None,
    }
    .into()
}

/// A format's scan, and what is known of its files.
#[derive(Clone)]
pub(super) struct Source {
    pub inner: Arc<dyn FileSource>,
    pub about: Arc<About>,
}

impl Source {
    fn around(&self, inner: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        let about = Arc::clone(&self.about);
        Arc::new(Source { inner, about })
    }

    /// Columns of the files that are read: for the rows, or to choose them.
    fn columns(&self) -> Arc<[String]> {
        let fields = self.inner.table_schema().file_schema().fields();
        let mut read: BTreeSet<usize> = match self.inner.projection() {
            Some(projection) => projection.column_indices().into_iter().collect(),
            None => (0..fields.len()).collect(),
        };
        let filtered = self.inner.filter().map(|filter| collect_columns(&filter));
        read.extend(filtered.iter().flatten().map(Column::index));
        let name = |index: usize| Some(fields.get(index)?.name().clone());
        read.into_iter().filter_map(name).collect()
    }
}

impl FileSource for Source {
    fn create_file_opener(
        &self,
        _store: Arc<dyn ObjectStore>,
        _config: &FileScanConfig,
        _partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        internal_err!("scans of files are opened by morsels")
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let (about, columns) = (Arc::clone(&self.about), self.columns());
        let inner = match (&about.text, about.lenient) {
            (Some(text), true) => {
                let whole = Whole {
                    inner: store,
                    text: text.clone(),
                    base: about.base.clone(),
                    tally: about.tally.clone(),
                };
                let mut unpacked = config.clone();
                unpacked.file_compression_type = FileCompressionType::UNCOMPRESSED;
                self.inner
                    .create_morselizer(Arc::new(whole), &unpacked, partition)?
            }
            _ => self.inner.create_morselizer(store, config, partition)?,
        };
        Ok(Box::new(Files {
            inner,
            about,
            columns,
        }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        self.around(self.inner.with_batch_size(batch_size))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.inner.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(t, f)
    }

    fn supports_repartitioning(&self) -> bool {
        // Rows that are left out are known only where a file is read from its beginning.
        !self.about.lenient && self.inner.supports_repartitioning()
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        repartition_file_min_size: usize,
        output_ordering: Option<LexOrdering>,
        config: &FileScanConfig,
    ) -> Result<Option<FileScanConfig>> {
        if self.about.lenient {
            return Ok(None);
        }
        let (many, least) = (target_partitions, repartition_file_min_size);
        self.inner
            .repartitioned(many, least, output_ordering, config)
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let pushed = self.inner.try_pushdown_filters(filters, config)?;
        Ok(FilterPushdownPropagation {
            filters: pushed.filters,
            updated_node: pushed.updated_node.map(|inner| self.around(inner)),
        })
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
        properties: &EquivalenceProperties,
    ) -> Result<SortOrderPushdownResult<Arc<dyn FileSource>>> {
        let pushed = self.inner.try_pushdown_sort(order, properties)?;
        Ok(pushed.map(|inner| self.around(inner)))
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.inner.reorder_files(files)
    }

    fn try_pushdown_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn FileSource>>> {
        let pushed = self.inner.try_pushdown_projection(projection)?;
        Ok(pushed.map(|inner| self.around(inner)))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}

/// Opens files.
#[derive(Debug)]
struct Files {
    inner: Box<dyn Morselizer>,
    about: Arc<About>,
    columns: Arc<[String]>,
}

impl Morselizer for Files {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let inner = self.inner.plan_file(file.clone())?;
        Ok(Box::new(Planner {
            inner,
            checked: !self.about.has_header(&file),
            of: Of {
                about: Arc::clone(&self.about),
                file: Arc::new(file),
                columns: Arc::clone(&self.columns),
            },
        }))
    }
}

/// A file, and what is known of it.
#[derive(Debug, Clone)]
struct Of {
    about: Arc<About>,
    file: Arc<PartitionedFile>,
    columns: Arc<[String]>,
}

impl Of {
    async fn told(&self, error: DataFusionError) -> DataFusionError {
        self.about.told(error, &self.file, &self.columns).await
    }

    fn planner(&self, inner: Box<dyn MorselPlanner>) -> Box<dyn MorselPlanner> {
        Box::new(Planner {
            inner,
            checked: true,
            of: self.clone(),
        })
    }
}

/// Opens one file.
#[derive(Debug)]
struct Planner {
    inner: Box<dyn MorselPlanner>,
    of: Of,
    /// Whether its header is looked at.
    checked: bool,
}

impl MorselPlanner for Planner {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let Planner { inner, of, checked } = *self;
        if !checked {
            return Ok(Some(MorselPlan::new().with_pending_planner(async move {
                of.about.check_header(&of.file).await?;
                Ok(of.planner(inner))
            })));
        }
        let mut plan = match inner.plan() {
            Ok(Some(plan)) => plan,
            Ok(None) => return Ok(None),
            Err(error) => {
                let failed = async move { Err(of.told(error).await) };
                return Ok(Some(MorselPlan::new().with_pending_planner(failed)));
            }
        };
        let morsels = plan.take_morsels().into_iter().map(|inner| {
            let of = of.clone();
            Box::new(Rows { inner, of }) as Box<dyn Morsel>
        });
        let planners = plan.take_ready_planners().into_iter();
        let mut told = MorselPlan::new()
            .with_morsels(morsels.collect())
            .with_planners(planners.map(|inner| of.planner(inner)).collect());
        if let Some(pending) = plan.take_pending_planner() {
            told.set_pending_planner(async move {
                match pending.await {
                    Ok(inner) => Ok(of.planner(inner)),
                    Err(error) => Err(of.told(error).await),
                }
            });
        }
        Ok(Some(told))
    }
}

/// Rows of one file.
#[derive(Debug)]
struct Rows {
    inner: Box<dyn Morsel>,
    of: Of,
}

impl Morsel for Rows {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let Rows { inner, of } = *self;
        let rows = inner.into_stream().then(move |rows| {
            let of = of.clone();
            async move {
                match rows {
                    Ok(rows) => Ok(rows),
                    Err(error) => Err(of.told(error).await),
                }
            }
        });
        rows.boxed()
    }
}
