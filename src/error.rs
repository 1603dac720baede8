//! Every error that reaches a user, and the one SQLSTATE table.
//!
//! Takes the errors of the floors below and DataFusion's, gives a message and a five-character code. Does not decide
//! what is an error: facts about a text are data.

use crate::backend::BackendError;
use crate::config::ConfigError;
use crate::content::ContentError;
use crate::model::ModelError;
use crate::models::ModelsError;
use crate::policy::PolicyError;
use crate::store::StoreError;
use datafusion::arrow::error::ArrowError;
use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::object_store;
use datafusion::sql::sqlparser::parser::ParserError;
use safeguard_udfs::ClassifyError;
use std::io::ErrorKind;

/// What ends a statement, or keeps the program from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error("{}", message(.0))]
    Statement(#[from] DataFusionError),
    /// A policy cannot be used or found.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Texts cannot be judged.
    #[error(transparent)]
    Classify(#[from] ClassifyError),
    /// What was asked for cannot be done now, or not like this.
    #[error("{why}")]
    Refused {
        /// Five characters of PostgreSQL's appendix A.
        sqlstate: &'static str,
        /// Names the thing and the limit.
        why: String,
        /// What the user might do about it.
        hint: Option<String>,
    },
    /// A model cannot be used.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A model's folder cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model cannot be found or fetched.
    #[error(transparent)]
    Models(#[from] ModelsError),
    /// Content cannot be read or written.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The program was called wrongly.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// What cannot be done, without a hint.
    pub fn refused(sqlstate: &'static str, why: impl Into<String>) -> Error {
        Error::Refused {
            sqlstate,
            why: why.into(),
            hint: None,
        }
    }

    /// Five characters of PostgreSQL's appendix A.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Error::Statement(error) => sqlstate(error),
            Error::Policy(error) => of_classify(&error.clone().into()),
            Error::Store(error) => of_store(error),
            Error::Classify(error) => of_classify(error),
            Error::Refused { sqlstate, .. } => sqlstate,
            Error::Models(error) => of_models(error),
            Error::Model(ModelError::Memory { .. }) => "53200",
            Error::Backend(error) => of_backend(error),
            Error::Model(_) => "58000",
            Error::Content(error) => error.sqlstate,
            Error::Config(_) => "F0000",
            Error::Usage(_) => "22023",
        }
    }

    /// What the user might do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let classify = match self {
            Error::Classify(error) => Some(error),
            Error::Statement(error) => source(error),
            _ => None,
        };
        if let Some(ClassifyError::TooManyUndecided { .. }) = classify {
            let why = "safeguard_verdict(policy, text)['reason'] says why a text is undecided";
            return Some(why.to_owned());
        }
        let near = match self {
            Error::Policy(PolicyError::Unknown { near, .. }) => near,
            Error::Model(ModelError::Memory { .. }) => {
                return Some(
                    "--allow-swap opens it nevertheless, at the speed of the disk".to_owned(),
                );
            }
            Error::Classify(ClassifyError::UnknownPolicy { near, .. }) => near,
            Error::Content(ContentError { hint, .. }) | Error::Refused { hint, .. } => {
                return hint.clone();
            }
            Error::Statement(error) => match source::<ClassifyError>(error) {
                Some(ClassifyError::UnknownPolicy { near, .. }) => near,
                _ => match content(error) {
                    Some(error) => return error.hint.clone(),
                    None => return source::<Error>(error)?.hint(),
                },
            },
            _ => return None,
        };
        match near.as_slice() {
            [] => Some("SELECT name FROM safeguard.policies lists the policies".to_owned()),
            near => Some(format!("did you mean {}?", near.join(", "))),
        }
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        match error {
            Error::Statement(error) => error,
            other => DataFusionError::External(Box::new(other)),
        }
    }
}

/// The error of ours that a statement failed with.
fn source<E: std::error::Error + 'static>(error: &DataFusionError) -> Option<&E> {
    match error.find_root() {
        DataFusionError::External(source) => source.downcast_ref(),
        _ => None,
    }
}

