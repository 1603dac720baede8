//! CREATE SECRET and DROP SECRET: who we are in object stores.
//!
//! Takes statements as DuckDB spells them, gives secrets to `content`. A secret that names variables of the environment is
//! kept; one that holds the secret itself is there until the program ends. No value is ever shown.
//!
//! Source of the spelling: DuckDB documentation, "Secrets Manager".

use super::functions::{Function, FunctionDoc, Planned, Planning};
use super::relations::{self, Change, Name};
use super::script::{self, Statement};
use super::{CATALOG, Session, guarded};
use crate::config::Role;
use crate::content::objects::{Kind, Secret, Stores};
use crate::error::Error;
use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{self, Ident};
use safeguard_udfs::Tally;
use std::sync::{Arc, LazyLock};

/// What a statement does with a secret.
enum Doing<'a> {
    Create {
        name: String,
        or_replace: bool,
        if_not_exists: bool,
        kind: &'a Ident,
        options: &'a [ast::SecretOption],
    },
    Drop {
        name: String,
        if_exists: bool,
    },
}

/// What a statement does with a secret; `None` for any other statement.
fn doing(statement: &Statement) -> Result<Option<Doing<'_>>, Error> {
    Ok(Some(match statement.ast() {
        Some(ast::Statement::CreateSecret {
            or_replace,
            temporary,
            if_not_exists,
            name,
            storage_specifier,
            secret_type,
            options,
        }) => {
            if temporary.is_some() || storage_specifier.is_some() {
                let why = "CREATE SECRET takes no TEMPORARY, no PERSISTENT and no IN: it is kept if it names variables of the environment";
                return Err(Error::refused("0A000", why));
            }
            let Some(name) = name else {
                return Err(Error::refused("42602", "a secret needs a name"));
            };
            Doing::Create {
                name: script::folded(name),
                or_replace: *or_replace,
                if_not_exists: *if_not_exists,
                kind: secret_type,
                options,
            }
        }
        Some(ast::Statement::DropSecret {
            if_exists,
            name,
            temporary,
            storage_specifier,
        }) => {
            if temporary.is_some() || storage_specifier.is_some() {
                let why = "DROP SECRET takes no TEMPORARY, no PERSISTENT and no FROM";
                return Err(Error::refused("0A000", why));
            }
            Doing::Drop {
                name: script::folded(name),
                if_exists: *if_exists,
            }
        }
        _ => return Ok(None),
    }))
}

/// Such a statement as a plan that guards know: who may make a schema may make a secret. `None` for any other.
///
/// # Errors
/// A clause or an option that cannot be had.
pub(super) fn planned(statement: &Statement) -> Result<Option<LogicalPlan>, Error> {
    let Some(doing) = doing(statement)? else {
        return Ok(None);
    };
    let (said, name) = match &doing {
        Doing::Create { name, .. } => {
            parsed(&doing)?;
            ("CREATE SECRET", name)
        }
        Doing::Drop { name, .. } => ("DROP SECRET", name),
    };
    let name = format!("{CATALOG}.secret.{name}");
    Ok(Some(guarded::plan(said, name, true)))
}

fn parsed(doing: &Doing<'_>) -> Result<Option<Secret>, Error> {
    let Doing::Create { kind, options, .. } = doing else {
        return Ok(None);
    };
    let kind: Kind = kind.value.parse()?;
    let given: Vec<_> = options
        .iter()
        .map(|option| (option.key.value.clone(), option.value.value.clone()))
        .collect();
    Ok(Some(Secret::parse(kind, &given)?))
}

/// A secret was made or dropped.
#[derive(Default)]
pub(super) struct Applied {
    /// What is to be kept or forgotten in the store.
    change: Option<Change>,
    /// What there is to say.
    note: Option<&'static str>,
}

