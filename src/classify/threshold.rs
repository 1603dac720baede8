//! From which gap on scores can be trusted: a threshold chosen on golden rows, with a bound that survives the choosing.
//!
//! Takes gaps with right or wrong, gives the smallest gap above which enough labels are right, or none. Pure.
//!
//! *The bound.* How many rows stand above each threshold is fixed by the number of rows and the target alone, before any
//! label is looked at. Given its gap, the rows above a threshold are then a sample of the texts above it, and the exact
//! binomial bound holds (Clopper and Pearson 1934). *Many thresholds.* They are tried from the strictest to the loosest
//! by the fallback procedure (Wiens 2003, Pharmaceutical Statistics 2:211): each has a share of the risk, which a
//! threshold that passes hands on to the next, so that the risk of trusting any threshold wrongly stays within
//! [`CALIBRATION_RISK`]; "Learn then Test" (Angelopoulos et al. 2021, arXiv:2110.01052) is the same idea for thresholds.

use crate::config::{CALIBRATION_RISK, CALIBRATION_STEPS};
use crate::screen::certify::exact;

/// A golden row's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Log-odds of the label against the next best one.
    pub gap: f64,
    /// Whether the label is the golden one.
    pub right: bool,
}

/// What was chosen, on what evidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Scores with this gap or more are trusted; `None` where none are.
    pub gap: Option<f64>,
    /// Rows at or above the gap; without one, at or above the best candidate, and all rows where there are too few.
    pub above: usize,
    /// Those of them that are right.
    pub right: usize,
    /// Lower confidence bound on the share of right labels there; at least the target where there is a gap.
    pub bound: f64,
}

/// The share of the risk that the strictest threshold has for itself; the others share the rest.
const FIRST: f64 = CALIBRATION_RISK / 2.0;

/// Rows that must stand above the strictest threshold: all right, they just pass.
pub fn rows_needed(target: f64) -> usize {
    // Finite and positive: the target is between 0 and 1.
    (FIRST.ln() / target.ln()).ceil().max(1.0) as usize
}

/// The smallest gap that passes. `target`: the share of right labels wanted, above 0 and below 1.
pub fn choose(rows: &[Scored], target: f64) -> Choice {
    assert!(target > 0.0 && target < 1.0, "bug: target {target}");
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| b.gap.total_cmp(&a.gap));
    let candidate = |above: usize, risk: f64| {
        let right = rows[..above].iter().filter(|row| row.right).count();
        Choice {
            gap: None,
            above,
            right,
            bound: lower_bound(above, right, risk),
        }
    };
    let first = rows_needed(target);
    if rows.len() < first {
        return candidate(rows.len(), FIRST);
    }
    let mut best: Option<Choice> = None;
    let mut carried = 0.0;
    for (step, above) in ranks(&rows, first).into_iter().enumerate() {
        let own = match step {
            0 => FIRST,
            _ => (CALIBRATION_RISK - FIRST) / (CALIBRATION_STEPS - 1) as f64,
        };
        let mut tried = candidate(above, own + carried);
        if at_least(above, tried.right, target) <= own + carried {
            carried += own;
            tried.gap = Some(rows[above - 1].gap);
            best = Some(tried);
        } else {
            carried = 0.0;
            let better = |b: Choice| b.gap.is_none() && b.bound < tried.bound;
            if best.is_none_or(better) {
                best = Some(tried);
            }
        }
    }
    best.expect("bug: no threshold was tried")
}

/// How many rows stand above each threshold, ascending, from `first` to all. Rows of one gap stand together.
fn ranks(rows: &[Scored], first: usize) -> Vec<usize> {
    let spread = rows.len() - first;
    let mut ranks: Vec<usize> = (0..CALIBRATION_STEPS)
        .map(|step| first + spread * step / (CALIBRATION_STEPS - 1))
        .map(|rank| rows.partition_point(|row| row.gap >= rows[rank - 1].gap))
        .collect();
    ranks.dedup();
    ranks
}

/// Probability of `right` or more of `rows`, where each is right with probability `p` (0 < p < 1).
fn at_least(rows: usize, right: usize, p: f64) -> f64 {
    exact::binomial(rows as u64, (rows - right) as u64, 1.0 - p)
}

