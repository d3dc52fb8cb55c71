"""Large files to a client that copies them: CPU per GiB."""

from ..load import observed, run_copier
from ..say import say
from ..world import L1M, L64, L64M

PATHS = {"L64": L64, "L1M": L1M, "L64M": L64M}
CONNECTIONS = 16
GIB = 1 << 30


def run(bench, workloads):
    with bench.servers(bench.peers) as servers:
        for workload in workloads:
            for server in servers:
                run_copier(bench, server, PATHS[workload], CONNECTIONS, bench.options.warm_up)
            for nr, server in bench.rounds(servers):
                got = observed(server, lambda s=server: run_copier(
                    bench, s, PATHS[workload], CONNECTIONS, bench.options.seconds))
                gib = max(got["bytes"], 1) / GIB
                rate = gib / got["micros"] * 1e6
                bench.results.add(workload, nr, server.name, {
                    "cpu_gib": got["cpu"] / gib, "gib_s": rate, "errors": got["errors"], "others": got["others"],
                    "switches_gib": got["switches"] / gib})
                say(f"{workload} round {nr} {server.name}: {got['cpu'] / gib:.3f} s CPU a GiB, {rate:.2f} GiB/s"
                    f"{bench.note(got)}")
