//! Every known mistake, made on purpose, must fail the parity gate.
//!
//! Where a mistake can be said in `config.json` or in the weights it is made there: rows in another order are what a
//! wrong reading of the right order would see. What cannot be said so is made through [`Arithmetic`]. A gate clamped on
//! both sides moves logits by less than the tolerance; the unit test of the activation catches that one.

use super::checkpoint::{Checkpoint, Golden, TOLERANCE, tiny_dir};
use safeguard::model::{Arithmetic, DownBias, Routing};
use serde_json::{Value, json};

type Change = fn(&mut Checkpoint, &mut Arithmetic);

/// What must be outside its tolerance.
#[derive(Debug, Clone, Copy)]
enum By {
    Logits,
    /// The layers' states, by twice their tolerance; logits stay just inside (0.0009 at 300 and at 2500 tokens).
    States,
}

const MISTAKES: &[(By, &str, Change)] = &[
    (By::Logits, "gate and up concatenated", |c, _| {
        gate_up(c, &concatenated())
    }),
    (By::Logits, "gate and up swapped", |c, _| {
        gate_up(c, &[1, 0])
    }),
    (By::Logits, "nibbles swapped", |c, _| {
        nibbles(c, |block| {
            block
                .iter_mut()
                .for_each(|byte| *byte = byte.rotate_left(4))
        })
    }),
    (By::Logits, "nibbles in GGUF's order", |c, _| {
        nibbles(c, gguf_order)
    }),
    (By::Logits, "scales off by one", |c, _| {
        c.ending("_scales")
            .for_each(|s| s.bytes.iter_mut().for_each(|byte| *byte += 1))
    }),
    (By::Logits, "sliding on odd layers", |c, _| {
        layer_types(c, ["full_attention", "sliding_attention"])
    }),
    (By::Logits, "no sliding window", |c, _| {
        layer_types(c, ["full_attention"; 2])
    }),
    (By::Logits, "window one too long", |c, _| {
        c.config["sliding_window"] = json!(17)
    }),
    (By::Logits, "window one too short", |c, _| {
        c.config["sliding_window"] = json!(15)
    }),
    (By::Logits, "interleaved rope", |c, _| interleaved_rope(c)),
    (By::Logits, "no YaRN", |c, _| {
        c.config["rope_scaling"] = json!({"rope_type": "default"})
    }),
    (By::Logits, "no concentration", |c, _| {
        c.config["rope_scaling"]["attention_factor"] = json!(1.0)
    }),
    (By::Logits, "concentration squared", |c, _| {
        c.config["rope_scaling"]["attention_factor"] = json!(1.346_573_6 * 1.346_573_6)
    }),
    (By::Logits, "YaRN bounds rounded", |c, _| {
        c.config["rope_scaling"]["truncate"] = json!(true)
    }),
    (By::Logits, "truncate lost in conversion", |c, _| {
        lose(&mut c.config["rope_scaling"], "truncate")
    }),
    (By::Logits, "another rope base", |c, _| {
        c.config["rope_theta"] = json!(10_000)
    }),
    (By::Logits, "no sinks", |c, _| {
        c.ending("sinks").for_each(|s| s.map(|_| -1e30))
    }),
    (By::Logits, "sinks scaled as scores are", |c, _| {
        c.ending("sinks").for_each(|s| s.map(|sink| sink / 8.0))
    }),
    (By::Logits, "no clamp", |c, _| {
        c.config["swiglu_limit"] = json!(1e30)
    }),
    (By::Logits, "alpha = 1", |_, a| a.swiglu_alpha = 1.0),
    (By::Logits, "no +1 on up", |_, a| a.up_offset = 0.0),
    (By::Logits, "down bias after the weight", |_, a| {
        a.down_bias = DownBias::AfterWeight
    }),
    (By::Logits, "no down bias", |c, _| {
        c.ending("down_proj_bias").for_each(|s| s.map(|_| 0.0))
    }),
    (By::Logits, "no router bias", |c, _| {
        c.ending("router.bias").for_each(|s| s.map(|_| 0.0))
    }),
    (By::Logits, "no bias behind attention", |c, _| {
        c.ending("o_proj.bias").for_each(|s| s.map(|_| 0.0))
    }),
    (By::Logits, "softmax over all experts", |_, a| {
        a.routing = Routing::SoftmaxOverAll
    }),
    (By::Logits, "sigmoid router", |_, a| {
        a.routing = Routing::Sigmoid
    }),
    (By::Logits, "one expert too few", |c, _| {
        c.config["num_experts_per_tok"] = json!(3)
    }),
    (By::Logits, "one expert too many", |c, _| {
        c.config["num_experts_per_tok"] = json!(5)
    }),
    (By::States, "rms eps 1e-6", |c, _| {
        c.config["rms_norm_eps"] = json!(1e-6)
    }),
];

