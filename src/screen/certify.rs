//! The certificate of a screen: a threshold below which texts are cleared, and how many violating ones it keeps at least.
//!
//! Takes the scores of a population of different texts and, in rounds, labels of those it asks for; gives a
//! [`Certificate`]. Pure: asks nobody itself, and knows no texts, policies or SQL.
//!
//! *The claim.* Recall is the share of the population's violating texts whose score is at least `clear_below`. With
//! probability 1 - delta over the draw it is at least the goal, whatever the scores are worth, however rare violating
//! texts are and in whatever order rows stand. Where that cannot be said, nothing is cleared.
//!
//! *Rounds.* A first look is a small uniform sample. If it promises enough violating texts, the sample is made larger and
//! that is all: those it holds are a uniform sample of all violating texts, and how many of them a threshold keeps is an
//! exact test of its recall. If violating texts are too rare for that, a pilot, spread over the ranks of the scores with
//! more towards the top, guesses where they are; from it a plan names two parts of the population (`plan`): the
//! texts that may be cleared at most, and a core of the kept ones where violating texts are frequent. From each a fresh
//! uniform sample is asked. What was asked before is a fact about the population by then; the samples are drawn
//! from the rest. Which way is taken depends on how many of the first look violate, never on which.
//!
//! *Many thresholds.* They are fixed by ranks before a label of the samples is looked at, and tried from the most cautious
//! upward until one fails, each at full delta: fixed-sequence testing (W. Maurer, L. Hothorn, W. Lehmacher, Multiple
//! comparisons in drug clinical trials and preclinical assays, 1995). The first that fails its goal is accepted with
//! probability delta at most, and only then any later one. The test of one is exact (`exact`). The bound that is
//! shown beside is the chosen threshold's own; for it alone the choice makes no allowance (`tests` measures that it is none
//! the less missed no more often than delta).
//!
//! *What is not decided* counts as violating where it would be cleared and as allowed where it is kept.
//!
//! The works to compare with: SUPG (D. Kang et al., Approximate selection with guarantees using proxies, VLDB 2020), whose
//! bound is asymptotic, and BARGAIN (S. Zeighami, S. Shankar, A. Parameswaran, Cut costs, not accuracy, 2025), which bets
//! against means (I. Waudby-Smith, A. Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024) at one
//! threshold after the other. Both draw with replacement as from an endless population.

pub mod exact;

mod evidence;
mod plan;

use super::sample::{Purpose, number, walk};
use evidence::Evidence;
use plan::{Plan, Ranked};
use std::fmt;
use std::ops::Range;

/// What a label says of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// It violates.
    Violates,
    /// It does not.
    Allowed,
    /// Nobody can tell: it was asked and not decided.
    Undecided,
}

/// What is to be certified.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// The least share of violating texts that must be kept; above 0, below 1.
    pub recall: f64,
    /// The probability with which a certificate may be wrong; above 0, below 0.5.
    pub delta: f64,
    /// The least share of violating ones among the texts that are convicted, where any may be; above 0, below 1.
    pub precision: Option<f64>,
}

/// A goal that no sample can certify, or that says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct GoalError {
    what: &'static str,
    value: f64,
}

impl fmt::Display for GoalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GoalError { what, value } = self;
        let to = if *what == "delta" { "0.5" } else { "1" };
        write!(f, "{what} {value} is not above 0 and below {to}")?;
        match *value == 1.0 && *what == "recall" {
            true => write!(f, ": only asking about every text misses none"),
            false => Ok(()),
        }
    }
}

impl std::error::Error for GoalError {}

impl Goal {
    /// # Errors
    /// A share is not above 0 and below 1, or delta is 0.5 or more.
    pub fn check(&self) -> Result<(), GoalError> {
        let Goal {
            recall,
            delta,
            precision,
        } = *self;
        let all = [
            ("recall", Some(recall), 1.0),
            ("delta", Some(delta), 0.5),
            ("precision", precision, 1.0),
        ];
        for (what, value, below) in all {
            if let Some(value) = value
                && !(value > 0.0 && value < below)
            {
                return Err(GoalError { what, value });
            }
        }
        Ok(())
    }
}

