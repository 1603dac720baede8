//! `SELECT * FROM safeguard_diff(old, new [, source])`: what an edit of a policy did change.
//!
//! Takes two versions of a policy; gives the texts whose stored decision differs between them, beside the rows of a query
//! where one is given, or counts by one of its columns. Compares what is stored and asks nobody: a text that one version
//! has not judged is counted in a notice. The work is one query, which `pairing` writes.

mod groups;
mod pairing;

use super::backtest::Tried;
use super::direction::{Direction, Said, direction};
use super::source::{Named, Source, find, refused};
use crate::config::Role;
use crate::engine::functions::{Call, Function, FunctionDoc, Planned, Planning};
use crate::error::Error;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringViewArray,
};
use datafusion::arrow::compute::{cast, filter};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use futures::{StreamExt, TryStreamExt, stream};
use groups::Groups;
use safeguard_udfs::UNDECIDED;
use std::sync::{Arc, LazyLock};

const NAME: &str = "safeguard_diff";

/// What counts by a rule rather than by a column.
const RULE: &str = "rule";

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8View, nullable);
    let rules =
        |name: &str| Field::new_list(name, Field::new_list_field(DataType::Utf8, true), true);
    Arc::new(Schema::new(vec![
        text("text_digest", false),
        text("old_label", false),
        text("new_label", false),
        text("direction", true),
        Field::new("old_score", DataType::Float64, true),
        Field::new("new_score", DataType::Float64, true),
        rules("old_rules"),
        rules("new_rules"),
    ]))
});

/// The function.
pub fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: NAME,
            arguments: &[
                ("old", DataType::Utf8),
                ("new", DataType::Utf8),
                ("source", DataType::Utf8),
                ("id", DataType::Utf8),
                ("text", DataType::Utf8),
                ("by", DataType::Utf8),
                ("changed_only", DataType::Boolean),
            ],
            required: 2,
            returns: Arc::clone(&SCHEMA),
            description: "The stored decisions that differ between two versions of a policy, beside the columns of a query where one is given, or counts by one of them. Asks nobody.",
        },
        role: Role::Analyst,
        plan,
    }
}

/// A call's arguments, checked.
#[derive(Debug, Clone)]
struct Given {
    old: Tried,
    new: Tried,
    source: Option<Source>,
    /// Columns of the source.
    columns: usize,
    /// What counts are by, and its place among the source's columns; none for the rule.
    by: Option<(String, Option<usize>)>,
    changed_only: bool,
    schema: SchemaRef,
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = read(planning)?;
    let schema = Arc::clone(&given.schema);
    Ok(Planned::stream(&schema, move |call| {
        let given = given.clone();
        stream::once(rows(call, given)).try_flatten()
    }))
}

fn read(planning: &Planning<'_>) -> Result<Given> {
    let arguments = planning.arguments;
    let owned = |name: &str| arguments.text(name).map(str::to_owned);
    let columns = match arguments.text("source") {
        Some(sql) => planning.columns(sql)?,
        None => Arc::new(Schema::empty()),
    };
    let named = Named {
        id: owned("id"),
        text: owned("text"),
        weight: None,
    };
    let source = match arguments.text("source") {
        Some(sql) => Some(Source::of(&columns, sql, named)?),
        None => None,
    };
    if let (None, Some(name)) = (
        &source,
        ["id", "text"].into_iter().find(|n| owned(n).is_some()),
    ) {
        let why = format!("{NAME}: {name} names a column of the source, and there is no source");
        return Err(refused("22023", why).into());
    }
    let by = match arguments.text("by") {
        Some(name) => Some(by_column(name, &columns)?),
        None => None,
    };
    let schema = match &by {
        Some((name, _)) => groups::schema(name),
        None => beside(&columns)?,
    };
    Ok(Given {
        old: Tried::resolve(planning.engine, arguments.required("old"))?,
        new: Tried::resolve(planning.engine, arguments.required("new"))?,
        source,
        columns: columns.fields().len(),
        by,
        changed_only: arguments.flag("changed_only").unwrap_or(true),
        schema,
    })
}

/// A column of the source, else the rule.
fn by_column(name: &str, columns: &Schema) -> Result<(String, Option<usize>), Error> {
    let found = find(columns, name);
    if let (Err(_), true) = (&found, name.eq_ignore_ascii_case(RULE)) {
        return Ok((RULE.to_owned(), None));
    }
    let name = found?.name().clone();
    if groups::COUNTS.contains(&&*name) {
        return Err(taken(&name));
    }
    let at = columns.index_of(&name).map_err(DataFusionError::from)?;
    Ok((name, Some(at)))
}

