//! How fast a model has been lately: what its latest verdicts took.
//!
//! Takes a model and a mode, gives sums over the latest verdicts whose time was measured. Knows nothing of estimates.

use super::Store;
use super::error::StoreError;
use super::writer::count;
use crate::config::{RATE_SEARCHED_MAX, RATE_VERDICTS};
use rusqlite::{Connection, params};

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

fn rate(c: &Connection, model_digest: &str, mode: &str) -> rusqlite::Result<Option<Rate>> {
    // Among the latest of all, so that a model that was never asked costs no search of the whole file.
    let sql = "SELECT count(*), total(tokens_in), total(tokens_out), total(seconds) FROM (
                   SELECT tokens_in, tokens_out, seconds FROM (
                       SELECT judge, tokens_in, tokens_out, seconds FROM verdicts
                       ORDER BY id DESC LIMIT ?3
                   )
                   WHERE seconds > 0 AND judge IN (
                       SELECT id FROM judges WHERE model_digest = ?1 AND mode = ?2 AND stage IN ('score', 'reason')
                   )
                   LIMIT ?4
               )";
    let values = params![
        model_digest,
        mode,
        count(RATE_SEARCHED_MAX),
        count(RATE_VERDICTS)
    ];
    let rate = c.prepare_cached(sql)?.query_row(values, |row| {
        Ok(Rate {
            questions: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
            tokens_in: row.get::<_, f64>(1)? as u64,
            tokens_out: row.get::<_, f64>(2)? as u64,
            seconds: row.get(3)?,
        })
    })?;
    Ok((rate.questions > 0).then_some(rate))
}

#[cfg(test)]
mod tests {
    use super::super::tests::verdict;
    use super::*;
    use crate::store::Record;

    #[tokio::test]
    async fn a_rate_is_the_latest_verdicts_of_a_model_and_a_mode() {
        let store = Store::ephemeral().unwrap();
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
}
