//! `SELECT * FROM safeguard_replay(verdict)`: does a stored verdict still stand?
//!
//! Takes the digest of a verdict, or its beginning; asks its text again, under the version of the policy, the mode and the
//! effort that it was reached by, and says what differs. Stores nothing. The store keeps no texts: the text is given, or
//! looked for in a query, in what the store quotes and in the golden sets that are shipped. What cannot be asked again is
//! `not replayable`, with why.

use super::source::{Named, Source, refused};
use crate::config::{REPLAY_SCORE_TOLERANCE, Role, VERDICT_DIGEST_PREFIX_MIN};
use crate::engine::Asking;
use crate::engine::functions::{Call, Function, FunctionDoc, Planned, Planning};
use crate::error::Error;
use crate::policy::folder;
use crate::store::{Digest, Record, text_digest, to_hex};
use datafusion::arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::{DataFusionError, Result};
use futures::TryStreamExt;
use safeguard_udfs::{Decision, SafeguardSettings, UNDECIDED};
use std::sync::{Arc, LazyLock};

const NAME: &str = "safeguard_replay";
const UTC: &str = "+00:00";

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let float = |name: &str| Field::new(name, DataType::Float64, true);
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
    Arc::new(Schema::new(vec![
        text("verdict", false),
        text("status", false),
        text("differs", true),
        text("why", true),
        text("policy", false),
        Field::new("policy_current", DataType::Boolean, false),
        text("text_digest", false),
        text("mode", false),
        text("effort", false),
        text("old_label", false),
        text("new_label", true),
        text("old_reason", true),
        text("new_reason", true),
        float("old_score"),
        float("new_score"),
        float("score_difference"),
        text("old_rationale", true),
        text("new_rationale", true),
        Field::new("rationale_equal", DataType::Boolean, true),
        text("old_model", false),
        text("new_model", false),
        text("old_model_digest", false),
        text("new_model_digest", false),
        Field::new("judged_at", time, false),
    ]))
});

/// The function.
pub fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: NAME,
            arguments: &[
                ("verdict", DataType::Utf8),
                ("text", DataType::Utf8),
                ("source", DataType::Utf8),
            ],
            required: 1,
            returns: Arc::clone(&SCHEMA),
            description: "Asks a stored verdict's text again, as it was asked, and says what differs. Text or source give the text where nothing stored quotes it.",
        },
        role: Role::Analyst,
        plan,
    }
}

/// Where the text is.
#[derive(Debug, Clone)]
enum Place {
    /// Here.
    Given(Arc<str>),
    /// In a row of this query.
    Source(Arc<str>),
    /// Wherever the store or the program quotes it.
    Quoted,
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = planning.arguments;
    let verdict = given.required("verdict").trim().to_ascii_lowercase();
    let digits = VERDICT_DIGEST_PREFIX_MIN..=64;
    if !digits.contains(&verdict.len()) || !verdict.bytes().all(|b| b.is_ascii_hexdigit()) {
        let why = format!(
            "{NAME}: \"{verdict}\" is not {VERDICT_DIGEST_PREFIX_MIN} to 64 hex digits of a verdict_digest"
        );
        return Err(refused("22023", why).into());
    }
    let place = match (given.text("text"), given.text("source")) {
        (None, None) => Place::Quoted,
        (Some(text), None) => Place::Given(text.into()),
        (None, Some(sql)) => Place::Source(sql.into()),
        (Some(_), Some(_)) => {
            let why = format!("{NAME} takes a text or a source, not both");
            return Err(refused("22023", why).into());
        }
    };
    Ok(Planned::once(&SCHEMA, move |call| {
        run(call, verdict.clone(), place.clone())
    }))
}

async fn run(call: Call, verdict: String, place: Place) -> Result<RecordBatch, Error> {
    let record = find(&call, &verdict).await?;
    let replayed = replay(&call, &record, &place).await?;
    let current = call.engine.policies().resolve(&record.policy);
    let current = current.is_ok_and(|version| version.digest == record.policy_digest);
    Ok(batch(&call, &record, current, &replayed)?)
}

/// The one verdict whose key begins so.
async fn find(call: &Call, verdict: &str) -> Result<Arc<Record>, Error> {
    let store = call.engine.store();
    let keys = store.keys_beginning(verdict).await?;
    let refused = |sqlstate, why, hint: &str| Error::Refused {
        sqlstate,
        why,
        hint: Some(hint.to_owned()),
    };
    let [key] = keys.as_slice() else {
        return Err(match keys.is_empty() {
            true => refused(
                "42704",
                format!("verdict \"{verdict}\" does not exist"),
                "verdict_digest in safeguard.verdicts tells verdicts apart",
            ),
            false => refused(
                "42725",
                format!("\"{verdict}\" is the beginning of several verdicts"),
                "give more digits of verdict_digest",
            ),
        });
    };
    let found = store.recall(&[*key]).await?.pop().flatten();
    Ok(found.expect("bug: a stored key recalls nothing"))
}

