//! Every number of a checkpoint looked at once.
//!
//! Takes a model's files, gives what is odd about their numbers: floats that are none, scales of MXFP4 that stand for
//! no number, and scales that the lossless layout of a device cannot hold. Reads what can be wrong and no more: packed
//! elements are numbers whatever their bits are. Knows shapes and bits; whether a finding matters is not decided here.

use super::layout::{self, Part, Stored, Tensor};
use super::weights::Weights;
use super::{Config, ModelError};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Scales under which a block of MXFP4 is a block of Q8_0 without loss.
pub const LOSSLESS: RangeInclusive<u8> = 104..=143;
/// The scale that stands for NaN.
const NAN: u8 = 255;

/// What was found in one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oddity {
    /// Its name.
    pub tensor: String,
    /// Numbers (or blocks, for scales) concerned.
    pub count: u64,
}

/// What all tensors hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Tensors of the architecture; all are there, with their shapes.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Numbers they stand for.
    pub parameters: u64,
    /// Tensors that the architecture does not have; they are not used.
    pub strange: Vec<String>,
    /// Tensors with NaN or infinity, scales of 255 included.
    pub not_finite: Vec<Oddity>,
    /// Lowest and highest scale; `None` where there is none.
    pub scales: Option<(u8, u8)>,
    /// Tensors with scales outside [`LOSSLESS`], by name.
    pub lossy: Vec<Oddity>,
}

/// Looks at a folder in the released layout.
///
/// # Errors
/// What keeps it from being loaded: a missing tensor, a wrong shape, a damaged file.
pub fn scan(dir: &Path) -> Result<Scan, ModelError> {
    scan_weights(&Config::open(dir)?, &Weights::open(dir)?)
}

/// Looks at an embedded model.
///
/// # Errors
/// As [`scan`].
pub fn scan_embedded(config_json: &[u8], weights: &'static [u8]) -> Result<Scan, ModelError> {
    scan_weights(&Config::parse(config_json)?, &Weights::embedded(weights)?)
}

/// The digest of a folder's model, as [`super::GptOss::digest`] gives it: reads every byte.
///
/// # Errors
/// Files that are missing, damaged or unreadable.
pub fn digest(dir: &Path) -> Result<String, ModelError> {
    let weights = Weights::open(dir)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&Config::read(dir)?);
    weights.files().for_each(|bytes| {
        hasher.update(bytes);
    });
    Ok(hasher.finalize().to_hex().to_string())
}

fn scan_weights(config: &Config, weights: &Weights) -> Result<Scan, ModelError> {
    let tensors = layout::tensors(config);
    let mut places = Vec::with_capacity(tensors.len());
    for tensor in &tensors {
        places.push(match tensor.stored() {
            Stored::Bf16 => weights.bf16(&tensor.name, &tensor.shape)?,
            Stored::U8 => weights.u8(&tensor.name, &tensor.shape)?,
        });
    }
    let known: BTreeSet<&str> = tensors.iter().map(|tensor| &*tensor.name).collect();
    let mut strange: Vec<String> = weights.names().map(str::to_owned).collect();
    strange.retain(|name| !known.contains(&**name));
    strange.sort();
    let found = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(tensor), Some(place)) = (tensors.get(index), places.get(index)) else {
                return;
            };
            let one = look(tensor, weights.bytes(place));
            found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((index, one));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(index, _)| *index);
    let mut scan = Scan {
        tensors: tensors.len(),
        bytes: tensors.iter().map(Tensor::bytes).sum(),
        parameters: tensors.iter().map(Tensor::parameters).sum(),
        strange,
        ..Scan::default()
    };
    for (index, one) in found {
        let oddity = |count| Oddity {
            tensor: tensors[index].name.clone(),
            count,
        };
        if one.not_finite > 0 {
            scan.not_finite.push(oddity(one.not_finite));
        }
        if one.lossy > 0 {
            scan.lossy.push(oddity(one.lossy));
        }
        scan.scales = match (scan.scales, one.scales) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }
    Ok(scan)
}

#[derive(Debug, Default)]
struct One {
    not_finite: u64,
    lossy: u64,
    scales: Option<(u8, u8)>,
}

fn look(tensor: &Tensor, bytes: &[u8]) -> One {
    match tensor.part {
        Part::Blocks { .. } => One::default(),
        Part::Scales { .. } => {
            let mut counts = [0u64; 256];
            for &code in bytes {
                counts[usize::from(code)] += 1;
            }
            let mut present = (0..=NAN).filter(|&code| counts[usize::from(code)] > 0);
            let lossy = present.clone().filter(|code| !LOSSLESS.contains(code));
            One {
                not_finite: counts[usize::from(NAN)],
                lossy: lossy.map(|code| counts[usize::from(code)]).sum(),
                scales: present.clone().next().zip(present.next_back()),
            }
        }
        _ => {
            const EXPONENT: u16 = 0x7f80;
            let wild = |pair: &&[u8]| u16::from_le_bytes([pair[0], pair[1]]) & EXPONENT == EXPONENT;
            One {
                not_finite: bytes.chunks_exact(2).filter(wild).count() as u64,
                ..One::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::GptOss;

    fn tiny() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/tiny")
    }

    /// A scan of the tiny checkpoint with bytes of one tensor changed.
    fn with(name: &str, at: usize, new: &[u8]) -> Scan {
        let config = std::fs::read(tiny().join("config.json")).expect("config");
        let mut bytes = std::fs::read(tiny().join("model.safetensors")).expect("weights");
        let (head, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
        let start = 8 + head + metadata.info(name).expect("the tensor").data_offsets.0 + at;
        bytes[start..start + new.len()].copy_from_slice(new);
        scan_embedded(&config, bytes.leak()).expect("scanned")
    }

    #[test]
    fn a_sound_checkpoint_has_nothing_odd() {
        let scan = scan(&tiny()).expect("scanned");
        assert_eq!((&scan.not_finite[..], &scan.lossy[..]), (&[][..], &[][..]));
        assert!(scan.strange.is_empty());
        assert!(scan.scales.is_some_and(|(low, high)| low <= high));
        assert_eq!(scan.tensors, 3 + 4 * 19);
        let model = GptOss::open(&tiny()).expect("a model");
        assert_eq!(digest(&tiny()).expect("read"), model.digest());
    }

    #[test]
    fn what_is_odd_is_named_and_counted() {
        let norm = "model.layers.1.input_layernorm.weight";
        let scales = "model.layers.2.mlp.experts.down_proj_scales";
        // bf16: infinity, NaN, the largest number; then scales outside the range, and of 255.
        let cases: [(&str, &[u8], u64, u64); 5] = [
            (norm, &[0x80, 0x7f], 1, 0),
            (norm, &[0xc0, 0xff, 0x80, 0xff], 2, 0),
            (norm, &[0x7f, 0x7f], 0, 0),
            (scales, &[103, 144, 104, 143], 0, 2),
            (scales, &[255], 1, 1),
        ];
        for (name, new, not_finite, lossy) in cases {
            let scan = with(name, 2, new);
            let oddities = |count| match count {
                0 => vec![],
                count => vec![Oddity {
                    tensor: name.to_owned(),
                    count,
                }],
            };
            assert_eq!(scan.not_finite, oddities(not_finite), "{new:?}");
            assert_eq!(scan.lossy, oddities(lossy), "{new:?}");
        }
        assert_eq!(with(scales, 0, &[1, 254]).scales, Some((1, 254)));
    }
}
