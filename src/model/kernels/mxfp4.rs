//! Products of MXFP4 weights with activations as integers, and with f32 ones.
//!
//! Takes weights as the released checkpoints store them: for each row blocks of 32 elements in 16 bytes, element 2j in
//! the low and 2j+1 in the high nibble of byte j, and one power of two for each block (OCP Microscaling Formats 1.0;
//! gpt-oss weights.py). The weights stay packed: sixteen rows at a time are unpacked to bytes, used for all rows of
//! activations, and forgotten.
//!
//! [`product`] multiplies with activations of eight or sixteen bits ([`Quantised`]: each 32 share a scale): products
//! within a block are exact integers, blocks are added in f32 in their order. [`exact_product`] unpacks to brain floats, which hold
//! every MXFP4 value, and multiplies in f32.

use super::Columns;
use super::dense;
use super::lanes::{Isa, Kernel, Lanes};
use rayon::prelude::*;

/// Elements of a block.
pub const BLOCK: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = BLOCK / 2;

/// Rows unpacked together: one for each lane.
const ROWS: usize = 16;
/// Groups of four inputs in a block: a register holds one of them of sixteen rows.
const GROUPS: usize = BLOCK / 4;
/// Rows of activations in a tile.
const TILE: usize = 8;
/// Twice what a nibble stands for.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
/// Added to doubled weights so that they are unsigned, as the first operand of byte products is.
const OFFSET: i8 = 12;
/// [`DOUBLED`] with [`OFFSET`].
const RAISED: [u8; 16] = {
    let mut raised = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        raised[nibble] = (DOUBLED[nibble] + OFFSET).cast_unsigned();
        nibble += 1;
    }
    raised
};
/// Below this many products a call is not worth a second thread.
const THREADED_MIN: usize = 1 << 20;

/// A matrix `[rows, cols]` in MXFP4.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// `rows * cols / 2` bytes.
    pub blocks: &'a [u8],
    /// `rows * cols / 32` bytes. 255 stands for NaN: what it touches is not finite.
    pub scales: &'a [u8],
    /// Inputs of a row, a multiple of 32.
    pub cols: usize,
}

impl Matrix<'_> {
    fn rows(&self) -> usize {
        let rows = self.scales.len() * BLOCK / self.cols;
        assert_eq!(
            self.scales.len() * BLOCK,
            rows * self.cols,
            "bug: scales of part of a row"
        );
        assert_eq!(
            self.blocks.len(),
            self.scales.len() * BLOCK_BYTES,
            "bug: blocks and scales do not fit each other"
        );
        rows
    }
}

