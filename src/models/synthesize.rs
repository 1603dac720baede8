//! A model of random numbers, in the released layout.
//!
//! Takes a shape and a folder, writes `config.json`, safetensors in shards and their index: what a bench needs that must
//! run the arithmetic of a released model without having its weights. Its answers mean nothing. The same order gives
//! the same bytes on every machine. Memory is bounded by a buffer for each thread, whatever the model's size.

use super::random::Random;
use super::{ModelsError, Shape, disk};
use crate::config::{SHARD_BYTES_MAX, SYNTHESIS_CHUNK_BYTES};
use crate::model::layout::{self, Stored, Tensor};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What to write.
#[derive(Debug, Clone)]
pub struct Order {
    /// Which released model to look like.
    pub shape: Shape,
    /// Layers, where not as many as the released model has.
    pub layers: Option<usize>,
    /// Another seed gives other numbers.
    pub seed: u64,
}

/// A part of a tensor: one write.
#[derive(Debug)]
struct Chunk<'a> {
    path: &'a Path,
    /// In the file.
    at: u64,
    len: usize,
    tensor: &'a Tensor,
    /// Of the tensor in the layout.
    index: u64,
    /// Of the chunk in the tensor.
    number: u64,
}

/// One weight file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    name: String,
    /// Length and JSON, as a file begins.
    head: Vec<u8>,
    /// With each tensor's place in the layout; in the order of the file.
    tensors: Vec<(usize, Tensor)>,
}

/// Writes a folder that is missing or empty; `told` hears of bytes written and of all there will be. The number of
/// bytes of weights.
///
/// `config.json` is written last: a folder that was left half written is no model.
pub fn synthesize(
    order: &Order,
    dir: &Path,
    told: &(dyn Fn(u64, u64) + Sync),
) -> Result<u64, ModelsError> {
    let config = order.shape.config(order.layers)?;
    let tensors = layout::tensors(&config);
    let total: u64 = tensors.iter().map(Tensor::bytes).sum();
    make_empty(dir)?;
    disk::check(dir, total)?;
    let shards = shards(dir, tensors, SHARD_BYTES_MAX);
    for shard in &shards {
        begin(shard)?;
    }
    let chunks: Vec<Chunk> = shards.iter().flat_map(chunks).collect();
    write_all(order.seed, &chunks, &|written| told(written, total))?;
    if shards.len() > 1 {
        write(dir, "model.safetensors.index.json", &index(&shards, total))?;
    }
    if order.shape == Shape::Nano {
        // The others have the vocabulary that is compiled into this program.
        write(
            dir,
            "tokenizer.json",
            crate::backend::nano_files().tokenizer,
        )?;
    }
    write(dir, "config.json", &order.shape.config_json(order.layers))?;
    Ok(total)
}

fn make_empty(dir: &Path) -> Result<(), ModelsError> {
    std::fs::create_dir_all(dir).map_err(ModelsError::io("make", dir))?;
    let mut entries = std::fs::read_dir(dir).map_err(ModelsError::io("read", dir))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(ModelsError::NotEmpty(dir.to_owned())),
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), ModelsError> {
    let path = dir.join(name);
    std::fs::write(&path, bytes).map_err(ModelsError::io("write", &path))
}

/// Cuts the layout into files of at most `limit` bytes of tensors; a tensor that is larger has a file to itself.
fn shards(dir: &Path, tensors: Vec<Tensor>, limit: u64) -> Vec<Shard> {
    let mut groups: Vec<Vec<(usize, Tensor)>> = Vec::new();
    let mut room = 0;
    for (index, tensor) in tensors.into_iter().enumerate() {
        let bytes = tensor.bytes();
        if groups.is_empty() || bytes > room {
            groups.push(Vec::new());
            room = limit;
        }
        room = room.saturating_sub(bytes);
        if let Some(group) = groups.last_mut() {
            group.push((index, tensor));
        }
    }
    let count = groups.len();
    let shard = |(number, mut tensors): (usize, Vec<(usize, Tensor)>)| {
        // As the format's own writer: wide numbers first, which keeps them aligned, then by name.
        tensors.sort_by(|(_, a), (_, b)| {
            let key = |tensor: &Tensor| (tensor.stored() == Stored::U8, tensor.name.clone());
            key(a).cmp(&key(b))
        });
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        Shard {
            path: dir.join(&name),
            head: head(&tensors),
            name,
            tensors,
        }
    };
    groups.into_iter().enumerate().map(shard).collect()
}

fn head(tensors: &[(usize, Tensor)]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for (_, tensor) in tensors {
        let end = at + tensor.bytes();
        let dtype = match tensor.stored() {
            Stored::Bf16 => "BF16",
            Stored::U8 => "U8",
        };
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [at, end]});
        entries.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.extend(json);
    head
}

fn index(shards: &[Shard], total: u64) -> Vec<u8> {
    let places: Map<String, Value> = shards
        .iter()
        .flat_map(|shard| {
            let name = |(_, tensor): &(usize, Tensor)| (tensor.name.clone(), json!(shard.name));
            shard.tensors.iter().map(name)
        })
        .collect();
    json!({"metadata": {"total_size": total}, "weight_map": places})
        .to_string()
        .into_bytes()
}

/// Writes what a file begins with, and gives it its length.
fn begin(shard: &Shard) -> Result<(), ModelsError> {
    let bytes: u64 = shard.tensors.iter().map(|(_, tensor)| tensor.bytes()).sum();
    let made = || -> std::io::Result<()> {
        let mut file = File::create_new(&shard.path)?;
        file.write_all(&shard.head)?;
        file.set_len(shard.head.len() as u64 + bytes)
    };
    made().map_err(ModelsError::io("write", &shard.path))
}

