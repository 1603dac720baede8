"""asyncpg against the server, its pool included: everything in the extended protocol and in binary.

| line of the table of what failed before | probes |
|---|---|
| asyncpg `timeout=`, connection blocked until it ends | timeout, task_cancelled |
| asyncpg pool | pool_reset, pool_of_many |
| interval/numeric results trigger its type introspection | values, introspection, set_type_codec |
| copy_* | copy_* |
| client killed during a query | terminated_during_a_query |
"""

import asyncio
import datetime as dt
import decimal
import io
import json
import time
import uuid

import asyncpg
from probes import PAIRS, SERVER, STOP_SECONDS, Failed, holds, main, probe, same, slow, sqlstate, within

UTC = dt.timezone.utc


def with_connection(only_ours=False, **keywords):
    """A probe that is given a connection."""

    def register(function):
        async def run():
            connection = await open_one(**keywords)
            try:
                await function(connection)
            finally:
                await asyncio.wait_for(connection.close(), 10)

        def call():
            asyncio.run(run())

        call.__name__ = function.__name__
        probe(call, only_ours=only_ours)
        return function

    return register


def open_one(**keywords):
    return asyncpg.connect(host=SERVER.host, port=SERVER.port, user=SERVER.user, database=SERVER.db, **keywords)


async def raised(wanted, awaitable):
    """The awaitable fails with SQLSTATE `wanted`; gives the error."""
    try:
        found = await awaitable
    except asyncpg.PostgresError as error:
        holds(sqlstate(error) == wanted, f"SQLSTATE {sqlstate(error)}, not {wanted}: {error}")
        return error
    raise Failed(f"not refused with {wanted}: {found!r}")


@with_connection()
async def fetch(c):
    same(tuple(await c.fetchrow("SELECT id, body, created_at FROM posts WHERE id = $1", 7)),
         (7, "post number 7", dt.datetime(2026, 1, 1, 0, 7)))
    same(await c.fetchval("SELECT count(*) FROM posts WHERE body LIKE $1", "%number 1999_"), 10)
    same([row["id"] for row in await c.fetch("SELECT id FROM posts ORDER BY id LIMIT $1 OFFSET $2", 3, 5)], [6, 7, 8])
    same(await c.fetchrow("SELECT id FROM posts WHERE id = -1"), None)
    same(await c.fetchval("SELECT $1::text", "é😀"), "é😀")
    same(await c.fetchval("SELECT count(*) FROM posts WHERE id = ANY($1::bigint[])", [1, 2, 99999999]), 2)
    same(await c.fetchval("SELECT count(*) FROM posts WHERE id = ANY($1)", [1, 2, 99999999]), 2)
    same(await c.fetchval("SELECT count(*) FROM posts WHERE body = ANY($1)", ["post number 1"]), 1)
    same(await c.fetchval("SELECT count(*) FROM posts WHERE created_at < $1", dt.datetime(2026, 1, 1, 0, 5)), 4)
    same(await c.fetchval("SELECT $1::int IS NULL", None), True)


@with_connection()
async def values(c):
    row = await c.fetchrow(
        "SELECT CAST(-7 AS SMALLINT), CAST(7 AS INT), CAST(-9 AS BIGINT), CAST(1.5 AS REAL), CAST('0.1' AS DOUBLE PRECISION), "
        "CAST('1234567.890' AS NUMERIC(12,3)), 'é', decode('00ff', 'hex'), true, DATE '2026-02-28', CAST('01:02:03.000004' AS TIME), "
        "TIMESTAMP '2026-02-03 04:05:06.789012', CAST('2026-02-03 04:05:06+02:00' AS TIMESTAMP WITH TIME ZONE), "
        "INTERVAL '1 day 2 hours', ARRAY[1, 2, NULL], ARRAY['a', NULL, ''], NULL, CAST('-0.001' AS NUMERIC(12,3)), CAST(10000 AS NUMERIC(12,0))")
    same(tuple(row), (-7, 7, -9, 1.5, 0.1, decimal.Decimal("1234567.890"), "é", b"\0\xff", True, dt.date(2026, 2, 28), dt.time(1, 2, 3, 4),
                      dt.datetime(2026, 2, 3, 4, 5, 6, 789012), dt.datetime(2026, 2, 3, 2, 5, 6, tzinfo=UTC), dt.timedelta(days=1, hours=2),
                      [1, 2, None], ["a", None, ""], None, decimal.Decimal("-0.001"), decimal.Decimal("10000")))


