//! The catalog that survives a restart: external tables, views, schemas, servers and secrets that SQL made.
//!
//! Takes statements that made or dropped something, keeps them in the store, and makes everything again when the program
//! starts. What cannot be made then (its file is gone) is said, kept, and made at a later start. A statement that holds a
//! secret is not kept. Tables of CREATE TABLE AS are kept as `tables` says. Two processes on one store see each other's relations
//! when they start. Knows no file formats.

use super::script::{self, Statement};
use super::servers::{self, Ask};
use super::{CATALOG, Engine, Session, delta, secrets, tables};
use crate::error::Error;
use crate::store::{RelationRow, now};
use datafusion::common::TableReference;
use datafusion::logical_expr::{DdlStatement, DropTable, DropView, LogicalPlan};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use std::path::Path;

/// Keys of OPTIONS that hold any of these words are taken for secrets: better one table too few than a password kept.
const SECRETS: [&str; 9] = [
    "secret",
    "password",
    "passwd",
    "token",
    "key",
    "credential",
    "auth",
    "sas",
    "signature",
];

/// What a statement does to the catalog.
#[derive(Debug)]
pub(super) enum Change {
    /// Makes something that is kept.
    Put(Box<RelationRow>),
    /// Makes something that holds a secret.
    Secret(Name),
    /// Drops something, or puts something in its place that is not kept.
    Drop {
        name: Name,
        /// Whether it is not there: it was kept and could not be made.
        unmade: bool,
    },
}

/// Of a table or view, or with an empty name of a schema.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) schema: String,
    pub(super) name: String,
}

impl Name {
    fn schema(name: &str) -> Name {
        Name {
            schema: name.to_owned(),
            name: String::new(),
        }
    }
}

/// What `plan` will do, seen before it is done; `None` where nothing is kept of it.
pub(super) fn change(
    session: &Session,
    statement: &Statement,
    plan: &LogicalPlan,
) -> Option<Change> {
    let LogicalPlan::Ddl(ddl) = plan else {
        return None;
    };
    match ddl {
        DdlStatement::CreateExternalTable(table) => {
            let there = table.if_not_exists && exists(session, &table.name)?;
            if table.temporary || there {
                return None;
            }
            let name = resolved(session, &table.name)?;
            let secret = table.options.keys().any(|key| is_secret(key))
                || table.locations.iter().any(|location| holds_login(location));
            Some(match secret {
                true => Change::Secret(name),
                false => {
                    let made_by = with_absolute_locations(&statement.sql);
                    put(session, statement, ("table", name), made_by)
                }
            })
        }
        DdlStatement::CreateView(view) if !view.temporary => {
            let name = resolved(session, &view.name)?;
            // As the planner read it: a server reads some things otherwise.
            let made_by = statement.ast().map(ToString::to_string)?;
            Some(put(session, statement, ("view", name), made_by))
        }
        DdlStatement::CreateCatalogSchema(schema) => {
            let name = schema.schema_name.strip_prefix(&format!("{CATALOG}."));
            let name = name.unwrap_or(&schema.schema_name);
            let own = !name.contains('.') && !schema_exists(session, name);
            own.then(|| match servers::holds_secret(statement) {
                true => Change::Secret(Name::schema(name)),
                false => {
                    let made_by = statement.sql.clone();
                    put(session, statement, ("schema", Name::schema(name)), made_by)
                }
            })
        }
        DdlStatement::CreateMemoryTable(table) if table.or_replace => Some(Change::Drop {
            name: resolved(session, &table.name)?,
            unmade: false,
        }),
        DdlStatement::DropTable(DropTable { name, .. })
        | DdlStatement::DropView(DropView { name, .. }) => Some(Change::Drop {
            unmade: !exists(session, name)?,
            name: resolved(session, name)?,
        }),
        DdlStatement::DropCatalogSchema(drop) => {
            let name = drop.name.schema_name();
            Some(Change::Drop {
                unmade: !schema_exists(session, name),
                name: Name::schema(name),
            })
        }
        _ => None,
    }
}

