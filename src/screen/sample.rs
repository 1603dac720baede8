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
    /// What is trained on and what is not.
    Split,
    /// What is asked first, to see where violating texts are.
    Pilot,
    /// What is asked to certify, and to audit.
    Certify,
}

/// A text's number.
pub fn number(key: u64, seed: u64, purpose: Purpose) -> u64 {
    let purpose = match purpose {
        Purpose::Split => 0x53,
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
