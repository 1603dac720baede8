//! Sixteen numbers in one register: AVX-512 with byte products.

use super::{Lanes, ROUNDER, WIDTH};
use std::arch::x86_64::*;

/// One register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

// SAFETY of every block below: the processor has the set, and pointers reach sixteen elements, as the trait says.
impl Lanes for Avx512 {
    type Ints = __m512i;
    const NARROW: bool = false;

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Avx512(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx512(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn widen(pairs: Self::Ints) -> (Self, Self) {
        unsafe {
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000u32.cast_signed()));
            let first = _mm512_slli_epi32::<16>(pairs);
            (
                Avx512(_mm512_castsi512_ps(first)),
                Avx512(_mm512_castsi512_ps(second)),
            )
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, x: Self, y: Self) -> Self {
        unsafe { Avx512(_mm512_fmadd_ps(self.0, x.0, y.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_min_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn round_and_power(self) -> (Self, Self) {
        unsafe {
            let rounder = _mm512_set1_ps(ROUNDER);
            let shifted = _mm512_add_ps(self.0, rounder);
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            let power = _mm512_add_epi32(power, _mm512_set1_epi32(0x3f80_0000));
            (
                Avx512(_mm512_sub_ps(shifted, rounder)),
                Avx512(_mm512_castsi512_ps(power)),
            )
        }
    }
    #[inline(always)]
    unsafe fn unzip(self, other: Self) -> (Self, Self) {
        unsafe {
            let evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
            let odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
            (
                Avx512(_mm512_permutex2var_ps(self.0, evens, other.0)),
                Avx512(_mm512_permutex2var_ps(self.0, odds, other.0)),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0));
            let order = _mm_set_epi8(15, 13, 11, 9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0);
            _mm_storeu_si128(to.cast(), _mm_shuffle_epi8(bytes, order));
        }
    }
    #[inline(always)]
    unsafe fn load_ints(from: *const i32) -> Self::Ints {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_ints(ints: Self::Ints, to: *mut i32) {
        unsafe { _mm512_storeu_si512(to.cast(), ints) }
    }
    #[inline(always)]
    unsafe fn to_floats(ints: Self::Ints) -> Self {
        unsafe { Avx512(_mm512_cvtepi32_ps(ints)) }
    }
    #[inline(always)]
    unsafe fn splat_ints(x: i32) -> Self::Ints {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn powers(codes: Self::Ints) -> Self {
        unsafe {
            // 2^-127 is below the normal range: its one bit is the mantissa's highest.
            let bits = _mm512_max_epi32(_mm512_slli_epi32::<23>(codes), _mm512_set1_epi32(1 << 22));
            Avx512(_mm512_castsi512_ps(bits))
        }
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::Ints, weights: Self::Ints, x: i32) -> Self::Ints {
        unsafe { _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn columns(rows: &[*const u8; WIDTH]) -> [Self::Ints; 4] {
        unsafe {
            // Quarter j of register q holds row 4j + q; then each quarter is a 4 x 4 of four bytes to transpose.
            let quarters = |q: usize| {
                let row = |j: usize| _mm_loadu_si128(rows[4 * j + q].cast());
                let x = _mm512_castsi128_si512(row(0));
                let x = _mm512_inserti32x4::<1>(x, row(1));
                let x = _mm512_inserti32x4::<2>(x, row(2));
                _mm512_inserti32x4::<3>(x, row(3))
            };
            let [a, b, c, d] = [quarters(0), quarters(1), quarters(2), quarters(3)];
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }
    #[inline(always)]
    unsafe fn look_up(column: Self::Ints, table: &[u8; 16]) -> (Self::Ints, Self::Ints) {
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            let nibbles = _mm512_set1_epi8(15);
            let lows = _mm512_and_si512(column, nibbles);
            let highs = _mm512_and_si512(_mm512_srli_epi16::<4>(column), nibbles);
            (
                _mm512_shuffle_epi8(table, lows),
                _mm512_shuffle_epi8(table, highs),
            )
        }
    }
}
