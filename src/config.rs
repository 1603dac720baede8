//! Settings and limits: as typed, then as meant. The only reader of settings files and of the environment.

/// Texts longer than this many tokens are `undecided: too_long`; never cut.
pub const TEXT_TOKENS_MAX: usize = 4_096;
/// Policies longer than this many tokens are refused.
pub const POLICY_TOKENS_MAX: usize = 16_384;
/// Tokens of analysis before the final header is forced.
pub const ANALYSIS_TOKENS_MAX: usize = 2_048;
