//! One table over several connections: the same rows, of one moment, whatever happens to them meanwhile.

use super::cluster::Cluster;
use crate::relations::Program;
use std::time::Duration;

/// Every third row has moved to the end, every tenth is gone, and their old versions still lie where they were.
const POSTS: &str = "CREATE TABLE posts (id bigint PRIMARY KEY, n int NOT NULL, body text) WITH (autovacuum_enabled = false);
INSERT INTO posts SELECT i, i % 7, CASE WHEN i % 2 = 0 THEN 'bad ' ELSE 'fine ' END || repeat('x', 80) || i FROM generate_series(1, 60000) i;
UPDATE posts SET n = n + 7 WHERE id % 3 = 0;
DELETE FROM posts WHERE id % 10 = 0;
CREATE TABLE small AS SELECT i AS id FROM generate_series(1, 100) i;
CREATE VIEW seen AS SELECT * FROM posts WHERE n < 3";

/// The same database twice: `one`, over one connection a table, and `four`.
async fn attached(cluster: &Cluster, data: &std::path::Path) -> Program {
    let program = Program::start(data, None).await;
    program.run(&cluster.create_server("one")).await.unwrap();
    let four = cluster
        .create_server("four")
        .replace("OPTIONS (", "OPTIONS (connections '4', ");
    program.run(&four).await.unwrap();
    program
}

/// What was asked of the database since some length of its log, as far as rows are read.
async fn copies(cluster: &Cluster, since: usize) -> Vec<String> {
    let log = cluster.log().await;
    let lines = log[since..].lines().filter(|line| line.contains("COPY ("));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_rows_come_over_four_connections_as_over_one() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    cluster.client().await.batch_execute(POSTS).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let program = attached(&cluster, data.path()).await;
    for select in [
        "SELECT count(id), count(DISTINCT id), sum(id), max(body), sum(n) FROM {}.posts",
        "SELECT id, n, body FROM {}.posts WHERE id > 59900 ORDER BY id",
        "SELECT count(id), sum(id) FROM {}.posts WHERE n > 3 AND body LIKE 'bad%'",
        "SELECT count(id), sum(id) FROM {}.posts WHERE n > 3 OR id < 10",
        "SELECT count(id), sum(id) FROM {}.posts WHERE lower(body) LIKE '%9'",
        "SELECT n, count(id) FROM {}.posts GROUP BY n ORDER BY n",
        "SELECT count(x.id), sum(y.n) FROM {}.posts x JOIN {}.posts y ON x.id = y.id + 1",
        "SELECT count(id) FROM {}.small",
        "SELECT count(id), sum(id) FROM {}.seen",
        "SELECT count(*) FROM {}.posts",
        "SELECT count(*) FROM {}.posts WHERE n = 3",
        "SELECT count(*) FROM (SELECT 1 FROM {}.posts LIMIT 1234)",
        "SELECT count(*) FROM (SELECT id FROM {}.posts LIMIT 1234)",
    ] {
        let one = program.said(&select.replace("{}", "one")).await;
        let four = program.said(&select.replace("{}", "four")).await;
        assert!(!one.is_empty());
        assert_eq!(one, four, "{select}");
    }

    let since = cluster.log().await.len();
    program
        .said("SELECT sum(id) FROM four.posts WHERE n >= 0")
        .await;
    let read = copies(&cluster, since).await;
    assert_eq!(read.len(), 4, "{read:#?}");
    let filter = "WHERE (\"n\" >= '0'::int4) AND ctid";
    assert!(read.iter().all(|copy| copy.contains(filter)), "{read:#?}");
    let log = cluster.log().await;
    let said = |words: &str| log[since..].matches(words).count();
    assert_eq!(
        (
            said("pg_export_snapshot()"),
            said("SET TRANSACTION SNAPSHOT")
        ),
        (1, 3)
    );
    // What is not worth it, or cannot be, is one reading; a count is PostgreSQL's own.
    for (select, want) in [
        (
            "SELECT id FROM four.small",
            "COPY (SELECT \"id\" FROM \"public\".\"small\") TO",
        ),
        (
            "SELECT sum(id) FROM four.seen",
            "COPY (SELECT \"id\" FROM \"public\".\"seen\") TO",
        ),
        (
            "SELECT id FROM four.posts LIMIT 3",
            "COPY (SELECT \"id\" FROM \"public\".\"posts\" LIMIT 3) TO",
        ),
        (
            "SELECT count(*) FROM four.posts",
            "COPY (SELECT count(*) FROM \"public\".\"posts\") TO",
        ),
    ] {
        let since = cluster.log().await.len();
        program.said(select).await;
        let read = copies(&cluster, since).await;
        assert!(
            read.len() == 1 && read[0].contains(want),
            "{select}: {read:#?}"
        );
    }
    let explained = program.said("EXPLAIN SELECT id FROM four.posts").await;
    assert!(
        explained.contains("server=four, connections=4, sql=SELECT"),
        "{explained}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_move_meanwhile_are_read_once() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    client.batch_execute(POSTS).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let program = attached(&cluster, data.path()).await;
    let whole = program
        .said("SELECT count(id), sum(id) FROM one.posts")
        .await;
    let writer = tokio::spawn(async move {
        // Each moves some rows to other pages; their number and their ids stay.
        for turn in 0.. {
            let moved = format!("UPDATE posts SET n = n + 1 WHERE id % 50 = {}", turn % 50);
            if client.batch_execute(&moved).await.is_err() {
                return;
            }
        }
    });
    let mut moved = 0;
    let mut before = String::new();
    for _ in 0..20 {
        let read = program
            .said("SELECT count(DISTINCT id), sum(id), count(id), sum(n) FROM four.posts")
            .await;
        let (ids, rest) = read.rsplit_once('|').unwrap();
        let (ids, count) = ids.rsplit_once('|').unwrap();
        assert_eq!((ids, count), (&*whole, whole.split('|').next().unwrap()));
        moved += usize::from(rest != before);
        rest.clone_into(&mut before);
    }
    assert!(moved > 1, "nothing has moved");
    writer.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_enough_closes_every_connection() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    client.batch_execute(POSTS).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let program = attached(&cluster, data.path()).await;
    // Filters that are worked out here keep the limit here.
    let few = "SELECT id FROM four.posts WHERE lower(body) <> 'x' LIMIT 5";
    assert_eq!(program.said(few).await.split(';').count(), 5);
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'safeguard' AND state <> 'idle'";
    let ended = async {
        while client.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
    assert!(ended.is_ok(), "connections stay");
    cluster.kill();
    let error = program
        .run("SELECT sum(id) FROM four.posts")
        .await
        .unwrap_err();
    assert!(error.sqlstate().starts_with("08"), "{error}");
}
