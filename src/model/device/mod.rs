//! The forward of a packed batch on a device of candle: a GPU, or the CPU to hold the arithmetic true.
//!
//! Takes the pieces of many sequences, appends each to its own cache, gives what each piece's last token leaves
//! behind the final norm: the contract of [`GptOss::step`](super::GptOss::step). Weights and caches lie on the
//! device. On the CPU in f32 it equals the CPU forward up to the order of sums; on a GPU weights are brain floats and
//! the experts Q8_0. Knows sequences and ids; it does not know who asked.

mod attention;
mod cache;
#[cfg(feature = "cuda")]
mod cuda;
mod experts;
mod grouped;
mod linear;
mod places;
mod plan;
mod q8_0;
#[cfg(test)]
mod tests;

pub use cache::DeviceCache;

use self::attention::{Attention, Step};
use self::cache::{Pool, Prefix};
use self::experts::Experts;
use self::grouped::{Dequantised, GroupedProduct};
use self::linear::{Target, product, rms_norm};
use self::plan::{Appended, Plan};
use super::rope::Rope;
use super::weights::Weights;
use super::{Config, ModelError};
use crate::config::{DEVICE_KEYS_BYTES_MAX, DEVICE_SCORES_MAX, DEVICE_STEP_TOKENS, DeviceChoice};
use candle_core::{DType, Device, Tensor};
use std::path::Path;
use std::sync::Arc;

/// A gpt-oss model whose weights are on a device. `Send + Sync`.
#[derive(Debug)]
pub struct DeviceModel {
    config: Config,
    device: Device,
    grouped: Box<dyn GroupedProduct>,
    pool: Arc<Pool>,
    /// Cosines and sines of every position, `[positions, head_dim / 2]` each.
    turns: (Tensor, Tensor),
    /// `[vocab, hidden]`.
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// `[vocab, hidden]`, f32: logits are compared and subtracted, brain floats would round them to a sixteenth.
    head: Tensor,
}

#[derive(Debug)]
struct Layer {
    input_norm: Tensor,
    attention: Attention,
    post_attention_norm: Tensor,
    experts: Experts,
}

/// Ids to append to one sequence.
#[derive(Debug)]
pub struct DevicePiece<'a> {
    /// At least one.
    pub ids: &'a [u32],
    /// The sequence so far, a policy's prefix included.
    pub cache: &'a mut DeviceCache,
}

/// A part of a piece that goes through the layers at once.
struct Go<'a> {
    ids: &'a [u32],
    cache: &'a mut DeviceCache,
}

/// The first CUDA device; none where there is none, or this program was built without the feature `cuda`.
pub fn cuda_device() -> Option<Device> {
    #[cfg(feature = "cuda")]
    return cuda::device();
    #[cfg(not(feature = "cuda"))]
    return None;
}

/// Where a model runs; none is the CPU with its own kernels. An error where a GPU was asked for and there is none.
pub fn chosen_device(choice: DeviceChoice) -> Result<Option<Device>, ModelError> {
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Auto => Ok(cuda_device()),
        DeviceChoice::Cuda => cuda_device().map(Some).ok_or(ModelError::NoDevice {
            built: cfg!(feature = "cuda"),
        }),
    }
}

impl DeviceModel {
    /// The class of arithmetic on a GPU, for a model's digest.
    pub const NUMERICS: &'static str = "bf16 q8_0 cuda 1";

    /// Loads a folder in the released layout to a CUDA device. Every tensor is checked, every block of every expert is
    /// proved to be converted without loss, and a model that does not fit is refused before anything is loaded.
    pub fn open(dir: &Path, device: &Device) -> Result<DeviceModel, ModelError> {
        let path = dir.join("config.json");
        let json = std::fs::read(&path).map_err(|source| ModelError::Read { path, source })?;
        let config = Config::parse(&json)?;
        DeviceModel::load(config, &Weights::open(dir)?, device)
    }

    /// As [`open`](Self::open), from what is parsed and mapped.
    pub(super) fn load(
        config: Config,
        weights: &Weights,
        device: &Device,
    ) -> Result<DeviceModel, ModelError> {
        #[cfg(feature = "cuda")]
        check_memory(&config, device)?;
        let target = Target {
            device: device.clone(),
            dtype: match device {
                Device::Cpu => DType::F32,
                _ => DType::BF16,
            },
        };
        DeviceModel::load_as(config, weights, &target, grouped_for(device))
    }

