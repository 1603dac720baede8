//! Makes the shipped screens: weights, certificate and card of each policy that the labels of public sets carry.
//!
//! Takes the CSV of `sets.py`. Of the rows that are not held out, some make the weights and the others, which the weights
//! never see, the certificate; the held-out ones are only measured on. Rows that are plainly no business of a policy are
//! parted likewise: few make weights, where they would drown the labelled ones; the others stand in the certificate beside
//! those, so that convicting must be right about them too. A policy whose screen may decide nothing gets no files.

use safeguard::policy::folder;
use safeguard::screen::certify::{Certificate, Goal, Label, of_rows};
use safeguard::screen::measure::auc;
use safeguard::screen::sample::{Purpose, number};
use safeguard::screen::{Example, Screen, Training};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// The certificate gets about so many violating rows, and this share of the labelled rows at the most.
const CERTIFY_VIOLATING: f64 = 150.0;
const CERTIFY_SHARE: f64 = 0.4;
/// Rows that are no business of a policy, of those that make the weights: at the most one for so many labelled ones.
const LABELLED_FOR_OTHER: usize = 4;
/// Violating rows of a certificate for the higher recall: one of them may be missed.
const VIOLATING_FOR_HIGH: usize = 93;
const HIGH: f64 = 0.95;
const LOW: f64 = 0.90;
const DELTA: f64 = 0.05;
const PRECISION: f64 = 0.90;
const SEED: u64 = 1;

struct Row {
    text: String,
    violates: bool,
}

/// One policy's rows.
#[derive(Default)]
struct Rows {
    weights: Vec<Row>,
    certificate: Vec<Row>,
    held: Vec<Row>,
    /// Held-out rows that are no business of the policy.
    held_other: Vec<Row>,
}

pub fn ship(sets: &Path, out: &Path) {
    println!(
        "| policy | weights from | certificate from (violating) | recall wanted | clears | bound | convicts | bound | held out (violating) | AUC | cleared | kept | convicted | right | others | cleared | convicted |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (policy, rows) in read(sets) {
        one(&policy, &rows, out);
    }
}

/// Rows with their numbers.
type Numbered = Vec<(f64, Row)>;

fn read(sets: &Path) -> BTreeMap<String, Rows> {
    let mut found: BTreeMap<String, (Numbered, Numbered, Rows)> = BTreeMap::new();
    let mut file =
        csv::Reader::from_path(sets).unwrap_or_else(|e| panic!("{}: {e}", sets.display()));
    for record in file.records() {
        let record = record.expect("a row of sets.py");
        let row = Row {
            text: record[1].to_owned(),
            violates: &record[2] == "1",
        };
        let key = blake3::hash(row.text.as_bytes());
        let key = u64::from_le_bytes(key.as_bytes()[..8].try_into().expect("8 bytes"));
        let number = number(key, SEED, Purpose::Split) as f64 / u64::MAX as f64;
        let (known, other, rows) = found.entry(record[0].to_owned()).or_default();
        match (&record[3], &record[4]) {
            ("held", "1") => rows.held.push(row),
            ("held", _) => rows.held_other.push(row),
            (_, "1") => known.push((number, row)),
            _ => other.push((number, row)),
        }
    }
    let parted = found
        .into_iter()
        .map(|(policy, (known, other, rows))| (policy, part(known, other, rows)));
    parted.collect()
}

/// Says which rows make weights and which the certificate: by counts and numbers, not by what comes of it.
fn part(known: Numbered, mut other: Numbered, mut rows: Rows) -> Rows {
    let violating = known.iter().filter(|(_, row)| row.violates).count() as f64;
    let share = (CERTIFY_VIOLATING / violating).min(CERTIFY_SHARE);
    let (certificate, weights): (Numbered, Numbered) =
        known.into_iter().partition(|(number, _)| *number <= share);
    other.sort_by(|a, b| a.0.total_cmp(&b.0));
    let few = (other.len() / 2).min(weights.len() / LABELLED_FOR_OTHER);
    let rest = other.split_off(few);
    let of = |rows: Numbered| rows.into_iter().map(|(_, row)| row);
    rows.weights = of(weights).chain(of(other)).collect();
    rows.certificate = of(certificate).chain(of(rest)).collect();
    rows
}

