//! Evaluations: what a policy made of its golden texts, and the labels that people gave as golden rows.
//!
//! Takes an evaluation with its rows, stores them whole or not at all; gives people's labels of a policy back with their
//! texts. Texts stand in here beside their digests, so that erasure by digest finds them.

use super::db::{self, Connection, params};
use super::facts::count;
use super::records::Digest;
use super::{Store, StoreError};
use std::sync::Arc;

/// One policy measured once. Appended, never updated.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationRow {
    /// Microseconds since 1970-01-01 UTC.
    pub evaluated_at: i64,
    /// Who.
    pub evaluated_by: String,
    /// The policy's name; `*` for several together.
    pub policy: String,
    /// Its version, from 1; 0 for a text that is not published.
    pub version: u32,
    /// See [`super::VersionRow::digest`]; empty for several together.
    pub digest: String,
    /// The version that it was held against: `hate@3`.
    pub against: Option<String>,
    /// Where the golden rows came from.
    pub golden: String,
    /// Digest over the golden rows.
    pub golden_digest: Digest,
    /// The model's name.
    pub model: String,
    /// Weights and numerics class.
    pub model_digest: String,
    /// The setting it was judged under.
    pub mode: String,
    /// The setting it was judged under.
    pub effort: String,
    /// How often each row was asked again.
    pub repeats: u32,
    /// Why it was made.
    pub note: String,
    /// Golden rows.
    pub n: u64,
    /// Those with a verdict.
    pub predicted: u64,
    /// Those whose label is the golden one.
    pub right: u64,
    /// Those without a verdict.
    pub undecided: u64,
    /// Share of right rows with its interval; none without rows.
    pub accuracy: Option<[f64; 3]>,
    /// Rows that were not always given the same label; none where nothing was asked again.
    pub unstable: Option<u64>,
    /// Rows whose label is another one than under `against`, of these those that became right, and those that became
    /// wrong.
    pub changes: Option<[u64; 3]>,
}

/// One golden text and what was said of it. Either `label` or `reason` is there, never both.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluatedText {
    /// The policy's name.
    pub policy: Arc<str>,
    /// Its version.
    pub version: u32,
    /// See [`super::text_digest`].
    pub text_digest: Digest,
    /// The text itself.
    pub text: Arc<str>,
    /// `golden` or `override`.
    pub source: &'static str,
    /// What people say.
    pub golden_label: Arc<str>,
    /// Whether that is another than the allowed one.
    pub golden_violates: bool,
    /// What was given.
    pub label: Option<Arc<str>>,
    /// Why none was.
    pub reason: Option<&'static str>,
    /// Whether the label is another than the allowed one.
    pub violates: Option<bool>,
    /// P(not the allowed label), where there is one.
    pub score: Option<f64>,
    /// Whether further questions were answered otherwise; none where there were none.
    pub unstable: Option<bool>,
    /// Codes of the rules that the rationale names.
    pub rules: Vec<Arc<str>>,
}

impl Store {
    /// Stores an evaluation with its rows; gives its id.
    pub async fn append_evaluation(
        &self,
        evaluation: EvaluationRow,
        rows: Vec<EvaluatedText>,
    ) -> Result<i64, StoreError> {
        self.transact(move |writer| {
            let id = append(writer, &evaluation)?;
            for row in &rows {
                append_text(writer, id, row)?;
            }
            Ok(id)
        })
        .await
    }

    /// The latest label that people gave each text under a policy, with the text; texts that are not stored are left
    /// out. By text.
    pub async fn spoken(&self, policy: &str) -> Result<Vec<(String, String)>, StoreError> {
        let policy = policy.to_owned();
        self.read(move |reader| {
            let mut select = reader.prepare_cached(
                "SELECT t.text, o.label
                 FROM (SELECT text_digest, label, row_number() OVER (
                           PARTITION BY text_digest ORDER BY decided_at DESC, id DESC) AS place
                       FROM overrides WHERE policy = ?1) AS o
                 JOIN (SELECT text_digest, max(text) AS text
                       FROM overrides WHERE policy = ?1 GROUP BY text_digest) AS t
                   ON t.text_digest = o.text_digest
                 WHERE o.place = 1 AND t.text IS NOT NULL ORDER BY t.text",
            )?;
            select
                .query_map([&policy], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }
}

fn append(writer: &Connection, e: &EvaluationRow) -> db::Result<i64> {
    let [accuracy, low, high] = e.accuracy.map_or([None; 3], |figure| figure.map(Some));
    let [flips, fixed, broken] = e.changes.map_or([None; 3], |n| n.map(|n| Some(count(n))));
    let sql =
        "INSERT INTO evaluations (evaluated_at, evaluated_by, policy, version, digest, against,
                   golden, golden_digest, model, model_digest, mode, effort, repeats, note, n,
                   predicted, \"right\", undecided, accuracy, accuracy_low, accuracy_high, unstable,
                   flips, fixed, broken)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                   ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)";
    writer.prepare_cached(sql)?.insert(params![
        e.evaluated_at,
        e.evaluated_by,
        e.policy,
        e.version,
        e.digest,
        e.against,
        e.golden,
        e.golden_digest,
        e.model,
        e.model_digest,
        e.mode,
        e.effort,
        e.repeats,
        e.note,
        count(e.n),
        count(e.predicted),
        count(e.right),
        count(e.undecided),
        accuracy,
        low,
        high,
        e.unstable.map(count),
        flips,
        fixed,
        broken,
    ])
}

fn append_text(writer: &Connection, evaluation: i64, t: &EvaluatedText) -> db::Result<()> {
    let sql = "INSERT INTO evaluation_rows (evaluation, policy, version, text_digest, source,
                   golden_label, golden_violates, label, reason, violates, score, unstable, rules,
                   text)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
    let values = params![
        evaluation,
        t.policy,
        t.version,
        t.text_digest,
        t.source,
        t.golden_label,
        t.golden_violates,
        t.label,
        t.reason,
        t.violates,
        t.score,
        t.unstable,
        super::facts::words(&t.rules),
        t.text,
    ];
    writer.prepare_cached(sql)?.execute(values).map(drop)
}
