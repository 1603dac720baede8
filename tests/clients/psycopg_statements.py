"""psycopg 3: command tags, errors with their SQLSTATE and position, shapes of results, transactions and settings.

| line of the table of what failed before | probes |
|---|---|
| DDL/UPDATE tags | tags, create_table_as_tag |
| MOVE, SAVEPOINT, DISCARD ALL, RESET ALL, LISTEN .. set_config | statement_*, savepoint_*, discard_all, reset_all, set_config |
| ROLLBACK keeps inserted rows; 25P01 for 25P02 | rollback_is_honest, in_failed_transaction |
| SHOW of anything, SET errors swallowed | show_unknown, set_unknown, set_bad_value, set_time_zone |
| errors are always XX000 | error_* |
| COPY .. STORED AS, CREATE EXTERNAL TABLE | external_tables |
"""

import psycopg

from probes import SERVER, Failed, add, holds, probe, refused, same, works_or_refused

IDLE, ACTIVE, INTRANS, INERROR = (psycopg.pq.TransactionStatus[name] for name in ("IDLE", "ACTIVE", "INTRANS", "INERROR"))


def notices(connection):
    """Fills with (severity, SQLSTATE, message) as notices arrive."""
    seen = []
    connection.add_notice_handler(lambda d: seen.append((d.severity_nonlocalized or d.severity, d.sqlstate, d.message_primary)))
    return seen


# ---- tags

@probe
def tags():
    with SERVER.connect() as c:
        c.execute("DROP TABLE IF EXISTS tagged")
        for sql, tag, count in [
            ("CREATE TABLE tagged (a BIGINT, b TEXT)", "CREATE TABLE", -1),
            ("INSERT INTO tagged VALUES (1, 'x'), (2, 'y'), (3, 'z')", "INSERT 0 3", 3),
            ("INSERT INTO tagged SELECT id, body FROM posts WHERE id < 6", "INSERT 0 5", 5),
            ("UPDATE tagged SET b = 'w' WHERE a = 1", "UPDATE 2", 2),
            ("UPDATE tagged SET b = 'w' WHERE a = 99", "UPDATE 0", 0),
            ("DELETE FROM tagged WHERE a = 2", "DELETE 2", 2),
            ("SELECT * FROM tagged", "SELECT 6", 6),
            ("SELECT * FROM tagged WHERE a > 99", "SELECT 0", 0),
            ("CREATE VIEW tagged_view AS SELECT a FROM tagged", "CREATE VIEW", -1),
            ("DROP VIEW tagged_view", "DROP VIEW", -1),
            ("SET application_name = 'x'", "SET", -1),
            ("RESET application_name", "RESET", -1),
            ("SHOW application_name", "SHOW", None),
            ("BEGIN", "BEGIN", -1),
            ("COMMIT", "COMMIT", -1),
            ("START TRANSACTION", "START TRANSACTION", -1),
            ("ROLLBACK", "ROLLBACK", -1),
            ("DEALLOCATE ALL", "DEALLOCATE ALL", -1),
            ("DISCARD ALL", "DISCARD ALL", -1),
            ("EXPLAIN SELECT 1", "EXPLAIN", None),
            ("DROP TABLE tagged", "DROP TABLE", -1),
        ]:
            cursor = c.execute(sql)
            same(cursor.statusmessage, tag, sql)
            if count is not None:
                same(cursor.rowcount, count, sql)
            holds((cursor.description is None) == (not sql.startswith(("SELECT", "SHOW", "EXPLAIN"))), f"{sql}: {cursor.description}")


@probe
def create_table_as_tag():
    with SERVER.connect() as c:
        c.execute("DROP TABLE IF EXISTS made")
        cursor = c.execute("CREATE TABLE made AS SELECT id FROM posts WHERE id < 4")
        holds(cursor.description is None, "CREATE TABLE AS has a result")
        same(cursor.statusmessage, "SELECT 3")
        same(c.execute("SELECT count(*) FROM made").fetchone(), (3,))
        c.execute("DROP TABLE made")


