//! Golden rows for whoever measures a policy: the set that comes with it, or any table or query with columns `text` and
//! `label`.
//!
//! Takes what the caller said, gives rows with labels of the policy. A table is read under the caller's rights. Knows no
//! statistics.

use super::{Engine, Session};
use crate::classify::calibrate::Golden;
use crate::error::Error;
use crate::policy::folder;
use crate::policy::golden::GoldenSet;
use crate::policy::{Policy, PolicyError};
use datafusion::arrow::array::AsArray;
use datafusion::common::{DataFusionError, TableReference};
use futures::TryStreamExt;

/// Words that a query begins with; anything else is a table's name.
const QUERY_WORDS: [&str; 4] = ["select", "with", "values", "table"];

impl Engine {
    /// The golden set that comes with a policy: `golden.csv` of its folder, else the one that is shipped under its name;
    /// `None` where there is neither.
    ///
    /// # Errors
    /// Its labels are not this version's, or its file cannot be read.
    pub fn golden_set(&self, policy: &Policy) -> Result<Option<Golden>, PolicyError> {
        if let Some(dir) = &self.folder
            && let Some(rows) = folder::golden(dir, policy)?
        {
            let source = folder::golden_file(dir, &policy.name);
            return Ok(Some(Golden {
                source: source.display().to_string().into(),
                rows,
            }));
        }
        let rows = folder::shipped_golden(policy)?;
        Ok(rows.map(|rows| Golden {
            source: "shipped".into(),
            rows,
        }))
    }
}

/// The rows of a table, or of a query. Where it has a column `policy`, those of other policies are left out.
/// `who` asks, for messages.
///
/// # Errors
/// There is no such table; a column is missing; what the rights of the session do not allow; a row that is not golden:
/// without a text, with one that was there before, with a label that the policy does not declare.
pub async fn read(
    session: &Session,
    who: &str,
    said: &str,
    policy: &Policy,
) -> Result<Golden, Error> {
    let (query, named) = query_of(session, said, "the golden query").await?;
    let columns = session.query_columns(&query).await?;
    let has = |name: &str| columns.index_of(name).is_ok();
    if !has("text") || !has("label") {
        let why = format!("{who}: {named} must have the columns text and label");
        return Err(DataFusionError::Configuration(why).into());
    }
    let which = match has("policy") {
        true => format!(
            " WHERE policy IS NULL OR CAST(policy AS TEXT) = '{}'",
            policy.name
        ),
        false => String::new(),
    };
    let select = format!(
        "SELECT arrow_cast(text, 'Utf8'), arrow_cast(label, 'Utf8') FROM ({query}\n) AS golden{which}"
    );
    let mut batches = session.query(&select).await?;
    let mut set = GoldenSet::new(policy);
    let mut row = 0;
    while let Some(batch) = batches.try_next().await? {
        let column = |at| batch.column(at).as_string::<i32>();
        for (text, label) in column(0).iter().zip(column(1)) {
            row += 1;
            set.push(row, text.unwrap_or_default(), label.unwrap_or_default())?;
        }
    }
    Ok(Golden {
        source: said.trim().into(),
        rows: set.rows(),
    })
}

/// The query that somebody named by a table or a query, and what to call it in messages.
///
/// # Errors
/// There is no such table.
pub async fn query_of(
    session: &Session,
    said: &str,
    called: &str,
) -> Result<(String, String), Error> {
    if is_query(said) {
        let query = said.trim().trim_end_matches(';');
        return Ok((query.to_owned(), called.to_owned()));
    }
    let table = TableReference::from(said);
    if !session.context().table_exist(table.clone())? {
        let why = format!("table '{said}' not found");
        return Err(DataFusionError::Plan(why).into());
    }
    let query = format!("SELECT * FROM {}", table.to_quoted_string());
    Ok((query, format!("table {said}")))
}

fn is_query(said: &str) -> bool {
    let mut words = said.split_whitespace();
    let first = words.next().unwrap_or_default().to_lowercase();
    QUERY_WORDS.contains(&first.as_str()) && words.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_told_from_a_name() {
        for (said, wanted) in [
            ("golden", false),
            ("select", false),
            ("safeguard.overrides", false),
            ("\"my table\"", false),
            ("SELECT text, label FROM golden", true),
            (" with g as (select 1) select * from g", true),
            ("VALUES ('a', 'b')", true),
        ] {
            assert_eq!(is_query(said), wanted, "{said}");
        }
    }
}
