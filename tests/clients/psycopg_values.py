"""psycopg 3: values in both directions and both formats, parameters and what is inferred of them, prepared statements.

| line of the table of what failed before | probes |
|---|---|
| INSERT with text parameters, then LIKE, UPDATE | text_parameters_then_like, update_by_text_parameter |
| two columns of one name | duplicate_names |
| JSONB casts, gen_random_uuid | value_jsonb, value_uuid, gen_random_uuid |
| to_char, offset of a timestamptz | to_char_is_not_a_literal, timestamptz_has_an_offset |
"""

import datetime as dt
import decimal
import json
import uuid

from probes import SERVER, Failed, add, holds, probe, refused, same, works_or_refused

D = decimal.Decimal
UTC = dt.timezone.utc

# name, expression, value, the OIDs that a client may be told
VALUES = [
    ("int2", "CAST(-7 AS SMALLINT)", -7, (21,)),
    ("int4", "CAST(2147483647 AS INT)", 2147483647, (23,)),
    ("int8", "CAST(-9223372036854775807 AS BIGINT)", -9223372036854775807, (20,)),
    ("float4", "CAST(1.5 AS REAL)", 1.5, (700,)),
    ("float8", "CAST('0.1' AS DOUBLE PRECISION)", 0.1, (701,)),
    ("float8_tiny", "CAST('1e-300' AS DOUBLE PRECISION)", 1e-300, (701,)),
    ("float8_whole", "CAST(3 AS DOUBLE PRECISION)", 3.0, (701,)),
    ("float8_infinite", "CAST('-Infinity' AS DOUBLE PRECISION)", float("-inf"), (701,)),
    ("numeric", "CAST('1234567.890' AS NUMERIC(12,3))", D("1234567.890"), (1700,)),
    ("numeric_small", "CAST('-0.001' AS NUMERIC(12,3))", D("-0.001"), (1700,)),
    ("numeric_whole", "CAST(10000 AS NUMERIC(12,0))", D("10000"), (1700,)),
    ("numeric_zero", "CAST(0 AS NUMERIC(12,3))", D("0.000"), (1700,)),
    ("numeric_38", "CAST('12345678901234567890123456789012345.678' AS NUMERIC(38,3))",
     D("12345678901234567890123456789012345.678"), (1700,)),
    ("text", "'naïve 😀 \t\\ ''quoted'' \"double\" \n'", "naïve 😀 \t\\ 'quoted' \"double\" \n", (25, 1043)),
    ("text_empty", "''", "", (25, 1043)),
    ("varchar", "CAST('abc' AS VARCHAR)", "abc", (25, 1043)),
    ("bytea", "decode('00ff105c27', 'hex')", b"\x00\xff\x10\\'", (17,)),
    ("bytea_literal", "'\\x00ff10'::bytea", b"\x00\xff\x10", (17,)),
    ("bool_true", "true", True, (16,)),
    ("bool_false", "1 = 2", False, (16,)),
    ("date", "DATE '2026-02-28'", dt.date(2026, 2, 28), (1082,)),
    ("date_old", "DATE '1899-12-31'", dt.date(1899, 12, 31), (1082,)),
    ("time", "CAST('23:59:58.123456' AS TIME)", dt.time(23, 59, 58, 123456), (1083,)),
    ("time_whole", "CAST('01:02:03' AS TIME)", dt.time(1, 2, 3), (1083,)),
    ("timestamp", "TIMESTAMP '2026-02-03 04:05:06.789012'", dt.datetime(2026, 2, 3, 4, 5, 6, 789012), (1114,)),
    ("timestamp_old", "TIMESTAMP '1969-12-31 23:59:59.5'", dt.datetime(1969, 12, 31, 23, 59, 59, 500000), (1114,)),
    ("timestamptz", "CAST('2026-02-03 04:05:06+02:00' AS TIMESTAMP WITH TIME ZONE)",
     dt.datetime(2026, 2, 3, 2, 5, 6, tzinfo=UTC), (1184,)),
    ("interval", "INTERVAL '1 day 2 hours 3 minutes 4 seconds'", dt.timedelta(days=1, hours=2, minutes=3, seconds=4), (1186,)),
    ("interval_below_zero", "INTERVAL '-90 minutes'", dt.timedelta(minutes=-90), (1186,)),
    ("array_of_int", "ARRAY[1, 2, 3]", [1, 2, 3], (1007, 1016)),
    ("array_of_text", "ARRAY['a', 'b c', NULL, 'd\"e', '', 'NULL', '{x}', 'back\\slash']",
     ["a", "b c", None, 'd"e', "", "NULL", "{x}", "back\\slash"], (1009, 1015)),
    ("array_of_arrays", "ARRAY[ARRAY[1, 2], ARRAY[3, 4]]", [[1, 2], [3, 4]], (1007, 1016)),
    ("array_of_float8", "ARRAY[CAST(0.5 AS DOUBLE PRECISION), CAST(2 AS DOUBLE PRECISION)]", [0.5, 2.0], (1022,)),
    ("array_of_timestamp", "ARRAY[TIMESTAMP '2026-02-03 04:05:06']", [dt.datetime(2026, 2, 3, 4, 5, 6)], (1115,)),
    ("array_empty", "CAST(ARRAY[] AS BIGINT[])", [], (1007, 1016)),
]

