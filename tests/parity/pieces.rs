//! A sequence in pieces, behind a shared prefix, or beside others is the same sequence, to the bit.

use super::checkpoint::{Golden, nano_dir, tiny_dir};
use safeguard::model::{GptOss, KvCache, write_logits};

fn forward(model: &GptOss, ids: &[u32], cache: &mut KvCache) -> Vec<Vec<f32>> {
    model
        .forward(ids, cache)
        .and_then(|hidden| Ok(hidden.to_vec2()?))
        .expect("a forward")
}

/// One forward equals forwards of the pieces that begin at `cuts`, each on a clone of the cache before it.
fn check(model: &GptOss, ids: &[u32], cuts: &[usize]) {
    let whole = forward(model, ids, &mut model.new_cache());
    let mut caches = vec![model.new_cache()];
    let ends = [cuts, &[ids.len()]].concat();
    let mut pieces = Vec::new();
    for end in ends {
        let mut cache = caches[caches.len() - 1].clone();
        pieces.extend(forward(model, &ids[cache.len()..end], &mut cache));
        caches.push(cache);
    }
    assert_eq!(caches[caches.len() - 1].len(), ids.len());
    assert!(
        pieces == whole,
        "pieces at {cuts:?} of {} ids differ",
        ids.len()
    );
    // The clones left every earlier cache as it was: each continues to the same end.
    for cache in caches
        .iter()
        .take(4)
        .filter(|cache| cache.len() < ids.len())
    {
        let from = cache.len();
        assert!(
            forward(model, &ids[from..], &mut cache.clone()) == whole[from..],
            "from {from} again: differs"
        );
    }
}

#[test]
fn pieces_of_tiny() {
    let model = GptOss::open(&tiny_dir()).expect("tiny");
    let ids = Golden::tiny(300).ids;
    let cuts: &[&[usize]] = &[
        &[1],
        &[15],
        &[16],
        &[17],
        &[31, 32, 33],
        &[97],
        &[127],
        &[128],
        &[129],
        &[128, 256],
        &[100, 101, 250],
        &[299],
    ];
    cuts.iter().for_each(|cuts| check(&model, &ids, cuts));
    let every: Vec<usize> = (1..97).collect();
    check(&model, &ids[..97], &every);
}

#[test]
fn pieces_of_nano() {
    let model = GptOss::open(&nano_dir()).expect("nano");
    let prompts = Golden::nano();
    let longer_than_the_window = &prompts[4].ids;
    let cuts: &[&[usize]] = &[
        &[127],
        &[128],
        &[129],
        &[255, 256, 257],
        &[300, 301, 302, 303],
        &[128, 256, 384],
    ];
    cuts.iter()
        .for_each(|cuts| check(&model, longer_than_the_window, cuts));
    let every: Vec<usize> = (100..149).collect();
    check(&model, &prompts[0].ids, &every);
    // Longer than one internal piece of a prefill.
    check(&model, &prompts[5].ids[..1100], &[511, 513]);
}

#[test]
fn two_texts_share_a_prefix() {
    let model = GptOss::open(&nano_dir()).expect("nano");
    let prompts = Golden::nano();
    let (policy, texts) = (
        &prompts[2].ids[..120],
        [&prompts[2].ids[120..], &prompts[3].ids[120..]],
    );
    let mut prefix = model.new_cache();
    forward(&model, policy, &mut prefix);
    let alone = texts.map(|text| forward(&model, &[policy, text].concat(), &mut model.new_cache()));
    // From two threads at once, each on its own clone.
    let shared = std::thread::scope(|scope| {
        let (model, prefix) = (&model, &prefix);
        texts
            .map(|text| scope.spawn(move || forward(model, text, &mut prefix.clone())))
            .map(|t| t.join().expect("joined"))
    });
    for (alone, shared) in alone.iter().zip(&shared) {
        assert!(
            alone[policy.len()..] == shared[..],
            "a text behind a shared prefix differs from the text alone"
        );
    }
    assert_eq!(prefix.len(), 120);
}

#[test]
fn chosen_logits_are_those_of_the_whole_head() {
    for (dir, rows) in [(nano_dir(), [838u32, 791, 838]), (tiny_dir(), [0, 511, 7])] {
        let model = GptOss::open(&dir).expect("a model");
        let hidden = model
            .forward(&[1, 2, 3], &mut model.new_cache())
            .expect("a forward");
        let all: Vec<Vec<f32>> = model
            .logits(&hidden)
            .and_then(|t| Ok(t.to_vec2()?))
            .expect("logits");
        for count in 1..=rows.len() {
            let some: Vec<Vec<f32>> = model
                .logits_of(&hidden, &rows[..count])
                .and_then(|t| Ok(t.to_vec2()?))
                .expect("logits");
            for (some, all) in some.iter().zip(&all) {
                let expected: Vec<f32> =
                    rows[..count].iter().map(|row| all[*row as usize]).collect();
                assert_eq!(some, &expected, "{count} rows");
            }
        }
    }
}

#[test]
fn written_logits_read_back_as_computed() {
    #[derive(serde::Deserialize)]
    struct Line {
        position: usize,
        logits: Vec<f32>,
    }
    let model = GptOss::open(&tiny_dir()).expect("tiny");
    let ids = &Golden::tiny(97).ids[..40];
    let hidden = model
        .forward(ids, &mut model.new_cache())
        .expect("a forward");
    let all: Vec<Vec<f32>> = model
        .logits(&hidden)
        .and_then(|t| Ok(t.to_vec2()?))
        .expect("logits");
    for (last, first) in [(None, 0), (Some(3), 37), (Some(100), 0), (Some(0), 40)] {
        let mut out = Vec::new();
        write_logits(&model, ids, last, &mut out).expect("written");
        let lines: Vec<Line> = out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), ids.len() - first, "last {last:?}");
        for (line, position) in lines.iter().zip(first..) {
            assert_eq!(line.position, position);
            assert!(line.logits == all[position], "position {position}");
        }
    }
}
