"""What is served: a docroot on tmpfs, so that no disk is measured; and what the clients send."""

import os
import shutil
import tempfile

SMALL = "/dev1/0/000/000/0000000001.fid"
L64, L1M, L64M = "/dev1/64k.fid", "/dev1/1m.fid", "/dev1/64m.fid"
# Devices whose open() is slow in servers that are told so, in microseconds.
SLOW_OPEN = {"dev9": 20000, "dev8": 5000}
FILES = 10000

# what wrk reports: one line, by its own counters
REPORT = """
function done(summary, latency)
   local e = summary.errors
   io.write(string.format("RESULT %d %d %d %.0f %.0f\\n", summary.requests, summary.duration,
      e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""
# Requests are made once: what wrk does per request must not be what is measured.
RANDOM = """
local all = {}
function init()
   math.randomseed(1)
   for fid = 0, 9999 do
      all[fid + 1] = wrk.format("GET", string.format("/dev1/0/000/%03d/%010d.fid", math.floor(fid / 1000), fid))
   end
end
function request() return all[math.random(#all)] end
"""
PIPELINE = """
local batch
function init() batch = string.rep(wrk.format("GET"), 16) end
function request() return batch end
"""
PUT = """
local all, next = {}, 0
function init()
   local body = string.rep("x", %d)
   for fid = 1, %d do
      all[fid] = wrk.format("PUT", string.format("/dev2/0/000/%%03d/%%010d.fid", fid %% 10, fid), nil, body)
   end
end
function request() next = next %% #all + 1; return all[next] end
"""
SCRIPTS = {
    "plain": "",
    "random": RANDOM,
    "pipeline": PIPELINE,
    "put": PUT % (4096, 1000),
    "put1m": PUT % (1048576, 100),
}


class World:
    """A folder of its own, gone when it is closed."""

    def __init__(self):
        shm = "/dev/shm"
        self.is_on_shm = os.path.isdir(shm) and os.access(shm, os.W_OK)
        self.top = tempfile.mkdtemp(prefix="bench.", dir=shm if self.is_on_shm else None)
        self.docroot = os.path.join(self.top, "docroot")
        self.kibibyte = os.urandom(1024)

    def make(self, workloads):
        """The files that these workloads ask for."""
        self.fill("dev1")
        if "SLOW" in workloads:
            self.fill("dev9")
        if "SATURATION" in workloads:
            self.fill("dev8")
        for folder in range(10):
            os.makedirs(f"{self.docroot}/dev2/0/000/{folder:03}")
        self.write(self.docroot + L64, os.urandom(65536))
        self.write(self.docroot + L1M, os.urandom(1 << 20))
        if {"L64M", "DOWNLOADS"} & set(workloads):
            self.write(self.docroot + L64M, os.urandom(64 << 20))
        for name, script in SCRIPTS.items():
            self.write(self.lua(name), (REPORT + script).encode())

    def fill(self, device):
        """As MogileFS lays files out: fid 0000001234 is 0/000/001/0000001234.fid."""
        for fid in range(FILES):
            folder = f"{self.docroot}/{device}/0/000/{fid // 1000:03}"
            if fid % 1000 == 0:
                os.makedirs(folder)
            self.write(f"{folder}/{fid:010}.fid", self.kibibyte)

    @staticmethod
    def write(path, content):
        with open(path, "wb") as file:
            file.write(content)

    def lua(self, name):
        return os.path.join(self.top, name + ".lua")

    def place(self, name):
        """An empty folder for one server's own files."""
        return tempfile.mkdtemp(prefix=name + ".", dir=self.top)

    def close(self):
        shutil.rmtree(self.top, ignore_errors=True)
