"""System calls per request, as strace counts them; nothing is timed here."""

import os
import signal
import subprocess
import time

from ..load import run_wrk
from ..process import read
from ..say import Failed, say

OF = ("A", "C", "D", "I", "P")
QUICK = ("A", "P")
# Requests that a count is of, at least, so that connecting does not show in it;
# and runs of a second at most to get there, for strace takes its time.
ENOUGH, RUNS = 2000, 10


def run(bench, _):
    for workload in QUICK if bench.options.quick else OF:
        # new servers for each: one that has the 10,000 files of C open would
        # close them in the next
        with bench.servers([peer for peer in bench.peers if peer.puts or workload != "P"]) as servers:
            for server in servers:
                try:
                    calls, requests = count(bench, server, workload)
                except Failed as why:
                    say(f"SYSCALLS of {workload}: {why}")
                    continue
                by_name = {f"sys:{name}": n / requests for name, n in calls.items() if n / requests >= 0.01}
                total = sum(calls.values()) / requests
                bench.results.add(f"SYS-{workload}", 1, server.name, {"syscalls": total, **by_name})
                named = ", ".join(f"{name[4:]} {n:.2f}" for name, n in sorted(by_name.items(), key=lambda x: -x[1]))
                say(f"SYSCALLS of {workload} {server.name}: {total:.2f} a request: {named}")


def count(bench, server, workload):
    """Calls by name, and the requests they were made for."""
    run_wrk(bench, server, workload, 1)
    log = os.path.join(server.place, "strace")
    pids = server.pids()
    command = ["strace", "-f", "-c", "-q", "-o", log] + [word for pid in pids for word in ("-p", str(pid))]
    tracer = bench.processes.client(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
    try:
        wait_until_traced(tracer, pids)
        requests = 0
        for _ in range(RUNS):
            requests += run_wrk(bench, server, workload, 1)["requests"]
            if requests >= ENOUGH:
                break
    finally:
        # it lets go of them before it ends
        bench.processes.end(tracer, signal.SIGINT, 20)
    if requests < ENOUGH:
        raise Failed(f"{server.name} served only {requests:.0f} requests under strace")
    return parse(read(log)), requests


def wait_until_traced(tracer, pids):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        threads = [f"/proc/{pid}/task/{tid}/status" for pid in pids for tid in os.listdir(f"/proc/{pid}/task")]
        if all(f"TracerPid:\t{tracer.pid}\n" in read(path) for path in threads):
            return
        if tracer.poll() is not None:
            break
        time.sleep(0.02)
    raise Failed("strace cannot attach to the servers (is another tracer, or a sandbox, in the way?)")


def parse(summary):
    """The table of `strace -c`: share, seconds, each, calls, perhaps errors, name."""
    calls = {}
    for line in summary.splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
            calls[fields[-1]] = calls.get(fields[-1], 0) + int(fields[3])
    return calls
