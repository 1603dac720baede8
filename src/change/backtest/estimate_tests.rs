//! Sampling and estimation together, over whole populations whose truth is known.

use super::super::allot::{Room, allot};
use super::super::strata::{Strata, chance};
use super::*;
use crate::change::stats::Random;

/// A row of a population.
#[derive(Clone, Copy)]
struct Row {
    stratum: usize,
    flips: bool,
    weight: f64,
}

/// A population by stratum: rows, and how many of them flip; whether the stratum is favoured.
struct Shape {
    what: &'static str,
    strata: &'static [(u64, u64, bool)],
    sample: usize,
}

impl Shape {
    fn rows(&self) -> Vec<Row> {
        let of = |(stratum, (rows, flips, _)): (usize, &(u64, u64, bool))| {
            let (rows, flips) = (*rows, *flips);
            (0..rows).map(move |i| Row {
                stratum,
                flips: i < flips,
                weight: 1.0,
            })
        };
        self.strata.iter().enumerate().flat_map(of).collect()
    }
}

/// The sample of a seed and what it says of the share that flips.
fn estimated(rows: &[Row], favoured: &[bool], sample: usize, seed: u64) -> (Figure, u64) {
    let mut strata = Strata::new(sample, usize::MAX);
    let mut random = Random::new(seed);
    for row in rows {
        let drawing = (row.weight, chance(random.next()));
        strata.offer(&row.stratum, drawing, || (row.flips, 1));
    }
    let strata = strata.finish();
    let rooms: Vec<Room> = strata
        .iter()
        .map(|(key, stratum)| Room {
            population: stratum.population,
            kept: stratum.kept(),
            favoured: favoured[*key],
        })
        .collect();
    let given = allot(sample, &rooms);
    let populations: Vec<u64> = rooms.iter().map(|room| room.population).collect();
    let (mut seen, mut flips) = (Vec::new(), Vec::new());
    for (at, ((_, stratum), n)) in strata.into_iter().zip(given).enumerate() {
        for (drawn, factor) in stratum.draw(n) {
            seen.push(Seen {
                stratum: at,
                factor,
            });
            flips.push(drawn.row);
        }
    }
    let figure = share(&populations, &seen, |i| f64::from(u8::from(flips[i])));
    (figure, seen.len() as u64)
}

/// 100,000 rows of which 0.5% flip, wherever they are: the truth is within the interval for 93 seeds of 100 or more
/// (of 200, so that luck decides less).
#[test]
fn the_interval_holds_the_truth() {
    let shapes = [
        Shape {
            what: "flips anywhere, nothing judged yet",
            strata: &[(100_000, 500, false)],
            sample: 2_000,
        },
        Shape {
            what: "a rare violation, mostly cleared",
            strata: &[(99_500, 100, false), (500, 400, true)],
            sample: 2_000,
        },
        Shape {
            what: "one violation in a thousand, and new ones",
            strata: &[(99_900, 460, false), (100, 40, true)],
            sample: 2_000,
        },
        Shape {
            what: "many strata of all sizes",
            strata: &[
                (60_000, 150, false),
                (20_000, 50, false),
                (12_000, 100, false),
                (5_000, 50, true),
                (2_000, 60, true),
                (900, 60, true),
                (90, 25, true),
                (10, 5, true),
            ],
            sample: 2_000,
        },
        Shape {
            what: "twenty strata and a small sample",
            strata: &[(5_000, 25, false); 20],
            sample: 1_000,
        },
    ];
    std::thread::scope(|scope| {
        for shape in &shapes {
            scope.spawn(|| holds_the_truth(shape));
        }
    });
}

fn holds_the_truth(shape: &Shape) {
    let (rows, what) = (shape.rows(), shape.what);
    assert_eq!(rows.len(), 100_000, "{what}");
    let truth = rows.iter().filter(|row| row.flips).count() as f64 / rows.len() as f64;
    assert!((truth - 0.005).abs() < 1e-12, "{what}: {truth}");
    let favoured: Vec<bool> = shape
        .strata
        .iter()
        .map(|(_, _, favoured)| *favoured)
        .collect();
    let (mut held, mut sum, mut width) = (0, 0.0, 0.0);
    for seed in 0..200 {
        let (figure, sampled) = estimated(&rows, &favoured, shape.sample, seed);
        assert_eq!(sampled, shape.sample as u64);
        let Estimate { share, interval } = figure.estimate.unwrap();
        held += u32::from(interval.low <= truth && truth <= interval.high);
        sum += share / 200.0;
        width += (interval.high - interval.low) / 200.0;
    }
    assert!(held >= 186, "{what}: {held} of 200");
    // Neither by always saying "anything" nor by being off: the figure is right on average, the interval is narrow.
    assert!((sum - truth).abs() < 0.000_5, "{what}: {sum}");
    assert!(width < 0.025, "{what}: {width}");
}

