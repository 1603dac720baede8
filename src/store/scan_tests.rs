//! What a scan shows, where its batches end, and how it stops.

use super::*;
use crate::config::STORE_SCAN_BYTES_MAX;
use crate::store::Store;
use crate::store::bed::{Bed, on_both};
use crate::store::tests::{rows, session, undecided, verdict};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::physical_plan::displayable;
use std::sync::mpsc;
use std::time::Duration;

async fn every_column_shows_what_was_stored(bed: Bed) {
    let store = bed.new_store();
    store
        .append(vec![verdict(2), undecided(3, "refused")])
        .await
        .unwrap();
    let session = session(&store).await;
    let frame = session
        .sql("SELECT * FROM safeguard.verdicts")
        .await
        .unwrap();
    let fields = frame.schema().fields().iter();
    let names: Vec<String> = fields
        .map(|f| format!("{} {}", f.name(), f.data_type()))
        .collect();
    let expected = [
        "verdict_digest Utf8View",
        "policy Utf8View",
        "policy_version Int64",
        "policy_digest Utf8View",
        "text_digest Utf8View",
        "label Utf8View",
        "violates Boolean",
        "score Float64",
        "rationale Utf8View",
        "rules List(Utf8)",
        "reason Utf8View",
        "stage Utf8View",
        "mode Utf8View",
        "effort Utf8View",
        "model Utf8View",
        "model_digest Utf8View",
        "tokens_in Int64",
        "tokens_out Int64",
        "judged_at Timestamp(µs, \"+00:00\")",
        "gap Float64",
        "seconds Float64",
    ];
    assert_eq!(names, expected);
    let all = "SELECT * FROM safeguard.verdicts ORDER BY judged_at";
    let rows = rows(&session, all).await;
    let hex = |digest| crate::store::to_hex(&digest);
    let record = verdict(2);
    let expected = format!(
        "{}|hate|1|{}|{}|allowed|false|2e-6|because of number 2|[H0.\"c\", H1.\"c\"]||score\
         |auto|low|safeguard-nano|f32:00ff|102|2|2023-11-14T22:13:20.000002Z|0.002|",
        hex(record.verdict_digest),
        record.policy_digest,
        hex(record.text_digest),
    );
    assert_eq!(rows[0], expected);
    assert!(rows[1].contains("||||[]|refused|"), "{}", rows[1]);
}

async fn scans_come_in_batches_and_stop_at_the_limit(bed: Bed) {
    let store = bed.new_store();
    store
        .append((0..20_000).map(verdict).collect())
        .await
        .unwrap();
    let session = session(&store).await;
    let cases = [
        ("SELECT count(*) FROM safeguard.verdicts", "20000"),
        (
            "SELECT count(*) FROM safeguard.verdicts WHERE violates",
            "6667",
        ),
        (
            "SELECT count(*) FROM safeguard.verdicts WHERE length(label) > 100",
            "0",
        ),
        (
            "SELECT count(*) FROM (SELECT 1 FROM safeguard.verdicts LIMIT 12345)",
            "12345",
        ),
        (
            "SELECT count(label) FROM (SELECT label FROM safeguard.verdicts LIMIT 9000)",
            "9000",
        ),
        (
            "SELECT sum(tokens_in) FROM safeguard.verdicts WHERE policy = 'spam'",
            "40390000",
        ),
        ("SELECT count(*) FROM safeguard.queries", "0"),
    ];
    for (sql, expected) in cases {
        assert_eq!(rows(&session, sql).await, [expected], "{sql}");
    }
    let sql = "SELECT verdict_digest, judged_at FROM safeguard.verdicts";
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    let sizes: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
    assert_eq!(sizes, [8192, 8192, 3616]);
    let long = crate::store::Record {
        rationale: Some("x".repeat(STORE_SCAN_BYTES_MAX / 2).into()),
        ..verdict(30_000)
    };
    let long = (30_000..30_005).map(|n| crate::store::Record {
        verdict_digest: verdict(n).verdict_digest,
        ..long.clone()
    });
    store.append(long.collect()).await.unwrap();
    let sql = "SELECT rationale FROM safeguard.verdicts WHERE tokens_in = 30100";
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    let sizes: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
    assert_eq!(sizes, [2, 2, 1], "a batch ends at its bytes, too");
}

#[tokio::test]
async fn the_plan_shows_what_sqlite_is_asked() {
    let store = Store::ephemeral().unwrap();
    let session = session(&store).await;
    let cases = [
        (
            "SELECT label FROM safeguard.verdicts WHERE violates LIMIT 3",
            "StoreScan: table=verdicts, \
             sqlite=[SELECT v.label FROM verdicts AS v WHERE v.violates LIMIT 3]",
        ),
        (
            "SELECT policy FROM safeguard.verdicts WHERE label = 'x'",
            "StoreScan: table=verdicts, sqlite=[SELECT j.policy FROM verdicts AS v \
             CROSS JOIN judges AS j ON j.id = v.judge WHERE (v.label = ?)]",
        ),
        (
            "SELECT \"user\", rows FROM safeguard.queries",
            "StoreScan: table=queries, sqlite=[SELECT \"user\", \"rows\" FROM queries]",
        ),
    ];
    for (sql, expected) in cases {
        let plan = session
            .sql(sql)
            .await
            .unwrap()
            .create_physical_plan()
            .await
            .unwrap();
        let plan = displayable(plan.as_ref()).indent(false).to_string();
        assert_eq!(plan.trim(), expected, "{sql}");
    }
    let analyzed = session.sql("EXPLAIN ANALYZE SELECT label FROM safeguard.verdicts");
    let analyzed = analyzed.await.unwrap().collect().await.unwrap();
    let analyzed = pretty_format_batches(&analyzed).unwrap().to_string();
    assert!(analyzed.contains("output_rows=0"), "{analyzed}");
}

async fn a_dropped_scan_gives_its_reader_back(bed: Bed) {
    let store = bed.new_store();
    store
        .append((0..50_000).map(verdict).collect())
        .await
        .unwrap();
    let session = session(&store).await;
    let sql = "SELECT verdict_digest, rationale FROM safeguard.verdicts";
    let mut stream = session
        .sql(sql)
        .await
        .unwrap()
        .execute_stream()
        .await
        .unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    assert_eq!(store.inner.readers.at_work(), 1);
    drop(stream);
    let given_back = async {
        while store.inner.readers.at_work() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), given_back)
        .await
        .expect("given back");
}

#[tokio::test]
async fn a_search_without_end_is_interrupted() {
    let store = Store::ephemeral().unwrap();
    let reader = store.inner.readers.take().unwrap();
    let stop = Arc::new(Stop::default());
    let (found, first) = mpsc::channel();
    let search = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let endless = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n)
                           SELECT n FROM n WHERE n < 2";
            stop.guard(&reader, || {
                let mut select = reader.sqlite().prepare(endless)?;
                let mut rows = select.query(())?;
                rows.next()?;
                found.send(()).unwrap();
                rows.next().map(|row| row.is_some())
            })
        }
    });
    first.recv().unwrap();
    drop(StopOnDrop(Arc::clone(&stop)));
    let error = search.join().unwrap().expect("it ran").unwrap_err();
    assert_eq!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::OperationInterrupted),
        "{error}"
    );
    assert!(stop.asked());
    let reader = store.inner.readers.take().unwrap();
    assert!(
        stop.guard(&reader, || ()).is_none(),
        "not begun once it was stopped"
    );
}

on_both!(
    every_column_shows_what_was_stored,
    scans_come_in_batches_and_stop_at_the_limit,
    a_dropped_scan_gives_its_reader_back,
);
