//! What a statement would ask and cost, said by EXPLAIN before anything is asked.
//!
//! Takes the plan that EXPLAIN explains, reads what comes to each of its classifications (the cheap part of the statement,
//! as far as a limit of rows and of time goes) and gives a row for each. What was read whole is exact, what was not is
//! projected from statistics, and both are said. Reads what the caller may read, runs none of this program's functions,
//! and asks no model. Not done for Describe: it is work, and is done when the rows are read.

mod budgets;

use super::{Engine, Session, functions, procedures};
use crate::classify::forecast::Questions;
use crate::config::{
    ESTIMATE_BYTES_MAX, ESTIMATE_CHUNK_TEXTS, ESTIMATE_MS_MAX, ESTIMATE_ROWS_MAX,
    ESTIMATE_TOKENS_TEXTS, Role,
};
use crate::engine::session::Guard;
use crate::error::Error;
use crate::store::{Digest, Rate};
use datafusion::arrow::array::{Array, AsArray, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{Explain, ExplainFormat, LogicalPlan};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{StreamExt, TryStreamExt};
use safeguard_udfs::{Asks, Mode, Request, Statement, asks};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The `plan_type` of what is said here.
const PLAN_TYPE: &str = "safeguard_estimate";

/// Makes the estimates of one statement.
struct Estimator {
    engine: Engine,
    state: SessionState,
    guard: Option<Guard>,
    payer: Option<Role>,
    statement: Statement,
    /// By mode.
    rates: HashMap<Mode, Option<Rate>>,
    /// Pairs of policy and text that some classification of the statement would ask about.
    asked: HashSet<Digest>,
    /// What the statement as a whole comes to, as far as it is known.
    total: Total,
}

#[derive(Default)]
struct Total {
    classifications: usize,
    asked: f64,
    /// A text may take two.
    questions: f64,
    tokens: f64,
    /// `None` once a rate is missing.
    seconds: Option<f64>,
    unknown: bool,
}

/// What was read of one classification's input.
#[derive(Default)]
struct Seen {
    /// Rows of the input.
    rows: u64,
    /// Questions about them: rows with a text, for each question of a row.
    texts: u64,
    distinct: u64,
    /// Of the distinct ones, those that a screen decides.
    screened: u64,
    /// Of the distinct ones, those that would be asked.
    asked: u64,
    /// Of these, those that no other classification of the statement asks.
    own: u64,
    score: Questions,
    reason: Questions,
    at_most: bool,
    whole: bool,
}

/// Distinct texts of one policy that were not looked up yet, and all that were seen of it.
#[derive(Default)]
struct Texts {
    seen: HashSet<Digest>,
    pending: Vec<Arc<str>>,
}

/// The rows of EXPLAIN, and behind them an estimate of each classification.
pub(super) fn with_estimates(
    session: &Session,
    state: &SessionState,
    explain: &Explain,
    rows: SendableRecordBatchStream,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    if !matches!(
        explain.explain_format,
        ExplainFormat::Indent | ExplainFormat::Tree
    ) {
        // One document, which another row would break.
        return rows;
    }
    let estimator = Estimator {
        engine: session.engine.clone(),
        state: state.clone(),
        guard: session.guard.clone(),
        payer: session.payer,
        statement: Statement::new(session.settings()),
        rates: HashMap::new(),
        asked: HashSet::new(),
        total: Total {
            seconds: Some(0.0),
            ..Total::default()
        },
    };
    let (plan, columns) = (Arc::clone(&explain.plan), Arc::clone(&schema));
    let estimates = futures::stream::once(async move {
        let lines = estimator.all(&plan).await?;
        Ok(match lines.is_empty() {
            true => None,
            false => Some(batch(&columns, lines)?),
        })
    });
    let estimates = estimates.filter_map(|batch| futures::future::ready(batch.transpose()));
    Box::pin(RecordBatchStreamAdapter::new(schema, rows.chain(estimates)))
}

fn batch(columns: &SchemaRef, lines: Vec<String>) -> datafusion::common::Result<RecordBatch> {
    let types = StringArray::from(vec![PLAN_TYPE; lines.len()]);
    let texts: [&dyn Array; 2] = [&types, &StringArray::from(lines)];
    let cast = |(text, field): (&&dyn Array, &Arc<datafusion::arrow::datatypes::Field>)| {
        cast(*text, field.data_type())
    };
    let columns_of = texts.iter().zip(columns.fields()).map(cast);
    let arrays = columns_of.collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(columns), arrays)?)
}

