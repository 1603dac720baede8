//! How often a promised recall is missed, and how much is cleared, with the gold labels as the reasoner.
//!
//! `cargo bench --bench screens -- recall --data DIR [--splits N]`. Each split draws half of a set's different texts to train
//! on; the other half is the population, of which a method may ask so many labels. Recall and what is cleared are those
//! of the whole population, which the bench knows. A set is small, and its lines are what such a set allows; the second
//! table draws a larger population from it with replacement, each drawn text counted as different from all others.
//!
//! - *certified*: [`safeguard::screen::certify`]. Its recall counts what scores at least its threshold, and nothing of what
//!   it asked.
//! - *SUPG*: algorithm IS-CI-R of D. Kang et al., Approximate selection with guarantees using proxies, VLDB 2020: labels
//!   drawn with replacement by the root of the score, a tenth of the weight spread evenly; the target is raised by bounds of
//!   a normal approximation. Its recall counts the violating texts that it asked too, as in the paper.
//! - *plain*: the threshold that has the target on a uniform sample.
//! - *known*: the threshold that whoever knows all labels would take.

use super::{OPENAI, SETS, read};
use safeguard::screen::certify::{Goal, Label, Population, Study};
use safeguard::screen::sample::mix;
use safeguard::screen::{Screen, Training};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

const GOAL: Goal = Goal {
    recall: 0.9,
    delta: 0.05,
    precision: None,
};
/// Labels, of a half of a set and of a population drawn from it.
const LABELS: usize = 200;
const LABELS_DRAWN: usize = 1_000;
/// Texts of a population that is drawn.
const DRAWN: usize = 20_000;

/// Random numbers from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(mix(self.0))
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// So many different numbers below `n`.
    fn sample(&mut self, n: usize, wanted: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for at in 0..wanted.min(n) {
            let other = at + self.below(n - at);
            all.swap(at, other);
        }
        all.truncate(wanted);
        all
    }
}

/// Scores and whether each text violates.
type Scored = Vec<(f64, bool)>;

/// What a method chose: texts below are cleared; and the violating texts that it found besides.
struct Chosen {
    below: f64,
    found: BTreeSet<usize>,
}

/// Sums over splits.
#[derive(Default)]
struct Line {
    splits: f64,
    cleared: f64,
    clears: f64,
    missed: f64,
}

impl Line {
    fn add(&mut self, texts: &Scored, chosen: &Chosen) {
        let below = |at: &usize| texts[*at].0 < chosen.below;
        let violating: Vec<usize> = (0..texts.len()).filter(|at| texts[*at].1).collect();
        let lost = violating
            .iter()
            .filter(|at| below(at) && !chosen.found.contains(at))
            .count();
        let cleared = (0..texts.len()).filter(below).count();
        self.splits += 1.0;
        self.cleared += cleared as f64 / texts.len() as f64;
        self.clears += f64::from(u8::from(cleared > 0));
        let kept = (violating.len() - lost) as f64;
        self.missed += f64::from(u8::from(kept < GOAL.recall * violating.len() as f64));
    }

    fn share(&self, of: f64) -> f64 {
        of / self.splits
    }
}

pub fn table(data: &Path, splits: u64) {
    println!(
        "recall {} with probability {}, {splits} splits of each set",
        GOAL.recall,
        1.0 - GOAL.delta
    );
    println!("\nHalves of the sets, {LABELS} labels\n");
    lines(data, splits, None);
    println!(
        "\nPopulations of {DRAWN} texts drawn from those halves with replacement, {LABELS_DRAWN} labels\n"
    );
    lines(data, splits, Some(DRAWN));
}

fn lines(data: &Path, splits: u64, drawn: Option<usize>) {
    println!(
        "| set | texts | violating | certified: target missed | clears | of the texts | SUPG: target missed | of the texts \
         | plain: target missed | of the texts | known: of the texts |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (set, category, _) in SETS {
        let examples = different(data, set, category);
        let mut sums: [Line; 4] = Default::default();
        let (mut texts, mut violating) = (0, 0);
        for split in 0..splits {
            let mut random = Random(split << 32);
            let mut scored = half(&examples, &mut random);
            if let Some(drawn) = drawn {
                scored = (0..drawn)
                    .map(|_| scored[random.below(scored.len())])
                    .collect();
            }
            let labels = if drawn.is_some() {
                LABELS_DRAWN
            } else {
                LABELS
            };
            texts = scored.len();
            violating += scored.iter().filter(|(_, violates)| *violates).count();
            let chosen = [
                certified(&scored, labels, split),
                supg(&scored, labels, &mut random),
                plain(&scored, labels, &mut random),
                known(&scored),
            ];
            sums.iter_mut()
                .zip(&chosen)
                .for_each(|(sum, chosen)| sum.add(&scored, chosen));
        }
        let [ours, supg, plain, known] = &sums;
        println!(
            "| {} {} | {texts} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} |",
            set.split('/')
                .next()
                .unwrap_or_default()
                .replace("_sample", ""),
            category.unwrap_or_default(),
            violating as f64 / splits as f64 / texts as f64,
            ours.share(ours.missed),
            ours.share(ours.clears),
            ours.share(ours.cleared),
            supg.share(supg.missed),
            supg.share(supg.cleared),
            plain.share(plain.missed),
            plain.share(plain.cleared),
            known.share(known.cleared),
        );
    }
}

