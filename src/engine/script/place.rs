//! Where in a statement an error is.
//!
//! Takes the statement's text and the error, gives a character's number from 1, as PostgreSQL's clients want it to
//! draw a caret. The parser tells line and column in its message; the planner's diagnostics carry spans.

use datafusion::common::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

/// The place of an error in `sql` in characters from 1, where the error knows it.
pub fn position(sql: &str, error: &DataFusionError) -> Option<usize> {
    if let Some(span) = span(error) {
        return offset(sql, span.0, span.1);
    }
    let DataFusionError::SQL(parser, _) = error.find_root() else {
        return None;
    };
    let (ParserError::ParserError(message) | ParserError::TokenizerError(message)) =
        parser.as_ref()
    else {
        return None;
    };
    if message.ends_with("found: EOF") {
        return Some(sql.chars().count() + 1);
    }
    let (_, place) = message.rsplit_once("at Line: ")?;
    let (line, rest) = place.split_once(',')?;
    let column: String = rest
        .split_once("Column: ")?
        .1
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    offset(sql, line.trim().parse().ok()?, column.parse().ok()?)
}

/// Line and column of the first diagnostic.
fn span(error: &DataFusionError) -> Option<(u64, u64)> {
    match error {
        DataFusionError::Diagnostic(diagnostic, inner) => match diagnostic.span {
            Some(span) if span.start.line > 0 => Some((span.start.line, span.start.column)),
            _ => span(inner),
        },
        DataFusionError::Context(_, inner) => span(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(span),
        _ => None,
    }
}

fn offset(sql: &str, line: u64, column: u64) -> Option<usize> {
    let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
    let before: usize = sql
        .split('\n')
        .take(line.checked_sub(1)?)
        .map(|line| line.chars().count() + 1)
        .sum();
    let place = before + column;
    (column > 0 && place <= sql.chars().count() + 1).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::{SessionConfig, SessionContext};

    #[tokio::test]
    async fn errors_know_their_place() {
        let config = SessionConfig::new()
            .set_str("datafusion.sql_parser.dialect", "postgresql")
            .set_bool("datafusion.sql_parser.collect_spans", true);
        let context = SessionContext::new_with_config(config);
        for (sql, want) in [
            ("SELECT 1 FORM t", Some(15)),
            ("SELECT (", Some(9)),
            ("SELECT 'é',\n  nope FROM (SELECT 1 AS a) t", Some(15)),
            ("SELECT a FROM missing", Some(15)),
            ("SELECT 1", None),
        ] {
            let error = match context.sql(sql).await {
                Ok(_) => None,
                Err(error) => position(sql, &error),
            };
            assert_eq!(error, want, "{sql}");
        }
    }
}