fn of_backend(error: &BackendError) -> &'static str {
    match error {
        BackendError::Address(_) | BackendError::PolicyTooLong { .. } => "22023",
        BackendError::Unreachable(_) | BackendError::Untrusted(_) => "08001",
        BackendError::Certificates(_) => "F0000",
        BackendError::Key(_) => "28000",
        BackendError::NoModel(_) => "42704",
        BackendError::Protocol(_) => "08P01",
        BackendError::Unsupported(_) => "0A000",
        _ => "58000",
    }
}

fn of_models(error: &ModelsError) -> &'static str {
    match error {
        ModelsError::Unknown { .. } => "42704",
        ModelsError::Backend(error) => of_backend(error),
        ModelsError::Elsewhere(_) => "0A000",
        ModelsError::Ambiguous { .. } => "42725",
        ModelsError::Name(_) => "22023",
        ModelsError::NotEmpty(_) | ModelsError::Foreign(_) | ModelsError::Busy(_) => "55000",
        ModelsError::Disk { .. } => "53100",
        ModelsError::Io { .. } => "58030",
        _ => "58000",
    }
}

fn of_store(error: &StoreError) -> &'static str {
    match error {
        StoreError::Busy { .. } => "55P03",
        StoreError::TooManyReaders { .. } => "53300",
        StoreError::InUse { .. } => "55006",
        StoreError::Unreachable { .. } => "08006",
        StoreError::Denied { .. } => "28000",
        StoreError::Unsure { .. } => "40003",
        StoreError::TooManyOverrides { .. } => "54000",
        StoreError::Override { .. } => "22023",
        StoreError::Damaged { .. } | StoreError::Foreign { .. } | StoreError::Newer { .. } => {
            "XX001"
        }
        _ => "58030",
    }
}

/// The error, and what is within it.
fn within(error: &DataFusionError) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let whole: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(whole), |error| {
        let io = error.downcast_ref::<std::io::Error>();
        match io.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}

/// What is said of a file that a statement may not touch, however deep in the error that is.
fn refused(error: &DataFusionError) -> Option<String> {
    within(error).find_map(|error| match error.downcast_ref() {
        Some(object_store::Error::PermissionDenied { source, .. }) => Some(source.to_string()),
        _ => None,
    })
}

/// What is wrong with content that is elsewhere, however deep in the error that is: readers of formats put theirs around it.
pub fn content(error: &DataFusionError) -> Option<&ContentError> {
    within(error).find_map(|error| error.downcast_ref())
}

/// The SQLSTATE of a failed statement (PostgreSQL's appendix A).
pub fn sqlstate(error: &DataFusionError) -> &'static str {
    if let Some(content) = content(error) {
        return content.sqlstate;
    }
    if refused(error).is_some() {
        return "42501";
    }
    match error.find_root() {
        DataFusionError::External(source) => of_external(source.as_ref()),
        DataFusionError::SQL(..) => "42601",
        DataFusionError::NotImplemented(_) => "0A000",
        DataFusionError::Configuration(message) if message.contains("does not exist") => "42704",
        DataFusionError::Configuration(message) if message.contains("ould not find config") => {
            "42704"
        }
        DataFusionError::Configuration(message) if message.contains("not found on") => "42704",
        DataFusionError::Configuration(_) => "22023",
        DataFusionError::SchemaError(error, _) => of_missing(error),
        DataFusionError::Plan(message) => of_words(message).unwrap_or("42000"),
        DataFusionError::ArrowError(error, _) => of_arrow(error),
        DataFusionError::Execution(message) | DataFusionError::Internal(message) => {
            of_words(message).unwrap_or("XX000")
        }
        DataFusionError::ResourcesExhausted(_) => "53200",
        DataFusionError::IoError(error) if error.kind() == ErrorKind::NotFound => "58P01",
        DataFusionError::IoError(_) => "58030",
        DataFusionError::ObjectStore(error) => match error.as_ref() {
            object_store::Error::NotFound { .. } => "58P01",
            _ => "58030",
        },
        DataFusionError::ParquetError(_) => "58030",
        _ => of_words(&error.message()).unwrap_or("XX000"),
    }
}

