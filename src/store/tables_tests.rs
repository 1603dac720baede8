//! The tables as SQL sees them together: the view of labels, current policies, refused writes.

use crate::store::bed::{Bed, on_both};
use crate::store::tests::{rows, session, undecided, verdict, version};
use crate::store::{CalibrationRow, Record, Store, VersionRow, text_digest, to_hex};
use datafusion::prelude::SessionContext;

/// A verdict of policy `hate` with text `policy` about `text`.
fn about(text: &str, policy: &str, at: i64, n: u64) -> Record {
    Record {
        policy: "hate".into(),
        policy_digest: to_hex(&text_digest(policy)).into(),
        text_digest: text_digest(text),
        judged_at: at,
        ..verdict(n)
    }
}

/// The same of stage `reason`.
fn reasoned(text: &str, at: i64, n: u64) -> Record {
    Record {
        stage: "reason".into(),
        ..about(text, "new", at, n)
    }
}

/// Verdicts under two texts of one policy, and what people said.
async fn judged(bed: &Bed) -> (Store, SessionContext) {
    let store = bed.new_store();
    for row in [version("hate", 1, "old"), version("hate", 2, "new")] {
        store.append_version(row).await.unwrap();
    }
    // verdict(3n) violates, the others do not.
    let gone = undecided(8, "refused");
    let records = vec![
        about("two verdicts", "new", 1, 1),
        about("two verdicts", "new", 2, 3),
        about("old verdict", "old", 9, 6),
        about("old and new", "old", 9, 9),
        about("old and new", "new", 1, 4),
        about("overruled", "new", 9, 12),
        Record {
            label: None,
            violates: None,
            reason: gone.reason,
            ..about("undecided", "new", 1, 15)
        },
        about("scored again", "new", 2, 27),
        reasoned("scored again", 1, 22),
        Record {
            model_digest: "another".into(),
            ..about("scored by another", "new", 2, 24)
        },
        reasoned("scored by another", 1, 25),
        Record {
            policy: "inline".into(),
            ..about("of no policy", "new", 1, 18)
        },
    ];
    store.append(records).await.unwrap();
    let session = session(&store).await;
    let said = [
        ("overruled", "hateful", "2024-01-01T00:00:00Z"),
        ("overruled", "allowed", "2024-01-02T00:00:00Z"),
        ("overruled", "hateful", "2023-01-01T00:00:00Z"),
        ("never judged", "hateful", "2024-01-01T00:00:00Z"),
    ];
    for (text, label, at) in said {
        let sql = format!(
            "INSERT INTO safeguard.overrides (policy, text, label, decided_at)
             VALUES ('hate', '{text}', '{label}', '{at}')"
        );
        rows(&session, &sql).await;
    }
    (store, session)
}

async fn labels_are_current_and_people_win(bed: Bed) {
    let (store, session) = judged(&bed).await;
    let cases = [
        (
            "two verdicts",
            "hate|hateful|true|score|verdict|1970-01-01T00:00:00.000002Z",
        ),
        ("old verdict", ""),
        (
            "old and new",
            "hate|allowed|false|score|verdict|1970-01-01T00:00:00.000001Z",
        ),
        (
            "overruled",
            "hate|allowed|false|human|override|2024-01-02T00:00:00Z",
        ),
        (
            "never judged",
            "hate|hateful|true|human|override|2024-01-01T00:00:00Z",
        ),
        (
            "undecided",
            "hate|undecided||score|verdict|1970-01-01T00:00:00.000001Z",
        ),
        (
            "scored again",
            "hate|allowed|false|reason|verdict|1970-01-01T00:00:00.000001Z",
        ),
        (
            "scored by another",
            "hate|hateful|true|score|verdict|1970-01-01T00:00:00.000002Z",
        ),
        ("of no policy", ""),
    ];
    for (text, expected) in cases {
        let sql = format!(
            "SELECT policy, label, violates, stage, source, judged_at FROM safeguard.labels
             WHERE text_digest = '{}'",
            to_hex(&text_digest(text))
        );
        let expected: Vec<&str> = expected.split_terminator('\n').collect();
        assert_eq!(rows(&session, &sql).await, expected, "{text}");
    }
    let columns = session.sql("SELECT * FROM safeguard.labels").await.unwrap();
    let columns: Vec<&String> = columns.schema().fields().iter().map(|f| f.name()).collect();
    let expected = [
        "policy",
        "text_digest",
        "label",
        "violates",
        "stage",
        "source",
        "judged_at",
    ];
    assert_eq!(columns, expected);
    let all = rows(&session, "SELECT count(*) FROM safeguard.labels").await;
    assert_eq!(all, ["7"]);

    // Back to the old text: its verdicts are current again.
    store
        .append_version(version("hate", 3, "old"))
        .await
        .unwrap();
    let sql =
        "SELECT text_digest, label FROM safeguard.labels WHERE source = 'verdict' ORDER BY label";
    assert_eq!(rows(&session, sql).await.len(), 2);
}

async fn a_label_is_looked_up_by_the_text(bed: Bed) {
    let store = bed.new_store();
    let session = session(&store).await;
    let sql = format!(
        "SELECT label FROM safeguard.labels WHERE policy = 'hate' AND text_digest = '{}'",
        to_hex(&text_digest("a"))
    );
    let plan = rows(&session, &format!("EXPLAIN {sql}")).await.join("\n");
    for table in ["verdicts", "overrides"] {
        let scan = plan
            .lines()
            .find(|line| line.contains(&format!("StoreScan: table={table}")));
        let scan = scan.unwrap_or_else(|| panic!("{plan}"));
        assert!(scan.contains("text_digest = ?)"), "{scan}");
    }
}

