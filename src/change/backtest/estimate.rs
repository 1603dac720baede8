//! From sampled rows to the whole source: shares with intervals.
//!
//! Takes the strata's sizes and the rows that were judged, each with how many rows it stands for; gives the share of rows
//! that have something. Pure. Within a stratum each row counts for those it stands for; the strata count by their size,
//! so that favouring some in the sample favours nothing in the figure. Where rows stand for different numbers of rows,
//! they tell less than as many equal ones, and the interval is that of Kish's effective number of rows
//! (L. Kish, Survey sampling, 1965), which is an approximation.

use crate::change::stats::{self, Estimate, Interval, stratified};

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
    Estimate {
        share,
        interval: Interval {
            low: (share - (rounded.share - rounded.interval.low)).clamp(0.0, share),
            high: (share + (rounded.interval.high - rounded.share)).clamp(share, 1.0),
        },
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
