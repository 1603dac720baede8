//! Names of models, and the folders behind them.
//!
//! Takes the folder of models and what a user said, gives the model's folder; lists what is there. A model is kept as
//! `OWNER/NAME` as the hub names it, or as `NAME`; either name finds it where it is the only one. A folder counts as a
//! model when it has a `config.json`, which is what is written last.

use super::ModelsError;
use crate::backend::endpoint::is_address;
use crate::model::Config;
use crate::model::layout::{self, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The name of the embedded model.
pub const NANO: &str = "nano";
/// What a pull leaves beside the weights.
pub(super) const RECORD: &str = "safeguard.json";

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A part of this program.
    Embedded,
    /// A folder in the released layout.
    Folder(PathBuf),
}

/// A model that can be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// `OWNER/NAME`, `NAME` or `nano`.
    pub name: String,
    /// Numbers in its weights; `None` where its `config.json` cannot be read as a gpt-oss model's.
    pub parameters: Option<u64>,
    /// Bytes on disk, or in this program.
    pub bytes: u64,
    /// BLAKE3 (hex) of config and weights, as it was when the model was pulled; `None` for other folders.
    pub digest: Option<String>,
    /// Where it is.
    pub place: Place,
}

/// What was pulled from where, beside the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub repository: String,
    pub commit: String,
    /// File names with the hub's digests.
    pub files: BTreeMap<String, String>,
    /// BLAKE3 (hex) of config and weights.
    pub digest: String,
}

impl Record {
    /// A folder's record, where it has a readable one.
    pub fn of(dir: &Path) -> Option<Record> {
        serde_json::from_slice(&std::fs::read(dir.join(RECORD)).ok()?).ok()
    }
}

/// The model that a user named: `nano`, a folder, or a name in `models`. A folder goes first: `./NAME` and `NAME` are
/// the same where it exists.
pub fn resolve(said: &str, models: &Path) -> Result<Place, ModelsError> {
    if is_address(said) {
        return Err(ModelsError::Elsewhere(said.to_owned()));
    }
    if said == NANO {
        return Ok(Place::Embedded);
    }
    if Path::new(said).is_dir() {
        return Ok(Place::Folder(PathBuf::from(said)));
    }
    let names = names(models)?;
    let short = |name: &str| name.rsplit('/').next() == Some(said);
    let exact: Vec<&String> = names.keys().filter(|name| **name == said).collect();
    let found = match exact.is_empty() {
        false => exact,
        true => names.keys().filter(|name| short(name)).collect(),
    };
    match found.as_slice() {
        [name] => Ok(Place::Folder(names[*name].clone())),
        [] => Err(ModelsError::Unknown {
            said: said.to_owned(),
            models: models.to_owned(),
            names: names.into_keys().collect(),
        }),
        several => Err(ModelsError::Ambiguous {
            said: said.to_owned(),
            names: several.iter().map(|name| (*name).clone()).collect(),
        }),
    }
}

/// All models that have names, the embedded one first. A missing folder of models has none.
pub fn list(models: &Path) -> Result<Vec<Installed>, ModelsError> {
    let mut all = vec![embedded()];
    for (name, dir) in names(models)? {
        let config = Config::open(&dir).ok();
        all.push(Installed {
            name,
            parameters: config.as_ref().map(parameters),
            bytes: size(&dir)?,
            digest: Record::of(&dir).map(|record| record.digest),
            place: Place::Folder(dir),
        });
    }
    Ok(all)
}

fn embedded() -> Installed {
    let nano = crate::backend::nano_files();
    let config = Config::parse(nano.config).ok();
    let mut hasher = blake3::Hasher::new();
    hasher.update(nano.config).update(nano.weights);
    Installed {
        name: NANO.to_owned(),
        parameters: config.as_ref().map(parameters),
        bytes: (nano.config.len() + nano.weights.len() + nano.tokenizer.len()) as u64,
        digest: Some(hasher.finalize().to_hex().to_string()),
        place: Place::Embedded,
    }
}

