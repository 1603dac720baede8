//! What can go wrong with models on disk.
//!
//! Every message names the folder, the file or the number it is about.

use crate::backend::BackendError;
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
    /// A user named a model that is not there.
    #[error(
        "no model \"{said}\": it is neither a folder nor one of {} in {}{}",
        known(names), models.display(), pull_hint(said)
    )]
    Unknown {
        /// What was said.
        said: String,
        /// Where names are looked up.
        models: PathBuf,
        /// The names there.
        names: Vec<String>,
    },
    /// A short name that several models have.
    #[error("model \"{said}\" could be {}", names.join(" or "))]
    Ambiguous {
        /// What was said.
        said: String,
        /// Their full names.
        names: Vec<String>,
    },
    /// Not a name that a hub has.
    #[error("\"{0}\" is not OWNER/NAME, as a hub names a model")]
    Name(String),
    /// The hub has no such model, or does not show it.
    #[error(
        "{hub} shows no model {repository}: {}",
        if *known { "it is not there, or the token in HF_TOKEN may not read it" }
        else { "it is not there, or it is private and HF_TOKEN must hold a token that may read it" }
    )]
    NoRepository {
        /// Its address.
        hub: String,
        /// Which.
        repository: String,
        /// Whether a token was sent.
        known: bool,
    },
    /// The hub wants its terms accepted first.
    #[error(
        "{repository} is gated: accept its terms at {hub}/{repository}, then put your token into HF_TOKEN"
    )]
    Gated {
        /// The hub's address.
        hub: String,
        /// Which.
        repository: String,
    },
    /// The model is there and has no such branch, tag or commit.
    #[error("{repository} has no revision \"{revision}\"")]
    NoRevision {
        /// Which.
        repository: String,
        /// What was asked for.
        revision: String,
    },
    /// A repository of something else.
    #[error(
        "{0} has no config.json with model*.safetensors beside it: not a model in the released layout"
    )]
    NoModel(String),
    /// The hub cannot be understood or reached.
    #[error("{hub}: {why}")]
    Hub {
        /// Its address.
        hub: String,
        /// What is wrong.
        why: String,
    },
    /// A file ended early, again and again.
    #[error(
        "{hub} gave {} of {} of {file} and no more: {why}; pull again to go on",
        crate::models::bytes_shown(*have), crate::models::bytes_shown(*bytes)
    )]
    Cut {
        /// Its address.
        hub: String,
        /// Which file.
        file: String,
        /// Bytes kept.
        have: u64,
        /// Bytes it has.
        bytes: u64,
        /// What happened last.
        why: String,
    },
    /// A file is not what the hub says it is; it was not kept.
    #[error("{file} has digest {found}, the hub says {expected}; it was not kept, pull again")]
    Digest {
        /// Which file.
        file: String,
        /// From the hub.
        expected: String,
        /// Of the bytes.
        found: String,
    },
    /// Another process pulls the same model.
    #[error("another pull is at work in {}", .0.display())]
    Busy(PathBuf),
    /// A pull would replace a model that no pull has made.
    #[error("{} is a model that was not pulled; move it away first", .0.display())]
    Foreign(PathBuf),
    /// The model is not on this machine.
    #[error("{0} is a model on a server: it can be asked and verified from here, and no more")]
    Elsewhere(String),
    /// The model cannot be run.
    #[error(transparent)]
    Backend(#[from] BackendError),
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

fn known(names: &[String]) -> String {
    let all: Vec<&str> = ["nano"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    all.join(", ")
}

fn pull_hint(said: &str) -> String {
    match said.matches('/').count() {
        1 if !said.starts_with(['/', '.']) => {
            format!("; safeguard model pull {said} would fetch it")
        }
        _ => String::new(),
    }
}
