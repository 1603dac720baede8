"""psql 15 against the server, as a person types: psql is run with a script on its standard input.

| line of the table of what failed before | probes |
|---|---|
| `\\d+ \\df \\dT \\du \\dp \\z \\db \\sf` | describe_* |
| `\\copy` | copy_in_and_out, copy_binary, copy_errors |
| DDL/UPDATE tags | tags |
| cancel | cancel_by_interrupt |
| select current_user, session_user | session_user |
"""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from probes import PAIRS, SERVER, STOP_SECONDS, add, holds, main, probe, same, slow, within

PSQL = os.environ.get("PSQL", "psql")
ENVIRONMENT = {**os.environ, "PGAPPNAME": "psql", "PAGER": "", "PSQL_PAGER": "", "LC_ALL": "C.UTF-8", "PGTZ": "UTC"}


def command(*arguments):
    return [PSQL, "-X", "-h", SERVER.host, "-p", str(SERVER.port), "-U", SERVER.user, "-d", SERVER.db, *arguments]


def psql(script, *arguments, status=0):
    """Standard output and error of a script."""
    done = subprocess.run(command(*arguments), input=script, capture_output=True, text=True, env=ENVIRONMENT, timeout=50)
    holds(done.returncode == status, f"exit {done.returncode}, not {status}: {done.stdout[-200:]} {done.stderr[-300:]}")
    return done.stdout, done.stderr


def output(script, *arguments):
    """Standard output of a script that raises no error and no warning."""
    out, errors = psql(script, "-v", "ON_ERROR_STOP=1", "-q", *arguments)
    same(errors, "", "stderr")
    return out


@probe
def select_aligned():
    same(output("SELECT id, body, NULL AS nothing, created_at FROM posts ORDER BY id LIMIT 2;"),
         " id |     body      | nothing |     created_at      \n"
         "----+---------------+---------+---------------------\n"
         "  1 | post number 1 |         | 2026-01-01 00:01:00\n"
         "  2 | post number 2 |         | 2026-01-01 00:02:00\n(2 rows)\n\n")


@probe
def forms():
    sql = "SELECT id, body FROM posts WHERE id = 3"
    same(output(sql + ";", "-At"), "3|post number 3\n")
    same(output(sql + "\\gx"), "-[ RECORD 1 ]-------\nid   | 3\nbody | post number 3\n\n")
    same(output("\\x on\n" + sql + ";", "--csv"), "id,3\nbody,post number 3\n")
    same(output(sql + ";", "--csv"), "id,body\n3,post number 3\n")
    same(output("\\pset format html\n" + sql + ";", "-t").count("<td"), 2)
    same(output("SELECT 1 AS a \\; SELECT 2 AS b;", "-At"), "1\n2\n")
    same(output("\\pset null '(null)'\nSELECT NULL, NULL;", "-At"), "(null)|(null)\n")
    same(output("SELECT i % 2 AS p, i AS q, i * 10 AS r FROM generate_series(1, 2) AS s(i) ORDER BY i \\crosstabview p q r\n", "-At"), "1|10|\n0||20\n")


@probe
def values():
    same(output("SELECT CAST(1.5 AS DOUBLE PRECISION), CAST('2.50' AS NUMERIC(5,2)), true, DATE '2026-01-02', decode('00ff', 'hex'), "
                "CAST('2026-02-03 04:05:06+02:00' AS TIMESTAMP WITH TIME ZONE), INTERVAL '1 day 2 hours', ARRAY['a b', NULL], 'é😀';", "-At"),
         "1.5|2.50|t|2026-01-02|\\x00ff|2026-02-03 02:05:06+00|1 day 02:00:00|{\"a b\",NULL}|é😀\n")
    same(output("SET TIME ZONE 'Europe/Berlin';\nSELECT CAST('2026-07-03 04:05:06+00' AS TIMESTAMP WITH TIME ZONE);", "-At"), "2026-07-03 06:05:06+02\n")


