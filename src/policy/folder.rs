//! Policies on disk, `<folder>/<name>/policy.md` or `<folder>/<name>.md`, with golden sets `<folder>/<name>/golden.csv`, and
//! the shipped ones in the binary, with their screens.
//!
//! Takes a folder and gives every policy that can be used and every error that names its file, so that one bad file
//! hides no other policy. It does not lint and does not publish: that is for who knows the token count and the store.

use super::golden::{self, GoldenRow};
use super::{INLINE, Policy, PolicyError};
use crate::config::{GOLDEN_BYTES_MAX, POLICY_BYTES_MAX};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

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

/// A screen that comes with the program: what `cargo bench --bench screens -- ship` made.
#[derive(Debug, Clone, Copy)]
pub struct ShippedScreen {
    /// The policy's name.
    pub policy: &'static str,
    /// `screen.bin`.
    pub weights: &'static [u8],
    /// `screen.toml`.
    pub certificate: &'static str,
}

/// The shipped screens: name, screen.bin, screen.toml.
macro_rules! screens {
    ($($name:literal),* $(,)?) => {
        &[$(ShippedScreen {
            policy: $name,
            weights: include_bytes!(concat!("../../policies/", $name, "/screen.bin")),
            certificate: include_str!(concat!("../../policies/", $name, "/screen.toml")),
        }),*]
    };
}

/// The screens inside the binary, by policy.
pub const SCREENS: &[ShippedScreen] = screens![
    "harassment",
    "hate",
    "illicit",
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

/// Reads every sub-folder of a policies folder and every file `<name>.md` in it, by name. Other files, `README.md` and
/// names that begin with a dot are passed over. A golden set that cannot be used keeps no policy back.
///
/// # Errors
/// [`PolicyError::File`] when the folder itself cannot be read; what is wrong inside it is in [`Folder::failed`].
pub fn load(folder: &Path) -> Result<Folder, PolicyError> {
    let failed = |error: std::io::Error| file_error(folder, error.to_string());
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if entry.path().is_dir() {
            names.insert(name);
        } else if let Some(stem) = name.strip_suffix(".md")
            && !stem.eq_ignore_ascii_case("readme")
        {
            names.insert(stem.to_owned());
        }
    }
    let mut found = Folder::default();
    for name in names {
        match load_policy(folder, &name) {
            Ok(policy) => {
                let golden = golden(folder, &policy).unwrap_or_else(|error| {
                    found.failed.push(error);
                    None
                });
                found.loaded.push(PolicyFile {
                    policy,
                    golden: golden.unwrap_or_default(),
                });
            }
            Err(error) => found.failed.push(error),
        }
    }
    Ok(found)
}

/// Where a policies folder has the policy of this name: `<name>/policy.md`, else `<name>.md`.
pub fn policy_file(folder: &Path, name: &str) -> PathBuf {
    let plain = folder.join(format!("{name}.md"));
    let within = folder.join(name).join("policy.md");
    match plain.is_file() && !within.exists() {
        true => plain,
        false => within,
    }
}

/// Where a policies folder has the golden set of the policy of this name.
pub fn golden_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(name).join("golden.csv")
}

/// The golden set that a policies folder has for policies of this name; `None` where there is none.
///
/// # Errors
/// [`PolicyError::File`] for a file that cannot be read, or whose labels are not this policy's.
pub fn golden(folder: &Path, policy: &Policy) -> Result<Option<Vec<GoldenRow>>, PolicyError> {
    golden_at(&golden_file(folder, &policy.name), policy)
}

/// The policy of one folder with its golden set: `policy.md` and `golden.csv`. It is called as its front matter says, or
/// as the folder.
///
/// # Errors
/// [`PolicyError::File`] for a file that cannot be read or used.
pub fn open(folder: &Path) -> Result<PolicyFile, PolicyError> {
    let path = folder.join("policy.md");
    let called = folder.canonicalize().ok();
    let called = called.as_deref().and_then(Path::file_name);
    let called = called.unwrap_or_default().to_string_lossy();
    let policy = load_file(&path, |source| named_or(&called, source))?;
    let golden = golden_at(&folder.join("golden.csv"), &policy)?;
    Ok(PolicyFile {
        policy,
        golden: golden.unwrap_or_default(),
    })
}

/// The policy in a file of a policies folder, with the golden set that the folder has for it. It is called as its front
/// matter says, or as the file.
///
/// # Errors
/// [`PolicyError::File`] for a file that cannot be read or used.
pub fn one(folder: &Path, file: &Path) -> Result<PolicyFile, PolicyError> {
    let called = file.file_stem().unwrap_or_default().to_string_lossy();
    let policy = load_file(file, |source| named_or(&called, source))?;
    let golden = golden(folder, &policy)?;
    Ok(PolicyFile {
        policy,
        golden: golden.unwrap_or_default(),
    })
}

fn named_or(called: &str, source: &str) -> Result<Policy, PolicyError> {
    match Policy::parse(source) {
        Ok(policy) if &*policy.name != INLINE => Ok(policy),
        _ => Policy::parse_as(called, source),
    }
}

fn load_policy(folder: &Path, name: &str) -> Result<Policy, PolicyError> {
    let path = policy_file(folder, name);
    let plain = folder.join(format!("{name}.md"));
    if path != plain && plain.is_file() {
        let why = format!("{} has the same name", path.display());
        return Err(file_error(&plain, why));
    }
    load_file(&path, |source| Policy::parse_as(name, source))
}

fn load_file(
    path: &Path,
    parse: impl Fn(&str) -> Result<Policy, PolicyError>,
) -> Result<Policy, PolicyError> {
    let source = read(path, POLICY_BYTES_MAX)?
        .ok_or_else(|| file_error(path, "there is no such file".to_owned()))?;
    parse(&source).map_err(|error| file_error(path, error.to_string()))
}

fn golden_at(path: &Path, policy: &Policy) -> Result<Option<Vec<GoldenRow>>, PolicyError> {
    let csv = read(path, GOLDEN_BYTES_MAX)?;
    let rows = csv.map(|csv| golden::parse(&csv, policy));
    rows.transpose()
        .map_err(|error| file_error(path, error.to_string()))
}

/// A file's text; `None` when there is none.
pub(super) fn read(path: &Path, limit: usize) -> Result<Option<String>, PolicyError> {
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

pub(super) fn file_error(path: &Path, why: String) -> PolicyError {
    PolicyError::File {
        path: path.display().to_string(),
        why,
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