/// What keeps a thing of this kind and name.
pub(super) fn put(
    session: &Session,
    statement: &Statement,
    (kind, name): (&str, Name),
    made_by: String,
) -> Change {
    Change::Put(Box::new(RelationRow {
        kind: kind.to_owned(),
        schema: name.schema,
        name: name.name,
        sql: statement.sql.clone(),
        made_by,
        default_schema: default_schema(session),
        created_by: session.user.clone(),
        created_at: now(),
    }))
}

/// `None` where that cannot be told.
fn exists(session: &Session, name: &TableReference) -> Option<bool> {
    session.context.table_exist(name.clone()).ok()
}

pub(super) fn schema_exists(session: &Session, name: &str) -> bool {
    let catalog = session.context.catalog(CATALOG);
    catalog.is_some_and(|catalog| catalog.schema(name).is_some())
}

/// Forgets what a DROP names that was kept and could not be made; whether there was such a thing.
pub(super) async fn forget_unmade(session: &Session, change: &Change) -> Result<bool, Error> {
    match change {
        Change::Drop { name, unmade: true } => forget(session, name).await,
        _ => Ok(false),
    }
}

/// Keeps what was made, forgets what was dropped; what there is to say of it.
pub(super) async fn keep(session: &Session, change: Change) -> Result<Option<String>, Error> {
    let store = session.engine.store();
    match change {
        Change::Put(row) => store.put_relation(*row).await?,
        Change::Secret(name) => {
            forget(session, &name).await?;
            return Ok(Some(
                "not kept across restarts: OPTIONS hold a secret".to_owned(),
            ));
        }
        Change::Drop { name, .. } => {
            forget(session, &name).await?;
        }
    }
    Ok(None)
}

async fn forget(session: &Session, name: &Name) -> Result<bool, Error> {
    let store = session.engine.store();
    Ok(match name.name.is_empty() {
        true => store.remove_schema(&name.schema).await? > 0,
        false => store.remove_relation(&name.schema, &name.name).await?,
    })
}

impl Engine {
    /// Makes everything again that SQL made, in a session that is for nothing else. Gives a line for each thing that could
    /// not be made, with the reason; it stays kept.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn restore(&self, session: &Session) -> Result<Vec<String>, Error> {
        let mut left = self.store().relations().await?;
        // Tables in object stores need them.
        left.sort_by_key(|row| row.kind != "secret");
        // A view that was replaced may need what was made after it: as long as anything can be made, the rest may follow.
        loop {
            let mut unmade = Vec::new();
            let before = left.len();
            for row in left {
                if let Err(error) = remake(session, &row).await {
                    unmade.push((row, error));
                }
            }
            if unmade.is_empty() || unmade.len() == before {
                tables::sweep(self).await?;
                return Ok(unmade.iter().map(|(row, error)| said(row, error)).collect());
            }
            left = unmade.into_iter().map(|(row, _)| row).collect();
        }
    }
}

async fn remake(session: &Session, row: &RelationRow) -> Result<(), Error> {
    session.set("datafusion.catalog.default_schema", &row.default_schema)?;
    if row.kind == "secret" {
        secrets::apply(session, &Statement::parse(&row.made_by)?)?;
        return Ok(());
    }
    let there = match row.kind.as_str() {
        "schema" => schema_exists(session, &row.schema),
        _ => session.context.table_exist(TableReference::partial(
            row.schema.as_str(),
            row.name.as_str(),
        ))?,
    };
    if there {
        // Made by another start of this engine.
        return Ok(());
    }
    let statement = Statement::parse(&row.made_by)?;
    match session.plan(&statement).await? {
        // It may be away while this program starts.
        LogicalPlan::Ddl(DdlStatement::CreateCatalogSchema(create))
            if servers::makes_one(&statement) =>
        {
            session.attach(&statement, &create, Ask::Later).await
        }
        plan => match tables::reopen(session, &plan).await? {
            true => Ok(()),
            false => session.execute(delta::again(plan)).await.map(drop),
        },
    }
}

