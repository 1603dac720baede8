//! What a client is told when something fails: one value with PostgreSQL's error fields.
//!
//! Takes the program's errors and the server's own, gives the fields of an ErrorResponse or NoticeResponse (PostgreSQL,
//! "Error and Notice Message Fields"). Knows no socket. Secrets never reach it: messages are made of names and limits.

use crate::error::Error;
use datafusion::common::DataFusionError;
use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement ends, the connection stays.
    Error,
    /// The connection ends.
    Fatal,
    /// Nothing ends.
    Notice,
    /// Nothing ends, and somebody should look.
    Warning,
}

impl Severity {
    /// As the protocol spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
        }
    }
}

/// An error or a notice on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How bad it is.
    pub severity: Severity,
    /// Five characters of PostgreSQL's appendix A.
    pub sqlstate: &'static str,
    /// One line, lower-case.
    pub message: String,
    /// More lines.
    pub detail: Option<Box<str>>,
    /// Where in what was being done, for example a line of a COPY.
    pub context: Option<Box<str>>,
    /// What the user might do.
    pub hint: Option<String>,
    /// Where in the statement, in characters from 1.
    pub position: Option<usize>,
}

impl Failure {
    /// An error of a statement.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            severity: Severity::Error,
            sqlstate,
            message: message.into(),
            detail: None,
            context: None,
            hint: None,
            position: None,
        }
    }

    /// An error that ends the connection.
    pub fn fatal(sqlstate: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            severity: Severity::Fatal,
            ..Failure::new(sqlstate, message)
        }
    }

    /// Something worth saying.
    pub fn notice(message: impl Into<String>) -> Failure {
        Failure {
            severity: Severity::Notice,
            ..Failure::new("00000", message)
        }
    }

    /// With advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sqlstate, self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        if let Error::Statement(statement) = &error
            && let DataFusionError::External(source) = statement.find_root()
            && let Some(failure) = source.downcast_ref::<Failure>()
        {
            return failure.clone();
        }
        Failure {
            hint: error.hint(),
            ..Failure::new(error.sqlstate(), error.to_string())
        }
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Failure {
        Error::Statement(error).into()
    }
}

impl From<Failure> for DataFusionError {
    fn from(failure: Failure) -> DataFusionError {
        DataFusionError::External(Box::new(failure))
    }
}
