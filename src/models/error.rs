//! What can go wrong with models on disk.
//!
//! Every message names the folder, the file or the number it is about.

use crate::model::ModelError;
use std::path::{Path, PathBuf};

/// Why a model folder cannot be found, made or trusted.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// A file or folder cannot be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, ..
        what: &'static str,
        /// Of what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A model's folder is wrong.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model would be written where something is already.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The disk is too small.
    #[error(
        "{} needs {} on disk, {} are free",
        dir.display(), crate::models::bytes_shown(*needed), crate::models::bytes_shown(*free)
    )]
    Disk {
        /// Where.
        dir: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
}

impl ModelsError {
    /// For `map_err`: what was done to which path.
    pub(super) fn io(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> ModelsError {
        let path = path.to_owned();
        move |source| ModelsError::Io { what, path, source }
    }
}
