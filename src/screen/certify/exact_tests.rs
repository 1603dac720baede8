//! Bounds against closed forms, and against every outcome there can be.

use super::*;

fn choose(n: u64, k: u64) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

/// P(`hits`) by its definition.
fn chance(population: u64, marked: u64, sampled: u64, hits: u64) -> f64 {
    if hits > marked || hits > sampled || sampled - hits > population - marked {
        return 0.0;
    }
    choose(marked, hits) * choose(population - marked, sampled - hits) / choose(population, sampled)
}

#[test]
fn hits_are_as_likely_as_they_should_be() {
    for (population, marked, sampled) in [
        (10, 4, 3),
        (10, 0, 5),
        (10, 10, 5),
        (7, 3, 7),
        (60, 20, 30),
        (5, 2, 0),
    ] {
        let hits = Hits::new(population, marked, sampled);
        let tail = hits.at_least(sampled);
        for x in 0..=sampled {
            let want: f64 = (x..=sampled)
                .map(|x| chance(population, marked, sampled, x))
                .sum();
            assert!(
                (tail[x as usize] - want).abs() < 1e-12,
                "{population} {marked} {sampled} {x}"
            );
        }
    }
    // As an endless population, where it is large: 1 - 0.99^100.
    let tail = Hits::new(1_000_000, 10_000, 100).at_least(100);
    assert!(
        (tail[1] - (1.0 - 0.99_f64.powi(100))).abs() < 1e-4,
        "{}",
        tail[1]
    );
}

#[test]
fn bounds_of_one_sample_are_exact() {
    let draw = |population, sampled, hits| Draw {
        population,
        sampled,
        hits,
    };
    // All asked; none asked.
    assert_eq!(
        (
            at_least(draw(50, 50, 7), 0.05),
            at_most(draw(50, 50, 7), 0.05)
        ),
        (7, 7)
    );
    assert_eq!(
        (
            at_least(draw(50, 0, 0), 0.05),
            at_most(draw(50, 0, 0), 0.05)
        ),
        (0, 50)
    );
    // No hit in 100 of 1,000: as many marked ones as would all be overlooked with more than 5%.
    let most = at_most(draw(1_000, 100, 0), 0.05);
    assert!(chance(1_000, most, 100, 0) > 0.05 && chance(1_000, most + 1, 100, 0) <= 0.05);
    for (population, sampled) in [(30, 10), (30, 25), (12, 1)] {
        for marked in 0..=population {
            let wrong = |bad: &dyn Fn(Draw) -> bool| -> f64 {
                (0..=sampled.min(marked))
                    .filter(|hits| sampled - hits <= population - marked)
                    .filter(|hits| bad(draw(population, sampled, *hits)))
                    .map(|hits| chance(population, marked, sampled, hits))
                    .sum()
            };
            assert!(wrong(&|draw| at_least(draw, 0.1) > marked) <= 0.1);
            assert!(wrong(&|draw| at_most(draw, 0.1) < marked) <= 0.1);
        }
    }
}

#[test]
fn shares_of_endless_populations_are_the_published_ones() {
    for (hits, misses, want) in [
        (59, 0, 0.05_f64.powf(1.0 / 59.0)),
        (10, 9, 1.0 - 0.95_f64.powf(0.1)),
        (10, 1, 0.605_84),
        (20, 2, 0.717_38),
        (100, 5, 0.897_75),
        (4, 4, 0.0),
        (0, 0, 0.0),
    ] {
        let got = share_kept(hits, misses, 0.05);
        assert!((got - want).abs() < 1e-4, "{misses} of {hits}: {got}");
    }
    for (recall, want) in [(0.9, 29), (0.95, 59), (0.99, 299)] {
        assert_eq!(hits_needed(recall, 0.05), want);
        let endless = |hits| {
            misses_allowed(
                Draw {
                    population: u64::MAX >> 12,
                    sampled: hits,
                    hits,
                },
                recall,
                0.05,
            )
        };
        assert_eq!(
            (endless(want - 1), endless(want)),
            (None, Some(0)),
            "{recall}"
        );
    }
    assert_eq!(
        misses_allowed(
            Draw {
                population: 10,
                sampled: 5,
                hits: 0
            },
            0.9,
            0.05
        ),
        None
    );
}

