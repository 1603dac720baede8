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
/// Tokens that a local model reads in one go; between two goes it notices a cancelled text.
pub const PREFILL_TOKENS_MAX: usize = 512;
/// Policies whose length in tokens a local model remembers for estimates.
pub const PREFIX_LENGTHS_MAX: usize = 1_024;
