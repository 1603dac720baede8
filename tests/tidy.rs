//! The rules of the house, held by a test: what the crate docs promise about floors, files and absences.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A module imports only modules of lower floors.
const FLOORS: [(&str, u32); 19] = [
    ("config", 1),
    ("postgres", 1),
    ("report", 1),
    ("waits", 1),
    ("policy", 2),
    ("model", 2),
    ("screen", 2),
    ("store", 2),
    ("backend", 3),
    ("classify", 4),
    ("models", 4),
    ("content", 4),
    ("error", 5),
    ("engine", 6),
    ("change", 7),
    ("jobs", 8),
    ("server", 9),
    ("cli", 10),
    ("main", 10),
];

/// Lines of one file of code; a soft ceiling with some air above it.
const FILE_LINES_MAX: usize = 560;

/// Everything at the top of the repository.
const TOP: [&str; 15] = [
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "examples",
    "policies",
    "sql",
    "src",
    "tests",
    "udfs",
    "target",
    "safeguard-data",
];

/// Words and the only places under `src` that may hold them.
const ONLY_IN: [(&str, &[&str]); 9] = [
    (
        "<|start|>",
        &[
            "backend/harmony.rs",
            "backend/harmony/",
            "model/tokenizer.rs",
            // Which control tokens a tokenizer must have, and a text that spells them.
            "models/verify.rs",
        ],
    ),
    ("rusqlite::", &["store/"]),
    ("pgwire::", &["server/"]),
    ("ureq::", &["models/", "backend/endpoint/"]),
    ("candle_core::", &["model/", "backend/"]),
    (
        "tokio::",
        &[
            "postgres/",
            "store/",
            "backend/",
            "classify/",
            "content/",
            "engine",
            "change/",
            "jobs/",
            "cli/",
            "server/",
            "main.rs",
        ],
    ),
    ("env::var", &["config.rs"]),
    (
        "SessionStateBuilder",
        &["engine.rs", "engine/distributed", "store/"],
    ),
    ("tonic::", &["engine/distributed/"]),
];

struct File {
    /// Below its root, with `/`.
    name: String,
    text: String,
}

impl File {
    /// The part before the unit tests.
    fn product(&self) -> &str {
        let tests = self.name.ends_with("tests.rs").then_some(0);
        let end = tests
            .or_else(|| self.text.find("#[cfg(test)]\nmod"))
            .or_else(|| self.text.find("#[cfg(test)]\n#["));
        &self.text[..end.unwrap_or(self.text.len())]
    }