    fn load_as(
        config: Config,
        weights: &Weights,
        target: &Target,
        grouped: Box<dyn GroupedProduct>,
    ) -> Result<DeviceModel, ModelError> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let norm = |name: &str| -> Result<Tensor, ModelError> {
            let stored = weights.bf16(&format!("model.{name}.weight"), &[hidden])?;
            target.wide(weights, &stored, &[hidden])
        };
        let embedding = weights.bf16("model.embed_tokens.weight", &[vocab, hidden])?;
        let head = weights.bf16("lm_head.weight", &[vocab, hidden])?;
        let layer = |i: usize| -> Result<Layer, ModelError> {
            Ok(Layer {
                input_norm: norm(&format!("layers.{i}.input_layernorm"))?,
                attention: Attention::load(&config, target, weights, i)?,
                post_attention_norm: norm(&format!("layers.{i}.post_attention_layernorm"))?,
                experts: Experts::load(&config, target, weights, i)?,
            })
        };
        let layers = (0..config.num_hidden_layers)
            .map(layer)
            .collect::<Result<_, _>>()?;
        let pool = Pool::new(&config, target.dtype, &target.device, DEVICE_KEYS_BYTES_MAX)?;
        Ok(DeviceModel {
            device: target.device.clone(),
            grouped,
            pool: Arc::new(pool),
            turns: turns(&config, &target.device)?,
            embedding: target.weight(weights, &embedding, &[vocab, hidden])?,
            layers,
            norm: norm("norm")?,
            head: target.wide(weights, &head, &[vocab, hidden])?,
            config,
        })
    }

    /// Bytes that the weights of such a model take on a device.
    pub fn weight_bytes(config: &Config) -> usize {
        let heads = 2 * (config.num_attention_heads + config.num_key_value_heads);
        let attention = 2 * heads * config.head_dim * config.hidden_size;
        let blocks = config.hidden_size * config.intermediate_size / super::config::MXFP4_BLOCK;
        let experts = 3 * config.num_local_experts * blocks * q8_0::Q8_0_BYTES;
        // An embedding of brain floats, a head of f32.
        let ends = (2 + 4) * config.vocab_size * config.hidden_size;
        ends + config.num_hidden_layers * (attention + experts)
    }

    /// What `config.json` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// An empty sequence for this model.
    pub fn new_cache(&self) -> DeviceCache {
        DeviceCache::new(&self.pool)
    }

    /// Bytes of keys and values that a sequence of `tokens` keeps for itself at most, beside what it shares with a
    /// prefix of `shared` tokens.
    pub fn own_bytes(&self, shared: usize, tokens: usize) -> usize {
        tokens.saturating_sub(shared) * self.pool.place_bytes()
    }

    /// Appends every piece's ids to its sequence; `[pieces, hidden]`, one row for the last id of each piece in order.
    ///
    /// Where an id is outside the vocabulary or a sequence would grow over the model's positions nothing is appended to
    /// any of them. After any other error the caches of the pieces are not to be used again. Unlike on the CPU the last
    /// bits of a row may depend on the rows beside it: the device's library chooses how it sums by the size of a batch.
    pub fn step(&self, pieces: &mut [DevicePiece<'_>]) -> Result<Vec<f32>, ModelError> {
        for piece in pieces.iter() {
            self.check(piece)?;
        }
        let hidden = self.config.hidden_size;
        let mut out = vec![0.0; pieces.len() * hidden];
        let mut read = vec![0; pieces.len()];
        loop {
            let (mut goes, mut whose, mut left) = (Vec::new(), Vec::new(), DEVICE_STEP_TOKENS);
            for (at, piece) in pieces.iter_mut().enumerate() {
                let take = left.min(piece.ids.len() - read[at]);
                if take > 0 {
                    let ids = &piece.ids[read[at]..read[at] + take];
                    let cache = &mut *piece.cache;
                    goes.push(Go { ids, cache });
                    whose.push(at);
                    read[at] += take;
                    left -= take;
                }
            }
            if goes.is_empty() {
                return Ok(out);
            }
            let rows = self.go(&mut goes)?;
            for (at, row) in whose.into_iter().zip(rows.chunks_exact(hidden)) {
                out[at * hidden..(at + 1) * hidden].copy_from_slice(row);
            }
        }
    }

    fn check(&self, piece: &DevicePiece<'_>) -> Result<(), ModelError> {
        assert!(
            piece.cache.fits(&self.pool),
            "bug: the cache was made for another model"
        );
        let (vocab_size, limit) = (self.config.vocab_size, self.config.max_position_embeddings);
        if piece.ids.is_empty() {
            return Err(ModelError::NoIds);
        }
        check_ids(piece.ids, vocab_size)?;
        let len = piece.cache.len() + piece.ids.len();
        match len > limit {
            true => Err(ModelError::TooLong { len, limit }),
            false => Ok(()),
        }
    }

    /// One packed forward; what the last id of each leaves, in the order given.
    fn go(&self, goes: &mut [Go<'_>]) -> Result<Vec<f32>, ModelError> {
        let (appended, prefixes) = reserve(goes)?;
        let plan = Plan::new(
            &appended,
            self.config.sliding_window,
            DEVICE_SCORES_MAX / self.config.num_attention_heads,
        );
        let ids: Vec<u32> = plan
            .order
            .iter()
            .flat_map(|&i| goes[i].ids)
            .copied()
            .collect();
        let step = Step::new(plan, prefixes, &self.turns, &self.pool)?;
        let x = self.layers_of(&ids, &step)?;
        let plan = step.plan();
        let last = Tensor::from_slice(&plan.last_rows, plan.last_rows.len(), &self.device)?;
        let x = rms_norm(
            &x.index_select(&last, 0)?,
            &self.norm,
            self.config.rms_norm_eps,
        )?;
        let packed: Vec<f32> = x.flatten_all()?.to_vec1()?;
        let hidden = self.config.hidden_size;
        let mut out = vec![0.0; packed.len()];
        for (&i, row) in plan.order.iter().zip(packed.chunks_exact(hidden)) {
            out[i * hidden..(i + 1) * hidden].copy_from_slice(row);
        }
        Ok(out)
    }

    /// The residual stream behind the last layer, f32 throughout.
    fn layers_of(&self, ids: &[u32], step: &Step) -> Result<Tensor, ModelError> {
        let eps = self.config.rms_norm_eps;
        let ids = Tensor::from_slice(ids, ids.len(), &self.device)?;
        let mut x = self.embedding.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = rms_norm(&x, &layer.input_norm, eps)?;
            x = (x + layer.attention.apply(&normed, step, &self.pool, i)?)?;
            let normed = rms_norm(&x, &layer.post_attention_norm, eps)?;
            x = (x + layer.experts.apply(&normed, &*self.grouped)?)?;
        }
        Ok(x)
    }

    /// Logits `[n, vocab]` of `rows` `[n, hidden]`, as [`step`](Self::step) gives them.
    pub fn all_logits(&self, rows: &[f32]) -> Result<Vec<f32>, ModelError> {
        let logits = product(&self.rows(rows)?, &self.head)?;
        Ok(logits.flatten_all()?.to_vec1()?)
    }

    /// Logits `[n, ids.len()]` of the tokens `ids` only; the rest of the head is not touched.
    pub fn some_logits(&self, rows: &[f32], ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        check_ids(ids, self.config.vocab_size)?;
        if ids.is_empty() {
            return Err(ModelError::NoIds);
        }
        let ids = Tensor::from_slice(ids, ids.len(), &self.device)?;
        let logits = product(&self.rows(rows)?, &self.head.index_select(&ids, 0)?)?;
        Ok(logits.flatten_all()?.to_vec1()?)
    }

    fn rows(&self, rows: &[f32]) -> Result<Tensor, ModelError> {
        let hidden = self.config.hidden_size;
        Ok(Tensor::from_slice(
            rows,
            (rows.len() / hidden, hidden),
            &self.device,
        )?)
    }
}

