"""Network namespaces on this machine: each process of a fleet in one of its own, on one bridge or two.

Servers have a leg in the network of models and clients (10.77.1.0/24) and one in that of the store (10.77.2.0/24); a leg can
be cut, so that packets vanish in silence, and joined again. Everything is removed by `close`, and what a killed run left by
the next one. Needs the rights of root.
"""

import os
import subprocess

PREFIX = "sgfleet"


def ip(*words):
    done = subprocess.run(["ip", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except OSError:
        return False


class Net:
    """`bridges`: the numbers of the networks, 1 and 2."""

    def __init__(self):
        self.sweep()
        self.pid, self.made, self.legs = os.getpid(), [], {}
        try:
            for number in (1, 2):
                self.made.append(("link", self.bridge(number)))
                ip("link", "add", self.bridge(number), "type", "bridge")
                ip("link", "set", self.bridge(number), "up")
            # We are a client of the servers, and of nobody else.
            ip("addr", "add", "10.77.1.1/24", "dev", self.bridge(1))
        except Exception:
            self.close()
            raise

    def bridge(self, number):
        return f"sgf-{self.pid:x}-b{number}"

    def namespace(self, name, host, networks):
        """Where a process called `name` lives, as host number `host` of some networks."""
        space = f"{PREFIX}-{self.pid}-{name}"
        self.made.append(("netns", space))
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
        for number in networks:
            leg = f"sgf-{self.pid:x}-{host}{'xy'[number - 1]}"
            self.legs[name, number] = leg
            ip("link", "add", leg, "type", "veth", "peer", "name", f"net{number}", "netns", space)
            ip("link", "set", leg, "master", self.bridge(number), "up")
            ip("-n", space, "addr", "add", f"10.77.{number}.{host}/24", "dev", f"net{number}")
            ip("-n", space, "link", "set", f"net{number}", "up")
        return ["ip", "netns", "exec", space]

    def cut(self, name, number):
        ip("link", "set", self.legs[name, number], "nomaster")

    def join(self, name, number):
        ip("link", "set", self.legs[name, number], "master", self.bridge(number))

    def close(self):
        for kind, name in reversed(self.made):
            subprocess.run(["ip", kind, "del", name], stderr=subprocess.DEVNULL)
        self.made.clear()

    @staticmethod
    def sweep():
        """What runs that were killed left behind."""
        for line in ip("netns", "list").splitlines():
            name = line.split(" ")[0]
            parts = name.split("-")
            if parts[0] == PREFIX and not alive(int(parts[1])):
                ip("netns", "del", name)
        for line in ip("-o", "link", "show", "type", "bridge").splitlines():
            name = line.split(": ")[1]
            if name.startswith("sgf-") and not alive(int(name.split("-")[1], 16)):
                ip("link", "del", name)
