//! The mixture of experts.
//!
//! Takes normed rows of the residual stream, gives what is added back to it. The router chooses each row's experts;
//! rows are then grouped by expert, so that an expert's weights are touched once a call however many rows want it.
//! Experts stay packed (MXFP4) in the mapped file. The router is f32: near ties between experts flip under less.

use super::arithmetic::{Arithmetic, DownBias, Precision, Routing};
use super::config::MXFP4_BLOCK;
use super::linear::Linear;
use super::weights::{Stored, Weights};
use super::{Config, ModelError};
use safeguard_kernels::Isa;
use safeguard_kernels::mxfp4::{self, BLOCK_BYTES, Matrix, Quantised, Tiles};
use safeguard_kernels::pointwise::{self, Swiglu};

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
}

/// The scale that stands for NaN.
const NAN: u8 = 255;

/// A row's share in an expert.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Share {
    row: usize,
    weight: f32,
}

/// What a product's rows are made of.
enum Rows {
    Exact(Vec<f32>),
    Quantised(Tiles),
}

/// How to compute.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// What activations are rounded to.
    pub precision: Precision,
    /// The architecture's constants.
    pub arithmetic: &'a Arithmetic,
}

impl Experts {
    /// From the tensors below `prefix` (`model.layers.N.mlp`).
    pub fn load(config: &Config, weights: &Weights, prefix: &str) -> Result<Experts, ModelError> {
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
            router: Linear::load(weights, &format!("{prefix}.router"), count, hidden)?,
            gate_up_bias: bias("gate_up_proj", 2 * inner)?,
            down_bias: bias("down_proj", hidden)?,
            gate_up: Packed::load(weights, &gate_up, [count, 2 * inner, hidden])?,
            down: Packed::load(weights, &down, [count, hidden, inner])?,
        })
    }

    /// `x` `[n, hidden]` to what is added to the stream, `[n, hidden]`.
    pub fn apply(&self, x: &[f32], weights: &Weights, how: How) -> Vec<f32> {
        let (hidden, isa) = (self.down.rows, how.isa);
        let logits = self.router.apply(isa, weights, x);
        let planes = how.precision.planes();
        let quantised = planes.map(|planes| Quantised::new(isa, x, hidden, planes));
        let mut out = vec![0.0; x.len()];
        // In the order of the experts, so that a row's sum does not depend on the rows beside it.
        let experts = self.route(&logits, how.arithmetic.routing);
        for (expert, shares) in experts.iter().enumerate() {
            if shares.is_empty() {
                continue;
            }
            let picked = shares.iter().map(|share| share.row);
            let rows = match &quantised {
                Some(quantised) => Rows::Quantised(quantised.tiles(picked)),
                None => Rows::Exact(
                    picked
                        .flat_map(|row| &x[row * hidden..(row + 1) * hidden])
                        .copied()
                        .collect(),
                ),
            };
            let y = self.expert(expert, shares.len(), rows, weights, how);
            let bias = &self.down_bias[expert * hidden..(expert + 1) * hidden];
            let before = how.arithmetic.down_bias == DownBias::BeforeWeight;
            for (share, y) in shares.iter().zip(y.chunks_exact(hidden)) {
                let out = &mut out[share.row * hidden..(share.row + 1) * hidden];
                pointwise::add_share(out, y, bias, share.weight, before);
            }
        }
        out
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

    /// One expert's output for its `n` rows, `[n, hidden]`, without the output bias.
    fn expert(&self, expert: usize, n: usize, x: Rows, weights: &Weights, how: How) -> Vec<f32> {
        let width = self.gate_up.rows;
        let inner = self.gate_up.product(expert, n, &x, weights, how);
        let swiglu = Swiglu {
            limit: self.limit,
            alpha: how.arithmetic.swiglu_alpha,
            offset: how.arithmetic.up_offset,
        };
        let bias = &self.gate_up_bias[expert * width..(expert + 1) * width];
        let active = swiglu.apply(how.isa, &inner, bias);
        let active = match how.precision.planes() {
            Some(planes) => {
                let quantised = Quantised::new(how.isa, &active, self.down.cols, planes);
                Rows::Quantised(quantised.tiles(0..n))
            }
            None => Rows::Exact(active),
        };
        self.down.product(expert, n, &active, weights, how)
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
        Routing::Sigmoid => 1.0 / (1.0 + (-logits[expert]).exp()),
    };
    order[..k]
        .iter()
        .map(|expert| (*expert, weight(*expert)))
        .collect()
}

impl Packed {
    /// `shape` is `[experts, rows, cols]`.
    fn load(weights: &Weights, name: &str, shape: [usize; 3]) -> Result<Packed, ModelError> {
        let [_, rows, cols] = shape;
        let per_row = cols / MXFP4_BLOCK;
        let (blocks, scales) = weights.mxfp4(name, shape)?;
        if let Some(at) = weights.bytes(&scales).iter().position(|code| *code == NAN) {
            return Err(ModelError::NotANumber {
                file: weights.file_of(&scales).to_owned(),
                name: scales.name,
                expert: at / (rows * per_row),
                row: at / per_row % rows,
                block: at % per_row,
            });
        }
        Ok(Packed {
            rows,
            cols,
            blocks,
            scales,
        })
    }

    /// `n` rows times one expert's matrix, `[n, rows]`.
    fn product(&self, expert: usize, n: usize, x: &Rows, weights: &Weights, how: How) -> Vec<f32> {
        let scales = self.rows * self.cols / MXFP4_BLOCK;
        let bytes = scales * BLOCK_BYTES;
        let matrix = Matrix {
            blocks: &weights.bytes(&self.blocks)[expert * bytes..(expert + 1) * bytes],
            scales: &weights.bytes(&self.scales)[expert * scales..(expert + 1) * scales],
            cols: self.cols,
        };
        let mut y = vec![0.0; n * self.rows];
        match x {
            Rows::Exact(x) => mxfp4::exact_product(how.isa, x, matrix, &mut y),
            Rows::Quantised(x) => mxfp4::product(how.isa, x, matrix, &mut y),
        }
        y
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
