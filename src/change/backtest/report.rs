//! What a backtest says: its rows, and what is kept of it.
//!
//! Takes the sample and its pairs, gives lines for SQL and rows for the store. Knows which figure stands in which column;
//! asks nobody.

use super::estimate::{Figure, Seen, share, total};
use super::pairs::{Pair, Pairs};
use super::survey::{Sampled, Survey};
use super::{Given, Tried};
use crate::change::direction::Direction;
use crate::change::stats::Estimate;
use crate::config::BACKTEST_FLIPS_MAX;
use crate::engine::functions::Call;
use crate::store::{BacktestRow, FindingRow, FlipRow, Share, SideRow, Tested, now, text_digest};
use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result;
use safeguard_udfs::Decision;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The columns of the answer.
pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
    Arc::new(Schema::new(vec![
        field("backtest", DataType::Int64, false),
        field("section", DataType::Utf8, false),
        field("name", DataType::Utf8, false),
        field("source_rows", DataType::Int64, false),
        field("sampled", DataType::Int64, false),
        field("flips", DataType::Int64, false),
        field("share", DataType::Float64, true),
        field("share_low", DataType::Float64, true),
        field("share_high", DataType::Float64, true),
        field("projected_rows", DataType::Int64, true),
        field("projected_low", DataType::Int64, true),
        field("projected_high", DataType::Int64, true),
        field("tokens", DataType::Int64, true),
        field("hours", DataType::Float64, true),
    ]))
});

/// Rows that could be asked again for each one that there is: so many that those that were are a few of them.
const WITHOUT_END: u64 = 1 << 20;

/// The rule of a change whose verdicts cite none.
const NO_RULE: &str = "none cited";

/// One row of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    section: &'static str,
    name: String,
    source_rows: u64,
    figure: Figure,
    tokens: Option<u64>,
    hours: Option<f64>,
}

/// All that a backtest found.
pub struct Report<'a> {
    pub(super) given: &'a Given,
    pub(super) survey: &'a Survey,
    pub(super) pairs: &'a Pairs,
    /// Prompt tokens of the new version, by text.
    pub(super) tokens: &'a HashMap<Arc<str>, u64>,
    /// Answers that differ, of how many, by text that was asked again.
    pub(super) again: &'a HashMap<Arc<str>, (u64, u64)>,
}

