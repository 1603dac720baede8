//! COPY both ways.

use super::{Wire, config, simple, state};
use bytes::Bytes;
use futures::{SinkExt, TryStreamExt};
use tokio_postgres::Client;

async fn copy_in(client: &Client, sql: &str, data: &[u8]) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in::<_, Bytes>(sql).await?;
    tokio::pin!(sink);
    // In pieces that end anywhere.
    for piece in data.chunks(3) {
        sink.send(Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await
}

async fn copy_out(client: &Client, sql: &str) -> Vec<u8> {
    messages(client, sql).await.concat()
}

async fn messages(client: &Client, sql: &str) -> Vec<Bytes> {
    let rows = client.copy_out(sql).await.unwrap();
    rows.try_collect().await.unwrap()
}

/// Drivers take a message for a row, and one that need not can say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_a_row_unless_they_are_gathered() {
    let wire = Wire::start(config()).await;
    let (client, _) = wire.connect("ann").await;
    let rows = "(SELECT i, 'row ' || i FROM generate_series(1, 20000) AS s(i) ORDER BY i)";
    let ends = [("text", 0), ("csv", 0), ("binary", 1)];
    for (form, trailer) in ends {
        let one = messages(&client, &format!("COPY {rows} TO STDOUT (FORMAT {form})")).await;
        assert_eq!(one.len(), 20_000 + trailer, "{form}");
        let sql = format!("COPY {rows} TO STDOUT (FORMAT {form}, GATHER)");
        let gathered = messages(&client, &sql).await;
        assert_eq!(gathered.concat(), one.concat(), "{form}");
        assert!(gathered.len() < 100, "{form}: {}", gathered.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_out_is_what_was_copied_in() {
    let wire = Wire::start(config()).await;
    let (client, _) = wire.connect("ann").await;
    assert_eq!(
        simple(
            &client,
            "CREATE TABLE t (id BIGINT, body TEXT, score DOUBLE)"
        )
        .await,
        ""
    );
    let cases: [(&str, &[u8]); 2] = [
        ("", b"1\ta\\tb\\\\\t0.5\n2\t\\N\t-1\n3\t\t\\N\n"),
        (
            " WITH (FORMAT csv)",
            b"1,\"a\"\"b,\nc\",0.5\n2,,-1\n3,\"\",\n",
        ),
    ];
    for (form, data) in cases {
        assert_eq!(simple(&client, "DELETE FROM t WHERE true").await, "");
        let copied = copy_in(&client, &format!("COPY t FROM STDIN{form}"), data).await;
        assert_eq!(copied.unwrap(), 3, "{form}");
        assert_eq!(
            simple(&client, "SELECT count(*), count(body), sum(id) FROM t").await,
            "3|2|6"
        );
        let out = copy_out(&client, &format!("COPY t TO STDOUT{form}")).await;
        assert_eq!(
            String::from_utf8_lossy(&out),
            String::from_utf8_lossy(data),
            "{form}"
        );
    }
    let binary = copy_out(&client, "COPY t TO STDOUT (FORMAT binary)").await;
    assert_eq!(
        simple(
            &client,
            "CREATE TABLE u (id BIGINT, body TEXT, score DOUBLE)"
        )
        .await,
        ""
    );
    let copied = copy_in(&client, "COPY u FROM STDIN (FORMAT binary)", &binary).await;
    assert_eq!(copied.unwrap(), 3);
    assert_eq!(
        copy_out(&client, "COPY u TO STDOUT (FORMAT binary)").await,
        binary
    );
    let some = copy_in(&client, "COPY u (body, id) FROM STDIN", b"x\t9\n").await;
    assert_eq!(some.unwrap(), 1);
    assert_eq!(
        simple(&client, "SELECT * FROM u WHERE id = 9").await,
        "9|x|NULL"
    );
    let judged =
        "COPY (SELECT id, safeguard_classify('hate', 'hello there') FROM u WHERE id = 9) TO STDOUT";
    assert_eq!(copy_out(&client, judged).await, b"9\tallowed\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_leaves_the_table_as_it_was() {
    let wire = Wire::start(config()).await;
    let (client, _) = wire.connect("ann").await;
    assert_eq!(
        simple(&client, "CREATE TABLE t (id BIGINT, body TEXT)").await,
        ""
    );
    for (sql, data, want) in [
        ("COPY t FROM STDIN", "1\ta\nx\tb\n", "22P02"),
        ("COPY t FROM STDIN", "1\ta\n2\n", "22P04"),
        ("COPY t FROM STDIN", "1\ta\n2\tb\tc\n", "22P04"),
        ("COPY nope FROM STDIN", "1\n", "42P01"),
        ("COPY t (nope) FROM STDIN", "1\n", "42703"),
        ("COPY t FROM STDIN (FORMAT parquet)", "1\n", "22023"),
    ] {
        // The driver does not take up a connection again after a COPY that was refused.
        let (other, _) = wire.connect("bob").await;
        let failed = state(copy_in(&other, sql, data.as_bytes()).await);
        assert_eq!(
            &failed[..5.min(failed.len())],
            want,
            "{sql} {data:?}: {failed}"
        );
        assert_eq!(
            simple(&client, "SELECT count(*) FROM t").await,
            "0",
            "{sql}"
        );
    }
    // A sink that is dropped tells the server that the copy failed.
    let sink = client
        .copy_in::<_, Bytes>("COPY t FROM STDIN")
        .await
        .unwrap();
    drop(sink);
    assert_eq!(simple(&client, "SELECT count(*) FROM t").await, "0");
}