@probe
def create_if_not_exists():
    with SERVER.connect() as c:
        seen = notices(c)
        c.execute("CREATE TABLE IF NOT EXISTS posts (id BIGINT)")
        same(c.execute("SELECT count(*) FROM posts").fetchone(), (20000,))
        same([one[:2] for one in seen], [("NOTICE", "42P07")])
        c.execute("DROP TABLE IF EXISTS never_was")
        same([one[:2] for one in seen[1:]], [("NOTICE", "00000")])


# ---- errors: name, statement, SQLSTATE(s), the word that the position points at

ERRORS = [
    ("syntax", "SELEC 1", "42601", "SELEC"),
    ("syntax_late", "SELECT id FROM posts\nWHERE id = = 1", "42601", "= 1"),
    ("syntax_end", "SELECT id FROM", "42601", None),
    ("unterminated", "SELECT 'abc", "42601", None),
    ("column", "SELECT id, nope FROM posts", "42703", "nope"),
    ("column_in_where", "SELECT id FROM posts WHERE é = 1 AND nope = 1", "42703", "é"),
    ("column_of_alias", "SELECT p.nope FROM posts p", "42703", "p.nope"),
    ("alias", "SELECT q.id FROM posts p", "42P01", "q.id"),
    ("table", "SELECT * FROM nope", "42P01", "nope"),
    ("schema", "SELECT * FROM nope.posts", "42P01", "nope.posts"),
    ("function", "SELECT nope(1)", "42883", "nope"),
    ("function_arguments", "SELECT sqrt('a', 'b', 'c')", "42883", "sqrt"),
    ("operator", "SELECT true + 1", "42883", None),
    ("division", "SELECT 1 / (id - id) FROM posts", "22012", None),
    ("cast_integer", "SELECT CAST('x' AS INT)", "22P02", None),
    ("cast_in_table", "SELECT CAST(body AS BIGINT) FROM posts", "22P02", None),
    ("out_of_range", "SELECT CAST(id * 10000000 AS INT) FROM posts", "22003", None),
    ("overflow", "SELECT 9223372036854775807 + id FROM posts", "22003", None),
    ("timestamp", "SELECT CAST(body AS TIMESTAMP) FROM posts", ("22007", "22008"), None),
    ("grouping", "SELECT id, count(*) FROM posts", "42803", "id"),
    ("ambiguous", "SELECT id FROM posts a, posts b", "42702", "id"),
    ("not_boolean", "SELECT 1 FROM posts WHERE body || 'x'", "42804", None),
    ("table_exists", "CREATE TABLE posts (a INT)", "42P07", None),
    ("drop_table", "DROP TABLE nope", "42P01", None),
    ("drop_view", "DROP VIEW nope", "42P01", None),
    ("insert_column", "INSERT INTO lab (id, nope) VALUES (1, 2)", "42703", None),
    ("insert_twice", "INSERT INTO lab (id, id) VALUES (1, 2)", "42701", None),
    ("insert_too_many", "INSERT INTO lab VALUES (1, 'a', 3)", "42601", None),
    ("union_columns", "SELECT 1, 2 UNION SELECT 1", "42601", None),
    ("subquery_rows", "SELECT (SELECT id FROM posts)", "21000", None),
    ("execute", "EXECUTE nope", "26000", None),
    ("deallocate", "DEALLOCATE nope", "26000", None),
    ("fetch", "FETCH 1 FROM nope", "34000", None),
    ("move", "MOVE 1 FROM nope", "34000", None),
    ("close", "CLOSE nope", "34000", None),
    ("limit", "SELECT id FROM posts LIMIT -1", "2201W", None),
    ("regexp", "SELECT body ~ '(' FROM posts", "2201B", None),
    ("parameter", "SELECT $1", "42P02", None),
    ("copy_table", "COPY nope TO STDOUT", "42P01", None),
    ("copy_option", "COPY posts TO STDOUT (nope true)", "42601", None),
]


def check_error(sql, wanted, word):
    for extended in (False, True):
        with SERVER.connect() as c:
            if extended:
                if "$1" in sql or sql.startswith("COPY"):
                    continue
                error = refused(wanted, lambda: c.execute(sql, (), prepare=True).fetchall())
            else:
                error = refused(wanted, lambda: psycopg.ClientCursor(c).execute(sql).fetchall())
            at = error.diag.statement_position
            if word:
                holds(at and sql[int(at) - 1:].startswith(word), f"position {at}, not that of {word!r}: {error.diag.message_primary}")
            holds(error.diag.message_primary and error.diag.severity == "ERROR", "no message")
            same(c.execute("SELECT 1").fetchone(), (1,), "the next statement")