/// Each text once; it violates where any of its rows does.
fn different(data: &Path, set: &str, category: Option<&str>) -> Vec<(Arc<str>, bool)> {
    assert!(
        set != OPENAI || category.is_some(),
        "bug: categories have different texts"
    );
    let mut texts: BTreeMap<Arc<str>, bool> = BTreeMap::new();
    for example in read(data, set, category) {
        *texts.entry(example.text).or_default() |= example.violates;
    }
    texts.into_iter().collect()
}

/// Trains on one half, scores the other.
fn half(texts: &[(Arc<str>, bool)], random: &mut Random) -> Scored {
    let order = random.sample(texts.len(), texts.len());
    let (within, out) = order.split_at(texts.len() / 2);
    let examples: Vec<super::Example> = within
        .iter()
        .map(|at| super::Example {
            text: Arc::clone(&texts[*at].0),
            violates: texts[*at].1,
        })
        .collect();
    let training = Training {
        threads: 2,
        seed: 1,
    };
    let screen = Screen::train(&examples, &training).expect("both kinds in every half");
    out.iter()
        .map(|at| (screen.score(&texts[*at].0), texts[*at].1))
        .collect()
}

fn certified(texts: &Scored, labels: usize, seed: u64) -> Chosen {
    let scores: Vec<f64> = texts.iter().map(|(score, _)| *score).collect();
    let keys: Vec<u64> = (0..texts.len() as u64).collect();
    let population = Population {
        scores: &scores,
        keys: &keys,
        free: &vec![false; texts.len()],
    };
    let mut study = Study::new(&population, GOAL, labels as u64, seed).expect("a goal");
    let (mut answers, mut asked) = (Vec::new(), 0);
    loop {
        let places = study.next(&answers);
        if places.is_empty() {
            break;
        }
        asked += places.len();
        answers = places
            .into_iter()
            .map(|at| match texts[at as usize].1 {
                true => (at, Label::Violates),
                false => (at, Label::Allowed),
            })
            .collect();
    }
    assert!(asked <= labels, "{asked} labels");
    let certificate = study.conclude(&[], &[]);
    Chosen {
        below: certificate.clear_below.unwrap_or(0.0),
        found: BTreeSet::new(),
    }
}

/// A label: score, weight, whether it violates.
type Weighted = (f64, f64, bool);

fn supg(texts: &Scored, labels: usize, random: &mut Random) -> Chosen {
    let n = texts.len() as f64;
    let roots: f64 = texts.iter().map(|(score, _)| score.sqrt()).sum();
    let chances: Vec<f64> = texts
        .iter()
        .map(|(score, _)| 0.9 * score.sqrt() / roots + 0.1 / n)
        .collect();
    let mut sum = 0.0;
    let ends: Vec<f64> = chances
        .iter()
        .map(|chance| {
            sum += chance;
            sum
        })
        .collect();
    let mut found = BTreeSet::new();
    let mut sample: Vec<Weighted> = (0..labels)
        .map(|_| {
            let at = random.unit() * sum;
            let at = ends.partition_point(|end| *end < at).min(texts.len() - 1);
            if texts[at].1 {
                found.insert(at);
            }
            (texts[at].0, 1.0 / (n * chances[at]), texts[at].1)
        })
        .collect();
    if found.is_empty() {
        return Chosen { below: 0.0, found };
    }
    sample.sort_by(|a, b| b.0.total_cmp(&a.0));
    let first = largest(&sample, GOAL.recall);
    let part = |above: bool| {
        let values = sample.iter().map(|(score, weight, violates)| {
            let counts = *violates && (*score >= first) == above;
            if counts { *weight } else { 0.0 }
        });
        let mean = values.clone().sum::<f64>() / labels as f64;
        let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / labels as f64;
        let half = (variance / labels as f64).sqrt() * (2.0 * (2.0 / GOAL.delta).ln()).sqrt();
        (mean, half)
    };
    let ((above, more), (below, less)) = (part(true), part(false));
    let (most, least) = (above + more, (below - less).max(0.0));
    let below = largest(&sample, most / (most + least));
    Chosen { below, found }
}

/// The largest threshold with this share of the weight of a sample's violating texts, which is sorted from the top.
fn largest(sample: &[Weighted], recall: f64) -> f64 {
    let violating = || sample.iter().filter(|(_, _, violates)| *violates);
    let all: f64 = violating().map(|(_, weight, _)| weight).sum();
    let mut sum = 0.0;
    for (score, weight, _) in violating() {
        sum += weight;
        if sum >= recall * all * (1.0 - 1e-12) {
            return *score;
        }
    }
    0.0
}

fn plain(texts: &Scored, labels: usize, random: &mut Random) -> Chosen {
    let sample = random.sample(texts.len(), labels);
    let below = threshold(sample.into_iter().map(|at| texts[at]).collect());
    Chosen {
        below,
        found: BTreeSet::new(),
    }
}

fn known(texts: &Scored) -> Chosen {
    Chosen {
        below: threshold(texts.clone()),
        found: BTreeSet::new(),
    }
}

/// The largest threshold with the target on these texts; 0 where none violates.
fn threshold(texts: Scored) -> f64 {
    let mut sample: Vec<Weighted> = texts
        .into_iter()
        .map(|(s, violates)| (s, 1.0, violates))
        .collect();
    sample.sort_by(|a, b| b.0.total_cmp(&a.0));
    largest(&sample, GOAL.recall)
}