impl Estimator {
    async fn all(
        mut self,
        plan: &LogicalPlan,
    ) -> Result<Vec<String>, datafusion::common::DataFusionError> {
        // What cannot be planned was said by EXPLAIN itself.
        let Ok(plan) = self.state.optimize(plan) else {
            return Ok(Vec::new());
        };
        let mut lines = Vec::new();
        for asks in asks(&plan)? {
            lines.push(self.one(&asks).await?);
        }
        if !lines.is_empty() {
            let day = self.day().await?;
            lines.extend(self.budgets(day));
        }
        Ok(lines)
    }

    /// What is said of one classification.
    async fn one(&mut self, asks: &Asks) -> Result<String, Error> {
        self.total.classifications += 1;
        let refused = match &asks.pairs {
            None => Some("its rows depend on the answers of another call".to_owned()),
            Some(pairs) => never_run(pairs)?,
        };
        let (Some(pairs), None) = (&asks.pairs, &refused) else {
            self.total.unknown = true;
            return Ok(format!(
                "{}\n  unknown: {}",
                asks.calls,
                refused.unwrap_or_default()
            ));
        };
        if let Some(guard) = &self.guard {
            guard(pairs)?;
        }
        let planner = self.state.query_planner();
        let physical = planner.create_physical_plan(pairs, &self.state).await?;
        let rows = statistics(&physical);
        let seen = self.read(physical).await?;
        let mut said = self.said(&seen, rows).await?;
        if asks.depends {
            said.push_str("\n  at most: the answers of another call leave some of these rows out");
        }
        if asks
            .wanted
            .is_some_and(|wanted| (wanted as u64) < seen.rows)
        {
            said.push_str("\n  at most: a LIMIT above may be full before all rows are asked about");
        }
        Ok(format!("{}\n{said}", asks.calls))
    }

    /// Reads pairs as far as the limits go, and looks up what is stored of them.
    async fn read(&mut self, plan: Arc<dyn ExecutionPlan>) -> Result<Seen, Error> {
        let until = Instant::now() + Duration::from_millis(ESTIMATE_MS_MAX);
        let mut pairs = execute_stream(plan, self.state.task_ctx())?;
        let mut policies: HashMap<Arc<str>, Texts> = HashMap::new();
        let (mut seen, mut bytes) = (Seen::default(), 0);
        loop {
            let full = seen.rows >= ESTIMATE_ROWS_MAX || bytes >= ESTIMATE_BYTES_MAX;
            let next = match full {
                true => break,
                false => tokio::time::timeout_at(until, pairs.try_next()).await,
            };
            let Ok(next) = next else {
                break;
            };
            let Some(batch) = next? else {
                seen.whole = true;
                break;
            };
            bytes += collect(&batch, &mut policies, &mut seen)?;
            for (policy, texts) in &mut policies {
                while texts.pending.len() >= ESTIMATE_CHUNK_TEXTS {
                    let rest = texts.pending.split_off(ESTIMATE_CHUNK_TEXTS);
                    let chunk = std::mem::replace(&mut texts.pending, rest);
                    self.look_up(policy, chunk, &mut seen).await?;
                }
            }
        }
        drop(pairs);
        for (policy, texts) in policies {
            self.look_up(&policy, texts.pending, &mut seen).await?;
        }
        Ok(seen)
    }

