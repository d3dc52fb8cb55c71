"""Small requests by wrk: CPU per request, req/s, latencies, context switches."""

from ..load import observed, run_wrk
from ..say import say


def run(bench, workloads):
    for workload in workloads:
        peers = [peer for peer in bench.peers if peer.puts or not workload.startswith("P")]
        with bench.servers(peers) as servers:
            for server in servers:
                server.verify()
                run_wrk(bench, server, workload, bench.options.warm_up)
            for nr, server in bench.rounds(servers):
                got = observed(server, lambda s=server: run_wrk(bench, s, workload, bench.options.seconds))
                count = max(1, got["requests"])
                bench.results.add(workload, nr, server.name, {
                    "cpu": got["cpu"] * 1e6 / count, "rate": got["rate"], "p50": got["p50"] / 1e3,
                    "p99": got["p99"] / 1e3, "switches": got["switches"] / count, "errors": got["errors"],
                    "others": got["others"]})
                say(f"{workload} round {nr} {server.name}: {got['cpu'] * 1e6 / count:.2f} µs CPU a request, "
                    f"{got['rate']:.0f} req/s, p99 {got['p99'] / 1e3:.2f} ms{bench.note(got)}")
