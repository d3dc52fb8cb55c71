"""What is kept of a run: the tables, a plot of each, the raw figures, the summary."""

import os
import platform
import shlex
import subprocess
import time

from . import plot, summary, tools
from .process import read
from .results import DISTURBED_ABOVE
from .tables import all_tables, best, filled


def write(bench, argv):
    """Into a new folder under results/; prints the tables. Its path."""
    folder = os.path.join(tools.TREE, "results", time.strftime("bench-%Y%m%d-%H%M%S", time.gmtime()))
    os.makedirs(folder)
    results, ours = bench.results, [peer.name for peer in bench.ours]
    titles = {peer.name: peer.title for peer in bench.peers + [bench.ungated] if peer}
    parts = ["# rmogstored and its peers\n", head(bench, argv), reading(bench)]
    for table in all_tables():
        columns, names = filled(table, results)
        if not columns:
            continue
        parts.append(f"## {table.title}\n\n{table.note}\n\n{markdown(columns, names, bench, titles)}\n")
        parts.append(f"![{table.title}]({table.name}.svg)\n")
        keep(folder, table.name + ".svg", plot.svg(table, results, {}, ours))
    parts += compared(bench) + [syscall_list(results, titles), worries(results)]
    report = "\n".join(part for part in parts if part)
    keep(folder, "report.md", report)
    keep(folder, "raw.tsv", results.tsv())
    short = "\n".join(["# What was reached\n", head(bench, argv), *reached(bench)])
    keep(folder, "summary.md", short)
    print(report + "\n" + "\n".join(reached(bench)), flush=True)
    return folder


def keep(folder, name, text):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")


def head(bench, argv):
    """When, where, and of what."""
    cpu = next((line.partition(": ")[2] for line in read("/proc/cpuinfo").splitlines()
                if line.startswith("model name")), "unknown CPU")
    versions = [peer.version() for peer in bench.peers[len(bench.ours):]]
    ours = [f"{peer.name}: {peer.version()}" for peer in bench.ours]
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=tools.TREE, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.strip()
    memory = read("/proc/meminfo").split()[1]
    options = bench.options
    pinned = "servers on one core, clients on another" if bench.processes.is_pinned else "one core for all"
    where = "tmpfs" if bench.world.is_on_shm else "a temporary folder, which may be a disk"
    shown = " ".join(["scripts/bench"] + [shlex.quote(shown_word(word)) for word in argv])
    lines = [
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        f"{cpu}, {os.cpu_count()} cores, {int(memory) // (1 << 20)} GiB; Linux {platform.release()}",
        f"{'; '.join(ours)}; {'scripts/bench' if options.binaries else 'built'} at {git or 'no commit'}",
        "; ".join(dict.fromkeys(versions)) or "no peers",
        f"`{shown}`: {options.rounds} rounds of {options.seconds} s in alternation; {pinned}; files on {where}",
    ]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def shown_word(word):
    """Of an option's path the last part: a report names no machine's folders."""
    option, is_named, path = word.rpartition("=")
    return option + is_named + os.path.basename(path) if path.startswith("/") else word


def reading(bench):
    return (f"A cell is the median, the least and the most of the rounds in brackets, then the ratio to "
            f"{bench.reference}: the median of the rounds' ratios. Best of a column in bold. Compare by ratios "
            f"of one run, never by an absolute.\n")


def markdown(columns, names, bench, titles):
    results, reference = bench.results, bench.reference
    lines = ["| server | " + " | ".join(column.title for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    firsts = [best(column, names, results) for column in columns]
    for name in names:
        cells = [cell(column, name, first, results, reference) for column, first in zip(columns, firsts)]
        lines.append(f"| {titles.get(name, name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(column, name, first, results, reference):
    spread = results.spread(column.workload, name, column.metric)
    if not spread:
        return "-"
    shown = column.form.format(spread.median)
    if name == first:
        shown = f"**{shown}**"
    if spread.most > spread.least:
        shown += f" [{column.form.format(spread.least)}-{column.form.format(spread.most)}]"
    ratio = results.ratio(column.workload, name, reference, column.metric)
    if ratio and name != reference:
        shown += f" ({ratio.median:.2f}×)"
    return shown


def compared(bench):
    """Several builds of ours: each to the first, in the same rounds."""
    if len(bench.ours) < 2:
        return []
    first, *others = [peer.name for peer in bench.ours]
    lines = [f"## Builds of ours, ratio to {first}\n", "Medians of the rounds' ratios, the least and the most.\n",
             "| figure | " + " | ".join(others) + " |", "|---" * (len(others) + 1) + "|"]
    for table in all_tables():
        for column in filled(table, bench.results)[0]:
            ratios = [bench.results.ratio(column.workload, name, first, column.metric) for name in others]
            shown = [f"**{r.median:.3f}** [{r.least:.3f}-{r.most:.3f}]" if r else "-" for r in ratios]
            lines.append(f"| {table.title}: {column.title} | " + " | ".join(shown) + " |")
    return ["\n".join(lines) + "\n"]


def syscall_list(results, titles):
    """Which calls a request costs, by server."""
    lines = []
    for (workload, server, metric), values in results.table.items():
        if not workload.startswith("SYS-") or metric != "syscalls":
            continue
        calls = [(key[2][4:], max(of.values())) for key, of in results.table.items()
                 if key[:2] == (workload, server) and key[2].startswith("sys:")]
        named = ", ".join(f"{name} {n:.2f}" for name, n in sorted(calls, key=lambda call: -call[1]))
        lines.append(f"| {workload[4:]} | {titles.get(server, server)} | {max(values.values()):.2f} | {named} |")
    if not lines:
        return ""
    order = ["| workload | server | calls | which |", "|---|---|---|---|"]
    return "\n".join(["### Which system calls\n", *order, *sorted(lines, key=lambda line: line[:4])]) + "\n"


def worries(results):
    """Errors, and runs that others disturbed."""
    lines = [f"- **{count} errors** in {workload} of {server}" for workload, server, count in results.errors()]
    lines += [f"- {workload}: {bad} of {runs} runs disturbed (other programs took more than {DISTURBED_ABOVE} % "
              f"of a core)" for workload, (bad, runs) in results.disturbed().items()]
    return "## Errors and disturbances\n\n" + "\n".join(lines or ["None."]) + "\n"


def reached(bench):
    """The targets, for each build of ours."""
    peers = [peer.name for peer in bench.peers[len(bench.ours):]]
    for peer in bench.ours:
        title = f" ({peer.name})" if len(bench.ours) > 1 else ""
        yield f"\n## Targets{title}\n"
        yield from summary.lines(bench.results, peer.name, peers)