fn said(row: &RelationRow, error: &Error) -> String {
    let name = match (row.schema.as_str(), row.name.as_str()) {
        (schema, "") => schema.to_owned(),
        ("", name) => name.to_owned(),
        (schema, name) => format!("{schema}.{name}"),
    };
    format!(
        "{} {name} could not be made and stays kept: {error}",
        row.kind
    )
}

fn default_schema(session: &Session) -> String {
    let setting = session.setting("datafusion.catalog.default_schema");
    setting.unwrap_or_else(|| "public".to_owned())
}

/// `None` for what is in another catalog, which is not kept.
pub(super) fn resolved(session: &Session, name: &TableReference) -> Option<Name> {
    let resolved = name.clone().resolve(CATALOG, &default_schema(session));
    (*resolved.catalog == *CATALOG).then(|| Name {
        schema: resolved.schema.to_string(),
        name: resolved.table.to_string(),
    })
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRETS.iter().any(|word| key.contains(word))
}

/// `scheme://user:password@host/..`, but not Azure's `abfss://container@account..`
fn holds_login(location: &str) -> bool {
    let Some((scheme, rest)) = location.split_once("://") else {
        return false;
    };
    let login = rest.split('/').next().and_then(|host| host.split_once('@'));
    login.is_some_and(|(login, _)| login.contains(':') || !scheme.starts_with("abfs"))
}

/// The statement with paths that do not depend on where the program was started.
fn with_absolute_locations(sql: &str) -> String {
    let mut tokens: Vec<TokenWithSpan> = Vec::new();
    let tokenized =
        Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location_into_buf(&mut tokens);
    if tokenized.is_err() {
        return sql.to_owned();
    }
    let (mut out, mut copied, mut after) = (String::new(), 0, false);
    for token in tokens {
        match &token.token {
            Token::Word(word) => after = word.keyword == Keyword::LOCATION,
            Token::SingleQuotedString(path) if after => {
                let span = (token.span.start, token.span.end);
                let (Some(from), Some(to)) =
                    (script::byte_at(sql, span.0), script::byte_at(sql, span.1))
                else {
                    continue;
                };
                out.push_str(&sql[copied..from]);
                out.push_str(&ast::Value::SingleQuotedString(absolute(path)).to_string());
                copied = to;
            }
            _ => {}
        }
    }
    out.push_str(&sql[copied..]);
    out
}

fn absolute(path: &str) -> String {
    if path.contains("://") {
        return path.to_owned();
    }
    let absolute = std::path::absolute(Path::new(path));
    let absolute = absolute
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok());
    absolute.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_do_not_depend_on_where_the_program_was_started() {
        let here = std::env::current_dir().unwrap().display().to_string();
        for (sql, want) in [
            (
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'a/b.csv'",
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{here}/a/b.csv'",
            ),
            (
                "create external table é stored as csv\nlocation 'it''s/' options ('format.delimiter' ';')",
                "create external table é stored as csv\nlocation '{here}/it''s/' options ('format.delimiter' ';')",
            ),
            (
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/a/*.csv'",
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/a/*.csv'",
            ),
            (
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'file:///a'",
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'file:///a'",
            ),
            (
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION ('a', '/b')",
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION ('{here}/a', '/b')",
            ),
        ] {
            assert_eq!(
                with_absolute_locations(sql),
                want.replace("{here}", &here),
                "{sql}"
            );
        }
    }

    #[test]
    fn secrets_are_known_by_their_keys() {
        for key in [
            "aws.secret_access_key",
            "AWS.Session_Token",
            "aws.access_key_id",
            "azure.sas",
            "password",
        ] {
            assert!(is_secret(key), "{key}");
        }
        for key in [
            "format.has_header",
            "format.delimiter",
            "format.newlines_in_values",
            "aws.region",
        ] {
            assert!(!is_secret(key), "{key}");
        }
        for (location, want) in [
            ("postgres://ann:x@h/db", true),
            ("s3://bucket/a@b", false),
            ("https://ann@h/a.csv", true),
            ("abfss://posts@account.dfs.core.windows.net/a", false),
            ("abfss://posts:x@account.dfs.core.windows.net/a", true),
            ("a@b", false),
        ] {
            assert_eq!(holds_login(location), want, "{location}");
        }
    }
}
