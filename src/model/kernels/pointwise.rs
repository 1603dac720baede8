//! What is computed row by row: norms, rotations, activations.
//!
//! Takes and gives rows of f32. Sums over a row are sixteen partial sums and one fixed tree, so that no row depends on
//! another. Long inputs are shared between threads.

use super::lanes::{Isa, Kernel, Lanes, WIDTH};
use rayon::prelude::*;

/// Numbers below which a call is not worth a second thread.
const THREADED_MIN: usize = 1 << 16;

/// Each row of `x` scaled to a mean square of one (plus `eps`), then by `weight`; `weight.len()` is a multiple of 16.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    assert!(weight.len().is_multiple_of(WIDTH) && x.len().is_multiple_of(weight.len()));
    let mut out = vec![0.0; x.len()];
    let rows = |(x, out): (&[f32], &mut [f32])| {
        isa.run(Norm {
            x,
            weight,
            eps,
            out,
        })
    };
    let group = weight.len() * 16;
    if x.len() < THREADED_MIN {
        x.chunks(group).zip(out.chunks_mut(group)).for_each(rows);
    } else {
        x.par_chunks(group)
            .zip(out.par_chunks_mut(group))
            .for_each(rows);
    }
    out
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.weight.len();
        for (x, out) in self
            .x
            .chunks_exact(width)
            .zip(self.out.chunks_exact_mut(width))
        {
            // SAFETY: rows are multiples of sixteen; the set is there, as `Isa::run` saw to.
            unsafe {
                let mut squares = L::splat(0.0);
                for x in x.chunks_exact(WIDTH) {
                    let x = L::load(x.as_ptr());
                    squares = x.fma(x, squares);
                }
                let scale = L::splat(1.0 / (squares.sum() / width as f32 + self.eps).sqrt());
                for at in (0..width).step_by(WIDTH) {
                    let x = L::load(x.as_ptr().add(at)).mul(scale);
                    L::load(self.weight.as_ptr().add(at))
                        .mul(x)
                        .store(out.as_mut_ptr().add(at));
                }
            }
        }
    }
}

/// Turns heads: each half against the other (element i with i + dim / 2), by the cosines and sines of its row.
/// `rows` is `[n, heads * dim]` of rows `stride` apart of which the first `heads * dim` are turned; `cos` and `sin` are
/// `[n, dim / 2]`, and `dim / 2` a multiple of 16.
pub fn turn(isa: Isa, rows: &mut [f32], stride: usize, heads: usize, cos: &[f32], sin: &[f32]) {
    let n = rows.len() / stride;
    let half = cos.len() / n.max(1);
    assert!(half.is_multiple_of(WIDTH) && cos.len() == n * half && sin.len() == cos.len());
    assert!(rows.len() == n * stride && heads * 2 * half <= stride);
    let turns = rows
        .chunks_exact_mut(stride)
        .zip(cos.chunks_exact(half).zip(sin.chunks_exact(half)));
    for (row, (cos, sin)) in turns {
        isa.run(Turn {
            row: &mut row[..heads * 2 * half],
            cos,
            sin,
        });
    }
}

struct Turn<'a> {
    row: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let half = self.cos.len();
        for head in self.row.chunks_exact_mut(2 * half) {
            for at in (0..half).step_by(WIDTH) {
                // SAFETY: halves are multiples of sixteen; the set is there.
                unsafe {
                    let (cos, sin) = (
                        L::load(self.cos.as_ptr().add(at)),
                        L::load(self.sin.as_ptr().add(at)),
                    );
                    let (first, second) =
                        (head.as_mut_ptr().add(at), head.as_mut_ptr().add(half + at));
                    let (a, b) = (L::load(first), L::load(second));
                    let minus = b.mul(L::splat(-1.0)).mul(sin);
                    a.fma(cos, minus).store(first);
                    b.fma(cos, a.mul(sin)).store(second);
                }
            }
        }
    }
}

