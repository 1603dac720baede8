//! Files of one statement appear in a folder together or not at all.
//!
//! Takes a table's folder and files that were written into a hidden folder within it, moves them into place. A journal names
//! them before the first is moved: a crash before it leaves nothing, a crash after it is rolled forward by whoever comes
//! next. A lock that the system drops with its process says whether an owner is alive. Everything blocks. Knows no format.

use super::roots::{Roots, real};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Names of hidden folders begin so; no listing shows what is below them.
pub(super) const HIDDEN: &str = ".safeguard-";
/// Below a hidden folder: the statement's files, where they are to be in the table's folder.
const ROWS: &str = "rows";
/// Locked for as long as the statement's process works on the folder.
const OWNER: &str = "owner";
/// The journal: with it the statement is decided.
const JOURNAL: &str = "publish";
/// Tries to make a hidden folder while others clear away what looks left behind.
const TRIES_MAX: usize = 16;

/// What is done to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A file is written.
    Write,
    /// A file or a folder's entries are made to last.
    Sync,
    /// A file is moved.
    Rename,
    /// A file or folder is removed.
    Remove,
}

/// Asked before each step; its error is that step's.
pub(super) type Fault = Arc<dyn Fn(Step, &Path) -> io::Result<()> + Send + Sync>;

/// The disk; in tests one that fails.
#[derive(Clone, Default)]
pub(super) struct Disk(Option<Fault>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    #[cfg(test)]
    pub(super) fn failing(fault: Fault) -> Disk {
        Disk(Some(fault))
    }

    /// The error that a test wants of this step.
    pub(super) fn check(&self, step: Step, path: &Path) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |fault| fault(step, path))
    }

    pub(super) fn sync(&self, path: &Path) -> io::Result<()> {
        self.check(Step::Sync, path)?;
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Step::Rename, from)?;
        fs::rename(from, to)
    }

    /// A second name of a file; one that is there already is an error.
    pub(super) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Step::Rename, from)?;
        fs::hard_link(from, to)
    }

    /// Adds a line to a file that is made where it is missing.
    pub(super) fn append(&self, path: &Path, line: &str) -> io::Result<()> {
        self.check(Step::Write, path)?;
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).open(path)?;
        file.write_all(format!("{line}\n").as_bytes())
    }

    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.check(Step::Write, path)?;
        File::create(path)?.write_all(bytes)
    }

    pub(super) fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.check(Step::Remove, path)?;
        fs::remove_file(path)
    }

    /// A folder with all that is in it; one that is not there is no error.
    pub(super) fn remove_all(&self, path: &Path) -> io::Result<()> {
        self.check(Step::Remove, path)?;
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// A table's folder, and where its files may really be.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) roots: Roots,
    pub(super) disk: Disk,
}

/// What is moved, in order, relative to the table's folder.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    files: Vec<PathBuf>,
}

/// A statement's hidden folder. Dropped before it is published it is removed.
#[derive(Debug)]
pub(super) struct Staging {
    place: Place,
    dir: PathBuf,
    /// Holds the lock.
    _owner: File,
    decided: bool,
}

/// The hidden folder's rows, relative to the table's folder, with a slash at the end.
pub(super) fn rows_below(id: &str) -> String {
    format!("{HIDDEN}{id}/{ROWS}/")
}

impl Staging {
    /// Makes the hidden folder, and the table's where it is missing.
    pub(super) fn begin(place: Place, id: &str) -> io::Result<Staging> {
        let dir = place.folder.join(format!("{HIDDEN}{id}"));
        place.disk.check(Step::Write, &dir)?;
        if !place.folder.exists() {
            fs::create_dir_all(&place.folder)?;
            place
                .folder
                .parent()
                .map_or(Ok(()), |parent| place.disk.sync(parent))?;
        }
        for _ in 0..TRIES_MAX {
            if let Some(owner) = own(&dir)? {
                let staging = Staging {
                    place,
                    dir,
                    _owner: owner,
                    decided: false,
                };
                fs::create_dir(staging.dir.join(ROWS))?;
                return Ok(staging);
            }
        }
        let why = format!("cannot keep {} from being cleared away", dir.display());
        Err(io::Error::other(why))
    }

