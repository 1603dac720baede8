"""psycopg 3: cursors, pipelines, COPY, and everything that ends a statement early.

| line of the table of what failed before | probes |
|---|---|
| cancel of a running SELECT, simple and extended | cancel_simple, cancel_extended, cancel_pairs, cancel_insert, cancel_copy |
| statement_timeout | statement_timeout, statement_timeout_while_streaming |
| client killed during a query | killed_client, killed_client_stops_the_model |
| named (server-side) cursor | named_cursor, named_cursor_of_a_statement_with_parameters |
| COPY TO STDOUT, FROM STDIN | copy_* |
| MOVE | declare_fetch_move_close |
"""

import decimal
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import psycopg
import psycopg2

from probes import PAIRS, SERVER, STOP_SECONDS, holds, probe, refused, same, slow, within, works_or_refused

LAB = [(1, "plain"), (2, None), (3, "tab\tnewline\nreturn\rback\\slash"), (4, 'quote " comma , '), (5, ""), (6, "é😀"), (7, "\\N"), (8, "\\.")]


def fill_lab(connection, rows=tuple(LAB)):
    connection.execute("DELETE FROM lab")
    connection.cursor().executemany("INSERT INTO lab VALUES (%s, %s)", list(rows))


# ---- cursors

@probe
def named_cursor():
    with SERVER.connect(autocommit=False) as c:
        for binary in (False, True):
            with c.cursor("nc", binary=binary) as cursor:
                cursor.itersize = 700
                cursor.execute("SELECT id, body FROM posts ORDER BY id")
                same([column.name for column in cursor.description], ["id", "body"])
                same(cursor.fetchmany(2), [(1, "post number 1"), (2, "post number 2")])
                same(cursor.fetchone(), (3, "post number 3"))
                same(sum(1 for _ in cursor), 19997)
                same(cursor.fetchall(), [])
        same(c.execute("SELECT 1").fetchone(), (1,))


@probe
def named_cursor_of_a_statement_with_parameters():
    with SERVER.connect(autocommit=False) as c:
        with c.cursor("nc") as cursor:
            cursor.execute("SELECT id FROM posts WHERE id > %s AND body LIKE %s ORDER BY id", (100, "post%"))
            same(cursor.fetchmany(2), [(101,), (102,)])
            cursor.scroll(10)
            same(cursor.fetchone(), (113,))
        with c.cursor("one") as one, c.cursor("two") as two:
            one.execute("SELECT id FROM posts ORDER BY id")
            two.execute("SELECT id FROM posts ORDER BY id DESC")
            same([one.fetchone(), two.fetchone(), one.fetchone(), two.fetchone()], [(1,), (20000,), (2,), (19999,)])


@probe
def declare_fetch_move_close():
    with SERVER.connect() as c:
        c.execute("BEGIN")
        for sql, tag, rows in [
            ("DECLARE c CURSOR FOR SELECT id FROM posts ORDER BY id", "DECLARE CURSOR", None),
            ("FETCH c", "FETCH 1", [(1,)]), ("FETCH 2 FROM c", "FETCH 2", [(2,), (3,)]), ("FETCH NEXT FROM c", "FETCH 1", [(4,)]),
            ("FETCH FORWARD 2 FROM c", "FETCH 2", [(5,), (6,)]), ("MOVE 3 FROM c", "MOVE 3", None), ("MOVE FORWARD 1 IN c", "MOVE 1", None),
            ("FETCH 0 FROM c", "FETCH 1", [(10,)]), ("FETCH 1 IN c", "FETCH 1", [(11,)]), ("MOVE FORWARD ALL IN c", "MOVE 19989", None),
            ("FETCH ALL FROM c", "FETCH 0", []), ("CLOSE c", "CLOSE CURSOR", None),
        ]:
            if sql.startswith("FETCH 0"):
                # To fetch the row again is to go back; a cursor that only goes forward may refuse.
                c.execute("SAVEPOINT s")
                if not works_or_refused(lambda: same(c.execute(sql).fetchall(), rows, sql), ("55000", "0A000")):
                    c.execute("ROLLBACK TO SAVEPOINT s")
                continue
            cursor = c.execute(sql)
            same(cursor.statusmessage, tag, sql)
            if rows is not None:
                same(cursor.fetchall(), rows, sql)
        refused("34000", lambda: c.execute("FETCH 1 FROM c"))
        c.execute("ROLLBACK")
        refused("34000", lambda: c.execute("FETCH 1 FROM c"))


