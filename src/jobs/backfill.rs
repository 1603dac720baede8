//! `SELECT * FROM safeguard_backfill(..)` and what steers one: `_pause`, `_resume`, `_cancel`.
//!
//! Takes a policy and a source, counts and estimates, stores what is asked for, gives its id at once. The rest is the
//! workers' business, whatever becomes of the client. Knows SQL's side of backfills only.

use super::spool::Order;
use crate::change::source::{Named, Source};
use crate::classify::queued::judging;
use crate::config::{BACKFILL_ESTIMATE_TEXTS, BACKFILL_ROWS_WITHOUT_NOTE, Role};
use crate::content::postgres::quoted;
use crate::engine::functions::{Arguments, Call, Function, FunctionDoc, Planned, Planning};
use crate::engine::{Asking, Session};
use crate::error::Error;
use crate::policy::Version;
use crate::store::{BackfillRow, NewBackfill, Steer, Steered};
use datafusion::arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

static BEGUN: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("policy", DataType::Utf8, false),
        Field::new("rows", DataType::Int64, false),
        Field::new("tokens", DataType::Int64, false),
        Field::new("seconds", DataType::Float64, true),
        Field::new("state", DataType::Utf8, false),
    ]))
});

static STEERED: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("policy", DataType::Utf8, false),
        Field::new("state", DataType::Utf8, false),
        Field::new("rows", DataType::Int64, false),
        Field::new("judged", DataType::Int64, false),
        Field::new("failed", DataType::Int64, false),
    ]))
});

/// The functions.
pub(super) fn functions() -> Vec<Function> {
    let steering = |name, arguments, description, plan| Function {
        doc: FunctionDoc {
            name,
            arguments,
            required: 1,
            returns: Arc::clone(&STEERED),
            description,
        },
        role: Role::Admin,
        plan,
    };
    vec![
        Function {
            doc: FunctionDoc {
                name: "safeguard_backfill",
                arguments: &[
                    ("policy", DataType::Utf8),
                    ("source", DataType::Utf8),
                    ("id", DataType::Utf8),
                    ("text", DataType::Utf8),
                    ("weight", DataType::Utf8),
                    ("order_by", DataType::Utf8),
                    ("budget", DataType::Int64),
                    ("only", DataType::Utf8),
                    ("from", DataType::Utf8),
                    ("note", DataType::Utf8),
                ],
                required: 2,
                returns: Arc::clone(&BEGUN),
                description: "Judges the rows of a query durably in the background, the weightiest first; progress is in safeguard.backfills.",
            },
            role: Role::Admin,
            plan,
        },
        steering(
            "safeguard_backfill_pause",
            &[("id", DataType::Int64)],
            "Stops a backfill until it is resumed.",
            |planning| steered(planning, Steer::Pause),
        ),
        steering(
            "safeguard_backfill_resume",
            &[("id", DataType::Int64), ("budget", DataType::Int64)],
            "Goes on with a backfill that is paused or failed, with another budget of tokens where one is given.",
            |planning| {
                let budget = positive(planning.arguments, "budget")?;
                steered(planning, Steer::Resume { budget })
            },
        ),
        steering(
            "safeguard_backfill_cancel",
            &[("id", DataType::Int64)],
            "Stops a backfill for good; what was judged stays.",
            |planning| steered(planning, Steer::Cancel),
        ),
    ]
}

/// What was asked for, as far as planning can check it.
#[derive(Debug, Clone)]
struct Wanted {
    /// What is resolved.
    reference: Arc<str>,
    version: Arc<Version>,
    source: String,
    named: Named,
    order: Option<Order>,
    order_by: Option<String>,
    budget: Option<u64>,
    /// The earlier version, as it is resolved, where only affected rows are wanted.
    from: Option<Arc<str>>,
    note: Option<String>,
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = planning.arguments;
    let (reference, version) = pinned(planning, given.required("policy"))?;
    let owned = |name: &str| given.text(name).map(str::to_owned);
    let order_by = owned("order_by");
    let order = order_by.as_deref().map(|said| {
        Order::parse(said).ok_or_else(|| {
            refused(
                "22023",
                format!("order_by '{said}' is not a column, or a column and asc or desc"),
            )
        })
    });
    let wanted = Wanted {
        from: from(planning, &version)?,
        reference,
        version,
        source: given.required("source").to_owned(),
        named: Named {
            id: owned("id"),
            text: owned("text"),
            weight: owned("weight"),
        },
        order: order.transpose()?,
        order_by,
        budget: positive(given, "budget")?,
        note: owned("note").filter(|note| !note.trim().is_empty()),
    };
    Ok(Planned::once(&BEGUN, move |call| {
        begin(call, wanted.clone())
    }))
}

