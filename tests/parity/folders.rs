//! Folders that are not a model, and questions that are not answered: each error says exactly what is wrong.

use super::checkpoint::{Checkpoint, Golden, tiny_dir};
use safeguard::model::GptOss;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What is put into the folder, given the tiny checkpoint.
type Fill = fn(&Path, Checkpoint);

const SHARDS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

/// `{dir}` stands for the folder.
const CASES: &[(&str, Fill, &str)] = &[
    (
        "empty folder",
        |_, _| (),
        "cannot read {dir}/config.json: No such file or directory (os error 2)",
    ),
    (
        "config only",
        |dir, c| write(dir, "config.json", &c.config_bytes()),
        "{dir} has neither model.safetensors nor model.safetensors.index.json",
    ),
    (
        "config that is not JSON",
        |dir, _| write(dir, "config.json", b"{\n"),
        "config.json is not valid JSON: EOF while parsing an object at line 2 column 0",
    ),
    (
        "another architecture",
        |dir, mut c| {
            c.config["model_type"] = json!("mixtral");
            save(dir, &c);
        },
        "config.json: model_type is \"mixtral\", only \"gpt_oss\" is supported",
    ),
    (
        "config without a key",
        |dir, mut c| {
            c.config
                .as_object_mut()
                .and_then(|map| map.remove("num_local_experts"))
                .expect("a key");
            save(dir, &c);
        },
        "config.json: num_local_experts is missing",
    ),
    (
        "missing tensor",
        |dir, mut c| {
            c.tensors
                .remove("model.layers.1.self_attn.sinks")
                .expect("sinks");
            save(dir, &c);
        },
        "tensor model.layers.1.self_attn.sinks is missing from model.safetensors",
    ),
    (
        "misshapen tensor",
        |dir, mut c| {
            c.tensors
                .get_mut("model.layers.0.mlp.experts.down_proj_blocks")
                .expect("blocks")
                .shape = vec![8, 96, 48];
            save(dir, &c);
        },
        "tensor model.layers.0.mlp.experts.down_proj_blocks in model.safetensors has shape [8, 96, 48], expected \
         [8, 96, 3, 16]",
    ),
    (
        "another vocabulary than the config's",
        |dir, mut c| {
            c.config["vocab_size"] = json!(513);
            save(dir, &c);
        },
        "tensor model.embed_tokens.weight in model.safetensors has shape [512, 96], expected [513, 96]",
    ),
    (
        "wrong dtype",
        |dir, mut c| {
            c.tensors.get_mut("model.norm.weight").expect("norm").dtype = Dtype::F16;
            save(dir, &c);
        },
        "tensor model.norm.weight in model.safetensors has dtype F16, expected BF16",
    ),
    (
        "scale that is not a number",
        |dir, mut c| {
            c.tensors
                .get_mut("model.layers.3.mlp.experts.gate_up_proj_scales")
                .expect("scales")
                .bytes[576 + 7] = 255;
            save(dir, &c);
        },
        "tensor model.layers.3.mlp.experts.gate_up_proj_scales in model.safetensors is not a number at expert 1, row \
         2, block 1 (scale 255)",
    ),
    (
        "file cut in its data",
        |dir, c| cut(dir, &c, 1_000_000),
        "model.safetensors is damaged or cut short (1000000 bytes): incomplete metadata, file not fully covered",
    ),
    (
        "file cut in its header",
        |dir, c| cut(dir, &c, 100),
        "model.safetensors is damaged or cut short (100 bytes): invalid header length",
    ),
    (
        "empty file",
        |dir, c| cut(dir, &c, 0),
        "model.safetensors is damaged or cut short (0 bytes): header too small",
    ),
    (
        "missing shard",
        |dir, c| {
            shards(dir, &c);
            fs::remove_file(dir.join(SHARDS[1])).expect("removed");
        },
        "model-00002-of-00002.safetensors is missing, model.safetensors.index.json names it",
    ),
    (
        "tensor in no shard",
        |dir, mut c| {
            c.tensors.remove("lm_head.weight").expect("head");
            shards(dir, &c);
        },
        "tensor lm_head.weight is missing from every shard",
    ),
    (
        "index that is not one",
        |dir, c| {
            shards(dir, &c);
            write(dir, "model.safetensors.index.json", b"{}");
        },
        "model.safetensors.index.json is not valid: missing field `weight_map` at line 1 column 2",
    ),
    (
        "index that leaves the folder",
        |dir, c| {
            shards(dir, &c);
            write(
                dir,
                "model.safetensors.index.json",
                br#"{"weight_map":{"a":"../a.safetensors"}}"#,
            );
        },
        "model.safetensors.index.json is not valid: \"../a.safetensors\" is not a file name",
    ),
];

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    fs::write(dir.join(name), bytes).expect("written");
}

