//! The model: layers between an embedding and a head.
//!
//! Takes token ids and a sequence's cache, gives the residual stream after the final norm; takes that and gives logits,
//! of all tokens or of a few. Long calls go through the layers in pieces, which bounds their memory and changes no
//! bit of the result. Nothing here changes after loading, so one model serves any number of threads.

use super::arithmetic::Arithmetic;
use super::attention::Attention;
use super::experts::Experts;
use super::kv_cache::KvCache;
use super::linear::{product, rows_transposed};
use super::rope::Rope;
use super::weights::{Stored, Weights, widen};
use super::{Config, ModelError};
use crate::config::{MODEL_RESIDENT_BYTES_MAX, PREFILL_TOKENS};
use candle_core::{Device, Tensor};
use std::path::Path;
use std::sync::OnceLock;

/// Rows of a head that is not resident, widened at once.
const HEAD_ROWS: usize = 4096;

/// A loaded gpt-oss model. `Send + Sync`; nothing in it changes after loading.
#[derive(Debug)]
pub struct GptOss {
    config: Config,
    config_json: Vec<u8>,
    arithmetic: Arithmetic,
    weights: Weights,
    rope: Rope,
    /// `[vocab, hidden]`, left in the file: a token needs one row.
    embedding: Stored,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `[vocab, hidden]`.
    head: Stored,
    /// The head as `[hidden, vocab]`, where the model is small.
    resident_head: Option<Tensor>,
    digest: OnceLock<String>,
}

#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    attention: Attention,
    post_attention_norm: Vec<f32>,
    experts: Experts,
}

impl GptOss {
    /// Loads a folder in the released layout: `config.json`, and `model.safetensors` or shards with
    /// `model.safetensors.index.json`. Every tensor is checked here; the files must not change afterwards.
    pub fn open(dir: &Path) -> Result<GptOss, ModelError> {
        let path = dir.join("config.json");
        let json = std::fs::read(&path).map_err(|source| ModelError::Read { path, source })?;
        GptOss::load(json, || Weights::open(dir), MODEL_RESIDENT_BYTES_MAX)
    }

    /// Loads an embedded model: the bytes of `config.json` and of one safetensors file.
    pub fn from_bytes(config_json: &[u8], weights: &'static [u8]) -> Result<GptOss, ModelError> {
        GptOss::load(
            config_json.to_vec(),
            || Weights::embedded(weights),
            MODEL_RESIDENT_BYTES_MAX,
        )
    }

    /// The config comes first: a folder of another architecture should be told so, not that its weights are odd.
    fn load(
        config_json: Vec<u8>,
        weights: impl FnOnce() -> Result<Weights, ModelError>,
        resident_bytes_max: usize,
    ) -> Result<GptOss, ModelError> {
        let config = Config::parse(&config_json)?;
        let weights = weights()?;
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let resident = f32_bytes(&config) <= resident_bytes_max;
        let embedding = weights.bf16("model.embed_tokens.weight", &[vocab, hidden])?;
        let head = weights.bf16("lm_head.weight", &[vocab, hidden])?;
        let norm = weights.widened(&weights.bf16("model.norm.weight", &[hidden])?);
        let layer = |i| Layer::load(&config, &weights, i, resident);
        let layers = (0..config.num_hidden_layers)
            .map(layer)
            .collect::<Result<_, _>>()?;
        let resident_head = match resident {
            true => Some(rows_transposed(&weights, &head, hidden, 0..vocab)?),
            false => None,
        };
        Ok(GptOss {
            rope: Rope::new(&config),
            arithmetic: Arithmetic::default(),
            digest: OnceLock::new(),
            config,
            config_json,
            weights,
            embedding,
            layers,
            norm,
            head,
            resident_head,
        })
    }

    /// The same model with other constants than gpt-oss has: a mistake made on purpose, so that the parity gate can be
    /// shown to catch it.
    pub fn with_arithmetic(self, arithmetic: Arithmetic) -> GptOss {
        GptOss { arithmetic, ..self }
    }