fn parameters(config: &Config) -> u64 {
    let tensors = layout::tensors(config);
    tensors.iter().map(Tensor::parameters).sum()
}

/// Names and folders of models. What begins with a dot is none: a pull works there.
fn names(models: &Path) -> Result<BTreeMap<String, PathBuf>, ModelsError> {
    let mut found = BTreeMap::new();
    for (owner, dir) in folders(models)? {
        if dir.join("config.json").is_file() {
            found.insert(owner, dir);
            continue;
        }
        for (name, dir) in folders(&dir)? {
            if dir.join("config.json").is_file() {
                found.insert(format!("{owner}/{name}"), dir);
            }
        }
    }
    Ok(found)
}

fn folders(dir: &Path) -> Result<Vec<(String, PathBuf)>, ModelsError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ModelsError::io("read", dir)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(ModelsError::io("read", dir))?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if let Some(name) = name.filter(|name| !name.starts_with('.'))
            && path.is_dir()
        {
            found.push((name, path));
        }
    }
    Ok(found)
}

/// Bytes of a folder's own files.
fn size(dir: &Path) -> Result<u64, ModelsError> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(ModelsError::io("read", dir))? {
        let path = entry.map_err(ModelsError::io("read", dir))?.path();
        // Links count as what they lead to.
        bytes += path
            .metadata()
            .map_or(0, |found| if found.is_file() { found.len() } else { 0 });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_folders_where_they_are_the_only_ones() {
        let models = tempfile::tempdir().expect("a folder");
        let make = |name: &str, config: bool| {
            let dir = models.path().join(name);
            std::fs::create_dir_all(&dir).expect("made");
            if config {
                std::fs::write(dir.join("config.json"), "{}").expect("written");
            }
            dir.display().to_string()
        };
        let one = make("openai/one", true);
        let twice = make("openai/twice", true);
        make("me/twice", true);
        let mine = make("mine", true);
        make("openai/cut", false);
        make(".partial/openai/two", true);
        let beside = models.path().join("mine");
        let beside = beside.to_str().expect("a name");
        let cases = [
            ("openai/one", Ok(&one)),
            ("one", Ok(&one)),
            ("openai/twice", Ok(&twice)),
            (
                "twice",
                Err("model \"twice\" could be me/twice or openai/twice"),
            ),
            ("mine", Ok(&mine)),
            (beside, Ok(&mine)),
            (
                "cut",
                Err(
                    "no model \"cut\": it is neither a folder nor one of nano, me/twice, mine, openai/one, openai/twice in ",
                ),
            ),
            ("openai", Err("no model \"openai\"")),
        ];
        for (said, expected) in cases {
            match (resolve(said, models.path()), expected) {
                (Ok(Place::Folder(dir)), Ok(path)) => assert_eq!(dir.display().to_string(), *path),
                (Err(error), Err(why)) => {
                    assert!(error.to_string().starts_with(why), "{error}");
                }
                (found, _) => panic!("{said}: {found:?}"),
            }
        }
        assert_eq!(
            resolve("nano", models.path()).expect("nano"),
            Place::Embedded
        );
        let names: Vec<String> = list(models.path())
            .expect("a list")
            .into_iter()
            .map(|model| model.name)
            .collect();
        assert_eq!(
            names,
            ["nano", "me/twice", "mine", "openai/one", "openai/twice"]
        );
    }

    #[test]
    fn a_missing_folder_has_the_embedded_model_alone() {
        let models = list(Path::new("/nowhere/at/all")).expect("a list");
        assert_eq!(models.len(), 1);
        assert_eq!(
            (&*models[0].name, &models[0].place),
            (NANO, &Place::Embedded)
        );
        assert!(
            models[0]
                .parameters
                .is_some_and(|n| (4_000_000..6_000_000).contains(&n))
        );
        let refused = resolve("x/y", Path::new("/nowhere"))
            .expect_err("refused")
            .to_string();
        assert!(
            refused.ends_with("safeguard model pull x/y would fetch it"),
            "{refused}"
        );
    }
}