/// Adds `y` to `x`, element by element.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "bug: rows of other shapes");
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Adds a share of `y` to `out`: `weight * (y + bias)`, or `weight * y + bias` where the bias comes after.
pub fn add_share(out: &mut [f32], y: &[f32], bias: &[f32], weight: f32, bias_before: bool) {
    assert!(
        out.len() == y.len() && y.len() == bias.len(),
        "bug: rows of other shapes"
    );
    for ((out, y), bias) in out.iter_mut().zip(y).zip(bias) {
        *out += match bias_before {
            true => weight * (y + bias),
            false => weight * y + bias,
        };
    }
}

/// What an activation is computed with.
#[derive(Debug, Clone, Copy)]
pub struct Swiglu {
    /// Gates are at most this, linear parts at most this in size.
    pub limit: f32,
    /// Steepness of the gate's sigmoid.
    pub alpha: f32,
    /// Added to the linear part.
    pub offset: f32,
}

impl Swiglu {
    /// `x` `[n, 2 * width]`, gates and linear parts interleaved, plus `bias` `[2 * width]`, to `[n, width]`; `width` is
    /// a multiple of 16.
    pub fn apply(&self, isa: Isa, x: &[f32], bias: &[f32]) -> Vec<f32> {
        assert!(bias.len().is_multiple_of(2 * WIDTH) && x.len().is_multiple_of(bias.len()));
        let mut out = vec![0.0; x.len() / 2];
        let rows = |(x, out): (&[f32], &mut [f32])| {
            isa.run(Activate {
                swiglu: *self,
                x,
                bias,
                out,
            });
        };
        let group = 4 * bias.len();
        if x.len() < THREADED_MIN {
            x.chunks(group)
                .zip(out.chunks_mut(group / 2))
                .for_each(rows);
        } else {
            x.par_chunks(group)
                .zip(out.par_chunks_mut(group / 2))
                .for_each(rows);
        }
        out
    }
}