@with_connection()
async def value_uuid(c):
    text = "0191b2c3-d4e5-7000-8000-00000000000a"
    same(str(await c.fetchval(f"SELECT CAST('{text}' AS UUID)")), text)
    uuid.UUID(str(await c.fetchval("SELECT gen_random_uuid()")))


@with_connection()
async def value_json(c):
    same(json.loads(await c.fetchval("""SELECT CAST('{"a": [1, null]}' AS JSON)""")), {"a": [1, None]})


@with_connection()
async def value_record(c):
    sql = "SELECT ROW(1, CAST('x' AS TEXT), NULL::text)" if SERVER.oracle else "SELECT named_struct('a', 1, 'b', 'x', 'c', NULL::text)"
    same(tuple(await c.fetchval(sql)), (1, "x", None))


@with_connection(only_ours=True)
async def verdict(c):
    row = await c.fetchval("SELECT safeguard_verdict($1, $2)", "hate", "a walk to the sea")
    same(len(row), 10)
    same(await c.fetchval("SELECT safeguard_classify($1, body) FROM posts WHERE id = $2", "hate", 5), row[0])


@with_connection()
async def parameters_of_every_type(c):
    given = (-7, 2**31 - 1, -(2**63) + 1, 1.5, 0.1, decimal.Decimal("12.345"), "naïve 😀", b"\0\xff", True, dt.date(2026, 2, 28),
             dt.time(1, 2, 3, 4), dt.datetime(2026, 2, 3, 4, 5, 6, 7), dt.datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC))
    await c.execute("DELETE FROM kinds")
    same(await c.execute("INSERT INTO kinds VALUES (" + ", ".join(f"${at + 1}" for at in range(13)) + ")", *given), "INSERT 0 1")
    same(await c.execute("INSERT INTO kinds VALUES (" + ", ".join(f"${at + 1}" for at in range(13)) + ")", *[None] * 13), "INSERT 0 1")
    same(tuple(await c.fetchrow("SELECT * FROM kinds WHERE i8 IS NOT NULL")), given)
    for column, value in zip("i2 i4 i8 f4 f8 n t b ok d tm ts tz".split(), given):
        same(await c.fetchval(f"SELECT count(*) FROM kinds WHERE {column} = $1", value), 1, column)
    await c.execute("DELETE FROM kinds")


@with_connection()
async def bad_parameters(c):
    try:
        await c.fetch("SELECT id FROM posts WHERE id = $1", "seven")
    except asyncpg.DataError:
        pass
    else:
        raise Failed("a text for a bigint")
    same(await c.fetchval("SELECT 1"), 1)
    try:
        await c.fetch("SELECT id FROM posts WHERE id = $1")
    except asyncpg.InterfaceError:
        return
    raise Failed("no parameter")


@with_connection()
async def prepared(c):
    statement = await c.prepare("SELECT id, body, created_at FROM posts WHERE id = $1 AND body <> $2")
    same([one.name for one in statement.get_parameters()], ["int8", "text"])
    same([(one.name, one.type.name) for one in statement.get_attributes()], [("id", "int8"), ("body", "text"), ("created_at", "timestamp")])
    for at in range(1, 20):
        same((await statement.fetchrow(at, "x"))["body"], f"post number {at}")
    same((len(await statement.fetch(1, "x")), statement.get_statusmsg()), (1, "SELECT 1"))
    holds(await statement.explain(1, "x") is not None if SERVER.oracle else True, "explain")
    for at in range(150):
        await c.fetchval(f"SELECT {at} + $1::int", 1)


@with_connection(statement_cache_size=0)
async def without_a_statement_cache(c):
    for at in range(5):
        same(await c.fetchval("SELECT $1::int", at), at)


