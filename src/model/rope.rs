//! Rotary positions, stretched by YaRN.
//!
//! Takes positions, gives the angles by which each head's two halves are turned against each other (NeoX pairing:
//! element i with element i + head_dim/2). Frequencies are by parts: fast ones kept, slow ones divided by the factor, a ramp between
//! whose bounds gpt-oss does not round. Cosines and sines carry the concentration, so that logits grow by its square.

use super::config::{Config, RopeScaling};
use std::f64::consts::PI;

/// Angular speed of each pair of a head, and what cosines and sines are multiplied by.
#[derive(Debug)]
pub struct Rope {
    frequencies: Vec<f32>,
    concentration: f32,
}

/// Cosines and sines of some positions, `[positions, head_dim / 2]` each.
#[derive(Debug)]
pub struct Turns {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// From the model's settings. Rounded to f32 at the end only: in f32 throughout, distances from transformers at
    /// 2500 tokens are twice as large.
    pub fn new(config: &Config) -> Rope {
        let half = config.head_dim / 2;
        let periods = (0..half).map(|i| {
            config
                .rope_theta
                .powf(2.0 * i as f64 / config.head_dim as f64)
        });
        let RopeScaling::Yarn {
            factor,
            attention_factor,
            ..
        } = config.rope_scaling
        else {
            return Rope {
                frequencies: periods.map(|period| (1.0 / period) as f32).collect(),
                concentration: 1.0,
            };
        };
        let (low, high) = ramp(config);
        let frequency = |(i, period): (usize, f64)| {
            let kept = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - kept) / (factor * period) + kept / period) as f32
        };
        let default = if factor <= 1.0 {
            1.0
        } else {
            0.1 * factor.ln() + 1.0
        };
        Rope {
            frequencies: periods.enumerate().map(frequency).collect(),
            concentration: attention_factor.unwrap_or(default) as f32,
        }
    }

    /// Cosines and sines of `positions`.
    pub fn turns(&self, positions: impl Iterator<Item = usize>) -> Turns {
        let mut turns = Turns {
            cos: Vec::new(),
            sin: Vec::new(),
        };
        for position in positions {
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                turns.cos.push(cos * self.concentration);
                turns.sin.push(sin * self.concentration);
            }
        }
        turns
    }
}

/// Pairs below the first bound are kept, above the second divided. Bounds as transformers computes them.
fn ramp(config: &Config) -> (f64, f64) {
    let RopeScaling::Yarn {
        beta_fast,
        beta_slow,
        original_max_position_embeddings,
        truncate,
        ..
    } = config.rope_scaling
    else {
        panic!("bug: a ramp without YaRN");
    };
    let (dim, context) = (
        config.head_dim as f64,
        original_max_position_embeddings as f64,
    );
    let bound =
        |turns: f64| dim * (context / (turns * 2.0 * PI)).ln() / (2.0 * config.rope_theta.ln());
    let (mut low, mut high) = (bound(beta_fast), bound(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    // Equal bounds would divide by zero.
    (low, if low == high { high + 0.001 } else { high })
}

impl Turns {
    /// The cosines and the sines.
    pub fn angles(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safeguard_kernels::{Isa, pointwise};
    use serde_json::{Value, json};

    fn config(scaling: Value) -> Config {
        let mut value: Value =
            serde_json::from_slice(include_bytes!("../backend/nano/config.json"))
                .expect("nano's config");
        value["rope_scaling"] = scaling;
        Config::parse(value.to_string().as_bytes()).expect("a config")
    }

    fn yarn(more: Value) -> Config {
        let mut scaling = json!({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                 "original_max_position_embeddings": 4096, "truncate": false});
        for (key, value) in more.as_object().expect("an object") {
            scaling[key] = value.clone();
        }
        config(scaling)
    }

    #[test]
    fn gpt_oss_bounds_are_not_rounded() {
        // Published: low 8.0928, high 17.3980 for head_dim 64, theta 150000, context 4096.
        let (low, high) = ramp(&yarn(json!({})));
        assert!(
            (low - 8.0928).abs() < 1e-4 && (high - 17.3980).abs() < 1e-4,
            "{low} {high}"
        );
        assert_eq!(ramp(&yarn(json!({"truncate": true}))), (8.0, 18.0));
        let mut absent =
            json!({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0});
        absent["original_max_position_embeddings"] = json!(4096);
        assert_eq!(ramp(&config(absent)), (8.0, 18.0));
    }

    #[test]
    fn concentration_has_a_default_and_a_key() {
        let of = |more| Rope::new(&yarn(more)).concentration;
        assert!((of(json!({})) - 1.346_573_6).abs() < 1e-6);
        assert_eq!(of(json!({"factor": 1.0})), 1.0);
        assert_eq!(of(json!({"attention_factor": 1.25})), 1.25);
        assert_eq!(
            Rope::new(&config(json!({"rope_type": "default"}))).concentration,
            1.0
        );
    }

    #[test]
    fn frequencies_are_by_parts() {
        let plain = Rope::new(&config(json!({"rope_type": "default"}))).frequencies;
        let yarn = Rope::new(&yarn(json!({}))).frequencies;
        for (i, (plain, yarn)) in plain.iter().zip(&yarn).enumerate() {
            let ratio = plain / yarn;
            match i {
                0..=8 => assert_eq!(ratio, 1.0, "pair {i}"),
                9..=17 => assert!(1.0 < ratio && ratio < 32.0, "pair {i}: {ratio}"),
                _ => assert!((ratio - 32.0).abs() < 1e-4, "pair {i}: {ratio}"),
            }
        }
    }

    #[test]
    fn halves_turn_against_each_other() {
        let mut frequencies = vec![0.0; 16];
        frequencies[1] = std::f32::consts::FRAC_PI_2;
        let rope = Rope {
            frequencies,
            concentration: 2.0,
        };
        let mut head = [0.0; 32];
        (head[0], head[1], head[16], head[17]) = (1.0, 1.0, 5.0, 0.0);
        let turns = rope.turns(std::iter::once(1));
        let (cos, sin) = turns.angles();
        pointwise::turn(Isa::best(), &mut head, 32, 1, cos, sin);
        let expected = [2.0, 0.0, 10.0, 2.0];
        let found = [head[0], head[1], head[16], head[17]];
        let near = |(a, b): (&f32, f32)| (a - b).abs() < 1e-6;
        assert!(found.iter().zip(expected).all(near), "{found:?}");
    }
}
