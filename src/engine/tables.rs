//! Tables that CREATE TABLE AS makes and that are there after a restart: Parquet files below the data directory.
//!
//! Takes CREATE TABLE AS statements, gives tables whose folder is `tables/<schema>/<name>-<id>/` and whose columns stand in a file
//! without rows. The relation in the store decides: a folder that no relation names and no process works on is removed. Their
//! locations have a scheme of their own, which no statement may name. Without a data directory there is none of this.

use super::files::nullable;
use super::roots::{Rooted, Roots};
use super::sink::{FolderTable, Shelf, new_id};
use super::staging::{self, Disk};
use super::{CATALOG, Engine, Session, Statement, relations};
use crate::content::postgres::quoted;
use crate::error::Error;
use datafusion::arrow::array::{RecordBatch, new_null_array};
use datafusion::arrow::datatypes::{DataType, Field, IntervalUnit, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::datasource::provider_as_source;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{CreateMemoryTable, DdlStatement, LogicalPlan, LogicalPlanBuilder};
use datafusion::object_store::local::LocalFileSystem;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use futures::TryStreamExt;
use safeguard_udfs::Tally;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The scheme of the tables' locations.
pub(super) const SCHEME: &str = "safeguard-tables";
/// What their locations begin with.
const BASE: &str = "safeguard-tables://own/";
/// The file without rows in a table's folder.
const COLUMNS: &str = "columns.parquet";
/// Locked in a table's folder while it is being made.
const MAKER: &str = ".maker";
/// Characters of a table's name in its folder's.
const NAME_CHARS_MAX: usize = 40;

/// The folder of all of them, made where it is missing; resolved.
pub(super) fn prepare(data: &Path) -> io::Result<PathBuf> {
    let own = data.join("tables");
    fs::create_dir_all(&own)?;
    own.canonicalize()
}

/// Lets sessions read and write them.
pub(super) fn register(runtime: &RuntimeEnv, own: &Path, disk: &Disk) -> Result<(), Error> {
    let files = LocalFileSystem::new_with_prefix(own).map_err(DataFusionError::from)?;
    let store = Rooted::new(&Roots::default(), files, disk);
    let url = ObjectStoreUrl::parse(BASE)?;
    runtime.register_object_store(url.as_ref(), Arc::new(store));
    Ok(())
}

/// # Errors
/// 42P01 where the table's folder is gone: another process dropped it.
pub(super) fn check_there(folder: &Path) -> datafusion::common::Result<()> {
    match folder.join(COLUMNS).try_exists() {
        Ok(false) => Err(DataFusionError::External(Box::new(Error::Refused {
            sqlstate: "42P01",
            why: "the table was dropped by another process".to_owned(),
            hint: Some("DROP TABLE forgets it here too".to_owned()),
        }))),
        // What cannot be looked at is for whoever reads it.
        _ => Ok(()),
    }
}

/// The statement's CREATE TABLE AS, where its table is to be kept.
pub(super) fn kept<'a>(engine: &Engine, plan: &'a LogicalPlan) -> Option<&'a CreateMemoryTable> {
    match plan {
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table))
            if engine.shelf.own.is_some() && !table.temporary && !is_bare(&table.input) =>
        {
            Some(table)
        }
        _ => None,
    }
}

/// A folder that is being made. Dropped before it is done it is removed.
struct Making {
    folder: PathBuf,
    disk: Disk,
    /// Holds the lock.
    _maker: File,
    done: bool,
}

impl Drop for Making {
    fn drop(&mut self) {
        let maker = self.folder.join(MAKER);
        let _ = match self.done {
            true => fs::remove_file(maker),
            // What stays is removed at the next start.
            false => self.disk.remove_all(&self.folder),
        };
    }
}

/// Makes the table that a statement describes, fills it, registers and keeps it: all of that or nothing.
///
/// # Errors
/// 42P07 where it is there, 42701 for two columns of one name, 0A000 for what is not written as Parquet; what the query finds.
pub(super) async fn create(
    session: &Session,
    statement: &Statement,
    table: &CreateMemoryTable,
    tally: &Tally,
) -> Result<(), Error> {
    let Some(name) = relations::resolved(session, &table.name) else {
        let why = format!("table {} is not in the database {CATALOG}", table.name);
        return Err(Error::refused("0A000", why));
    };
    if !relations::schema_exists(session, &name.schema) {
        let why = format!("schema \"{}\" does not exist", name.schema);
        return Err(Error::refused("3F000", why));
    }
    let there = session.context.table_exist(table.name.clone())?;
    match (there, table.if_not_exists, table.or_replace) {
        (_, true, true) => {
            let why = "'IF NOT EXISTS' cannot coexist with 'REPLACE'";
            return Err(DataFusionError::Plan(why.to_owned()).into());
        }
        (true, true, false) => return Ok(()),
        (true, false, false) => {
            let why = format!("Table '{}' already exists", table.name);
            return Err(DataFusionError::Execution(why).into());
        }
        _ => {}
    }
    let schema = columns(session, table)?;
    let below = below(&name, &new_id()?);
    let making = make_folder(session, &below, &schema).await?;
    let provider = open(&session.engine.shelf, &below, schema)?;
    fill(session, table, Arc::clone(&provider)).await?;
    if table.constraints.iter().next().is_some() {
        tally.note("PRIMARY KEY and UNIQUE are not checked, and not kept".to_owned());
    }
    register_and_keep(session, statement, (table, name), (&below, provider)).await?;
    let mut making = making;
    making.done = true;
    drop(making);
    sweep(&session.engine).await
}