/// What a block's elements are multiplied by, 2^(code - 127); nothing meaningful for 255.
fn power(code: u8) -> f32 {
    match code {
        // 2^-127 is below the normal range of f32.
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// Rows of activations as integers that share a scale by 32.
///
/// Of one plane: eight bits, steps of 1/127 of the largest in size. Of two: what the first leaves is rounded to eight
/// bits again, steps of 1/254 of the first's.
#[derive(Debug, Default, Clone)]
pub struct Quantised {
    cols: usize,
    planes: usize,
    /// `[n, planes, cols]`, signed; within a block in the order of a panel.
    bytes: Vec<i8>,
    /// `[n, planes, cols / 32]`: what makes up for the weights' offset.
    corrections: Vec<i32>,
    /// `[n, cols / 32]`: the steps of the last plane.
    scales: Vec<f32>,
}

/// Steps of the second plane in one of the first.
const FINER: f32 = 254.0;

impl Quantised {
    /// `x` is `[n, cols]`; `cols` is a multiple of 32, `planes` 1 or 2. A value that is not finite makes its block's
    /// scale not finite.
    pub fn new(isa: Isa, x: &[f32], cols: usize, planes: usize) -> Quantised {
        assert!(
            cols.is_multiple_of(BLOCK) && x.len().is_multiple_of(cols),
            "bug: not rows of {cols}"
        );
        assert!(matches!(planes, 1 | 2), "bug: {planes} planes");
        let mut to = Quantised {
            cols,
            planes,
            bytes: vec![0; planes * x.len()],
            corrections: vec![0; planes * x.len() / BLOCK],
            scales: vec![0.0; x.len() / BLOCK],
        };
        isa.run(Quantise { x, to: &mut to });
        to
    }

    /// Some of the rows in the order asked for, laid out for products.
    pub fn tiles(&self, rows: impl ExactSizeIterator<Item = usize>) -> Tiles {
        let (n, per_row) = (rows.len(), self.cols / BLOCK);
        let (planes, words) = (self.planes, words(self.planes));
        let mut packed = vec![0; n * per_row * words];
        for (at, row) in rows.enumerate() {
            // A tile is narrower where there are not rows enough.
            let (first, i) = (at / TILE * TILE, at % TILE);
            let width = (n - first).min(TILE);
            let tile = &mut packed[first * per_row * words..][..width * per_row * words];
            for (block, to) in tile.chunks_exact_mut(width * words).enumerate() {
                for plane in 0..planes {
                    let at = (row * planes + plane) * per_row + block;
                    to[plane * width + i] = self.corrections[at];
                    let bytes = self.bytes[at * BLOCK..(at + 1) * BLOCK].chunks_exact(4);
                    for (group, bytes) in bytes.enumerate() {
                        let [a, b, c, d] = [bytes[0], bytes[1], bytes[2], bytes[3]];
                        to[((1 + group) * planes + plane) * width + i] =
                            i32::from_le_bytes([a, b, c, d].map(i8::cast_unsigned));
                    }
                }
                let scale = self.scales[row * per_row + block];
                to[(words - 1) * width + i] = scale.to_bits().cast_signed();
            }
        }
        Tiles {
            rows: n,
            cols: self.cols,
            planes,
            packed,
        }
    }
}

/// [`Quantised`] rows by eights, in the order in which a product reads them.
#[derive(Debug)]
pub struct Tiles {
    rows: usize,
    cols: usize,
    planes: usize,
    /// `[tiles, cols / 32, words, rows of the tile]`; of each block corrections `[planes]`, elements `[8, planes]` of
    /// four bytes, and a scale's bits.
    packed: Vec<i32>,
}

/// Words of a row in a block of a tile.
const fn words(planes: usize) -> usize {
    (1 + GROUPS) * planes + 1
}

struct Quantise<'a> {
    x: &'a [f32],
    to: &'a mut Quantised,
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (cols, planes) = (self.to.cols, self.to.planes);
        let per_row = cols / BLOCK;
        let planes_of = self.to.bytes.chunks_exact_mut(planes * cols);
        let planes_of = planes_of.zip(self.to.corrections.chunks_exact_mut(planes * per_row));
        let rows = self.x.chunks_exact(cols).zip(planes_of);
        for ((x, (bytes, corrections)), scales) in
            rows.zip(self.to.scales.chunks_exact_mut(per_row))
        {
            for (block, (x, scale)) in x.chunks_exact(BLOCK).zip(scales).enumerate() {
                // SAFETY: both halves of a block have sixteen elements; the set is there, as `Isa::run` saw to.
                unsafe {
                    let halves = [L::load(x.as_ptr()), L::load(x.as_ptr().add(16))];
                    let step = largest(halves) / 127.0;
                    // Anything times zero is zero, but for what is not finite.
                    let lost = halves[0].add(halves[1]).mul(L::splat(0.0)).sum();
                    *scale = lost + if planes == 2 { step / FINER } else { step };
                    let steps = L::splat(if step > 0.0 { 1.0 / step } else { 0.0 });
                    let halves = halves.map(|x| x.mul(steps));
                    let rounded = halves.map(|x| x.round_and_power().0);
                    corrections[block] =
                        place(rounded, &mut bytes[block * BLOCK..(block + 1) * BLOCK]);
                    if planes == 2 {
                        let minus = L::splat(-1.0);
                        let rest = |i: usize| rounded[i].fma(minus, halves[i]).mul(L::splat(FINER));
                        let rounded = [rest(0).round_and_power().0, rest(1).round_and_power().0];
                        let at = cols + block * BLOCK;
                        corrections[per_row + block] = place(rounded, &mut bytes[at..at + BLOCK]);
                    }
                }
            }
        }
    }
}

/// The largest size in a block; what is not a number is passed over.
///
/// # Safety
/// The processor has the set.
#[inline(always)]
unsafe fn largest<L: Lanes>(halves: [L; 2]) -> f32 {
    // SAFETY: as the caller promises.
    unsafe {
        let size = |x: L| x.mul(L::splat(-1.0)).max(x);
        size(halves[0]).max(size(halves[1])).largest().max(0.0)
    }
}

/// Integers of a block as bytes, in the order of a panel; what to add to their products with raised weights.
///
/// # Safety
/// The processor has the set.
#[inline(always)]
unsafe fn place<L: Lanes>(rounded: [L; 2], bytes: &mut [i8]) -> i32 {
    assert_eq!(bytes.len(), BLOCK, "bug: not a block");
    // SAFETY: sixteen elements each.
    unsafe {
        rounded[0].store_bytes(bytes.as_mut_ptr());
        rounded[1].store_bytes(bytes.as_mut_ptr().add(16));
    }
    let sum: i32 = bytes.iter().map(|byte| i32::from(*byte)).sum();
    -i32::from(OFFSET) * sum
}

