//! `config.json` of a gpt-oss model, as typed.
//!
//! Takes the file's bytes, gives a [`Config`] in which every size came from the file: nothing is assumed, so that a
//! key lost in a conversion is an error here and not a wrong answer later. Both spellings of the rope settings are
//! read (`rope_scaling`, and `rope_parameters` of newer writers), and YaRN must be stated: models have been served
//! without it by readers that knew one spelling only. What the forward pass does not implement is refused by name.

use super::ModelError;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// Elements that share one scale in MXFP4; the width of every quantised matrix is a multiple of it.
pub const MXFP4_BLOCK: usize = 32;

/// Which keys a layer's queries see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerType {
    /// The last `sliding_window` keys, the query's own included.
    Sliding,
    /// All keys up to the query's own.
    Full,
}

/// How rotary frequencies are stretched over long sequences.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// YaRN: high frequencies kept, low ones divided by `factor`, a ramp between.
    Yarn {
        /// By how much low frequencies are slowed.
        factor: f64,
        /// Turns over the original context above which a frequency is kept.
        beta_fast: f64,
        /// Turns over the original context below which a frequency is divided.
        beta_slow: f64,
        /// Positions that the model was first trained on.
        original_max_position_embeddings: usize,
        /// Whether the ramp's bounds are rounded outward. gpt-oss says false; absent means true.
        truncate: bool,
        /// What cosines and sines are multiplied by; absent means 0.1 ln(factor) + 1.
        attention_factor: Option<f64>,
    },
}

/// Shapes and constants of a model. Sizes count elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside an expert.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Experts of a layer.
    pub num_local_experts: usize,
    /// Experts that each token goes to.
    pub num_experts_per_tok: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Keys that a sliding layer sees, the query's own included.
    pub sliding_window: usize,
    /// One for each layer.
    pub layer_types: Vec<LayerType>,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their stretching.
    pub rope_scaling: RopeScaling,
    /// Gates are clamped above it, linear parts on both sides.
    pub swiglu_limit: f64,
    /// Ids that end a completion; empty where the file names none.
    pub eos_token_ids: Vec<u32>,
}

/// What heads are computed in.
const HEAD_DIM_MULTIPLE: usize = 32;

impl Config {
    /// Reads `config.json` of a model's folder.
    pub fn open(dir: &Path) -> Result<Config, ModelError> {
        Config::parse(&Config::read(dir)?)
    }

    /// The bytes of `config.json` in a model's folder.
    pub(super) fn read(dir: &Path) -> Result<Vec<u8>, ModelError> {
        let path = dir.join("config.json");
        std::fs::read(&path).map_err(|source| ModelError::Read { path, source })
    }

    /// Reads the bytes of `config.json`.
    pub fn parse(json: &[u8]) -> Result<Config, ModelError> {
        let value: Value = serde_json::from_slice(json).map_err(ModelError::ConfigSyntax)?;
        let Value::Object(map) = value else {
            return Err(bad("the file", "is not an object"));
        };
        let keys = Keys {
            map: &map,
            inside: "",
        };
        refuse_others(&keys)?;
        let num_hidden_layers = keys.size("num_hidden_layers")?;
        let layer_types = layer_types(&keys, num_hidden_layers)?;
        let sliding = layer_types.contains(&LayerType::Sliding);
        let (rope_theta, rope_scaling) = rope(&keys)?;
        let config = Config {
            hidden_size: keys.size("hidden_size")?,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads: keys.size("num_attention_heads")?,
            num_key_value_heads: keys.size("num_key_value_heads")?,
            head_dim: keys.size("head_dim")?,
            num_local_experts: keys.size("num_local_experts")?,
            num_experts_per_tok: keys.size("num_experts_per_tok")?,
            vocab_size: keys.size("vocab_size")?,
            max_position_embeddings: keys.size("max_position_embeddings")?,
            sliding_window: if sliding {
                keys.size("sliding_window")?
            } else {
                usize::MAX
            },
            layer_types,
            rms_norm_eps: keys.positive("rms_norm_eps")?,
            rope_theta,
            rope_scaling,
            swiglu_limit: keys.positive("swiglu_limit")?,
            eos_token_ids: eos(&keys)?,
        };
        config.check()?;
        Ok(config)
    }