/// A CREATE TABLE without AS: its columns and no rows. It stays in memory, where UPDATE and DELETE work.
fn is_bare(input: &LogicalPlan) -> bool {
    matches!(input, LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row)
}

/// The table's columns, which take NULL.
fn columns(session: &Session, table: &CreateMemoryTable) -> Result<SchemaRef, Error> {
    let found = session.columns(&table.input)?;
    let mut names = BTreeSet::new();
    if let Some(twice) = found.fields().iter().find(|f| !names.insert(f.name())) {
        let why = format!("column \"{}\" specified more than once", twice.name());
        return Err(Error::refused("42701", why));
    }
    if let Some((column, _)) = table.column_defaults.first() {
        let why = format!("cannot keep the DEFAULT of column \"{column}\"");
        return Err(Error::refused("0A000", why));
    }
    Ok(nullable(&found))
}

/// The table's folder below that of all.
fn below(name: &relations::Name, id: &str) -> String {
    let plain = |name: &str| -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        name.chars().take(NAME_CHARS_MAX).map(plain).collect()
    };
    format!("{}/{}-{id}/", plain(&name.schema), plain(&name.name))
}

/// Makes the folder and the file that holds the columns, for good.
async fn make_folder(session: &Session, below: &str, schema: &SchemaRef) -> Result<Making, Error> {
    let bytes = columns_file(schema)?;
    let shelf = &session.engine.shelf;
    let own = shelf.own.as_ref().expect("bug: a table is kept nowhere");
    let (folder, disk) = (own.join(below), shelf.disk.clone());
    let own = own.clone();
    let made = tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&folder)?;
        let maker = File::create(folder.join(MAKER))?;
        maker.try_lock()?;
        let making = Making {
            folder,
            disk,
            _maker: maker,
            done: false,
        };
        let (folder, disk) = (&making.folder, &making.disk);
        disk.write(&folder.join(COLUMNS), &bytes)?;
        disk.sync(&folder.join(COLUMNS))?;
        for folder in folder
            .ancestors()
            .take_while(|folder| folder.starts_with(&own))
        {
            disk.sync(folder)?;
        }
        Ok::<_, io::Error>(making)
    });
    let made = made.await.expect("bug: making a folder panicked");
    Ok(made.map_err(DataFusionError::from)?)
}

/// A file with the columns and no rows.
///
/// # Errors
/// 0A000 naming the first column that is not written as Parquet.
fn columns_file(schema: &SchemaRef) -> Result<Vec<u8>, Error> {
    for field in schema.fields() {
        let nullable = field.as_ref().clone().with_nullable(true);
        let column = Arc::new(Schema::new(vec![nullable]));
        let months = DataType::Interval(IntervalUnit::MonthDayNano);
        let written = match field.data_type() == &months {
            true => Err("Parquet holds no intervals of months and nanoseconds".to_owned()),
            false => write(&column, 1).map_err(|e| e.to_string()),
        };
        if let Err(why) = written {
            let (name, kind) = (field.name(), field.data_type());
            let why = format!("cannot keep column \"{name}\" of type {kind}: {why}");
            return Err(Error::refused("0A000", why));
        }
    }
    Ok(write(schema, 0).map_err(DataFusionError::from)?)
}

/// A Parquet file of so many rows of NULL.
fn write(schema: &SchemaRef, rows: usize) -> datafusion::parquet::errors::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(schema), None)?;
    if rows > 0 {
        let nulls = |field: &Arc<Field>| new_null_array(field.data_type(), rows);
        let nulls = schema.fields().iter().map(nulls).collect();
        writer.write(&RecordBatch::try_new(Arc::clone(schema), nulls)?)?;
    }
    writer.close()?;
    Ok(bytes)
}

/// The table over a folder.
fn open(shelf: &Shelf, below: &str, schema: SchemaRef) -> Result<Arc<dyn TableProvider>, Error> {
    let options =
        ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension(".parquet");
    let url = ListingTableUrl::parse(format!("{BASE}{below}"))?;
    let config = ListingTableConfig::new(url)
        .with_listing_options(options)
        .with_schema(schema);
    let files = Arc::new(ListingTable::try_new(config)?);
    Ok(Arc::new(FolderTable::new(files, shelf.clone())))
}