/// What went wrong, in one line, without the names of the rules and layers that it came through.
pub fn message(error: &DataFusionError) -> String {
    if let Some(content) = content(error) {
        return content.to_string();
    }
    if let Some(why) = refused(error) {
        return why;
    }
    if let DataFusionError::SQL(error, _) = error.find_root() {
        return match error.as_ref() {
            ParserError::ParserError(why) | ParserError::TokenizerError(why) => {
                format!("syntax error: {why}")
            }
            ParserError::RecursionLimitExceeded => "the statement is nested too deep".to_owned(),
        };
    }
    let message = error.find_root().message().into_owned();
    let message = match message.split_once("\n\nbacktrace:") {
        Some((message, _)) => message.to_owned(),
        None => message,
    };
    message.trim_end().to_owned()
}

fn of_external(error: &(dyn std::error::Error + Send + Sync + 'static)) -> &'static str {
    if let Some(error) = error.downcast_ref::<ClassifyError>() {
        return of_classify(error);
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return of_store(error);
    }
    match error.downcast_ref::<Error>() {
        Some(error) => error.sqlstate(),
        None => of_words(&error.to_string()).unwrap_or("XX000"),
    }
}

fn of_classify(error: &ClassifyError) -> &'static str {
    match error {
        ClassifyError::UnknownPolicy { .. } => "42704",
        ClassifyError::InvalidPolicy { .. } => "22023",
        ClassifyError::Unsupported(_) => "0A000",
        ClassifyError::TooManyUndecided { .. } | ClassifyError::Unscored { .. } => "53400",
        ClassifyError::Store(_) => "58030",
        ClassifyError::Backend(_) => "58000",
    }
}

/// DataFusion says what went wrong in planning, and often in running, only in words.
fn of_words(message: &str) -> Option<&'static str> {
    const WORDS: [(&str, &str); 23] = [
        ("already exists", "42P07"),
        ("table '", "42P01"),
        ("nvalid function", "42883"),
        ("No function matches", "42883"),
        ("ailed to coerce", "42883"),
        ("annot coerce arithmetic", "42883"),
        ("annot infer common argument type", "42883"),
        ("schema '", "3F000"),
        ("No files found at", "58P01"),
        ("not a variable which can be viewed", "42704"),
        ("GROUP BY", "42803"),
        ("non-boolean predicate", "42804"),
        ("nconsistent data length across values list", "42601"),
        ("different number of columns", "42601"),
        ("olumn count doesn't match", "42601"),
        ("more than one row", "21000"),
        ("LIMIT must be >= 0", "2201W"),
        ("OFFSET must be >=0", "2201X"),
        ("regex parse error", "2201B"),
        ("egular expression did not compile", "2201B"),
        ("doesn't exist", "42P01"),
        ("verflow", "22003"),
        ("not supported", "0A000"),
    ];
    let later = [("not yet supported", "0A000")];
    let mut words = WORDS.iter().chain(&later);
    let found = words.find(|(word, _)| message.contains(word));
    found.map(|(_, state)| *state)
}

/// A column that is not there, or one of a table that the statement does not name.
fn of_missing(error: &SchemaError) -> &'static str {
    match error {
        SchemaError::FieldNotFound {
            field,
            valid_fields,
        } => {
            let named = |known: &Column| known.relation == field.relation;
            match field.relation.is_some() && !valid_fields.iter().any(named) {
                true => "42P01",
                false => "42703",
            }
        }
        SchemaError::AmbiguousReference { .. } => "42702",
        _ => "42701",
    }
}

fn of_arrow(error: &ArrowError) -> &'static str {
    match error {
        ArrowError::DivideByZero => "22012",
        ArrowError::CastError(why) if why.contains("Can't cast value") => "22003",
        ArrowError::CastError(_) => "22P02",
        ArrowError::ParseError(why) if why.contains("Error parsing") => "22007",
        ArrowError::ComputeError(why) => of_words(why).unwrap_or("XX000"),
        ArrowError::ParseError(_) | ArrowError::CsvError(_) | ArrowError::JsonError(_) => "22P04",
        ArrowError::ArithmeticOverflow(_) => "22003",
        ArrowError::MemoryError(_) => "53200",
        ArrowError::InvalidArgumentError(why) if why.contains("declared as non-nullable") => {
            "23502"
        }
        ArrowError::IoError(..) => "58030",
        _ => "XX000",
    }
}
