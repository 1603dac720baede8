//! The mixture of experts on a device.
//!
//! Takes normed rows of the residual stream, gives what is added back to it. Experts lie on the device as Q8_0, each
//! block proved to be what the checkpoint says when it was converted. Router logits are f32 and come to the host,
//! which chooses experts with the same order among equals as the CPU forward has; everything else stays on the device.

use super::super::config::MXFP4_BLOCK;
use super::super::weights::{Stored, Weights};
use super::super::{Arithmetic, Config, ModelError};
use super::grouped::{GroupedProduct, Routes};
use super::linear::{Linear, Target};
use super::q8_0::{BLOCK_BYTES, Q8_0_BYTES, Refused, convert};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use std::borrow::Cow;

/// One layer's experts and their router.
#[derive(Debug)]
pub struct Experts {
    chosen: usize,
    limit: f32,
    router: Linear,
    /// `[experts, 2 * intermediate, hidden]`.
    gate_up: QTensor,
    /// `[experts, 2 * intermediate]`, f32.
    gate_up_bias: Tensor,
    /// `[experts, hidden, intermediate]`.
    down: QTensor,
    /// `[experts, hidden]`, f32.
    down_bias: Tensor,
}

impl Experts {
    /// From the tensors of layer `layer`.
    pub fn load(
        config: &Config,
        target: &Target,
        weights: &Weights,
        layer: usize,
    ) -> Result<Experts, ModelError> {
        let prefix = format!("model.layers.{layer}.mlp");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let count = config.num_local_experts;
        let bias = |name: &str, width: usize| -> Result<Tensor, ModelError> {
            let bias = weights.bf16(&format!("{prefix}.experts.{name}_bias"), &[count, width])?;
            target.wide(weights, &bias, &[count, width])
        };
        // The router is f32 whatever the target: near ties between experts flip under less.
        let wide = Target {
            dtype: DType::F32,
            ..target.clone()
        };
        let router = [format!("{prefix}.router")];
        let packed = |name: &str, shape: [usize; 3]| -> Result<QTensor, ModelError> {
            let name = format!("{prefix}.experts.{name}");
            packed(weights, &name, shape, &target.device)
        };
        Ok(Experts {
            chosen: config.num_experts_per_tok,
            limit: config.swiglu_limit as f32,
            router: Linear::load(&wide, weights, &router, &[count], hidden)?,
            gate_up: packed("gate_up_proj", [count, 2 * inner, hidden])?,
            gate_up_bias: bias("gate_up_proj", 2 * inner)?,
            down: packed("down_proj", [count, hidden, inner])?,
            down_bias: bias("down_proj", hidden)?,
        })
    }

    /// `x` `[rows, hidden]` to what is added to the stream, `[rows, hidden]`.
    pub fn apply(&self, x: &Tensor, product: &dyn GroupedProduct) -> Result<Tensor, ModelError> {
        let rows = x.dims()[0];
        let logits = self.router.apply(x)?;
        let count = logits.dims()[1];
        let logits: Vec<f32> = logits.flatten_all()?.to_vec1()?;
        let choice = Choice::new(&logits, count, self.chosen);
        let routes = choice.routes(count, self.chosen, x.device())?;
        let experts = Tensor::from_vec(choice.experts, rows * self.chosen, x.device())?;
        let weights = Tensor::from_vec(choice.weights, (rows, self.chosen, 1), x.device())?;

        let inner = product.product(x, &self.gate_up, &routes, false)?;
        let inner = (inner + self.gate_up_bias.index_select(&experts, 0)?)?;
        let inner = swiglu(&inner, self.limit, &Arithmetic::default())?;
        let y = product.product(&inner, &self.down, &routes, true)?;
        let y = (y + self.down_bias.index_select(&experts, 0)?)?;
        let y = y.reshape((rows, self.chosen, ()))?;
        Ok(y.broadcast_mul(&weights)?.sum(1)?)
    }
}

