//! `SELECT * FROM safeguard_backtest(old, new, source, sample)`: what an edit of a policy would change.
//!
//! Takes two versions of a policy and a query over stored content; gives, for the rows of the whole query, how many change
//! in which direction, by which rule and where, each with an interval: from a sample of every stratum (see `survey`),
//! judged under both versions (`pairs`), combined by the strata's sizes (`estimate`). Stores what it found with the
//! changed rows of the sample. A row that a version did not judge, because a budget was spent, is left out and said.

mod allot;
mod estimate;
mod pairs;
mod report;
mod strata;
mod survey;

use super::source::{Named, refused};
use crate::config::{
    BACKTEST_FLIPS_MAX, BACKTEST_NOISE_ROWS, BACKTEST_REPEATS_MAX, BACKTEST_SAMPLE_BYTES_MAX,
    BACKTEST_SAMPLE_MAX, Role,
};
use crate::engine::functions::{Arguments, Call, Function, FunctionDoc, Planned, Planning};
use crate::engine::{Asking, Engine};
use crate::error::Error;
use crate::policy::Version;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use pairs::{Pair, Pairs};
use report::Report;
use safeguard_udfs::{Decision, SafeguardSettings};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;
use survey::Survey;

const NAME: &str = "safeguard_backtest";

/// The function.
pub fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: NAME,
            arguments: &[
                ("old", DataType::Utf8),
                ("new", DataType::Utf8),
                ("source", DataType::Utf8),
                ("sample", DataType::Int64),
                ("id", DataType::Utf8),
                ("text", DataType::Utf8),
                ("weight", DataType::Utf8),
                ("strata", DataType::Utf8),
                ("seed", DataType::Int64),
                ("repeats", DataType::Int64),
                ("note", DataType::Utf8),
            ],
            required: 4,
            returns: Arc::clone(&report::SCHEMA),
            description: "Estimates from a sample of a query's rows how many change when one version of a policy takes the place of another, with 95% intervals.",
        },
        role: Role::Analyst,
        plan,
    }
}

/// A version of a policy, and how it is asked for.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The version.
    pub version: Arc<Version>,
    /// As a question names it: another version may become the current one while this runs.
    pub asked: Arc<str>,
}

impl Tried {
    /// What a reference or a policy text names now.
    ///
    /// # Errors
    /// As [`crate::policy::Registry::resolve`].
    pub fn resolve(engine: &Engine, reference: &str) -> Result<Tried, Error> {
        let version = engine.policies().resolve(reference)?;
        let asked = match version.number {
            0 => reference.into(),
            _ => version.reference(),
        };
        Ok(Tried { version, asked })
    }
}

/// A call's arguments, checked.
#[derive(Debug, Clone)]
struct Given {
    old: Tried,
    new: Tried,
    source: Arc<str>,
    sample: usize,
    named: Named,
    strata: Option<String>,
    seed: i64,
    repeats: usize,
    note: Option<String>,
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = read(planning.engine, planning.arguments)?;
    Ok(Planned::once(&report::SCHEMA, move |call| {
        run(call, given.clone())
    }))
}

fn read(engine: &Engine, arguments: &Arguments) -> Result<Given, Error> {
    let whole = |name: &str, least: i64, most: usize, default: i64| {
        let value = arguments.whole(name).unwrap_or(default);
        match usize::try_from(value)
            .ok()
            .filter(|n| *n <= most && value >= least)
        {
            Some(n) => Ok(n),
            None => Err(refused(
                "22023",
                format!("{NAME}: {name} is {value}, not {least} to {most}"),
            )),
        }
    };
    let owned = |name: &str| arguments.text(name).map(str::to_owned);
    Ok(Given {
        old: Tried::resolve(engine, arguments.required("old"))?,
        new: Tried::resolve(engine, arguments.required("new"))?,
        source: arguments.required("source").into(),
        sample: whole("sample", 1, BACKTEST_SAMPLE_MAX, 0)?,
        named: Named {
            id: owned("id"),
            text: owned("text"),
            weight: owned("weight"),
        },
        strata: owned("strata"),
        seed: arguments.whole("seed").unwrap_or(0),
        repeats: whole("repeats", 0, BACKTEST_REPEATS_MAX, 0)?,
        note: owned("note"),
    })
}