    fn module(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(below: &str) -> Vec<File> {
    let base = root().join(below);
    let mut pending: Vec<PathBuf> = vec![base.clone()];
    let mut files = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path
                    .strip_prefix(&base)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .replace('\\', "/");
                files.push(File {
                    name,
                    text: std::fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    files
}

fn hold(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn modules_import_only_lower_floors() {
    let floor = |module: &str| {
        FLOORS
            .iter()
            .find(|(name, _)| *name == module)
            .map(|(_, floor)| *floor)
    };
    let mut broken = Vec::new();
    for file in files("src").iter().filter(|f| f.name != "lib.rs") {
        let Some(own) = floor(file.module()) else {
            broken.push(format!("{}: its module has no floor", file.name));
            continue;
        };
        for (at, line) in file
            .product()
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim_start().starts_with("//"))
        {
            for used in line.split("crate::").skip(1).filter_map(|rest| {
                rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
            }) {
                if floor(used)
                    .is_some_and(|other| other > own || (other == own && used != file.module()))
                {
                    broken.push(format!(
                        "src/{}:{}: floor {own} imports {used}",
                        file.name,
                        at + 1
                    ));
                }
            }
        }
    }
    hold(broken);
}

#[test]
fn what_belongs_to_one_room_stays_there() {
    let mut broken = Vec::new();
    for file in files("src") {
        for (word, rooms) in ONLY_IN {
            if file.product().contains(word)
                && !rooms.iter().any(|room| file.name.starts_with(room))
            {
                broken.push(format!(
                    "src/{}: {word} belongs in {}",
                    file.name,
                    rooms.join(", ")
                ));
            }
        }
    }
    for file in files("udfs/src") {
        for word in ["rusqlite", "candle", "std::fs", "std::net", "pgwire"] {
            if file.product().contains(word) {
                broken.push(format!(
                    "udfs/src/{}: udfs knows nothing of {word}",
                    file.name
                ));
            }
        }
    }
    hold(broken);
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    let mut broken = Vec::new();
    for below in ["src", "udfs/src", "tests", "examples", "benches"] {
        if !root().join(below).is_dir()
            || std::fs::read_dir(root().join(below)).unwrap().count() == 0
        {
            continue;
        }
        for file in files(below) {
            let (name, lines) = (format!("{below}/{}", file.name), file.text.lines().count());
            let tests = file.name.ends_with("tests.rs");
            if !tests && !file.text.starts_with("//!") {
                broken.push(format!("{name}: begins with no module doc"));
            }
            if lines > FILE_LINES_MAX && !tests {
                broken.push(format!("{name}: {lines} lines, more than {FILE_LINES_MAX}"));
            }
            let stem = file.name.rsplit('/').next().unwrap_or_default();
            if [
                "utils.rs",
                "util.rs",
                "common.rs",
                "misc.rs",
                "helpers.rs",
                "types.rs",
            ]
            .contains(&stem)
            {
                broken.push(format!("{name}: a name that says nothing"));
            }
        }
    }
    hold(broken);
}

#[test]
fn nothing_unwraps_sleeps_or_is_left_open() {
    let mut broken = Vec::new();
    for below in ["src", "udfs/src"] {
        for file in files(below) {
            for (at, line) in file
                .product()
                .lines()
                .enumerate()
                .filter(|(_, l)| !l.trim_start().starts_with("//"))
            {
                for word in [".unwrap()", "todo!(", "unimplemented!(", "dbg!("] {
                    if line.contains(word) {
                        broken.push(format!("{below}/{}:{}: {word}", file.name, at + 1));
                    }
                }
            }
        }
    }
    for below in ["src", "udfs/src", "tests"] {
        for file in files(below).iter().filter(|f| f.name != "tidy.rs") {
            let tests = if below == "tests" {
                file.text.as_str()
            } else {
                &file.text[file.product().len()..]
            };
            for word in ["thread::sleep", "time::sleep", "#[ignore"] {
                if tests.contains(word) {
                    broken.push(format!("{below}/{}: {word}", file.name));
                }
            }
        }
    }
    hold(broken);
}

#[test]
fn the_top_holds_only_what_the_house_names() {
    let named: BTreeSet<&str> = TOP.into_iter().collect();
    let mut broken = Vec::new();
    for entry in std::fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !named.contains(name.as_str()) && !name.starts_with(".git") {
            broken.push(format!("{name} stands at the top"));
        }
    }
    hold(broken);
}

#[test]
fn every_policy_has_a_golden_set_of_its_labels() {
    for file in safeguard::policy::folder::shipped() {
        let name = &file.policy.name;
        let labels: BTreeSet<&str> = file.golden.iter().map(|row| row.label.as_ref()).collect();
        assert!(
            labels.len() > 1,
            "{name}: a golden set of one label shows nothing"
        );
    }
}

#[test]
fn the_readme_tells_of_every_function_and_setting() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut broken = Vec::new();
    for function in safeguard_udfs::functions() {
        if !readme.contains(&format!("`{}(", function.name())) {
            broken.push(format!("README.md: no {}", function.name()));
        }
    }
    use datafusion::config::ExtensionOptions;
    for setting in safeguard_udfs::SafeguardSettings::default().entries() {
        let short = setting.key.trim_start_matches("safeguard.").to_owned();
        if !readme.contains(&format!("`{short}`")) {
            broken.push(format!("README.md: no setting {}", setting.key));
        }
    }
    for command in [
        "cargo run --release -- sql -f examples/quickstart.sql",
        "cargo test --workspace",
    ] {
        let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
        for (place, text) in [("README.md", &readme), (".ci/run", &ci)] {
            if !text.contains(command) {
                broken.push(format!("{place}: no {command}"));
            }
        }
    }
    hold(broken);
}
