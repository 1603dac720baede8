//! Products, norms and weights on a device.
//!
//! Takes checked tensors of a checkpoint to a device as they are stored (brain floats) or widened, and gives rows of
//! f32 for rows of f32. What goes into a product is rounded to the type of its weight; sums are f32 and so is all
//! that comes out and is kept: the residual stream never is anything else, and no f16 occurs.

use super::super::ModelError;
use super::super::weights::{Stored, Weights};
use candle_core::{D, DType, Device, Tensor};

/// Where weights go, and as what.
#[derive(Debug, Clone)]
pub struct Target {
    /// The device.
    pub device: Device,
    /// The type of weights that are stored as brain floats, and of keys and values.
    pub dtype: DType,
}

impl Target {
    /// A stored tensor of brain floats, as this target's type.
    pub fn weight(
        &self,
        weights: &Weights,
        stored: &Stored,
        shape: &[usize],
    ) -> Result<Tensor, ModelError> {
        self.bf16(weights, stored, shape, self.dtype)
    }

    /// A stored tensor of brain floats, widened.
    pub fn wide(
        &self,
        weights: &Weights,
        stored: &Stored,
        shape: &[usize],
    ) -> Result<Tensor, ModelError> {
        self.bf16(weights, stored, shape, DType::F32)
    }

    fn bf16(
        &self,
        weights: &Weights,
        stored: &Stored,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Tensor, ModelError> {
        let bytes = weights.bytes(stored);
        let tensor = Tensor::from_raw_buffer(bytes, DType::BF16, shape, &self.device)?;
        Ok(tensor.to_dtype(dtype)?)
    }
}

/// A product with a bias.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    weight: Tensor,
    /// `[out]`, f32.
    bias: Tensor,
}

impl Linear {
    /// Several `[out, in]` tensors (`NAME.weight`, `NAME.bias`), one below the other, as one product.
    pub fn load(
        target: &Target,
        weights: &Weights,
        names: &[String],
        outs: &[usize],
        input: usize,
    ) -> Result<Linear, ModelError> {
        let (mut parts, mut biases) = (Vec::new(), Vec::new());
        for (name, out) in names.iter().zip(outs) {
            let weight = weights.bf16(&format!("{name}.weight"), &[*out, input])?;
            parts.push(target.weight(weights, &weight, &[*out, input])?);
            let bias = weights.bf16(&format!("{name}.bias"), &[*out])?;
            biases.push(target.wide(weights, &bias, &[*out])?);
        }
        Ok(Linear {
            weight: Tensor::cat(&parts, 0)?,
            bias: Tensor::cat(&biases, 0)?,
        })
    }

    /// `x` `[n, in]` to `[n, out]`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(product(x, &self.weight)?.broadcast_add(&self.bias)?)
    }
}

/// `x` `[n, in]` times `weight` `[out, in]`, as f32.
pub fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
    let x = x.to_dtype(weight.dtype())?;
    Ok(x.matmul(&weight.t()?)?.to_dtype(DType::F32)?)
}

/// Rows of `x` scaled to a mean square of one, then by `weight`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, ModelError> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    Ok(x.broadcast_mul(&scale)?.broadcast_mul(weight)?)
}
