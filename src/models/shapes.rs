//! The shapes of the released models.
//!
//! Gives `config.json` as a released checkpoint has it: 20b, 120b, or the embedded nano.

use crate::model::{Config, ModelError};
use serde_json::{Value, json};

/// Which released model to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// gpt-oss-safeguard-20b: 24 layers of 32 experts.
    B20,
    /// gpt-oss-safeguard-120b: 36 layers of 128 experts.
    B120,
    /// safeguard-nano: 4 layers of 8 experts, 128 wide.
    Nano,
}

impl Shape {
    /// The bytes of `config.json`, with another number of layers where one is given.
    pub fn config_json(self, layers: Option<usize>) -> Vec<u8> {
        let (released, experts) = match self {
            Shape::B20 => (24, 32),
            Shape::B120 => (36, 128),
            Shape::Nano => (4, 8),
        };
        let layers = layers.unwrap_or(released);
        let mut config = full(layers, experts);
        if self == Shape::Nano {
            for (key, value) in [
                ("hidden_size", 128),
                ("intermediate_size", 192),
                ("num_attention_heads", 4),
                ("num_key_value_heads", 2),
                ("num_experts_per_tok", 2),
                ("experts_per_token", 2),
                ("vocab_size", 8192),
                ("eos_token_id", 8185),
                ("pad_token_id", 8184),
            ] {
                config[key] = Value::from(value);
            }
        }
        let text = serde_json::to_string_pretty(&config).expect("bug: a value of JSON is JSON");
        (text + "\n").into_bytes()
    }

    /// The same, read.
    pub fn config(self, layers: Option<usize>) -> Result<Config, ModelError> {
        Config::parse(&self.config_json(layers))
    }
}

fn full(layers: usize, experts: usize) -> Value {
    let kinds: Vec<&str> = (0..layers)
        .map(|layer| match layer % 2 {
            0 => "sliding_attention",
            _ => "full_attention",
        })
        .collect();
    json!({
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": true,
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "eos_token_id": 200_002,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 2880,
        "layer_types": kinds,
        "max_position_embeddings": 131_072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "num_local_experts": experts,
        "output_router_logits": false,
        "pad_token_id": 199_999,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": false,
        },
        "rope_theta": 150_000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": false,
        "use_cache": true,
        "vocab_size": 201_088,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nano_is_the_embedded_one() {
        let embedded = Config::parse(include_bytes!("../backend/nano/config.json"));
        let shape = Shape::Nano.config(None).expect("nano");
        assert_eq!(shape, embedded.expect("embedded"));
        let cut = Shape::B20.config(Some(2)).expect("20b");
        assert_eq!((cut.num_hidden_layers, cut.layer_types.len()), (2, 2));
    }
}