/// Runs the query into the table, under the session's guard.
async fn fill(
    session: &Session,
    table: &CreateMemoryTable,
    provider: Arc<dyn TableProvider>,
) -> Result<(), Error> {
    let target = provider_as_source(provider);
    let input = table.input.as_ref().clone();
    let insert =
        LogicalPlanBuilder::insert_into(input, table.name.clone(), target, InsertOp::Append)?;
    let state = session.context.state();
    let rows = session.stream(&state, &insert.build()?).await?;
    rows.try_for_each(|_| async { Ok(()) }).await?;
    Ok(())
}

async fn register_and_keep(
    session: &Session,
    statement: &Statement,
    (table, name): (&CreateMemoryTable, relations::Name),
    (below, provider): (&str, Arc<dyn TableProvider>),
) -> Result<(), Error> {
    let made_by = format!(
        "CREATE EXTERNAL TABLE {}.{} STORED AS PARQUET LOCATION '{BASE}{below}'",
        quoted(&name.schema),
        quoted(&name.name)
    );
    let context = &session.context;
    let before = match table.or_replace {
        true => context.deregister_table(table.name.clone())?,
        false => None,
    };
    context.register_table(table.name.clone(), provider)?;
    let change = relations::put(session, statement, ("table", name), made_by);
    if let Err(error) = relations::keep(session, change).await {
        context.deregister_table(table.name.clone())?;
        if let Some(before) = before {
            context.register_table(table.name.clone(), before)?;
        }
        return Err(error);
    }
    Ok(())
}

/// The folder, below that of all, of a kept table's CREATE; `None` for any other plan.
fn folder_of(plan: &LogicalPlan) -> Option<(&TableReference, &str)> {
    let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(table)) = plan else {
        return None;
    };
    let below = table.locations.first()?.strip_prefix(BASE)?;
    Some((&table.name, below))
}

/// Makes a kept table again; whether `plan` is one's.
///
/// # Errors
/// Its folder or columns cannot be read.
pub(super) async fn reopen(session: &Session, plan: &LogicalPlan) -> Result<bool, Error> {
    let Some((name, below)) = folder_of(plan) else {
        return Ok(false);
    };
    let shelf = &session.engine.shelf;
    let Some(own) = &shelf.own else {
        return Err(Error::refused("58P01", "there is no data directory"));
    };
    let file = own.join(below).join(COLUMNS);
    let schema = tokio::task::spawn_blocking(move || {
        let found = File::open(&file).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot read {}: {e}", file.display()))
        })?;
        let columns = ParquetRecordBatchReaderBuilder::try_new(found)?;
        Ok::<_, DataFusionError>(Arc::clone(columns.schema()))
    });
    let schema = schema.await.expect("bug: reading columns panicked")?;
    let provider = open(shelf, below, schema)?;
    session.context.register_table(name.clone(), provider)?;
    Ok(true)
}

/// Removes the folders that no relation names and no process works on.
///
/// # Errors
/// The store or the folder of all cannot be read; a folder that cannot be removed stays.
pub(super) async fn sweep(engine: &Engine) -> Result<(), Error> {
    let Some(own) = engine.shelf.own.clone() else {
        return Ok(());
    };
    let disk = engine.shelf.disk.clone();
    let found = tokio::task::spawn_blocking(move || finished(&own));
    let found = found.await.expect("bug: looking for folders panicked");
    let found = found.map_err(DataFusionError::from)?;
    if found.is_empty() {
        return Ok(());
    }
    // Read when nobody can be making them any more.
    let relations = engine.store.relations().await?;
    let named = |below: &str| {
        let end = format!("'{BASE}{below}'");
        relations.iter().any(|row| row.made_by.ends_with(&end))
    };
    let left: Vec<_> = found.into_iter().filter(|one| !named(&one.below)).collect();
    let removed = tokio::task::spawn_blocking(move || {
        for one in left {
            if let Err(error) = disk.remove_all(&one.folder) {
                tracing::warn!("cannot remove {}: {error}", one.folder.display());
            }
        }
    });
    removed.await.expect("bug: removing folders panicked");
    Ok(())
}

/// A folder that nobody is making.
struct Finished {
    folder: PathBuf,
    below: String,
    /// Holds the lock of a maker that is gone.
    _maker: Option<File>,
}

fn finished(own: &Path) -> io::Result<Vec<Finished>> {
    let mut found = Vec::new();
    for schema in folders(own)? {
        for folder in folders(&schema)? {
            let maker = folder.join(MAKER);
            let held = staging::abandoned(&maker)?;
            if held.is_none() && maker.exists() {
                continue;
            }
            let below = folder.strip_prefix(own).ok().and_then(Path::to_str);
            let Some(below) = below.map(|below| format!("{below}/")) else {
                continue;
            };
            found.push(Finished {
                folder,
                below,
                _maker: held,
            });
        }
    }
    Ok(found)
}

fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
