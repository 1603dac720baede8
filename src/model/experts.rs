//! The mixture of experts.
//!
//! Takes normed rows of the residual stream, gives what is added back to it. The router chooses each row's experts;
//! rows are then grouped by expert, so that an expert's weights are touched once a call however many rows want it.
//! Experts stay packed (MXFP4) in the mapped file and are dequantised at use, unless the model is small enough to be
//! kept as f32. Everything is f32, the router too: near ties between experts flip under less.

use super::arithmetic::{Arithmetic, DownBias, Routing};
use super::config::MXFP4_BLOCK;
use super::linear::{Linear, add_to_rows, product};
use super::mxfp4::{BLOCK_BYTES, dequantize_transposed};
use super::weights::{Stored, Weights};
use super::{Config, ModelError};
use candle_core::{Device, Tensor};

/// One layer's experts and their router.
#[derive(Debug)]
pub struct Experts {
    chosen: usize,
    limit: f32,
    router: Linear,
    gate_up: Packed,
    /// `[experts, 2 * intermediate]`.
    gate_up_bias: Vec<f32>,
    down: Packed,
    /// `[experts, hidden]`.
    down_bias: Vec<f32>,
}

/// A matrix for each expert, `[rows, cols]`, in MXFP4.
#[derive(Debug)]
struct Packed {
    rows: usize,
    cols: usize,
    blocks: Stored,
    scales: Stored,
    /// Every expert's matrix `[cols, rows]`, where the model is small.
    resident: Option<Vec<Tensor>>,
}

/// A row's share in an expert.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Share {
    row: usize,
    weight: f32,
}

impl Experts {
    /// From the tensors below `prefix` (`model.layers.N.mlp`); `resident` dequantises all of them now.
    pub fn load(
        config: &Config,
        weights: &Weights,
        prefix: &str,
        resident: bool,
    ) -> Result<Experts, ModelError> {
        let (hidden, inner, count) = (
            config.hidden_size,
            config.intermediate_size,
            config.num_local_experts,
        );
        let bias = |name: &str, width: usize| -> Result<Vec<f32>, ModelError> {
            Ok(weights
                .widened(&weights.bf16(&format!("{prefix}.experts.{name}_bias"), &[count, width])?))
        };
        let gate_up = format!("{prefix}.experts.gate_up_proj");
        let down = format!("{prefix}.experts.down_proj");
        Ok(Experts {
            chosen: config.num_experts_per_tok,
            limit: config.swiglu_limit as f32,
            router: Linear::load(weights, &[format!("{prefix}.router")], &[count], hidden)?,
            gate_up_bias: bias("gate_up_proj", 2 * inner)?,
            down_bias: bias("down_proj", hidden)?,
            gate_up: Packed::load(weights, &gate_up, [count, 2 * inner, hidden], resident)?,
            down: Packed::load(weights, &down, [count, hidden, inner], resident)?,
        })
    }

    /// `x` `[n, hidden]` to what is added to the stream, `[n, hidden]`.
    pub fn apply(
        &self,
        x: &[f32],
        weights: &Weights,
        arithmetic: &Arithmetic,
    ) -> Result<Vec<f32>, ModelError> {
        let hidden = self.down.rows;
        let logits = self.router.apply(x)?;
        let mut out = vec![0.0; x.len()];
        // In the order of the experts, so that a row's sum does not depend on the rows beside it.
        for (expert, shares) in self.route(&logits, arithmetic.routing).iter().enumerate() {
            if shares.is_empty() {
                continue;
            }
            let mut rows = Vec::with_capacity(shares.len() * hidden);
            for share in shares {
                rows.extend_from_slice(&x[share.row * hidden..(share.row + 1) * hidden]);
            }
            let y = self.expert(expert, &rows, weights, arithmetic)?;
            let bias = &self.down_bias[expert * hidden..(expert + 1) * hidden];
            for (share, y) in shares.iter().zip(y.chunks_exact(hidden)) {
                let out = &mut out[share.row * hidden..(share.row + 1) * hidden];
                for ((out, y), b) in out.iter_mut().zip(y).zip(bias) {
                    *out += match arithmetic.down_bias {
                        DownBias::BeforeWeight => share.weight * (y + b),
                        DownBias::AfterWeight => share.weight * y + b,
                    };
                }
            }
        }
        Ok(out)
    }

    /// For each expert the rows it gets, from router logits `[n, experts]`.
    fn route(&self, logits: &[f32], routing: Routing) -> Vec<Vec<Share>> {
        let count = self.router_width();
        let mut experts = vec![Vec::new(); count];
        for (row, logits) in logits.chunks_exact(count).enumerate() {
            for (expert, weight) in choose(logits, self.chosen, routing) {
                experts[expert].push(Share { row, weight });
            }
        }
        experts
    }

    fn router_width(&self) -> usize {
        self.down_bias.len() / self.down.rows
    }

    /// One expert's output for its rows, `[n, hidden]`, without the output bias.
    fn expert(
        &self,
        expert: usize,
        x: &[f32],
        weights: &Weights,
        a: &Arithmetic,
    ) -> Result<Vec<f32>, ModelError> {
        let width = self.gate_up.rows;
        let mut inner = product(x, &self.gate_up.expert(weights, expert)?)?;
        add_to_rows(
            &mut inner,
            &self.gate_up_bias[expert * width..(expert + 1) * width],
        );
        product(
            &swiglu(&inner, self.limit, a),
            &self.down.expert(weights, expert)?,
        )
    }
}