    async fn look_up(
        &mut self,
        policy: &Arc<str>,
        texts: Vec<Arc<str>>,
        seen: &mut Seen,
    ) -> Result<(), Error> {
        if texts.is_empty() {
            return Ok(());
        }
        let request = Request {
            policy: Arc::clone(policy),
            texts,
            settings: Arc::clone(self.statement.settings()),
            tally: Arc::clone(self.statement.tally()),
            again: false,
            fresh: false,
        };
        let counted = seen.score.counted + seen.reason.counted;
        let left =
            ESTIMATE_TOKENS_TEXTS.saturating_sub(usize::try_from(counted).unwrap_or(usize::MAX));
        // At least one of each policy.
        let forecast = self
            .engine
            .classifier
            .forecast(&request, left.max(1))
            .await?;
        for text in &forecast.asked {
            let pair = pair(policy, &request.texts[*text]);
            seen.own += u64::from(self.asked.insert(pair));
        }
        seen.screened += forecast.screened;
        seen.asked += forecast.asked.len() as u64;
        seen.at_most |= forecast.at_most;
        seen.score.add(forecast.score);
        seen.reason.add(forecast.reason);
        Ok(())
    }

    /// In words, and added to the statement's total.
    async fn said(&mut self, seen: &Seen, rows: Precision<usize>) -> Result<String, Error> {
        let (scale, basis) = scale(seen, rows);
        let about = |n: u64| match scale == 1.0 {
            true => n.to_string(),
            false => format!("about {:.0}", n as f64 * scale),
        };
        let recalled = seen.distinct - seen.asked - seen.screened;
        let screened = match seen.screened {
            0 => String::new(),
            screened => format!(", decided by a screen: {}", about(screened)),
        };
        let share = 100.0 * recalled as f64 / (seen.distinct.max(1)) as f64;
        let tokens = tokens(seen.score) + tokens(seen.reason);
        let exact = scale == 1.0
            && seen.score.counted == seen.score.asked
            && seen.reason.counted == seen.reason.asked;
        let most = if seen.at_most { "at most " } else { "" };
        let approx = if exact { "" } else { "about " };
        let (time, seconds, decoded) = self.time(seen, scale).await?;
        // What another call of the statement asks anyway is not counted twice.
        let own = seen.own as f64 / seen.asked.max(1) as f64;
        let questions = (seen.score.asked + seen.reason.asked) as f64;
        self.total.asked += seen.own as f64 * scale;
        self.total.questions += questions * scale * own;
        self.total.tokens += (tokens * scale + decoded) * own;
        self.total.seconds = self.total.seconds.zip(seconds).map(|(a, b)| a + b * own);
        Ok(format!(
            "  rows: {}, distinct texts: {}\n  stored: {} ({share:.1}%){screened}, to be asked: {}\n  \
             prompt tokens: {most}{approx}{:.0}\n  time: {most}{time}\n  {basis}",
            about(seen.texts),
            about(seen.distinct),
            about(recalled),
            about(seen.asked),
            tokens * scale,
        ))
    }

    /// How long the questions would take, in words and in seconds, and the tokens that they would decode.
    async fn time(&mut self, seen: &Seen, scale: f64) -> Result<(String, Option<f64>, f64), Error> {
        let model = Arc::clone(&self.engine.model.name);
        let (mut sum, mut decoded, mut from) = (0.0, 0.0, 0);
        for (mode, questions) in [(Mode::Score, seen.score), (Mode::Reason, seen.reason)] {
            if questions.asked == 0 {
                continue;
            }
            let Some(rate) = self.rate(mode).await? else {
                let why = format!("unknown: {model} has not been timed in mode {mode} yet");
                return Ok((why, None, decoded));
            };
            let each = rate.tokens_out as f64 / rate.questions as f64;
            let out = questions.asked as f64 * each * scale;
            let per_token = rate.seconds / (rate.tokens_in + rate.tokens_out).max(1) as f64;
            sum += (tokens(questions) * scale + out) * per_token;
            decoded += out;
            from += rate.questions;
        }
        let words = match from {
            0 => "0 s".to_owned(),
            _ => format!(
                "about {} by the latest {from} verdicts of {model}",
                duration(sum)
            ),
        };
        Ok((words, Some(sum), decoded))
    }

