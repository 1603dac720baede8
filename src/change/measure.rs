//! How right labels are: precision, recall and F1 of each label, and of all together, from pairs of labels.
//!
//! Takes for each row the golden label and the one that was given, or none for a row that stayed undecided; gives
//! counts and figures with intervals. Knows nothing of policies or texts.
//!
//! - *n*: rows with the golden label. *predicted*: rows that were given it. *right*: both.
//! - precision: right / predicted. recall: right / n, so that an undecided row is one that was missed. F1: their harmonic
//!   mean, 2 right / (n + predicted). A figure over no rows is none, not 0.
//! - Over all labels (`*`): n is every row, predicted every decided one. So recall is the share of all rows that are
//!   right, which is the accuracy, and precision the share of the decided ones.

use super::stats::{self, CONFIDENCE, Interval, Random, bootstrap, wilson};
use std::sync::Arc;

/// The name of the row over all labels.
pub const ALL: &str = "*";

/// The same resamples for every evaluation.
const SEED: u64 = 1_979;

/// One row: indices of labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// What people say.
    pub golden: usize,
    /// What was given; `None` for undecided.
    pub label: Option<usize>,
}

impl Row {
    fn is_right(self) -> bool {
        self.label == Some(self.golden)
    }
}

/// A figure and where it lies, with [`CONFIDENCE`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Of these rows.
    pub value: f64,
    /// Of all such rows.
    pub interval: Interval,
}

/// What holds of one label, or of all.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// The label, or [`ALL`].
    pub label: Arc<str>,
    /// Golden rows with it.
    pub n: u64,
    /// Rows that were given it.
    pub predicted: u64,
    /// Rows of both.
    pub right: u64,
    /// Golden rows with it that were given no label.
    pub undecided: u64,
    /// See the module.
    pub precision: Option<Figure>,
    /// See the module.
    pub recall: Option<Figure>,
    /// See the module.
    pub f1: Option<Figure>,
}

/// One measure for each label, in their order, then one for all.
pub fn measure(labels: &[Arc<str>], rows: &[Row]) -> Vec<Measure> {
    let mut measures: Vec<Measure> = labels
        .iter()
        .enumerate()
        .map(|(index, label)| of_label(label, index, rows))
        .collect();
    measures.push(of_all(rows));
    measures
}

fn of_label(label: &Arc<str>, index: usize, rows: &[Row]) -> Measure {
    let count =
        |wanted: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| wanted(row)).count() as u64;
    let n = count(&|row| row.golden == index);
    let predicted = count(&|row| row.label == Some(index));
    let right = count(&|row| row.golden == index && row.is_right());
    let f1 = stats::f1(right, predicted - right, n - right, CONFIDENCE);
    Measure {
        label: Arc::clone(label),
        n,
        predicted,
        right,
        undecided: count(&|row| row.golden == index && row.label.is_none()),
        precision: share(right, predicted),
        recall: share(right, n),
        f1: f1.map(|(value, interval)| Figure { value, interval }),
    }
}

fn of_all(rows: &[Row]) -> Measure {
    let n = rows.len() as u64;
    let predicted = rows.iter().filter(|row| row.label.is_some()).count() as u64;
    let right = rows.iter().filter(|row| row.is_right()).count() as u64;
    Measure {
        label: ALL.into(),
        n,
        predicted,
        right,
        undecided: n - predicted,
        precision: share(right, predicted),
        recall: share(right, n),
        f1: f1_of_all(n, predicted, right),
    }
}

/// A share of some rows.
pub fn share(right: u64, of: u64) -> Option<Figure> {
    (of > 0).then(|| Figure {
        value: right as f64 / of as f64,
        interval: wilson(right, of, CONFIDENCE),
    })
}

fn f1_of_all(n: u64, predicted: u64, right: u64) -> Option<Figure> {
    if n == 0 {
        return None;
    }
    let f1 = |right: f64| 2.0 * right / (n + predicted) as f64;
    // With every row decided it is the accuracy; and a bootstrap over rows without a right one says nothing.
    let interval = match n == predicted || right == 0 {
        true => {
            let Interval { low, high } = wilson(right, n, CONFIDENCE);
            Interval {
                low: f1(low * n as f64),
                high: f1(high * n as f64).min(1.0),
            }
        }
        false => {
            let figure = |rows: &[u64]| {
                let (right, wrong, undecided) = (rows[0], rows[1], rows[2]);
                Some(2.0 * right as f64 / (2 * (right + wrong) + undecided) as f64)
            };
            let rows = [right, predicted - right, n - predicted];
            bootstrap(&rows, figure, CONFIDENCE, &mut Random::new(SEED))
        }
    };
    Some(Figure {
        value: f1(right as f64),
        interval,
    })
}

/// What another version of the policy does to rows with a label, or to all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Rows whose label is another one, or that are decided by one alone.
    pub flips: u64,
    /// Of these, wrong before and right now.
    pub fixed: u64,
    /// Right before and wrong now.
    pub broken: u64,
}

/// For each of so many labels, then for all: what changed from `before` to `now`, which hold the same rows in the same
/// order, with the same labels.
pub fn changes(labels: usize, before: &[Row], now: &[Row]) -> Vec<Change> {
    let mut changes = vec![Change::default(); labels + 1];
    for (before, now) in before.iter().zip(now) {
        if before.label == now.label {
            continue;
        }
        for at in [now.golden, labels] {
            let change = &mut changes[at];
            change.flips += 1;
            change.fixed += u64::from(now.is_right());
            change.broken += u64::from(before.is_right());
        }
    }
    changes
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
