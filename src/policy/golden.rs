//! Golden sets: texts with the label that people gave them under a policy.
//!
//! Takes a CSV with the header `text,label` (RFC 4180) and the policy it belongs to, gives its rows in order. Refuses
//! labels that the policy does not declare and texts that stand twice, because either would make every measurement
//! taken on the set wrong in silence.

use super::{Policy, PolicyError};
use crate::config::GOLDEN_ROWS_MAX;
use std::collections::HashMap;
use std::sync::Arc;

/// A text and the label it should get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoldenRow {
    /// What is judged.
    pub text: Arc<str>,
    /// One of the policy's labels.
    pub label: Arc<str>,
}

/// Reads a golden set.
///
/// # Errors
/// [`PolicyError::Golden`] with the line where the bad row begins.
pub fn parse(csv: &str, policy: &Policy) -> Result<Vec<GoldenRow>, PolicyError> {
    let bad = |line: u64, why: String| PolicyError::Golden {
        name: policy.name.to_string(),
        line,
        why,
    };
    let mut reader = csv::ReaderBuilder::new()
        .from_reader(csv.strip_prefix('\u{feff}').unwrap_or(csv).as_bytes());
    let header = reader
        .headers()
        .map_err(|error| bad(line_of(&error), error.to_string()))?;
    if header.iter().ne(["text", "label"]) {
        let found = header.iter().collect::<Vec<_>>().join(",");
        return Err(bad(
            1,
            format!(
                "the header is \"{}\", not \"text,label\"",
                found.escape_debug()
            ),
        ));
    }
    let mut set = GoldenSet::new(policy);
    for record in reader.records() {
        let record = record.map_err(|error| bad(line_of(&error), describe(&error)))?;
        let line = record.position().map_or(0, csv::Position::line);
        set.push(line, &record[0], &record[1])?;
    }
    Ok(set.rows())
}

/// A golden set in the making, wherever its rows come from.
#[derive(Debug)]
pub struct GoldenSet<'a> {
    policy: &'a Policy,
    rows: Vec<GoldenRow>,
    /// The line of each text.
    seen: HashMap<Arc<str>, u64>,
}

impl<'a> GoldenSet<'a> {
    /// An empty one for a policy.
    pub fn new(policy: &'a Policy) -> Self {
        let (rows, seen) = (Vec::new(), HashMap::new());
        Self { policy, rows, seen }
    }

    /// Takes the row that begins on a line.
    ///
    /// # Errors
    /// [`PolicyError::Golden`] for an empty text, one that was there before, a label that the policy does not declare,
    /// and a row too many.
    pub fn push(&mut self, line: u64, text: &str, label: &str) -> Result<(), PolicyError> {
        let bad = |why: String| PolicyError::Golden {
            name: self.policy.name.to_string(),
            line,
            why,
        };
        if text.trim().is_empty() {
            return Err(bad("its text is empty".to_owned()));
        }
        let labels = &self.policy.labels;
        let Some(label) = labels.iter().find(|known| &***known == label) else {
            let known = labels.join(", ");
            let label = label.escape_debug();
            return Err(bad(format!("label \"{label}\" is not one of: {known}")));
        };
        let text: Arc<str> = Arc::from(text);
        if let Some(first) = self.seen.insert(Arc::clone(&text), line) {
            return Err(bad(format!("its text stands on line {first} already")));
        }
        if self.rows.len() == GOLDEN_ROWS_MAX {
            return Err(bad(format!("more than {GOLDEN_ROWS_MAX} rows")));
        }
        self.rows.push(GoldenRow {
            text,
            label: Arc::clone(label),
        });
        Ok(())
    }

    /// The rows in the order in which they came.
    pub fn rows(self) -> Vec<GoldenRow> {
        self.rows
    }
}

fn line_of(error: &csv::Error) -> u64 {
    error.position().map_or(1, csv::Position::line)
}

fn describe(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { len, .. } => format!("{len} fields instead of 2"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy::parse_as("spam", "---\nlabels: [allowed, violates]\n---\nFind spam.").unwrap()
    }

    #[test]
    fn reads_rows_in_order() {
        let rows = parse(
            "text,label\r\n\"a, \"\"b\"\"\nc\",violates\nhello ,allowed\n",
            &policy(),
        )
        .unwrap();
        let rows: Vec<(&str, &str)> = rows.iter().map(|row| (&*row.text, &*row.label)).collect();
        assert_eq!(rows, [("a, \"b\"\nc", "violates"), ("hello ", "allowed")]);
        assert_eq!(parse("text,label\n", &policy()), Ok(vec![]));
    }

    #[test]
    fn refuses_and_names_the_line() {
        for (csv, wanted) in [
            ("", "line 1: the header is \"\", not \"text,label\""),
            (
                "label,text\n",
                "line 1: the header is \"label,text\", not \"text,label\"",
            ),
            (
                "text,label\na,allowed\nb,spam\n",
                "line 3: label \"spam\" is not one of: allowed, violates",
            ),
            (
                "text,label\n\"a\nb\",allowed\nc,Allowed\n",
                "line 4: label \"Allowed\" is not one of: allowed, violates",
            ),
            ("text,label\n \t,allowed\n", "line 2: its text is empty"),
            (
                "text,label\na,allowed\na,violates\n",
                "line 3: its text stands on line 2 already",
            ),
            ("text,label\na,allowed,x\n", "line 2: 3 fields instead of 2"),
        ] {
            let error = parse(csv, &policy()).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("golden set of policy \"spam\", {wanted}"),
                "{csv:?}"
            );
        }
    }
}
