//! `safeguard policy import, publish, list, show, diff`: policies as they are kept. None of them opens a model.
//!
//! Takes a checked command, works on the store beside whatever server uses it. Knows the registry and how results are
//! written; what a version is, others know.

use super::args::{DataDir, Format, Policy as Command};
use super::output::Output;
use super::shell::report;
use super::{cannot_write, failed, lint_files, policy_source, policy_test, say};
use crate::config::local_user;
use crate::engine::policies;
use crate::error::Error;
use crate::model::tokenizer::Tokenizer;
use crate::policy::import::{self, Wish};
use crate::policy::lint::lint;
use crate::policy::{Policy, PolicyError, Registry, Version, changed_rules};
use crate::store::Store;
use datafusion::arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::error::ArrowError;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Digits of a digest that are shown; enough to name the version by.
const DIGEST_SHOWN: usize = 12;

/// Does what was typed.
pub(super) async fn run(command: Command) -> ExitCode {
    let done = match command {
        Command::Lint { files } => return lint_files(&files),
        Command::Test(args) => return policy_test::run(args).await,
        Command::Publish {
            name,
            file,
            note,
            data,
        } => publish(&data, &name, &file, &note).await,
        Command::Import {
            path,
            into,
            name,
            levels,
            provenance,
            replace,
        } => {
            let wish = Wish {
                name,
                levels,
                provenance,
            };
            import_into(&path, &wish, &into, replace)
        }
        Command::List { all, format, data } => list(&data, all, format).await,
        Command::Show { policy, data } => show(&data, &policy).await,
        Command::Diff { old, new, data } => diff(&data, &old, &new).await,
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

async fn publish(data: &DataDir, name: &str, file: &Path, note: &str) -> Result<ExitCode, Error> {
    let source = match policy_source(file) {
        Ok(source) => source,
        Err(message) => return Ok(failed(&message)),
    };
    let policy = Policy::parse_as(name, &source)?;
    let store = data.open()?;
    let registry = policies::registry(&store).await?;
    let published = policies::publish(&registry, &store, policy, (note, &local_user())).await?;
    let reference = published.version.reference();
    match published.new {
        true => say(&format!(
            "a running server takes it on SIGHUP, and at once where somebody asks for {reference}"
        )),
        false => say("the text is that of the current version: nothing was published"),
    }
    Ok(written(|out| writeln!(out, "{reference}")))
}

/// Nothing is written unless all can be.
fn import_into(path: &Path, wish: &Wish, into: &Path, replace: bool) -> Result<ExitCode, Error> {
    let found = import::import(path, wish)?;
    let mut files = Vec::new();
    for one in &found {
        let folder = into.join(&*one.policy.name);
        files.push((folder.join("policy.md"), one.policy.source.as_str()));
        if let Some(golden) = &one.golden {
            files.push((folder.join("golden.csv"), golden));
        }
    }
    if let Some((there, _)) = files.iter().find(|(path, _)| path.exists())
        && !replace
    {
        let there = there.display();
        return Ok(failed(&format!(
            "{there} is there already; --replace writes over it"
        )));
    }
    for (path, text) in files {
        let folder = path.parent().expect("bug: a file of a folder");
        let done = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
        if let Err(error) = done {
            return Ok(failed(&format!("cannot write {}: {error}", path.display())));
        }
    }
    let tokenizer = Tokenizer::o200k_harmony();
    for one in &found {
        let name = &one.policy.name;
        for note in &one.notes {
            say(&format!("{name}: {note}"));
        }
        for finding in lint(&one.policy.source, |text| {
            tokenizer.encode_ordinary(text).len()
        }) {
            say(&format!("{name}: {finding}"));
        }
    }
    Ok(written(|out| {
        for one in &found {
            let policy = &one.policy;
            let labels = policy.labels.join(", ");
            writeln!(
                out,
                "{}: labels {labels}; {} rules, {} golden rows",
                policy.name,
                policy.rules.len(),
                one.golden_rows
            )?;
        }
        Ok(())
    }))
}

async fn list(data: &DataDir, all: bool, format: Format) -> Result<ExitCode, Error> {
    let registry = known(data).await?;
    let versions = match all {
        true => registry.versions(),
        false => registry.current(),
    };
    let batch = table(&versions).expect("bug: columns of one length and their own types");
    let shown = |out: &mut dyn Write| {
        let mut output = Output::begin((format, false), &batch.schema(), "SELECT", out)?;
        output.batch(&batch, out)?;
        output.end(out)
    };
    Ok(written(|out| {
        shown(out).map_err(|error| match error {
            ArrowError::IoError(_, error) => error,
            other => io::Error::other(other),
        })
    }))
}

fn table(versions: &[Arc<Version>]) -> Result<RecordBatch, ArrowError> {
    let text = |value: &dyn Fn(&Version) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            versions.iter().map(|version| value(version)),
        ))
    };
    let numbers = versions.iter().map(|version| i64::from(version.number));
    let times = versions.iter().map(|version| version.published_at);
    RecordBatch::try_from_iter([
        ("name", text(&|v| v.name.to_string())),
        (
            "version",
            Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef,
        ),
        (
            "digest",
            text(&|v| v.digest.chars().take(DIGEST_SHOWN).collect()),
        ),
        ("labels", text(&|v| v.policy.labels.join(", "))),
        ("title", text(&|v| v.policy.title.clone())),
        ("published_by", text(&|v| v.published_by.clone())),
        (
            "published_at",
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00")),
        ),
        ("note", text(&|v| v.note.clone())),
    ])
}

