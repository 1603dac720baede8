//! MXFP4 as Q8_0: the same numbers in the layout that candle's kernels read.
//!
//! Takes blocks and scales as a released checkpoint stores them, gives Q8_0 blocks: a scale in f16, then 32 signed
//! bytes. Twice an element of MXFP4 is a whole number of at most 12, and half its scale a power of two, so nothing is
//! rounded wherever f16 holds that power: 2^-24 to 2^15, codes 104 to 143. A block outside of it is refused by its
//! place, unless all its elements are zero; so what was converted is proved to be what the checkpoint says.

use super::super::config::MXFP4_BLOCK;
use half::f16;
use std::ops::RangeInclusive;

/// Bytes of one block of MXFP4, without its scale.
pub const BLOCK_BYTES: usize = MXFP4_BLOCK / 2;
/// Bytes of one Q8_0 block: its scale, then its elements.
pub const Q8_0_BYTES: usize = 2 + MXFP4_BLOCK;

/// The scales whose half is a number of f16.
const LOSSLESS: RangeInclusive<u8> = 104..=143;

/// The scale that stands for NaN.
const NAN: u8 = 255;

/// Twice what a nibble stands for. Minus zero becomes zero, which no product can tell.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// A block that Q8_0 cannot hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place among all blocks given.
    pub at: usize,
    /// Its scale.
    pub code: u8,
}

impl Refused {
    /// Whether the block is not a number in MXFP4 either.
    pub fn is_nan(&self) -> bool {
        self.code == NAN
    }
}

/// Writes `scales.len()` blocks to `out`, which has [`Q8_0_BYTES`] for each; `blocks` has 16 bytes for each.
pub fn convert(blocks: &[u8], scales: &[u8], out: &mut [u8]) -> Result<(), Refused> {
    assert_eq!(
        (blocks.len(), out.len()),
        (scales.len() * BLOCK_BYTES, scales.len() * Q8_0_BYTES),
        "bug: blocks do not fit their scales"
    );
    let blocks = blocks.chunks_exact(BLOCK_BYTES).zip(scales);
    for (at, ((block, code), out)) in blocks.zip(out.chunks_exact_mut(Q8_0_BYTES)).enumerate() {
        let (scale, elements) = out.split_at_mut(2);
        for (byte, pair) in block.iter().zip(elements.chunks_exact_mut(2)) {
            pair[0] = DOUBLED[usize::from(byte & 15)] as u8;
            pair[1] = DOUBLED[usize::from(byte >> 4)] as u8;
        }
        let half_scale = match code {
            code if LOSSLESS.contains(code) => power_of_two(i32::from(*code) - 128),
            &NAN => return Err(Refused { at, code: NAN }),
            _ if elements.iter().all(|element| *element == 0) => f16::ZERO,
            _ => return Err(Refused { at, code: *code }),
        };
        scale.copy_from_slice(&half_scale.to_le_bytes());
    }
    Ok(())
}

/// 2^`exponent`, for exponents from -24 to 15. Exact.
fn power_of_two(exponent: i32) -> f16 {
    match exponent {
        ..-14 => f16::from_bits(1 << (exponent + 24)),
        _ => f16::from_bits(((exponent + 15) as u16) << 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of an element of MXFP4, bit by bit.
    fn element(nibble: u8) -> f64 {
        let (sign, exponent, mantissa) = (nibble >> 3, (nibble >> 1) & 3, nibble & 1);
        let magnitude = match exponent {
            0 => 0.5 * f64::from(mantissa),
            e => (1.0 + 0.5 * f64::from(mantissa)) * f64::from(1 << (e - 1)),
        };
        if sign == 1 { -magnitude } else { magnitude }
    }

    /// What a Q8_0 block stands for.
    fn read(block: &[u8]) -> Vec<f64> {
        let scale = f64::from(f16::from_le_bytes([block[0], block[1]]));
        block[2..]
            .iter()
            .map(|x| f64::from(*x as i8) * scale)
            .collect()
    }

    #[test]
    fn every_byte_under_every_lossless_scale_is_exact() {
        for code in LOSSLESS {
            for byte in 0..=255 {
                let mut out = [0; Q8_0_BYTES];
                convert(&[byte; BLOCK_BYTES], &[code], &mut out).expect("lossless");
                let power = 2f64.powi(i32::from(code) - 127);
                // The low nibble comes first. Equal as numbers: minus zero equals zero.
                let pair = [element(byte & 15) * power, element(byte >> 4) * power];
                let exact: Vec<f64> = (0..MXFP4_BLOCK).map(|i| pair[i % 2]).collect();
                assert_eq!(read(&out), exact, "byte {byte} scale {code}");
            }
        }
    }

    #[test]
    fn what_f16_cannot_scale_is_refused_unless_it_is_zero() {
        for code in [0, 1, 103, 144, 254, 255] {
            for byte in 0..=255u8 {
                let blocks = [[0x22; BLOCK_BYTES], [byte; BLOCK_BYTES]].concat();
                let mut out = [0; 2 * Q8_0_BYTES];
                let found = convert(&blocks, &[127, code], &mut out);
                let zero = byte & 0x77 == 0 && code != NAN;
                let expected = if zero {
                    Ok(())
                } else {
                    Err(Refused { at: 1, code })
                };
                assert_eq!(found, expected, "byte {byte} scale {code}");
                if zero {
                    assert_eq!(read(&out[Q8_0_BYTES..]), [0.0; MXFP4_BLOCK]);
                }
            }
        }
    }

    #[test]
    fn the_bounds_are_those_of_f16() {
        for code in 1..=254u8 {
            let half = 2f64.powi(i32::from(code) - 128);
            let exact = f64::from(f16::from_f64(half)) == half;
            assert_eq!(LOSSLESS.contains(&code), exact, "{code}");
            if exact {
                assert_eq!(f64::from(power_of_two(i32::from(code) - 128)), half);
            }
        }
    }
}
