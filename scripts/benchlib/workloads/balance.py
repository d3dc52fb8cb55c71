"""1000 persistent connections over 4 workers: the most that one has to the mean."""

import signal
import subprocess
import time

from ..holder import Holder
from ..load import wrk_command
from ..process import connections
from ..say import say
from ..server import Server

WORKERS, CONNECTIONS = 4, 1000


def run(bench, _):
    # threads share their descriptors: whose a connection is cannot be seen from outside
    peers = [peer for peer in bench.peers if peer.has_processes]
    for nr, peer in bench.rounds(peers, bench.fewer(3)):
        server = Server(bench, peer, workers=WORKERS)
        try:
            at_once = under_load(bench, server)
            with Holder(server, CONNECTIONS):
                one_by_one = held(server)
        finally:
            server.end()
        bench.results.add("BALANCE", nr, peer.name, {"at_once": spread(at_once), "one_by_one": spread(one_by_one)})
        say(f"BALANCE round {nr} {peer.name}: all at once {at_once}, max/mean {spread(at_once):.3f}; "
            f"one by one {one_by_one}, {spread(one_by_one):.3f}")


def under_load(bench, server):
    """wrk opens them all at once, and asks over each; counted in the midst of it."""
    client = bench.processes.client(wrk_command(bench, server, "A", 20, CONNECTIONS), stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 5
        while time.monotonic() < until and sum(held(server)) < CONNECTIONS:
            time.sleep(0.1)
        time.sleep(0.5)
        return held(server)
    finally:
        bench.processes.end(client, signal.SIGTERM, 2)
        until = time.monotonic() + 5
        while time.monotonic() < until and sum(held(server)):
            time.sleep(0.05)


def held(server):
    """Connections by worker, the most first."""
    counts = sorted(connections(server.pid, server.port).values(), reverse=True)
    return (counts + [0] * WORKERS)[:WORKERS]


def spread(counts):
    return max(counts) / (sum(counts) / len(counts)) if sum(counts) else 0
