//! The guarantee, simulated: how often a certificate is wrong over many draws and populations.

use super::*;
use crate::screen::sample::mix;

/// Random numbers from a seed.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(1);
        (mix(mix(self.0)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A standard normal variable (G. Box, M. Muller, 1958).
    fn normal(&mut self) -> f64 {
        let (u, v) = (self.unit().max(1e-300), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// What scores are worth.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scores {
    /// Probabilities, and right ones, of violating texts this many standard deviations above the others.
    Apart(f64),
    /// The same, each too high or too low in logarithms of odds.
    Shifted(f64),
    /// Anything.
    Useless,
    /// Violating texts above all others.
    Perfect,
    /// Ten values in all.
    Ties,
    /// The best there are, turned around.
    Backwards,
}

struct Made {
    scores: Vec<f64>,
    violates: Vec<bool>,
    keys: Vec<u64>,
    free: Vec<bool>,
}

fn made(seed: u64, n: usize, prevalence: f64, kind: Scores) -> Made {
    let mut random = Random(seed << 32);
    let violates: Vec<bool> = (0..n).map(|_| random.unit() < prevalence).collect();
    let apart = if let Scores::Apart(apart) = kind {
        apart
    } else {
        2.3
    };
    let scores = violates.iter().map(|violates| {
        let at = random.normal() + if *violates { apart } else { 0.0 };
        let odds = (prevalence / (1.0 - prevalence)).ln() + apart * at - apart * apart / 2.0;
        let score = 1.0 / (1.0 + (-odds).exp());
        match kind {
            Scores::Apart(_) => score,
            Scores::Shifted(by) => 1.0 / (1.0 + (-odds - by).exp()),
            Scores::Useless => random.unit(),
            Scores::Perfect => (f64::from(u8::from(*violates)) + random.unit()) / 2.0,
            Scores::Ties => (score.powf(0.3) * 10.0).floor() / 10.0,
            Scores::Backwards => 1.0 - score,
        }
    });
    let scores = scores.collect();
    Made {
        scores,
        violates,
        keys: (0..n as u64).map(|at| mix(seed ^ at)).collect(),
        free: vec![false; n],
    }
}

impl Made {
    fn population(&self) -> Population<'_> {
        Population {
            scores: &self.scores,
            keys: &self.keys,
            free: &self.free,
        }
    }

    fn label(&self, place: u32) -> Label {
        match self.violates[place as usize] {
            true => Label::Violates,
            false => Label::Allowed,
        }
    }

    /// The certificate and the places that were asked, by a reasoner that is always right.
    fn certified(&self, goal: Goal, questions: u64, seed: u64) -> (Certificate, Vec<u32>) {
        let mut study = Study::new(&self.population(), goal, questions, seed).unwrap();
        let (mut asked, mut answers) = (Vec::new(), Vec::new());
        loop {
            let ask = study.next(&answers);
            if ask.is_empty() {
                return (study.conclude(&[], &[]), asked);
            }
            answers = ask
                .iter()
                .map(|place| (*place, self.label(*place)))
                .collect();
            asked.extend(ask);
        }
    }

    /// The share of violating texts at or above a score.
    fn recall(&self, from: f64) -> f64 {
        let all = self.violates.iter().filter(|violates| **violates).count();
        let kept = self
            .scores
            .iter()
            .zip(&self.violates)
            .filter(|(s, v)| **v && **s >= from);
        kept.count() as f64 / all as f64
    }

    fn precision(&self, from: f64) -> f64 {
        let above = self
            .scores
            .iter()
            .zip(&self.violates)
            .filter(|(s, _)| **s >= from);
        let (texts, hits) = above.fold((0, 0), |(t, h), (_, v)| (t + 1, h + i32::from(*v)));
        f64::from(hits) / f64::from(texts)
    }
}

const GOAL: Goal = Goal {
    recall: 0.9,
    delta: 0.1,
    precision: None,
};

/// The most misses in `runs` that are still likely where each has a probability of `delta`: 3 standard deviations.
fn tolerated(runs: u64, delta: f64) -> usize {
    let runs = runs as f64;
    (runs * delta + 3.0 * (runs * delta * (1.0 - delta)).sqrt()) as usize
}

/// Texts, share that violates, scores, questions, the least share of runs that clear something, runs.
type Run = (usize, f64, Scores, u64, f64, u64);

#[test]
fn a_certificate_is_wrong_no_more_often_than_delta() {
    hold(&[
        (1_000, 0.1, Scores::Apart(2.3), 300, 0.7, 500),
        (1_000, 0.1, Scores::Shifted(2.0), 300, 0.6, 200),
        (1_000, 0.1, Scores::Shifted(-2.0), 300, 0.6, 200),
        (60, 0.3, Scores::Apart(2.0), 40, 0.0, 500),
    ]);
}

#[test]
fn the_same_where_few_texts_violate() {
    hold(&[
        (1_500, 0.01, Scores::Apart(2.3), 800, 0.2, 500),
        (1_000, 0.02, Scores::Shifted(3.0), 500, 0.2, 200),
        (3_000, 0.001, Scores::Apart(3.5), 1_500, 0.0, 500),
    ]);
}

#[test]
fn the_same_whatever_scores_are_worth() {
    hold(&[
        (500, 0.1, Scores::Useless, 200, 0.0, 500),
        (500, 0.02, Scores::Backwards, 200, 0.0, 500),
        (1_000, 0.1, Scores::Perfect, 300, 0.9, 200),
        (1_000, 0.1, Scores::Ties, 300, 0.3, 200),
    ]);
}

/// How often certificates are wrong, and bounds too high, against what is promised.
fn hold(cases: &[Run]) {
    for case in cases {
        let (n, prevalence, scores, questions, least, runs) = *case;
        let (mut cleared, mut wrong, mut beyond) = (0, 0, 0);
        for seed in 0..runs {
            let made = made(seed, n, prevalence, scores);
            let (certificate, asked) = made.certified(GOAL, questions, seed);
            assert!(
                asked.len() as u64 <= questions,
                "{case:?}: {} asked",
                asked.len()
            );
            if let Some(from) = certificate.clear_below {
                let recall = made.recall(from);
                cleared += 1;
                wrong += usize::from(recall < GOAL.recall);
                beyond += usize::from(recall < certificate.whole.recall.unwrap() - 1e-6);
                assert!(
                    certificate.whole.recall.unwrap() >= GOAL.recall - 1e-6,
                    "{case:?}"
                );
                assert_eq!(certificate.more_labels, None);
            } else {
                assert!(certificate.more_labels > Some(0), "{case:?}");
            }
        }
        let most = tolerated(runs, GOAL.delta);
        assert!(wrong <= most, "{case:?}: {wrong} of {runs} are wrong");
        assert!(
            beyond <= most,
            "{case:?}: {beyond} of {runs} bounds are too high"
        );
        assert!(
            cleared as f64 >= least * runs as f64,
            "{case:?}: {cleared} of {runs}"
        );
    }
}

#[test]
fn the_order_of_rows_changes_nothing_and_the_first_are_no_sample() {
    let straight = made(3, 3_000, 0.1, Scores::Apart(2.3));
    let (certificate, asked) = straight.certified(GOAL, 300, 9);
    // As if sorted by time, with the violating ones last.
    let mut order: Vec<usize> = (0..3_000).collect();
    order.sort_by_key(|at| (straight.violates[*at], straight.keys[*at] % 7));
    let sorted = Made {
        scores: order.iter().map(|at| straight.scores[*at]).collect(),
        violates: order.iter().map(|at| straight.violates[*at]).collect(),
        keys: order.iter().map(|at| straight.keys[*at]).collect(),
        free: vec![false; 3_000],
    };
    let (other, others) = sorted.certified(GOAL, 300, 9);
    assert_eq!(certificate, other);
    let keys = |made: &Made, places: &[u32]| {
        let mut keys: Vec<u64> = places.iter().map(|at| made.keys[*at as usize]).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(&straight, &asked), keys(&sorted, &others));
    // About a tenth of them in each tenth of the rows.
    for tenth in 0..10 {
        let there = asked.iter().filter(|at| **at / 300 == tenth).count();
        assert!(
            (12..=50).contains(&there),
            "{there} of {} in tenth {tenth}",
            asked.len()
        );
    }
    // Another seed asks about others.
    assert_ne!(
        keys(&straight, &straight.certified(GOAL, 300, 10).1),
        keys(&straight, &asked)
    );
}

#[test]
fn whoever_asks_about_all_knows_exactly() {
    let all = |scores: &[f64], violates: &[bool]| {
        let made = Made {
            scores: scores.to_vec(),
            violates: violates.to_vec(),
            keys: (0..scores.len() as u64).collect(),
            free: vec![false; scores.len()],
        };
        made.certified(
            Goal {
                recall: 0.6,
                ..GOAL
            },
            scores.len() as u64,
            1,
        )
        .0
    };
    let (t, f) = (true, false);
    // Scores, which violate, the threshold, the recall, how many are cleared.
    type Case<'a> = (
        &'a str,
        &'a [f64],
        &'a [bool],
        Option<f64>,
        Option<f64>,
        u64,
    );
    let cases: [Case<'_>; 6] = [
        ("no text", &[], &[], None, None, 0),
        ("one", &[0.5], &[t], None, Some(0.0), 0),
        (
            "none violates",
            &[0.1, 0.2, 0.3],
            &[f, f, f],
            None,
            Some(0.0),
            0,
        ),
        (
            "one of three missed",
            &[0.1, 0.2, 0.3, 0.4, 0.5],
            &[f, t, f, t, t],
            Some(0.3_f64.next_up()),
            Some(2.0 / 3.0),
            3,
        ),
        (
            "ties stay together",
            &[0.1, 0.2, 0.2, 0.2, 0.5],
            &[f, t, f, t, t],
            Some(0.1_f64.next_up()),
            Some(1.0),
            1,
        ),
        ("all tied", &[0.2, 0.2, 0.2], &[f, t, t], None, Some(0.0), 0),
    ];
    for (what, scores, violates, below, recall, cleared) in cases {
        let got = all(scores, violates);
        assert_eq!(
            (got.clear_below, got.whole.cleared),
            (below, cleared),
            "{what}: {got:?}"
        );
        if below.is_some() {
            assert_eq!(got.whole.recall, recall, "{what}");
        }
        assert_eq!(got.more_labels, None, "{what}");
    }
}

#[test]
fn where_nothing_violates_nothing_is_certified() {
    for (n, questions) in [(500, 100), (500, 499), (500, 500), (20_000, 2_000)] {
        let made = Made {
            violates: vec![false; n],
            ..made(5, n, 0.05, Scores::Apart(2.0))
        };
        let (certificate, _) = made.certified(GOAL, questions, 1);
        assert_eq!(certificate.clear_below, None, "{questions} of {n}");
        assert_eq!(certificate.more_labels.is_some(), questions < n as u64);
    }
}

#[test]
fn what_cannot_be_certified_is_refused() {
    let goal = |recall, delta, precision| Goal {
        recall,
        delta,
        precision,
    };
    let cases = [
        (
            goal(1.0, 0.1, None),
            "recall 1 is not above 0 and below 1: only asking about every text misses none",
        ),
        (goal(0.0, 0.1, None), "recall 0 is not above 0 and below 1"),
        (
            goal(f64::NAN, 0.1, None),
            "recall NaN is not above 0 and below 1",
        ),
        (goal(0.9, 0.0, None), "delta 0 is not above 0 and below 0.5"),
        (
            goal(0.9, 0.5, None),
            "delta 0.5 is not above 0 and below 0.5",
        ),
        (
            goal(0.9, 0.1, Some(1.0)),
            "precision 1 is not above 0 and below 1",
        ),
    ];
    for (goal, want) in cases {
        assert_eq!(goal.check().unwrap_err().to_string(), want);
    }
    assert!(goal(0.9, 0.1, Some(0.95)).check().is_ok());
}

#[test]
fn what_is_not_decided_speaks_against_clearing() {
    let made = made(2, 2_000, 0.1, Scores::Apart(2.3));
    let run = |undecided: &dyn Fn(u32) -> bool| {
        let mut study = Study::new(&made.population(), GOAL, 600, 1).unwrap();
        let mut answers = Vec::new();
        loop {
            let ask = study.next(&answers);
            if ask.is_empty() {
                return study.conclude(&[], &[]);
            }
            // The second half of them has no answer at all, which is the same.
            let said = ask.iter().filter(|at| !undecided(**at) || **at % 2 == 0);
            answers = said
                .map(|at| {
                    (
                        *at,
                        if undecided(*at) {
                            Label::Undecided
                        } else {
                            made.label(*at)
                        },
                    )
                })
                .collect();
        }
    };
    let cleared = |certificate: &Certificate| certificate.whole.cleared;
    let all = run(&|_| false);
    assert!(cleared(&all) > 500, "{all:?}");
    assert!(cleared(&run(&|at| made.scores[at as usize] < 0.01)) < cleared(&all) / 2);
    assert_eq!(cleared(&run(&|_| true)), 0);
}

#[test]
fn labels_that_are_there_cost_nothing() {
    let mut made = made(4, 4_000, 0.1, Scores::Apart(2.3));
    let dear = made.certified(GOAL, 300, 1).0;
    made.free = (0..4_000).map(|at| at % 2 == 0).collect();
    let (cheap, asked) = made.certified(GOAL, 300, 1);
    assert!(asked.iter().filter(|at| !made.free[**at as usize]).count() <= 300);
    assert!((500..700).contains(&cheap.whole.labels), "{cheap:?}");
    assert!(dear.whole.labels <= 300 && cheap.whole.recall >= Some(GOAL.recall));
    // All of them: exact.
    made.free = vec![true; 4_000];
    let exact = made.certified(GOAL, 0, 1).0;
    assert_eq!(exact.whole.labels, 4_000);
    assert_eq!(
        exact.whole.recall,
        exact.clear_below.map(|from| made.recall(from))
    );
}

#[test]
fn convicting_is_wrong_no_more_often_than_delta() {
    let goal = Goal {
        precision: Some(0.8),
        ..GOAL
    };
    for (n, prevalence, scores, questions, least) in [
        (2_000, 0.2, Scores::Apart(3.0), 600, 0.8),
        (3_000, 0.04, Scores::Apart(3.5), 800, 0.1),
        (1_000, 0.2, Scores::Useless, 400, 0.0),
        (1_000, 0.2, Scores::Ties, 500, 0.0),
    ] {
        let (mut convicts, mut wrong) = (0, 0);
        for seed in 0..300 {
            let made = made(seed, n, prevalence, scores);
            let (certificate, _) = made.certified(goal, questions, seed);
            if let Some(from) = certificate.convict_above {
                convicts += 1;
                wrong += usize::from(made.precision(from) < 0.8);
                assert!(certificate.clear_below.is_none_or(|below| below <= from));
                assert!(
                    certificate.whole.convicted > 0 && certificate.whole.precision >= Some(0.8)
                );
            }
        }
        let what = (n, prevalence, scores);
        assert!(
            wrong <= tolerated(300, goal.delta),
            "{what:?}: {wrong} are wrong"
        );
        assert!(
            f64::from(convicts) >= least * 300.0,
            "{what:?}: {convicts} of 300"
        );
    }
}

#[test]
fn slices_have_bounds_of_their_own() {
    for (n, prevalence, questions) in [(4_000, 0.1, 1_000), (4_000, 0.02, 1_500)] {
        let (mut wrong, mut cleared) = ([0, 0], 0);
        for seed in 0..200 {
            let made = made(seed, n, prevalence, Scores::Apart(2.5));
            let slices: Vec<u32> = made
                .keys
                .iter()
                .map(|key| u32::from(key % 4 == 0))
                .collect();
            let mut study = Study::new(&made.population(), GOAL, questions, seed).unwrap();
            let mut answers = Vec::new();
            let certificate = loop {
                let ask = study.next(&answers);
                if ask.is_empty() {
                    break study.conclude(&[], &slices);
                }
                answers = ask.iter().map(|at| (*at, made.label(*at))).collect();
            };
            let texts: u64 = certificate.slices.iter().map(|slice| slice.texts).sum();
            let labels: u64 = certificate.slices.iter().map(|slice| slice.labels).sum();
            assert_eq!((texts, labels), (n as u64, certificate.whole.labels));
            let Some(from) = certificate.clear_below else {
                continue;
            };
            cleared += 1;
            for (at, slice) in certificate.slices.iter().enumerate() {
                let of = |least: f64| {
                    let all = made.scores.iter().zip(&made.violates).zip(&slices);
                    all.filter(|((s, v), of)| **v && **of as usize == at && **s >= least)
                        .count()
                };
                let recall = of(from) as f64 / of(0.0).max(1) as f64;
                wrong[at] += usize::from(slice.recall.unwrap() > recall + 1e-6);
            }
        }
        assert!(cleared > 50, "{cleared}");
        assert!(
            wrong
                .iter()
                .all(|wrong| *wrong <= tolerated(200, GOAL.delta)),
            "{wrong:?}"
        );
    }
}

#[test]
fn rows_certify_what_is_like_them() {
    let (mut cleared, mut wrong) = (0, 0);
    for seed in 0..500 {
        let known = made(seed, 600, 0.2, Scores::Apart(2.5));
        let rows: Vec<(f64, Label)> = (0..600)
            .map(|at| (known.scores[at], known.label(at as u32)))
            .collect();
        let certificate = of_rows(&rows, GOAL, &[]).unwrap();
        if let Some(from) = certificate.clear_below {
            cleared += 1;
            wrong += usize::from(
                made(seed + 1_000, 20_000, 0.2, Scores::Apart(2.5)).recall(from) < GOAL.recall,
            );
        }
    }
    assert!(
        cleared == 500 && wrong <= tolerated(500, GOAL.delta),
        "{wrong} of {cleared}"
    );
    // All were asked, and still few say little of those to come.
    let few: Vec<(f64, Label)> = (0..21).map(|at| (f64::from(at), Label::Violates)).collect();
    let certificate = of_rows(&few, GOAL, &[]).unwrap();
    assert_eq!(
        (certificate.clear_below, certificate.more_labels),
        (None, Some(1))
    );
    assert_eq!(of_rows(&[], GOAL, &[]).unwrap().clear_below, None);
}
