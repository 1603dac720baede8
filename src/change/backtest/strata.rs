//! A random sample of each stratum of a population that is seen once, row by row, and never held.
//!
//! Takes rows with a stratum, a weight and a chance; gives, for each stratum, how many rows it has and the rows that were
//! drawn, with how likely each was to be. Pure.
//!
//! *The draw.* A row's rank is exponential with its weight as rate, `-ln(chance) / weight`, and the rows of the smallest
//! ranks are kept: with equal weights a simple random sample without replacement, else one of Efraimidis and Spirakis
//! (Weighted random sampling with a reservoir, IPL 97, 2006). Given the first rank that was left out, each kept row was
//! in with probability `1 - exp(-weight * rank)`, whatever the others did (E. Cohen, H. Kaplan, Summarizing data using
//! bottom-k sketches, PODC 2007). So the first rows of a sample are a sample, and any sample may be cut after it was
//! drawn. Where chances come from a row's own bytes, the order in which rows come does not matter.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

/// A number above 0 and below 1 from random bits.
pub fn chance(bits: u64) -> f64 {
    // A bit fewer than a float holds, for the half.
    ((bits >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// A row that was drawn.
#[derive(Debug, Clone)]
pub struct Drawn<T> {
    /// The row.
    pub row: T,
    /// Above 0; how much more often than a row of weight 1 it is drawn.
    pub weight: f64,
    rank: f64,
    bytes: usize,
}

// By rank alone: a heap has the largest on top.
impl<T> Ord for Drawn<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.total_cmp(&other.rank)
    }
}

impl<T> PartialOrd for Drawn<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Drawn<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Drawn<T> {}

/// One stratum while rows come: kept is every row whose rank is below the first one that was left out.
#[derive(Debug)]
struct Reservoir<T> {
    population: u64,
    kept: BinaryHeap<Drawn<T>>,
    bytes: usize,
    left_out: f64,
}

impl<T> Default for Reservoir<T> {
    fn default() -> Self {
        Reservoir {
            population: 0,
            kept: BinaryHeap::new(),
            bytes: 0,
            left_out: f64::INFINITY,
        }
    }
}

impl<T> Reservoir<T> {
    fn leave_out(&mut self) -> usize {
        let Some(last) = self.kept.pop() else {
            return 0;
        };
        self.left_out = last.rank;
        self.bytes -= last.bytes;
        last.bytes
    }
}

/// All strata while rows come.
#[derive(Debug)]
pub struct Strata<K, T> {
    capacity: usize,
    bytes_max: usize,
    bytes: usize,
    cut: bool,
    by_key: BTreeMap<K, Reservoir<T>>,
}

impl<K: Ord + Clone, T> Strata<K, T> {
    /// Strata that keep `capacity` rows each, and `bytes_max` bytes in all: past it the largest lose rows.
    pub fn new(capacity: usize, bytes_max: usize) -> Self {
        Strata {
            capacity,
            bytes_max,
            bytes: 0,
            cut: false,
            by_key: BTreeMap::new(),
        }
    }

    /// Whether a limit on bytes made samples smaller.
    pub fn was_cut(&self) -> bool {
        self.cut
    }

    /// One more row of a stratum. `weight` is above 0 and finite, `chance` above 0 and below 1. The row is made only
    /// where it is kept for now, with the bytes that it holds.
    pub fn offer(
        &mut self,
        key: &K,
        (weight, chance): (f64, f64),
        row: impl FnOnce() -> (T, usize),
    ) {
        let stratum = match self.by_key.get_mut(key) {
            Some(stratum) => stratum,
            None => self.by_key.entry(key.clone()).or_default(),
        };
        stratum.population += 1;
        let rank = -chance.ln() / weight;
        if rank >= stratum.left_out {
            return;
        }
        let (row, bytes) = row();
        stratum.kept.push(Drawn {
            row,
            weight,
            rank,
            bytes,
        });
        stratum.bytes += bytes;
        self.bytes += bytes;
        if stratum.kept.len() > self.capacity {
            self.bytes -= stratum.leave_out();
        }
        while self.bytes > self.bytes_max {
            self.cut = true;
            let largest = self.by_key.values_mut().max_by_key(|stratum| stratum.bytes);
            match largest {
                Some(largest) if largest.bytes > 0 => self.bytes -= largest.leave_out(),
                _ => break,
            }
        }
    }

    /// Every stratum that has a row, by its key.
    pub fn finish(self) -> Vec<(K, Stratum<T>)> {
        let sorted = |(key, stratum): (K, Reservoir<T>)| {
            let whole = Stratum {
                population: stratum.population,
                kept: stratum.kept.into_sorted_vec(),
                left_out: stratum.left_out,
            };
            (key, whole)
        };
        self.by_key.into_iter().map(sorted).collect()
    }
}

/// One stratum when all rows have come.
#[derive(Debug)]
pub struct Stratum<T> {
    /// Rows in it.
    pub population: u64,
    /// By rank.
    kept: Vec<Drawn<T>>,
    left_out: f64,
}

impl<T> Stratum<T> {
    /// Rows that can be drawn.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// A sample of `n` of its rows at the most; each with one over how likely it was to be drawn.
    pub fn draw(mut self, n: usize) -> Vec<(Drawn<T>, f64)> {
        let first_out = self.kept.get(n).map_or(self.left_out, |next| next.rank);
        self.kept.truncate(n);
        let stands_for = |drawn: &Drawn<T>| 1.0 / -(-drawn.weight * first_out).exp_m1();
        self.kept
            .into_iter()
            .map(|drawn| {
                let factor = stands_for(&drawn);
                (drawn, factor)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::stats::Random;

    fn filled(n: u64, capacity: usize, seed: u64, weight: impl Fn(u64) -> f64) -> Stratum<u64> {
        let mut strata = Strata::new(capacity, usize::MAX);
        let mut random = Random::new(seed);
        for i in 0..n {
            strata.offer(&(), (weight(i), chance(random.next())), || (i, 8));
        }
        strata.finish().remove(0).1
    }

    #[test]
    fn chances_are_above_0_and_below_1() {
        assert!(chance(0) > 0.0);
        assert!(chance(u64::MAX) < 1.0);
    }

    #[test]
    fn what_fits_is_kept_whole_and_stands_for_itself() {
        let stratum = filled(5, 5, 1, |_| 1.0);
        assert_eq!((stratum.population, stratum.kept()), (5, 5));
        let drawn = stratum.draw(9);
        let mut rows: Vec<u64> = drawn.iter().map(|(d, _)| d.row).collect();
        rows.sort_unstable();
        assert_eq!(rows, [0, 1, 2, 3, 4]);
        assert!(drawn.iter().all(|(_, factor)| *factor == 1.0));
    }

    /// Each row of 20 is in about every fourth sample of 5; with weights, in proportion to them while they are small.
    #[test]
    fn every_row_has_its_chance() {
        let rounds = 20_000;
        let count = |weight: &dyn Fn(u64) -> f64, n: u64, take: usize| {
            let mut seen = vec![0_u32; n as usize];
            for seed in 0..rounds {
                for (drawn, _) in filled(n, take + 3, seed, weight).draw(take) {
                    seen[drawn.row as usize] += 1;
                }
            }
            seen
        };
        for (row, seen) in count(&|_| 1.0, 20, 5).into_iter().enumerate() {
            // Four standard deviations of a binomial count.
            assert!((f64::from(seen) - 5_000.0).abs() < 245.0, "{row}: {seen}");
        }
        let seen = count(&|i| if i == 0 { 3.0 } else { 1.0 }, 200, 2);
        let others = seen[1..].iter().map(|n| f64::from(*n)).sum::<f64>() / 199.0;
        let ratio = f64::from(seen[0]) / others;
        assert!((ratio - 3.0).abs() < 0.35, "{ratio}");
    }

    /// Sums over the sample, each row counted for those it stands for, are right on average.
    #[test]
    fn factors_make_up_for_weights() {
        let weight = |i: u64| 1.0 + (i % 10) as f64 * 3.0;
        let rounds = 4_000;
        let mut sum = 0.0;
        for seed in 0..rounds {
            let drawn = filled(100, 20, seed, weight).draw(20);
            sum += drawn.iter().map(|(_, factor)| factor).sum::<f64>();
        }
        let mean = sum / rounds as f64;
        assert!((mean - 100.0).abs() < 2.0, "{mean}");
    }

    /// The order in which rows come does not matter, only their chances.
    #[test]
    fn the_order_of_rows_does_not_matter() {
        let mut random = Random::new(3);
        let rows: Vec<(u64, f64)> = (0..500).map(|i| (i, chance(random.next()))).collect();
        let drawn = |rows: &[(u64, f64)]| {
            let mut strata = Strata::new(20, usize::MAX);
            for (row, chance) in rows {
                strata.offer(&(row % 3), (1.0, *chance), || (*row, 8));
            }
            let strata = strata.finish().into_iter();
            let rows = strata.flat_map(|(_, s)| s.draw(20).into_iter().map(|(d, _)| d.row));
            rows.collect::<Vec<_>>()
        };
        let mut backwards = rows.clone();
        backwards.reverse();
        assert_eq!(drawn(&rows), drawn(&backwards));
    }

    /// Past a number of bytes the largest stratum loses rows, and what is left is still a sample with the right factors.
    #[test]
    fn bytes_are_bounded() {
        let mut strata = Strata::new(100, 1_000);
        let mut random = Random::new(5);
        for i in 0..10_000_u64 {
            let key = u64::from(i % 100 == 0);
            strata.offer(&key, (1.0, chance(random.next())), || (i, 10));
            assert!(strata.bytes <= 1_000);
        }
        assert!(strata.was_cut());
        let strata = strata.finish();
        let kept: Vec<usize> = strata.iter().map(|(_, s)| s.kept()).collect();
        assert_eq!(kept.iter().sum::<usize>(), 100);
        assert!(kept.iter().all(|kept| *kept >= 40), "{kept:?}");
        for (_, stratum) in strata {
            let population = stratum.population as f64;
            let kept = stratum.kept() as f64;
            let sum: f64 = stratum.draw(usize::MAX).iter().map(|(_, f)| f).sum();
            let error = (sum - population).abs() / population;
            assert!(error < 4.0 / kept.sqrt(), "{sum} of {population}");
        }
    }
}
