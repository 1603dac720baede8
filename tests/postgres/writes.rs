//! What is written: all rows of a statement or none, with the columns and the conflicts that it names.

use super::attached;
use super::cluster::{Cluster, create_server};
use super::cut::Cut;
use crate::relations::Program;

const LABELS: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE labels (id bigint PRIMARY KEY, label varchar(8) NOT NULL, times int NOT NULL DEFAULT 1, judged_at timestamptz DEFAULT '2026-01-01Z');
CREATE TABLE kinds (a smallint, c real, d float8, e numeric(6,2), f numeric, g text, h char(4), i bool, j date, k time,
  l timestamp, m timestamptz, n uuid, o jsonb, p mood, q text[], r bytea, s oid, t bit(3), u char(3)[])";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_written_as_the_statement_says() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    cluster.client().await.batch_execute(LABELS).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let program = attached(&cluster, data.path()).await;
    let upsert = "ON CONFLICT (id) DO UPDATE SET label = excluded.label, times = labels.times + excluded.times";
    let conflict = |rest: &str| {
        format!("INSERT INTO live.labels (id, label) VALUES (1, 'b'), (2, 'b') {rest}")
    };
    for (sql, want) in [
        // Columns that are not named have their defaults there.
        ("INSERT INTO live.labels (label, id) VALUES ('a', 1)".to_owned(), Ok("1|a|1|2026-01-01T00:00:00Z")),
        ("INSERT INTO live.labels (id, label, judged_at) VALUES (9, 'a', NULL)".to_owned(), Ok("1|a|1|2026-01-01T00:00:00Z;9|a|1|NULL")),
        ("INSERT INTO live.labels (id, label) SELECT id, 'x' FROM live.labels WHERE id > 100".to_owned(), Ok("1|a|1|2026-01-01T00:00:00Z;9|a|1|NULL")),
        (conflict(""), Err("23505")),
        (conflict("ON CONFLICT DO NOTHING"), Ok("1|a|1|2026-01-01T00:00:00Z;2|b|1|2026-01-01T00:00:00Z;9|a|1|NULL")),
        (conflict(upsert), Ok("1|b|2|2026-01-01T00:00:00Z;2|b|2|2026-01-01T00:00:00Z;9|a|1|NULL")),
        (conflict("ON CONFLICT (id) DO UPDATE SET label = (SELECT 'x')"), Err("42000")),
        ("INSERT INTO live.labels (id, label) VALUES (3, 'x'), (3, 'y') ON CONFLICT (id) DO UPDATE SET label = 'z'".to_owned(), Err("21000")),
        ("INSERT INTO live.labels (id, label) VALUES (3, NULL)".to_owned(), Err("23502")),
        ("INSERT INTO live.labels (id, label) VALUES (3, 'longer than eight')".to_owned(), Err("22001")),
        ("INSERT INTO live.labels (id, nope) VALUES (3, 'x')".to_owned(), Err("42703")),
        ("DELETE FROM live.labels".to_owned(), Err("0A000")),
        ("INSERT INTO live.labels (id, label) SELECT id, CAST(1 / (id - 9) AS TEXT) FROM live.labels".to_owned(), Err("22012")),
    ] {
        let done = program.run(&sql).await;
        match (done, want) {
            (Ok(_), Ok(want)) => {
                assert_eq!(program.said("SELECT * FROM live.labels ORDER BY id").await, want, "{sql}");
            }
            (Err(error), Err(want)) => assert_eq!(error.sqlstate(), want, "{sql}: {error}"),
            (done, want) => panic!("{sql}: {done:?}, not {want:?}"),
        }
    }
    assert_eq!(
        program.said("SELECT count(*) FROM live.labels").await,
        "3",
        "failures left nothing"
    );
    assert_eq!(
        program
            .said("CREATE TABLE live.more AS SELECT 1 AS a")
            .await,
        "0A000"
    );
    // Elsewhere nothing knows what a conflict is.
    program.run("CREATE TABLE here (id int)").await.unwrap();
    assert_eq!(
        program
            .said("INSERT INTO here VALUES (1) ON CONFLICT DO NOTHING")
            .await,
        "0A000"
    );
    // Every type there and back.
    let row = "-1, 1.5, -2.25, 1234.567, CAST('1234567.000000000001' AS DECIMAL(38, 18)), 'it''s', 'ab', true, '2026-02-03', '12:34:56.789', '1969-12-31 23:59:59.999999', \
        '2026-02-03 04:05:06.7Z', '00112233-4455-6677-8899-aabbccddeeff', '{\"a\": 1}', 'sad', '{a,\"b c\"}', X'0102', 4000000000, '101', '{ab}'";
    program
        .run(&format!("INSERT INTO live.kinds VALUES ({row})"))
        .await
        .unwrap();
    assert_eq!(
        program.said("SELECT * FROM live.kinds").await,
        "-1|1.5|-2.25|1234.57|1234567.000000000001000000|it's|ab|true|2026-02-03|12:34:56.789|1969-12-31T23:59:59.999999|\
         2026-02-03T04:05:06.700Z|00112233-4455-6677-8899-aabbccddeeff|{\"a\": 1}|sad|{a,\"b c\"}|0102|4000000000|101|{\"ab \"}"
    );
}

