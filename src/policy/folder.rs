//! Policies on disk, `<folder>/<name>/policy.md` with `golden.csv` beside it, and the shipped ones in the binary.
//!
//! Takes a folder and gives every policy that can be used and every error that names its file, so that one bad file
//! hides no other policy. It does not lint and does not publish: that is for who knows the token count and the store.

use super::golden::{self, GoldenRow};
use super::{Policy, PolicyError};
use crate::config::{GOLDEN_BYTES_MAX, POLICY_BYTES_MAX};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// A policy with its golden set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// From `policy.md`.
    pub policy: Policy,
    /// From `golden.csv`; empty where there is none.
    pub golden: Vec<GoldenRow>,
}

/// What a folder holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folder {
    /// Usable policies, by name.
    pub loaded: Vec<PolicyFile>,
    /// One error for each file that is not usable, by path.
    pub failed: Vec<PolicyError>,
}

/// The shipped policies: name, policy.md, golden.csv.
macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$((
            $name,
            include_str!(concat!("../../policies/", $name, "/policy.md")),
            include_str!(concat!("../../policies/", $name, "/golden.csv")),
        )),*]
    };
}

const SHIPPED: &[(&str, &str, &str)] = shipped![
    "harassment",
    "hate",
    "illicit",
    "keywords",
    "self-harm",
    "sexual",
    "spam",
    "toxicity",
    "violence",
];

/// The policies inside the binary, by name.
pub fn shipped() -> Vec<PolicyFile> {
    SHIPPED
        .iter()
        .map(|(name, source, csv)| {
            let policy =
                Policy::parse_as(name, source).expect("bug: a shipped policy is not usable");
            let golden =
                golden::parse(csv, &policy).expect("bug: a shipped golden set is not usable");
            PolicyFile { policy, golden }
        })
        .collect()
}

/// The golden set that is shipped for policies of this name, if its labels are this policy's; `None` where none is shipped.
///
/// # Errors
/// [`PolicyError::Golden`] where a version of a shipped policy declares other labels.
pub fn shipped_golden(policy: &Policy) -> Result<Option<Vec<GoldenRow>>, PolicyError> {
    let shipped = SHIPPED.iter().find(|(name, ..)| **name == *policy.name);
    shipped
        .map(|(_, _, csv)| golden::parse(csv, policy))
        .transpose()
}

/// Reads every sub-folder of a policies folder, by name. Plain files and names that begin with a dot are passed over.
///
/// # Errors
/// [`PolicyError::File`] when the folder itself cannot be read; what is wrong inside it is in [`Folder::failed`].
pub fn load(folder: &Path) -> Result<Folder, PolicyError> {
    let failed = |error: std::io::Error| file_error(folder, error.to_string());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if entry.path().is_dir() && !name.to_string_lossy().starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    let mut found = Folder::default();
    for name in names {
        match load_one(&folder.join(&name), &name.to_string_lossy()) {
            Ok(file) => found.loaded.push(file),
            Err(error) => found.failed.push(error),
        }
    }
    Ok(found)
}

fn load_one(folder: &Path, name: &str) -> Result<PolicyFile, PolicyError> {
    let path = folder.join("policy.md");
    let source = read(&path, POLICY_BYTES_MAX)?
        .ok_or_else(|| file_error(&path, "there is no such file".to_owned()))?;
    let policy =
        Policy::parse_as(name, &source).map_err(|error| file_error(&path, error.to_string()))?;
    let path = folder.join("golden.csv");
    let golden = match read(&path, GOLDEN_BYTES_MAX)? {
        Some(csv) => {
            golden::parse(&csv, &policy).map_err(|error| file_error(&path, error.to_string()))?
        }
        None => Vec::new(),
    };
    Ok(PolicyFile { policy, golden })
}

/// A file's text; `None` when there is none.
fn read(path: &Path, limit: usize) -> Result<Option<String>, PolicyError> {
    let failed = |error: std::io::Error| file_error(path, error.to_string());
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > limit {
        return Err(file_error(path, format!("it has more than {limit} bytes")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(file_error(
            path,
            format!(
                "it is not UTF-8 (byte {})",
                error.utf8_error().valid_up_to()
            ),
        )),
    }
}

fn file_error(path: &Path, why: String) -> PolicyError {
    PolicyError::File {
        path: path.display().to_string(),
        why,
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
