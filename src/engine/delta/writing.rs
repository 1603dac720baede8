//! What one statement writes into a Delta table: files that no log names yet, and the entry that names them all.
//!
//! Takes a store, gives one that remembers what is written through it. Until the entry is there nothing is visible, and what
//! was written is removed when the statement fails or is given up. On this machine's disk the files last before the entry
//! appears, and a hidden folder says which they are, so that the next statement removes what a killed process left. An
//! entry that is being written when the statement is given up is written to its end: then either all is there or nothing.

use super::log::{LOG, version_of};
use crate::engine::staging::{Place, Staging};
use bytes::Bytes;
use datafusion::object_store::local::LocalFileSystem;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// In a hidden folder: the version that the statement saw, then a line for each file that it writes.
pub(super) const FILES: &str = "files";

/// How far a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is visible.
    Writing,
    /// The entry is being written.
    Committing,
    /// All is visible.
    Committed,
    /// Whether the entry is there cannot be told: nothing is removed.
    Unsure,
    /// Given up: nothing is visible, and nothing more is written.
    Closed,
}

/// What is written somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A file of rows.
    Rows,
    /// The entry of this version.
    Entry(u64),
    /// Something else.
    Other,
}

/// A table's folder on this machine's disk.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) place: Place,
    /// Knows where locations are on the disk.
    files: LocalFileSystem,
}

impl Local {
    pub(super) fn new(place: Place) -> Local {
        let files = LocalFileSystem::new();
        Local { place, files }
    }
}

#[derive(Debug)]
struct State {
    phase: Phase,
    files: Vec<Path>,
    staging: Option<Staging>,
    /// Whether nobody waits for its end any more.
    abandoned: bool,
    /// What could not be made sure of after the entry was there.
    doubt: Option<String>,
    /// The first file of rows that could not be written.
    broken: Option<Error>,
}

/// One statement.
#[derive(Debug)]
pub(super) struct Writing {
    inner: Arc<dyn ObjectStore>,
    /// The table's folder in the store.
    folder: Path,
    local: Option<Local>,
    /// The last version whose entry the statement may write.
    newest: u64,
    state: Mutex<State>,
}

