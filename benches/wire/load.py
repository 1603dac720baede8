"""Many connections at once: 200 idle and 50 busy ones under a limit of 300, the 301st, and a reader that is slow.

    .ci/clients; cargo build --release; target/clients/venv/bin/python benches/wire/load.py target/release/safeguard

The busy ones are sockets in one loop; each sends a small aggregate as soon as it has the answer to the last. Their times
are measured in turns with and without slow readers, each of which asks for the whole table and takes 4 KiB of it at a
time, some times a second. Ends with 1 where the 301st is not told 53300, a query fails, or a slow reader costs the others
more than half as much again.
"""

import argparse
import datetime
import os
import selectors
import statistics
import sys
import time

from run import make
from servers import READY, Safeguard, message, raw_connect

LIMIT, IDLE, BUSY, SLOW = 300, 200, 50, 3
SLOW_READ_SECONDS = 0.02


class Busy:
    """One connection that asks again and again."""

    def __init__(self, port, at):
        self.socket = raw_connect(port)
        self.ask = message(b"Q", f"SELECT count(*), max(body) FROM wire WHERE id % 100 = {at}\0".encode())
        self.tail = b""

    def send(self):
        self.tail, self.began = b"", time.perf_counter()
        self.socket.sendall(self.ask)


def quantile(times, part):
    return statistics.quantiles(times, n=100)[part - 1] * 1000


def loop(busy, slow, queries):
    """The seconds of so many queries, begun together; slow readers take a little now and then."""
    times, rows = [], 0
    with selectors.DefaultSelector() as selector:
        for one in busy:
            selector.register(one.socket, selectors.EVENT_READ, one)
            one.send()
        next_read, running = time.perf_counter(), len(busy)
        while running:
            if slow and time.perf_counter() >= next_read:
                for s in slow:
                    rows += len(s.recv(4096))
                next_read = time.perf_counter() + SLOW_READ_SECONDS
            for key, _ in selector.select(timeout=SLOW_READ_SECONDS):
                one = key.data
                part = one.socket.recv(65536)
                if not part:
                    raise ConnectionError("the server closed a busy connection")
                one.tail += part
                if one.tail[-6:-1] == READY:
                    if one.tail[:1] != b"T":
                        raise RuntimeError(repr(one.tail))
                    times.append(time.perf_counter() - one.began)
                    if len(times) + running <= queries:
                        one.send()
                    else:
                        selector.unregister(one.socket)
                        running -= 1
    return times, rows


def slow_readers(port):
    """Connections that have asked for everything and read next to nothing."""
    readers = [raw_connect(port) for _ in range(SLOW)]
    for s in readers:
        s.sendall(message(b"Q", b"SELECT a.* FROM wire a, generate_series(1, 100) AS b(i)\0"))
    return readers


def past_the_limit(server, held):
    """Fills up to the limit; what the next one is told, and whether a place that is given back can be taken."""
    more = [raw_connect(server.port) for _ in range(LIMIT - held)]
    try:
        raw_connect(server.port).close()
        told = "it was let in"
    except ConnectionError as error:
        told = str(error)
    more.pop().close()
    deadline = time.monotonic() + 5
    taken = False
    while not taken and time.monotonic() < deadline:
        try:
            more.append(raw_connect(server.port))
            taken = True
        except ConnectionError:
            pass
    for s in more:
        s.close()
    return told, taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=2_000, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    server = Safeguard(given.binary, [f"max_connections = {LIMIT}"])
    broken = []
    try:
        make(server, given.rows)
        print(f"{' '.join(sys.argv)}\n{datetime.date.today()}, {os.cpu_count()} cores, {given.rows} rows, {given.queries} queries a turn")
        before = server.resident("VmRSS")
        idle = [raw_connect(server.port) for _ in range(IDLE)]
        busy = [Busy(server.port, at) for at in range(BUSY)]
        held = (server.resident("VmRSS") - before) / 2**20
        print(f"{IDLE + BUSY} connections: {held:.1f} MiB, {held * 1024 / (IDLE + BUSY):.0f} KiB each")
        told, taken = past_the_limit(server, IDLE + BUSY)
        print(f"connection {LIMIT + 1}: {told}; a place given back is {'taken' if taken else 'lost'}")
        if "C53300" not in told or not taken:
            broken.append("the limit")
        loop(busy, [], given.queries)
        without, beside = [], []
        for _ in range(given.rounds):
            without += loop(busy, [], given.queries)[0]
            server.reset_peak()
            settled = server.resident("VmRSS")
            slow = slow_readers(server.port)
            times, rows = loop(busy, slow, given.queries)
            beside += times
            grown = (server.resident("VmHWM") - settled) / 2**20
            for s in slow:
                s.close()
        for name, times in [("alone", without), (f"beside {SLOW} slow readers", beside)]:
            print(f"{BUSY} busy, {name}: p50 {quantile(times, 50):.1f} ms, p95 {quantile(times, 95):.1f} ms")
        ratio = quantile(beside, 95) / quantile(without, 95)
        print(f"p95 beside slow readers / alone: {ratio:.2f}; memory grew by {grown:.1f} MiB meanwhile")
        if ratio > 1.5:
            broken.append("slow readers slow the others")
        for s in idle:
            s.sendall(message(b"Q", b"SELECT 1\0"))
            if not s.recv(4096):
                broken.append("an idle connection was lost")
                break
    finally:
        server.stop()
    if broken:
        sys.exit("broken: " + ", ".join(broken))


if __name__ == "__main__":
    main()
