"""More clients than the workers have room for, a connection per request: the gate's case."""

from ..load import observed, run_closed
from ..say import say

# Three clients for each consumer; ten workers, because that many consumers are
# the fewest that ours can be told to have. A request takes 5 ms, so 15 ms are
# what each would wait in one queue.
WORKERS, CLIENTS = 10, 30
PATTERN = "/dev8/0/000/%03d/%010d.fid"


def run(bench, _):
    peers = bench.peers + ([bench.ungated] if bench.ungated else [])
    with bench.servers(peers, workers=WORKERS, threads=WORKERS, is_slow=True) as servers:
        for server in servers:
            run_closed(bench, server, PATTERN, CLIENTS, bench.options.warm_up, False)
        for nr, server in bench.rounds(servers):
            got = observed(server, lambda s=server: run_closed(
                bench, s, PATTERN, CLIENTS, bench.options.seconds, False))
            count = max(1, got["requests"])
            metrics = {name: got[name] / 1e3 for name in ("mean", "sd", "p50", "p99", "max")}
            metrics.update(rate=got["requests"] / got["micros"] * 1e6, errors=got["errors"], others=got["others"],
                           switches=got["switches"] / count)
            bench.results.add("SATURATION", nr, server.name, metrics)
            say(f"SATURATION round {nr} {server.name}: mean {metrics['mean']:.1f} ms, sd {metrics['sd']:.2f}, "
                f"p99 {metrics['p99']:.1f}, max {metrics['max']:.1f}, {metrics['rate']:.0f} req/s{bench.note(got)}")
