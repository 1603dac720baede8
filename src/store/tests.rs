//! The store as a whole: what was appended is recalled, by everybody, whatever happened in between.

use super::*;
use crate::config::STORE_COMMIT_ROWS_MAX;
use crate::store::bed::{Bed, on_both};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use std::fs;
use std::future::Future;
use std::task::{Context, Waker};

/// A verdict that is a function of its number.
pub(super) fn verdict(n: u64) -> Record {
    let violates = n.is_multiple_of(3);
    Record {
        verdict_digest: key(n),
        policy: if n.is_multiple_of(5) { "spam" } else { "hate" }.into(),
        policy_version: 1 + u32::try_from(n % 2).unwrap(),
        policy_digest: to_hex(&text_digest(&format!("policy {}", n % 2))).into(),
        text_digest: text_digest(&format!("text {n}")),
        label: Some(if violates { "hateful" } else { "allowed" }.into()),
        violates: Some(violates),
        score: (!n.is_multiple_of(4)).then_some(n as f64 / 1_000_000.0),
        gap: (!n.is_multiple_of(6)).then_some(n as f64 / 1_000.0),
        rationale: n
            .is_multiple_of(2)
            .then(|| format!("because of number {n}").into()),
        rules: (0..n % 3)
            .map(|rule| format!("H{rule}.\"c\"").into())
            .collect(),
        reason: None,
        stage: if n.is_multiple_of(7) {
            "screen"
        } else {
            "score"
        }
        .into(),
        mode: "auto".into(),
        effort: "low".into(),
        model: "safeguard-nano".into(),
        model_digest: "f32:00ff".into(),
        tokens_in: 100 + n,
        tokens_out: n % 10,
        seconds: None,
        judged_at: 1_700_000_000_000_000 + i64::try_from(n).unwrap(),
    }
}

/// The same, undecided.
pub(super) fn undecided(n: u64, reason: &str) -> Record {
    Record {
        label: None,
        violates: None,
        score: None,
        gap: None,
        reason: Some(reason.into()),
        rules: Vec::new(),
        rationale: None,
        ..verdict(n)
    }
}

pub(super) fn key(n: u64) -> Digest {
    text_digest(&format!("key {n}"))
}

/// A session over the store's tables and views, where the policies hate and spam allow `allowed`.
pub(super) async fn session(store: &Store) -> SessionContext {
    let check = |policy: &str, label: &str| match (policy, label) {
        ("hate", "hateful" | "allowed") | ("spam", "spam" | "allowed") => Ok(label != "allowed"),
        ("hate" | "spam", _) => Err(format!("policy \"{policy}\" has no label \"{label}\"")),
        _ => Err(format!("policy \"{policy}\" does not exist")),
    };
    let session = SessionContext::new();
    let catalog = session.catalog("datafusion").unwrap();
    catalog
        .register_schema("safeguard", store.schema_provider(Arc::new(check)))
        .unwrap();
    session
        .sql(LABELS_VIEW)
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    session
}

/// The rows of a statement, values parted by `|`.
pub(super) async fn rows(session: &SessionContext, sql: &str) -> Vec<String> {
    let frame = session
        .sql(sql)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
    let batches = frame
        .collect()
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
    let row = |batch: &RecordBatch, at| {
        let values = batch
            .columns()
            .iter()
            .map(|c| array_value_to_string(c, at).unwrap());
        values.collect::<Vec<_>>().join("|")
    };
    batches
        .iter()
        .flat_map(|b| (0..b.num_rows()).map(move |at| row(b, at)))
        .collect()
}

pub(super) fn version(name: &str, version: u32, text: &str) -> VersionRow {
    VersionRow {
        name: name.into(),
        version,
        digest: to_hex(&text_digest(text)),
        text: text.into(),
        labels: r#"["hateful","allowed"]"#.into(),
        title: None,
        published_at: 1,
        published_by: Some("ada".into()),
        note: None,
    }
}

fn count(store: &Store, table: &str) -> i64 {
    let reader = store.inner.readers.take().unwrap();
    reader
        .query_row(&format!("SELECT count(*) FROM {table}"), (), |row| {
            row.get(0)
        })
        .unwrap()
}

async fn check_recall(store: &Store, expected: std::ops::Range<u64>) {
    let keys: Vec<Digest> = expected.clone().map(key).collect();
    let recalled = store.recall(&keys).await.unwrap();
    for (n, record) in expected.zip(recalled) {
        assert_eq!(record.as_deref(), Some(&verdict(n)), "record {n}");
    }
}

