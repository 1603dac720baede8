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
/// Bytes of one block of a panel: for each four inputs sixteen rows of four weights.
const PANEL_BYTES: usize = BLOCK * ROWS;
/// Rows of activations in a tile.
const TILE: usize = 8;
/// Twice what a nibble stands for.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
/// Added to activations so that they are unsigned.
const OFFSET: i32 = 128;
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
    /// `[n, planes, cols]`, offset by 128; within a block in the order of a panel.
    bytes: Vec<u8>,
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
            scales: vec![0.0; x.len() / BLOCK],
        };
        isa.run(Quantise { x, to: &mut to });
        to
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.bytes.len() / (self.planes * self.cols)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Some of the rows, in the order asked for.
    pub fn pick(&self, rows: impl ExactSizeIterator<Item = usize>) -> Quantised {
        let (width, per_row) = (self.planes * self.cols, self.cols / BLOCK);
        let mut to = Quantised {
            cols: self.cols,
            planes: self.planes,
            bytes: Vec::with_capacity(rows.len() * width),
            scales: Vec::with_capacity(rows.len() * per_row),
        };
        for row in rows {
            to.bytes
                .extend_from_slice(&self.bytes[row * width..(row + 1) * width]);
            to.scales
                .extend_from_slice(&self.scales[row * per_row..(row + 1) * per_row]);
        }
        to
    }
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
        let rows = self
            .x
            .chunks_exact(cols)
            .zip(self.to.bytes.chunks_exact_mut(planes * cols));
        for ((x, bytes), scales) in rows.zip(self.to.scales.chunks_exact_mut(cols / BLOCK)) {
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
                    place(rounded, &mut bytes[block * BLOCK..(block + 1) * BLOCK]);
                    if planes == 2 {
                        let minus = L::splat(-1.0);
                        let rest = |i: usize| rounded[i].fma(minus, halves[i]).mul(L::splat(FINER));
                        let rounded = [rest(0).round_and_power().0, rest(1).round_and_power().0];
                        let at = cols + block * BLOCK;
                        place(rounded, &mut bytes[at..at + BLOCK]);
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

/// Integers of a block as offset bytes, in the order of a panel.
///
/// # Safety
/// The processor has the set.
#[inline(always)]
unsafe fn place<L: Lanes>(rounded: [L; 2], bytes: &mut [u8]) {
    let mut plain = [0.0f32; BLOCK];
    // SAFETY: sixteen elements each.
    unsafe {
        rounded[0].store(plain.as_mut_ptr());
        rounded[1].store(plain.as_mut_ptr().add(16));
    }
    for (group, bytes) in bytes.chunks_exact_mut(4).enumerate() {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (plain[element(group, i)] as i32 + OFFSET) as u8;
        }
    }
}

/// Which element of a block is the `i`th of a panel's `group`: nibbles of one kind from four bytes that follow each
/// other.
const fn element(group: usize, i: usize) -> usize {
    8 * (group / 2) + 2 * i + group % 2
}

/// `y` `[n, rows]` = `x` `[n, cols]` times the matrix transposed.
pub fn product(isa: Isa, x: &Quantised, matrix: Matrix, y: &mut [f32]) {
    let (n, rows) = (x.len(), matrix.rows());
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
    x: &'a Quantised,
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
    /// `[groups of four inputs][rows][four inputs]`.
    weights: [i8; PANEL_BYTES],
    /// What makes up for the activations' offset, for each row.
    corrections: [i32; ROWS],
    /// Half of each row's power of two, since the weights are doubled.
    scales: [f32; ROWS],
}

thread_local! {
    /// Room for a panel, kept between calls.
    static ROOM: std::cell::RefCell<Vec<Unpacked>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let empty = Unpacked {
            weights: [0; PANEL_BYTES],
            corrections: [0; ROWS],
            scales: [0.0; ROWS],
        };
        let mut room = ROOM.take();
        room.resize(self.matrix.cols / BLOCK, empty);
        for (block, to) in room.iter_mut().enumerate() {
            self.unpack::<L>(block, to);
        }
        match self.x.planes {
            1 => self.rows::<L, 1>(&room),
            _ => self.rows::<L, 2>(&room),
        }
        ROOM.set(room);
    }
}

