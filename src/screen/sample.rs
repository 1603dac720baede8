//! Which texts are asked: uniform samples that depend on the texts and a seed, never on where rows stand.
//!
//! Takes keys of texts (of their digests) and a seed, gives every text a permanent random number. A sample of any part of
//! a population is those of its texts that have the smallest numbers: uniform, without replacement, the same on every
//! machine and in every order of rows, and a larger sample contains a smaller one (E. Ohlsson, Coordination of samples
//! using permanent random numbers, in Business survey methods, 1995). Whoever writes texts must not know the seed: a text
//! can be made to have a large number.

/// What a random number is for: numbers of different purposes have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Which texts of too many stand for all.
    Source,
    /// What is trained on and what is not.
    Split,
    /// What is asked to train.
    Train,
    /// What is asked first, to see where violating texts are.
    Pilot,
    /// What is asked to certify, and to audit.
    Certify,
}

/// A text's number.
pub fn number(key: u64, seed: u64, purpose: Purpose) -> u64 {
    let purpose = match purpose {
        Purpose::Source => 0x4f,
        Purpose::Split => 0x53,
        Purpose::Train => 0x54,
        Purpose::Pilot => 0x50,
        Purpose::Certify => 0x43,
    };
    mix(key ^ mix(seed ^ mix(purpose)))
}

/// What SplitMix64 adds from one number to the next: odd, and of no pattern in bits.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// 64 bits that look random where those given differ at all: the finalizer of SplitMix64 (G. L. Steele, D. Lea,
/// C. H. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014) after its step.
pub fn mix(bits: u64) -> u64 {
    let mut bits = bits.wrapping_add(STEP);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Of places with weights, as many as wanted, each likely in proportion to its weight: those whose number, as a share of
/// the largest there is, to the power of 1 / weight is largest (P. Efraimidis, P. Spirakis, Weighted random sampling with
/// a reservoir, 2006). A weight of 0 is never drawn.
pub fn weighted(weights: &[(u32, u64, f64)], wanted: usize) -> Vec<u32> {
    let mut order: Vec<(f64, u32)> = weights
        .iter()
        .filter(|(_, _, weight)| *weight > 0.0)
        .map(|(place, number, weight)| {
            let share = (*number as f64 + 1.0) / (u64::MAX as f64 + 2.0);
            (share.ln() / weight, *place)
        })
        .collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    order
        .into_iter()
        .take(wanted)
        .map(|(_, place)| place)
        .collect()
}

/// The first texts of `places`, which are in the order of their numbers, up to the one that would need more than
/// `questions` questions: `free` says whose label is there already.
pub fn walk<'a>(
    places: impl IntoIterator<Item = &'a u32>,
    free: impl Fn(u32) -> bool,
    questions: u64,
) -> Vec<u32> {
    let mut left = questions;
    let mut walked = Vec::new();
    for place in places {
        if !free(*place) {
            match left.checked_sub(1) {
                Some(rest) => left = rest,
                None => break,
            }
        }
        walked.push(*place);
    }
    walked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_and_purposes_have_nothing_in_common() {
        let below = |key: u64, purpose| number(key, 7, purpose) < u64::MAX / 4;
        let quarter = (0..10_000)
            .filter(|key| below(*key, Purpose::Certify))
            .count();
        assert!((2_300..2_700).contains(&quarter), "{quarter}");
        let both = (0..10_000)
            .filter(|key| below(*key, Purpose::Certify) && below(*key, Purpose::Pilot))
            .count();
        assert!((500..750).contains(&both), "{both}");
        assert_ne!(number(1, 7, Purpose::Split), number(1, 8, Purpose::Split));
    }

    #[test]
    fn the_heavier_are_drawn_more_often() {
        let places: Vec<(u32, u64, f64)> = (0..1_000)
            .map(|at| {
                let weight = if at < 500 { 3.0 } else { 1.0 };
                (at, number(at.into(), 3, Purpose::Train), weight)
            })
            .collect();
        let drawn = weighted(&places, 100);
        let heavy = drawn.iter().filter(|at| **at < 500).count();
        assert_eq!(drawn.len(), 100);
        assert!((60..90).contains(&heavy), "{heavy}");
        assert_eq!(weighted(&[(1, 5, 0.0), (2, 5, 0.1)], 9), [2]);
    }

    #[test]
    fn a_walk_ends_before_what_it_cannot_pay() {
        let free = |place: u32| place >= 10;
        for (places, questions, want) in [
            (&[1, 2, 3][..], 2, &[1, 2][..]),
            (&[10, 1, 11, 12, 2, 13], 1, &[10, 1, 11, 12]),
            (&[10, 11], 0, &[10, 11]),
            (&[1], 0, &[]),
            (&[], 5, &[]),
        ] {
            assert_eq!(walk(places, free, questions), want);
        }
    }
}
