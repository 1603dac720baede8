//! The device forward, on the CPU in f32, is the CPU forward; on a GPU, where there is one, nearly so.

use super::*;
use crate::model::{GptOss, KvCache, Piece, Precision};

const NANO_JSON: &[u8] = include_bytes!("../../backend/nano/config.json");
const NANO_WEIGHTS: &[u8] = include_bytes!("../../backend/nano/model.safetensors");
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/tiny");

/// Largest distance of anything that the two forwards give.
const TOLERANCE: f32 = 1e-3;

/// Both forwards of one model, and sequences that each has read.
struct Both {
    host: GptOss,
    device: DeviceModel,
}

#[derive(Clone)]
struct Sequence(KvCache, DeviceCache);

/// The CPU forward in f32 throughout.
fn exact(host: Result<GptOss, ModelError>) -> GptOss {
    host.expect("a model").with_precision(Precision::Exact)
}

fn some_logits(host: &GptOss, rows: &[f32], ids: &[u32]) -> Vec<f32> {
    host.some_logits(rows, ids).expect("logits")
}

impl Both {
    fn nano() -> Both {
        let config = Config::parse(NANO_JSON).expect("config");
        let weights = Weights::embedded(NANO_WEIGHTS).expect("weights");
        Both {
            host: exact(GptOss::from_bytes(NANO_JSON, NANO_WEIGHTS)),
            device: DeviceModel::load(config, &weights, &Device::Cpu).expect("nano"),
        }
    }

    fn tiny() -> Both {
        Both {
            host: exact(GptOss::open(Path::new(TINY))),
            device: DeviceModel::open(Path::new(TINY), &Device::Cpu).expect("tiny"),
        }
    }

    fn sequence(&self) -> Sequence {
        Sequence(self.host.new_cache(), self.device.new_cache())
    }

    /// Ids that differ by `salt`.
    fn ids(&self, salt: usize, count: usize) -> Vec<u32> {
        let vocab = self.host.config().vocab_size;
        (0..count)
            .map(|i| ((i * 7919 + salt * 104_729 + i * i) % vocab) as u32)
            .collect()
    }

    /// Appends to all sequences at once; both forwards agree on what is left and on its logits.
    fn check(&self, what: &str, sequences: &mut [Sequence], ids: &[Vec<u32>]) {
        let (mut host, mut device) = (Vec::new(), Vec::new());
        for (sequence, ids) in sequences.iter_mut().zip(ids) {
            let Sequence(a, b) = sequence;
            host.push(Piece { ids, cache: a });
            device.push(DevicePiece { ids, cache: b });
        }
        let host_rows = self.host.step(&mut host).expect("a step");
        let device_rows = self.device.step(&mut device).expect("a step");
        near(what, &device_rows, &host_rows, TOLERANCE);
        let few = [7, 0, 7, 31];
        near(
            what,
            &self.device.some_logits(&host_rows, &few).expect("logits"),
            &some_logits(&self.host, &host_rows, &few),
            TOLERANCE,
        );
        near(
            what,
            &self.device.all_logits(&device_rows).expect("logits"),
            &self.host.all_logits(&host_rows).expect("logits"),
            TOLERANCE,
        );
        for sequence in sequences {
            assert_eq!(sequence.0.len(), sequence.1.len(), "{what}");
        }
    }
}

