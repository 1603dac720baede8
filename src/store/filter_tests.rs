//! One table of predicates: SQLite keeps the rows that DataFusion keeps.

use super::*;
use crate::store::bed::{Bed, on_both};
use crate::store::tests::{key, rows, session, undecided, verdict};
use crate::store::{Record, Store, to_hex};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;
use std::sync::Arc;

/// Whether SQLite does the whole of a predicate.
#[derive(PartialEq, Debug, Clone, Copy)]
enum By {
    Sqlite,
    DataFusion,
}
use By::{DataFusion, Sqlite};

/// Predicates on verdicts.
const CASES: &[(&str, By)] = &[
    ("policy = 'hate'", Sqlite),
    ("policy <> 'hate'", Sqlite),
    ("policy IN ('spam', 'none')", Sqlite),
    ("policy_version >= 2 AND stage = 'screen'", Sqlite),
    ("2 > policy_version", Sqlite),
    ("policy_version > 1.5", DataFusion),
    ("policy_version = 99999999999", Sqlite),
    ("label = 'hateful'", Sqlite),
    ("label <> 'hateful'", Sqlite),
    ("label = 'a''b'", Sqlite),
    ("label = ''", Sqlite),
    ("label IS NULL", Sqlite),
    ("label IS NOT NULL", Sqlite),
    ("label IN ('hateful', 'Ärger', '', 'x', 'y')", Sqlite),
    ("label NOT IN ('hateful', '', 'x', 'y', 'z')", Sqlite),
    ("NOT (label = 'hateful')", Sqlite),
    ("label < 'b'", Sqlite),
    ("label >= 'Ä'", Sqlite),
    ("label BETWEEN 'a' AND 'b'", Sqlite),
    ("label > 'nul'", Sqlite),
    ("label = NULL", Sqlite),
    ("violates", Sqlite),
    ("NOT violates", Sqlite),
    ("violates = true", Sqlite),
    ("violates <> true", Sqlite),
    ("violates IS TRUE", Sqlite),
    ("violates IS NOT TRUE", Sqlite),
    ("violates IS FALSE", Sqlite),
    ("violates IS NOT FALSE", Sqlite),
    ("violates IS UNKNOWN", Sqlite),
    ("violates IS NOT UNKNOWN", Sqlite),
    ("violates IS NULL", Sqlite),
    ("score > 0.00005", Sqlite),
    ("score = 0", Sqlite),
    ("score >= 0", Sqlite),
    ("score < 0", Sqlite),
    ("score <= 1", Sqlite),
    ("score > 1", Sqlite),
    ("score BETWEEN 0.0001 AND 0.0002", Sqlite),
    ("score NOT BETWEEN 0.0001 AND 0.0002", Sqlite),
    ("score IS NULL OR score > 0.0002", Sqlite),
    ("score = 'NaN'::double", DataFusion),
    ("score < 'NaN'::double", DataFusion),
    ("score <= 'Infinity'::double", Sqlite),
    ("judged_at >= '2023-11-14T22:13:20.000100Z'", Sqlite),
    ("judged_at < TIMESTAMP '2023-11-14 22:13:20.000100'", Sqlite),
    (
        "judged_at = '2023-11-14T23:13:20.000007+01:00'::timestamptz",
        Sqlite,
    ),
    ("tokens_in IN (101, 102, 400, 401, 402, 403)", Sqlite),
    ("tokens_in - 100 = 5", DataFusion),
    ("reason = 'refused' OR NOT violates", Sqlite),
    (
        "reason IS NULL AND (violates OR score > 0.0001) AND policy = 'hate'",
        Sqlite,
    ),
    ("verdict_digest > 'abc'", Sqlite),
    ("verdict_digest < 'zzz' AND verdict_digest <> 'ä'", Sqlite),
    ("verdict_digest IS NULL", Sqlite),
    ("text_digest LIKE 'ab%'", DataFusion),
    ("label LIKE 'h%'", DataFusion),
    ("length(label) > 4", DataFusion),
    ("violates AND length(label) > 4", DataFusion),
    ("label = stage", DataFusion),
    ("rules IS NULL", Sqlite),
    ("cardinality(rules) = 1", DataFusion),
    ("array_has(rules, 'H0.\"c\"')", DataFusion),
    ("true", Sqlite),
    ("false", Sqlite),
];

