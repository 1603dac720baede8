//! SET, SHOW, RESET and DISCARD as statements.
//!
//! Takes what the parser made, gives what is asked for, with values as text. Changes nothing.

use super::value;
use crate::server::failure::Failure;
use datafusion::sql::parser::{ResetStatement, Statement as Parsed};
use datafusion::sql::sqlparser::ast::{
    self, ContextModifier, DiscardObject, Expr, Ident, ObjectName, Reset, Set,
    SetSessionAuthorizationParamKind, Statement, TransactionAccessMode, TransactionMode,
    UnaryOperator, Value,
};

/// A statement about settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `SET name = value`, `SET TIME ZONE`, `SET NAMES`; without a value, DEFAULT.
    Set {
        /// The setting.
        name: String,
        /// As text; lists are joined as PostgreSQL joins them.
        value: Option<String>,
        /// Until the end of the transaction.
        local: bool,
    },
    /// `SET TRANSACTION ..` (local) and `SET SESSION CHARACTERISTICS AS TRANSACTION ..`: settings and their values.
    SetTransaction {
        /// `transaction_isolation` and `transaction_read_only`, or those with `default_` before them.
        values: Vec<(&'static str, String)>,
        /// For this transaction only.
        local: bool,
    },
    /// `SET ROLE name`; `None` is NONE.
    SetRole(Option<String>),
    /// `SET SESSION AUTHORIZATION name`; `None` is DEFAULT.
    SetSessionAuthorization(Option<String>),
    /// `SHOW name`: one row, its column is the setting's canonical name.
    Show(String),
    /// `SHOW ALL`: name, setting, description.
    ShowAll,
    /// `RESET name`.
    Reset(String),
    /// `RESET ALL`.
    ResetAll,
    /// `DISCARD ..`.
    Discard(Discard),
}

/// What to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// Everything that belongs to the connection.
    All,
    /// Cached plans.
    Plans,
    /// Values of sequences.
    Sequences,
    /// Temporary tables.
    Temp,
}

impl Command {
    /// The command that a statement is; `None` when it is about something else.
    ///
    /// # Errors
    /// 0A000 for forms that PostgreSQL has and this server has not, 22023 for a value that no setting takes.
    pub fn from_parsed(parsed: &Parsed) -> Result<Option<Command>, Failure> {
        match parsed {
            Parsed::Statement(statement) => Command::from_ast(statement),
            Parsed::Reset(ResetStatement::Variable(name)) => Ok(Some(reset(name))),
            _ => Ok(None),
        }
    }

    /// As [`Command::from_parsed`], of PostgreSQL's statements alone.
    ///
    /// # Errors
    /// As there.
    pub fn from_ast(statement: &Statement) -> Result<Option<Command>, Failure> {
        Ok(Some(match statement {
            Statement::Set(set) => return set_command(set).map(Some),
            Statement::ShowVariable { variable } => show(variable),
            Statement::Reset(statement) => match &statement.reset {
                Reset::ALL => Command::ResetAll,
                Reset::ConfigurationParameter(name) => reset(name),
            },
            Statement::Discard { object_type } => Command::Discard(match object_type {
                DiscardObject::ALL => Discard::All,
                DiscardObject::PLANS => Discard::Plans,
                DiscardObject::SEQUENCES => Discard::Sequences,
                DiscardObject::TEMP => Discard::Temp,
            }),
            _ => return Ok(None),
        }))
    }
}

fn reset(name: &ObjectName) -> Command {
    let name = plain(name).replace(' ', ".");
    match name.to_lowercase().as_str() {
        "all" => Command::ResetAll,
        "session.authorization" | "session_authorization" => Command::SetSessionAuthorization(None),
        "role" => Command::SetRole(None),
        "time.zone" => Command::Reset("timezone".to_owned()),
        _ => Command::Reset(name),
    }
}

fn show(words: &[Ident]) -> Command {
    let words: Vec<String> = words.iter().map(|w| w.value.to_lowercase()).collect();
    // The parser leaves the dots of a name out.
    let name = words.join(".");
    match name.as_str() {
        "all" => Command::ShowAll,
        "time.zone" => Command::Show("TimeZone".to_owned()),
        "transaction.isolation.level" => Command::Show("transaction_isolation".to_owned()),
        // It takes SESSION for a scope.
        "authorization" => Command::Show("session_authorization".to_owned()),
        _ => Command::Show(name),
    }
}