/// A statement under way. Dropped before the entry is there it is given up.
#[derive(Debug)]
pub(super) struct Begun(Arc<Writing>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Writing {
    pub(super) fn new(
        inner: Arc<dyn ObjectStore>,
        folder: Path,
        local: Option<Local>,
        newest: u64,
    ) -> Arc<Writing> {
        Arc::new(Writing {
            inner,
            folder,
            local,
            newest,
            state: Mutex::new(State {
                phase: Phase::Writing,
                files: Vec::new(),
                staging: None,
                abandoned: false,
                doubt: None,
                broken: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the hidden folder of a table on this machine's disk. Blocks.
    pub(super) fn begin(self: &Arc<Self>, id: &str, version: Option<u64>) -> io::Result<Begun> {
        let begun = Begun(Arc::clone(self));
        if let Some(local) = &self.local {
            let staging = Staging::begin(local.place.clone(), id)?;
            let seen = version.map_or_else(|| "-".to_owned(), |version| version.to_string());
            local.place.disk.append(&staging.dir().join(FILES), &seen)?;
            self.lock().staging = Some(staging);
        }
        Ok(begun)
    }

    /// Whether the entry is there.
    pub(super) fn is_committed(&self) -> bool {
        self.lock().phase == Phase::Committed
    }

    /// Whether it cannot be told that it is there.
    pub(super) fn is_unsure(&self) -> bool {
        self.lock().phase == Phase::Unsure
    }

    /// What could not be made sure of after the entry was there.
    pub(super) fn doubt(&self) -> Option<String> {
        self.lock().doubt.take()
    }

    /// Keeps why a file of rows could not be written; nothing is committed then. Delta's writer is told that it was: it
    /// would panic when it gives up a file whose end failed.
    pub(super) fn breaks(&self, error: Error) {
        self.lock().broken.get_or_insert(error);
    }

    /// Whether a file of rows could not be written.
    pub(super) fn is_broken(&self) -> bool {
        self.lock().broken.is_some()
    }

    /// Why a file of rows could not be written.
    pub(super) fn broken(&self) -> Option<Error> {
        self.lock().broken.take()
    }

    fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        if state.phase == Phase::Writing {
            self.close(&mut state);
        }
    }

    /// Removes what was written, of which nothing is visible.
    fn close(&self, state: &mut State) {
        state.phase = Phase::Closed;
        let files = std::mem::take(&mut state.files);
        let Some(local) = &self.local else {
            let store = Arc::clone(&self.inner);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    for file in files {
                        remove(&store, &file).await;
                    }
                });
            }
            return;
        };
        let stuck = files.iter().filter(|file| local.remove(file).is_err());
        match (stuck.count(), state.staging.take()) {
            // The next statement knows of them.
            (1.., Some(staging)) => staging.leave(),
            (_, staging) => drop(staging),
        }
    }

    /// The store that is written to.
    pub(super) fn inner(&self) -> &Arc<dyn ObjectStore> {
        &self.inner
    }

    /// Whether more may be written.
    pub(super) fn is_writing(&self) -> bool {
        self.lock().phase == Phase::Writing
    }

    /// What a location is to the statement.
    pub(super) fn part(&self, location: &Path, mode: &PutMode) -> Part {
        let Some(mut parts) = location.prefix_match(&self.folder) else {
            return Part::Other;
        };
        match parts.next() {
            Some(first) if first.as_ref() == LOG => {
                let version = parts.next().and_then(|name| version_of(name.as_ref()));
                match (version, mode) {
                    (Some(version), PutMode::Create) => Part::Entry(version),
                    _ => Part::Other,
                }
            }
            Some(_) => Part::Rows,
            None => Part::Other,
        }
    }

    /// A file of rows is about to be written.
    pub(super) fn opening(&self, file: &Path) -> Result<()> {
        let mut state = self.lock();
        if state.phase != Phase::Writing {
            return Err(given_up());
        }
        if let (Some(local), Some(staging)) = (&self.local, &state.staging) {
            let line = below(file, &self.folder);
            let named = local.place.disk.append(&staging.dir().join(FILES), &line);
            named.map_err(failed)?;
        }
        state.files.push(file.clone());
        Ok(())
    }

    /// A file of rows is written; where the statement was given up meanwhile it goes.
    pub(super) async fn opened(&self, file: &Path) -> Result<()> {
        if self.lock().phase != Phase::Closed {
            return Ok(());
        }
        match &self.local {
            // What cannot be removed is invisible.
            Some(local) => drop(local.remove(file)),
            None => remove(&self.inner, file).await,
        }
        Err(given_up())
    }

    /// Writes the entry of a version, which must not be there.
    pub(super) async fn commit(
        self: &Arc<Self>,
        version: u64,
        location: &Path,
        payload: PutPayload,
    ) -> Result<PutResult> {
        if version > self.newest {
            return Err(failed(io::Error::other(
                "the table was made by somebody else",
            )));
        }
        {
            let mut state = self.lock();
            if state.phase != Phase::Writing || state.broken.is_some() {
                return Err(given_up());
            }
            state.phase = Phase::Committing;
        }
        let (writing, location) = (Arc::clone(self), location.clone());
        // Of its own, because it is done to its end.
        let done = match self.local.clone() {
            Some(local) => {
                let work = move || writing.settle(writing.link(&local, &location, payload.into()));
                tokio::task::spawn_blocking(work).await
            }
            None => {
                let work = async move {
                    let done = writing.put(&location, payload).await;
                    writing.settle(done)
                };
                tokio::spawn(work).await
            }
        };
        let done = done.map_err(|source| Error::JoinError { source })?;
        done.map(|()| nothing())
    }

    /// Makes the files last, then makes the entry appear, whole.
    fn link(&self, local: &Local, location: &Path, entry: Bytes) -> Result<()> {
        let (files, draft) = {
            let state = self.lock();
            let staging = state.staging.as_ref().expect("bug: nothing was begun");
            (state.files.clone(), staging.dir().join("entry"))
        };
        let disk = &local.place.disk;
        let mut folders = BTreeSet::new();
        for file in &files {
            let path = local.files.path_to_filesystem(file)?;
            disk.sync(&path).map_err(failed)?;
            let within = path.ancestors().skip(1);
            let depth = file.parts().count() - self.folder.parts().count();
            folders.extend(within.take(depth).map(FilePath::to_path_buf));
        }
        for folder in folders.iter().rev() {
            disk.sync(folder).map_err(failed)?;
        }
        disk.write(&draft, &entry).map_err(failed)?;
        disk.sync(&draft).map_err(failed)?;
        let at = local.files.path_to_filesystem(location)?;
        let log = at.parent().unwrap_or(&at);
        let log = local.place.roots.resolve("write", log)?;
        let made = !log.exists();
        std::fs::create_dir_all(&log).map_err(failed)?;
        let at = log.join(at.file_name().unwrap_or_default());
        if let Err(error) = disk.link(&draft, &at) {
            return Err(match error.kind() {
                ErrorKind::AlreadyExists => Error::AlreadyExists {
                    path: location.to_string(),
                    source: Box::new(error),
                },
                _ => failed(error),
            });
        }
        let mut lasts = disk.sync(&log);
        if made && let Some(table) = log.parent() {
            lasts = lasts.and_then(|()| disk.sync(table));
        }
        if let Err(error) = lasts {
            // Others may have seen it: it is not taken back.
            self.lock().doubt = Some(format!(
                "the rows are there, but could not be made to last through a power cut: {error}"
            ));
        }
        Ok(())
    }

    /// Writes the entry into a store that is elsewhere; an answer that does not come is looked for.
    async fn put(&self, location: &Path, payload: PutPayload) -> Result<()> {
        let options = PutOptions::from(PutMode::Create);
        let put = self.inner.put_opts(location, payload.clone(), options);
        let Err(error) = put.await else {
            return Ok(());
        };
        let ours = Bytes::from(payload);
        let there = match self.inner.get(location).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match there {
            Ok(there) if there == ours => Ok(()),
            Ok(_) => Err(match error {
                exists @ Error::AlreadyExists { .. } => exists,
                other => Error::AlreadyExists {
                    path: location.to_string(),
                    source: Box::new(other),
                },
            }),
            Err(Error::NotFound { .. })
                if matches!(
                    error,
                    Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
                ) =>
            {
                Err(error)
            }
            Err(_)
                if matches!(
                    error,
                    Error::NotImplemented { .. } | Error::NotSupported { .. }
                ) =>
            {
                Err(error)
            }
            Err(_) => {
                self.lock().phase = Phase::Unsure;
                Err(error)
            }
        }
    }

    /// Takes in how writing the entry ended.
    fn settle(&self, done: Result<()>) -> Result<()> {
        let mut state = self.lock();
        match &done {
            Ok(()) => {
                state.phase = Phase::Committed;
                state.staging = None;
            }
            Err(_) if state.phase == Phase::Unsure => {}
            Err(_) => {
                state.phase = Phase::Writing;
                if state.abandoned {
                    self.close(&mut state);
                }
            }
        }
        done
    }
}

impl Local {
    /// Removes a file of rows, and what is left of one that was not finished.
    fn remove(&self, file: &Path) -> io::Result<()> {
        let path = self.files.path_to_filesystem(file);
        remove_file(&self.place, &path.map_err(io::Error::other)?)
    }
}

/// Removes a file and its unfinished parts, `file#1`, ..; one that is not there is no error.
pub(super) fn remove_file(place: &Place, path: &FilePath) -> io::Result<()> {
    let gone = |done: io::Result<()>| match done {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    };
    gone(place.disk.remove_file(path))?;
    for part in parts(path)? {
        gone(place.disk.remove_file(&part))?;
    }
    Ok(())
}

fn parts(path: &FilePath) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let begin = format!("{}#", name.to_string_lossy());
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&begin) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

async fn remove(store: &Arc<dyn ObjectStore>, file: &Path) {
    match store.delete(file).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => tracing::warn!("cannot remove {file}, which no log names: {error}"),
    }
}

/// A location below a folder, as text.
fn below(file: &Path, folder: &Path) -> String {
    let parts = file.prefix_match(folder).into_iter().flatten();
    let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
    parts.join("/")
}

/// The answer to a put of which nothing is to be known.
pub(super) fn nothing() -> PutResult {
    PutResult {
        e_tag: None,
        version: None,
    }
}

pub(super) fn given_up() -> Error {
    failed(io::Error::other("the statement was given up"))
}

fn failed(error: io::Error) -> Error {
    Error::Generic {
        store: "Delta",
        source: Box::new(error),
    }
}

#[cfg(test)]
#[path = "writing_tests.rs"]
mod tests;
