//! One pass over a source: which of its rows stand where under the old version, and a sample of them.
//!
//! Takes a query, gives rows by stratum: allowed, each violating label, undecided, not judged yet, times the values of
//! another column. Looks up what is stored and asks nobody. Holds the sample, never the source.
//!
//! *The same call, the same sample*: a row's chance comes from its own bytes, the seed, the source and the old version, so
//! that nothing depends on the order of rows. What was judged after the first call of its kind counts as not judged yet:
//! were it otherwise, the first sample would be a part of the next one's strata, and of those rows that chance favours.

use super::allot::{Room, allot};
use super::strata::{Strata, Stratum, chance};
use super::{Given, refused};
use crate::change::source::{Source, find};
use crate::config::{BACKTEST_SAMPLE_BYTES_MAX, BACKTEST_STRATA_VALUES_MAX};
use crate::engine::functions::Call;
use crate::engine::{Asking, Session};
use crate::error::Error;
use crate::store::{Digest, now};
use datafusion::arrow::array::{Array, AsArray, Float64Array, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::DataFusionError;
use futures::TryStreamExt;
use safeguard_udfs::{Answer, Decision, SafeguardSettings, Statement, Undecided, Verdict};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A row of the source that was drawn.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// What tells rows apart for the user.
    pub id: Option<String>,
    /// What is judged.
    pub text: Arc<str>,
    /// How much it matters, where the source says so.
    pub weight: Option<f64>,
    /// Index of its stratum.
    pub stratum: usize,
    /// Rows of the stratum that it stands for.
    pub factor: f64,
    /// From 0 to 1 within its stratum: rows in this order are a sample of every stratum wherever one stops.
    place: f64,
}

/// A source that was read.
#[derive(Debug)]
pub struct Survey {
    /// Name and number of rows of each stratum.
    pub strata: Vec<(Arc<str>, u64)>,
    /// The sample, every stratum's first rows first.
    pub rows: Vec<Sampled>,
    /// Rows whose weight is none or not above 0: never drawn, not counted.
    pub weightless: u64,
    /// Whether the sample is smaller than was wanted, for the bytes of its texts.
    pub cut: bool,
}

/// What is stored of a text under the old version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Allowed(Arc<str>),
    Violates(Arc<str>),
    Undecided,
    NotJudged,
}