fn set_command(set: &Set) -> Result<Command, Failure> {
    let unsupported = || {
        let message = format!("{set} is not supported");
        Err(Failure::new("0A000", message))
    };
    let local = |scope: &Option<ContextModifier>| *scope == Some(ContextModifier::Local);
    match set {
        Set::SingleAssignment {
            scope,
            variable,
            values,
            ..
        } => {
            let name = plain(variable);
            let value = match values.as_slice() {
                [value] if is_default(value) => None,
                values => Some(joined(&name, values)?),
            };
            Ok(Command::Set {
                name,
                value,
                local: local(scope),
            })
        }
        Set::SetTimeZone { local, value } => {
            let word = as_text(value).map(|(text, _)| text.to_lowercase());
            let value = match word.as_deref() {
                Ok("local" | "default") => None,
                _ => Some(zone(value)?),
            };
            Ok(Command::Set {
                name: "TimeZone".to_owned(),
                value,
                local: *local,
            })
        }
        Set::SetNames { charset_name, .. } => Ok(Command::Set {
            name: "client_encoding".to_owned(),
            value: Some(charset_name.value.clone()),
            local: false,
        }),
        Set::SetNamesDefault {} => Ok(Command::Set {
            name: "client_encoding".to_owned(),
            value: None,
            local: false,
        }),
        Set::SetTransaction {
            modes,
            snapshot: None,
            session,
        } => Ok(Command::SetTransaction {
            values: transaction_values(modes, *session),
            local: !session,
        }),
        Set::SetTransaction { .. } => unsupported(),
        Set::SetRole { role_name, .. } => Ok(Command::SetRole(role_name.as_ref().map(folded))),
        Set::SetSessionAuthorization(param) => {
            Ok(Command::SetSessionAuthorization(match &param.kind {
                SetSessionAuthorizationParamKind::Default => None,
                SetSessionAuthorizationParamKind::User(name) => Some(folded(name)),
            }))
        }
        _ => unsupported(),
    }
}

/// The settings that transaction modes stand for; `session` for those of transactions to come.
pub(crate) fn transaction_values(
    modes: &[TransactionMode],
    session: bool,
) -> Vec<(&'static str, String)> {
    let value = |mode: &TransactionMode| match mode {
        TransactionMode::AccessMode(mode) => {
            let name = match session {
                true => "default_transaction_read_only",
                false => "transaction_read_only",
            };
            let on = *mode == TransactionAccessMode::ReadOnly;
            (name, if on { "on" } else { "off" }.to_owned())
        }
        TransactionMode::IsolationLevel(level) => {
            let name = match session {
                true => "default_transaction_isolation",
                false => "transaction_isolation",
            };
            (name, level.to_string().to_lowercase())
        }
    };
    modes.iter().map(value).collect()
}

fn plain(name: &ObjectName) -> String {
    let parts = name.0.iter().map(|part| match part.as_ident() {
        Some(ident) => ident.value.clone(),
        None => part.to_string(),
    });
    parts.collect::<Vec<_>>().join(".")
}

fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn is_default(value: &Expr) -> bool {
    matches!(value, Expr::Identifier(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("default"))
}

/// Values joined by commas; where they are names, each as a name.
fn joined(name: &str, values: &[Expr]) -> Result<String, Failure> {
    let names = matches!(
        name.to_lowercase().as_str(),
        "search_path" | "temp_tablespaces"
    );
    let texts = values.iter().map(|value| {
        let (text, _) = as_text(value)?;
        Ok(if names { value::quoted(&text) } else { text })
    });
    Ok(texts.collect::<Result<Vec<_>, Failure>>()?.join(", "))
}

/// A value's text, and whether it was a number.
fn as_text(expr: &Expr) -> Result<(String, bool), Failure> {
    match expr {
        Expr::Identifier(name) => Ok((folded(name), false)),
        Expr::CompoundIdentifier(names) => {
            let names: Vec<String> = names.iter().map(folded).collect();
            Ok((names.join("."), false))
        }
        Expr::Nested(inner) => as_text(inner),
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => Ok((number.clone(), true)),
            Value::Boolean(on) => Ok((if *on { "true" } else { "false" }.to_owned(), false)),
            Value::SingleQuotedString(text)
            | Value::DoubleQuotedString(text)
            | Value::EscapedStringLiteral(text)
            | Value::UnicodeStringLiteral(text) => Ok((text.clone(), false)),
            Value::DollarQuotedString(text) => Ok((text.value.clone(), false)),
            _ => Err(refused(expr)),
        },
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => as_text(expr).map(|(text, number)| (format!("-{text}"), number)),
        Expr::UnaryOp {
            op: UnaryOperator::Plus,
            expr,
        } => as_text(expr),
        _ => Err(refused(expr)),
    }
}

fn refused(expr: &Expr) -> Failure {
    let message = format!("a setting's value is a constant, not {expr}");
    Failure::new("42601", message)
}

/// `INTERVAL '-3' HOUR TO MINUTE` is hours east of Greenwich, as a number is.
fn zone(value: &Expr) -> Result<String, Failure> {
    let Expr::Interval(ast::Interval { value, .. }) = value else {
        return as_text(value).map(|(text, _)| text);
    };
    let (text, _) = as_text(value)?;
    let text = text.to_lowercase();
    let number = text.split([' ', ':']).next().unwrap_or_default();
    let minutes = text.split_once(':').map_or(0.0, |(_, rest)| {
        rest.split(':')
            .next()
            .unwrap_or_default()
            .parse()
            .unwrap_or(0.0)
    });
    let hours: f64 = number.parse().map_err(|_| {
        Failure::new(
            "22023",
            format!("invalid value for parameter \"TimeZone\": \"{text}\""),
        )
    })?;
    Ok((hours + hours.signum() * minutes / 60.0).to_string())
}
