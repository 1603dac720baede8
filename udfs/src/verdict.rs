//! Decisions as Arrow columns.

use crate::classifier::{Decision, Undecided, Verdict};
use crate::functions::Output;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListBuilder, StringArray, StringBuilder,
    StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use std::sync::Arc;

/// The label of a text without a verdict. No policy may declare it.
pub const UNDECIDED: &str = "undecided";

const UTC: &str = "+00:00";

fn fields() -> Fields {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Fields::from(vec![
        text("label"),
        Field::new("violates", DataType::Boolean, true),
        Field::new("score", DataType::Float64, true),
        text("rationale"),
        Field::new_list("rules", Field::new_list_field(DataType::Utf8, true), true),
        text("reason"),
        text("stage"),
        text("policy"),
        text("model"),
        Field::new(
            "judged_at",
            DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            true,
        ),
    ])
}

/// The type of `safeguard_verdict`.
pub(crate) fn data_type() -> DataType {
    DataType::Struct(fields())
}

/// One answer a row: a decision, or the token count for [`Output::Tokens`]; `None` where nobody asked (a NULL text or
/// a branch that SQL does not evaluate).
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Decision(Arc<Decision>),
    Tokens(u64),
}

/// The column of `output` for these rows.
pub(crate) fn column(output: Output, cells: &[Option<Cell>]) -> ArrayRef {
    let decisions = || {
        cells
            .iter()
            .map(|cell| cell.as_ref().and_then(Cell::decision))
    };
    match output {
        Output::Label => Arc::new(decisions().map(|d| d.map(label)).collect::<StringArray>()),
        Output::Violates => Arc::new(decisions().map(violates).collect::<BooleanArray>()),
        Output::Score => Arc::new(decisions().map(score).collect::<Float64Array>()),
        Output::Tokens => Arc::new(
            cells
                .iter()
                .map(|c| c.as_ref().and_then(Cell::tokens))
                .collect::<Int64Array>(),
        ),
        Output::Verdict => Arc::new(whole(&decisions().collect::<Vec<_>>())),
    }
}

impl Cell {
    fn decision(&self) -> Option<&Decision> {
        match self {
            Cell::Decision(decision) => Some(decision),
            Cell::Tokens(_) => None,
        }
    }

    fn tokens(&self) -> Option<i64> {
        match self {
            Cell::Tokens(tokens) => i64::try_from(*tokens).ok(),
            Cell::Decision(_) => None,
        }
    }
}

fn label(decision: &Decision) -> &str {
    match decision {
        Ok(verdict) => &verdict.label,
        Err(_) => UNDECIDED,
    }
}

fn verdict(decision: Option<&Decision>) -> Option<&Verdict> {
    decision.and_then(|d| d.as_ref().ok())
}

fn violates(decision: Option<&Decision>) -> Option<bool> {
    verdict(decision).map(|v| v.violates)
}

fn score(decision: Option<&Decision>) -> Option<f64> {
    verdict(decision).and_then(|v| v.score)
}

fn whole(decisions: &[Option<&Decision>]) -> StructArray {
    let text = |of: &dyn Fn(&Decision) -> Option<String>| -> ArrayRef {
        Arc::new(
            decisions
                .iter()
                .map(|d| d.and_then(of))
                .collect::<StringArray>(),
        )
    };
    let provenance = |d: &Decision| match d {
        Ok(Verdict { provenance, .. }) | Err(Undecided { provenance, .. }) => provenance.clone(),
    };
    let judged_at: TimestampMicrosecondArray = decisions
        .iter()
        .map(|d| d.map(|d| provenance(d).judged_at))
        .collect();
    let columns: Vec<ArrayRef> = vec![
        text(&|d| Some(label(d).to_owned())),
        Arc::new(
            decisions
                .iter()
                .map(|d| violates(*d))
                .collect::<BooleanArray>(),
        ),
        Arc::new(
            decisions
                .iter()
                .map(|d| score(*d))
                .collect::<Float64Array>(),
        ),
        text(&|d| {
            d.as_ref()
                .ok()
                .and_then(|v| v.rationale.as_deref().map(str::to_owned))
        }),
        rules(decisions),
        text(&|d| d.as_ref().err().map(|u| u.reason.as_str().to_owned())),
        text(&|d| d.as_ref().ok().map(|v| v.stage.as_str().to_owned())),
        text(&|d| Some(provenance(d).policy.to_string())),
        text(&|d| Some(provenance(d).model.to_string())),
        Arc::new(judged_at.with_timezone(UTC)),
    ];
    let nulls: NullBuffer = decisions.iter().map(Option::is_some).collect();
    StructArray::new(fields(), columns, Some(nulls))
}

fn rules(decisions: &[Option<&Decision>]) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for decision in decisions {
        match verdict(*decision) {
            Some(verdict) => {
                verdict
                    .rules
                    .iter()
                    .for_each(|rule| builder.values().append_value(rule));
                builder.append(true);
            }
            None => builder.append(false),
        }
    }
    Arc::new(builder.finish())
}
