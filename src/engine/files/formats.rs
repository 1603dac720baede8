//! CSV, JSON lines and Parquet with errors that name the file, and with what they chose said.
//!
//! Takes DataFusion's formats and gives the same ones around them, registered under the same names. Options of this
//! program's own begin with `safeguard.`: `ignore_broken`, and `inferred`, which CREATE EXTERNAL TABLE without columns
//! gets from [`super::compressed`] and which holds the table's name.

use super::columns;
use super::records::Syntax;
use super::source::{About, Source, of_parquet};
use super::text::Text;
use crate::engine::objects::is_remote;
use crate::error::{Error, content, message, sqlstate};
use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{DataFusionError, GetExt, Result, Statistics};
use datafusion::datasource::file_format::csv::{CsvFormat, CsvFormatFactory};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::{JsonFormat, JsonFormatFactory};
use datafusion::datasource::file_format::parquet::{ParquetFormat, ParquetFormatFactory};
use datafusion::datasource::file_format::{
    DEFAULT_SCHEMA_INFER_MAX_RECORD, FileFormat, FileFormatFactory, FileMeta,
};
use datafusion::datasource::physical_plan::{
    CsvSource, FileScanConfig, FileScanConfigBuilder, FileSinkConfig, FileSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::SessionState;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::physical_expr::{LexOrdering, LexRequirement};
use datafusion::physical_plan::ExecutionPlan;
use safeguard_udfs::{Statement, Tally};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The option that has broken rows left out.
pub(super) const IGNORE_BROKEN: &str = "safeguard.ignore_broken";
/// The option that says which table's columns come from its files.
pub(in crate::engine) const INFERRED: &str = "safeguard.inferred";

/// Puts these formats in the place of DataFusion's.
pub(in crate::engine) fn register(state: &mut SessionState) -> Result<()> {
    let factories: [Arc<dyn FileFormatFactory>; 3] = [
        Arc::new(CsvFormatFactory::new()),
        Arc::new(JsonFormatFactory::new()),
        Arc::new(ParquetFormatFactory::new()),
    ];
    for inner in factories {
        state.register_file_format(Arc::new(Factory { inner }), true)?;
    }
    Ok(())
}

/// Makes formats.
struct Factory {
    inner: Arc<dyn FileFormatFactory>,
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl GetExt for Factory {
    fn get_ext(&self) -> String {
        self.inner.get_ext()
    }
}

impl FileFormatFactory for Factory {
    fn create(
        &self,
        state: &dyn Session,
        options: &HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        let mut options = options.clone();
        let inferred = options.remove(INFERRED);
        let lenient = match options.remove(IGNORE_BROKEN) {
            None => false,
            Some(value) => value.parse().map_err(|_| {
                let why = format!("{IGNORE_BROKEN} is true or false, not {value}");
                DataFusionError::Configuration(why)
            })?,
        };
        let inner = self.inner.create(state, &options)?;
        if lenient && inner.is::<ParquetFormat>() {
            let why =
                format!("{IGNORE_BROKEN} is for CSV and JSON lines: Parquet has no broken rows");
            return Err(DataFusionError::Configuration(why));
        }
        if lenient && inferred.is_some() {
            let why = format!(
                "{IGNORE_BROKEN} needs declared columns: a row is broken that does not fit them"
            );
            return Err(DataFusionError::Configuration(why));
        }
        Ok(Arc::new(Format {
            inner,
            inferred,
            lenient,
        }))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(Format {
            inner: FileFormatFactory::default(self.inner.as_ref()),
            inferred: None,
            lenient: false,
        })
    }
}

/// One table's format.
#[derive(Debug)]
struct Format {
    inner: Arc<dyn FileFormat>,
    /// The table whose columns come from its files.
    inferred: Option<String>,
    /// Whether broken rows are left out.
    lenient: bool,
}

impl Format {
    fn is_parquet(&self) -> bool {
        self.inner.is::<ParquetFormat>()
    }

    fn named(
        &self,
        error: DataFusionError,
        store: &Arc<dyn ObjectStore>,
        object: &ObjectMeta,
    ) -> DataFusionError {
        match self.is_parquet() {
            true => of_parquet(error, &address(store, object), None),
            false => error,
        }
    }

    /// Which file it is that cannot be read, or that does not go with the others.
    async fn blamed(
        &self,
        error: DataFusionError,
        (state, store): (&dyn Session, &Arc<dyn ObjectStore>),
        objects: &[ObjectMeta],
    ) -> DataFusionError {
        // The store names the file, which is not to blame.
        if content(&error).is_some() {
            return error;
        }
        let mut before: Vec<(&ObjectMeta, SchemaRef)> = Vec::new();
        let mut sorted: Vec<&ObjectMeta> = objects.iter().collect();
        sorted.sort_by(|one, other| one.location.cmp(&other.location));
        for object in sorted {
            let one = std::slice::from_ref(object);
            let schema = match self.inner.infer_schema(state, store, one).await {
                Ok(schema) => schema,
                Err(error) if self.is_parquet() => return self.named(error, store, object),
                Err(error) => return self.unlike(error, (state, store), objects, object).await,
            };
            let differing = before.iter().find_map(|(other, known)| {
                let (column, was, is) = columns::differing(known, &schema)?;
                Some(format!(
                    "{}: column \"{column}\" is {is}, in {} it is {was}",
                    address(store, object),
                    address(store, other)
                ))
            });
            if let Some(why) = differing {
                return Error::Refused {
                    sqlstate: "42804",
                    why,
                    hint: Some("declare the columns, or one table for each".to_owned()),
                }
                .into();
            }
            before.push((object, schema));
        }
        error
    }

    /// What is wrong in a text file of these that no columns can be read from.
    async fn unlike(
        &self,
        error: DataFusionError,
        (state, store): (&dyn Session, &Arc<dyn ObjectStore>),
        objects: &[ObjectMeta],
        object: &ObjectMeta,
    ) -> DataFusionError {
        let text = self.text(self.header(state), Arc::new(Schema::empty()));
        let found = match &text {
            // The lines that are named are those of a piece of the file.
            Some(text) if message(&error).contains("unequal lengths") || !text.csv => {
                text.unlike(store, &object.location).await
            }
            _ => None,
        };
        let why = match (found, objects.len()) {
            (Some((kind, why)), _) => format!("{kind}: {}: {why}", address(store, object)),
            // The statement names one file as its location.
            (None, 1) => return error,
            (None, _) => format!("{}: {}", address(store, object), message(&error)),
        };
        let sqlstate = match sqlstate(&error) {
            "XX000" => "22P04",
            known => known,
        };
        Error::Refused {
            sqlstate,
            why,
            hint: None,
        }
        .into()
    }

    /// Rows that types are read from, and whether there are more of them.
    async fn looked_at(
        &self,
        text: &Text,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Option<usize> {
        let most = match (
            self.inner.downcast_ref::<CsvFormat>(),
            self.inner.downcast_ref::<JsonFormat>(),
        ) {
            (Some(csv), _) => csv.options().schema_infer_max_rec,
            (_, Some(json)) => json.options().schema_infer_max_rec,
            _ => return None,
        };
        let most = most.unwrap_or(DEFAULT_SCHEMA_INFER_MAX_RECORD);
        let mut seen = 0;
        for object in objects {
            let header = u64::from(text.header);
            let beyond = |index: u64, _: &super::records::Record| {
                seen += usize::from(index >= header);
                seen > most
            };
            let location = &object.location;
            if text.find(store, location, 0, beyond).await.is_some() {
                return Some(most);
            }
        }
        None
    }

    /// Says which columns were chosen.
    async fn say(
        &self,
        (state, store): (&dyn Session, &Arc<dyn ObjectStore>),
        objects: &[ObjectMeta],
        schema: &SchemaRef,
    ) {
        let (Some(table), Some(tally)) = (&self.inferred, tally(state)) else {
            return;
        };
        let files = match objects {
            [object] => object.location.filename().unwrap_or_default().to_owned(),
            objects => columns::counted(objects.len(), "file"),
        };
        let header = self.header(state);
        let looked = match self.text(header, Arc::clone(schema)) {
            Some(text) => self.looked_at(&text, store, objects).await,
            None => None,
        };
        let looked = match looked {
            Some(rows) => format!(", types from the first {}", columns::counted(rows, "row")),
            None => String::new(),
        };
        tally.note(format!(
            "{table}: {} read from {files} ({}){looked}",
            columns::counted(schema.fields().len(), "column"),
            columns::listed(schema)
        ));
    }

    fn header(&self, state: &dyn Session) -> bool {
        let csv = self.inner.downcast_ref::<CsvFormat>();
        let default = state.config_options().catalog.has_header;
        csv.is_some_and(|csv| csv.has_header().unwrap_or(default))
    }

    /// How the files are read; `None` where they are no lines.
    fn text(&self, header: bool, schema: SchemaRef) -> Option<Text> {
        if let Some(csv) = self.inner.downcast_ref::<CsvFormat>() {
            let options = csv.options();
            return Some(Text {
                csv: true,
                header,
                truncated: options.truncated_rows.unwrap_or(false),
                syntax: Syntax {
                    quote: Some(options.quote),
                    delimiter: options.delimiter,
                    escape: options.escape,
                    comment: options.comment,
                    terminator: options.terminator,
                },
                compression: options.compression.into(),
                schema,
            });
        }
        let json = self.inner.downcast_ref::<JsonFormat>()?;
        let options = json.options();
        options.newline_delimited.then(|| Text {
            csv: false,
            header: false,
            truncated: false,
            syntax: Syntax::default(),
            compression: options.compression.into(),
            schema,
        })
    }
}

/// The same columns, any of which may be NULL.
pub(in crate::engine) fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
    let fields: Vec<Field> = fields.collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// A file as messages name it.
fn address(store: &Arc<dyn ObjectStore>, object: &ObjectMeta) -> String {
    // One of an object store calls itself by its place.
    match store.to_string() {
        place if is_remote(&place) => format!("{place}/{}", object.location),
        _ => format!("file:///{}", object.location),
    }
}

fn tally(state: &dyn Session) -> Option<Arc<Tally>> {
    let statement = state.config().get_extension::<Statement>()?;
    Some(Arc::clone(statement.tally()))
}

#[async_trait]
impl FileFormat for Format {
    fn get_ext(&self) -> String {
        self.inner.get_ext()
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        self.inner.get_ext_with_compression(compression)
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.inner.compression_type()
    }

    async fn infer_schema(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        match self.inner.infer_schema(state, store, objects).await {
            Ok(schema) => {
                let schema = nullable(&schema);
                self.say((state, store), objects, &schema).await;
                Ok(schema)
            }
            Err(error) => Err(self.blamed(error, (state, store), objects).await),
        }
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        let stats = self.inner.infer_stats(state, store, schema, object).await;
        stats.map_err(|e| self.named(e, store, object))
    }

    async fn infer_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Option<LexOrdering>> {
        let ordering = self.inner.infer_ordering(state, store, schema, object);
        ordering.await.map_err(|e| self.named(e, store, object))
    }

    async fn infer_stats_and_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<FileMeta> {
        let inner = &self.inner;
        let found = inner.infer_stats_and_ordering(state, store, schema, object);
        found.await.map_err(|e| self.named(e, store, object))
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        conf: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.inner.create_physical_plan(state, conf).await?;
        let scan = plan.downcast_ref::<DataSourceExec>();
        let Some(conf) = scan.and_then(|s| s.data_source().downcast_ref::<FileScanConfig>()) else {
            return Ok(plan);
        };
        let conf = conf.clone();
        let inner = Arc::clone(&conf.file_source);
        let header = inner.downcast_ref::<CsvSource>();
        let header = header.is_some_and(CsvSource::has_header);
        let schema = Arc::clone(inner.table_schema().file_schema());
        let about = About {
            store: state.runtime_env().object_store(&conf.object_store_url)?,
            base: conf.object_store_url.to_string(),
            text: self.text(header, schema),
            parquet: self.is_parquet(),
            inferred: self.inferred.is_some(),
            lenient: self.lenient,
            tally: tally(state),
        };
        let about = Arc::new(about);
        let conf = FileScanConfigBuilder::from(conf)
            .with_source(Arc::new(Source { inner, about }))
            .build();
        Ok(DataSourceExec::from_data_source(conf))
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        conf: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = &self.inner;
        inner
            .create_writer_physical_plan(input, state, conf, order)
            .await
    }

    fn file_source(&self, schema: TableSchema) -> Arc<dyn FileSource> {
        self.inner.file_source(schema)
    }
}