#[test]
fn every_known_mistake_fails_the_gate() {
    let (golden, right) = (Golden::tiny(300), Checkpoint::read(&tiny_dir()));
    let control = golden.distance(&right.model());
    assert!(
        control.within_tolerance(),
        "without a mistake: {}",
        control.report()
    );
    let mut missed = Vec::new();
    for (by, name, change) in MISTAKES {
        let (mut wrong, mut arithmetic) = (right.clone(), Arithmetic::default());
        change(&mut wrong, &mut arithmetic);
        let distance = golden.distance(&wrong.model().with_arithmetic(arithmetic));
        println!("{name}: max|d| {:.4}", distance.logits);
        let caught = match by {
            By::Logits => distance.logits > TOLERANCE,
            By::States => !distance.states_within_tolerance(),
        };
        if !caught {
            missed.push(format!("{name}: {}", distance.report()));
        }
    }
    assert!(missed.is_empty(), "not caught:\n{}", missed.join("\n"));
}

/// Rows of the gate and up projections, `order` within each group of them.
fn gate_up(checkpoint: &mut Checkpoint, order: &[usize]) {
    for part in [
        "gate_up_proj_blocks",
        "gate_up_proj_scales",
        "gate_up_proj_bias",
    ] {
        checkpoint
            .ending(part)
            .for_each(|stored| stored.permute(2, order));
    }
}

/// What reads as gate, up, gate, up is the first half, then the second.
fn concatenated() -> Vec<usize> {
    (0..96).flat_map(|i| [i, 96 + i]).collect()
}

fn nibbles(checkpoint: &mut Checkpoint, change: fn(&mut [u8])) {
    checkpoint
        .ending("_blocks")
        .for_each(|stored| stored.rows(3).for_each(change));
}

/// A block whose low nibbles are elements 0..16 and whose high nibbles are 16..32, as a reader of neighbours sees it.
fn gguf_order(block: &mut [u8]) {
    let old: Vec<u8> = block.to_vec();
    let element = |i: usize| {
        if i < 16 {
            old[i] & 15
        } else {
            old[i - 16] >> 4
        }
    };
    for (j, byte) in block.iter_mut().enumerate() {
        *byte = element(2 * j) | element(2 * j + 1) << 4;
    }
}

fn layer_types(checkpoint: &mut Checkpoint, pair: [&str; 2]) {
    checkpoint.config["layer_types"] = json!([pair, pair].concat());
}

/// Neighbours in place of halves: a head's even rows first, then its odd ones.
fn interleaved_rope(checkpoint: &mut Checkpoint) {
    let order: Vec<usize> = (0..64).step_by(2).chain((1..64).step_by(2)).collect();
    for part in [
        "q_proj.weight",
        "q_proj.bias",
        "k_proj.weight",
        "k_proj.bias",
    ] {
        checkpoint
            .ending(part)
            .for_each(|stored| stored.permute(1, &order));
    }
}

fn lose(object: &mut Value, key: &str) {
    object
        .as_object_mut()
        .and_then(|map| map.remove(key))
        .expect("a key to lose");
}
