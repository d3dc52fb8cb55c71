"""The whole of a run: what is needed, the measurements, the report, and the end of all of it."""

import contextlib
import os
import resource
import signal
import sys

from . import peers, report, tools
from .options import Options, listing
from .process import Processes
from .results import DISTURBED_ABOVE, Results
from .say import Failed, say
from .server import Server
from .workloads import RUNS
from .world import World


class Bench:
    """What all measurements share."""

    def __init__(self, options, ours, ungated):
        self.options, self.results, self.processes = options, Results(), Processes()
        self.ours = ours
        self.peers = ours + chosen(options.peers)
        self.ungated = ungated
        self.world = World()
        self.helpers = {}

    @property
    def reference(self):
        """To whom all ratios are: nginx, or the first there is."""
        names = [peer.name for peer in self.peers]
        return "nginx" if "nginx" in names else names[0]

    def rounds(self, servers, count=None):
        """Each of them once a round; who goes first alternates, so that a drift of the machine favours nobody."""
        for nr in range(1, (count or self.options.rounds) + 1):
            at = (nr - 1) % len(servers)
            for server in servers[at:] + servers[:at]:
                yield nr, server

    def fewer(self, most):
        """Rounds of what takes long: one when it must be quick."""
        return 1 if self.options.quick else min(self.options.rounds, most)

    @contextlib.contextmanager
    def servers(self, of, **how):
        """One of each peer, for as long as the block runs; a peer that cannot start is left out."""
        running = []
        try:
            for peer in of:
                try:
                    running.append(Server(self, peer, **how))
                except Failed as why:
                    if peer in self.ours:
                        raise
                    say(f"left out: {why}")
            yield running
        finally:
            for server in running:
                server.end()

    @staticmethod
    def note(got):
        """What makes a run worth less."""
        note = ""
        if got.get("others", 0) > DISTURBED_ABOVE:
            note += f", disturbed: others took {got['others']:.0f} % of a core"
        if got.get("errors"):
            note += f", {got['errors']:.0f} ERRORS"
        return note

    def measure(self):
        """All workloads; what failed."""
        failed, done = [], set()
        for workload in self.options.workloads:
            run = RUNS[workload]
            if run in done:
                continue
            done.add(run)
            together = [name for name in self.options.workloads if RUNS[name] is run]
            try:
                run(self, together)
            except Failed as why:
                say(f"{', '.join(together)}: {why}")
                failed += together
        return failed

    def close(self):
        self.processes.end_all()
        self.world.close()


def chosen(names):
    """Those of the peers that are there."""
    known, found = peers.known(), []
    for name in names:
        if known[name].is_there():
            found.append(known[name])
        else:
            say(f"{name} is left out: it is not installed, and could not be")
    return found


def raise_limit():
    """10,000 connections are held here and in the servers, which inherit this."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leave_at_signal():
    def leave(number, _):
        raise SystemExit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def prepare(options):
    """Tools and programs: ours, and ours without the gate."""
    needed = ["wrk", "cc"] + (["strace"] if "SYSCALLS" in options.workloads else [])
    known = peers.known()
    tools.need(dict.fromkeys(needed + [tool for name in options.peers for tool in known[name].tools]))
    for tool in needed:
        if not tools.has(tool):
            raise Failed(f"{tool} is missing")
    binaries = options.binaries or [("ours", tools.build())]
    ours = [peers.Ours(name, binary, options.extra) for name, binary in binaries]
    ungated = None
    if "SATURATION" in options.workloads and not options.quick and not options.binaries:
        ungated = peers.Ours("ungated", tools.build("ungated"), options.extra)
        ungated.title = "ours, built without the gate"
    return ours, ungated


def main(argv):
    options = Options(argv)
    if options.list:
        print(listing())
        return 0
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    leave_at_signal()
    try:
        bench = Bench(options, *prepare(options))
    except Failed as why:
        say(why)
        return 1
    try:
        raise_limit()
        bench.helpers = tools.compile_helpers(bench.world.top)
        say(f"making the files under {bench.world.docroot}")
        bench.world.make(options.workloads)
        bench.processes.pin_clients()
        failed = bench.measure()
        folder = report.write(bench, argv)
        say(f"kept under {os.path.relpath(folder)}")
        return 1 if failed or bench.results.errors() else 0
    except Failed as why:
        say(why)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        bench.close()
        sys.stdout.flush()