struct Activate<'a> {
    swiglu: Swiglu,
    x: &'a [f32],
    bias: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Swiglu {
            limit,
            alpha,
            offset,
        } = self.swiglu;
        let wide = self.bias.len();
        for (x, out) in self
            .x
            .chunks_exact(wide)
            .zip(self.out.chunks_exact_mut(wide / 2))
        {
            for at in (0..wide / 2).step_by(WIDTH) {
                // SAFETY: twice sixteen of each; the set is there.
                unsafe {
                    let (x, bias) = (x.as_ptr().add(2 * at), self.bias.as_ptr().add(2 * at));
                    let first = L::load(x).add(L::load(bias));
                    let second = L::load(x.add(WIDTH)).add(L::load(bias.add(WIDTH)));
                    let (gate, up) = first.unzip(second);
                    // `min` and `max` give their second operand for what is no number: the limit would hide it, so that
                    // the number goes second.
                    let (limit, one) = (L::splat(limit), L::splat(1.0));
                    let gate = limit.min(gate);
                    let up = limit.mul(L::splat(-1.0)).max(limit.min(up));
                    let sigmoid = one.div(one.add(gate.mul(L::splat(-alpha)).exp()));
                    let linear = up.add(L::splat(offset));
                    gate.mul(sigmoid)
                        .mul(linear)
                        .store(out.as_mut_ptr().add(at));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPT_OSS: Swiglu = Swiglu {
        limit: 7.0,
        alpha: 1.702,
        offset: 1.0,
    };

    fn number(i: usize) -> f32 {
        ((i * 7919 + 13) % 1009) as f32 / 50.0 - 10.0
    }

    #[test]
    fn exponentials_are_right_in_every_set() {
        struct Exp<'a>(&'a mut [f32]);
        impl Kernel for Exp<'_> {
            type Output = ();
            #[inline(always)]
            fn run<L: Lanes>(self) {
                for x in self.0.chunks_exact_mut(WIDTH) {
                    // SAFETY: sixteen elements.
                    unsafe { L::load(x.as_ptr()).exp().store(x.as_mut_ptr()) }
                }
            }
        }
        let x: Vec<f32> = (0..16 * 1100).map(|i| i as f32 * 0.01 - 87.5).collect();
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::present() {
            let mut y = x.clone();
            isa.run(Exp(&mut y));
            for (x, y) in x.iter().zip(&y) {
                let exact = f64::from(x.clamp(-87.0, 88.0)).exp();
                assert!(
                    (f64::from(*y) / exact - 1.0).abs() < 2e-7,
                    "{isa:?} {x}: {y} {exact}"
                );
            }
            assert!(first.get_or_insert_with(|| y.clone()) == &y, "{isa:?}");
        }
    }

    #[test]
    fn gate_is_clamped_above_only() {
        let one = |gate: f32, up: f32| {
            let mut x = [0.0; 32];
            (x[0], x[1]) = (gate, up);
            GPT_OSS.apply(Isa::best(), &x, &[0.0; 32])[0]
        };
        // A gate clamped on both sides would give -7 * sigmoid(-11.914) * 2 = -9.4e-5 at -20; right is -6.6e-14.
        assert!(
            (one(-20.0, 1.0) - -6.6e-14).abs() < 1e-15,
            "{:e}",
            one(-20.0, 1.0)
        );
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-5, "{a} {b}");
        near(one(20.0, 0.0), 7.0 / (1.0 + (-1.702f32 * 7.0).exp()));
        near(one(1.0, 50.0), 8.0 * 0.845_795_8);
        near(one(1.0, -50.0), -6.0 * 0.845_795_8);
        assert!(one(f32::NAN, 1.0).is_nan() && one(1.0, f32::NAN).is_nan());
    }

    #[test]
    fn every_set_and_batch_gives_the_same_bits() {
        let (width, n) = (96, 700);
        let x: Vec<f32> = (0..n * width).map(number).collect();
        let weight: Vec<f32> = (0..width).map(|i| number(i) / 9.0).collect();
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            (0..n * 16).map(|i| (number(i), number(i + 9))).unzip();
        let all = |isa: Isa, rows: std::ops::Range<usize>| {
            let x = &x[rows.start * width..rows.end * width];
            let mut turned = x.to_vec();
            let angles = rows.start * 16..rows.end * 16;
            turn(
                isa,
                &mut turned,
                width,
                2,
                &cos[angles.clone()],
                &sin[angles],
            );
            (
                rms_norm(isa, x, &weight, 1e-5),
                GPT_OSS.apply(isa, x, &weight),
                turned,
            )
        };
        let best = all(Isa::best(), 0..n);
        for isa in Isa::present() {
            for rows in [0..n, 3..4, 5..22] {
                let some = all(isa, rows.clone());
                let part = |whole: &[f32], width: usize| {
                    whole[rows.start * width..rows.end * width].to_vec()
                };
                assert!(some.0 == part(&best.0, width), "{isa:?} norm {rows:?}");
                assert!(
                    some.1 == part(&best.1, width / 2),
                    "{isa:?} swiglu {rows:?}"
                );
                assert!(some.2 == part(&best.2, width), "{isa:?} turn {rows:?}");
            }
        }
        // What is not among the heads stays.
        assert!(
            best.2
                .chunks(width)
                .zip(x.chunks(width))
                .all(|(a, b)| a[64..] == b[64..])
        );
    }

    #[test]
    fn norms_have_a_mean_square_of_one() {
        let x: Vec<f32> = (0..64).map(number).collect();
        let y = rms_norm(Isa::best(), &x, &[1.0; 32], 0.0);
        for row in y.chunks(32) {
            let mean = row.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>() / 32.0;
            assert!((mean - 1.0).abs() < 1e-6, "{mean}");
        }
    }
}
