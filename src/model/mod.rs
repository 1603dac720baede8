//! gpt-oss: token ids in, logits out.
//!
//! Takes a folder (or embedded bytes) in the released layout: `config.json` and safetensors with MXFP4 experts. Gives
//! the residual stream, logits, and logits of chosen rows, for many sequences in one step; what a sequence has seen
//! lives in a [`KvCache`] outside the model, so that many sequences can share a prefix. What takes the time is in the
//! crate `safeguard-kernels`, in the folder `kernels`.
//! Knows one architecture: sliding and full attention with sinks, YaRN, mixture of experts with clamped SwiGLU.
//! Knows nothing of text, policies or who asks.

mod arithmetic;
mod attention;
mod batch;
mod config;
mod device;
mod dump;
mod error;
mod experts;
mod gpt_oss;
mod kv_cache;
pub mod layout;
mod linear;
pub mod memory;
mod rope;
pub mod scan;
pub mod tokenizer;
mod weights;

pub use arithmetic::{Arithmetic, DownBias, Precision, Routing};
pub use batch::Piece;
pub use config::{Config, LayerType, RopeScaling};
pub use device::{DeviceCache, DeviceModel, DevicePiece, chosen_device, cuda_device};
pub use dump::{parse_ids, write_logits};
pub use error::ModelError;
pub use gpt_oss::GptOss;
pub use kv_cache::KvCache;
