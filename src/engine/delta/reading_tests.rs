//! What stands in the log is what is read: versions, columns, partitions, deleted rows; what cannot be read is said.

use super::tests::{FOUR, opened, table};
use crate::engine::sink::tests::Bench;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

pub(super) fn entry(folder: &Path, version: usize) -> PathBuf {
    folder.join(format!("_delta_log/{version:020}.json"))
}

/// The actions of an entry.
pub(super) fn actions(folder: &Path, version: usize) -> Vec<Value> {
    let text = fs::read_to_string(entry(folder, version)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(super) fn action(folder: &Path, version: usize, name: &str) -> Value {
    let found = actions(folder, version)
        .into_iter()
        .find(|action| action.get(name).is_some());
    found.unwrap()
}

pub(super) fn write(folder: &Path, version: usize, actions: &[Value]) {
    let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
    fs::write(entry(folder, version), lines.join("\n")).unwrap();
}

/// Changes the columns that an action declares.
pub(super) fn with_columns(mut action: Value, change: impl Fn(&mut Vec<Value>)) -> Value {
    let text = action["metaData"]["schemaString"].as_str().unwrap();
    let mut schema: Value = serde_json::from_str(text).unwrap();
    change(schema["fields"].as_array_mut().unwrap());
    action["metaData"]["schemaString"] = json!(schema.to_string());
    action
}

/// A table of four rows, and a program that has it open.
pub(super) async fn four(folder: &Path) -> Bench {
    let bench = Bench::start(None).await;
    bench.run(&table(folder)).await.unwrap();
    bench.run(FOUR).await.unwrap();
    bench
}

pub(super) const SUM: &str = "SELECT count(*), sum(id), count(DISTINCT day) FROM t";

#[tokio::test]
async fn what_cannot_be_read_is_said_by_its_name() {
    type Break = Box<dyn Fn(&Path)>;
    let file = |folder: &Path| {
        let parts = fs::read_dir(folder.join("day=day%201")).unwrap();
        parts.map(|entry| entry.unwrap().path()).next().unwrap()
    };
    let feature = |readers: Value| -> Break {
        Box::new(move |folder| {
            let protocol = json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": readers, "writerFeatures": readers}});
            write(folder, 2, &[protocol]);
        })
    };
    let cases: Vec<(&str, Break, &str, &str)> = vec![
        (
            "a feature",
            feature(json!(["timeMachine"])),
            "0A000",
            "timeMachine",
        ),
        (
            "no JSON",
            Box::new(|folder| fs::write(entry(folder, 1), "{\"add\": {\"pa").unwrap()),
            "XX001",
            "Json error",
        ),
        (
            "an entry is gone",
            Box::new(|folder| fs::remove_file(entry(folder, 1)).unwrap()),
            "XX001",
            "",
        ),
        (
            "no metadata",
            Box::new(|folder| {
                let protocol = action(folder, 0, "protocol");
                write(folder, 0, &[protocol]);
            }),
            "XX001",
            "metadata",
        ),
        (
            "a file is gone",
            Box::new(move |folder| fs::remove_file(file(folder)).unwrap()),
            "58P01",
            "part-00000",
        ),
        (
            "a file is cut",
            Box::new(move |folder| {
                let file = file(folder);
                let bytes = fs::read(&file).unwrap();
                fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
            }),
            "XX001",
            "part-00000",
        ),
        (
            "no log",
            Box::new(|folder| fs::remove_dir_all(folder.join("_delta_log")).unwrap()),
            "58P01",
            "there is no table",
        ),
        (
            "no folder",
            Box::new(|folder| fs::remove_dir_all(folder).unwrap()),
            "58P01",
            "there is no table",
        ),
    ];
    for (what, apply, state, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("t");
        let bench = four(&folder).await;
        bench
            .run("INSERT INTO t VALUES (5, 'x', 'day 5')")
            .await
            .unwrap();
        if what == "an entry is gone" {
            // Two behind it.
            bench
                .run("INSERT INTO t VALUES (6, 'x', 'day 5')")
                .await
                .unwrap();
        }
        if what == "a feature" {
            fs::remove_file(entry(&folder, 2)).unwrap();
        }
        apply(&folder);
        let error = bench
            .run("SELECT sum(id), max(body) FROM t")
            .await
            .unwrap_err();
        let said = error.to_string();
        assert_eq!(error.sqlstate(), state, "{what}: {said}");
        assert!(
            said.contains(words) && said.contains("/t"),
            "{what}: {said}"
        );
        // It can be forgotten.
        assert_eq!(bench.said("DROP TABLE t").await, "", "{what}");
    }
}

#[tokio::test]
async fn a_statement_reads_what_others_wrote_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let (one, other) = (four(&folder).await, Bench::start(None).await);
    other.run(&opened(&folder)).await.unwrap();
    assert_eq!(other.said(SUM).await, "4|10|4");
    one.run("CREATE VIEW v AS SELECT id, body FROM t WHERE id > 2")
        .await
        .unwrap();
    assert_eq!(other.said(FOUR).await, "4");
    assert_eq!(one.said(SUM).await, "8|20|4");
    assert_eq!(one.said("SELECT count(*) FROM v").await, "4");
    // One version for all of a statement, whoever reads.
    assert_eq!(one.said("INSERT INTO t SELECT * FROM t").await, "8");
    assert_eq!(
        one.said("SELECT count(*) FROM t a JOIN v b ON a.id = b.id")
            .await,
        "32"
    );
    // In place of the table comes another one with as many versions.
    fs::remove_dir_all(&folder).unwrap();
    let third = Bench::start(None).await;
    third.run(&table(&folder)).await.unwrap();
    for id in 1..4 {
        let insert = format!("INSERT INTO t VALUES ({id}, 'new', 'day')");
        third.run(&insert).await.unwrap();
    }
    assert_eq!(one.said(SUM).await, "3|6|1");
    assert_eq!(other.said(SUM).await, "3|6|1");
}

#[tokio::test]
async fn columns_that_others_add_or_drop() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let bench = four(&folder).await;
    bench
        .run("CREATE VIEW v AS SELECT id, body FROM t")
        .await
        .unwrap();
    let metadata = action(&folder, 0, "metaData");
    let more = with_columns(metadata.clone(), |fields| {
        fields.insert(
            1,
            json!({"name": "n", "type": "long", "nullable": true, "metadata": {}}),
        );
    });
    write(&folder, 2, &[more]);
    assert_eq!(
        bench.said("SELECT * FROM t WHERE id = 3").await,
        "3||text|day 3"
    );
    assert_eq!(bench.said("SELECT * FROM v WHERE id = 3").await, "3|text");
    assert_eq!(
        bench
            .said("INSERT INTO t VALUES (5, 50, 'x', 'day 5')")
            .await,
        "1"
    );
    assert_eq!(bench.said("SELECT sum(n) FROM t").await, "50");
    let fewer = with_columns(metadata, |fields| {
        fields.retain(|field| field["name"] != "body");
    });
    write(&folder, 4, &[fewer]);
    assert_eq!(bench.said("SELECT * FROM t WHERE id = 3").await, "3|day 3");
    let error = bench.run("SELECT * FROM v").await.unwrap_err();
    assert_eq!(error.sqlstate(), "0A000");
    assert_eq!(
        error.to_string(),
        "Delta table \"t\" has changed since the statement or view was made: column \"body\", Utf8View then, is gone"
    );
}

