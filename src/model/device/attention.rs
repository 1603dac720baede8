//! Attention of a packed batch on a device, in three parts.
//!
//! A shared prefix is seen by all rows that continue it in one product; own keys are read from the pool, padded, in
//! one product for each group; a head's sink is the third part and has no value. Each part gives its largest score,
//! the sum of exponentials behind it and the values weighted by them; the parts are merged as one softmax. All of it
//! is f32, so a text behind a prefix is the same text as without, up to the order of sums.

use super::super::weights::Weights;
use super::super::{Config, LayerType, ModelError};
use super::cache::{Pool, Prefix, Writes};
use super::linear::{Linear, Target};
use super::plan::{OwnGroup, Plan, UNSEEN};
use crate::config::DEVICE_SCORES_MAX;
use candle_core::{D, DType, Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// One layer's attention.
#[derive(Debug)]
pub struct Attention {
    heads: Heads,
    sliding: bool,
    window: usize,
    /// Queries, keys and values in one product.
    qkv: Linear,
    out: Linear,
    /// `[1, heads]`, f32; not scaled.
    sinks: Tensor,
}

#[derive(Debug, Clone, Copy)]
struct Heads {
    all: usize,
    kv: usize,
    dim: usize,
}

/// A plan's indices and masks on the device, shared by all layers.
#[derive(Debug)]
pub struct Step {
    plan: Plan,
    /// By number as the plan has them.
    prefixes: Vec<Arc<Prefix>>,
    /// `[rows, 1, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
    /// Where new keys go.
    writes: Writes,
    full: Vec<OwnIndices>,
    sliding: Vec<OwnIndices>,
}

#[derive(Debug)]
struct OwnIndices {
    query_rows: Tensor,
    key_places: Tensor,
    /// `[runs, 1, queries, keys]`.
    mask: Tensor,
    unpadded: Tensor,
}

/// What some rows see of some keys.
struct Part {
    /// The largest score, `[rows, heads]`.
    max: Tensor,
    /// Exponentials of scores less the largest, summed, `[rows, heads]`.
    sum: Tensor,
    /// Values weighted by them, `[rows, heads, head_dim]`.
    seen: Tensor,
}

impl Step {
    /// `turns` are cosines and sines of every position, `[positions, head_dim / 2]` each.
    pub fn new(
        plan: Plan,
        prefixes: Vec<Arc<Prefix>>,
        turns: &(Tensor, Tensor),
        pool: &Pool,
    ) -> Result<Step, ModelError> {
        let device = turns.0.device();
        let positions = indices(&plan.positions, device)?;
        let of = |table: &Tensor| table.index_select(&positions, 0)?.unsqueeze(1);
        let own = |groups: &[OwnGroup]| -> Result<Vec<OwnIndices>, ModelError> {
            groups
                .iter()
                .map(|group| OwnIndices::new(group, device))
                .collect()
        };
        Ok(Step {
            cos: of(&turns.0)?,
            sin: of(&turns.1)?,
            writes: pool.writes(&plan.new_places)?,
            full: own(&plan.full)?,
            sliding: own(&plan.sliding)?,
            prefixes,
            plan,
        })
    }

    /// The rows of this step in order.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl OwnIndices {
    fn new(group: &OwnGroup, device: &Device) -> Result<OwnIndices, ModelError> {
        let shape = (group.runs, 1, group.queries, group.keys);
        Ok(OwnIndices {
            query_rows: indices(&group.query_rows, device)?,
            key_places: indices(&group.key_places, device)?,
            mask: Tensor::from_slice(&group.mask, shape, device)?,
            unpadded: indices(&group.unpadded, device)?,
        })
    }
}

fn indices(numbers: &[u32], device: &Device) -> Result<Tensor, ModelError> {
    Ok(Tensor::from_slice(numbers, numbers.len(), device)?)
}

impl Attention {
    /// From the tensors of layer `layer`.
    pub fn load(
        config: &Config,
        target: &Target,
        weights: &Weights,
        layer: usize,
    ) -> Result<Attention, ModelError> {
        let prefix = format!("model.layers.{layer}.self_attn");
        let heads = Heads {
            all: config.num_attention_heads,
            kv: config.num_key_value_heads,
            dim: config.head_dim,
        };
        let names = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{prefix}.{name}"));
        let (q, kv) = (heads.all * heads.dim, heads.kv * heads.dim);
        let (hidden, out) = (config.hidden_size, [format!("{prefix}.o_proj")]);
        let sinks = weights.bf16(&format!("{prefix}.sinks"), &[heads.all])?;
        Ok(Attention {
            heads,
            sliding: config.layer_types[layer] == LayerType::Sliding,
            window: config.sliding_window,
            qkv: Linear::load(target, weights, &names, &[q, kv, kv], hidden)?,
            out: Linear::load(target, weights, &out, &[hidden], q)?,
            sinks: target.wide(weights, &sinks, &[1, heads.all])?,
        })
    }

    /// `x` `[rows, hidden]` in the step's order; what to add to the stream. New keys go to the pool.
    pub fn apply(
        &self,
        x: &Tensor,
        step: &Step,
        pool: &Pool,
        layer: usize,
    ) -> Result<Tensor, ModelError> {
        let Heads { all, kv, dim } = self.heads;
        let rows = x.dims()[0];
        let qkv = self.qkv.apply(x)?;
        let heads = |from: usize, count: usize| -> Result<Tensor, ModelError> {
            let part = qkv.narrow(1, from * dim, count * dim)?.contiguous()?;
            Ok(part.reshape((rows, count, dim))?)
        };
        // Queries carry the scale of the scores, so that it is applied once for all parts.
        let q = (turn(&heads(0, all)?, step)? * (1.0 / (dim as f64).sqrt()))?;
        let k = turn(&heads(all, kv)?, step)?.reshape((rows, kv * dim))?;
        let v = heads(all + kv, kv)?.reshape((rows, kv * dim))?;
        let (keys, values) = pool.layer(layer);
        step.writes.apply(&keys, &k)?;
        step.writes.apply(&values, &v)?;
        let own = self.own(&q, step, &keys, &values)?;
        let prefix = self.prefix(&q, step, layer)?;
        let seen = self.merged(prefix, own)?.reshape((rows, all * dim))?;
        self.out.apply(&seen)
    }

    /// What all rows see of their own keys.
    fn own(
        &self,
        q: &Tensor,
        step: &Step,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<Part, ModelError> {
        let Heads { all, kv, dim } = self.heads;
        let (groups, indices) = match self.sliding {
            true => (&step.plan.sliding, &step.sliding),
            false => (&step.plan.full, &step.full),
        };
        let mut parts = Vec::with_capacity(groups.len());
        for (group, at) in groups.iter().zip(indices) {
            let (n, queries, len) = (group.runs, group.queries, group.keys);
            let read = |stored: &Tensor| -> Result<Tensor, ModelError> {
                let rows = stored
                    .index_select(&at.key_places, 0)?
                    .to_dtype(DType::F32)?;
                Ok(rows.reshape((n, len, kv, dim))?)
            };
            let keys = read(keys)?.permute((0, 2, 3, 1))?.contiguous()?;
            let values = read(values)?.permute((0, 2, 1, 3))?.contiguous()?;
            // For each run and key head its query heads, for each of them the queries.
            let q = q.index_select(&at.query_rows, 0)?;
            let q = q.reshape((n, queries, all, dim))?.permute((0, 2, 1, 3))?;
            let q = q.contiguous()?.reshape((n, kv, all / kv * queries, dim))?;
            let scores = q.matmul(&keys)?.reshape((n, all, queries, len))?;
            let scores = scores.broadcast_add(&at.mask)?;
            let (max, sum, weights) = softened(&scores)?;
            let weights = weights.reshape((n, kv, all / kv * queries, len))?;
            let seen = weights.matmul(&values)?.reshape((n, all, queries, dim))?;
            let by_row = |x: Tensor| -> Result<Tensor, ModelError> {
                let width = x.dims()[3];
                let x = x.permute((0, 2, 1, 3))?.contiguous()?;
                let x = x.reshape((n * queries, all, width))?;
                Ok(x.index_select(&at.unpadded, 0)?)
            };
            parts.push(Part {
                max: by_row(max)?.squeeze(2)?,
                sum: by_row(sum)?.squeeze(2)?,
                seen: by_row(seen)?,
            });
        }
        Part::one_below_the_other(parts)
    }

    /// What all rows see of the prefixes they continue; none where there are no prefixes.
    fn prefix(&self, q: &Tensor, step: &Step, layer: usize) -> Result<Option<Part>, ModelError> {
        let plan = &step.plan;
        if plan.prefixes.iter().all(|group| group.prefix.is_none()) {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for group in &plan.prefixes {
            let Some(which) = group.prefix else {
                parts.push(Part::of_nothing(group.rows.len(), self.heads, q.device())?);
                continue;
            };
            let prefix = &step.prefixes[which].layers[layer];
            let keys = prefix.keys.to_dtype(DType::F32)?;
            let values = prefix.values.to_dtype(DType::F32)?;
            let at_once = DEVICE_SCORES_MAX / (self.heads.all * keys.dims()[2]);
            let mut from = group.rows.start;
            while from < group.rows.end {
                let rows = from..group.rows.end.min(from + at_once.max(1));
                parts.push(self.behind(
                    q,
                    rows.clone(),
                    &plan.own_before[rows.clone()],
                    &keys,
                    &values,
                )?);
                from = rows.end;
            }
        }
        Ok(Some(Part::one_below_the_other(parts)?))
    }

    /// What the rows `rows` see of the kept keys of one prefix; `own_before` tokens stand between.
    fn behind(
        &self,
        q: &Tensor,
        rows: Range<usize>,
        own_before: &[usize],
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<Part, ModelError> {
        let Heads { all, kv, dim } = self.heads;
        let (n, shared, kept) = (rows.len(), all / kv, keys.dims()[2]);
        let q = q.narrow(0, rows.start, n)?.reshape((n, kv, shared, dim))?;
        let q = q.permute((1, 0, 2, 3))?.contiguous()?;
        let q = q.reshape((kv, n * shared, dim))?;
        let mut scores = q.matmul(keys)?.reshape((kv, n, shared, kept))?;
        if self.sliding {
            let mask = sliding_mask(own_before, kept, self.window);
            let mask = Tensor::from_vec(mask, (1, n, 1, kept), keys.device())?;
            scores = scores.broadcast_add(&mask)?;
        }
        let (max, sum, weights) = softened(&scores)?;
        let seen = weights.reshape((kv, n * shared, kept))?.matmul(values)?;
        let by_row = |x: Tensor, width: usize| -> Result<Tensor, ModelError> {
            let x = x.reshape((kv, n, shared, width))?.permute((1, 0, 2, 3))?;
            Ok(x.contiguous()?.reshape((n, all, width))?)
        };
        Ok(Part {
            max: by_row(max, 1)?.squeeze(2)?,
            sum: by_row(sum, 1)?.squeeze(2)?,
            seen: by_row(seen, dim)?,
        })
    }

    /// One softmax over the parts and the sink, `[rows, heads, head_dim]`.
    fn merged(&self, prefix: Option<Part>, own: Part) -> Result<Tensor, ModelError> {
        let sinks = self.sinks.broadcast_as(own.max.shape())?;
        let mut max = own.max.maximum(&sinks)?;
        if let Some(prefix) = &prefix {
            max = max.maximum(&prefix.max)?;
        }
        let mut sum = (sinks - &max)?.exp()?;
        let mut seen = None;
        for part in [Some(own), prefix].into_iter().flatten() {
            let weight = (part.max - &max)?.exp()?;
            sum = (sum + (&weight * part.sum)?)?;
            let weighted = part.seen.broadcast_mul(&weight.unsqueeze(2)?)?;
            seen = Some(match seen {
                None => weighted,
                Some(seen) => (seen + weighted)?,
            });
        }
        let seen = seen.expect("bug: no part");
        Ok(seen.broadcast_div(&sum.unsqueeze(2)?)?)
    }
}

impl Part {
    /// As a part whose every score is unseen.
    fn of_nothing(rows: usize, heads: Heads, device: &Device) -> Result<Part, ModelError> {
        Ok(Part {
            max: Tensor::full(UNSEEN, (rows, heads.all), device)?,
            sum: Tensor::zeros((rows, heads.all), DType::F32, device)?,
            seen: Tensor::zeros((rows, heads.all, heads.dim), DType::F32, device)?,
        })
    }

    fn one_below_the_other(mut parts: Vec<Part>) -> Result<Part, ModelError> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let all =
            |of: fn(&Part) -> &Tensor| Tensor::cat(&parts.iter().map(of).collect::<Vec<_>>(), 0);
        Ok(Part {
            max: all(|part| &part.max)?,
            sum: all(|part| &part.sum)?,
            seen: all(|part| &part.seen)?,
        })
    }
}

/// The largest score of each row, the sum of exponentials less it, and the exponentials.
fn softened(scores: &Tensor) -> Result<(Tensor, Tensor, Tensor), ModelError> {
    let max = scores.max_keepdim(D::Minus1)?;
    let weights = scores.broadcast_sub(&max)?.exp()?;
    Ok((max, weights.sum_keepdim(D::Minus1)?, weights))
}

/// `[own_before.len(), kept]`: the keys at the end of a prefix that each row sees through its window.
fn sliding_mask(own_before: &[usize], kept: usize, window: usize) -> Vec<f32> {
    let distances = |before: &usize| {
        let before = *before;
        (0..kept).map(move |key| before + kept - key)
    };
    let seen = |distance: usize| if distance < window { 0.0 } else { UNSEEN };
    own_before.iter().flat_map(distances).map(seen).collect()
}

/// Turns each head's halves against each other by its row's position.
fn turn(x: &Tensor, step: &Step) -> Result<Tensor, ModelError> {
    let half = x.dims()[2] / 2;
    let (first, second) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let by = |x: &Tensor, table: &Tensor| x.broadcast_mul(table);
    let turned = [
        (by(&first, &step.cos)? - by(&second, &step.sin)?)?,
        (by(&second, &step.cos)? + by(&first, &step.sin)?)?,
    ];
    Ok(Tensor::cat(&turned, 2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_the_own_key() {
        let seen = |before: usize, kept, window| {
            let mask = sliding_mask(&[before], kept, window);
            mask.iter().filter(|mask| **mask == 0.0).count()
        };
        // The first own query is at distance 1 from the last key of the prefix: with its own key, 128 in all.
        assert_eq!(seen(0, 127, 128), 127);
        assert_eq!(seen(126, 127, 128), 1);
        assert_eq!(seen(127, 127, 128), 0);
        assert_eq!(seen(0, 5, 128), 5);
        assert_eq!(seen(1, 3, 3), 1);
        assert_eq!(sliding_mask(&[1], 3, 3), [UNSEEN, UNSEEN, 0.0]);
    }
}