NULL_TYPES = ["SMALLINT", "INT", "BIGINT", "REAL", "DOUBLE PRECISION", "NUMERIC(12,3)", "TEXT", "BYTEA", "BOOLEAN", "DATE",
              "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "INTERVAL", "BIGINT[]"]


def one(sql, parameters=None, binary=False, connection=None):
    """The one row of a statement and the OIDs of its columns."""
    with connection or SERVER.connect() as c:
        cursor = c.cursor(binary=binary)
        rows = cursor.execute(sql, parameters).fetchall()
        holds(len(rows) == 1, f"{len(rows)} rows")
        return rows[0], [column.type_code for column in cursor.description]


def check_value(expression, value, oids):
    for binary in (False, True):
        row, found = one(f"SELECT {expression}", binary=binary)
        same(row[0], value, "binary" if binary else "text")
        holds(found[0] in oids, f"OID {found[0]}, not of {oids}")
    # The same in the extended protocol, where a statement has a parameter.
    row, _ = one(f"SELECT {expression}, %s::int", (5,))
    same(row[0], value, "extended")


for name, expression, value, oids in VALUES:
    add(f"value_{name}", lambda expression=expression, value=value, oids=oids: check_value(expression, value, oids))


@probe
def value_nan():
    for binary in (False, True):
        row, _ = one("SELECT CAST('NaN' AS DOUBLE PRECISION), CAST('NaN' AS REAL)", binary=binary)
        holds(row[0] != row[0] and row[1] != row[1], row)


@probe
def value_nulls():
    for binary in (False, True):
        row, _ = one("SELECT " + ", ".join(f"CAST(NULL AS {kind}) AS c{at}" for at, kind in enumerate(NULL_TYPES)), binary=binary)
        same(row, (None,) * len(NULL_TYPES))
        row, _ = one("SELECT NULL AS a, NULL AS b", binary=binary)
        same(row, (None, None))


@probe
def value_uuid():
    text = "0191b2c3-d4e5-7000-8000-00000000000a"
    for binary in (False, True):
        row, oids = one(f"SELECT CAST('{text}' AS UUID)", binary=binary)
        same(str(row[0]), text)
        same(row[0], uuid.UUID(text) if oids[0] == 2950 else text)
    refused("22P02", lambda: one("SELECT CAST('nope' AS UUID)"))


@probe
def gen_random_uuid():
    row, _ = one("SELECT gen_random_uuid(), gen_random_uuid()")
    holds(uuid.UUID(str(row[0])) != uuid.UUID(str(row[1])), row)


def check_json(kind):
    for binary in (False, True):
        row, _ = one(f"""SELECT CAST('{{"a": [1, "x", null]}}' AS {kind})""", binary=binary)
        found = json.loads(row[0]) if isinstance(row[0], str) else row[0]
        same(found, {"a": [1, "x", None]})


@probe
def value_json():
    check_json("JSON")


@probe
def value_jsonb():
    check_json("JSONB")


@probe
def value_decimal_256():
    text = "123456789012345678901234567890123456789012345.678"
    row, _ = one(f"SELECT CAST('{text}' AS NUMERIC(60, 3))")
    same(str(row[0]), text)


@probe
def value_record():
    sql = "SELECT ROW(1, CAST('x y' AS TEXT), CAST(NULL AS TEXT), true)" if SERVER.oracle else (
        "SELECT named_struct('a', 1, 'b', 'x y', 'c', CAST(NULL AS TEXT), 'd', true)")
    row, oids = one(sql)
    same(row[0], ("1", "x y", None, "t"), "text")
    row, oids = one(sql, binary=True)
    same(row[0], (1, "x y", None, True), "binary")
    same(oids[0], 2249)


@probe(only_ours=True)
def value_map():
    row, _ = one("SELECT map(make_array('a', 'b'), make_array(1, 2))")
    holds("a" in str(row[0]) and "2" in str(row[0]), row)


@probe(only_ours=True)
def value_unsigned():
    row, _ = one("SELECT CAST(4294967295 AS INT UNSIGNED), CAST(200 AS TINYINT UNSIGNED)")
    same([int(cell) for cell in row], [4294967295, 200])


@probe(only_ours=True)
def verdict_fields():
    row, _ = one("SELECT v.label, v.rationale FROM (SELECT safeguard_verdict('hate', 'a walk to the sea') AS v) AS x")
    holds(isinstance(row[0], str), row)
    row, _ = one("SELECT (safeguard_verdict('hate', 'a walk to the sea')).label")
    holds(isinstance(row[0], str), row)
    row, _ = one("SELECT safeguard_verdict('hate', 'a walk to the sea')")
    holds(isinstance(row[0], tuple) and len(row[0]) == 10, row)


@probe
def table_of_every_type():
    """What goes in as parameters, text or binary, comes out equal."""
    wanted = (-7, 2**31 - 1, -(2**63) + 1, 1.5, 0.1, D("12.345"), "naïve 😀 \\ \t", b"\x00\xff", True, dt.date(2026, 2, 28),
              dt.time(1, 2, 3, 4), dt.datetime(2026, 2, 3, 4, 5, 6, 7), dt.datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC))
    with SERVER.connect() as c:
        c.execute("DELETE FROM kinds")
        for mark in ("s", "b", "t"):
            c.execute("INSERT INTO kinds VALUES (" + ", ".join([f"%{mark}"] * 13) + ")", wanted)
        c.execute("INSERT INTO kinds VALUES (" + ", ".join(["%s"] * 13) + ")", (None,) * 13)
        for binary in (False, True):
            rows = c.cursor(binary=binary).execute("SELECT * FROM kinds").fetchall()
            same(sorted(rows, key=lambda row: row[0] is None), [wanted] * 3 + [(None,) * 13])
        for column, value in zip("i2 i4 i8 f4 f8 n t b ok d tm ts tz".split(), wanted):
            count = c.execute(f"SELECT count(*) FROM kinds WHERE {column} = %s", (value,)).fetchone()[0]
            holds(count == 3, f"WHERE {column} = %s finds {count} rows, not 3")
        c.execute("DELETE FROM kinds")


