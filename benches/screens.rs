//! Screens on labelled public texts: how well they order texts, how fast they score and train.
//!
//! `cargo bench --bench screens -- auc|speed|train|recall|all --data DIR`, where DIR holds the sets
//! `openai_mod_2022/openai_mod_2022_by_category.csv`, `surge_toxicity/surge_toxicity.csv` and
//! `spamassassin_sample/spamassassin_sample.csv` with columns id, text, gold, category. `auc`: the
//! mean of five folds, a text in one fold only, violating texts spread evenly, over five ways of splitting. Beside it the
//! area over all rows at once (probabilities of five screens in one order), and what it would be if rows were split, so
//! that equal texts can stand in several folds.
//!
//! `cargo bench --bench screens -- ship --sets FILE --out policies` makes the shipped screens: see `screens/ship.rs`.

#[path = "screens/recall.rs"]
mod recall;
#[path = "screens/ship.rs"]
mod ship;

use safeguard::screen::measure::auc;
use safeguard::screen::{Example, Screen, Training};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Set, category where the set has several, and the area that scikit-learn's logistic regression reached.
const SETS: [(&str, Option<&str>, f64); 9] = [
    (OPENAI, Some("S"), 0.936),
    (OPENAI, Some("H"), 0.830),
    (OPENAI, Some("V"), 0.801),
    (OPENAI, Some("HR"), 0.854),
    (OPENAI, Some("SH"), 0.970),
    (OPENAI, Some("H2"), 0.862),
    (OPENAI, Some("V2"), 0.885),
    ("surge_toxicity/surge_toxicity.csv", None, 0.92),
    ("spamassassin_sample/spamassassin_sample.csv", None, 0.99),
];
const OPENAI: &str = "openai_mod_2022/openai_mod_2022_by_category.csv";
const FOLDS: usize = 5;
/// Ways of splitting that the areas are averaged over.
const SPLITS: u32 = 5;

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let given = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).map(PathBuf::from)
    };
    if words.first().is_some_and(|word| word == "ship") {
        let (Some(sets), Some(out)) = (given("--sets"), given("--out")) else {
            eprintln!(
                "screens ship: give --sets FILE (of screens/sets.py) and --out DIR (policies)"
            );
            return;
        };
        return ship::ship(&sets, &out);
    }
    let data = words.iter().position(|word| word == "--data");
    let Some(data) = data.and_then(|at| words.get(at + 1)).map(PathBuf::from) else {
        eprintln!("screens: give --data DIR, a folder of labelled sets; nothing measured");
        return;
    };
    let what = words.first().map_or("all", String::as_str);
    if ["auc", "all"].contains(&what) {
        areas(&data);
    }
    if ["speed", "all"].contains(&what) {
        speed(&data);
    }
    if ["train", "all"].contains(&what) {
        training_time(&data);
    }
    if ["recall", "all"].contains(&what) {
        let splits = words.iter().position(|word| word == "--splits");
        let splits = splits.and_then(|at| words.get(at + 1)?.parse().ok());
        recall::table(&data, splits.unwrap_or(500));
    }
}