fn one(name: &str, rows: &Rows, out: &Path) {
    let examples: Vec<Example> = rows
        .weights
        .iter()
        .map(|row| Example {
            text: row.text.as_str().into(),
            violates: row.violates,
        })
        .collect();
    let training = Training {
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        seed: SEED,
    };
    let screen = Screen::train(&examples, &training).expect("both kinds of rows");
    let scored = |rows: &[Row]| -> Vec<(f64, Label)> {
        let label = |row: &Row| {
            if row.violates {
                Label::Violates
            } else {
                Label::Allowed
            }
        };
        rows.iter()
            .map(|row| (screen.score(&row.text), label(row)))
            .collect()
    };
    let certify = scored(&rows.certificate);
    let violating = rows.certificate.iter().filter(|row| row.violates).count();
    let goal = Goal {
        // By how many there are, and not by what comes of it.
        recall: if violating >= VIOLATING_FOR_HIGH {
            HIGH
        } else {
            LOW
        },
        delta: DELTA,
        precision: Some(PRECISION),
    };
    let certificate = of_rows(&certify, goal, &[]).expect("a goal that can be reached");
    let held = scored(&rows.held);
    let measured = Measured::of(&held, &certificate);
    let others = Measured::of(&scored(&rows.held_other), &certificate);
    let share = |count: usize, of: usize| format!("{:.3}", count as f64 / of.max(1) as f64);
    let shown = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.3}"));
    let whole = &certificate.whole;
    println!(
        "| {name} | {} | {} ({violating}) | {} | {} | {} | {} | {} | {} ({}) | {:.3} | {} | {} | {} | {} | {} | {} | {} |",
        rows.weights.len(),
        rows.certificate.len(),
        goal.recall,
        share(whole.cleared as usize, certify.len()),
        shown(whole.recall),
        share(whole.convicted as usize, certify.len()),
        shown(whole.precision),
        held.len(),
        measured.violating,
        measured.auc,
        share(measured.cleared, held.len()),
        share(measured.violating - measured.missed, measured.violating),
        share(measured.convicted, held.len()),
        share(measured.right, measured.convicted),
        rows.held_other.len(),
        share(others.cleared, rows.held_other.len()),
        share(others.convicted, rows.held_other.len()),
    );
    if certificate.clear_below.is_none() && certificate.convict_above.is_none() {
        return;
    }
    let folder = out.join(name);
    let write = |file: &str, bytes: &[u8]| {
        let path = folder.join(file);
        std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    };
    write("screen.bin", &screen.to_bytes());
    write(
        "screen.toml",
        toml(name, &screen, &goal, &certificate, rows).as_bytes(),
    );
    write(
        "screen.md",
        card(name, &goal, &certificate, rows, (&measured, &others)).as_bytes(),
    );
}

/// What comes of the held-out rows.
struct Measured {
    auc: f64,
    violating: usize,
    cleared: usize,
    missed: usize,
    convicted: usize,
    right: usize,
}

impl Measured {
    fn of(held: &[(f64, Label)], certificate: &Certificate) -> Measured {
        let held: Vec<(f64, bool)> = held
            .iter()
            .map(|(score, label)| (*score, *label == Label::Violates))
            .collect();
        let clears = |score: f64| certificate.clear_below.is_some_and(|below| score < below);
        let convicts = |score: f64| {
            certificate
                .convict_above
                .is_some_and(|above| score >= above)
        };
        let count = |of: &dyn Fn(f64, bool) -> bool| {
            held.iter()
                .filter(|(score, violates)| of(*score, *violates))
                .count()
        };
        Measured {
            auc: auc(&held).unwrap_or(f64::NAN),
            violating: count(&|_, violates| violates),
            cleared: count(&|score, _| clears(score)),
            missed: count(&|score, violates| clears(score) && violates),
            convicted: count(&|score, _| convicts(score)),
            right: count(&|score, violates| convicts(score) && violates),
        }
    }
}

fn toml(
    name: &str,
    screen: &Screen,
    goal: &Goal,
    certificate: &Certificate,
    rows: &Rows,
) -> String {
    let shipped = folder::shipped();
    let policy = shipped.iter().find(|file| &*file.policy.name == name);
    let policy = policy.expect("a shipped policy").policy.digest();
    let whole = &certificate.whole;
    let mut text = String::new();
    let mut line =
        |key: &str, value: String| writeln!(text, "{key} = {value}").expect("a String takes it");
    line("policy_digest", format!("\"{policy}\""));
    line(
        "screen_digest",
        format!("\"{}\"", blake3::Hash::from_bytes(screen.digest())),
    );
    line("target", format!("{:?}", goal.recall));
    line("delta", format!("{:?}", goal.delta));
    for (key, value) in [
        ("clear_below", certificate.clear_below),
        ("recall_bound", certificate.clear_below.and(whole.recall)),
        (
            "precision_target",
            certificate.convict_above.and(goal.precision),
        ),
        ("convict_above", certificate.convict_above),
        (
            "precision_bound",
            certificate.convict_above.and(whole.precision),
        ),
    ] {
        if let Some(value) = value {
            line(key, format!("{value:?}"));
        }
    }
    for (key, value) in [
        ("texts", whole.texts),
        ("cleared", whole.cleared),
        ("convicted", whole.convicted),
        ("labels", whole.labels),
        ("violating", whole.violating),
        ("trained_on", rows.weights.len() as u64),
    ] {
        line(key, value.to_string());
    }
    line("finding", format!("\"{}\"", finding(goal, certificate)));
    text
}

