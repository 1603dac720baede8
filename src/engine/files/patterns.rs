//! Tables over patterns and folders in object stores: DataFusion reads patterns of local paths only.
//!
//! Takes CREATE EXTERNAL TABLE and DataFusion's factory, gives the table that it would make of the same local location:
//! a pattern matches the whole rest of an object's name behind its folder, and columns come from the files that match.

use crate::engine::objects::{is_remote, split};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Result, ToDFSchema, internal_err, plan_err};
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::logical_expr::CreateExternalTable;
use std::sync::Arc;

/// What a partition's column is, where nobody declares it.
fn partition() -> DataType {
    DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8))
}

/// The table of a statement that names a pattern, or a folder without columns, in an object store; `None` for any other.
///
/// # Errors
/// Locations in different stores, files that do not go together, and what the factory finds.
pub(in crate::engine) async fn matching(
    state: &dyn Session,
    factory: &dyn TableProviderFactory,
    table: &CreateExternalTable,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let declared = !table.schema.fields().is_empty();
    let wants = |location: &String| {
        let folder = !declared && location.ends_with('/') && is_remote(location);
        folder || split(location).1.is_some()
    };
    if !table.locations.iter().any(wants) {
        return Ok(None);
    }
    let folders: Vec<ListingTableUrl> = table
        .locations
        .iter()
        .map(|location| ListingTableUrl::parse(split(location).0))
        .collect::<Result<_>>()?;
    let store = folders[0].object_store();
    if let Some(other) = folders.iter().find(|url| url.object_store() != store) {
        return plan_err!("all locations must be in one store, not {store} and {other}");
    }
    let mut plain = table.clone();
    plain.locations.truncate(1);
    plain.locations[0] = split(&plain.locations[0]).0.to_owned();
    if !declared {
        plain.schema = Arc::new(standing_in(table).to_dfschema()?);
    }
    let made = factory.create(state, &plain).await?;
    let Some(made) = made.downcast_ref::<ListingTable>() else {
        return internal_err!("a table over files lists none");
    };
    let mut options = made.options().clone();
    let urls = folders.into_iter().zip(&table.locations);
    let urls: Vec<ListingTableUrl> = urls
        .map(|(folder, location)| match split(location).1 {
            Some(pattern) => folder.with_glob(pattern),
            None if wants(location) => folder.with_glob(&format!("*.{}", extension(&options))),
            None => Ok(folder),
        })
        .collect::<Result<_>>()?;
    let schema = match declared {
        true => of_files(made, &options),
        false => inferred(state, &mut options, table, &urls).await?,
    };
    let config = ListingTableConfig::new_with_multi_paths(urls)
        .with_listing_options(options)
        .with_schema(schema);
    let made = ListingTable::try_new(config)?
        .with_cache(state.runtime_env().cache_manager.get_file_statistic_cache())
        .with_definition(table.definition.clone())
        .with_constraints(table.constraints.clone())
        .with_column_defaults(table.column_defaults.clone());
    Ok(Some(Arc::new(made)))
}

/// Columns with which the factory looks into no file: its partitions', and one more.
fn standing_in(table: &CreateExternalTable) -> Schema {
    let partitions = table.table_partition_cols.iter();
    let partitions = partitions.map(|name| Field::new(name, partition(), true));
    let any = Field::new("safeguard.any", DataType::Utf8, true);
    Schema::new(partitions.chain([any]).collect::<Vec<_>>())
}

fn extension(options: &ListingOptions) -> String {
    let format = &options.format;
    let compressed = format.compression_type();
    let compressed = compressed.and_then(|kind| format.get_ext_with_compression(&kind).ok());
    compressed.unwrap_or_else(|| format.get_ext())
}

/// The columns that are in the files: not the partitions'.
fn of_files(table: &ListingTable, options: &ListingOptions) -> SchemaRef {
    let partitions = &options.table_partition_cols;
    let schema = table.schema();
    let fields = schema.fields().iter();
    let fields = fields.filter(|field| !partitions.iter().any(|(name, _)| name == field.name()));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

async fn inferred(
    state: &dyn Session,
    options: &mut ListingOptions,
    table: &CreateExternalTable,
    urls: &[ListingTableUrl],
) -> Result<SchemaRef> {
    if table.table_partition_cols.is_empty() {
        let config = state.config_options();
        if config.execution.listing_table_factory_infer_partitions {
            let names = options.infer_partitions(state, &urls[0]).await?;
            options.table_partition_cols =
                names.into_iter().map(|name| (name, partition())).collect();
        }
    }
    let mut known: Option<SchemaRef> = None;
    for url in urls {
        options.validate_partitions(state, url).await?;
        let schema = options.infer_schema(state, url).await?;
        match &known {
            Some(known) if known.fields() != schema.fields() => {
                return plan_err!("the files of {} and {url} have other columns", urls[0]);
            }
            Some(_) => {}
            None => known = Some(schema),
        }
    }
    match known {
        Some(schema) => Ok(schema),
        None => internal_err!("a table without a location"),
    }
}
