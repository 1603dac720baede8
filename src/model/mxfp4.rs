//! MXFP4: four-bit floats in blocks of 32 that share a power of two.
//!
//! Takes blocks and scales as the released checkpoints store them, gives exact f32. A block is 16 bytes, each with
//! element 2j in its low and element 2j+1 in its high nibble (GGUF stores another order). An element is sign, two
//! bits of exponent, one of mantissa; a scale s stands for 2^(s-127). Every product is a f32, but for magnitudes 2
//! and more at s = 254, which overflow to infinity. s = 255 is NaN in the format and is refused here.

use super::config::MXFP4_BLOCK;

/// Bytes of one block.
pub const BLOCK_BYTES: usize = MXFP4_BLOCK / 2;

/// What a nibble stands for.
const ELEMENTS: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// Rows dequantised side by side, so that the transposed result is written a cache line at a time.
const TILE: usize = 16;

/// Where a matrix holds a scale of 255.
#[derive(Debug, PartialEq, Eq)]
pub struct NotANumber {
    /// The row.
    pub row: usize,
    /// The block in it.
    pub block: usize,
}

/// What the 32 elements of a block are multiplied by; none for NaN.
fn scale(code: u8) -> Option<f32> {
    match code {
        // 2^-127 is below the normal range of f32.
        0 => Some(f32::from_bits(1 << 22)),
        255 => None,
        _ => Some(f32::from_bits(u32::from(code) << 23)),
    }
}

/// Dequantises a matrix stored `[rows, cols]` into its transpose `[cols, rows]`, the layout that products want.
/// `blocks` holds `rows * cols / 2` bytes, `scales` `rows * cols / 32`.
pub fn dequantize_transposed(
    blocks: &[u8],
    scales: &[u8],
    rows: usize,
    cols: usize,
) -> Result<Vec<f32>, NotANumber> {
    let per_row = cols / MXFP4_BLOCK;
    assert_eq!(
        blocks.len(),
        rows * per_row * BLOCK_BYTES,
        "bug: blocks do not fit {rows} x {cols}"
    );
    assert_eq!(
        scales.len(),
        rows * per_row,
        "bug: scales do not fit {rows} x {cols}"
    );
    let mut out = vec![0.0; rows * cols];
    for first in (0..rows).step_by(TILE) {
        let tile = first..rows.min(first + TILE);
        for block in 0..per_row {
            for row in tile.clone() {
                let at = row * per_row + block;
                let scale = scale(scales[at]).ok_or(NotANumber { row, block })?;
                let bytes = &blocks[at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES];
                for (j, byte) in bytes.iter().enumerate() {
                    let col = block * MXFP4_BLOCK + 2 * j;
                    out[col * rows + row] = ELEMENTS[usize::from(byte & 15)] * scale;
                    out[(col + 1) * rows + row] = ELEMENTS[usize::from(byte >> 4)] * scale;
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format's definition, bit by bit, in f64.
    fn element(nibble: u8) -> f64 {
        let (sign, exponent, mantissa) = (nibble >> 3, (nibble >> 1) & 3, nibble & 1);
        let magnitude = match exponent {
            0 => 0.5 * f64::from(mantissa),
            e => (1.0 + 0.5 * f64::from(mantissa)) * f64::from(1 << (e - 1)),
        };
        if sign == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_byte_under_extreme_scales_is_exact() {
        for code in [0, 1, 127, 254] {
            for byte in 0..=255 {
                let out = dequantize_transposed(&[byte; BLOCK_BYTES], &[code], 1, MXFP4_BLOCK);
                let power = 2f64.powi(i32::from(code) - 127);
                let pair = [element(byte & 15) * power, element(byte >> 4) * power]
                    .map(|wide| wide as f32);
                let expected: Vec<u32> = (0..MXFP4_BLOCK).map(|i| pair[i % 2].to_bits()).collect();
                let found: Vec<u32> = out.expect("no NaN").iter().map(|x| x.to_bits()).collect();
                assert_eq!(found, expected, "byte {byte} scale {code}");
            }
        }
    }

    #[test]
    fn scale_255_is_refused_where_it_stands() {
        let mut scales = [127; 40];
        scales[18 * 2 + 1] = 255;
        let out = dequantize_transposed(&[0x22; 40 * BLOCK_BYTES], &scales, 20, 2 * MXFP4_BLOCK);
        assert_eq!(out, Err(NotANumber { row: 18, block: 1 }));
    }

    #[test]
    fn result_is_transposed() {
        // Row r holds elements 1.0 scaled by 2^r, over more rows than a tile.
        let rows = 2 * TILE + 3;
        let scales: Vec<u8> = (0..rows)
            .flat_map(|r| [127 + r as u8, 127 + r as u8])
            .collect();
        let blocks = vec![0x22; rows * 2 * BLOCK_BYTES];
        let out = dequantize_transposed(&blocks, &scales, rows, 2 * MXFP4_BLOCK).expect("no NaN");
        for (at, x) in out.iter().enumerate() {
            assert_eq!(*x, 2f32.powi((at % rows) as i32), "at {at}");
        }
    }
}