#[tokio::test]
async fn older_versions_are_shown_and_take_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let bench = four(&folder).await;
    bench.run(FOUR).await.unwrap();
    let at =
        |option: &str| format!("{} OPTIONS ({option})", opened(&folder)).replace(" t ", " past ");
    for (option, want) in [
        ("'version' '0'", "0"),
        ("'version' '1'", "4"),
        ("'timestamp' '2999-01-01'", "8"),
        ("'version' '3'", "58P01"),
        ("'version' 'x'", "22023"),
        ("'timestamp' 'x'", "22023"),
        ("'version' '1', 'timestamp' '2999-01-01'", "22023"),
        ("'verzion' '1'", "42704"),
    ] {
        let sql = format!("{}; SELECT count(*) FROM past", at(option));
        assert_eq!(bench.said(&sql).await, want, "{option}");
        if want.len() == 1 {
            let insert = "INSERT INTO past VALUES (1, 'a', 'b')";
            assert_eq!(bench.said(insert).await, "0A000", "{option}");
            bench.run("DROP TABLE past").await.unwrap();
        }
    }
    assert_eq!(bench.said(SUM).await, "8|20|4");
}

#[tokio::test]
async fn a_file_is_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    fs::write(&file, "id\n1\n").unwrap();
    let bench = Bench::start(None).await;
    let error = bench.run(&opened(&file)).await.unwrap_err();
    let said = error.to_string();
    assert_eq!(error.sqlstate(), "42809", "{said}");
    assert!(
        said.contains("rows.csv is a file: a Delta table is a folder"),
        "{said}"
    );
}

#[tokio::test]
async fn declared_columns_must_be_the_tables() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let bench = four(&folder).await;
    let parts = "PARTITIONED BY (day)";
    for (columns, by, want, words) in [
        ("(id BIGINT, body TEXT, day TEXT)", parts, "", ""),
        ("(id BIGINT, body TEXT)", "", "42804", "\"day\""),
        (
            "(id INT, body TEXT, day TEXT)",
            parts,
            "42804",
            "\"id\" is long, not integer",
        ),
        (
            "(id BIGINT, text TEXT, day TEXT)",
            parts,
            "42703",
            "\"text\"",
        ),
        (
            "(body TEXT, id BIGINT, day TEXT)",
            parts,
            "42804",
            "\"body\" is its column 2, not 1",
        ),
        (
            "(id BIGINT NOT NULL, body TEXT, day TEXT)",
            parts,
            "42804",
            "\"id\"",
        ),
        (
            "(id BIGINT, body TEXT, day TEXT)",
            "",
            "42804",
            "partitioned by day",
        ),
        (
            "(id BIGINT UNSIGNED, body TEXT, day TEXT)",
            parts,
            "0A000",
            "\"id\"",
        ),
        (
            "(id BIGINT PRIMARY KEY, body TEXT, day TEXT)",
            parts,
            "0A000",
            "PRIMARY KEY",
        ),
    ] {
        let sql = format!(
            "CREATE EXTERNAL TABLE u {columns} STORED AS DELTA {by} LOCATION '{}'",
            folder.display()
        );
        let (state, said) = match bench.run(&sql).await {
            Ok(_) => (String::new(), String::new()),
            Err(error) => (error.sqlstate().to_owned(), error.to_string()),
        };
        assert_eq!(state, want, "{columns} {by}: {said}");
        assert!(said.contains(words), "{columns} {by}: {said}");
        bench.run("DROP TABLE IF EXISTS u").await.unwrap();
    }
    let missing = dir.path().join("none");
    let error = bench
        .run(&opened(&missing).replace(" t ", " u "))
        .await
        .unwrap_err();
    let why = format!("there is no Delta table in {}", missing.display());
    assert_eq!((error.sqlstate(), error.to_string()), ("58P01", why));
    assert!(error.hint().is_some() && !missing.exists());
}
