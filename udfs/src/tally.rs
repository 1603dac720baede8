//! What one statement has spent.

/// Counters of one statement, shared by all its requests.
#[derive(Debug, Default)]
pub struct Tally {}
