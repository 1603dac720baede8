//! The model (signatures only so far).

use super::{Config, KvCache, ModelError};
use candle_core::Tensor;
use std::path::Path;

/// A loaded gpt-oss model. `Send + Sync`; nothing in it changes after loading.
#[derive(Debug)]
pub struct GptOss {
    config: Config,
}

impl GptOss {
    /// Loads a folder in the released layout.
    pub fn open(_dir: &Path) -> Result<GptOss, ModelError> {
        unimplemented!("skeleton")
    }

    /// Loads an embedded model: the bytes of `config.json` and of one safetensors file.
    pub fn from_bytes(_config_json: &[u8], _weights: &'static [u8]) -> Result<GptOss, ModelError> {
        unimplemented!("skeleton")
    }

    /// What `config.json` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// BLAKE3, in hex, of `config.json` and the weight files, computed at the first call.
    pub fn digest(&self) -> &str {
        unimplemented!("skeleton")
    }

    /// An empty sequence for this model.
    pub fn new_cache(&self) -> KvCache {
        unimplemented!("skeleton")
    }

    /// Appends `ids` to the sequence; the residual stream after the final norm, `[ids.len(), hidden]`.
    pub fn forward(&self, _ids: &[u32], _cache: &mut KvCache) -> Result<Tensor, ModelError> {
        unimplemented!("skeleton")
    }

    /// As [`forward`](Self::forward), showing the residual stream `[ids.len(), hidden]` that enters each layer, and
    /// the result as one layer more.
    pub fn forward_traced(
        &self,
        _ids: &[u32],
        _cache: &mut KvCache,
        _on_layer: &mut dyn FnMut(usize, &Tensor),
    ) -> Result<Tensor, ModelError> {
        unimplemented!("skeleton")
    }

    /// Logits `[n, vocab]` of `hidden` `[n, hidden]`.
    pub fn logits(&self, _hidden: &Tensor) -> Result<Tensor, ModelError> {
        unimplemented!("skeleton")
    }

    /// Logits `[n, rows.len()]` of the tokens `rows` only.
    pub fn logits_of(&self, _hidden: &Tensor, _rows: &[u32]) -> Result<Tensor, ModelError> {
        unimplemented!("skeleton")
    }
}

/// Reads token ids separated by white space or commas.
pub fn parse_ids(_text: &str) -> Result<Vec<u32>, ModelError> {
    unimplemented!("skeleton")
}

/// Writes `{"position":..,"logits":[..]}` a line for the last `last` positions of `ids` (all by default).
pub fn write_logits(
    _model: &GptOss,
    _ids: &[u32],
    _last: Option<usize>,
    _out: &mut dyn std::io::Write,
) -> Result<(), ModelError> {
    unimplemented!("skeleton")
}
