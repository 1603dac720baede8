//! Rows of Delta tables: of every kind, deleted ones, under other names, in long logs, and written by another program.

use super::reading_tests::{SUM, action, actions, entry, four, with_columns, write};
use super::tests::{FOUR, opened};
use crate::engine::sink::tests::Bench;
use serde_json::json;
use std::fs;
use std::path::Path;

#[tokio::test]
async fn rows_that_a_deletion_vector_names_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let bench = Bench::start(None).await;
    let make = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT) STORED AS DELTA LOCATION '{}'; INSERT INTO t SELECT i FROM generate_series(0, 39) AS g(i)",
        folder.display()
    );
    assert_eq!(bench.said(&make).await, "40");
    let add = action(&folder, 1, "add");
    let remove =
        json!({"remove": {"path": add["add"]["path"], "dataChange": true, "deletionTimestamp": 1}});
    let mut with = add.clone();
    // 3, 4, 7, 11, 18 and 29, as the protocol's examples have them.
    with["add"]["deletionVector"] = json!({"storageType": "i", "sizeInBytes": 44, "cardinality": 6,
        "pathOrInlineDv": "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"});
    let protocol = json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}});
    write(&folder, 2, &[protocol, remove, with]);
    for (sql, want) in [
        ("SELECT count(*), sum(id) FROM t", "34|708"),
        ("SELECT count(*) FROM t", "34"),
        (
            "SELECT id FROM t WHERE id IN (2, 3, 5, 29, 30) ORDER BY id",
            "2;5;30",
        ),
        (
            "SELECT count(*) FROM (SELECT id FROM t LIMIT 36) AS s",
            "34",
        ),
        ("SELECT id FROM t WHERE id > 2 ORDER BY id LIMIT 2", "5;6"),
    ] {
        assert_eq!(bench.said(sql).await, want, "{sql}");
    }
    // A vector that says otherwise than the log.
    let mut wrong = actions(&folder, 2);
    wrong[2]["add"]["deletionVector"]["cardinality"] = json!(7);
    write(&folder, 2, &wrong);
    let error = bench.run("SELECT id FROM t").await.unwrap_err();
    assert_eq!(error.sqlstate(), "XX001", "{error}");
}

