//! What two random samples say of a recall, exactly: how small may it be, in a finite population.
//!
//! Takes counts of draws without replacement, gives lower bounds. Pure; knows no scores, texts or labels.
//!
//! *The setting.* A threshold splits a population into kept and cleared. A violating texts are in a part of the kept ones,
//! from which a uniform sample without replacement was drawn; B are among the cleared ones, from which another was. Others
//! are known. Recall is (a + A) / (a + A + b + B).
//!
//! *The bound* is Buehler's (R. J. Buehler, Confidence intervals for the product of two binomial parameters, JASA 52,
//! 1957): outcomes are put in an order that no label of the samples has a say in, by how well they speak of the recall;
//! a pair (A, B) is refuted where an outcome that speaks at least as well as the one that was seen has a probability of
//! at most delta; the bound is the least recall of all pairs that are not refuted. It is exact: the hits of both samples
//! are hypergeometric and independent, and the probability is summed, not approximated. Whatever the order, the bound
//! holds with probability 1 - delta; a good order makes it tight. Two bounds, for A and for B, each with a share of delta,
//! would need about twice the labels.

/// A uniform sample without replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Draw {
    /// Texts it was drawn from.
    pub population: u64,
    /// Texts drawn.
    pub sampled: u64,
    /// Those of them that have what is counted.
    pub hits: u64,
}

impl Draw {
    fn check(&self) {
        let Draw {
            population,
            sampled,
            hits,
        } = *self;
        assert!(
            hits <= sampled && sampled <= population,
            "bug: {hits} hits in {sampled} of {population} texts"
        );
    }

    /// As many as there can be in the population.
    fn most(&self) -> u64 {
        self.population - self.sampled + self.hits
    }

    fn density(&self) -> f64 {
        match self.population {
            0 => 1.0,
            population => self.sampled as f64 / population as f64,
        }
    }
}

/// The probabilities of the numbers of hits, from the first number on.
struct Hits {
    first: u64,
    of: Vec<f64>,
}

/// Below this share of the largest probability, one is nothing to a float beside it.
const NOTHING: f64 = 1e-20;

impl Hits {
    /// Of `sampled` out of `population` texts with `marked` marked ones: hypergeometric.
    fn new(population: u64, marked: u64, sampled: u64) -> Hits {
        let low = sampled.saturating_sub(population - marked);
        let high = sampled.min(marked);
        let mode = (sampled + 1) as f64 * (marked + 1) as f64 / (population + 2) as f64;
        let mode = (mode as u64).clamp(low, high);
        // P(x + 1) / P(x), from the largest to both sides: no logarithm and nothing that overflows.
        let up = |x: u64| {
            (marked - x) as f64 * (sampled - x) as f64
                / ((x + 1) as f64 * (population + x + 1 - marked - sampled) as f64)
        };
        let mut below = Vec::new();
        let (mut x, mut weight) = (mode, 1.0);
        while x > low && weight > NOTHING {
            weight /= up(x - 1);
            below.push(weight);
            x -= 1;
        }
        let first = x;
        below.reverse();
        let mut of = below;
        of.push(1.0);
        let (mut x, mut weight) = (mode, 1.0);
        while x < high && weight > NOTHING {
            weight *= up(x);
            of.push(weight);
            x += 1;
        }
        let sum: f64 = of.iter().sum();
        of.iter_mut().for_each(|p| *p /= sum);
        Hits { first, of }
    }

    /// P(hits >= x) for each x from 0 to `to`.
    fn at_least(&self, to: u64) -> Vec<f64> {
        let mut sum = 0.0;
        let mut tail = vec![0.0; to as usize + 1];
        for x in (0..=to).rev() {
            if let Some(place) = x.checked_sub(self.first)
                && let Some(p) = self.of.get(place as usize)
            {
                sum += p;
            }
            tail[x as usize] = f64::min(sum, 1.0);
        }
        // What lies above `to` was not summed: nothing can, `to` is the size of the sample.
        tail
    }
}

/// The share of draws by which the numbers of marked texts grow from one tried to the next; what lies between is
/// bounded by its ends.
const STEP: f64 = 0.01;

/// A range of numbers of violating texts, and how likely so many hits are at its upper end.
#[derive(Debug)]
struct Cell {
    low: u64,
    at_least: Vec<f64>,
}

/// The sample of the kept texts, ready to be combined with samples of cleared ones.
#[derive(Debug)]
pub struct Kept {
    draw: Draw,
    cells: Vec<Cell>,
}

