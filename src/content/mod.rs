//! Where content lives outside of this machine: databases that are attached as schemas, and object stores.
//!
//! Takes a server's address and our rights there, gives tables or stores that DataFusion reads and writes. Files and their
//! formats are DataFusion's own; who may read which is the engine's. Knows no policy, no model and no verdict.

pub mod objects;
pub mod postgres;

/// Content that cannot be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub struct ContentError {
    /// Five characters of PostgreSQL's appendix A.
    pub sqlstate: &'static str,
    /// Names the server or the object, and what is wrong.
    pub why: String,
    /// What the user might do about it.
    pub hint: Option<String>,
}

impl ContentError {
    fn new(sqlstate: &'static str, why: impl Into<String>) -> ContentError {
        ContentError {
            sqlstate,
            why: why.into(),
            hint: None,
        }
    }

    fn with_hint(mut self, hint: impl Into<String>) -> ContentError {
        self.hint = Some(hint.into());
        self
    }
}

impl From<ContentError> for datafusion::common::DataFusionError {
    fn from(error: ContentError) -> Self {
        datafusion::common::DataFusionError::External(Box::new(error))
    }
}
