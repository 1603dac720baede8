//! Statistics of samples: shares with intervals, a bootstrap where there is no formula, and random numbers for both.
//!
//! Takes counts, gives figures with intervals; the same counts and seed give the same figures on every machine. Knows
//! nothing of policies, texts or SQL.
//!
//! - A share: Wilson's score interval (E. B. Wilson, Probable inference, the law of succession, and statistical
//!   inference, JASA 22, 1927), which stands near 0 and 1 and in small samples, where the textbook's interval does not.
//! - A share over strata: MOVER, which keeps the strata's asymmetric intervals (A. Donner, G. Y. Zou, Closed-form
//!   confidence intervals for functions of the normal mean and standard deviation, Stat. Methods Med. Res. 21, 2012).
//! - The F1 of a label: TP / (TP + FP + FN) is a share of the rows that it counts, F1 grows with it, and so Wilson's
//!   interval of the one gives that of the other. Percentiles of a bootstrap cover 95% in name only once a label is
//!   nearly always right (`tests` below has figures), and are the figure itself when it always is.
//! - Any other figure: percentiles of a bootstrap over rows (B. Efron, Bootstrap methods, Ann. Statist. 7, 1979).
//! - Random numbers: SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, Fast splittable pseudorandom number generators,
//!   OOPSLA 2014).

use crate::config::BOOTSTRAP_ROUNDS;
use crate::screen::sample::{STEP, mix};

/// Confidence of every interval that is shown.
pub const CONFIDENCE: f64 = crate::config::EVALUATION_CONFIDENCE;

/// Where a figure lies, with some confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Not above the figure.
    pub low: f64,
    /// Not below it.
    pub high: f64,
}

impl Interval {
    /// What is known of a share without a sample.
    pub const UNKNOWN: Interval = Interval {
        low: 0.0,
        high: 1.0,
    };

    /// The same of a figure that grows with this one.
    fn map(self, grows: impl Fn(f64) -> f64) -> Interval {
        Interval {
            low: grows(self.low),
            high: grows(self.high),
        }
    }
}

/// The interval of a share of which `hits` of `n` independent draws had it; all of 0 to 1 where there were none.
/// `confidence` is above 0 and below 1.
///
/// # Panics
/// There are more hits than draws.
pub fn wilson(hits: u64, n: u64, confidence: f64) -> Interval {
    assert!(hits <= n, "bug: {hits} hits in {n} draws");
    match n {
        0 => Interval::UNKNOWN,
        _ => score(hits, n, n as f64, confidence),
    }
}

/// Wilson's interval of `hits` in `n` draws that tell as much as `worth` independent ones.
fn score(hits: u64, n: u64, worth: f64, confidence: f64) -> Interval {
    let share = hits as f64 / n as f64;
    let z = normal_quantile(0.5 + confidence / 2.0);
    let shrink = 1.0 + z * z / worth;
    let middle = (share + z * z / (2.0 * worth)) / shrink;
    let half = z / shrink * (share * (1.0 - share) / worth + z * z / (4.0 * worth * worth)).sqrt();
    // At the ends the formula gives them but for rounding.
    Interval {
        low: if hits == 0 { 0.0 } else { middle - half }.clamp(0.0, share),
        high: if hits == n { 1.0 } else { middle + half }.clamp(share, 1.0),
    }
}

/// A label's F1 and its interval, from rows that have the label and got it (`hits`), got it wrongly (`false_hits`), and
/// have it and did not get it (`missed`); `None` where there is no such row.
pub fn f1(hits: u64, false_hits: u64, missed: u64, confidence: f64) -> Option<(f64, Interval)> {
    let counted = hits + false_hits + missed;
    if counted == 0 {
        return None;
    }
    let figure = 2.0 * hits as f64 / (counted + hits) as f64;
    let interval = wilson(hits, counted, confidence).map(|share| 2.0 * share / (1.0 + share));
    Some((figure, interval))
}

/// A part of a population from which a random sample was drawn without replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stratum {
    /// Rows in it.
    pub population: u64,
    /// Rows that were looked at.
    pub sampled: u64,
    /// Those of them that have what is counted.
    pub hits: u64,
}

impl Stratum {
    /// The share and its interval. Where nothing was sampled they are 0.5 and everything; where everything was, there
    /// is nothing uncertain about it.
    fn estimate(&self, confidence: f64) -> Estimate {
        let Stratum {
            population,
            sampled,
            hits,
        } = *self;
        assert!(
            hits <= sampled && sampled <= population,
            "bug: {hits} hits in {sampled} of {population} rows"
        );
        if sampled == 0 {
            return Estimate {
                share: 0.5,
                interval: Interval::UNKNOWN,
            };
        }
        let share = hits as f64 / sampled as f64;
        let interval = match population - sampled {
            0 => Interval {
                low: share,
                high: share,
            },
            // A draw without replacement tells more (W. G. Cochran, Sampling techniques, 1977, 2.6): its variance is
            // that of an independent one times (N - n) / (N - 1).
            rest => {
                let worth = sampled as f64 * (population - 1) as f64 / rest as f64;
                score(hits, sampled, worth, confidence)
            }
        };
        Estimate { share, interval }
    }
}