/// A version, and the reference by which it is the same later on.
fn pinned(planning: &Planning<'_>, said: &str) -> Result<(Arc<str>, Arc<Version>)> {
    let policies = planning.engine.policies();
    let version = policies.resolve(said).map_err(Error::from)?;
    let reference = match version.number {
        0 => Arc::from(said),
        _ => version.reference(),
    };
    Ok((reference, version))
}

/// The version before, or the one that was named, where only affected rows are wanted.
fn from(planning: &Planning<'_>, version: &Version) -> Result<Option<Arc<str>>> {
    let given = planning.arguments;
    match (given.text("only"), given.text("from")) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            let why = "from says which verdicts tell affected rows from others: it goes with only => 'affected'";
            Err(refused("22023", why.to_owned()))
        }
        (Some("affected"), Some(from)) => Ok(Some(pinned(planning, from)?.0)),
        (Some("affected"), None) if version.number > 1 => {
            let before = format!("{}@{}", version.name, version.number - 1);
            Ok(Some(pinned(planning, &before)?.0))
        }
        (Some("affected"), None) => Err(refused(
            "22023",
            format!(
                "there is no version before {}; name one: from => 'name@1'",
                version.reference()
            ),
        )),
        (Some(other), _) => Err(refused("22023", format!("only '{other}' is not: affected"))),
    }
}

fn positive(given: &Arguments, name: &str) -> Result<Option<u64>> {
    match given.whole(name) {
        None => Ok(None),
        Some(n) => match u64::try_from(n) {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => Err(refused(
                "22023",
                format!("{name} {n} is not a number of tokens above 0"),
            )),
        },
    }
}

fn refused(sqlstate: &'static str, why: String) -> DataFusionError {
    Error::refused(sqlstate, why).into()
}

async fn begin(call: Call, wanted: Wanted) -> std::result::Result<RecordBatch, Error> {
    let session = call.session();
    let source = Source::resolve(&session, &wanted.source, wanted.named.clone()).await?;
    let selection = selection(&source, wanted.order.as_ref());
    // A wrong order is found now rather than when the client has gone.
    session.query_columns(&selection).await?;
    let rows = counted(&session, &source).await?;
    let settings = call.settings();
    let (engine, model) = (&call.engine, call.engine.model());
    let judging = judging(&wanted.reference, &wanted.version, model, &settings);
    let asking = Asking {
        policy: Arc::clone(&wanted.reference),
        settings: Arc::new(settings),
        fresh: false,
    };
    let tokens = estimated(&call, &session, &source, &asking)
        .await?
        .for_rows(rows);
    let rate = engine.store().backfill_rate(&judging).await?;
    if rows > BACKFILL_ROWS_WITHOUT_NOTE && wanted.note.is_none() {
        return Err(Error::Refused {
            sqlstate: "22023",
            why: format!(
                "a backfill of {rows} rows, about {tokens} prompt tokens{}, needs a note: it has more than \
                 {BACKFILL_ROWS_WITHOUT_NOTE} rows",
                rate.map_or_else(String::new, |rate| format!(
                    " and {:.0} s",
                    rows as f64 / rate
                )),
            ),
            hint: Some("say why: note => '..'".to_owned()),
        });
    }
    let policy = judging.policy.clone();
    let id = engine
        .store()
        .submit_backfill(NewBackfill {
            judging,
            settings: changed_settings(&call)?,
            source: source.sql.clone(),
            selection,
            order_by: wanted.order_by,
            note: wanted.note,
            only: wanted.from.is_some().then(|| "affected".to_owned()),
            from: wanted.from.map(|from| from.to_string()),
            rows,
            budget: wanted.budget,
            requested_by: call.user.to_string(),
            requested_at: engine.store().clock(),
        })
        .await?;
    let seconds = rate.map(|rate| rows as f64 / rate);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![id])),
        Arc::new(StringArray::from(vec![policy])),
        Arc::new(Int64Array::from(vec![signed(rows)])),
        Arc::new(Int64Array::from(vec![signed(tokens)])),
        Arc::new(Float64Array::from(vec![seconds])),
        Arc::new(StringArray::from(vec!["spooling"])),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&BEGUN), columns).map_err(DataFusionError::from)?)
}

