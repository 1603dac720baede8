//! From sampled rows to the whole source: shares with intervals.
//!
//! Takes the strata's sizes and the rows that were judged, each with how many rows it stands for; gives the share of rows
//! that have something. Pure. Within a stratum each row counts for those it stands for; the strata count by their size,
//! so that favouring some in the sample favours nothing in the figure. Where rows stand for different numbers of rows,
//! they tell less than as many equal ones, and the interval is that of Kish's effective number of rows
//! (L. Kish, Survey sampling, 1965), which is an approximation.
//!
//! *The interval* holds both of two. That of [`stratified`] (MOVER over Wilson's intervals) alone is too high at its low
//! end where many strata each have few hits: it misses the truth up to one time in eight there. Wilson's interval of the
//! whole, for the number of independent rows that would be as uncertain (E. L. Korn, B. I. Graubard, Confidence intervals
//! for proportions with small expected number of positive counts, Survey Methodology 24, 1998), is right there and wrong
//! where nothing was hit. `tests` below has the coverage of both together.

use crate::change::stats::{self, Estimate, Interval, stratified};

/// Standard deviations of a normal variable that hold it with [`stats::CONFIDENCE`].
const Z: f64 = 1.959_963_984_540_054;

/// A judged row.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Index of its stratum.
    pub stratum: usize,
    /// Rows that it stands for.
    pub factor: f64,
}

/// What is known of a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Rows looked at.
    pub sampled: u64,
    /// Those that have it.
    pub hits: u64,
    /// As a share of all rows; `None` where none was looked at.
    pub estimate: Option<Estimate>,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    rows: u64,
    factors: f64,
    squares: f64,
    hits: f64,
}

impl Sums {
    fn share(&self) -> f64 {
        // As stats has it where nobody looked.
        if self.rows == 0 {
            return 0.5;
        }
        self.hits / self.factors
    }

    fn stratum(&self, population: u64) -> stats::Stratum {
        if self.rows == 0 {
            return stats::Stratum {
                population,
                sampled: 0,
                hits: 0,
            };
        }
        let effective = (self.factors * self.factors / self.squares).round() as u64;
        let sampled = effective.clamp(1, population.max(1));
        stats::Stratum {
            population,
            sampled,
            hits: ((self.share() * sampled as f64).round() as u64).min(sampled),
        }
    }
}

/// The share of all rows that have something. `populations`: rows of each stratum; rows of a stratum of none are passed
/// over. `hit`: how far the row at an index has it, 0 to 1.
pub fn share(populations: &[u64], seen: &[Seen], hit: impl Fn(usize) -> f64) -> Figure {
    let mut sums = vec![Sums::default(); populations.len()];
    let (mut sampled, mut hits) = (0, 0);
    for (i, row) in seen.iter().enumerate() {
        if populations[row.stratum] == 0 {
            continue;
        }
        let share = hit(i);
        let sum = &mut sums[row.stratum];
        sum.rows += 1;
        sum.factors += row.factor;
        sum.squares += row.factor * row.factor;
        sum.hits += row.factor * share;
        sampled += 1;
        hits += u64::from(share > 0.0);
    }
    let estimate = (sampled > 0).then(|| combined(populations, &sums));
    Figure {
        sampled,
        hits,
        estimate,
    }
}

fn combined(populations: &[u64], sums: &[Sums]) -> Estimate {
    let all: u64 = populations.iter().sum();
    let strata: Vec<stats::Stratum> = populations
        .iter()
        .zip(sums)
        .map(|(population, sum)| sum.stratum(*population))
        .collect();
    let parts = populations.iter().zip(sums);
    let share: f64 = parts
        .map(|(population, sum)| *population as f64 / all as f64 * sum.share())
        .sum();
    // Hits are whole numbers there, which moves the share a little where rows are weighted: the interval moves back.
    let rounded = stratified(&strata);
    let share = share.clamp(0.0, 1.0);
    let (low, high) = (
        share - (rounded.share - rounded.interval.low),
        share + (rounded.interval.high - rounded.share),
    );
    let whole = whole(share, &strata);
    Estimate {
        share,
        interval: Interval {
            low: whole
                .map_or(low, |whole| whole.low.min(low))
                .clamp(0.0, share),
            high: whole
                .map_or(high, |whole| whole.high.max(high))
                .clamp(share, 1.0),
        },
    }
}

/// Wilson's interval of the whole's share, for as many independent rows as would be as uncertain about it. The variance
/// is that of shares moved half a hit from either end, so that a stratum without a hit is not taken for certain. `None`
/// where the share is at an end or nothing is uncertain.
fn whole(share: f64, strata: &[stats::Stratum]) -> Option<Interval> {
    let all: u64 = strata.iter().map(|stratum| stratum.population).sum();
    let mut variance = 0.0;
    for stratum in strata.iter().filter(|stratum| stratum.population > 0) {
        let (rows, n) = (stratum.population as f64, stratum.sampled as f64);
        let moved = (stratum.hits as f64 + 0.5) / (n + 1.0);
        let unseen = match stratum.population {
            1 => 1.0 - n,
            _ => (rows - n) / (rows - 1.0),
        };
        variance += (rows / all as f64).powi(2) * moved * (1.0 - moved) / n.max(1.0) * unseen;
    }
    if share <= 0.0 || share >= 1.0 || variance <= 0.0 {
        return None;
    }
    Some(wilson(share, share * (1.0 - share) / variance))
}

/// Wilson's interval of a share that `n` independent rows, not necessarily a whole number of them, have.
fn wilson(share: f64, n: f64) -> Interval {
    let z = Z;
    let shrink = 1.0 + z * z / n;
    let middle = (share + z * z / (2.0 * n)) / shrink;
    let half = z / shrink * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    Interval {
        low: middle - half,
        high: middle + half,
    }
}

/// A sum over all rows of a quantity that was looked at in some: the mean of each stratum times its rows. A stratum that
/// nobody looked at has the mean of the others; `None` where nobody looked at all.
pub fn total(populations: &[u64], seen: &[Seen], quantity: impl Fn(usize) -> f64) -> Option<f64> {
    let mut sums = vec![(0.0, 0.0); populations.len()];
    for (i, row) in seen.iter().enumerate() {
        sums[row.stratum].0 += row.factor;
        sums[row.stratum].1 += row.factor * quantity(i);
    }
    let (mut known, mut sum) = (0, 0.0);
    for (population, (factors, quantities)) in populations.iter().zip(sums) {
        if factors > 0.0 {
            known += population;
            sum += *population as f64 * quantities / factors;
        }
    }
    let all: u64 = populations.iter().sum();
    (known > 0).then(|| sum * all as f64 / known as f64)
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