@probe
def timestamptz_has_an_offset():
    with SERVER.connect() as c:
        sql = "SELECT CAST(CAST('2026-07-03 04:05:06+00' AS TIMESTAMP WITH TIME ZONE) AS TEXT)"
        c.execute("SET TIME ZONE 'UTC'")
        same(c.execute(sql).fetchone()[0], "2026-07-03 04:05:06+00")
        c.execute("SET TIME ZONE 'Europe/Berlin'")
        same(c.execute(sql).fetchone()[0], "2026-07-03 06:05:06+02", "as text in SQL")
        raw = c.pgconn.exec_(b"SELECT CAST('2026-07-03 04:05:06+00' AS TIMESTAMP WITH TIME ZONE)").get_value(0, 0)
        same(raw, b"2026-07-03 06:05:06+02", "on the wire")
        c.execute("SET TIME ZONE 'Asia/Kolkata'")
        raw = c.pgconn.exec_(b"SELECT CAST('2026-07-03 04:05:06+00' AS TIMESTAMP WITH TIME ZONE)").get_value(0, 0)
        same(raw, b"2026-07-03 09:35:06+05:30", "half hours")
        found = c.execute("SELECT CAST('2026-07-03 04:05:06' AS TIMESTAMP WITH TIME ZONE)").fetchone()[0]
        same(found.astimezone(UTC), dt.datetime(2026, 7, 2, 22, 35, 6, tzinfo=UTC), "a literal with no offset is of the zone")


