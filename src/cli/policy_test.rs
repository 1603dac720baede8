//! `safeguard policy test`: policies held to the thresholds of their front matter.
//!
//! Takes names, files and folders, judges golden sets through the engine, prints figures with what was missed. A
//! threshold is held against the figure itself; its interval stands beside it. Knows no statistics.

use super::args::{Format, Test};
use super::output::Output;
use super::policies::{as_path, written};
use super::say;
use super::shell::report;
use crate::change::evaluation::{Evaluated, Figure, Subject, Wish, evaluate};
use crate::classify::calibrate::Golden;
use crate::config::{Config, local_user};
use crate::engine::Engine;
use crate::error::Error;
use crate::jobs;
use crate::policy::{self, PolicyError, Threshold, folder};
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use safeguard_udfs::{SafeguardSettings, Statement};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Tests what was typed.
pub(super) async fn run(args: Test) -> ExitCode {
    match tested(args).await {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

async fn tested(args: Test) -> Result<ExitCode, Error> {
    let engine = jobs::open(Config {
        data_dir: Some(args.data.dir),
        store: args.data.shared.url,
        model: args.model,
        models_dir: args.models.get(),
        allow_swap: args.swap.allow_swap,
        content_roots: None,
        content_urls: None,
        policies: args.policies,
        workers: Vec::new(),
    })
    .await?;
    for line in engine.take_policies().await? {
        say(&line);
    }
    let mut subjects = Vec::new();
    for said in &args.subjects {
        subjects.extend(named(&engine, said).await?);
    }
    if let Some(line) = engine.demonstration() {
        say(&line);
    }
    let mut lines = Vec::new();
    for subject in subjects {
        lines.extend(test(&engine, subject).await?);
    }
    let missed = lines.iter().any(|line| !line.missed.is_empty());
    let shown = print(&lines);
    Ok(match shown == ExitCode::SUCCESS && missed {
        true => ExitCode::FAILURE,
        false => shown,
    })
}

/// What a word of the command line means: a published policy, a file, a folder, or a folder of folders.
async fn named(engine: &Engine, said: &str) -> Result<Vec<Subject>, Error> {
    let resolved = match as_path(said) {
        Some(path) if super::policies::is_path(said) => return drafts(&path),
        maybe => match (engine.policies().resolve(said), maybe) {
            (Err(PolicyError::Unknown { .. }), Some(path)) => return drafts(&path),
            (found, _) => found?,
        },
    };
    let golden = engine.golden_set(&resolved.policy)?;
    let mut subject = Subject::version(&resolved, golden);
    subject.take_spoken(engine.store().spoken(&resolved.name).await?);
    match subject.rows() {
        0 => Err(without_golden(
            &resolved.reference(),
            "golden.csv in its folder of --policies",
        )),
        _ => Ok(vec![subject]),
    }
}

fn drafts(path: &Path) -> Result<Vec<Subject>, Error> {
    let within = path.join("policy.md");
    let files = if path.is_file() {
        vec![(path.to_owned(), beside(path)?)]
    } else if within.exists() || !path.is_dir() {
        vec![(within, folder::open(path)?)]
    } else {
        let found = folder::load(path)?;
        if let Some(error) = found.failed.into_iter().next() {
            return Err(error.into());
        }
        let at = |name: &str| folder::policy_file(path, name);
        let files = found.loaded.into_iter();
        files.map(|file| (at(&file.policy.name), file)).collect()
    };
    if files.is_empty() {
        let why = "it has no policies: <name>/policy.md or <name>.md".to_owned();
        let path = path.display().to_string();
        return Err(PolicyError::File { path, why }.into());
    }
    files.into_iter().map(draft).collect()
}

/// A policy's file and the golden set of its folder.
fn beside(path: &Path) -> Result<folder::PolicyFile, Error> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    Ok(match path.file_name() == Some("policy.md".as_ref()) {
        true => folder::open(dir)?,
        false => folder::one(dir, path)?,
    })
}

fn draft((path, file): (PathBuf, folder::PolicyFile)) -> Result<Subject, Error> {
    let folder::PolicyFile { policy, golden } = file;
    if golden.is_empty() {
        let name = path.display().to_string();
        return Err(without_golden(
            &name,
            "golden.csv beside policy.md, or <name>/golden.csv beside <name>.md",
        ));
    }
    let golden = Golden {
        source: path.display().to_string().into(),
        rows: golden,
    };
    Ok(Subject::draft(policy, golden))
}

fn without_golden(policy: &str, place: &str) -> Error {
    Error::Refused {
        sqlstate: "22023",
        why: format!("{policy} has no golden rows"),
        hint: Some(format!("{place} has them: text,label")),
    }
}

/// One line of the table.
struct Line {
    policy: String,
    label: String,
    n: u64,
    undecided: u64,
    figures: [String; 3],
    missed: String,
}

async fn test(engine: &Engine, subject: Subject) -> Result<Vec<Line>, Error> {
    let policy = subject.said();
    let thresholds = subject.policy().thresholds.clone();
    if thresholds.is_empty() {
        say(&format!(
            "{policy} declares no thresholds: nothing is held against it"
        ));
    }
    let statement = Statement::new(SafeguardSettings::default());
    let wish = Wish {
        subjects: vec![subject],
        against: None,
        repeats: 0,
        note: "safeguard policy test".into(),
        by: local_user().into(),
    };
    let found = evaluate(engine, &wish, &statement).await?;
    for note in statement.tally().notes() {
        say(&format!("NOTICE:  {note}"));
    }
    Ok(found
        .iter()
        .flat_map(|f| lines(&policy, f, &thresholds))
        .collect())
}

fn lines(policy: &str, found: &Evaluated, thresholds: &[Threshold]) -> Vec<Line> {
    let last = found.measures.len() - 1;
    let measures = found.measures.iter().enumerate();
    measures
        .map(|(place, (measure, _))| {
            let all = place == last;
            let of_this = thresholds
                .iter()
                .filter(|threshold| match &threshold.label {
                    Some(label) => !all && **label == *measure.label,
                    None => all,
                });
            let missed: Vec<String> = of_this
                .filter_map(|threshold| {
                    let figure = match threshold.figure {
                        policy::Figure::Precision => measure.precision,
                        policy::Figure::Recall | policy::Figure::Accuracy => measure.recall,
                        policy::Figure::F1 => measure.f1,
                    };
                    missed(threshold, figure)
                })
                .collect();
            Line {
                policy: policy.to_owned(),
                label: measure.label.to_string(),
                n: measure.n,
                undecided: measure.undecided,
                figures: [measure.precision, measure.recall, measure.f1].map(in_words),
                missed: missed.join(", "),
            }
        })
        .collect()
}

/// A figure over no rows meets no threshold.
fn missed(threshold: &Threshold, figure: Option<Figure>) -> Option<String> {
    let Threshold {
        figure: name,
        least,
        ..
    } = threshold;
    match figure {
        Some(figure) if figure.value >= *least => None,
        Some(_) => Some(format!("{name} < {least}")),
        None => Some(format!("{name} has no rows")),
    }
}

/// `0.912 [0.850, 0.950]`
fn in_words(figure: Option<Figure>) -> String {
    let said = |f: Figure| {
        let (low, high) = (f.interval.low, f.interval.high);
        format!("{:.3} [{low:.3}, {high:.3}]", f.value)
    };
    figure.map(said).unwrap_or_default()
}

fn print(lines: &[Line]) -> ExitCode {
    let text = |value: &dyn Fn(&Line) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(lines.iter().map(value)))
    };
    let count = |value: &dyn Fn(&Line) -> u64| -> ArrayRef {
        let values = lines
            .iter()
            .map(|line| i64::try_from(value(line)).unwrap_or(i64::MAX));
        Arc::new(Int64Array::from_iter_values(values))
    };
    let batch = RecordBatch::try_from_iter([
        ("policy", text(&|line| &line.policy)),
        ("label", text(&|line| &line.label)),
        ("n", count(&|line| line.n)),
        ("undecided", count(&|line| line.undecided)),
        ("precision", text(&|line| &line.figures[0])),
        ("recall", text(&|line| &line.figures[1])),
        ("f1", text(&|line| &line.figures[2])),
        ("missed", text(&|line| &line.missed)),
    ])
    .expect("bug: columns of one length");
    written(|out| {
        let format = (Format::Table, false);
        let shown = Output::begin(format, &batch.schema(), "SELECT", out).and_then(|mut output| {
            output.batch(&batch, out)?;
            output.end(out)
        });
        shown.map_err(io::Error::other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::stats::wilson;

    #[test]
    fn a_threshold_is_held_against_the_figure_itself() {
        let figure = |hits: u64, n| Figure {
            value: hits as f64 / n as f64,
            interval: wilson(hits, n, 0.95),
        };
        let threshold = |least| Threshold {
            label: None,
            figure: policy::Figure::Recall,
            least,
        };
        for (least, found, wanted) in [
            (0.9, Some(figure(18, 20)), None),
            (0.95, Some(figure(18, 20)), Some("recall < 0.95")),
            (1.0, Some(figure(20, 20)), None),
            (0.0, None, Some("recall has no rows")),
        ] {
            let said = missed(&threshold(least), found);
            assert_eq!(said.as_deref(), wanted, "{least}");
        }
        assert_eq!(in_words(Some(figure(18, 20))), "0.900 [0.699, 0.972]");
        assert_eq!(in_words(None), "");
    }
}
