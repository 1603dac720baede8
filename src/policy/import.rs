//! Policies of others, brought into the layout of a policies folder.
//!
//! Takes a file or a folder as it was published (OpenAI's example with its golden sheet, ROOST's packs with their
//! `datasets/`, a document with coded sections such as the Christchurch Call's), gives for each policy its `policy.md`
//! with front matter and its `golden.csv`, and says what was left out and why. The policy's text is not changed: only
//! labels are declared and where it came from is noted. Knows shapes, not authors; reads files and writes none.

mod sheet;

use super::folder::{file_error, read};
use super::{Policy, PolicyError, golden};
use crate::config::{GOLDEN_BYTES_MAX, IMPORT_DEPTH_MAX, IMPORT_POLICIES_MAX, POLICY_BYTES_MAX};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What whoever imports may say beside the path.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// What the one policy is to be called; else its file or folder says.
    pub name: Option<String>,
    /// Whether the levels that the text defines (SP0, SP2, ..) are to be its labels, and not whether it allows.
    pub levels: bool,
    /// Where it came from, as it is to be noted; else the path.
    pub provenance: Option<String>,
}

/// A policy as it is to lie in a policies folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The checked policy; its `source` is the file `policy.md`.
    pub policy: Policy,
    /// The file `golden.csv`; `None` where no sheet was found.
    pub golden: Option<String>,
    /// Its rows.
    pub golden_rows: usize,
    /// What whoever imports should know, in words.
    pub notes: Vec<String>,
}

/// Every policy at a path, by name.
///
/// # Errors
/// [`PolicyError::File`] for a path without a policy, a file that cannot be read or used, a name that two files share,
/// more policies or folders below folders than the limits.
pub fn import(path: &Path, wish: &Wish) -> Result<Vec<Imported>, PolicyError> {
    let mut files = Vec::new();
    match path.is_dir() {
        true => find(path, 0, &mut files)?,
        false => files.push(path.to_owned()),
    }
    let bad = |why: String| Err(file_error(path, why));
    if files.is_empty() {
        return bad(
            "there is no policy.md, policy.txt or other .md file with a policy in it".to_owned(),
        );
    }
    if files.len() > IMPORT_POLICIES_MAX {
        return bad(format!(
            "{} policies, the limit is {IMPORT_POLICIES_MAX}",
            files.len()
        ));
    }
    if wish.name.is_some() && files.len() > 1 {
        return bad(format!("{} policies cannot have one name", files.len()));
    }
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for file in &files {
        let imported = one(file, wish)?;
        if !names.insert(imported.policy.name.to_string()) {
            let why = format!("another file is called \"{}\" too", imported.policy.name);
            return Err(file_error(file, why));
        }
        found.push(imported);
    }
    found.sort_by(|a, b| a.policy.name.cmp(&b.policy.name));
    Ok(found)
}

/// Files that hold a policy: the one of a folder that says so, else every `.md` that is not about the folder.
fn find(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), PolicyError> {
    let failed = |error: std::io::Error| file_error(folder, error.to_string());
    if depth > IMPORT_DEPTH_MAX {
        let why = format!("folders are {depth} deep, the limit is {IMPORT_DEPTH_MAX}");
        return Err(file_error(folder, why));
    }
    let (mut folders, mut plain, mut said) = (BTreeSet::new(), BTreeSet::new(), None);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        // Links can lead anywhere, and in circles.
        let kind = entry.file_type().map_err(failed)?;
        if name.starts_with('.') || kind.is_symlink() {
            continue;
        }
        let about = [
            "readme",
            "license",
            "contributing",
            "usage",
            "source",
            "changelog",
        ];
        match name.as_str() {
            _ if kind.is_dir() => drop(folders.insert(entry.path())),
            "policy.md" | "policy.txt" => said = Some(entry.path()),
            _ if about.iter().any(|word| name.starts_with(word)) => {}
            _ if name.ends_with(".md") => drop(plain.insert(entry.path())),
            _ => {}
        }
    }
    match said {
        Some(file) => files.push(file),
        None => files.extend(plain),
    }
    for folder in folders {
        find(&folder, depth + 1, files)?;
    }
    Ok(())
}

fn one(file: &Path, wish: &Wish) -> Result<Imported, PolicyError> {
    let fault = |why: String| file_error(file, why);
    let source = read(file, POLICY_BYTES_MAX)?;
    let source = source.ok_or_else(|| fault("there is no such file".to_owned()))?;
    let called = match &wish.name {
        Some(name) => name.clone(),
        None => name_of(file),
    };
    let mut notes = Vec::new();
    let usable = |source: &str| Policy::parse_as(&called, source);
    let policy = match usable(&source) {
        // It says itself what it needs.
        Ok(policy) => policy,
        Err(error) if source.starts_with("---\n") && source.contains("\nlabels:") => {
            return Err(fault(error.to_string()));
        }
        Err(_) => {
            let front = front(file, &called, &source, wish).map_err(fault)?;
            usable(&front).map_err(|error| file_error(file, error.to_string()))?
        }
    };
    let sheet = sheet_of(file, &called);
    let (golden, golden_rows) = match &sheet {
        None => {
            notes.push("no golden sheet beside it".to_owned());
            (None, 0)
        }
        Some(sheet) => {
            let text = read(sheet, GOLDEN_BYTES_MAX)?;
            let text = text.ok_or_else(|| file_error(sheet, "it is gone".to_owned()))?;
            let read = sheet::read(&text, &policy);
            notes.extend(read.notes);
            let csv = sheet::written(&read.rows);
            // As whoever loads the folder will read it.
            golden::parse(&csv, &policy).map_err(|e| file_error(sheet, e.to_string()))?;
            let rows = read.rows.len();
            ((rows > 0).then_some(csv), rows)
        }
    };
    Ok(Imported {
        policy,
        golden,
        golden_rows,
        notes,
    })
}