/// Different texts that were not trained on.
#[derive(Debug, Clone, Copy)]
pub struct Population<'a> {
    /// Their scores, larger where they rather violate.
    pub scores: &'a [f64],
    /// Numbers that tell them apart, from their digests: they and the seed decide who is drawn.
    pub keys: &'a [u64],
    /// Whether a label is there already, so that asking costs no question.
    pub free: &'a [bool],
}

/// What labels support.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Certificate {
    /// Texts with a smaller score are cleared; `None`: nothing is.
    pub clear_below: Option<f64>,
    /// Texts with at least this score are convicted; `None`: nothing is.
    pub convict_above: Option<f64>,
    /// About the whole population.
    pub whole: Bounds,
    /// About each slice.
    pub slices: Vec<Bounds>,
    /// How many more labels would be needed to clear anything, as guessed; `None` where something is.
    pub more_labels: Option<u64>,
}

/// What is known of a population, or a slice of it, at the thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bounds {
    /// Texts.
    pub texts: u64,
    /// Those of them that would be cleared.
    pub cleared: u64,
    /// Those that would be convicted.
    pub convicted: u64,
    /// Texts whose label is known.
    pub labels: u64,
    /// Those of them that violate.
    pub violating: u64,
    /// The recall is at least this; where nothing is cleared, at the most cautious threshold that was tried.
    pub recall: Option<f64>,
    /// The precision of convicting is at least this.
    pub precision: Option<f64>,
}

/// Share of the questions that the first look gets.
const LOOK_SHARE: f64 = 0.08;
/// Questions that the first look gets at the least.
const LOOK_MIN: u64 = 20;
/// How much the scores count when violating texts are projected from the first look, in texts.
const LOOK_PRIOR: f64 = 5.0;
/// A uniform sample is made larger where it promises so many times the violating texts that it must hold.
const UNIFORM_MARGIN: f64 = 1.15;
/// Share of the questions that the pilot gets.
const PILOT_SHARE: f64 = 0.1;
/// Ranks from the top, as shares of the population, between which the pilot is spread evenly.
const PILOT_EDGES: [f64; 10] = [0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 1.0];

/// How a population is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Design {
    /// Nothing was asked yet.
    New,
    /// The first look was asked, or all of a uniform sample.
    Uniform,
    /// The pilot too.
    Pilot,
    /// Two samples.
    Parts(Plan),
}

/// A certificate in the making.
#[derive(Debug)]
pub struct Study {
    goal: Goal,
    ranked: Ranked,
    design: Design,
    /// Whether the text at a rank belongs to the samples that certify.
    sampled: Vec<bool>,
    /// The place of the text at each rank, and the rank of the text at each place.
    places: Vec<u32>,
    ranks: Vec<u32>,
    /// Ranks in the order of their numbers.
    pilot: Vec<u32>,
    certify: Vec<u32>,
    /// Questions that may be asked, and that were.
    questions: u64,
    spent: u64,
    /// Ranks that were asked for last.
    open: Vec<u32>,
}

