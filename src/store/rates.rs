//! How fast a model has been lately: what its latest verdicts took.
//!
//! Takes a model and a mode, gives sums over the latest verdicts whose time was measured. Knows nothing of estimates.

use super::Store;
use super::db::{self, Connection, params};
use super::error::StoreError;
use super::facts::count;
use crate::config::{RATE_SEARCHED_MAX, RATE_VERDICTS};

/// What the latest verdicts of a model and a mode took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    /// How many verdicts.
    pub questions: u64,
    /// Their prompt tokens.
    pub tokens_in: u64,
    /// Their decoded tokens.
    pub tokens_out: u64,
    /// Their parts of the backend's busy time.
    pub seconds: f64,
}

impl Store {
    /// How fast the model of this digest has been in a mode, over its latest verdicts; `None` where nothing was measured.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn rate(
        &self,
        model_digest: String,
        mode: &'static str,
    ) -> Result<Option<Rate>, StoreError> {
        self.read(move |c| rate(c, &model_digest, mode)).await
    }
}

fn rate(c: &Connection, model_digest: &str, mode: &str) -> db::Result<Option<Rate>> {
    // Among the latest of all, so that a model that was never asked costs no search of the whole file.
    let sql = "SELECT count(*), CAST(sum(tokens_in) AS BIGINT), CAST(sum(tokens_out) AS BIGINT), sum(seconds)
               FROM (
                   SELECT tokens_in, tokens_out, seconds FROM (
                       SELECT judge, tokens_in, tokens_out, seconds FROM verdicts
                       ORDER BY id DESC LIMIT ?3
                   ) AS latest
                   WHERE seconds > 0 AND judge IN (
                       SELECT id FROM judges WHERE model_digest = ?1 AND mode = ?2 AND stage IN ('score', 'reason')
                   )
                   LIMIT ?4
               ) AS timed";
    let values = params![
        model_digest,
        mode,
        count(RATE_SEARCHED_MAX),
        count(RATE_VERDICTS)
    ];
    let whole = |n: Option<i64>| u64::try_from(n.unwrap_or(0)).unwrap_or(0);
    let rate = c.prepare_cached(sql)?.query_row(values, |row| {
        Ok(Rate {
            questions: whole(row.get(0)?),
            tokens_in: whole(row.get(1)?),
            tokens_out: whole(row.get(2)?),
            seconds: row.get::<Option<f64>>(3)?.unwrap_or(0.0),
        })
    })?;
    Ok((rate.questions > 0).then_some(rate))
}

#[cfg(test)]
mod tests {
    use super::super::tests::verdict;
    use super::*;
    use crate::store::Record;
    use crate::store::bed::{Bed, on_both};

    async fn a_rate_is_the_latest_verdicts_of_a_model_and_a_mode(bed: Bed) {
        let store = bed.new_store();
        let timed = |n: u64, mode: &str, seconds| Record {
            mode: mode.into(),
            stage: mode.into(),
            model_digest: "m".into(),
            tokens_in: 100,
            tokens_out: 7,
            seconds,
            ..verdict(n)
        };
        let all = (0..RATE_VERDICTS + 50).map(|n| match n {
            0..50 => timed(n, "reason", Some(9.0)),
            _ => timed(n, "reason", Some(0.5)),
        });
        store.append(all.collect()).await.unwrap();
        store
            .append(vec![timed(5_000, "score", None)])
            .await
            .unwrap();
        let n = RATE_VERDICTS;
        let want = Rate {
            questions: n,
            tokens_in: 100 * n,
            tokens_out: 7 * n,
            seconds: n as f64 / 2.0,
        };
        let rate = |model: &str, mode| store.rate(model.to_owned(), mode);
        assert_eq!(rate("m", "reason").await.unwrap(), Some(want));
        assert_eq!(rate("m", "score").await.unwrap(), None, "it was not timed");
        assert_eq!(rate("other", "reason").await.unwrap(), None);
    }

    on_both!(a_rate_is_the_latest_verdicts_of_a_model_and_a_mode,);
}