@probe
def text_forms():
    """The bytes of the text format, where a driver's reading would hide them."""
    with SERVER.connect() as c:
        for sql, wanted in [
            ("SELECT CAST(3 AS DOUBLE PRECISION)", b"3"), ("SELECT CAST(1e20 AS DOUBLE PRECISION)", b"1e+20"),
            ("SELECT CAST('Infinity' AS REAL)", b"Infinity"), ("SELECT true, false", b"t"),
            ("SELECT decode('00ff', 'hex')", b"\\x00ff"), ("SELECT TIMESTAMP '2026-01-02 03:04:05.500'", b"2026-01-02 03:04:05.5"),
            ("SELECT INTERVAL '1 month 2 days 3 hours'", b"1 mon 2 days 03:00:00"),
            ("SELECT INTERVAL '14 months'", b"1 year 2 mons"), ("SELECT INTERVAL '-1 hours'", b"-01:00:00"),
            ("SELECT ARRAY['a b', NULL, 'NULL', '']", b'{"a b",NULL,"NULL",""}'), ("SELECT ARRAY[1.5, 2]", b"{1.5,2}"),
            ("SELECT ARRAY[true, false]", b"{t,f}"), ("SELECT CAST('0.10' AS NUMERIC(4,2))", b"0.10"),
        ]:
            same(c.pgconn.exec_(sql.encode()).get_value(0, 0), wanted, sql)


@probe
def to_char_is_not_a_literal():
    def call():
        row, _ = one("SELECT to_char(TIMESTAMP '2026-02-03 04:05:06', 'YYYY-MM-DD HH24:MI')")
        same(row[0], "2026-02-03 04:05")

    works_or_refused(call, ("0A000", "42883"))


@probe
def duplicate_names():
    row, _ = one("SELECT current_user, session_user")
    same(row, (SERVER.user, SERVER.user))
    same(one("SELECT NULL, NULL")[0], (None, None))
    same(one("SELECT 1, 1")[0], (1, 1))
    row, _ = one("SELECT a.id, b.id, a.body FROM posts a JOIN posts b ON a.id = b.id WHERE a.id = 3")
    same(row, (3, 3, "post number 3"))
    row, _ = one("SELECT *, id FROM posts WHERE id = 3")
    same((row[0], row[4]), (3, 3))


@probe
def output_names():
    """Programs read columns by the names that PostgreSQL gives them."""
    with SERVER.connect() as c:
        names = [column.name for column in c.execute("SELECT count(*), max(id), lower('A'), id AS \"Mixed\" FROM posts GROUP BY id LIMIT 1").description]
        same(names, ["count", "max", "lower", "Mixed"])
        same([column.name for column in c.execute("SELECT 1, 'a', id + 1, posts.id FROM posts LIMIT 1").description],
             ["?column?", "?column?", "?column?", "id"])


# ---- parameters

