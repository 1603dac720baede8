//! Where labels are worth most: what a pilot's labels say of where violating texts are, and which samples would certify
//! the most from it.
//!
//! Takes scores in order with labels of a few, gives two parts of the population and how many questions each gets. Only
//! plans: whatever it guesses wrongly costs texts that could have been cleared, never the guarantee.

use super::{Goal, Label};

/// A population in the order of its scores, as far as it was asked.
#[derive(Debug)]
pub(super) struct Ranked {
    /// Scores, ascending.
    pub scores: Vec<f64>,
    /// Labels that are known, in the same order.
    pub labels: Vec<Option<Label>>,
    /// Whether a label would cost no question.
    pub free: Vec<bool>,
}

impl Ranked {
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// The first rank of the score that stands at `rank`: texts of one score stand together.
    pub fn edge(&self, rank: usize) -> usize {
        match self.scores.get(rank) {
            Some(score) => self.scores.partition_point(|s| s < score),
            None => self.len(),
        }
    }
}

/// Two parts of a population and the questions for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Ranks below it may be cleared; a uniform sample of them says how many violate.
    pub cut: usize,
    /// Ranks from it on are kept, and a uniform sample of them says how many violate.
    pub core: usize,
    /// Questions for the first sample.
    pub below: u64,
    /// Questions for the second.
    pub above: u64,
    /// Texts that this would clear, as guessed.
    pub clears: usize,
}

/// Sums over the first ranks.
struct Sums {
    /// Texts not asked yet.
    open: Vec<u64>,
    /// Those of them that cost a question.
    paid: Vec<u64>,
    /// Violating texts among those not asked yet, as guessed.
    mass: Vec<f64>,
    /// Texts known to violate, or not known not to.
    missed: Vec<u64>,
    /// Texts known to violate.
    known: Vec<u64>,
}

impl Sums {
    fn new(ranked: &Ranked) -> Sums {
        let rates = rates(ranked);
        let n = ranked.len() + 1;
        let mut sums = Sums {
            open: vec![0; n],
            paid: vec![0; n],
            mass: vec![0.0; n],
            missed: vec![0; n],
            known: vec![0; n],
        };
        for rank in 0..ranked.len() {
            let label = ranked.labels[rank];
            let open = label.is_none();
            let add = |sums: &mut Vec<u64>, one: bool| sums[rank + 1] = sums[rank] + u64::from(one);
            add(&mut sums.open, open);
            add(&mut sums.paid, open && !ranked.free[rank]);
            add(&mut sums.missed, label.is_some_and(|l| l != Label::Allowed));
            add(&mut sums.known, label == Some(Label::Violates));
            let rate = if open { rates[rank] } else { 0.0 };
            sums.mass[rank + 1] = sums.mass[rank] + rate;
        }
        sums
    }
}

