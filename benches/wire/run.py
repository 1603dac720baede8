"""Rows a second over the wire, `safeguard serve` against PostgreSQL 15 on the same machine, and the server's memory.

    .ci/clients; cargo build --release; target/clients/venv/bin/python benches/wire/run.py target/release/safeguard

Both servers hold the same table, and each way to read it all is measured in turns (ours, theirs, ours, ..), so that what
else the machine does falls on both. `raw` readers are sockets that look at no message: they measure the server; the other
readers measure what a user of that driver sees. A ratio above 1 is ours faster. Memory is our server's peak (VmHWM, reset
before each read) less what it held before.
"""

import argparse
import asyncio
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import psycopg
from servers import Postgres, Safeguard, message, raw_connect, to_ready

JAR = "/usr/share/java/postgresql.jar"
QUERY = "SELECT * FROM wire"


def make(server, rows):
    with psycopg.connect(f"host=127.0.0.1 port={server.port} user=postgres dbname=postgres", autocommit=True) as c:
        c.execute("CREATE TABLE wire (id BIGINT, author INT, body TEXT)")
        c.execute("INSERT INTO wire SELECT i, CAST(i % 1000 AS INT), 'body of post ' || lpad(CAST(i AS TEXT), 11, '0') "
                  f"FROM generate_series(1, {rows}) AS s(i)")
        if isinstance(server, Postgres):
            c.execute("VACUUM ANALYZE wire")
        found = c.execute("SELECT count(*), min(length(body)), max(length(body)) FROM wire").fetchone()
        assert found == (rows, 24, 24), found


# ---- readers: each reads every row and gives (rows, seconds)

def raw(ask):
    def read(port):
        with raw_connect(port) as s:
            began = time.perf_counter()
            s.sendall(ask)
            _, tail = to_ready(s)
            seconds = time.perf_counter() - began
        tag = tail[:-6].rstrip(b"\0").rsplit(b" ", 1)[-1]
        if not tag.isdigit():
            raise RuntimeError(repr(tail))
        return int(tag), seconds

    return read


def simple(sql):
    return message(b"Q", sql.encode() + b"\0")


def extended(sql, form):
    bind = b"\0\0" + b"\0\0" + b"\0\0" + b"\0\1" + form.to_bytes(2, "big")
    return message(b"P", b"\0" + sql.encode() + b"\0\0\0") + message(b"B", bind) + message(b"E", b"\0\0\0\0\0") + message(b"S", b"")


def psql(*arguments):
    def read(port):
        command = ["psql", "-X", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", "postgres", "-At", *arguments]
        began = time.perf_counter()
        found = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return found.stdout.count(b"\n"), time.perf_counter() - began

    return read


def psycopg_rows(binary):
    def read(port):
        with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres", autocommit=True) as c:
            began, count = time.perf_counter(), 0
            for _ in c.cursor(binary=binary).stream(QUERY, size=1000):
                count += 1
            return count, time.perf_counter() - began

    return read


def psycopg_copy(form, more=""):
    def read(port):
        with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres", autocommit=True) as c:
            cursor, began = c.cursor(), time.perf_counter()
            with cursor.copy(f"COPY ({QUERY}) TO STDOUT (FORMAT {form}{more})") as copy:
                for _ in copy:
                    pass
            return cursor.rowcount, time.perf_counter() - began

    return read


def asyncpg_rows(port):
    async def later():
        c = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="postgres")
        began = time.perf_counter()
        count = len(await c.fetch(QUERY))
        seconds = time.perf_counter() - began
        await c.close()
        return count, seconds

    return asyncio.run(later())


def jdbc(size):
    def read(port):
        source = str(Path(__file__).with_name("JdbcRows.java"))
        found = subprocess.run(["java", "-Xmx3g", "-cp", JAR, source, "127.0.0.1", str(port), str(size), QUERY], stdout=subprocess.PIPE, check=True, text=True)
        rows, seconds, _ = found.stdout.split()
        return int(rows), float(seconds)

    return read