/// The source's columns with those of the comparison behind them.
fn beside(columns: &Schema) -> Result<SchemaRef, Error> {
    let mut fields: Vec<Field> = Vec::new();
    for field in columns.fields() {
        if SCHEMA.field_with_name(field.name()).is_ok() {
            return Err(taken(field.name()));
        }
        fields.push(field.as_ref().clone().with_nullable(true));
    }
    fields.extend(SCHEMA.fields().iter().map(|field| field.as_ref().clone()));
    Ok(Arc::new(Schema::new(fields)))
}

fn taken(name: &str) -> Error {
    Error::Refused {
        sqlstate: "42701",
        why: format!("the source has a column \"{name}\", and so has the answer of {NAME}"),
        hint: Some(format!("give it another name: SELECT {name} AS ..")),
    }
}

/// What became of the rows.
#[derive(Debug, Default)]
struct Counts {
    only_old: u64,
    only_new: u64,
    neither: u64,
}

/// A comparison under way.
struct Reading {
    call: Call,
    given: Given,
    batches: SendableRecordBatchStream,
    counts: Counts,
    groups: Option<Groups>,
}

type Batches = stream::BoxStream<'static, Result<RecordBatch>>;

async fn rows(call: Call, given: Given) -> Result<Batches> {
    noise(&call, &given).await?;
    let model = &call.engine.model().digest;
    let digests = (&*given.old.version.digest, &*given.new.version.digest);
    let sql = pairing::query(digests, model, given.source.as_ref());
    let batches = call.session().query(&sql).await?;
    let groups = given
        .by
        .as_ref()
        .map(|_| Groups::new(Arc::clone(&given.schema)));
    let reading = Reading {
        call,
        given,
        batches,
        counts: Counts::default(),
        groups,
    };
    let next = |reading: Option<Reading>| async move {
        let Some(mut reading) = reading else {
            return Ok(None);
        };
        loop {
            match reading.batches.try_next().await? {
                Some(batch) => {
                    if let Some(rows) = reading.compare(&batch)? {
                        return Ok(Some((rows, Some(reading))));
                    }
                }
                None => {
                    reading.say();
                    let counted = reading.groups.as_ref().map(Groups::batch).transpose()?;
                    return Ok(counted.map(|rows| (rows, None)));
                }
            }
        }
    };
    Ok(stream::try_unfold(Some(reading), next).boxed())
}

/// Says how much would have changed anyway, where that was measured.
async fn noise(call: &Call, given: &Given) -> Result<(), Error> {
    let (old, new) = (&given.old.version, &given.new.version);
    let model = Arc::clone(&call.engine.model().digest);
    let floor = call.engine.store();
    let floor = floor.noise_floor(Arc::clone(&old.digest), Arc::clone(&new.digest), model);
    if let Some((backtest, noise)) = floor.await? {
        call.statement().tally().note(format!(
            "asked again under {}, {:.1}% of texts change anyway (95%: {:.1}% to {:.1}%; backtest {backtest})",
            old.reference(),
            100.0 * noise.share,
            100.0 * noise.low,
            100.0 * noise.high
        ));
    }
    Ok(())
}

/// The columns of a batch of [`pairing::query`] behind the source's.
struct Compared<'a> {
    digests: &'a ArrayRef,
    old: Side,
    new: Side,
}

/// What one version has stored.
struct Side {
    label: StringViewArray,
    violates: BooleanArray,
    score: ArrayRef,
    rules: ArrayRef,
    there: BooleanArray,
}

impl Side {
    fn of(batch: &RecordBatch, at: usize) -> Result<Side> {
        let labels = cast(batch.column(at), &DataType::Utf8View)?;
        Ok(Side {
            label: labels.as_string_view().clone(),
            violates: batch.column(at + 1).as_boolean().clone(),
            score: Arc::clone(batch.column(at + 2)),
            rules: Arc::clone(batch.column(at + 3)),
            there: batch.column(at + 4).as_boolean().clone(),
        })
    }

    fn is_there(&self, row: usize) -> bool {
        self.there.is_valid(row) && self.there.value(row)
    }

