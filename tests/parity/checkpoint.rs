//! A checkpoint in memory, to be changed before it is loaded, and golden numbers to hold it against.

use safeguard::model::GptOss;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Largest allowed difference of any logit. f32 on f32.
pub const TOLERANCE: f32 = 1e-3;
/// Largest allowed length of a layer's difference, as a share of its state's length: the residual stream grows to
/// hundreds, where f32 itself is coarser than the logits' tolerance.
const STATE_TOLERANCE: f32 = 1.5e-5;

pub fn tiny_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/tiny")
}

pub fn nano_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/nano")
}

/// A tensor's dtype, shape and bytes.
#[derive(Debug, Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    /// The bytes of each row, when the first `dims` dimensions count rows.
    pub fn rows(&mut self, dims: usize) -> impl Iterator<Item = &mut [u8]> {
        let rows: usize = self.shape[..dims].iter().product();
        let width = self.bytes.len() / rows;
        self.bytes.chunks_exact_mut(width)
    }

    /// Rearranges rows within groups of `order.len()` rows: row `i` of a group becomes what row `order[i]` was.
    pub fn permute(&mut self, dims: usize, order: &[usize]) {
        let rows: usize = self.shape[..dims].iter().product();
        let width = self.bytes.len() / rows;
        for group in self.bytes.chunks_exact_mut(width * order.len()) {
            let old = group.to_vec();
            for (row, from) in group.chunks_exact_mut(width).zip(order) {
                row.copy_from_slice(&old[from * width..(from + 1) * width]);
            }
        }
    }

    /// Replaces every bf16 element.
    pub fn map(&mut self, new: impl Fn(f32) -> f32) {
        for pair in self.bytes.chunks_exact_mut(2) {
            let old = half::bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
            pair.copy_from_slice(&half::bf16::from_f32(new(old)).to_le_bytes());
        }
    }
}

/// `config.json` and the tensors.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub config: Value,
    pub tensors: BTreeMap<String, Stored>,
}

impl Checkpoint {
    pub fn read(dir: &Path) -> Checkpoint {
        let config = std::fs::read(dir.join("config.json")).expect("config.json");
        Checkpoint {
            config: serde_json::from_slice(&config).expect("JSON"),
            tensors: tensors(&dir.join("model.safetensors")),
        }
    }

    /// The tensors whose name ends with `suffix`; at least one.
    pub fn ending(&mut self, suffix: &str) -> impl Iterator<Item = &mut Stored> {
        assert!(
            self.tensors.keys().any(|name| name.ends_with(suffix)),
            "no tensor ends with {suffix}"
        );
        self.tensors
            .iter_mut()
            .filter(move |(name, _)| name.ends_with(suffix))
            .map(|(_, stored)| stored)
    }

    pub fn config_bytes(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }

    /// The safetensors file of those tensors that `keep` wants.
    pub fn weight_bytes(&self, keep: impl Fn(&str) -> bool) -> Vec<u8> {
        let view = |stored: &Stored| {
            let bytes: &'static [u8] = stored.bytes.clone().leak();
            TensorView::new(stored.dtype, stored.shape.clone(), bytes).expect("a view")
        };
        let views = self
            .tensors
            .iter()
            .filter(|(name, _)| keep(name))
            .map(|(name, stored)| (name, view(stored)));
        safetensors::serialize(views, None).expect("serialized")
    }

    /// The product's model of it.
    pub fn model(&self) -> GptOss {
        GptOss::from_bytes(&self.config_bytes(), self.weight_bytes(|_| true).leak())
            .expect("a model")
    }
}

fn tensors(path: &Path) -> BTreeMap<String, Stored> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let stored = |view: TensorView| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.tensors()
        .into_iter()
        .map(|(name, view)| (name, stored(view)))
        .collect()
}

/// What transformers computes for some ids: logits, and the states that enter each layer with the last norm's output
/// behind them, at some positions.
#[derive(Debug, Clone)]
pub struct Golden {
    pub name: String,
    pub ids: Vec<u32>,
    pub positions: Vec<usize>,
    /// `[positions, vocab]`, flat.
    logits: Vec<f32>,
    /// For each layer and the end, `[positions, hidden]`, flat.
    states: Vec<Vec<f32>>,
}

fn numbers<const N: usize, T>(stored: &Stored, of: fn([u8; N]) -> T) -> Vec<T> {
    stored
        .bytes
        .chunks_exact(N)
        .map(|bytes| of(bytes.try_into().expect("N bytes")))
        .collect()
}