/// The rows of a source in the order in which they are to be judged.
fn selection(source: &Source, order: Option<&Order>) -> String {
    let weight = source.weight.as_deref().map(|weight| (weight, true));
    let order = order
        .map(|order| (&*order.column, order.descending))
        .or(weight);
    let select = source.select();
    let Some((column, descending)) = order else {
        return select;
    };
    // By the source's own column, under a name of its own: the text of a number has another order than the number.
    let columns = select.strip_prefix("SELECT ");
    let columns = columns.expect("bug: a source that is no SELECT");
    format!(
        "SELECT id, text{} FROM (SELECT {} AS place, {columns}) AS placed ORDER BY place {} NULLS LAST",
        if source.weight.is_some() {
            ", weight"
        } else {
            ""
        },
        quoted(column),
        if descending { "DESC" } else { "ASC" },
    )
}

async fn counted(session: &Session, source: &Source) -> std::result::Result<u64, Error> {
    let sql = format!("SELECT count(*) FROM ({}) AS counted", source.select());
    let mut rows = session.query(&sql).await?;
    let mut count = 0;
    while let Some(batch) = rows.try_next().await? {
        let column = cast(batch.column(0), &DataType::Int64).map_err(DataFusionError::from)?;
        let column = column.as_primitive::<Int64Type>();
        count += column.values().iter().sum::<i64>();
    }
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Tokens of a source's texts, by some of them.
struct Estimate {
    texts: u64,
    tokens: u64,
}

impl Estimate {
    /// For so many rows.
    fn for_rows(&self, rows: u64) -> u64 {
        match self.texts {
            0 => 0,
            texts => (self.tokens as f64 / texts as f64 * rows as f64).round() as u64,
        }
    }
}

async fn estimated(
    call: &Call,
    session: &Session,
    source: &Source,
    asking: &Asking,
) -> std::result::Result<Estimate, Error> {
    let sql = format!("{} LIMIT {BACKFILL_ESTIMATE_TEXTS}", source.select());
    let mut rows = session.query(&sql).await?;
    let mut texts: Vec<Arc<str>> = Vec::new();
    while let Some(batch) = rows.try_next().await? {
        let column = cast(batch.column(1), &DataType::Utf8).map_err(DataFusionError::from)?;
        texts.extend(column.as_string::<i32>().iter().flatten().map(Arc::from));
    }
    let tokens = call.engine.tokens(asking, &texts).await?;
    Ok(Estimate {
        texts: texts.len() as u64,
        tokens: tokens.iter().sum(),
    })
}

/// What the caller has set otherwise than a new session has it, as a JSON object.
fn changed_settings(call: &Call) -> std::result::Result<String, Error> {
    let of = |options: &datafusion::config::ConfigOptions| -> BTreeMap<String, String> {
        let entries = options.entries().into_iter();
        entries
            .filter_map(|entry| Some((entry.key, entry.value?)))
            .collect()
    };
    let fresh = call.engine.session(&call.user);
    let fresh = of(fresh.context().state().config_options());
    let mut changed = of(call.context.session_config().options());
    changed.retain(|name, value| fresh.get(name) != Some(value));
    let json = serde_json::to_string(&changed);
    Ok(json.map_err(|e| DataFusionError::External(Box::new(e)))?)
}

fn steered(planning: &Planning<'_>, steer: Steer) -> Result<Planned> {
    let id = planning.arguments.whole("id");
    let id = id.expect("bug: the id is required, and a whole number");
    Ok(Planned::once(&STEERED, move |call| async move {
        let store = call.engine.store();
        match store.steer_backfill(id, steer, store.clock()).await? {
            Steered::Now(row) => Ok(steered_row(&row)?),
            Steered::Unknown => Err(Error::Refused {
                sqlstate: "42704",
                why: format!("backfill {id} does not exist"),
                hint: Some("SELECT id, state FROM safeguard.backfills lists them".to_owned()),
            }),
            Steered::Wrong(state) => {
                let done = match steer {
                    Steer::Pause => "paused",
                    Steer::Resume { .. } => "resumed",
                    Steer::Cancel => "cancelled",
                };
                Err(Error::Refused {
                    sqlstate: "55000",
                    why: format!("backfill {id} is {} and cannot be {done}", state.as_str()),
                    hint: None,
                })
            }
        }
    }))
}

fn steered_row(row: &BackfillRow) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![row.id])),
        Arc::new(StringArray::from(vec![row.policy.as_str()])),
        Arc::new(StringArray::from(vec![row.state.as_str()])),
        Arc::new(Int64Array::from(vec![signed(row.rows)])),
        Arc::new(Int64Array::from(vec![signed(row.judged)])),
        Arc::new(Int64Array::from(vec![signed(row.failed)])),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&STEERED), columns)?)
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
