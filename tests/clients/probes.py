"""What every Python probe shares: the register of probes, the server under test, and a runner that outlives a crash.

    python tests/clients/X_probe.py HOST PORT USER DB [--oracle] [--only WORD]

One line a probe: `ok NAME` or `FAIL NAME: why`; the exit status is 1 where one failed. Each probe runs in a process of
its own with a deadline, so that a driver that crashes or waits for ever costs one probe and not the run. `--oracle` says
that the server is PostgreSQL 15 itself: what only safeguard has is skipped, and every other probe must hold there too.
Passwords come from PGPASSWORD, as libpq has it.
"""

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import psycopg

# A probe that is not done by then hangs.
PROBE_SECONDS = 60
# From a cancel, a timeout or a client's death until the statement has ended; longer where the machine does other work.
STOP_SECONDS = float(os.environ.get("PROBE_STOP_SECONDS", "1"))

PROBES = []


class Server:
    """Where the server is, and which of the two it is."""

    host, port, user, db = "127.0.0.1", 5433, "postgres", "postgres"
    oracle = False

    @property
    def dsn(self):
        return f"host={self.host} port={self.port} user={self.user} dbname={self.db}"

    def connect(self, **keywords):
        keywords.setdefault("autocommit", True)
        return psycopg.connect(self.dsn, **keywords)


SERVER = Server()


class Failed(Exception):
    """What a probe found; its text is the line that is printed."""


def probe(function=None, *, only_ours=False, seconds=PROBE_SECONDS):
    """Registers a probe under its function's name."""

    def register(function):
        PROBES.append((function.__name__, function, only_ours, seconds))
        return function

    return register(function) if function else register


def add(name, function, only_ours=False):
    """Registers one probe of a table of probes."""
    PROBES.append((name, function, only_ours, PROBE_SECONDS))


def same(found, wanted, what=""):
    """Values and their types alike: 1, 1.0 and True are three values here."""
    if found != wanted or str(type(found)) != str(type(wanted)):
        raise Failed(f"{what + ': ' if what else ''}{found!r}, not {wanted!r}"[:400])


def holds(condition, why):
    if not condition:
        raise Failed(str(why)[:400])


def sqlstate(error):
    """The SQLSTATE that a driver's exception carries, whichever driver it is."""
    for one in (error, getattr(error, "orig", None), error.__cause__, getattr(error, "__context__", None)):
        for name in ("sqlstate", "pgcode"):
            if one is not None and getattr(one, name, None):
                return getattr(one, name)
        if one is not None and one.args and isinstance(one.args[0], dict):
            return one.args[0].get("C")
    return None


def refused(wanted, call):
    """`call` fails with one of the SQLSTATEs of `wanted`; gives the error."""
    wanted = {wanted} if isinstance(wanted, str) else set(wanted)
    try:
        found = call()
    except Exception as error:
        state = sqlstate(error)
        holds(state in wanted, f"SQLSTATE {state}, not {' or '.join(sorted(wanted))}: {type(error).__name__}: {error}")
        return error
    raise Failed(f"not refused with {' or '.join(sorted(wanted))}: {found!r}")


def works_or_refused(call, states=("0A000",)):
    """True where `call` works, False where it is refused with one of `states`; anything else fails the probe."""
    try:
        call()
    except Exception as error:
        state = sqlstate(error)
        holds(state in states, f"neither works nor is refused with {states}: {state} {type(error).__name__}: {error}")
        return False
    return True


def within(seconds, began, what):
    took = time.monotonic() - began
    holds(took < seconds, f"{what} took {took:.2f} s, more than {seconds} s")


def slow(tag):
    """A statement of minutes: the classification of texts that nobody judged yet, or a sleep where nothing classifies."""
    if SERVER.oracle:
        return "SELECT count(pg_sleep(60))"
    # No screen stands before this policy.
    return f"SELECT count(safeguard_classify('keywords', body || ' {tag} {time.time_ns()}')) FROM posts"


# As slow, without a model: ten thousand million pairs.
PAIRS = (
    "SELECT count(*) FROM generate_series(1, 100000) AS a(i), generate_series(1, 100000) AS b(j) "
    "WHERE (a.i * 31 + b.j * 17) % 1000003 = 5"
)


def common_tables():
    text = Path(__file__).with_name("common.sql").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    with SERVER.connect() as connection:
        for statement in "\n".join(lines).split(";\n"):
            if statement.strip():
                connection.execute(statement.strip().rstrip(";"))


def in_child(name, function, seconds):
    """Runs one probe in a fork; True where it held."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status, line = 0, f"ok {name}"
        try:
            function()
        except Failed as failure:
            status, line = 1, f"FAIL {name}: {failure}"
        except BaseException as error:
            if os.environ.get("PROBE_TRACE"):
                traceback.print_exc()
            text = str(error).replace("\n", " | ")[:400]
            status, line = 1, f"FAIL {name}: {sqlstate(error) or ''} {type(error).__name__}: {text}"
        os.write(writer, line.encode() + b"\n")
        os._exit(status)
    os.close(writer)
    said, status = wait(child, reader, seconds)
    os.close(reader)
    if said:
        print(said.decode(), end="", flush=True)
    elif status is None:
        print(f"FAIL {name}: not done after {seconds} s", flush=True)
    else:
        print(f"FAIL {name}: the client died of signal {os.WTERMSIG(status)}", flush=True)
    return status == 0


def wait(child, reader, seconds):
    """What the child said and its status; the status is None where it had to be killed."""
    os.set_blocking(reader, True)
    said, done = b"", []

    def give_up(*_):
        os.kill(child, signal.SIGKILL)
        done.append("late")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    while part := os.read(reader, 65536):
        said += part
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    return said, None if done else status


def main(doc, setup=common_tables):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in (("host", str), ("port", int), ("user", str), ("db", str)):
        parser.add_argument(name, type=kind)
    parser.add_argument("--oracle", action="store_true")
    parser.add_argument("--only", default="", help="run the probes whose names hold this word")
    given = parser.parse_args()
    for name in ("host", "port", "user", "db", "oracle"):
        setattr(SERVER, name, getattr(given, name))
    setup()
    failed = 0
    for name, function, only_ours, seconds in PROBES:
        if given.only not in name:
            continue
        if only_ours and SERVER.oracle:
            print(f"skipped {name}: the oracle has no such thing", flush=True)
        elif not in_child(name, function, seconds):
            failed += 1
    sys.exit(1 if failed else 0)
