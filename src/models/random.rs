//! Random weights, cheaply.
//!
//! Takes a seed and what a tensor is for, fills buffers with numbers under which a forward stays finite and every part
//! of it matters: matrices keep the size of what passes through them, gains are about 1. A buffer depends on its seed
//! alone, so that any thread may fill any part of a file. Not for secrets.

use crate::model::layout::Part;
use half::bf16;

/// Numbers in a table of brain floats; 8 KiB, which stays in the first cache.
const TABLE: usize = 4096;
/// The root of the mean square of the sixteen MXFP4 elements.
const ELEMENT_RMS: f64 = 2.926;

/// xoshiro256++: four words of state, a word a few operations later.
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// A stream of its own for each seed and each of its parts.
    pub fn new(seed: u64, tensor: u64, chunk: u64) -> Random {
        let mut mix = SplitMix(seed);
        mix.0 ^= SplitMix(tensor.wrapping_add(1)).next();
        mix.0 ^= SplitMix(chunk.wrapping_add(1)).next().rotate_left(17);
        Random {
            state: [mix.next(), mix.next(), mix.next(), mix.next()],
        }
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let out = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        out
    }

    /// Fills a part of a tensor's bytes.
    pub fn fill(&mut self, part: Part, bytes: &mut [u8]) {
        match part {
            Part::Blocks { .. } => self.bytes(bytes, |word| word),
            Part::Scales { inputs } => {
                let lowest = u64::from(centre(inputs) - 3) * 0x0101_0101_0101_0101;
                // Two numbers of two bits each: 0 to 6, mostly 3.
                let two = |word: u64| word & 0x0303_0303_0303_0303;
                self.bytes(bytes, |word| lowest + two(word) + two(word >> 2));
            }
            Part::Embedding => self.floats(bytes, 0.0, 1.0),
            Part::Matrix { inputs } => self.floats(bytes, 0.0, 1.0 / (inputs as f64).sqrt()),
            Part::Norm => self.floats(bytes, 1.0, 0.1),
            Part::Bias => self.floats(bytes, 0.0, 0.02),
            Part::Sinks => self.floats(bytes, 0.0, 0.5),
        }
    }

    fn bytes(&mut self, bytes: &mut [u8], of: impl Fn(u64) -> u64) {
        for eight in bytes.chunks_mut(8) {
            eight.copy_from_slice(&of(self.next()).to_le_bytes()[..eight.len()]);
        }
    }

    /// Brain floats about `mean`.
    fn floats(&mut self, bytes: &mut [u8], mean: f64, deviation: f64) {
        let table = table(mean, deviation);
        for eight in bytes.chunks_mut(8) {
            let word = self.next();
            for (lane, pair) in eight.chunks_exact_mut(2).enumerate() {
                let at = (word >> (16 * lane)) as usize % TABLE;
                pair.copy_from_slice(&table[at]);
            }
        }
    }
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The scale under which rows of `inputs` random elements keep the size of what they multiply; 119 at 2880.
fn centre(inputs: usize) -> u8 {
    let wanted = 1.0 / (inputs as f64).sqrt() / ELEMENT_RMS;
    (127.0 + wanted.log2().round() - 1.0) as u8
}

/// Numbers whose sum of three uniform parts looks normal, spread evenly over a table.
fn table(mean: f64, deviation: f64) -> Vec<[u8; 2]> {
    let number = |index: usize| {
        // Sixteen steps in each of three directions; a step's variance is (256 - 1) / 12.
        let steps = (index % 16 + index / 16 % 16 + index / 256) as f64 - 22.5;
        mean + deviation * steps / (3.0f64 * 255.0 / 12.0).sqrt()
    };
    (0..TABLE)
        .map(|index| bf16::from_f64(number(index)).to_le_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(part: Part, len: usize, chunk: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Random::new(7, 3, chunk).fill(part, &mut bytes);
        bytes
    }

    #[test]
    fn floats_have_the_mean_and_spread_of_their_part() {
        for (part, mean, deviation) in [
            (Part::Embedding, 0.0, 1.0),
            (Part::Matrix { inputs: 2880 }, 0.0, 0.018_634),
            (Part::Norm, 1.0, 0.1),
            (Part::Sinks, 0.0, 0.5),
        ] {
            let numbers: Vec<f64> = filled(part, 200_000, 0)
                .chunks_exact(2)
                .map(|pair| f64::from(bf16::from_le_bytes([pair[0], pair[1]])))
                .collect();
            let n = numbers.len() as f64;
            let found = numbers.iter().sum::<f64>() / n;
            let spread = (numbers.iter().map(|x| (x - found).powi(2)).sum::<f64>() / n).sqrt();
            assert!((found - mean).abs() < 0.02 * deviation, "{part:?} {found}");
            assert!((spread / deviation - 1.0).abs() < 0.02, "{part:?} {spread}");
        }
    }

    #[test]
    fn scales_lie_about_the_size_that_keeps_a_row() {
        let scales = filled(Part::Scales { inputs: 2880 }, 10_001, 0);
        let (low, high) = (scales.iter().min(), scales.iter().max());
        assert_eq!((low, high), (Some(&116), Some(&122)));
    }

    #[test]
    fn bytes_depend_on_the_seed_and_the_place_alone() {
        let blocks = Part::Blocks { inputs: 32 };
        assert_eq!(filled(blocks, 100, 1), filled(blocks, 100, 1));
        assert_ne!(filled(blocks, 100, 1), filled(blocks, 100, 2));
        assert_eq!(filled(blocks, 97, 1), filled(blocks, 100, 1)[..97]);
        let mut counts = [0u32; 256];
        filled(blocks, 256_000, 0)
            .iter()
            .for_each(|&byte| counts[usize::from(byte)] += 1);
        assert!(
            counts.iter().all(|&n| (800..1200).contains(&n)),
            "{counts:?}"
        );
    }
}