async fn show(data: &DataDir, reference: &str) -> Result<ExitCode, Error> {
    let version = known(data).await?.resolve(reference)?;
    let source = &version.policy.source;
    Ok(written(|out| {
        out.write_all(source.as_bytes())?;
        match source.ends_with('\n') {
            true => Ok(()),
            false => writeln!(out),
        }
    }))
}

async fn diff(data: &DataDir, old: &str, new: &str) -> Result<ExitCode, Error> {
    let registry = known(data).await?;
    let (old_name, old) = side(&registry, old)?;
    let (new_name, new) = side(&registry, new)?;
    let lines = |policy: &Policy| match policy.source.ends_with('\n') {
        true => policy.source.clone(),
        false => format!("{}\n", policy.source),
    };
    let (before, after) = (lines(&old), lines(&new));
    let lines = similar::TextDiff::from_lines(before.as_str(), after.as_str());
    let unified = lines
        .unified_diff()
        .header(&old_name, &new_name)
        .to_string();
    let said = match old.digest() == new.digest() {
        true => "the same version: no verdict can change".to_owned(),
        false => changes(&old, &new),
    };
    Ok(written(|out| writeln!(out, "{unified}{said}")))
}

/// `rules: H1 reworded, H3 added; text beside the rules changed`
fn changes(old: &Policy, new: &Policy) -> String {
    let changed = changed_rules(old, new);
    let reworded = changed.reworded.iter().map(|(_, new)| (new, "reworded"));
    let added = changed.added.iter().map(|rule| (rule, "added"));
    let removed = changed.removed.iter().map(|rule| (rule, "removed"));
    let mut said: Vec<String> = reworded
        .chain(added)
        .chain(removed)
        .map(|(rule, what)| format!("{} {what}", rule.code))
        .collect();
    if said.is_empty() {
        said.push("none changed".to_owned());
    }
    let mut said = format!("rules: {}", said.join(", "));
    if old.labels != new.labels || old.allowed != new.allowed {
        said += "; the labels changed";
    } else if changed.rest {
        said += "; text beside the rules changed";
    }
    said
}

/// What is compared: a version, or a file, with what it is called.
fn side(registry: &Registry, said: &str) -> Result<(String, Policy), Error> {
    let named = |version: Arc<Version>| {
        let policy = Policy::clone(&version.policy);
        (version.reference().to_string(), policy)
    };
    let path = Path::new(said);
    if !is_path(said) {
        match registry.resolve(said) {
            Err(PolicyError::Unknown { .. }) if path.exists() => {}
            found => return Ok(named(found?)),
        }
    }
    let file = match path.is_dir() {
        true => path.join("policy.md"),
        false => path.to_owned(),
    };
    let source = policy_source(&file).map_err(|why| Error::Refused {
        sqlstate: "58030",
        why,
        hint: None,
    })?;
    let policy = Policy::parse(&source).map_err(|error| PolicyError::File {
        path: file.display().to_string(),
        why: error.to_string(),
    })?;
    Ok((file.display().to_string(), policy))
}

/// Whether it can be a file only: a policy's name has neither a separator nor a dot.
pub(super) fn is_path(said: &str) -> bool {
    said.contains(['/', '\\', '.']) || said == "-"
}

/// The policies of a store; those that come with the program where there is none yet.
async fn known(data: &DataDir) -> Result<Registry, Error> {
    let store = match data.is_there() {
        true => data.open()?,
        false => {
            let dir = data.dir.display();
            say(&format!(
                "there is no store in {dir}: these are the policies that come with the program"
            ));
            Store::ephemeral()?
        }
    };
    policies::registry(&store).await
}

/// Writes to stdout; the exit code says whether somebody read it.
pub(super) fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cannot_write(&error),
    }
}

/// Where a policy's file is that was named as a path.
pub(super) fn as_path(said: &str) -> Option<PathBuf> {
    let path = PathBuf::from(said);
    (is_path(said) || path.is_dir()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_said_in_a_line() {
        let policy = |labels: &str, text: &str| {
            Policy::parse(&format!("---\nlabels: [{labels}]\n---\n{text}")).unwrap()
        };
        let old = policy("allowed, bad", "Find it.\nH1: a\nH2: b");
        for (labels, text, wanted) in [
            (
                "allowed, bad",
                "Find it.\nH1: c\nH3: d",
                "rules: H1 reworded, H3 added, H2 removed",
            ),
            (
                "allowed, bad",
                "Find.\nH1: a\nH2: b",
                "rules: none changed; text beside the rules changed",
            ),
            (
                "bad, allowed",
                "Find it.\nH1: a\nH2: c",
                "rules: H2 reworded; the labels changed",
            ),
        ] {
            assert_eq!(changes(&old, &policy(labels, text)), wanted);
        }
    }

    #[test]
    fn a_path_is_told_from_a_name() {
        for (said, wanted) in [
            ("hate", false),
            ("hate@3", false),
            ("./hate", true),
            ("policies/hate", true),
            ("hate.md", true),
            ("-", true),
        ] {
            assert_eq!(is_path(said), wanted, "{said}");
        }
    }
}