    /// The hidden folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets the hidden folder be, for the next statement on the table to clear away.
    pub(super) fn leave(mut self) {
        self.decided = true;
    }

    /// Makes all that was written visible, for good. On an error nothing is visible, or the error says that it will be.
    pub(super) fn publish(mut self) -> io::Result<()> {
        let rows = self.dir.join(ROWS);
        let mut files = Vec::new();
        walk(&rows, Path::new(""), &mut files)?;
        if files.is_empty() {
            return Ok(());
        }
        files.sort();
        let journal = Journal { files };
        let disk = self.place.disk.clone();
        for file in &journal.files {
            disk.sync(&rows.join(file))?;
        }
        for folder in folders(&journal.files) {
            disk.sync(&rows.join(folder))?;
        }
        let draft = self.dir.join("draft");
        disk.write(&draft, &serde_json::to_vec(&journal)?)?;
        disk.sync(&draft)?;
        disk.rename(&draft, &self.dir.join(JOURNAL))?;
        self.decided = true;
        let settled = disk.sync(&self.dir);
        let settled = settled.and_then(|()| disk.sync(&self.place.folder));
        let Err(error) = settled.and_then(|()| forward(&self.place, &self.dir, &journal)) else {
            clear(&self.place.disk, &self.dir);
            return Ok(());
        };
        match back(&self.place, &self.dir, &journal) {
            Ok(()) => {
                self.decided = false;
                Err(error)
            }
            Err(also) => Err(io::Error::other(format!(
                "{error}; taking back what was written failed too ({also}): the next statement on the table finishes it, and its rows appear then"
            ))),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.decided {
            // What stays is hidden, and cleared away by the next statement on the table.
            let _ = self.place.disk.remove_all(&self.dir);
        }
    }
}

/// The lock of a hidden folder that is made where it is missing; `None` where somebody clears it away meanwhile.
fn own(dir: &Path) -> io::Result<Option<File>> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let path = dir.join(OWNER);
    let mut options = OpenOptions::new();
    let owner = match options.write(true).create(true).truncate(false).open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match owner.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
        Ok(()) => Ok(is_at(&owner, &path)?.then_some(owner)),
    }
}

/// Whether the open file is still the one of that name.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.metadata()?;
    Ok(
        fs::metadata(path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino())),
    )
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> io::Result<bool> {
    path.try_exists()
}

/// The lock of a hidden folder whose process is gone, as [`abandoned`] says.
pub(super) fn ownerless(dir: &Path) -> io::Result<Option<File>> {
    abandoned(&dir.join(OWNER))
}

