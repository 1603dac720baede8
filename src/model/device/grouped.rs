//! The product of rows with the matrices of their experts.
//!
//! Takes rows on a device, packed experts (Q8_0) and which rows go to which expert; gives one output row for each pair
//! of a row and one of its experts. [`Dequantised`] does it on any device with what the device's library has, an
//! expert at a time; where candle was built with CUDA its own kernel does it from the packed weights. Both are exact in
//! the weights and sum in f32. Biases and routing weights are the caller's.

use super::super::ModelError;
use candle_core::quantized::QTensor;
use candle_core::{DType, Tensor};
use std::fmt;

/// Which rows go to which expert. A pair is a row and one of its experts, numbered `row * per_row + rank`.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "cuda"),
    expect(dead_code, reason = "only candle's kernels read all of it")
)]
pub struct Routes {
    /// Experts of each row.
    pub per_row: usize,
    /// How many pairs each expert has.
    pub counts: Vec<usize>,
    /// `[pairs]`: pairs in the order of their experts, by number within one.
    pub pairs: Tensor,
    /// `[pairs]`: the expert of each of `pairs`.
    pub experts: Tensor,
    /// `[pairs]`: where in `pairs` each pair stands.
    pub sorted: Tensor,
    /// `[pairs]`: the row of each of `pairs`.
    pub rows: Tensor,
}

/// What multiplies rows with experts.
pub trait GroupedProduct: fmt::Debug + Send + Sync {
    /// `x` `[rows, in]`, or `[pairs, in]` with `each_pair`, times `experts` `[experts, out, in]`; f32 `[pairs, out]` in
    /// the order of the pairs' numbers.
    fn product(
        &self,
        x: &Tensor,
        experts: &QTensor,
        routes: &Routes,
        each_pair: bool,
    ) -> Result<Tensor, ModelError>;
}

/// Dequantises a layer's experts and multiplies with each in turn. Any device.
#[derive(Debug)]
pub struct Dequantised {
    /// The type that both factors have. Elements of MXFP4 are exact in brain floats too.
    pub dtype: DType,
}

impl GroupedProduct for Dequantised {
    fn product(
        &self,
        x: &Tensor,
        experts: &QTensor,
        routes: &Routes,
        each_pair: bool,
    ) -> Result<Tensor, ModelError> {
        let matrices = experts.dequantize(x.device())?;
        let rows = if each_pair {
            &routes.pairs
        } else {
            &routes.rows
        };
        let x = x.to_dtype(self.dtype)?.index_select(rows, 0)?;
        let (mut outs, mut from) = (Vec::new(), 0);
        for (expert, &count) in routes.counts.iter().enumerate() {
            if count > 0 {
                let matrix = matrices.get(expert)?.to_dtype(self.dtype)?;
                let rows = x.narrow(0, from, count)?;
                outs.push(rows.matmul(&matrix.t()?)?.to_dtype(DType::F32)?);
                from += count;
            }
        }
        Ok(Tensor::cat(&outs, 0)?.index_select(&routes.sorted, 0)?)
    }
}
