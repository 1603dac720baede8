//! Files that cannot be read or written are named, and refused where they are outside: DataFusion says what is wrong on which line, and leaves out of which file.
//!
//! Takes statements' plans and their errors, gives the errors with the file in them, and plans that know by a file's name how it
//! is compressed. Knows no format.

mod broken;
mod columns;
mod formats;
mod groups;
mod patterns;
mod records;
mod sent;
mod source;
mod text;

pub(super) use formats::{INFERRED, nullable, register};
pub(super) use patterns::matching;
pub(super) use sent::{can_be_sent, plain, told};
pub(super) use source::of_parquet;

use super::delta;
use super::roots::Roots;
use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use std::io;
use std::sync::Arc;

/// Files named in one message.
const NAMED_MAX: usize = 3;

/// Where a CREATE EXTERNAL TABLE reads; empty for any other statement.
///
/// # Errors
/// A place of it or of a COPY that is outside of the roots, whether or not anything is there. A local file that is not
/// there: DataFusion takes it for a table without rows where the columns are declared.
pub(super) fn locations(plan: &LogicalPlan, roots: &Roots) -> Result<Vec<String>> {
    if let LogicalPlan::Copy(copy) = plan {
        roots.check("write", &copy.output_url)?;
    }
    let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(table)) = plan else {
        return Ok(Vec::new());
    };
    for location in &table.locations {
        let path = roots.check("read", location)?;
        // A folder may be filled later, by INSERT too; a pattern may match later; a Delta table may be made there.
        let settled = !location.ends_with('/')
            && !location.contains(['*', '?', '['])
            && !delta::is_one(table);
        if settled && path.is_some_and(|path| !path.exists()) {
            let why = format!("cannot read {location}: no such file or folder");
            return Err(io::Error::new(io::ErrorKind::NotFound, why).into());
        }
    }
    let folder = |location: &String| match delta::is_one(table) {
        true => format!("{}/", location.trim_end_matches('/')),
        false => location.clone(),
    };
    Ok(table.locations.iter().map(folder).collect())
}

/// A CREATE EXTERNAL TABLE over files whose names all end as one compression's do, with that as its option, unless it says
/// otherwise; and with the table's name as an option where its columns come from the files. Any other plan as it is.
pub(super) fn compressed(mut plan: LogicalPlan) -> LogicalPlan {
    const OPTION: &str = "format.compression";
    let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(table)) = &mut plan else {
        return plan;
    };
    table.options.remove(formats::INFERRED);
    if table.schema.fields().is_empty() {
        let name = table.name.table().to_owned();
        table.options.insert(formats::INFERRED.to_owned(), name);
    }
    // Parquet and the like are compressed inside, whatever the file is called.
    let whole = ["CSV", "JSON", "NDJSON"].contains(&&*table.file_type.to_uppercase());
    let by_name = |location: &String| {
        let known = [".gz", ".bz2", ".xz", ".zst"].into_iter();
        let known = known.zip(["gzip", "bzip2", "xz", "zstd"]);
        known.into_iter().find(|(end, _)| location.ends_with(end))
    };
    let mut found = table.locations.iter().map(by_name);
    if let (true, Some(Some(first))) = (whole, found.next())
        && found.all(|other| other == Some(first))
    {
        let option = table.options.entry(OPTION.to_owned());
        option.or_insert_with(|| first.1.to_owned());
    }
    plan
}

/// The files that a plan reads, as URLs, in the plan's order.
pub(super) fn scanned(plan: &Arc<dyn ExecutionPlan>) -> Vec<String> {
    let mut files = Vec::new();
    let mut pending = vec![plan];
    while let Some(plan) = pending.pop() {
        pending.extend(plan.children());
        let scan = plan.downcast_ref::<DataSourceExec>();
        let Some(scan) = scan.and_then(|s| s.data_source().downcast_ref::<FileScanConfig>()) else {
            continue;
        };
        for file in scan.file_groups.iter().flat_map(|group| group.iter()) {
            let name = format!("{}{}", scan.object_store_url, file.object_meta.location);
            // A large file is read in several parts.
            if !files.contains(&name) {
                files.push(name);
            }
        }
    }
    files
}

/// The error with the files that it can be about, if it is about what stands in a file.
pub(super) fn named(error: DataFusionError, files: &[String]) -> DataFusionError {
    let DataFusionError::ArrowError(inner, _) = error.find_root() else {
        return error;
    };
    let of = match files {
        [] => return error,
        [file] => file.clone(),
        files => {
            let some = &files[..files.len().min(NAMED_MAX)];
            let more = if files.len() > NAMED_MAX { ", .." } else { "" };
            format!("one of {} files ({}{more})", files.len(), some.join(", "))
        }
    };
    let inner = match inner.as_ref() {
        ArrowError::CsvError(why) => ArrowError::CsvError(format!("{of}: {why}")),
        ArrowError::JsonError(why) => ArrowError::JsonError(format!("{of}: {why}")),
        // Casts of values fail with this one too, which know no line.
        ArrowError::ParseError(why) if why.contains(" at line ") => {
            ArrowError::ParseError(format!("{of}: {why}"))
        }
        _ => return error,
    };
    DataFusionError::ArrowError(Box::new(inner), None)
}
