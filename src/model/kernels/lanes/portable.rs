//! Sixteen numbers as any processor computes them: slow, and what the others are held to.

use super::{Lanes, ROUNDER, WIDTH};

/// Sixteen plain numbers.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Portable([f32; WIDTH]);

impl Portable {
    #[inline(always)]
    fn both(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Portable {
    type Ints = [i32; WIDTH];
    const NARROW: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; WIDTH])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen elements, as the trait says.
        Portable(unsafe { from.cast::<[f32; WIDTH]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: sixteen elements, as the trait says.
        unsafe { to.cast::<[f32; WIDTH]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn widen(pairs: Self::Ints) -> (Self, Self) {
        let float = |bits: u32| f32::from_bits(bits);
        (
            Portable(pairs.map(|pair| float(pair.cast_unsigned() << 16))),
            Portable(pairs.map(|pair| float(pair.cast_unsigned() & 0xffff_0000))),
        )
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.both(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.both(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.both(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(self, x: Self, y: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i].mul_add(x.0[i], y.0[i])))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.both(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.both(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round_and_power(self) -> (Self, Self) {
        let shifted = self.0.map(|x| x + ROUNDER);
        let power = |x: f32| f32::from_bits((x.to_bits() << 23).wrapping_add(0x3f80_0000));
        (
            Portable(shifted.map(|x| x - ROUNDER)),
            Portable(shifted.map(power)),
        )
    }
    #[inline(always)]
    unsafe fn unzip(self, other: Self) -> (Self, Self) {
        let of = |i: usize| match i < WIDTH {
            true => self.0[i],
            false => other.0[i - WIDTH],
        };
        (
            Portable(std::array::from_fn(|i| of(2 * i))),
            Portable(std::array::from_fn(|i| of(2 * i + 1))),
        )
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        let eights = [[0, 2, 4, 6, 1, 3, 5, 7], [8, 10, 12, 14, 9, 11, 13, 15]];
        for (i, from) in eights.into_iter().flatten().enumerate() {
            // SAFETY: sixteen bytes, as the trait says.
            unsafe { *to.add(i) = self.0[from] as i8 };
        }
    }
    #[inline(always)]
    unsafe fn load_ints(from: *const i32) -> Self::Ints {
        // SAFETY: sixteen elements, as the trait says.
        unsafe { from.cast::<[i32; WIDTH]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_ints(ints: Self::Ints, to: *mut i32) {
        // SAFETY: sixteen elements, as the trait says.
        unsafe { to.cast::<[i32; WIDTH]>().write_unaligned(ints) }
    }
    #[inline(always)]
    unsafe fn to_floats(ints: Self::Ints) -> Self {
        Portable(ints.map(|i| i as f32))
    }
    #[inline(always)]
    unsafe fn splat_ints(x: i32) -> Self::Ints {
        [x; WIDTH]
    }
    #[inline(always)]
    unsafe fn powers(codes: Self::Ints) -> Self {
        // 2^-127 is below the normal range: its one bit is the mantissa's highest.
        Portable(codes.map(|code| f32::from_bits((code << 23).max(1 << 22).cast_unsigned())))
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::Ints, weights: Self::Ints, x: i32) -> Self::Ints {
        let x = x.to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
        std::array::from_fn(|i| {
            let w = weights[i].to_le_bytes().map(i32::from);
            sum[i] + (x[0] * w[0] + x[1] * w[1]) + (x[2] * w[2] + x[3] * w[3])
        })
    }
    #[inline(always)]
    unsafe fn columns(rows: &[*const u8; WIDTH]) -> [Self::Ints; 4] {
        std::array::from_fn(|column| {
            std::array::from_fn(|row| {
                // SAFETY: sixteen bytes of each row, as the trait says.
                let bytes = unsafe { rows[row].add(4 * column).cast::<[u8; 4]>().read() };
                i32::from_le_bytes(bytes)
            })
        })
    }
    #[inline(always)]
    unsafe fn look_up(column: Self::Ints, table: &[u8; 16]) -> (Self::Ints, Self::Ints) {
        let of = |shift: u32| {
            column.map(|four| {
                let bytes = four.to_le_bytes();
                i32::from_le_bytes(bytes.map(|byte| table[usize::from(byte >> shift & 15)]))
            })
        };
        (of(0), of(4))
    }
}