    /// What must hold between the sizes.
    fn check(&self) -> Result<(), ModelError> {
        let multiple = |key: &str, size: usize, of: usize| match size.is_multiple_of(of) {
            true => Ok(()),
            false => Err(bad(key, &format!("= {size} is not a multiple of {of}"))),
        };
        multiple("hidden_size", self.hidden_size, MXFP4_BLOCK)?;
        multiple("intermediate_size", self.intermediate_size, MXFP4_BLOCK)?;
        multiple("head_dim", self.head_dim, HEAD_DIM_MULTIPLE)?;
        multiple(
            "num_attention_heads",
            self.num_attention_heads,
            self.num_key_value_heads,
        )?;
        if self.num_experts_per_tok > self.num_local_experts {
            let why = format!(
                "= {} is over num_local_experts = {}",
                self.num_experts_per_tok, self.num_local_experts
            );
            return Err(bad("num_experts_per_tok", &why));
        }
        Ok(())
    }
}

/// One object of the file and what to call it.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// Empty, or the object's own key and a dot.
    inside: &'static str,
}

impl Keys<'_> {
    fn error(&self, key: &str, why: &str) -> ModelError {
        bad(&format!("{}{key}", self.inside), why)
    }

    /// The key's value, or none where it is absent or null.
    fn optional<T: DeserializeOwned>(
        &self,
        key: &str,
        kind: &str,
    ) -> Result<Option<T>, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|_| self.error(key, &format!("is {value}, not {kind}"))),
        }
    }

    fn required<T: DeserializeOwned>(&self, key: &str, kind: &str) -> Result<T, ModelError> {
        self.optional(key, kind)?
            .ok_or_else(|| self.error(key, "is missing"))
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        match self.required(key, "a whole number")? {
            0 => Err(self.error(key, "is 0")),
            size => Ok(size),
        }
    }

    fn positive(&self, key: &str) -> Result<f64, ModelError> {
        let number: f64 = self.required(key, "a number")?;
        match number > 0.0 {
            true => Ok(number),
            false => Err(self.error(key, &format!("is {number}, not above 0"))),
        }
    }

    /// The object under `key`, where there is one.
    fn object(
        &self,
        key: &'static str,
        inside: &'static str,
    ) -> Result<Option<Keys<'_>>, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys { map, inside })),
            Some(other) => Err(self.error(key, &format!("is {other}, not an object"))),
        }
    }
}

fn bad(key: &str, why: &str) -> ModelError {
    ModelError::ConfigKey {
        key: key.to_owned(),
        why: why.to_owned(),
    }
}

/// Refuses other architectures, and variants of this one that the forward pass does not implement.
fn refuse_others(keys: &Keys) -> Result<(), ModelError> {
    let model_type: String = keys.required("model_type", "a string")?;
    if model_type != "gpt_oss" {
        return Err(keys.error(
            "model_type",
            &format!("is {model_type:?}, only \"gpt_oss\" is supported"),
        ));
    }
    if keys.optional("attention_bias", "true or false")? == Some(false) {
        return Err(keys.error("attention_bias", "is false, only true is supported"));
    }
    if keys.optional("tie_word_embeddings", "true or false")? == Some(true) {
        return Err(keys.error("tie_word_embeddings", "is true, only false is supported"));
    }
    if let Some(act) = keys.optional::<String>("hidden_act", "a string")?
        && act != "silu"
    {
        return Err(keys.error(
            "hidden_act",
            &format!("is {act:?}, only \"silu\" is supported"),
        ));
    }
    let Some(quantised) = keys.object("quantization_config", "quantization_config.")? else {
        return Err(keys.error(
            "quantization_config",
            "is missing, only MXFP4 experts are supported",
        ));
    };
    let method: String = quantised.required("quant_method", "a string")?;
    match method == "mxfp4" {
        true => Ok(()),
        false => Err(quantised.error(
            "quant_method",
            &format!("is {method:?}, only \"mxfp4\" is supported"),
        )),
    }
}