@probe
def parameters_inferred():
    with SERVER.connect() as c:
        for sql, given, wanted in [
            ("SELECT id FROM posts WHERE id = %s", (7,), 7),
            ("SELECT id FROM posts WHERE id = %s", ("7",), 7),
            ("SELECT body FROM posts WHERE body = %s", ("post number 9",), "post number 9"),
            ("SELECT id FROM posts ORDER BY id LIMIT %s", (1,), 1),
            ("SELECT id FROM posts ORDER BY id LIMIT %s OFFSET %s", (1, 4), 5),
            ("SELECT count(*) FROM posts WHERE id = ANY(%s)", ([1, 2, 3],), 3),
            ("SELECT count(*) FROM posts WHERE body = ANY(%s)", (["post number 1", "x"],), 1),
            ("SELECT count(*) FROM posts WHERE NOT (id <> ALL(%s))", ([1, 2, 3],), 3),
            ("SELECT count(*) FROM posts WHERE id IN (%s, %s)", (1, 2), 2),
            ("SELECT count(*) FROM posts WHERE id BETWEEN %s AND %s", (5, 9), 5),
            ("SELECT count(*) FROM posts WHERE created_at < %s", (dt.datetime(2026, 1, 1, 0, 5),), 4),
            ("SELECT count(*) FROM posts WHERE created_at < %s + INTERVAL '1 minute'", (dt.datetime(2026, 1, 1, 0, 5),), 5),
            ("SELECT count(*) FROM posts WHERE created_at >= %s", (dt.date(2026, 1, 14),), 1281),
            ("SELECT %s::int + 1", (5,), 6),
            ("SELECT %s::text || 'x'", ("a",), "ax"),
            ("SELECT upper(%s)", ("abc",), "ABC"),
            ("SELECT coalesce(%s, 'x')", (None,), "x"),
            ("SELECT CASE WHEN %s THEN 'y' ELSE 'n' END", (True,), "y"),
            ("SELECT count(*) FROM posts WHERE %s::bigint IS NULL OR id = 1", (None,), 20000),
            ("SELECT %s", ("bare",), "bare"),
            ("SELECT id * %s FROM posts WHERE id = 2", (3,), 6),
            ("SELECT count(*) FROM posts WHERE body LIKE %s", ("%number 1999_",), 10),
            ("SELECT count(*) FROM posts WHERE body ILIKE %s", ("POST NUMBER 1",), 1),
        ]:
            try:
                same(c.execute(sql, given).fetchone()[0], wanted)
            except Failed:
                raise
            except Exception as error:
                raise Failed(f"{sql}: {getattr(error, 'sqlstate', '')} {error}") from error


@probe
def parameter_types_described():
    with SERVER.connect() as c:
        for sql, wanted in [("SELECT id FROM posts WHERE id = $1 AND body = $2", [20, 25]), ("SELECT $1::int", [23]),
                            ("INSERT INTO lab VALUES ($1, $2)", [20, 25]), ("SELECT $1", [25]),
                            ("SELECT 1 FROM posts WHERE created_at > $1", [1114])]:
            c.pgconn.prepare(b"p", sql.encode())
            described = c.pgconn.describe_prepared(b"p")
            same([described.param_type(at) for at in range(described.nparams)], wanted, sql)
            c.execute("DEALLOCATE p")


@probe
def described_without_running():
    with SERVER.connect() as c:
        c.pgconn.prepare(b"p", b"SELECT id, body, created_at, count(*) AS n FROM posts GROUP BY id, body, created_at")
        described = c.pgconn.describe_prepared(b"p")
        same([described.fname(at) for at in range(described.nfields)], [b"id", b"body", b"created_at", b"n"])
        same([described.ftype(at) for at in range(described.nfields)], [20, 25, 1114, 20])


@probe
def binary_parameters():
    with SERVER.connect() as c:
        row = c.execute("SELECT %b::bigint, %b::text, %b::timestamp, %b::boolean, %b::float8, %b::numeric, %b::bytea, %b::date",
                        (2**40, "é", dt.datetime(2026, 1, 1), True, 0.1, D("-1.50"), b"\0", dt.date(1999, 1, 1))).fetchone()
        same(row, (2**40, "é", dt.datetime(2026, 1, 1), True, 0.1, D("-1.50"), b"\0", dt.date(1999, 1, 1)))