for name, sql, wanted, word in ERRORS:
    add(f"error_{name}", lambda sql=sql, wanted=wanted, word=word: check_error(sql, wanted, word))


@probe(only_ours=True)
def error_policy():
    with SERVER.connect() as c:
        error = refused("42704", lambda: c.execute("SELECT safeguard_classify('hats', body) FROM posts LIMIT 1").fetchall())
        holds("hate" in (error.diag.message_hint or ""), f"hint {error.diag.message_hint!r}")


@probe(only_ours=True)
def files_outside_the_roots():
    with SERVER.connect() as c:
        for sql in ["COPY lab FROM '/etc/passwd'", "COPY posts TO '/tmp/safeguard-posts.csv'",
                    "COPY (SELECT 1) TO '../x.csv'", "COPY posts TO PROGRAM 'cat'",
                    "CREATE EXTERNAL TABLE e (a TEXT) STORED AS CSV LOCATION '/etc/passwd'",
                    "CREATE EXTERNAL TABLE e (a TEXT) STORED AS CSV LOCATION 'file:///etc/passwd'",
                    "SELECT * FROM '/etc/passwd'"]:
            refused(("42501", "0A000", "42P01"), lambda: c.execute(sql))


@probe(only_ours=True)
def external_tables():
    with SERVER.connect() as c:
        def parquet():
            c.execute("COPY (SELECT id, body FROM posts WHERE id < 100) TO 'probe.parquet' STORED AS PARQUET")
            c.execute("CREATE EXTERNAL TABLE probe_parquet STORED AS PARQUET LOCATION 'probe.parquet'")
            same(c.execute("SELECT count(*) FROM probe_parquet").fetchone(), (99,))
            c.execute("DROP TABLE probe_parquet")

        def csv():
            c.execute("COPY (SELECT id, body FROM posts WHERE id < 100) TO 'probe.csv' STORED AS CSV OPTIONS ('format.has_header' 'true')")
            c.execute("CREATE EXTERNAL TABLE probe_csv (id BIGINT, body TEXT) STORED AS CSV LOCATION 'probe.csv' OPTIONS ('format.has_header' 'true')")
            same(c.execute("SELECT count(*) FROM probe_csv WHERE body LIKE 'post%'").fetchone(), (99,))
            c.execute("DROP TABLE probe_csv")

        parquet()
        csv()


# ---- statements that work or are refused as what they are

STATEMENTS = [
    ("listen", "LISTEN channel"), ("unlisten", "UNLISTEN *"), ("notify", "NOTIFY channel, 'x'"),
    ("comment", "COMMENT ON TABLE lab IS 'labels'"), ("grant", "GRANT SELECT ON posts TO PUBLIC"),
    ("revoke", "REVOKE SELECT ON posts FROM PUBLIC"), ("vacuum", "VACUUM lab"), ("analyze", "ANALYZE lab"),
    ("truncate", "TRUNCATE lab"), ("temp_table", "CREATE TEMP TABLE temporary_one (a INT)"),
    ("returning", "INSERT INTO lab VALUES (1, 'x') RETURNING id"), ("delete_returning", "DELETE FROM lab RETURNING id"),
    ("on_conflict", "INSERT INTO lab VALUES (1, 'x') ON CONFLICT DO NOTHING"),
    ("collate", "SELECT body COLLATE \"C\" FROM posts ORDER BY body COLLATE \"C\" LIMIT 1"),
    ("lock", "BEGIN; LOCK TABLE lab; COMMIT"), ("checkpoint", "CHECKPOINT"), ("do", "DO $$ BEGIN END $$"),
    ("index", "CREATE INDEX ON lab (id)"), ("sequence", "CREATE SEQUENCE probe_sequence"),
    ("alter_table", "ALTER TABLE lab ADD COLUMN extra INT"), ("for_update", "SELECT id FROM posts WHERE id = 1 FOR UPDATE"),
    ("reindex", "REINDEX TABLE lab"), ("create_role", "CREATE ROLE probe_role"), ("two_phase", "COMMIT PREPARED 'x'"),
    ("jsonb_arrow", "SELECT '{\"a\": 1}'::jsonb -> 'a'"), ("advisory", "SELECT pg_advisory_unlock_all()"),
    ("set_role", "SET ROLE NONE"), ("set_session_authorization", "SET SESSION AUTHORIZATION DEFAULT"),
    ("grouping_sets", "SELECT author, count(*) FROM posts GROUP BY ROLLUP (author)"),
    ("merge", "MERGE INTO lab USING posts ON lab.id = posts.id WHEN MATCHED THEN DELETE"),
]


