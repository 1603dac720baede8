//! gpt-oss on candle: token ids in, logits out.
//!
//! Takes a folder (or embedded bytes) in the released layout: `config.json` and safetensors with MXFP4 experts. Gives
//! the residual stream, logits, and logits of chosen rows, in f32 on the CPU, for one sequence at a time; what a
//! sequence has seen lives in a [`KvCache`] outside the model, so that many sequences can share a prefix.
//! Knows one architecture: sliding and full attention with sinks, YaRN, mixture of experts with clamped SwiGLU.
//! Knows nothing of text, policies, batches or threads.

mod arithmetic;
mod attention;
mod batch;
mod config;
mod dump;
mod error;
mod experts;
mod gpt_oss;
mod kv_cache;
pub mod layout;
mod linear;
pub mod memory;
mod mxfp4;
mod rope;
pub mod scan;
pub mod tokenizer;
mod weights;

pub use arithmetic::{Arithmetic, DownBias, Routing};
pub use batch::Piece;
pub use config::{Config, LayerType, RopeScaling};
pub use dump::{parse_ids, write_logits};
pub use error::ModelError;
pub use gpt_oss::GptOss;
pub use kv_cache::KvCache;
