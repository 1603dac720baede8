//! Delta tables in the whole program: kept across restarts, and filled with labels that are asked for once.

use crate::relations::Program;
use std::path::Path;

fn make(folder: &Path) -> String {
    format!(
        "CREATE EXTERNAL TABLE labels (id BIGINT, label TEXT, day TEXT NOT NULL) STORED AS DELTA PARTITIONED BY (day) LOCATION '{}'",
        folder.display()
    )
}

#[tokio::test]
async fn a_delta_table_is_there_after_a_restart_and_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (data, lake) = (dir.path().join("data"), dir.path().join("lake"));
    let first = Program::start(&data, None).await;
    first.run(&make(&lake)).await.unwrap();
    let insert = "INSERT INTO labels VALUES (1, 'allowed', 'monday')";
    assert_eq!(first.said(insert).await, "1");
    first
        .run("CREATE VIEW mondays AS SELECT id FROM labels WHERE day = 'monday'")
        .await
        .unwrap();
    drop(first);
    let second = Program::start(&data, None).await;
    assert_eq!(second.unmade, [""; 0]);
    assert_eq!(second.said(insert).await, "1");
    assert_eq!(second.said("SELECT * FROM mondays").await, "1;1");
    drop(second);
    // What is gone is said; an empty table in its place would be wrong rows.
    std::fs::rename(&lake, dir.path().join("away")).unwrap();
    let third = Program::start(&data, None).await;
    assert_eq!(
        third.unmade[0],
        format!(
            "table public.labels could not be made and stays kept: there is no Delta table in {}",
            lake.display()
        )
    );
    assert!(!lake.exists());
    drop(third);
    std::fs::rename(dir.path().join("away"), &lake).unwrap();
    let fourth = Program::start(&data, None).await;
    assert_eq!(fourth.said("SELECT count(*) FROM mondays").await, "2");
    // Forgotten, with its files left.
    assert_eq!(fourth.said("DROP TABLE labels").await, "");
    assert_eq!(fourth.said("SELECT * FROM labels").await, "42P01");
    let again = format!(
        "CREATE EXTERNAL TABLE labels STORED AS DELTA LOCATION '{}'",
        lake.display()
    );
    assert_eq!(fourth.said(&again).await, "");
    assert_eq!(fourth.said("SELECT count(*) FROM labels").await, "2");
}

#[tokio::test]
async fn verdicts_are_kept_when_the_insert_fails() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(&dir.path().join("data"), None).await;
    program.run(&make(&dir.path().join("lake"))).await.unwrap();
    let insert = |nameless: usize| {
        format!(
            "INSERT INTO labels SELECT i, safeguard_classify('spam', 'text ' || i), CASE WHEN i <> {nameless} THEN 'day ' || 100 / i END FROM generate_series(1, 300) AS g(i)"
        )
    };
    let asked = "SELECT count(*) FROM safeguard.verdicts";
    // Of the last row it is known that it cannot be written when all are judged.
    let error = program.run(&insert(300)).await.unwrap_err();
    assert_eq!(error.sqlstate(), "23502", "{error}");
    assert_eq!(program.said(asked).await, "300");
    assert_eq!(program.said("SELECT count(*) FROM labels").await, "0");
    for _ in 0..2 {
        let again = program.run(&insert(0)).await.unwrap();
        assert!(again.contains("300 recalled, 0 asked"), "{again}");
    }
    // What is asked about does not depend on how much of the filter Delta takes.
    let cheap = "SELECT count(*) FROM labels WHERE day = 'day 100' AND safeguard_classify('spam', 'new ' || id) = 'allowed'";
    let said = program.run(cheap).await.unwrap();
    assert!(said.contains("1 asked"), "{said}");
}
