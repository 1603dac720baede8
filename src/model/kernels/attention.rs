//! Attention with sinks over blocks of keys.
//!
//! Takes queries, the positions that each of them sees and the keys and values of one head in blocks of [`BLOCK`]
//! positions; gives each query's mean of the values, weighed by a softmax in which the head's sink takes part without
//! a value of its own (gpt-oss; the softmax over blocks is the running one of FlashAttention, arXiv 2205.14135). A
//! query's blocks come in the order of their positions, in one call or in several: what all texts of a policy share
//! can be attended to by all their queries at once, and then each text's own blocks. The result does not depend on
//! where that cut is, since blocks begin at multiples of [`BLOCK`] wherever they are stored.

use super::lanes::{Isa, Kernel, Lanes, WIDTH};
use std::ops::Range;

/// Positions in a block.
pub const BLOCK: usize = 128;
/// Queries taken together at most.
pub const QUERIES_MAX: usize = 48;

/// Rows of a tile of a product.
const TILE_ROWS: usize = 12;
/// Columns of a tile of a product.
const TILE_COLUMNS: usize = 2 * WIDTH;

/// One head's keys and values at `first..first + BLOCK`. What no query sees may hold any finite numbers.
#[derive(Debug, Clone, Copy)]
pub struct HeadBlock<'a> {
    /// A multiple of [`BLOCK`].
    pub first: usize,
    /// `[head_dim, BLOCK]`.
    pub keys: &'a [f32],
    /// `[BLOCK, head_dim]`.
    pub values: &'a [f32],
}

/// Some queries of one head and how far they have come.
#[derive(Debug)]
pub struct Queries<'a> {
    /// `[n, head_dim]`, `head_dim` a multiple of 32, turned and not scaled.
    pub queries: &'a [f32],
    /// The positions that each of the `n` sees.
    pub visible: &'a [Range<usize>],
    /// `[n]`: at first each one's sink; then the largest score so far.
    pub largest: &'a mut [f32],
    /// `[n]`: at first 1; then the sum of all weights so far, relative to the largest score.
    pub sums: &'a mut [f32],
    /// `[n, head_dim]`: at first 0; then the weighed values so far.
    pub seen: &'a mut [f32],
}

impl Queries<'_> {
    /// Attends to more blocks.
    pub fn attend<'b>(&mut self, isa: Isa, blocks: impl Iterator<Item = HeadBlock<'b>> + Clone) {
        let (n, dim) = (
            self.visible.len(),
            self.queries.len() / self.visible.len().max(1),
        );
        assert!(dim.is_multiple_of(TILE_COLUMNS), "bug: heads of {dim}");
        assert!(self.largest.len() == n && self.sums.len() == n && self.seen.len() == n * dim);
        let mut at = 0;
        while at < n {
            let tile = at..n.min(at + QUERIES_MAX);
            isa.run(Tile {
                queries: &self.queries[tile.start * dim..tile.end * dim],
                visible: &self.visible[tile.clone()],
                largest: &mut self.largest[tile.clone()],
                sums: &mut self.sums[tile.clone()],
                seen: &mut self.seen[tile.start * dim..tile.end * dim],
                dim,
                blocks: blocks.clone(),
            });
            at = tile.end;
        }
    }

    /// Divides by the sums: `seen` is the result. To be called once, after all blocks.
    pub fn finish(&mut self) {
        let dim = self.queries.len() / self.visible.len().max(1);
        for (seen, sum) in self.seen.chunks_exact_mut(dim).zip(&*self.sums) {
            seen.iter_mut().for_each(|seen| *seen /= sum);
        }
    }
}

/// Up to [`QUERIES_MAX`] queries and some blocks.
struct Tile<'a, I> {
    queries: &'a [f32],
    visible: &'a [Range<usize>],
    largest: &'a mut [f32],
    sums: &'a mut [f32],
    seen: &'a mut [f32],
    dim: usize,
    blocks: I,
}

