//! Attention with sinks over a cache.
//!
//! Takes normed rows of the residual stream and the layer's cache, writes their keys and values to it and gives what
//! is added back to the stream. A head's sink takes part in the softmax and has no value: it absorbs weight. Several
//! query heads share a key head. Scores are held for a bounded group of queries at a time, and sums go block by block,
//! so that neither memory nor result depends on how a long sequence was cut.

use super::kv_cache::{BLOCK, LayerCache};
use super::linear::Linear;
use super::rope::Turns;
use super::weights::Weights;
use super::{Config, ModelError};
use crate::config::ATTENTION_SCORES_MAX;
use candle_core::{Device, Tensor};
use std::ops::Range;

/// Queries taken together at most: more would only score keys that most of them do not see.
const QUERIES_MAX: usize = BLOCK;

/// One layer's attention.
#[derive(Debug)]
pub struct Attention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Queries, keys and values in one product.
    qkv: Linear,
    out: Linear,
    /// One for each query head; not scaled.
    sinks: Vec<f32>,
}

impl Attention {
    /// From the tensors below `prefix` (`model.layers.N.self_attn`).
    pub fn load(config: &Config, weights: &Weights, prefix: &str) -> Result<Attention, ModelError> {
        let (heads, kv_heads, head_dim) = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        );
        let names = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{prefix}.{name}"));
        let outs = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim];
        let out = [format!("{prefix}.o_proj")];
        Ok(Attention {
            heads,
            kv_heads,
            head_dim,
            qkv: Linear::load(weights, &names, &outs, config.hidden_size)?,
            out: Linear::load(weights, &out, &[config.hidden_size], heads * head_dim)?,
            sinks: weights.widened(&weights.bf16(&format!("{prefix}.sinks"), &[heads])?),
        })
    }

    /// `x` `[n, hidden]` at positions `from..from + n`, whose turns are `turns`; what to add to the stream.
    pub fn apply(
        &self,
        x: &[f32],
        from: usize,
        turns: &Turns,
        cache: &mut LayerCache,
    ) -> Result<Vec<f32>, ModelError> {
        let qkv = self.qkv.apply(x)?;
        let (q_width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let n = qkv.len() / (q_width + 2 * kv_width);
        let (mut q, mut k) = (
            Vec::with_capacity(n * q_width),
            Vec::with_capacity(n * kv_width),
        );
        let mut v = Vec::with_capacity(n * kv_width);
        for (row, x) in qkv.chunks_exact(q_width + 2 * kv_width).enumerate() {
            let (x_q, x_kv) = x.split_at(q_width);
            q.extend_from_slice(x_q);
            k.extend_from_slice(&x_kv[..kv_width]);
            v.extend_from_slice(&x_kv[kv_width..]);
            let heads = q[row * q_width..].chunks_exact_mut(self.head_dim);
            for head in heads.chain(k[row * kv_width..].chunks_exact_mut(self.head_dim)) {
                turns.apply(row, head);
            }
        }
        cache.write(from, &k, &v)?;
        let mut seen = vec![0.0; n * q_width];
        let mut done = 0;
        while done < n {
            let most = ATTENTION_SCORES_MAX / (self.heads * (from + n));
            let group = done..n.min(done + most.clamp(1, QUERIES_MAX));
            let rows = group.start * q_width..group.end * q_width;
            self.attend(&q[rows.clone()], from + group.start, cache, &mut seen[rows])?;
            done = group.end;
        }
        self.out.apply(&seen)
    }

    /// What the queries `q` `[n, heads, head_dim]` at positions `from..from + n` see, as `out` of the same shape.
    fn attend(
        &self,
        q: &[f32],
        from: usize,
        cache: &LayerCache,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let n = q.len() / (self.heads * self.head_dim);
        let shared = self.heads / self.kv_heads;
        // One row would be added up in another order, see linear.rs.
        let rows = (shared * n).max(2);
        let q = self.by_kv_head(q, n, rows)?;
        let visible = cache.visible(from).start..from + n;
        let blocks: Vec<_> = cache.blocks(visible).collect();
        let mut scores = Vec::with_capacity(blocks.len());
        for (_, block) in &blocks {
            scores.push(q.matmul(&block.keys)?.flatten_all()?.to_vec1::<f32>()?);
        }
        let firsts: Vec<usize> = blocks.iter().map(|(first, _)| *first).collect();
        for kv_head in 0..self.kv_heads {
            for row in 0..shared * n {
                let sink = self.sinks[kv_head * shared + row / n];
                let visible = cache.visible(from + row % n);
                self.softmax(
                    (kv_head * rows + row) * BLOCK,
                    sink,
                    visible,
                    &firsts,
                    &mut scores,
                );
            }
        }
        for ((_, block), weights) in blocks.iter().zip(scores) {
            let weights = Tensor::from_vec(weights, (self.kv_heads, rows, BLOCK), &Device::Cpu)?;
            let seen: Vec<f32> = weights.matmul(&block.values)?.flatten_all()?.to_vec1()?;
            for head in 0..self.heads {
                for row in 0..n {
                    let at = ((head / shared) * rows + (head % shared) * n + row) * self.head_dim;
                    let to = (row * self.heads + head) * self.head_dim;
                    let out = &mut out[to..to + self.head_dim];
                    out.iter_mut()
                        .zip(&seen[at..])
                        .for_each(|(out, seen)| *out += seen);
                }
            }
        }
        Ok(())
    }

    /// Queries `[n, heads, head_dim]` as `[kv_heads, rows, head_dim]`: for each key head its query heads, for each of
    /// them its positions; zeros where `rows` is more than there are.
    fn by_kv_head(&self, q: &[f32], n: usize, rows: usize) -> Result<Tensor, ModelError> {
        let shared = self.heads / self.kv_heads;
        let mut out = vec![0.0; self.kv_heads * rows * self.head_dim];
        for (at, head) in q.chunks_exact(self.head_dim).enumerate() {
            let (position, head_at) = (at / self.heads, at % self.heads);
            let row = (head_at / shared) * rows + (head_at % shared) * n + position;
            out[row * self.head_dim..(row + 1) * self.head_dim].copy_from_slice(head);
        }
        Ok(Tensor::from_vec(
            out,
            (self.kv_heads, rows, self.head_dim),
            &Device::Cpu,
        )?)
    }

    /// Turns one query's scores, at `at` in each block's list, into weights: a softmax with the sink over what is
    /// `visible`, zero elsewhere. Without the sink they would add up to one.
    fn softmax(
        &self,
        at: usize,
        sink: f32,
        visible: Range<usize>,
        firsts: &[usize],
        scores: &mut [Vec<f32>],
    ) {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let inside = |first: usize| {
            let end = (first + BLOCK).clamp(first, visible.end.max(first));
            visible.start.clamp(first, end) - first..end - first
        };
        let mut max = sink;
        for (first, scores) in firsts.iter().zip(scores.iter_mut()) {
            for score in &mut scores[at..at + BLOCK][inside(*first)] {
                *score *= scale;
                max = max.max(*score);
            }
        }
        let mut sum = (sink - max).exp();
        for (first, scores) in firsts.iter().zip(scores.iter_mut()) {
            let (scores, inside) = (&mut scores[at..at + BLOCK], inside(*first));
            scores[..inside.start].fill(0.0);
            scores[inside.end..].fill(0.0);
            let mut of_block = 0.0;
            for score in &mut scores[inside] {
                *score = (*score - max).exp();
                of_block += *score;
            }
            sum += of_block;
        }
        for scores in scores.iter_mut() {
            scores[at..at + BLOCK]
                .iter_mut()
                .for_each(|weight| *weight /= sum);
        }
    }
}
