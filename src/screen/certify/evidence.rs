//! What labels of samples support: the thresholds, and the bounds at them.
//!
//! Takes a population whose samples were asked, gives the certificate. What the samples are, and why the tests hold, is
//! said in [`super`].

use super::exact::{self, Draw, Kept, Known};
use super::plan::Ranked;
use super::{Bounds, Certificate, Design, Goal, Label, Study};
use std::ops::Range;

/// Thresholds that are tried over two samples.
const THRESHOLDS: usize = 64;
/// The most cautious of them clears this share of what may be cleared.
const FIRST: f64 = 0.1;
/// A threshold is tried where at least this share of the sample's density reaches.
const DENSITY_SHARE: f64 = 0.98;
/// By what factor more texts stand above each threshold for convicting than above the last.
const CONVICT_STEP: f64 = 1.2;

/// Where the samples came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// One sample of all texts, or all of them.
    All,
    /// Rows that stand for an endless population.
    Endless,
    /// Ranks below the first are sampled, ranks from the second on too; what lies between is not.
    Parts { cut: usize, core: usize },
}

/// Ranks with what is known of them.
pub(super) struct Evidence<'a> {
    ranked: &'a Ranked,
    sampled: &'a [bool],
    places: &'a [u32],
    goal: &'a Goal,
    from: From,
}

/// Thresholds as ranks, with what is certified of them.
#[derive(Default, Clone, Copy)]
struct Found {
    clear: Option<usize>,
    convict: Option<usize>,
    recall: Option<f64>,
    precision: Option<f64>,
}