async fn what_was_appended_is_recalled_after_reopening(bed: Bed) {
    let store = bed.open();
    assert!(store.recall(&[key(1)]).await.unwrap()[0].is_none());
    store.append((0..100).map(verdict).collect()).await.unwrap();
    store.append(vec![undecided(100, "refused")]).await.unwrap();
    store.append(Vec::new()).await.unwrap();
    check_recall(&store, 0..100).await;
    drop(store);
    if let Bed::File(dir) = &bed {
        let log = dir.path().join("verdicts.db-wal");
        assert!(!log.exists(), "closing folds the log into the file");
    }

    let store = bed.open();
    check_recall(&store, 0..100).await;
    let asked = [key(7), key(999), key(100), key(7), key(0)];
    let recalled = store.recall(&asked).await.unwrap();
    let expected = [
        Some(verdict(7)),
        None,
        Some(undecided(100, "refused")),
        Some(verdict(7)),
    ];
    for (at, expected) in expected.iter().enumerate() {
        assert_eq!(recalled[at].as_deref(), expected.as_ref(), "key {at}");
    }
    assert!(store.recall(&[]).await.unwrap().is_empty());
}

async fn a_key_takes_one_fact_and_one_decision(bed: Bed) {
    let hateful = || verdict(3);
    let other = || Record {
        label: Some("other".into()),
        judged_at: 9,
        ..verdict(3)
    };
    let refused = || undecided(3, "refused");
    let truncated = || undecided(3, "truncated");
    let cases: [(&str, Vec<Record>, Record, i64); 7] = [
        ("the same twice", vec![hateful(), hateful()], hateful(), 1),
        ("another verdict", vec![hateful(), other()], hateful(), 1),
        ("undecided later", vec![hateful(), refused()], hateful(), 1),
        ("decided later", vec![refused(), hateful()], hateful(), 2),
        (
            "decided twice later",
            vec![refused(), other(), hateful()],
            other(),
            2,
        ),
        (
            "undecided twice",
            vec![refused(), truncated()],
            refused(),
            1,
        ),
        (
            "decided at last",
            vec![refused(), truncated(), refused(), hateful()],
            hateful(),
            2,
        ),
    ];
    for (name, records, expected, rows) in cases {
        for together in [true, false] {
            let store = bed.new_store();
            if together {
                store.append(records.clone()).await.unwrap();
            } else {
                for record in records.clone() {
                    store.append(vec![record]).await.unwrap();
                    store.recall(&[key(3)]).await.unwrap();
                }
            }
            let recalled = store.recall(&[key(3)]).await.unwrap();
            assert_eq!(
                recalled[0].as_deref(),
                Some(&expected),
                "{name}, together: {together}"
            );
            assert_eq!(
                count(&store, "verdicts"),
                rows,
                "{name}, together: {together}"
            );
            if !bed.is_file() {
                continue;
            }
            // An index that is loaded only now sees the same.
            let late = index::Index::new(store.path());
            let recalled = late.recall(&store.inner.readers, &[key(3)]).unwrap();
            assert_eq!(
                recalled[0].as_deref(),
                Some(&expected),
                "{name}, loaded late"
            );
        }
    }
}

#[tokio::test]
#[should_panic(expected = "bug: a record is either a verdict or undecided")]
async fn a_record_without_label_and_reason_is_a_bug() {
    let store = Store::ephemeral().unwrap();
    let record = Record {
        reason: None,
        ..undecided(1, "refused")
    };
    let _ = store.append(vec![record]).await;
}