@probe
def cursor_rules():
    with SERVER.connect() as c:
        refused("25P01", lambda: c.execute("DECLARE c CURSOR FOR SELECT 1"))
        c.execute("BEGIN")
        c.execute("DECLARE c CURSOR FOR SELECT id FROM posts ORDER BY id")
        refused("42P03", lambda: c.execute("DECLARE c CURSOR FOR SELECT 1"))
        c.execute("ROLLBACK")
        c.execute("BEGIN")
        c.execute("DECLARE c NO SCROLL CURSOR FOR SELECT id FROM posts ORDER BY id")
        c.execute("FETCH 2 FROM c")
        refused(("55000", "0A000"), lambda: c.execute("FETCH PRIOR FROM c"))
        c.execute("ROLLBACK")
        c.execute("BEGIN")
        c.execute("DECLARE c CURSOR FOR SELECT 1")
        c.execute("COMMIT")
        refused("34000", lambda: c.execute("FETCH 1 FROM c"))
        c.execute("BEGIN")
        refused("42P01", lambda: c.execute("DECLARE c CURSOR FOR SELECT * FROM nope"))
        c.execute("ROLLBACK")


@probe
def holdable_and_scrollable_cursors():
    """A cursor that outlives its transaction or goes back works, or is refused as a thing that is not there."""
    with SERVER.connect() as c:
        if works_or_refused(lambda: c.execute("DECLARE h CURSOR WITH HOLD FOR SELECT id FROM posts ORDER BY id")):
            same(c.execute("FETCH 1 FROM h").fetchall(), [(1,)])
            c.execute("CLOSE h")
        c.execute("BEGIN")
        if works_or_refused(lambda: c.execute("DECLARE s SCROLL CURSOR FOR SELECT id FROM posts ORDER BY id")):
            c.execute("FETCH 3 FROM s")
            same(c.execute("FETCH PRIOR FROM s").fetchall(), [(2,)])
        c.execute("ROLLBACK")


@probe
def cursor_error_comes_with_its_row():
    with SERVER.connect() as c:
        c.execute("BEGIN")
        c.execute("DECLARE c CURSOR FOR SELECT 100 / (15000 - id) FROM posts ORDER BY id")
        refused("22012", lambda: c.execute("FETCH ALL FROM c"))
        refused("25P02", lambda: c.execute("FETCH 1 FROM c"))
        c.execute("ROLLBACK")


@probe
def close_all():
    with SERVER.connect() as c:
        c.execute("BEGIN")
        c.execute("DECLARE a CURSOR FOR SELECT 1")
        c.execute("DECLARE b CURSOR FOR SELECT 2")
        same(c.execute("CLOSE ALL").statusmessage, "CLOSE CURSOR ALL")
        refused("34000", lambda: c.execute("FETCH 1 FROM b"))
        c.execute("ROLLBACK")


@probe
def stream_single_rows():
    with SERVER.connect() as c:
        for binary in (False, True):
            total = count = 0
            for row in c.cursor(binary=binary).stream("SELECT id, body FROM posts WHERE id > %s", (0,)):
                total, count = total + row[0], count + 1
            same((count, total), (20000, 200010000))


@probe
def error_after_rows():
    with SERVER.connect() as c:
        def read():
            for _ in c.cursor().stream("SELECT 100 / (15000 - id) FROM posts WHERE id > %s", (0,)):
                pass

        refused("22012", read)
        same(c.execute("SELECT 1").fetchone(), (1,))


# ---- pipelines and batches

@probe
def pipeline():
    with SERVER.connect() as c:
        with c.pipeline() as p:
            cursors = [c.execute("SELECT body FROM posts WHERE id = %s", (at,)) for at in range(1, 101)]
            p.sync()
            same([cursor.fetchone()[0] for cursor in cursors], [f"post number {at}" for at in range(1, 101)])