impl Report<'_> {
    fn populations(&self) -> Vec<u64> {
        self.survey.strata.iter().map(|(_, rows)| *rows).collect()
    }

    /// The rows that both versions judged.
    fn judged(&self) -> Vec<(&Sampled, &Pair)> {
        let mut judged = Vec::new();
        for row in &self.survey.rows {
            let pair = self.pairs.by_text.get(&row.text);
            judged.extend(pair.filter(|pair| pair.is_judged()).map(|pair| (row, pair)));
        }
        judged
    }

    /// The rows of the answer, in their order.
    pub fn lines(&self) -> Vec<Line> {
        let populations = self.populations();
        let all: u64 = populations.iter().sum();
        let judged = self.judged();
        let seen: Vec<Seen> = judged.iter().map(|(row, _)| seen(row)).collect();
        let directions: Vec<Option<Direction>> =
            judged.iter().map(|(_, pair)| pair.direction()).collect();
        let one = |yes: bool| f64::from(u8::from(yes));
        let line = |section, name: &str, figure| Line {
            section,
            name: name.to_owned(),
            source_rows: all,
            figure,
            tokens: None,
            hours: None,
        };
        let flips = share(&populations, &seen, |i| one(directions[i].is_some()));
        let mut lines = vec![Line {
            tokens: self.tokens(&populations),
            hours: self.hours(all),
            ..line("total", "all", flips)
        }];
        for direction in Direction::ALL {
            let figure = share(&populations, &seen, |i| {
                one(directions[i] == Some(direction))
            });
            lines.push(line("direction", direction.as_str(), figure));
        }
        let mut rules = Vec::new();
        for rule in rules_of(&judged) {
            let cites = |i: usize| directions[i].is_some() && cites(judged[i].1, rule);
            rules.push(line(
                "rule",
                rule,
                share(&populations, &seen, |i| one(cites(i))),
            ));
        }
        rules.sort_by(|a, b| (b.figure.hits, &a.name).cmp(&(a.figure.hits, &b.name)));
        lines.extend(rules);
        for (at, (name, rows)) in self.survey.strata.iter().enumerate() {
            let mut only = vec![0; populations.len()];
            only[at] = *rows;
            let figure = share(&only, &seen, |i| one(directions[i].is_some()));
            lines.push(Line {
                source_rows: *rows,
                tokens: self.tokens(&only),
                ..line("stratum", name, figure)
            });
        }
        lines.push(line(
            "noise",
            &self.given.old.asked_again(),
            self.noise(&populations),
        ));
        lines
    }

    /// The share that changes when the old version is asked again. Strata of which nothing was asked again are passed over.
    fn noise(&self, populations: &[u64]) -> Figure {
        let asked = |row: &&Sampled| self.again.contains_key(&row.text);
        let rows: Vec<&Sampled> = self.survey.rows.iter().filter(asked).collect();
        let seen: Vec<Seen> = rows.iter().map(|row| seen(row)).collect();
        // Asked often enough, any row may change: that all rows were asked once more makes nothing certain.
        let looked_at: Vec<u64> = (0..populations.len())
            .map(|at| match seen.iter().any(|row| row.stratum == at) {
                true => populations[at].saturating_mul(WITHOUT_END),
                false => 0,
            })
            .collect();
        share(&looked_at, &seen, |i| {
            let (changed, answers) = self.again[&rows[i].text];
            changed as f64 / answers as f64
        })
    }

    /// Prompt tokens of the new version over all rows of these strata.
    fn tokens(&self, populations: &[u64]) -> Option<u64> {
        let within = |row: &&Sampled| populations[row.stratum] > 0;
        let rows: Vec<&Sampled> = self.survey.rows.iter().filter(within).collect();
        let seen: Vec<Seen> = rows.iter().map(|row| seen(row)).collect();
        let tokens = total(populations, &seen, |i| {
            self.tokens.get(&rows[i].text).copied().unwrap_or_default() as f64
        });
        tokens.map(|tokens| tokens.round() as u64)
    }

    fn hours(&self, rows: u64) -> Option<f64> {
        let asked = self.pairs.asked;
        (asked > 0).then(|| rows as f64 * self.pairs.asking.as_secs_f64() / asked as f64 / 3_600.0)
    }

    /// What is kept of each line.
    pub fn findings(lines: &[Line]) -> Vec<FindingRow> {
        let finding = |line: &Line| FindingRow {
            section: line.section,
            name: line.name.clone(),
            source_rows: line.source_rows,
            sampled: line.figure.sampled,
            flips: line.figure.hits,
            share: line.figure.estimate.map(kept),
        };
        lines.iter().map(finding).collect()
    }

    /// What is kept: the figures of the whole, and the changed rows, the first by weight.
    pub fn stored(
        &self,
        call: &Call,
        lines: &[Line],
        took: Duration,
    ) -> (BacktestRow, Vec<FlipRow>) {
        let settings = call.settings();
        let model = call.engine.model();
        let (whole, noise) = (&lines[0], &lines[lines.len() - 1]);
        let row = BacktestRow {
            old: tested(&self.given.old),
            new: tested(&self.given.new),
            model: Arc::clone(&model.name),
            model_digest: Arc::clone(&model.digest),
            mode: settings.mode.as_str().into(),
            effort: settings.effort.as_str().into(),
            sample: self.given.sample as u64,
            seed: self.given.seed,
            source_rows: whole.source_rows,
            sampled: whole.figure.sampled,
            flips: whole.figure.hits,
            share: whole.figure.estimate.map(kept),
            noise_sampled: noise.figure.sampled,
            noise_repeats: self.given.repeats as u64,
            noise: noise.figure.estimate.map(kept),
            asked: self.pairs.asked,
            tokens: whole.tokens,
            hours: whole.hours,
            seconds: took.as_secs_f64(),
            backtested_at: now(),
            backtested_by: call.user.to_string(),
            note: self.given.note.clone(),
            source: self.given.source.to_string(),
        };
        let mut changed: Vec<_> = self
            .judged()
            .into_iter()
            .filter_map(|(row, pair)| Some((row, pair, pair.direction()?)))
            .collect();
        changed.sort_by(|(a, ..), (b, ..)| {
            b.weight
                .unwrap_or_default()
                .total_cmp(&a.weight.unwrap_or_default())
        });
        changed.truncate(BACKTEST_FLIPS_MAX);
        let flip = |(row, pair, direction)| self.flip(row, pair, direction);
        (row, changed.into_iter().map(flip).collect())
    }

    fn flip(&self, row: &Sampled, pair: &Pair, direction: Direction) -> FlipRow {
        FlipRow {
            row_id: row.id.clone(),
            text_digest: text_digest(&row.text),
            text: Arc::clone(&row.text),
            stratum: Arc::clone(&self.survey.strata[row.stratum].0),
            weight: row.weight,
            direction: direction.as_str(),
            old: side(&pair.old),
            new: side(&pair.new),
        }
    }
}

