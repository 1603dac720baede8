//! The model: what is between an embedding and a head.
//!
//! Takes token ids and a sequence's cache, gives the residual stream after the final norm; takes that and gives logits,
//! of all tokens or of a few. Weights stay in their mapped files; a model on a device has them there too, and steps
//! and logits are computed there. Nothing here changes after loading, so one model serves any number of threads. How a
//! step goes through the layers is said in `batch`, and in `device`.

use super::arithmetic::{Arithmetic, Precision};
use super::attention::Attention;
use super::batch::Span;
use super::device::DeviceModel;
use super::experts::{Experts, How};
use super::kv_cache::KvCache;
use super::rope::{Rope, Turns};
use super::weights::{Stored, Weights, widen};
use super::{Config, ModelError};
use candle_core::{Device, Tensor};
use safeguard_kernels::{Isa, dense, pointwise};
use std::path::Path;
use std::sync::OnceLock;

/// Bytes that a system maps at once, at least.
const PAGE: usize = 4096;

/// A loaded gpt-oss model. `Send + Sync`; nothing in it changes after loading.
#[derive(Debug)]
pub struct GptOss {
    config: Config,
    config_json: Vec<u8>,
    arithmetic: Arithmetic,
    precision: Precision,
    isa: Isa,
    weights: Weights,
    rope: Rope,
    /// `[vocab, hidden]`, left in the file: a token needs one row.
    embedding: Stored,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `[vocab, hidden]`.
    head: Stored,
    digest: OnceLock<String>,
    device: Option<DeviceModel>,
}

/// One layer's weights.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_norm: Vec<f32>,
    pub(super) attention: Attention,
    pub(super) post_attention_norm: Vec<f32>,
    pub(super) experts: Experts,
}

impl GptOss {
    /// Loads a folder in the released layout: `config.json`, and `model.safetensors` or shards with
    /// `model.safetensors.index.json`. Every tensor is checked here; the files must not change afterwards.
    pub fn open(dir: &Path) -> Result<GptOss, ModelError> {
        GptOss::open_on(dir, None)
    }

    /// As [`open`](Self::open), to run on a device; `None` is this machine's CPU with its own kernels. Beside what is
    /// checked there, a device refuses weights that it cannot hold without loss, and those that it has no room for.
    pub fn open_on(dir: &Path, device: Option<&Device>) -> Result<GptOss, ModelError> {
        let path = dir.join("config.json");
        let json = std::fs::read(&path).map_err(|source| ModelError::Read { path, source })?;
        GptOss::load(json, || Weights::open(dir))?.moved_to(device)
    }

    /// Loads an embedded model: the bytes of `config.json` and of one safetensors file.
    pub fn from_bytes(config_json: &[u8], weights: &'static [u8]) -> Result<GptOss, ModelError> {
        GptOss::load(config_json.to_vec(), || Weights::embedded(weights))
    }

    fn moved_to(self, device: Option<&Device>) -> Result<GptOss, ModelError> {
        let load = |device| DeviceModel::load(self.config.clone(), &self.weights, device);
        let device = device.map(load).transpose()?;
        Ok(GptOss { device, ..self })
    }

    /// The config comes first: a folder of another architecture should be told so, not that its weights are odd.
    fn load(
        config_json: Vec<u8>,
        weights: impl FnOnce() -> Result<Weights, ModelError>,
    ) -> Result<GptOss, ModelError> {
        let config = Config::parse(&config_json)?;
        let weights = weights()?;
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let embedding = weights.bf16("model.embed_tokens.weight", &[vocab, hidden])?;
        let head = weights.bf16("lm_head.weight", &[vocab, hidden])?;
        let norm = weights.widened(&weights.bf16("model.norm.weight", &[hidden])?);
        let layer = |i| Layer::load(&config, &weights, i);
        let layers = (0..config.num_hidden_layers)
            .map(layer)
            .collect::<Result<_, _>>()?;
        Ok(GptOss {
            rope: Rope::new(&config),
            arithmetic: Arithmetic::default(),
            precision: Precision::Exact,
            isa: Isa::best(),
            digest: OnceLock::new(),
            device: None,
            config,
            config_json,
            weights,
            embedding,
            layers,
            norm,
            head,
        })
    }