def check_statement(sql):
    with SERVER.connect() as c:
        c.execute("BEGIN") if not sql.startswith(("VACUUM", "BEGIN", "CHECKPOINT", "COMMIT", "REINDEX")) else None
        works_or_refused(lambda: c.execute(sql), ("0A000", "42704" if "PREPARED" in sql or "CREATE ROLE" in sql else "0A000", "55000"))
        c.execute("ROLLBACK")
        same(c.execute("SELECT 1").fetchone(), (1,), "the next statement")
        # What a ROLLBACK did not undo is no other probe's business.
        c.execute("DROP TABLE lab")
        c.execute("CREATE TABLE lab (id BIGINT, label TEXT)")


for name, sql in STATEMENTS:
    add(f"statement_{name}", lambda sql=sql: check_statement(sql))


# ---- shapes of results

@probe
def empty_query():
    with SERVER.connect() as c:
        for sql in ("", ";", "  -- nothing\n", "/* nothing */"):
            cursor = c.execute(sql)
            same((cursor.statusmessage, cursor.description), (None, None), repr(sql))
        holds(c.pgconn.exec_params(b"", None).status == psycopg.pq.ExecStatus.EMPTY_QUERY, "extended")


@probe
def many_statements_in_one_query():
    with SERVER.connect() as c:
        cursor = psycopg.ClientCursor(c)
        cursor.execute("SELECT 1 AS a; SELECT 'x;y' AS b, 2 /* ; */ AS c; SET application_name = 'several'; SELECT 3")
        found = [(cursor.statusmessage, cursor.fetchall() if cursor.description else None)]
        while cursor.nextset():
            found.append((cursor.statusmessage, cursor.fetchall() if cursor.description else None))
        same(found, [("SELECT 1", [(1,)]), ("SELECT 1", [("x;y", 2)]), ("SET", None), ("SELECT 1", [(3,)])])
        # An error ends the rest.
        refused("22012", lambda: psycopg.ClientCursor(c).execute("SELECT 1; SELECT 1 / 0; SET application_name = 'after'"))
        same(c.execute("SHOW application_name").fetchone(), ("several",))
        refused("42601", lambda: c.execute("SELECT %s::int; SELECT 2", (1,)))


@probe
def many_columns():
    with SERVER.connect() as c:
        sql = "SELECT " + ", ".join(f"id + {at} AS c{at}" for at in range(200)) + " FROM posts WHERE id <= 10 ORDER BY id"
        for binary in (False, True):
            rows = c.cursor(binary=binary).execute(sql).fetchall()
            same(rows[9], tuple(10 + at for at in range(200)))


@probe
def a_megabyte_in_a_cell():
    with SERVER.connect() as c:
        for binary in (False, True):
            found = c.cursor(binary=binary).execute("SELECT repeat('0123456789abcdef', 65536) AS big, 7 AS seven FROM posts WHERE id < 4").fetchall()
            same(found, [("0123456789abcdef" * 65536, 7)] * 3)


@probe
def unicode():
    with SERVER.connect() as c:
        c.execute('CREATE TABLE "Größe 😀" ("a b" TEXT, "日本" BIGINT)')
        try:
            c.execute('INSERT INTO "Größe 😀" VALUES (%s, 1)', ("𝔘𝔫𝔦 \u200b‮ العربية",))
            cursor = c.execute('SELECT "a b", "日本" FROM "Größe 😀"')
            same([column.name for column in cursor.description], ["a b", "日本"])
            same(cursor.fetchone(), ("𝔘𝔫𝔦 \u200b‮ العربية", 1))
        finally:
            c.execute('DROP TABLE "Größe 😀"')
        raw = c.pgconn.exec_(b"SELECT '\xff'")
        same(raw.error_field(psycopg.pq.DiagnosticField.SQLSTATE), b"22021", "bytes that are not UTF-8")
        same(c.execute("SELECT 1").fetchone(), (1,))


