//! Sixteen numbers in two registers: AVX2 with fused multiply-add.

use super::{Lanes, ROUNDER, WIDTH};
use std::arch::x86_64::*;

/// Two registers.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

impl Lanes for Avx2 {
    type Ints = (__m256i, __m256i);
    const NARROW: bool = true;

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Avx2(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn widen(pairs: Self::Ints) -> (Self, Self) {
        unsafe {
            let float = |x| _mm256_castsi256_ps(x);
            let high = _mm256_set1_epi32(0xffff_0000u32.cast_signed());
            let first = |x| float(_mm256_slli_epi32::<16>(x));
            let second = |x| float(_mm256_and_si256(x, high));
            (
                Avx2(first(pairs.0), first(pairs.1)),
                Avx2(second(pairs.0), second(pairs.1)),
            )
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_add_ps(self.0, other.0),
                _mm256_add_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_mul_ps(self.0, other.0),
                _mm256_mul_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_div_ps(self.0, other.0),
                _mm256_div_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn fma(self, x: Self, y: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_fmadd_ps(self.0, x.0, y.0),
                _mm256_fmadd_ps(self.1, x.1, y.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_max_ps(self.0, other.0),
                _mm256_max_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_min_ps(self.0, other.0),
                _mm256_min_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn round_and_power(self) -> (Self, Self) {
        unsafe {
            let rounder = _mm256_set1_ps(ROUNDER);
            let one = |x: __m256| {
                let shifted = _mm256_add_ps(x, rounder);
                let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
                let power = _mm256_add_epi32(power, _mm256_set1_epi32(0x3f80_0000));
                (_mm256_sub_ps(shifted, rounder), _mm256_castsi256_ps(power))
            };
            let (low, high) = (one(self.0), one(self.1));
            (Avx2(low.0, high.0), Avx2(low.1, high.1))
        }
    }
    #[inline(always)]
    unsafe fn unzip(self, other: Self) -> (Self, Self) {
        unsafe {
            // Each half of a register by itself, then their quarters in order.
            let in_order = |x| {
                let quarters = _mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(x));
                _mm256_castpd_ps(quarters)
            };
            let evens = |x: Avx2| in_order(_mm256_shuffle_ps::<0b10_00_10_00>(x.0, x.1));
            let odds = |x: Avx2| in_order(_mm256_shuffle_ps::<0b11_01_11_01>(x.0, x.1));
            (
                Avx2(evens(self), evens(other)),
                Avx2(odds(self), odds(other)),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        unsafe {
            let (low, high) = (_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            let shorts = _mm256_packs_epi32(low, high);
            let bytes = _mm256_packs_epi16(shorts, shorts);
            // Of each register the first four are in one half, the last four in the other.
            let halves = (
                _mm256_castsi256_si128(bytes),
                _mm256_extracti128_si256::<1>(bytes),
            );
            let bytes = _mm_unpacklo_epi32(halves.0, halves.1);
            let order = _mm_set_epi8(15, 13, 11, 9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0);
            _mm_storeu_si128(to.cast(), _mm_shuffle_epi8(bytes, order));
        }
    }
    #[inline(always)]
    unsafe fn load_ints(from: *const i32) -> Self::Ints {
        unsafe {
            (
                _mm256_loadu_si256(from.cast()),
                _mm256_loadu_si256(from.add(8).cast()),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_ints(ints: Self::Ints, to: *mut i32) {
        unsafe {
            _mm256_storeu_si256(to.cast(), ints.0);
            _mm256_storeu_si256(to.add(8).cast(), ints.1);
        }
    }
    #[inline(always)]
    unsafe fn to_floats(ints: Self::Ints) -> Self {
        unsafe { Avx2(_mm256_cvtepi32_ps(ints.0), _mm256_cvtepi32_ps(ints.1)) }
    }
    #[inline(always)]
    unsafe fn splat_ints(x: i32) -> Self::Ints {
        unsafe { (_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn powers(codes: Self::Ints) -> Self {
        unsafe {
            // 2^-127 is below the normal range: its one bit is the mantissa's highest.
            let half = |codes| {
                let bits = _mm256_slli_epi32::<23>(codes);
                _mm256_castsi256_ps(_mm256_max_epi32(bits, _mm256_set1_epi32(1 << 22)))
            };
            Avx2(half(codes.0), half(codes.1))
        }
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::Ints, weights: Self::Ints, x: i32) -> Self::Ints {
        unsafe {
            let x = _mm256_set1_epi32(x);
            // Pairs fit 16 bits: 2 * 127 * 128 is below 2^15.
            let half = |sum: __m256i, weights: __m256i| {
                let pairs = _mm256_maddubs_epi16(weights, x);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            };
            (half(sum.0, weights.0), half(sum.1, weights.1))
        }
    }
    #[inline(always)]
    unsafe fn columns(rows: &[*const u8; WIDTH]) -> [Self::Ints; 4] {
        unsafe {
            let (low, high) = (eight_rows(rows, 0), eight_rows(rows, 8));
            std::array::from_fn(|i| (low[i], high[i]))
        }
    }
    #[inline(always)]
    unsafe fn look_up(column: Self::Ints, table: &[u8; 16]) -> (Self::Ints, Self::Ints) {
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let nibbles = _mm256_set1_epi8(15);
            let low = |half| _mm256_shuffle_epi8(table, _mm256_and_si256(half, nibbles));
            let high = |half| low(_mm256_srli_epi16::<4>(half));
            (
                (low(column.0), low(column.1)),
                (high(column.0), high(column.1)),
            )
        }
    }
}

/// Sixteen bytes of eight rows, as four columns of four bytes.
///
/// # Safety
/// As [`Lanes::columns`].
#[inline(always)]
unsafe fn eight_rows(rows: &[*const u8; WIDTH], first: usize) -> [__m256i; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        // As with four quarters, with two halves.
        let halves = |q: usize| {
            let row = |j: usize| _mm_loadu_si128(rows[first + 4 * j + q].cast());
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(0)), row(1))
        };
        let [a, b, c, d] = [halves(0), halves(1), halves(2), halves(3)];
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}