async fn policies_are_current_versions(bed: Bed) {
    let store = bed.new_store();
    let session = session(&store).await;
    let titled = VersionRow {
        title: Some("Spam".into()),
        note: Some("n".into()),
        ..version("spam", 1, "c")
    };
    for row in [version("hate", 10, "b"), version("hate", 9, "a"), titled] {
        store.append_version(row).await.unwrap();
    }
    let digest = |text: &str| to_hex(&text_digest(text));
    let labels = r#"["hateful","allowed"]"#;
    let current = rows(&session, "SELECT * FROM safeguard.policies ORDER BY name").await;
    let expected = [
        format!(
            "hate|10|{}||{labels}|1970-01-01T00:00:00.000001Z|",
            digest("b")
        ),
        format!(
            "spam|1|{}|Spam|{labels}|1970-01-01T00:00:00.000001Z|n",
            digest("c")
        ),
    ];
    assert_eq!(current, expected);
    let all = "SELECT * FROM safeguard.policy_versions WHERE name = 'hate' AND version = 9";
    let expected = format!(
        "hate|9|{}|a|{labels}|1970-01-01T00:00:00.000001Z|ada|",
        digest("a")
    );
    assert_eq!(rows(&session, all).await, [expected]);
}

async fn the_facts_cannot_be_written_through_sql(bed: Bed) {
    let store = bed.new_store();
    let session = session(&store).await;
    let cases = [
        (
            "INSERT INTO safeguard.policies SELECT * FROM safeguard.policies",
            "safeguard.policies cannot be inserted into; a label of your own goes into safeguard.overrides",
        ),
        (
            "INSERT OVERWRITE safeguard.overrides SELECT * FROM safeguard.overrides",
            "takes INSERT INTO only",
        ),
        ("DELETE FROM safeguard.verdicts", "DELETE not supported"),
        (
            "UPDATE safeguard.overrides SET label = 'allowed'",
            "UPDATE not supported",
        ),
        (
            "TRUNCATE TABLE safeguard.verdicts",
            "TRUNCATE not supported",
        ),
        (
            // DataFusion hides why.
            "DROP TABLE safeguard.verdicts",
            "Table 'safeguard.verdicts' doesn't exist",
        ),
        (
            "CREATE OR REPLACE TABLE safeguard.verdicts AS SELECT 1",
            "safeguard.verdicts is the verdict store's and cannot be",
        ),
        (
            "CREATE OR REPLACE VIEW safeguard.overrides AS SELECT 1",
            "safeguard.overrides is the verdict store's and cannot be",
        ),
    ];
    for (sql, expected) in cases {
        let done = match session.sql(sql).await {
            Ok(frame) => frame.collect().await.map(drop),
            Err(e) => Err(e),
        };
        let error = done.expect_err(sql).to_string();
        assert!(error.contains(expected), "{sql}: {error}");
    }
    rows(&session, "CREATE VIEW safeguard.mine AS SELECT 1 AS one").await;
    assert_eq!(
        rows(&session, "SELECT one FROM safeguard.mine").await,
        ["1"]
    );
    rows(&session, "DROP VIEW safeguard.mine").await;
}

async fn the_latest_calibration_of_a_scorer_counts(bed: Bed) {
    let store = bed.open();
    let row = |scorer: u8, gap| CalibrationRow {
        scorer_digest: [scorer; 32],
        policy: "hate".into(),
        policy_version: 2,
        policy_digest: "aa".into(),
        model: "nano".into(),
        model_digest: "f32:00ff".into(),
        golden: "shipped".into(),
        golden_digest: [9; 32],
        target: 0.95,
        gap,
        golden_rows: 200,
        scored: 190,
        scored_right: 180,
        rows_above: 120,
        right_above: 119,
        bound: 0.96,
        calibrated_at: 5,
    };
    for row in [row(1, Some(2.5)), row(2, Some(1.0)), row(1, None)] {
        store.append_calibration(row).await.unwrap();
    }
    drop(store);
    let store = bed.open();
    let cases = [
        (1, Some(row(1, None))),
        (2, Some(row(2, Some(1.0)))),
        (3, None),
    ];
    for (scorer, expected) in cases {
        let latest = store.calibration([scorer; 32]).await.unwrap();
        assert_eq!(latest, expected, "{scorer}");
    }
    let session = session(&store).await;
    let sql = "SELECT * FROM safeguard.calibrations WHERE gap > 2";
    let expected = format!(
        "1|{}|hate|2|aa|nano|f32:00ff|shipped|{}|0.95|2.5|200|190|180|120|119|0.96|1970-01-01T00:00:00.000005Z",
        to_hex(&[1; 32]),
        to_hex(&[9; 32])
    );
    assert_eq!(rows(&session, sql).await, [expected]);
}

on_both!(
    labels_are_current_and_people_win,
    a_label_is_looked_up_by_the_text,
    policies_are_current_versions,
    the_facts_cannot_be_written_through_sql,
    the_latest_calibration_of_a_scorer_counts,
);