@probe
def pipeline_error_skips_to_sync():
    with SERVER.connect() as c:
        pg, status = c.pgconn, psycopg.pq.ExecStatus
        pg.enter_pipeline_mode()
        for sql in (b"SELECT 1", b"SELECT nope FROM posts", b"SELECT 2"):
            pg.send_query_params(sql, None)
        pg.pipeline_sync()
        pg.send_query_params(b"SELECT 3", None)
        pg.pipeline_sync()
        pg.flush()
        found = []
        while found.count(int(status.PIPELINE_SYNC)) < 2:
            if (result := pg.get_result()) is not None:
                found.append(int(result.status))
        wanted = [status.TUPLES_OK, status.FATAL_ERROR, status.PIPELINE_ABORTED, status.PIPELINE_SYNC, status.TUPLES_OK, status.PIPELINE_SYNC]
        same(found, [int(one) for one in wanted])
        pg.exit_pipeline_mode()
        same(c.execute("SELECT 3").fetchone(), (3,))


@probe
def executemany():
    with SERVER.connect() as c:
        c.execute("DELETE FROM lab")
        cursor = c.cursor()
        cursor.executemany("INSERT INTO lab VALUES (%s, %s)", [(at, f"l{at}") for at in range(200)])
        same(cursor.rowcount, 200)
        cursor.executemany("SELECT label FROM lab WHERE id = %s", [(3,), (5,)], returning=True)
        found = [cursor.fetchone()]
        while cursor.nextset():
            found.append(cursor.fetchone())
        same(found, [("l3",), ("l5",)])
        c.execute("DELETE FROM lab")


@probe
def execute_describe_without_sync():
    """Flush gives what is ready before Sync."""
    with SERVER.connect() as c:
        pg = c.pgconn
        pg.enter_pipeline_mode()
        pg.send_query_params(b"SELECT 42", None)
        pg.send_flush_request()
        pg.flush()
        result = pg.get_result()
        same(result.get_value(0, 0), b"42")
        same(pg.get_result(), None)
        pg.pipeline_sync()
        same(pg.get_result().status, int(psycopg.pq.ExecStatus.PIPELINE_SYNC))
        pg.exit_pipeline_mode()


# ---- COPY

def copied(connection, sql):
    with connection.cursor().copy(sql) as copy:
        return b"".join(bytes(part) for part in copy)


TEXT = "1\tplain\n2\t\\N\n3\ttab\\tnewline\\nreturn\\rback\\\\slash\n4\tquote \" comma , \n5\t\n6\té😀\n7\t\\\\N\n8\t\\\\.\n".encode()
CSV = ('1,plain\n2,\n3,"tab\tnewline\nreturn\rback\\slash"\n4,"quote "" comma , "\n5,""\n6,é😀\n7,\\N\n8,\\.\n').encode()
ORDERED = "(SELECT id, label FROM lab ORDER BY id)"


@probe
def copy_out_text():
    with SERVER.connect() as c:
        fill_lab(c)
        same(copied(c, f"COPY {ORDERED} TO STDOUT"), TEXT)
        same(copied(c, "COPY lab TO STDOUT").count(b"\n"), 8)
        same(copied(c, "COPY lab (label) TO STDOUT").splitlines()[0], b"plain")
        same(copied(c, f"COPY {ORDERED} TO STDOUT (DELIMITER '|', NULL 'nil')").splitlines()[:2], [b"1|plain", b"2|nil"])
        cursor = c.cursor()
        with cursor.copy(f"COPY {ORDERED} TO STDOUT") as copy:
            for _ in copy:
                pass
        same(cursor.rowcount, 8)


@probe
def copy_out_csv():
    with SERVER.connect() as c:
        fill_lab(c)
        same(copied(c, f"COPY {ORDERED} TO STDOUT (FORMAT csv)"), CSV)
        same(copied(c, f"COPY {ORDERED} TO STDOUT WITH CSV HEADER"), b"id,label\n" + CSV)
        same(copied(c, f"COPY {ORDERED} TO STDOUT (FORMAT csv, HEADER, DELIMITER ';', NULL 'nil', FORCE_QUOTE (label))").splitlines()[:3],
             [b"id;label", b'1;"plain"', b"2;nil"])
        same(copied(c, f"COPY {ORDERED} TO STDOUT WITH (FORMAT CSV, QUOTE '''')").splitlines()[-3:], [b"6,\xc3\xa9\xf0\x9f\x98\x80", b"7,\\N", b"8,\\."])
        same(copied(c, "COPY (SELECT true, 1.5::float8, DATE '2026-01-02', decode('00ff','hex'), NULL) TO STDOUT (FORMAT csv)"),
             b"t,1.5,2026-01-02,\\x00ff,\n")