fn save(dir: &Path, checkpoint: &Checkpoint) {
    write(dir, "config.json", &checkpoint.config_bytes());
    write(dir, "model.safetensors", &checkpoint.weight_bytes(|_| true));
}

fn cut(dir: &Path, checkpoint: &Checkpoint, bytes: usize) {
    write(dir, "config.json", &checkpoint.config_bytes());
    write(
        dir,
        "model.safetensors",
        &checkpoint.weight_bytes(|_| true)[..bytes],
    );
}

fn shards(dir: &Path, checkpoint: &Checkpoint) {
    let shard = |name: &str| SHARDS[usize::from(name.contains(".1.") || name.contains(".2."))];
    write(dir, "config.json", &checkpoint.config_bytes());
    for name in SHARDS {
        write(
            dir,
            name,
            &checkpoint.weight_bytes(|tensor| shard(tensor) == name),
        );
    }
    let map: serde_json::Map<String, Value> = checkpoint
        .tensors
        .keys()
        .map(|name| (name.clone(), json!(shard(name))))
        .collect();
    write(
        dir,
        "model.safetensors.index.json",
        json!({"weight_map": map}).to_string().as_bytes(),
    );
}

#[test]
fn a_bad_folder_is_named() {
    let tiny = Checkpoint::read(&tiny_dir());
    for (name, fill, expected) in CASES {
        let dir = tempfile::tempdir().expect("a folder");
        fill(dir.path(), tiny.clone());
        let found = GptOss::open(dir.path())
            .map(|_| ())
            .map_err(|e| e.to_string());
        let expected = expected.replace("{dir}", &dir.path().display().to_string());
        assert_eq!(found, Err(expected), "{name}");
    }
}

#[test]
fn shards_are_the_same_model() {
    let dir = tempfile::tempdir().expect("a folder");
    let tiny = Checkpoint::read(&tiny_dir());
    shards(dir.path(), &tiny);
    let model = GptOss::open(dir.path()).expect("shards");
    let distance = Golden::tiny(97).distance(&model);
    assert!(distance.within_tolerance(), "{}", distance.report());
    let mut bytes = tiny.config_bytes();
    SHARDS
        .iter()
        .for_each(|name| bytes.extend(fs::read(dir.path().join(name)).expect("a shard")));
    assert_eq!(model.digest(), blake3::hash(&bytes).to_hex().as_str());
}

#[test]
fn impossible_questions_are_refused_and_change_nothing() {
    let mut tiny = Checkpoint::read(&tiny_dir());
    tiny.config["max_position_embeddings"] = json!(10);
    let model = tiny.model();
    let mut cache = model.new_cache();
    model.forward(&[1, 2, 3], &mut cache).expect("a forward");
    let eight = [1; 8];
    let cases: [(&[u32], &str); 3] = [
        (&[1, 512], "token id 512 is outside the vocabulary of 512"),
        (&[], "no token ids given"),
        (
            &eight,
            "sequence of 11 tokens is over max_position_embeddings = 10",
        ),
    ];
    for (ids, expected) in cases {
        assert_eq!(
            model
                .forward(ids, &mut cache)
                .map(|_| ())
                .map_err(|e| e.to_string()),
            Err(expected.to_owned())
        );
        assert_eq!(cache.len(), 3);
    }
    let hidden = model
        .forward(&[1; 7], &mut cache)
        .expect("the last positions");
    let refused = model
        .logits_of(&hidden, &[5, u32::MAX])
        .map(|_| ())
        .map_err(|e| e.to_string());
    assert_eq!(
        refused,
        Err("token id 4294967295 is outside the vocabulary of 512".to_owned())
    );
}