/// As listed, or else the architecture's own pattern: even layers slide, odd ones are full.
fn layer_types(keys: &Keys, layers: usize) -> Result<Vec<LayerType>, ModelError> {
    let Some(names) = keys.optional::<Vec<String>>("layer_types", "a list of strings")? else {
        let of = |layer| {
            if layer % 2 == 0 {
                LayerType::Sliding
            } else {
                LayerType::Full
            }
        };
        return Ok((0..layers).map(of).collect());
    };
    if names.len() != layers {
        let why = format!(
            "has {} entries for num_hidden_layers = {layers}",
            names.len()
        );
        return Err(keys.error("layer_types", &why));
    }
    let of = |name: &String| match name.as_str() {
        "sliding_attention" => Ok(LayerType::Sliding),
        "full_attention" => Ok(LayerType::Full),
        _ => Err(keys.error(
            "layer_types",
            &format!("names {name:?}, not sliding_attention or full_attention"),
        )),
    };
    names.iter().map(of).collect()
}

/// Base and stretching, from `rope_scaling` or `rope_parameters`; in the latter the base may stand too.
fn rope(keys: &Keys) -> Result<(f64, RopeScaling), ModelError> {
    let parameters = keys.object("rope_parameters", "rope_parameters.")?;
    let scaling = keys.object("rope_scaling", "rope_scaling.")?;
    let Some(found) = parameters.or(scaling) else {
        return Err(keys.error("rope_scaling", "is missing, and so is rope_parameters"));
    };
    let theta = match found.map.contains_key("rope_theta") {
        true => found.positive("rope_theta")?,
        false => keys.positive("rope_theta")?,
    };
    // `type` is what writers before `rope_type` said.
    let key = if found.map.contains_key("rope_type") {
        "rope_type"
    } else {
        "type"
    };
    let kind: String = match found.optional(key, "a string")? {
        Some(kind) => kind,
        None => return Err(found.error("rope_type", "is missing")),
    };
    match kind.as_str() {
        "default" => Ok((theta, RopeScaling::None)),
        "yarn" => Ok((theta, yarn(&found)?)),
        _ => Err(found.error(
            key,
            &format!("is {kind:?}, only \"yarn\" and \"default\" are supported"),
        )),
    }
}

fn yarn(keys: &Keys) -> Result<RopeScaling, ModelError> {
    for key in ["mscale", "mscale_all_dim"] {
        if keys.optional::<Value>(key, "a number")?.is_some() {
            return Err(keys.error(key, "is not supported"));
        }
    }
    Ok(RopeScaling::Yarn {
        factor: keys.positive("factor")?,
        beta_fast: keys.positive("beta_fast")?,
        beta_slow: keys.positive("beta_slow")?,
        original_max_position_embeddings: keys.size("original_max_position_embeddings")?,
        truncate: keys.optional("truncate", "true or false")?.unwrap_or(true),
        attention_factor: keys.optional("attention_factor", "a number")?,
    })
}