/// Verdicts and undecided with odd labels and scores among them, and a copy in memory that takes no filter.
async fn both(bed: &Bed) -> (Store, SessionContext) {
    let store = bed.new_store();
    let labels = ["hateful", "allowed", "Ärger", "", "a'b", "nul\0nul"];
    let scores = [
        Some(0.0),
        Some(-0.0),
        Some(1.0),
        Some(f64::NAN),
        Some(f64::INFINITY),
        None,
    ];
    let odd = (300..306).map(|n| Record {
        label: Some(labels[n as usize % 6].into()),
        score: scores[n as usize % 6],
        ..verdict(n)
    });
    store
        .append((0..300).map(verdict).chain(odd).collect())
        .await
        .unwrap();
    let refused = (306..320).map(|n| undecided(n, ["refused", "truncated"][n as usize % 2]));
    store.append(refused.collect()).await.unwrap();
    let session = session(&store).await;
    let all = session
        .sql("SELECT * FROM safeguard.verdicts")
        .await
        .unwrap();
    let schema = Arc::clone(all.schema().inner());
    let copy = MemTable::try_new(schema, vec![all.collect().await.unwrap()]).unwrap();
    session
        .register_table("safeguard.copy", Arc::new(copy))
        .unwrap();
    (store, session)
}

async fn check(session: &SessionContext, predicate: &str, by: By) {
    let sql = |table| {
        format!("SELECT verdict_digest, label FROM safeguard.{table} WHERE {predicate} ORDER BY 1")
    };
    let (ours, theirs) = (sql("verdicts"), sql("copy"));
    assert_eq!(
        rows(session, &ours).await,
        rows(session, &theirs).await,
        "{predicate}"
    );
    let plan = session
        .sql(&ours)
        .await
        .unwrap()
        .create_physical_plan()
        .await
        .unwrap();
    let plan = displayable(plan.as_ref()).indent(false).to_string();
    let filtered = if plan.contains("FilterExec") {
        DataFusion
    } else {
        Sqlite
    };
    assert_eq!(filtered, by, "{predicate}\n{plan}");
}

async fn sqlite_and_datafusion_keep_the_same_rows(bed: Bed) {
    let (_store, session) = both(&bed).await;
    let digest = to_hex(&key(77));
    let upper = digest.to_uppercase();
    let many = (0..STORE_FILTER_LITERALS_MAX + 1)
        .map(|n| n.to_string())
        .collect::<Vec<_>>();
    let many = many.join(", ");
    let deep = (0..STORE_FILTER_DEPTH_MAX + 2).map(|n| format!("score > {n}.5"));
    let deep = deep.collect::<Vec<_>>().join(" OR ");
    for (predicate, by) in CASES {
        check(&session, predicate, *by).await;
    }
    let spelled = [
        (format!("verdict_digest = '{digest}'"), Sqlite),
        (format!("verdict_digest = '{upper}'"), Sqlite),
        (format!("verdict_digest <> '{digest}'"), Sqlite),
        (format!("verdict_digest >= '{digest}'"), Sqlite),
        (format!("verdict_digest < '{digest}0'"), Sqlite),
        (
            format!("verdict_digest IN ('{digest}', 'a', 'b', 'c')"),
            Sqlite,
        ),
        (
            format!("verdict_digest NOT IN ('{digest}', '{upper}', 'b', 'c')"),
            Sqlite,
        ),
        (format!("tokens_in IN ({many})"), DataFusion),
        (deep, DataFusion),
    ];
    for (predicate, by) in spelled {
        check(&session, &predicate, by).await;
    }
}

on_both!(sqlite_and_datafusion_keep_the_same_rows,);
