//! Calibration: scores of golden rows in, the gap from which on scores of this policy and model are trusted out.
//!
//! Takes a version of a policy, its golden rows and a target; scores the rows through the same stack as everybody's texts
//! (so that their verdicts are facts, recalled the next time), chooses a threshold and stores what was found. What it
//! promises holds for texts like the golden ones, as far as their labels are right. Knows no SQL.

use super::cascade::{Cascade, scoring};
use super::threshold::{Choice, Scored, choose, rows_needed};
use crate::config::CALIBRATION_RISK;
use crate::policy::Version;
use crate::policy::golden::GoldenRow;
use crate::store::{CalibrationRow, Digest, now};
use futures::TryStreamExt;
use safeguard_udfs::{Classifier, ClassifyError, Decision, Request, Statement};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Golden rows and where they came from.
#[derive(Debug, Clone)]
pub struct Golden {
    /// `shipped`, a file, or a table or query as it was said.
    pub source: Arc<str>,
    /// Distinct texts, with labels of the policy.
    pub rows: Vec<GoldenRow>,
}

impl Golden {
    /// Digest over texts and labels, whatever their order.
    pub fn digest(&self) -> Digest {
        // A table gives its rows in any order.
        let mut rows: Vec<[&Arc<str>; 2]> = self.rows.iter().map(|r| [&r.text, &r.label]).collect();
        rows.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        for part in rows.into_iter().flatten() {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

impl Cascade {
    /// Calibrates the scores of one version of a policy and stores the finding, which counts from then on.
    /// `policy`: as SQL named the version; `target`: share of right labels wanted, above 0 and below 1.
    ///
    /// # Errors
    /// As [`Classifier::classify`]; [`ClassifyError::Unscored`] where a row was not scored for a reason that passes.
    pub async fn calibrate(
        &self,
        policy: Arc<str>,
        golden: &Golden,
        target: f64,
        statement: &Statement,
    ) -> Result<CalibrationRow, ClassifyError> {
        let version = self.policies.resolve(&policy)?;
        let settings = Arc::new(scoring(statement.settings()));
        let scorer_digest = self.recall.judge_digest(&version, &settings);
        let tally = Arc::clone(statement.tally());
        let texts = golden.rows.iter().map(|row| Arc::clone(&row.text));
        let request = Request {
            policy,
            texts: texts.collect(),
            settings,
            tally: Arc::clone(&tally),
            again: false,
            fresh: false,
        };
        tally.saw_rows(golden.rows.len() as u64);
        let mut scored = Vec::new();
        let mut missing: BTreeMap<&str, u64> = BTreeMap::new();
        let mut decisions = self.recall.classify(request);
        while let Some((i, decision)) = decisions.try_next().await? {
            tally.decided(&decision);
            scored.extend(score(&decision, &golden.rows[i]));
            if let Err(undecided) = &decision
                && !undecided.reason.is_fact()
            {
                *missing.entry(undecided.reason.as_str()).or_default() += 1;
            }
        }
        if !missing.is_empty() {
            let why: Vec<String> = missing.iter().map(|(r, n)| format!("{n} {r}")).collect();
            return Err(ClassifyError::Unscored {
                missing: missing.values().sum(),
                rows: golden.rows.len() as u64,
                why: why.join(", "),
            });
        }
        let row = self.row(&version, golden, (target, &scored), scorer_digest);
        let stored = self.store.append_calibration(row.clone()).await;
        stored.map_err(|e| ClassifyError::Store(e.to_string()))?;
        Ok(row)
    }

    fn row(
        &self,
        version: &Version,
        golden: &Golden,
        (target, scored): (f64, &[Scored]),
        scorer_digest: Digest,
    ) -> CalibrationRow {
        let Choice {
            gap,
            above,
            right,
            bound,
        } = choose(scored, target);
        CalibrationRow {
            scorer_digest,
            policy: version.name.to_string(),
            policy_version: version.number,
            policy_digest: version.digest.to_string(),
            model: self.model.name.to_string(),
            model_digest: self.model.digest.to_string(),
            golden: golden.source.to_string(),
            golden_digest: golden.digest(),
            target,
            gap,
            golden_rows: golden.rows.len() as u64,
            scored: scored.len() as u64,
            scored_right: scored.iter().filter(|row| row.right).count() as u64,
            rows_above: above as u64,
            right_above: right as u64,
            bound,
            calibrated_at: now(),
        }
    }
}

/// `None` for a text without a verdict: in mode `auto` it has none either, so that nothing is promised of it.
fn score(decision: &Decision, golden: &GoldenRow) -> Option<Scored> {
    let verdict = decision.as_ref().ok()?;
    Some(Scored {
        gap: verdict.gap.unwrap_or(0.0),
        right: verdict.label == golden.label,
    })
}

/// A finding in words, with its numbers.
pub fn in_words(row: &CalibrationRow) -> String {
    let needed = rows_needed(row.target) as u64;
    let (above, right, bound) = (row.rows_above, row.right_above, row.bound);
    let sure = 100.0 * (1.0 - CALIBRATION_RISK);
    match row.gap {
        Some(gap) => format!(
            "scores with a gap of {gap:.3} or more stand, {above} of {} golden rows; {right} of them are right, which \
             makes it {bound:.3} or better with {sure:.0}% confidence",
            row.scored
        ),
        None if row.scored < needed => format!(
            "every text is reasoned about: {} golden rows with a score are too few for a target of {}, which takes \
             {needed} that are all right",
            row.scored, row.target
        ),
        None => format!(
            "every text is reasoned about: of the {above} golden rows with the largest gaps {right} are right, which \
             proves no more than {bound:.3}, below the target of {}",
            row.target
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_said_with_its_numbers() {
        let row = |gap, scored, rows_above, right_above, bound| CalibrationRow {
            scorer_digest: [0; 32],
            policy: "hate".into(),
            policy_version: 1,
            policy_digest: String::new(),
            model: "nano".into(),
            model_digest: String::new(),
            golden: "shipped".into(),
            golden_digest: [0; 32],
            target: 0.95,
            gap,
            golden_rows: 200,
            scored,
            scored_right: scored,
            rows_above,
            right_above,
            bound,
            calibrated_at: 0,
        };
        let cases = [
            (
                row(Some(2.5), 190, 120, 119, 0.9561),
                "scores with a gap of 2.500 or more stand, 120 of 190 golden rows; 119 of them are right, which makes \
                 it 0.956 or better with 95% confidence",
            ),
            (
                row(None, 71, 71, 71, 0.949),
                "every text is reasoned about: 71 golden rows with a score are too few for a target of 0.95, which \
                 takes 72 that are all right",
            ),
            (
                row(None, 190, 90, 85, 0.88),
                "every text is reasoned about: of the 90 golden rows with the largest gaps 85 are right, which proves \
                 no more than 0.880, below the target of 0.95",
            ),
        ];
        for (row, said) in cases {
            assert_eq!(in_words(&row), said);
        }
    }
}
