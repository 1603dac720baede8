//! `SELECT * FROM safeguard_evaluate(policy [, against, golden, repeats, overrides, note])`: how right a policy is.
//!
//! Takes names of policies and where golden rows are, gives a row for each label and one for all; what the figures mean is
//! said in [`super::measure`]. Knows no statistics.

use super::evaluation::{Evaluated, Subject, Wish, evaluate};
use super::measure::{Figure, Measure};
use crate::config::{EVALUATION_POLICIES_MAX, EVALUATION_REPEATS_MAX, Role};
use crate::engine::functions::{Call, Function, FunctionDoc, Planned, Planning};
use crate::engine::golden;
use crate::engine::publish::external;
use crate::error::Error;
use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result, plan_err};
use std::sync::{Arc, LazyLock};

const NAME: &str = "safeguard_evaluate";

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let always = |name: &str, data_type| Field::new(name, data_type, false);
    let count = |name: &str| Field::new(name, DataType::Int64, true);
    let mut fields = vec![
        always("evaluation", DataType::Int64),
        always("policy", DataType::Utf8),
        count("version"),
        always("label", DataType::Utf8),
        always("n", DataType::Int64),
        always("predicted", DataType::Int64),
        always("right", DataType::Int64),
    ];
    for figure in ["precision", "recall", "f1"] {
        for end in ["", "_low", "_high"] {
            fields.push(Field::new(
                format!("{figure}{end}"),
                DataType::Float64,
                true,
            ));
        }
    }
    fields.push(always("undecided", DataType::Int64));
    fields.push(Field::new("accuracy", DataType::Float64, true));
    fields.extend(["unstable", "flips", "fixed", "broken"].map(count));
    Arc::new(Schema::new(fields))
});

/// The function.
pub(super) fn function() -> Function {
    Function {
        doc: FunctionDoc {
            name: NAME,
            arguments: &[
                ("policy", DataType::Utf8),
                ("against", DataType::Utf8),
                ("golden", DataType::Utf8),
                ("repeats", DataType::Int64),
                ("overrides", DataType::Boolean),
                ("note", DataType::Utf8),
            ],
            required: 1,
            returns: Arc::clone(&SCHEMA),
            description: "Judges a policy's golden texts and says how right it is: precision, recall and F1 for each label and for all. Stored in safeguard.evaluations.",
        },
        role: Role::Analyst,
        plan,
    }
}

/// What was asked for.
#[derive(Debug, Clone)]
struct Asked {
    policies: Vec<Arc<str>>,
    against: Option<Arc<str>>,
    golden: Option<Arc<str>>,
    repeats: u32,
    overrides: bool,
    note: Arc<str>,
}

fn plan(planning: &Planning<'_>) -> Result<Planned> {
    let given = planning.arguments;
    let policies = references(given.required("policy"));
    let registry = planning.engine.policies();
    let mut named = Vec::new();
    for reference in &policies {
        let version = registry.resolve(reference).map_err(external)?;
        if named.contains(&version.reference()) {
            return plan_err!("{NAME}: policy \"{reference}\" is named twice");
        }
        named.push(version.reference());
    }
    let against = given.text("against").map(Arc::from);
    if let Some(against) = &against {
        registry.resolve(against).map_err(external)?;
    }
    let wrong = |why: String| Err(DataFusionError::Configuration(format!("{NAME}: {why}")));
    if policies.is_empty() || policies.len() > EVALUATION_POLICIES_MAX {
        let n = policies.len();
        return wrong(format!(
            "{n} policies, between 1 and {EVALUATION_POLICIES_MAX} can be evaluated together"
        ));
    }
    if policies.len() > 1 && against.is_some() {
        return wrong("against takes one policy, not several".to_owned());
    }
    let repeats = given.whole("repeats").unwrap_or(0);
    if !(0..=EVALUATION_REPEATS_MAX).contains(&repeats) {
        return wrong(format!(
            "repeats {repeats} is not from 0 to {EVALUATION_REPEATS_MAX}"
        ));
    }
    let asked = Asked {
        policies,
        against,
        golden: given.text("golden").map(Arc::from),
        repeats: u32::try_from(repeats).unwrap_or_default(),
        overrides: given.flag("overrides").unwrap_or(true),
        note: given.text("note").unwrap_or_default().into(),
    };
    Ok(Planned::once(&SCHEMA, move |call| run(call, asked.clone())))
}

/// The policies of a list; a text with a newline is one policy, whatever commas it holds.
fn references(said: &str) -> Vec<Arc<str>> {
    if said.contains('\n') {
        return vec![said.into()];
    }
    let names = said.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(Arc::from)
        .collect()
}

