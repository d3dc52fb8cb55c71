"""The tables: which figure of which workload stands in which column."""


class Column:
    """A figure. `better`: "low", "high", or None where neither is."""

    def __init__(self, workload, metric, title, form="{:.2f}", better="low"):
        self.workload, self.metric, self.title, self.form, self.better = workload, metric, title, form, better


class Table:
    def __init__(self, name, title, note, columns):
        self.name, self.title, self.note, self.columns = name, title, note, columns


SMALL = {"A": "A: GET 1 KiB", "C": "C: 10k files", "D": "D: conn. per request", "I": "I: pipeline of 16",
         "P": "PUT 4 KiB", "P1M": "PUT 1 MiB"}
# wrk times no request of a pipeline
ONE_BY_ONE = [name for name in SMALL if name != "I"]
LARGE = {"L64": "64 KiB", "L1M": "1 MiB", "L64M": "64 MiB"}


def small(metric, form="{:.2f}", better="low", of=SMALL):
    return [Column(workload, metric, SMALL[workload], form, better) for workload in of]


def all_tables():
    slow = [f"SLOW-{count}" for count in (0, 4, 16, 64)]
    slow_titles = dict(zip(slow, ("no neighbour", "4 slow", "16 slow", "64 slow")))
    busy = {"BUSY-0": "nothing", "BUSY-1": "a busy loop"}
    downloads = {"DOWNLOADS-0": "no neighbour", "DOWNLOADS-32": "32 downloads"}
    return [
        Table("cpu", "CPU µs per request",
              "User and system time of all processes of the server. wrk -t1 -c16, 2 workers; PUT on tmpfs.",
              small("cpu")),
        Table("rate", "Requests per second", "The same runs. Where wrk's core is full, this is the client's limit.",
              small("rate", "{:.0f}", "high")),
        Table("p99", "p99, ms", "The same runs; as wrk sees it.", small("p99", of=ONE_BY_ONE)),
        Table("p50", "p50, ms", "The same runs.", small("p50", of=ONE_BY_ONE)),
        Table("switches", "Context switches per request", "The same runs; wanted and forced, of the threads that live.",
              small("switches")),
        Table("syscalls", "System calls per request", "Runs of their own under `strace -f -c`.",
              [Column(f"SYS-{name}", "syscalls", SMALL[name]) for name in ("A", "C", "D", "I", "P")]),
        Table("large", "Large GETs", "CPU seconds of the server per GiB, and GiB/s; 16 connections, one client thread "
              "that copies every byte.",
              [Column(name, "cpu_gib", f"{title}: CPU s/GiB", "{:.3f}") for name, title in LARGE.items()] +
              [Column(name, "gib_s", f"{title}: GiB/s", "{:.2f}", "high") for name, title in LARGE.items()]),
        Table("start", "Start and size", "From exec to the first 200; PSS of the tree a second later.",
              [Column("START", "first_200", "first 200, ms", "{:.1f}"),
               Column("START", "idle_mb", "idle, MB", "{:.2f}")]),
        Table("idle", "10,000 idle connections and 50 active",
              "PSS that 10,000 idle keep-alive connections, each served once, add to the tree, per connection; CPU and "
              "p99 of 50 active ones beside them.",
              [Column("IDLE", "bytes", "bytes per idle connection", "{:.0f}"),
               Column("IDLE", "cpu", "CPU µs per request"), Column("IDLE", "p99", "p99, ms")]),
        Table("balance", "1000 connections over 4 workers, max/mean", "Opened by wrk at once and busy, and one after "
              "another. Of a server of threads it cannot be seen.",
              [Column("BALANCE", "at_once", "all at once", "{:.3f}"),
               Column("BALANCE", "one_by_one", "one by one", "{:.3f}")]),
        Table("slow-p99", "Small GETs beside slow opens: p99, ms",
              "16 small-GET clients over kept connections, beside others, with a connection per request, whose open() "
              "takes 20 ms each time, on a device of their own; 2 workers. Who was not answered at the end counts with "
              "what it has waited.", [Column(name, "p99", slow_titles[name]) for name in slow]),
        Table("slow-rate", "Small GETs beside slow opens: req/s", "The same runs; and what the slow ones got.",
              [Column(name, "rate", slow_titles[name], "{:.0f}", "high") for name in slow] +
              [Column(name, "neighbour_rate", f"of the {slow_titles[name]}", "{:.0f}", "high") for name in slow[1:]]),
        Table("downloads", "Small GETs beside 32 downloads of 64 MiB",
              "The same small GETs. Both clients share a core, and the downloads are copied.",
              [Column(name, "p99", f"p99, ms: {title}") for name, title in downloads.items()] +
              [Column(name, "rate", f"req/s: {title}", "{:.0f}", "high") for name, title in downloads.items()] +
              [Column("DOWNLOADS-32", "gib_s", "downloads, GiB/s", "{:.2f}", "high")]),
        Table("busy", "Small GETs beside a program that computes",
              "The same small GETs; a loop that does nothing else shares the servers' core.",
              [Column(name, "p99", f"p99, ms: {title}") for name, title in busy.items()] +
              [Column(name, "rate", f"req/s: {title}", "{:.0f}", "high") for name, title in busy.items()]),
        Table("saturation", "Saturation, a connection per request",
              "10 workers of 1 consumer, 30 clients, 5 ms a request: one queue would make each wait 15 ms, at "
              "2000 req/s.",
              [Column("SATURATION", name, f"{title}, ms") for name, title in
               (("mean", "mean"), ("sd", "sd"), ("p99", "p99"), ("max", "max"))] +
              [Column("SATURATION", "rate", "req/s", "{:.0f}", "high")]),
    ]


def filled(table, results):
    """The columns that were measured, and the servers that have a figure in any of them, in the order of the runs."""
    columns = [column for column in table.columns if results.servers(column.workload, column.metric)]
    names = dict.fromkeys(name for column in columns for name in results.servers(column.workload, column.metric))
    return columns, list(names)


def best(column, names, results):
    """Who is first in a column."""
    medians = {name: spread.median for name in names
               if (spread := results.spread(column.workload, name, column.metric))}
    if not column.better or len(medians) < 2:
        return None
    pick = min if column.better == "low" else max
    return pick(medians, key=medians.get)