@with_connection()
async def simple_protocol(c):
    await c.execute("SELECT 1; SET application_name = 'x'; SELECT 2")
    same(await c.fetchval("SHOW application_name"), "x")
    same(await c.execute("CREATE TABLE asyncpg_made (a INT)"), "CREATE TABLE")
    same(await c.execute("INSERT INTO asyncpg_made VALUES (1), (2)"), "INSERT 0 2")
    same(await c.execute("UPDATE asyncpg_made SET a = 3 WHERE a = 1"), "UPDATE 1")
    same(await c.execute("DROP TABLE asyncpg_made"), "DROP TABLE")


@with_connection()
async def executemany(c):
    await c.execute("DELETE FROM lab")
    await c.executemany("INSERT INTO lab VALUES ($1, $2)", [(at, f"l{at}") for at in range(300)])
    same(tuple(await c.fetchrow("SELECT count(*), max(label) FROM lab")), (300, "l99"))
    same([row[0] for row in await c.fetchmany("SELECT label FROM lab WHERE id = $1", [(3,), (5,)])], ["l3", "l5"])
    await c.execute("DELETE FROM lab")


@with_connection()
async def cursors(c):
    async with c.transaction():
        count = total = 0
        async for row in c.cursor("SELECT id FROM posts WHERE id > $1 ORDER BY id", 0, prefetch=333):
            count, total = count + 1, total + row["id"]
        same((count, total), (20000, 200010000))
        cursor = await c.cursor("SELECT id FROM posts ORDER BY id")
        same([row[0] for row in await cursor.fetch(3)], [1, 2, 3])
        same(await cursor.forward(10), 10)
        same((await cursor.fetchrow())[0], 14)
        # Another statement between two Executes of one portal.
        same(await c.fetchval("SELECT count(*) FROM posts"), 20000)
        same((await cursor.fetchrow())[0], 15)
    async with c.transaction():
        count = 0
        async for _ in c.cursor("SELECT id FROM posts ORDER BY id"):
            count += 1
            if count == 5:
                break
    same(await c.fetchval("SELECT 1"), 1)


@with_connection()
async def transactions(c):
    async with c.transaction(isolation="serializable", readonly=True):
        same(await c.fetchval("SHOW transaction_isolation"), "serializable")
        try:
            async with c.transaction():
                await c.execute("SELECT nope FROM posts")
        except asyncpg.UndefinedColumnError:
            pass
        same(await c.fetchval("SELECT 2"), 2)
        holds(c.is_in_transaction(), "not in a transaction")
    holds(not c.is_in_transaction(), "in a transaction")
    try:
        async with c.transaction(readonly=True):
            await c.execute("INSERT INTO lab VALUES (1, 'x')")
    except asyncpg.ReadOnlySQLTransactionError:
        pass
    same(await c.fetchval("SELECT 3"), 3)
    transaction = c.transaction()
    await transaction.start()
    await raised("22012", c.fetch("SELECT 1 / 0"))
    await raised("25P02", c.fetch("SELECT 1"))
    await transaction.rollback()


@with_connection()
async def errors(c):
    error = await raised("42P01", c.fetch("SELECT * FROM nope"))
    same(error.position, "15")
    await raised("42703", c.fetch("SELECT nope FROM posts"))
    await raised("42601", c.fetch("SELEC 1"))
    await raised("22012", c.fetch("SELECT 1 / (id - $1) FROM posts", 500))
    await raised("22P02", c.fetch("SELECT CAST(body AS BIGINT) FROM posts"))
    await raised("42883", c.fetch("SELECT nope(1)"))
    same(await c.fetchval("SELECT 1"), 1)


@with_connection()
async def notices(c):
    seen = []
    c.add_log_listener(lambda _, message: seen.append((message.severity, message.sqlstate)))
    await c.execute("DROP TABLE IF EXISTS never_there")
    for _ in range(50):
        await asyncio.sleep(0)
    same(seen, [("NOTICE", "00000")])


