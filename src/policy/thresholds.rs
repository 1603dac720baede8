//! Thresholds: what a policy's golden set must show before the policy is trusted, as its front matter says.
//!
//! Takes `thresholds: {precision: 0.9, recall: 0.95}` (over all labels), or a label in the place of a figure
//! (`thresholds: {violates: {recall: 0.95}}`), or both; gives a list. Measures nothing itself.

use serde_norway::Value;
use std::fmt;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Of the rows that were given the label, those that have it.
    Precision,
    /// Of the rows that have the label, those that were given it.
    Recall,
    /// The harmonic mean of both.
    F1,
    /// Of all rows, those that are right; over all labels only.
    Accuracy,
}

impl Figure {
    /// Every figure.
    pub const ALL: [Figure; 4] = [
        Figure::Precision,
        Figure::Recall,
        Figure::F1,
        Figure::Accuracy,
    ];

    /// The word in the front matter, and the column of `safeguard_evaluate`.
    pub fn as_str(self) -> &'static str {
        match self {
            Figure::Precision => "precision",
            Figure::Recall => "recall",
            Figure::F1 => "f1",
            Figure::Accuracy => "accuracy",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A figure and the least that it must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// Of which label; `None` for all together.
    pub label: Option<String>,
    /// What is measured.
    pub figure: Figure,
    /// 0 to 1.
    pub least: f64,
}

// The front matter holds numbers, and none of them is not one.
impl Eq for Threshold {}

/// Reads the front matter's key.
pub(super) fn declared(declared: &Value, labels: &[&str]) -> Result<Vec<Threshold>, String> {
    let Value::Mapping(map) = declared else {
        return Err(
            "front matter: thresholds: write precision: 0.9, or label: {precision: 0.9}".to_owned(),
        );
    };
    let mut thresholds = Vec::new();
    for (key, value) in map {
        let Some(key) = key.as_str() else {
            return Err("front matter: thresholds: a key is a figure or a label".to_owned());
        };
        let Value::Mapping(of_label) = value else {
            thresholds.push(threshold(None, key, value)?);
            continue;
        };
        if !labels.contains(&key) {
            let known = labels.join(", ");
            return Err(format!(
                "front matter: thresholds: \"{}\" is not one of its labels: {known}",
                key.escape_debug()
            ));
        }
        for (figure, value) in of_label {
            let figure = figure.as_str().unwrap_or_default();
            thresholds.push(threshold(Some(key), figure, value)?);
        }
    }
    Ok(thresholds)
}

fn threshold(label: Option<&str>, key: &str, value: &Value) -> Result<Threshold, String> {
    let known = Figure::ALL.into_iter().find(|known| known.as_str() == key);
    let Some(figure) = known.filter(|f| label.is_none() || *f != Figure::Accuracy) else {
        let figures = match label {
            Some(_) => "precision, recall, f1",
            None => "precision, recall, f1, accuracy",
        };
        return Err(format!(
            "front matter: thresholds: \"{}\" is not one of: {figures}",
            key.escape_debug()
        ));
    };
    match value.as_f64().filter(|least| (0.0..=1.0).contains(least)) {
        Some(least) => Ok(Threshold {
            label: label.map(ToOwned::to_owned),
            figure,
            least,
        }),
        None => Err(format!(
            "front matter: thresholds: {figure} is not a number from 0 to 1"
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::Policy;

    fn read(thresholds: &str) -> Result<Vec<(String, f64)>, String> {
        let source =
            format!("---\nlabels: [allowed, violates]\nthresholds: {thresholds}\n---\nFind it.");
        let policy = Policy::parse_as("mine", &source).map_err(|e| e.to_string())?;
        let said = policy.thresholds.into_iter().map(|t| {
            let label = t.label.map(|label| format!("{label} ")).unwrap_or_default();
            (format!("{label}{}", t.figure), t.least)
        });
        Ok(said.collect())
    }

    #[test]
    fn are_read_for_all_labels_and_for_one() {
        let own = |pairs: &[(&str, f64)]| -> Vec<(String, f64)> {
            pairs.iter().map(|(s, n)| (s.to_string(), *n)).collect()
        };
        assert_eq!(
            read("{precision: 0.9, recall: 0.95, violates: {recall: 1, f1: 0}, accuracy: 0.5}"),
            Ok(own(&[
                ("precision", 0.9),
                ("recall", 0.95),
                ("violates recall", 1.0),
                ("violates f1", 0.0),
                ("accuracy", 0.5)
            ]))
        );
        assert_eq!(read("{}"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (thresholds, wanted) in [
            ("0.9", "write precision: 0.9, or label: {precision: 0.9}"),
            (
                "{speed: 1}",
                "\"speed\" is not one of: precision, recall, f1, accuracy",
            ),
            (
                "{violates: {accuracy: 1}}",
                "\"accuracy\" is not one of: precision, recall, f1",
            ),
            (
                "{hateful: {recall: 1}}",
                "\"hateful\" is not one of its labels: allowed, violates",
            ),
            ("{recall: 95}", "recall is not a number from 0 to 1"),
            ("{recall: high}", "recall is not a number from 0 to 1"),
            ("{violates: {f1: .nan}}", "f1 is not a number from 0 to 1"),
        ] {
            let error = read(thresholds).unwrap_err();
            let wanted =
                format!("policy \"mine\" is not usable: front matter: thresholds: {wanted}");
            assert_eq!(error, wanted, "{thresholds}");
        }
    }

    #[test]
    fn make_no_new_version() {
        let digest = |front: &str| {
            Policy::parse(&format!(
                "---\nlabels: [allowed, bad]\n{front}---\nFind it."
            ))
            .unwrap()
            .digest()
        };
        assert_eq!(digest(""), digest("thresholds: {recall: 0.9}\n"));
    }
}