/// Over every population that there can be and every outcome: not simulated, summed.
#[test]
fn the_joint_bound_is_wrong_with_delta_at_most() {
    let delta = 0.1;
    for (above, kept, below, cleared, known) in [
        (12, 6, 12, 6, Known::default()),
        (
            10,
            9,
            14,
            4,
            Known {
                kept: 3,
                cleared: 1,
            },
        ),
        (
            14,
            3,
            9,
            8,
            Known {
                kept: 0,
                cleared: 2,
            },
        ),
        (
            8,
            8,
            16,
            9,
            Known {
                kept: 5,
                cleared: 0,
            },
        ),
    ] {
        let bound = |x: u64, h: u64| {
            let kept = Kept::new(Draw {
                population: above,
                sampled: kept,
                hits: x,
            });
            kept.bound(
                Draw {
                    population: below,
                    sampled: cleared,
                    hits: h,
                },
                known,
                delta,
            )
        };
        let bounds: Vec<Vec<f64>> = (0..=kept)
            .map(|x| (0..=cleared).map(|h| bound(x, h)).collect())
            .collect();
        for a in 0..=above {
            for b in 0..=below {
                let (kept_all, missed_all) = (a + known.kept, b + known.cleared);
                if kept_all + missed_all == 0 {
                    continue;
                }
                let recall = kept_all as f64 / (kept_all + missed_all) as f64;
                let mut wrong = 0.0;
                for x in 0..=kept {
                    for h in 0..=cleared {
                        if bounds[x as usize][h as usize] > recall + 1e-9 {
                            wrong += chance(above, a, kept, x) * chance(below, b, cleared, h);
                        }
                    }
                }
                assert!(
                    wrong <= delta + 1e-9,
                    "{above} {below}: {a} kept, {b} missed: {wrong}"
                );
            }
        }
    }
}

#[test]
fn the_joint_bound_says_what_is_known_and_no_more() {
    let draw = |population, sampled, hits| Draw {
        population,
        sampled,
        hits,
    };
    let known = |kept, cleared| Known { kept, cleared };
    // Kept, cleared, known, bound at least, bound at most.
    let cases = [
        (
            "all asked",
            draw(50, 50, 9),
            draw(50, 50, 1),
            known(0, 0),
            0.9,
            0.9,
        ),
        (
            "all asked, none missed",
            draw(50, 50, 9),
            draw(50, 50, 0),
            known(0, 0),
            1.0,
            1.0,
        ),
        (
            "nothing found",
            draw(500, 100, 0),
            draw(500, 100, 0),
            known(0, 0),
            0.0,
            0.0,
        ),
        (
            "nothing asked",
            draw(500, 0, 0),
            draw(500, 0, 0),
            known(0, 0),
            0.0,
            0.0,
        ),
        (
            "known ones alone",
            draw(0, 0, 0),
            draw(0, 0, 0),
            known(8, 2),
            0.8,
            0.8,
        ),
        // Two bounds of delta / 2 each: 300 of 1,000 kept, 3.6 of 100 missed.
        (
            "better than two bounds",
            draw(1_000, 100, 40),
            draw(1_000, 100, 0),
            known(0, 0),
            0.93,
            0.95,
        ),
    ];
    for (what, kept, cleared, known, low, high) in cases {
        let bound = Kept::new(kept).bound(cleared, known, 0.05);
        assert!(
            low - 1e-6 <= bound && bound <= high + 1e-6,
            "{what}: {bound}"
        );
    }
    // What somebody else says is there counts.
    let floor = Kept::with_floor(draw(500, 0, 0), 90).bound(draw(50, 50, 10), known(0, 0), 0.05);
    assert!((floor - 0.9).abs() < 1e-6, "{floor}");
}

#[test]
fn violating_ones_of_one_sample_certify_with_delta_at_most() {
    let (population, sampled, recall, delta) = (40_u64, 20_u64, 0.7, 0.1);
    let allowed: Vec<Option<u64>> = (0..=sampled)
        .map(|hits| {
            misses_allowed(
                Draw {
                    population,
                    sampled,
                    hits,
                },
                recall,
                delta,
            )
        })
        .collect();
    assert!(
        allowed[15]
            > misses_allowed(
                Draw {
                    population: 4_000,
                    sampled,
                    hits: 15
                },
                recall,
                delta
            )
    );
    for violating in 1..=population {
        for missed in 0..=violating {
            if (violating - missed) as f64 >= recall * violating as f64 {
                continue;
            }
            let mut wrong = 0.0;
            for hits in 0..=sampled.min(violating) {
                for misses in 0..=hits.min(missed) {
                    if allowed[hits as usize].is_some_and(|allowed| misses <= allowed) {
                        wrong += chance(population, violating, sampled, hits)
                            * chance(violating, missed, hits, misses);
                    }
                }
            }
            assert!(wrong <= delta, "{missed} of {violating}: {wrong}");
        }
    }
}
