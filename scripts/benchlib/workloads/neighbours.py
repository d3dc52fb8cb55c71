"""16 small-GET clients, alone and beside those that a server may suffer from."""

import contextlib
import signal
import subprocess
import sys
import time

from ..load import CLOSED, COPIER, observed, result_of, run_closed
from ..say import say
from ..server import ask
from ..world import L64M, SMALL

CLIENTS = 16
SLOW_PATTERN = "/dev9/0/000/%03d/%010d.fid"
DOWNLOADS = 32


@contextlib.contextmanager
def beside(bench, command, fields, into):
    """A neighbour, for as long as the block runs; `into` gets its numbers."""
    client = bench.processes.client(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(0.3)
        yield
        client.send_signal(signal.SIGTERM)
        into.update(result_of(command[0], client.wait(10), client.stdout.read(), fields))
    finally:
        bench.processes.end(client)
        client.stdout.close()


def undisturbed(server):
    """Waits until what the neighbours have left behind is done."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        began = time.monotonic()
        ask(server.port, "GET", SMALL)
        if time.monotonic() - began < 0.01:
            return


def small_gets(bench, server, seconds):
    """Not by wrk: of requests that are not answered before the end it says nothing, and here they matter."""
    return run_closed(bench, server, SMALL, CLIENTS, seconds, True)


@contextlib.contextmanager
def computing(bench):
    """A program that computes, on the servers' core, for as long as the block runs."""
    program = bench.processes.beside_servers([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        bench.processes.end(program)


def measure(bench, name, nr, server, command, fields):
    """One run of the small GETs, beside `command` if there is one."""
    neighbour = {}
    with contextlib.ExitStack() as stack:
        if command:
            stack.enter_context(beside(bench, command, fields, neighbour))
        got = observed(server, lambda: small_gets(bench, server, bench.options.seconds))
    if command:
        undisturbed(server)
    metrics = {"p99": got["p99"] / 1e3, "p50": got["p50"] / 1e3, "rate": got["requests"] / got["micros"] * 1e6,
               "errors": got["errors"], "others": got["others"]}
    tail = ""
    if command:
        metrics["errors"] += neighbour["errors"]
        metrics["neighbour_rate"] = neighbour["requests"] / neighbour["micros"] * 1e6
        tail = f"; the neighbours {metrics['neighbour_rate']:.0f} req/s"
    if "bytes" in neighbour:
        metrics["gib_s"] = neighbour["bytes"] / (1 << 30) / neighbour["micros"] * 1e6
        tail = f"; the downloads {metrics['gib_s']:.2f} GiB/s"
    bench.results.add(name, nr, server.name, metrics)
    say(f"{name} round {nr} {server.name}: p99 {metrics['p99']:.2f} ms, {metrics['rate']:.0f} req/s{tail}"
        f"{bench.note(got)}")


def run_slow(bench, _):
    counts = (0, 16) if bench.options.quick else (0, 4, 16, 64)
    with bench.servers(bench.peers, is_slow=True) as servers:
        for server in servers:
            small_gets(bench, server, bench.options.warm_up)
        for nr, server in bench.rounds(servers, bench.fewer(3)):
            for count in counts:
                command = [bench.helpers["closed"], str(server.port), SLOW_PATTERN, str(count), "3600", "close"]
                measure(bench, f"SLOW-{count}", nr, server, command if count else None, CLOSED)


def run_downloads(bench, _):
    with bench.servers(bench.peers) as servers:
        for server in servers:
            small_gets(bench, server, bench.options.warm_up)
        for nr, server in bench.rounds(servers, bench.fewer(3)):
            for count in (0, DOWNLOADS):
                command = [bench.helpers["copier"], str(server.port), L64M, str(count), "3600"]
                measure(bench, f"DOWNLOADS-{count}", nr, server, command if count else None, COPIER)


def run_busy(bench, _):
    with bench.servers(bench.peers) as servers:
        for server in servers:
            small_gets(bench, server, bench.options.warm_up)
        for nr, server in bench.rounds(servers, bench.fewer(3)):
            measure(bench, "BUSY-0", nr, server, None, None)
            with computing(bench):
                measure(bench, "BUSY-1", nr, server, None, None)