fn ids(stored: &Stored) -> Vec<u32> {
    numbers(stored, u32::from_le_bytes)
}

fn floats(stored: &Stored) -> Vec<f32> {
    numbers(stored, f32::from_le_bytes)
}

impl Golden {
    /// `tiny/T<tokens>.safetensors`.
    pub fn tiny(tokens: usize) -> Golden {
        let name = format!("T{tokens}");
        let file = tensors(&tiny_dir().join(format!("{name}.safetensors")));
        Golden {
            ids: ids(&file["ids"]),
            positions: ids(&file["positions"])
                .iter()
                .map(|p| *p as usize)
                .collect(),
            logits: floats(&file["logits"]),
            states: (0..)
                .map_while(|i| file.get(&format!("hidden.{i}")))
                .map(floats)
                .collect(),
            name,
        }
    }

    /// The prompts of nano's `golden.safetensors`; last positions only.
    pub fn nano() -> Vec<Golden> {
        let file = tensors(&nano_dir().join("golden.safetensors"));
        let prompt = |number: usize| {
            let ids = ids(file.get(&format!("prompt{number}.input_ids"))?);
            let hidden = &file[&format!("prompt{number}.hidden")];
            Some(Golden {
                name: format!("prompt{number}"),
                positions: vec![ids.len() - 1],
                ids,
                logits: floats(&file[&format!("prompt{number}.logits")]),
                states: floats(hidden)
                    .chunks_exact(hidden.shape[1])
                    .map(<[f32]>::to_vec)
                    .collect(),
            })
        };
        (0..).map_while(prompt).collect()
    }

    /// How far `model` is from it.
    pub fn distance(&self, model: &GptOss) -> Distance {
        let mut states = Vec::new();
        let mut at = |layer: usize, state: &candle_core::Tensor| {
            states.push(share(&self.picked(state), &self.states[layer]));
        };
        let hidden = model
            .forward_traced(&self.ids, &mut model.new_cache(), &mut at)
            .expect("a forward");
        assert_eq!(states.len(), self.states.len(), "layers");
        let logits = model.logits(&hidden).expect("logits");
        Distance {
            name: self.name.clone(),
            states,
            logits: max_difference(&self.picked(&logits), &self.logits),
        }
    }

    fn picked(&self, rows: &candle_core::Tensor) -> Vec<f32> {
        let rows: Vec<Vec<f32>> = rows.to_vec2().expect("rows");
        self.positions
            .iter()
            .flat_map(|p| rows[*p].clone())
            .collect()
    }
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // A NaN must not pass as small.
    let larger = |max: f32, d: f32| if d.is_nan() || d > max { d } else { max };
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, larger)
}

/// Length of the difference over the length of `b`.
fn share(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference: f32 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (difference / b.iter().map(|b| b.powi(2)).sum::<f32>()).sqrt()
}

/// Differences from golden numbers.
#[derive(Debug)]
pub struct Distance {
    name: String,
    /// Of the state that enters each layer, and of the last norm's output, as shares of its length.
    states: Vec<f32>,
    pub logits: f32,
}

impl Distance {
    pub fn within_tolerance(&self) -> bool {
        self.logits <= TOLERANCE && self.states_within_tolerance()
    }

    pub fn states_within_tolerance(&self) -> bool {
        self.states.iter().all(|d| *d <= STATE_TOLERANCE)
    }

    /// Every distance, the first bad layer named.
    pub fn report(&self) -> String {
        let mut out = format!(
            "{}: tolerance {STATE_TOLERANCE:e} of the length for states, {TOLERANCE:e} for logits\n",
            self.name
        );
        for (layer, d) in self.states.iter().enumerate() {
            let what = if layer + 1 == self.states.len() {
                "after the final norm".into()
            } else {
                format!("into layer {layer}")
            };
            writeln!(out, "  {what}: |d|/|state| {d:e}").expect("written");
        }
        writeln!(out, "  logits: max|d| {:e}", self.logits).expect("written");
        match self
            .states
            .iter()
            .position(|d| d.is_nan() || *d > STATE_TOLERANCE)
        {
            Some(0) => writeln!(out, "  first bad: the embedding").expect("written"),
            Some(layer) => {
                writeln!(out, "  first bad: what layer {} gave", layer - 1).expect("written")
            }
            None => {}
        }
        out
    }
}