@with_connection(server_settings={"application_name": "from asyncpg", "TimeZone": "Asia/Tokyo", "statement_timeout": "12345"})
async def settings(c):
    same(await c.fetchval("SHOW application_name"), "from asyncpg")
    same(await c.fetchval("SHOW statement_timeout"), "12345ms")
    same(c.get_settings().TimeZone, "Asia/Tokyo")
    await c.execute("SET TIME ZONE 'UTC'")
    same(c.get_settings().TimeZone, "UTC")
    holds(c.get_server_version().major >= 15, c.get_server_version())
    same(await c.fetchval("SELECT current_setting('application_name')"), "from asyncpg")


@with_connection()
async def introspection(c):
    """What asyncpg asks of the catalog when it meets a type that it does not know."""
    from asyncpg.introspection import INTRO_LOOKUP_TYPES, TYPE_BY_NAME

    rows = await c.fetch(INTRO_LOOKUP_TYPES, [1700, 1186, 1007])
    same(sorted(row["oid"] for row in rows), [23, 1007, 1186, 1700])
    same({row["oid"]: row["elemtype"] for row in rows}[1007], 23)
    same((await c.fetchrow(TYPE_BY_NAME, "json", "pg_catalog"))["oid"], 114)


@with_connection()
async def set_type_codec(c):
    await c.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    same(await c.fetchval("""SELECT CAST('{"a": 1}' AS JSON)"""), {"a": 1})
    await c.set_type_codec("numeric", encoder=str, decoder=float, schema="pg_catalog", format="text")
    same(await c.fetchval("SELECT CAST('1.5' AS NUMERIC(4,1))"), 1.5)


@with_connection()
async def timeout(c):
    for sql in (slow("asyncpg timeout"), PAIRS):
        began = time.monotonic()
        try:
            await c.fetch(sql, timeout=0.5)
        except asyncio.TimeoutError:
            pass
        else:
            raise Failed("no timeout")
        within(0.5 + STOP_SECONDS, began, "the timeout")
        same(await c.fetchval("SELECT 1"), 1)
        within(0.5 + STOP_SECONDS, began, "the timeout and a statement")


@with_connection()
async def task_cancelled(c):
    task = asyncio.ensure_future(c.fetch(slow("asyncpg task")))
    await asyncio.wait([task], timeout=0.5)
    began = time.monotonic()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    same(await c.fetchval("SELECT 1"), 1)
    within(STOP_SECONDS, began, "the cancel")


@with_connection()
async def statement_timeout(c):
    await c.execute("SET statement_timeout = 400")
    began = time.monotonic()
    await raised("57014", c.fetch(slow("asyncpg statement timeout")))
    within(0.4 + STOP_SECONDS, began, "the timeout")


@probe
def terminated_during_a_query():
    async def run():
        for _ in range(5):
            c = await open_one()
            task = asyncio.ensure_future(c.fetch("SELECT a.i, b.j FROM generate_series(1, 10000) AS a(i), generate_series(1, 10000) AS b(j)"))
            await asyncio.wait([task], timeout=0.3)
            c.terminate()
            await asyncio.wait([task])
            holds(task.exception() is not None, "it ended")
        c = await open_one()
        same(await c.fetchval("SELECT count(*) FROM posts"), 20000)
        await c.close()

    asyncio.run(run())


@with_connection()
async def copy_out(c):
    await c.execute("DELETE FROM lab")
    await c.executemany("INSERT INTO lab VALUES ($1, $2)", [(1, "a"), (2, None), (3, "c,\"d\"")])
    out = io.BytesIO()
    same(await c.copy_from_query("SELECT id, label FROM lab WHERE id > $1 ORDER BY id", 1, output=out, format="csv", header=True), "COPY 2")
    same(out.getvalue(), b'id,label\n2,\n3,"c,""d"""\n')
    out = io.BytesIO()
    same(await c.copy_from_table("lab", output=out, columns=["label"], delimiter="|", null="nil"), "COPY 3")
    same(sorted(out.getvalue().splitlines()), [b'a', b'c,"d"', b"nil"])
    out = io.BytesIO()
    await c.copy_from_query("SELECT id FROM posts", output=out, format="binary")
    same(len(out.getvalue()), 19 + 20000 * 14 + 2)
    await c.execute("DELETE FROM lab")


