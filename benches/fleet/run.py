"""Servers that share a store in PostgreSQL, with faults: each process in a network namespace of its own on this machine.

    .ci/clients; cargo build --release
    target/clients/venv/bin/python benches/fleet/run.py target/release/safeguard [--rows 200000] [--latency-ms 200]

As root, with PostgreSQL installed. Two parts (`--only scaling`, `--only faults`). *Scaling*: one, two and three servers on
three endpoint doubles judge a backfill each; the ratio of their rows a second to linear, and PostgreSQL's statements a judged
row. *Faults*: three servers and a backfill of `--rows`; at 15% of it a server is killed (SIGKILL; at 35% it is started anew), at
50% another is cut off from PostgreSQL in silence for 30 s, at 75% a double hangs for good. Rows a second are printed all along,
and how long after each fault they are back at what is left of the fleet; at the end `check.py` looks at the store and at the
doubles' own counts. Exits with 1 where anything does not hold.

Processors are not to be the limit, or it is they that are measured: their use is printed, and above 90% a ratio says little.
Longer latencies ask less of them.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from net import Net
from parts import HERE, Double, Postgres, Server, processor_seconds

LEASE = 30
POLICY = """---
title: Fleet
labels: [{name: allowed, allowed: true}, violates]
---
F1: violates if the message insults somebody, threatens somebody, or asks others to do so. Jokes among friends, quotes of
others and reports about what was said are allowed. F2: violates if the message tells where somebody lives or works who did not
say so. Everything else is allowed.
"""
SOURCE = "SELECT value AS id, 'post number ' || CAST(value AS VARCHAR) || ': the bus was late again and it rained all day' AS body FROM generate_series(1, {})"


def cpu():
    busy = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(busy) - busy[3] - busy[4], sum(busy)


class Watch:
    """How far a backfill is, by the store's own table, and how busy the processors were."""

    def __init__(self, postgres, schema):
        self.postgres, self.seen, self.began, self.cpu = postgres, [], time.time(), cpu()
        self.ask = f'SELECT state, judged, reason FROM "{schema}".backfills WHERE id = 1'

    def look(self):
        state, judged, reason = self.postgres.session.execute(self.ask).fetchone()
        self.seen.append((time.time(), judged))
        if state in ("failed", "paused", "cancelled"):
            raise RuntimeError(f"the backfill is {state}: {reason}")
        return state, judged

    def at(self, judged):
        """When so many were judged."""
        before = self.seen[0]
        for seen in self.seen:
            if seen[1] >= judged:
                share = (judged - before[1]) / max(1, seen[1] - before[1])
                return before[0] + share * (seen[0] - before[0])
            before = seen
        raise RuntimeError(f"{judged} were never judged")

    def judged(self, at):
        """How many were judged by a time."""
        before = self.seen[0]
        for seen in self.seen:
            if seen[0] >= at:
                share = (at - before[0]) / max(1e-9, seen[0] - before[0])
                return before[1] + share * (seen[1] - before[1])
            before = seen
        return before[1]

    def rate(self, begin, end):
        return (self.judged(end) - self.judged(begin)) / (end - begin)

    def busy(self):
        busy, whole = (now - then for now, then in zip(cpu(), self.cpu))
        return busy / whole


def begin(server, rows):
    with server.connect() as c:
        c.execute("SELECT * FROM safeguard_publish('fleet', %s, 'fleet')" % quoted(POLICY))
        c.execute("SELECT * FROM safeguard_backfill('fleet', %s, note => 'fleet')" % quoted(SOURCE.format(rows)))


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