async fn run(call: Call, given: Given) -> Result<RecordBatch, Error> {
    let began = Instant::now();
    let (source, select) = survey::resolve(&call.session(), &given).await?;
    let survey = survey::take(&call, &select, &source, &given).await?;
    let asking = |tried: &Tried| Asking {
        policy: Arc::clone(&tried.asked),
        // Both texts of the policy are tried on the model: one of them may have a screen, the other has none yet.
        settings: Arc::new(SafeguardSettings {
            screen: false,
            ..call.settings()
        }),
        fresh: false,
    };
    let (old, new) = (asking(&given.old), asking(&given.new));
    let texts = distinct(&survey);
    let pairs = pairs::judge(&call, (&old, &new), &texts).await?;
    let tokens = call.engine.tokens(&new, &texts).await?;
    let tokens: HashMap<Arc<str>, u64> = texts.into_iter().zip(tokens).collect();
    let again = again(&survey, &pairs);
    let again = pairs::repeat(&call, &old, given.repeats, &again).await?;
    let report = Report {
        given: &given,
        survey: &survey,
        pairs: &pairs,
        tokens: &tokens,
        again: &again,
    };
    let lines = report.lines();
    let (row, flips) = report.stored(&call, &lines, began.elapsed());
    let listed = flips.len();
    let changed = row.flips;
    let findings = Report::findings(&lines);
    let store = call.engine.store();
    let id = store.append_backtest(row, findings, flips).await?;
    say(&call, &given, (&survey, &pairs), (id, listed, changed));
    Ok(report::batch(id, &lines)?)
}

/// The different texts of the sample, in its order.
fn distinct(survey: &Survey) -> Vec<Arc<str>> {
    let mut known = HashSet::new();
    let texts = survey.rows.iter().map(|row| &row.text);
    texts
        .filter(|text| known.insert(Arc::clone(text)))
        .cloned()
        .collect()
}

/// Texts that are asked again for the noise floor: of the first judged rows of the sample.
fn again<'a>(survey: &Survey, pairs: &'a Pairs) -> Vec<(Arc<str>, &'a Decision)> {
    let mut known = HashSet::new();
    let judged = survey.rows.iter().filter_map(|row| {
        let pair = pairs.by_text.get(&row.text)?;
        pair.is_judged().then_some((&row.text, pair))
    });
    judged
        .take(BACKTEST_NOISE_ROWS)
        .filter(|(text, _)| known.insert(Arc::clone(text)))
        .map(|(text, pair)| (Arc::clone(text), &pair.old))
        .collect()
}

/// What whoever ran it should know beside the figures.
fn say(
    call: &Call,
    given: &Given,
    (survey, pairs): (&Survey, &Pairs),
    (id, listed, changed): (i64, usize, u64),
) {
    let statement = call.statement();
    let note = |note: String| statement.tally().note(note);
    let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &survey.rows {
        if let Some(why) = pairs.by_text.get(&row.text).and_then(Pair::missing) {
            *missing.entry(why).or_default() += 1;
        }
    }
    if !missing.is_empty() {
        let left_out: usize = missing.values().sum();
        let why: Vec<String> = missing
            .iter()
            .map(|(why, n)| format!("{n} {why}"))
            .collect();
        note(format!(
            "backtest {id}: {left_out} of {} sampled rows were not judged under both versions ({}) and are left out",
            survey.rows.len(),
            why.join(", ")
        ));
    }
    if survey.weightless > 0 {
        note(format!(
            "backtest {id}: {} rows have no weight above 0; they are not drawn and not counted",
            survey.weightless
        ));
    }
    if survey.cut {
        note(format!(
            "backtest {id}: the texts of {} rows are more than {BACKTEST_SAMPLE_BYTES_MAX} bytes; {} were sampled",
            given.sample,
            survey.rows.len()
        ));
    }
    if listed > 0 {
        let (rows, they) = match changed {
            1 => ("row", "lists it"),
            _ => ("rows", "lists them"),
        };
        let they = match changed > listed as u64 {
            true => format!("lists {BACKTEST_FLIPS_MAX} of them"),
            false => they.to_owned(),
        };
        note(format!(
            "backtest {id}: {changed} sampled {rows} changed; SELECT * FROM safeguard.backtest_flips WHERE backtest = {id} {they}"
        ));
    }
}

#[cfg(test)]
#[path = "backtest/backtest_tests.rs"]
mod tests;
