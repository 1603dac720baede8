use super::*;
use crate::server::failure::Failure;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{SessionConfig, SessionContext};
use std::sync::Arc;

async fn shown(context: &SessionContext, sql: &str) -> String {
    let rows = async { context.sql(sql).await?.collect().await };
    match rows.await {
        Err(error) => Failure::from(error).to_string(),
        Ok(batches) => {
            let table = pretty_format_batches(&batches).unwrap().to_string();
            let rows = table.lines().skip(3).filter(|line| line.starts_with('|'));
            let cells = rows.map(|row| {
                let cells = row.trim_matches('|').split('|').map(str::trim);
                cells.collect::<Vec<_>>().join("|")
            });
            cells.collect::<Vec<_>>().join(" ")
        }
    }
}

fn context() -> SessionContext {
    let config = SessionConfig::new()
        .set_str("datafusion.sql_parser.dialect", "postgresql")
        .set_str("datafusion.execution.time_zone", "Europe/Berlin");
    let context = SessionContext::new_with_config(config);
    let state = context.state_ref();
    state.write().add_analyzer_rule(Arc::new(Casts::new()));
    context
}

/// What PostgreSQL 15 says, with its clock in Berlin.
#[tokio::test]
async fn texts_are_read_as_postgresql_reads_them() {
    let context = context();
    let cases = [
        ("timestamp '2026-01-02 10:00'", "2026-01-02T10:00:00"),
        (
            "CAST('2026-01-02 10:00' AS timestamp)",
            "2026-01-02T10:00:00",
        ),
        (
            "timestamp '2026-01-02 10:00:00.5'",
            "2026-01-02T10:00:00.500",
        ),
        ("date '1/8/1999'", "1999-01-08"),
        ("encode('\\xDEADbeef'::bytea, 'hex')", "deadbeef"),
        ("encode('a\\001b'::bytea, 'hex')", "610162"),
        ("' 7 '::int + 1", "8"),
        ("'yes'::boolean", "true"),
        (
            "'x'::int",
            "22P02: invalid input syntax for type integer: \"x\"",
        ),
        (
            "'3000000000'::int",
            "22003: value \"3000000000\" is out of range for type integer",
        ),
        (
            "'nay'::boolean",
            "22P02: invalid input syntax for type boolean: \"nay\"",
        ),
        ("'\\xzz'::bytea", "22023: invalid hexadecimal digit: \"z\""),
        (
            "timestamp 'soon'",
            "22007: invalid input syntax for type timestamp: \"soon\"",
        ),
        (
            "date '2026-02-30'",
            "22008: date/time field value out of range: \"2026-02-30\"",
        ),
    ];
    for (sql, wanted) in cases {
        let found = shown(&context, &format!("SELECT {sql}")).await;
        assert_eq!(found, wanted, "{sql}");
    }
}

/// Nobody wrote a cast here.
#[tokio::test]
async fn texts_beside_other_types_are_read_too() {
    let context = context();
    for sql in [
        "CREATE TABLE t (id BIGINT, at TIMESTAMP, seen TIMESTAMPTZ, raw BYTEA)",
        "INSERT INTO t VALUES (1, '2026-01-02 10:00', '2026-01-02 10:00', '\\x00ff'), (2, '2026-01-03', '2026-01-03 00:00+00', 'ab')",
    ] {
        assert!(!shown(&context, sql).await.contains(':'), "{sql}");
    }
    let cases = [
        (
            "id FROM t WHERE at > '2026-01-02 09:59' AND at < '2026-01-02 10:01'",
            "1",
        ),
        ("id FROM t WHERE seen = '2026-01-02 09:00:00+00'", "1"),
        ("id FROM t WHERE seen < '2026-01-02 10:01'", "1"),
        (
            "id FROM t WHERE at IN ('2026-01-02 10:00', '2026-01-04 10:00')",
            "1",
        ),
        (
            "id FROM t WHERE at BETWEEN '2026-01-02 20:00' AND '2026-01-04 10:00'",
            "2",
        ),
        ("id FROM t WHERE raw = '\\x00FF'", "1"),
        ("(SELECT max(id) FROM t WHERE at < '2026-01-02 10:01')", "1"),
        ("encode(raw, 'hex') FROM t ORDER BY id", "00ff 6162"),
        (
            "id FROM t WHERE at > 'never'",
            "22007: invalid input syntax for type timestamp: \"never\"",
        ),
    ];
    for (sql, wanted) in cases {
        let found = shown(&context, &format!("SELECT {sql}")).await;
        assert_eq!(found, wanted, "{sql}");
    }
}

/// What PostgreSQL 15 says, with its clock in Berlin.
#[tokio::test]
async fn timestamps_become_texts_as_postgresql_spells_them() {
    let context = context();
    shown(&context, "CREATE TABLE t (at TIMESTAMP, seen TIMESTAMPTZ)").await;
    let fill =
        "INSERT INTO t VALUES ('2026-07-02 10:00:00.5', '2026-07-02 10:00:00+00'), (NULL, NULL)";
    assert_eq!(shown(&context, fill).await, "2");
    let cases = [
        (
            "at::text FROM t WHERE at IS NOT NULL",
            "2026-07-02 10:00:00.5",
        ),
        (
            "seen::text FROM t WHERE at IS NOT NULL",
            "2026-07-02 12:00:00+02",
        ),
        ("count(seen::text), count(*) FROM t", "1|2"),
        (
            "'at ' || at FROM t WHERE at IS NOT NULL",
            "at 2026-07-02 10:00:00.5",
        ),
        (
            "CAST(timestamp '2026-01-02 10:00' AS varchar)",
            "2026-01-02 10:00:00",
        ),
        (
            "x FROM (SELECT at::text AS x, count(*) FROM t GROUP BY at::text HAVING at::text > '2026') AS g",
            "2026-07-02 10:00:00.5",
        ),
        (
            "a.at FROM t AS a JOIN t AS b ON a.at::text = b.at::text ORDER BY a.at::text",
            "2026-07-02T10:00:00.500",
        ),
        ("date '2026-01-02'::text", "2026-01-02"),
    ];
    for (sql, wanted) in cases {
        let found = shown(&context, &format!("SELECT {sql}")).await;
        assert_eq!(found, wanted, "{sql}");
    }
}

/// What the planner reads itself it goes on reading, and columns keep their names.
#[tokio::test]
async fn nothing_else_changes() {
    let (with, without) = (context(), SessionContext::new());
    for sql in [
        "SELECT CAST('2026-01-02T10:00:00.123456789Z' AS TIMESTAMP)",
        "SELECT arrow_cast('2026-01-02T10:00:00.123456789', 'Timestamp(Nanosecond, None)')",
        "SELECT CAST('1.25' AS DECIMAL(5, 2)), CAST('1e3' AS DOUBLE), CAST(NULL AS INT), CAST(5 AS TEXT)",
    ] {
        assert_eq!(shown(&with, sql).await, shown(&without, sql).await, "{sql}");
    }
    let sql =
        "SELECT CAST('2026-01-02 10:00' AS TIMESTAMP), CAST('2026-01-02 10:00' AS TIMESTAMP) AS at";
    let batches = with.sql(sql).await.unwrap().collect().await.unwrap();
    let plan = without.sql(sql).await.unwrap();
    let names = |schema: &Schema| -> Vec<String> {
        schema.fields().iter().map(|f| f.name().clone()).collect()
    };
    assert_eq!(names(&batches[0].schema()), names(plan.schema().as_arrow()));
}
