//! Products with bf16 weights, read where they are stored.
//!
//! Takes rows of f32 and a weight matrix as checkpoints store it (row-major `[out, in]`, little-endian brain floats),
//! gives `[rows, out]` in f32. Thirty-two outputs at a time are turned so that a register holds the weights of two inputs,
//! then all rows pass, and weights are widened (exact) where they are used. An output is the fused multiply-add of its inputs one after another.

use super::Columns;
use super::lanes::{Isa, Kernel, Lanes, WIDTH};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a tile: their sums fill the registers.
const TILE_ROWS: usize = 12;
/// Outputs of a tile.
const TILE_OUTS: usize = 2 * WIDTH;
/// Outputs of a panel where rows are many: all rows pass a panel once, and should not have to do so often.
const PANEL_OUTS: usize = 4 * TILE_OUTS;
/// Bytes of rows that may pass as often as there are tiles.
const NEAR_BYTES: usize = 1 << 19;
/// Below this many products a call is not worth a second thread.
const THREADED_MIN: usize = 1 << 19;

thread_local! {
    /// Room for a panel `[tiles, inputs / 2, 32]` of pairs, kept between calls.
    static ROOM: std::cell::RefCell<Vec<i32>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// `y` `[n, outs]` = `x` `[n, inputs]` times `weights` `[outs, inputs]` transposed, plus `bias` `[outs]` where there is
/// one. `inputs` is a multiple of 8. Panics where the lengths do not fit.
pub fn product(
    isa: Isa,
    x: &[f32],
    weights: &[u8],
    inputs: usize,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let (n, outs) = (x.len() / inputs, weights.len() / (2 * inputs));
    assert!(inputs.is_multiple_of(8), "bug: {inputs} inputs");
    assert_eq!(x.len(), n * inputs, "bug: rows are not {inputs} wide");
    assert_eq!(
        weights.len(),
        2 * outs * inputs,
        "bug: weights are not {inputs} wide"
    );
    assert_eq!(y.len(), n * outs, "bug: {n} rows of {outs} do not fit");
    assert!(
        bias.is_none_or(|bias| bias.len() == outs),
        "bug: a bias of another width"
    );
    let to = Columns::new(y, outs);
    let wide = match size_of_val(x) {
        0..=NEAR_BYTES => TILE_OUTS,
        _ => PANEL_OUTS,
    };
    let panel = |panel: usize| {
        let first = panel * wide;
        isa.run(Panel {
            x,
            weights,
            inputs,
            bias,
            outs: first..outs.min(first + wide),
            to,
        });
    };
    let panels = outs.div_ceil(wide);
    if n * outs * inputs < THREADED_MIN {
        (0..panels).for_each(panel);
    } else {
        (0..panels).into_par_iter().for_each(panel);
    }
}

/// All rows times some of the weights' rows.
struct Panel<'a> {
    x: &'a [f32],
    weights: &'a [u8],
    inputs: usize,
    bias: Option<&'a [f32]>,
    outs: Range<usize>,
    to: Columns,
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let n = self.x.len() / self.inputs;
        let tiles = self.outs.len().div_ceil(TILE_OUTS);
        let size = self.inputs / 2 * TILE_OUTS;
        let mut room = ROOM.take();
        if room.len() < tiles * size {
            room.resize(tiles * size, 0);
        }
        let tile = |tile: usize| Panel {
            outs: self.outs.start + tile * TILE_OUTS
                ..self.outs.end.min(self.outs.start + (tile + 1) * TILE_OUTS),
            ..self
        };
        // SAFETY: the lengths were checked by `product`, the room was made; this thread alone has these outputs.
        unsafe {
            for (i, room) in room.chunks_exact_mut(size).take(tiles).enumerate() {
                tile(i).turn::<L>(room);
            }
            for row in (0..n).step_by(TILE_ROWS) {
                for (i, room) in room.chunks_exact(size).take(tiles).enumerate() {
                    tile(i).rows::<L>(room, row, (n - row).min(TILE_ROWS));
                }
            }
        }
        ROOM.set(room);
    }
}