    /// The same model with other constants than gpt-oss has: a mistake made on purpose, so that the parity gate can be
    /// shown to catch it. Not on a device.
    pub fn with_arithmetic(self, arithmetic: Arithmetic) -> GptOss {
        assert!(
            self.device.is_none(),
            "bug: a device has the constants of gpt-oss alone"
        );
        GptOss { arithmetic, ..self }
    }

    /// The same model computing with another precision; a loaded model is exact. On a device it says nothing: a device
    /// has a precision of its own.
    pub fn with_precision(self, precision: Precision) -> GptOss {
        GptOss { precision, ..self }
    }

    /// What its experts' activations are rounded to on the CPU.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The class of arithmetic of the device that it runs on; `None` on the CPU.
    pub fn device_numerics(&self) -> Option<&'static str> {
        self.device.as_ref().map(|_| DeviceModel::NUMERICS)
    }

    /// What `config.json` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// BLAKE3 in hex over the bytes of `config.json` and then of the weight files in the order of their names
    /// (`cat config.json model*.safetensors | b3sum`). Computed at the first call, which reads every byte.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let digest = || {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&self.config_json);
                self.weights.files().for_each(|bytes| {
                    hasher.update(bytes);
                });
                hasher.finalize().to_hex().to_string()
            };
            // A second thread goes ahead and has the system map the pages, which takes as long as hashing them.
            let touch = || {
                let pages = self
                    .weights
                    .files()
                    .flat_map(|bytes| bytes.iter().step_by(PAGE));
                pages.fold(0u8, |all, byte| all ^ std::hint::black_box(*byte))
            };
            rayon::join(digest, touch).0
        })
    }

    /// An empty sequence for this model.
    pub fn new_cache(&self) -> KvCache {
        match &self.device {
            Some(device) => KvCache::on_device(device.new_cache()),
            None => KvCache::new(&self.config),
        }
    }

    /// Appends `ids` to the sequence; the residual stream after the final norm, `[ids.len(), hidden]`.
    ///
    /// Ids outside the vocabulary and sequences over the model's positions are refused before anything is appended.
    /// After any other error the cache holds some first part of the ids. The result does not depend on how a sequence
    /// is cut into calls, to the bit.
    ///
    /// # Panics
    /// Where the model is on a device, which keeps the rows of all ids but the last to itself.
    pub fn forward(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor, ModelError> {
        let out = self.read_all(ids, cache, &mut |_, _| ())?;
        self.tensor(out)
    }

    /// As [`forward`](Self::forward), then shows `on_layer` the residual stream `[ids.len(), hidden]` that entered each
    /// layer, and the result as one layer more. Panics where that does.
    pub fn forward_traced(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        on_layer: &mut dyn FnMut(usize, &Tensor),
    ) -> Result<Tensor, ModelError> {
        let mut streams = vec![Vec::new(); self.layers.len()];
        let out = self.read_all(ids, cache, &mut |layer, x| {
            streams[layer].extend_from_slice(x)
        })?;
        for (layer, stream) in streams.into_iter().enumerate() {
            on_layer(layer, &self.tensor(stream)?);
        }
        let out = self.tensor(out)?;
        on_layer(self.layers.len(), &out);
        Ok(out)
    }

    fn tensor(&self, rows: Vec<f32>) -> Result<Tensor, ModelError> {
        let hidden = self.config.hidden_size;
        Ok(Tensor::from_vec(
            rows.clone(),
            (rows.len() / hidden, hidden),
            &Device::Cpu,
        )?)
    }

    pub(super) fn device(&self) -> Option<&DeviceModel> {
        self.device.as_ref()
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(super) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(super) fn how(&self) -> How<'_> {
        How {
            isa: self.isa,
            precision: self.precision,
            arithmetic: &self.arithmetic,
        }
    }

    /// Cosines and sines of all rows' positions.
    pub(super) fn turns(&self, spans: &[Span]) -> Turns {
        let positions = spans
            .iter()
            .map(|span| span.from..span.from + span.rows.len());
        self.rope.turns(positions.flatten())
    }

    pub(super) fn norm(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        pointwise::rms_norm(self.isa, x, weight, self.config.rms_norm_eps as f32)
    }

    pub(super) fn final_norm(&self, x: &[f32]) -> Vec<f32> {
        self.norm(x, &self.norm)
    }

    pub(super) fn embed(&self, ids: &[u32]) -> Vec<f32> {
        let (bytes, row) = (
            self.weights.bytes(&self.embedding),
            2 * self.config.hidden_size,
        );
        ids.iter()
            .flat_map(|id| widen(&bytes[*id as usize * row..(*id as usize + 1) * row]))
            .collect()
    }

    pub(super) fn check_ids(&self, ids: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.config.vocab_size;
        match ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(id) => Err(ModelError::TokenId {
                id: *id,
                vocab_size,
            }),
            None => Ok(()),
        }
    }

    /// Logits `[n, vocab]` of `rows` `[n, hidden]`, as [`step`](Self::step) gives them.
    pub fn all_logits(&self, rows: &[f32]) -> Result<Vec<f32>, ModelError> {
        if let Some(device) = &self.device {
            return device.all_logits(rows);
        }
        let (width, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let mut out = vec![0.0; rows.len() / width * vocab];
        let head = self.weights.bytes(&self.head);
        dense::product(self.isa, rows, head, width, None, &mut out);
        Ok(out)
    }

    /// Logits `[n, ids.len()]` of the tokens `ids` only, at least one; the rest of the head is not touched.
    pub fn some_logits(&self, rows: &[f32], ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        if let Some(device) = &self.device {
            return device.some_logits(rows, ids);
        }
        self.check_ids(ids)?;
        if ids.is_empty() {
            return Err(ModelError::NoIds);
        }
        let width = self.config.hidden_size;
        let head = self.weights.bytes(&self.head);
        let mut picked = Vec::with_capacity(ids.len() * 2 * width);
        for id in ids {
            picked.extend_from_slice(&head[*id as usize * 2 * width..][..2 * width]);
        }
        let mut out = vec![0.0; rows.len() / width * ids.len()];
        dense::product(self.isa, rows, &picked, width, None, &mut out);
        Ok(out)
    }

    /// [`all_logits`](Self::all_logits) of `hidden` `[n, hidden]`, as [`forward`](Self::forward) gives it.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let rows: Vec<f32> = hidden.flatten_all()?.to_vec1()?;
        let shape = (hidden.dims2()?.0, self.config.vocab_size);
        Ok(Tensor::from_vec(
            self.all_logits(&rows)?,
            shape,
            &Device::Cpu,
        )?)
    }

    /// [`some_logits`](Self::some_logits) of `hidden` `[n, hidden]`.
    pub fn logits_of(&self, hidden: &Tensor, ids: &[u32]) -> Result<Tensor, ModelError> {
        let rows: Vec<f32> = hidden.flatten_all()?.to_vec1()?;
        let shape = (hidden.dims2()?.0, ids.len());
        Ok(Tensor::from_vec(
            self.some_logits(&rows, ids)?,
            shape,
            &Device::Cpu,
        )?)
    }
}