class Fleet:
    def __init__(self, given):
        self.given, self.net = given, Net()
        self.folder, self.running = Path(tempfile.mkdtemp(prefix="fleet-")), []
        self.spaces, self.notes = {}, []
        try:
            self.postgres = Postgres(self.net, self.folder)
            for number in (1, 2, 3):
                self.spaces["server", number] = self.net.namespace(f"server{number}", 10 + number, [1, 2])
                self.spaces["double", number] = self.net.namespace(f"double{number}", 20 + number, [1])
        except BaseException:
            self.close()
            raise

    def close(self):
        parts = self.running + ([self.postgres] if hasattr(self, "postgres") else [])
        for part in parts:
            try:
                part.stop()
            except Exception as error:
                print(f"{part} does not stop, and ends with this process: {error}", file=sys.stderr)
        self.net.close()
        if self.given.keep:
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder)

    def start(self, name, servers):
        """Doubles, and servers on a store of their own."""
        folder = self.folder / name
        folder.mkdir()
        doubles = []
        for number in (1, 2, 3):
            doubles.append(Double(self.net, number, self.given.latency_ms, folder, self.spaces["double", number]))
            self.running.append(doubles[-1])
        urls = [double.url for double in doubles]
        fleet = []
        for number in range(1, servers + 1):
            fleet.append(Server(number, self.given.binary, folder, self.spaces["server", number]))
            self.running.insert(0, fleet[-1])
            fleet[-1].start(self.postgres.url(name), urls)
        return fleet, doubles, urls

    def stop(self):
        while self.running:
            self.running.pop(0).stop()

    def measure(self, servers):
        """Rows a second of some servers, statements a judged row, the processors' use, and who used them."""
        name, rows = f"scale{servers}", self.given.scale_rows * servers
        fleet, doubles, _ = self.start(name, servers)
        users = [[part.process.pid for part in parts] for parts in (fleet, [self.postgres], doubles)]

        def used():
            return [sum(map(processor_seconds, pids)) for pids in users]

        self.postgres.forget_statements()
        before, told = used(), (time.time(), fleet[0].metrics())
        begin(fleet[0], rows)
        watch = Watch(self.postgres, name)
        half = {}
        while True:
            state, judged = watch.look()
            if state == "done":
                break
            half = half or (fleet[0].metrics() if judged > rows / 2 else {})
            time.sleep(0.25)
        statements = self.postgres.statements()
        tenth, last = watch.at(rows * 0.1), watch.at(rows * 0.9)
        rate, busy = rows * 0.8 / (last - tenth), watch.busy()
        spent = [(now - then) * 1e3 / rows for now, then in zip(used(), before)]
        size = self.postgres.session.execute(f"SELECT pg_total_relation_size('{name}.verdicts')").fetchone()[0] / rows
        self.notes.append(self.says(servers, fleet[0].metrics(), half, told))
        if self.given.statements and servers == 3:
            self.notes += [f"    {count / rows:.4f} {sql}" for count, sql in statements[:25]]
        self.stop()
        return rate, float(sum(count for count, _ in statements)) / rows, busy, spent, size

    @staticmethod
    def says(servers, now, half, told):
        """What a server's own metrics say is the limit."""
        seconds = time.time() - told[0]
        grown = {name: now[name] - told[1].get(name, 0) for name in now}
        at_once = (f"{what} {grown[name] / seconds:.1f}" for what in ("model", "store_read", "store_write", "source")
                   if (name := f'safeguard_wait_seconds_total{{for="{what}"}}') in grown)
        return (f"/metrics of the first of {servers}: at once waited for {', '.join(at_once)}; half-way {half.get('safeguard_model_in_hand', 0):.0f} questions in "
                f"{half.get('safeguard_model_places', 0):.0f} places; {grown.get('process_cpu_seconds_total', 0) / seconds:.2f} of {now.get('safeguard_processors', 0):.0f} processors")


def scaling(fleet):
    print(f"\n{fleet.given.scale_rows} rows a server, doubles of {fleet.given.latency_ms} ms\n\n| servers | rows/s | of linear | statements a judged row | processors busy "
          "| processor ms a row: servers, PostgreSQL, doubles |\n|---|---|---|---|---|---|", flush=True)
    alone, holds = None, True
    for servers in (1, 2, 3):
        rate, statements, busy, spent, size = fleet.measure(servers)
        alone = alone or rate
        linear = rate / (alone * servers)
        print(f"| {servers} | {rate:.0f} | {linear:.2f} | {statements:.3f} | {busy:.0%} | {', '.join(f'{ms:.2f}' for ms in spent)} |", flush=True)
        holds &= linear >= 0.9
    print("\n".join(fleet.notes))
    print(f"a verdict has {size:.0f} bytes in PostgreSQL with its indexes")
    holds &= statements <= 0.1
    print(f"scaling at least 0.9 of linear, and 3 servers at most 0.1 statements a row: {'yes' if holds else 'NO'}", flush=True)
    return holds


class Faults:
    """What goes wrong, when a share of the rows is judged or some time after something else."""

    def __init__(self, fleet, servers, doubles, urls):
        self.fleet, self.servers, self.doubles, self.urls = fleet, servers, doubles, urls
        self.done, self.faults, self.marks, self.joins = set(), [], [], None

    def once(self, name, due):
        if due and name not in self.done:
            self.done.add(name)
            return True
        return False

    def look(self, share, began):
        now = time.time()
        if self.once("kill", share >= 0.15):
            self.servers[2].kill()
            self.mark("killed", self.servers[2].address, "server 3 is killed", 2 / 3, began)
        if self.once("again", share >= 0.35):
            self.servers[2].start(self.fleet.postgres.url("faults"), self.urls)
            self.mark(None, None, "server 3 is started anew", 1, began)
        if self.once("cut", share >= 0.50):
            self.fleet.net.cut("server2", 2)
            self.joins = now + 30
            self.mark("cut", self.servers[1].address, "server 2 is cut off from PostgreSQL", 2 / 3, began, 30)
        if self.once("join", self.joins and now >= self.joins):
            self.fleet.net.join("server2", 2)
            self.mark(None, None, "server 2 reaches PostgreSQL again", 1, began)
        if self.once("hang", share >= 0.75 and "join" in self.done):
            self.doubles[2].process.send_signal(signal.SIGUSR1)
            self.mark("hung", self.doubles[2].address, "double 3 hangs", 2 / 3, began, 1e6)

    def mark(self, what, who, words, share, began, seconds=0.0):
        now = time.time()
        if what:
            # A server that was cut off finds out some time after it is not.
            self.faults.append({"what": what, "who": who, "from": now, "to": now + seconds + (LEASE if what == "cut" else 0)})
        self.marks.append((now, words, share))
        print(f"{now - began:6.0f} s: {words}", flush=True)


