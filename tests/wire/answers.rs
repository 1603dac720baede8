//! What clients are answered: values, tags, errors with their places, settings, transactions, cursors.

use super::{Wire, config, simple, state};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

async fn check(client: &Client, cases: &[(&str, &str)]) {
    for (sql, want) in cases {
        assert_eq!(simple(client, sql).await, *want, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_answered_as_postgresql_answers_them() {
    let wire = Wire::start(config()).await;
    let (client, _) = wire.connect("ann").await;
    check(
        &client,
        &[
            ("", ""),
            (" ; -- nothing\n;", ""),
            ("SELECT 1, 1", "1|1"),
            ("SELECT NULL, NULL", "NULL|NULL"),
            ("SELECT true, 1.5::float8, 'a''b', date '2024-02-29'", "t|1.5|a'b|2024-02-29"),
            ("SELECT 1; SELECT 2", "1;2"),
            ("SELECT 1; SELEC 2", "42601 syntax error: Expected: an SQL statement, found: SELEC at Line: 1, Column: 1"),
            ("CREATE TABLE t AS SELECT x AS id, 'text ' || x AS body FROM generate_series(1, 5) g(x)", ""),
            ("SELECT id, body FROM t WHERE id > 3 ORDER BY id", "4|text 4;5|text 5"),
            ("SELECT nope FROM t", "42703 No field named nope.\nValid fields are t.id, t.body."),
            ("SELECT 1/0", "22012 Divide by zero error"),
            ("SELECT safeguard_classify('hat', body) FROM t", "42704 policy \"hat\" does not exist"),
            ("SELECT (safeguard_verdict('hate', 'hello there')).label", "allowed"),
            ("SELECT 'x'::int", "22P02 invalid input syntax for type integer: \"x\""),
            ("SELECT '\\xDEAD'::bytea, timestamp '2026-01-02 10:00', timestamptz '2026-07-02 10:00 Europe/Berlin'", "\\xdead|2026-01-02 10:00:00|2026-07-02 08:00:00+00"),
            ("SET TimeZone = 'Europe/Berlin'; SELECT timestamptz '2026-07-02 10:00+00'::text, timestamptz '2026-07-02 10:00' || ''; RESET TimeZone", "2026-07-02 12:00:00+02|2026-07-02 10:00:00+02"),
            ("SELECT EXISTS (SELECT 1 FROM t WHERE id = 3), EXISTS (SELECT 1 FROM t WHERE id = 9)", "t|f"),
            ("SELECT EXISTS (SELECT 1 FROM t WHERE safeguard_classify('hate', body) = 'allowed')", "t"),
            ("PREPARE q(timestamptz) AS SELECT $1 = timestamptz '2026-01-02 10:00:00+00'; EXECUTE q('2026-01-02 10:00'); DEALLOCATE q", "t"),
            ("SELECT generate_series(1, 3)", "1;2;3"),
            ("SELECT count(*), sum(x) FROM (SELECT generate_series(2, 8, 2) AS x) AS s", "4|20"),
            ("SELECT $1", "42P02 there is no parameter $1"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_places_are_postgresqls() {
    let wire = Wire::start(config()).await;
    let (client, _) = wire.connect("ann").await;
    let tags = [
        ("CREATE TABLE t (id BIGINT, body TEXT)", 0),
        ("INSERT INTO t VALUES (1, 'a'), (2, 'b')", 2),
        ("UPDATE t SET body = 'c' WHERE id = 2", 1),
        ("DELETE FROM t WHERE id = 1", 1),
        ("SELECT * FROM t", 1),
        ("CREATE TABLE u AS SELECT * FROM t", 1),
        ("DROP TABLE u", 0),
    ];
    for (sql, rows) in tags {
        let messages = client.simple_query(sql).await.unwrap();
        let Some(SimpleQueryMessage::CommandComplete(count)) = messages.last() else {
            panic!("{sql}: {messages:?}");
        };
        assert_eq!(*count, rows, "{sql}");
    }
    for (sql, place) in [
        ("SELECT 1; SELEC 2", 11),
        ("SELECT id, nope FROM t", 12),
        ("SELECT 1; SELECT nope FROM t", 18),
    ] {
        let error = client.simple_query(sql).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        let want = tokio_postgres::error::ErrorPosition::Original(place);
        assert_eq!(error.position(), Some(&want), "{sql}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_say_what_they_cannot_undo() {
    let wire = Wire::start(config()).await;
    let (client, mut notices) = wire.connect("ann").await;
    check(
        &client,
        &[
            ("CREATE TABLE t (id BIGINT)", ""),
            ("BEGIN", ""),
            ("SELECT 1/0", "22012 Divide by zero error"),
            ("SELECT 1", "25P02 current transaction is aborted, commands ignored until end of transaction block"),
            ("COMMIT", ""),
            ("BEGIN READ ONLY", ""),
            ("INSERT INTO t VALUES (1)", "25006 cannot execute INSERT in a read-only transaction"),
            ("ROLLBACK", ""),
            ("BEGIN; SAVEPOINT a; SELECT 1", "1"),
            ("SELECT 1/0", "22012 Divide by zero error"),
            ("ROLLBACK TO a", ""),
            ("SELECT 2", "2"),
            ("INSERT INTO t VALUES (1)", ""),
            ("ROLLBACK", ""),
            ("SELECT count(*) FROM t", "1"),
        ],
    )
    .await;
    let warning = notices.recv().await.unwrap();
    assert_eq!(warning.code().code(), "01000");
    assert!(
        warning
            .message()
            .starts_with("1 statement that changed data"),
        "{warning:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_a_connections_own() {
    let wire = Wire::start(config()).await;
    let (one, _) = wire.connect("ann").await;
    let (other, _) = wire.connect("bob").await;
    check(
        &one,
        &[
            ("SHOW safeguard.mode", "auto"),
            ("SET safeguard.mode = 'score'", ""),
            ("SHOW safeguard.mode", "score"),
            (
                "BEGIN; SET safeguard.mode = 'reason'; ROLLBACK; SHOW safeguard.mode",
                "score",
            ),
            (
                "BEGIN; SET LOCAL statement_timeout = '5s'; SHOW statement_timeout",
                "5s",
            ),
            ("COMMIT; SHOW statement_timeout", "0"),
            (
                "SET TimeZone = 'Europe/Berlin'; SHOW TimeZone",
                "Europe/Berlin",
            ),
        ],
    )
    .await;
    check(
        &other,
        &[("SHOW safeguard.mode", "auto"), ("SHOW TimeZone", "UTC")],
    )
    .await;
    for (sql, want) in [
        ("SET safeguard.mode = 'fast'", "22023"),
        ("SET nope = 1", "42704"),
        ("SHOW nope", "42704"),
        ("SET server_version = '9'", "55P02"),
        ("SET client_encoding = 'LATIN1'", "0A000"),
    ] {
        let failed = simple(&one, sql).await;
        assert_eq!(&failed[..5.min(failed.len())], want, "{sql}: {failed}");
    }
    check(
        &one,
        &[("DISCARD ALL", ""), ("SHOW safeguard.mode", "auto")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_prepared_with_inferred_types() {
    let wire = Wire::start(config()).await;
    let (client, _) = wire.connect("ann").await;
    let sql =
        "CREATE TABLE t AS SELECT x AS id, 'text ' || x AS body FROM generate_series(1, 5) g(x)";
    assert_eq!(simple(&client, sql).await, "");
    let statement = client
        .prepare("SELECT id, body FROM t WHERE id = $1 OR body = $2 ORDER BY id LIMIT $3")
        .await
        .unwrap();
    assert_eq!(statement.params(), [Type::INT8, Type::TEXT, Type::INT8]);
    let rows = client.query(&statement, &[&2_i64, &"text 4", &9_i64]).await;
    let rows: Vec<(i64, String)> = (rows.unwrap().iter())
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(rows, [(2, "text 2".to_owned()), (4, "text 4".to_owned())]);
    // The same statement after its table changed, and after it is another table.
    assert_eq!(
        simple(&client, "INSERT INTO t VALUES (6, 'text 4')").await,
        ""
    );
    let rows = client.query(&statement, &[&2_i64, &"text 4", &9_i64]).await;
    assert_eq!(rows.unwrap().len(), 3);
    let remade = "DROP TABLE t; CREATE TABLE t AS SELECT 2::bigint AS id, 'other' AS body";
    assert_eq!(simple(&client, remade).await, "");
    let rows = client.query(&statement, &[&2_i64, &"text 4", &9_i64]).await;
    assert_eq!(rows.unwrap()[0].get::<_, &str>(1), "other");
    assert_eq!(
        simple(
            &client,
            "DROP TABLE t; CREATE TABLE t AS SELECT 'a' AS id, 'b' AS body"
        )
        .await,
        ""
    );
    let changed = client.query(&statement, &[&2_i64, &"text 4", &9_i64]).await;
    assert!(state(changed).starts_with(['0', '2', '4']));
    let judged = client
        .query_one(
            "SELECT safeguard_classify($1, $2)",
            &[&"hate", &"hello there"],
        )
        .await;
    assert_eq!(judged.unwrap().get::<_, &str>(0), "allowed");
    check(
        &client,
        &[
            ("PREPARE p (int) AS SELECT $1 + 1", ""),
            ("EXECUTE p(41)", "42"),
            (
                "EXECUTE p",
                "42601 wrong number of parameters for prepared statement \"p\"",
            ),
            (
                "DEALLOCATE p; EXECUTE p(1)",
                "26000 prepared statement \"p\" does not exist",
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_and_portals_give_rows_in_parts() {
    let wire = Wire::start(config()).await;
    let (mut client, _) = wire.connect("ann").await;
    check(
        &client,
        &[
            (
                "CREATE TABLE t AS SELECT x AS id FROM generate_series(1, 9) g(x)",
                "",
            ),
            (
                "DECLARE c CURSOR FOR SELECT 1",
                "25P01 DECLARE CURSOR can only be used in transaction blocks",
            ),
            (
                "BEGIN; DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id; FETCH 2 FROM c",
                "1;2",
            ),
            ("MOVE 3 IN c; FETCH NEXT FROM c", "6"),
            ("FETCH ALL FROM c", "7;8;9"),
            ("FETCH c", ""),
            ("FETCH 0 FROM c", "55000 cursor can only scan forward"),
            ("ROLLBACK; BEGIN; DECLARE c CURSOR FOR SELECT 1", ""),
            (
                "FETCH BACKWARD 1 FROM c",
                "55000 cursor can only scan forward",
            ),
            ("ROLLBACK", ""),
            ("BEGIN; CLOSE c", "34000 cursor \"c\" does not exist"),
            ("ROLLBACK", ""),
            (
                "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id",
                "",
            ),
            ("FETCH 1 FROM h", "1"),
            ("CLOSE h", ""),
        ],
    )
    .await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction
        .bind("SELECT id FROM t ORDER BY id", &[])
        .await
        .unwrap();
    let mut sizes = Vec::new();
    for most in [4, 4, 4] {
        sizes.push(transaction.query_portal(&portal, most).await.unwrap().len());
    }
    assert_eq!(sizes, [4, 4, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_with_different_sessions_share_nothing_but_tables() {
    let wire = Wire::start(config()).await;
    let (one, mut notices) = wire.connect("ann").await;
    let (other, mut heard) = wire.connect("bob").await;
    assert_eq!(
        simple(&one, "CREATE TABLE t AS SELECT 'hello there' AS body").await,
        ""
    );
    assert_eq!(
        simple(
            &one,
            "SET safeguard.mode = 'score'; SET safeguard.max_rows = 1"
        )
        .await,
        ""
    );
    let sql = "SELECT safeguard_classify('hate', body) FROM t";
    let both = tokio::join!(simple(&one, sql), simple(&other, sql));
    assert_eq!(both, ("allowed".to_owned(), "allowed".to_owned()));
    assert!(notices.recv().await.unwrap().message().contains("1 row"));
    assert!(heard.recv().await.is_some());
    let modes = "SELECT mode, count(*) FROM safeguard.verdicts GROUP BY 1 ORDER BY 1";
    assert_eq!(simple(&other, modes).await, "reason|1;score|1");
}