impl Layer {
    fn load(config: &Config, weights: &Weights, i: usize) -> Result<Layer, ModelError> {
        let prefix = format!("model.layers.{i}");
        let norm = |name: &str| -> Result<Vec<f32>, ModelError> {
            Ok(weights
                .widened(&weights.bf16(&format!("{prefix}.{name}.weight"), &[config.hidden_size])?))
        };
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention: Attention::load(config, weights, &format!("{prefix}.self_attn"), i)?,
            post_attention_norm: norm("post_attention_layernorm")?,
            experts: Experts::load(config, weights, &format!("{prefix}.mlp"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &[u8] = include_bytes!("../backend/nano/config.json");
    const WEIGHTS: &[u8] = include_bytes!("../backend/nano/model.safetensors");

    fn nano(weights: &'static [u8]) -> GptOss {
        GptOss::from_bytes(JSON, weights).expect("nano")
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let ids: Vec<u32> = (0..40).map(|i| i * 7919 % 8192).collect();
        for precision in [Precision::Exact, Precision::Int16, Precision::Int8] {
            let [first, others @ ..] = &Isa::present()[..] else {
                panic!("no instruction set");
            };
            let logits = |isa: Isa| {
                let model = GptOss {
                    isa,
                    ..nano(WEIGHTS).with_precision(precision)
                };
                let hidden = model.forward(&ids, &mut model.new_cache()).expect("hidden");
                let logits = model.logits(&hidden).expect("logits");
                logits.to_vec2::<f32>().expect("rows")
            };
            let best = logits(*first);
            for isa in others {
                assert!(logits(*isa) == best, "{isa:?} {precision:?}");
            }
        }
    }
}
