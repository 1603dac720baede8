//! Keys and values of one sequence.
//!
//! Takes the keys and values of each layer as they are computed, gives them back in blocks that begin at multiples of
//! [`BLOCK`] positions. A clone shares every block with its original; who appends first copies the one block it
//! writes to, so a policy's prefix is computed once and continued by many texts. Sliding layers drop the blocks that
//! no later query can see. Knows shapes and windows, not where keys come from.

use super::{Config, LayerType, ModelError};
use candle_core::{DType, Device, Tensor};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Positions in a block. Attention adds up block by block, so a query's result does not depend on how its sequence was
/// cut into calls.
pub const BLOCK: usize = 128;

/// What one sequence has seen, layer by layer. A clone shares storage with its original and never disturbs it.
#[derive(Debug, Clone)]
pub struct KvCache {
    len: usize,
    layers: Vec<LayerCache>,
}

/// The keys and values that later queries of one layer may see.
#[derive(Debug, Clone)]
pub struct LayerCache {
    kv_heads: usize,
    head_dim: usize,
    /// Keys that a query sees, its own included; none on full layers.
    window: Option<usize>,
    /// Blocks dropped before the first kept one.
    dropped: usize,
    blocks: VecDeque<Arc<Block>>,
}

/// Keys and values of [`BLOCK`] positions; zeros where none were written yet.
#[derive(Debug)]
pub struct Block {
    /// `[kv_heads, head_dim, BLOCK]`: transposed, as products with queries want it.
    pub keys: Tensor,
    /// `[kv_heads, BLOCK, head_dim]`.
    pub values: Tensor,
}

impl KvCache {
    /// An empty sequence.
    pub(super) fn new(config: &Config) -> KvCache {
        let layer = |layer_type: &LayerType| LayerCache {
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            window: (*layer_type == LayerType::Sliding).then_some(config.sliding_window),
            dropped: 0,
            blocks: VecDeque::new(),
        };
        KvCache {
            len: 0,
            layers: config.layer_types.iter().map(layer).collect(),
        }
    }

    /// Tokens in the sequence so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the sequence has no token yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the keys and values it holds, those shared with clones included.
    pub fn bytes(&self) -> usize {
        let of =
            |layer: &LayerCache| layer.blocks.len() * 2 * layer.kv_heads * layer.head_dim * BLOCK;
        self.layers.iter().map(of).sum::<usize>() * DType::F32.size_in_bytes()
    }

    /// Bytes that a sequence of `tokens` keeps beside the blocks it shares with a prefix of `shared` tokens.
    pub(super) fn own_bytes(config: &Config, shared: usize, tokens: usize) -> usize {
        let block = 2 * config.num_key_value_heads * config.head_dim * BLOCK * size_of::<f32>();
        let own = tokens.div_ceil(BLOCK) - (shared / BLOCK).min(tokens / BLOCK);
        let of = |layer: &LayerType| match layer {
            LayerType::Full => own,
            LayerType::Sliding => own.min(config.sliding_window.div_ceil(BLOCK) + 1),
        };
        block * config.layer_types.iter().map(of).sum::<usize>()
    }

    /// The cache of one layer.
    pub(super) fn layer_mut(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }

    /// Whether it was made for a model of these layers and heads.
    pub(super) fn fits(&self, config: &Config) -> bool {
        let same = |layer: &LayerCache| {
            (layer.kv_heads, layer.head_dim) == (config.num_key_value_heads, config.head_dim)
        };
        self.layers.len() == config.num_hidden_layers && self.layers.iter().all(same)
    }

    /// Counts `tokens` more, once every layer has their keys, and drops what no later query can see.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
        for layer in &mut self.layers {
            layer.trim(self.len);
        }
    }
}

impl LayerCache {
    /// Writes keys and values, `[n, kv_heads, head_dim]` each, at positions `from..from + n`. What was written there
    /// before, by a forward that failed, is replaced.
    pub fn write(&mut self, from: usize, keys: &[f32], values: &[f32]) -> Result<(), ModelError> {
        let width = self.kv_heads * self.head_dim;
        let end = from + keys.len() / width;
        let mut at = from;
        while at < end {
            let piece = at..end.min((at / BLOCK + 1) * BLOCK);
            let rows = (piece.start - from) * width..(piece.end - from) * width;
            let keys = self.split(&keys[rows.clone()], |position, element, n| {
                element * n + position
            });
            let values = self.split(&values[rows], |position, element, _| {
                position * self.head_dim + element
            });
            let n = piece.len();
            let block = self.block_mut(at / BLOCK)?;
            let (kv_heads, _, head_dim) = block.values.dims3()?;
            let keys = Tensor::from_vec(keys, (kv_heads, head_dim, n), &Device::Cpu)?;
            let values = Tensor::from_vec(values, (kv_heads, n, head_dim), &Device::Cpu)?;
            block.keys.slice_set(&keys, 2, at % BLOCK)?;
            block.values.slice_set(&values, 1, at % BLOCK)?;
            at = piece.end;
        }
        Ok(())
    }

    /// `[n, kv_heads, head_dim]` split by head; `place(position, element, n)` says where in its head an element goes.
    fn split(&self, rows: &[f32], place: impl Fn(usize, usize, usize) -> usize) -> Vec<f32> {
        let n = rows.len() / (self.kv_heads * self.head_dim);
        let mut out = vec![0.0; rows.len()];
        for (position, row) in rows.chunks_exact(self.kv_heads * self.head_dim).enumerate() {
            for (head, row) in row.chunks_exact(self.head_dim).enumerate() {
                let out = &mut out[head * n * self.head_dim..(head + 1) * n * self.head_dim];
                for (element, x) in row.iter().enumerate() {
                    out[place(position, element, n)] = *x;
                }
            }
        }
        out
    }