impl Panel<'_> {
    #[inline(always)]
    fn rows<L: Lanes, const PLANES: usize>(&self, room: &[Unpacked]) {
        let n = self.x.len();
        let mut row = 0;
        while row < n {
            let rows = (n - row).min(TILE);
            // SAFETY: `rows` rows from `row` exist; this thread alone has these outputs; the set is there.
            unsafe {
                match rows {
                    8 => self.tile::<L, 8, PLANES>(room, row),
                    4.. => {
                        self.tile::<L, 4, PLANES>(room, row);
                        self.few::<L, PLANES>(room, row + 4, rows - 4);
                    }
                    _ => self.few::<L, PLANES>(room, row, rows),
                }
            }
            row += rows;
        }
    }

    /// Up to three rows.
    ///
    /// # Safety
    /// As for `tile`.
    #[inline(always)]
    unsafe fn few<L: Lanes, const PLANES: usize>(
        &self,
        room: &[Unpacked],
        row: usize,
        rows: usize,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            match rows {
                3 => self.tile::<L, 3, PLANES>(room, row),
                2 => self.tile::<L, 2, PLANES>(room, row),
                1 => self.tile::<L, 1, PLANES>(room, row),
                _ => {}
            }
        }
    }

    /// One block of the panel's rows; rows that are not there are like the last one and are not kept.
    #[inline(always)]
    fn unpack<L: Lanes>(&self, block: usize, to: &mut Unpacked) {
        let per_row = self.matrix.cols / BLOCK;
        // SAFETY: `product` checked the lengths, so every row has its block and its scale; the set is there.
        unsafe {
            let at = |row: usize| (self.first + row.min(self.rows - 1)) * per_row + block;
            let rows =
                std::array::from_fn(|row| self.matrix.blocks.as_ptr().add(at(row) * BLOCK_BYTES));
            for row in 0..ROWS {
                let code = *self.matrix.scales.get_unchecked(at(row));
                to.scales[row] = power(code) * 0.5;
            }
            for (pair, column) in L::columns(&rows).into_iter().enumerate() {
                let low = to.weights.as_mut_ptr().add(128 * pair);
                L::look_up(column, &DOUBLED, low, low.add(64));
            }
            let mut sums = L::load_ints([0; ROWS].as_ptr());
            for group in 0..BLOCK / 4 {
                let offset = u32::from_le_bytes([OFFSET as u8; 4]);
                sums = L::dot(sums, offset, to.weights.as_ptr().add(group * 64));
            }
            L::store_negated(sums, to.corrections.as_mut_ptr());
        }
    }

    /// # Safety
    /// `N` rows of activations from `row` exist; the processor has the set.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const N: usize, const PLANES: usize>(
        &self,
        panel: &[Unpacked],
        row: usize,
    ) {
        let (cols, per_row) = (self.x.cols, self.x.cols / BLOCK);
        // SAFETY: as the caller promises; a panel has as many blocks as a row of activations.
        unsafe {
            let bytes = self.x.bytes.as_ptr().add(row * PLANES * cols);
            let scales = self.x.scales.as_ptr().add(row * per_row);
            let mut sums = [L::splat(0.0); N];
            for (block, unpacked) in panel.iter().enumerate() {
                let corrections = L::load_ints(unpacked.corrections.as_ptr());
                let mut ints = [[corrections; N]; PLANES];
                for group in 0..BLOCK / 4 {
                    let weights = unpacked.weights.as_ptr().add(group * 64);
                    for (plane, ints) in ints.iter_mut().enumerate() {
                        for (i, int) in ints.iter_mut().enumerate() {
                            let at = (i * PLANES + plane) * cols + block * BLOCK + group * 4;
                            let x = bytes.add(at).cast::<u32>().read_unaligned();
                            *int = L::dot(*int, x, weights);
                        }
                    }
                }
                let scale = L::load(unpacked.scales.as_ptr());
                for (i, sum) in sums.iter_mut().enumerate() {
                    let scale = scale.mul(L::splat(*scales.add(i * per_row + block)));
                    let mut whole = L::to_floats(ints[0][i]);
                    if PLANES == 2 {
                        // Exact: both are integers, and the whole is below 2^24.
                        whole = whole.fma(L::splat(FINER), L::to_floats(ints[1][i]));
                    }
                    *sum = whole.fma(scale, *sum);
                }
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

#[cfg(test)]
mod tests;