/// Texts whose label is known outside of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// Violating ones that are kept.
    pub kept: u64,
    /// Violating ones that are cleared.
    pub cleared: u64,
}

impl Kept {
    /// What a sample says.
    pub fn new(draw: Draw) -> Kept {
        Kept::with_floor(draw, 0)
    }

    /// The same where at least `floor` texts of the sample's population are known to violate, whoever said so.
    pub fn with_floor(draw: Draw, floor: u64) -> Kept {
        draw.check();
        let (mut low, most) = (draw.hits.max(floor).min(draw.most()), draw.most());
        let mut cells = Vec::new();
        loop {
            let width = (low as f64 * STEP) as u64;
            let high = (low + width).min(most);
            let at_least = Hits::new(draw.population, high, draw.sampled).at_least(draw.sampled);
            cells.push(Cell { low, at_least });
            if high == most {
                return Kept { draw, cells };
            }
            low = high + 1;
        }
    }

    /// Whether all recalls below `recall` are refuted at `delta`.
    pub fn reaches(&self, cleared: Draw, known: Known, recall: f64, delta: f64) -> bool {
        cleared.check();
        let order = Order::new(self.draw, cleared, known);
        let needed = order.needed(self.draw.hits, cleared.hits);
        let odds = (1.0 - recall) / recall;
        for cell in &self.cells {
            // The fewest missed ones that make the recall too small; rounding can only make them fewer.
            let allowed = (known.kept + cell.low) as f64 * odds * (1.0 - 1e-12) - 1e-9;
            let missed = allowed.floor() as i64 + 1 - known.cleared as i64;
            let missed = u64::try_from(missed).unwrap_or(0).max(cleared.hits);
            if missed > cleared.most() {
                // So many cannot be there, and with more kept ones it would take yet more.
                return true;
            }
            let missed = Hits::new(cleared.population, missed, cleared.sampled);
            let mut probability = 0.0;
            let mut at_most = 0.0;
            for (place, p) in missed.of.iter().enumerate() {
                let hits = missed.first as usize + place;
                let Some(needed) = needed.get(hits) else {
                    break;
                };
                probability += p * cell.at_least.get(*needed as usize).copied().unwrap_or(0.0);
                at_most += p;
            }
            if probability > delta {
                return false;
            }
            // Whatever the kept sample gave; and with more kept ones it would take yet more missed ones.
            if at_most <= delta {
                return true;
            }
        }
        true
    }

