//! The rows of one lane that wait.
//!
//! Takes rows in the order of their arrival, gives them window by window: the oldest few, the rows of one policy together
//! and short ones before long ones. The next window begins when this one is empty, so that sorting delays nobody for
//! long. Rows that were sent back go first, by seniority.

use super::{PrefixId, Row, RowId, size_class};
use std::collections::{HashMap, VecDeque};

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// In the order of admission.
    window: VecDeque<Row>,
    /// In the order of arrival.
    later: VecDeque<Row>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.window.is_empty() && self.later.is_empty()
    }

    pub(super) fn push(&mut self, row: Row) {
        self.later.push_back(row);
    }

    /// A row that was admitted before.
    pub(super) fn push_front(&mut self, row: Row) {
        let older = |other: &Row| other.ticket.is_some() && other.ticket < row.ticket;
        let at = self.window.iter().take_while(|other| older(other)).count();
        self.window.insert(at, row);
    }

    /// The row to be admitted next; windows have this many rows at most.
    pub(super) fn next(&mut self, window: usize) -> Option<&Row> {
        if self.window.is_empty() {
            let rows: Vec<Row> = self.later.drain(..window.min(self.later.len())).collect();
            self.window = sorted(rows).into();
        }
        self.window.front()
    }

    /// Takes the row that [`Self::next`] showed.
    pub(super) fn take(&mut self) -> Option<Row> {
        self.window.pop_front()
    }

    pub(super) fn retain(&mut self, keep: &impl Fn(RowId) -> bool) {
        self.window.retain(|row| keep(row.id));
        self.later.retain(|row| keep(row.id));
    }
}

/// The policy that came first goes first; then by length; then by arrival.
fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    let mut policies: HashMap<PrefixId, usize> = HashMap::new();
    for row in &rows {
        let next = policies.len();
        policies.entry(row.prefix).or_insert(next);
    }
    rows.sort_by_key(|row| (policies[&row.prefix], size_class(row.length())));
    rows
}
