//! What was found, as events for the store and as rows with the columns of `safeguard.screens`.

use crate::policy::Version;
use crate::screen::certify::{Bounds, Goal};
use crate::store::{Digest, ScreenEvent, to_hex};
use datafusion::arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::Result;
use std::sync::{Arc, LazyLock};

const UTC: &str = "+00:00";

/// The columns, all of `safeguard.screens` but `standing`, which the store says later.
pub(super) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
    let field = |name: &str, data_type: &DataType| Field::new(name, data_type.clone(), true);
    let named = |names: &[&str], data_type: DataType| -> Vec<Field> {
        names.iter().map(|name| field(name, &data_type)).collect()
    };
    let mut fields = named(&["certificate"], DataType::Int64);
    fields.extend(named(&["event"], DataType::Utf8));
    fields.extend(named(&["at"], at));
    fields.extend(named(&["policy"], DataType::Utf8));
    fields.extend(named(&["policy_version"], DataType::Int64));
    fields.extend(named(
        &[
            "policy_digest",
            "screen_digest",
            "reasoner",
            "reasoner_digest",
            "basis",
            "source",
            "slice",
            "state",
        ],
        DataType::Utf8,
    ));
    fields.extend(named(
        &[
            "target",
            "delta",
            "clear_below",
            "recall_bound",
            "precision_target",
            "convict_above",
            "precision_bound",
        ],
        DataType::Float64,
    ));
    fields.extend(named(
        &[
            "texts",
            "cleared",
            "convicted",
            "labels",
            "violating",
            "trained_on",
            "more_labels",
        ],
        DataType::Int64,
    ));
    fields.extend(named(&["finding"], DataType::Utf8));
    Arc::new(Schema::new(fields))
});

/// What all rows of one event have in common.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub event: &'static str,
    pub at: i64,
    pub screen: Digest,
    pub reasoner: Arc<str>,
    pub reasoner_digest: Arc<str>,
    pub basis: &'static str,
    pub source: Option<Arc<str>>,
    pub goal: Goal,
    pub clear_below: Option<f64>,
    pub convict_above: Option<f64>,
    pub trained_on: u64,
    pub more_labels: Option<u64>,
    pub on: bool,
}

impl About {
    /// The row about all texts, or a slice of them.
    pub(super) fn event(
        &self,
        version: &Version,
        slice: Option<&Arc<str>>,
        found: &Bounds,
        finding: String,
    ) -> ScreenEvent {
        ScreenEvent {
            event: self.event.to_owned(),
            at: self.at,
            policy: version.name.to_string(),
            policy_version: version.number,
            policy_digest: version.digest.to_string(),
            screen_digest: self.screen,
            reasoner: self.reasoner.to_string(),
            reasoner_digest: self.reasoner_digest.to_string(),
            basis: self.basis.to_owned(),
            source: self.source.as_ref().map(ToString::to_string),
            slice: slice.map(ToString::to_string),
            on: self.on,
            target: self.goal.recall,
            delta: self.goal.delta,
            clear_below: self.clear_below,
            recall_bound: found.recall,
            precision_target: self.goal.precision,
            convict_above: self.convict_above,
            precision_bound: found.precision,
            texts: found.texts,
            cleared: found.cleared,
            convicted: found.convicted,
            labels: found.labels,
            violating: found.violating,
            trained_on: self.trained_on,
            more_labels: self.more_labels,
            finding,
        }
    }
}

/// A share in percent, rounded down.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "0%".to_owned(),
        whole => format!("{}%", part * 100 / whole),
    }
}

/// A bound with three digits, rounded down.
pub(super) fn bound(value: f64) -> String {
    format!("{:.3}", (value * 1000.0).floor() / 1000.0)
}

/// The confidence of a bound in percent.
pub(super) fn confidence(delta: f64) -> String {
    let percent = ((1.0 - delta) * 1e6).round() / 1e4;
    format!("{percent}% confidence")
}

/// The rows; `certificate` is their number where they are stored.
pub(super) fn batch(certificate: Option<i64>, events: &[ScreenEvent]) -> Result<RecordBatch> {
    type Of<T> = fn(&ScreenEvent) -> T;
    let text = |of: Of<Option<String>>| -> ArrayRef {
        Arc::new(StringArray::from_iter(events.iter().map(of)))
    };
    let float = |of: Of<Option<f64>>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(events.iter().map(of)))
    };
    let count = |of: Of<Option<u64>>| -> ArrayRef {
        let counts = events
            .iter()
            .map(|event| of(event).and_then(|n| i64::try_from(n).ok()));
        Arc::new(Int64Array::from_iter(counts))
    };
    let at = TimestampMicrosecondArray::from_iter_values(events.iter().map(|event| event.at));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter(events.iter().map(|_| certificate))),
        text(|e| Some(e.event.clone())),
        Arc::new(at.with_timezone(UTC)),
        text(|e| Some(e.policy.clone())),
        count(|e| Some(e.policy_version.into())),
        text(|e| Some(e.policy_digest.clone())),
        // Without a screen there is no digest.
        text(|e| (e.screen_digest != Digest::default()).then(|| to_hex(&e.screen_digest))),
        text(|e| Some(e.reasoner.clone())),
        text(|e| Some(e.reasoner_digest.clone())),
        text(|e| Some(e.basis.clone())),
        text(|e| e.source.clone()),
        text(|e| e.slice.clone()),
        text(|e| Some(if e.on { "on" } else { "off" }.to_owned())),
        float(|e| Some(e.target)),
        float(|e| Some(e.delta)),
        float(|e| e.clear_below),
        float(|e| e.recall_bound),
        float(|e| e.precision_target),
        float(|e| e.convict_above),
        float(|e| e.precision_bound),
        count(|e| Some(e.texts)),
        count(|e| Some(e.cleared)),
        count(|e| Some(e.convicted)),
        count(|e| Some(e.labels)),
        count(|e| Some(e.violating)),
        count(|e| Some(e.trained_on)),
        count(|e| e.more_labels),
        text(|e| Some(e.finding.clone())),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}
