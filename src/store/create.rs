//! Making files: a new store appears whole or not at all, under no name that is taken.
//!
//! A store is built under another name and linked into place, so that `verdicts.db` is never half a store, and an empty or
//! short file of that name is damage rather than a beginning.

use super::error::StoreError;
use super::open;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Makes the directory where it is missing, for its owner alone.
pub(super) fn directory(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Builds a new store beside `path` and links it into place. Another process that was quicker is no error.
pub(super) fn file(path: &Path) -> Result<(), StoreError> {
    let unopenable = |e: io::Error| StoreError::Unopenable {
        path: path.to_path_buf(),
        why: e.to_string(),
    };
    let draft = draft_beside(path).map_err(unopenable)?;
    let made = open::build(&draft)
        .map_err(|e| StoreError::sqlite(path, e))
        .and_then(|()| match link(&draft, path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(unopenable(e)),
            _ => Ok(()),
        });
    for leftover in ["", "-wal", "-shm"] {
        let mut name = draft.clone().into_os_string();
        name.push(leftover);
        // Where the draft was renamed rather than linked there is nothing to remove; anything else only wastes space.
        let _ = fs::remove_file(name);
    }
    made?;
    sync_dir(path).map_err(unopenable)
}

/// An empty file of a name that no other process builds under.
fn draft_beside(path: &Path) -> io::Result<PathBuf> {
    loop {
        let draft = path.with_extension(format!("db.new-{}", unique()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&draft) {
            Ok(_) => return Ok(draft),
            // A killed process of the same number may have left one: take the next.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// Gives `draft` its name without ever replacing what has that name.
fn link(draft: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(draft, path) {
        // File systems without links: the check and the rename are two steps, for two processes that start within them.
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ) =>
        {
            if path.exists() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            fs::rename(draft, path)
        }
        done => done,
    }
}

#[cfg(unix)]
fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

#[cfg(not(unix))]
fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Differs between calls, threads and processes alive at once.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A directory that is removed with what is in it when dropped.
pub(super) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    pub(super) fn new() -> Result<Scratch, StoreError> {
        let base = std::env::temp_dir();
        loop {
            // A killed process of the same number may have left one: take the next.
            let dir = base.join(format!("safeguard-{}", unique()));
            let mut builder = DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            match builder.create(&dir) {
                Ok(()) => return Ok(Scratch { dir }),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => {
                    return Err(StoreError::Unopenable {
                        path: dir,
                        why: e.to_string(),
                    });
                }
            }
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            tracing::warn!("cannot remove {}: {e}", self.dir.display());
        }
    }
}
