//! Training: L2-regularised logistic regression over the n-grams of labelled texts, then calibration.
//!
//! Takes examples, gives the bytes of a screen. The regression is solved in its dual, one example at a time (Yu, Huang
//! and Lin, 2011); an n-gram counts by its inverse document frequency times a root of how unevenly the labels have it (Wang
//! and Manning, 2012). The logistic curve over the score (Platt, 1999) is fitted to texts that weights were not made
//! from: those of one fold, scored by the other folds. Every fold is computed by one thread from start to end, so that
//! the result has the same bits whatever the number of threads.

use super::features::{Kind, SLOTS, Seen, visit};
use super::weights::{Numbers, Weights, frequency, frequency_code};
use super::{Example, ScreenError, Training};
use crate::config::{SCREEN_EXAMPLES_MAX, SCREEN_TRAINING_BYTES_MAX};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Parts of the examples that are scored by weights made from the others.
const FOLDS: usize = 4;
/// From so many distinct texts on there are two folds: half of them make weights that are good enough to calibrate by.
const TWO_FOLDS_FROM: usize = 10_000;
/// The weight of all examples together against that of the penalty.
const PENALTY_INVERSE: f64 = 10.0;
/// How much an n-gram's unevenness between the labels counts.
const UNEVENNESS: f64 = 0.25;
/// Passes over the examples, at most.
const PASSES_MAX: usize = 20;
/// Done when no dual variable moves by more than this share of its range in a pass.
const SETTLED: f64 = 0.02;
/// The least slope of a logistic curve: scores keep their order even where they turn out to say nothing.
const SLOPE_MIN: f64 = 1e-3;

/// The bytes of a screen for these examples.
pub(super) fn train(examples: &[Example], training: &Training) -> Result<Vec<u8>, ScreenError> {
    check(examples)?;
    let threads = training.threads.max(1);
    let rows = Rows::of(examples, threads);
    let labels: Vec<bool> = examples.iter().map(|example| example.violates).collect();
    let (folds, distinct) = folds(examples);
    // Every fold is scored by the others. The last weights are made from everything, and are those that stay.
    let mut left_out: Vec<Option<usize>> = match folds.iter().max() {
        Some(0) | None => Vec::new(),
        Some(last) => (0..=*last).map(Some).collect(),
    };
    left_out.push(None);
    let parts = each(left_out.len(), threads, |at| {
        let held = |row: &usize| left_out[at] == Some(folds[*row]);
        let chosen: Vec<usize> = (0..labels.len()).filter(|row| !held(row)).collect();
        let fit = fit(&rows, &labels, &chosen, training.seed);
        let scored: Vec<(usize, f64)> = (0..labels.len())
            .filter(|row| held(row) || left_out.len() == 1)
            .map(|row| (row, fit.linear(&rows, row)))
            .collect();
        (fit, scored)
    });
    let mut scored = vec![0.0; labels.len()];
    for (row, linear) in parts.iter().flat_map(|(_, scored)| scored) {
        scored[*row] = *linear;
    }
    let (slope, offset) = calibrate(&scored, &labels);
    let (fit, _) = parts
        .into_iter()
        .next_back()
        .expect("bug: a fit of all examples");
    fit.bytes(slope, offset, distinct)
}

fn check(examples: &[Example]) -> Result<(), ScreenError> {
    let bytes = examples.iter().map(|example| example.text.len()).sum();
    for (of, found, limit) in [
        ("texts", examples.len(), SCREEN_EXAMPLES_MAX),
        ("bytes of text", bytes, SCREEN_TRAINING_BYTES_MAX),
    ] {
        if found > limit {
            return Err(ScreenError::TooMany { of, found, limit });
        }
    }
    let violating = examples.iter().filter(|example| example.violates).count();
    match violating == 0 || violating == examples.len() {
        true => Err(ScreenError::OneKind {
            examples: examples.len(),
            violating,
        }),
        false => Ok(()),
    }
}

