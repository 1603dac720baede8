//! Delta tables in buckets: one commit, there or not.

use super::double::{Double, Fault};
use super::program;

/// Division fails at one row.
fn insert(fails_at: usize) -> String {
    format!(
        "INSERT INTO t SELECT value, 'day ' || (value % 3) || 1 / (value - {fails_at}) FROM generate_series(1, 1000)"
    )
}

const COUNT: &str = "SELECT count(*) FROM t";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_table_in_a_bucket_takes_rows_all_or_nothing() {
    let (_dir, program) = program().await;
    let store = Double::start("hush", &["posts"]).await;
    program.run(&store.secret("mine")).await.unwrap();
    let make = "CREATE EXTERNAL TABLE t (id BIGINT, day TEXT) STORED AS DELTA PARTITIONED BY (day) LOCATION 's3://posts/lake'";
    program.run(make).await.unwrap();
    store.asked();
    assert_eq!(program.said(&insert(0)).await, "1000");
    let requests = store.asked().len();
    assert_eq!(program.said(&insert(500)).await, "22012");
    assert_eq!(program.said(COUNT).await, "1000");
    let two = insert(0);
    let (one, other) = tokio::join!(program.run(&two), program.run(&two));
    one.unwrap();
    other.unwrap();
    assert_eq!(program.said(COUNT).await, "3000");
    let (mut rows, mut failed, mut unsure) = (3_000, 0, 0);
    for case in 0..20 {
        let at = case * requests / 20;
        store.fail(Some((at, Fault::Status(403, "AccessDenied"))));
        let done = program.run(&insert(0)).await;
        store.fail(None);
        match &done {
            Ok(_) => rows += 1_000,
            Err(error) => {
                failed += 1;
                // The entry was refused, and whether an earlier try of it is there cannot be looked up.
                if error.sqlstate() == "40003" {
                    assert!(error.to_string().contains("_delta_log/"), "{error}");
                    unsure += 1;
                } else {
                    assert_eq!(error.sqlstate(), "42501", "request {at}: {error}");
                }
            }
        }
        let said = program.said(COUNT).await;
        assert_eq!(said, rows.to_string(), "request {at}: {done:?}");
    }
    assert!(failed >= 10, "{failed} of 20 failed");
    assert!(unsure <= 2, "{unsure} of {failed} could not be told");
}
