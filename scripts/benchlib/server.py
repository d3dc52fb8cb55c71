"""A server that runs: from its start until it answers, and to its end."""

import http.client
import os
import random
import socket
import time

from .process import tree
from .say import Failed
from .world import SMALL

START_SECONDS = 15


def free_port():
    """A port that nothing listens on, below those that clients are given."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def ask(port, method, path, body=None):
    """One request over a connection of its own: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


class Server:
    """One instance of a peer."""

    def __init__(self, bench, peer, workers=2, threads=None, is_slow=False, before_exec=None):
        self.bench, self.peer, self.name = bench, peer, peer.name
        self.port = free_port()
        self.place = bench.world.place(peer.name)
        self.command = peer.command(bench.world, self.place, self.port, workers, threads)
        self.env = peer.environment(bench.helpers, is_slow)
        with open(f"{self.place}/out", "wb") as log:
            self.process = bench.processes.server(self.command, log, self.env, before_exec)
        self.pid = self.process.pid
        # who times the start asks by itself
        if not before_exec:
            self.wait_until_it_answers()

    def wait_until_it_answers(self):
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if ask(self.port, "GET", SMALL)[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.02)
        raise Failed(f"{self.name} did not start: {self.last_words()}")

    def last_words(self):
        text = ""
        for name in ("out", "log"):
            path = os.path.join(self.place, name)
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    text += file.read()
        return text.strip()[-500:] or "it said nothing"

    def verify(self):
        """It must give the right answers before it is timed."""
        world = self.bench.world
        status, body = ask(self.port, "GET", SMALL)
        if status != 200 or body != world.kibibyte:
            raise Failed(f"{self.name}: GET gave {status}, or the wrong bytes")
        if not self.peer.puts:
            return
        path = "/dev2/0/000/000/verify.fid"
        status, _ = ask(self.port, "PUT", path, world.kibibyte)
        with open(world.docroot + path, "rb") as file:
            if status not in (200, 201, 204) or file.read() != world.kibibyte:
                raise Failed(f"{self.name}: PUT gave {status}, or stored the wrong bytes")
        os.unlink(world.docroot + path)

    def check(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} has died: {self.last_words()}")

    def pids(self):
        return [stat.pid for stat in tree(self.pid)]

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def end(self):
        self.bench.processes.end(self.process, self.peer.stop)
