//! What an evaluation, a backtest or a backfill found, as a page for reviewers.
//!
//! Takes the id of one that is stored, reads its tables under the caller's rights, gives a [`Page`]. It measures nothing
//! anew and asks no model. Knows the tables' columns; knows nothing of HTML.

mod backfill;
mod backtest;
mod evaluation;
mod rows;

use crate::engine::Session;
use crate::error::Error;
use crate::report::{Measured, Page};
use rows::Rows;

/// What can be reported on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `safeguard.evaluations`
    Evaluation,
    /// `safeguard.backtests`
    Backtest,
    /// `safeguard.backfills`
    Backfill,
}

/// The page about one of them.
///
/// # Errors
/// 42704 where there is none of this id; whatever reading its tables finds.
pub async fn page(session: &Session, kind: Kind, id: i64) -> Result<Page, Error> {
    match kind {
        Kind::Evaluation => evaluation::page(session, id).await,
        Kind::Backtest => backtest::page(session, id).await,
        Kind::Backfill => backfill::page(session, id).await,
    }
}

/// The one row of a table with this id.
async fn one(session: &Session, table: &str, id: i64) -> Result<Rows, Error> {
    let rows = Rows::read(
        session,
        &format!("SELECT * FROM safeguard.{table} WHERE id = {id}"),
    )
    .await?;
    if rows.is_empty() {
        let thing = table.trim_end_matches('s');
        return Err(Error::Refused {
            sqlstate: "42704",
            why: format!("{thing} {id} does not exist"),
            hint: Some(format!("SELECT id FROM safeguard.{table} lists them")),
        });
    }
    Ok(rows)
}

/// A share that is stored with its interval; nothing to measure where it is NULL.
fn measured(rows: &Rows, row: usize, columns: [&str; 3], name: &str, beside: String) -> Measured {
    let [share, low, high] = columns.map(|column| rows.number(row, column));
    Measured {
        name: name.to_owned(),
        share,
        low: low.unwrap_or(0.0),
        high: high.unwrap_or(1.0),
        beside,
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    match number < -0.5 {
        true => format!("-{shown}"),
        false => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        let cases = [
            (0.0, "0"),
            (999.4, "999"),
            (1_000.0, "1,000"),
            (1_234_567.0, "1,234,567"),
            (-1_000.0, "-1,000"),
            (-0.2, "0"),
        ];
        for (number, shown) in cases {
            assert_eq!(grouped(number), shown);
        }
    }
}
