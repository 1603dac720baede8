//! A row of a batch is the row alone, to the bit: beside others, in another order, on other threads, behind a prefix of
//! any length.

use super::checkpoint::nano_dir;
use safeguard::model::{GptOss, KvCache, Piece, Precision};

const VOCABULARY: u32 = 8192;

fn ids(count: usize, seed: u32) -> Vec<u32> {
    let count = count as u32;
    (0..count)
        .map(|i| (i * 7919 + seed * 104_729 + i * i) % VOCABULARY)
        .collect()
}

/// What the last tokens leave, each sequence continuing its cache.
fn step(model: &GptOss, texts: &[&[u32]], caches: &mut [KvCache]) -> Vec<Vec<f32>> {
    let mut pieces: Vec<Piece> = texts
        .iter()
        .zip(caches)
        .map(|(ids, cache)| Piece { ids, cache })
        .collect();
    let rows = model.step(&mut pieces).expect("a step");
    let width = model.config().hidden_size;
    rows.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

/// Reads a text and then, one by one, the tokens of `more`; what every step left.
fn read(model: &GptOss, texts: &[&[u32]], more: &[u32], prefix: &KvCache) -> Vec<Vec<Vec<f32>>> {
    let mut caches = vec![prefix.clone(); texts.len()];
    let mut left = vec![step(model, texts, &mut caches)];
    for id in more {
        let next = vec![std::slice::from_ref(id); texts.len()];
        left.push(step(model, &next, &mut caches));
    }
    left
}

#[test]
fn neighbours_order_and_threads_change_no_bit() {
    for precision in [Precision::Exact, Precision::Int16, Precision::Int8] {
        let model = GptOss::open(&nano_dir())
            .expect("nano")
            .with_precision(precision);
        let mut prefix = model.new_cache();
        step(&model, &[&ids(300, 1)], std::slice::from_mut(&mut prefix));
        // Ragged, some longer than a block of keys and than the window.
        let texts: Vec<Vec<u32>> = (0..64)
            .map(|i| ids(1 + i * 37 % 190, 2 + i as u32))
            .collect();
        let all: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let more = [11, 12, 13];
        let on = |threads: usize, texts: &[&[u32]]| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().expect("threads");
            pool.install(|| read(&model, texts, &more, &prefix))
        };
        let together = on(2, &all);
        assert!(on(1, &all) == together, "{precision:?}: one thread differs");
        let turned: Vec<&[u32]> = all.iter().rev().copied().collect();
        for (there, here) in on(2, &turned).iter().zip(&together) {
            assert!(
                there.iter().rev().eq(here),
                "{precision:?}: another order differs"
            );
        }
        for i in (0..64).step_by(5) {
            let alone = on(1 + i % 2, &all[i..i + 1]);
            for (alone, together) in alone.iter().zip(&together) {
                assert!(
                    alone[0] == together[i],
                    "{precision:?}: row {i} alone differs"
                );
            }
        }
    }
}

#[test]
fn a_prefix_of_any_length_changes_no_bit() {
    let model = GptOss::open(&nano_dir())
        .expect("nano")
        .with_precision(Precision::Int16);
    let (policy, texts) = (ids(400, 3), [ids(24, 4), ids(140, 5), ids(1, 6)]);
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let mut prefix = model.new_cache();
    for length in 1..=policy.len() {
        step(
            &model,
            &[&policy[length - 1..length]],
            std::slice::from_mut(&mut prefix),
        );
        let together = step(&model, &texts, &mut vec![prefix.clone(); texts.len()]);
        // All three in turn: each whole prompt alone costs what its prefix does.
        let i = length % texts.len();
        let prompt = [&policy[..length], texts[i]].concat();
        let alone = step(&model, &[&prompt], &mut [model.new_cache()]);
        assert!(
            alone[0] == together[i],
            "text {i} behind a prefix of {length}"
        );
    }
}

#[test]
fn different_prefixes_and_lengths_mix_in_one_step() {
    let model = GptOss::open(&nano_dir())
        .expect("nano")
        .with_precision(Precision::Int16);
    let prefixes: Vec<KvCache> = [130, 290, 1]
        .iter()
        .map(|length| {
            let mut cache = model.new_cache();
            step(
                &model,
                &[&ids(*length, 7)],
                std::slice::from_mut(&mut cache),
            );
            cache
        })
        .collect();
    let texts: Vec<Vec<u32>> = (0..12).map(|i| ids(3 + i * 11, 20 + i as u32)).collect();
    let views: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let mut caches: Vec<KvCache> = (0..12).map(|i| prefixes[i % 3].clone()).collect();
    let together = step(&model, &views, &mut caches);
    for (i, together) in together.iter().enumerate() {
        let alone = step(&model, &views[i..i + 1], &mut [prefixes[i % 3].clone()]);
        assert!(alone[0] == *together, "row {i}");
    }
}