/// `work(0..count)` on so many threads, in order.
fn each<T: Send>(count: usize, threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if threads == 1 {
        return (0..count).map(work).collect();
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                // From the last, which takes longest.
                while let Some(at) = count.checked_sub(1 + next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(at);
                    let mut done = done.lock().expect("bug: training panicked");
                    done.push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("bug: training panicked");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The fold of every example, and how many distinct texts there are. A text is in one fold only, and violating texts are
/// spread evenly. Where one of the kinds has a single text there is one fold, 0:
/// then the curve is fitted to the texts that the weights were made from.
fn folds(examples: &[Example]) -> (Vec<usize>, usize) {
    let mut texts: HashMap<&str, bool> = HashMap::with_capacity(examples.len());
    for example in examples {
        *texts.entry(&example.text).or_default() |= example.violates;
    }
    let violating = texts.values().filter(|violates| **violates).count();
    let most = if texts.len() < TWO_FOLDS_FROM {
        FOLDS
    } else {
        2
    };
    let folds = most.min(violating).min(texts.len() - violating).max(1);
    let mut order: Vec<(bool, [u8; 32], &str)> = texts
        .iter()
        .map(|(text, violates)| (*violates, *blake3::hash(text.as_bytes()).as_bytes(), *text))
        .collect();
    order.sort_unstable();
    let fold: HashMap<&str, usize> = order
        .iter()
        .enumerate()
        .map(|(rank, (_, _, text))| (*text, rank % folds))
        .collect();
    let of_examples = examples.iter().map(|example| fold[&*example.text]);
    (of_examples.collect(), texts.len())
}

/// The distinct slots of every example.
struct Rows {
    slots: Vec<u32>,
    /// Of each row: where it begins, where its words begin, where it ends.
    bounds: Vec<[usize; 3]>,
}

impl Rows {
    fn of(examples: &[Example], threads: usize) -> Rows {
        let share = examples.len().div_ceil(4 * threads).max(1);
        let chunks: Vec<&[Example]> = examples.chunks(share).collect();
        let parts = each(chunks.len(), threads, |at| Rows::of_chunk(chunks[at]));
        let mut all = Rows {
            slots: Vec::with_capacity(parts.iter().map(|part| part.slots.len()).sum()),
            bounds: Vec::with_capacity(examples.len()),
        };
        for part in parts {
            let base = all.slots.len();
            all.slots.extend_from_slice(&part.slots);
            all.bounds
                .extend(part.bounds.iter().map(|row| row.map(|at| at + base)));
        }
        all
    }

    fn of_chunk(examples: &[Example]) -> Rows {
        let (mut slots, mut bounds) = (Vec::new(), Vec::with_capacity(examples.len()));
        let mut words = Vec::new();
        for example in examples {
            let (mut seen, begin) = (Seen::new(), slots.len());
            visit(&example.text, |kind, slot| {
                if seen.first(slot) == 1 {
                    match kind {
                        Kind::Characters => slots.push(slot as u32),
                        Kind::Words => words.push(slot as u32),
                    }
                }
            });
            let middle = slots.len();
            slots.append(&mut words);
            bounds.push([begin, middle, slots.len()]);
        }
        Rows { slots, bounds }
    }

    /// The slots of a row by kind.
    fn kinds(&self, row: usize) -> [&[u32]; 2] {
        let [begin, middle, end] = self.bounds[row];
        [&self.slots[begin..middle], &self.slots[middle..end]]
    }

    fn all(&self, row: usize) -> &[u32] {
        let [begin, _, end] = self.bounds[row];
        &self.slots[begin..end]
    }
}

/// What a slot is in the regression.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Its weight, times its value in a text that has it, before normalisation.
    weight: f32,
    /// The square of that value.
    square: f32,
}

/// Weights of one regression.
struct Fit {
    slots: Vec<Slot>,
    /// Square of the inverse document frequency.
    frequencies: Vec<f32>,
    codes: Vec<u8>,
    rarest: f64,
    bias: f64,
}

/// A row as the regression sees it.
struct Dual {
    row: usize,
    violates: bool,
    /// 1 over the length of each kind.
    scale: [f32; 2],
    /// The squared length of the row, with the bias.
    square: f64,
    /// The most that `alpha` can be.
    limit: f64,
    alpha: f64,
}

fn fit(rows: &Rows, labels: &[bool], chosen: &[usize], seed: u64) -> Fit {
    let mut fit = Fit::begin(rows, labels, chosen);
    let violating = chosen.iter().filter(|row| labels[**row]).count() as f64;
    let all = chosen.len() as f64;
    let mut duals: Vec<Dual> = chosen
        .iter()
        .map(|&row| {
            // The two kinds count the same, however many there are of each.
            let kind = if labels[row] {
                violating
            } else {
                all - violating
            };
            fit.dual(rows, row, labels[row], PENALTY_INVERSE * all / (2.0 * kind))
        })
        .collect();
    for dual in &duals {
        fit.update(rows, dual, dual.alpha);
    }
    let mut state = seed;
    for _ in 0..PASSES_MAX {
        shuffle(&mut duals, &mut state);
        let mut moved: f64 = 0.0;
        for dual in &mut duals {
            let step = fit.step(rows, dual);
            moved = moved.max(step.abs() / dual.limit);
        }
        if moved < SETTLED {
            break;
        }
    }
    fit
}

impl Fit {
    /// Frequencies and unevenness of every slot among the chosen rows; no weights yet.
    fn begin(rows: &Rows, labels: &[bool], chosen: &[usize]) -> Fit {
        let mut counts = vec![[0u32; 2]; SLOTS];
        let mut kinds = [0.0f64; 2];
        for &row in chosen {
            let kind = usize::from(labels[row]);
            kinds[kind] += 1.0;
            for slot in rows.all(row) {
                counts[*slot as usize][kind] += 1;
            }
        }
        let all = kinds[0] + kinds[1];
        let rarest = ((1.0 + all) / 2.0).ln();
        let mut fit = Fit {
            slots: vec![Slot::default(); SLOTS],
            frequencies: vec![0.0; SLOTS],
            codes: vec![0; SLOTS],
            rarest,
            bias: 0.0,
        };
        for (slot, [others, violating]) in counts.iter().enumerate() {
            let (others, violating) = (f64::from(*others), f64::from(*violating));
            if others + violating == 0.0 {
                continue;
            }
            let exact = 1.0 + ((1.0 + all) / (1.0 + others + violating)).ln();
            fit.codes[slot] = frequency_code(exact, rarest);
            let kept = frequency(fit.codes[slot], rarest);
            let share = (violating + 1.0) / (kinds[1] + 2.0) / ((others + 1.0) / (kinds[0] + 2.0));
            let value = kept * share.ln().abs().powf(UNEVENNESS);
            fit.frequencies[slot] = (kept * kept) as f32;
            fit.slots[slot].square = (value * value) as f32;
        }
        fit
    }

    fn scale(&self, rows: &Rows, row: usize) -> [f32; 2] {
        rows.kinds(row).map(|slots| {
            let sum: f64 = slots
                .iter()
                .map(|slot| f64::from(self.frequencies[*slot as usize]))
                .sum();
            if sum > 0.0 {
                sum.sqrt().recip() as f32
            } else {
                0.0
            }
        })
    }

    fn dual(&self, rows: &Rows, row: usize, violates: bool, limit: f64) -> Dual {
        let scale = self.scale(rows, row);
        let mut square = 1.0;
        for (slots, scale) in rows.kinds(row).iter().zip(scale) {
            let sum: f64 = slots
                .iter()
                .map(|slot| f64::from(self.slots[*slot as usize].square))
                .sum();
            square += sum * f64::from(scale * scale);
        }
        Dual {
            row,
            violates,
            scale,
            square,
            limit,
            alpha: limit * 1e-6,
        }
    }

    fn linear_scaled(&self, rows: &Rows, row: usize, scale: [f32; 2]) -> f64 {
        let mut linear = self.bias;
        for (slots, scale) in rows.kinds(row).iter().zip(scale) {
            let mut sum = 0.0f32;
            for slot in *slots {
                sum += self.slots[*slot as usize].weight;
            }
            linear += f64::from(sum * scale);
        }
        linear
    }

    fn linear(&self, rows: &Rows, row: usize) -> f64 {
        self.linear_scaled(rows, row, self.scale(rows, row))
    }

    /// Moves the weights as a change of a dual variable says.
    fn update(&mut self, rows: &Rows, dual: &Dual, change: f64) {
        let signed = if dual.violates { change } else { -change };
        for (slots, scale) in rows.kinds(dual.row).iter().zip(dual.scale) {
            let amount = signed as f32 * scale;
            for slot in *slots {
                let slot = &mut self.slots[*slot as usize];
                slot.weight += amount * slot.square;
            }
        }
        self.bias += signed;
    }

    /// The best value of one dual variable, the others as they are; gives the change.
    fn step(&mut self, rows: &Rows, dual: &mut Dual) -> f64 {
        let sign = if dual.violates { 1.0 } else { -1.0 };
        let margin = sign * self.linear_scaled(rows, dual.row, dual.scale);
        let (limit, old) = (dual.limit, dual.alpha);
        let (mut low, mut high) = (0.0, limit);
        let mut alpha = old;
        for _ in 0..30 {
            let slope = (alpha / (limit - alpha)).ln() + dual.square * (alpha - old) + margin;
            if slope.abs() < 1e-5 {
                break;
            }
            if slope > 0.0 {
                high = alpha;
            } else {
                low = alpha;
            }
            let bend = dual.square + limit / (alpha * (limit - alpha));
            let newton = alpha - slope / bend;
            alpha = match newton > low && newton < high {
                true => newton,
                false => (low + high) / 2.0,
            };
        }
        alpha = alpha.clamp(limit * 1e-12, limit * (1.0 - 1e-12));
        dual.alpha = alpha;
        self.update(rows, dual, alpha - old);
        alpha - old
    }

    fn bytes(&self, slope: f64, offset: f64, distinct: usize) -> Result<Vec<u8>, ScreenError> {
        let weights: Vec<f64> = self
            .slots
            .iter()
            .map(|slot| f64::from(slot.weight))
            .collect();
        let heaviest = weights
            .iter()
            .fold(0.0f64, |most, weight| most.max(weight.abs()));
        let numbers = Numbers {
            heaviest,
            rarest: self.rarest,
            bias: self.bias,
            slope,
            offset,
            trained_on: distinct as f64,
        };
        Weights::of(&weights, &self.codes, numbers)
    }
}

/// Slope and offset of the logistic curve that fits the labels of these scores best: Newton's method with the targets
/// and the step control of Lin, Lin and Weng (2007).
fn calibrate(scored: &[f64], labels: &[bool]) -> (f64, f64) {
    let violating = labels.iter().filter(|violates| **violates).count() as f64;
    let others = labels.len() as f64 - violating;
    let targets = [1.0 / (others + 2.0), (violating + 1.0) / (violating + 2.0)];
    let loss = |slope: f64, offset: f64| -> f64 {
        let one = |(score, violates): (&f64, &bool)| {
            let logit = slope * score + offset;
            // ln(1 + e^logit) - target * logit, without overflow.
            logit.max(0.0) + (-logit.abs()).exp().ln_1p() - targets[usize::from(*violates)] * logit
        };
        scored.iter().zip(labels).map(one).sum()
    };
    let prior = ((violating + 1.0) / (others + 1.0)).ln();
    let (mut slope, mut offset) = (0.0, prior);
    let mut now = loss(slope, offset);
    for _ in 0..100 {
        let (mut gradient, mut bend) = ([0.0; 2], [1e-9, 0.0, 1e-9]);
        for (score, violates) in scored.iter().zip(labels) {
            let p = 1.0 / (1.0 + (-(slope * score + offset)).exp());
            let (error, weight) = (p - targets[usize::from(*violates)], p * (1.0 - p));
            gradient[0] += error * score;
            gradient[1] += error;
            bend[0] += weight * score * score;
            bend[1] += weight * score;
            bend[2] += weight;
        }
        let determinant = bend[0] * bend[2] - bend[1] * bend[1];
        let move_slope = -(bend[2] * gradient[0] - bend[1] * gradient[1]) / determinant;
        let move_offset = -(bend[0] * gradient[1] - bend[1] * gradient[0]) / determinant;
        let mut share = 1.0;
        let mut better = false;
        while share > 1e-10 && !better {
            let (to, by) = (slope + share * move_slope, offset + share * move_offset);
            let then = loss(to, by);
            better = then < now - 1e-9;
            if better {
                (slope, offset, now) = (to, by, then);
            }
            share /= 2.0;
        }
        if !better {
            break;
        }
    }
    match slope > SLOPE_MIN {
        true => (slope, offset),
        false => (SLOPE_MIN, prior),
    }
}

/// Fisher and Yates, with splitmix64.
fn shuffle<T>(items: &mut [T], state: &mut u64) {
    for last in (1..items.len()).rev() {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        items.swap(last, (mixed % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
