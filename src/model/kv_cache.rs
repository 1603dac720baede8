//! Keys and values of one sequence.
//!
//! Takes the keys and values of each layer as they are computed, gives them back in blocks that begin at multiples of
//! [`BLOCK`] positions. A clone shares every block with its original; who appends first copies the one block it
//! writes to, so a policy's prefix is computed once and continued by many texts. Sliding layers drop the blocks that
//! no later query can see. A sequence of a model on a device is that device's to hold. Knows shapes and windows, not
//! where keys come from.

use super::device::DeviceCache;
use super::{Config, LayerType};
use safeguard_kernels::attention::{BLOCK, HeadBlock};
use std::ops::Range;
use std::sync::Arc;

/// What one sequence has seen, layer by layer. A clone shares storage with its original and never disturbs it.
#[derive(Debug, Clone)]
pub struct KvCache {
    held: Held,
}

/// Where keys and values are.
#[derive(Debug, Clone)]
enum Held {
    Host(HostCache),
    Device(DeviceCache),
}

#[derive(Debug, Clone)]
struct HostCache {
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
    blocks: Vec<Arc<Block>>,
}

/// Keys and values of [`BLOCK`] positions; zeros where none were written yet.
#[derive(Debug, Clone)]
struct Block {
    /// `[kv_heads, head_dim, BLOCK]`: transposed, as products with queries want it.
    keys: Vec<f32>,
    /// `[kv_heads, BLOCK, head_dim]`.
    values: Vec<f32>,
}

/// Blocks that follow each other, of all heads.
#[derive(Debug, Clone, Copy)]
pub struct HeadBlocks<'a> {
    /// Position of the first block.
    first: usize,
    head_size: usize,
    blocks: &'a [Arc<Block>],
}

impl<'a> HeadBlocks<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// How many of the first blocks are the same in both: not equal, but shared.
    pub fn common(&self, other: &HeadBlocks) -> usize {
        let pairs = self.blocks.iter().zip(other.blocks);
        match self.first == other.first {
            true => pairs.take_while(|(a, b)| Arc::ptr_eq(a, b)).count(),
            false => 0,
        }
    }

    /// Some of them.
    pub fn part(&self, range: Range<usize>) -> HeadBlocks<'a> {
        HeadBlocks {
            first: self.first + range.start * BLOCK,
            head_size: self.head_size,
            blocks: &self.blocks[range],
        }
    }

    /// One head's keys and values.
    pub fn of_head(self, kv_head: usize) -> impl Iterator<Item = HeadBlock<'a>> + Clone {
        let part = kv_head * self.head_size..(kv_head + 1) * self.head_size;
        self.blocks
            .iter()
            .enumerate()
            .map(move |(i, block)| HeadBlock {
                first: self.first + i * BLOCK,
                keys: &block.keys[part.clone()],
                values: &block.values[part.clone()],
            })
    }
}

impl KvCache {
    /// An empty sequence.
    pub(super) fn new(config: &Config) -> KvCache {
        let layer = |layer_type: &LayerType| LayerCache {
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            window: (*layer_type == LayerType::Sliding).then_some(config.sliding_window),
            dropped: 0,
            blocks: Vec::new(),
        };
        let host = HostCache {
            len: 0,
            layers: config.layer_types.iter().map(layer).collect(),
        };
        KvCache {
            held: Held::Host(host),
        }
    }

    /// A sequence whose keys and values a device holds.
    pub(super) fn on_device(cache: DeviceCache) -> KvCache {
        KvCache {
            held: Held::Device(cache),
        }
    }

    /// What the device holds; only of a sequence that is there.
    pub(super) fn device_mut(&mut self) -> &mut DeviceCache {
        match &mut self.held {
            Held::Device(cache) => cache,
            Held::Host(_) => panic!("bug: the cache was made for a model on the host"),
        }
    }

    fn host(&self) -> &HostCache {
        match &self.held {
            Held::Host(cache) => cache,
            Held::Device(_) => panic!("bug: the cache was made for a model on a device"),
        }
    }

    fn host_mut(&mut self) -> &mut HostCache {
        match &mut self.held {
            Held::Host(cache) => cache,
            Held::Device(_) => panic!("bug: the cache was made for a model on a device"),
        }
    }

    /// Tokens in the sequence so far.
    pub fn len(&self) -> usize {
        match &self.held {
            Held::Host(cache) => cache.len,
            Held::Device(cache) => cache.len(),
        }
    }

    /// Whether the sequence has no token yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the keys and values it holds, those shared with clones included.
    pub fn bytes(&self) -> usize {
        let host = match &self.held {
            Held::Host(cache) => cache,
            Held::Device(cache) => return cache.bytes(),
        };
        let of =
            |layer: &LayerCache| layer.blocks.len() * 2 * layer.kv_heads * layer.head_dim * BLOCK;
        host.layers.iter().map(of).sum::<usize>() * size_of::<f32>()
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
        &mut self.host_mut().layers[layer]
    }

    /// The cache of one layer, to read.
    pub(super) fn layer(&self, layer: usize) -> &LayerCache {
        &self.host().layers[layer]
    }

