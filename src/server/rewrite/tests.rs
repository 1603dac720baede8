//! What each rewriting does to a statement.

use super::*;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

fn rewritten(sql: &str) -> Result<String, Failure> {
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, sql)
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
        .remove(0);
    statement(parsed).map(|s| s.to_string())
}

#[test]
fn postgresql_is_spelled_as_the_planner_reads_it() {
    for (sql, want) in [
        ("SELECT pg_catalog.version()", "SELECT version()"),
        ("SELECT cron.schedule('a')", "SELECT cron.schedule('a')"),
        ("SELECT current_schema", "SELECT current_schema()"),
        (
            "SELECT generate_series(1, 3) AS x, a FROM generate_series(1, 2) AS s(a)",
            "SELECT unnest(generate_series(1, 3)) AS x, a FROM generate_series(1, 2) AS s (a)",
        ),
        (
            "SELECT * FROM pg_class",
            "SELECT * FROM \"pg_catalog\".\"pg_class\"",
        ),
        (
            "SELECT * FROM pg_catalog.pg_class c",
            "SELECT * FROM \"pg_catalog\".\"pg_class\" c",
        ),
        ("SELECT * FROM pg_mine", "SELECT * FROM pg_mine"),
        (
            "SELECT * FROM information_schema.tables",
            "SELECT * FROM \"pg_catalog\".\"information_schema.tables\" AS \"tables\"",
        ),
        (
            "SELECT a FROM t WHERE x = 't'::regclass",
            "SELECT a FROM t WHERE x = regclass_in('t')",
        ),
        (
            "SELECT a FROM t WHERE x = '12'::regclass::oid",
            "SELECT a FROM t WHERE x = regclass_in('12')::INT",
        ),
        (
            "SELECT c.oid::regclass FROM t c",
            "SELECT regclass_out(c.oid) FROM t c",
        ),
        (
            "SELECT a FROM t WHERE c.oid::pg_catalog.regtype::text = 'x'",
            "SELECT a FROM t WHERE regtype_out(c.oid) = 'x'",
        ),
        (
            "SELECT 't'::regclass",
            "SELECT regclass_out(regclass_in('t'))",
        ),
        (
            "SELECT x::uuid, y::jsonb, z::pg_catalog.\"char\"",
            "SELECT x::TEXT, y::TEXT, z::TEXT",
        ),
        (
            "SELECT '{1,2}'::int[]",
            "SELECT ARRAY[CAST('1' AS INT), CAST('2' AS INT)]::INT[]",
        ),
        (
            "SELECT a = ANY ('{x,y}')",
            "SELECT a = ANY(ARRAY['x', 'y'])",
        ),
        (
            "SELECT ARRAY(SELECT a FROM t ORDER BY 1)",
            "SELECT (SELECT array_agg(a ORDER BY a) FROM t)",
        ),
        ("SELECT a COLLATE \"C\" FROM t", "SELECT a FROM t"),
        (
            "SELECT a OPERATOR(pg_catalog.~) '^x$' COLLATE pg_catalog.default",
            "SELECT a ~ '^x$'",
        ),
        ("SELECT a LIKE 'x/_%' ESCAPE '/'", "SELECT a LIKE 'x\\_%'"),
        (
            "WITH x AS MATERIALIZED (SELECT 1) SELECT * FROM x",
            "WITH x AS (SELECT 1) SELECT * FROM x",
        ),
        ("SELECT 1 LIMIT NULL", "SELECT 1"),
        (
            "SELECT (SELECT d.amname FROM pg_am d WHERE d.oid = t.oid) FROM t",
            "SELECT (SELECT first_value(d.amname) FROM \"pg_catalog\".\"pg_am\" d WHERE d.oid = t.oid) FROM t",
        ),
        // Over a user's tables a second row has to be an error.
        (
            "SELECT (SELECT d.a FROM mine d WHERE d.b = t.b) FROM t",
            "SELECT (SELECT d.a FROM mine d WHERE d.b = t.b) FROM t",
        ),
        (
            "CREATE TABLE t (id serial, u uuid, j jsonb)",
            "CREATE TABLE t (id INT, u TEXT, j TEXT)",
        ),
    ] {
        assert_eq!(rewritten(sql).unwrap(), want, "{sql}");
    }
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    for (sql, message) in [
        ("LISTEN x", "LISTEN is not supported"),
        ("GRANT SELECT ON t TO x", "GRANT is not supported"),
        ("VACUUM", "VACUUM is not supported"),
        ("TRUNCATE t", "TRUNCATE is not supported"),
        ("COMMENT ON TABLE t IS 'x'", "COMMENT ON is not supported"),
        (
            "CREATE TEMP TABLE t (a int)",
            "CREATE TEMPORARY TABLE is not supported",
        ),
        ("CREATE INDEX i ON t (a)", "CREATE INDEX is not supported"),
        ("CREATE EXTENSION x", "CREATE EXTENSION is not supported"),
        (
            "INSERT INTO t VALUES (1) RETURNING a",
            "RETURNING is not supported",
        ),
        ("DELETE FROM t RETURNING a", "RETURNING is not supported"),
        (
            "ALTER TABLE t ADD COLUMN b int",
            "ALTER TABLE is not supported",
        ),
        ("SELECT * FROM t FOR UPDATE", "FOR UPDATE is not supported"),
    ] {
        let failure = rewritten(sql).err().unwrap_or_else(|| panic!("{sql}"));
        assert_eq!(
            (failure.sqlstate, failure.message.as_str()),
            ("0A000", message),
            "{sql}"
        );
    }
}
