"""What is measured, a kind of load each."""

from . import balance, idle, large, neighbours, saturation, small, start, syscalls

# By name, as options.WORKLOADS has them; those of one function run together.
RUNS = {
    **dict.fromkeys(("A", "C", "D", "I", "P", "P1M"), small.run),
    **dict.fromkeys(("L64", "L1M", "L64M"), large.run),
    "START": start.run,
    "IDLE": idle.run,
    "BALANCE": balance.run,
    "SLOW": neighbours.run_slow,
    "DOWNLOADS": neighbours.run_downloads,
    "BUSY": neighbours.run_busy,
    "SATURATION": saturation.run,
    "SYSCALLS": syscalls.run,
}
