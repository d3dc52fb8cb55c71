"""10,000 idle connections: their memory, and what 50 active ones beside them feel."""

import time

from ..holder import Holder
from ..load import observed, run_wrk
from ..process import pss
from ..say import say
from ..server import Server

IDLE, ACTIVE = 10000, 50
# What is freed or settled late. Seconds.
SETTLE = 0.5


def run(bench, _):
    for nr, peer in bench.rounds(bench.peers, bench.fewer(3)):
        server = Server(bench, peer)
        try:
            # buffers that a worker makes at its first requests are not the idle ones'
            run_wrk(bench, server, "A", 1, ACTIVE)
            time.sleep(SETTLE)
            before = pss(server.pid)
            with Holder(server, IDLE):
                time.sleep(SETTLE)
                each = (pss(server.pid) - before) / IDLE
                got = observed(server, lambda s=server: run_wrk(bench, s, "A", bench.options.seconds, ACTIVE))
        finally:
            server.end()
        cpu = got["cpu"] * 1e6 / max(1, got["requests"])
        bench.results.add("IDLE", nr, peer.name, {
            "bytes": each, "cpu": cpu, "p99": got["p99"] / 1e3, "rate": got["rate"], "errors": got["errors"],
            "others": got["others"]})
        say(f"IDLE round {nr} {peer.name}: {each:.0f} bytes a connection, {cpu:.2f} µs CPU a request, "
            f"p99 {got['p99'] / 1e3:.2f} ms{bench.note(got)}")
