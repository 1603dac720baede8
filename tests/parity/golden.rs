//! Logits and layer states against transformers, in f32.

use super::checkpoint::{Golden, nano_dir, tiny_dir};
use safeguard::model::GptOss;

fn check(model: &GptOss, golden: &Golden) {
    let distance = golden.distance(model);
    assert!(distance.within_tolerance(), "{}", distance.report());
}

#[test]
fn nano_agrees_with_transformers() {
    let model = GptOss::open(&nano_dir()).expect("nano");
    let golden = Golden::nano();
    assert_eq!(golden.len(), 6);
    golden.iter().for_each(|golden| check(&model, golden));
}

#[test]
fn tiny_agrees_with_transformers_at_97_tokens() {
    check(&GptOss::open(&tiny_dir()).expect("tiny"), &Golden::tiny(97));
}

#[test]
fn tiny_agrees_with_transformers_at_300_tokens() {
    check(
        &GptOss::open(&tiny_dir()).expect("tiny"),
        &Golden::tiny(300),
    );
}

#[test]
fn tiny_agrees_with_transformers_at_2500_tokens() {
    check(
        &GptOss::open(&tiny_dir()).expect("tiny"),
        &Golden::tiny(2500),
    );
}