/// One id, a list, or none.
fn eos(keys: &Keys) -> Result<Vec<u32>, ModelError> {
    match keys.map.get("eos_token_id") {
        Some(Value::Array(_)) => keys.required("eos_token_id", "a list of token ids"),
        _ => Ok(keys
            .optional::<u32>("eos_token_id", "a token id")?
            .into_iter()
            .collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn full() -> Value {
        json!({
            "model_type": "gpt_oss", "attention_bias": true, "tie_word_embeddings": false, "hidden_act": "silu",
            "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8,
            "num_key_value_heads": 2, "head_dim": 64, "num_local_experts": 8, "num_experts_per_tok": 4,
            "vocab_size": 512, "max_position_embeddings": 131072, "sliding_window": 16, "rms_norm_eps": 1e-5,
            "swiglu_limit": 7.0, "eos_token_id": [1, 2], "rope_theta": 150000,
            "quantization_config": {"quant_method": "mxfp4"},
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                             "original_max_position_embeddings": 4096, "truncate": false},
        })
    }

    /// `full()` with each pointed-at value replaced, or removed where it is null.
    fn with(changes: &[(&str, Value)]) -> Result<Config, String> {
        let mut value = full();
        for (pointer, new) in changes {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            let object = value
                .pointer_mut(parent)
                .and_then(Value::as_object_mut)
                .expect("an object");
            match new {
                Value::Null => object.remove(key),
                _ => object.insert(key.to_owned(), new.clone()),
            };
        }
        Config::parse(value.to_string().as_bytes()).map_err(|e| e.to_string())
    }

    /// A place, its new value (null removes it), and what is said then.
    const REFUSED: &str = r#"/model_type | "llama" | model_type is "llama", only "gpt_oss" is supported
/model_type | null | model_type is missing
/head_dim | null | head_dim is missing
/head_dim | 0 | head_dim is 0
/head_dim | 63 | head_dim = 63 is not a multiple of 32
/head_dim | "64" | head_dim is "64", not a whole number
/hidden_size | 100 | hidden_size = 100 is not a multiple of 32
/num_key_value_heads | 3 | num_attention_heads = 8 is not a multiple of 3
/num_experts_per_tok | 9 | num_experts_per_tok = 9 is over num_local_experts = 8
/layer_types | ["full_attention"] | layer_types has 1 entries for num_hidden_layers = 3
/rope_scaling | null | rope_scaling is missing, and so is rope_parameters
/rope_scaling/factor | null | rope_scaling.factor is missing
/rope_scaling/mscale | 1 | rope_scaling.mscale is not supported
/rope_scaling/rope_type | "linear" | rope_scaling.rope_type is "linear", only "yarn" and "default" are supported
/rope_theta | null | rope_theta is missing
/rms_norm_eps | -1.0 | rms_norm_eps is -1, not above 0
/sliding_window | null | sliding_window is missing
/attention_bias | false | attention_bias is false, only true is supported
/tie_word_embeddings | true | tie_word_embeddings is true, only false is supported
/hidden_act | "gelu" | hidden_act is "gelu", only "silu" is supported
/quantization_config | null | quantization_config is missing, only MXFP4 experts are supported
/quantization_config/quant_method | "fp8" | quantization_config.quant_method is "fp8", only "mxfp4" is supported"#;

    #[test]
    fn refuses_by_name() {
        for line in REFUSED.lines() {
            let [pointer, new, why]: [&str; 3] = line
                .split(" | ")
                .collect::<Vec<_>>()
                .try_into()
                .expect("three columns");
            let new = serde_json::from_str(new).expect("JSON");
            assert_eq!(
                with(&[(pointer, new)]),
                Err(format!("config.json: {why}")),
                "{pointer}"
            );
        }
        assert!(matches!(
            Config::parse(b"{"),
            Err(ModelError::ConfigSyntax(_))
        ));
    }

    #[test]
    fn reads_both_spellings_of_rope() {
        let old = with(&[]).expect("full");
        let mut parameters = full()["rope_scaling"].clone();
        parameters["rope_theta"] = json!(150000.0);
        let new = with(&[
            ("/rope_scaling", Value::Null),
            ("/rope_theta", Value::Null),
            ("/rope_parameters", parameters),
        ]);
        assert_eq!(new, Ok(old.clone()));
        assert_eq!(old.eos_token_ids, [1, 2]);
        let plain = with(&[("/rope_scaling", json!({"rope_type": "default"}))]).expect("plain");
        assert_eq!(plain.rope_scaling, RopeScaling::None);
    }

    #[test]
    fn absent_keys_mean_what_transformers_means() {
        let config = with(&[("/rope_scaling/truncate", Value::Null)]).expect("no truncate");
        assert!(matches!(
            config.rope_scaling,
            RopeScaling::Yarn {
                truncate: true,
                attention_factor: None,
                ..
            }
        ));
        use LayerType::{Full, Sliding};
        assert_eq!(config.layer_types, [Sliding, Full, Sliding]);
        let one = with(&[("/eos_token_id", json!(7))]).expect("one id");
        assert_eq!(one.eos_token_ids, [7]);
    }
}