/// Rows that an INSERT of the tests below writes.
const ROWS: u64 = 20_000;

fn insert() -> String {
    format!("INSERT INTO live.labels (id, label) SELECT value, 'x' FROM generate_series(1, {ROWS})")
}

async fn written(cluster: &Cluster) -> u64 {
    let row = cluster
        .client()
        .await
        .query_one("SELECT count(*) FROM labels", &[])
        .await
        .unwrap();
    u64::try_from(row.get::<_, i64>(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_that_is_cut_anywhere_leaves_nothing() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    client.batch_execute(LABELS).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let cut = Cut::start(cluster.folder()).await;
    let program = Program::start(data.path(), None).await;
    program
        .run(&create_server("live", cut.folder()))
        .await
        .unwrap();
    // What goes to the database when nothing is cut.
    let before = cut.sent();
    program.run(&insert()).await.unwrap();
    let all = cut.sent() - before;
    assert_eq!(written(&cluster).await, ROWS);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let (mut failed, mut whole) = (0, 0);
    for _ in 0..20 {
        client.batch_execute("TRUNCATE labels").await.unwrap();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Some of them after the last byte.
        cut.after(random % (all + all / 20));
        let done = program.run(&insert()).await;
        cut.after(u64::MAX);
        match (done, written(&cluster).await) {
            (Ok(_), rows) => assert_eq!(rows, ROWS),
            (Err(error), 0) => {
                assert!(error.sqlstate().starts_with("08"), "{error}");
                failed += 1;
            }
            (Err(error), rows) => {
                // Only where the last answer alone was lost, which is said.
                assert_eq!((error.sqlstate(), rows), ("08007", ROWS), "{error}");
                whole += 1;
            }
        }
    }
    assert!(
        failed >= 10,
        "{failed} of 20 cut, {whole} with the answer lost"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_dies_is_said_and_verdicts_are_kept() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let posts = format!(
        "{LABELS}; CREATE TABLE posts AS SELECT i AS id, CASE WHEN i % 2 = 0 THEN 'bad ' ELSE 'fine ' END || i AS body FROM generate_series(1, 3000) i"
    );
    cluster.client().await.batch_execute(&posts).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let cut = Cut::start(cluster.folder()).await;
    let program = Program::start(data.path(), None).await;
    program
        .run(&create_server("live", cut.folder()))
        .await
        .unwrap();
    let insert = "INSERT INTO live.labels (id, label) SELECT id, safeguard_classify('spam', body) FROM live.posts";
    let count = "SELECT count(*) FROM safeguard.verdicts";
    // The first of the rows to be written are cut, when all are judged.
    cut.after(8_192);
    let error = program.run(insert).await.unwrap_err();
    cut.after(u64::MAX);
    assert_eq!(error.sqlstate(), "08006", "{error}");
    assert!(
        error
            .to_string()
            .starts_with("server live: the connection is lost"),
        "{error}"
    );
    assert_eq!(
        (program.said(count).await.as_str(), written(&cluster).await),
        ("3000", 0)
    );
    // The same again asks nothing.
    program.run(insert).await.unwrap();
    assert_eq!(
        (program.said(count).await.as_str(), written(&cluster).await),
        ("3000", 3_000)
    );
    cluster.kill();
    let error = program.run(insert).await.unwrap_err();
    assert!(error.to_string().contains("server live"), "{error}");
    assert!(error.sqlstate().starts_with("08"), "{error}");
    assert_eq!(program.said(count).await, "3000");
}
