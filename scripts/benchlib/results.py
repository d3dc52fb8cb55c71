"""What was measured: a value for each workload, round, server and metric."""

import statistics

# A run is disturbed when others took more of a core than this, in percent.
DISTURBED_ABOVE = 15


class Spread:
    """A median with the least and the most."""

    def __init__(self, values):
        self.median, self.least, self.most = statistics.median(values), min(values), max(values)


class Results:
    def __init__(self):
        # (workload, server, metric) -> {round: value}
        self.table = {}

    def add(self, workload, round_nr, server, metrics):
        for metric, value in metrics.items():
            self.table.setdefault((workload, server, metric), {})[round_nr] = value

    def has(self, workload):
        return any(key[0] == workload for key in self.table)

    def servers(self, workload, metric):
        return [key[1] for key in self.table if key[0] == workload and key[2] == metric]

    def spread(self, workload, server, metric):
        """None where nothing was measured."""
        values = self.table.get((workload, server, metric))
        return Spread(list(values.values())) if values else None

    def ratio(self, workload, server, other, metric):
        """Of each round to the other server's in the same round; None where there is none."""
        ours = self.table.get((workload, server, metric), {})
        theirs = self.table.get((workload, other, metric), {})
        ratios = [ours[nr] / theirs[nr] for nr in ours if theirs.get(nr)]
        return Spread(ratios) if ratios else None

    def errors(self):
        """Workload, server and count of each that had some."""
        return [(key[0], key[1], int(sum(values.values()))) for key, values in self.table.items()
                if key[2] == "errors" and sum(values.values())]

    def disturbed(self):
        """Per workload, how many of how many runs others disturbed."""
        found = {}
        for (workload, _, metric), values in self.table.items():
            if metric == "others":
                bad, runs = found.get(workload, (0, 0))
                found[workload] = bad + sum(v > DISTURBED_ABOVE for v in values.values()), runs + len(values)
        return {workload: counts for workload, counts in found.items() if counts[0]}

    def tsv(self):
        lines = ["workload\tserver\tmetric\tround\tvalue"]
        for (workload, server, metric), values in self.table.items():
            lines += [f"{workload}\t{server}\t{metric}\t{nr}\t{value:.6g}" for nr, value in values.items()]
        return "\n".join(lines) + "\n"