/// Gates and linear parts, interleaved in `x` `[n, 2 * inner]`, to `[n, inner]`. The gate is clamped above only.
fn swiglu(x: &Tensor, limit: f32, arithmetic: &Arithmetic) -> Result<Tensor, ModelError> {
    let (n, width) = x.dims2()?;
    let pairs = x.reshape((n, width / 2, 2))?;
    let gate = pairs.narrow(2, 0, 1)?.squeeze(2)?.contiguous()?;
    let up = pairs.narrow(2, 1, 1)?.squeeze(2)?.contiguous()?;
    let (gate, up) = (gate.minimum(limit)?, up.clamp(-limit, limit)?);
    let steep = (&gate * f64::from(arithmetic.swiglu_alpha))?;
    // 1 / (1 + e^-x): where e^-x is infinite the gate is closed.
    let open = (steep.neg()?.exp()? + 1.0)?.recip()?;
    Ok(((gate * open)? * (up + f64::from(arithmetic.up_offset))?)?)
}

/// Each row's experts, largest logit first, and their weights: `[rows, chosen]` each.
struct Choice {
    experts: Vec<u32>,
    weights: Vec<f32>,
}

impl Choice {
    /// From router logits `[rows, count]`; among equal logits the lower index comes first.
    fn new(logits: &[f32], count: usize, chosen: usize) -> Choice {
        let rows = logits.len() / count;
        let mut choice = Choice {
            experts: Vec::with_capacity(rows * chosen),
            weights: Vec::with_capacity(rows * chosen),
        };
        let mut order: Vec<u32> = Vec::with_capacity(count);
        for logits in logits.chunks_exact(count) {
            // Adding zero makes minus zero equal to zero.
            let of = |expert: &u32| logits[*expert as usize] + 0.0;
            order.clear();
            order.extend(0..count as u32);
            order.sort_by(|a, b| of(b).total_cmp(&of(a)));
            let best = &order[..chosen];
            let max = of(&best[0]);
            let sum: f32 = best.iter().map(|expert| (of(expert) - max).exp()).sum();
            let weight = |expert: &u32| (of(expert) - max).exp() / sum;
            choice.weights.extend(best.iter().map(weight));
            choice.experts.extend_from_slice(best);
        }
        choice
    }

    fn routes(&self, count: usize, chosen: usize, device: &Device) -> Result<Routes, ModelError> {
        let mut by_expert = vec![Vec::new(); count];
        for (pair, expert) in (0u32..).zip(&self.experts) {
            by_expert[*expert as usize].push(pair);
        }
        let pairs = by_expert.concat();
        let mut sorted = vec![0u32; pairs.len()];
        for (at, pair) in (0u32..).zip(&pairs) {
            sorted[*pair as usize] = at;
        }
        let upload = |numbers: Vec<u32>| Tensor::from_vec(numbers, self.experts.len(), device);
        let expert_of = |pair: &u32| self.experts[*pair as usize];
        Ok(Routes {
            per_row: chosen,
            counts: by_expert.iter().map(Vec::len).collect(),
            experts: upload(pairs.iter().map(expert_of).collect())?,
            rows: upload(pairs.iter().map(|pair| pair / chosen as u32).collect())?,
            sorted: upload(sorted)?,
            pairs: upload(pairs)?,
        })
    }
}

/// A matrix for each expert, `shape` = `[experts, rows, cols]`, converted and taken to the device.
fn packed(
    weights: &Weights,
    name: &str,
    shape: [usize; 3],
    device: &Device,
) -> Result<QTensor, ModelError> {
    let [_, rows, cols] = shape;
    let per_row = cols / MXFP4_BLOCK;
    let (blocks, scales) = weights.mxfp4(name, shape)?;
    let converted = converted(weights.bytes(&blocks), weights.bytes(&scales))
        .map_err(|refused| refusal(weights, &scales, [rows, per_row], &refused))?;
    let data = QStorage::from_data(Cow::Owned(converted), device, GgmlDType::Q8_0)?;
    Ok(QTensor::new(data, shape.as_slice())?)
}

/// All blocks as Q8_0, by as many threads as the machine has.
fn converted(blocks: &[u8], scales: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut out = vec![0; scales.len() * Q8_0_BYTES];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = scales.len().div_ceil(threads).max(1);
    let parts = blocks.chunks(share * BLOCK_BYTES).zip(scales.chunks(share));
    let parts = parts.zip(out.chunks_mut(share * Q8_0_BYTES));
    std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .map(|((blocks, scales), out)| scope.spawn(move || convert(blocks, scales, out)))
            .collect();
        let mut first = Ok(());
        for (part, thread) in threads.into_iter().enumerate() {
            let done = thread.join().expect("bug: a conversion panicked");
            let in_all = |refused: Refused| Refused {
                at: part * share + refused.at,
                ..refused
            };
            first = first.and(done.map_err(in_all));
        }
        first
    })?;
    Ok(out)
}