@with_connection()
async def copy_in(c):
    await c.execute("DELETE FROM lab")
    same(await c.copy_to_table("lab", source=io.BytesIO(b"id;label\n1;a\n2;\n"), format="csv", header=True, delimiter=";"), "COPY 2")
    same(await c.copy_records_to_table("lab", records=[(3, "three"), (4, None), (5, "é😀")]), "COPY 3")
    same(await c.copy_records_to_table("lab", records=[("six", 6)], columns=["label", "id"]), "COPY 1")
    same([tuple(row) for row in await c.fetch("SELECT * FROM lab ORDER BY id")],
         [(1, "a"), (2, None), (3, "three"), (4, None), (5, "é😀"), (6, "six")])
    await raised("22P02", c.copy_to_table("lab", source=io.BytesIO(b"x\ta\n")))
    await c.copy_records_to_table("lab", records=((at, "many " + "x" * 50) for at in range(20000)))
    same(await c.fetchval("SELECT count(*) FROM lab"), 20006)
    await c.execute("DELETE FROM lab")


@with_connection()
async def big_rows(c):
    row = await c.fetchrow("SELECT repeat('0123456789abcdef', 65536), $1::text", "é" * 500_000)
    same((len(row[0]), len(row[1])), (1048576, 500000))
    row = await c.fetchrow("SELECT " + ", ".join(f"id + {at} AS c{at}" for at in range(200)) + " FROM posts WHERE id = 1")
    same(list(row.values()), [1 + at for at in range(200)])


@with_connection()
async def listen(c):
    try:
        await c.add_listener("channel", lambda *_: None)
        await c.remove_listener("channel", lambda *_: None)
    except asyncpg.PostgresError as error:
        same(sqlstate(error), "0A000")
    same(await c.fetchval("SELECT 1"), 1)


@with_connection()
async def reset(c):
    await c.execute("SET application_name = 'x'")
    await c.reset()
    same(await c.fetchval("SHOW application_name"), "")
    await c.reload_schema_state()


@probe
def pool_reset():
    async def run():
        async with asyncpg.create_pool(host=SERVER.host, port=SERVER.port, user=SERVER.user, database=SERVER.db, min_size=1, max_size=1) as pool:
            async with pool.acquire() as c:
                await c.execute("SET application_name = 'dirty'")
                await c.execute("SET statement_timeout = 77")
            async with pool.acquire() as c:
                same(await c.fetchval("SHOW application_name"), "")
                same(await c.fetchval("SHOW statement_timeout"), "0")
            # A connection that comes back in a failed transaction is usable.
            async with pool.acquire() as c:
                await c.execute("BEGIN")
                await raised("22012", c.fetch("SELECT 1 / 0"))
            same(await pool.fetchval("SELECT 1"), 1)

    asyncio.run(run())


@probe
def pool_of_many():
    async def run():
        async with asyncpg.create_pool(host=SERVER.host, port=SERVER.port, user=SERVER.user, database=SERVER.db, min_size=4, max_size=10) as pool:
            async def work(at):
                async with pool.acquire() as c:
                    async with c.transaction():
                        return await c.fetchval("SELECT body FROM posts WHERE id = $1", at)

            same(await asyncio.gather(*[work(at) for at in range(1, 201)]), [f"post number {at}" for at in range(1, 201)])

    asyncio.run(run())


@probe
def pool_after_a_timeout():
    async def run():
        async with asyncpg.create_pool(host=SERVER.host, port=SERVER.port, user=SERVER.user, database=SERVER.db, min_size=1, max_size=1) as pool:
            for _ in range(3):
                try:
                    await pool.fetch(slow("pool"), timeout=0.3)
                except asyncio.TimeoutError:
                    pass
                same(await pool.fetchval("SELECT 1"), 1)

    asyncio.run(run())


if __name__ == "__main__":
    main(__doc__)