#[tokio::test]
async fn columns_with_other_names_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let bench = Bench::start(None).await;
    let make = format!(
        "CREATE EXTERNAL TABLE t (c1 BIGINT, c2 TEXT) STORED AS DELTA LOCATION '{}'; INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        folder.display()
    );
    bench.run(&make).await.unwrap();
    let mut mapped = with_columns(action(&folder, 0, "metaData"), |fields| {
        for (n, name) in ["body", "id"].into_iter().rev().enumerate() {
            let kept = fields[n]["name"].clone();
            fields[n]["name"] = json!(name);
            fields[n]["metadata"] =
                json!({"delta.columnMapping.id": n + 1, "delta.columnMapping.physicalName": kept});
        }
    });
    mapped["metaData"]["configuration"] =
        json!({"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "2"});
    let protocol = json!({"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}});
    write(&folder, 2, &[protocol, mapped]);
    for (sql, want) in [
        ("SELECT * FROM t ORDER BY id", "1|a;2|b"),
        ("SELECT body FROM t WHERE id = 2", "b"),
        ("SELECT id FROM t WHERE body = 'a'", "1"),
        ("SELECT count(*) FROM t WHERE id > 5", "0"),
        ("INSERT INTO t VALUES (3, 'c')", "0A000"),
    ] {
        assert_eq!(bench.said(sql).await, want, "{sql}");
    }
}

#[tokio::test]
async fn what_a_writer_must_see_to_and_this_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let bench = four(&folder).await;
    let metadata = action(&folder, 0, "metaData");
    let mut checked = metadata.clone();
    checked["metaData"]["configuration"] = json!({"delta.constraints.positive": "id > 0"});
    let mut append = metadata.clone();
    append["metaData"]["configuration"] = json!({"delta.appendOnly": "true"});
    let made = |key: &'static str| {
        with_columns(metadata.clone(), move |fields| {
            fields[0]["metadata"] = json!({key: "1"})
        })
    };
    let protocol =
        |writer: u32| json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": writer}});
    let insert = "INSERT INTO t VALUES (5, 'x', 'y')";
    let overwrite = "INSERT OVERWRITE t VALUES (5, 'x', 'y')";
    for (change, writer, sql, want, words) in [
        (checked, 3, insert, "0A000", "CHECK constraint positive"),
        (
            made("delta.generationExpression"),
            4,
            insert,
            "0A000",
            "\"id\" has a generation expression",
        ),
        (made("delta.identity.start"), 6, insert, "0A000", "dentity"),
        (append.clone(), 2, overwrite, "0A000", "append-only"),
        (append, 2, insert, "1", ""),
    ] {
        write(&folder, 2, &[protocol(writer), change]);
        match bench.run(sql).await {
            Ok(said) => assert_eq!(said, want),
            Err(error) => {
                assert_eq!(error.sqlstate(), want, "{error}");
                assert!(error.to_string().contains(words), "{error}");
            }
        }
    }
    assert_eq!(bench.said(SUM).await, "5|15|5");
}

#[tokio::test]
async fn rows_of_every_kind_come_back_as_they_went() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let bench = Bench::start(None).await;
    let make = format!(
        "CREATE EXTERNAL TABLE t (a SMALLINT, b INT, c BIGINT NOT NULL, d REAL, e DOUBLE, f TEXT, g BOOLEAN, h DATE, i TIMESTAMP, j TIMESTAMPTZ, k DECIMAL(12, 3), l BYTEA, m BIGINT[], \"Ünder score\" TEXT)
         STORED AS DELTA PARTITIONED BY (\"Ünder score\") LOCATION '{}/with space/'",
        folder.display()
    );
    bench.run(&make).await.unwrap();
    let row = "1, 2, 3, 0.5, 0.25, 'it''s', true, DATE '2026-11-01', TIMESTAMP '2026-11-01 10:00:00.123456', TIMESTAMPTZ '2026-11-01T10:00:00Z', 1.5, X'00ff', [1, 2], 'a/b=c d%'";
    assert_eq!(
        bench.said(&format!("INSERT INTO t VALUES ({row})")).await,
        "1"
    );
    assert_eq!(
        bench.said("SELECT * FROM t").await,
        "1|2|3|0.5|0.25|it's|true|2026-11-01|2026-11-01T10:00:00.123456|2026-11-01T10:00:00Z|1.500|00ff|[1, 2]|a/b=c d%"
    );
    for (sql, want) in [
        ("INSERT INTO t (c) VALUES (4)", "1"),
        ("INSERT INTO t (a) VALUES (4)", "23502"),
        (
            "SELECT count(*) FROM t WHERE \"Ünder score\" IS NULL AND f IS NULL",
            "1",
        ),
        (
            "SELECT c FROM t WHERE \"Ünder score\" = 'a/b=c d%' AND i < TIMESTAMP '2027-01-01'",
            "3",
        ),
        ("INSERT INTO t SELECT * FROM t WHERE false", "0"),
        ("UPDATE t SET c = 1", "0A000"),
        ("DELETE FROM t", "0A000"),
        ("INSERT OVERWRITE t (c, f) SELECT c + 10, f FROM t", "2"),
        (
            "SELECT string_agg(c || coalesce(f, '-'), ' ' ORDER BY c) FROM t",
            "13it's 14-",
        ),
        ("INSERT OVERWRITE t SELECT * FROM t WHERE false", "0"),
        ("SELECT count(*) FROM t", "0"),
    ] {
        assert_eq!(bench.said(sql).await, want, "{sql}");
    }
}

#[tokio::test]
async fn a_long_log_is_read_from_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let bench = four(&folder).await;
    let mut metadata = action(&folder, 0, "metaData");
    metadata["metaData"]["configuration"] = json!({"delta.checkpointInterval": "4"});
    write(&folder, 2, &[metadata]);
    for _ in 0..7 {
        bench.run(FOUR).await.unwrap();
    }
    let names = fs::read_dir(folder.join("_delta_log")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut checkpoints: Vec<_> = names.filter(|name| name.contains(".checkpoint.")).collect();
    checkpoints.sort();
    let name = |n: usize| format!("{n:020}.checkpoint.parquet");
    assert_eq!(checkpoints, [name(3), name(7)]);
    for version in 0..7 {
        fs::remove_file(entry(&folder, version)).unwrap();
    }
    assert_eq!(bench.said(SUM).await, "32|80|4");
    let next = Bench::start(None).await;
    next.run(&opened(&folder)).await.unwrap();
    assert_eq!(next.said(SUM).await, "32|80|4");
}

/// The table that `fixture.py` beside it made with deltalake 1.6.6 of PyPI.
#[tokio::test]
async fn a_table_of_another_program_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/delta/python");
    copy(&from, &dir.path().join("t"));
    let bench = Bench::start(None).await;
    bench.run(&opened(&dir.path().join("t"))).await.unwrap();
    for (sql, want) in [
        (
            "SELECT id, body, score, price, at, tags, day FROM t ORDER BY id LIMIT 2",
            "1|text number 1|0.125|0.25|2026-11-01T12:30:00Z|[a, 1]|2026-11-01;3||0.375|0.75|2026-11-01T12:30:00Z|[a, 3]|2026-11-01",
        ),
        ("SELECT count(*), sum(id) FROM t", "6|26"),
        (
            "SELECT id FROM t WHERE day = 'it''s 50% done' ORDER BY id",
            "5;6",
        ),
        ("SELECT id FROM t WHERE day IS NULL", "7"),
        (
            "SELECT id FROM t WHERE price > 1.2 AND day IS NOT NULL ORDER BY id",
            "5;6",
        ),
        ("SELECT count(*) FROM t WHERE id = 2", "0"),
        (
            "INSERT INTO t (id, body, day) VALUES (8, 'eight', 'it''s 50% done')",
            "1",
        ),
        (
            "SELECT id, body FROM t WHERE day = 'it''s 50% done' ORDER BY id",
            "5|text number 5;6|;8|eight",
        ),
    ] {
        assert_eq!(bench.said(sql).await, want, "{sql}");
    }
    let past = opened(&dir.path().join("t")).replace(" t ", " past ");
    let past = format!("{past} OPTIONS ('version' '0'); SELECT count(*), sum(id) FROM past");
    assert_eq!(bench.said(&past).await, "4|10");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}