#[test]
fn a_model_that_is_moved_there_steps_there() {
    let host = exact(GptOss::open(Path::new(TINY)));
    let moved = GptOss::open_on(Path::new(TINY), Some(&Device::Cpu)).expect("tiny");
    assert_eq!(host.device_numerics(), None);
    assert_eq!(moved.device_numerics(), Some(DeviceModel::NUMERICS));
    assert_eq!(host.digest(), moved.digest(), "the same weights");
    let read = |model: &GptOss, prefix: &[u32], texts: &[&[u32]]| {
        let mut policy = model.new_cache();
        assert!(policy.is_empty());
        let piece = Piece {
            ids: prefix,
            cache: &mut policy,
        };
        model.step(&mut [piece]).expect("a step");
        let mut caches = vec![policy.clone(); texts.len()];
        let pieces = caches.iter_mut().zip(texts);
        let mut pieces: Vec<Piece> = pieces.map(|(cache, ids)| Piece { ids, cache }).collect();
        let rows = model.step(&mut pieces).expect("a step");
        assert_eq!(policy.len(), prefix.len());
        for (cache, ids) in caches.iter().zip(texts) {
            assert_eq!(cache.len(), prefix.len() + ids.len());
            assert!(cache.bytes() >= policy.bytes() && policy.bytes() > 0);
        }
        let some = model.some_logits(&rows, &[3, 500]).expect("logits");
        let all = model.all_logits(&rows).expect("logits");
        (rows, some, all)
    };
    let ids: Vec<u32> = (0..90).map(|i| i * 7919 % 512).collect();
    let (prefix, texts) = (&ids[..40], [&ids[40..41], &ids[41..60], &ids[60..]]);
    let (found, expected) = (read(&moved, prefix, &texts), read(&host, prefix, &texts));
    near("rows", &found.0, &expected.0, TOLERANCE);
    near("some logits", &found.1, &expected.1, TOLERANCE);
    near("all logits", &found.2, &expected.2, TOLERANCE);
    assert!(moved.own_bytes(40, 70) > 0 && moved.own_bytes(40, 70) < moved.own_bytes(0, 70));
    let refused = |model: &GptOss, ids: &[u32]| {
        let mut cache = model.new_cache();
        let cache = &mut cache;
        let step = model.step(&mut [Piece { ids, cache }]);
        step.expect_err("refused").to_string()
    };
    for ids in [&[512][..], &[]] {
        assert_eq!(refused(&moved, ids), refused(&host, ids));
    }
}

#[test]
#[should_panic(expected = "bug: a model on a device gives no rows but the last")]
fn a_forward_of_all_rows_is_the_cpus() {
    let moved = GptOss::open_on(Path::new(TINY), Some(&Device::Cpu)).expect("tiny");
    drop(moved.forward(&[1, 2], &mut moved.new_cache()));
}

#[test]
#[should_panic(expected = "bug: the cache was made for a model on the host")]
fn a_sequence_stays_where_it_is() {
    let host = exact(GptOss::open(Path::new(TINY)));
    let moved = GptOss::open_on(Path::new(TINY), Some(&Device::Cpu)).expect("tiny");
    let mut cache = host.new_cache();
    let (ids, cache) = (&[1][..], &mut cache);
    drop(moved.step(&mut [Piece { ids, cache }]));
}

fn near(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let most = far.fold(
        0.0,
        |most: f32, d| if d.is_nan() { f32::NAN } else { most.max(d) },
    );
    assert!(most <= tolerance, "{what}: {most}");
}

#[test]
fn texts_behind_a_shared_prefix_are_the_cpu_forward() {
    let nano = Both::nano();
    let mut policy = [nano.sequence()];
    nano.check("policy", &mut policy, &[nano.ids(0, 150)]);
    let mut texts: Vec<Sequence> = (0..6).map(|_| policy[0].clone()).collect();
    let lens = [1, 7, 60, 130, 200, 7];
    let ids: Vec<Vec<u32>> = lens
        .iter()
        .enumerate()
        .map(|(i, n)| nano.ids(i + 1, *n))
        .collect();
    nano.check("texts", &mut texts, &ids);
    let shared = texts[0].1.prefix().expect("a prefix").clone();
    assert!(
        texts
            .iter()
            .all(|t| Arc::ptr_eq(t.1.prefix().expect("a prefix"), &shared))
    );
    for go in 0..3 {
        let ids: Vec<Vec<u32>> = (0..6).map(|i| nano.ids(go * 6 + i, 1)).collect();
        nano.check("decode", &mut texts, &ids);
    }
    // What was cloned goes on too, behind itself.
    nano.check("policy again", &mut policy, &[nano.ids(50, 9)]);
}