@probe
def copy_out_binary():
    with SERVER.connect() as c:
        fill_lab(c)
        raw = copied(c, f"COPY {ORDERED} TO STDOUT (FORMAT binary)")
        wanted = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
        for number, label in LAB:
            text = None if label is None else label.encode()
            wanted += struct.pack("!hiq", 2, 8, number) + (struct.pack("!i", -1) if text is None else struct.pack("!i", len(text)) + text)
        same(raw, wanted + struct.pack("!h", -1))
        with c.cursor().copy(f"COPY {ORDERED} TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int8", "text"])
            same(list(copy.rows()), LAB)


@probe
def copy_out_a_message_a_row():
    with SERVER.connect() as c:
        for form in ("text", "csv", "binary"):
            with c.cursor().copy(f"COPY (SELECT id, body FROM posts) TO STDOUT (FORMAT {form})") as copy:
                same(sum(1 for _ in copy), 20000 + (form == "binary"), form)


@probe(only_ours=True)
def copy_out_gathered():
    with SERVER.connect() as c, psycopg2.connect(SERVER.dsn) as two:
        for form in ("text", "csv, HEADER", "binary"):
            sql = f"COPY (SELECT id, body FROM posts ORDER BY id) TO STDOUT (FORMAT {form}%s)"
            cursor, out = c.cursor(), io.BytesIO()
            with cursor.copy(sql % ", GATHER") as copy:
                parts = [bytes(part) for part in copy]
            same(cursor.rowcount, 20000)
            wanted = copied(c, sql % "")
            same(b"".join(parts), wanted, form)
            holds(len(parts) < 400, len(parts))
            with two.cursor() as cursor:
                cursor.copy_expert(sql % ", GATHER", out)
            same(out.getvalue(), wanted, f"psycopg2, {form}")
        refused("0A000", lambda: copied(c, "COPY lab FROM STDIN (GATHER)"))


@probe
def copy_in_text():
    with SERVER.connect() as c:
        c.execute("DELETE FROM lab")
        cursor = c.cursor()
        with cursor.copy("COPY lab FROM STDIN") as copy:
            # Torn anywhere: messages need not end at lines.
            for at in range(0, len(TEXT), 7):
                copy.write(TEXT[at:at + 7])
        same(cursor.rowcount, 8)
        same(c.execute("SELECT * FROM lab ORDER BY id").fetchall(), LAB)
        with c.cursor().copy("COPY lab (label, id) FROM STDIN") as copy:
            copy.write_row(("swapped", 9))
        with c.cursor().copy("COPY lab (id) FROM STDIN") as copy:
            copy.write(b"10\n\\.\n")
        same(c.execute("SELECT * FROM lab WHERE id > 8 ORDER BY id").fetchall(), [(9, "swapped"), (10, None)])
        c.execute("DELETE FROM lab")


@probe
def copy_in_csv():
    with SERVER.connect() as c:
        c.execute("DELETE FROM lab")
        with c.cursor().copy("COPY lab FROM STDIN (FORMAT csv, HEADER)") as copy:
            copy.write(b"id,label\n" + CSV)
        same(c.execute("SELECT * FROM lab ORDER BY id").fetchall(), LAB)
        c.execute("DELETE FROM lab")
        with c.cursor().copy("COPY lab FROM STDIN WITH (FORMAT csv, DELIMITER ';', NULL 'nil', QUOTE '''')") as copy:
            copy.write("1;nil\r\n2;'a;''b'\r\n3;\r\n".encode())
        same(c.execute("SELECT * FROM lab ORDER BY id").fetchall(), [(1, None), (2, "a;'b"), (3, "")])
        c.execute("DELETE FROM lab")


@probe
def copy_in_binary():
    with SERVER.connect() as c:
        c.execute("DELETE FROM lab")
        with c.cursor().copy("COPY lab FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", "text"])
            for row in LAB:
                copy.write_row(row)
        same(c.execute("SELECT * FROM lab ORDER BY id").fetchall(), LAB)
        c.execute("DELETE FROM lab")