/// How likely each text violates: the scores through a logistic curve of two parameters, fitted to the labels that are
/// known and pulled towards the scores themselves (J. Platt, Probabilistic outputs for support vector machines, 1999).
fn rates(ranked: &Ranked) -> Vec<f64> {
    let at = |rank: usize| {
        let score = ranked.scores[rank].clamp(1e-7, 1.0 - 1e-7);
        (score / (1.0 - score)).ln()
    };
    let known: Vec<(f64, f64)> = ranked
        .labels
        .iter()
        .enumerate()
        .filter_map(|(rank, label)| {
            Some((at(rank), f64::from(*label.as_ref()? == Label::Violates)))
        })
        .collect();
    let (mut shift, mut slope) = (0.0, 1.0);
    // Newton's steps for a concave likelihood with normal priors: shift 0 +- 2, slope 1 +- 0.5.
    for _ in 0..25 {
        let (mut g0, mut g1) = (-shift / 4.0, -(slope - 1.0) / 0.25);
        let (mut h00, mut h01, mut h11) = (1.0 / 4.0, 0.0, 1.0 / 0.25);
        for (x, y) in &known {
            let p = logistic(shift + slope * x);
            let w = p * (1.0 - p);
            g0 += y - p;
            g1 += (y - p) * x;
            h00 += w;
            h01 += w * x;
            h11 += w * x * x;
        }
        let det = h00 * h11 - h01 * h01;
        let (d0, d1) = ((h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det);
        let size = (d0.abs() / 2.0).max(d1.abs() / 0.5).max(1.0);
        shift += d0 / size;
        slope += d1 / size;
        if d0.abs() + d1.abs() < 1e-6 {
            break;
        }
    }
    // A score that says nothing, or the opposite, still orders the texts.
    let slope = slope.max(0.0);
    (0..ranked.len())
        .map(|rank| logistic(shift + slope * at(rank)))
        .collect()
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Shares of the population that are tried as what may be cleared.
const CUTS: [f64; 22] = [
    0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.08,
    0.06, 0.04, 0.02, 0.01, 0.005,
];
/// Shares of the rest that are tried as the kept part to sample.
const CORES: [f64; 9] = [0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5, 0.75, 1.0];
/// Shares of the questions that are tried for what may be cleared.
const SHARES: [f64; 7] = [0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9];

/// How the samples may come out: by how many standard deviations the kept sample has fewer hits than it should, and by
/// what factor violating texts are more frequent than guessed.
const FORTUNES: [(f64, f64); 4] = [(-1.15, 1.25), (-0.32, 1.05), (0.32, 0.95), (1.15, 0.8)];

/// The plan that clears the most on average, as guessed; `None` where none would clear anything.
pub(super) fn plan(ranked: &Ranked, goal: &Goal, questions: u64) -> Option<Plan> {
    best(ranked, &Sums::new(ranked), goal, (questions, &CUTS))
}

/// The fewest questions with which a plan would clear about a twentieth, to a quarter; all, where none would.
pub(super) fn needed(ranked: &Ranked, goal: &Goal) -> u64 {
    let sums = Sums::new(ranked);
    let all = sums.paid[ranked.len()];
    let mut questions = 20;
    while questions < all {
        let plan = best(ranked, &sums, goal, (questions, &FEW));
        if plan.is_some_and(|plan| plan.clears >= ranked.len() / 20) {
            return questions;
        }
        questions += questions / 4;
    }
    all
}

/// What is tried of [`CUTS`] where little would do.
const FEW: [f64; 2] = [0.1, 0.06];

fn best(
    ranked: &Ranked,
    sums: &Sums,
    goal: &Goal,
    (questions, cuts): (u64, &[f64]),
) -> Option<Plan> {
    let n = ranked.len();
    let mut best: Option<Plan> = None;
    for cut in cuts {
        let cut = ranked.edge((cut * n as f64).ceil() as usize);
        if cut == n || cut <= best.map_or(0, |best| best.clears) {
            continue;
        }
        for core in CORES {
            let kept = (core * (n - cut) as f64).ceil() as usize;
            let core = ranked.edge(n - kept).max(cut);
            for share in SHARES {
                let below = ((share * questions as f64) as u64).min(sums.paid[cut]);
                let above = (questions - below).min(sums.paid[n] - sums.paid[core]);
                let mut plan = Plan {
                    cut,
                    core,
                    below,
                    above,
                    clears: 0,
                };
                plan.clears = clears(sums, goal, &plan);
                if plan.clears > best.map_or(0, |best| best.clears) {
                    best = Some(plan);
                }
            }
        }
    }
    best
}

/// How many texts a plan clears on average.
fn clears(sums: &Sums, goal: &Goal, plan: &Plan) -> usize {
    let mut sum = 0;
    for fortune in FORTUNES {
        match reach(sums, goal, plan, fortune) {
            Some(reach) => sum += reach.min(plan.cut),
            // With less luck it is not more.
            None => break,
        }
    }
    sum / FORTUNES.len()
}

/// The rank up to which a plan would clear if there were no cut.
fn reach(sums: &Sums, goal: &Goal, plan: &Plan, (caution, factor): (f64, f64)) -> Option<usize> {
    let n = sums.open.len() - 1;
    let density = |from: usize, to: usize, questions: u64| match sums.paid[to] - sums.paid[from] {
        0 => 1.0,
        paid => (questions as f64 / paid as f64).min(1.0),
    };
    let (below, above) = (
        density(0, plan.cut, plan.below),
        density(plan.core, n, plan.above),
    );
    let texts = (sums.open[n] - sums.open[plan.core]) as f64;
    let mass = factor * (sums.mass[n] - sums.mass[plan.core]);
    let spread = match texts > 0.0 && above > 0.0 {
        true => (mass * (1.0 - mass / texts).max(0.0) * (1.0 - above) / above).sqrt(),
        false => return None,
    };
    let seen = (mass - caution * spread).max(0.0);
    let known = (sums.known[n] - sums.known[plan.cut]) as f64;
    let odds = (1.0 - goal.recall) / goal.recall;
    let missed_known = sums.missed[plan.cut] as f64;
    // How `exact` guesses missed ones from hits, when it puts outcomes in order.
    let guess = |hits: f64| missed_known + (hits + 0.5 + (hits + 0.25).sqrt()) / below;
    let passes = |hits: u32| {
        [0.5, 1.0, 0.0, 1.5, -0.5, 2.0, -1.0, 3.0, -1.5]
            .iter()
            .all(|u| {
                let kept = seen + u * spread;
                if kept < mass * above {
                    return true;
                }
                let missed = odds * (known + kept) - missed_known;
                if missed <= 0.0 {
                    return false;
                }
                if below >= 1.0 {
                    return f64::from(hits) <= missed;
                }
                let mean = -(1.0 - below).ln() * missed;
                let mut p = (-mean).exp();
                let mut sum = 0.0;
                for other in 0..=hits + 8 {
                    let needed = (known + seen) * guess(other.into()) / guess(hits.into()) - known;
                    sum += p * normal((kept - needed) / spread.max(1e-9));
                    p *= mean / f64::from(other + 1);
                }
                sum <= goal.delta
            })
    };
    // No more hits than there are to be expected up to the cut need to pass.
    let most = (sums.mass[plan.cut] * factor * below).ceil().min(200.0) as u32;
    let hits = (0..=most).take_while(|hits| passes(*hits)).last()?;
    let mass = (f64::from(hits) + 0.67) / (below * factor);
    Some(sums.mass.partition_point(|m| *m < mass).saturating_sub(1))
}

/// The distribution function of a standard normal variable, to about 1e-4: it only plans.
fn normal(x: f64) -> f64 {
    logistic(1.5976 * x + 0.070_56 * x.powi(3))
}
