//! Settings and limits: as typed, then as meant. The only reader of settings files and of the environment.

/// Texts longer than this many tokens are `undecided: too_long`; never cut.
pub const TEXT_TOKENS_MAX: usize = 4_096;
/// Policies longer than this many tokens are refused.
pub const POLICY_TOKENS_MAX: usize = 16_384;
/// Tokens of analysis before the final header is forced.
pub const ANALYSIS_TOKENS_MAX: usize = 2_048;
/// Texts that one local model holds at once in each lane, waiting or running; further ones wait outside.
pub const IN_FLIGHT_TEXTS_MAX: usize = 1_024;
/// Bytes of keys and values kept for policies that were asked before, least recently used out first.
pub const PREFIX_CACHE_BYTES_MAX: usize = 1 << 30;
/// Policies whose length in tokens a local model remembers for estimates.
pub const PREFIX_LENGTHS_MAX: usize = 1_024;
/// A model whose weights are no larger than this as f32 is dequantised once, when it is loaded; the experts of a larger
/// one stay packed and are dequantised at each use.
pub const MODEL_RESIDENT_BYTES_MAX: usize = 1 << 30;
/// Longer prefills go through the layers in pieces of this many tokens, which bounds their memory.
pub const PREFILL_TOKENS: usize = 512;
/// Attention scores (f32) held at once; queries are taken in groups that stay below it.
pub const ATTENTION_SCORES_MAX: usize = 1 << 22;
