//! SET, SHOW, RESET and DISCARD.
//!
//! Takes the commands, changes or shows the connection's settings. What they mean is `settings`' business; what belongs
//! to the connection beside them (portals, prepared statements) is forgotten here.

use super::cursor::Cursor;
use super::failure::Failure;
use super::run::Outcome;
use super::session::Session;
use super::settings::{Command, Discard};
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// The columns that a command shows; `None` when it shows nothing.
pub(super) fn columns(session: &Session, command: &Command) -> Option<SchemaRef> {
    let names = match command {
        Command::Show(name) => vec![session.settings.canonical(name)],
        Command::ShowAll => ["name", "setting", "description"].map(str::to_owned).into(),
        _ => return None,
    };
    let fields = names.into_iter();
    let fields = fields.map(|name| Field::new(name, DataType::Utf8, true));
    Some(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

fn shown(schema: SchemaRef, rows: &[Vec<String>]) -> Result<Outcome, Failure> {
    let columns = (0..schema.fields().len()).map(|at| {
        let values = rows.iter().map(|row| row.get(at).map(String::as_str));
        Arc::new(values.collect::<StringArray>()) as ArrayRef
    });
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns.collect());
    let batch = batch.map_err(datafusion::common::DataFusionError::from)?;
    Ok(Outcome::Rows(Cursor::of(batch, "SHOW")))
}

impl Session {
    /// Runs one of these commands.
    pub(super) async fn setting(&mut self, command: &Command) -> Result<Outcome, Failure> {
        let tag = match command {
            Command::Show(name) => {
                let value = match (name.as_str(), self.transaction.is_open()) {
                    ("transaction_read_only", true) => {
                        let on = self.transaction.is_read_only();
                        if on { "on" } else { "off" }.to_owned()
                    }
                    (name, _) => self.settings.get(name)?,
                };
                let schema = columns(self, command).unwrap_or_else(|| Arc::new(Schema::empty()));
                return shown(schema, &[vec![value]]);
            }
            Command::ShowAll => {
                let schema = columns(self, command).unwrap_or_else(|| Arc::new(Schema::empty()));
                let all = self.settings.all().into_iter();
                let rows: Vec<_> = all
                    .map(|(name, value, what)| vec![name, value, what])
                    .collect();
                return shown(schema, &rows);
            }
            Command::Set { name, value, local } => {
                if *local && !self.transaction.is_open() {
                    let why = "SET LOCAL can only be used in transaction blocks";
                    let warning = Failure {
                        severity: super::failure::Severity::Warning,
                        ..Failure::new("25P01", why)
                    };
                    return Ok(Outcome::Warned(warning, "SET".to_owned()));
                }
                self.settings.set(name, value.as_deref(), *local)?;
                "SET"
            }
            Command::SetTransaction { values, local } => {
                for (name, value) in values {
                    if *name == "transaction_read_only" && self.transaction.is_open() {
                        self.transaction.set_read_only(value == "on");
                    }
                    self.settings.set(name, Some(value), *local)?;
                }
                "SET"
            }
            Command::SetRole(name) | Command::SetSessionAuthorization(name) => {
                let own = self.settings.get("session_authorization")?;
                if let Some(name) = name.as_ref().filter(|name| **name != own) {
                    return Err(Failure::new(
                        "42501",
                        format!("permission denied to set role \"{name}\""),
                    ));
                }
                "SET"
            }
            Command::Reset(name) => {
                self.settings.reset(name)?;
                "RESET"
            }
            Command::ResetAll => {
                self.settings.reset_all();
                "RESET"
            }
            Command::Discard(what) => return self.discard(*what).await,
        };
        self.version += 1;
        Ok(Outcome::Tag(tag.to_owned()))
    }

    async fn discard(&mut self, what: Discard) -> Result<Outcome, Failure> {
        let tag = match what {
            Discard::All => {
                if self.transaction.is_open() {
                    let why = "DISCARD ALL cannot run inside a transaction block";
                    return Err(Failure::new("25001", why));
                }
                let names: Vec<String> = self.portals.keys().cloned().collect();
                for name in names.iter().filter(|name| !name.is_empty()) {
                    self.close_portal(name).await;
                }
                self.prepared.retain(|name, _| name.is_empty());
                self.settings.reset_all();
                "DISCARD ALL"
            }
            Discard::Plans => "DISCARD PLANS",
            Discard::Sequences => "DISCARD SEQUENCES",
            Discard::Temp => "DISCARD TEMP",
        };
        self.version += 1;
        Ok(Outcome::Tag(tag.to_owned()))
    }
}
