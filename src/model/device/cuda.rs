//! What only a CUDA device has: itself, its memory, and candle's kernels for experts.
//!
//! Candle has two kernels that multiply rows with packed experts. One takes a row at a time and rounds it to bytes by
//! blocks of 32: right for few rows. The other uses tensor cores on brain floats: right for many. Reading the second
//! (candle-kernels 0.11.1, moe_wmma_gguf.cu) shows a tile of rows that is overwritten for the next 32 columns with no
//! barrier after the last read, so a late warp may multiply the wrong rows. Until it is shown to repeat its bits on a
//! device (see tests.rs) many rows go through dequantised experts and the device's own library instead.

use super::super::ModelError;
use super::grouped::{Dequantised, GroupedProduct, Routes};
use crate::config::DEVICE_PACKED_ROWS_MAX;
use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};
use candle_nn::moe::moe_gemm_gguf;

/// The first device, where there is one.
pub fn device() -> Option<Device> {
    Device::new_cuda(0).ok()
}

/// Bytes that nobody uses on the device.
pub fn free_bytes(device: &Device) -> Result<usize, ModelError> {
    let context = device.as_cuda_device()?.cuda_stream();
    let (free, _) = context
        .context()
        .mem_get_info()
        .map_err(candle_core::Error::wrap)?;
    Ok(free)
}

/// Candle's kernels for few rows, its library for many.
#[derive(Debug)]
pub struct Kernels;

impl GroupedProduct for Kernels {
    fn product(
        &self,
        x: &Tensor,
        experts: &QTensor,
        routes: &Routes,
        each_pair: bool,
    ) -> Result<Tensor, ModelError> {
        let pairs: usize = routes.counts.iter().sum();
        if pairs > DEVICE_PACKED_ROWS_MAX * routes.per_row {
            let many = Dequantised { dtype: DType::BF16 };
            return many.product(x, experts, routes, each_pair);
        }
        packed(x, experts, routes, each_pair, false)
    }
}

/// One of candle's two kernels: the one on tensor cores, or the one that takes a row at a time.
pub fn packed(
    x: &Tensor,
    experts: &QTensor,
    routes: &Routes,
    each_pair: bool,
    tensor_cores: bool,
) -> Result<Tensor, ModelError> {
    // The kernels read from the start of the storage, whatever the layout says.
    assert!(
        x.is_contiguous() && x.layout().start_offset() == 0,
        "bug: rows of experts are not at the start of their storage"
    );
    let per_row = if each_pair { 1 } else { routes.per_row };
    Ok(moe_gemm_gguf(
        x,
        experts,
        &None,
        &routes.pairs,
        &routes.experts,
        per_row,
        tensor_cores,
        DType::BF16,
    )?)
}