@probe
def text_parameters_then_like():
    with SERVER.connect() as c:
        c.execute("DELETE FROM lab")
        c.execute("INSERT INTO lab VALUES (%s, %s)", (1, "a label"))
        c.execute("INSERT INTO lab VALUES (%s, %s)", (2, None))
        c.execute("INSERT INTO lab SELECT id, body FROM posts WHERE id = %s", (3,))
        same(c.execute("SELECT id FROM lab WHERE label LIKE 'a%'").fetchall(), [(1,)])
        same(c.execute("SELECT id FROM lab WHERE label LIKE %s", ("post%",)).fetchall(), [(3,)])
        same(c.execute("SELECT id FROM lab WHERE label IS NULL").fetchall(), [(2,)])
        same(c.execute("SELECT lab.id FROM lab JOIN posts ON lab.label = posts.body").fetchall(), [(3,)])
        same(c.execute("SELECT label FROM lab WHERE label = %s", ("a label",)).fetchall(), [("a label",)])
        c.execute("DELETE FROM lab")


@probe
def update_by_text_parameter():
    with SERVER.connect() as c:
        c.execute("DELETE FROM lab")
        c.cursor().executemany("INSERT INTO lab VALUES (%s, %s)", [(at, f"l{at}") for at in range(5)])
        cursor = c.execute("UPDATE lab SET label = %s WHERE label = %s", ("new", "l2"))
        same((cursor.rowcount, cursor.statusmessage), (1, "UPDATE 1"))
        same(c.execute("SELECT id FROM lab WHERE label = 'new'").fetchall(), [(2,)])
        cursor = c.execute("DELETE FROM lab WHERE label <> %s", ("new",))
        same((cursor.rowcount, cursor.statusmessage), (4, "DELETE 4"))
        c.execute("DELETE FROM lab")


@probe
def prepared_again_and_again():
    """A statement is parsed once and bound often, as psycopg does from the fifth time on."""
    with SERVER.connect(prepare_threshold=2) as c:
        for at in range(1, 12):
            same(c.execute("SELECT body FROM posts WHERE id = %s", (at,)).fetchone()[0], f"post number {at}")
        names = c.execute("SELECT name FROM pg_prepared_statements").fetchall() if SERVER.oracle else [("x",)]
        holds(names, "nothing was prepared")
        c.execute("DEALLOCATE ALL")


@probe
def prepared_statement_outlives_its_table():
    with SERVER.connect() as c:
        c.execute("DROP TABLE IF EXISTS shortlived")
        c.execute("CREATE TABLE shortlived (a BIGINT)")
        c.execute("INSERT INTO shortlived VALUES (1)")
        same(c.execute("SELECT a FROM shortlived WHERE a = %s", (1,), prepare=True).fetchone(), (1,))
        c.execute("DROP TABLE shortlived")
        refused("42P01", lambda: c.execute("SELECT a FROM shortlived WHERE a = %s", (1,), prepare=True))
        same(c.execute("SELECT 1").fetchone(), (1,))


@probe
def prepare_execute_deallocate_in_sql():
    with SERVER.connect() as c:
        same(c.execute("PREPARE q (BIGINT) AS SELECT body FROM posts WHERE id = $1").statusmessage, "PREPARE")
        same(c.execute("EXECUTE q (4)").fetchone()[0], "post number 4")
        same(c.execute("EXECUTE q (5)").fetchone()[0], "post number 5")
        refused("42P05", lambda: c.execute("PREPARE q AS SELECT 1"))
        same(c.execute("DEALLOCATE q").statusmessage, "DEALLOCATE")
        refused("26000", lambda: c.execute("EXECUTE q (4)"))


@probe
def big_parameters():
    with SERVER.connect() as c:
        text = "é" * 500_000
        same(c.execute("SELECT length(%s::text)", (text,)).fetchone()[0], 500_000)
        same(c.execute("SELECT %s::text", (text,)).fetchone()[0] == text, True)
        many = list(range(1, 501))
        same(c.execute("SELECT count(*) FROM posts WHERE id IN (" + ", ".join(["%s"] * 500) + ")", many).fetchone()[0], 500)
