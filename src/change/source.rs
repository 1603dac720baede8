//! The content that a measurement or a backfill is about: any query, and which of its columns mean what.
//!
//! Takes SQL and the names of columns (or guesses them), gives a query with the columns `id`, `text` and, where one was
//! named, `weight`. It is planned under the caller's rights. Reads nothing itself.

use crate::content::postgres::quoted;
use crate::engine::Session;
use crate::error::Error;
use datafusion::arrow::datatypes::{Field, Schema};

/// Which columns of a query mean what, as the caller said it.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// What tells rows apart for the user.
    pub id: Option<String>,
    /// What is judged.
    pub text: Option<String>,
    /// How much a row matters; larger is more.
    pub weight: Option<String>,
}

/// A query over stored content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As typed.
    pub sql: String,
    /// The column that tells rows apart for the user; `None` where the query gives none.
    pub id: Option<String>,
    /// The column that is judged.
    pub text: String,
    /// The column that says how much a row matters.
    pub weight: Option<String>,
}

impl Source {
    /// Looks at the columns of a query. The text is the column named, else the one called `text`, else the only one that
    /// holds texts beside the id. The id is the column named, else the one called `id`, else none.
    ///
    /// # Errors
    /// As [`Session::query`]; 42703 for a column that the query does not give; 42P18 where it is open which column is the
    /// text; 42804 for a text that is no text and a weight that is no number.
    pub async fn resolve(session: &Session, sql: &str, named: Named) -> Result<Source, Error> {
        Source::of(&*session.query_columns(sql).await?, sql, named)
    }

    /// The same for a query whose columns are known.
    ///
    /// # Errors
    /// As [`Source::resolve`], but those of planning.
    pub fn of(columns: &Schema, sql: &str, named: Named) -> Result<Source, Error> {
        let find = |name: &str| find(columns, name);
        let id = match &named.id {
            Some(name) => Some(find(name)?.name().clone()),
            None => find("id").ok().map(|field| field.name().clone()),
        };
        let text = match &named.text {
            Some(name) => find(name)?,
            None => guessed(columns, id.as_deref())?,
        };
        if !text.data_type().is_string() {
            return Err(refused(
                "42804",
                format!("column {} is {}, not text", text.name(), text.data_type()),
            ));
        }
        let weight = named.weight.as_deref().map(find).transpose()?;
        if let Some(weight) = weight
            && !weight.data_type().is_numeric()
        {
            let (name, is) = (weight.name(), weight.data_type());
            return Err(refused(
                "42804",
                format!("column {name} is {is}, not a number: it cannot be a weight"),
            ));
        }
        Ok(Source {
            sql: sql.trim().trim_end_matches(';').to_owned(),
            id,
            text: text.name().clone(),
            weight: weight.map(|field| field.name().clone()),
        })
    }

    /// The query with columns `id` (text, NULL where there is none), `text` and, where one was named, `weight` (double
    /// precision). Rows without a text are left out.
    pub fn select(&self) -> String {
        self.select_by(None)
    }

    /// The same with one more column of the query, as the text `strata`.
    pub fn select_by(&self, strata: Option<&str>) -> String {
        let text = quoted(&self.text);
        let strata = strata.map(|name| format!(", CAST({} AS TEXT) AS strata", quoted(name)));
        format!(
            "SELECT {}{} FROM ({}\n) AS source WHERE {text} IS NOT NULL",
            self.columns(),
            strata.unwrap_or_default(),
            self.sql
        )
    }

    /// The select list of [`Source::select`].
    fn columns(&self) -> String {
        let id = self.id.as_deref().map_or("NULL".to_owned(), quoted);
        let weight = self.weight.as_deref().map(|weight| {
            let weight = quoted(weight);
            format!(", CAST({weight} AS DOUBLE) AS weight")
        });
        format!(
            "CAST({id} AS TEXT) AS id, CAST({} AS TEXT) AS text{}",
            quoted(&self.text),
            weight.unwrap_or_default()
        )
    }
}

/// The column that a name means, whatever its case where no case fits.
///
/// # Errors
/// 42703, with the columns that are there.
pub fn find<'a>(columns: &'a Schema, name: &str) -> Result<&'a Field, Error> {
    let fields = columns.fields();
    let found = fields.iter().find(|field| field.name() == name);
    let found = found.or_else(|| fields.iter().find(|f| f.name().eq_ignore_ascii_case(name)));
    match found {
        Some(field) => Ok(field),
        None => Err(refused(
            "42703",
            format!(
                "the source has no column \"{name}\": it gives {}",
                names(columns)
            ),
        )),
    }
}

fn guessed<'a>(columns: &'a Schema, id: Option<&str>) -> Result<&'a Field, Error> {
    if let Ok(field) = find(columns, "text") {
        return Ok(field);
    }
    let texts = columns
        .fields()
        .iter()
        .filter(|field| field.data_type().is_string() && id.is_none_or(|id| field.name() != id));
    match texts.collect::<Vec<_>>().as_slice() {
        [text] => Ok(text),
        texts => Err(Error::Refused {
            sqlstate: "42P18",
            why: format!(
                "{} columns of the source could be the text: it gives {}",
                texts.len(),
                names(columns)
            ),
            hint: Some("name it: text => 'column'".to_owned()),
        }),
    }
}

fn names(columns: &Schema) -> String {
    let names: Vec<&str> = columns.fields().iter().map(|f| f.name().as_str()).collect();
    names.join(", ")
}

/// A refusal without a hint.
pub(super) fn refused(sqlstate: &'static str, why: String) -> Error {
    Error::Refused {
        sqlstate,
        why,
        hint: None,
    }
}