/// Does what the statement says, and no more: nothing is kept or forgotten in the store. `None` where it is about no secret.
///
/// # Errors
/// A secret that is there, or is not; another for the same places.
pub(super) fn apply(session: &Session, statement: &Statement) -> Result<Option<Applied>, Error> {
    let Some(doing) = doing(statement)? else {
        return Ok(None);
    };
    let stores = &session.engine.objects;
    if let Some(secret) = parsed(&doing)?
        && let Doing::Create {
            name,
            or_replace,
            if_not_exists,
            ..
        } = &doing
    {
        let holds_secret = secret.holds_secret();
        let there = stores.put(name, secret, *or_replace)?;
        return match (there && !or_replace, if_not_exists) {
            (true, true) => Ok(Some(Applied::default())),
            (true, false) => {
                let why = format!("secret \"{name}\" already exists");
                Err(Error::refused("42710", why))
            }
            (false, _) if holds_secret => {
                let note = "not kept across restarts: it holds a secret; an option .._ENV that names a variable of the environment would be kept";
                Ok(Some(Applied {
                    change: Some(forgotten(name)),
                    note: Some(note),
                }))
            }
            (false, _) => {
                let kept = relations::put(
                    session,
                    statement,
                    ("secret", at(name)),
                    statement.sql.clone(),
                );
                Ok(Some(Applied {
                    change: Some(kept),
                    note: None,
                }))
            }
        };
    }
    let Doing::Drop { name, if_exists } = doing else {
        return Ok(None);
    };
    match stores.remove(&name) || if_exists {
        true => Ok(Some(Applied {
            change: Some(forgotten(&name)),
            note: None,
        })),
        false => {
            let why = format!("secret \"{name}\" does not exist");
            Err(Error::Refused {
                sqlstate: "42704",
                why,
                hint: Some("SELECT * FROM safeguard_secrets() lists the secrets".to_owned()),
            })
        }
    }
}

/// Where the catalog keeps a secret: in no schema.
fn at(name: &str) -> Name {
    Name {
        schema: String::new(),
        name: name.to_owned(),
    }
}

fn forgotten(name: &str) -> Change {
    Change::Drop {
        name: at(name),
        unmade: false,
    }
}

impl Session {
    /// Runs CREATE SECRET or DROP SECRET; whether the statement was one.
    pub(super) async fn secret(&self, statement: &Statement, tally: &Tally) -> Result<bool, Error> {
        let Some(Applied { change, note }) = apply(self, statement)? else {
            return Ok(false);
        };
        if let Some(change) = change {
            relations::keep(self, change).await?;
        }
        if let Some(note) = note {
            tally.note(note.to_owned());
        }
        Ok(true)
    }
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("name"),
        text("type"),
        Field::new("scope", DataType::Utf8, true),
        text("options"),
        Field::new("kept", DataType::Boolean, false),
    ]))
});

/// `SELECT * FROM safeguard_secrets()`.
pub(super) fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: "safeguard_secrets",
            arguments: &[],
            required: 0,
            returns: Arc::clone(&SCHEMA),
            description: "Every secret that CREATE SECRET made: where it is used and what it says, without the values.",
        },
        role: Role::Admin,
        plan,
    }
}

fn plan(_: &Planning<'_>) -> Result<Planned> {
    Ok(Planned::once(&SCHEMA, |call| async move {
        Ok(described(&call.engine.objects)?)
    }))
}

fn described(stores: &Stores) -> Result<RecordBatch> {
    let all = stores.described();
    let options = all.iter().map(|secret| secret.options.join(", "));
    let scopes = all
        .iter()
        .map(|secret| Some(&secret.scope).filter(|scope| !scope.is_empty()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(all.iter().map(|s| &s.name))),
        Arc::new(StringArray::from_iter_values(all.iter().map(|s| s.kind))),
        Arc::new(StringArray::from_iter(scopes)),
        Arc::new(StringArray::from_iter_values(options)),
        Arc::new(BooleanArray::from_iter(all.iter().map(|s| Some(s.kept)))),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}