/// The `k` largest logits, largest first, the lower index first among equals, each with its weight.
fn choose(logits: &[f32], k: usize, routing: Routing) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| (logits[*b] + 0.0).total_cmp(&(logits[*a] + 0.0)));
    let max = logits[order[0]];
    let over = match routing {
        Routing::SoftmaxOverChosen => &order[..k],
        Routing::SoftmaxOverAll | Routing::Sigmoid => &order[..],
    };
    let sum: f32 = over
        .iter()
        .map(|expert| (logits[*expert] - max).exp())
        .sum();
    let weight = |expert: usize| match routing {
        Routing::SoftmaxOverChosen | Routing::SoftmaxOverAll => (logits[expert] - max).exp() / sum,
        Routing::Sigmoid => sigmoid(logits[expert]),
    };
    order[..k]
        .iter()
        .map(|expert| (*expert, weight(*expert)))
        .collect()
}

/// Gates and linear parts, interleaved in `x`, to half as many activations. The gate is clamped above only.
fn swiglu(x: &[f32], limit: f32, arithmetic: &Arithmetic) -> Vec<f32> {
    let activate = |pair: &[f32]| {
        let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
        gate * sigmoid(arithmetic.swiglu_alpha * gate) * (up + arithmetic.up_offset)
    };
    x.chunks_exact(2).map(activate).collect()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl Packed {
    /// `shape` is `[experts, rows, cols]`.
    fn load(
        weights: &Weights,
        name: &str,
        shape: [usize; 3],
        resident: bool,
    ) -> Result<Packed, ModelError> {
        let [experts, rows, cols] = shape;
        let per_row = cols / MXFP4_BLOCK;
        let blocks = weights.u8(
            &format!("{name}_blocks"),
            &[experts, rows, per_row, BLOCK_BYTES],
        )?;
        let scales = weights.u8(&format!("{name}_scales"), &[experts, rows, per_row])?;
        let mut packed = Packed {
            rows,
            cols,
            blocks,
            scales,
            resident: None,
        };
        if resident {
            packed.resident = Some(
                (0..experts)
                    .map(|e| packed.expert(weights, e))
                    .collect::<Result<_, _>>()?,
            );
        }
        Ok(packed)
    }

    /// One expert's matrix as `[cols, rows]`.
    fn expert(&self, weights: &Weights, expert: usize) -> Result<Tensor, ModelError> {
        if let Some(resident) = &self.resident {
            return Ok(resident[expert].clone());
        }
        let scales = self.rows * self.cols / MXFP4_BLOCK;
        let blocks =
            &weights.bytes(&self.blocks)[expert * scales * BLOCK_BYTES..][..scales * BLOCK_BYTES];
        let scales = &weights.bytes(&self.scales)[expert * scales..][..scales];
        let matrix = dequantize_transposed(blocks, scales, self.rows, self.cols).map_err(|at| {
            let (name, file) = (
                self.scales.name.clone(),
                weights.file_of(&self.scales).to_owned(),
            );
            ModelError::NotANumber {
                name,
                file,
                expert,
                row: at.row,
                block: at.block,
            }
        })?;
        Ok(Tensor::from_vec(
            matrix,
            (self.cols, self.rows),
            &Device::Cpu,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f32], expected: &[f32]) {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs().max(1e-3);
        assert!(
            found.len() == expected.len() && found.iter().zip(expected).all(near),
            "{found:?} {expected:?}"
        );
    }

    #[test]
    fn gate_is_clamped_above_only() {
        let gpt_oss = Arithmetic::default();
        let one = |gate: f32, up: f32| swiglu(&[gate, up], 7.0, &gpt_oss)[0];
        // A gate clamped on both sides would give -7 * sigmoid(-11.914) * 2 = -9.4e-5 at -20; right is -6.6e-14.
        assert!(
            (one(-20.0, 1.0) - -6.6e-14).abs() < 1e-15,
            "{:e}",
            one(-20.0, 1.0)
        );
        close(&[one(20.0, 0.0)], &[7.0 / (1.0 + (-1.702f32 * 7.0).exp())]);
        close(
            &[one(1.0, 50.0), one(1.0, -50.0)],
            &[8.0 * 0.845_795_8, -6.0 * 0.845_795_8],
        );
        // Interleaved: gate, up, gate, up.
        close(
            &swiglu(&[1.0, 0.0, 0.0, 3.0], 7.0, &gpt_oss),
            &[0.845_795_8, 0.0],
        );
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        let chosen = |logits: &[f32], k| choose(logits, k, Routing::SoftmaxOverChosen);
        let indices = |logits: &[f32], k| {
            chosen(logits, k)
                .iter()
                .map(|(i, _)| *i)
                .collect::<Vec<_>>()
        };
        assert_eq!(indices(&[1.0; 8], 4), [0, 1, 2, 3]);
        assert_eq!(indices(&[0.0, 2.0, 1.0, 2.0, 1.0], 3), [1, 3, 2]);
        assert_eq!(indices(&[-1.0, -1.0, 5.0, -1.0], 2), [2, 0]);
        let weights: Vec<f32> = chosen(&[0.0, 3f32.ln(), 9f32.ln() - 100.0], 2)
            .iter()
            .map(|(_, w)| *w)
            .collect();
        close(&weights, &[0.75, 0.25]);
    }

    #[test]
    fn mistakes_of_routing_are_mistakes() {
        let weights = |routing| {
            choose(&[0.0, 0.0, 0.0], 2, routing)
                .iter()
                .map(|(_, w)| *w)
                .collect::<Vec<_>>()
        };
        close(&weights(Routing::SoftmaxOverChosen), &[0.5, 0.5]);
        close(&weights(Routing::SoftmaxOverAll), &[1.0 / 3.0, 1.0 / 3.0]);
        close(&weights(Routing::Sigmoid), &[0.5, 0.5]);
    }
}