@probe
def tags():
    out, _ = psql("CREATE TABLE psql_made (a BIGINT, b TEXT);\nINSERT INTO psql_made VALUES (1, 'x'), (2, 'y');\nUPDATE psql_made SET b = 'z';\n"
                  "DELETE FROM psql_made WHERE a = 1;\nBEGIN;\nSAVEPOINT s;\nRELEASE s;\nCOMMIT;\nSET statement_timeout = 0;\nDROP TABLE psql_made;\n",
                  "-v", "ON_ERROR_STOP=1")
    same(out.splitlines(), ["CREATE TABLE", "INSERT 0 2", "UPDATE 2", "DELETE 1", "BEGIN", "SAVEPOINT", "RELEASE", "COMMIT", "SET", "DROP TABLE"])


@probe
def session_user():
    same(output("SELECT current_user, session_user, user;", "-At"), f"{SERVER.user}|{SERVER.user}|{SERVER.user}\n")
    holds(f'You are connected to database "{SERVER.db}" as user "{SERVER.user}"' in output("\\conninfo\n"), "conninfo")


# ---- backslash commands: what each says, in part

DESCRIBE = [
    ("tables", "\\dt", ["public | posts"], []), ("tables_more", "\\dt+", ["public | posts"], []), ("relations", "\\d", ["public | posts", "public | lab"], []),
    ("relations_more", "\\d+", ["public | posts"], []), ("table", "\\d posts", ["id ", "bigint", "timestamp without time zone"], []),
    ("table_more", "\\d+ posts", ["body", "text", "Storage"], []), ("every_type", "\\d kinds", ["numeric(12,3)", "bytea", "time without time zone", "timestamp with time zone", "real", "smallint"], []),
    ("pattern", "\\dt public.po*", ["posts"], ["kinds"]), ("views", "\\dv", [], []), ("views_of_catalog", "\\dv pg_catalog.pg_stat_activity", ["pg_stat_activity"], []),
    ("indexes", "\\di", [], []), ("sequences", "\\ds", [], []), ("materialized", "\\dm", [], []), ("schemas", "\\dn", ["public"], []),
    ("schemas_more", "\\dn+", ["public"], []), ("functions", "\\df pg_catalog.lower", ["lower"], []), ("functions_more", "\\df+ pg_catalog.lower", ["lower"], []),
    ("own_functions", "\\df", [], []), ("aggregates", "\\da pg_catalog.count", ["count"], []), ("types", "\\dT", [], []),
    ("types_of_catalog", "\\dT pg_catalog.int8", ["bigint"], []), ("roles", "\\du", [], []), ("roles_more", "\\dg+", [], []), ("privileges", "\\dp", ["posts"], []),
    ("privileges_z", "\\z posts", ["posts"], []), ("tablespaces", "\\db", [], []), ("databases", "\\l", [], []), ("databases_more", "\\l+", [], []),
    ("extensions", "\\dx", [], []), ("operators", "\\do pg_catalog.=", [], []), ("domains", "\\dD", [], []), ("default_privileges", "\\ddp", [], []),
    ("casts", "\\dC bigint", [], []), ("conversions", "\\dc", [], []), ("collations", "\\dO", [], []), ("comments", "\\dd", [], []), ("foreign_tables", "\\det", [], []),
    ("foreign_servers", "\\des", [], []), ("event_triggers", "\\dy", [], []), ("large_objects", "\\dl", [], []), ("settings_of_roles", "\\drds", [], []),
    ("text_search", "\\dF", [], []), ("languages", "\\dL", [], []), ("publications", "\\dRp", [], []), ("statistics", "\\dX", [], []),
    ("configuration", "\\dconfig TimeZone", ["TimeZone"], []), ("encoding", "\\encoding", ["UTF8"], []), ("nothing", "\\dt nope", [], []),
]