impl Study {
    /// `questions` may be asked at the most; labels that are there cost none.
    ///
    /// # Errors
    /// As [`Goal::check`].
    ///
    /// # Panics
    /// The parts of the population differ in length, a score is not a number, or there are more than 2^32 texts.
    pub fn new(
        population: &Population<'_>,
        goal: Goal,
        questions: u64,
        seed: u64,
    ) -> Result<Study, GoalError> {
        goal.check()?;
        let Population { scores, keys, free } = *population;
        let n = u32::try_from(scores.len()).expect("bug: more than 2^32 texts");
        let same = keys.len() == scores.len() && free.len() == scores.len();
        assert!(same, "bug: a text without a score, key or price");
        let numbers = scores.iter().all(|score| !score.is_nan());
        assert!(numbers, "bug: a score is not a number");
        let mut places: Vec<u32> = (0..n).collect();
        places.sort_unstable_by(|a, b| {
            let (a, b) = (*a as usize, *b as usize);
            scores[a].total_cmp(&scores[b]).then(keys[a].cmp(&keys[b]))
        });
        let mut ranks = vec![0; scores.len()];
        for (rank, place) in (0..n).zip(&places) {
            ranks[*place as usize] = rank;
        }
        let by_number = |purpose| {
            let number = |rank: &u32| number(keys[places[*rank as usize] as usize], seed, purpose);
            let mut order: Vec<u32> = (0..n).collect();
            order.sort_by_cached_key(number);
            order
        };
        let ranked = Ranked {
            scores: places.iter().map(|p| scores[*p as usize]).collect(),
            labels: vec![None; scores.len()],
            free: places.iter().map(|p| free[*p as usize]).collect(),
        };
        Ok(Study {
            goal,
            design: Design::New,
            sampled: vec![false; scores.len()],
            pilot: by_number(Purpose::Pilot),
            certify: by_number(Purpose::Certify),
            ranked,
            places,
            ranks,
            questions,
            spent: 0,
            open: Vec::new(),
        })
    }

    /// Takes the labels of what was asked for last, by place, and gives the places to ask next, each once; none when no
    /// further label would help. What was asked for and has no label counts as undecided.
    pub fn next(&mut self, answers: &[(u32, Label)]) -> Vec<u32> {
        self.take(answers);
        let open = match self.design {
            Design::New => self.look(),
            Design::Uniform if self.is_whole() => Vec::new(),
            Design::Uniform => self.enlarge(),
            Design::Pilot => self.parts(),
            Design::Parts(_) => Vec::new(),
        };
        self.open.clone_from(&open);
        open.iter()
            .map(|rank| self.places[*rank as usize])
            .collect()
    }

    /// Takes the last labels and says what all of them support. `slices` says of each place which slice it is in; empty
    /// where nobody asks.
    ///
    /// # Panics
    /// There is a slice for some places and none for others.
    pub fn conclude(mut self, answers: &[(u32, Label)], slices: &[u32]) -> Certificate {
        self.take(answers);
        let n = self.ranked.len();
        assert!(
            slices.is_empty() || slices.len() == n,
            "bug: a text without a slice"
        );
        let mut certificate = Evidence::new(&self).certificate(slices);
        if certificate.clear_below.is_none() {
            certificate.more_labels = self.more_labels();
        }
        certificate
    }

    fn take(&mut self, answers: &[(u32, Label)]) {
        for (place, label) in answers {
            let rank = self.ranks[*place as usize] as usize;
            self.ranked.labels[rank] = Some(*label);
        }
        for rank in std::mem::take(&mut self.open) {
            let rank = rank as usize;
            self.ranked.labels[rank].get_or_insert(Label::Undecided);
            self.spent += u64::from(!self.ranked.free[rank]);
        }
    }

    /// Whether every text was asked.
    fn is_whole(&self) -> bool {
        self.ranked.labels.iter().all(Option::is_some)
    }

    fn look(&mut self) -> Vec<u32> {
        self.design = Design::Uniform;
        let share = (self.questions as f64 * LOOK_SHARE) as u64;
        let paid = self.ranked.free.iter().filter(|free| !**free).count() as u64;
        let look = match paid <= self.questions {
            true => self.questions,
            false => share.max(LOOK_MIN).min(self.questions),
        };
        self.uniform(look)
    }

    /// The uniform sample that so many questions allow, as far as it was not asked.
    fn uniform(&mut self, questions: u64) -> Vec<u32> {
        let free = |rank: u32| self.ranked.free[rank as usize];
        let mut sample = walk(&self.certify, free, questions);
        sample
            .iter()
            .for_each(|rank| self.sampled[*rank as usize] = true);
        sample.retain(|rank| self.ranked.labels[*rank as usize].is_none());
        sample
    }

