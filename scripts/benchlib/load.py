"""One timed run of a client against a server, and what it cost."""

import re
import time

from .process import HZ, cpu_ticks, foreign_ticks, switches
from .say import Failed
from .world import SMALL

# wrk -s SCRIPT, headers, path
WRK = {
    "A": ("plain", [], SMALL),
    "C": ("random", [], "/"),
    "D": ("plain", ["-H", "Connection: close"], SMALL),
    "I": ("pipeline", [], SMALL),
    "P": ("put", [], "/"),
    "P1M": ("put1m", [], "/"),
}

# What the client in copier.c and that in closed.c say.
COPIER = ["requests", "bytes", "micros", "errors"]
CLOSED = ["requests", "micros", "errors", "mean", "sd", "p50", "p99", "max"]


def wrk_command(bench, server, workload, seconds, connections=16):
    script, options, path = WRK[workload]
    url = server.url(path)
    return ["wrk", "-t1", f"-c{connections}", "--latency", "--timeout", "60s", f"-d{seconds}s",
            "-s", bench.world.lua(script)] + options + [url]


def result_of(name, code, output, fields):
    """The numbers of a client's RESULT line."""
    found = re.search(r"^RESULT (.*)$", output or "", re.M)
    if code or not found:
        raise Failed(f"{name} failed ({code}): {(output or '').strip()[-500:]}")
    numbers = [float(number) for number in found.group(1).split()]
    return dict(zip(fields, numbers))


def run_wrk(bench, server, workload, seconds, connections=16):
    """A run of wrk: requests, micros, errors, p50, p99 (microseconds)."""
    seconds = max(1, round(seconds))
    code, output = bench.processes.run(wrk_command(bench, server, workload, seconds, connections), seconds + 90)
    got = result_of("wrk", code, output, ["requests", "micros", "errors", "p50", "p99"])
    if not got["requests"]:
        # nobody was answered: all have waited for as long as the run took, at least
        got["p50"] = got["p99"] = got["micros"]
    got["rate"] = got["requests"] / got["micros"] * 1e6
    return got


def run_copier(bench, server, path, connections, seconds):
    """GETs of one file, copied: requests, bytes, micros, errors."""
    command = [bench.helpers["copier"], str(server.port), path, str(connections), str(seconds)]
    code, output = bench.processes.run(command, seconds + 30)
    return result_of("copier", code, output, COPIER)


def run_closed(bench, server, pattern, connections, seconds, is_kept):
    """A closed loop: requests, micros, errors, mean, sd, p50, p99, max (microseconds)."""
    command = [bench.helpers["closed"], str(server.port), pattern, str(connections), str(seconds),
               "keep" if is_kept else "close"]
    code, output = bench.processes.run(command, seconds + 30)
    return result_of("closed", code, output, CLOSED)


def observed(server, run):
    """Does `run`, and adds what it cost: cpu (seconds), switches, others (percent of a core)."""
    before, changes, foreign, began = cpu_ticks(server.pid), switches(server.pid), foreign_ticks(), time.monotonic()
    got = run()
    foreign, took = foreign_ticks() - foreign, time.monotonic() - began
    after = cpu_ticks(server.pid)
    server.check()
    got["cpu"] = (after - before) / HZ
    got["switches"] = max(0, switches(server.pid) - changes)
    # ticks of two samples are rounded apart: a little below none is none
    got["others"] = max(0, 100 * foreign / HZ / took)
    return got