async fn many_append_at_once(bed: Bed) {
    let store = bed.open();
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for step in 0..8 {
                    // Every record is appended by two tasks.
                    let first = (task / 2 * 8 + step) * 5;
                    store
                        .append((first..first + 5).map(verdict).collect())
                        .await
                        .unwrap();
                    check_recall(&store, first..first + 5).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(count(&store, "verdicts"), 1280);
    check_recall(&store, 0..1280).await;
}

async fn more_than_one_commit_holds_is_stored(bed: Bed) {
    let store = bed.new_store();
    let many = STORE_COMMIT_ROWS_MAX as u64 * 2 + 1;
    store
        .append((0..many).map(verdict).collect())
        .await
        .unwrap();
    check_recall(&store, 0..many).await;
}

async fn two_handles_share_one_directory(bed: Bed) {
    let (one, two) = (bed.open(), bed.open());
    for store in [&one, &two] {
        assert!(
            store
                .recall(&[key(0), key(60)])
                .await
                .unwrap()
                .iter()
                .all(Option::is_none)
        );
    }
    let (first, second) = tokio::join!(
        one.append((0..60).map(verdict).collect()),
        two.append((30..90).map(verdict).collect()),
    );
    first.unwrap();
    second.unwrap();
    for store in [&one, &two] {
        check_recall(store, 0..90).await;
        assert_eq!(count(store, "verdicts"), 90);
    }
    drop(one);
    two.append(vec![verdict(90)]).await.unwrap();
    check_recall(&bed.open(), 0..91).await;
}

#[tokio::test]
async fn a_copy_of_the_files_at_any_moment_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for step in 0..4 {
        store
            .append((step * 500..step * 500 + 500).map(verdict).collect())
            .await
            .unwrap();
        let all = step * 500 + 500;
        // As a power cut leaves them: the log is not folded in.
        let (whole, alone) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(
            fs::metadata(dir.path().join("verdicts.db-wal"))
                .unwrap()
                .len()
                > 0
        );
        for name in ["verdicts.db", "verdicts.db-wal"] {
            fs::copy(dir.path().join(name), whole.path().join(name)).unwrap();
        }
        check_recall(&Store::open(whole.path()).unwrap(), 0..all).await;
        // The file without its log is an older store, not a broken one.
        fs::copy(
            dir.path().join("verdicts.db"),
            alone.path().join("verdicts.db"),
        )
        .unwrap();
        let older = Store::open(alone.path()).unwrap();
        assert!(count(&older, "verdicts") <= i64::try_from(all).unwrap());
        older.append((0..all).map(verdict).collect()).await.unwrap();
        check_recall(&older, 0..all).await;
    }
}

async fn an_append_that_nobody_awaits_is_kept(bed: Bed) {
    let store = bed.open();
    {
        let mut append = std::pin::pin!(store.append(vec![verdict(1)]));
        let _ = append
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
    }
    drop(store);
    check_recall(&bed.open(), 1..2).await;
}

async fn versions_are_immutable(bed: Bed) {
    let store = bed.new_store();
    let all = [
        version("hate", 1, "a"),
        version("hate", 2, "b"),
        version("spam", 1, "c"),
    ];
    for row in [&all[2], &all[1], &all[0], &all[0]] {
        store.append_version(row.clone()).await.unwrap();
    }
    assert_eq!(store.versions().await.unwrap(), all);
    let (taken, kept) = tokio::join!(
        store.append_version(version("hate", 2, "z")),
        store.append(vec![verdict(1)]),
    );
    assert_eq!(
        taken.unwrap_err().to_string(),
        "policy \"hate\" version 2 is already published with another text"
    );
    kept.unwrap();
    assert_eq!(store.versions().await.unwrap(), all);
    check_recall(&store, 1..2).await;
}

async fn statements_are_numbered(bed: Bed) {
    let store = bed.new_store();
    let query = QueryRow {
        started_at: 1,
        user: "ada".into(),
        statement: "SELECT 1".into(),
        status: "ok".into(),
        rows: 12,
        distinct_texts: 10,
        recalled: 4,
        screened: 3,
        asked: 2,
        undecided: 1,
        tokens_in: u64::MAX,
        tokens_out: 0,
        seconds: 0.25,
        ..QueryRow::default()
    };
    let first = store.append_query(query.clone()).await.unwrap();
    assert_eq!(store.append_query(query).await.unwrap(), first + 1);
}