/// Clopper and Pearson's lower bound on the share of right ones: below it, so many right ones are less likely than `risk`.
fn lower_bound(rows: usize, right: usize, risk: f64) -> f64 {
    exact::share_kept(rows as u64, (rows - right) as u64, risk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of gaps `n-1, .., 0`; the places of the wrong ones, counted from the largest gap.
    fn rows(n: usize, wrong: &[usize]) -> Vec<Scored> {
        (0..n)
            .map(|i| Scored {
                gap: (n - 1 - i) as f64,
                right: !wrong.contains(&i),
            })
            .collect()
    }

    #[test]
    fn the_bound_is_the_published_one() {
        // Clopper-Pearson lower bounds, one-sided 95%: closed forms for all right and one right, tables for the rest.
        let cases = [
            (59, 59, 0.05_f64.powf(1.0 / 59.0)),
            (10, 10, 0.05_f64.powf(0.1)),
            (10, 1, 1.0 - 0.95_f64.powf(0.1)),
            (10, 9, 0.605_84),
            (20, 18, 0.717_38),
            (100, 95, 0.897_75),
            (10, 0, 0.0),
            (0, 0, 0.0),
        ];
        for (rows, right, want) in cases {
            let got = lower_bound(rows, right, 0.05);
            assert!((got - want).abs() < 1e-4, "{right} of {rows}: {got}");
        }
        // Too many for p^rows as a float.
        let many = lower_bound(100_000, 95_000, 0.05);
        assert!((many - 0.948_86).abs() < 1e-4, "{many}");
    }

    #[test]
    fn rows_needed_are_the_fewest_that_pass() {
        for (target, want) in [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)] {
            assert_eq!(rows_needed(target), want);
            assert!(choose(&rows(want, &[]), target).gap.is_some());
            assert_eq!(choose(&rows(want - 1, &[]), target).gap, None);
        }
    }

    #[test]
    fn a_threshold_is_chosen_or_not() {
        let tail: Vec<usize> = (100..200).step_by(2).collect();
        let all: Vec<usize> = (0..200).collect();
        let half: Vec<usize> = (0..200).step_by(2).collect();
        // What, rows, target, the gap, rows above, right ones.
        let cases = [
            ("no rows", rows(0, &[]), 0.95, None, 0, 0),
            ("too few rows", rows(50, &[]), 0.95, None, 50, 50),
            ("all right", rows(200, &[]), 0.95, Some(0.0), 200, 200),
            ("all wrong", rows(200, &all), 0.95, None, 72, 0),
            ("every other", rows(200, &half), 0.95, None, 200, 100),
            // 72, 90, 108, 126, .. above.
            ("wrong below", rows(200, &tail), 0.95, Some(110.0), 90, 90),
            (
                "one wrong at the top",
                rows(200, &[0]),
                0.95,
                Some(0.0),
                200,
                199,
            ),
            (
                "a lower target",
                rows(200, &tail),
                0.7,
                Some(27.0),
                173,
                136,
            ),
        ];
        for (what, rows, target, gap, above, right) in cases {
            let got = choose(&rows, target);
            assert_eq!(
                (got.gap, got.above, got.right),
                (gap, above, right),
                "{what}: {got:?}"
            );
            assert_eq!(got.gap.is_some(), got.bound >= target, "{what}: {got:?}");
        }
    }

    #[test]
    fn rows_of_one_gap_stand_together() {
        let mut tied = rows(200, &[]);
        tied.iter_mut().for_each(|row| row.gap = 1.0);
        assert_eq!(choose(&tied, 0.95).gap, Some(1.0));
        assert_eq!(choose(&tied, 0.95).above, 200);
        // Wrong ones that share the gap of right ones are above it too.
        tied[..40].iter_mut().for_each(|row| row.right = false);
        assert_eq!(
            (choose(&tied, 0.95).gap, choose(&tied, 0.95).above),
            (None, 200)
        );
        // The order of the rows does not matter.
        let mut shuffled = rows(200, &[150, 160, 170]);
        let straight = choose(&shuffled, 0.95);
        shuffled.reverse();
        shuffled.rotate_left(77);
        assert_eq!(choose(&shuffled, 0.95), straight);
    }

    #[test]
    fn trusting_wrongly_is_as_rare_as_promised() {
        // SplitMix64; rows whose share of right ones is just below the target wherever one cuts.
        let mut state = 7_u64;
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) as f64 / 2_f64.powi(64)
        };
        let sets = 1_000;
        let mut trusted = 0;
        for _ in 0..sets {
            let rows: Vec<Scored> = (0..150)
                .map(|_| Scored {
                    gap: random(),
                    right: random() < 0.899,
                })
                .collect();
            trusted += usize::from(choose(&rows, 0.9).gap.is_some());
        }
        assert!(trusted <= sets * 7 / 100, "{trusted} of {sets}");
    }
}