impl Tried {
    fn asked_again(&self) -> String {
        format!("{} asked again", self.version.reference())
    }
}

fn seen(row: &Sampled) -> Seen {
    Seen {
        stratum: row.stratum,
        factor: row.factor,
    }
}

/// The rules of all changes.
fn rules_of<'a>(judged: &[(&Sampled, &'a Pair)]) -> Vec<&'a str> {
    let mut rules: BTreeSet<&str> = BTreeSet::new();
    for (_, pair) in judged.iter().filter(|(_, pair)| pair.direction().is_some()) {
        let cited = pair.rules();
        if cited.is_empty() {
            rules.insert(NO_RULE);
        }
        rules.extend(cited.iter().map(|rule| &**rule));
    }
    rules.into_iter().collect()
}

fn cites(pair: &Pair, rule: &str) -> bool {
    match pair.rules() {
        [] => rule == NO_RULE,
        cited => cited.iter().any(|cited| **cited == *rule),
    }
}

fn tested(tried: &Tried) -> Tested {
    Tested {
        policy: Arc::clone(&tried.version.name),
        version: tried.version.number,
        digest: Arc::clone(&tried.version.digest),
    }
}

fn kept(estimate: Estimate) -> Share {
    Share {
        share: estimate.share,
        low: estimate.interval.low,
        high: estimate.interval.high,
    }
}

fn side(decision: &Decision) -> SideRow {
    match decision {
        Ok(verdict) => SideRow {
            label: Some(Arc::clone(&verdict.label)),
            reason: None,
            score: verdict.score,
            rules: verdict.rules.clone(),
            rationale: verdict.rationale.clone(),
        },
        Err(undecided) => SideRow {
            reason: Some(undecided.reason.as_str().into()),
            ..SideRow::default()
        },
    }
}

/// A number as people read it: further digits say nothing of a sample.
fn shown(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

/// The answer.
pub fn batch(id: i64, lines: &[Line]) -> Result<RecordBatch> {
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let texts = |of: &dyn Fn(&Line) -> String| -> ArrayRef {
        Arc::new(
            lines
                .iter()
                .map(|line| Some(of(line)))
                .collect::<StringArray>(),
        )
    };
    let counts = |of: &dyn Fn(&Line) -> Option<u64>| -> ArrayRef {
        Arc::new(
            lines
                .iter()
                .map(|line| of(line).map(count))
                .collect::<Int64Array>(),
        )
    };
    let floats = |of: &dyn Fn(&Line) -> Option<f64>| -> ArrayRef {
        Arc::new(lines.iter().map(of).collect::<Float64Array>())
    };
    let rows = |of: fn(Estimate) -> f64| {
        counts(&move |line: &Line| {
            let share = of(line.figure.estimate?);
            Some((share * line.source_rows as f64).round() as u64)
        })
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![id; lines.len()])),
        texts(&|line| line.section.to_owned()),
        texts(&|line| line.name.clone()),
        counts(&|line| Some(line.source_rows)),
        counts(&|line| Some(line.figure.sampled)),
        counts(&|line| Some(line.figure.hits)),
        floats(&|line| line.figure.estimate.map(|e| shown(e.share))),
        floats(&|line| line.figure.estimate.map(|e| shown(e.interval.low))),
        floats(&|line| line.figure.estimate.map(|e| shown(e.interval.high))),
        rows(|e| e.share),
        rows(|e| e.interval.low),
        rows(|e| e.interval.high),
        counts(&|line| line.tokens),
        floats(&|line| line.hours.map(shown)),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}