/// `labels of public sets: clears 41.2% of 1397 texts like theirs, recall at least 0.953; ..`
fn finding(goal: &Goal, certificate: &Certificate) -> String {
    let whole = &certificate.whole;
    let percent = |count: u64| 100.0 * count as f64 / whole.texts.max(1) as f64;
    let mut parts = Vec::new();
    if let (Some(_), Some(bound)) = (certificate.clear_below, whole.recall) {
        parts.push(format!(
            "clears {:.1}%, recall at least {bound:.3}",
            percent(whole.cleared)
        ));
    }
    if let (Some(_), Some(bound)) = (certificate.convict_above, whole.precision) {
        parts.push(format!(
            "convicts {:.1}%, precision at least {bound:.3}",
            percent(whole.convicted)
        ));
    }
    format!(
        "of {} texts of public sets, each with {}% confidence: {}",
        whole.texts,
        (100.0 * (1.0 - goal.delta)).round(),
        parts.join("; ")
    )
}

fn card(
    name: &str,
    goal: &Goal,
    certificate: &Certificate,
    rows: &Rows,
    (measured, others): (&Measured, &Measured),
) -> String {
    let percent =
        |count: usize, of: usize| format!("{:.1}%", 100.0 * count as f64 / of.max(1) as f64);
    let violating = |rows: &[Row]| rows.iter().filter(|row| row.violates).count();
    let shown = |value: Option<f64>| value.map_or("none".to_owned(), |v| format!("{v:.4}"));
    format!(
        "# The screen of `{name}`\n\n\
         Hashed n-grams under logistic regression (`src/screen`), in force beside the embedded demonstration model only. Made by\n\
         `cargo bench --bench screens -- ship --sets sets.csv --out policies` from the sets that `../README.md` names for this\n\
         policy and their neighbours, under their licences (CC BY 4.0 ones need the attribution given there). It holds\n\
         statistics of n-grams and no texts.\n\n\
         | | |\n|---|---|\n\
         | rows that made the weights | {} ({} violating; texts that are plainly no business of the policy included) |\n\
         | rows that made the certificate | {} ({} violating), not seen by the weights |\n\
         | certified | {} |\n\
         | clears below, convicts from | {}, {} |\n\
         | wanted | recall {}, precision {}, each wrong with probability {} at most |\n\
         | held-out rows, used for nothing else | {} ({} violating): AUC {:.3}; clears {}, keeps {} of the violating; convicts {}, {} of them right |\n\
         | held-out rows that are no business of the policy | {}: clears {}, convicts {} |\n\n\
         ## Limits\n\n\
         The certificate is about texts like those of the sets: English, public, much of it from templates (HateCheck,\n\
         HatemojiCheck), with far more violations than a platform has. There precision is lower, because violations are rarer.\n\
         Labels are the sets' own, and their definitions are not the policy's. It knows spelling and no meaning. For your\n\
         texts and your model, `safeguard_train_screen('{name}', 0.95, source => ..)` makes one with a certificate of its own.\n",
        rows.weights.len(),
        violating(&rows.weights),
        rows.certificate.len(),
        violating(&rows.certificate),
        finding(goal, certificate),
        shown(certificate.clear_below),
        shown(certificate.convict_above),
        goal.recall,
        PRECISION,
        goal.delta,
        rows.held.len(),
        measured.violating,
        measured.auc,
        percent(measured.cleared, rows.held.len()),
        percent(measured.violating - measured.missed, measured.violating),
        percent(measured.convicted, rows.held.len()),
        percent(measured.right, measured.convicted),
        rows.held_other.len(),
        percent(others.cleared, rows.held_other.len()),
        percent(others.convicted, rows.held_other.len()),
    )
}