/// A share and where it lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The share itself, 0 to 1.
    pub share: f64,
    /// With [`CONFIDENCE`].
    pub interval: Interval,
}

/// The share over all strata together, each weighing as many rows as it has. Empty strata count nothing; where all are,
/// there is no share: 0, and nothing is known.
///
/// A stratum that nobody looked at widens the interval by all of its weight, and counts as half a hit a row.
pub fn stratified(strata: &[Stratum]) -> Estimate {
    let population: u64 = strata.iter().map(|stratum| stratum.population).sum();
    if population == 0 {
        return Estimate {
            share: 0.0,
            interval: Interval::UNKNOWN,
        };
    }
    let (mut share, mut below, mut above) = (0.0, 0.0, 0.0);
    for stratum in strata.iter().filter(|stratum| stratum.population > 0) {
        let weight = stratum.population as f64 / population as f64;
        let part = stratum.estimate(CONFIDENCE);
        share += weight * part.share;
        below += (weight * (part.share - part.interval.low)).powi(2);
        above += (weight * (part.interval.high - part.share)).powi(2);
    }
    let share = share.clamp(0.0, 1.0);
    Estimate {
        share,
        interval: Interval {
            low: (share - below.sqrt()).max(0.0),
            high: (share + above.sqrt()).min(1.0),
        },
    }
}

/// The interval of a figure that depends on how many rows of each kind there are: percentiles of the figure over
/// resamples of the rows. `rows[kind]` is how many there are; where `figure` gives `None` for a resample, that is left
/// out, and where it gives none for any, nothing is known. It tells too little about a figure at its end (see above).
pub fn bootstrap(
    rows: &[u64],
    figure: impl Fn(&[u64]) -> Option<f64>,
    confidence: f64,
    random: &mut Random,
) -> Interval {
    let n: u64 = rows.iter().sum();
    let mut ends = Vec::with_capacity(rows.len());
    let mut end = 0;
    for kind in rows {
        end += kind;
        ends.push(end);
    }
    let mut figures = Vec::with_capacity(BOOTSTRAP_ROUNDS);
    let mut drawn = vec![0; rows.len()];
    for _ in 0..BOOTSTRAP_ROUNDS {
        drawn.fill(0);
        for _ in 0..n {
            let row = random.below(n);
            drawn[ends.partition_point(|end| *end <= row)] += 1;
        }
        figures.extend(figure(&drawn));
    }
    figures.sort_unstable_by(f64::total_cmp);
    let Some(last) = figures.len().checked_sub(1) else {
        return Interval::UNKNOWN;
    };
    let at = |quantile: f64| figures[(quantile * last as f64).round() as usize];
    Interval {
        low: at((1.0 - confidence) / 2.0),
        high: at((1.0 + confidence) / 2.0),
    }
}

/// Random numbers that a seed fixes: SplitMix64. Not for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Another seed gives other numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator that never ends would wrap every number in an Option"
    )]
    pub fn next(&mut self) -> u64 {
        let bits = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        bits
    }

    /// A whole number below `n`, each as likely as any other.
    ///
    /// # Panics
    /// `n` is 0: there is no such number.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "bug: a number below 0");
        // The high half of bits * n is uniform once the few low halves that would favour some numbers are drawn again
        // (D. Lemire, Fast random integer generation in an interval, ACM TOMACS 29, 2019).
        loop {
            let wide = u128::from(self.next()) * u128::from(n);
            let (high, low) = ((wide >> 64) as u64, wide as u64);
            if low >= n || low >= n.wrapping_neg() % n {
                return high;
            }
        }
    }

    /// At least 0 and below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The value below which a standard normal variable lies with a probability above 0 and below 1.
fn normal_quantile(probability: f64) -> f64 {
    let (mut low, mut high) = (-7.0, 7.0);
    // Halved until the ends are neighbours.
    loop {
        let middle = (low + high) / 2.0;
        if middle <= low || middle >= high {
            return middle;
        }
        if normal(middle) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// The distribution function of a standard normal variable, by its series (G. Marsaglia, Evaluating the normal
/// distribution, J. Stat. Softw. 11, 2004); for values within -7 to 7.
fn normal(at: f64) -> f64 {
    let (mut sum, mut term, mut odd) = (at, at, 1.0);
    while term != 0.0 {
        odd += 2.0;
        term *= at * at / odd;
        let next = sum + term;
        if next == sum {
            break;
        }
        sum = next;
    }
    let density = (-at * at / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    0.5 + sum * density
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