#[test]
fn prefixes_of_every_length_around_the_window() {
    let tiny = Both::tiny();
    for len in [1, 2, 14, 15, 16, 17, 31, 40] {
        let mut policy = [tiny.sequence()];
        tiny.check("policy", &mut policy, &[tiny.ids(len, len)]);
        let mut texts: Vec<Sequence> = (0..4).map(|_| policy[0].clone()).collect();
        let ids = [1, 15, 16, 40].map(|n| tiny.ids(n, n));
        tiny.check(&format!("behind {len}"), &mut texts, &ids);
        tiny.check(
            &format!("decode behind {len}"),
            &mut texts,
            &[1, 2, 3, 4].map(|i| tiny.ids(i, 1)),
        );
    }
}

#[test]
fn several_policies_none_and_branches_in_one_batch() {
    let tiny = Both::tiny();
    let mut policies = [tiny.sequence(), tiny.sequence()];
    tiny.check(
        "policies",
        &mut policies,
        &[tiny.ids(1, 50), tiny.ids(2, 21)],
    );
    let [one, two] = &policies;
    let mut batch = [two, one, two, one].map(Sequence::clone).to_vec();
    batch.push(tiny.sequence());
    let ids: Vec<Vec<u32>> = [9, 30, 4, 30, 25].iter().map(|n| tiny.ids(3, *n)).collect();
    tiny.check("batch", &mut batch, &ids);
    // Branches of a sequence that has a prefix, of one that has none, and the sequences themselves.
    let branched = [1, 1, 4, 4].map(|at: usize| batch[at].clone());
    batch.extend(branched);
    let ids: Vec<Vec<u32>> = (0..batch.len()).map(|i| tiny.ids(i, 1 + i % 3)).collect();
    tiny.check("branches", &mut batch, &ids);
}

#[test]
fn a_long_sequence_goes_in_pieces() {
    let tiny = Both::tiny();
    let mut long = [tiny.sequence(), tiny.sequence()];
    tiny.check(
        "long",
        &mut long,
        &[tiny.ids(1, 700), tiny.ids(2, DEVICE_STEP_TOKENS)],
    );
    tiny.check("longer", &mut long, &[tiny.ids(3, 300), tiny.ids(4, 2)]);
}

#[test]
fn impossible_steps_change_nothing() {
    let tiny = Both::tiny().device;
    let (mut good, mut bad) = (tiny.new_cache(), tiny.new_cache());
    let mut step = |ids: &[u32]| {
        let pieces = [(&[1, 2][..], &mut good), (ids, &mut bad)];
        let mut pieces = pieces.map(|(ids, cache)| DevicePiece { ids, cache });
        tiny.step(&mut pieces)
            .map(|rows| rows.len())
            .map_err(|e| e.to_string())
    };
    assert_eq!(
        step(&[512]),
        Err("token id 512 is outside the vocabulary of 512".to_owned())
    );
    assert_eq!(step(&[]), Err("no token ids given".to_owned()));
    let over = vec![1; tiny.config().max_position_embeddings + 1];
    assert!(step(&over).is_err_and(|e| e.contains("is over max_position_embeddings")));
    assert_eq!(step(&[3]), Ok(2 * 96));
    assert_eq!((good.len(), bad.len()), (2, 1));
    assert!(tiny.step(&mut []).expect("nothing").is_empty());
    assert!(tiny.some_logits(&[0.0; 96], &[512]).is_err());
    assert!(tiny.some_logits(&[0.0; 96], &[]).is_err());
}

