//! The released layout as data: which tensors a model of given shapes has.
//!
//! Takes a [`Config`], gives names, dtypes and shapes in the order of the forward pass, and what they weigh. Whoever
//! writes, inspects or counts a checkpoint without running it reads this; the loaders of the layers ask for each
//! tensor themselves, and a test holds the two together. Knows no file and no number.

use super::Config;
use super::config::MXFP4_BLOCK;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// 16-bit brain floats.
    Bf16,
    /// Bytes: packed elements of MXFP4, or their scales.
    U8,
}

/// What a tensor is for: what random numbers should look like, and what can be wrong with real ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One row for each token id; a forward reads one row a token.
    Embedding,
    /// A weight matrix whose rows have `inputs` elements.
    Matrix {
        /// Elements of a row.
        inputs: usize,
    },
    /// The gains of a norm.
    Norm,
    /// What is added behind a matrix.
    Bias,
    /// Attention sinks, one for each head.
    Sinks,
    /// Two MXFP4 elements a byte; rows of `inputs` elements.
    Blocks {
        /// Elements of a row.
        inputs: usize,
    },
    /// The exponents of the blocks, biased by 127; rows of `inputs` elements.
    Scales {
        /// Elements of a row.
        inputs: usize,
    },
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// As in the file.
    pub name: String,
    /// Elements in each dimension, the slowest first.
    pub shape: Vec<usize>,
    /// What it is for.
    pub part: Part,
}

impl Tensor {
    fn new(name: String, shape: &[usize], part: Part) -> Tensor {
        let shape = shape.to_vec();
        Tensor { name, shape, part }
    }

    /// How it is stored.
    pub fn stored(&self) -> Stored {
        match self.part {
            Part::Blocks { .. } | Part::Scales { .. } => Stored::U8,
            _ => Stored::Bf16,
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        let elements: u64 = self.shape.iter().map(|&size| size as u64).product();
        match self.stored() {
            Stored::Bf16 => 2 * elements,
            Stored::U8 => elements,
        }
    }

    /// Numbers that it stands for: a byte of blocks holds two, scales are a part of the blocks' numbers.
    pub fn parameters(&self) -> u64 {
        match self.part {
            Part::Blocks { .. } => 2 * self.bytes(),
            Part::Scales { .. } => 0,
            _ => self.bytes() / 2,
        }
    }
}

/// All tensors of a model: embedding, layers in order, last norm, head.
pub fn tensors(config: &Config) -> Vec<Tensor> {
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    let matrix = Part::Matrix { inputs: hidden };
    let embedding = Tensor::new(
        "model.embed_tokens.weight".to_owned(),
        &[vocab, hidden],
        Part::Embedding,
    );
    let norm = Tensor::new("model.norm.weight".to_owned(), &[hidden], Part::Norm);
    let head = Tensor::new("lm_head.weight".to_owned(), &[vocab, hidden], matrix);
    let layers = (0..config.num_hidden_layers).flat_map(|index| layer(config, index));
    std::iter::once(embedding)
        .chain(layers)
        .chain([norm, head])
        .collect()
}

fn layer(config: &Config, index: usize) -> Vec<Tensor> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let prefix = format!("model.layers.{index}");
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[usize], part| {
        tensors.push(Tensor::new(format!("{prefix}.{name}"), shape, part));
    };
    add("input_layernorm.weight", &[hidden], Part::Norm);
    for (name, out, inputs) in [
        ("self_attn.q_proj", queries, hidden),
        ("self_attn.k_proj", keys, hidden),
        ("self_attn.v_proj", keys, hidden),
        ("self_attn.o_proj", hidden, queries),
        ("mlp.router", config.num_local_experts, hidden),
    ] {
        let weight = format!("{name}.weight");
        add(&weight, &[out, inputs], Part::Matrix { inputs });
        add(&format!("{name}.bias"), &[out], Part::Bias);
    }
    add(
        "self_attn.sinks",
        &[config.num_attention_heads],
        Part::Sinks,
    );
    add("post_attention_layernorm.weight", &[hidden], Part::Norm);
    let experts = config.num_local_experts;
    for (name, out, inputs) in [
        ("gate_up_proj", 2 * inner, hidden),
        ("down_proj", hidden, inner),
    ] {
        let blocks = inputs / MXFP4_BLOCK;
        let name = |what: &str| format!("mlp.experts.{name}_{what}");
        let packed = [experts, out, blocks, MXFP4_BLOCK / 2];
        add(&name("blocks"), &packed, Part::Blocks { inputs });
        add(
            &name("scales"),
            &[experts, out, blocks],
            Part::Scales { inputs },
        );
        add(&name("bias"), &[experts, out], Part::Bias);
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::GptOss;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// The released shapes, `layers` and `experts` apart.
    fn released(layers: usize, experts: usize) -> Config {
        let nano = Config::parse(include_bytes!("../backend/nano/config.json")).expect("nano");
        Config {
            hidden_size: 2880,
            intermediate_size: 2880,
            num_hidden_layers: layers,
            num_attention_heads: 64,
            num_key_value_heads: 8,
            num_local_experts: experts,
            num_experts_per_tok: 4,
            vocab_size: 201_088,
            ..nano
        }
    }

    #[test]
    fn sums_are_the_released_models() {
        // Parameters as llama.cpp counts them (20.91 B and 116.83 B), bytes as the weight files have them.
        for (layers, experts, millions, megabytes) in
            [(24, 32, 20_914, 13_761), (36, 128, 116_829, 65_248)]
        {
            let tensors = tensors(&released(layers, experts));
            let parameters: u64 = tensors.iter().map(Tensor::parameters).sum();
            let bytes: u64 = tensors.iter().map(Tensor::bytes).sum();
            assert_eq!(
                (parameters / 1_000_000, bytes / 1_000_000),
                (millions, megabytes)
            );
        }
    }

    #[test]
    fn a_file_of_the_layout_has_these_tensors_and_no_others() {
        for folder in ["src/backend/nano", "tests/parity/tiny"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let model = GptOss::open(&dir).expect("a model");
            let bytes = std::fs::read(dir.join("model.safetensors")).expect("weights");
            let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
            let found: BTreeMap<String, Vec<usize>> = file
                .tensors()
                .into_iter()
                .map(|(name, view)| (name, view.shape().to_vec()))
                .collect();
            let listed: BTreeMap<String, Vec<usize>> = tensors(model.config())
                .into_iter()
                .map(|tensor| (tensor.name, tensor.shape))
                .collect();
            assert_eq!(found, listed, "{folder}");
        }
    }
}
