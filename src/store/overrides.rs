//! INSERT INTO safeguard.overrides: people's labels, checked and stored whole or not at all.
//!
//! Takes rows as SQL gives them, where a column that was left out is NULL; gives overrides with what can be worked out
//! filled in: the digest from the text, the time from the clock, `violates` from the policy. Whether a policy and a label
//! exist is the check's to say.

use super::Inner;
use super::columns::OVERRIDES;
use super::error::StoreError;
use super::records::{OverrideRow, from_hex, now, text_digest};
use super::tables::OverrideCheck;
use super::writer::Work;
use crate::config::STORE_INSERT_ROWS_MAX;
use async_trait::async_trait;
use datafusion::arrow::array::{
    Array, AsArray, BooleanArray, PrimitiveArray, RecordBatch, StringViewArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::sink::DataSink;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, SendableRecordBatchStream};
use futures::StreamExt;
use std::fmt;
use std::sync::Arc;

/// Where an INSERT ends.
pub(super) struct OverrideSink {
    store: Arc<Inner>,
    schema: SchemaRef,
    check: OverrideCheck,
}

impl OverrideSink {
    /// `schema` is that of the table.
    pub(super) fn new(store: Arc<Inner>, schema: SchemaRef, check: OverrideCheck) -> OverrideSink {
        OverrideSink {
            store,
            schema,
            check,
        }
    }
}

impl fmt::Debug for OverrideSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OverrideSink")
    }
}

impl DisplayAs for OverrideSink {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("safeguard.overrides")
    }
}

#[async_trait]
impl DataSink for OverrideSink {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(
        &self,
        mut data: SendableRecordBatchStream,
        _: &Arc<TaskContext>,
    ) -> Result<u64> {
        let external = |e| DataFusionError::External(Box::new(e));
        let now = now();
        let mut rows = Vec::new();
        while let Some(batch) = data.next().await {
            let batch = Given::new(&batch?)?;
            for at in 0..batch.policy.len() {
                if rows.len() == STORE_INSERT_ROWS_MAX {
                    let limit = STORE_INSERT_ROWS_MAX;
                    return Err(external(StoreError::TooManyOverrides { limit }));
                }
                let row = batch.row(at, now, &self.check);
                let number = rows.len() + 1;
                rows.push(row.map_err(|why| external(StoreError::Override { row: number, why }))?);
            }
        }
        let count = rows.len() as u64;
        if count > 0 {
            self.store
                .write(Work::Overrides(rows))
                .await
                .map_err(external)?;
        }
        Ok(count)
    }
}

/// A batch as it was given, its columns by name.
struct Given {
    policy: StringViewArray,
    text_digest: StringViewArray,
    text: StringViewArray,
    label: StringViewArray,
    reviewer: StringViewArray,
    note: StringViewArray,
    decided_at: PrimitiveArray<TimestampMicrosecondType>,
    violates: BooleanArray,
}

impl Given {
    fn new(batch: &RecordBatch) -> Result<Given> {
        let schema = OVERRIDES.schema();
        let column = |name: &str| {
            let field = schema.field_with_name(name)?;
            let at = batch.schema().index_of(name)?;
            Ok::<_, DataFusionError>(cast(batch.column(at), field.data_type())?)
        };
        let text = |name: &str| Ok::<_, DataFusionError>(column(name)?.as_string_view().clone());
        Ok(Given {
            policy: text("policy")?,
            text_digest: text("text_digest")?,
            text: text("text")?,
            label: text("label")?,
            reviewer: text("reviewer")?,
            note: text("note")?,
            decided_at: column("decided_at")?.as_primitive().clone(),
            violates: column("violates")?.as_boolean().clone(),
        })
    }

    /// Row `at`, completed; or what is wrong with it.
    fn row(&self, at: usize, now: i64, check: &OverrideCheck) -> Result<OverrideRow, String> {
        let policy = get(&self.policy, at).ok_or("a policy is required")?;
        let label = get(&self.label, at).ok_or("a label is required")?;
        let violates = check(policy, label)?;
        if self.violates.is_valid(at) && self.violates.value(at) != violates {
            return Err(format!(
                "violates follows from the policy: {violates} for \"{label}\""
            ));
        }
        let text = get(&self.text, at);
        let given = get(&self.text_digest, at)
            .map(|hex| {
                from_hex(hex).ok_or_else(|| format!("text_digest \"{hex}\" is not 64 hex digits"))
            })
            .transpose()?;
        let digest = match (text.map(text_digest), given) {
            (Some(of_text), Some(given)) if of_text != given => {
                return Err("text_digest is not the digest of text".into());
            }
            (Some(digest), _) | (None, Some(digest)) => digest,
            (None, None) => return Err("a text or its text_digest is required".into()),
        };
        Ok(OverrideRow {
            policy: policy.into(),
            text_digest: digest,
            text: text.map(Into::into),
            label: label.into(),
            violates,
            reviewer: get(&self.reviewer, at).map(Into::into),
            note: get(&self.note, at).map(Into::into),
            decided_at: if self.decided_at.is_valid(at) {
                self.decided_at.value(at)
            } else {
                now
            },
        })
    }
}

