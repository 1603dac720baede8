//! Matrix products, and the weights that go into them.
//!
//! Takes rows of f32 as slices, gives rows of f32. Weights are kept transposed and contiguous, `[in, out]`, as candle's
//! product wants them. A row's result does not depend on the rows beside it: that is what lets a text be judged alone,
//! in pieces, or behind a shared prefix with the same bits.

use super::ModelError;
use super::weights::{Stored, Weights};
use candle_core::{Device, Tensor};

/// Outputs up to this width go through another blocking of the sum in candle's product, by how many rows there are.
const NARROW: usize = 64;

/// A product with a bias.
#[derive(Debug)]
pub struct Linear {
    /// `[in, out]`.
    weight: Tensor,
    bias: Vec<f32>,
}

impl Linear {
    /// Several `[out, in]` tensors (`NAME.weight`, `NAME.bias`), one below the other, as one product.
    pub fn load(
        weights: &Weights,
        names: &[String],
        outs: &[usize],
        input: usize,
    ) -> Result<Linear, ModelError> {
        let (mut rows, mut bias) = (Vec::new(), Vec::new());
        for (name, out) in names.iter().zip(outs) {
            rows.extend(weights.widened(&weights.bf16(&format!("{name}.weight"), &[*out, input])?));
            bias.extend(weights.widened(&weights.bf16(&format!("{name}.bias"), &[*out])?));
        }
        Ok(Linear {
            weight: transposed(rows, input)?,
            bias,
        })
    }

    /// `x` `[n, in]` to `[n, out]`.
    pub fn apply(&self, x: &[f32]) -> Result<Vec<f32>, ModelError> {
        let mut y = product(x, &self.weight)?;
        add_to_rows(&mut y, &self.bias);
        Ok(y)
    }
}

/// Rows `[out, in]` as a contiguous tensor `[in, out]`.
pub fn transposed(rows: Vec<f32>, input: usize) -> Result<Tensor, ModelError> {
    let out = rows.len() / input;
    Ok(Tensor::from_vec(rows, (out, input), &Device::Cpu)?
        .t()?
        .contiguous()?)
}

/// The stored rows `[_, input]` that `rows` counts, widened, as a contiguous tensor `[input, rows]`.
pub fn rows_transposed(
    weights: &Weights,
    stored: &Stored,
    input: usize,
    rows: impl ExactSizeIterator<Item = usize>,
) -> Result<Tensor, ModelError> {
    let bytes = weights.bytes(stored);
    let mut picked = Vec::with_capacity(rows.len() * input);
    for row in rows {
        picked.extend(super::weights::widen(
            &bytes[row * input * 2..(row + 1) * input * 2],
        ));
    }
    transposed(picked, input)
}

/// Adds `bias` to every row of `y`.
pub fn add_to_rows(y: &mut [f32], bias: &[f32]) {
    for row in y.chunks_exact_mut(bias.len()) {
        for (y, b) in row.iter_mut().zip(bias) {
            *y += b;
        }
    }
}

/// `x` `[n, in]` times `weight` `[in, out]`, as `[n, out]`.
///
/// candle's product adds up in another order for a single row, and for few rows of a narrow output; so one row is
/// computed as two, and narrow outputs in groups.
pub fn product(x: &[f32], weight: &Tensor) -> Result<Vec<f32>, ModelError> {
    let (input, out) = weight.dims2()?;
    let group = if out <= NARROW {
        NARROW
    } else {
        usize::MAX / input
    };
    let mut y = Vec::new();
    for x in x.chunks(group * input) {
        let n = x.len() / input;
        let x = match n {
            1 => Tensor::from_vec([x, x].concat(), (2, input), &Device::Cpu)?,
            _ => Tensor::from_slice(x, (n, input), &Device::Cpu)?,
        };
        let mut group = x.matmul(weight)?.flatten_all()?.to_vec1()?;
        group.truncate(n * out);
        if y.is_empty() {
            y = group;
        } else {
            y.extend(group);
        }
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_same_alone_and_among_others() {
        // 600 is over one blocking of the sum, 1400 rows over one group and over the threading threshold.
        for (input, out) in [
            (96, 8),
            (600, 8),
            (600, 64),
            (600, 65),
            (96, 192),
            (600, 192),
        ] {
            let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 500.0 - 1.0;
            let weight = transposed((0..input * out).map(number).collect(), input).expect("weight");
            let x: Vec<f32> = (0..input * 1400).map(|i| number(i + 5)).collect();
            let all = product(&x, &weight).expect("all");
            for n in [1, 2, 3, 15, 16, 17, 64, 65, 129] {
                let some = product(&x[input * 7..input * (7 + n)], &weight).expect("some");
                assert!(
                    some == all[out * 7..out * (7 + n)],
                    "{n} rows of {input} to {out} differ"
                );
            }
        }
    }
}