    /// The same for sequences that share their beginning, as far as any layer still holds it.
    pub(super) fn shared_with(&self) -> usize {
        let layers = &self.host().layers;
        let growing = layers.iter().find(|layer| layer.window.is_none());
        let first = growing
            .or(layers.first())
            .and_then(|layer| layer.blocks.first());
        first.map_or(0, |block| Arc::as_ptr(block).addr())
    }

    /// Whether it was made for a model of these layers and heads.
    pub(super) fn fits(&self, config: &Config) -> bool {
        let same = |layer: &LayerCache| {
            (layer.kv_heads, layer.head_dim) == (config.num_key_value_heads, config.head_dim)
        };
        let layers = &self.host().layers;
        layers.len() == config.num_hidden_layers && layers.iter().all(same)
    }

    /// Counts `tokens` more, once every layer has their keys, and drops what no later query can see.
    pub(super) fn advance(&mut self, tokens: usize) {
        let host = self.host_mut();
        host.len += tokens;
        for layer in &mut host.layers {
            layer.trim(host.len);
        }
    }
}

impl LayerCache {
    /// Writes keys and values, `[n, kv_heads, head_dim]` each, at positions `from..from + n`. What was written there
    /// before, by a step that failed, is replaced.
    pub fn write(&mut self, from: usize, keys: &[f32], values: &[f32]) {
        let (dim, width) = (self.head_dim, self.kv_heads * self.head_dim);
        let rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for (position, (keys, values)) in (from..).zip(rows) {
            let at = position % BLOCK;
            let block = self.block_mut(position / BLOCK);
            let of_heads = block.keys.chunks_exact_mut(dim * BLOCK);
            for (to, keys) in of_heads.zip(keys.chunks_exact(dim)) {
                for (to, key) in to.iter_mut().skip(at).step_by(BLOCK).zip(keys) {
                    *to = *key;
                }
            }
            let of_heads = block.values.chunks_exact_mut(dim * BLOCK);
            for (to, values) in of_heads.zip(values.chunks_exact(dim)) {
                to[at * dim..(at + 1) * dim].copy_from_slice(values);
            }
        }
    }

    /// The block of this number, ready to be written to: made where it is new, copied where a clone shares it.
    fn block_mut(&mut self, number: usize) -> &mut Block {
        let at = number - self.dropped;
        assert!(at <= self.blocks.len(), "bug: a gap before block {number}");
        if at == self.blocks.len() {
            let size = self.kv_heads * self.head_dim * BLOCK;
            self.blocks.push(Arc::new(Block {
                keys: vec![0.0; size],
                values: vec![0.0; size],
            }));
        }
        Arc::make_mut(&mut self.blocks[at])
    }

    /// The positions that the query at `position` sees.
    pub fn visible(&self, position: usize) -> Range<usize> {
        let from = self
            .window
            .map_or(0, |window| (position + 1).saturating_sub(window));
        from..position + 1
    }

    /// The blocks that hold any of `positions`.
    pub fn blocks(&self, positions: Range<usize>) -> HeadBlocks<'_> {
        let numbers = positions.start / BLOCK..positions.end.div_ceil(BLOCK);
        assert!(
            numbers.start >= self.dropped,
            "bug: keys at {} were dropped",
            positions.start
        );
        HeadBlocks {
            first: numbers.start * BLOCK,
            head_size: self.head_dim * BLOCK,
            blocks: &self.blocks[numbers.start - self.dropped..numbers.end - self.dropped],
        }
    }

    /// Drops the blocks that no query at `len` or later sees.
    fn trim(&mut self, len: usize) {
        let gone = (self.visible(len).start / BLOCK).saturating_sub(self.dropped);
        self.blocks.drain(..gone);
        self.dropped += gone;
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
            cache.layer_mut(layer).write(range.start, &rows, &rows);
        }
        cache.advance(range.len());
    }

    /// Position of every visible key of `layer` for a query at `position`, read back.
    fn read(cache: &KvCache, layer: usize, position: usize) -> Vec<f32> {
        let layer = cache.layer(layer);
        let visible = layer.visible(position);
        let mut out = Vec::new();
        let blocks = layer.blocks(visible.clone());
        let (one, two) = (blocks.of_head(0), blocks.of_head(1));
        for (one, two) in one.zip(two) {
            for p in (0..BLOCK).filter(|p| visible.contains(&(one.first + p))) {
                assert_eq!(two.keys[63 * BLOCK + p], two.values[p * 64 + 63]);
                out.push(one.keys[5 * BLOCK + p]);
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
            two.layer_mut(row).write(200, &[-1.0; 128], &[-1.0; 128]);
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
        let layers = &cache.host().layers;
        let blocks: Vec<usize> = layers.iter().map(|layer| layer.blocks.len()).collect();
        assert_eq!(blocks, [2, 8, 2, 8]);
        assert_eq!(cache.bytes(), 20 * 2 * 2 * 64 * BLOCK * 4);
        assert_eq!(read(&cache, 0, 999).len(), 128);
        // The last key that is dropped is the last that no query sees.
        for len in [255, 256, 383, 384] {
            let mut layer = LayerCache {
                dropped: 0,
                ..layers[0].clone()
            };
            layer.blocks = std::iter::repeat_with(|| layers[0].blocks[0].clone())
                .take(4)
                .collect();
            layer.trim(len);
            assert_eq!(layer.dropped, (len - 127) / BLOCK, "{len}");
        }
    }
}