/// `y` `[n, rows]` = `x` `[n, cols]` times the matrix transposed.
pub fn product(isa: Isa, x: &Tiles, matrix: Matrix, y: &mut [f32]) {
    let (n, rows) = (x.rows, matrix.rows());
    assert_eq!(x.cols, matrix.cols, "bug: activations of another width");
    assert_eq!(y.len(), n * rows, "bug: {n} rows of {rows} do not fit");
    let to = Columns::new(y, rows);
    let panels = rows.div_ceil(ROWS);
    let panel = |panel: usize| {
        isa.run(Panel {
            x,
            matrix,
            first: panel * ROWS,
            rows: (rows - panel * ROWS).min(ROWS),
            to,
        });
    };
    if n * rows * matrix.cols < THREADED_MIN {
        (0..panels).for_each(panel);
    } else {
        (0..panels).into_par_iter().for_each(panel);
    }
}

/// As [`product`], with `x` `[n, cols]` in f32: exact but for the order of its sums.
pub fn exact_product(isa: Isa, x: &[f32], matrix: Matrix, y: &mut [f32]) {
    let unpacked = brain_floats(matrix);
    dense::product(isa, x, &unpacked, matrix.cols, None, y);
}

/// The matrix as stored brain floats, `[rows, cols]`.
fn brain_floats(matrix: Matrix) -> Vec<u8> {
    let (rows, cols) = (matrix.rows(), matrix.cols);
    let mut unpacked = vec![0; 2 * rows * cols];
    for (at, (code, to)) in matrix
        .scales
        .iter()
        .zip(unpacked.chunks_exact_mut(2 * BLOCK))
        .enumerate()
    {
        let half = power(*code) * 0.5;
        let bytes = &matrix.blocks[at * BLOCK_BYTES..][..BLOCK_BYTES];
        for (byte, to) in bytes.iter().zip(to.chunks_exact_mut(4)) {
            for (nibble, to) in [byte & 15, byte >> 4]
                .into_iter()
                .zip(to.chunks_exact_mut(2))
            {
                let value = f32::from(DOUBLED[usize::from(nibble)]) * half;
                // Exact: an MXFP4 value has two significant bits and the exponents of f32.
                to.copy_from_slice(&((value.to_bits() >> 16) as u16).to_le_bytes());
            }
        }
    }
    unpacked
}

/// All activations times sixteen rows of weights.
struct Panel<'a> {
    x: &'a Tiles,
    matrix: Matrix<'a>,
    first: usize,
    /// How many of the sixteen there are.
    rows: usize,
    to: Columns,
}

/// One block of sixteen rows, unpacked.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Unpacked {
    /// `[groups][rows]`, raised.
    weights: [[i32; ROWS]; GROUPS],
    /// Half of each row's power of two, since the weights are doubled.
    scales: [f32; ROWS],
}

const EMPTY: Unpacked = Unpacked {
    weights: [[0; ROWS]; GROUPS],
    scales: [0.0; ROWS],
};

thread_local! {
    /// Room for a panel, kept between calls.
    static ROOM: std::cell::RefCell<Vec<Unpacked>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        match self.x.planes {
            1 => self.rows::<L, 1>(),
            _ => self.rows::<L, 2>(),
        }
    }
}