@probe
def no_columns_and_values():
    with SERVER.connect() as c:
        same(c.execute("VALUES (1, 'a'), (2, 'b')").fetchall(), [(1, "a"), (2, "b")])
        same(c.execute("TABLE lab").fetchall(), [])
        same(c.execute("WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT sum(i)::bigint FROM n").fetchone(), (15,))
        same(c.execute("SELECT DISTINCT ON (author) author, id FROM posts ORDER BY author, id LIMIT 2").fetchall(), [(0, 7), (1, 1)])


# ---- transactions

@probe
def transaction_status():
    with SERVER.connect() as c:
        for sql, status in [("SELECT 1", IDLE), ("BEGIN", INTRANS), ("SELECT 1", INTRANS), ("SAVEPOINT a", INTRANS),
                            ("RELEASE SAVEPOINT a", INTRANS), ("COMMIT", IDLE), ("BEGIN", INTRANS), ("ROLLBACK", IDLE)]:
            c.execute(sql)
            same(c.info.transaction_status, status, sql)


@probe
def in_failed_transaction():
    with SERVER.connect(autocommit=False) as c:
        c.execute("SELECT 1")
        refused("42703", lambda: c.execute("SELECT nope FROM posts"))
        same(c.info.transaction_status, INERROR)
        refused("25P02", lambda: c.execute("SELECT 1"))
        refused("25P02", lambda: c.execute("SELECT %s", (1,)))
        refused("25P02", lambda: c.execute("SET application_name = 'x'"))
        c.rollback()
        same(c.execute("SELECT 2").fetchone(), (2,))
        refused("42601", lambda: c.execute("SELEC"))
        same(c.execute("COMMIT").statusmessage, "ROLLBACK", "COMMIT of a failed transaction")
        same(c.info.transaction_status, IDLE)


@probe
def savepoint_recovers():
    with SERVER.connect(autocommit=False) as c:
        with c.transaction():
            c.execute("SELECT 1")
            try:
                with c.transaction():
                    c.execute("SELECT nope FROM posts")
            except psycopg.errors.UndefinedColumn:
                pass
            same(c.execute("SELECT 3").fetchone(), (3,))
        same(c.info.transaction_status, IDLE)


@probe
def savepoint_errors():
    with SERVER.connect() as c:
        refused("25P01", lambda: c.execute("SAVEPOINT a"))
        refused("25P01", lambda: c.execute("ROLLBACK TO SAVEPOINT a"))
        c.execute("BEGIN")
        refused("3B001", lambda: c.execute("ROLLBACK TO SAVEPOINT nope"))
        c.execute("ROLLBACK")
        c.execute("BEGIN")
        same(c.execute("SAVEPOINT a").statusmessage, "SAVEPOINT")
        refused("22012", lambda: c.execute("SELECT 1 / 0"))
        same(c.execute("ROLLBACK TO SAVEPOINT a").statusmessage, "ROLLBACK")
        same(c.execute("RELEASE SAVEPOINT a").statusmessage, "RELEASE")
        refused("3B001", lambda: c.execute("RELEASE SAVEPOINT a"))
        c.execute("ROLLBACK")


@probe
def warnings_about_transactions():
    with SERVER.connect() as c:
        seen = notices(c)
        for sql, wanted in [("COMMIT", "25P01"), ("ROLLBACK", "25P01"), ("BEGIN", None), ("BEGIN", "25001"), ("COMMIT", None),
                            ("SET LOCAL application_name = 'x'", "25P01")]:
            before = len(seen)
            c.execute(sql)
            same([one[:2] for one in seen[before:]], [("WARNING", wanted)] if wanted else [], sql)