fn chunks(shard: &Shard) -> Vec<Chunk<'_>> {
    let mut at = shard.head.len() as u64;
    let mut chunks = Vec::new();
    for (index, tensor) in &shard.tensors {
        let end = at + tensor.bytes();
        for number in 0.. {
            if at == end {
                break;
            }
            let len = (end - at).min(SYNTHESIS_CHUNK_BYTES);
            chunks.push(Chunk {
                path: &shard.path,
                at,
                len: len as usize,
                tensor,
                index: *index as u64,
                number,
            });
            at += len;
        }
    }
    chunks
}

/// Every core makes and writes the next chunk; the first failure stops all.
fn write_all(
    seed: u64,
    chunks: &[Chunk<'_>],
    told: &(dyn Fn(u64) + Sync),
) -> Result<(), ModelsError> {
    let (next, written) = (AtomicUsize::new(0), std::sync::atomic::AtomicU64::new(0));
    let work = || -> Result<(), ModelsError> {
        let mut buffer = Vec::new();
        let mut open: Option<(&Path, File)> = None;
        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            buffer.resize(chunk.len, 0);
            Random::new(seed, chunk.index, chunk.number).fill(chunk.tensor.part, &mut buffer);
            let put = || put(chunk, &buffer, &mut open);
            if let Err(error) = { put }() {
                next.store(chunks.len(), Ordering::Relaxed);
                return Err(ModelsError::io("write", chunk.path)(error));
            }
            let len = chunk.len as u64;
            told(written.fetch_add(len, Ordering::Relaxed) + len);
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })
}

fn put<'a>(
    chunk: &Chunk<'a>,
    bytes: &[u8],
    open: &mut Option<(&'a Path, File)>,
) -> std::io::Result<()> {
    if open.as_ref().is_none_or(|(path, _)| *path != chunk.path) {
        *open = Some((chunk.path, File::options().write(true).open(chunk.path)?));
    }
    let Some((_, file)) = open else {
        unreachable!("bug: the file was opened above");
    };
    file.seek(SeekFrom::Start(chunk.at))?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::GptOss;

    fn order(layers: usize, seed: u64) -> Order {
        Order {
            shape: Shape::Nano,
            layers: Some(layers),
            seed,
        }
    }

    fn quiet(_: u64, _: u64) {}

    #[test]
    fn what_is_written_is_a_model_whose_logits_are_finite() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().join("deep/er");
        let total = synthesize(&order(3, 1), &dir, &quiet).expect("written");
        let model = GptOss::open(&dir).expect("a model");
        let weights = dir.join("model.safetensors").metadata().expect("weights");
        assert!(weights.len() > total && weights.len() < total + 10_000);
        assert_eq!(model.config().num_hidden_layers, 3);
        let ids: Vec<u32> = (0..300).map(|n| n * 27 % 8192).collect();
        let hidden = model.forward(&ids, &mut model.new_cache()).expect("hidden");
        let hidden: Vec<f32> = hidden
            .flatten_all()
            .and_then(|x| x.to_vec1())
            .expect("numbers");
        let logits = model
            .all_logits(&hidden[..model.config().hidden_size])
            .expect("logits");
        let spread = logits.iter().map(|x| x * x).sum::<f32>() / logits.len() as f32;
        assert!((0.3..3.0).contains(&spread), "{spread}");
        assert!(hidden.iter().chain(&logits).all(|x| x.is_finite()));
    }

    #[test]
    fn the_same_order_gives_the_same_model() {
        let digest = |seed| {
            let dir = tempfile::tempdir().expect("a folder");
            synthesize(&order(1, seed), dir.path(), &quiet).expect("written");
            GptOss::open(dir.path())
                .expect("a model")
                .digest()
                .to_owned()
        };
        assert_eq!(digest(1), digest(1));
        assert_ne!(digest(1), digest(2));
    }

    #[test]
    fn shards_hold_the_layout_once_and_load_as_one_file_does() {
        let config = Shape::Nano.config(Some(2)).expect("nano");
        let dir = tempfile::tempdir().expect("a folder");
        let shards = shards(dir.path(), layout::tensors(&config), 1_000_000);
        let names: Vec<&str> = shards.iter().map(|shard| &*shard.name).collect();
        assert!(names.len() > 3, "{names:?}");
        assert!(names[0].starts_with("model-00001-of-0000"));
        shards.iter().for_each(|shard| begin(shard).expect("begun"));
        let all: Vec<Chunk> = shards.iter().flat_map(chunks).collect();
        write_all(5, &all, &|_| ()).expect("written");
        let total = all.iter().map(|chunk| chunk.len as u64).sum();
        write(
            dir.path(),
            "model.safetensors.index.json",
            &index(&shards, total),
        )
        .expect("index");
        write(dir.path(), "config.json", &Shape::Nano.config_json(Some(2))).expect("config");
        let whole = tempfile::tempdir().expect("a folder");
        synthesize(&order(2, 5), whole.path(), &quiet).expect("written");
        let logits = |dir: &Path| {
            let model = GptOss::open(dir).expect("a model");
            let hidden = model
                .forward(&[1, 2, 3], &mut model.new_cache())
                .expect("hidden");
            hidden
                .flatten_all()
                .and_then(|x| x.to_vec1::<f32>())
                .expect("numbers")
        };
        assert_eq!(logits(dir.path()), logits(whole.path()));
    }

    #[test]
    fn a_folder_in_use_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("mine"), "").expect("written");
        let refused = synthesize(&order(1, 1), dir.path(), &quiet).expect_err("refused");
        assert!(refused.to_string().ends_with("is not empty"), "{refused}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 1);
    }
}
