//! Every error that reaches a user, and the one SQLSTATE table.
//!
//! Takes the errors of the floors below and DataFusion's, gives a message and a five-character code. Does not decide
//! what is an error: facts about a text are data.

use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use safeguard_udfs::ClassifyError;

/// What ends a statement, or keeps the program from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error("{}", message(.0))]
    Statement(#[from] DataFusionError),
    /// The program was called wrongly.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Five characters of PostgreSQL's appendix A.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Error::Statement(error) => sqlstate(error),
            Error::Usage(_) => "22023",
        }
    }

    /// What the user might do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        None
    }
}

/// The SQLSTATE of a failed statement (PostgreSQL's appendix A).
pub fn sqlstate(error: &DataFusionError) -> &'static str {
    match error.find_root() {
        DataFusionError::External(source) => match source.downcast_ref::<ClassifyError>() {
            Some(error) => of_classify(error),
            None => "XX000",
        },
        DataFusionError::SQL(..) => "42601",
        DataFusionError::NotImplemented(_) => "0A000",
        DataFusionError::Configuration(message) if message.contains("does not exist") => "42704",
        DataFusionError::Configuration(message) if message.contains("ould not find config") => {
            "42704"
        }
        DataFusionError::Configuration(message) if message.contains("not found on") => "42704",
        DataFusionError::Configuration(_) => "22023",
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { .. } => "42703",
            SchemaError::AmbiguousReference { .. } => "42702",
            _ => "42701",
        },
        DataFusionError::Plan(message) => of_plan(message),
        DataFusionError::ArrowError(error, _) => of_arrow(error),
        DataFusionError::Execution(message) if message.contains("already exists") => "42P07",
        DataFusionError::Execution(message) if message.contains("doesn't exist") => "42P01",
        DataFusionError::ResourcesExhausted(_) => "53200",
        DataFusionError::IoError(_) => "58030",
        DataFusionError::ObjectStore(error) => match error.as_ref() {
            datafusion::object_store::Error::NotFound { .. } => "58P01",
            _ => "58030",
        },
        DataFusionError::ParquetError(_) => "58030",
        _ => "XX000",
    }
}

/// What went wrong, in one line, without the names of the rules and layers that it came through.
pub fn message(error: &DataFusionError) -> String {
    let message = error.find_root().message().into_owned();
    let message = match message.split_once("\n\nbacktrace:") {
        Some((message, _)) => message.to_owned(),
        None => message,
    };
    message.trim_end().to_owned()
}

fn of_classify(error: &ClassifyError) -> &'static str {
    match error {
        ClassifyError::UnknownPolicy { .. } => "42704",
        ClassifyError::InvalidPolicy { .. } => "22023",
        ClassifyError::Unsupported(_) => "0A000",
        ClassifyError::TooManyUndecided { .. } => "53400",
        ClassifyError::Store(_) => "58030",
        ClassifyError::Backend(_) => "58000",
    }
}

/// DataFusion says what went wrong in planning only in words.
fn of_plan(message: &str) -> &'static str {
    const WORDS: [(&str, &str); 6] = [
        ("table '", "42P01"),
        ("nvalid function", "42883"),
        ("No function matches", "42883"),
        ("failed to coerce", "42883"),
        ("already exists", "42P07"),
        ("schema '", "3F000"),
    ];
    let found = WORDS.iter().find(|(word, _)| message.contains(word));
    found.map_or("42000", |(_, state)| state)
}

fn of_arrow(error: &ArrowError) -> &'static str {
    match error {
        ArrowError::DivideByZero => "22012",
        ArrowError::CastError(_) => "22P02",
        ArrowError::ParseError(_) | ArrowError::CsvError(_) | ArrowError::JsonError(_) => "22P04",
        ArrowError::ArithmeticOverflow(_) => "22003",
        ArrowError::MemoryError(_) => "53200",
        ArrowError::IoError(..) => "58030",
        _ => "XX000",
    }
}
