//! Products of rows with weights that stay in their file.
//!
//! Takes rows of f32, gives rows of f32. The weights are brain floats, widened where they are used; see the kernels.

use super::ModelError;
use super::weights::{Stored, Weights};
use safeguard_kernels::{Isa, dense};

/// A product with a bias.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    weight: Stored,
    inputs: usize,
    bias: Vec<f32>,
}

impl Linear {
    /// `NAME.weight` `[out, in]` and `NAME.bias` `[out]`.
    pub fn load(
        weights: &Weights,
        name: &str,
        out: usize,
        inputs: usize,
    ) -> Result<Linear, ModelError> {
        Ok(Linear {
            weight: weights.bf16(&format!("{name}.weight"), &[out, inputs])?,
            inputs,
            bias: weights.widened(&weights.bf16(&format!("{name}.bias"), &[out])?),
        })
    }

    /// `x` `[n, in]` to `[n, out]`.
    pub fn apply(&self, isa: Isa, weights: &Weights, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / self.inputs * self.bias.len()];
        let weight = weights.bytes(&self.weight);
        dense::product(isa, x, weight, self.inputs, Some(&self.bias), &mut y);
        y
    }
}