fn refusal(
    weights: &Weights,
    scales: &Stored,
    [rows, per_row]: [usize; 2],
    refused: &Refused,
) -> ModelError {
    let (name, file) = (scales.name.clone(), weights.file_of(scales).to_owned());
    let (expert, row) = (refused.at / per_row / rows, refused.at / per_row % rows);
    let block = refused.at % per_row;
    match refused.is_nan() {
        true => ModelError::NotANumber {
            name,
            file,
            expert,
            row,
            block,
        },
        false => ModelError::NotLossless {
            name,
            file,
            expert,
            row,
            block,
            code: refused.code,
        },
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Rows `[n, input]` between -1 and 1, experts `[count, out, input]` as MXFP4 might have them, and routes of four
    /// experts a row.
    #[cfg(feature = "cuda")]
    pub fn random(
        n: usize,
        [count, out, input]: [usize; 3],
        device: &Device,
    ) -> (Tensor, QTensor, Routes) {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let blocks = count * out * input / MXFP4_BLOCK;
        let scales: Vec<u8> = (0..blocks).map(|_| 118 + (next() % 6) as u8).collect();
        let bytes: Vec<u8> = (0..blocks * BLOCK_BYTES).map(|_| next() as u8).collect();
        let data = Cow::Owned(converted(&bytes, &scales).expect("lossless"));
        let data = QStorage::from_data(data, device, GgmlDType::Q8_0).expect("experts");
        let x: Vec<f32> = (0..n * input)
            .map(|_| next() as f32 / 2f32.powi(30) - 1.0)
            .collect();
        let logits: Vec<f32> = (0..n * count).map(|_| next() as f32).collect();
        (
            Tensor::from_vec(x, (n, input), device).expect("rows"),
            QTensor::new(data, (count, out, input)).expect("experts"),
            Choice::new(&logits, count, 4)
                .routes(count, 4, device)
                .expect("routes"),
        )
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        let chosen = |logits: &[f32], chosen| Choice::new(logits, logits.len(), chosen).experts;
        assert_eq!(chosen(&[1.0; 8], 4), [0, 1, 2, 3]);
        assert_eq!(chosen(&[0.0, 2.0, 1.0, 2.0, 1.0], 3), [1, 3, 2]);
        assert_eq!(chosen(&[-0.0, 0.0, -1.0], 2), [0, 1]);
        let weights = Choice::new(&[0.0, 3f32.ln(), -100.0], 3, 2).weights;
        assert!((weights[0] - 0.75).abs() < 1e-6 && (weights[1] - 0.25).abs() < 1e-6);
    }

    #[test]
    fn a_gate_is_clamped_above_only_and_closes_without_nan() {
        let one = |gate: f32, up: f32| -> f32 {
            let x = Tensor::new(&[[gate, up]], &Device::Cpu).expect("a tensor");
            let y = swiglu(&x, 7.0, &Arithmetic::default()).expect("swiglu");
            y.flatten_all().and_then(|y| y.to_vec1()).expect("one")[0]
        };
        assert!(
            (one(-20.0, 1.0) - -6.6e-14).abs() < 1e-15,
            "{:e}",
            one(-20.0, 1.0)
        );
        assert!((one(1.0, 50.0) - 8.0 * 0.845_795_8).abs() < 1e-5);
        assert!((one(1.0, -50.0) - -6.0 * 0.845_795_8).abs() < 1e-5);
        assert_eq!(one(-1e30, 3.0), 0.0);
    }

    #[test]
    fn a_block_is_refused_by_its_place_whichever_thread_meets_it() {
        let scales: Vec<u8> = (0..1000)
            .map(|at| if at == 700 { 90 } else { 127 })
            .collect();
        let found = converted(&[0x22; 1000 * BLOCK_BYTES], &scales);
        assert_eq!(found, Err(Refused { at: 700, code: 90 }));
    }
}