impl Panel<'_> {
    /// The weights of a tile as `[inputs / 2, 32]` pairs; zeros for outputs that are not there.
    ///
    /// # Safety
    /// There is room; the processor has the set.
    #[inline(always)]
    unsafe fn turn<L: Lanes>(&self, room: &mut [i32]) {
        let none = [0u8; 16];
        for group in 0..2 {
            let first = self.outs.start + group * WIDTH;
            let there = self.outs.end.saturating_sub(first).min(WIDTH);
            for input in (0..self.inputs).step_by(8) {
                // SAFETY: eight brain floats from `input` are inside their row, as `inputs` is a multiple of 8.
                unsafe {
                    // As many bytes of the next tile: memory is far, and rows are too many for it to be foreseen.
                    let next = 2 * ((first + TILE_OUTS) * self.inputs + input * WIDTH);
                    for line in (0..2 * 8 * WIDTH).step_by(64) {
                        L::prefetch(self.weights.as_ptr().wrapping_add(next + line));
                    }
                    let rows = std::array::from_fn(|i| match i < there {
                        true => self
                            .weights
                            .as_ptr()
                            .add(2 * ((first + i) * self.inputs + input)),
                        false => none.as_ptr(),
                    });
                    let to = room.as_mut_ptr().add(input / 2 * TILE_OUTS + group * WIDTH);
                    for (pair, column) in L::columns(&rows).into_iter().enumerate() {
                        L::store_ints(column, to.add(pair * TILE_OUTS));
                    }
                }
            }
        }
    }

    /// # Safety
    /// `room` holds the tile; there are `rows` rows from `row`, at most [`TILE_ROWS`].
    #[inline(always)]
    unsafe fn rows<L: Lanes>(&self, room: &[i32], row: usize, rows: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            match (rows, L::NARROW) {
                (12, false) => self.tile::<L, 12>(room, row),
                (8.., false) => {
                    self.tile::<L, 8>(room, row);
                    self.few::<L>(room, row + 8, rows - 8);
                }
                _ => self.few::<L>(room, row, rows),
            }
        }
    }

    /// Rows that do not fill a tile.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn few<L: Lanes>(&self, room: &[i32], row: usize, rows: usize) {
        let mut done = 0;
        while done < rows {
            // SAFETY: as the caller promises.
            unsafe {
                match rows - done {
                    4.. if !L::NARROW => {
                        self.tile::<L, 4>(room, row + done);
                        done += 4;
                    }
                    2.. => {
                        self.tile::<L, 2>(room, row + done);
                        done += 2;
                    }
                    _ => {
                        self.tile::<L, 1>(room, row + done);
                        done += 1;
                    }
                }
            }
        }
    }

    /// # Safety
    /// `ROWS` rows from `row` exist, `room` holds the tile; the processor has the set.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize>(&self, room: &[i32], row: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            let x = self.x.as_ptr().add(row * self.inputs);
            let mut sums = [[L::splat(0.0); 2]; ROWS];
            for pair in 0..self.inputs / 2 {
                let w = room.as_ptr().add(pair * TILE_OUTS);
                let (even, odd) = L::widen(L::load_ints(w));
                let (even_too, odd_too) = L::widen(L::load_ints(w.add(WIDTH)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = x.add(r * self.inputs + 2 * pair);
                    let (first, second) = (L::splat(*x), L::splat(*x.add(1)));
                    sums[0] = second.fma(odd, first.fma(even, sums[0]));
                    sums[1] = second.fma(odd_too, first.fma(even_too, sums[1]));
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let mut y = [0.0f32; TILE_OUTS];
                sums[0].store(y.as_mut_ptr());
                sums[1].store(y.as_mut_ptr().add(WIDTH));
                let to = self.to.at(row + r, self.outs.start);
                for (i, y) in y[..self.outs.len()].iter().enumerate() {
                    *to.add(i) = y + self.bias.map_or(0.0, |bias| bias[self.outs.start + i]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(i: usize) -> f32 {
        ((i * 7919 + 13) % 1009) as f32 / 500.0 - 1.0
    }

    fn brain_floats(count: usize) -> Vec<u8> {
        (0..count)
            .flat_map(|i| ((number(i).to_bits() >> 16) as u16).to_le_bytes())
            .collect()
    }

    #[test]
    fn sums_are_right_and_every_set_and_batch_gives_the_same_bits() {
        for (inputs, outs) in [
            (16, 4),
            (96, 65),
            (600, 7),
            (72, 9),
            (2880, 130),
            (8, 1),
            (64, 33),
        ] {
            let (x, w) = (
                (0..inputs * 40).map(|i| number(i + 5)).collect::<Vec<_>>(),
                brain_floats(inputs * outs),
            );
            let bias: Vec<f32> = (0..outs).map(|o| number(o * 3)).collect();
            let mut all = vec![0.0; 40 * outs];
            product(Isa::best(), &x, &w, inputs, Some(&bias), &mut all);
            for (at, y) in all.iter().enumerate() {
                let (row, out) = (at / outs, at % outs);
                let mut size = 1.0;
                let wide: f64 = (0..inputs)
                    .map(|i| {
                        let pair = [w[2 * (out * inputs + i)], w[2 * (out * inputs + i) + 1]];
                        let w = f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16);
                        {
                            let product = f64::from(x[row * inputs + i]) * f64::from(w);
                            size += product.abs();
                            product
                        }
                    })
                    .sum::<f64>()
                    + f64::from(bias[out]);
                assert!(
                    (wide - f64::from(*y)).abs() < 4e-6 * size,
                    "{inputs} {outs} at {at}: {wide} {y}"
                );
            }
            for isa in Isa::present() {
                for n in [1, 2, 5, 6, 7, 13, 33] {
                    let mut some = vec![0.0; n * outs];
                    let rows = &x[inputs * 3..inputs * (3 + n)];
                    product(isa, rows, &w, inputs, Some(&bias), &mut some);
                    assert!(
                        some == all[outs * 3..outs * (3 + n)],
                        "{isa:?} {n} of {inputs} to {outs}"
                    );
                }
            }
        }
    }
}
