//! What can go wrong between a model folder and its logits.
//!
//! Every message names the file, key, tensor or limit it is about. Nothing here is a bug of ours: those panic.

use super::memory::Needs;
use std::path::PathBuf;

/// Why a model cannot be loaded or asked.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the model cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// `config.json` is not JSON.
    #[error("config.json is not valid JSON: {0}")]
    ConfigSyntax(#[source] serde_json::Error),
    /// A key of `config.json` is missing, of another type, or of a value this code cannot honour.
    #[error("config.json: {key} {why}")]
    ConfigKey {
        /// The key, with its object where it is nested: `rope_scaling.factor`.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The folder has no weights.
    #[error("{} has neither model.safetensors nor model.safetensors.index.json", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
    },
    /// `model.safetensors.index.json` cannot be understood.
    #[error("model.safetensors.index.json is not valid: {why}")]
    Index {
        /// What is wrong with it.
        why: String,
    },
    /// A weight file that the index names is not there.
    #[error("{shard} is missing, model.safetensors.index.json names it")]
    ShardMissing {
        /// Its name.
        shard: String,
    },
    /// A weight file is cut, or is not in the safetensors format.
    #[error("{file} is damaged or cut short ({bytes} bytes): {why}")]
    WeightFile {
        /// Its name.
        file: String,
        /// Its size.
        bytes: usize,
        /// What the format's reader says.
        why: String,
    },
    /// A tensor that the architecture needs is nowhere.
    #[error("tensor {name} is missing from {file}")]
    TensorMissing {
        /// Its name.
        name: String,
        /// Where it should be.
        file: String,
    },
    /// A tensor's shape does not follow from `config.json`.
    #[error("tensor {name} in {file} has shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// Its name.
        name: String,
        /// Where it is.
        file: String,
        /// From `config.json`.
        expected: Vec<usize>,
        /// From the file.
        found: Vec<usize>,
    },
    /// A tensor's numbers are of another type than the released layout has.
    #[error("tensor {name} in {file} has dtype {found}, expected {expected}")]
    TensorDtype {
        /// Its name.
        name: String,
        /// Where it is.
        file: String,
        /// `BF16` or `U8`.
        expected: &'static str,
        /// From the file.
        found: String,
    },
    /// A block scale of 255 stands for NaN in MXFP4; no released checkpoint holds one.
    #[error(
        "tensor {name} in {file} is not a number at expert {expert}, row {row}, block {block} (scale 255)"
    )]
    NotANumber {
        /// Its name.
        name: String,
        /// Where it is.
        file: String,
        /// First index.
        expert: usize,
        /// Second index.
        row: usize,
        /// Third index.
        block: usize,
    },
    /// Running the model would read its weights from disk at every step.
    #[error(
        "the model needs {} of memory ({} of weights, {} of keys and values, {} of room to work), {} are available",
        gigabytes(needs.total()), gigabytes(needs.weights), gigabytes(needs.keys), gigabytes(needs.working),
        gigabytes(*available)
    )]
    Memory {
        /// What it needs.
        needs: Needs,
        /// Bytes.
        available: u64,
    },
    /// A block of an expert that Q8_0, the layout of a device, cannot hold without loss. The CPU can.
    #[error(
        "tensor {name} in {file} cannot be converted without loss at expert {expert}, row {row}, block {block} (scale \
         {code}, 104 to 143 can)"
    )]
    NotLossless {
        /// Its name.
        name: String,
        /// Where it is.
        file: String,
        /// First index.
        expert: usize,
        /// Second index.
        row: usize,
        /// Third index.
        block: usize,
        /// The block's scale.
        code: u8,
    },
    /// A GPU was asked for, and there is none that this program can use.
    #[error("{}", if *built { "no CUDA device is there" } else { "this program is built without the feature cuda" })]
    NoDevice {
        /// Whether this program could use one.
        built: bool,
    },
    /// The weights are larger than what is free on the device.
    #[error("the model needs {needed} bytes on the device, {free} are free")]
    DeviceMemory {
        /// Bytes of weights.
        needed: usize,
        /// Bytes free.
        free: usize,
    },
    /// Sequences on a device hold more tokens at once than its store of keys and values has places.
    #[error("sequences of {tokens} tokens at once are over the device's limit of {limit}")]
    DeviceKeys {
        /// Tokens that were to be held.
        tokens: usize,
        /// From the bytes that keys and values may take.
        limit: usize,
    },
    /// A token id that the model has no embedding for, or no row of logits.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    TokenId {
        /// The id.
        id: u32,
        /// One more than the largest id.
        vocab_size: usize,
    },
    /// A sequence longer than the model has positions.
    #[error("sequence of {len} tokens is over max_position_embeddings = {limit}")]
    TooLong {
        /// Tokens in the cache and in the call.
        len: usize,
        /// From `config.json`.
        limit: usize,
    },
    /// A forward of no tokens.
    #[error("no token ids given")]
    NoIds,
    /// A word in a list of token ids is not one.
    #[error("{word:?} is not a token id")]
    NotAnId {
        /// The word.
        word: String,
    },
    /// Tensor arithmetic failed, for want of memory for example.
    #[error("tensor arithmetic: {0}")]
    Tensor(#[from] candle_core::Error),
    /// Logits could not be written out.
    #[error("cannot write logits: {0}")]
    Write(#[source] std::io::Error),
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