fn get(column: &StringViewArray, at: usize) -> Option<&str> {
    column.is_valid(at).then(|| column.value(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::bed::{Bed, on_both};
    use crate::store::tests::{rows, session};
    use crate::store::to_hex;

    async fn what_was_left_out_is_worked_out(bed: Bed) {
        let store = bed.new_store();
        let session = session(&store).await;
        let of_a = to_hex(&text_digest("a"));
        let inserts = [
            "(policy, text, label, reviewer, note) VALUES ('hate', 'a', 'hateful', 'ada', 'why')"
                .into(),
            format!(
                "(policy, text_digest, label) VALUES ('spam', '{}', 'allowed')",
                of_a.to_uppercase()
            ),
            format!(
                "(policy, text_digest, text, label, violates) VALUES ('hate', '{of_a}', 'a', 'allowed', false)"
            ),
            "(label, decided_at, policy, text) VALUES ('spam', '2024-01-02T03:04:05Z', 'spam', '')"
                .into(),
        ];
        let before = now();
        for insert in &inserts {
            let sql = format!("INSERT INTO safeguard.overrides {insert}");
            assert_eq!(rows(&session, &sql).await, ["1"], "{sql}");
        }
        let stored = "SELECT policy, text_digest, text, label, reviewer, note, violates FROM safeguard.overrides";
        let empty = to_hex(&text_digest(""));
        let expected = [
            format!("hate|{of_a}|a|hateful|ada|why|true"),
            format!("spam|{of_a}||allowed|||false"),
            format!("hate|{of_a}|a|allowed|||false"),
            format!("spam|{empty}||spam|||true"),
        ];
        assert_eq!(rows(&session, stored).await, expected);
        let times = "SELECT CAST(decided_at AS BIGINT) FROM safeguard.overrides";
        let times = rows(&session, times).await;
        let times: Vec<i64> = times.iter().map(|time| time.parse().unwrap()).collect();
        assert!((before..=now()).contains(&times[0]), "{times:?}");
        assert_eq!(times[3], 1_704_164_645_000_000);
        let many = "INSERT INTO safeguard.overrides (policy, text, label)
                    SELECT 'hate', policy, label FROM safeguard.overrides WHERE policy = 'hate'";
        assert_eq!(rows(&session, many).await, ["2"]);
    }

    async fn an_override_that_cannot_be_stored_stores_nothing(bed: Bed) {
        let store = bed.new_store();
        let session = session(&store).await;
        let cases = [
            (
                "(text, label) VALUES ('a', 'hateful')",
                "override 1: a policy is required",
            ),
            (
                "(policy, text) VALUES ('hate', 'a')",
                "override 1: a label is required",
            ),
            (
                "(policy, label) VALUES ('hate', 'hateful')",
                "override 1: a text or its text_digest is required",
            ),
            (
                "(policy, text, label) VALUES ('none', 'a', 'hateful')",
                "override 1: policy \"none\" does not exist",
            ),
            (
                "(policy, text, label) VALUES ('hate', 'a', 'hateful'), ('hate', 'b', 'spam')",
                "override 2: policy \"hate\" has no label \"spam\"",
            ),
            (
                "(policy, text_digest, label) VALUES ('hate', 'abc', 'hateful')",
                "override 1: text_digest \"abc\" is not 64 hex digits",
            ),
            (
                "(policy, text_digest, text, label) VALUES ('hate', repeat('0', 64), 'a', 'hateful')",
                "override 1: text_digest is not the digest of text",
            ),
            (
                "(policy, text, label, violates) VALUES ('hate', 'a', 'hateful', false)",
                "override 1: violates follows from the policy: true for \"hateful\"",
            ),
            (
                "(policy, text, label) SELECT 'hate', 'a', 'hateful' FROM generate_series(0, 100000)",
                "an INSERT into safeguard.overrides takes at most 100000 rows",
            ),
        ];
        for (insert, expected) in cases {
            let sql = format!("INSERT INTO safeguard.overrides {insert}");
            let error = session
                .sql(&sql)
                .await
                .unwrap()
                .collect()
                .await
                .unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("External error: {expected}"),
                "{sql}"
            );
            let DataFusionError::External(inner) = error.find_root() else {
                panic!("{error:?}")
            };
            assert!(inner.downcast_ref::<StoreError>().is_some(), "{sql}");
            let kept = rows(&session, "SELECT count(*) FROM safeguard.overrides").await;
            assert_eq!(kept, ["0"], "{sql}");
        }
    }

    on_both!(
        what_was_left_out_is_worked_out,
        an_override_that_cannot_be_stored_stores_nothing,
    );
}