/// The decision anew, or why there is none.
async fn replay(
    call: &Call,
    record: &Record,
    place: &Place,
) -> Result<Result<Decision, String>, Error> {
    let policy = match policy(call, record) {
        Ok(policy) => policy,
        Err(why) => return Ok(Err(why)),
    };
    let (Ok(mode), Ok(effort)) = (record.mode.parse(), record.effort.parse()) else {
        let (mode, effort) = (&record.mode, &record.effort);
        return Ok(Err(format!(
            "nothing is asked in mode {mode} with effort {effort}"
        )));
    };
    if !["score", "reason"].contains(&&*record.stage) {
        return Ok(Err(format!("stage {} asked no model", record.stage)));
    }
    let text = match text(call, record, place).await? {
        Ok(text) => text,
        Err(why) => return Ok(Err(why)),
    };
    let asking = Asking {
        policy,
        settings: Arc::new(SafeguardSettings {
            mode,
            effort,
            ..call.settings()
        }),
        fresh: true,
    };
    let decisions = call
        .engine
        .judge(&asking, &[text], &call.statement())
        .await?;
    let decision = decisions
        .into_iter()
        .next()
        .expect("bug: a text without a decision");
    Ok(match decision {
        Err(undecided) if !undecided.reason.is_fact() => Err(format!(
            "the model did not answer: {}",
            undecided.reason.as_str()
        )),
        decision => Ok(decision),
    })
}

/// How to ask under the version of the policy that the verdict was reached by.
fn policy(call: &Call, record: &Record) -> Result<Arc<str>, String> {
    if record.policy_version == 0 {
        return Err("its policy was an inline text, which is not kept".to_owned());
    }
    let name = format!("{}@{}", record.policy, record.policy_version);
    // The number is of the store that judged; the digest is the text's own.
    let pinned = format!("{}@{}", record.policy, record.policy_digest);
    let policies = call.engine.policies();
    let found = [&name, &pinned].into_iter().find_map(|reference| {
        let version = policies.resolve(reference).ok()?;
        (version.digest == record.policy_digest).then(|| version.reference())
    });
    found.ok_or_else(|| format!("policy \"{name}\" is gone"))
}

/// The verdict's text, or why it is not to be had.
async fn text(
    call: &Call,
    record: &Record,
    place: &Place,
) -> Result<Result<Arc<str>, String>, Error> {
    let wanted = record.text_digest;
    let hex = to_hex(&wanted);
    Ok(match place {
        Place::Given(text) if text_digest(text) == wanted => Ok(Arc::clone(text)),
        Place::Given(text) => Err(format!(
            "the text's digest is {}, not {hex}",
            to_hex(&text_digest(text))
        )),
        Place::Source(sql) => within(call, sql, &wanted)
            .await?
            .ok_or_else(|| format!("no text of the source has the digest {hex}")),
        Place::Quoted => quoted(call, &wanted).await?.ok_or_else(|| {
            format!("nothing stored quotes the text with the digest {hex}: give it as text => or source =>")
        }),
    })
}

/// The text of this digest among those of a query.
async fn within(call: &Call, sql: &str, wanted: &Digest) -> Result<Option<Arc<str>>, Error> {
    let session = call.session();
    let source = Source::resolve(&session, sql, Named::default()).await?;
    let mut batches = session.query(&source.select()).await?;
    while let Some(batch) = batches.try_next().await? {
        let texts = cast(batch.column(1), &DataType::Utf8).map_err(DataFusionError::from)?;
        let mut texts = texts.as_string::<i32>().iter().flatten();
        if let Some(text) = texts.find(|text| text_digest(text) == *wanted) {
            return Ok(Some(text.into()));
        }
    }
    Ok(None)
}

/// The text of this digest in what the store quotes, or in a golden set that is shipped.
async fn quoted(call: &Call, wanted: &Digest) -> Result<Option<Arc<str>>, Error> {
    if let Some(text) = call.engine.store().quoted_text(*wanted).await? {
        return Ok(Some(text.into()));
    }
    let golden = folder::shipped().into_iter().flat_map(|file| file.golden);
    let mut texts = golden.map(|row| row.text);
    Ok(texts.find(|text| text_digest(text) == *wanted))
}

/// What is compared of a decision.
struct Side {
    label: Arc<str>,
    reason: Option<Arc<str>>,
    score: Option<f64>,
    rationale: Option<Arc<str>>,
}

impl Side {
    fn of_record(record: &Record) -> Side {
        Side {
            label: record.label.clone().unwrap_or_else(|| UNDECIDED.into()),
            reason: record.reason.clone(),
            score: record.score,
            rationale: record.rationale.clone(),
        }
    }