    /// The lower bound on the recall: 0 to 1, rounded down.
    pub fn bound(&self, cleared: Draw, known: Known, delta: f64) -> f64 {
        let reaches = |recall: f64| self.reaches(cleared, known, recall, delta);
        if reaches(1.0 - 1e-12) {
            return 1.0;
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..24 {
            let middle = f64::midpoint(low, high);
            if reaches(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// How well outcomes speak of the recall: the recall of cautious guesses of both numbers.
struct Order {
    kept: Draw,
    cleared: Draw,
    known: Known,
}

/// How cautious, in standard deviations of each number.
const CAUTION: f64 = 1.0;

impl Order {
    fn new(kept: Draw, cleared: Draw, known: Known) -> Order {
        Order {
            kept,
            cleared,
            known,
        }
    }

    fn rank(&self, kept: u64, cleared: u64) -> f64 {
        let guess = |draw: &Draw, hits: u64, sign: f64| {
            let density = draw.density();
            if density == 0.0 {
                return if sign > 0.0 {
                    draw.population as f64
                } else {
                    0.0
                };
            }
            let z = CAUTION * (1.0 - density).sqrt();
            let hits = hits as f64;
            let half = z * z / 2.0;
            (hits + half + sign * z * (hits + z * z / 4.0).sqrt()).max(0.0) / density
        };
        let a = self.known.kept as f64 + guess(&self.kept, kept, -1.0);
        let b = self.known.cleared as f64 + guess(&self.cleared, cleared, 1.0);
        match a + b {
            0.0 => 0.0,
            both => a / both,
        }
    }

    /// For each number of hits among the cleared ones, the fewest among the kept ones that speak as well as what was seen;
    /// ends where none do.
    fn needed(&self, kept: u64, cleared: u64) -> Vec<u64> {
        let seen = self.rank(kept, cleared) - 1e-12;
        let mut needed = Vec::new();
        let mut from = 0;
        for hits in 0..=self.cleared.sampled {
            if self.rank(self.kept.sampled, hits) < seen {
                break;
            }
            let (mut low, mut high) = (from, self.kept.sampled);
            while low < high {
                let middle = u64::midpoint(low, high);
                if self.rank(middle, hits) >= seen {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            from = low;
            needed.push(low);
        }
        needed
    }
}

/// The lower bound on how many of the population have what is counted: so many hits or more have a probability above
/// `delta` only from there on.
pub fn at_least(draw: Draw, delta: f64) -> u64 {
    draw.check();
    let refuted = |marked: u64| {
        let hits = Hits::new(draw.population, marked, draw.sampled);
        hits.at_least(draw.sampled)[draw.hits as usize] <= delta
    };
    let (mut low, mut high) = (draw.hits, draw.most());
    while low < high {
        let middle = u64::midpoint(low, high);
        if refuted(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The upper bound on it.
pub fn at_most(draw: Draw, delta: f64) -> u64 {
    let others = Draw {
        hits: draw.sampled - draw.hits,
        ..draw
    };
    draw.population - at_least(others, delta)
}

/// How many of `hits` violating texts, drawn uniformly from all violating ones, may be missed so that a recall below
/// `recall` is refuted at `delta`; `None` where not even none may. They come from a sample of a share of the population
/// that says how many there can be in all: the fewer, the more `hits` of them tell.
pub fn misses_allowed(sample: Draw, recall: f64, delta: f64) -> Option<u64> {
    let hits = sample.hits;
    let endless = || {
        (0..=hits)
            .take_while(|m| binomial(hits, *m, 1.0 - recall) <= delta)
            .last()
    };
    if sample.density() < WORTH_COUNTING || hits == 0 {
        return endless();
    }
    let (count, rest) = (delta * COUNTING_SHARE, delta * (1.0 - COUNTING_SHARE));
    let most = at_most(sample, count);
    if most - hits > COUNTED_MAX {
        return endless();
    }
    let mut allowed = Some(hits);
    for violating in hits..=most {
        let missed = ((1.0 - recall) * violating as f64 * (1.0 - 1e-12) - 1e-9).floor() as u64 + 1;
        let drawn = Hits::new(violating, missed.min(violating), hits);
        let (mut sum, mut passes) = (0.0, None);
        for misses in 0..=allowed? {
            let place = misses.checked_sub(drawn.first);
            sum += place
                .and_then(|p| drawn.of.get(p as usize))
                .copied()
                .unwrap_or(0.0);
            if sum > rest {
                break;
            }
            passes = Some(misses);
        }
        allowed = passes;
    }
    allowed
}

/// Below this share of the population, counting its violating texts tells nothing more.
const WORTH_COUNTING: f64 = 0.1;
/// Share of delta that counting them gets.
const COUNTING_SHARE: f64 = 0.05;
/// Numbers of violating texts that are gone through.
const COUNTED_MAX: u64 = 3_000;

/// The lower bound on the share that `misses` of `hits` independent draws leave (C. J. Clopper, E. S. Pearson, The use of
/// confidence or fiducial limits illustrated in the case of the binomial, Biometrika 26, 1934).
pub fn share_kept(hits: u64, misses: u64, delta: f64) -> f64 {
    assert!(misses <= hits, "bug: {misses} misses in {hits} hits");
    if misses == hits {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..53 {
        let middle = f64::midpoint(low, high);
        if binomial(hits, misses, 1.0 - middle) <= delta {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The fewest violating texts, none of them missed, that certify a recall.
pub fn hits_needed(recall: f64, delta: f64) -> u64 {
    (delta.ln() / recall.ln()).ceil() as u64
}

/// P(at most `misses`) in `draws` independent draws, each missed with probability `p`, 0 < p < 1.
pub fn binomial(draws: u64, misses: u64, p: f64) -> f64 {
    // In logarithms, relative to the largest so far: (1 - p)^draws can be too small for a float.
    let (mut term, mut sum) = (draws as f64 * (-p).ln_1p(), 1.0);
    let mut top = term;
    let odds = p.ln() - (-p).ln_1p();
    for miss in 0..misses {
        term += ((draws - miss) as f64 / (miss + 1) as f64).ln() + odds;
        if term > top {
            sum = sum * (top - term).exp() + 1.0;
            top = term;
        } else {
            sum += (term - top).exp();
        }
    }
    (top + sum.ln()).exp().min(1.0)
}

#[cfg(test)]
#[path = "exact_tests.rs"]
mod tests;