    fn enlarge(&mut self) -> Vec<u32> {
        let labels = || self.ranked.labels.iter().flatten();
        let violating = labels().filter(|label| **label == Label::Violates).count() as f64;
        let asked = labels().count() as f64;
        let mean = self.ranked.scores.iter().sum::<f64>() / self.ranked.len() as f64;
        let share = (violating + LOOK_PRIOR * mean) / (asked + LOOK_PRIOR);
        let needed = exact::hits_needed(self.goal.recall, self.goal.delta) as f64;
        let larger = self.uniform(self.questions);
        if larger.is_empty() {
            return larger;
        }
        if share * (asked + larger.len() as f64) >= UNIFORM_MARGIN * needed {
            return larger;
        }
        self.design = Design::Pilot;
        self.sampled.fill(false);
        self.spread((self.questions as f64 * PILOT_SHARE) as u64)
    }

    /// The pilot.
    fn spread(&self, questions: u64) -> Vec<u32> {
        let n = self.ranked.len();
        let questions = questions.min(self.questions - self.spent);
        let mut to = n;
        let mut asked = Vec::new();
        for share in PILOT_EDGES {
            let from = n - ((share * n as f64).ceil() as usize).min(n);
            asked.extend(self.draw(&self.pilot, from..to, questions / PILOT_EDGES.len() as u64));
            to = from;
        }
        asked
    }

    /// The first of `order` in a range of ranks that were not asked yet.
    fn draw(&self, order: &[u32], ranks: Range<usize>, questions: u64) -> Vec<u32> {
        let open = order.iter().filter(|rank| {
            let rank = **rank as usize;
            ranks.contains(&rank) && self.ranked.labels[rank].is_none()
        });
        walk(open, |rank| self.ranked.free[rank as usize], questions)
    }

    fn parts(&mut self) -> Vec<u32> {
        let left = self.questions - self.spent;
        let Some(plan) = plan::plan(&self.ranked, &self.goal, left) else {
            return Vec::new();
        };
        self.design = Design::Parts(plan);
        let mut drawn = self.draw(&self.certify, 0..plan.cut, plan.below);
        let core = plan.core..self.ranked.len();
        drawn.extend(self.draw(&self.certify, core, plan.above));
        drawn
            .iter()
            .for_each(|rank| self.sampled[*rank as usize] = true);
        drawn
    }

    /// What it would take from here to clear some, less what is left; `None` where every label is known.
    fn more_labels(&self) -> Option<u64> {
        let left = self.questions - self.spent.min(self.questions);
        let open = self
            .ranked
            .labels
            .iter()
            .filter(|label| label.is_none())
            .count() as u64;
        if open == 0 {
            return None;
        }
        let needed = plan::needed(&self.ranked, &self.goal);
        Some(needed.saturating_sub(left).max(1))
    }
}

/// What labels of rows say that came from where all such texts come from, each independently of the others, and of which
/// there is no end: `scores` with what each is. Their score must not know them.
///
/// # Errors
/// As [`Goal::check`].
pub fn of_rows(
    rows: &[(f64, Label)],
    goal: Goal,
    slices: &[u32],
) -> Result<Certificate, GoalError> {
    let scores: Vec<f64> = rows.iter().map(|(score, _)| *score).collect();
    let keys: Vec<u64> = (0..rows.len() as u64).collect();
    let free = vec![true; rows.len()];
    let population = Population {
        scores: &scores,
        keys: &keys,
        free: &free,
    };
    let mut study = Study::new(&population, goal, 0, 0)?;
    let answers: Vec<(u32, Label)> = (0..).zip(rows).map(|(at, row)| (at, row.1)).collect();
    study.next(&[]);
    study.take(&answers);
    let mut certificate = Evidence::endless(&study).certificate(slices);
    if certificate.clear_below.is_none() {
        let violating = certificate.whole.violating;
        let needed = exact::hits_needed(goal.recall, goal.delta);
        let share = (violating as f64 / rows.len().max(1) as f64).max(1e-3);
        let more = (needed.saturating_sub(violating).max(1) as f64 / share).ceil();
        certificate.more_labels = Some(more as u64);
    }
    Ok(certificate)
}

#[cfg(test)]
#[path = "certify/certify_tests.rs"]
mod tests;