impl Standing {
    /// `drawn_at`: what was judged then or later was not judged when the sample was first drawn.
    fn of(decision: &Decision, drawn_at: i64) -> Standing {
        let (Ok(Verdict { provenance, .. }) | Err(Undecided { provenance, .. })) = decision;
        if provenance.judged_at >= drawn_at {
            return Standing::NotJudged;
        }
        match decision {
            Ok(verdict) if verdict.violates => Standing::Violates(Arc::clone(&verdict.label)),
            Ok(verdict) => Standing::Allowed(Arc::clone(&verdict.label)),
            Err(undecided) if undecided.reason.is_fact() => Standing::Undecided,
            Err(_) => Standing::NotJudged,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    standing: Standing,
    /// Of the column `strata`; `None` where none was named.
    value: Option<Arc<str>>,
}

impl Key {
    fn name(&self) -> Arc<str> {
        let standing = match &self.standing {
            Standing::Allowed(label) | Standing::Violates(label) => label,
            Standing::Undecided => "undecided",
            Standing::NotJudged => "not judged yet",
        };
        match &self.value {
            Some(value) => format!("{standing}, {value}").into(),
            None => standing.into(),
        }
    }

    fn is_favoured(&self) -> bool {
        matches!(self.standing, Standing::Violates(_) | Standing::Undecided)
    }
}

/// The columns of the query that mean something, and the query that gives only those.
pub async fn resolve(session: &Session, given: &Given) -> Result<(Source, String), Error> {
    let source = Source::resolve(session, &given.source, given.named.clone()).await?;
    let strata = match &given.strata {
        Some(name) => {
            let columns = session.query_columns(&given.source).await?;
            Some(find(&columns, name)?.name().clone())
        }
        None => None,
    };
    let select = source.select_by(strata.as_deref());
    Ok((source, select))
}

/// Reads the query of [`resolve`] once.
///
/// # Errors
/// What reading it finds; 54000 for more values of the column `strata` than the limit; a failing store.
pub async fn take(
    call: &Call,
    select: &str,
    source: &Source,
    given: &Given,
) -> Result<Survey, Error> {
    let asking = Asking {
        policy: Arc::clone(&given.old.asked),
        settings: Arc::new(SafeguardSettings {
            answer: Answer::Stored,
            screen: false,
            retry_undecided: false,
            ..call.settings()
        }),
        fresh: false,
    };
    let key = draw_key(call, given);
    let drawn_at = call.engine.store().drawn_at(key, now()).await?;
    let mut reading = Reading {
        strata: Strata::new(given.sample, BACKTEST_SAMPLE_BYTES_MAX),
        values: BTreeSet::new(),
        key,
        weighted: source.weight.is_some(),
        stratified: given.strata.clone(),
        rows: 0,
        weightless: 0,
    };
    let statement = call.statement();
    let session = call.session();
    let mut batches = session.query(select).await?;
    while let Some(batch) = batches.try_next().await? {
        let columns = Columns::of(&batch, reading.weighted, given.strata.is_some())?;
        let (texts, places) = columns.distinct();
        // On an account of its own: what is merely looked up is nothing that the statement wanted judged.
        let lookups = Statement::new(asking.settings.as_ref().clone());
        let decisions = call.engine.judge(&asking, &texts, &lookups).await?;
        let standing = |decision| Standing::of(decision, drawn_at);
        let standings: Vec<Standing> = decisions.iter().map(standing).collect();
        for row in 0..batch.num_rows() {
            let text = &texts[places[row]];
            reading.row(&columns, row, text, &standings[places[row]])?;
        }
        statement.tally().saw_rows(batch.num_rows() as u64);
    }
    Ok(reading.finish(given.sample))
}

/// What a sample depends on beside its rows and its size.
fn draw_key(call: &Call, given: &Given) -> Digest {
    let settings = call.settings();
    let mut hasher = blake3::Hasher::new();
    for part in [
        &*given.old.version.digest,
        &*call.engine.model().digest,
        settings.mode.as_str(),
        settings.effort.as_str(),
        &*given.source,
        &given.seed.to_string(),
    ] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// A batch of the query.
struct Columns {
    ids: StringArray,
    texts: StringArray,
    weights: Option<Float64Array>,
    values: Option<StringArray>,
}

impl Columns {
    fn of(batch: &RecordBatch, weighted: bool, stratified: bool) -> Result<Columns, Error> {
        let text = |at: usize| -> Result<StringArray, Error> {
            let column = cast(batch.column(at), &DataType::Utf8).map_err(DataFusionError::from)?;
            Ok(column.as_string::<i32>().clone())
        };
        let weights = match weighted {
            true => Some(batch.column(2).as_primitive::<Float64Type>().clone()),
            false => None,
        };
        Ok(Columns {
            ids: text(0)?,
            texts: text(1)?,
            weights,
            values: stratified
                .then(|| text(2 + usize::from(weighted)))
                .transpose()?,
        })
    }

    /// The different texts, and which of them each row has.
    fn distinct(&self) -> (Vec<Arc<str>>, Vec<usize>) {
        let mut known: HashMap<&str, usize> = HashMap::with_capacity(self.texts.len());
        let mut texts: Vec<Arc<str>> = Vec::new();
        let mut places = Vec::with_capacity(self.texts.len());
        for text in self.texts.iter().map(Option::unwrap_or_default) {
            let place = *known.entry(text).or_insert_with(|| {
                texts.push(text.into());
                texts.len() - 1
            });
            places.push(place);
        }
        (texts, places)
    }
}

/// Id and text.
type Row = (Option<String>, Arc<str>);

/// What is known while rows come.
struct Reading {
    strata: Strata<Key, Row>,
    values: BTreeSet<Arc<str>>,
    key: Digest,
    weighted: bool,
    stratified: Option<String>,
    rows: u64,
    weightless: u64,
}

impl Reading {
    fn row(
        &mut self,
        columns: &Columns,
        row: usize,
        text: &Arc<str>,
        standing: &Standing,
    ) -> Result<(), Error> {
        self.rows += 1;
        let weight = match &columns.weights {
            None => 1.0,
            Some(weights) if weights.is_null(row) => 0.0,
            Some(weights) => weights.value(row),
        };
        if !(weight > 0.0 && weight.is_finite()) {
            self.weightless += 1;
            return Ok(());
        }
        let value = match &columns.values {
            None => None,
            Some(values) if values.is_null(row) => Some(self.value("NULL")?),
            Some(values) => Some(self.value(values.value(row))?),
        };
        let key = Key {
            standing: standing.clone(),
            value,
        };
        let id = columns.ids.is_valid(row).then(|| columns.ids.value(row));
        let chance = self.chance(id, text);
        self.strata.offer(&key, (weight, chance), || {
            let bytes = text.len() + id.map_or(0, str::len);
            ((id.map(str::to_owned), Arc::clone(text)), bytes)
        });
        Ok(())
    }

    /// The value as it is known already.
    fn value(&mut self, value: &str) -> Result<Arc<str>, Error> {
        if let Some(known) = self.values.get(value) {
            return Ok(Arc::clone(known));
        }
        if self.values.len() == BACKTEST_STRATA_VALUES_MAX {
            let column = self.stratified.as_deref().unwrap_or_default();
            return Err(refused(
                "54000",
                format!(
                    "column \"{column}\" has more than {BACKTEST_STRATA_VALUES_MAX} different values: \
                     too many strata"
                ),
            ));
        }
        let value: Arc<str> = value.into();
        self.values.insert(Arc::clone(&value));
        Ok(value)
    }

    /// From the row's own bytes, so that the order of rows does not matter; from its place where nothing tells it apart
    /// from a row of the same text.
    fn chance(&self, id: Option<&str>, text: &str) -> f64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        match id {
            Some(id) => {
                hasher.update(&(id.len() as u64).to_le_bytes());
                hasher.update(id.as_bytes());
                hasher.update(text.as_bytes());
            }
            None => {
                hasher.update(&u64::MAX.to_le_bytes());
                hasher.update(&self.rows.to_le_bytes());
            }
        }
        let mut bits = [0; 8];
        bits.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        chance(u64::from_le_bytes(bits))
    }

    fn finish(self, sample: usize) -> Survey {
        let (cut, weighted) = (self.strata.was_cut(), self.weighted);
        let strata = self.strata.finish();
        let room = |(key, stratum): &(Key, Stratum<Row>)| Room {
            population: stratum.population,
            kept: stratum.kept(),
            favoured: key.is_favoured(),
        };
        let rooms: Vec<Room> = strata.iter().map(room).collect();
        let (mut named, mut rows) = (Vec::new(), Vec::new());
        for (at, ((key, stratum), n)) in strata.into_iter().zip(allot(sample, &rooms)).enumerate() {
            named.push((key.name(), stratum.population));
            for (i, (drawn, factor)) in stratum.draw(n).into_iter().enumerate() {
                let (id, text) = drawn.row;
                rows.push(Sampled {
                    id,
                    text,
                    weight: weighted.then_some(drawn.weight),
                    stratum: at,
                    factor,
                    place: i as f64 / n as f64,
                });
            }
        }
        rows.sort_by(|a, b| a.place.total_cmp(&b.place));
        Survey {
            strata: named,
            rows,
            weightless: self.weightless,
            cut,
        }
    }
}
