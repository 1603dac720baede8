//! CREATE TABLE: there after a restart, or not at all, on disks that fail too.

use super::*;
use crate::engine::sink::tests::Bench;

/// Tables' folders, and files beside them.
fn kept(data: &Path) -> Vec<String> {
    let own = data.join("tables");
    let mut found = Vec::new();
    for schema in folders(&own).unwrap() {
        for folder in folders(&schema).unwrap() {
            let name = folder.strip_prefix(&own).unwrap().display().to_string();
            found.push(name.rsplit_once('-').unwrap().0.to_owned());
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn tables_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = Bench::start(Some(dir.path())).await;
    let script = "CREATE SCHEMA s;
         CREATE TABLE t AS SELECT i AS id, 'text ' || i AS body, i % 2 = 0 AS even, i * 0.5 AS half,
             DATE '2026-01-01' AS day, TIMESTAMP '2026-01-01T10:00:00Z' AS at, [i, i + 1] AS list FROM generate_series(1, 1000) AS g(i);
         CREATE TABLE s.\"Odd name/..\" AS SELECT 1 AS id, '' AS body WHERE false;
         CREATE TABLE in_memory (a INT DEFAULT 5);
         CREATE TABLE IF NOT EXISTS t AS SELECT 1 AS other;
         CREATE TABLE gone AS SELECT 1 AS a; DROP TABLE gone;
         CREATE OR REPLACE TABLE again AS SELECT 1 AS a; CREATE OR REPLACE TABLE again AS SELECT a + 1 AS b FROM again;
         CREATE TABLE empty AS SELECT 1 AS a WHERE false;
         CREATE VIEW v AS SELECT count(*) AS n FROM t";
    first.run(script).await.unwrap();
    let cases = [
        (
            "SELECT count(*), sum(id), sum(half), min(body) FROM t",
            "1000|500500|250250.0|text 1",
        ),
        (
            "SELECT body, even, day, list FROM t WHERE id = 7",
            "text 7|false|2026-01-01|[7, 8]",
        ),
        ("SELECT * FROM s.\"Odd name/..\"", ""),
        ("SELECT * FROM gone", "42P01"),
        ("SELECT * FROM again", "2"),
        ("SELECT * FROM empty", ""),
        ("SELECT n FROM v", "1000"),
        ("CREATE TABLE t AS SELECT 1 AS a", "42P07"),
        ("CREATE TABLE nowhere.t AS SELECT 1 AS a", "3F000"),
    ];
    for (sql, want) in cases {
        assert_eq!(first.said(sql).await, want, "{sql}");
    }
    let types = "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name IN ('t', 'Odd name/..') ORDER BY 1, 2";
    let before = first.said(types).await;
    let folders = ["public/again", "public/empty", "public/t", "s/Odd_name___"];
    assert_eq!(kept(dir.path()), folders);
    drop(first);
    let second = Bench::start(Some(dir.path())).await;
    assert_eq!(second.unmade, [""; 0]);
    for (sql, want) in cases {
        assert_eq!(second.said(sql).await, want, "{sql}");
    }
    assert_eq!(second.said(types).await, before);
    assert_eq!(kept(dir.path()), folders);
    for (sql, want) in [
        ("INSERT INTO empty SELECT NULL", "1"),
        (
            "INSERT INTO t SELECT id + 1000, body, even, half, day, at, list FROM t",
            "1000",
        ),
        ("INSERT INTO s.\"Odd name/..\" VALUES (1, NULL)", "1"),
    ] {
        assert_eq!(second.said(sql).await, want, "{sql}");
    }
    drop(second);
    let third = Bench::start(Some(dir.path())).await;
    for (sql, want) in [
        ("SELECT n FROM v", "2000"),
        ("SELECT * FROM empty", ""),
        ("SELECT count(*) FROM empty", "1"),
        ("SELECT id FROM s.\"Odd name/..\"", "1"),
        ("DROP SCHEMA s CASCADE", ""),
        (
            "DROP VIEW v; DROP TABLE t; DROP TABLE again; DROP TABLE empty",
            "",
        ),
        ("SELECT count(*) FROM safeguard.relations", "0"),
    ] {
        assert_eq!(third.said(sql).await, want, "{sql}");
    }
    assert_eq!(kept(dir.path()), [""; 0]);
}

#[tokio::test]
async fn what_fails_leaves_neither_table_nor_files() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(Some(dir.path())).await;
    for (sql, want) in [
        (
            "CREATE TABLE t AS SELECT 10 / (i - 9000) AS a FROM generate_series(1, 10000) AS g(i)",
            "22012",
        ),
        ("CREATE TABLE t AS SELECT INTERVAL '1 month' AS a", "0A000"),
        ("CREATE TABLE t (a INT DEFAULT 5) AS SELECT 1", "0A000"),
        ("CREATE TEMPORARY TABLE t AS SELECT 1 AS a", "0A000"),
        ("CREATE TABLE t AS SELECT * FROM missing", "42P01"),
        ("SELECT * FROM t", "42P01"),
        ("SELECT count(*) FROM safeguard.relations", "0"),
    ] {
        assert_eq!(bench.said(sql).await, want, "{sql}");
    }
    assert_eq!(kept(dir.path()), [""; 0]);
    // A table that is to be replaced stays.
    bench.run("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    let replace =
        "CREATE OR REPLACE TABLE t AS SELECT 1 / (i - 5) AS a FROM generate_series(1, 9) AS g(i)";
    assert_eq!(bench.said(replace).await, "22012");
    assert_eq!(bench.said("SELECT * FROM t").await, "1");
    assert_eq!(kept(dir.path()), ["public/t"]);
}

const MAKE: &str = "CREATE TABLE t AS SELECT i AS a FROM generate_series(1, 100) AS g(i)";

#[tokio::test]
async fn a_disk_that_fails_or_crashes_at_any_step_leaves_all_or_nothing() {
    let steps = {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::start(Some(dir.path())).await;
        bench.fail(None);
        bench.run(MAKE).await.unwrap();
        bench.steps()
    };
    let (mut made, mut unmade) = (0, 0);
    for (at, crash) in (0..steps).flat_map(|at| [(at, false), (at, true)]) {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::start(Some(dir.path())).await;
        bench.fail(Some((at, crash)));
        let done = bench.run(MAKE).await;
        drop(bench);
        let next = Bench::start(Some(dir.path())).await;
        let said = next.said("SELECT count(*) FROM t").await;
        match done {
            Ok(_) => assert_eq!(said, "100", "step {at}"),
            Err(_) => assert_eq!(said, "42P01", "step {at}"),
        }
        let want: &[&str] = if done.is_ok() { &["public/t"] } else { &[] };
        assert_eq!(kept(dir.path()), want, "step {at}, {crash}");
        *(if done.is_ok() { &mut made } else { &mut unmade }) += 1;
    }
    assert!(unmade > 10 && made > 0, "{made} {unmade}");
}

#[tokio::test]
async fn the_data_directory_is_out_of_reach() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let bench = Bench::start(Some(&data)).await;
    bench.run("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    std::fs::write(
        dir.path().join("mine.parquet"),
        columns_file(&Arc::new(Schema::new(vec![Field::new(
            "a",
            DataType::Int64,
            true,
        )])))
        .unwrap(),
    )
    .unwrap();
    let folder = folders(&data.join("tables/public")).unwrap().remove(0);
    let name = folder.file_name().unwrap().to_str().unwrap();
    let (base, data) = (dir.path().display(), data.display());
    for roots in [None, Some(vec![dir.path().canonicalize().unwrap()])] {
        let engine = bench.session.engine.clone().with_roots(roots).unwrap();
        let mut bench = Bench::start(None).await;
        bench.session = engine.session("ann");
        for (sql, want) in [
            (
                format!(
                    "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '{BASE}public/{name}/'"
                ),
                "0A000",
            ),
            (
                format!("COPY (SELECT 1 AS a) TO '{BASE}public/x.parquet'"),
                "0A000",
            ),
            (
                format!(
                    "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '{data}/tables/public/{name}/'"
                ),
                "42501",
            ),
            (
                format!(
                    "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '{data}/tables/public/{name}/columns.parquet'"
                ),
                "42501",
            ),
            (
                format!("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '{data}/verdicts.db'"),
                "42501",
            ),
            (
                format!("COPY (SELECT 1 AS a) TO '{data}/tables/public/{name}/x.parquet'"),
                "42501",
            ),
            (
                format!(
                    "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '{base}/'; SELECT count(*) FROM x"
                ),
                "0",
            ),
            ("DROP TABLE x; SELECT a FROM t".to_owned(), "1"),
        ] {
            assert_eq!(bench.said(&sql).await, want, "{sql}");
        }
    }
}

#[tokio::test]
async fn without_a_data_directory_tables_are_in_memory() {
    let bench = Bench::start(None).await;
    assert_eq!(
        bench
            .said("CREATE TABLE t (a INT DEFAULT 5); INSERT INTO t VALUES (1); SELECT * FROM t")
            .await,
        "1"
    );
    assert_eq!(
        bench.said("SELECT count(*) FROM safeguard.relations").await,
        "0"
    );
}

#[tokio::test]
async fn a_table_that_another_process_dropped_is_said_to_be_gone() {
    let dir = tempfile::tempdir().unwrap();
    let one = Bench::start(Some(dir.path())).await;
    one.run("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    let other = Bench::start(Some(dir.path())).await;
    one.run("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(other.said("SELECT sum(a) FROM t").await, "3");
    one.run("DROP TABLE t").await.unwrap();
    assert_eq!(other.said("SELECT sum(a) FROM t").await, "42P01");
    assert_eq!(other.said("INSERT INTO t VALUES (2)").await, "42P01");
    assert_eq!(
        other.said("DROP TABLE t; SELECT sum(a) FROM t").await,
        "42P01"
    );
    assert_eq!(kept(dir.path()), [""; 0]);
}