impl<'a> Evidence<'a> {
    pub(super) fn new(study: &'a Study) -> Evidence<'a> {
        let from = match study.design {
            Design::Parts(plan) => From::Parts {
                cut: plan.cut,
                core: plan.core,
            },
            // No plan would have cleared anything: nothing was sampled.
            Design::Pilot => From::Parts { cut: 0, core: 0 },
            Design::New | Design::Uniform => From::All,
        };
        Evidence {
            ranked: &study.ranked,
            sampled: &study.sampled,
            places: &study.places,
            goal: &study.goal,
            from,
        }
    }

    pub(super) fn endless(study: &'a Study) -> Evidence<'a> {
        Evidence {
            from: From::Endless,
            ..Evidence::new(study)
        }
    }

    pub(super) fn certificate(&self, slices: &[u32]) -> Certificate {
        let mut found = match self.from {
            From::Parts { cut, core } => self.clear_by_parts(cut, core),
            From::All | From::Endless => self.clear_by_one(),
        };
        if let Some((rank, bound)) = self.convict(found.clear) {
            (found.convict, found.precision) = (Some(rank), Some(bound));
        }
        let count = slices.iter().max().map_or(0, |last| *last + 1);
        let slice = |slice: u32| {
            let ranks = 0..self.ranked.len();
            let within: Vec<usize> = ranks
                .filter(|rank| slices[self.places[*rank] as usize] == slice)
                .collect();
            let mut bounds = self.count(&within, &found);
            bounds.recall = found.clear.map(|cut| self.recall(&within, cut));
            bounds.precision = found.convict.map(|from| {
                let above: Vec<usize> = within.iter().copied().filter(|r| *r >= from).collect();
                self.precision(&above)
            });
            bounds
        };
        let all: Vec<usize> = (0..self.ranked.len()).collect();
        Certificate {
            // As low as clears the same texts: what lies between them and the next is unknown.
            clear_below: found
                .clear
                .map(|rank| self.ranked.scores[rank - 1].next_up()),
            convict_above: found.convict.map(|rank| self.ranked.scores[rank]),
            whole: Bounds {
                recall: found.recall,
                precision: found.precision,
                ..self.count(&all, &found)
            },
            slices: (0..count).map(slice).collect(),
            more_labels: None,
        }
    }

    fn count(&self, within: &[usize], found: &Found) -> Bounds {
        let count = |of: &dyn Fn(usize) -> bool| within.iter().filter(|r| of(**r)).count() as u64;
        Bounds {
            texts: within.len() as u64,
            cleared: count(&|rank| found.clear.is_some_and(|cut| rank < cut)),
            convicted: count(&|rank| found.convict.is_some_and(|from| rank >= from)),
            labels: count(&|rank| self.ranked.labels[rank].is_some()),
            violating: count(&|rank| self.ranked.labels[rank] == Some(Label::Violates)),
            recall: None,
            precision: None,
        }
    }

    /// A sample's counts over some ranks; what was asked outside of the samples is left out of its population.
    fn draw(&self, ranks: impl Iterator<Item = usize>, hit: impl Fn(Label) -> bool) -> Draw {
        let mut draw = Draw::default();
        for rank in ranks {
            match self.ranked.labels[rank] {
                None => draw.population += 1,
                Some(label) if self.sampled[rank] => {
                    draw.population += 1;
                    draw.sampled += 1;
                    draw.hits += u64::from(hit(label));
                }
                Some(_) => {}
            }
        }
        draw
    }

    /// The largest threshold whose recall one sample certifies.
    fn clear_by_one(&self) -> Found {
        let n = self.ranked.len();
        let labels = || (0..n).filter(|rank| self.sampled[*rank]);
        let kept = labels()
            .filter(|r| self.ranked.labels[*r] == Some(Label::Violates))
            .count();
        let sampled = labels().count() as u64;
        let whole = sampled == n as u64 && self.from == From::All;
        let (mut kept, mut missed) = (kept as u64, 0_u64);
        let mut found = Found::default();
        let mut allowed = (u64::MAX, None);
        let mut rank = 0;
        while rank < n {
            // Texts of one score are cleared together.
            let next = self
                .ranked
                .scores
                .partition_point(|s| *s <= self.ranked.scores[rank]);
            for at in (rank..next).filter(|at| self.sampled[*at]) {
                let label = self.ranked.labels[at];
                kept -= u64::from(label == Some(Label::Violates));
                missed += u64::from(label != Some(Label::Allowed));
            }
            let violating = kept + missed;
            let passes = if whole {
                kept as f64 >= self.goal.recall * violating as f64 && kept > 0
            } else {
                if allowed.0 != violating {
                    let population = if self.from == From::All {
                        n as u64
                    } else {
                        u64::MAX >> 12
                    };
                    let sample = Draw {
                        population,
                        sampled,
                        hits: violating,
                    };
                    let Goal { recall, delta, .. } = *self.goal;
                    allowed = (violating, exact::misses_allowed(sample, recall, delta));
                }
                allowed.1.is_some_and(|allowed| missed <= allowed) && kept > 0
            };
            if !passes {
                break;
            }
            found.clear = Some(next);
            rank = next;
        }
        let all: Vec<usize> = (0..n).collect();
        found.recall = match found.clear {
            // Certified for the goal; its own bound may say more.
            Some(cut) if !whole => Some(self.recall(&all, cut).max(self.goal.recall)),
            Some(cut) => Some(self.recall(&all, cut)),
            None if n > 0 => Some(self.recall(&all, self.ranked.edge(1))),
            None => None,
        };
        found
    }

    /// The largest threshold that two samples certify before one fails.
    fn clear_by_parts(&self, cut: usize, core: usize) -> Found {
        let all: Vec<usize> = (0..self.ranked.len()).collect();
        let kept = Kept::new(self.kept(&all, core));
        let mut found = Found::default();
        let mut first = None;
        for cut in self.thresholds(cut) {
            let (cleared, known) = (self.cleared(&all, cut), self.known(&all, cut, core));
            if !kept.reaches(cleared, known, self.goal.recall, self.goal.delta) {
                first = Some(cut);
                break;
            }
            found.clear = Some(cut);
        }
        found.recall = found.clear.or(first).map(|cut| {
            let (cleared, known) = (self.cleared(&all, cut), self.known(&all, cut, core));
            kept.bound(cleared, known, self.goal.delta)
        });
        found
    }

    /// The bound on the recall over some ranks when those below `cut` are cleared.
    fn recall(&self, within: &[usize], cut: usize) -> f64 {
        let delta = self.goal.delta;
        if let From::Parts { core, .. } = self.from {
            let kept = Kept::new(self.kept(within, core));
            let (cleared, known) = (self.cleared(within, cut), self.known(within, cut, core));
            return kept.bound(cleared, known, delta);
        }
        let sampled = || within.iter().filter(|rank| self.sampled[**rank]);
        let label = |rank: usize| self.ranked.labels[rank];
        let kept = sampled()
            .filter(|r| **r >= cut && label(**r) == Some(Label::Violates))
            .count();
        let missed = sampled()
            .filter(|r| **r < cut && label(**r) != Some(Label::Allowed))
            .count();
        let (kept, missed) = (kept as u64, missed as u64);
        match sampled().count() == within.len() && self.from == From::All {
            true if kept + missed > 0 => kept as f64 / (kept + missed) as f64,
            true => 0.0,
            false => exact::share_kept(kept + missed, missed, delta),
        }
    }

    fn kept(&self, within: &[usize], core: usize) -> Draw {
        let ranks = within.iter().copied().filter(|rank| *rank >= core);
        self.draw(ranks, |label| label == Label::Violates)
    }

    fn cleared(&self, within: &[usize], cut: usize) -> Draw {
        let ranks = within.iter().copied().filter(|rank| *rank < cut);
        self.draw(ranks, |label| label != Label::Allowed)
    }

    /// What is known outside of the two samples.
    fn known(&self, within: &[usize], cut: usize, core: usize) -> Known {
        let mut known = Known::default();
        for rank in within.iter().copied() {
            let outside = !self.sampled[rank] || (cut..core).contains(&rank);
            match self.ranked.labels[rank] {
                Some(label) if outside && rank < cut => {
                    known.cleared += u64::from(label != Label::Allowed);
                }
                Some(Label::Violates) if outside => known.kept += 1,
                _ => {}
            }
        }
        known
    }

    /// The ranks at which thresholds are tried, ascending. By chance the sample is thinner below some ranks, which a
    /// test there would pay for; none is tried there. The labels have no say in it.
    fn thresholds(&self, cut: usize) -> Vec<usize> {
        let most = cut.min(self.ranked.len().saturating_sub(1));
        let mut densities = Vec::with_capacity(most + 1);
        let (mut texts, mut drawn) = (0_u64, 0_u64);
        for rank in 0..=most {
            densities.push(drawn as f64 / texts.max(1) as f64);
            texts += u64::from(self.sampled[rank] || self.ranked.labels[rank].is_none());
            drawn += u64::from(self.sampled[rank]);
        }
        let enough = DENSITY_SHARE * densities[most];
        let first = (FIRST * most as f64) as usize;
        let at = |step: usize| first + (most - first) * step / THRESHOLDS;
        let mut ranks = Vec::new();
        for step in 0..THRESHOLDS {
            let edges =
                (at(step) + 1..=at(step + 1)).filter(|rank| self.ranked.edge(*rank) == *rank);
            let densest = edges.max_by(|a, b| densities[*a].total_cmp(&densities[*b]));
            ranks.extend(densest.filter(|rank| densities[*rank] >= enough));
        }
        ranks
    }

    /// The rank from which on texts are convicted, and the bound on the precision: thresholds are tried from the top
    /// downward, from as many sampled texts as can certify anything, until one fails.
    fn convict(&self, clear: Option<usize>) -> Option<(usize, f64)> {
        let goal = self.goal.precision?;
        let sampled: Vec<usize> = self
            .convictable(clear)
            .filter(|r| self.sampled[*r])
            .collect();
        let mut texts = (exact::hits_needed(goal, self.goal.delta) as f64 * CONVICT_STEP).ceil();
        let mut found = None;
        while let Some(at) = sampled.len().checked_sub(texts as usize) {
            let from = self.ranked.edge(sampled[at]);
            let above: Vec<usize> = (from..self.ranked.len()).collect();
            let bound = self.precision(&above);
            if bound < goal {
                break;
            }
            found = Some((from, bound));
            texts = (texts * CONVICT_STEP).ceil();
        }
        found.filter(|(from, _)| clear.is_none_or(|cut| *from >= cut))
    }

    fn convictable(&self, clear: Option<usize>) -> Range<usize> {
        let from = match self.from {
            From::Parts { core, .. } => core,
            From::All | From::Endless => clear.unwrap_or(0),
        };
        from..self.ranked.len()
    }

    /// The bound on the share of violating texts among ranks that are all within one sample's part.
    fn precision(&self, above: &[usize]) -> f64 {
        let draw = self.draw(above.iter().copied(), |label| label == Label::Violates);
        if self.from == From::Endless {
            return exact::share_kept(draw.sampled, draw.sampled - draw.hits, self.goal.delta);
        }
        let outside = above.iter().filter(|rank| {
            !self.sampled[**rank] && self.ranked.labels[**rank] == Some(Label::Violates)
        });
        let violating = exact::at_least(draw, self.goal.delta) + outside.count() as u64;
        match above.len() {
            0 => 0.0,
            texts => violating as f64 / texts as f64,
        }
    }
}
