//! Attention with sinks over the caches of a batch.
//!
//! Takes normed rows of the residual stream, one sequence after another, and each sequence's cache; writes their keys and
//! values there and gives what is added back to the stream. Several query heads share a key head. What sequences share
//! (blocks of a policy's prefix) is attended to by all of them at once, then each goes on with its own blocks; as
//! blocks begin at the same positions everywhere, no bit depends on who shares what.

use super::batch::Span;
use super::kv_cache::{HeadBlocks, KvCache, LayerCache};
use super::linear::Linear;
use super::rope::Turns;
use super::weights::Weights;
use super::{Config, ModelError};
use rayon::prelude::*;
use safeguard_kernels::Isa;
use safeguard_kernels::attention::Queries;
use safeguard_kernels::pointwise;
use std::ops::Range;

/// One layer's attention.
#[derive(Debug)]
pub struct Attention {
    /// Its number.
    layer: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    /// One for each query head; not scaled.
    sinks: Vec<f32>,
}

/// Rows of the residual stream, one span of them for each sequence.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// `[n, hidden]`, normed.
    pub x: &'a [f32],
    /// In order and without gaps.
    pub spans: &'a [Span],
    /// Of every row's position.
    pub turns: &'a Turns,
}

impl Attention {
    /// From the tensors below `prefix` (`model.layers.N.self_attn`) of layer N.
    pub fn load(
        config: &Config,
        weights: &Weights,
        prefix: &str,
        layer: usize,
    ) -> Result<Attention, ModelError> {
        let (heads, kv_heads, head_dim) = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        );
        let hidden = config.hidden_size;
        let linear = |name: &str, out: usize, inputs: usize| {
            Linear::load(weights, &format!("{prefix}.{name}_proj"), out, inputs)
        };
        Ok(Attention {
            layer,
            heads,
            kv_heads,
            head_dim,
            q: linear("q", heads * head_dim, hidden)?,
            k: linear("k", kv_heads * head_dim, hidden)?,
            v: linear("v", kv_heads * head_dim, hidden)?,
            out: linear("o", hidden, heads * head_dim)?,
            sinks: weights.widened(&weights.bf16(&format!("{prefix}.sinks"), &[heads])?),
        })
    }

    /// Writes keys and values of `rows` to the caches, one for each span.
    pub fn remember(&self, isa: Isa, weights: &Weights, rows: Rows, caches: &mut [&mut KvCache]) {
        let width = self.kv_heads * self.head_dim;
        let mut keys = self.k.apply(isa, weights, rows.x);
        let values = self.v.apply(isa, weights, rows.x);
        let (cos, sin) = rows.turns.angles();
        pointwise::turn(isa, &mut keys, width, self.kv_heads, cos, sin);
        for (span, cache) in rows.spans.iter().zip(caches) {
            let of = span.rows.start * width..span.rows.end * width;
            let cache = cache.layer_mut(self.layer);
            cache.write(span.from, &keys[of.clone()], &values[of]);
        }
    }

    /// What to add to the stream of `rows`, whose keys and values are in the caches.
    pub fn recollect(
        &self,
        isa: Isa,
        weights: &Weights,
        rows: Rows,
        caches: &[&mut KvCache],
    ) -> Vec<f32> {
        let (width, shared) = (self.heads * self.head_dim, self.heads / self.kv_heads);
        let mut q = self.q.apply(isa, weights, rows.x);
        let (cos, sin) = rows.turns.angles();
        pointwise::turn(isa, &mut q, width, self.heads, cos, sin);
        let n = q.len() / width;
        let caches: Vec<&LayerCache> = caches.iter().map(|cache| cache.layer(self.layer)).collect();
        let plan = Plan::new(rows.spans, &caches, shared);
        let of_head = n * shared * self.head_dim;
        let mut seen = vec![0.0; self.kv_heads * of_head];
        seen.par_chunks_exact_mut(of_head)
            .enumerate()
            .for_each(|(kv_head, seen)| {
                // A row's query heads of one key head stand together.
                let part = kv_head * shared * self.head_dim..(kv_head + 1) * shared * self.head_dim;
                let mut queries = Vec::with_capacity(of_head);
                for row in q.chunks_exact(width) {
                    queries.extend_from_slice(&row[part.clone()]);
                }
                let sinks = &self.sinks[kv_head * shared..(kv_head + 1) * shared];
                plan.run(isa, kv_head, self.head_dim, &queries, sinks, seen);
            });
        let mut by_row = vec![0.0; q.len()];
        let part = shared * self.head_dim;
        for (kv_head, seen) in seen.chunks_exact(of_head).enumerate() {
            for (row, seen) in by_row.chunks_exact_mut(width).zip(seen.chunks_exact(part)) {
                row[kv_head * part..(kv_head + 1) * part].copy_from_slice(seen);
            }
        }
        self.out.apply(isa, weights, &by_row)
    }
}