def recovered(watch, at, wanted, end):
    """Seconds after `at` from which on ten seconds give the rate that is wanted; None where none do before `end`."""
    late = at
    while late + 10 <= end:
        if watch.rate(late, late + 10) >= 0.9 * wanted:
            return late - at
        late += 0.5
    return None


def faults(fleet):
    rows, given = fleet.given.rows, fleet.given
    servers, doubles, urls = fleet.start("faults", 3)
    fleet.postgres.forget_statements()
    begin(servers[0], rows)
    watch, plan = Watch(fleet.postgres, "faults"), Faults(fleet, servers, doubles, urls)
    print(f"\n{rows} rows, 3 servers, 3 doubles of {given.latency_ms} ms", flush=True)
    told = watch.began
    while True:
        state, judged = watch.look()
        if state == "done":
            break
        plan.look(judged / rows, watch.began)
        if time.time() - told >= 5:
            print(f"{time.time() - watch.began:6.0f} s: {judged:7d} rows, {watch.rate(told, time.time()):5.0f} rows/s", flush=True)
            told = time.time()
        time.sleep(0.25)
    ended = time.time()
    statements = float(sum(count for count, _ in fleet.postgres.statements())) / rows
    print(f"{ended - watch.began:6.0f} s: done; {statements:.3f} statements a row, processors {watch.busy():.0%} busy", flush=True)
    usual, holds = watch.rate(watch.at(rows * 0.05), watch.at(rows * 0.15)), True
    print(f"before the first fault: {usual:.0f} rows/s")
    for number, (at, words, share) in enumerate(plan.marks):
        end = plan.marks[number + 1][0] if number + 1 < len(plan.marks) else watch.at(rows * 0.98)
        took, least = recovered(watch, at, usual * share, end), min(watch.rate(t, t + 5) for t in (at + s for s in range(0, max(1, int(end - at) - 5))))
        holds &= took is not None and took <= LEASE
        back = "NEVER" if took is None else f"{took:.1f} s later"
        print(f"{words}: {watch.rate(at, end):.0f} rows/s in the {end - at:.0f} s until the next event, at least {least:.0f} in 5 s; {usual * share:.0f} are wanted, 0.9 of them {back}")
    fleet.stop()
    (fleet.folder / "faults.json").write_text(json.dumps(plan.faults))
    print("the store and the doubles:", flush=True)
    checked = subprocess.run([sys.executable, HERE / "check.py", "--postgres", fleet.postgres.conninfo("safeguard"), "--schema", "faults", "--rows", str(rows),
                              "--faults", fleet.folder / "faults.json", *(double.log for double in doubles)])
    holds &= checked.returncode == 0
    print(f"finished, each row judged once, and back within a lease after each fault: {'yes' if holds else 'NO'}", flush=True)
    return holds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=lambda path: Path(path).resolve())
    parser.add_argument("--rows", type=int, default=200_000, help="of the backfill with faults")
    parser.add_argument("--scale-rows", type=int, default=30_000, help="of the backfills without, for each server")
    parser.add_argument("--latency-ms", type=int, default=200, help="of a double's answer")
    parser.add_argument("--only", choices=["scaling", "faults"])
    parser.add_argument("--statements", action="store_true", help="list what three servers ask the database")
    parser.add_argument("--keep", action="store_true", help="keep logs and data")
    given = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("network namespaces are root's to make: run this as root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    version = subprocess.run([given.binary, "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
    print(f"{' '.join(sys.argv)}\n{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, {version}", flush=True)
    try:
        fleet = Fleet(given)
    except RuntimeError as error:
        raise SystemExit(f"no network namespaces here: {error}") from None
    try:
        holds = [part(fleet) for name, part in (("scaling", scaling), ("faults", faults)) if given.only in (None, name)]
    finally:
        fleet.close()
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
