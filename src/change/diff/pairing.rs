//! The query behind a comparison: what is stored of each text under two versions, side by side.
//!
//! Takes digests of two policies' versions and a source, gives SQL over `safeguard.verdicts`. A text's decision under a
//! version is chosen as `safeguard.labels` chooses it: reasoned before scored before screened, then the latest. A screen stands
//! for the model behind it. Both sides are one
//! model's, or the difference would be the models': the current one where it has judged under both, else the one that did
//! last.

use crate::change::source::Source;
use crate::content::postgres::quoted;

/// SQL whose rows are the source's columns where there is one, then: text_digest; label, violates, score, rules and
/// whether there is a decision, under the old version; the same under the new one.
pub fn query((old, new): (&str, &str), model: &str, source: Option<&Source>) -> String {
    let (old, new, model) = (literal(old), literal(new), literal(model));
    let side = |version: &str| {
        format!("SELECT * FROM safeguard_diff_said WHERE place = 1 AND policy_digest = {version}")
    };
    let with = format!(
        "WITH safeguard_diff_screens AS (
            SELECT screen_digest, max(reasoner_digest) AS reasoner_digest
            FROM safeguard.screens GROUP BY screen_digest
        ),
        safeguard_diff_said AS (
            SELECT text_digest, policy_digest, label, violates, score, rules, judged_at,
                coalesce(s.reasoner_digest, v.model_digest) AS model_digest,
                row_number() OVER (
                    PARTITION BY policy_digest, text_digest,
                        coalesce(s.reasoner_digest, v.model_digest)
                    ORDER BY CASE stage WHEN 'screen' THEN 2 WHEN 'score' THEN 1 ELSE 0 END,
                        judged_at DESC, label IS NULL, verdict_digest
                ) AS place
            FROM safeguard.verdicts AS v LEFT JOIN safeguard_diff_screens AS s
                ON v.model_digest = s.screen_digest
            WHERE policy_digest IN ({old}, {new})
        ),
        safeguard_diff_pairs AS (
            SELECT coalesce(o.text_digest, n.text_digest) AS text_digest,
                o.label AS old_label, o.violates AS old_violates, o.score AS old_score,
                o.rules AS old_rules, o.text_digest IS NOT NULL AS old_there,
                n.label AS new_label, n.violates AS new_violates, n.score AS new_score,
                n.rules AS new_rules, n.text_digest IS NOT NULL AS new_there,
                coalesce(n.model_digest, o.model_digest) AS model_digest,
                coalesce(n.judged_at, o.judged_at) AS judged_at
            FROM ({}) AS o FULL JOIN ({}) AS n
                ON o.text_digest = n.text_digest AND o.model_digest = n.model_digest
        ),
        safeguard_diff_chosen AS (
            SELECT *, row_number() OVER (
                PARTITION BY text_digest
                ORDER BY old_there AND new_there DESC, model_digest = {model} DESC,
                    judged_at DESC, model_digest
            ) AS choice
            FROM safeguard_diff_pairs
        )",
        side(&old),
        side(&new)
    );
    let ours = "p.text_digest, p.old_label, p.old_violates, p.old_score, p.old_rules, p.old_there,
        p.new_label, p.new_violates, p.new_score, p.new_rules, p.new_there";
    let chosen = "(SELECT * FROM safeguard_diff_chosen WHERE choice = 1) AS p";
    match source {
        None => format!("{with} SELECT {ours} FROM {chosen}"),
        Some(source) => format!(
            "{with} SELECT s.*, {ours} FROM ({}\n) AS s LEFT JOIN {chosen}
                ON safeguard_digest(CAST(s.{} AS TEXT)) = p.text_digest",
            source.sql,
            quoted(&source.text)
        ),
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
