"""What a fleet is made of, each part a process in a namespace of its own: PostgreSQL, endpoint doubles, `safeguard serve`.

None outlives the process that starts it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psycopg

HERE = Path(__file__).parent
STORE = "10.77.2.2"
DYING = ["setpriv", "--pdeathsig", "KILL"]


def bin_folder():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise SystemExit("PostgreSQL is not installed (/usr/lib/postgresql/*/bin)")
    return found[-1].parent


def until(what, seconds, look):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise RuntimeError(f"{what} within {seconds} s")


def processor_seconds(pid):
    """Of a process and its children."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(folder.name) == pid:
            total += sum(int(n) for n in fields[11:15])
        elif int(fields[1]) == pid:
            total += sum(int(n) for n in fields[11:13])
    return total / os.sysconf("SC_CLK_TCK")


class Postgres:
    """The store's database: PostgreSQL as it is shipped, with pg_stat_statements."""

    def __init__(self, net, folder):
        self.folder, data = folder / "postgres", folder / "postgres/data"
        self.folder.mkdir()
        os.chmod(folder, 0o755)
        shutil.chown(self.folder, "postgres", "postgres")
        as_postgres = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": self.folder, "stdout": subprocess.DEVNULL}
        subprocess.run([bin_folder() / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"], check=True, **as_postgres)
        with open(data / "pg_hba.conf", "a") as hba:
            hba.write("host all all 10.77.2.0/24 trust\n")
        settings = {"listen_addresses": STORE, "unix_socket_directories": self.folder, "shared_preload_libraries": "pg_stat_statements", "max_connections": 200}
        self.log = open(self.folder / "log", "w")
        self.process = subprocess.Popen(
            net.namespace("store", 2, [2]) + DYING + ["--reuid=postgres", "--regid=postgres", "--clear-groups", str(bin_folder() / "postgres"), "-D", str(data)]
            + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")], stderr=self.log, stdout=self.log, cwd=self.folder)
        until("PostgreSQL is not ready", 60, lambda: "ready to accept connections" in Path(self.log.name).read_text())
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as c:
            c.execute("CREATE ROLE safeguard LOGIN")
            c.execute("CREATE DATABASE safeguard OWNER safeguard")
        self.session = psycopg.connect(self.conninfo("safeguard"), autocommit=True)
        self.session.execute("CREATE EXTENSION pg_stat_statements")

    def conninfo(self, dbname):
        """For whoever looks on: sockets of the file system know no network namespaces."""
        return f"host={self.folder} user=postgres dbname={dbname}"

    def url(self, schema):
        return f"postgres://safeguard@{STORE}/safeguard?sslmode=disable&search_path={schema}"

    def forget_statements(self):
        self.session.execute("SELECT pg_stat_statements_reset()")

    def statements(self):
        """Statements of the servers since they were forgotten, the most frequent first."""
        return self.session.execute("SELECT sum(calls)::BIGINT AS n, left(regexp_replace(query, '\\s+', ' ', 'g'), 110) FROM pg_stat_statements "
                                    "WHERE userid = (SELECT oid FROM pg_roles WHERE rolname = 'safeguard') GROUP BY 2 ORDER BY 1 DESC").fetchall()

    def stop(self):
        self.session.close()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


class Double:
    def __init__(self, net, number, latency_ms, folder, space):
        self.address, self.log = f"10.77.1.{20 + number}", folder / f"asked-10.77.1.{20 + number}"
        command = space + DYING + [sys.executable, str(HERE / "double.py"), self.address, "8000", str(latency_ms), str(self.log)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"double {number} does not serve")

    @property
    def url(self):
        return f"http://{self.address}:8000/v1"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=30)[0]
        return said.strip()


class Server:
    def __init__(self, number, binary, folder, space):
        self.number, self.binary, self.folder, self.space = number, binary, folder / f"server-{number}", space
        self.address, self.process = f"10.77.1.{10 + number}", None
        self.folder.mkdir()

    def start(self, store, models):
        log = open(self.folder / "log", "a")
        at = log.tell()
        arguments = [str(self.binary), "serve", "--listen", f"{self.address}:5433", "--metrics-listen", f"{self.address}:9187", "--allow-insecure",
                     "--store", store, "--model", ",".join(models), "--data-dir", str(self.folder / "data")]
        self.process = subprocess.Popen(self.space + DYING + arguments, stderr=log, stdout=log, cwd=self.folder)

        def listens():
            said = Path(log.name).read_text()[at:]
            if self.process.poll() is not None:
                raise RuntimeError(f"server {self.number} ended:\n{said}")
            return "listening on" in said

        until(f"server {self.number} does not listen", 120, listens)

    def connect(self):
        return psycopg.connect(f"host={self.address} port=5433 user=postgres dbname=safeguard", autocommit=True)

    def metrics(self):
        """What it says of itself, by name with labels."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{self.address}:9187/metrics", timeout=10) as said:
            lines = said.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