    fn said(&self, row: usize) -> Option<Said<'_>> {
        self.label.is_valid(row).then(|| Said {
            label: self.label.value(row),
            violates: self.violates.value(row),
        })
    }

    fn labels(&self) -> StringViewArray {
        self.label
            .iter()
            .map(|label| Some(label.unwrap_or(UNDECIDED)))
            .collect()
    }

    fn rules(&self, row: usize) -> Vec<String> {
        let rules = self.rules.as_list::<i32>();
        if rules.is_null(row) {
            return Vec::new();
        }
        let rules = rules.value(row);
        let rules = rules.as_string::<i32>().iter().flatten();
        rules.map(str::to_owned).collect()
    }
}

impl Reading {
    /// The rows of a batch that are to be shown; none where they are counted.
    fn compare(&mut self, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        let first = self.given.columns;
        let compared = Compared {
            digests: batch.column(first),
            old: Side::of(batch, first + 1)?,
            new: Side::of(batch, first + 6)?,
        };
        let mut directions: Vec<Option<Direction>> = Vec::with_capacity(batch.num_rows());
        let mut shown = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let both = self
                .counts
                .see(compared.old.is_there(row), compared.new.is_there(row));
            let way = match both {
                true => direction(compared.old.said(row), compared.new.said(row)),
                false => None,
            };
            directions.push(way);
            shown.push(both && (way.is_some() || !self.given.changed_only));
            if let (true, Some(groups), Some((_, by))) = (both, &mut self.groups, &self.given.by) {
                match by {
                    Some(at) => groups.count(batch.column(*at), row, way)?,
                    None => groups.count_rules(compared.rules(row), way)?,
                }
            }
        }
        if self.groups.is_some() {
            return Ok(None);
        }
        self.shown(batch, &compared, &directions, shown).map(Some)
    }

    fn shown(
        &self,
        batch: &RecordBatch,
        compared: &Compared<'_>,
        directions: &[Option<Direction>],
        shown: Vec<bool>,
    ) -> Result<RecordBatch> {
        let words = directions.iter().map(|way| way.map(Direction::as_str));
        let ours: [ArrayRef; 8] = [
            Arc::clone(compared.digests),
            Arc::new(compared.old.labels()),
            Arc::new(compared.new.labels()),
            Arc::new(words.collect::<StringViewArray>()),
            Arc::clone(&compared.old.score),
            Arc::clone(&compared.new.score),
            Arc::clone(&compared.old.rules),
            Arc::clone(&compared.new.rules),
        ];
        let shown = BooleanArray::from(shown);
        let theirs = batch.columns()[..self.given.columns].iter();
        let columns: Result<Vec<ArrayRef>> = theirs
            .chain(&ours)
            .zip(self.given.schema.fields())
            .map(|(column, field)| Ok(cast(&filter(column, &shown)?, field.data_type())?))
            .collect();
        Ok(RecordBatch::try_new(
            Arc::clone(&self.given.schema),
            columns?,
        )?)
    }

    /// Says what is missing from the rows.
    fn say(&self) {
        let Counts {
            only_old,
            only_new,
            neither,
        } = self.counts;
        let missing = only_old + only_new + neither;
        if missing == 0 {
            return;
        }
        let old = self.given.old.version.reference();
        let new = self.given.new.version.reference();
        let what = match (&self.given.source, missing) {
            (Some(_), 1) => "row is",
            (Some(_), _) => "rows are",
            (None, 1) => "text is",
            (None, _) => "texts are",
        };
        let mut parts = vec![
            (only_old, format!("only under {old}")),
            (only_new, format!("only under {new}")),
            (neither, "under neither".to_owned()),
        ];
        parts.retain(|(n, _)| *n > 0);
        let parts: Vec<String> = parts.iter().map(|(n, how)| format!("{n} {how}")).collect();
        self.call.statement().tally().note(format!(
            "{missing} {what} not judged under both versions and left out: {}",
            parts.join(", ")
        ));
    }
}

impl Compared<'_> {
    /// As [`super::backtest`] has the rules of a change.
    fn rules(&self, row: usize) -> Vec<String> {
        let convicts = self.new.said(row).is_some_and(|said| said.violates);
        match convicts || self.old.said(row).is_none() {
            true => self.new.rules(row),
            false => self.old.rules(row),
        }
    }
}

impl Counts {
    /// Counts a row; whether both versions have judged it.
    fn see(&mut self, old: bool, new: bool) -> bool {
        match (old, new) {
            (true, true) => return true,
            (true, false) => self.only_old += 1,
            (false, true) => self.only_new += 1,
            (false, false) => self.neither += 1,
        }
        false
    }
}