    /// What `config.json` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// BLAKE3 in hex over the bytes of `config.json` and then of the weight files in the order of their names
    /// (`cat config.json model*.safetensors | b3sum`). Computed at the first call, which reads every byte.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.config_json);
            self.weights.files().for_each(|bytes| {
                hasher.update(bytes);
            });
            hasher.finalize().to_hex().to_string()
        })
    }

    /// An empty sequence for this model.
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(&self.config)
    }

    /// Appends `ids` to the sequence; the residual stream after the final norm, `[ids.len(), hidden]`.
    ///
    /// Ids outside the vocabulary and sequences over the model's positions are refused before anything is appended.
    /// After any other error the cache holds some first part of the ids. The result does not depend on how a sequence
    /// is cut into calls, to the bit.
    pub fn forward(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor, ModelError> {
        let out = self.run(ids, cache, &mut |_, _| ())?;
        self.tensor(out)
    }

    /// As [`forward`](Self::forward), then shows `on_layer` the residual stream `[ids.len(), hidden]` that entered each
    /// layer, and the result as one layer more.
    pub fn forward_traced(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        on_layer: &mut dyn FnMut(usize, &Tensor),
    ) -> Result<Tensor, ModelError> {
        let mut streams = vec![Vec::new(); self.layers.len()];
        let out = self.run(ids, cache, &mut |layer, x| {
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

    fn run(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        entering: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Vec<f32>, ModelError> {
        assert!(
            cache.fits(&self.config),
            "bug: the cache was made for another model"
        );
        self.check_ids(ids)?;
        let (len, limit) = (cache.len() + ids.len(), self.config.max_position_embeddings);
        if ids.is_empty() {
            return Err(ModelError::NoIds);
        }
        if len > limit {
            return Err(ModelError::TooLong { len, limit });
        }
        let mut out = Vec::with_capacity(ids.len() * self.config.hidden_size);
        for ids in ids.chunks(PREFILL_TOKENS) {
            let x = self.layers_of(ids, cache, entering)?;
            cache.advance(ids.len());
            out.extend(rms_norm(&x, &self.norm, self.config.rms_norm_eps));
        }
        Ok(out)
    }

    /// The residual stream behind the last layer.
    fn layers_of(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        entering: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Vec<f32>, ModelError> {
        let from = cache.len();
        let turns = self.rope.turns(from..from + ids.len());
        let eps = self.config.rms_norm_eps;
        let mut x = self.embed(ids);
        for (i, layer) in self.layers.iter().enumerate() {
            entering(i, &x);
            let normed = rms_norm(&x, &layer.input_norm, eps);
            add(
                &mut x,
                &layer
                    .attention
                    .apply(&normed, from, &turns, cache.layer_mut(i))?,
            );
            let normed = rms_norm(&x, &layer.post_attention_norm, eps);
            add(
                &mut x,
                &layer
                    .experts
                    .apply(&normed, &self.weights, &self.arithmetic)?,
            );
        }
        Ok(x)
    }

    fn embed(&self, ids: &[u32]) -> Vec<f32> {
        let (bytes, row) = (
            self.weights.bytes(&self.embedding),
            2 * self.config.hidden_size,
        );
        ids.iter()
            .flat_map(|id| widen(&bytes[*id as usize * row..(*id as usize + 1) * row]))
            .collect()
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.config.vocab_size;
        match ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(id) => Err(ModelError::TokenId {
                id: *id,
                vocab_size,
            }),
            None => Ok(()),
        }
    }

    /// Logits `[n, vocab]` of `hidden` `[n, hidden]`, as [`forward`](Self::forward) gives it.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let (n, width) = hidden.dims2()?;
        let x: Vec<f32> = hidden.flatten_all()?.to_vec1()?;
        let vocab = self.config.vocab_size;
        if let Some(head) = &self.resident_head {
            return Ok(Tensor::from_vec(
                product(&x, head)?,
                (n, vocab),
                &Device::Cpu,
            )?);
        }
        let mut out = vec![0.0; n * vocab];
        for first in (0..vocab).step_by(HEAD_ROWS) {
            let rows = first..vocab.min(first + HEAD_ROWS);
            let part = product(
                &x,
                &rows_transposed(&self.weights, &self.head, width, rows.clone())?,
            )?;
            for (out, part) in out
                .chunks_exact_mut(vocab)
                .zip(part.chunks_exact(rows.len()))
            {
                out[rows.clone()].copy_from_slice(part);
            }
        }
        Ok(Tensor::from_vec(out, (n, vocab), &Device::Cpu)?)
    }

    /// Logits `[n, rows.len()]` of the tokens `rows` only; the rest of the head is not touched.
    pub fn logits_of(&self, hidden: &Tensor, rows: &[u32]) -> Result<Tensor, ModelError> {
        self.check_ids(rows)?;
        let (n, width) = hidden.dims2()?;
        let x: Vec<f32> = hidden.flatten_all()?.to_vec1()?;
        // A head of one column would be added up in another order than the whole head, see linear.rs.
        let columns = if rows.len() == 1 {
            vec![rows[0]; 2]
        } else {
            rows.to_vec()
        };
        if columns.is_empty() {
            return Err(ModelError::NoIds);
        }
        let head = rows_transposed(
            &self.weights,
            &self.head,
            width,
            columns.iter().map(|id| *id as usize),
        )?;
        let logits = Tensor::from_vec(product(&x, &head)?, (n, columns.len()), &Device::Cpu)?;
        Ok(logits.narrow(1, 0, rows.len())?.contiguous()?)
    }
}

impl Layer {
    fn load(
        config: &Config,
        weights: &Weights,
        i: usize,
        resident: bool,
    ) -> Result<Layer, ModelError> {
        let prefix = format!("model.layers.{i}");
        let norm = |name: &str| -> Result<Vec<f32>, ModelError> {
            Ok(weights
                .widened(&weights.bf16(&format!("{prefix}.{name}.weight"), &[config.hidden_size])?))
        };
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention: Attention::load(config, weights, &format!("{prefix}.self_attn"))?,
            post_attention_norm: norm("post_attention_layernorm")?,
            experts: Experts::load(config, weights, &format!("{prefix}.mlp"), resident)?,
        })
    }
}

/// Bytes of what would be kept as f32: head, attention and experts.
fn f32_bytes(config: &Config) -> usize {
    let heads = 2 * (config.num_attention_heads + config.num_key_value_heads);
    let attention = heads * config.head_dim * config.hidden_size;
    let experts = 3 * config.num_local_experts * config.hidden_size * config.intermediate_size;
    let layers = config.num_hidden_layers * (attention + experts);
    size_of::<f32>() * (config.vocab_size * config.hidden_size + layers)
}

/// Rows of `x` scaled to a mean square of one, then by `weight`.
fn rms_norm(x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let squares: f32 = row.iter().map(|x| x * x).sum();
        let scale = 1.0 / (squares / weight.len() as f32 + eps as f32).sqrt();
        out.extend(
            row.iter()
                .zip(weight)
                .map(|(x, weight)| weight * (x * scale)),
        );
    }
    out
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    const JSON: &[u8] = include_bytes!("../backend/nano/config.json");
    const WEIGHTS: &[u8] = include_bytes!("../backend/nano/model.safetensors");

    fn nano(weights: &'static [u8], resident_bytes_max: usize) -> GptOss {
        let weights = || Weights::embedded(weights);
        GptOss::load(JSON.to_vec(), weights, resident_bytes_max).expect("nano")
    }

    #[test]
    fn packed_weights_compute_what_resident_ones_do() {
        let ids: Vec<u32> = (0..300).map(|i| i * 7919 % 8192).collect();
        let [packed, resident] = [0, usize::MAX].map(|max| {
            let model = nano(WEIGHTS, max);
            assert_eq!(model.resident_head.is_some(), max > 0);
            let hidden = model.forward(&ids, &mut model.new_cache()).expect("hidden");
            let logits = model.logits(&hidden).expect("logits");
            logits.to_vec2::<f32>().expect("rows")
        });
        assert!(packed == resident, "packed and resident weights differ");
    }

    #[test]
    fn a_packed_scale_that_is_not_a_number_fails_the_forward() {
        let name = "model.layers.2.mlp.experts.down_proj_scales";
        let (header, metadata) = SafeTensors::read_metadata(WEIGHTS).expect("metadata");
        let (start, end) = metadata.info(name).expect("scales").data_offsets;
        let mut weights = WEIGHTS.to_vec();
        weights[8 + header + start..8 + header + end].fill(255);
        let model = nano(weights.leak(), 0);
        let mut cache = model.new_cache();
        let error = model
            .forward(&[1, 2, 3], &mut cache)
            .expect_err("NaN")
            .to_string();
        let start = format!("tensor {name} in model.safetensors is not a number at expert ");
        assert!(error.starts_with(&start), "{error}");
        assert_eq!(cache.len(), 0);
    }
}