def check_describe(said, absent, text):
    out, errors = psql(text + "\n", "-v", "ON_ERROR_STOP=1")
    holds("ERROR" not in errors, errors)
    for word in said:
        holds(word in out, f"no {word!r} in {out!r}")
    for word in absent:
        holds(word not in out, f"{word!r} in {out!r}")


for name, text, said, absent in DESCRIBE:
    add(f"describe_{name}", lambda said=said, absent=absent, text=text: check_describe(said, absent, text))


@probe(only_ours=True)
def describe_our_functions():
    out = output("\\df safeguard*\n")
    holds("???" not in out, out)
    for name in ("safeguard_classify", "safeguard_violates", "safeguard_score", "safeguard_verdict", "safeguard_tokens"):
        holds(name in out, f"no {name} in {out!r}")
    out = output("\\df+ safeguard_classify\n")
    holds("policy" in out, "no description")


@probe(only_ours=True)
def describe_our_schema():
    out = output("\\dt safeguard.*\n\\d safeguard.verdicts\n")
    holds("verdicts" in out and "rationale" in out, out)


@probe
def show_function():
    """\\sf shows a function or says that there is none."""
    _, errors = psql("\\sf nope\n")
    holds('ERROR:  function "nope" does not exist' in errors, errors)


# ---- variables and flow

@probe
def variables():
    same(output("\\set n 7\n\\set w 'po''st'\nSELECT :n + 1, :'w', \"id\" FROM posts WHERE :\"c\" = :n;".replace(':"c"', "id"), "-At"), "8|po'st|7\n")
    same(output("SELECT max(id) AS most, 'x' AS word FROM posts \\gset my_\n\\echo :my_most :my_word\n"), "20000 x\n")
    same(output("SELECT 'SELECT 5 AS a' UNION ALL SELECT 'SELECT 6 AS a' ORDER BY 1 \\gexec\n", "-At"), "5\n6\n")
    same(output("\\if :{?nope}\n\\echo yes\n\\else\n\\echo no\n\\endif\nSELECT 1 < 2 AS less \\gset\n\\if :less\n\\echo less\n\\endif\n"), "no\nless\n")
    same(output("SELECT count(*) FROM posts;\n\\echo :ROW_COUNT :SQLSTATE :ERROR\n", "-At"), "20000\n1 00000 false\n")
    same(output("SELECT id, body AS text FROM posts \\gdesc\n", "-At"), "id|bigint\ntext|text\n")


@probe
def timing():
    holds("Time: " in output("\\timing on\nSELECT 1;", "-At"), "no time")


@probe
def fetch_count():
    same(output("\\set FETCH_COUNT 1000\nSELECT id FROM posts ORDER BY id;", "-At").splitlines(), [str(at) for at in range(1, 20001)])


