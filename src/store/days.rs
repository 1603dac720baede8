//! What roles have spent of their limits of a day.
//!
//! Takes a wish, gives what is left of the limit for it, counted as spent at once; takes back what was not needed. A day
//! that nobody counted yet begins with what statements of the role are known to have spent on it. Days are numbered from
//! 1970-01-01 UTC. Knows nothing of who asks what.

use super::Store;
use super::db::{self, Connection, Optional, params};
use super::error::StoreError;
use super::facts::count;

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// A wish.
#[derive(Debug, Clone)]
pub struct DayLease {
    /// Days since 1970-01-01.
    pub day: i64,
    /// Whose.
    pub role: &'static str,
    /// Questions that the role may put in a day; `None` for no limit.
    pub asked_per_day: Option<u64>,
    /// Tokens that it may spend in a day; `None` for no limit.
    pub tokens_per_day: Option<u64>,
    /// Questions wished for.
    pub asked: u64,
    /// Tokens wished for.
    pub tokens: u64,
}

impl Store {
    /// Counts up to so many questions and tokens as spent; gives how many of each, 0 of what has no limit. They stay spent
    /// until they are given back.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn lease_day(&self, lease: DayLease) -> Result<(u64, u64), StoreError> {
        self.transact(move |c| take(c, &lease)).await
    }

    /// Questions and tokens that count as spent of a role's day.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn day_spent(&self, day: i64, role: &'static str) -> Result<(u64, u64), StoreError> {
        self.read(move |c| Ok(known(c, day, role)?.unwrap_or_default()))
            .await
    }

    /// Counts so many questions and tokens of a day and a role as not spent after all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn give_day_back(
        &self,
        (day, role, asked, tokens): (i64, &'static str, u64, u64),
    ) -> Result<(), StoreError> {
        self.transact(move |c| {
            let sql = "UPDATE limit_days
                       SET asked = CASE WHEN asked > ?3 THEN asked - ?3 ELSE 0 END,
                           tokens = CASE WHEN tokens > ?4 THEN tokens - ?4 ELSE 0 END
                       WHERE day = ?1 AND role = ?2";
            let values = params![day, role, count(asked), count(tokens)];
            c.prepare_cached(sql)?.execute(values).map(drop)
        })
        .await
    }
}

fn take(c: &Connection, lease: &DayLease) -> db::Result<(u64, u64)> {
    let (asked, tokens) = spent(c, lease)?;
    let part = |limit: Option<u64>, spent: u64, wish: u64| {
        limit.map_or(0, |limit| wish.min(limit.saturating_sub(spent)))
    };
    let given = (
        part(lease.asked_per_day, asked, lease.asked),
        part(lease.tokens_per_day, tokens, lease.tokens),
    );
    if given != (0, 0) {
        let sql = "UPDATE limit_days SET asked = asked + ?3, tokens = tokens + ?4
                   WHERE day = ?1 AND role = ?2";
        let values = params![lease.day, lease.role, count(given.0), count(given.1)];
        c.prepare_cached(sql)?.execute(values)?;
    }
    Ok(given)
}

fn two(row: &db::Row<'_>) -> db::Result<(u64, u64)> {
    let count = |at| row.get::<i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
    Ok((count(0)?, count(1)?))
}

fn known(c: &Connection, day: i64, role: &str) -> db::Result<Option<(u64, u64)>> {
    let sql = "SELECT asked, tokens FROM limit_days WHERE day = ?1 AND role = ?2";
    c.prepare_cached(sql)?
        .query_row(params![day, role], two)
        .optional()
}

/// What counts as spent, from now on in a row of its own.
fn spent(c: &Connection, lease: &DayLease) -> db::Result<(u64, u64)> {
    if let Some(known) = known(c, lease.day, lease.role)? {
        return Ok(known);
    }
    // The limit may be newer than the day.
    let sql = "INSERT INTO limit_days (day, role, asked, tokens)
               SELECT CAST(?1 AS BIGINT), CAST(?2 AS TEXT), CAST(coalesce(sum(asked), 0) AS BIGINT),
                   CAST(coalesce(sum(tokens_in + tokens_out), 0) AS BIGINT)
               FROM queries WHERE role = ?2 AND started_at >= ?3 AND started_at < ?4
               RETURNING asked, tokens";
    let begin = lease.day.saturating_mul(DAY);
    let values = params![lease.day, lease.role, begin, begin.saturating_add(DAY)];
    c.prepare_cached(sql)?.query_row(values, two)
}

#[cfg(test)]
mod tests {
    use super::super::QueryRow;
    use super::*;
    use crate::store::bed::{Bed, on_both};

    fn wish(day: i64, limits: (Option<u64>, Option<u64>), asked: u64, tokens: u64) -> DayLease {
        DayLease {
            day,
            role: "analyst",
            asked_per_day: limits.0,
            tokens_per_day: limits.1,
            asked,
            tokens,
        }
    }

    async fn a_limit_is_given_out_once(bed: Bed) {
        let store = bed.new_store();
        let limits = (Some(10), Some(100));
        let cases = [
            (wish(5, limits, 4, 70), (4, 70)),
            (wish(5, limits, 4, 70), (4, 30)),
            (wish(5, limits, 4, 70), (2, 0)),
            (wish(5, limits, 4, 70), (0, 0)),
            // Another day, another limit, no limit.
            (wish(6, limits, 4, 70), (4, 70)),
            (wish(5, (Some(12), None), 4, 70), (2, 0)),
            (wish(5, (None, None), 4, 70), (0, 0)),
        ];
        for (wish, want) in cases {
            assert_eq!(
                store.lease_day(wish.clone()).await.unwrap(),
                want,
                "{wish:?}"
            );
        }
        store.give_day_back((5, "analyst", 3, 20)).await.unwrap();
        let again = store.lease_day(wish(5, limits, 9, 9)).await.unwrap();
        assert_eq!(again, (1, 9));
    }

    async fn a_day_begins_with_what_statements_spent(bed: Bed) {
        let store = bed.new_store();
        let spent = |role: &str, started_at| QueryRow {
            started_at,
            role: Some(role.to_owned()),
            asked: 3,
            tokens_in: 20,
            tokens_out: 5,
            ..QueryRow::default()
        };
        for query in [
            spent("analyst", 7 * DAY),
            spent("analyst", 8 * DAY - 1),
            spent("analyst", 8 * DAY),
            spent("admin", 7 * DAY + 1),
        ] {
            store.append_query(query).await.unwrap();
        }
        let limits = (Some(10), Some(100));
        let left = store.lease_day(wish(7, limits, 99, 999)).await.unwrap();
        assert_eq!(left, (4, 50));
    }

    on_both!(
        a_limit_is_given_out_once,
        a_day_begins_with_what_statements_spent,
    );
}
