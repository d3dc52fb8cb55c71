"""From exec to the first 200, and what the idle tree takes of memory then."""

import mmap
import socket
import struct
import time

from ..process import pss
from ..say import Failed, say
from ..server import START_SECONDS, Server
from ..world import SMALL

# Until what a start leaves to be done later is done. Seconds.
SETTLE = 1


def run(bench, _):
    for nr, peer in bench.rounds(bench.peers):
        # the child writes down when it calls exec: our own fork is not the server's
        page = mmap.mmap(-1, 8)
        server = Server(bench, peer, before_exec=lambda to=page: to.write(struct.pack("q", time.monotonic_ns())))
        try:
            answered = first_200(server)
            took = (answered - struct.unpack("q", page[:8])[0]) / 1e6
            time.sleep(SETTLE)
            size = pss(server.pid) / 1e6
        finally:
            server.end()
        bench.results.add("START", nr, peer.name, {"first_200": took, "idle_mb": size})
        say(f"START round {nr} {peer.name}: first 200 after {took:.1f} ms, idle {size:.2f} MB")


def first_200(server):
    """When it came: nanoseconds, monotonic. Asks without a pause, from the clients' core."""
    request = f"GET {SMALL} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with socket.socket() as client:
            client.settimeout(START_SECONDS)
            try:
                client.connect(("127.0.0.1", server.port))
                client.sendall(request)
                if client.recv(4096).startswith(b"HTTP/1.1 200"):
                    return time.monotonic_ns()
            except OSError:
                pass
        server.check()
    raise Failed(f"{server.name} did not start: {server.last_words()}")