async fn run(call: Call, asked: Asked) -> Result<RecordBatch, Error> {
    let registry = call.engine.policies();
    let statement = call.statement();
    let mut subjects = Vec::new();
    for reference in &asked.policies {
        let subject = subject(&call, reference, &asked).await?;
        subjects.push(subject);
    }
    let against = asked.against.as_deref();
    let wish = Wish {
        subjects,
        against: against
            .map(|against| registry.resolve(against))
            .transpose()?,
        repeats: asked.repeats,
        note: asked.note,
        by: Arc::clone(&call.user),
    };
    let found = evaluate(&call.engine, &wish, &statement).await?;
    Ok(batch(&found)?)
}

async fn subject(call: &Call, reference: &str, asked: &Asked) -> Result<Subject, Error> {
    let version = call.engine.policies().resolve(reference)?;
    let golden = match &asked.golden {
        Some(said) => Some(golden::read(&call.session(), NAME, said, &version.policy).await?),
        None => call.engine.golden_set(&version.policy)?,
    };
    let mut subject = Subject::version(&version, golden);
    if asked.overrides && version.number > 0 {
        let spoken = call.engine.store().spoken(&version.name).await?;
        let passed_over = subject.take_spoken(spoken);
        if passed_over > 0 {
            call.statement().tally().note(format!(
                "{passed_over} labels in safeguard.overrides are passed over: policy \"{}\" does not declare them",
                subject.said()
            ));
        }
    }
    match subject.rows() {
        0 => Err(Error::Refused {
            sqlstate: "22023",
            why: format!("policy \"{}\" has no golden rows", version.reference()),
            hint: Some(
                "golden => 'table' takes a table or a query with columns text and label; rows of \
                 safeguard.overrides count where they have a text"
                    .to_owned(),
            ),
        }),
        _ => Ok(subject),
    }
}

/// A row of the answer: what it is about, and what was measured.
struct Line<'a> {
    of: &'a Evaluated,
    measure: &'a Measure,
    change: Option<[u64; 3]>,
    /// Whether it is over all labels.
    all: bool,
}

fn batch(found: &[Evaluated]) -> Result<RecordBatch> {
    let lines: Vec<Line<'_>> = found.iter().flat_map(lines).collect();
    let count = |value: &dyn Fn(&Line<'_>) -> Option<u64>| -> ArrayRef {
        let values = lines.iter().map(|line| {
            let value = value(line)?;
            Some(i64::try_from(value).unwrap_or(i64::MAX))
        });
        Arc::new(Int64Array::from_iter(values))
    };
    let text = |value: &dyn Fn(&Line<'_>) -> Arc<str>| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            lines.iter().map(|line| value(line).to_string()),
        ))
    };
    let float = |value: &dyn Fn(&Line<'_>) -> Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(lines.iter().map(value)))
    };
    let mut columns = vec![
        count(&|line| u64::try_from(line.of.id).ok()),
        text(&|line| Arc::clone(&line.of.policy)),
        count(&|line| (&*line.of.policy != super::measure::ALL).then_some(line.of.version.into())),
        text(&|line| Arc::clone(&line.measure.label)),
        count(&|line| Some(line.measure.n)),
        count(&|line| Some(line.measure.predicted)),
        count(&|line| Some(line.measure.right)),
    ];
    type Of = fn(&Measure) -> Option<Figure>;
    let figures: [Of; 3] = [|m| m.precision, |m| m.recall, |m| m.f1];
    for figure in figures {
        columns.push(float(&|line| figure(line.measure).map(|f| f.value)));
        columns.push(float(&|line| figure(line.measure).map(|f| f.interval.low)));
        columns.push(float(&|line| figure(line.measure).map(|f| f.interval.high)));
    }
    columns.push(count(&|line| Some(line.measure.undecided)));
    columns.push(float(&|line| {
        line.measure.recall.filter(|_| line.all).map(|f| f.value)
    }));
    columns.push(count(&|line| line.of.unstable.filter(|_| line.all)));
    for at in 0..3 {
        columns.push(count(&|line| line.change.map(|change| change[at])));
    }
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}

fn lines(of: &Evaluated) -> impl Iterator<Item = Line<'_>> {
    let last = of.measures.len() - 1;
    let measures = of.measures.iter().enumerate();
    measures.map(move |(place, (measure, change))| Line {
        of,
        measure,
        change: change.map(|c| [c.flips, c.fixed, c.broken]),
        all: place == last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_policies_is_told_from_a_text() {
        for (said, wanted) in [
            ("hate", &["hate"][..]),
            ("hate@3, spam,", &["hate@3", "spam"]),
            ("", &[]),
            ("labels: a, b\nno", &["labels: a, b\nno"]),
        ] {
            let found = references(said);
            let found: Vec<&str> = found.iter().map(|r| &**r).collect();
            assert_eq!(found, wanted, "{said:?}");
        }
    }
}