/// Who attends to what: first groups of sequences to the blocks they share, then each sequence to its own.
struct Plan<'a> {
    /// Of every query of one key head.
    visible: Vec<Range<usize>>,
    steps: Vec<Step<'a>>,
    /// Queries of each sequence.
    own: Vec<Range<usize>>,
}

struct Step<'a> {
    queries: Range<usize>,
    blocks: HeadBlocks<'a>,
}

impl<'a> Plan<'a> {
    /// `shared` is the number of query heads of a key head.
    fn new(spans: &[Span], caches: &[&'a LayerCache], shared: usize) -> Plan<'a> {
        let mut visible = Vec::new();
        for (span, cache) in spans.iter().zip(caches) {
            for position in span.from..span.from + span.rows.len() {
                visible.extend(std::iter::repeat_n(cache.visible(position), shared));
            }
        }
        let own: Vec<Range<usize>> = spans
            .iter()
            .map(|span| span.rows.start * shared..span.rows.end * shared)
            .collect();
        let blocks: Vec<HeadBlocks> = spans
            .iter()
            .zip(caches)
            .map(|(span, cache)| {
                cache.blocks(cache.visible(span.from).start..span.from + span.rows.len())
            })
            .collect();
        let mut steps = Vec::new();
        let mut first = 0;
        while first < spans.len() {
            // Neighbours that share their first blocks, and how many all of them share.
            let (mut last, mut run) = (first + 1, blocks[first].len());
            while last < spans.len() {
                let common = blocks[first].common(&blocks[last]);
                if common == 0 {
                    break;
                }
                (last, run) = (last + 1, run.min(common));
            }
            if last - first == 1 {
                run = 0;
            } else {
                steps.push(Step {
                    queries: own[first].start..own[last - 1].end,
                    blocks: blocks[first].part(0..run),
                });
            }
            for i in first..last {
                steps.push(Step {
                    queries: own[i].clone(),
                    blocks: blocks[i].part(run..blocks[i].len()),
                });
            }
            first = last;
        }
        Plan {
            visible,
            steps,
            own,
        }
    }

    /// All queries of one key head, `[n * shared, head_dim]`, into `seen` of the same shape, which is zero.
    fn run(
        &self,
        isa: Isa,
        kv_head: usize,
        dim: usize,
        queries: &[f32],
        sinks: &[f32],
        seen: &mut [f32],
    ) {
        let n = self.visible.len();
        let mut largest: Vec<f32> = sinks.iter().copied().cycle().take(n).collect();
        let mut sums = vec![1.0; n];
        let mut of = |rows: &Range<usize>, then: &mut dyn FnMut(Queries)| {
            then(Queries {
                queries: &queries[rows.start * dim..rows.end * dim],
                visible: &self.visible[rows.clone()],
                largest: &mut largest[rows.clone()],
                sums: &mut sums[rows.clone()],
                seen: &mut seen[rows.start * dim..rows.end * dim],
            });
        };
        for step in &self.steps {
            of(&step.queries, &mut |mut queries| {
                queries.attend(isa, step.blocks.of_head(kv_head));
            });
        }
        for rows in &self.own {
            of(rows, &mut |mut queries| queries.finish());
        }
    }
}