/// The lock of a folder whose process is gone: `None` where it lives, or has no lock file.
pub(super) fn abandoned(lock: &Path) -> io::Result<Option<File>> {
    let owner = match File::open(lock) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match owner.try_lock() {
        Ok(()) => Ok(Some(owner)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Hidden folders of this table's folder, of whichever statements.
pub(super) fn hidden(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        // No folder yet, or a file.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let named = entry.file_name().to_string_lossy().starts_with(HIDDEN);
        // Not a link: what is behind it is nobody's statement.
        if named && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Finishes what statements of processes that are gone had decided, and clears away what they had not.
///
/// # Errors
/// Decided files cannot be moved; what cannot be cleared away stays, hidden.
pub(super) fn recover(place: &Place) -> io::Result<()> {
    for dir in hidden(&place.folder)? {
        let lock = dir.join(OWNER);
        let held = match abandoned(&lock) {
            Ok(held) => held,
            // Not ours to read: of a statement that has not published.
            Err(_) if !dir.join(JOURNAL).exists() => continue,
            Err(e) => return Err(e),
        };
        if held.is_none() && (lock.exists() || fs::remove_dir(&dir).is_ok()) {
            continue;
        }
        if let Some(journal) = journal(&dir)? {
            forward(place, &dir, &journal)?;
        }
        clear(&place.disk, &dir);
    }
    Ok(())
}

fn journal(dir: &Path) -> io::Result<Option<Journal>> {
    let path = dir.join(JOURNAL);
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let unreadable = |why: &dyn fmt::Display| {
        let why = format!("cannot read the journal {}: {why}", path.display());
        io::Error::new(ErrorKind::InvalidData, why)
    };
    let journal: Journal = serde_json::from_slice(&bytes).map_err(|e| unreadable(&e))?;
    let inside = |file: &PathBuf| file.components().all(|c| matches!(c, Component::Normal(_)));
    match journal.files.iter().all(inside) {
        true => Ok(Some(journal)),
        false => Err(unreadable(&"it names a file outside of the table")),
    }
}

/// Moves what is not moved yet; when this returns it lasts.
fn forward(place: &Place, dir: &Path, journal: &Journal) -> io::Result<()> {
    let rows = dir.join(ROWS);
    for file in &journal.files {
        let (from, to) = (rows.join(file), place.folder.join(file));
        if from.symlink_metadata().is_err() {
            continue;
        }
        let parent = to.parent().unwrap_or(&to);
        let denied = |e| io::Error::new(ErrorKind::PermissionDenied, e);
        place.roots.resolve("write", parent).map_err(denied)?;
        if !is_below(&from, dir) {
            let why = format!("{} is elsewhere", from.display());
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
        fs::create_dir_all(parent)?;
        if to.symlink_metadata().is_ok() {
            let why = format!("{} is there already", to.display());
            return Err(io::Error::new(ErrorKind::AlreadyExists, why));
        }
        place.disk.rename(&from, &to)?;
    }
    for folder in folders(&journal.files) {
        let folder = place.folder.join(folder);
        if folder.exists() {
            place.disk.sync(&folder)?;
        }
    }
    Ok(())
}

/// Whether the file is where its name says, and no link.
pub(super) fn is_below(file: &Path, dir: &Path) -> bool {
    let plain = file.symlink_metadata().is_ok_and(|found| found.is_file());
    let (file, dir) = (file.parent().and_then(real), real(dir));
    plain && matches!((file, dir), (Some(file), Some(dir)) if file.starts_with(&dir))
}

/// Takes back what was moved, and then the decision.
fn back(place: &Place, dir: &Path, journal: &Journal) -> io::Result<()> {
    let rows = dir.join(ROWS);
    for file in journal.files.iter().rev() {
        let (from, to) = (rows.join(file), place.folder.join(file));
        if from.symlink_metadata().is_err() && to.symlink_metadata().is_ok() {
            place.disk.rename(&to, &from)?;
        }
    }
    for folder in folders(&journal.files) {
        let folder = place.folder.join(folder);
        if folder.exists() {
            place.disk.sync(&folder)?;
        }
    }
    place.disk.remove_file(&dir.join(JOURNAL))?;
    place.disk.sync(dir)
}

/// Removes a hidden folder of which nothing is to be moved any more; the journal first, since it would be rolled forward.
fn clear(disk: &Disk, dir: &Path) {
    let journal = dir.join(JOURNAL);
    let gone = !journal.exists() || disk.remove_file(&journal).is_ok();
    // What stays is hidden and says of nothing that it is to be moved.
    let _ = gone && disk.remove_all(dir).is_ok();
}

/// Every folder that holds one of the files or the way to it, the table's own (empty) included, deepest first.
fn folders(files: &[PathBuf]) -> Vec<&Path> {
    let all = files.iter().flat_map(|file| file.ancestors().skip(1));
    let all: BTreeSet<&Path> = all.collect();
    all.into_iter().rev().collect()
}

fn walk(rows: &Path, below: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(rows.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => walk(rows, &path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
