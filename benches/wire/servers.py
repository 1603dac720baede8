"""The two servers that are compared, each started in a folder of its own on a free port and killed afterwards."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

POSTGRES = Path("/usr/lib/postgresql/15/bin")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Postgres:
    """PostgreSQL 15 with its default configuration."""

    name = "PostgreSQL"

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="wire-postgres-")
        os.chmod(self.folder, 0o755)
        shutil.chown(self.folder, "postgres", "postgres")
        as_postgres = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": self.folder, "stdout": subprocess.DEVNULL}
        if os.geteuid() != 0:
            as_postgres = {"cwd": self.folder, "stdout": subprocess.DEVNULL}
        data = f"{self.folder}/data"
        subprocess.run([POSTGRES / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"], check=True, **as_postgres)
        self.port = free_port()
        arguments = [POSTGRES / "postgres", "-D", data, "-p", str(self.port), "-k", self.folder, "-c", "listen_addresses=127.0.0.1"]
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, **as_postgres)
        for line in self.process.stderr:
            if "ready to accept connections" in line:
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)


class Safeguard:
    """`safeguard serve` of the given binary; `lines` are those of a settings file."""

    name = "safeguard"

    def __init__(self, binary, lines=()):
        self.folder = tempfile.mkdtemp(prefix="wire-safeguard-")
        arguments = [Path(binary).resolve(), "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{self.folder}/data"]
        if lines:
            Path(self.folder, "serve.toml").write_text("\n".join(lines) + "\n")
            arguments += ["--config", f"{self.folder}/serve.toml"]
        self.process = subprocess.Popen(arguments, cwd=self.folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        said = []
        for line in self.process.stderr:
            said.append(line)
            if line.startswith("listening on 127.0.0.1:"):
                self.port = int(line.rsplit(":", 1)[1])
                break
        else:
            raise SystemExit("no line `listening on ..`:\n" + "".join(said))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def resident(self, field):
        """A line of /proc/PID/status in bytes: VmRSS now, VmHWM the most since it was reset."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise KeyError(field)

    def reset_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)


def raw_connect(port, user="postgres", database="postgres"):
    """A socket past the start-up; its client reads what it likes."""
    s = socket.create_connection(("127.0.0.1", port))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    body = (196608).to_bytes(4, "big") + f"user\0{user}\0database\0{database}\0\0".encode()
    s.sendall((len(body) + 4).to_bytes(4, "big") + body)
    to_ready(s)
    return s


def message(kind, body):
    return kind + (len(body) + 4).to_bytes(4, "big") + body


READY = b"Z\0\0\0\x05"


def to_ready(s):
    """Reads to ReadyForQuery without looking at messages: the bytes read, and the last of them."""
    size, tail = 0, b""
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    while True:
        got = s.recv_into(view)
        if got == 0:
            raise ConnectionError("closed by the server: " + repr(tail))
        size += got
        tail = (tail + bytes(view[max(0, got - 200):got]))[-200:]
        if tail[-6:-1] == READY:
            return size, tail