impl<'b, I: Iterator<Item = HeadBlock<'b>>> Kernel for Tile<'_, I> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let n = self.visible.len();
        let mut scores = [0.0f32; QUERIES_MAX * BLOCK];
        let scale = 1.0 / (self.dim as f32).sqrt();
        for block in self.blocks {
            assert_eq!(
                block.keys.len(),
                self.dim * BLOCK,
                "bug: keys of another shape"
            );
            assert_eq!(
                block.values.len(),
                self.dim * BLOCK,
                "bug: values of another shape"
            );
            let inside = |visible: &Range<usize>| {
                let end = visible.end.clamp(block.first, block.first + BLOCK);
                visible.start.clamp(block.first, end) - block.first..end - block.first
            };
            let all = self
                .visible
                .iter()
                .map(inside)
                .filter(|inside| !inside.is_empty());
            let Some(any) = all.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)) else {
                continue;
            };
            // SAFETY: the shapes were checked; the set is there, as `Isa::run` saw to.
            unsafe {
                let columns = any.start / TILE_COLUMNS * TILE_COLUMNS;
                let product = Product {
                    n,
                    depth: self.dim,
                    a: self.queries.as_ptr(),
                    a_stride: self.dim,
                    b: block.keys.as_ptr().add(columns),
                    b_stride: BLOCK,
                    columns: any.end - columns,
                    c: scores.as_mut_ptr().add(columns),
                    c_stride: BLOCK,
                };
                product.run::<L>(false);
                for (row, visible) in self.visible.iter().enumerate() {
                    let scores = &mut scores[row * BLOCK..(row + 1) * BLOCK];
                    let seen = &mut self.seen[row * self.dim..(row + 1) * self.dim];
                    let (largest, sum) = (&mut self.largest[row], &mut self.sums[row]);
                    weigh::<L>(scores, &any, inside(visible), scale, largest, sum, seen);
                }
                let product = Product {
                    n,
                    depth: any.len(),
                    a: scores.as_ptr().add(any.start),
                    a_stride: BLOCK,
                    b: block.values.as_ptr().add(any.start * self.dim),
                    b_stride: self.dim,
                    columns: self.dim,
                    c: self.seen.as_mut_ptr(),
                    c_stride: self.dim,
                };
                product.run::<L>(true);
            }
        }
    }
}

/// Turns one query's scores in a block into weights, relative to its largest score so far; zero where of `any` it sees
/// nothing.
///
/// # Safety
/// The processor has the set.
#[inline(always)]
unsafe fn weigh<L: Lanes>(
    scores: &mut [f32],
    any: &Range<usize>,
    inside: Range<usize>,
    scale: f32,
    largest: &mut f32,
    sum: &mut f32,
    seen: &mut [f32],
) {
    if inside.is_empty() {
        scores[any.clone()].fill(0.0);
        return;
    }
    // Whole registers: no others can matter.
    let around = inside.start / WIDTH * WIDTH..inside.end.next_multiple_of(WIDTH);
    scores[around.start..inside.start].fill(f32::NEG_INFINITY);
    scores[inside.end..around.end].fill(f32::NEG_INFINITY);
    // SAFETY: a block is a multiple of sixteen.
    unsafe {
        let scale = L::splat(scale);
        let mut most = L::splat(f32::NEG_INFINITY);
        for scores in scores[around.clone()].chunks_exact_mut(WIDTH) {
            let scaled = L::load(scores.as_ptr()).mul(scale);
            scaled.store(scores.as_mut_ptr());
            most = most.max(scaled);
        }
        let most = most.largest().max(*largest);
        let shrink = L::splat(*largest - most).exp();
        *largest = most;
        for scores in scores[around.clone()].chunks_exact_mut(WIDTH) {
            let weights = L::load(scores.as_ptr()).add(L::splat(-most)).exp();
            weights.store(scores.as_mut_ptr());
        }
        scores[any.start.min(around.start)..inside.start].fill(0.0);
        scores[inside.end..any.end.max(around.end)].fill(0.0);
        let mut of_block = L::splat(0.0);
        for weights in scores[around].chunks_exact(WIDTH) {
            of_block = of_block.add(L::load(weights.as_ptr()));
        }
        let mut one = [0.0f32; WIDTH];
        shrink.store(one.as_mut_ptr());
        *sum = *sum * one[0] + of_block.sum();
        for seen in seen.chunks_exact_mut(WIDTH) {
            L::load(seen.as_ptr()).mul(shrink).store(seen.as_mut_ptr());
        }
    }
}

/// `c` `[n, columns]` = `a` `[n, depth]` times `b` `[depth, columns]`, or that added to `c`. Columns are computed in
/// whole tiles of 32: `b` and `c` have room for them.
struct Product {
    n: usize,
    depth: usize,
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    columns: usize,
    c: *mut f32,
    c_stride: usize,
}

