//! The facts that the store keeps, as its callers know them.
//!
//! Plain data: verdicts (or why there is none), versions of policies, overrides by people, calibrations, and what each
//! statement cost. Digests are raw bytes here and lower-case hex in SQL. Knows nothing of SQLite or Arrow.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// BLAKE3 of bytes.
pub type Digest = [u8; 32];

/// The digest of a text: BLAKE3 of its UTF-8 bytes, nothing added.
pub fn text_digest(text: &str) -> Digest {
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// The time of every record: microseconds since 1970-01-01 UTC.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// 64 lower-case hex digits.
pub fn to_hex(digest: &Digest) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}

/// The digest that 64 hex digits of either case spell; `None` for anything else.
pub fn from_hex(hex: &str) -> Option<Digest> {
    blake3::Hash::from_hex(hex)
        .ok()
        .map(|hash| *hash.as_bytes())
}

/// One decision about one text, with its whole provenance. Either `label` or `reason` is there, never both.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The key: everything that the decision depends on. Two records with the same key are the same fact.
    pub verdict_digest: Digest,
    /// The policy's name, or `inline`.
    pub policy: Arc<str>,
    /// The policy's version, from 1; 0 for an inline policy.
    pub policy_version: u32,
    /// The digest of the policy's version, hex: the same as [`VersionRow::digest`].
    pub policy_digest: Arc<str>,
    /// See [`text_digest`].
    pub text_digest: Digest,
    /// One of the policy's labels; `None` where undecided.
    pub label: Option<Arc<str>>,
    /// Whether the label is another than the allowed one; `None` where undecided.
    pub violates: Option<bool>,
    /// P(not the allowed label), where the stage gives one. Not a number is stored as none.
    pub score: Option<f64>,
    /// Log-odds of the label against the next best one, where the stage gives them.
    pub gap: Option<f64>,
    /// The stored why. It can quote the text; erasure blanks it.
    pub rationale: Option<Arc<str>>,
    /// Codes of the rules that the rationale names, in the policy's order.
    pub rules: Vec<Arc<str>>,
    /// Why it is undecided; `None` for a verdict.
    pub reason: Option<Arc<str>>,
    /// `screen`, `score`, `reason` or `human`.
    pub stage: Arc<str>,
    /// The setting it was judged under.
    pub mode: Arc<str>,
    /// The setting it was judged under.
    pub effort: Arc<str>,
    /// The model's name.
    pub model: Arc<str>,
    /// Weights and numerics class.
    pub model_digest: Arc<str>,
    /// Prompt tokens.
    pub tokens_in: u64,
    /// Decoded tokens.
    pub tokens_out: u64,
    /// The question's part of the backend's busy time; `None` where it was not measured. Recall does not read it.
    pub seconds: Option<f64>,
    /// Microseconds since 1970-01-01 UTC.
    pub judged_at: i64,
}

/// One published version of a policy. Immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    /// The policy.
    pub name: String,
    /// From 1; the highest is current.
    pub version: u32,
    /// Hex; what [`Record::policy_digest`] of its verdicts says.
    pub digest: String,
    /// The source, front matter included if it has one.
    pub text: String,
    /// Its labels in order, as JSON.
    pub labels: String,
    /// For people.
    pub title: Option<String>,
    /// Microseconds since 1970-01-01 UTC.
    pub published_at: i64,
    /// Who.
    pub published_by: Option<String>,
    /// Why.
    pub note: Option<String>,
}

/// A person's label for a text. The latest for a policy and text wins, whatever the policy's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideRow {
    /// The policy's name.
    pub policy: String,
    /// See [`text_digest`].
    pub text_digest: Digest,
    /// The text itself, where the reviewer gave it.
    pub text: Option<String>,
    /// One of the policy's labels.
    pub label: String,
    /// Whether the label is another than the allowed one.
    pub violates: bool,
    /// Who.
    pub reviewer: Option<String>,
    /// Why.
    pub note: Option<String>,
    /// Microseconds since 1970-01-01 UTC.
    pub decided_at: i64,
}

/// From which gap on the scores of a policy and a model are trusted, and on what evidence. The latest of a scorer counts.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrationRow {
    /// Digest over all that a score depends on beside the text.
    pub scorer_digest: Digest,
    /// The policy's name, or `inline`.
    pub policy: String,
    /// The policy's version, from 1; 0 for an inline policy.
    pub policy_version: u32,
    /// See [`Record::policy_digest`].
    pub policy_digest: String,
    /// The model's name.
    pub model: String,
    /// Weights and numerics class.
    pub model_digest: String,
    /// Where the golden rows came from: `shipped`, or a table's name.
    pub golden: String,
    /// Digest over the golden rows.
    pub golden_digest: Digest,
    /// Share of right labels that was asked for, between 0 and 1.
    pub target: f64,
    /// Scores with a gap of this much or more are trusted; `None` where none are.
    pub gap: Option<f64>,
    /// Rows of the golden set.
    pub golden_rows: u64,
    /// Those with a score; the others are undecided.
    pub scored: u64,
    /// Those whose scored label is the golden one.
    pub scored_right: u64,
    /// Scored rows at or above the gap; without one, at or above the best candidate.
    pub rows_above: u64,
    /// Those of them that are right.
    pub right_above: u64,
    /// Lower confidence bound on the share of right labels among texts as far above.
    pub bound: f64,
    /// Microseconds since 1970-01-01 UTC.
    pub calibrated_at: i64,
}

/// What one statement that classified did and cost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueryRow {
    /// Microseconds since 1970-01-01 UTC.
    pub started_at: i64,
    /// Who asked.
    pub user: String,
    /// The SQL as typed.
    pub statement: String,
    /// How it ended.
    pub status: String,
    /// Rows judged, recalled ones included.
    pub rows: u64,
    /// Distinct pairs of policy and text.
    pub distinct_texts: u64,
    /// Answered from this store.
    pub recalled: u64,
    /// Decided by a screen.
    pub screened: u64,
    /// Questions put to a backend.
    pub asked: u64,
    /// Left without a verdict.
    pub undecided: u64,
    /// Prompt tokens.
    pub tokens_in: u64,
    /// Decoded tokens.
    pub tokens_out: u64,
    /// Wall time.
    pub seconds: f64,
    /// Under which role's limits it asked; `None` where there was no server.
    pub role: Option<String>,
    /// The model that it asked, or would have.
    pub model: Option<String>,
    /// Its questions' part of the backend's busy time.
    pub busy_seconds: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_hex_both_ways() {
        let digest = text_digest("");
        let hex = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(to_hex(&digest), hex);
        assert_eq!(from_hex(hex), Some(digest));
        assert_eq!(from_hex(&hex.to_uppercase()), Some(digest));
        for bad in [
            "",
            "af",
            &hex[1..],
            &format!("{hex}0"),
            &hex.replace('a', "g"),
            "ä",
        ] {
            assert_eq!(from_hex(bad), None, "{bad:?}");
        }
    }
}