/// What strata are for: where violations are rare and change, the same sample without strata says much less.
#[test]
fn strata_see_what_is_rare() {
    let shape = Shape {
        what: "",
        strata: &[(99_800, 0, false), (200, 100, true)],
        sample: 1_000,
    };
    let rows = shape.rows();
    let plain: Vec<Row> = rows.iter().map(|row| Row { stratum: 0, ..*row }).collect();
    let mut widths = [0.0, 0.0];
    let mut unseen = [0, 0];
    for seed in 0..20 {
        let both = [
            estimated(&rows, &[false, true], shape.sample, seed).0,
            estimated(&plain, &[false], shape.sample, seed).0,
        ];
        for (i, figure) in both.into_iter().enumerate() {
            let interval = figure.estimate.unwrap().interval;
            widths[i] += interval.high - interval.low;
            unseen[i] += u32::from(figure.hits == 0);
        }
    }
    assert_eq!(unseen[0], 0);
    assert!(unseen[1] >= 4, "{unseen:?}");
    assert!(widths[0] < widths[1], "{widths:?}");
}

/// Rows that matter more are drawn more often, and the share is still one of rows.
#[test]
fn weights_do_not_bend_the_share() {
    // Heavy rows flip far more often than light ones.
    let rows: Vec<Row> = (0..20_000)
        .map(|i| {
            let heavy = i % 20 == 0;
            Row {
                stratum: 0,
                flips: if heavy { i % 40 == 0 } else { i % 100 == 1 },
                weight: if heavy { 20.0 } else { 1.0 },
            }
        })
        .collect();
    let truth = rows.iter().filter(|row| row.flips).count() as f64 / rows.len() as f64;
    let (mut held, mut sum, mut seen) = (0, 0.0, 0);
    for seed in 0..100 {
        let (figure, _) = estimated(&rows, &[false], 1_000, seed);
        let Estimate { share, interval } = figure.estimate.unwrap();
        held += u32::from(interval.low <= truth && truth <= interval.high);
        sum += share;
        seen += figure.hits;
    }
    assert!(held >= 93, "{held} of 100");
    assert!(
        (sum / 100.0 - truth).abs() < 0.003,
        "{} {truth}",
        sum / 100.0
    );
    // Half of the weight is heavy, and a half of the heavy ones flip: drawn evenly, about 35 of 1,000 would.
    assert!(seen / 100 > 150, "{}", seen / 100);
}

#[test]
fn wilsons_interval_is_the_one_of_whole_rows() {
    for (hits, n) in [(1, 2), (3, 10), (7, 2_000), (1_990, 2_000)] {
        let want = stats::wilson(hits, n, stats::CONFIDENCE);
        let got = wilson(hits as f64 / n as f64, n as f64);
        assert!((got.low - want.low).abs() < 1e-12, "{hits} of {n}: {got:?}");
        assert!(
            (got.high - want.high).abs() < 1e-12,
            "{hits} of {n}: {got:?}"
        );
    }
}

#[test]
fn a_census_is_certain_and_nothing_seen_is_unknown() {
    let seen = |factor| [Seen { stratum: 0, factor }, Seen { stratum: 0, factor }];
    let all = share(&[2], &seen(1.0), |i| i as f64);
    let estimate = all.estimate.unwrap();
    assert_eq!((all.sampled, all.hits, estimate.share), (2, 1, 0.5));
    assert_eq!((estimate.interval.low, estimate.interval.high), (0.5, 0.5));
    let none = share(&[2], &[], |_| 1.0);
    assert_eq!((none.sampled, none.estimate), (0, None));
    // A stratum without rows is passed over, with what was seen in it.
    assert_eq!(share(&[0], &seen(1.0), |_| 1.0).sampled, 0);
}

#[test]
fn totals_are_means_times_rows() {
    let at = |stratum, factor| Seen { stratum, factor };
    let seen = [at(0, 5.0), at(0, 5.0), at(1, 1.0)];
    let quantity = |i: usize| [10.0, 20.0, 7.0][i];
    assert_eq!(total(&[10, 1], &seen, quantity), Some(157.0));
    // Nobody looked at the last one: it is as the others are.
    assert_eq!(total(&[10, 1, 11], &seen, quantity), Some(314.0));
    assert_eq!(total(&[10], &[], quantity), None);
}