@probe
def rollback_is_honest():
    """What ROLLBACK cannot undo it undoes, or somebody is told."""
    for rollback in ("ROLLBACK", "ROLLBACK TO SAVEPOINT a"):
        for write in ("INSERT INTO lab VALUES (12345, 'kept?')", "CREATE TABLE kept (a INT)"):
            with SERVER.connect() as c:
                c.execute("DELETE FROM lab")
                c.execute("DROP TABLE IF EXISTS kept")
                seen = notices(c)
                c.execute("BEGIN")
                c.execute("SAVEPOINT a")
                if not works_or_refused(lambda: c.execute(write)):
                    continue
                c.execute(rollback)
                c.execute("ROLLBACK")
                kept = c.execute("SELECT count(*) FROM lab").fetchone()[0] or c.execute(
                    "SELECT count(*) FROM information_schema.tables WHERE table_name = 'kept'").fetchone()[0]
                holds(not kept or any(one[0] == "WARNING" for one in seen), f"{rollback} kept the rows of {write} and said nothing")
                c.execute("DELETE FROM lab")
                c.execute("DROP TABLE IF EXISTS kept")


@probe(only_ours=True)
def rollback_after_a_write_warns():
    with SERVER.connect(autocommit=False) as c:
        seen = notices(c)
        c.execute("INSERT INTO lab VALUES (1, 'x')")
        c.rollback()
        holds(any(one[0] == "WARNING" for one in seen), f"no WARNING: {seen}")
        before = len(seen)
        c.execute("SELECT 1")
        c.rollback()
        same(seen[before:], [], "after reading only")
        c.execute("DELETE FROM lab")
        c.commit()


@probe
def read_only_transaction():
    with SERVER.connect(autocommit=False) as c:
        c.read_only = True
        c.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        same(c.execute("SHOW transaction_isolation").fetchone(), ("serializable",))
        same(c.execute("SHOW transaction_read_only").fetchone(), ("on",))
        refused("25006", lambda: c.execute("INSERT INTO lab VALUES (1, 'x')"))
        c.rollback()
        refused("25006", lambda: c.execute("CREATE TABLE never (a INT)"))
        c.rollback()


# ---- settings

@probe
def set_and_show():
    with SERVER.connect() as c:
        c.execute("SET application_name = 'a client''s'")
        same(c.execute("SHOW application_name").fetchone(), ("a client's",))
        same(c.execute("SELECT current_setting('application_name')").fetchone(), ("a client's",))
        same(c.info.parameter_status("application_name"), "a client's")
        same([column.name for column in c.execute("SHOW application_name").description], ["application_name"])
        c.execute("SET application_name TO DEFAULT")
        same(c.execute("SHOW application_name").fetchone(), ("",))
        c.execute("SET statement_timeout = 1500")
        same(c.execute("SHOW statement_timeout").fetchone(), ("1500ms",))
        c.execute("SET statement_timeout = '2min'")
        same(c.execute("SHOW statement_timeout").fetchone(), ("2min",))
        c.execute("SET SESSION search_path TO public, pg_catalog")
        same(c.execute("SHOW search_path").fetchone(), ("public, pg_catalog",))
        same(c.execute("SELECT current_schema()").fetchone(), ("public",))
        c.execute("SET extra_float_digits = 3")
        c.execute("SET client_min_messages TO warning")
        c.execute("SET standard_conforming_strings = on")
        c.execute("SET client_encoding TO 'UTF8'")
        c.execute("SET NAMES 'UTF8'")
        c.execute("SET DateStyle TO 'ISO, MDY'")
        c.execute("SET intervalstyle = 'postgres'")
        c.execute("SET lock_timeout = 0")
        c.execute("SET idle_in_transaction_session_timeout = 0")
        c.execute("SET row_security = off")
        c.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        same(c.execute("SHOW default_transaction_read_only").fetchone(), ("on",))
        same(c.execute("SHOW TRANSACTION ISOLATION LEVEL").fetchone(), ("read committed",))
        same(c.execute("SHOW server_encoding").fetchone(), ("UTF8",))
        holds(len(c.execute("SHOW ALL").fetchall()) > 20, "SHOW ALL is short")


@probe
def set_unknown():
    with SERVER.connect() as c:
        refused("42704", lambda: c.execute("SET no_such_setting = 1"))
        refused("42704", lambda: c.execute("RESET no_such_setting"))
        refused("42704", lambda: c.execute("SELECT set_config('no_such_setting', '1', false)"))