    async fn rate(&mut self, mode: Mode) -> Result<Option<Rate>, Error> {
        if let Some(rate) = self.rates.get(&mode) {
            return Ok(*rate);
        }
        let digest = self.engine.model.digest.to_string();
        let rate = self.engine.store.rate(digest, mode.as_str()).await?;
        self.rates.insert(mode, rate);
        Ok(rate)
    }
}

/// Why a plan is not run for an estimate; `None` where it may be.
fn never_run(plan: &LogicalPlan) -> Result<Option<String>, Error> {
    let mut function = procedures::calls(plan)?.into_iter().next();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some((name, _)) = functions::called(provider.as_ref())
        {
            function = Some(name.to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(function.map(|name| format!("its rows are those of {name}, which EXPLAIN does not run")))
}

/// The rows that a plan will give, as its statistics know.
fn statistics(plan: &Arc<dyn ExecutionPlan>) -> Precision<usize> {
    let known = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
    known.map_or(Precision::Absent, |known| known.num_rows)
}

/// What one seen row stands for, and how that is known.
fn scale(seen: &Seen, rows: Precision<usize>) -> (f64, String) {
    if seen.whole {
        return (1.0, "exact: the whole input was read".to_owned());
    }
    let read = seen.rows;
    let by = |rows: usize, known: &str| {
        let scale = (rows as f64 / read.max(1) as f64).max(1.0);
        let basis = format!(
            "a sample: the first {read} rows were read, of {known}{rows} by statistics; texts that come again make it less"
        );
        (scale, basis)
    };
    match rows {
        Precision::Exact(rows) => by(rows, ""),
        Precision::Inexact(rows) if rows as u64 > read => by(rows, "about "),
        _ => (
            1.0,
            format!("at least: the first {read} rows were read, and how many there are is unknown"),
        ),
    }
}

/// Prompt tokens of all, from those that were counted.
fn tokens(questions: Questions) -> f64 {
    let each = questions.tokens as f64 / questions.counted.max(1) as f64;
    each * questions.asked as f64
}

/// Takes the texts of a batch that were not seen before. Gives their bytes.
fn collect(
    batch: &RecordBatch,
    policies: &mut HashMap<Arc<str>, Texts>,
    seen: &mut Seen,
) -> Result<usize, Error> {
    let mut bytes = 0;
    seen.rows += batch.num_rows() as u64;
    for columns in batch.columns().chunks(2) {
        let [policy, text] = columns else {
            continue;
        };
        let words = |column| {
            cast(column, &DataType::Utf8).map_err(datafusion::common::DataFusionError::from)
        };
        let (policy, text) = (words(policy)?, words(text)?);
        let (policy, text) = (policy.as_string::<i32>(), text.as_string::<i32>());
        for row in (0..batch.num_rows()).filter(|row| text.is_valid(*row) && policy.is_valid(*row))
        {
            seen.texts += 1;
            let (policy, text) = (policy.value(row), text.value(row));
            if !policies.contains_key(policy) {
                policies.insert(policy.into(), Texts::default());
            }
            let Some(texts) = policies.get_mut(policy) else {
                continue;
            };
            if texts.seen.insert(crate::store::text_digest(text)) {
                bytes += text.len();
                seen.distinct += 1;
                texts.pending.push(text.into());
            }
        }
    }
    Ok(bytes)
}

fn pair(policy: &str, text: &str) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(policy.len() as u64).to_le_bytes());
    hasher.update(policy.as_bytes());
    hasher.update(text.as_bytes());
    *hasher.finalize().as_bytes()
}

/// `0.3 s`, `75 s`, `12 min`, `3.4 h`
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

#[cfg(test)]
#[path = "estimate/tests.rs"]
mod tests;