READERS = [
    ("raw, simple protocol, text", raw(simple(QUERY))),
    ("raw, extended protocol, text", raw(extended(QUERY, 0))),
    ("raw, extended protocol, binary", raw(extended(QUERY, 1))),
    ("raw, COPY text", raw(simple(f"COPY ({QUERY}) TO STDOUT"))),
    ("raw, COPY csv", raw(simple(f"COPY ({QUERY}) TO STDOUT (FORMAT csv)"))),
    ("raw, COPY binary", raw(simple(f"COPY ({QUERY}) TO STDOUT (FORMAT binary)"))),
    ("psql -At", psql("-c", QUERY)),
    ("psql -At, FETCH_COUNT 1000", psql("-v", "FETCH_COUNT=1000", "-c", QUERY)),
    ("psql COPY text", psql("-c", f"COPY ({QUERY}) TO STDOUT")),
    ("psql COPY csv", psql("-c", f"COPY ({QUERY}) TO STDOUT (FORMAT csv)")),
    ("psycopg stream, text", psycopg_rows(False)),
    ("psycopg stream, binary", psycopg_rows(True)),
    ("psycopg COPY text", psycopg_copy("text")),
    ("psycopg COPY csv", psycopg_copy("csv")),
    ("psycopg COPY binary", psycopg_copy("binary")),
    # PostgreSQL has no such option: its own COPY stands beside ours.
    ("psycopg COPY text, gathered", (psycopg_copy("text", ", GATHER"), psycopg_copy("text"))),
    ("psycopg COPY binary, gathered", (psycopg_copy("binary", ", GATHER"), psycopg_copy("binary"))),
    ("asyncpg fetch", asyncpg_rows),
    ("pgJDBC, fetchSize 0", jdbc(0)),
    ("pgJDBC, fetchSize 1000", jdbc(1000)),
]


def measure(name, read, ours, theirs, given):
    speeds, grown = {ours: [], theirs: []}, 0
    reads = dict(zip((ours, theirs), read if isinstance(read, tuple) else (read, read)))
    for at in range(given.rounds + 1):
        for server in (ours, theirs):
            if server is ours:
                before = ours.resident("VmRSS")
                ours.reset_peak()
            rows, seconds = reads[server](server.port)
            if rows != given.rows:
                raise RuntimeError(f"{rows} rows, not {given.rows}")
            if server is ours:
                grown = max(grown, ours.resident("VmHWM") - before)
            # The first round warms both.
            if at:
                speeds[server].append(rows / seconds)
    mine, other = statistics.median(speeds[ours]), statistics.median(speeds[theirs])
    print(f"| {name} | {mine / 1e3:.0f} | {other / 1e3:.0f} | {mine / other:.2f} | {grown / 2**20:.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    ours, theirs = Safeguard(given.binary), Postgres()
    try:
        for server in (ours, theirs):
            make(server, given.rows)
        version = subprocess.run([given.binary, "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
        their_version = subprocess.run(["/usr/lib/postgresql/15/bin/postgres", "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
        print(f"{' '.join(sys.argv)}\n{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, {version}, {their_version}, "
              f"psycopg {psycopg.__version__}, asyncpg {asyncpg.__version__}\n{QUERY}: {given.rows} rows of a bigint, an int and 24 bytes of text; "
              f"median of {given.rounds}\n\n| reader | ours, thousand rows/s | PostgreSQL | ratio | server memory, MiB |\n|---|---|---|---|---|", flush=True)
        for name, read in READERS:
            if given.only in name:
                try:
                    measure(name, read, ours, theirs, given)
                except Exception as error:
                    print(f"| {name} | failed: {str(error)[:150]} | | | |", flush=True)
    finally:
        ours.stop()
        theirs.stop()


if __name__ == "__main__":
    main()