@probe
def watch_is_a_loop_of_statements():
    started = subprocess.Popen(command("-At", "-q"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    started.stdin.write("SELECT 42 \\watch 0.01\n")
    started.stdin.flush()
    found = []
    while len(found) < 3:
        line = started.stdout.readline()
        if line.strip() == "42":
            found.append(line)
    started.kill()
    started.wait()


# ---- errors

@probe
def error_position():
    _, errors = psql("SELECT id,\n  nope\nFROM posts;\n")
    lines = errors.splitlines()
    holds(lines[0].startswith("ERROR:  "), errors)
    same(lines[-2:], ["LINE 2:   nope", "          ^"])


@probe
def error_verbose():
    _, errors = psql("\\set VERBOSITY verbose\nSELECT 1 / 0;\n")
    holds(errors.startswith("ERROR:  22012: "), errors)
    out, _ = psql("SELECT * FROM nope;\n\\echo :SQLSTATE :LAST_ERROR_SQLSTATE\n\\errverbose\n", "-q")
    same(out.splitlines()[0], "42P01 42P01")


@probe
def on_error_stop():
    out, errors = psql("SELECT 1;\nSELECT nope;\nSELECT 2;\n", "-At", "-v", "ON_ERROR_STOP=1", status=3)
    same(out, "1\n")
    out, errors = psql("SELECT 1;\nSELECT nope;\nSELECT 2;\n", "-At")
    same(out, "1\n2\n")
    out, errors = psql("", "-At", "-c", "SELECT 1", "-c", "SELECT nope", "-c", "SELECT 2", "-v", "ON_ERROR_STOP=1", status=1)
    same(out, "1\n")


@probe
def one_transaction():
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("SELECT 1;\nSELECT nope;\nSELECT 2;\n")
        script.flush()
        out, errors = psql("", "-At", "-1", "-v", "ON_ERROR_STOP=1", "-f", script.name, status=3)
        same(out, "1\n")
        out, errors = psql("", "-At", "-1", "-f", script.name)
        holds("current transaction is aborted" in errors, errors)
    same(output("\\set ON_ERROR_ROLLBACK on\nBEGIN;\nSELECT 1;\nCOMMIT;\n", "-At"), "1\n")


@probe
def prompt_knows_the_transaction():
    out, _ = psql("\\set PROMPT1 '%x'\nBEGIN;\nSELECT nope;\nROLLBACK;\n", "-v", "x=1")
    holds("BEGIN" in out and "ROLLBACK" in out, out)


@probe
def notices():
    out, errors = psql("DROP TABLE IF EXISTS never_there;\nCOMMIT;\n")
    lines = errors.splitlines()
    holds(len(lines) == 2 and lines[0].startswith("NOTICE:  ") and lines[1].startswith("WARNING:  "), errors)
    same(out, "DROP TABLE\nCOMMIT\n")


@probe(only_ours=True)
def closing_notice():
    _, errors = psql("SELECT count(safeguard_classify('hate', body || ' psql')) FROM posts WHERE id <= 10;\n")
    holds("NOTICE:  safeguard: 10 rows" in errors, errors)


# ---- \copy

ROWS = [(1, "plain"), (2, None), (3, "tab\tback\\slash"), (4, 'quote " comma ,'), (5, ""), (6, "é😀")]


@probe
def copy_in_and_out():
    with tempfile.TemporaryDirectory() as folder:
        for form, text in [("text", "1\tplain\n2\t\\N\n3\ttab\\tback\\\\slash\n4\tquote \" comma ,\n5\t\n6\té😀\n"),
                           ("csv", '1,plain\n2,\n3,"tab\tback\\slash"\n4,"quote "" comma ,"\n5,""\n6,é😀\n'.replace('"tab\tback\\slash"', "tab\tback\\slash"))]:
            source, target = Path(folder, f"in.{form}"), Path(folder, f"out.{form}")
            source.write_text(text)
            out, errors = psql(f"DELETE FROM lab;\n\\copy lab FROM '{source}' (FORMAT {form})\n\\copy (SELECT * FROM lab ORDER BY id) TO '{target}' (FORMAT {form})\n",
                               "-v", "ON_ERROR_STOP=1")
            same((out.splitlines()[1:], errors), (["COPY 6", "COPY 6"], ""))
            same(target.read_text(), text, form)
        same(output("SELECT count(*), count(label) FROM lab;", "-At"), "6|5\n")
        target = Path(folder, "header.csv")
        output(f"\\copy lab (label) TO '{target}' CSV HEADER\n")
        same(target.read_text().splitlines()[0], "label")


@probe
def copy_binary():
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder, "one.bin"), Path(folder, "two.bin")
        output(f"DELETE FROM lab;\nINSERT INTO lab VALUES (1, 'a'), (2, NULL);\n\\copy (SELECT * FROM lab ORDER BY id) TO '{one}' BINARY\nDELETE FROM lab;\n"
               f"\\copy lab FROM '{one}' (FORMAT binary)\n\\copy (SELECT * FROM lab ORDER BY id) TO '{two}' WITH (FORMAT binary)\n")
        same(one.read_bytes(), two.read_bytes())
        same(len(one.read_bytes()), 19 + 2 + 12 + 5 + 2 + 12 + 4 + 2)


@probe(only_ours=True)
def copy_gathered():
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder, "one"), Path(folder, "two")
        for form in ("text", "csv", "binary"):
            for target, more in ((one, ""), (two, ", GATHER")):
                output(f"\\copy (SELECT * FROM posts ORDER BY id) TO '{target}' (FORMAT {form}{more})\n")
            holds(one.read_bytes() == two.read_bytes(), form)
            holds(one.stat().st_size > 100_000, one.stat().st_size)