@probe
def copy_every_type():
    import datetime as dt

    row = (-7, 2**31 - 1, -(2**63) + 1, 1.5, 0.1, decimal.Decimal("12.345"), "naïve 😀 \\ \t", b"\x00\xff", True, dt.date(2026, 2, 28),
           dt.time(1, 2, 3, 4), dt.datetime(2026, 2, 3, 4, 5, 6, 7), dt.datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=dt.timezone.utc))
    names = ["int2", "int4", "int8", "float4", "float8", "numeric", "text", "bytea", "bool", "date", "time", "timestamp", "timestamptz"]
    with SERVER.connect() as c:
        for form in ("text", "csv", "binary"):
            c.execute("DELETE FROM kinds")
            c.execute("INSERT INTO kinds VALUES (" + ", ".join(["%s"] * 13) + ")", row)
            c.execute("INSERT INTO kinds VALUES (" + ", ".join(["%s"] * 13) + ")", (None,) * 13)
            out = copied(c, f"COPY kinds TO STDOUT (FORMAT {form})")
            c.execute("DELETE FROM kinds")
            with c.cursor().copy(f"COPY kinds FROM STDIN (FORMAT {form})") as copy:
                copy.write(out)
            rows = c.execute("SELECT * FROM kinds").fetchall()
            same(sorted(rows, key=lambda one: one[0] is None), [row, (None,) * 13], form)
        with c.cursor().copy("COPY kinds TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(names)
            same(sorted(copy.rows(), key=lambda one: one[0] is None), [row, (None,) * 13])
        c.execute("DELETE FROM kinds")


@probe
def copy_in_errors():
    """Each names the line, stores nothing and leaves the connection usable."""
    with SERVER.connect() as c:
        c.execute("DELETE FROM lab")
        for options, data, state, line in [
            ("", b"1\ta\nx\tb\n", "22P02", 2), ("", b"1\ta\n2\n", "22P04", 2), ("", b"1\ta\n2\tb\tc\n", "22P04", 2),
            ("(FORMAT csv)", b"1,a\n2,b\n3,\"c\n", "22P04", None), ("(FORMAT csv)", b"1,a\n99999999999999999999,b\n", "22003", 2),
            ("", b"1\ta\n2\t\xff\n", "22021", 2), ("(FORMAT binary)", b"not the signature....", "22P04", None),
            ("(FORMAT binary)", b"PGCOPY\n\xff\r\n\0" + struct.pack("!iihi", 0, 0, 2, 999), "22P04", None),
            ("(FORMAT binary)", b"PGCOPY\n\xff\r\n\0" + struct.pack("!iihiii", 0, 0, 2, 4, 1, -1), ("22P03", "08P01"), None),
        ]:
            def call():
                with c.cursor().copy(f"COPY lab FROM STDIN {options}") as copy:
                    copy.write(data)

            error = refused(state, call)
            told = f"{error.diag.context or ''} {error.diag.message_primary}"
            holds(line is None or f"line {line}" in told, f"{data!r}: no line {line} in {told!r}")
            same(c.execute("SELECT count(*) FROM lab").fetchone(), (0,), repr(data))
        refused("42703", lambda: copied(c, "COPY lab (nope) TO STDOUT"))


@probe
def copy_in_given_up():
    with SERVER.connect() as c:
        c.execute("DELETE FROM lab")

        def call():
            with c.cursor().copy("COPY lab FROM STDIN") as copy:
                copy.write(b"1\ta\n")
                raise ValueError("the client changed its mind")

        try:
            call()
        except ValueError:
            pass
        same(c.execute("SELECT count(*) FROM lab").fetchone(), (0,))


@probe
def copy_many_rows():
    with SERVER.connect() as c:
        c.execute("DROP TABLE IF EXISTS many")
        c.execute("CREATE TABLE many (id BIGINT, body TEXT)")
        for form in ("text", "csv", "binary"):
            with c.cursor().copy(f"COPY (SELECT id, body FROM posts) TO STDOUT (FORMAT {form})") as out:
                parts = [bytes(part) for part in out]
            with c.cursor().copy(f"COPY many FROM STDIN (FORMAT {form})") as copy:
                for part in parts:
                    copy.write(part)
        same(c.execute("SELECT count(*), sum(id)::bigint, count(DISTINCT body) FROM many").fetchone(), (60000, 600030000, 20000))
        c.execute("DROP TABLE many")


@probe
def copy_out_error_after_rows():
    with SERVER.connect() as c:
        refused("22012", lambda: copied(c, "COPY (SELECT 100 / (15000 - id) FROM posts) TO STDOUT"))
        same(c.execute("SELECT 1").fetchone(), (1,))


@probe
def copy_in_extended_protocol():
    with SERVER.connect() as c:
        fill_lab(c)
        result = c.pgconn.exec_params(b"COPY lab TO STDOUT", None)
        same(result.status, int(psycopg.pq.ExecStatus.COPY_OUT))
        lines = 0
        while c.pgconn.get_copy_data(0)[0] > 0:
            lines += 1
        same(lines, 8)
        while c.pgconn.get_result():
            pass
        same(c.execute("SELECT 1").fetchone(), (1,))


# ---- what ends a statement early

def cancelled(run, cancel, when=0.5):
    """Runs, cancels after a while, gives the error; fails if the end was not soon."""
    asked = []

    def later():
        cancel()
        asked.append(time.monotonic())

    timer = threading.Timer(when, later)
    timer.start()
    error = refused("57014", run)
    ended = time.monotonic()
    timer.join()
    holds(ended - asked[0] < STOP_SECONDS, f"ended {ended - asked[0]:.2f} s after the cancel")
    return error


def check_cancel(run):
    with SERVER.connect() as c:
        cancelled(lambda: run(c), c.cancel_safe)
        same(c.execute("SELECT 1").fetchone(), (1,))
        # A cancel of nothing hits nothing.
        c.cancel_safe()
        same(c.execute("SELECT count(*) FROM posts").fetchone(), (20000,))


@probe
def cancel_simple():
    check_cancel(lambda c: psycopg.ClientCursor(c).execute(slow("simple")).fetchall())


@probe
def cancel_extended():
    check_cancel(lambda c: c.execute(slow("extended") + " WHERE 1 = %s", (1,)).fetchall())


@probe
def cancel_pairs():
    check_cancel(lambda c: c.execute(PAIRS).fetchall())


@probe
def cancel_insert():
    check_cancel(lambda c: c.execute("INSERT INTO lab SELECT s.count, 'x' FROM (" + slow("insert") + ") AS s").rowcount)


@probe
def cancel_copy():
    check_cancel(lambda c: copied(c, "COPY (" + slow("copy") + ") TO STDOUT"))


@probe
def cancel_in_a_transaction():
    with SERVER.connect(autocommit=False) as c:
        cancelled(lambda: c.execute(slow("transaction")).fetchall(), c.cancel_safe)
        refused("25P02", lambda: c.execute("SELECT 1"))
        c.rollback()


@probe
def cancel_with_a_wrong_key():
    import socket

    with SERVER.connect() as c:
        timer = threading.Timer(0.3, lambda: wrong(c))

        def wrong(connection):
            with socket.create_connection((SERVER.host, SERVER.port)) as s:
                s.sendall(struct.pack("!iiii", 16, 80877102, connection.info.backend_pid, 12345))
                s.recv(1)

        timer.start()
        same(c.execute("SELECT count(*) FROM generate_series(1, 3000) AS a(i), generate_series(1, 3000) AS b(j)").fetchone(), (9000000,))
        timer.join()


@probe
def pg_cancel_backend():
    with SERVER.connect() as c, SERVER.connect() as other:
        pid = c.info.backend_pid

        def call():
            works_or_refused(lambda: other.execute("SELECT pg_cancel_backend(%s::int)", (pid,)))

        if works_or_refused(lambda: other.execute("SELECT pg_cancel_backend(0)")):
            cancelled(lambda: c.execute(slow("function")).fetchall(), call)
        same(c.execute("SELECT 1").fetchone(), (1,))


@probe
def statement_timeout():
    with SERVER.connect() as c:
        c.execute("SET statement_timeout = '400ms'")
        for sql in (slow("timeout"), PAIRS):
            began = time.monotonic()
            error = refused("57014", lambda: c.execute(sql).fetchall())
            within(0.4 + STOP_SECONDS, began, "the timeout")
            holds("timeout" in str(error), str(error))
        same(c.execute("SELECT 1").fetchone(), (1,))
        c.execute("SET statement_timeout = 0")
        c.execute("BEGIN")
        c.execute("SET LOCAL statement_timeout = 300")
        refused("57014", lambda: c.execute(slow("local") + " WHERE 1 = %s", (1,)).fetchall())
        c.execute("ROLLBACK")
        same(c.execute("SHOW statement_timeout").fetchone(), ("0",))


@probe
def statement_timeout_while_streaming():
    """The clock runs on while rows are read."""
    with SERVER.connect() as c:
        c.execute("SET statement_timeout = '700ms'")
        sql = "SELECT a.i, repeat('x', 100) FROM generate_series(1, 20000) AS a(i), generate_series(1, 20000) AS b(j)"
        began = time.monotonic()

        def read():
            for _ in c.cursor().stream(sql):
                pass

        refused("57014", read)
        within(0.7 + 2 * STOP_SECONDS, began, "the timeout")


CHILD = """
import psycopg, sys
c = psycopg.connect(sys.argv[1], autocommit=True)
print(c.info.backend_pid, flush=True)
c.execute(sys.argv[2]).fetchall()
"""


def killed_child(sql, ready):
    """Starts a client with a statement, kills it once `ready(pid)` holds; the instant of its death."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, SERVER.dsn, sql], stdout=subprocess.PIPE)
    pid = int(child.stdout.readline())
    deadline = time.monotonic() + 20
    while not ready(pid) and time.monotonic() < deadline:
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    return pid, time.monotonic()


@probe
def killed_client():
    with SERVER.connect() as c:
        before = time.monotonic()
        killed_child("SELECT repeat('x', 1000), a.i FROM generate_series(1, 10000) AS a(i), generate_series(1, 10000) AS b(j)",
                     lambda _: time.monotonic() > before + 1.5)
        for at in range(20):
            same(c.execute("SELECT count(*) FROM posts").fetchone(), (20000,))
        with SERVER.connect() as fresh:
            same(fresh.execute("SELECT 1").fetchone(), (1,))


@probe(only_ours=True)
def killed_client_stops_the_model():
    """Verdicts of a dead client's statement stop coming within a second."""
    with SERVER.connect() as c:
        def verdicts():
            return c.execute("SELECT count(*) FROM safeguard.verdicts").fetchone()[0]

        begun = verdicts()
        _, died = killed_child(slow("killed"), lambda _: verdicts() > begun)
        last, moved = verdicts(), died
        while time.monotonic() < died + 3 * STOP_SECONDS:
            now = verdicts()
            if now != last:
                last, moved = now, time.monotonic()
        holds(moved - died < STOP_SECONDS, f"verdicts were stored {moved - died:.2f} s after the client's death")


@probe(only_ours=True)
def cancel_stops_the_model():
    with SERVER.connect() as c, SERVER.connect() as other:
        def verdicts():
            return other.execute("SELECT count(*) FROM safeguard.verdicts").fetchone()[0]

        cancelled(lambda: c.execute(slow("stops")).fetchall(), c.cancel_safe, when=1.0)
        ended = time.monotonic()
        last, moved = verdicts(), ended
        while time.monotonic() < ended + 3 * STOP_SECONDS:
            now = verdicts()
            if now != last:
                last, moved = now, time.monotonic()
        holds(moved - ended < STOP_SECONDS, f"verdicts were stored {moved - ended:.2f} s after the cancel")


@probe
def terminated_in_the_middle():
    """Closing with a statement under way harms nobody."""
    for _ in range(10):
        c = SERVER.connect()
        c.pgconn.send_query(b"SELECT * FROM posts")
        os.close(os.dup(c.pgconn.socket))
        c.close()
    with SERVER.connect() as c:
        same(c.execute("SELECT count(*) FROM posts").fetchone(), (20000,))


@probe
def many_connections_one_after_another():
    for at in range(60):
        with SERVER.connect() as c:
            same(c.execute("SELECT %s::int", (at,)).fetchone(), (at,))


@probe
def notices_arrive():
    """A notice with its fields, before the statement's end."""
    with SERVER.connect() as c:
        seen = []
        c.add_notice_handler(lambda d: seen.append((d.severity, d.sqlstate, d.message_primary)))
        c.execute("DROP TABLE IF EXISTS never_there")
        same([one[:2] for one in seen], [("NOTICE", "00000")])
        holds("never_there" in seen[0][2], seen)
