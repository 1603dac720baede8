//! INSERT and COPY into buckets: one object for each statement, there as a whole or not at all.

use super::double::{Double, Fault};
use super::program;

/// Rows that are several parts of an upload; division fails at one row.
fn insert(rows: usize, fails_at: usize) -> String {
    format!(
        "INSERT INTO t SELECT value, repeat(md5(CAST(value AS TEXT)), 20), 1 / (value - {fails_at}) FROM generate_series(1, {rows})"
    )
}

const TABLE: &str = "CREATE EXTERNAL TABLE t (id BIGINT, body TEXT, n BIGINT) STORED AS CSV LOCATION 's3://posts/t/' OPTIONS (format.has_header true)";

/// Seeded, as everywhere here.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_that_fails_leaves_nothing() {
    const ROWS: usize = 40_000;
    let (_dir, program) = program().await;
    let store = Double::start("hush", &["posts"]).await;
    program.run(&store.secret("mine")).await.unwrap();
    program.run(TABLE).await.unwrap();
    // How many requests a whole one makes.
    store.asked();
    program.run(&insert(ROWS, 0)).await.unwrap();
    let requests = store.asked().len();
    assert!(requests >= 4, "begun, parts, completed: {requests}");
    assert_eq!(store.uploads(), 0);
    assert_eq!(
        program.said("SELECT count(*) FROM t").await,
        ROWS.to_string()
    );
    let there = store.keys("posts");
    assert_eq!(there.len(), 1);
    let mut dice = Dice(20_261_128);
    for case in 0..20 {
        let fails_at = match case % 2 {
            0 => 1 + dice.below(ROWS),
            _ => {
                let fault = [
                    Fault::Status(403, "AccessDenied"),
                    Fault::Status(400, "Bad"),
                ];
                store.fail(Some((dice.below(requests), fault[dice.below(2)])));
                0
            }
        };
        let failed = program.run(&insert(ROWS, fails_at)).await;
        store.fail(None);
        assert!(failed.is_err(), "case {case}");
        assert_eq!(store.keys("posts"), there, "case {case}: {failed:?}");
    }
    // Parts that were given up while the store answered are gone.
    store.asked();
    let failed = program.run(&insert(ROWS, ROWS / 2)).await.unwrap_err();
    assert_eq!(failed.sqlstate(), "22012");
    for _ in 0..1_000_000 {
        if store
            .asked()
            .iter()
            .any(|asked| asked.starts_with("DELETE"))
        {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(store.keys("posts"), there);
    // Two at once are both there.
    let small = insert(10, 0);
    let (one, other) = tokio::join!(program.run(&small), program.run(&small));
    one.unwrap();
    other.unwrap();
    assert_eq!(
        program.said("SELECT count(*) FROM t").await,
        (ROWS + 20).to_string()
    );
    assert_eq!(store.keys("posts").len(), 3);
}

#[tokio::test]
async fn where_rows_can_go_is_said() {
    let (_dir, program) = program().await;
    let store = Double::start("hush", &["posts"]).await;
    program.run(&store.secret("mine")).await.unwrap();
    for (name, table) in [
        (
            "parts",
            "(id BIGINT, day BIGINT) STORED AS CSV PARTITIONED BY (day) LOCATION 's3://posts/parts/'",
        ),
        (
            "whole",
            "(id BIGINT) STORED AS PARQUET LOCATION 's3://posts/whole/'",
        ),
        (
            "lines",
            "(id BIGINT) STORED AS JSON LOCATION 's3://posts/lines/'",
        ),
        (
            "some",
            "(id BIGINT) STORED AS CSV LOCATION 's3://posts/some/x*.csv'",
        ),
    ] {
        let sql = format!("CREATE EXTERNAL TABLE {name} {table}");
        program.run(&sql).await.unwrap();
    }
    for (sql, want) in [
        ("INSERT INTO parts VALUES (1, 2)", "0A000"),
        ("INSERT INTO some VALUES (1)", "0A000"),
        (
            "INSERT INTO whole VALUES (1), (2); INSERT INTO whole VALUES (3); SELECT count(*), sum(id) FROM whole",
            "3|6",
        ),
        (
            "INSERT INTO lines VALUES (1), (2); SELECT sum(id) FROM lines",
            "3",
        ),
        ("INSERT OVERWRITE whole VALUES (1)", "0A000"),
        (
            "COPY (SELECT 1 AS id) TO 's3://posts/copied.csv' STORED AS CSV",
            "1",
        ),
        (
            "COPY (SELECT 1 AS id) TO 'http://127.0.0.1:1/copied.csv' STORED AS CSV",
            "0A000",
        ),
    ] {
        assert_eq!(program.said(sql).await, want, "{sql}");
    }
    assert!(store.keys("posts").contains(&"copied.csv".to_owned()));
}
