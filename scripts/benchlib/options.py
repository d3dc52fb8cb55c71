"""The command line, parsed once."""

import argparse
import os

WORKLOADS = {
    "A": "GET 1 KiB, keep-alive, 16 connections",
    "C": "GET of 10,000 files of 1 KiB at random",
    "D": "A with a connection per request",
    "I": "A, pipelined 16 deep",
    "P": "PUT 4 KiB over 1,000 names",
    "P1M": "PUT 1 MiB over 100 names",
    "L64": "GET 64 KiB, by a client that copies",
    "L1M": "GET 1 MiB, the same",
    "L64M": "GET 64 MiB, the same",
    "START": "from exec to the first 200; the size of the idle tree",
    "IDLE": "10,000 idle connections and 50 active ones",
    "BALANCE": "1000 persistent connections over 4 workers",
    "SLOW": "16 small-GET clients beside 4, 16, 64 whose open() takes 20 ms",
    "DOWNLOADS": "16 small-GET clients beside 32 downloads of 64 MiB",
    "BUSY": "16 small-GET clients, and a program that computes on the servers' core",
    "SATURATION": "24 clients, a connection per request of 5 ms, 8 workers of 1 consumer; also without the gate",
    "SYSCALLS": "system calls per request of A, C, D, I and P (under strace, not timed)",
}
PEERS = {
    "nginx": "Debian's, defaults with sendfile",
    "nginx-ofc": "with open_file_cache (may serve stale)",
    "nginx-nosendfile": "sendfile off and open_file_cache",
    "lighttpd": "Debian's, defaults",
    "h2o": "Debian's, defaults (no PUT; threads, not processes)",
}
QUICK_PEERS = ["nginx", "lighttpd"]
NOT_QUICK = ["L1M", "BUSY"]


class Options:
    """What was asked for."""

    def __init__(self, argv):
        extra = []
        if "--" in argv:
            at = argv.index("--")
            argv, extra = argv[:at], argv[at + 1:]
        parser = argparse.ArgumentParser(
            prog="scripts/bench", formatter_class=argparse.RawDescriptionHelpFormatter,
            usage="scripts/bench [options] [-- OPTIONS FOR rmogstored]",
            description="Ours against its peers in alternating rounds: CPU per request, latencies, memory,\n"
                        "balance, neighbours. Tables, plots and raw figures are kept under results/.",
            epilog=listing() + "\n\nThe figure to trust is CPU per request; compare by the ratio to nginx of the same"
                               "\nrun. Missing peers and tools are installed from Debian when this runs as root.")
        parser.add_argument("--quick", action="store_true",
                            help="within three minutes: 2 rounds of 1 s, fewer peers, no build without the gate")
        parser.add_argument("--only", metavar="A,C,...", type=names(WORKLOADS), help="these workloads (default: all)")
        parser.add_argument("--rounds", metavar="N", type=whole, help="rounds of each measurement (default 5)")
        parser.add_argument("--seconds", metavar="S", type=whole, help="length of each (default 3)")
        parser.add_argument("--peers", metavar="P,...", type=names(PEERS, "none"),
                            help="these servers beside ours (default: all; `none`: ours alone)")
        parser.add_argument("--binary", metavar="[NAME=]FILE", type=binary, action="append",
                            help="ours, instead of a build of this tree; several are compared in the same rounds")
        parser.add_argument("--list", action="store_true", help="print workloads and peers, and end")
        given = parser.parse_args(argv)

        self.list, self.quick, self.extra = given.list, given.quick, extra
        self.binaries = given.binary or []
        if len({name for name, _ in self.binaries} | set(PEERS)) < len(self.binaries) + len(PEERS):
            parser.error("each --binary needs a name of its own, and no peer's")
        unasked = [w for w in WORKLOADS if not self.quick or w not in NOT_QUICK]
        self.workloads = [w for w in WORKLOADS if w in (given.only or unasked)]
        self.rounds = given.rounds or (2 if self.quick else 5)
        self.seconds = given.seconds or (1 if self.quick else 3)
        self.peers = given.peers if given.peers is not None else QUICK_PEERS if self.quick else list(PEERS)
        self.warm_up = 0.3 if self.quick else 1


def listing():
    """The workloads and the peers, for people."""
    lines = ["workloads:"] + [f"  {name:17} {what}" for name, what in WORKLOADS.items()]
    return "\n".join(lines + ["peers:"] + [f"  {name:17} {what}" for name, what in PEERS.items()])


def whole(text):
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def names(known, none=None):
    def parse(text):
        if text == none:
            return []
        asked = text.split(",")
        for name in asked:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return [name for name in known if name in asked]
    return parse


def binary(text):
    name, is_named, path = text.rpartition("=")
    if not is_named:
        name = "ours"
    if not name or not os.access(path, os.X_OK) or os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path!r} is no program (want FILE or NAME=FILE)")
    return name, os.path.realpath(path)