#[test]
fn places_return_to_the_pool_and_have_a_limit() {
    let config = Config::parse(NANO_JSON).expect("config");
    let place = Pool::new(&config, DType::F32, &Device::Cpu, 0)
        .expect("a pool")
        .place_bytes();
    let pool = Pool::new(&config, DType::F32, &Device::Cpu, 3000 * place).expect("a pool");
    let pool = Arc::new(pool);
    let fill = |tokens| {
        let mut cache = DeviceCache::new(&pool);
        cache.reserve(tokens).map(|_| cache)
    };
    let first = fill(2000).expect("room");
    assert_eq!((first.len(), first.bytes()), (2000, 2000 * place));
    let refused = fill(1001).expect_err("no room").to_string();
    assert_eq!(
        refused,
        "sequences of 3001 tokens at once are over the device's limit of 3000"
    );
    for _ in 0..10 {
        drop(fill(1000).expect("room again"));
    }
    // A prefix leaves its places to others.
    let mut clone = first.clone();
    clone.reserve(1).expect("room");
    assert_eq!((clone.len(), first.len()), (2001, 2000));
    fill(2999).expect("room");
}

#[test]
fn a_block_that_would_be_rounded_is_refused_by_its_name() {
    let name = "model.layers.2.mlp.experts.down_proj_scales";
    let (header, metadata) = safetensors::SafeTensors::read_metadata(NANO_WEIGHTS).expect("header");
    let info = metadata.info(name).expect("scales");
    let (start, per_row) = (8 + header + info.data_offsets.0, info.shape[2]);
    let at = (info.shape[1] + 3) * per_row + 1;
    for (code, why) in [
        (90, "cannot be converted without loss"),
        (255, "is not a number"),
    ] {
        let mut bytes = NANO_WEIGHTS.to_vec();
        bytes[start + at] = code;
        let weights = Weights::embedded(bytes.leak()).expect("weights");
        let config = Config::parse(NANO_JSON).expect("config");
        let refused = DeviceModel::load(config, &weights, &Device::Cpu).expect_err("refused");
        let said = refused.to_string();
        let place = "at expert 1, row 3, block 1";
        assert!(
            said.contains(name) && said.contains(why) && said.contains(place),
            "{said}"
        );
    }
}

#[test]
fn brain_floats_are_near() {
    let target = Target {
        device: Device::Cpu,
        dtype: DType::BF16,
    };
    close_to_the_cpu(&target, Box::new(Dequantised { dtype: DType::BF16 }));
}

/// Texts behind a policy on `target`: labels' probabilities, from two logits, are near those of the CPU in f32.
fn close_to_the_cpu(target: &Target, grouped: Box<dyn GroupedProduct>) {
    let config = Config::parse(NANO_JSON).expect("config");
    let weights = Weights::embedded(NANO_WEIGHTS).expect("weights");
    let device = DeviceModel::load_as(config, &weights, target, grouped).expect("nano");
    let both = Both {
        device,
        ..Both::nano()
    };
    let mut policy = both.sequence();
    let ids = both.ids(0, 150);
    both.host
        .step(&mut [Piece {
            ids: &ids,
            cache: &mut policy.0,
        }])
        .expect("a step");
    both.device
        .step(&mut [DevicePiece {
            ids: &ids,
            cache: &mut policy.1,
        }])
        .expect("a step");
    let mut texts: Vec<Sequence> = (0..5).map(|_| policy.clone()).collect();
    let ids: Vec<Vec<u32>> = (0..5).map(|i| both.ids(i, 20 * i + 1)).collect();
    let (mut host, mut device) = (Vec::new(), Vec::new());
    for (Sequence(a, b), ids) in texts.iter_mut().zip(&ids) {
        host.push(Piece { ids, cache: a });
        device.push(DevicePiece { ids, cache: b });
    }
    let host = both.host.step(&mut host).expect("a step");
    let device = both.device.step(&mut device).expect("a step");
    let share = |logits: Vec<f32>| -> Vec<f32> {
        let share = |two: &[f32]| 1.0 / (1.0 + (two[1] - two[0]).exp());
        logits.chunks_exact(2).map(share).collect()
    };
    let host = share(some_logits(&both.host, &host, &[791, 838]));
    let device = share(
        both.device
            .some_logits(&device, &[791, 838])
            .expect("logits"),
    );
    near("probabilities", &device, &host, 0.05);
}