/// Makes room for what is appended; prefixes are numbered as they are met.
fn reserve(goes: &mut [Go<'_>]) -> Result<(Vec<Appended>, Vec<Arc<Prefix>>), ModelError> {
    let (mut appended, mut prefixes) = (Vec::new(), Vec::<Arc<Prefix>>::new());
    for go in goes {
        let places = go.cache.reserve(go.ids.len())?;
        let prefix = go.cache.prefix();
        let number = prefix.map(|prefix| {
            let known = prefixes.iter().position(|known| Arc::ptr_eq(known, prefix));
            known.unwrap_or_else(|| {
                prefixes.push(Arc::clone(prefix));
                prefixes.len() - 1
            })
        });
        appended.push(Appended {
            prefix: number,
            prefix_len: prefix.map_or(0, |prefix| prefix.len),
            places,
            new: go.ids.len(),
        });
    }
    Ok((appended, prefixes))
}

fn check_ids(ids: &[u32], vocab_size: usize) -> Result<(), ModelError> {
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(ModelError::TokenId {
            id: *id,
            vocab_size,
        }),
        None => Ok(()),
    }
}

fn turns(config: &Config, device: &Device) -> Result<(Tensor, Tensor), ModelError> {
    let positions = config.max_position_embeddings;
    let turns = Rope::new(config).turns(0..positions);
    let (cos, sin) = turns.angles();
    let half = config.head_dim / 2;
    let table = |numbers: &[f32]| Tensor::from_slice(numbers, (positions, half), device);
    Ok((table(cos)?, table(sin)?))
}

/// How rows are multiplied with experts there.
fn grouped_for(device: &Device) -> Box<dyn GroupedProduct> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => Box::new(cuda::Kernels),
        Device::Cpu => Box::new(Dequantised { dtype: DType::F32 }),
        _ => Box::new(Dequantised { dtype: DType::BF16 }),
    }
}

#[cfg(feature = "cuda")]
fn check_memory(config: &Config, device: &Device) -> Result<(), ModelError> {
    if matches!(device, Device::Cpu) {
        return Ok(());
    }
    let (needed, free) = (DeviceModel::weight_bytes(config), cuda::free_bytes(device)?);
    match needed > free {
        true => Err(ModelError::DeviceMemory { needed, free }),
        false => Ok(()),
    }
}