@probe
def show_unknown():
    with SERVER.connect() as c:
        refused("42704", lambda: c.execute("SHOW no_such_setting"))
        refused("42704", lambda: c.execute("SELECT current_setting('no_such_setting')"))
        same(c.execute("SELECT current_setting('no_such_setting', true)").fetchone(), (None,))


@probe
def set_bad_value():
    with SERVER.connect() as c:
        for sql in ["SET statement_timeout = 'soon'", "SET statement_timeout = -5", "SET TIME ZONE 'Nowhere/Nope'",
                    "SET client_encoding = 'nope'", "SET DateStyle = 'nope'", "SET standard_conforming_strings = 'maybe'"]:
            refused("22023", lambda: c.execute(sql))
        refused("55P02", lambda: c.execute("SET server_version = '9'"))


@probe
def set_time_zone():
    with SERVER.connect() as c:
        for sql in ("SET TIME ZONE 'America/New_York'", "SET TimeZone TO 'America/New_York'", "SET timezone = 'America/New_York'"):
            c.execute("RESET TimeZone")
            c.execute(sql)
            same(c.execute("SHOW TimeZone").fetchone(), ("America/New_York",), sql)
            same(c.execute("SHOW TIME ZONE").fetchone(), ("America/New_York",), sql)
            same(c.info.parameter_status("TimeZone"), "America/New_York", sql)
        holds(str(c.execute("SELECT now()").fetchone()[0].tzinfo) == "America/New_York", "now() is of another zone")


@probe
def set_local():
    with SERVER.connect() as c:
        c.execute("SET application_name = 'outer'")
        c.execute("BEGIN")
        c.execute("SET LOCAL application_name = 'inner'")
        same(c.execute("SHOW application_name").fetchone(), ("inner",))
        c.execute("COMMIT")
        same(c.execute("SHOW application_name").fetchone(), ("outer",))
        c.execute("BEGIN")
        c.execute("SET application_name = 'gone'")
        c.execute("ROLLBACK")
        same(c.execute("SHOW application_name").fetchone(), ("outer",), "SET in a transaction that is rolled back")
        same(c.info.parameter_status("application_name"), "outer")


@probe
def set_config():
    with SERVER.connect() as c:
        same(c.execute("SELECT set_config('application_name', 'by function', false)").fetchone(), ("by function",))
        same(c.execute("SHOW application_name").fetchone(), ("by function",))
        c.execute("SELECT set_config('my.custom', 'x', false)")
        same(c.execute("SELECT current_setting('my.custom')").fetchone(), ("x",))
        c.execute("SET my.custom = 'y'")
        same(c.execute("SHOW my.custom").fetchone(), ("y",))


@probe
def reset_all():
    with SERVER.connect() as c:
        c.execute("SET application_name = 'x'")
        c.execute("SET TIME ZONE 'Asia/Tokyo'")
        zone = SERVER.connect().execute("SHOW TimeZone").fetchone()
        same(c.execute("RESET ALL").statusmessage, "RESET")
        same(c.execute("SHOW application_name").fetchone(), ("",))
        same(c.execute("SHOW TimeZone").fetchone(), zone)


@probe
def discard_all():
    with SERVER.connect() as c:
        c.execute("SET application_name = 'x'")
        c.execute("PREPARE gone AS SELECT 1")
        c.execute("DISCARD ALL")
        same(c.execute("SHOW application_name").fetchone(), ("",))
        refused("26000", lambda: c.execute("EXECUTE gone"))
        c.execute("BEGIN")
        refused("25001", lambda: c.execute("DISCARD ALL"))
        c.execute("ROLLBACK")


@probe
def connection_options():
    with psycopg.connect(SERVER.dsn + " application_name=probe options='-c statement_timeout=1234 -c TimeZone=Asia/Tokyo'", autocommit=True) as c:
        same(c.execute("SHOW application_name").fetchone(), ("probe",))
        same(c.execute("SHOW statement_timeout").fetchone(), ("1234ms",))
        same(c.info.parameter_status("TimeZone"), "Asia/Tokyo")
        c.execute("SET statement_timeout = 0")
        c.execute("RESET ALL")
        same(c.execute("SHOW statement_timeout").fetchone(), ("1234ms",), "what the client began with")