async fn erased_text_leaves_the_store(bed: Bed) {
    let store = bed.open();
    let quote = "the-quoted-secret";
    let secret = |n| Record {
        text_digest: text_digest(quote),
        rationale: Some(format!("it says {quote}").into()),
        ..verdict(n)
    };
    store
        .append(vec![secret(1), secret(2), verdict(4)])
        .await
        .unwrap();
    let spoken = OverrideRow {
        policy: "hate".into(),
        text_digest: text_digest(quote),
        text: Some(quote.into()),
        label: "hateful".into(),
        violates: true,
        reviewer: Some("ada".into()),
        note: Some(format!("{quote}!")),
        decided_at: 1,
    };
    store.append_override(spoken).await.unwrap();
    let id = store
        .append_evaluation(evaluation(), vec![evaluated(quote), evaluated("another")])
        .await
        .unwrap();
    let on_disk = || {
        let Bed::File(dir) = &bed else { return 0 };
        let files = fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().path());
        files
            .filter(|file| {
                fs::read(file)
                    .unwrap()
                    .windows(quote.len())
                    .any(|w| w == quote.as_bytes())
            })
            .count()
    };
    assert_eq!(on_disk() > 0, bed.is_file());
    assert_eq!(store.erase_text(text_digest(quote)).await.unwrap(), 4);
    assert_eq!(store.erase_text(text_digest(quote)).await.unwrap(), 0);
    assert_eq!(on_disk(), 0);
    let recalled = store.recall(&[key(1), key(4)]).await.unwrap();
    let blank = Record {
        rationale: None,
        ..secret(1)
    };
    assert_eq!(recalled[0].as_deref(), Some(&blank));
    assert_eq!(recalled[1].as_deref(), Some(&verdict(4)));
    let session = session(&store).await;
    let kept = rows(
        &session,
        "SELECT evaluation, text, golden_label, label FROM safeguard.evaluation_rows ORDER BY text",
    );
    assert_eq!(
        kept.await,
        [format!("{id}|another|bad|bad"), format!("{id}||bad|bad")]
    );
}

fn evaluation() -> EvaluationRow {
    EvaluationRow {
        evaluated_at: 1,
        evaluated_by: "ada".into(),
        policy: "hate".into(),
        version: 1,
        digest: "d".into(),
        against: None,
        golden: "shipped".into(),
        golden_digest: [7; 32],
        model: "m".into(),
        model_digest: "md".into(),
        mode: "auto".into(),
        effort: "low".into(),
        repeats: 0,
        note: String::new(),
        n: 2,
        predicted: 2,
        right: 2,
        undecided: 0,
        accuracy: Some([1.0, 0.3, 1.0]),
        unstable: None,
        changes: None,
    }
}

fn evaluated(text: &str) -> EvaluatedText {
    EvaluatedText {
        policy: "hate".into(),
        version: 1,
        text_digest: text_digest(text),
        text: text.into(),
        source: "golden",
        golden_label: "bad".into(),
        golden_violates: true,
        label: Some("bad".into()),
        reason: None,
        violates: Some(true),
        score: Some(0.5),
        unstable: None,
        rules: vec!["H1".into()],
    }
}

async fn an_evaluation_is_stored_whole_or_not_at_all(bed: Bed) {
    let store = bed.new_store();
    let torn = EvaluatedText {
        label: None,
        violates: None,
        ..evaluated("neither a label nor a reason")
    };
    let stored = store.append_evaluation(evaluation(), vec![evaluated("a"), torn]);
    assert!(stored.await.is_err());
    let id = store.append_evaluation(evaluation(), vec![evaluated("a")]);
    let id = id.await.unwrap();
    let session = session(&store).await;
    assert_eq!(
        rows(
            &session,
            "SELECT id, n, \"right\", accuracy, accuracy_low, unstable, flips FROM safeguard.evaluations"
        )
        .await,
        [format!("{id}|2|2|1.0|0.3||")]
    );
    assert_eq!(
        rows(&session, "SELECT evaluation, text, source, rules, golden_violates, unstable FROM safeguard.evaluation_rows").await,
        [format!("{id}|a|golden|[H1]|true|")]
    );
}

#[tokio::test]
async fn an_ephemeral_store_is_gone_when_dropped() {
    let (one, two) = (Store::ephemeral().unwrap(), Store::ephemeral().unwrap());
    let dir = one.path().parent().unwrap().to_path_buf();
    one.append(vec![verdict(1)]).await.unwrap();
    assert!(two.recall(&[key(1)]).await.unwrap()[0].is_none());
    let clone = one.clone();
    drop(one);
    check_recall(&clone, 1..2).await;
    drop(clone);
    assert!(!dir.exists());
}

on_both!(
    what_was_appended_is_recalled_after_reopening,
    a_key_takes_one_fact_and_one_decision,
    many_append_at_once,
    more_than_one_commit_holds_is_stored,
    two_handles_share_one_directory,
    an_append_that_nobody_awaits_is_kept,
    versions_are_immutable,
    statements_are_numbered,
    erased_text_leaves_the_store,
    an_evaluation_is_stored_whole_or_not_at_all,
);
