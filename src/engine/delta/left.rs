//! Files that killed statements left in a Delta table's folder on this machine's disk.
//!
//! Takes a table's folder, removes what a statement wrote whose process is gone and whose entry is not in the log. Where the
//! log does not say for sure, files stay: they are invisible. Knows no rows.

use super::log::{LOG, Log, version_of};
use super::writing::{FILES, remove_file};
use crate::engine::sink::{Shelf, blocking};
use crate::engine::staging::{self, Place};
use datafusion::common::Result;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

/// Clears away what killed statements left; where that may not be done it stays, invisible.
///
/// # Errors
/// The table is outside of the roots.
pub(super) async fn clear(shelf: &Shelf, log: &Log) -> Result<()> {
    let Some(place) = shelf.place(&log.url)? else {
        return Ok(());
    };
    blocking(move || {
        if let Err(error) = recover(&place) {
            let folder = place.folder.display();
            tracing::warn!("what killed statements left in {folder} stays there: {error}");
        }
        Ok(())
    })
    .await
}

/// The same of a table's folder.
///
/// # Errors
/// The folder cannot be read; files that cannot be removed are met again by the next statement.
pub(super) fn recover(place: &Place) -> io::Result<()> {
    for dir in staging::hidden(&place.folder)? {
        let files = dir.join(FILES);
        if !files.exists() {
            continue;
        }
        let Some(_lock) = staging::ownerless(&dir)? else {
            continue;
        };
        let (seen, files) = named(&fs::read_to_string(&files)?);
        if is_lost(place, seen, &files)? {
            for file in &files {
                let path = place.folder.join(file);
                if is_ours(place, &path) {
                    remove_file(place, &path)?;
                }
            }
        }
        place.disk.remove_all(&dir)?;
    }
    // What was not begun, or is of a table of another kind.
    staging::recover(place)
}

/// The version that a statement saw, and its files. A line that was not finished names no file that was begun.
fn named(text: &str) -> (Option<u64>, Vec<PathBuf>) {
    let mut lines = text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'));
    let seen = lines.next().and_then(|line| line.parse().ok());
    let inside = |path: &PathBuf| path.components().all(|c| matches!(c, Component::Normal(_)));
    (seen, lines.map(PathBuf::from).filter(inside).collect())
}

/// Whether no entry of the log can name these files.
fn is_lost(place: &Place, seen: Option<u64>, files: &[PathBuf]) -> io::Result<bool> {
    let log = place.folder.join(LOG);
    let mut entries = Vec::new();
    match fs::read_dir(&log) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        found => {
            for entry in found? {
                entries.extend(version_of(&entry?.file_name().to_string_lossy()));
            }
        }
    }
    entries.sort_unstable();
    let names: Vec<String> = files
        .iter()
        .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let first = seen.map_or(0, |seen| seen + 1);
    let since = entries.into_iter().filter(|version| *version >= first);
    for (next, version) in (first..).zip(since) {
        if version != next {
            // An entry is gone that may have named them.
            return Ok(false);
        }
        let entry = fs::read_to_string(log.join(format!("{version:020}.json")))?;
        if names.iter().any(|name| entry.contains(name.as_str())) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether this is a file within the table's folder, and no link out of it.
fn is_ours(place: &Place, path: &Path) -> bool {
    let unfinished = path.symlink_metadata().is_err()
        && path.parent().is_some_and(|parent| {
            let real = |path: &Path| path.canonicalize().ok();
            matches!((real(parent), real(&place.folder)), (Some(p), Some(f)) if p.starts_with(&f))
        });
    path.extension().is_some_and(|end| end == "parquet")
        && (unfinished || staging::is_below(path, &place.folder))
}