@probe
def parameter_status():
    with SERVER.connect() as c:
        for name, wanted in [("client_encoding", "UTF8"), ("server_encoding", "UTF8"), ("integer_datetimes", "on"),
                             ("standard_conforming_strings", "on"), ("DateStyle", "ISO, MDY"), ("IntervalStyle", "postgres"),
                             ("session_authorization", SERVER.user)]:
            same(c.info.parameter_status(name), wanted, name)
        for name in ("server_version", "TimeZone", "is_superuser", "application_name", "default_transaction_read_only", "in_hot_standby"):
            holds(c.info.parameter_status(name) is not None, f"no {name}")
        holds(c.info.server_version >= 150000, c.info.server_version)
        holds(c.execute("SELECT version()").fetchone()[0].startswith("PostgreSQL 1"), "version()")
        holds(c.info.backend_pid > 0 and c.execute("SELECT pg_backend_pid()").fetchone()[0] == c.info.backend_pid, "backend_pid")


@probe
def session_functions():
    with SERVER.connect() as c:
        row = c.execute("SELECT current_user, current_database(), current_schema(), pg_is_in_recovery(), "
                        "inet_server_port() > 0, txid_current() > 0, pg_postmaster_start_time() < now(), "
                        "to_regtype('integer')::text, to_regtype('nope'), pg_client_encoding()").fetchone()
        same(row, (SERVER.user, SERVER.db, "public", False, True, True, True, "integer", None, "UTF8"))


@probe
def two_clients_keep_their_settings():
    with SERVER.connect() as one, SERVER.connect() as two:
        one.execute("SET TIME ZONE 'Asia/Tokyo'")
        two.execute("SET TIME ZONE 'Europe/Berlin'")
        one.execute("SET application_name = 'one'")
        same(two.execute("SHOW application_name").fetchone(), ("",))
        sql = "SELECT CAST(CAST('2026-01-01 00:00:00+00' AS TIMESTAMP WITH TIME ZONE) AS TEXT)"
        same((one.execute(sql).fetchone(), two.execute(sql).fetchone()), (("2026-01-01 09:00:00+09",), ("2026-01-01 01:00:00+01",)))
        one.execute("PREPARE mine AS SELECT 1")
        refused("26000", lambda: two.execute("EXECUTE mine"))


@probe(only_ours=True)
def two_clients_keep_their_mode():
    with SERVER.connect() as one, SERVER.connect() as two:
        one.execute("SET safeguard.mode = 'score'")
        two.execute("SET safeguard.mode = 'reason'")
        same((one.execute("SHOW safeguard.mode").fetchone(), two.execute("SHOW safeguard.mode").fetchone()), (("score",), ("reason",)))
        sql = "SELECT (safeguard_verdict('keywords', 'two clients, one row')).stage"
        same((one.execute(sql).fetchone(), two.execute(sql).fetchone()), (("score",), ("reason",)))
        refused("22023", lambda: one.execute("SET safeguard.mode = 'nonsense'"))
        refused("42704", lambda: one.execute("SET safeguard.nonsense = 'x'"))
        one.execute("RESET ALL")
        same(one.execute("SHOW safeguard.mode").fetchone(), ("auto",))
        same(two.execute("SHOW safeguard.mode").fetchone(), ("reason",))


@probe(only_ours=True)
def closing_notice():
    with SERVER.connect() as c:
        seen = notices(c)
        c.execute("SELECT count(safeguard_classify('hate', body || ' closing')) FROM posts WHERE id <= 20").fetchone()
        holds(any(one[2].startswith("safeguard: 20 rows") for one in seen), seen)


@probe
def table_names_are_in_the_catalog():
    with SERVER.connect() as c:
        same(c.execute("SELECT relname, relkind::text FROM pg_catalog.pg_class WHERE relname = 'posts'").fetchall(), [("posts", "r")])
        same(c.execute("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'lab' ORDER BY ordinal_position").fetchall(),
             [("id", "bigint"), ("label", "text")])
        found = c.execute("SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = 'posts'::regclass "
                          "AND a.attnum > 0 ORDER BY a.attnum").fetchall()
        same(found, [("id", "bigint"), ("author", "bigint"), ("body", "text"), ("created_at", "timestamp without time zone")])
        holds(c.execute("SELECT usename, application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()").fetchall(), "pg_stat_activity")