fn read(data: &Path, set: &str, category: Option<&str>) -> Vec<Example> {
    let path = data.join(set);
    let mut file =
        csv::Reader::from_path(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut examples = Vec::new();
    for row in file.records() {
        let row = row.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if category.is_some_and(|category| category != &row[3]) || row[2].is_empty() {
            continue;
        }
        examples.push(Example {
            text: row[1].into(),
            violates: &row[2] == "1",
        });
    }
    examples
}

/// The fold of each example, drawn by `split`; equal texts are together, or each row is on its own.
fn folds(examples: &[Example], split: u32, together: bool) -> Vec<usize> {
    let key = |row: usize| match together {
        true => format!("{split} {}", examples[row].text),
        false => format!("{split} {row}"),
    };
    let mut texts: BTreeMap<[u8; 32], bool> = BTreeMap::new();
    let keys: Vec<[u8; 32]> = (0..examples.len())
        .map(|row| *blake3::hash(key(row).as_bytes()).as_bytes())
        .collect();
    for (key, example) in keys.iter().zip(examples) {
        *texts.entry(*key).or_default() |= example.violates;
    }
    let mut order: Vec<(bool, [u8; 32])> = texts
        .into_iter()
        .map(|(key, violates)| (violates, key))
        .collect();
    order.sort_unstable();
    let of: BTreeMap<[u8; 32], usize> = order
        .iter()
        .enumerate()
        .map(|(rank, row)| (row.1, rank % FOLDS))
        .collect();
    keys.iter().map(|key| of[key]).collect()
}

/// Areas of one split: over all rows, and the mean of the folds' own.
fn cross_validated(examples: &[Example], split: u32, together: bool) -> (f64, f64) {
    let of = folds(examples, split, together);
    let (mut all, mut mean) = (Vec::new(), 0.0);
    for fold in 0..FOLDS {
        let (out, within): (Vec<_>, Vec<_>) =
            examples.iter().zip(&of).partition(|(_, at)| **at == fold);
        let within: Vec<Example> = within
            .into_iter()
            .map(|(example, _)| example.clone())
            .collect();
        let training = Training {
            threads: 2,
            seed: 1,
        };
        let screen = Screen::train(&within, &training).expect("both kinds in every fold");
        let scored: Vec<(f64, bool)> = out
            .into_iter()
            .map(|(example, _)| (screen.score(&example.text), example.violates))
            .collect();
        mean += auc(&scored).expect("both kinds in every fold") / FOLDS as f64;
        all.extend(scored);
    }
    (auc(&all).expect("both kinds"), mean)
}

fn areas(data: &Path) {
    println!(
        "| set | texts (violating) | AUC needed | AUC | least of {SPLITS} splits | over all rows | rows split, not texts |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (set, category, needed) in SETS {
        let examples = read(data, set, category);
        let violating = examples.iter().filter(|example| example.violates).count();
        let found = |together| -> Vec<(f64, f64)> {
            let one = |split| cross_validated(&examples, split, together);
            (0..SPLITS).map(one).collect()
        };
        let (texts, rows) = (found(true), found(false));
        let mean = |found: &[f64]| found.iter().sum::<f64>() / f64::from(SPLITS);
        let own: Vec<f64> = texts.iter().map(|(_, own)| *own).collect();
        println!(
            "| {} {} | {} ({violating}) | {needed:.3} | {:.4} | {:.4} | {:.4} | {:.4} |",
            set.split('/').next().unwrap_or_default(),
            category.unwrap_or_default(),
            examples.len(),
            mean(&own),
            own.iter().fold(1.0f64, |least, own| own.min(least)),
            mean(&texts.iter().map(|(all, _)| *all).collect::<Vec<_>>()),
            mean(&rows.iter().map(|(_, own)| *own).collect::<Vec<_>>()),
        );
    }
}

/// Texts of 250 to 300 bytes, which is about 60 tokens: beginnings of the OpenAI set's, cut at a space.
fn sixty_tokens(data: &Path) -> Vec<Example> {
    let mut texts = Vec::new();
    for example in read(data, OPENAI, None) {
        let cut = (250..=300)
            .rev()
            .find(|at| example.text.as_bytes().get(*at) == Some(&b' '));
        if let Some(cut) = cut {
            texts.push(Example {
                text: example.text[..cut].into(),
                violates: example.violates,
            });
        }
    }
    texts
}

fn speed(data: &Path) {
    let examples = sixty_tokens(data);
    let screen = Screen::train(
        &examples,
        &Training {
            threads: 2,
            seed: 1,
        },
    )
    .expect("both kinds");
    let texts: Vec<Arc<str>> = examples.into_iter().map(|example| example.text).collect();
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    println!(
        "{} texts of {} bytes on average",
        texts.len(),
        bytes / texts.len()
    );
    for threads in [1, 2] {
        let mut best = f64::MAX;
        let mut sum = 0.0;
        for _ in 0..7 {
            let start = Instant::now();
            sum = screen.scores(&texts, threads).iter().sum::<f64>();
            best = best.min(start.elapsed().as_secs_f64());
        }
        let rate = texts.len() as f64 / best;
        println!(
            "{threads} threads: {rate:.0} texts/s, {rate:.0} / {threads} a thread (sum of scores {sum:.3})"
        );
    }
}

/// 25,000 distinct rows: every text of the OpenAI set's beginnings with a number of its own after it.
fn training_time(data: &Path) {
    let some = sixty_tokens(data);
    let rows: Vec<Example> = (0..25_000)
        .map(|n| Example {
            text: format!("{} {n}", some[n % some.len()].text).into(),
            violates: some[n % some.len()].violates,
        })
        .collect();
    for threads in [1, 2] {
        let start = Instant::now();
        let screen = Screen::train(&rows, &Training { threads, seed: 1 }).expect("both kinds");
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{} rows, {threads} threads: {seconds:.2} s ({screen:?})",
            rows.len()
        );
    }
}