impl Panel<'_> {
    #[inline(always)]
    fn rows<L: Lanes, const PLANES: usize>(&self) {
        let n = self.x.rows;
        // SAFETY: `product` checked the lengths; this thread alone has these outputs; the set is there.
        unsafe {
            if n <= TILE {
                let mut once = Once {
                    panel: self,
                    room: EMPTY,
                };
                return self.some::<L, PLANES>(&mut once, 0, n);
            }
            let mut room = ROOM.take();
            room.resize(self.matrix.cols / BLOCK, EMPTY);
            for (block, to) in room.iter_mut().enumerate() {
                self.unpack::<L>(block, to);
            }
            for row in (0..n).step_by(TILE) {
                self.some::<L, PLANES>(&mut &room[..], row, (n - row).min(TILE));
            }
            ROOM.set(room);
        }
    }

    /// Up to eight rows of activations.
    ///
    /// # Safety
    /// As for `tile`.
    #[inline(always)]
    unsafe fn some<L: Lanes, const PLANES: usize>(
        &self,
        weights: &mut impl Blocks,
        row: usize,
        rows: usize,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            match rows {
                8 => self.tile::<L, 8, PLANES>(weights, row),
                7 => self.tile::<L, 7, PLANES>(weights, row),
                6 => self.tile::<L, 6, PLANES>(weights, row),
                5 => self.tile::<L, 5, PLANES>(weights, row),
                4 => self.tile::<L, 4, PLANES>(weights, row),
                3 => self.tile::<L, 3, PLANES>(weights, row),
                2 => self.tile::<L, 2, PLANES>(weights, row),
                _ => self.tile::<L, 1, PLANES>(weights, row),
            }
        }
    }

    /// One block of the panel's rows; rows that are not there are like the last one and are not kept.
    ///
    /// # Safety
    /// The processor has the set.
    #[inline(always)]
    unsafe fn unpack<L: Lanes>(&self, block: usize, to: &mut Unpacked) {
        let per_row = self.matrix.cols / BLOCK;
        // SAFETY: `product` checked the lengths, so every row has its block and its scale.
        unsafe {
            let at = |row: usize| (self.first + row.min(self.rows - 1)) * per_row + block;
            let rows =
                std::array::from_fn(|row| self.matrix.blocks.as_ptr().add(at(row) * BLOCK_BYTES));
            let codes: [i32; ROWS] =
                std::array::from_fn(|row| i32::from(*self.matrix.scales.get_unchecked(at(row))));
            // The next panel's share, as memory is far and rows are too many for it to be foreseen.
            let next = ((self.first + ROWS) * per_row + block * ROWS) * BLOCK_BYTES;
            for line in (0..ROWS * BLOCK_BYTES).step_by(64) {
                L::prefetch(self.matrix.blocks.as_ptr().wrapping_add(next + line));
            }
            let scales = L::powers(L::load_ints(codes.as_ptr()));
            scales.mul(L::splat(0.5)).store(to.scales.as_mut_ptr());
            for (column, to) in L::columns(&rows)
                .into_iter()
                .zip(to.weights.chunks_exact_mut(2))
            {
                let (low, high) = L::look_up(column, &RAISED);
                L::store_ints(low, to[0].as_mut_ptr());
                L::store_ints(high, to[1].as_mut_ptr());
            }
        }
    }

    /// # Safety
    /// `N` rows of activations from `row` exist; this thread alone has their outputs of this panel; the processor has
    /// the set.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const N: usize, const PLANES: usize>(
        &self,
        weights: &mut impl Blocks,
        row: usize,
    ) {
        let per_row = self.x.cols / BLOCK;
        let words = const { words(PLANES) };
        // SAFETY: as the caller promises; a panel has as many blocks as a row of activations.
        unsafe {
            let mut x = self.x.packed.as_ptr().add(row * per_row * words);
            let mut sums = [L::splat(0.0); N];
            for block in 0..per_row {
                let unpacked = weights.block::<L>(block);
                let mut ints = [[L::splat_ints(0); N]; PLANES];
                for (plane, ints) in ints.iter_mut().enumerate() {
                    for (i, int) in ints.iter_mut().enumerate() {
                        *int = L::splat_ints(*x.add(plane * N + i));
                    }
                }
                for (group, weights) in unpacked.weights.iter().enumerate() {
                    let weights = L::load_ints(weights.as_ptr());
                    for (plane, ints) in ints.iter_mut().enumerate() {
                        let x = x.add(((1 + group) * PLANES + plane) * N);
                        for (i, int) in ints.iter_mut().enumerate() {
                            *int = L::dot(*int, weights, *x.add(i));
                        }
                    }
                }
                let scale = L::load(unpacked.scales.as_ptr());
                let scales = x.add((words - 1) * N).cast::<f32>();
                for (i, sum) in sums.iter_mut().enumerate() {
                    let scale = scale.mul(L::splat(*scales.add(i)));
                    let mut whole = L::to_floats(ints[0][i]);
                    if PLANES == 2 {
                        // Exact: both are integers, and the whole is below 2^24.
                        whole = whole.fma(L::splat(FINER), L::to_floats(ints[1][i]));
                    }
                    *sum = whole.fma(scale, *sum);
                }
                x = x.add(words * N);
            }
            for (i, sum) in sums.iter().enumerate() {
                let to = self.to.at(row + i, self.first);
                if self.rows == ROWS {
                    sum.store(to);
                } else {
                    let mut all = [0.0f32; ROWS];
                    sum.store(all.as_mut_ptr());
                    all.as_ptr().copy_to_nonoverlapping(to, self.rows);
                }
            }
        }
    }
}

/// Where a tile has its weights from, a block of sixteen rows at a time.
trait Blocks {
    /// # Safety
    /// There is such a block; the processor has the set.
    unsafe fn block<L: Lanes>(&mut self, block: usize) -> &Unpacked;
}

/// Unpacked when they are wanted, and not kept.
struct Once<'a> {
    panel: &'a Panel<'a>,
    room: Unpacked,
}

impl Blocks for Once<'_> {
    #[inline(always)]
    unsafe fn block<L: Lanes>(&mut self, block: usize) -> &Unpacked {
        // SAFETY: as the caller promises.
        unsafe { self.panel.unpack::<L>(block, &mut self.room) };
        &self.room
    }
}

impl Blocks for &[Unpacked] {
    #[inline(always)]
    unsafe fn block<L: Lanes>(&mut self, block: usize) -> &Unpacked {
        // SAFETY: as the caller promises.
        unsafe { self.get_unchecked(block) }
    }
}

#[cfg(test)]
mod tests;