    fn of_decision(decision: &Decision) -> Side {
        match decision {
            Ok(verdict) => Side {
                label: Arc::clone(&verdict.label),
                reason: None,
                score: verdict.score,
                rationale: verdict.rationale.clone(),
            },
            Err(undecided) => Side {
                label: UNDECIDED.into(),
                reason: Some(undecided.reason.as_str().into()),
                score: None,
                rationale: None,
            },
        }
    }
}

/// What a comparison found.
struct Compared {
    status: &'static str,
    differs: Vec<&'static str>,
    score: Option<f64>,
    /// `None` where one side has none, which erasure sees to.
    rationale: Option<bool>,
}

fn compare(old: &Side, new: &Side) -> Compared {
    let score = old.score.zip(new.score).map(|(old, new)| new - old);
    let rationale = old.rationale.as_ref().zip(new.rationale.as_ref());
    let rationale = rationale.map(|(old, new)| old == new);
    let mut differs = Vec::new();
    if old.label != new.label {
        differs.push("label");
    }
    if old.reason != new.reason {
        differs.push("reason");
    }
    if score.is_some_and(|difference| difference.abs() > REPLAY_SCORE_TOLERANCE) {
        differs.push("score");
    }
    if rationale == Some(false) {
        differs.push("rationale");
    }
    Compared {
        status: if differs.is_empty() {
            "equal"
        } else {
            "drifted"
        },
        differs,
        score,
        rationale,
    }
}

fn batch(
    call: &Call,
    record: &Record,
    current: bool,
    replayed: &Result<Decision, String>,
) -> Result<RecordBatch> {
    let old = Side::of_record(record);
    let new = replayed.as_ref().ok().map(Side::of_decision);
    let mut compared = new.as_ref().map(|new| compare(&old, new));
    let model = call.engine.model();
    if let Some(compared) = &mut compared
        && model.digest != record.model_digest
    {
        compared.differs.push("model");
    }
    let text = |value: Option<&str>| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
    let float = |value: Option<f64>| -> ArrayRef { Arc::new(Float64Array::from(vec![value])) };
    let flag = |value: Option<bool>| -> ArrayRef { Arc::new(BooleanArray::from(vec![value])) };
    let news = |of: fn(&Side) -> Option<&str>| text(new.as_ref().and_then(of));
    let status = compared
        .as_ref()
        .map_or("not replayable", |compared| compared.status);
    let differs = compared
        .as_ref()
        .map(|compared| compared.differs.join(", "));
    let policy = match record.policy_version {
        0 => record.policy.to_string(),
        version => format!("{}@{version}", record.policy),
    };
    let judged_at = TimestampMicrosecondArray::from(vec![record.judged_at]).with_timezone(UTC);
    let columns: Vec<ArrayRef> = vec![
        text(Some(&to_hex(&record.verdict_digest))),
        text(Some(status)),
        text(differs.as_deref().filter(|differs| !differs.is_empty())),
        text(replayed.as_ref().err().map(String::as_str)),
        text(Some(&policy)),
        flag(Some(current)),
        text(Some(&to_hex(&record.text_digest))),
        text(Some(&record.mode)),
        text(Some(&record.effort)),
        text(Some(&old.label)),
        news(|side| Some(&side.label)),
        text(old.reason.as_deref()),
        news(|side| side.reason.as_deref()),
        float(old.score),
        float(new.as_ref().and_then(|side| side.score)),
        float(compared.as_ref().and_then(|compared| compared.score)),
        text(old.rationale.as_deref()),
        news(|side| side.rationale.as_deref()),
        flag(compared.as_ref().and_then(|compared| compared.rationale)),
        text(Some(&record.model)),
        text(Some(&model.name)),
        text(Some(&record.model_digest)),
        text(Some(&model.digest)),
        Arc::new(judged_at),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let side = |label: &str, score, rationale: Option<&str>| Side {
            label: label.into(),
            reason: (label == UNDECIDED).then(|| "too_long".into()),
            score,
            rationale: rationale.map(Into::into),
        };
        let old = side("bad", Some(0.9), Some("because"));
        let cases = [
            (
                side("bad", Some(0.9), Some("because")),
                "equal",
                "",
                Some(true),
            ),
            (
                side("bad", Some(0.900_01), Some("because")),
                "equal",
                "",
                Some(true),
            ),
            (
                side("bad", Some(0.8), Some("because")),
                "drifted",
                "score",
                Some(true),
            ),
            (
                side("bad", Some(0.9), Some("for")),
                "drifted",
                "rationale",
                Some(false),
            ),
            (side("bad", Some(0.9), None), "equal", "", None),
            (
                side("allowed", Some(0.1), Some("for")),
                "drifted",
                "label, score, rationale",
                Some(false),
            ),
            (
                side(UNDECIDED, None, None),
                "drifted",
                "label, reason",
                None,
            ),
        ];
        for (new, status, differs, rationale) in cases {
            let got = compare(&old, &new);
            assert_eq!(
                (got.status, &*got.differs.join(", "), got.rationale),
                (status, differs, rationale),
                "{}",
                new.label
            );
        }
    }
}
