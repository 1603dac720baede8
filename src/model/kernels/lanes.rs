//! Sixteen numbers at once, in three instruction sets that agree to the bit.
//!
//! A kernel is written once over [`Lanes`] and compiled for each set; [`Isa::run`] picks the best that the processor
//! has. Only operations that IEEE 754 fixes are here (fused multiply-add included), so that a kernel's result does not
//! depend on the set. The slow set is for other processors and for tests.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512;
use portable::Portable;
use std::sync::OnceLock;

/// Numbers in a [`Lanes`].
pub(crate) const WIDTH: usize = 16;

/// An instruction set that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with byte products (VNNI).
    Avx512,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// Any processor.
    Portable,
}

/// A kernel's work, written for any lanes.
pub(crate) trait Kernel {
    type Output;

    /// To be marked `#[inline(always)]`, as everything that it calls: only then is it compiled for the set.
    fn run<L: Lanes>(self) -> Self::Output;
}

impl Isa {
    /// The best that this processor has, found once.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::present()[0])
    }

    /// All that this processor has, the best first.
    pub fn present() -> Vec<Isa> {
        let mut present = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 && avx512 {
                present.push(Isa::Avx512);
            }
            if avx2 {
                present.push(Isa::Avx2);
            }
        }
        present.push(Isa::Portable);
        present
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512-vnni",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }

    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: a value of these is only made where the processor has the set (tests ask `present`).
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { run_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { run_avx2(kernel) },
            _ => kernel.run::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

/// Sixteen f32, with sixteen i32 beside them.
///
/// # Safety
/// Every method needs the processor to have the set; pointers are read or written for sixteen elements and need
/// no alignment.
pub(crate) trait Lanes: Copy {
    type Ints: Copy;
    /// Whether there are registers for few lanes only, so that tiles had better be small.
    const NARROW: bool;

    /// Says that what is there will be read soon; it need not exist.
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Each lane's two little-endian brain floats, widened: the first, the second.
    unsafe fn widen(pairs: Self::Ints) -> (Self, Self);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * x + y`, rounded once.
    unsafe fn fma(self, x: Self, y: Self) -> Self;
    /// The larger; `other` where either is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller; `other` where either is not a number.
    unsafe fn min(self, other: Self) -> Self;
    /// Rounded to the nearest integer below 2^22 in size, ties to even, and two to that power.
    unsafe fn round_and_power(self) -> (Self, Self);

    /// The elements of `self` and then of `other` whose number is even, and the others.
    unsafe fn unzip(self, other: Self) -> (Self, Self);
    /// Sixteen bytes: each eight lanes, integers below 128 in size, first those whose number is even. As two bytes
    /// share one of MXFP4's, so do they stand in a group of four inputs. Any bytes for what is not a number.
    unsafe fn store_bytes(self, to: *mut i8);

    unsafe fn load_ints(from: *const i32) -> Self::Ints;
    unsafe fn store_ints(ints: Self::Ints, to: *mut i32);
    unsafe fn to_floats(ints: Self::Ints) -> Self;
    unsafe fn splat_ints(x: i32) -> Self::Ints;
    /// Two to the power of each lane less 127, of lanes in 0..=255; infinite for 255.
    unsafe fn powers(codes: Self::Ints) -> Self;
    /// Adds to each lane the products of its four unsigned bytes of `weights`, below 128, with the signed ones of `x`.
    unsafe fn dot(sum: Self::Ints, weights: Self::Ints, x: i32) -> Self::Ints;
    /// Sixteen bytes of each row, as four columns of four bytes.
    unsafe fn columns(rows: &[*const u8; WIDTH]) -> [Self::Ints; 4];
    /// What `table` has for each low nibble, and for each high one.
    unsafe fn look_up(column: Self::Ints, table: &[u8; 16]) -> (Self::Ints, Self::Ints);

    /// The sum of all lanes: halves onto halves, eight, four, two, one.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut x = [0.0f32; WIDTH];
        // SAFETY: sixteen elements.
        unsafe { self.store(x.as_mut_ptr()) };
        let mut half = WIDTH / 2;
        while half > 0 {
            for i in 0..half {
                x[i] += x[i + half];
            }
            half /= 2;
        }
        x[0]
    }

    /// The largest lane.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let mut x = [0.0f32; WIDTH];
        // SAFETY: sixteen elements.
        unsafe { self.store(x.as_mut_ptr()) };
        x.iter()
            .fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
    }

    /// e to the power of each lane: relative error below 2e-7 in [-87, 88], clamped there.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let splat = |x| Self::splat(x);
            let x = self.max(splat(-87.0)).min(splat(88.0));
            let (n, power) = x.mul(splat(std::f32::consts::LOG2_E)).round_and_power();
            // ln 2 in two parts, of which the first times any n here is exact.
            let r = n.fma(splat(-0.693_359_4), x);
            let r = n.fma(splat(2.121_944_4e-4), r);
            // Taylor's terms to the seventh: |r| is at most ln 2 / 2, so what is left out is below 6e-9.
            let mut p = splat(1.0 / 5040.0);
            for term in [
                1.0 / 720.0,
                1.0 / 120.0,
                1.0 / 24.0,
                1.0 / 6.0,
                0.5,
                1.0,
                1.0,
            ] {
                p = p.fma(r, splat(term));
            }
            p.mul(power)
        }
    }
}

/// 1.5 * 2^23: adding it leaves an integer in the low bits.
const ROUNDER: f32 = 12_582_912.0;
