"""Processes: their trees, times, memory and connections, as /proc tells them; and their end."""

import os
import re
import signal
import subprocess
import time

HZ = os.sysconf("SC_CLK_TCK")


class Stat:
    """A line of /proc/PID/stat."""

    def __init__(self, text):
        # the command's name, in brackets, may hold blanks and brackets
        self.pid = int(text[:text.index(" ")])
        fields = text[text.rindex(")") + 2:].split()
        self.parent = int(fields[1])
        self.session = int(fields[3])
        # clock ticks; threads that have exited are in them
        self.own = int(fields[11]) + int(fields[12])
        self.waited = int(fields[13]) + int(fields[14])


def read(path):
    """A file of /proc, or nothing if the process has ended."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def tree(root):
    """The process and all its descendants."""
    stats = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            text = read(f"/proc/{name}/stat")
            if text:
                stat = Stat(text)
                stats[stat.pid] = stat
    children = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found, left = [], [root]
    while left:
        pid = left.pop()
        if pid in stats:
            found.append(stats[pid])
            left += children.get(pid, [])
    return found


def cpu_ticks(root):
    """utime + stime of a tree. Shown in ticks of 10 ms, but scaled by the kernel to the exact run time."""
    return sum(stat.own for stat in tree(root))


def switches(root):
    """Context switches of a tree so far, of the threads that live."""
    total = 0
    for stat in tree(root):
        try:
            threads = os.listdir(f"/proc/{stat.pid}/task")
        except OSError:
            continue
        for thread in threads:
            text = read(f"/proc/{stat.pid}/task/{thread}/status")
            total += sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", text))
    return total


def foreign_ticks():
    """What the machine has been busy with, less what this script and all its descendants have used."""
    fields = [int(n) for n in read("/proc/stat").splitlines()[0].split()[1:]]
    busy = fields[0] + fields[1] + fields[2] + fields[5] + fields[6] + fields[7]
    return busy - sum(stat.own + stat.waited for stat in tree(os.getpid()))


def pss(root):
    """Proportional set size of a tree, bytes."""
    total = 0
    for stat in tree(root):
        found = re.search(r"^Pss:\s+(\d+) kB", read(f"/proc/{stat.pid}/smaps_rollup"), re.M)
        total += int(found.group(1)) * 1024 if found else 0
    return total


def connections(root, port):
    """How many connections at its port each process of a tree holds: by pid, the root left out."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        for line in read(f"/proc/net/{name}").splitlines()[1:]:
            fields = line.split()
            # 01 is ESTABLISHED
            if fields[3] == "01" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    held = {}
    for stat in tree(root):
        count = 0
        try:
            for fd in os.listdir(f"/proc/{stat.pid}/fd"):
                try:
                    count += os.readlink(f"/proc/{stat.pid}/fd/{fd}") in inodes
                except OSError:
                    pass  # closed meanwhile
        except OSError:
            continue
        if stat.pid != root:
            held[stat.pid] = count
    return held


class Processes:
    """Everything that was started, so that all of it can be ended."""

    def __init__(self):
        self.running = []
        cores = sorted(os.sched_getaffinity(0))
        # The servers on one core and the clients on another, so that neither
        # takes the other's time.
        self.is_pinned = len(cores) >= 2
        self.server_cores = {cores[0]} if self.is_pinned else set(cores)
        self.client_cores = {cores[1]} if self.is_pinned else set(cores)

    def pin_clients(self):
        """From now on this script and its clients stay on their core."""
        os.sched_setaffinity(0, self.client_cores)

    def beside_servers(self, command, **how):
        """Starts it on the servers' core."""
        os.sched_setaffinity(0, self.server_cores)
        try:
            return self.client(command, stdin=subprocess.DEVNULL, **how)
        finally:
            os.sched_setaffinity(0, self.client_cores)

    def server(self, command, log, env, before_exec=None):
        """Starts a server on its core, in a session of its own: ^C on a terminal is for this script."""
        return self.beside_servers(command, stdout=log, stderr=log, start_new_session=True, env=env,
                                   preexec_fn=before_exec)

    def client(self, command, **how):
        process = subprocess.Popen(command, **how)
        self.running.append(process)
        return process

    def run(self, command, seconds):
        """Runs a client to its end: exit code and output; one that is late is ended."""
        process = self.client(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        try:
            output = process.communicate(timeout=seconds)[0]
        finally:
            self.end(process)
        return process.returncode, output

    def end(self, process, how=signal.SIGKILL, patience=5):
        """Ends it; after `patience` seconds by KILL, with all that it has started."""
        family = [process.pid]
        if process.poll() is None:
            family = [stat.pid for stat in tree(process.pid)]
            process.send_signal(how)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                family = [stat.pid for stat in tree(process.pid)]
                process.kill()
                process.wait()
        for pid in family:
            if pid != process.pid and self.is_of(pid, process.pid):
                wait_for_end(pid, patience)
                if self.is_of(pid, process.pid):
                    os.kill(pid, signal.SIGKILL)
        if process in self.running:
            self.running.remove(process)

    @staticmethod
    def is_of(pid, session):
        """Whether that process lives, and still is what the server started: numbers are used again."""
        text = read(f"/proc/{pid}/stat")
        return bool(text) and Stat(text).session == session

    def end_all(self):
        for process in reversed(list(self.running)):
            self.end(process, signal.SIGTERM, 2)


def wait_for_end(pid, seconds):
    until = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        time.sleep(0.02)
