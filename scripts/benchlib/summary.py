"""The targets, and what of them was reached."""


class Target:
    """A row: what it asks for, and how it is read off the results. `reach` gives value and limit, or None."""

    def __init__(self, row, target, reach, form="{:.2f}"):
        self.row, self.target, self.reach, self.form = row, target, reach, form


def to_nginx(workload, limit):
    """CPU per request against nginx in the same rounds."""
    def reach(results, ours):
        ratio = results.ratio(workload, ours, "nginx", "cpu")
        return ratio and (ratio.median, limit, "× nginx")
    return reach


def to_server(workload, metric, other):
    """Not more than that server in the same rounds."""
    def reach(results, ours):
        ratio = results.ratio(workload, ours, other, metric)
        return ratio and (ratio.median, 1, f"× {other}")
    return reach


def to_best(workload, metric, peers):
    """Not more than the best of the peers."""
    def reach(results, ours):
        ratios = {name: results.ratio(workload, ours, name, metric) for name in peers}
        ratios = {name: ratio.median for name, ratio in ratios.items() if ratio}
        if not ratios:
            return None
        worst = max(ratios, key=ratios.get)
        return ratios[worst], 1, f"× {worst}"
    return reach


def absolute(workload, metric, limit, unit):
    def reach(results, ours):
        spread = results.spread(workload, ours, metric)
        return spread and (spread.median, limit, unit)
    return reach


def to_undisturbed(workload, alone, limit):
    """p99 against that of the same server without neighbours, by medians."""
    def reach(results, ours):
        beside, before = results.spread(workload, ours, "p99"), results.spread(alone, ours, "p99")
        return beside and before and (beside.median / before.median, limit, "× undisturbed")
    return reach


def targets(peers):
    """PERFORMANCE.md section 2, with BALANCING.md's figures for the last rows."""
    return [
        Target("A: GET 1 KiB, keep-alive", "≤ 0.58 × nginx", to_nginx("A", 0.58)),
        Target("C: 10,000 files at random", "≤ 0.70 × nginx", to_nginx("C", 0.70)),
        Target("D: connection per request", "≤ 0.75 × nginx", to_nginx("D", 0.75)),
        Target("I: pipelined", "≤ 0.45 × nginx", to_nginx("I", 0.45)),
        Target("PUT 4 KiB", "≤ 0.75 × nginx", to_nginx("P", 0.75)),
        Target("PUT 1 MiB", "≤ lighttpd", to_server("P1M", "cpu", "lighttpd")),
        Target("GET 64 KiB, CPU per GiB", "≤ the best peer", to_best("L64", "cpu_gib", peers)),
        Target("GET 1 MiB, CPU per GiB", "≤ the best peer", to_best("L1M", "cpu_gib", peers)),
        Target("GET 64 MiB, CPU per GiB", "≤ the best peer", to_best("L64M", "cpu_gib", peers)),
        Target("idle connection", "≤ 129 bytes", absolute("IDLE", "bytes", 129, "bytes"), "{:.0f}"),
        Target("first 200 after exec", "≤ 10 ms", absolute("START", "first_200", 10, "ms"), "{:.1f}"),
        Target("idle size, 2 workers", "≤ 2 MB", absolute("START", "idle_mb", 2, "MB")),
        Target("balance, 4 workers, 1000 connections", "max/mean ≤ 1.01",
               absolute("BALANCE", "at_once", 1.01, "all at once"), "{:.3f}"),
        Target("balance, the same", "max/mean ≤ 1.01",
               absolute("BALANCE", "one_by_one", 1.01, "one by one"), "{:.3f}"),
        Target("4 slow neighbours, p99", "≤ 2 × undisturbed", to_undisturbed("SLOW-4", "SLOW-0", 2)),
        Target("16 slow neighbours, p99", "≤ 2 × undisturbed", to_undisturbed("SLOW-16", "SLOW-0", 2)),
        Target("64 slow neighbours, p99", "≤ 2 × undisturbed", to_undisturbed("SLOW-64", "SLOW-0", 2)),
        Target("32 × 64 MiB neighbours, p99", "≤ lighttpd", to_server("DOWNLOADS-32", "p99", "lighttpd")),
        Target("saturation, sd", "≤ 1.1 ms", absolute("SATURATION", "sd", 1.1, "ms")),
        Target("saturation, p99", "≤ 20 ms", absolute("SATURATION", "p99", 20, "ms"), "{:.1f}"),
    ]


def lines(results, ours, peers):
    """The table, for one build of ours."""
    yield "| row | target | reached | verdict |"
    yield "|---|---|---|---|"
    for target in targets(peers):
        reached = target.reach(results, ours)
        if not reached:
            yield f"| {target.row} | {target.target} | - | not measured |"
            continue
        value, limit, unit = reached
        # judged by what is shown: a difference that is rounded away is none
        is_met = float(target.form.format(value)) <= limit
        verdict = "met" if is_met else "**missed**"
        yield f"| {target.row} | {target.target} | {target.form.format(value)} {unit} | {verdict} |"