impl Product {
    /// # Safety
    /// The pointers reach what the shapes say; the processor has the set.
    #[inline(always)]
    unsafe fn run<L: Lanes>(&self, add: bool) {
        let mut row = 0;
        while row < self.n {
            let rows = (self.n - row).min(TILE_ROWS);
            for column in (0..self.columns).step_by(TILE_COLUMNS) {
                // SAFETY: as the caller promises.
                unsafe {
                    match (rows, L::NARROW) {
                        (12, false) => self.tile::<L, 12>(row, column, add),
                        (8.., false) => {
                            self.tile::<L, 8>(row, column, add);
                            self.few::<L>(row + 8, rows - 8, column, add);
                        }
                        _ => self.few::<L>(row, rows, column, add),
                    }
                }
            }
            row += rows;
        }
    }

    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn few<L: Lanes>(&self, row: usize, rows: usize, column: usize, add: bool) {
        let mut done = 0;
        while done < rows {
            // SAFETY: as the caller promises.
            unsafe {
                match rows - done {
                    4.. if !L::NARROW => {
                        self.tile::<L, 4>(row + done, column, add);
                        done += 4;
                    }
                    2.. => {
                        self.tile::<L, 2>(row + done, column, add);
                        done += 2;
                    }
                    _ => {
                        self.tile::<L, 1>(row + done, column, add);
                        done += 1;
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize>(&self, row: usize, column: usize, add: bool) {
        // SAFETY: as the caller promises.
        unsafe {
            let a = self.a.add(row * self.a_stride);
            let b = self.b.add(column);
            let c = self.c.add(row * self.c_stride + column);
            let mut sums = [[L::splat(0.0); 2]; ROWS];
            if add {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let c = c.add(r * self.c_stride);
                    *sums = [L::load(c), L::load(c.add(WIDTH))];
                }
            }
            for k in 0..self.depth {
                let b = b.add(k * self.b_stride);
                let b = [L::load(b), L::load(b.add(WIDTH))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = L::splat(*a.add(r * self.a_stride + k));
                    sums[0] = a.fma(b[0], sums[0]);
                    sums[1] = a.fma(b[1], sums[1]);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let c = c.add(r * self.c_stride);
                sums[0].store(c);
                sums[1].store(c.add(WIDTH));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 64;

    fn number(i: usize) -> f32 {
        ((i * 7919 + 13) % 1009) as f32 / 250.0 - 2.0
    }

    /// Blocks of made-up keys and values for positions `0..len`.
    fn blocks(len: usize) -> Vec<(Vec<f32>, Vec<f32>)> {
        let at = |first: usize| {
            let (mut keys, mut values) = (vec![0.0; DIM * BLOCK], vec![0.0; DIM * BLOCK]);
            for p in (0..BLOCK).filter(|p| first + p < len) {
                for d in 0..DIM {
                    keys[d * BLOCK + p] = number((first + p) * 31 + d * 3);
                    values[p * DIM + d] = number((first + p) * 17 + d * 5 + 1);
                }
            }
            (keys, values)
        };
        (0..len).step_by(BLOCK).map(at).collect()
    }

    fn heads(blocks: &[(Vec<f32>, Vec<f32>)]) -> impl Iterator<Item = HeadBlock<'_>> + Clone {
        let blocks = blocks.iter().enumerate();
        blocks.map(|(i, (keys, values))| HeadBlock {
            first: i * BLOCK,
            keys,
            values,
        })
    }

    /// All queries' results, attended to in the calls that `cuts` (numbers of blocks) say.
    fn run(isa: Isa, visible: &[Range<usize>], sink: f32, cuts: &[usize], len: usize) -> Vec<f32> {
        let n = visible.len();
        let queries: Vec<f32> = (0..n * DIM).map(|i| number(i * 3 + 7)).collect();
        let (mut largest, mut sums, mut seen) = (vec![sink; n], vec![1.0; n], vec![0.0; n * DIM]);
        let mut of = Queries {
            queries: &queries,
            visible,
            largest: &mut largest,
            sums: &mut sums,
            seen: &mut seen,
        };
        let blocks = blocks(len);
        let mut from = 0;
        for to in cuts.iter().copied().chain([blocks.len()]) {
            of.attend(isa, heads(&blocks).skip(from).take(to - from));
            from = to;
        }
        of.finish();
        seen
    }

    #[test]
    fn it_is_a_softmax_with_a_sink() {
        let visible = [0..1, 0..130, 3..131, 100..300, 128..129, 299..300, 0..300];
        let seen = run(Isa::best(), &visible, 0.5, &[], 300);
        for (row, visible) in visible.iter().enumerate() {
            let q = |d: usize| f64::from(number((row * DIM + d) * 3 + 7));
            let score = |p: usize| {
                (0..DIM)
                    .map(|d| q(d) * f64::from(number(p * 31 + d * 3)))
                    .sum::<f64>()
                    / 8.0
            };
            let sum: f64 = visible.clone().map(|p| score(p).exp()).sum::<f64>() + 0.5f64.exp();
            for d in 0..DIM {
                let value = |p: usize| f64::from(number(p * 17 + d * 5 + 1));
                let mean = visible
                    .clone()
                    .map(|p| score(p).exp() * value(p))
                    .sum::<f64>()
                    / sum;
                let found = f64::from(seen[row * DIM + d]);
                assert!(
                    (mean - found).abs() < 1e-5,
                    "{visible:?} {d}: {mean} {found}"
                );
            }
        }
    }

    #[test]
    fn cuts_sets_and_neighbours_change_no_bit() {
        let visible: Vec<Range<usize>> = (0..70).map(|i| (i * 3).min(i * i)..250 + i * 2).collect();
        let all = run(Isa::best(), &visible, -1.0, &[], 400);
        for isa in Isa::present() {
            for cuts in [&[][..], &[1], &[2, 3], &[0, 1, 2, 3]] {
                assert!(
                    run(isa, &visible, -1.0, cuts, 400) == all,
                    "{isa:?} {cuts:?}"
                );
            }
        }
        // The first queries alone: fewer rows, other tiles, other unions of what is visible.
        for n in [1, 2, 5, 9, 13, 47, 49] {
            let some = run(Isa::best(), &visible[..n], -1.0, &[1], 400);
            assert!(some == all[..n * DIM], "{n}");
        }
    }
}