@probe
def copy_inline():
    out = output("DELETE FROM lab;\nCOPY lab FROM STDIN;\n1\tone\n2\ttwo\n\\.\nCOPY lab (id) FROM STDIN CSV;\n3\n\\.\nSELECT id, label FROM lab ORDER BY id;\nCOPY (SELECT 1, 'x y') TO STDOUT;\n", "-At")
    same(out, "1|one\n2|two\n3|\n1\tx y\n")


@probe
def copy_errors():
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "bad.csv")
        source.write_text("1,a\nx,b\n")
        _, errors = psql(f"DELETE FROM lab;\n\\copy lab FROM '{source}' CSV\nSELECT count(*) FROM lab;\n", "-At")
        holds(errors.startswith("ERROR:  ") and "line 2" in errors, errors)
        out, _ = psql(f"\\copy lab FROM '{source}' CSV\nSELECT count(*) FROM lab;\n", "-At")
        same(out, "0\n")


# ---- cancel and scripts

@probe
def cancel_by_interrupt():
    for sql in (slow("psql"), PAIRS):
        started = subprocess.Popen(command("-At"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        started.stdin.write(f"\\echo begun\n{sql};\nSELECT 'after';\n")
        started.stdin.close()
        same(started.stdout.readline(), "begun\n")
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            pass
        began = time.monotonic()
        started.send_signal(signal.SIGINT)
        out, errors = started.stdout.read(), started.stderr.read()
        started.wait(30)
        within(STOP_SECONDS, began, "the cancel")
        # psql gives up its script at an interrupt.
        holds("canceling statement due to user request" in errors, errors)


@probe
def file_of_statements():
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("-- a comment\nCREATE TABLE psql_file (a BIGINT, b TEXT);\nINSERT INTO psql_file SELECT id, 'it''s; ' || body FROM posts WHERE id < 4;\n"
                     "SELECT * FROM psql_file ORDER BY a; /* ; */ SELECT $$dollar; quoted$$;\nDROP TABLE psql_file;\n")
        script.flush()
        same(output("", "-At", "-f", script.name), "1|it's; post number 1\n2|it's; post number 2\n3|it's; post number 3\ndollar; quoted\n")


@probe
def explain():
    out = output("EXPLAIN SELECT id FROM posts WHERE id = 1;", "-At")
    holds("posts" in out or "Filter" in out or "DataSource" in out, out)
    holds(len(output("EXPLAIN ANALYZE SELECT count(*) FROM posts;", "-At")) > 20, "EXPLAIN ANALYZE")


@probe
def bind_and_parameters():
    holds("20000" in output("\\conninfo\nSHOW server_version;\nSELECT count(*) FROM posts;"), "count")
    same(output("PREPARE q AS SELECT body FROM posts WHERE id = $1;\nEXECUTE q(5);\n", "-At"), "post number 5\n")


@probe
def wrong_database_and_options():
    done = subprocess.run(command("-c", "SHOW statement_timeout", "-At"), capture_output=True, text=True, env={**ENVIRONMENT, "PGOPTIONS": "-c statement_timeout=4321"}, timeout=20)
    same(done.stdout, "4321ms\n")
    done = subprocess.run(command("-c", "SELECT 1"), capture_output=True, text=True, env={**ENVIRONMENT, "PGOPTIONS": "-c nope=1"}, timeout=20)
    same(done.returncode, 2)
    holds("nope" in done.stderr, done.stderr)


if __name__ == "__main__":
    main(__doc__)
