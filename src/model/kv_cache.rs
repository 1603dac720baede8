//! Keys and values of one sequence.

/// What one sequence has seen, layer by layer. A clone shares storage with its original and never disturbs it.
#[derive(Debug, Clone)]
pub struct KvCache {
    len: usize,
}

impl KvCache {
    /// Tokens in the sequence so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the sequence has no token yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
