//! Delta tables: `CREATE EXTERNAL TABLE .. STORED AS DELTA` over a table that is there, or of a new one.
//!
//! Takes statements, gives tables that are read as they are when a statement begins, and that INSERT adds rows to in one
//! commit. deltalake reads and writes; each byte comes and goes through the session's object stores, which keep to the
//! content roots, wherever the log says that a file is. What deltalake cannot read is an error that names the table.

mod columns;
mod current;
mod damage;
mod left;
mod log;
mod sink;
mod store;
mod table;
mod writing;

pub(super) use current::Catalog;
pub(super) use table::Table;

use super::files::INFERRED;
use super::sink::{Shelf, blocking, new_id};
use crate::error::Error;
use async_trait::async_trait;
use chrono::Utc;
use datafusion::arrow::compute::kernels::cast_utils::string_to_datetime;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Result, not_impl_err};
use datafusion::logical_expr::{CreateExternalTable, DdlStatement, LogicalPlan};
use deltalake_core::kernel::StructField;
use deltalake_core::operations::create::CreateBuilder;
use log::{At, Log};
use std::sync::Arc;
use store::Written;
use writing::{Local, Writing};

/// What STORED AS says.
pub(super) const KIND: &str = "DELTA";
/// The option of a statement that makes no new table: one that is run again at a start.
const EXISTING: &str = "safeguard.existing";

/// Whether a statement makes a Delta table.
pub(super) fn is_one(table: &CreateExternalTable) -> bool {
    table.file_type.eq_ignore_ascii_case(KIND)
}

/// The plan as it is run again at a start: a table that is gone is not made anew.
pub(super) fn again(mut plan: LogicalPlan) -> LogicalPlan {
    if let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(table)) = &mut plan
        && is_one(table)
    {
        let known = table.options.insert(EXISTING.to_owned(), "true".to_owned());
        debug_assert!(known.is_none_or(|known| known == "true"));
    }
    plan
}

/// Makes Delta tables.
#[derive(Debug)]
pub(super) struct Deltas {
    pub(super) shelf: Shelf,
}

#[async_trait]
impl TableProviderFactory for Deltas {
    async fn create(
        &self,
        state: &dyn Session,
        table: &CreateExternalTable,
    ) -> Result<Arc<dyn TableProvider>> {
        check_clauses(table)?;
        let options = Options::of(table)?;
        let [location] = table.locations.as_slice() else {
            return not_impl_err!("a Delta table has one location");
        };
        let log = Log::new(&table.name.to_string(), location, state.runtime_env())?;
        let declared = columns::kept(table.schema.as_arrow())?;
        let partitions: Vec<String> = {
            let typed = table.table_partition_cols.iter();
            typed.map(|name| plain(name)).collect()
        };
        let place = self.shelf.place(&log.url)?;
        if place.is_some_and(|place| place.folder.is_file()) {
            return Err(Error::Refused {
                sqlstate: "42809",
                why: format!("{location} is a file: a Delta table is a folder"),
                hint: Some("name the folder that its _delta_log is in".to_owned()),
            }
            .into());
        }
        left::clear(&self.shelf, &log).await?;
        if !log.exists().await? {
            if declared.is_empty() || options.existing || options.at != At::Newest {
                let why = format!("there is no Delta table in {location}");
                return Err(Error::Refused {
                    sqlstate: "58P01",
                    why,
                    hint: declared.is_empty().then(|| {
                        "with columns in the statement a new table is made there".to_owned()
                    }),
                }
                .into());
            }
            self.make(&log, &declared, &partitions).await?;
        }
        let now = log.load(options.at).await?;
        if !declared.is_empty() {
            columns::check((&log.name, &now), &declared, &partitions)?;
        } else if !partitions.is_empty() {
            return not_impl_err!(
                "PARTITIONED BY without columns: what a Delta table is partitioned by is in its log"
            );
        }
        let table = Table::open(log, options.at, self.shelf.clone()).await?;
        Ok(Arc::new(table))
    }
}

impl Deltas {
    /// Makes a new table: the first entry of its log.
    async fn make(&self, log: &Log, columns: &[StructField], partitions: &[String]) -> Result<()> {
        log.check_write(&self.shelf.roots)?;
        let local = self.shelf.place(&log.url)?.map(Local::new);
        let folder = log.url.prefix().clone();
        // Only the first entry: where somebody makes it too, theirs stays.
        let writing = Writing::new(log.store()?, folder, local, 0);
        let (started, id) = (Arc::clone(&writing), new_id()?);
        let begun = blocking(move || started.begin(&id, None)).await?;
        let made = CreateBuilder::new()
            .with_log_store(log.over(Arc::new(Written(Arc::clone(&writing)))))
            .with_columns(columns.iter().cloned())
            .with_partition_columns(partitions.iter().cloned())
            .await;
        let committed = writing.is_committed();
        drop(begun);
        match made {
            Err(error) if !committed => Err(log.told(error)),
            _ => Ok(()),
        }
    }
}

/// A name as it was meant: the parser leaves those of PARTITIONED BY as they are typed.
fn plain(typed: &str) -> String {
    let quoted = typed
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match quoted {
        Some(name) => name.replace("\"\"", "\""),
        None => typed.to_lowercase(),
    }
}

/// Refuses what a Delta table does not keep.
fn check_clauses(table: &CreateExternalTable) -> Result<()> {
    let refused = |what: &str| not_impl_err!("a Delta table keeps no {what}");
    if table.constraints.iter().next().is_some() {
        return refused("PRIMARY KEY and no UNIQUE");
    }
    if !table.column_defaults.is_empty() {
        return refused("DEFAULT");
    }
    if !table.order_exprs.is_empty() {
        return refused("order of rows: WITH ORDER");
    }
    if table.unbounded {
        return not_impl_err!("a Delta table is not UNBOUNDED");
    }
    Ok(())
}

/// OPTIONS of a Delta table.
#[derive(Debug, PartialEq)]
struct Options {
    at: At,
    existing: bool,
}

impl Options {
    /// # Errors
    /// 42704 for an option that is not known, 22023 for a value that is none.
    fn of(table: &CreateExternalTable) -> Result<Options> {
        let mut options = Options {
            at: At::Newest,
            existing: false,
        };
        for (key, value) in &table.options {
            // The planner puts this before names without a dot.
            let name = key.strip_prefix("format.").unwrap_or(key);
            let wrong = |what: &str| {
                let why = format!("option {name} of a Delta table is {what}, not {value}");
                Error::refused("22023", why)
            };
            let at = match name {
                INFERRED => continue,
                EXISTING => {
                    options.existing = value.parse().map_err(|_| wrong("true or false"))?;
                    continue;
                }
                "version" => At::Version(value.parse().map_err(|_| wrong("a number"))?),
                "timestamp" => {
                    let time = string_to_datetime(&Utc, value);
                    At::Time(time.map_err(|_| wrong("a point in time"))?)
                }
                _ => {
                    let why = format!(
                        "a Delta table has no option {name}: there are version and timestamp"
                    );
                    return Err(Error::refused("42704", why).into());
                }
            };
            if options.at != At::Newest {
                let why = "a Delta table shows one version: by version or by timestamp";
                return Err(Error::refused("22023", why).into());
            }
            options.at = at;
        }
        Ok(options)
    }
}

#[cfg(test)]
mod reading_tests;
#[cfg(test)]
mod rows_tests;
#[cfg(test)]
mod tests;