/// The GPU where there is one; says so where there is none.
#[cfg(feature = "cuda")]
fn gpu(test: &str) -> Option<Device> {
    let device = cuda_device();
    if device.is_none() {
        eprintln!("skipped, no CUDA device: {test}");
    }
    device
}

#[cfg(not(feature = "cuda"))]
#[test]
fn on_a_gpu() {
    assert!(cuda_device().is_none());
    eprintln!("skipped, built without the feature cuda: the tests on a GPU");
}

#[test]
fn a_choice_is_kept_or_refused() {
    assert!(chosen_device(DeviceChoice::Cpu).expect("the CPU").is_none());
    let auto = chosen_device(DeviceChoice::Auto).expect("whatever there is");
    let asked = chosen_device(DeviceChoice::Cuda).map_err(|e| e.to_string());
    match (auto.is_some(), cfg!(feature = "cuda")) {
        (true, _) => assert!(asked.is_ok_and(|device| device.is_some())),
        (false, true) => assert_eq!(asked.err().as_deref(), Some("no CUDA device is there")),
        (false, false) => assert_eq!(
            asked.err().as_deref(),
            Some("this program is built without the feature cuda")
        ),
    }
    for (said, choice) in [
        (None, Ok(DeviceChoice::Auto)),
        (Some("cuda"), Ok(DeviceChoice::Cuda)),
        (Some("cpu"), Ok(DeviceChoice::Cpu)),
        (
            Some("gpu"),
            Err("SAFEGUARD_DEVICE is \"gpu\", not auto, cpu or cuda".to_owned()),
        ),
    ] {
        assert_eq!(DeviceChoice::parse(said), choice);
    }
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::super::experts::tests::random;
    use super::*;

    #[test]
    fn probabilities_are_near_those_of_the_cpu() {
        let Some(device) = gpu("probabilities are near those of the CPU") else {
            return;
        };
        for dtype in [DType::F32, DType::BF16] {
            let target = Target {
                device: device.clone(),
                dtype,
            };
            close_to_the_cpu(&target, Box::new(Dequantised { dtype }));
            close_to_the_cpu(&target, Box::new(cuda::Kernels));
        }
    }

    /// Shapes of 20b, one expert and many, few rows and many.
    #[test]
    fn kernels_multiply_as_dequantised_experts_do() {
        let Some(device) = gpu("kernels multiply as dequantised experts do") else {
            return;
        };
        for (rows, out, input) in [(1, 64, 96), (7, 5760, 2880), (300, 2880, 2880)] {
            let (x, experts, routes) = random(rows, [8, out, input], &device);
            let exact = Dequantised { dtype: DType::F32 };
            let exact = numbers(&exact.product(&x, &experts, &routes, false).expect("exact"));
            let size = exact.iter().map(|x| x * x).sum::<f32>() / exact.len() as f32;
            for tensor_cores in [false, true] {
                let found = cuda::packed(&x, &experts, &routes, false, tensor_cores);
                let what = format!("{rows} rows, tensor cores {tensor_cores}");
                near(
                    &what,
                    &numbers(&found.expect("a product")),
                    &exact,
                    0.05 * size.sqrt(),
                );
            }
        }
    }

    /// The kernel on tensor cores lacks a barrier: before it is used this has to hold.
    #[test]
    fn kernels_repeat_their_bits() {
        let Some(device) = gpu("kernels repeat their bits") else {
            return;
        };
        let (x, experts, routes) = random(2000, [32, 5760, 2880], &device);
        for tensor_cores in [false, true] {
            let once = || {
                let found = cuda::packed(&x, &experts, &routes, false, tensor_cores);
                numbers(&found.expect("a product"))
            };
            let first = once();
            for go in 0..20 {
                assert!(
                    once() == first,
                    "tensor cores {tensor_cores}: differs at {go}"
                );
            }
        }
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().and_then(|x| x.to_vec1()).expect("numbers")
    }
}
