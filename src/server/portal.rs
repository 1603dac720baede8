//! Prepared statements and portals of one connection.
//!
//! Takes statements with parameters, says their types and columns, fills values in. A statement is planned when it is
//! prepared and again when tables or settings changed since: a plan holds the tables that it was made with.

use super::casts::as_type;
use super::cursor::Cursor;
use super::encode::{Columns, Display, Zone, pg_type};
use super::failure::Failure;
use super::params;
use super::rewrite::infer;
use super::statement::{Kind, Statement, located};
use crate::engine;
use arrow_pg::datatypes::PG_OID_ALIAS_KEY;
use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use pgwire::api::Type;
use std::sync::Arc;

/// PostgreSQL's number of the type `text`.
const TEXT: u32 = 25;
/// Its number of a type that is not known.
const UNKNOWN: u32 = 705;

/// A prepared statement.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What was prepared; `None` is the empty statement.
    pub statement: Option<Arc<Statement>>,
    /// Types as the client gave them, 0 where it did not.
    pub given: Vec<u32>,
    /// The types of its parameters, as PostgreSQL numbers them.
    pub parameters: Vec<u32>,
    /// What the planner takes each parameter for, where it knows.
    wanted: Vec<Option<DataType>>,
    /// Its plan, and the version of tables and settings that it was made with.
    plan: Option<(u64, LogicalPlan)>,
    /// The columns of its rows; `None` when it gives none.
    pub columns: Option<SchemaRef>,
}

/// A statement with its parameters, and its rows once it runs.
pub struct Portal {
    /// What it runs.
    pub prepared: Arc<Prepared>,
    /// The values.
    pub values: Vec<ScalarValue>,
    /// The forms of the answer's columns.
    pub formats: Vec<i16>,
    /// Its rows, once it began.
    pub open: Option<Open>,
    /// Whether it outlives its transaction.
    pub hold: bool,
}

/// A portal that began.
pub struct Open {
    /// Its rows.
    pub cursor: Cursor,
    /// Their columns in wire form.
    pub columns: Columns,
    /// Whether all rows were read.
    pub done: bool,
}

impl Prepared {
    /// The empty statement.
    pub fn empty() -> Prepared {
        Prepared {
            statement: None,
            given: Vec::new(),
            parameters: Vec::new(),
            wanted: Vec::new(),
            plan: None,
            columns: None,
        }
    }

    /// A statement that takes no parameters; its columns are `columns`.
    pub fn plain(statement: Arc<Statement>, columns: Option<SchemaRef>) -> Prepared {
        Prepared {
            statement: Some(statement),
            columns,
            ..Prepared::empty()
        }
    }

    /// Plans `query`, which is what `statement` asks the engine.
    ///
    /// # Errors
    /// What planning fails with, and 42P18 for a parameter that is left out.
    pub async fn plan(
        session: &engine::Session,
        statement: Arc<Statement>,
        query: &engine::Statement,
        given: Vec<u32>,
        version: u64,
    ) -> Result<Prepared, Failure> {
        let plan = session.plan(query).await;
        let plan = plan.map_err(|error| located(error, &query.sql))?;
        let plan = infer(plan)?;
        let known = plan.get_parameter_types()?;
        let mut count = given.len();
        for name in known.keys() {
            let number = name.trim_start_matches('$').parse::<usize>();
            let number = number.map_err(|_| {
                Failure::new(
                    "42P02",
                    format!("there is no parameter {name}: use $1, $2, .."),
                )
            })?;
            if number == 0 || number > usize::from(u16::MAX) {
                return Err(Failure::new(
                    "42P02",
                    format!("there is no parameter {name}"),
                ));
            }
            count = count.max(number);
        }
        let mut prepared = Prepared {
            statement: Some(statement),
            given,
            parameters: Vec::with_capacity(count),
            wanted: Vec::with_capacity(count),
            plan: None,
            columns: None,
        };
        for at in 0..count {
            let wanted = known.get(&format!("${}", at + 1)).cloned().flatten();
            let given = prepared.given.get(at).copied().unwrap_or(0);
            let (oid, wanted) = match (given, wanted) {
                (0 | UNKNOWN, Some(wanted)) => {
                    let field = Field::new("", wanted.clone(), true);
                    (pg_type(&field).oid(), Some(wanted))
                }
                (0 | UNKNOWN, None) => (TEXT, None),
                // The planner takes `$1` in `$1 + INTERVAL '1 day'` for an interval, whatever the client says.
                (given, Some(DataType::Interval(_))) if given != Type::INTERVAL.oid() => {
                    (given, None)
                }
                (given, wanted) => (given, wanted),
            };
            let oids = introspects(&query.sql) && oid == Type::INT4_ARRAY.oid();
            let oid = if oids { Type::OID_ARRAY.oid() } else { oid };
            prepared.parameters.push(oid);
            prepared.wanted.push(wanted);
        }
        prepared.columns = prepared.columns_of(session, &plan, &query.sql)?;
        prepared.plan = Some((version, plan));
        Ok(prepared)
    }

    /// The columns of the rows that `plan` gives.
    fn columns_of(
        &self,
        session: &engine::Session,
        plan: &LogicalPlan,
        sql: &str,
    ) -> Result<Option<SchemaRef>, Failure> {
        if !gives_rows(plan) {
            return Ok(None);
        }
        let nulls: Result<Vec<ScalarValue>, _> = self
            .parameters
            .iter()
            .zip(&self.wanted)
            .map(|(oid, wanted)| {
                let typed = wanted.clone().or_else(|| params::arrow_type(*oid));
                let typed = typed.unwrap_or(DataType::Utf8);
                ScalarValue::try_from(&typed)
            })
            .collect();
        let filled = plan.clone().with_param_values(nulls?)?;
        let columns = session.columns(&filled)?;
        Ok(Some(match introspects(sql) {
            true => of_oids(&columns),
            false => columns,
        }))
    }

