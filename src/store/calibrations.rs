//! Calibrations as they are read back: the latest of a scorer.

use super::db::{self, Connection, Optional};
use super::records::{CalibrationRow, Digest};

/// The latest of a scorer; none where it was never calibrated.
pub(super) fn latest(reader: &Connection, scorer: &Digest) -> db::Result<Option<CalibrationRow>> {
    let mut select = reader.prepare_cached(
        "SELECT scorer_digest, policy, policy_version, policy_digest, model, model_digest, golden,
                golden_digest, target, gap, golden_rows, scored, scored_right, rows_above,
                right_above, bound, calibrated_at
         FROM calibrations WHERE scorer_digest = ?1 ORDER BY id DESC LIMIT 1",
    )?;
    let read = |row: &db::Row<'_>| {
        let count = |at| row.get::<i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
        Ok(CalibrationRow {
            scorer_digest: row.get(0)?,
            policy: row.get(1)?,
            policy_version: row.get(2)?,
            policy_digest: row.get(3)?,
            model: row.get(4)?,
            model_digest: row.get(5)?,
            golden: row.get(6)?,
            golden_digest: row.get(7)?,
            target: row.get(8)?,
            gap: row.get(9)?,
            golden_rows: count(10)?,
            scored: count(11)?,
            scored_right: count(12)?,
            rows_above: count(13)?,
            right_above: count(14)?,
            bound: row.get(15)?,
            calibrated_at: row.get(16)?,
        })
    };
    select.query_row([scorer], read).optional()
}