/// The file with front matter before it.
fn front(file: &Path, name: &str, source: &str, wish: &Wish) -> Result<String, String> {
    let (labels, allowed) = labels(source, wish.levels)?;
    let quoted = |text: &str| serde_json::to_string(text).expect("bug: a text is not JSON");
    let titled = source
        .lines()
        .map(|line| line.trim_start_matches(['#', '\u{feff}']).trim());
    let title = titled
        .into_iter()
        .find(|line| !line.is_empty() && *line != "---");
    let title: String = title.unwrap_or(name).chars().take(100).collect();
    let declared = labels.iter().map(|label| match *label == allowed {
        true => format!("{{name: {}, allowed: true}}", quoted(label)),
        false => quoted(label),
    });
    let declared: Vec<String> = declared.collect();
    let from = match &wish.provenance {
        Some(said) => said.clone(),
        None => file.display().to_string(),
    };
    let digest = blake3::hash(source.as_bytes()).to_hex();
    let provenance = quoted(&format!("{from} (BLAKE3 {digest})"));
    Ok(format!(
        "---\nname: {name}\ntitle: {}\nlabels: [{}]\nprovenance: {provenance}\n---\n{}",
        quoted(&title),
        declared.join(", "),
        source.trim_start_matches('\u{feff}')
    ))
}

/// The labels that a text is to have, and which of them is the allowed one.
fn labels(source: &str, levels: bool) -> Result<(Vec<String>, String), String> {
    let pair = |allowed: &str, other: &str| {
        (
            vec![allowed.to_owned(), other.to_owned()],
            allowed.to_owned(),
        )
    };
    if levels {
        let levels = levels_of(source);
        let allowed = levels.iter().find(|level| level.ends_with('0')).cloned();
        return match allowed {
            Some(allowed) if levels.len() > 1 => Ok((levels, allowed)),
            _ => Err(
                "it defines no levels such as SP0, SP1, SP2, one of them ending with 0".to_owned(),
            ),
        };
    }
    let says = |wanted: &str| words(source).any(|word| word == wanted);
    Ok(match says("VALID") && says("INVALID") {
        true => pair("VALID", "INVALID"),
        false => pair("allowed", "violates"),
    })
}

/// Levels of the prefix that a text uses most: SP0, SP2, SP3, SP4; in order.
fn levels_of(source: &str) -> Vec<String> {
    let levels: Vec<(&str, char)> = words(source).filter_map(level).collect();
    let uses = |prefix: &str| levels.iter().filter(|(other, _)| *other == prefix).count();
    let prefix = levels
        .iter()
        .map(|(prefix, _)| *prefix)
        .max_by_key(|prefix| (uses(prefix), *prefix));
    let own = levels.iter().filter(|(other, _)| Some(*other) == prefix);
    let own: BTreeSet<String> = own
        .map(|(prefix, digit)| format!("{prefix}{digit}"))
        .collect();
    own.into_iter().collect()
}

/// Words of letters and digits, without the punctuation around them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
}

/// `SP2` as its prefix and its digit; `None` for any other word.
fn level(word: &str) -> Option<(&str, char)> {
    let digit = word.chars().next_back().filter(char::is_ascii_digit)?;
    let prefix = &word[..word.len() - 1];
    let shaped = (2..=6).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_uppercase());
    shaped.then_some((prefix, digit))
}

/// What a file's policy is called: the file, or its folder where the file is only called policy.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let folder = file.canonicalize().ok().and_then(|path| {
        let folder = path.parent()?.file_name()?;
        Some(folder.to_string_lossy().into_owned())
    });
    let called = match (stem.eq_ignore_ascii_case("policy"), folder) {
        (true, Some(folder)) => folder,
        _ => stem.into_owned(),
    };
    let mut name = String::new();
    for c in called.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => name.push(c),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    name.trim_matches('-').to_owned()
}

/// The golden sheet of a policy: the only `.csv` beside a file that is called policy, `<name>.csv` beside any other, or in
/// a folder `datasets` up to two folders above.
fn sheet_of(file: &Path, name: &str) -> Option<PathBuf> {
    let folder = file.parent()?;
    let stem = file.file_stem()?.to_string_lossy();
    let is_sheet = |path: &PathBuf| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("csv"))
            && path.is_file()
    };
    if stem.eq_ignore_ascii_case("policy") {
        let beside = std::fs::read_dir(folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path());
        let mut beside: Vec<PathBuf> = beside.filter(is_sheet).collect();
        if beside.len() == 1 {
            return beside.pop();
        }
    }
    let up = [
        Some(folder),
        folder.parent(),
        folder.parent().and_then(Path::parent),
    ];
    let of = |folder: &Path| {
        let names = [name, &*stem];
        let plain = names.map(|name| folder.join(format!("{name}.csv")));
        let sets = names.map(|name| folder.join("datasets").join(format!("{name}.csv")));
        plain.into_iter().chain(sets).find(is_sheet)
    };
    up.into_iter().flatten().find_map(of)
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
