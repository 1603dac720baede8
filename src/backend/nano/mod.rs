//! safeguard-nano: the demonstration model that is a part of this program. Its card is the README.md beside this file.

/// Its name in verdicts.
pub(super) const NAME: &str = "safeguard-nano";
/// `config.json`
pub(super) const CONFIG: &[u8] = include_bytes!("config.json");
/// `tokenizer.json`
pub(super) const TOKENIZER: &[u8] = include_bytes!("tokenizer.json");
/// `model.safetensors`
pub(super) const WEIGHTS: &[u8] = &ALIGNED.0;

/// `include_bytes!` promises no alignment, and a loader of tensors may want one.
#[repr(C, align(64))]
struct Aligned<const N: usize>([u8; N]);

static ALIGNED: Aligned<{ include_bytes!("model.safetensors").len() }> =
    Aligned(*include_bytes!("model.safetensors"));