    /// The plan with `values` for its parameters, made anew when `version` is another than the plan's.
    ///
    /// # Errors
    /// What planning fails with; 0A000 when the columns are others than those that the client was told.
    pub async fn filled(
        &self,
        session: &engine::Session,
        query: &engine::Statement,
        version: u64,
        values: Vec<ScalarValue>,
    ) -> Result<LogicalPlan, Failure> {
        let plan = match &self.plan {
            Some((made, plan)) if *made == version => plan.clone(),
            _ => {
                let plan = infer(session.plan(query).await?)?;
                let columns = self.columns_of(session, &plan, &query.sql)?;
                if !same_types(columns.as_ref(), self.columns.as_ref()) {
                    let changed = "cached plan must not change result type";
                    return Err(Failure::new("0A000", changed));
                }
                plan
            }
        };
        match values.is_empty() {
            true => Ok(plan),
            false => Ok(plan.with_param_values(values)?),
        }
    }

    /// The values of a Bind message.
    ///
    /// # Errors
    /// 08P01 for a wrong count, 22P02 and its kin for what is no value of the type.
    pub fn values(
        &self,
        formats: &[i16],
        values: &[Option<Bytes>],
        zone: &Zone,
    ) -> Result<Vec<ScalarValue>, Failure> {
        let (given, wanted) = (values.len(), self.parameters.len());
        if given != wanted {
            return Err(Failure::new(
                "08P01",
                format!(
                    "bind message supplies {given} parameters, but prepared statement requires {wanted}"
                ),
            ));
        }
        if formats.len() > 1 && formats.len() != given {
            let count = formats.len();
            return Err(Failure::new(
                "08P01",
                format!("bind message has {count} parameter formats but {given} parameters"),
            ));
        }
        let mut bound = Vec::with_capacity(given);
        for (at, value) in values.iter().enumerate() {
            let format = match formats {
                [] => 0,
                [all] => *all,
                each => each[at],
            };
            let wanted = self.wanted[at].as_ref();
            let oid = self.parameters[at];
            let value = params::decode_in(zone, value.as_deref(), format, oid, wanted);
            bound.push(value.map_err(|mut failure| {
                let place = format!("parameter ${}", at + 1);
                failure.detail.get_or_insert(place.into());
                failure
            })?);
        }
        Ok(bound)
    }

    /// Values of any type, as the types that the planner wants.
    ///
    /// # Errors
    /// What cannot be cast.
    pub fn cast(&self, values: Vec<ScalarValue>, zone: &Zone) -> Result<Vec<ScalarValue>, Failure> {
        let typed = values.into_iter().zip(&self.wanted).zip(&self.parameters);
        typed
            .map(|((value, wanted), oid)| {
                let wanted = wanted.clone().or_else(|| params::arrow_type(*oid));
                match wanted {
                    Some(wanted) => Ok(as_type(&value, &wanted, zone)?),
                    None => Ok(value),
                }
            })
            .collect()
    }

    /// What it asks the engine, if it does.
    pub fn query(&self) -> Option<&engine::Statement> {
        match &self.statement.as_ref()?.kind {
            Kind::Engine(query) => Some(query),
            Kind::Declare(declare) => Some(&declare.query),
            Kind::CopyOut { query, .. } => Some(query),
            _ => None,
        }
    }

    /// Its columns in wire form; `None` when it gives no rows.
    ///
    /// # Errors
    /// Formats that fit no columns.
    pub fn described(&self, formats: &[i16], display: Display) -> Result<Option<Columns>, Failure> {
        match &self.columns {
            Some(schema) => Ok(Some(Columns::new(schema, formats, display)?)),
            None => Ok(None),
        }
    }
}

/// Whether this is asyncpg's question for types that it does not know. It reads the answer before it knows any array but
/// `oid[]` and `text[]`, and would ask for `int4[]` with the same question, without end.
fn introspects(sql: &str) -> bool {
    sql.contains("typeinfo_tree")
}

/// Lists of Int32 as lists of OIDs, which is what they hold in the catalog.
fn of_oids(columns: &SchemaRef) -> SchemaRef {
    let fields = columns
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::List(item) if *item.data_type() == DataType::Int32 => {
                let alias = (PG_OID_ALIAS_KEY.to_owned(), "oid".to_owned());
                let item = item.as_ref().clone().with_metadata([alias].into());
                let list = DataType::List(Arc::new(item));
                Arc::new(field.as_ref().clone().with_data_type(list))
            }
            _ => Arc::clone(field),
        });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether a plan's rows are the client's.
pub fn gives_rows(plan: &LogicalPlan) -> bool {
    !matches!(
        plan,
        LogicalPlan::Dml(_)
            | LogicalPlan::Ddl(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::Statement(_)
    )
}

/// Whether a plan changes what others see.
pub fn writes(plan: &LogicalPlan) -> bool {
    matches!(
        plan,
        LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_)
    )
}

fn same_types(one: Option<&SchemaRef>, other: Option<&SchemaRef>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            one.fields().len() == other.fields().len()
                && one
                    .fields()
                    .iter()
                    .zip(other.fields())
                    .all(|(a, b)| pg_type(a).oid() == pg_type(b).oid())
        }
        _ => false,
    }
}