    /// The block of this number, ready to be written to: made where it is new, copied where a clone shares it.
    fn block_mut(&mut self, number: usize) -> Result<&mut Block, ModelError> {
        let at = number - self.dropped;
        assert!(at <= self.blocks.len(), "bug: a gap before block {number}");
        if at == self.blocks.len() {
            let zeros =
                |shape: (usize, usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu);
            self.blocks.push_back(Arc::new(Block {
                keys: zeros((self.kv_heads, self.head_dim, BLOCK))?,
                values: zeros((self.kv_heads, BLOCK, self.head_dim))?,
            }));
        }
        let block = &mut self.blocks[at];
        if Arc::get_mut(block).is_none() {
            *block = Arc::new(Block {
                keys: block.keys.copy()?,
                values: block.values.copy()?,
            });
        }
        Ok(Arc::get_mut(block).expect("bug: a block just copied is shared"))
    }

    /// The positions that the query at `position` sees.
    pub fn visible(&self, position: usize) -> Range<usize> {
        let from = self
            .window
            .map_or(0, |window| (position + 1).saturating_sub(window));
        from..position + 1
    }

    /// The blocks that hold any of `positions`, each with its first position.
    pub fn blocks(&self, positions: Range<usize>) -> impl Iterator<Item = (usize, &Block)> {
        let numbers = positions.start / BLOCK..positions.end.div_ceil(BLOCK);
        assert!(
            numbers.start >= self.dropped,
            "bug: keys at {} were dropped",
            positions.start
        );
        numbers.map(|number| (number * BLOCK, &*self.blocks[number - self.dropped]))
    }

    /// Drops the blocks that no query at `len` or later sees.
    fn trim(&mut self, len: usize) {
        while (self.dropped + 1) * BLOCK <= self.visible(len).start {
            self.blocks.pop_front();
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::parse(include_bytes!("../backend/nano/config.json")).expect("nano's config")
    }

    /// Writes positions `range` to every layer; each key and value is its position.
    fn write(cache: &mut KvCache, range: Range<usize>) {
        let rows: Vec<f32> = range.clone().flat_map(|p| [p as f32; 128]).collect();
        for layer in 0..4 {
            cache
                .layer_mut(layer)
                .write(range.start, &rows, &rows)
                .expect("written");
        }
        cache.advance(range.len());
    }

    /// Position of every visible key of `layer` for a query at `position`, read back.
    fn read(cache: &KvCache, layer: usize, position: usize) -> Vec<f32> {
        let layer = &cache.layers[layer];
        let visible = layer.visible(position);
        let mut out = Vec::new();
        for (first, block) in layer.blocks(visible.clone()) {
            let keys: Vec<Vec<Vec<f32>>> = block.keys.to_vec3().expect("keys");
            let values: Vec<Vec<Vec<f32>>> = block.values.to_vec3().expect("values");
            for p in (first..first + BLOCK).filter(|p| visible.contains(p)) {
                assert_eq!(keys[1][63][p - first], values[1][p - first][63]);
                out.push(keys[0][5][p - first]);
            }
        }
        out
    }

    #[test]
    fn a_clone_does_not_disturb_its_original() {
        let mut prefix = KvCache::new(&config());
        write(&mut prefix, 0..200);
        let (mut one, mut two) = (prefix.clone(), prefix.clone());
        write(&mut one, 200..201);
        for row in 0..4 {
            two.layer_mut(row)
                .write(200, &[-1.0; 128], &[-1.0; 128])
                .expect("written");
        }
        two.advance(1);
        let positions = |range: Range<usize>| range.map(|p| p as f32).collect::<Vec<_>>();
        assert_eq!((prefix.len(), one.len()), (200, 201));
        assert_eq!(read(&one, 1, 200), positions(0..201));
        assert_eq!(read(&two, 1, 200)[199..], [199.0, -1.0]);
        assert_eq!(read(&prefix, 1, 199), positions(0..200));
        write(&mut prefix, 200..203);
        assert_eq!(read(&prefix, 0, 202), positions(75..203));
    }

    #[test]
    fn sliding_layers_stop_growing() {
        let mut cache = KvCache::new(&config());
        for from in (0..1000).step_by(50) {
            write(&mut cache, from..from + 50);
        }
        let blocks: Vec<usize> = cache
            .layers
            .iter()
            .map(|layer| layer.blocks.len())
            .collect();
        assert_eq!(blocks, [2, 8, 2, 8]);
        assert_eq!(cache.bytes(), 20 * 2 * 2 * 64 * BLOCK * 4);
        assert_eq!(read(&cache, 0, 999).len(), 128);
        // The last key that is dropped is the last that no query sees.
        for len in [255, 256, 383, 384] {
            let mut layer = LayerCache {
                dropped: 0,
                ..cache.layers[0].clone()
            };
            layer.blocks = std::iter::repeat_with(|| cache.layers[0].blocks[0].clone())
                .take(4)
                .collect();
            layer.trim(len);
            assert_eq!(layer.dropped, (len - 127) / BLOCK, "{len}");
        }
    }
}
