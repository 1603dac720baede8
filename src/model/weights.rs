//! The weight files: where each tensor lies, checked before anything is read from it.
//!
//! Takes a folder with `model.safetensors`, or with shards and `model.safetensors.index.json`, mapped into memory; or
//! embedded bytes. Gives the bytes of tensors whose name, dtype and shape were asked for and found right; an error
//! names tensor, file, what was expected and what was found. Knows the format and dtypes of the released layout,
//! not what the tensors mean. Mapped files must not be changed while the model is in use, as with any mapping.

use super::ModelError;
use half::bf16;
use memmap2::Mmap;
use safeguard_kernels::mxfp4::{BLOCK, BLOCK_BYTES};
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// All weight files of a model.
#[derive(Debug)]
pub struct Weights {
    files: Vec<WeightFile>,
    places: HashMap<String, Place>,
}

#[derive(Debug)]
struct WeightFile {
    name: String,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

#[derive(Debug)]
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// A checked tensor: its bytes stay where they are until [`Weights::bytes`] is asked for them.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its name, for errors.
    pub name: String,
    file: usize,
    range: Range<usize>,
}

impl Weights {
    /// Maps the weight files of a folder.
    pub fn open(dir: &Path) -> Result<Weights, ModelError> {
        let index = dir.join(INDEX);
        if dir.join(SINGLE).exists() {
            return Weights::new(vec![map(dir, SINGLE)?]);
        }
        if !index.exists() {
            return Err(ModelError::NoWeights {
                dir: dir.to_owned(),
            });
        }
        let text = std::fs::read(&index).map_err(|source| ModelError::Read {
            path: index,
            source,
        })?;
        let shards = shards(&text)?;
        let files = shards
            .iter()
            .map(|shard| map(dir, shard))
            .collect::<Result<_, _>>()?;
        Weights::new(files)
    }

    /// Takes one safetensors file that is already in memory.
    pub fn embedded(bytes: &'static [u8]) -> Result<Weights, ModelError> {
        Weights::new(vec![WeightFile {
            name: SINGLE.to_owned(),
            bytes: Bytes::Embedded(bytes),
        }])
    }

    fn new(files: Vec<WeightFile>) -> Result<Weights, ModelError> {
        let mut places = HashMap::new();
        for (at, file) in files.iter().enumerate() {
            let bytes = file.bytes();
            let damaged = |why: String| ModelError::WeightFile {
                file: file.name.clone(),
                bytes: bytes.len(),
                why,
            };
            let (header, metadata) =
                SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
            let data = size_of::<u64>() + header;
            for (name, info) in metadata.tensors() {
                let (start, end) = info.data_offsets;
                let range = data + start..data + end;
                places.insert(
                    name,
                    Place {
                        file: at,
                        dtype: info.dtype,
                        shape: info.shape.clone(),
                        range,
                    },
                );
            }
        }
        Ok(Weights { files, places })
    }

    /// The file names, in the order in which the digest takes them.
    pub fn files(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(WeightFile::bytes)
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Bytes of all files.
    pub fn bytes_in_all(&self) -> usize {
        self.files().map(<[u8]>::len).sum()
    }

    /// The name of the file that holds `stored`.
    pub fn file_of(&self, stored: &Stored) -> &str {
        &self.files[stored.file].name
    }

    /// A tensor of 16-bit brain floats.
    pub fn bf16(&self, name: &str, shape: &[usize]) -> Result<Stored, ModelError> {
        self.checked(name, Dtype::BF16, "BF16", shape)
    }

    /// A tensor of bytes.
    pub fn u8(&self, name: &str, shape: &[usize]) -> Result<Stored, ModelError> {
        self.checked(name, Dtype::U8, "U8", shape)
    }

    /// MXFP4 matrices `NAME_blocks` and `NAME_scales`, `shape` is `[experts, rows, cols]`.
    pub fn mxfp4(&self, name: &str, shape: [usize; 3]) -> Result<(Stored, Stored), ModelError> {
        let [experts, rows, cols] = shape;
        let per_row = cols / BLOCK;
        let blocks = [experts, rows, per_row, BLOCK_BYTES];
        Ok((
            self.u8(&format!("{name}_blocks"), &blocks)?,
            self.u8(&format!("{name}_scales"), &blocks[..3])?,
        ))
    }

    fn checked(
        &self,
        name: &str,
        dtype: Dtype,
        expected: &'static str,
        shape: &[usize],
    ) -> Result<Stored, ModelError> {
        let place = self
            .places
            .get(name)
            .ok_or_else(|| ModelError::TensorMissing {
                name: name.to_owned(),
                file: if self.files.len() == 1 {
                    self.files[0].name.clone()
                } else {
                    "every shard".to_owned()
                },
            })?;
        let file = || self.files[place.file].name.clone();
        if place.dtype != dtype {
            let found = place.dtype.to_string();
            return Err(ModelError::TensorDtype {
                name: name.to_owned(),
                file: file(),
                expected,
                found,
            });
        }
        if place.shape != shape {
            return Err(ModelError::TensorShape {
                name: name.to_owned(),
                file: file(),
                expected: shape.to_vec(),
                found: place.shape.clone(),
            });
        }
        Ok(Stored {
            name: name.to_owned(),
            file: place.file,
            range: place.range.clone(),
        })
    }

    /// The bytes of a checked tensor.
    pub fn bytes(&self, stored: &Stored) -> &[u8] {
        &self.files[stored.file].bytes()[stored.range.clone()]
    }

    /// A checked tensor of brain floats, widened. Exact.
    pub fn widened(&self, stored: &Stored) -> Vec<f32> {
        widen(self.bytes(stored)).collect()
    }
}

/// Brain floats as stored (little-endian), widened to f32. Exact.
pub fn widen(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .chunks_exact(2)
        .map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32())
}

impl WeightFile {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
        }
    }
}

/// Names of the weight files in an index, sorted.
fn shards(index: &[u8]) -> Result<BTreeSet<String>, ModelError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let index: Index =
        serde_json::from_slice(index).map_err(|e| ModelError::Index { why: e.to_string() })?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|shard| shard.contains(['/', '\\'])) {
        Some(outside) => Err(ModelError::Index {
            why: format!("{outside:?} is not a file name"),
        }),
        None => Ok(shards),
    }
}

fn map(dir: &Path, name: &str) -> Result<WeightFile, ModelError> {
    let path = dir.join(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(ModelError::ShardMissing {
                shard: name.to_owned(),
            });
        }
        Err(source) => return Err(ModelError::Read { path, source }),
    };
    // SAFETY: the mapping is read-only and private to this value. Another process that shortens or rewrites the file
    // while it is mapped can crash or mislead us; the module's documentation forbids it, as nothing can prevent it.
    let bytes = unsafe { Mmap::map(&file) }.map_err(|source| ModelError::Read { path, source })?;
    Ok(WeightFile {
        name: name.to_owned(),
        bytes: Bytes::Mapped(bytes),
    })
}
